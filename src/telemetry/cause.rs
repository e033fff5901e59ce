//! What caused a push: the request that sent the message, so that each delivery of it can be found by
//! the request's id and in its trace. A cause goes with the message, from the request to the devices,
//! also by way of other instances. Where nobody listens there are no causes: no push event is
//! logged (`im::push` at debug) and no spans are sent.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use http::HeaderValue;
use tracing::{
    Level, Span, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id},
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, Registry, layer::Context, registry::LookupSpan};

use super::trace_context::{self, Trace};
use crate::limits::{PUSH_SPANS_MAX, REQUEST_ID_BYTES_MAX};

/// The target of push events.
pub(super) const PUSHES: &str = "im::push";
/// The field of spans and log lines that holds a request's id.
const REQUEST_ID: &str = "request_id";

/// The request that a message comes from.
#[derive(Debug)]
pub struct Cause {
    request_id: Box<str>,
    trace: Option<Trace>,
    /// Deliveries that may have a span yet.
    spans_left: AtomicU32,
}

/// A message that was written for a device.
#[derive(Clone, Copy, Debug)]
pub struct Pushed<T> {
    /// Whose device it is.
    pub user: i64,
    /// Which one.
    pub device: i64,
    /// What it followed to get it.
    pub topic: T,
    /// Its position; 0 for an ephemeral message.
    pub seq: i64,
}

impl Cause {
    /// Whether somebody wants to know what caused pushes.
    #[must_use]
    pub fn is_wanted() -> bool {
        tracing::enabled!(target: PUSHES, Level::DEBUG) || trace_context::is_on()
    }

    /// The request that is being served, if that is wanted.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        if !Self::is_wanted() {
            return None;
        }
        Self::new(request_id_of_span().unwrap_or_default(), Trace::current())
    }

    /// As another instance has told, if that is wanted here.
    #[must_use]
    pub fn received(request_id: String, trace: &[u8]) -> Option<Arc<Self>> {
        let is_none = request_id.is_empty() && trace.is_empty();
        if is_none || request_id.len() > REQUEST_ID_BYTES_MAX || !Self::is_wanted() {
            return None;
        }
        Self::new(request_id.into(), Trace::from_bytes(trace))
    }

    pub(crate) fn new(request_id: Box<str>, trace: Option<Trace>) -> Option<Arc<Self>> {
        if request_id.is_empty() && trace.is_none() {
            return None;
        }
        Some(Arc::new(Self {
            request_id,
            trace,
            spans_left: AtomicU32::new(PUSH_SPANS_MAX),
        }))
    }

    /// The id of the request; empty for none.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The span of the request, where it is kept.
    #[must_use]
    pub const fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// Tells of a delivery: a log line, and a span in the trace of the request. Of a message that
    /// goes to very many, the first deliveries on each instance have spans.
    pub fn pushed<T: fmt::Display>(&self, pushed: Pushed<T>) {
        let Pushed {
            user, device, seq, ..
        } = pushed;
        let request_id = &*self.request_id;
        let topic = &pushed.topic;
        tracing::debug!(target: PUSHES, request_id, user, device, %topic, seq, "push");
        let Some(trace) = self.trace else {
            return;
        };
        let counted = |left: u32| left.checked_sub(1);
        let left = &self.spans_left;
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, counted)
            .is_ok()
        {
            let span = tracing::info_span!(
                target: trace_context::TARGET,
                parent: None,
                "push",
                request_id,
                user,
                device,
                %topic,
                seq
            );
            // Fails only where the span is not sent.
            let _ = span.set_parent(trace.context());
        }
    }
}

/// The id of the request that is being served, to be sent on with what is asked elsewhere for it.
/// `None` too where spans are not remembered by their requests.
#[must_use]
pub fn current_request_id() -> Option<HeaderValue> {
    HeaderValue::from_str(&request_id_of_span()?).ok()
}

/// The id of the request that the current span belongs to.
fn request_id_of_span() -> Option<Box<str>> {
    let found = Span::current().with_subscriber(|(id, dispatch)| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        let mut spans = registry.span(id)?.scope();
        spans.find_map(|span| Some(span.extensions().get::<RequestId>()?.0.clone()))
    });
    found.flatten()
}

/// Remembers the request ids of spans.
#[derive(Debug)]
pub(super) struct RequestIds;

struct RequestId(Box<str>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for RequestIds {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() == trace_context::TARGET {
            return;
        }
        let mut found = Found(None);
        attributes.record(&mut found);
        if let (Some(request_id), Some(span)) = (found.0, context.span(id)) {
            span.extensions_mut().insert(RequestId(request_id));
        }
    }
}

/// Looks for the request id among a span's fields.
struct Found(Option<Box<str>>);

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == REQUEST_ID {
            self.0 = Some(value.into());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == REQUEST_ID {
            self.0 = Some(format!("{value:?}").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[test]
    fn nobody_listens_and_there_is_no_cause() {
        let _span = tracing::info_span!("request", request_id = "a").entered();
        assert!(!Cause::is_wanted());
        assert!(Cause::current().is_none());
        assert!(Cause::received("a".to_owned(), &[]).is_none());
    }

    #[test]
    fn the_request_is_found_from_a_span_within_it() {
        let subscriber = Registry::default().with(RequestIds);
        tracing::subscriber::with_default(subscriber, || {
            assert!(Cause::current().is_none());
            let _outer = tracing::info_span!("request", request_id = %17).entered();
            let _inner = tracing::info_span!("inner", user = 1).entered();
            let cause = Cause::current().unwrap();
            assert_eq!((cause.request_id(), cause.trace()), ("17", None));
        });
    }

    /// Counts spans of pushes.
    #[derive(Clone, Default)]
    struct PushSpans(Arc<AtomicU32>);

    impl<S: Subscriber> Layer<S> for PushSpans {
        fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
            if attributes.metadata().name() == "push" {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn only_the_first_deliveries_of_a_message_to_very_many_have_spans() {
        let spans = PushSpans::default();
        let subscriber = Registry::default().with(spans.clone());
        let pushed = Pushed {
            user: 1,
            device: 2,
            topic: "everyone",
            seq: 0,
        };
        tracing::subscriber::with_default(subscriber, || {
            let without = Cause::new("a".into(), None).unwrap();
            without.pushed(pushed);
            assert_eq!(spans.0.load(Ordering::Relaxed), 0);
            let kept = Cause::new("a".into(), Trace::from_bytes(&[1; 24])).unwrap();
            for _ in 0..2 * PUSH_SPANS_MAX {
                kept.pushed(pushed);
            }
            assert_eq!(spans.0.load(Ordering::Relaxed), PUSH_SPANS_MAX);
        });
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        tracing::subscriber::with_default(Registry::default(), || {
            let received = |len| Cause::received("x".repeat(len), &[1; 24]);
            assert!(received(0).unwrap().trace().is_some());
            assert!(received(REQUEST_ID_BYTES_MAX).is_some());
            assert!(received(REQUEST_ID_BYTES_MAX + 1).is_none());
        });
    }
}
