//! What the server tells about itself: log lines on stdout, metrics, and spans for a collector of
//! traces. What a request is called in all of them, and what it caused, stands here too.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal as _},
};

use tracing::{Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::LevelFilter,
    fmt::{self, format::JsonFields},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use self::{cause::RequestIds, export::Export, json::Json};
use crate::{
    config::{Config, LogFormat},
    error::{Result, ResultExt},
};

mod cause;
mod conventions;
mod export;
mod json;
mod metrics;
mod process;
mod request_id;
pub mod trace_context;

pub use cause::{Cause, Pushed, current_request_id};
pub use metrics::{Metrics, Outcomes, PerTransport, SendOutcomes};
pub use request_id::{REQUEST_ID, request_id};

/// What was set up, to be finished at the end of the program.
#[derive(Debug)]
pub struct Telemetry {
    export: Option<Export>,
}

impl Telemetry {
    /// Sends the spans that wait, for a while at most.
    pub async fn finish(self) {
        if let Some(export) = self.export {
            export.finish().await;
        }
    }
}

/// Sends log lines to stdout from now on, for the whole process, and a line for every panic; and
/// spans to where `config` says. Must be called within the runtime.
///
/// # Errors
/// An internal error when `log.level` is no filter, or logging was set up before.
pub fn init(config: &Config) -> Result<Telemetry> {
    let log = &config.log;
    // A first start would begin with a screen of migrations; `log.level` may ask for them. Spans
    // that are only sent are no part of log lines.
    let level = format!(
        "sea_orm_migration=warn,{},{}=off",
        log.level,
        trace_context::TARGET
    );
    let filter = EnvFilter::try_new(level).internal("read log.level")?;
    let export = Export::start(&config.tracing)?;
    match &export {
        // Cheaper than below, where each of the two has a filter.
        None => {
            let debugs = filter.max_level_hint() >= Some(LevelFilter::from_level(Level::DEBUG));
            let asks_elsewhere = !config.users.endpoint.is_empty();
            Registry::default()
                .with(filter)
                .with((debugs || asks_elsewhere).then_some(RequestIds))
                .with(lines(log.format))
                .try_init()
        }
        Some(export) => Registry::default()
            .with(RequestIds)
            .with(export.layer())
            .with(lines(log.format).with_filter(filter))
            .try_init(),
    }
    .internal("set up logging")?;
    log_panics();
    Ok(Telemetry { export })
}

/// Writes log lines to stdout.
fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    // Where stdout is gone there is nobody to tell.
    let lines = fmt::layer().log_internal_errors(false);
    match format {
        LogFormat::Text => lines.with_ansi(io::stdout().is_terminal()).boxed(),
        LogFormat::Json => lines
            .event_format(Json)
            .fmt_fields(JsonFields::new())
            .boxed(),
    }
}

/// Writes one line for every panic, in the span of the request that it ended.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(tracing::field::display);
        let what = panic.payload_as_str().unwrap_or("an unknown value");
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured)
            .then(|| tracing::field::debug(backtrace));
        // As a field, where line breaks are escaped.
        tracing::error!(at, panic = what, backtrace, "panicked");
    }));
}
