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

/// What the bridge to other instances counts.
#[derive(Debug)]
pub struct Bridge {
    /// Messages and news given to Redis.
    pub published: Counter,
    /// Those that could not be.
    pub publish_dropped: Counter,
    /// Those that wait to be.
    pub publish_queue: Gauge,
    /// Messages and news that came from other instances.
    pub received: Counter,
    /// What came and could not be read.
    pub ignored: Counter,
    /// Reports that something may have been missed.
    pub discontinuities: Counter,
    /// Connections to Redis that were lost and had anew.
    pub reconnects: Counter,
    /// Topics that are subscribed to.
    pub subscriptions: Gauge,
}

/// What is counted of the business server that has the accounts.
#[derive(Debug)]
pub struct Business {
    /// Questions whether a token is good, by how they ended.
    pub auths: Outcomes,
    /// Questions who users are, by how they ended.
    pub lookups: Outcomes,
    /// Questions that it was not bothered with: the breaker was open, or too many waited.
    pub not_asked: Counter,
    /// 1 while the breaker is open, else 0.
    pub breaker_open: Gauge,
}

/// What delivering events counts.
#[derive(Debug)]
pub struct Webhook {
    /// Events that were taken.
    pub delivered: Counter,
    /// Attempts that were not.
    pub failed: Counter,
    /// Events that were given up.
    pub given_up: Counter,
    /// Age of the oldest event in seconds, at the instance that delivers; 0 at others.
    pub oldest: Gauge,
}

/// What the before-send hook answers.
#[derive(Debug)]
pub struct BeforeSend {
    /// Sent as it is.
    pub allowed: Counter,
    /// Refused.
    pub denied: Counter,
    /// Sent with another content.
    pub replaced: Counter,
    /// No answer, or none that can be used.
    pub failed: Counter,
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

impl Business {
    fn of(business: &mut Registry) -> Self {
        let auths = Family::<Label, Counter>::default();
        business.register("auths", "Tokens asked about by result", auths.clone());
        let lookups = Family::<Label, Counter>::default();
        business.register("lookups", "Calls for profiles by result", lookups.clone());
        Self {
            auths: Outcomes::of(&auths),
            lookups: Outcomes::of(&lookups),
            not_asked: count(
                business,
                "not_asked",
                "Calls not made because the business server does not keep up or answer",
            ),
            breaker_open: level(
                business,
                "breaker_open",
                "1 while the business server does not answer",
            ),
        }
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

impl Bridge {
    fn of(bridge: &mut Registry) -> Self {
        Self {
            published: count(bridge, "published", "Messages given to Redis"),
            publish_dropped: count(bridge, "publish_dropped", "Messages not given to Redis"),
            publish_queue: level(bridge, "publish_queue", "Messages that wait for Redis"),
            received: count(bridge, "received", "Messages from other instances"),
            ignored: count(bridge, "ignored", "Messages from Redis that cannot be read"),
            discontinuities: count(
                bridge,
                "discontinuities",
                "Times that something may have been missed",
            ),
            reconnects: count(bridge, "reconnects", "Connections to Redis had anew"),
            subscriptions: level(bridge, "subscriptions", "Topics subscribed to"),
        }
    }
}

impl Webhook {
    fn of(webhook: &mut Registry) -> Self {
        Self {
            delivered: count(webhook, "delivered", "Events that were taken"),
            failed: count(
                webhook,
                "failed",
                "Attempts to deliver an event that failed",
            ),
            given_up: count(webhook, "given_up", "Events that were given up"),
            oldest: level(webhook, "oldest_seconds", "Age of the oldest event"),
        }
    }
}

impl BeforeSend {
    fn of(family: &Family<Label, Counter>) -> Self {
        Self {
            allowed: family.get_or_create_owned(&[("result", "allowed")]),
            denied: family.get_or_create_owned(&[("result", "denied")]),
            replaced: family.get_or_create_owned(&[("result", "replaced")]),
            failed: family.get_or_create_owned(&[("result", "failed")]),
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
mod tests {
    use super::*;

    #[test]
    fn everything_is_rendered_under_its_name() {
        let metrics = Metrics::default();
        metrics.sessions.tcp.inc();
        metrics.sends.repeated.inc();
        metrics.sign_ins.refused.inc();
        metrics.closed("idle");
        metrics.send_latency.observe(0.001);
        metrics.deliveries.inc_by(3);
        let text = metrics.render();
        for line in [
            concat!(
                "im_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "im_sessions{transport=\"tcp\"} 1",
            "im_sessions{transport=\"websocket\"} 0",
            "im_sends_total{result=\"ok\"} 0",
            "im_sends_total{result=\"repeated\"} 1",
            "im_sign_ins_total{result=\"refused\"} 1",
            "im_closes_total{reason=\"idle\"} 1",
            "im_send_latency_seconds_count 1",
            "im_commit_latency_seconds_count 0",
            "im_batch_sends_count 0",
            "im_batch_rows_count 0",
            "im_deliveries_total 3",
            "im_gaps_filled_total 0",
            "im_catch_up_reads_total 0",
            "im_sync_pages_total 0",
            "im_uploads_total{result=\"cut_off\"} 0",
            "im_upload_bytes_total 0",
            "im_bridge_published_total 0",
            "im_bridge_publish_dropped_total 0",
            "im_bridge_publish_queue 0",
            "im_bridge_received_total 0",
            "im_bridge_ignored_total 0",
            "im_bridge_discontinuities_total 0",
            "im_bridge_reconnects_total 0",
            "im_bridge_subscriptions 0",
            "im_business_auths_total{result=\"refused\"} 0",
            "im_business_lookups_total{result=\"failed\"} 0",
            "im_business_not_asked_total 0",
            "im_business_breaker_open 0",
            "im_webhook_delivered_total 0",
            "im_webhook_failed_total 0",
            "im_webhook_given_up_total 0",
            "im_webhook_oldest_seconds 0",
            "im_before_send_total{result=\"denied\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for name in [
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "process_start_time_seconds ",
        ] {
            assert!(text.lines().any(|l| l.starts_with(name)), "{name}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
