//! The tasks of a server, and the order in which they end so that nothing is lost.

use std::{convert::Infallible, time::Duration};

use super::memory::Memory;
use crate::{
    delivery::{handle::Eviction, release},
    grpc,
    lifecycle::Tasks,
    limits::DRAIN_SWEEP_INTERVAL,
    store::Store,
    timeline::Writer,
};

/// The tasks of a server, in the order in which a drain ends them.
#[derive(Debug)]
pub(super) struct Groups {
    /// Connections of devices and callers.
    pub(super) edge: Tasks,
    /// What works for them: the writer, sign-ins, acks, page reads, sweeps.
    pub(super) core: Tasks,
    /// Health and metrics, which answer to the end.
    pub(super) probes: Tasks,
}

impl Default for Groups {
    fn default() -> Self {
        let probes = Tasks::default();
        Self {
            edge: probes.group(),
            core: probes.group(),
            probes,
        }
    }
}

/// What a drain needs of a running server.
pub(super) struct Running {
    pub(super) store: Store,
    pub(super) memory: Memory,
    pub(super) writer: Writer,
    pub(super) health: [grpc::Health; 2],
}

impl Running {
    /// Ends everything but the probes: first nobody new, then one session after the other, then the
    /// writer when nobody can send any more, then the rest; all of it within `timeout`, if it can be.
    pub(super) async fn drain(self, groups: &Groups, timeout: Duration) {
        // `/readyz` looks at this too, so it says no before any listener has closed.
        groups.edge.stop().cancel();
        for health in &self.health {
            health.stop_serving().await;
            health.end_watches().await;
        }
        tokio::select! {
            never = self.release_sessions(&groups.edge, timeout) => match never {},
            () = groups.edge.finished() => {}
        }
        self.writer.close().await;
        groups.core.stop().cancel();
        // Not only at the end: what hangs may use up the time that is left.
        let acks = &self.memory.acks;
        tokio::join!(acks.flush(&self.store), groups.core.finished());
        acks.flush(&self.store).await;
    }

    /// Tells the sessions to go, those too that were about to sign in when it began.
    async fn release_sessions(&self, edge: &Tasks, timeout: Duration) -> Infallible {
        let registry = &self.memory.registry;
        tokio::select! {
            () = release::release(registry, timeout) => {}
            // Sessions may not be able to work without what crashed.
            () = edge.crashed() => {}
        }
        loop {
            registry.evict_all(Eviction::Draining);
            tokio::time::sleep(DRAIN_SWEEP_INTERVAL).await;
        }
    }
}
