//! Waiting for a condition, always with a deadline: a test that hangs names what it waited for.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Longest wait for anything that should happen at once; generous, because machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a machine with more to do than cores may add to a time that the server promises: it holds the
/// server up, and the test that looks at the clock. A promise with this on top must still be shorter
/// than what happens when it is broken.
pub const BUSY: Duration = Duration::from_secs(5);

/// The result of `future`, or a panic that says what did not happen.
pub async fn within<F: Future>(deadline: Duration, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(deadline, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: did not happen within {deadline:?}"),
    }
}

/// The result of `future`, which the server promises within `promised`.
pub async fn as_promised<F: Future>(promised: Duration, what: &str, future: F) -> F::Output {
    within(promised + BUSY, what, future).await
}

/// The result of `future`, which should come at once.
pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    within(PATIENCE, what, future).await
}

/// Asks again and again until `probe` has something.
pub async fn eventually<T, F: AsyncFnMut() -> Option<T>>(what: &str, probe: F) -> T {
    eventually_within(PATIENCE, what, probe).await
}

/// As [`eventually`], for what takes longer.
pub async fn eventually_within<T, F: AsyncFnMut() -> Option<T>>(
    patience: Duration,
    what: &str,
    mut probe: F,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(
            started.elapsed() < patience,
            "{what}: not so within {patience:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
