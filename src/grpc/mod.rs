//! The gRPC edges: each service in a file of its own decodes, calls and encodes; `request` wraps
//! every call with its id, its span and its caller; `status` says how errors travel. No rule of
//! the domain lives here, and no listener: whoever accepts connections serves these routers.

use std::sync::Arc;

use axum::Router;
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder as Reflection;

use crate::{
    auth::Authenticator,
    delivery::bridge::presence::Presence,
    device::Devices,
    error::{Result, ResultExt},
    friend::Friends,
    group::Groups,
    limits::{GRPC_INTERNAL_REQUEST_BYTES_MAX, GRPC_REQUEST_BYTES_MAX},
    message::Messages,
    pb::{
        self, logic_ext_server::LogicExtServer, logic_int_server::LogicIntServer,
        user_ext_server::UserExtServer, user_int_server::UserIntServer,
    },
    user::{Accounts, Directory},
};

mod caller;
mod convert;
mod friends;
mod groups;
mod logic_ext;
mod logic_int;
mod request;
mod status;
#[cfg(test)]
mod tests;
mod user_ext;
mod user_int;
mod web;

pub use caller::Caller;
use caller::Guard;
use request::RequestLayer;

/// What the services that devices call need.
#[derive(Clone, Debug)]
pub struct External {
    /// Checks the callers' tokens.
    pub authenticator: Arc<Authenticator>,
    /// The accounts behind `UserExt`; it is not served where there are none here.
    pub accounts: Option<Arc<Accounts>>,
    /// The devices behind `LogicExt.RegisterDevice`.
    pub devices: Devices,
    /// Takes in what `LogicExt.SendMessage` sends.
    pub messages: Arc<Messages>,
    /// The friends of `LogicExt`.
    pub friends: Arc<Friends>,
    /// The groups of `LogicExt`.
    pub groups: Arc<Groups>,
}

/// What the services that a business server calls need.
#[derive(Clone, Debug)]
pub struct Internal {
    /// The tokens that `LogicInt.SignOut` revokes and `UserInt` checks.
    pub authenticator: Arc<Authenticator>,
    /// The accounts behind `UserInt`.
    pub accounts: Arc<Accounts>,
    /// The devices behind `LogicInt.GetDevice`.
    pub devices: Devices,
    /// The users that `LogicInt.UserChanged` tells of. `UserInt` is served where it is built in.
    pub directory: Arc<Directory>,
    /// Who is online.
    pub presence: Arc<Presence>,
    /// Takes in what a business server sends and pushes.
    pub messages: Arc<Messages>,
    /// What callers must show; empty: nothing.
    pub token: String,
}

/// The services of one listener.
#[derive(Clone, Debug)]
pub struct Services {
    /// Answers every request of the listener, unknown services included.
    pub router: Router,
    /// What the listener's health service answers.
    pub health: Health,
}

/// What a health service answers for its listener.
#[derive(Clone, Debug)]
pub struct Health {
    reporter: HealthReporter,
    services: &'static [&'static str],
}

impl Health {
    /// Says from now on that nothing is served: new calls should go elsewhere.
    pub async fn stop_serving(&self) {
        self.report(ServingStatus::NotServing).await;
    }

    /// Ends the streams that watch the status, which their clients would keep open for ever.
    pub async fn end_watches(&self) {
        let mut reporter = self.reporter.clone();
        for service in self.services {
            reporter.clear_service_status(service).await;
        }
    }

    async fn report(&self, status: ServingStatus) {
        for service in self.services {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}

const LOGIC_EXT: &str = <LogicExtServer<logic_ext::Service> as NamedService>::NAME;
const USER_EXT: &str = <UserExtServer<user_ext::Service> as NamedService>::NAME;
const LOGIC_INT: &str = <LogicIntServer<logic_int::Service> as NamedService>::NAME;
const USER_INT: &str = <UserIntServer<user_int::Service> as NamedService>::NAME;

/// `LogicExt`, and `UserExt` where there are accounts, with health and reflection.
///
/// # Errors
/// An internal error when the descriptors built into the program cannot be read.
pub async fn external(parts: External) -> Result<Services> {
    let logic = LogicExtServer::new(logic_ext::Service {
        devices: parts.devices,
        messages: parts.messages,
        friends: parts.friends,
        groups: parts.groups,
    });
    let mut routes = Routes::new(logic.max_decoding_message_size(GRPC_REQUEST_BYTES_MAX));
    let mut names: &[&str] = &["", LOGIC_EXT];
    if let Some(accounts) = parts.accounts {
        let user = UserExtServer::new(user_ext::Service { accounts });
        routes = routes.add_service(user.max_decoding_message_size(GRPC_REQUEST_BYTES_MAX));
        names = &["", LOGIC_EXT, USER_EXT];
    }
    let guard = Guard::Callers(parts.authenticator);
    services(routes, guard, pb::EXTERNAL_DESCRIPTORS, names).await
}

/// `LogicInt`, and `UserInt` where the accounts are here, with health and reflection.
///
/// # Errors
/// An internal error when the descriptors built into the program cannot be read.
pub async fn internal(parts: Internal) -> Result<Services> {
    let user = parts.directory.is_built_in().then(|| user_int::Service {
        authenticator: Arc::clone(&parts.authenticator),
        accounts: parts.accounts,
    });
    let logic = LogicIntServer::new(logic_int::Service {
        authenticator: parts.authenticator,
        devices: parts.devices,
        directory: parts.directory,
        presence: parts.presence,
        messages: parts.messages,
    });
    let mut routes = Routes::new(logic.max_decoding_message_size(GRPC_INTERNAL_REQUEST_BYTES_MAX));
    let mut names: &[&str] = &["", LOGIC_INT];
    if let Some(user) = user {
        let user = UserIntServer::new(user);
        routes =
            routes.add_service(user.max_decoding_message_size(GRPC_INTERNAL_REQUEST_BYTES_MAX));
        names = &["", LOGIC_INT, USER_INT];
    }
    let guard = Guard::business(&parts.token);
    services(routes, guard, pb::INTERNAL_DESCRIPTORS, names).await
}

async fn services(
    routes: Routes,
    guard: Guard,
    descriptors: &'static [u8],
    services: &'static [&'static str],
) -> Result<Services> {
    let (reporter, health_server) = tonic_health::server::health_reporter();
    let health = Health { reporter, services };
    health.report(ServingStatus::Serving).await;
    let reflection = || {
        // Imported files bring services with them that this listener does not serve.
        services
            .iter()
            .filter(|name| !name.is_empty())
            .fold(Reflection::configure(), |builder, name| {
                builder.with_service_name(*name)
            })
            .with_service_name("grpc.health.v1.Health")
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection().build_v1().internal("build reflection")?;
    let v1alpha = reflection()
        .build_v1alpha()
        .internal("build reflection v1alpha")?;
    let router = routes
        .add_service(health_server)
        .add_service(v1)
        .add_service(v1alpha)
        .prepare()
        .into_axum_router()
        .layer(RequestLayer::new(guard));
    Ok(Services { router, health })
}
