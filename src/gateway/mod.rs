//! Long connections: TCP and WebSocket are two framings of one byte pipe, driven by one driver
//! over one session state machine. No rule of the domain lives here: decode, call, encode.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use self::link::LoadTurns;
use crate::{
    auth::{Authenticator, SignIns},
    config,
    delivery::{bridge::presence::Presence, registry::Registry, router::Router},
    lifecycle::Tasks,
    message::Messages,
    store::Store,
    telemetry::Metrics,
    timeline::{ack::Acks, pages::Pages},
};

pub mod close;
mod connection;
mod dispatch;
pub mod frame;
mod link;
mod rate;
pub mod session;
pub mod tcp;
pub mod websocket;

/// What every connection works with.
#[derive(Debug)]
pub struct Gateway {
    /// Deadlines and rates.
    pub config: config::Session,
    /// Says who is in which large group.
    pub store: Store,
    /// Bounds how many sessions ask that at the same time.
    pub load_turns: LoadTurns,
    /// Signs devices in.
    pub sign_ins: SignIns,
    /// Checks tokens.
    pub authenticator: Arc<Authenticator>,
    /// This instance's sessions.
    pub registry: Arc<Registry>,
    /// Tells where devices are.
    pub presence: Arc<Presence>,
    /// This instance's feeds.
    pub router: Arc<Router>,
    /// Takes messages in.
    pub messages: Arc<Messages>,
    /// Reads timelines.
    pub pages: Arc<Pages>,
    /// Notes acks.
    pub acks: Arc<Acks>,
    /// Every connection is one of these.
    pub tasks: Tasks,
    /// Cancelled when the instance drains: no sign-in from then on.
    pub draining: CancellationToken,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Gateway {
    /// When a device should come back to another instance, or to this one after its restart: spread
    /// out, so that all do not come at once.
    fn retry_after_ms(&self) -> i64 {
        let sessions = self.registry.len() as i64;
        let spread_ms = (1_000 + sessions).min(30_000);
        rand::random_range(100..=spread_ms)
    }
}
