//! Sessions that have left this instance and whose leaving is still to be written down, where somebody
//! is told who is online.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::handle::Handle;
use crate::{limits::DEPARTURES_MAX, store::online::Session};

/// Who has left. Never waits, and holds so many at most; then it is only known that some are missing.
#[derive(Debug, Default)]
pub struct Departures {
    state: Mutex<Departed>,
    left: Notify,
}

/// Who has left since it was asked last.
#[derive(Debug, Default)]
pub struct Departed {
    /// Those that are known.
    pub sessions: Vec<Session>,
    /// There were more.
    pub has_overflowed: bool,
}

impl Departures {
    /// Notes that a session has left, if it had signed in.
    pub(super) fn note(&self, handle: &Handle) {
        let Some(credential) = handle.credential() else {
            return;
        };
        let mut departed = self.lock();
        if departed.sessions.len() >= DEPARTURES_MAX {
            departed.has_overflowed = true;
        } else {
            departed.sessions.push(Session {
                user: credential.user,
                device: handle.device(),
                generation: credential.generation,
            });
        }
        drop(departed);
        self.left.notify_one();
    }

    /// Waits until somebody has left. Cancel safe.
    pub async fn noted(&self) {
        self.left.notified().await;
    }

    /// Takes those who have left.
    #[must_use]
    pub fn take(&self) -> Departed {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Departed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
