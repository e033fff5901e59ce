//! `UserInt`: what a business server asks of accounts that are kept here. Where they are kept there,
//! it answers the same questions, and this is not served.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert;
use crate::{
    auth::Authenticator,
    check,
    id::{DeviceId, UserId},
    pb::{
        AuthReq, AuthResp, GetUserReq, GetUserResp, GetUsersReq, GetUsersResp,
        user_int_server::UserInt,
    },
    user::Accounts,
};

/// Answers `UserInt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) accounts: Arc<Accounts>,
}

#[tonic::async_trait]
impl UserInt for Service {
    async fn auth(&self, request: Request<AuthReq>) -> Result<Response<AuthResp>, Status> {
        let request = request.into_inner();
        check::id("user_id", request.user_id)?;
        check::id("device_id", request.device_id)?;
        let (user, device) = (UserId(request.user_id), DeviceId(request.device_id));
        self.authenticator
            .authorize(user, device, &request.token)
            .await?;
        Ok(Response::new(AuthResp {}))
    }

    async fn get_user(
        &self,
        request: Request<GetUserReq>,
    ) -> Result<Response<GetUserResp>, Status> {
        let user = UserId(request.into_inner().user_id);
        let user = self.accounts.get(user).await?;
        Ok(Response::new(GetUserResp {
            user: Some(convert::user(user)),
        }))
    }

    async fn get_users(
        &self,
        request: Request<GetUsersReq>,
    ) -> Result<Response<GetUsersResp>, Status> {
        let asked = request.into_inner().user_ids.into_keys();
        let asked: Vec<UserId> = asked.map(UserId).collect();
        let found = self.accounts.get_many(&asked).await?;
        Ok(Response::new(GetUsersResp {
            users: found
                .into_iter()
                .map(|u| (u.id, convert::user(u)))
                .collect(),
        }))
    }
}
