//! Waiting for the database: what must follow a commit even if nobody waits for it any more, and
//! the deadline after which a caller is told to try again.

use std::future::Future;

use tracing::Instrument;

use super::Tx;
use crate::{
    error::{Error, Result, ResultExt},
    lifecycle::Tasks,
    limits::DATABASE_DEADLINE,
};

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is made.
    Surely,
    /// It failed, and may have been made all the same.
    Perhaps,
}

impl Tx {
    /// Commits, then runs `effect`, and only then returns. Both happen even if the returned future
    /// is dropped half-way: a client that hangs up cannot keep a revocation from taking effect.
    /// `effect` is told what became of it.
    ///
    /// # Errors
    /// As [`Tx::commit`].
    pub async fn commit_then(
        self,
        tasks: &Tasks,
        effect: impl FnOnce(Committed) + Send + 'static,
    ) -> Result<()> {
        let commit = async move {
            let committed = self.commit().await;
            effect(match committed {
                Ok(()) => Committed::Surely,
                Err(_) => Committed::Perhaps,
            });
            committed
        };
        let committed = tasks.spawn(commit.in_current_span());
        within_deadline(async { committed.await.internal("commit")? }).await
    }
}

/// Waits for `work` on the database at most the database's deadline.
///
/// # Errors
/// [`Code::TryAgain`](crate::error::Code::TryAgain) when it takes longer, else what `work` gives.
pub async fn within_deadline<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(DATABASE_DEADLINE, work)
        .await
        .unwrap_or_else(|_| Err(Error::try_again("the database does not answer")))
}
