//! The sweep: every feed is compared with the head in the database once per reconcile interval, in
//! chunks spread over it. It is what makes a lost hint a delay and not a loss (I5).

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{feed::Feed, router::Router};
use crate::{
    error::Result,
    id::{Owner, Seq},
    limits::{GAP_WAIT, SWEEP_CHUNK},
    store::{self, Store},
};

/// What the database says of this instance's feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Feeds that were behind have been moved on.
    Forward,
    /// A timeline is shorter than its feed knew it: the database went back in time.
    WentBack,
}

/// Compares all feeds for ever; `went_back` is called when the database turns out to be older than
/// what was delivered from it.
pub async fn sweep(
    router: Arc<Router>,
    store: Store,
    interval: Duration,
    stop: CancellationToken,
    went_back: impl Fn() + Send,
) {
    loop {
        let feeds = router.feeds();
        let chunks = feeds.chunks(SWEEP_CHUNK);
        let pause = interval / (chunks.len() as u32 + 1);
        for chunk in chunks {
            match reconcile(&store, chunk).await {
                Ok(Verdict::Forward) => {}
                Ok(Verdict::WentBack) => went_back(),
                Err(error) => tracing::warn!(%error, "comparing feeds with the database failed"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Compares `feeds` with the database, moves on those that are behind, and gives back the rings
/// nobody reads from.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when the database does not answer.
pub async fn reconcile(store: &Store, feeds: &[Arc<Feed>]) -> Result<Verdict> {
    let mut suspects = Vec::new();
    let known: Vec<(Arc<Feed>, Owner, Seq)> = feeds
        .iter()
        .inspect(|feed| feed.sweep())
        .filter_map(|feed| Some((Arc::clone(feed), feed.topic().owner()?, feed.head()?)))
        .collect();
    let heads = heads_of(store, known.iter().map(|(_, owner, _)| *owner)).await?;
    for (feed, owner, seen) in known {
        let head = heads.get(&owner).copied().unwrap_or(Seq::ZERO);
        if head < seen {
            return Ok(Verdict::WentBack);
        }
        if head > seen {
            suspects.push((feed, head));
        }
    }
    if !suspects.is_empty() {
        // What was committed a moment ago may be on its way.
        tokio::time::sleep(GAP_WAIT).await;
        for (feed, head) in suspects {
            feed.advance_to(head);
        }
    }
    Ok(Verdict::Forward)
}

async fn heads_of(
    store: &Store,
    owners: impl Iterator<Item = Owner>,
) -> Result<HashMap<Owner, Seq>> {
    let owners: Vec<Owner> = owners.collect();
    store::timeline::heads(store.reader(), &owners).await
}
