//! Who may upload now: so many at once in all, and so many of one user, so that nobody takes all turns
//! with uploads that hardly move.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{
    error::{Code, Error, Result},
    id::UserId,
    limits::{UPLOAD_TURN_MAX, UPLOADS_AT_ONCE_MAX, UPLOADS_OF_USER_MAX, UPLOADS_WAITING_MAX},
};

/// The turns of all users.
#[derive(Debug)]
pub(super) struct Turns {
    all: Arc<Semaphore>,
    waiting: Semaphore,
    users: Users,
}

/// The turns of those users who have one or wait for one, no more of them than may do so.
type Users = Arc<Mutex<HashMap<UserId, Share>>>;

#[derive(Debug)]
struct Share {
    turns: Arc<Semaphore>,
    /// How many have or want one of them; without any it is forgotten.
    claims: usize,
}

/// One who has or wants a turn of `user`'s.
#[derive(Debug)]
struct Claim {
    users: Users,
    user: UserId,
}

/// The right to upload now; whoever drops it lets the next one in.
#[derive(Debug)]
pub struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_user: OwnedSemaphorePermit,
    _claim: Claim,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(UPLOADS_AT_ONCE_MAX)),
            waiting: Semaphore::new(UPLOADS_WAITING_MAX),
            users: Users::default(),
        }
    }
}

impl Turns {
    /// Waits until `user` may run one more upload, first among his own, so that meanwhile he keeps
    /// nobody else from a turn.
    ///
    /// # Errors
    /// [`Code::TooManyRequests`] when too many of his run for too long, [`Code::TryAgain`] when too many
    /// in all do.
    pub(super) async fn wait(&self, user: UserId) -> Result<Turn> {
        let busy = || Error::try_again("too many uploads at once, try again later");
        let _waits = self.waiting.try_acquire().map_err(|_| busy())?;
        let deadline = Instant::now() + UPLOAD_TURN_MAX;
        let (claim, own) = self.claim(user);
        let Ok(Ok(of_user)) = timeout_at(deadline, own.acquire_owned()).await else {
            let message = format!("at most {UPLOADS_OF_USER_MAX} uploads of yours at once");
            return Err(Error::business(Code::TooManyRequests, message));
        };
        match timeout_at(deadline, Arc::clone(&self.all).acquire_owned()).await {
            Ok(Ok(of_all)) => Ok(Turn {
                _of_all: of_all,
                _of_user: of_user,
                _claim: claim,
            }),
            _ => Err(busy()),
        }
    }

    fn claim(&self, user: UserId) -> (Claim, Arc<Semaphore>) {
        let mut users = lock(&self.users);
        let share = users.entry(user).or_insert_with(|| Share {
            turns: Arc::new(Semaphore::new(UPLOADS_OF_USER_MAX)),
            claims: 0,
        });
        share.claims += 1;
        let claim = Claim {
            users: Arc::clone(&self.users),
            user,
        };
        (claim, Arc::clone(&share.turns))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut users = lock(&self.users);
        if let Some(share) = users.get_mut(&self.user) {
            share.claims -= 1;
            if share.claims == 0 {
                users.remove(&self.user);
            }
        }
    }
}

fn lock(users: &Users) -> MutexGuard<'_, HashMap<UserId, Share>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, future::join_all};

    use super::*;

    async fn take(turns: &Turns, user: i64, count: usize) -> Vec<Turn> {
        let taken = join_all((0..count).map(|_| turns.wait(UserId(user)))).await;
        taken
            .into_iter()
            .map(|turn| turn.expect("a turn"))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_user_does_not_take_all_turns() {
        let turns = Turns::default();
        let mut own = take(&turns, 1, UPLOADS_OF_USER_MAX).await;
        let refused = turns.wait(UserId(1)).await.expect_err("too many of his");
        assert!(refused.is(Code::TooManyRequests));
        drop(take(&turns, 2, 1).await);

        // Whoever waits is let in by one of his own that ends.
        let mut next = Box::pin(turns.wait(UserId(1)));
        assert!(next.as_mut().now_or_never().is_none());
        own.pop();
        own.push(next.await.expect("a turn"));
        drop(own);
        assert!(lock(&turns.users).is_empty(), "nobody is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_forgotten_when_they_leave() {
        let turns = Turns::default();
        let mut all = Vec::new();
        for user in 0..(UPLOADS_AT_ONCE_MAX / UPLOADS_OF_USER_MAX) as i64 {
            all.extend(take(&turns, user, UPLOADS_OF_USER_MAX).await);
        }
        let busy = turns.wait(UserId(-1)).await.expect_err("too many in all");
        assert!(busy.is(Code::TryAgain));
        let mut waits = Box::pin(turns.wait(UserId(-1)));
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(lock(&turns.users).contains_key(&UserId(-1)));
        drop(waits);
        assert!(!lock(&turns.users).contains_key(&UserId(-1)));
        drop(all);
        assert!(lock(&turns.users).is_empty());
    }
}
