//! The events that tell of a group's changes: messages of the system, of type MT_COMMAND, appended
//! in the transaction of the change.
//!
//! A small group's events go to its members' timelines, a large group's to its own. Who is added to
//! a large group or removed from it is told on his own timeline besides, because that is what he
//! follows; such a message is addressed to user 0, which delivery replaces by the timeline's user. It
//! has the message id after the event's, by which his sessions find where he joined.
//! An event that would be too large is split into several, each with a part of the members.

use prost::Message as _;

use super::rules::Role;
use crate::{
    id::{GroupId, Owner, UserId},
    limits::EVENT_MEMBERS_BYTES_MAX,
    message::{Address, announcement},
    pb::{self, PushCode, ReceiverType},
    store::group::{Details, GroupKind, Member},
    timeline::Append,
    user::Profile,
};

/// Who changed a group, and when.
#[derive(Clone, Debug)]
pub(super) struct Author {
    /// Who.
    pub(super) user: UserId,
    /// What he is called.
    pub(super) nickname: String,
    /// When, in unix milliseconds.
    pub(super) now_ms: i64,
}

/// Announces changes of one group.
#[derive(Debug)]
pub(super) struct Announcer<'a> {
    /// Who made them.
    pub(super) author: &'a Author,
    /// In which group.
    pub(super) group: GroupId,
    /// Of which kind.
    pub(super) kind: GroupKind,
    /// The timelines on which the group's events stand.
    pub(super) audience: Vec<Owner>,
}

impl Announcer<'_> {
    /// Announces what the group tells of itself from now on.
    pub(super) fn updated(&self, details: &Details) -> Vec<Append> {
        let push = pb::UpdateGroupPush {
            opt_id: self.author.user.get(),
            opt_name: self.author.nickname.clone(),
            name: details.name.clone(),
            avatar_url: details.avatar_url.clone(),
            introduction: details.introduction.clone(),
            extra: details.extra.clone(),
        };
        vec![self.to_group(PushCode::PcUpdateGroup, &push)]
    }

    /// Announces new members, at least one.
    pub(super) fn added(&self, members: Vec<pb::GroupMember>) -> Vec<Append> {
        let mut announcements = Vec::new();
        for members in parts(members, EVENT_MEMBERS_BYTES_MAX) {
            let users: Vec<UserId> = members.iter().map(|m| UserId(m.user_id)).collect();
            let push = pb::AddGroupMembersPush {
                opt_id: self.author.user.get(),
                opt_name: self.author.nickname.clone(),
                members,
                group_id: self.group.get(),
            };
            announcements.extend(self.tell(PushCode::PcAddGroupMembers, &push, &users));
        }
        announcements
    }

    /// Announces that a member is none any more.
    pub(super) fn removed(&self, user: UserId) -> Vec<Append> {
        let push = pb::RemoveGroupMemberPush {
            opt_id: self.author.user.get(),
            opt_name: self.author.nickname.clone(),
            deleted_user_id: user.get(),
            group_id: self.group.get(),
        };
        self.tell(PushCode::PcRemoveGroupMember, &push, &[user])
            .collect()
    }

    /// Tells the group, and `users` where they do not learn of it with the group.
    fn tell(
        &self,
        code: PushCode,
        push: &impl prost::Message,
        users: &[UserId],
    ) -> impl Iterator<Item = Append> {
        let himself = (self.kind == GroupKind::Large).then(|| {
            let owners = users.iter().copied().map(Owner::User).collect();
            announcement(self.address(ReceiverType::RtUser, 0), owners, code, push)
        });
        [self.to_group(code, push)].into_iter().chain(himself)
    }

    fn to_group(&self, code: PushCode, push: &impl prost::Message) -> Append {
        let receiver_type = match self.kind {
            GroupKind::Small => ReceiverType::RtSmallGroup,
            GroupKind::Large => ReceiverType::RtLargeGroup,
        };
        let address = self.address(receiver_type, self.group.get());
        announcement(address, self.audience.clone(), code, push)
    }

    const fn address(&self, receiver_type: ReceiverType, receiver_id: i64) -> Address {
        Address {
            receiver_type,
            receiver_id,
            now_ms: self.author.now_ms,
        }
    }
}

/// A member as events and lists show him.
pub(super) fn member(row: Member, profile: &Profile) -> pb::GroupMember {
    pb::GroupMember {
        user_id: row.user_id,
        nickname: profile.nickname.clone(),
        sex: profile.sex.into(),
        avatar_url: profile.avatar_url.clone(),
        user_extra: profile.extra.clone(),
        member_type: Role::from_column(row.member_type).column().into(),
        remarks: row.remarks,
        extra: row.extra,
    }
}

/// Splits members into parts of at most `bytes_max`, in their order.
fn parts(members: Vec<pb::GroupMember>, bytes_max: usize) -> Vec<Vec<pb::GroupMember>> {
    let mut parts: Vec<Vec<pb::GroupMember>> = Vec::new();
    let mut room = 0;
    for member in members {
        let len = member.encoded_len();
        let len = 1 + prost::length_delimiter_len(len) + len;
        match parts.last_mut() {
            Some(part) if len <= room => {
                part.push(member);
                room -= len;
            }
            _ => {
                parts.push(vec![member]);
                room = bytes_max.saturating_sub(len);
            }
        }
    }
    parts
}
