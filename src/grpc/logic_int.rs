//! `LogicInt`: what a business server calls.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    auth::Authenticator,
    check,
    delivery::bridge::presence::Presence,
    device::Devices,
    id::{DeviceId, UserId},
    message::Messages,
    pb::{
        GetDeviceReq, GetDeviceResp, IntSendMessageReq, IntSignOutReq, IntSignOutResp,
        PushToAllReq, PushToAllResp, PushToRoomReq, PushToRoomResp, PushToUsersReq,
        PushToUsersResp, SendMessageResp, UserChangedReq, UserChangedResp,
        logic_int_server::LogicInt,
    },
    user::Directory,
};

/// Answers `LogicInt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) devices: Devices,
    pub(super) directory: Arc<Directory>,
    pub(super) presence: Arc<Presence>,
    pub(super) messages: Arc<Messages>,
}

#[tonic::async_trait]
impl LogicInt for Service {
    async fn send_message(
        &self,
        request: Request<IntSendMessageReq>,
    ) -> Result<Response<SendMessageResp>, Status> {
        let (author, message) = convert::int_send(request.into_inner())?;
        let sent = self.messages.send(author, message).await?;
        Ok(Response::new(sent.into()))
    }

    async fn push_to_users(
        &self,
        request: Request<PushToUsersReq>,
    ) -> Result<Response<PushToUsersResp>, Status> {
        let message = self.messages.push_to_users(request.into_inner()).await?;
        Ok(Response::new(PushToUsersResp {
            message_id: message.get(),
        }))
    }

    async fn push_to_all(
        &self,
        request: Request<PushToAllReq>,
    ) -> Result<Response<PushToAllResp>, Status> {
        self.messages.push_to_all(request.into_inner())?;
        Ok(Response::new(PushToAllResp {}))
    }

    async fn push_to_room(
        &self,
        request: Request<PushToRoomReq>,
    ) -> Result<Response<PushToRoomResp>, Status> {
        self.messages.push_to_room(request.into_inner()).await?;
        Ok(Response::new(PushToRoomResp {}))
    }

    async fn get_device(
        &self,
        request: Request<GetDeviceReq>,
    ) -> Result<Response<GetDeviceResp>, Status> {
        let id = DeviceId(request.into_inner().device_id);
        let device = self.devices.get(id).await?;
        let status = self.presence.online(id).await.into();
        Ok(Response::new(GetDeviceResp {
            device: Some(convert::device(device, status)),
        }))
    }

    async fn sign_out(
        &self,
        request: Request<IntSignOutReq>,
    ) -> Result<Response<IntSignOutResp>, Status> {
        let request = request.into_inner();
        let (user, device) = (UserId(request.user_id), DeviceId(request.device_id));
        self.authenticator.sign_out(user, device).await?;
        Ok(Response::new(IntSignOutResp {}))
    }

    async fn user_changed(
        &self,
        request: Request<UserChangedReq>,
    ) -> Result<Response<UserChangedResp>, Status> {
        let user = UserId(request.into_inner().user_id);
        check::id("user_id", user.get())?;
        self.directory.changed(user);
        self.authenticator.user_changed(user);
        Ok(Response::new(UserChangedResp {}))
    }
}
