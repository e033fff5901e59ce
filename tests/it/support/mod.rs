//! What the tests are made of: servers, clients, and the checks that many tests share.

pub mod api;
pub mod balancer;
pub mod browser;
pub mod business;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod connection;
pub mod crowd;
pub mod device;
pub mod errors;
pub mod events;
pub mod files;
pub mod friends;
pub mod group_history;
pub mod groups;
pub mod grpc_web;
pub mod history;
pub mod http;
pub mod internal;
pub mod jwt;
pub mod load;
pub mod messages;
pub mod process;
pub mod pull;
pub mod receiver;
pub mod rooms;
pub mod s3;
pub mod server;
pub mod wait;
pub mod webhook;
pub mod wire;

pub use api::Api;
pub use business::Business;
pub use cluster::Cluster;
pub use connection::Connection;
pub use device::Device;
pub use process::Process;
pub use server::Server;
pub use wire::Transport;

/// Runs each named `async fn(Transport)` once over TCP and once over WebSocket.
macro_rules! on_each_transport {
    ($($name:ident),+ $(,)?) => {
        mod tcp {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Transport::Tcp).await;
            })+
        }
        mod web_socket {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Transport::WebSocket).await;
            })+
        }
    };
}
