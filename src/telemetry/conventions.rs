//! How this server's spans are called outside: the semantic conventions of OpenTelemetry for calls and
//! for messaging. The server itself and its log lines know nothing of them.

use std::borrow::Cow;

use opentelemetry::{
    Context, Key, KeyValue, Value,
    trace::{SpanBuilder, SpanKind, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;

/// Starts spans with their conventional names, kinds and attributes.
#[derive(Debug)]
pub(super) struct Conventions(pub(super) SdkTracer);

impl Tracer for Conventions {
    type Span = <SdkTracer as Tracer>::Span;

    fn build_with_context(&self, builder: SpanBuilder, parent: &Context) -> Self::Span {
        self.0.build_with_context(conventional(builder), parent)
    }
}

fn conventional(mut builder: SpanBuilder) -> SpanBuilder {
    let attributes = builder.attributes.get_or_insert_default();
    let (kind, name) = match &*builder.name {
        "request" => (SpanKind::Server, rpc(attributes)),
        "http_request" => (SpanKind::Server, http(attributes)),
        "push" => (SpanKind::Producer, messaging(attributes)),
        // Packages of long connections: one has its span, as a call has.
        "sign_in" | "sign_in_again" | "sync" | "send" | "subscribe_room" | "ack" => {
            (SpanKind::Server, None)
        }
        _ => (SpanKind::Internal, None),
    };
    builder.span_kind = Some(kind);
    if let Some(name) = name {
        builder.name = name;
    }
    builder
}

/// `/pb.LogicExt/SendMessage` is called `pb.LogicExt/SendMessage`.
fn rpc(attributes: &mut Vec<KeyValue>) -> Option<Cow<'static, str>> {
    attributes.push(KeyValue::new("rpc.system", "grpc"));
    let path = take(attributes, "method")?.as_str().into_owned();
    let name = path.strip_prefix('/')?;
    let (service, method) = name.split_once('/')?;
    attributes.push(KeyValue::new("rpc.service", service.to_owned()));
    attributes.push(KeyValue::new("rpc.method", method.to_owned()));
    Some(name.to_owned().into())
}

/// `GET /file/{key}`.
fn http(attributes: &mut Vec<KeyValue>) -> Option<Cow<'static, str>> {
    let (method, route) = (take(attributes, "method")?, take(attributes, "route")?);
    let name = format!("{method} {route}");
    attributes.push(KeyValue::new("http.request.method", method));
    attributes.push(KeyValue::new("http.route", route));
    Some(name.into())
}

fn messaging(attributes: &mut Vec<KeyValue>) -> Option<Cow<'static, str>> {
    if let Some(topic) = attributes.iter().find(|a| a.key.as_str() == "topic") {
        let topic = topic.value.clone();
        attributes.push(KeyValue::new("messaging.destination.name", topic));
    }
    attributes.push(KeyValue::new("messaging.system", "im"));
    attributes.push(KeyValue::new("messaging.operation.name", "push"));
    attributes.push(KeyValue::new("messaging.operation.type", "send"));
    None
}

fn take(attributes: &mut Vec<KeyValue>, key: &'static str) -> Option<Value> {
    let key = Key::from_static_str(key);
    let at = attributes.iter().position(|known| known.key == key)?;
    Some(attributes.swap_remove(at).value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(name: &'static str, fields: &[(&'static str, &'static str)]) -> SpanBuilder {
        let fields = fields
            .iter()
            .map(|(key, value)| KeyValue::new(*key, *value));
        conventional(SpanBuilder::from_name(name).with_attributes(fields))
    }

    fn get<'a>(builder: &'a SpanBuilder, key: &str) -> Option<Cow<'a, str>> {
        let attributes = builder.attributes.as_ref()?;
        let found = attributes.iter().find(|known| known.key.as_str() == key);
        found.map(|known| known.value.as_str())
    }

    #[test]
    fn call_is_named_after_its_method() {
        let span = built("request", &[("method", "/pb.LogicExt/SendMessage")]);
        assert_eq!(span.name, "pb.LogicExt/SendMessage");
        assert_eq!(span.span_kind, Some(SpanKind::Server));
        for (key, value) in [
            ("rpc.system", "grpc"),
            ("rpc.service", "pb.LogicExt"),
            ("rpc.method", "SendMessage"),
        ] {
            assert_eq!(get(&span, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(built("request", &[("method", "nonsense")]).name, "request");
    }

    #[test]
    fn push_names_where_it_goes() {
        let span = built("push", &[("topic", "User(7)")]);
        assert_eq!(
            (&*span.name, &span.span_kind),
            ("push", &Some(SpanKind::Producer))
        );
        let to = get(&span, "messaging.destination.name");
        assert_eq!(to.as_deref(), Some("User(7)"));
    }

    #[test]
    fn http_request_is_named_after_its_route() {
        let span = built(
            "http_request",
            &[("method", "GET"), ("route", "/file/{key}")],
        );
        assert_eq!(span.name, "GET /file/{key}");
    }
}
