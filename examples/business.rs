//! A business server that keeps the accounts: it implements `UserInt` (`proto/user.int.proto`).
//!
//! ```sh
//! cargo run --example business -- 127.0.0.1:50100
//! ```
//!
//! And in `im.toml`: `users.provider = "remote"`, `users.endpoint = "http://127.0.0.1:50100"`. User 1
//! signs in with the token `token-of-1`. Port 0 takes a free one.

use std::{collections::HashMap, env, error::Error};

use im::pb::{
    AuthReq, AuthResp, GetUserReq, GetUserResp, GetUsersReq, GetUsersResp, User,
    user_int_server::{UserInt, UserIntServer},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{self, Server, server::TcpIncoming},
};

/// The accounts, by user id.
#[derive(Debug)]
pub struct Users(HashMap<i64, User>);

impl Users {
    /// Accounts with these nicknames; their ids count from 1.
    pub fn named(names: &[&str]) -> Self {
        let users = (1..).zip(names).map(|(user_id, name)| {
            let user = User {
                user_id,
                nickname: (*name).to_owned(),
                extra: format!("account {user_id}"),
                ..Default::default()
            };
            (user_id, user)
        });
        Self(users.collect())
    }
}

#[tonic::async_trait]
impl UserInt for Users {
    async fn auth(&self, request: Request<AuthReq>) -> Result<Response<AuthResp>, Status> {
        let AuthReq { user_id, token, .. } = request.into_inner();
        // A real one would look the token up and compare in constant time.
        if self.0.contains_key(&user_id) && token == format!("token-of-{user_id}") {
            Ok(Response::new(AuthResp {}))
        } else {
            Err(Status::unauthenticated("sign in again"))
        }
    }

    async fn get_user(
        &self,
        request: Request<GetUserReq>,
    ) -> Result<Response<GetUserResp>, Status> {
        let user = self.0.get(&request.into_inner().user_id);
        let user = user.ok_or_else(|| Status::not_found("no such user"))?;
        Ok(Response::new(GetUserResp {
            user: Some(user.clone()),
        }))
    }

    async fn get_users(
        &self,
        request: Request<GetUsersReq>,
    ) -> Result<Response<GetUsersResp>, Status> {
        let asked = request.into_inner().user_ids.into_keys();
        let users = asked.filter_map(|id| Some((id, self.0.get(&id)?.clone())));
        Ok(Response::new(GetUsersResp {
            users: users.collect(),
        }))
    }
}

/// Answers `UserInt` on `listener` until it is dropped.
pub async fn serve(listener: TcpListener, users: Users) -> Result<(), transport::Error> {
    Server::builder()
        .add_service(UserIntServer::new(users))
        .serve_with_incoming(TcpIncoming::from(listener))
        .await
}

#[tokio::main]
#[allow(dead_code)] // where the tests include this file
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:50100")).await?;
    println!("listening on {}", listener.local_addr()?);
    Ok(serve(listener, Users::named(&["Ada", "Bob", "Carol", "Dan"])).await?)
}
