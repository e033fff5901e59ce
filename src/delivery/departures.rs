//! Sessions that have left this instance and whose leaving is still to be written down, where somebody
//! is told who is online.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::handle::Handle;
use crate::{limits::DEPARTURES_MAX, store::online::Session};

/// Who has left. Never waits, and holds so many at most: who is one too many is found otherwise, by
/// what is written of him.
#[derive(Debug, Default)]
pub struct Departures {
    left: Mutex<Vec<Session>>,
    noted: Notify,
}

impl Departures {
    /// Notes that a session has left, if it had signed in.
    pub(super) fn note(&self, handle: &Handle) {
        let Some(credential) = handle.credential() else {
            return;
        };
        let mut left = self.lock();
        if left.len() < DEPARTURES_MAX {
            left.push(Session {
                user: credential.user,
                device: handle.device(),
                generation: credential.generation,
            });
        }
        drop(left);
        self.noted.notify_one();
    }

    /// Waits until somebody has left. Cancel safe.
    pub async fn noted(&self) {
        self.noted.notified().await;
    }

    /// Takes those who have left.
    #[must_use]
    pub fn take(&self) -> Vec<Session> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Session>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
