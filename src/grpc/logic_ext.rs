//! `LogicExt`: what devices call. An rpc that is not here answers UNIMPLEMENTED.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Caller, convert, friends, groups};
use crate::{
    device::Devices,
    friend::Friends,
    group::Groups,
    message::{Author, Messages, Origin},
    pb::{
        AddFriendReq, AddFriendResp, AddGroupMembersReq, AddGroupMembersResp, AgreeAddFriendReq,
        AgreeAddFriendResp, CreateGroupReq, CreateGroupResp, DeleteGroupMemberReq,
        DeleteGroupMemberResp, GetFriendsReq, GetFriendsResp, GetGroupMembersReq,
        GetGroupMembersResp, GetGroupReq, GetGroupResp, GetGroupsReq, GetGroupsResp,
        RegisterDeviceReq, RegisterDeviceResp, SendMessageReq, SendMessageResp, SetFriendReq,
        SetFriendResp, UpdateGroupMemberReq, UpdateGroupMemberResp, UpdateGroupReq,
        UpdateGroupResp, logic_ext_server::LogicExt,
    },
};

/// Answers `LogicExt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) devices: Devices,
    pub(super) messages: Arc<Messages>,
    pub(super) friends: Arc<Friends>,
    pub(super) groups: Arc<Groups>,
}

#[tonic::async_trait]
impl LogicExt for Service {
    async fn register_device(
        &self,
        request: Request<RegisterDeviceReq>,
    ) -> Result<Response<RegisterDeviceResp>, Status> {
        let description = convert::description(request.into_inner());
        let device = self.devices.register(description).await?;
        Ok(Response::new(RegisterDeviceResp {
            device_id: device.get(),
        }))
    }

    async fn send_message(
        &self,
        request: Request<SendMessageReq>,
    ) -> Result<Response<SendMessageResp>, Status> {
        let Caller { user, device } = Caller::of(&request)?;
        let author = Author::User(Origin { user, device });
        let sent = self.messages.send(author, request.into_inner()).await?;
        Ok(Response::new(sent.into()))
    }

    async fn add_friend(
        &self,
        request: Request<AddFriendReq>,
    ) -> Result<Response<AddFriendResp>, Status> {
        friends::add(&self.friends, request).await
    }

    async fn agree_add_friend(
        &self,
        request: Request<AgreeAddFriendReq>,
    ) -> Result<Response<AgreeAddFriendResp>, Status> {
        friends::agree(&self.friends, request).await
    }

    async fn set_friend(
        &self,
        request: Request<SetFriendReq>,
    ) -> Result<Response<SetFriendResp>, Status> {
        friends::set(&self.friends, request).await
    }

    async fn get_friends(
        &self,
        request: Request<GetFriendsReq>,
    ) -> Result<Response<GetFriendsResp>, Status> {
        friends::list(&self.friends, request).await
    }

    async fn create_group(
        &self,
        request: Request<CreateGroupReq>,
    ) -> Result<Response<CreateGroupResp>, Status> {
        groups::create(&self.groups, request).await
    }

    async fn update_group(
        &self,
        request: Request<UpdateGroupReq>,
    ) -> Result<Response<UpdateGroupResp>, Status> {
        groups::update(&self.groups, request).await
    }

    async fn get_group(
        &self,
        request: Request<GetGroupReq>,
    ) -> Result<Response<GetGroupResp>, Status> {
        groups::get(&self.groups, request).await
    }

    async fn get_groups(
        &self,
        request: Request<GetGroupsReq>,
    ) -> Result<Response<GetGroupsResp>, Status> {
        groups::list(&self.groups, request).await
    }

    async fn add_group_members(
        &self,
        request: Request<AddGroupMembersReq>,
    ) -> Result<Response<AddGroupMembersResp>, Status> {
        groups::add_members(&self.groups, request).await
    }

    async fn update_group_member(
        &self,
        request: Request<UpdateGroupMemberReq>,
    ) -> Result<Response<UpdateGroupMemberResp>, Status> {
        groups::update_member(&self.groups, request).await
    }

    async fn delete_group_member(
        &self,
        request: Request<DeleteGroupMemberReq>,
    ) -> Result<Response<DeleteGroupMemberResp>, Status> {
        groups::remove_member(&self.groups, request).await
    }

    async fn get_group_members(
        &self,
        request: Request<GetGroupMembersReq>,
    ) -> Result<Response<GetGroupMembersResp>, Status> {
        groups::members(&self.groups, request).await
    }
}
