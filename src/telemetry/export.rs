//! Sending spans to a collector by OTLP over gRPC, off unless `tracing.otlp_endpoint` is set. Spans
//! wait in a bounded queue for a thread that sends them; when that is full they are dropped, so a
//! collector that is slow or away never holds anything up. What the exporter does itself is in no
//! trace: only this server's own spans are sent.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{Link, SpanKind, TraceContextExt as _, TraceId, TracerProvider as _},
};
use opentelemetry_otlp::{
    SpanExporter as OtlpExporter, WithExportConfig as _, WithTonicConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingResult, SdkTracerProvider,
        ShouldSample, SpanData, SpanExporter,
    },
};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing::{Level, Subscriber};
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};

use super::{conventions::Conventions, trace_context::FromDevice};
use crate::{
    config,
    error::{Result, ResultExt},
    limits::{
        SPANS_BATCH_MAX, SPANS_FLUSH_MAX, SPANS_PAUSE, SPANS_REPORT_INTERVAL, SPANS_SEND_MAX,
        SPANS_WAITING_MAX,
    },
};

/// What our spans are recorded under.
const SCOPE: &str = "im";

/// Sends spans until it is finished.
#[derive(Debug)]
pub(super) struct Export {
    provider: SdkTracerProvider,
}

impl Export {
    /// Starts sending where an endpoint is set. Must be called within the runtime.
    pub(super) fn start(config: &config::Tracing) -> Result<Option<Self>> {
        if config.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let exporter = OtlpExporter::builder()
            .with_tonic()
            .with_channel(channel(&config.otlp_endpoint)?)
            .with_timeout(SPANS_SEND_MAX)
            .build()
            .internal("set up tracing.otlp_endpoint")?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(SPANS_WAITING_MAX)
            .with_max_export_batch_size(SPANS_BATCH_MAX)
            .with_scheduled_delay(SPANS_PAUSE)
            .build();
        let processor = BatchSpanProcessor::builder(Reporting::new(exporter))
            .with_batch_config(batches)
            .build();
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampling::new(config.sample_percent))
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider }))
    }

    /// Makes this server's spans known to the exporter.
    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(Conventions(self.provider.tracer(SCOPE)))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(Targets::new().with_target("im", Level::INFO))
    }

    /// Sends what waits, for a while at most.
    pub(super) async fn finish(self) {
        let flush = move || self.provider.shutdown_with_timeout(SPANS_FLUSH_MAX);
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans may not have been sent"),
            Err(_) => tracing::warn!("the last spans may not have been sent"),
        }
    }
}

fn channel(endpoint: &str) -> Result<Channel> {
    let mut channel = Endpoint::from_shared(endpoint.to_owned())
        .internal("read tracing.otlp_endpoint")?
        .connect_timeout(SPANS_SEND_MAX)
        .timeout(SPANS_SEND_MAX);
    if endpoint.starts_with("https://") {
        let tls = ClientTlsConfig::new().with_native_roots();
        channel = channel
            .tls_config(tls)
            .internal("set up TLS for tracing.otlp_endpoint")?;
    }
    Ok(channel.connect_lazy())
}

/// Which traces are kept: a share of those that begin here, and those that were kept where they
/// began; of a device's own, the same share.
#[derive(Clone, Debug)]
struct Sampling {
    share: f64,
    own: Sampler,
}

impl Sampling {
    fn new(percent: u64) -> Self {
        let share = percent.min(100) as f64 / 100.0;
        Self {
            share,
            own: Sampler::TraceIdRatioBased(share),
        }
    }

    fn sampler(&self, parent: Option<&Context>) -> &Sampler {
        let Some(parent) = parent.filter(|parent| parent.has_active_span()) else {
            return &self.own;
        };
        let span = parent.span();
        let span = span.span_context();
        // A device may choose the ids of its traces, so they decide nothing.
        let is_of_device = span.is_remote() && parent.get::<FromDevice>().is_some();
        if span.is_sampled() && (!is_of_device || rand::random_bool(self.share)) {
            &Sampler::AlwaysOn
        } else {
            &Sampler::AlwaysOff
        }
    }
}

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        self.sampler(parent)
            .should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// Says in the log when spans cannot be sent, now and then, and when they can again.
#[derive(Debug)]
struct Reporting<E> {
    exporter: E,
    away: Mutex<Option<Away>>,
}

/// Since they could not be sent.
#[derive(Debug)]
struct Away {
    reported_at: Instant,
    lost: usize,
}

impl<E> Reporting<E> {
    const fn new(exporter: E) -> Self {
        let away = Mutex::new(None);
        Self { exporter, away }
    }

    fn report(&self, count: usize, result: &OTelSdkResult) {
        let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, &mut *away) {
            (Ok(()), None) => {}
            (Ok(()), Some(Away { lost, .. })) => {
                tracing::info!(lost, "spans are sent again");
                *away = None;
            }
            (Err(error), None) => {
                tracing::warn!(%error, lost = count, "spans cannot be sent");
                *away = Some(Away {
                    reported_at: Instant::now(),
                    lost: count,
                });
            }
            (Err(error), Some(away)) => {
                away.lost += count;
                if away.reported_at.elapsed() >= SPANS_REPORT_INTERVAL {
                    tracing::warn!(%error, lost = away.lost, "spans still cannot be sent");
                    away.reported_at = Instant::now();
                }
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.exporter.export(batch).await;
        self.report(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::*;

    fn parent(flags: TraceFlags) -> Context {
        let (trace, span) = (TraceId::from(1), SpanId::from(1));
        let span = SpanContext::new(trace, span, flags, true, TraceState::default());
        Context::new().with_remote_span_context(span)
    }

    fn is_kept(percent: u64, parent: Option<&Context>) -> bool {
        let sampling = Sampling::new(percent);
        let trace = TraceId::from(u128::MAX >> 1);
        let kind = SpanKind::Server;
        let result = sampling.should_sample(parent, trace, "request", &kind, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn trace_that_began_elsewhere_is_kept_as_it_was() {
        for percent in [0, 100] {
            assert!(is_kept(percent, Some(&parent(TraceFlags::SAMPLED))));
            assert!(!is_kept(percent, Some(&parent(TraceFlags::NOT_SAMPLED))));
        }
    }

    #[test]
    fn devices_cannot_have_more_traces_kept_than_begin_here() {
        let of_device = |flags| {
            let parent = parent(flags).span().span_context().clone();
            Context::new()
                .with_value(FromDevice)
                .with_remote_span_context(parent)
        };
        assert!(!is_kept(0, Some(&of_device(TraceFlags::SAMPLED))));
        assert!(is_kept(100, Some(&of_device(TraceFlags::SAMPLED))));
        assert!(!is_kept(100, Some(&of_device(TraceFlags::NOT_SAMPLED))));
        assert!(!is_kept(0, None));
        assert!(is_kept(100, None));
    }
}
