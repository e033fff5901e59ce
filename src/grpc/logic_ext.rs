//! `LogicExt`: what devices call. An rpc that is not here answers UNIMPLEMENTED.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{Caller, convert};
use crate::{
    device::Devices,
    message::{Author, Messages, Origin},
    pb::{
        RegisterDeviceReq, RegisterDeviceResp, SendMessageReq, SendMessageResp,
        logic_ext_server::LogicExt,
    },
};

/// Answers `LogicExt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) devices: Devices,
    pub(super) messages: Arc<Messages>,
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
}
