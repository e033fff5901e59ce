//! gRPC calls over a handful of shared connections.

use std::{net::SocketAddr, time::Duration};

use tonic::{
    Request,
    metadata::{Ascii, MetadataMap, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::accounts::Account;
use crate::{
    error::{Error, Result, ResultExt as _},
    pb::{
        logic_ext_client::LogicExtClient, logic_int_client::LogicIntClient,
        user_ext_client::UserExtClient,
    },
};

/// A call that is not answered within this time has failed; the server promises 10 s.
pub const CALL_DEADLINE: Duration = Duration::from_secs(15);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Connections to a gRPC listener of the server.
#[derive(Clone, Debug)]
pub struct Grpc {
    channels: Vec<Channel>,
}

impl Grpc {
    /// Opens `connections` connections to `address`, which is what `option` says.
    pub async fn connect(option: &str, address: SocketAddr, connections: usize) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .internal("reading the gRPC address")?
            .timeout(CALL_DEADLINE)
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true);
        let mut channels = Vec::with_capacity(connections);
        for _ in 0..connections {
            let channel = endpoint.connect().await;
            let failed = |error| Error::wrap(format!("connecting to {option}"), error);
            channels.push(channel.map_err(failed)?);
        }
        Ok(Self { channels })
    }

    /// The calls of `LogicExt`; callers with different numbers use different connections.
    pub fn logic(&self, number: usize) -> LogicExtClient<Channel> {
        LogicExtClient::new(self.channel(number))
    }

    /// The calls of `UserExt`, likewise.
    pub fn user(&self, number: usize) -> UserExtClient<Channel> {
        UserExtClient::new(self.channel(number))
    }

    /// The calls of `LogicInt`, likewise; on the internal listener only.
    pub fn internal(&self, number: usize) -> LogicIntClient<Channel> {
        LogicIntClient::new(self.channel(number))
    }

    fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }
}

/// What a call of `account` carries as metadata.
pub fn credentials(account: &Account) -> Result<MetadataMap> {
    let mut token: MetadataValue<Ascii> = account
        .token
        .parse()
        .map_err(|_| Error::internal("the token is no metadata value"))?;
    // Tokens of thousands of devices would only displace each other in HPACK's table.
    token.set_sensitive(true);
    let mut metadata = MetadataMap::with_capacity(3);
    metadata.insert("user_id", account.user_id.into());
    metadata.insert("device_id", account.device_id.into());
    metadata.insert("token", token);
    Ok(metadata)
}

/// What a call of a business server carries as metadata; `token` may be empty.
pub fn business_credentials(token: &str) -> Result<MetadataMap> {
    let mut metadata = MetadataMap::new();
    if !token.is_empty() {
        let bearer: Result<MetadataValue<Ascii>, _> = format!("Bearer {token}").parse();
        let bearer = bearer.map_err(|_| {
            Error::bad_request("--internal-token", "not what a metadata value can be")
        })?;
        metadata.insert("authorization", bearer);
    }
    Ok(metadata)
}

/// A request that carries `credentials`.
pub fn request<T>(message: T, credentials: &MetadataMap) -> Request<T> {
    Request::from_parts(credentials.clone(), tonic::Extensions::default(), message)
}
