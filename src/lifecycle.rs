//! Starting and stopping: every task of the server is tracked here, told to stop by one token, and
//! waited for. A stop is soft first (drain) and hard after a deadline or a second signal; a task
//! that the server cannot live without stops it when it crashes.

use std::{
    convert::Infallible,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Error, Result, ResultExt};

/// The tracked tasks of one server and the signal that ends them; clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    crashed: CancellationToken,
    /// The critical task that crashed first.
    culprit: Arc<OnceLock<&'static str>>,
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

    /// Runs a task that the server cannot live without: when it panics, or ends before it was
    /// asked to, the server stops and fails.
    pub fn spawn_critical<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let sentinel = Sentinel {
            tasks: self.clone(),
            name,
            ended: false,
        };
        self.spawn(async move {
            task.await;
            sentinel.end();
        });
    }

    /// `work`, which the caller does himself; a shutdown waits for it as for a task, from now on.
    pub fn track<F: Future>(&self, work: F) -> impl Future<Output = F::Output> {
        self.tracker.track_future(work)
    }

    /// Another group of tasks of the same server, with a stop signal of its own: a shutdown ends
    /// one group after the other.
    #[must_use]
    pub fn group(&self) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            crashed: self.crashed.clone(),
            culprit: Arc::clone(&self.culprit),
        }
    }

    /// The signal that asks every task to end.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Completes when a critical task of any group has crashed.
    pub async fn crashed(&self) {
        self.crashed.cancelled().await;
    }

    /// Waits until every tracked task has ended.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Serves until `shutdown` asks for a drain or a critical task of any group crashes; then runs
    /// `drain`, gives the tasks of this group the signal to stop and waits for them, all within
    /// `deadline`.
    ///
    /// # Errors
    /// An internal error when a critical task crashed, or when the deadline or a second request
    /// to stop cut off work that was under way.
    pub async fn supervise(
        &self,
        shutdown: &Shutdown,
        deadline: Duration,
        drain: impl Future<Output = ()>,
    ) -> Result<()> {
        tokio::select! {
            () = shutdown.drain.cancelled() => tracing::info!("draining"),
            () = self.crashed.cancelled() => {}
        }
        let drained = async {
            drain.await;
            self.stop.cancel();
            self.finished().await;
        };
        let cut_off_by = tokio::select! {
            biased;
            () = drained => None,
            () = shutdown.leave.cancelled() => Some("a second request to stop"),
            () = tokio::time::sleep(deadline) => Some("delivery.drain_timeout_s"),
        };
        if let Some(name) = self.culprit.get() {
            return Err(Error::internal(format!("the task `{name}` crashed")));
        }
        match cut_off_by {
            None => Ok(()),
            Some(by) => Err(Error::internal(format!(
                "{by} cut off the drain with {} tasks at work",
                self.tracker.len()
            ))),
        }
    }
}

/// Reports a critical task that did not end as it should.
struct Sentinel {
    tasks: Tasks,
    name: &'static str,
    ended: bool,
}

impl Sentinel {
    fn end(mut self) {
        self.ended = true;
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let crashed = std::thread::panicking();
        let too_soon = self.ended && !self.tasks.stop.is_cancelled();
        if crashed || too_soon {
            tracing::error!(task = self.name, "a critical task crashed, stopping");
            // Only the first crash is the cause.
            let _ = self.tasks.culprit.set(self.name);
            self.tasks.crashed.cancel();
        }
    }
}

/// What asks a server to stop; clones are handles to the same. Whoever runs the server keeps one.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    leave: CancellationToken,
}

impl Shutdown {
    /// Asks for a drain: no new work, what is under way is finished.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks to leave at once, whatever is under way.
    pub fn leave(&self) {
        self.drain.cancel();
        self.leave.cancel();
    }

    /// Completes when a drain was asked for.
    pub async fn requested(&self) {
        self.drain.cancelled().await;
    }

    /// Turns the first SIGTERM or SIGINT into a drain and the second into leaving; never ends
    /// otherwise.
    ///
    /// # Errors
    /// An internal error when the signals cannot be listened for.
    pub async fn on_signals(&self) -> Result<Infallible> {
        let mut terminate = signal(SignalKind::terminate()).internal("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).internal("listen for SIGINT")?;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if self.drain.is_cancelled() {
                tracing::warn!(signal = name, "asked to stop again, leaving");
                self.leave();
            } else {
                tracing::info!(signal = name, "asked to stop");
                self.drain();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_drain_waits_for_tasks() {
        let (tasks, shutdown) = (Tasks::default(), Shutdown::default());
        let stop = tasks.stop().clone();
        tasks.spawn_critical("worker", async move { stop.cancelled().await });
        shutdown.drain();
        tasks
            .supervise(&shutdown, LONG, async {})
            .await
            .expect("a clean end");
    }

    #[tokio::test]
    async fn a_crashed_critical_task_stops_the_server() {
        for panics in [true, false] {
            let tasks = Tasks::default();
            tasks.spawn_critical("worker", async move {
                assert!(!panics, "crash on purpose");
            });
            let error = tasks
                .supervise(&Shutdown::default(), LONG, async {})
                .await
                .expect_err("a failure");
            assert!(error.to_string().contains("`worker` crashed"), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_cuts_off_a_drain() {
        let (tasks, shutdown) = (Tasks::default(), Shutdown::default());
        tasks.spawn(std::future::pending::<()>());
        shutdown.drain();
        let error = tasks
            .supervise(&shutdown, LONG, async {})
            .await
            .expect_err("a failure");
        assert!(error.to_string().contains("drain_timeout_s"), "{error}");
    }

    #[tokio::test]
    async fn a_second_request_cuts_off_a_drain() {
        let (tasks, shutdown) = (Tasks::default(), Shutdown::default());
        tasks.spawn(std::future::pending::<()>());
        shutdown.leave();
        let error = tasks
            .supervise(&shutdown, LONG, async {})
            .await
            .expect_err("a failure");
        assert!(error.to_string().contains("second request"), "{error}");
    }
}
