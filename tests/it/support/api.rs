//! What a client can reach of a running server, and the accounts and devices tests begin with.

use std::net::SocketAddr;

use im::pb::{
    GetUserReq, RegisterDeviceReq, SendMessageReq, SendMessageResp, SignInReq, SignInResp,
    UpdateUserReq, User, logic_ext_client::LogicExtClient, logic_int_client::LogicIntClient,
    user_ext_client::UserExtClient,
};
use tonic::{
    Request, Status,
    metadata::MetadataMap,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use super::{
    Connection, Device, Transport,
    errors::{TRY_AGAIN_LATER, code},
    wait::soon,
    wire::{open_tcp, open_web_socket},
};

/// The verification code that every test server accepts.
pub const TEST_CODE: &str = "246810";

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub tcp: SocketAddr,
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub internal: SocketAddr,
    pub metrics: SocketAddr,
}

/// `LogicExt` as one device calls it.
pub type Logic = LogicExtClient<InterceptedService<Channel, Device>>;
/// `UserExt` as one device calls it.
pub type Users = UserExtClient<InterceptedService<Channel, Device>>;

/// The way to a running server.
#[derive(Clone, Debug)]
pub struct Api {
    pub addresses: Addresses,
    grpc: Channel,
    internal: Channel,
}

impl Api {
    /// The way to the server that listens at `addresses`.
    pub fn new(addresses: Addresses) -> Self {
        Self {
            addresses,
            grpc: channel(addresses.grpc),
            internal: channel(addresses.internal),
        }
    }

    /// `LogicExt`, called by `device`.
    pub fn logic(&self, device: &Device) -> Logic {
        LogicExtClient::with_interceptor(self.grpc.clone(), device.clone())
    }

    /// `UserExt`, called by `device`.
    pub fn users(&self, device: &Device) -> Users {
        UserExtClient::with_interceptor(self.grpc.clone(), device.clone())
    }

    /// `UserExt`, called by nobody in particular.
    pub fn anyones_users(&self) -> UserExtClient<Channel> {
        UserExtClient::new(self.grpc.clone())
    }

    /// `LogicInt`, called without a token.
    pub fn internal(&self) -> LogicIntClient<Channel> {
        LogicIntClient::new(self.internal.clone())
    }

    /// The public gRPC listener.
    pub fn grpc_channel(&self) -> Channel {
        self.grpc.clone()
    }

    /// The internal gRPC listener.
    pub fn internal_channel(&self) -> Channel {
        self.internal.clone()
    }

    /// Registers a device that nobody has signed in on.
    pub async fn register_device(&self) -> i64 {
        let request = RegisterDeviceReq {
            r#type: 1,
            brand: "Acme".into(),
            model: "One".into(),
            system_version: "14".into(),
            sdk_version: "1.0".into(),
        };
        let mut logic = LogicExtClient::new(self.grpc.clone());
        loop {
            let answer = soon("RegisterDevice", logic.register_device(request.clone())).await;
            if !try_again(&answer) {
                return answer.expect("RegisterDevice").into_inner().device_id;
            }
        }
    }

    /// Signs in with the test code, which creates the account when there is none.
    pub async fn try_sign_in(&self, phone: &str, device_id: i64) -> Result<SignInResp, Status> {
        let request = SignInReq {
            phone_number: phone.into(),
            code: TEST_CODE.into(),
            device_id,
            password: String::new(),
        };
        let mut users = self.anyones_users();
        let answer = soon("SignIn", users.sign_in(request)).await?;
        Ok(answer.into_inner())
    }

    /// Signs `phone` in on `device_id`.
    pub async fn sign_in(&self, phone: &str, device_id: i64) -> Device {
        let answer = loop {
            let answer = self.try_sign_in(phone, device_id).await;
            if !try_again(&answer) {
                break answer.expect("SignIn");
            }
        };
        Device {
            user_id: answer.user_id,
            device_id,
            token: answer.token,
            phone_number: phone.into(),
        }
    }

    /// A new account on a new device.
    pub async fn new_user(&self) -> Device {
        let device_id = self.register_device().await;
        self.sign_in(&random_phone_number(), device_id).await
    }

    /// One more device of the account.
    pub async fn another_device_of(&self, device: &Device) -> Device {
        let device_id = self.register_device().await;
        self.sign_in(&device.phone_number, device_id).await
    }

    /// Sends over gRPC.
    pub async fn try_send(
        &self,
        from: &Device,
        message: SendMessageReq,
    ) -> Result<SendMessageResp, Status> {
        let mut logic = self.logic(from);
        let answer = soon("SendMessage", logic.send_message(message)).await?;
        Ok(answer.into_inner())
    }

    /// Sends over gRPC what cannot be refused.
    pub async fn send(&self, from: &Device, message: SendMessageReq) -> SendMessageResp {
        self.try_send(from, message).await.expect("SendMessage")
    }

    /// True while the device's token is accepted over gRPC.
    pub async fn token_lives(&self, device: &Device) -> bool {
        let call = soon("GetUser", async { self.get_user(device, 0).await }).await;
        match call {
            Ok(_) => true,
            Err(status) if super::errors::code(&status) == super::errors::SIGN_IN_AGAIN => false,
            Err(status) => panic!("GetUser: {status:?}"),
        }
    }

    /// A profile, as `device` sees it; 0 asks for its own.
    pub async fn get_user(&self, device: &Device, user_id: i64) -> Result<User, Status> {
        let answer = self.users(device).get_user(GetUserReq { user_id }).await?;
        Ok(answer.into_inner().user.expect("a user"))
    }

    /// Sets the caller's nickname, and clears the rest of the profile.
    pub async fn set_nickname(&self, device: &Device, nickname: &str) {
        let profile = UpdateUserReq {
            nickname: nickname.into(),
            ..Default::default()
        };
        let answer = self.users(device).update_user(profile).await;
        answer.expect("UpdateUser");
    }

    /// Opens a long connection that nobody has signed in on.
    pub async fn open(&self, transport: Transport) -> Connection {
        let (reader, writer) = match transport {
            Transport::Tcp => open_tcp(self.addresses.tcp).await,
            Transport::WebSocket => open_web_socket(self.addresses.http, "/ws")
                .await
                .expect("the upgrade is accepted"),
        };
        Connection::new(reader, writer)
    }

    /// Opens a long connection and signs `device` in on it.
    pub async fn connect(&self, transport: Transport, device: &Device) -> Connection {
        loop {
            let mut connection = self.open(transport).await;
            let answer = connection.sign_in(device).await;
            if answer.code != TRY_AGAIN_LATER {
                assert_eq!(answer.code, 0, "sign in on {transport:?}: {answer:?}");
                return connection;
            }
        }
    }

    /// Opens a WebSocket that is signed in by its URL, or returns the status that refused it.
    pub async fn connect_by_url(&self, path: &str) -> Result<Connection, u16> {
        let (reader, writer) = open_web_socket(self.addresses.http, path).await?;
        Ok(Connection::new(reader, writer))
    }

    /// Everything on the user's timeline, asked for by a new device.
    pub async fn timeline(&self, device: &Device) -> Vec<im::pb::Message> {
        let new = self.another_device_of(device).await;
        let mut connection = self.connect(Transport::Tcp, &new).await;
        connection.sync_from_start().await
    }
}

/// Whether the server says so: where the database was away, each of its connections is found to be
/// lost by the first who uses it.
fn try_again<T>(answer: &Result<T, Status>) -> bool {
    matches!(answer, Err(status) if code(status) == TRY_AGAIN_LATER)
}

/// A call with metadata as given.
pub fn with_metadata<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut map = MetadataMap::new();
    for (name, value) in metadata {
        map.insert(*name, value.parse().expect("metadata is ASCII"));
    }
    let mut request = Request::new(message);
    *request.metadata_mut() = map;
    request
}

/// A phone number that no other test uses.
pub fn random_phone_number() -> String {
    format!("+1{:010}", rand::random_range(0..10_000_000_000_u64))
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("an address is a URL")
        .connect_lazy()
}
