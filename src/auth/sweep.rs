//! The sweep over live sessions: each one's user, generation, token and expiry are compared with
//! the database once per reconcile interval, in chunks spread over it. That is how I7 and I8 hold
//! when a revocation came by a way that reached this instance late or not at all.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    delivery::{
        handle::{Credential, Eviction, Handle},
        registry::Registry,
    },
    error::Result,
    id::DeviceId,
    limits::SWEEP_CHUNK,
    store::{self, Store, session::TokenRow},
};

/// Compares all sessions until `stop`.
pub async fn sweep(
    registry: Arc<Registry>,
    store: Store,
    clock: Arc<dyn Clock>,
    interval: Duration,
    stop: CancellationToken,
) {
    loop {
        let sessions = registry.all();
        let chunks = sessions.chunks(SWEEP_CHUNK);
        let pause = interval / (chunks.len() as u32 + 1);
        for chunk in chunks {
            if let Err(error) = compare(&store, chunk, clock.now_ms()).await {
                tracing::warn!(%error, "comparing sessions with the database failed");
            }
            if stopped(&stop, pause).await {
                return;
            }
        }
        if stopped(&stop, pause).await {
            return;
        }
    }
}

async fn stopped(stop: &CancellationToken, pause: Duration) -> bool {
    stop.run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_none()
}

async fn compare(store: &Store, sessions: &[Arc<Handle>], now_ms: i64) -> Result<()> {
    let devices: Vec<DeviceId> = sessions.iter().map(|handle| handle.device()).collect();
    let tokens = store::session::tokens(store.reader(), &devices).await?;
    let generations = store::session::generations(store.reader(), &devices).await?;
    for handle in sessions {
        let Some(credential) = handle.credential() else {
            continue;
        };
        let token = tokens.get(&handle.device());
        let generation = generations.get(&handle.device()).copied();
        if let Some(why) = verdict(credential, token, generation, now_ms) {
            handle.evict(why);
        }
    }
    Ok(())
}

/// Why a session must end, if it must.
fn verdict(
    session: &Credential,
    token: Option<&TokenRow>,
    generation: Option<i64>,
    now_ms: i64,
) -> Option<Eviction> {
    let holds = token.is_some_and(|token| {
        token.user_id == session.user.get()
            && token.token_hash == session.token_hash
            && token.expires_at > now_ms
    });
    if !holds {
        return Some(Eviction::SignedOut);
    }
    let is_newest = generation.is_some_and(|newest| newest <= session.generation);
    (!is_newest).then_some(Eviction::Replaced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::UserId;

    #[test]
    fn only_the_newest_sign_in_with_a_token_that_holds_stays() {
        let session = Credential {
            user: UserId(1),
            generation: 5,
            token_hash: [7; 32],
            expires_at: 100,
        };
        let token = TokenRow {
            device_id: 2,
            user_id: 1,
            token_hash: vec![7; 32],
            expires_at: 100,
        };
        let foreign = TokenRow {
            user_id: 3,
            ..token.clone()
        };
        let newer = TokenRow {
            token_hash: vec![8; 32],
            ..token.clone()
        };
        let verdict = |token, generation, now| verdict(&session, token, generation, now);
        assert_eq!(verdict(Some(&token), Some(5), 99), None);
        assert_eq!(verdict(Some(&token), Some(6), 99), Some(Eviction::Replaced));
        assert_eq!(
            verdict(Some(&token), Some(5), 100),
            Some(Eviction::SignedOut)
        );
        assert_eq!(
            verdict(Some(&foreign), Some(5), 99),
            Some(Eviction::SignedOut)
        );
        assert_eq!(
            verdict(Some(&newer), Some(5), 99),
            Some(Eviction::SignedOut)
        );
        assert_eq!(verdict(None, Some(5), 99), Some(Eviction::SignedOut));
    }
}
