//! The trace that a request belongs to: taken in and passed on as W3C trace context
//! (<https://www.w3.org/TR/trace-context/>). Where no spans are sent, everything here does nothing.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that are no log lines' context. Only what sends spans listens to it.
pub(super) const TARGET: &str = "im::traces";

/// Whose word a trace context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The business': its decision which traces are kept is ours.
    Business,
    /// A device's: it may have its request in its own trace, but only as many of the traces that it
    /// wants kept are kept as of our own.
    Device,
}

/// Marks a context that came from a device, for the sampler.
pub(super) struct FromDevice;

/// A span of a trace that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    trace: TraceId,
    span: SpanId,
}

/// True where spans are sent.
#[must_use]
pub fn is_on() -> bool {
    tracing::enabled!(target: TARGET, Level::INFO)
}

/// Puts the current span's context into the headers of a call that this server makes; of a call by
/// tonic, into `request.metadata_mut().as_mut()`.
pub fn inject(headers: &mut HeaderMap) {
    if is_on() {
        let context = Span::current().context();
        TraceContextPropagator::new().inject_context(&context, &mut Outgoing(headers));
    }
}

/// Makes `span`, which has just been created, a child of the span that a request's headers name.
pub fn accept(span: &Span, headers: &HeaderMap, from: Caller) {
    if !is_on() {
        return;
    }
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Incoming(headers));
    if !context.has_active_span() {
        return;
    }
    let context = match from {
        Caller::Business => context,
        Caller::Device => of_device(&context),
    };
    // Fails only where the span is not sent.
    let _ = span.set_parent(context);
}

/// What the vendors of a device's trace say to each other is not passed on.
fn of_device(context: &Context) -> Context {
    let parent = context.span().span_context().clone();
    let (trace, span) = (parent.trace_id(), parent.span_id());
    let state = TraceState::default();
    let parent = SpanContext::new(trace, span, parent.trace_flags(), true, state);
    Context::new()
        .with_value(FromDevice)
        .with_remote_span_context(parent)
}

/// Notes on the current span how a gRPC call ended.
pub fn grpc_ended(code: tonic::Code) {
    if !is_on() {
        return;
    }
    let span = Span::current();
    span.set_attribute("rpc.grpc.status_code", code as i64);
    if is_server_fault(code) {
        span.set_status(Status::error(code.description()));
    }
}

/// Notes on the current span how an HTTP request ended.
pub fn http_ended(status: http::StatusCode) {
    if !is_on() {
        return;
    }
    let span = Span::current();
    span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.set_status(Status::error(""));
    }
}

/// What the conventions count as a failure of the server, not of its caller.
const fn is_server_fault(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

impl Trace {
    /// How many bytes it takes.
    pub const BYTES: usize = 24;

    /// The current span, if it is kept.
    #[must_use]
    pub fn current() -> Option<Self> {
        if !is_on() {
            return None;
        }
        let context = Span::current().context();
        let span = context.span();
        let span = span.span_context();
        (span.is_valid() && span.is_sampled()).then(|| Self {
            trace: span.trace_id(),
            span: span.span_id(),
        })
    }

    /// As it goes to other instances.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&self.trace.to_bytes());
        bytes[16..].copy_from_slice(&self.span.to_bytes());
        bytes
    }

    /// What another instance has sent; `None` when it is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace, span) = bytes.split_first_chunk()?;
        let span = span.try_into().ok()?;
        let (trace, span) = (TraceId::from_bytes(*trace), SpanId::from_bytes(span));
        let is_valid = trace != TraceId::INVALID && span != SpanId::INVALID;
        is_valid.then_some(Self { trace, span })
    }

    /// The context of its children.
    pub(super) fn context(self) -> Context {
        let (flags, state) = (TraceFlags::SAMPLED, TraceState::default());
        let span = SpanContext::new(self.trace, self.span, flags, true, state);
        Context::new().with_remote_span_context(span)
    }
}

/// The headers of a request that came.
struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// The headers of a request that goes out.
struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (key.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_comes_out_as_it_went_in() {
        let trace = Trace {
            trace: TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
            span: SpanId::from(0x00f0_67aa_0ba9_02b7),
        };
        assert_eq!(Trace::from_bytes(&trace.to_bytes()), Some(trace));
        for none in [&[][..], &[0; 24], &[1; 23], &[1; 25]] {
            assert_eq!(Trace::from_bytes(none), None);
        }
    }

    #[test]
    fn nothing_is_passed_on_where_no_spans_are_sent() {
        let mut headers = HeaderMap::new();
        assert!(!is_on());
        inject(&mut headers);
        assert!(headers.is_empty());
        assert_eq!(Trace::current(), None);
    }
}
