//! `LogicExt`: what devices call. An rpc that is not here answers UNIMPLEMENTED.

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    device::Devices,
    pb::{RegisterDeviceReq, RegisterDeviceResp, logic_ext_server::LogicExt},
};

/// Answers `LogicExt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) devices: Devices,
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
}
