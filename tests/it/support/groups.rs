//! Groups as the tests use them: the rpcs about them, and sends to them.

use im::pb::{
    AddGroupMembersReq, CreateGroupReq, DeleteGroupMemberReq, GetGroupMembersReq,
    GetGroupMembersResp, GetGroupReq, GetGroupsReq, Group as Description, GroupMember, GroupType,
    Message, ReceiverType, SendMessageReq, UpdateGroupMemberReq, UpdateGroupReq,
};
use tonic::Status;

use super::{
    Api, Device, Transport,
    messages::{ephemeral, text, text_with_id},
    wait::soon,
};

/// Both kinds of groups.
pub const KINDS: [GroupType; 2] = [GroupType::GtSmall, GroupType::GtLarge];

/// A group that a test made.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub id: i64,
    pub kind: GroupType,
}

impl Group {
    /// What a message to it bears.
    pub fn receiver_type(self) -> ReceiverType {
        match self.kind {
            GroupType::GtSmall => ReceiverType::RtSmallGroup,
            GroupType::GtLarge => ReceiverType::RtLargeGroup,
            GroupType::GtUnknown => panic!("no such group was made"),
        }
    }

    /// Whether `message` was sent to it.
    pub fn got(self, message: &Message) -> bool {
        message.receiver_type == i32::from(self.receiver_type()) && message.receiver_id == self.id
    }

    /// A persisted text to it.
    pub fn text(self, words: &str) -> SendMessageReq {
        self.addressed(text(self.id, words))
    }

    /// A persisted text to it with a `client_message_id`.
    pub fn text_with_id(self, words: &str, id: &str) -> SendMessageReq {
        self.addressed(text_with_id(self.id, words, id))
    }

    /// A text to it that is not stored.
    pub fn ephemeral(self, words: &str) -> SendMessageReq {
        self.addressed(ephemeral(self.id, words))
    }

    fn addressed(self, message: SendMessageReq) -> SendMessageReq {
        SendMessageReq {
            receiver_type: self.receiver_type().into(),
            ..message
        }
    }
}

impl Api {
    /// Makes a group as `request` says; its id.
    pub async fn try_create_group(
        &self,
        by: &Device,
        request: CreateGroupReq,
    ) -> Result<i64, Status> {
        let mut logic = self.logic(by);
        let answer = soon("CreateGroup", logic.create_group(request)).await?;
        Ok(answer.into_inner().group_id)
    }

    /// Makes a group of `by` and `members`.
    pub async fn create_group(&self, by: &Device, kind: GroupType, members: &[i64]) -> Group {
        let request = CreateGroupReq {
            name: "a group".into(),
            r#type: kind.into(),
            member_ids: members.into(),
            ..Default::default()
        };
        let id = self.try_create_group(by, request).await;
        let id = id.expect("CreateGroup");
        Group { id, kind }
    }

    /// Adds members; those who were members before.
    pub async fn add_members(
        &self,
        by: &Device,
        group_id: i64,
        user_ids: &[i64],
    ) -> Result<Vec<i64>, Status> {
        let request = AddGroupMembersReq {
            group_id,
            user_ids: user_ids.into(),
        };
        let mut logic = self.logic(by);
        let answer = soon("AddGroupMembers", logic.add_group_members(request)).await?;
        Ok(answer.into_inner().user_ids)
    }

    /// Takes a member out; the caller himself leaves.
    pub async fn remove_member(
        &self,
        by: &Device,
        group_id: i64,
        user_id: i64,
    ) -> Result<(), Status> {
        let request = DeleteGroupMemberReq { group_id, user_id };
        let mut logic = self.logic(by);
        soon("DeleteGroupMember", logic.delete_group_member(request)).await?;
        Ok(())
    }

    /// Leaves a group.
    pub async fn leave(&self, who: &Device, group_id: i64) -> Result<(), Status> {
        self.remove_member(who, group_id, who.user_id).await
    }

    /// Changes a member.
    pub async fn update_member(
        &self,
        by: &Device,
        request: UpdateGroupMemberReq,
    ) -> Result<(), Status> {
        let mut logic = self.logic(by);
        soon("UpdateGroupMember", logic.update_group_member(request)).await?;
        Ok(())
    }

    /// Changes what a group tells of itself.
    pub async fn update_group(&self, by: &Device, request: UpdateGroupReq) -> Result<(), Status> {
        let mut logic = self.logic(by);
        soon("UpdateGroup", logic.update_group(request)).await?;
        Ok(())
    }

    /// What a group tells of itself.
    pub async fn group(&self, by: &Device, group_id: i64) -> Result<Description, Status> {
        let mut logic = self.logic(by);
        let answer = soon("GetGroup", logic.get_group(GetGroupReq { group_id })).await?;
        Ok(answer.into_inner().group.expect("a group"))
    }

    /// The ids of the groups a user is in, ascending.
    pub async fn groups(&self, of: &Device) -> Vec<i64> {
        let mut logic = self.logic(of);
        let answer = soon("GetGroups", logic.get_groups(GetGroupsReq {})).await;
        let groups = answer.expect("GetGroups").into_inner().groups;
        let mut ids: Vec<_> = groups.iter().map(|group| group.group_id).collect();
        ids.sort_unstable();
        ids
    }

    /// One page of members.
    pub async fn members_page(
        &self,
        by: &Device,
        request: GetGroupMembersReq,
    ) -> Result<GetGroupMembersResp, Status> {
        let mut logic = self.logic(by);
        let answer = soon("GetGroupMembers", logic.get_group_members(request)).await?;
        Ok(answer.into_inner())
    }

    /// All members, page by page.
    pub async fn members(&self, by: &Device, group_id: i64) -> Vec<GroupMember> {
        let mut members: Vec<GroupMember> = Vec::new();
        loop {
            let request = GetGroupMembersReq {
                group_id,
                after_user_id: members.last().map_or(0, |m| m.user_id),
                limit: 0,
            };
            let page = self.members_page(by, request).await;
            let mut page = page.expect("GetGroupMembers");
            assert!(!(page.has_more && page.members.is_empty()), "it gets on");
            members.append(&mut page.members);
            if !page.has_more {
                assert!(members.is_sorted_by(|a, b| a.user_id < b.user_id));
                return members;
            }
        }
    }

    /// The ids of all members, ascending.
    pub async fn member_ids(&self, by: &Device, group_id: i64) -> Vec<i64> {
        let members = self.members(by, group_id).await;
        members.iter().map(|member| member.user_id).collect()
    }

    /// Everything a member is given of a large group's timeline, asked for by a new device.
    pub async fn group_timeline(&self, member: &Device, group: Group) -> Vec<Message> {
        let new = self.another_device_of(member).await;
        let mut connection = self.connect(Transport::Tcp, &new).await;
        let mut pulled = connection.pull(0, &[(group.id, 0)]).await;
        pulled.groups.remove(&group.id).unwrap_or_default()
    }
}
