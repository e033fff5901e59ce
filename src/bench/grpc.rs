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
    pb::{logic_ext_client::LogicExtClient, user_ext_client::UserExtClient},
};

/// A call that is not answered within this time has failed; the server promises 10 s.
pub const CALL_DEADLINE: Duration = Duration::from_secs(15);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Connections to the public gRPC listener.
#[derive(Clone, Debug)]
pub struct Grpc {
    channels: Vec<Channel>,
}

impl Grpc {
    /// Opens `connections` connections to `address`.
    pub async fn connect(address: SocketAddr, connections: usize) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .internal("reading the gRPC address")?
            .timeout(CALL_DEADLINE)
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true);
        let mut channels = Vec::with_capacity(connections);
        for _ in 0..connections {
            let channel = endpoint.connect().await;
            channels.push(channel.internal("connecting to --grpc")?);
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

/// A request that carries `credentials`.
pub fn request<T>(message: T, credentials: &MetadataMap) -> Request<T> {
    Request::from_parts(credentials.clone(), tonic::Extensions::default(), message)
}
