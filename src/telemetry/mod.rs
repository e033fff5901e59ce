//! What the server tells about itself: log lines on stdout, and metrics.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _},
};

use tracing_subscriber::EnvFilter;

use crate::{
    config::{self, LogFormat},
    error::{Result, ResultExt},
};

mod metrics;
mod process;

pub use metrics::{Metrics, Outcomes, PerTransport, SendOutcomes};

/// Sends log lines to stdout from now on, for the whole process, and a line for every panic.
///
/// # Errors
/// An internal error when `log.level` is no filter, or logging was set up before.
pub fn init(config: &config::Log) -> Result<()> {
    // A first start would begin with a screen of migrations; `log.level` may ask for them.
    let level = format!("sea_orm_migration=warn,{}", config.level);
    let filter = EnvFilter::try_new(level).internal("read log.level")?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // Where stdout is gone there is nobody to tell.
        .log_internal_errors(false);
    match config.format {
        LogFormat::Text => lines.with_ansi(io::stdout().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .internal("set up logging")?;
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(tracing::field::display);
        let what = panic.payload_as_str().unwrap_or("an unknown value");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::display(backtrace));
        tracing::error!(at, backtrace, "panicked: {what}");
    }));
    Ok(())
}
