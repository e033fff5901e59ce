//! `UserExt`: accounts, as devices see them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::extract::ConnectInfo;
use tonic::{Request, Response, Status};

use super::{Caller, convert};
use crate::{
    error::{Error, Result as DomainResult},
    id::{DeviceId, UserId},
    pb::{
        GetUserReq, GetUserResp, SearchUserReq, SearchUserResp, SendCodeReq, SendCodeResp,
        SetPasswordReq, SetPasswordResp, SignInReq, SignInResp, SignOutReq, SignOutResp,
        UpdateUserReq, UpdateUserResp, user_ext_server::UserExt,
    },
    user::{Accounts, SignIn},
};

/// Answers `UserExt`.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) accounts: Arc<Accounts>,
}

#[tonic::async_trait]
impl UserExt for Service {
    async fn send_code(
        &self,
        request: Request<SendCodeReq>,
    ) -> Result<Response<SendCodeResp>, Status> {
        let number = request.into_inner().phone_number;
        self.accounts.send_code(number).await?;
        Ok(Response::new(SendCodeResp {}))
    }

    async fn sign_in(&self, request: Request<SignInReq>) -> Result<Response<SignInResp>, Status> {
        let address = client(&request)?;
        let request = request.into_inner();
        let signed_in = self.accounts.sign_in(SignIn {
            phone_number: request.phone_number,
            code: request.code,
            password: request.password,
            device: DeviceId(request.device_id),
            address,
        });
        let signed_in = signed_in.await?;
        Ok(Response::new(SignInResp {
            is_new: signed_in.is_new,
            user_id: signed_in.user.get(),
            token: signed_in.token,
        }))
    }

    async fn sign_out(
        &self,
        request: Request<SignOutReq>,
    ) -> Result<Response<SignOutResp>, Status> {
        let caller = Caller::of(&request)?;
        self.accounts.sign_out(caller.user, caller.device).await?;
        Ok(Response::new(SignOutResp {}))
    }

    async fn set_password(
        &self,
        request: Request<SetPasswordReq>,
    ) -> Result<Response<SetPasswordResp>, Status> {
        let caller = Caller::of(&request)?;
        let password = request.into_inner().password;
        self.accounts
            .set_password(caller.user, caller.device, password)
            .await?;
        Ok(Response::new(SetPasswordResp {}))
    }

    async fn get_user(
        &self,
        request: Request<GetUserReq>,
    ) -> Result<Response<GetUserResp>, Status> {
        let caller = Caller::of(&request)?;
        let user = match request.into_inner().user_id {
            0 => caller.user,
            id => UserId(id),
        };
        let user = self.accounts.get(user).await?;
        Ok(Response::new(GetUserResp {
            user: Some(convert::user(user)),
        }))
    }

    async fn update_user(
        &self,
        request: Request<UpdateUserReq>,
    ) -> Result<Response<UpdateUserResp>, Status> {
        let caller = Caller::of(&request)?;
        let changes = convert::changes(request.into_inner());
        self.accounts.update(caller.user, changes).await?;
        Ok(Response::new(UpdateUserResp {}))
    }

    async fn search_user(
        &self,
        request: Request<SearchUserReq>,
    ) -> Result<Response<SearchUserResp>, Status> {
        Caller::of(&request)?;
        let users = self.accounts.search(&request.into_inner().key).await?;
        Ok(Response::new(SearchUserResp {
            users: users.into_iter().map(convert::user).collect(),
        }))
    }
}

/// Where a request came from. One client is one address, however a listener sees it.
fn client<T>(request: &Request<T>) -> DomainResult<IpAddr> {
    request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(address)| address.ip().to_canonical())
        .ok_or_else(|| Error::internal("a request without the address of its client"))
}
