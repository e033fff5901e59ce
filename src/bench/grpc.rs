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

/// Connections to a gRPC listener of each instance.
#[derive(Clone, Debug)]
pub struct Grpc {
    /// The instances take turns.
    channels: Vec<Channel>,
    instances: usize,
}

impl Grpc {
    /// Opens `connections` connections to each of `addresses`, which are what `option` says.
    pub async fn connect(
        option: &str,
        addresses: &[SocketAddr],
        connections: usize,
    ) -> Result<Self> {
        let instances = addresses.len();
        let mut channels = Vec::with_capacity(instances * connections);
        for _ in 0..connections {
            for address in addresses {
                let channel = endpoint(*address)?.connect().await;
                let doing = format!("connecting to {option} {address}");
                channels.push(channel.map_err(|error| Error::wrap(doing, error))?);
            }
        }
        Ok(Self {
            channels,
            instances,
        })
    }

    /// How many instances there are.
    pub fn instances(&self) -> usize {
        self.instances
    }

    /// The connections to the first instance only.
    pub fn first(&self) -> Self {
        let channels = self.channels.iter().step_by(self.instances);
        Self {
            channels: channels.cloned().collect(),
            instances: 1,
        }
    }

    /// The calls of `LogicExt`; callers with different numbers use different connections, and
    /// those of all instances in turn.
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

fn endpoint(address: SocketAddr) -> Result<Endpoint> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    Ok(endpoint
        .internal("reading the gRPC address")?
        .timeout(CALL_DEADLINE)
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true))
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
