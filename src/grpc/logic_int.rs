//! `LogicInt`: what a business server calls. An rpc that is not here answers UNIMPLEMENTED.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    delivery::registry::Registry,
    device::Devices,
    id::{DeviceId, UserId},
    pb::{GetDeviceReq, GetDeviceResp, IntSignOutReq, IntSignOutResp, logic_int_server::LogicInt},
    user::Accounts,
};

/// Answers `LogicInt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) accounts: Arc<Accounts>,
    pub(super) devices: Devices,
    pub(super) registry: Arc<Registry>,
}

#[tonic::async_trait]
impl LogicInt for Service {
    async fn get_device(
        &self,
        request: Request<GetDeviceReq>,
    ) -> Result<Response<GetDeviceResp>, Status> {
        let id = DeviceId(request.into_inner().device_id);
        let device = self.devices.get(id).await?;
        let status = self.registry.online(id).is_some().into();
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
        self.accounts.sign_out_as_business(user, device).await?;
        Ok(Response::new(IntSignOutResp {}))
    }
}
