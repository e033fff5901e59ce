//! Groups on a real database: what is stored, who is told what at which position, and what a refused
//! call leaves behind.

use prost::Message as _;

use super::*;
use crate::{
    error::Code,
    id::{Owner, Seq},
    pb::{PushCode, ReceiverType, SenderType},
    store::user::Changes,
    testing::{START_MS, World},
};

mod changes;
mod events;
mod limits;
mod reading;

/// Users 1, 2, 3 … and their groups.
struct Scene {
    world: World,
    users: Vec<UserId>,
}

/// A position of a timeline, and what stands there.
type Told = (i64, Event);

/// An event as its receiver sees it.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    receiver: (ReceiverType, i64),
    push: Push,
}

#[derive(Clone, Debug, PartialEq)]
enum Push {
    Updated(pb::UpdateGroupPush),
    Added(pb::AddGroupMembersPush),
    Removed(pb::RemoveGroupMemberPush),
}

impl Scene {
    async fn new(users: usize) -> Self {
        Self::with(users, |n| format!("user {n}"), "").await
    }

    /// With users whose nicknames and extras are as given.
    async fn with(users: usize, nickname: impl Fn(usize) -> String, extra: &str) -> Self {
        let world = World::new().await;
        let tx = world.store.begin().await.unwrap();
        let mut ids = Vec::with_capacity(users);
        for n in 1..=users {
            let number = format!("{n:07}");
            let created = store::user::lock_or_create(tx.conn(), &number, START_MS);
            let user = UserId(created.await.unwrap().0.id);
            let changes = Changes {
                nickname: nickname(n),
                sex: 1,
                avatar_url: "https://a".to_owned() + extra.get(..1_015).unwrap_or_default(),
                extra: extra.to_owned(),
            };
            let update = store::user::update(tx.conn(), user, changes, START_MS);
            assert!(update.await.unwrap());
            ids.push(user);
        }
        tx.commit().await.unwrap();
        Self { world, users: ids }
    }

    /// The groups of the scene, with other bounds.
    fn bounded(&self, small: u64, large: u64, per_user: u64) -> Groups {
        Groups::new(Options {
            limits: config::Groups {
                small_members_max: small,
                large_members_max: large,
                large_groups_per_user_max: per_user,
            },
            ..self.world.groups.options.clone()
        })
    }

    /// The `n`th user.
    fn user(&self, n: usize) -> UserId {
        self.users[n - 1]
    }

    fn ids(&self, users: &[usize]) -> Vec<i64> {
        users.iter().map(|n| self.user(*n).get()).collect()
    }

    /// A group that user 1 makes with others.
    async fn group(&self, kind: GroupType, others: &[usize]) -> GroupId {
        let new = new_group(kind, self.ids(others));
        self.world.groups.create(self.user(1), new).await.unwrap()
    }

    async fn row(&self, group: GroupId) -> Option<Group> {
        let conn = self.world.store.reader();
        store::group::by_id(conn, group).await.unwrap()
    }

    /// Version and count of members.
    async fn state(&self, group: GroupId) -> Option<(i64, i64)> {
        let row = self.row(group).await;
        row.map(|row| (row.version, row.member_count))
    }

    /// Which users are members, and where they joined.
    async fn members(&self, group: GroupId) -> Vec<(usize, Role, Option<i64>)> {
        let conn = self.world.store.reader();
        let rows = store::group::members_page(conn, group, UserId(0), u64::MAX >> 1);
        let rows = rows.await.unwrap().into_iter();
        rows.map(|row| {
            let n = self.users.iter().position(|user| user.get() == row.user_id);
            let role = Role::from_column(row.member_type);
            (n.unwrap() + 1, role, row.join_seq)
        })
        .collect()
    }

    async fn told(&self, owner: Owner) -> Vec<Told> {
        let all = usize::MAX;
        let page = store::timeline::page(&self.world.store, owner, Seq::ZERO, all, all);
        let rows = page.await.unwrap().0.into_iter();
        rows.map(|row| (row.seq.get(), event(row.message)))
            .collect()
    }

    async fn told_user(&self, n: usize) -> Vec<Told> {
        self.told(Owner::User(self.user(n))).await
    }

    /// Sends a message; gives its seq.
    async fn send(&self, n: usize, kind: ReceiverType, group: GroupId) -> Result<i64> {
        let author = crate::message::Author::User(crate::message::Origin {
            user: self.user(n),
            device: crate::id::DeviceId(1),
        });
        let request = pb::SendMessageReq {
            receiver_type: kind as i32,
            receiver_id: group.get(),
            message_type: pb::MessageType::MtText as i32,
            is_persist: true,
            ..Default::default()
        };
        let sent = self.world.messages.send(author, request).await?;
        Ok(sent.seq.get())
    }
}

fn new_group(kind: GroupType, members: Vec<i64>) -> NewGroup {
    NewGroup {
        kind: kind as i32,
        details: details("group"),
        members,
    }
}

fn details(name: &str) -> Details {
    Details {
        name: name.into(),
        avatar_url: format!("avatar of {name}"),
        introduction: format!("introduction of {name}"),
        extra: format!("extra of {name}"),
    }
}

fn event(message: store::message::Row) -> Event {
    let sender = (
        message.sender_type,
        message.sender_id,
        message.sender_device_id,
    );
    assert_eq!(sender, (SenderType::StSystem as i16, 0, 0));
    assert_eq!(message.r#type, pb::MessageType::MtCommand as i16);
    assert_eq!(message.client_message_id, None);
    assert_eq!(message.send_time, START_MS);
    assert!(message.content.len() <= crate::limits::CONTENT_BYTES_MAX);
    let command = pb::Command::decode(&*message.content).unwrap();
    let push = match PushCode::try_from(command.code).unwrap() {
        PushCode::PcUpdateGroup => {
            Push::Updated(pb::UpdateGroupPush::decode(command.data).unwrap())
        }
        PushCode::PcAddGroupMembers => {
            Push::Added(pb::AddGroupMembersPush::decode(command.data).unwrap())
        }
        PushCode::PcRemoveGroupMember => {
            Push::Removed(pb::RemoveGroupMemberPush::decode(command.data).unwrap())
        }
        other => panic!("{other:?}"),
    };
    let receiver_type = ReceiverType::try_from(i32::from(message.receiver_type)).unwrap();
    Event {
        receiver: (receiver_type, message.receiver_id),
        push,
    }
}

fn code<T>(result: &Result<T>) -> Option<Code> {
    result.as_ref().err().and_then(Error::code)
}
