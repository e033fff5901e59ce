//! Starting and stopping: every task of the server is tracked here, told to stop by one token, and
//! waited for.

use std::future::Future;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tracked tasks of one server and the signal that ends them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `task` beside the caller; a shutdown waits for it.
    #[allow(clippy::disallowed_methods)] // the one place that may
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// The signal that asks every task to end.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until every tracked task has ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}
