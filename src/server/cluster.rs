//! What joins an instance to the others of its cluster: the bridge and presence, over Redis or, where
//! there is no `redis.url`, over nothing.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::{
    config::Config,
    delivery::{
        bridge::{
            Bridge,
            in_process::InProcess,
            presence::{Keeper, Presence},
            redis::{self, Inbox, Redis},
        },
        departures::Departures,
        registry::Registry,
    },
    error::Result,
    lifecycle::Tasks,
    store::{
        self, Store,
        outbox::{Kind, Outbox},
    },
    telemetry::Metrics,
};

/// What joins this instance to others, if there are any.
pub(super) struct Cluster {
    pub(super) bridge: Arc<dyn Bridge>,
    pub(super) registry: Arc<Registry>,
    /// Who has left, where somebody is told.
    pub(super) departures: Option<Arc<Departures>>,
    pub(super) presence: Arc<Presence>,
    /// What must run once everything is built.
    pub(super) tasks: Option<(Inbox, Keeper)>,
}

impl Cluster {
    pub(super) async fn join(
        config: &Config,
        core: &Tasks,
        store: &Store,
        metrics: &Arc<Metrics>,
        outbox: &Outbox,
    ) -> Result<Self> {
        let is_told = outbox.tells(Kind::UserOnline) || outbox.tells(Kind::UserOffline);
        let departures = is_told.then(Arc::<Departures>::default);
        if config.redis.url.is_empty() {
            let registry = Arc::new(Registry::default().noting(departures.clone()));
            return Ok(Self {
                bridge: Arc::new(InProcess),
                presence: Arc::new(Presence::alone(Arc::clone(&registry))),
                registry,
                departures,
                tasks: None,
            });
        }
        let (redis, inbox) = Redis::connect(&redis::Options {
            url: &config.redis.url,
            prefix: &config.redis.prefix,
            cluster: cluster_id(store).await?,
            instance: rand::random(),
            tasks: core,
            metrics,
        })?;
        let registry = Arc::new(Registry::watched().noting(departures.clone()));
        let (presence, keeper) = Presence::shared(&redis, &registry);
        Ok(Self {
            bridge: Arc::new(redis),
            registry,
            departures,
            presence: Arc::new(presence),
            tasks: Some((inbox, keeper)),
        })
    }
}

/// A number that all instances on one database know, also after its epoch was renewed, and nobody
/// else does.
async fn cluster_id(store: &Store) -> Result<u64> {
    let key = store::cluster::code_key(store.reader()).await?;
    let digest = Sha256::new().chain_update("im bridge").chain_update(key);
    let digest: [u8; 32] = digest.finalize().into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}
