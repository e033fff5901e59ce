//! One line on stderr every second while something is under way.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Tasks;

const EVERY: Duration = Duration::from_secs(1);

/// Prints until it is dropped.
#[derive(Debug)]
pub struct Progress {
    stop: CancellationToken,
}

impl Progress {
    /// Prints `line` with the seconds gone by, once a second.
    pub fn show(tasks: &Tasks, mut line: impl FnMut() -> String + Send + 'static) -> Self {
        let stop = tasks.stop().child_token();
        let stopped = stop.clone();
        let begun = Instant::now();
        tasks.spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks.tick().await;
            loop {
                tokio::select! {
                    () = stopped.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                eprintln!("{:>4} s  {}", begun.elapsed().as_secs(), line());
            }
        });
        Self { stop }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
