//! The server's metrics, typed: whoever counts holds a resolved handle, so that counting is one
//! atomic addition. They belong to one server; there is no global recorder.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::text,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::process::Process;
use crate::error::{Code, Error, Result};

mod beside;

pub use beside::{BeforeSend, Bridge, Business, Webhook};

/// One label of a metric: name and value, of a closed list in the code.
type Label = [(&'static str, &'static str); 1];

/// All metrics of one server.
pub struct Metrics {
    registry: Registry,
    /// Devices signed in.
    pub sessions: PerTransport<Gauge>,
    /// Sends by how they ended.
    pub sends: SendOutcomes,
    /// Time from a send's arrival to its answer, in seconds.
    pub send_latency: Histogram,
    /// Sends in one transaction of the writer.
    pub batch_sends: Histogram,
    /// Rows of messages and timeline entries in one transaction of the writer.
    pub batch_rows: Histogram,
    /// Time one transaction of the writer takes, in seconds.
    pub commit_latency: Histogram,
    /// Messages written to devices.
    pub deliveries: Counter,
    /// Gaps in feeds that were filled from the database.
    pub gaps_filled: Counter,
    /// Reads from the database for sessions whose position had left the ring.
    pub catch_up_reads: Counter,
    /// Pages answered to `SyncInput`.
    pub sync_pages: Counter,
    /// Sign-ins on long connections by how they ended.
    pub sign_ins: Outcomes,
    /// Uploads of files.
    pub uploads: Uploads,
    /// The bridge to other instances.
    pub bridge: Bridge,
    /// The business server that has the accounts.
    pub business: Business,
    /// Events for the business server.
    pub webhook: Webhook,
    /// Answers of the before-send hook.
    pub before_send: BeforeSend,
    closes: Family<Label, Counter>,
}

/// One metric for each transport of long connections.
#[derive(Debug, Default)]
pub struct PerTransport<M> {
    /// Over TCP.
    pub tcp: M,
    /// Over WebSocket.
    pub websocket: M,
}

/// How sends end.
#[derive(Debug)]
pub struct SendOutcomes {
    /// Stored.
    pub ok: Counter,
    /// Stored before, with the same `client_message_id`.
    pub repeated: Counter,
    /// Answered with a business error.
    pub refused: Counter,
    /// Not stored because of the server or its database.
    pub failed: Counter,
}

/// Uploads of files.
#[derive(Debug)]
pub struct Uploads {
    /// How they are answered.
    pub outcomes: Outcomes,
    /// Those whose clients hung up before they were answered.
    pub cut_off: Counter,
    /// Bytes of the files that are stored.
    pub bytes: Counter,
}

/// How something ends that is allowed or not.
#[derive(Debug)]
pub struct Outcomes {
    /// Done.
    pub ok: Counter,
    /// Answered with a business error.
    pub refused: Counter,
    /// Not done because of the server or its database.
    pub failed: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let im = registry.sub_registry_with_prefix("im");
        im.register("build", "The running version", build_info());
        let sessions = Family::<Label, Gauge>::default();
        im.register("sessions", "Devices signed in", sessions.clone());
        let sends = Family::<Label, Counter>::default();
        im.register("sends", "Sends by result", sends.clone());
        let before_send = Family::<Label, Counter>::default();
        im.register(
            "before_send",
            "Answers of the before-send hook",
            before_send.clone(),
        );
        let sign_ins = Family::<Label, Counter>::default();
        im.register(
            "sign_ins",
            "Sign-ins on long connections by result",
            sign_ins.clone(),
        );
        let closes = Family::<Label, Counter>::default();
        im.register(
            "closes",
            "Long connections closed by reason",
            closes.clone(),
        );
        Self {
            sessions: PerTransport {
                tcp: sessions.get_or_create_owned(&[("transport", "tcp")]),
                websocket: sessions.get_or_create_owned(&[("transport", "websocket")]),
            },
            sends: SendOutcomes::of(&sends),
            sign_ins: Outcomes::of(&sign_ins),
            closes,
            send_latency: latency(im, "send_latency", "From a send's arrival to its answer"),
            commit_latency: latency(im, "commit_latency", "One transaction of the writer"),
            batch_sends: sizes(im, "batch_sends", "Sends in one transaction of the writer"),
            batch_rows: sizes(im, "batch_rows", "Rows in one transaction of the writer"),
            deliveries: count(im, "deliveries", "Messages written to devices"),
            gaps_filled: count(im, "gaps_filled", "Gaps in feeds filled from the database"),
            catch_up_reads: count(
                im,
                "catch_up_reads",
                "Database reads for sessions too slow for the ring",
            ),
            sync_pages: count(im, "sync_pages", "Pages answered to SyncInput"),
            uploads: Uploads::of(im),
            bridge: Bridge::of(im.sub_registry_with_prefix("bridge")),
            business: Business::of(im.sub_registry_with_prefix("business")),
            webhook: Webhook::of(im.sub_registry_with_prefix("webhook")),
            before_send: BeforeSend::of(&before_send),
            registry,
        }
    }
}

impl Metrics {
    /// Counts a send that was answered with a result `after` it arrived.
    pub fn send_done(&self, repeated: bool, after: Duration) {
        let result = if repeated {
            &self.sends.repeated
        } else {
            &self.sends.ok
        };
        result.inc();
        self.send_latency.observe(after.as_secs_f64());
    }

    /// Counts a send that was answered with an error.
    pub fn send_refused(&self, error: &Error) {
        match error.code() {
            Some(Code::TryAgain) | None => self.sends.failed.inc(),
            Some(_) => self.sends.refused.inc(),
        };
    }

    /// Counts a sign-in on a long connection.
    pub fn sign_in_done<T>(&self, result: &Result<T>) {
        self.sign_ins.count(result);
    }

    /// Counts an upload that is answered.
    pub fn upload_done<T>(&self, result: &Result<T>) {
        let outcomes = &self.uploads.outcomes;
        match result.as_ref().map_err(Error::code) {
            Ok(_) => outcomes.ok.inc(),
            Err(Some(Code::TryAgain) | None) => outcomes.failed.inc(),
            Err(Some(_)) => outcomes.refused.inc(),
        };
    }

    /// Counts a transaction of the writer.
    pub fn batch_committed(&self, sends: usize, rows: usize, took: Duration) {
        self.batch_sends.observe(sends as f64);
        self.batch_rows.observe(rows as f64);
        self.commit_latency.observe(took.as_secs_f64());
    }

    /// Counts a long connection that ended; `reason` is of a closed list.
    pub fn closed(&self, reason: &'static str) {
        self.closes.get_or_create(&[("reason", reason)]).inc();
    }

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        match text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "writing the metrics failed");
                String::new()
            }
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl SendOutcomes {
    fn of(family: &Family<Label, Counter>) -> Self {
        Self {
            ok: family.get_or_create_owned(&[("result", "ok")]),
            repeated: family.get_or_create_owned(&[("result", "repeated")]),
            refused: family.get_or_create_owned(&[("result", "refused")]),
            failed: family.get_or_create_owned(&[("result", "failed")]),
        }
    }
}

impl Outcomes {
    fn of(family: &Family<Label, Counter>) -> Self {
        Self {
            ok: family.get_or_create_owned(&[("result", "ok")]),
            refused: family.get_or_create_owned(&[("result", "refused")]),
            failed: family.get_or_create_owned(&[("result", "failed")]),
        }
    }

    /// Counts one by its result.
    pub fn count<T>(&self, result: &Result<T>) {
        match result {
            Ok(_) => self.ok.inc(),
            Err(error) if matches!(error.code(), Some(Code::TryAgain) | None) => self.failed.inc(),
            Err(_) => self.refused.inc(),
        };
    }
}

impl Uploads {
    fn of(registry: &mut Registry) -> Self {
        let uploads = Family::<Label, Counter>::default();
        registry.register("uploads", "Uploads of files by result", uploads.clone());
        Self {
            outcomes: Outcomes::of(&uploads),
            cut_off: uploads.get_or_create_owned(&[("result", "cut_off")]),
            bytes: count(
                registry,
                "upload_bytes",
                "Bytes of the files that were stored",
            ),
        }
    }
}

fn build_info() -> Info<Label> {
    Info::new([("version", env!("CARGO_PKG_VERSION"))])
}

fn count(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn level(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

/// A histogram of seconds, from 0.1 ms to 13 s, each bucket twice as wide.
fn latency(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

/// A histogram of counts, from 1 to 4,096.
fn sizes(registry: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = Histogram::new(exponential_buckets(1.0, 2.0, 13));
    registry.register(name, help, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests;
