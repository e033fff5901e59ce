//! Log lines for machines: one flat JSON object each. First when, how grave, from where and what;
//! then the event's own fields, then those of the spans around it, the inner ones first. A field
//! that stands further in hides one of the same name further out.

use std::fmt;

use opentelemetry::trace::TraceContextExt as _;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

/// The field that holds the places an error passed, which is written as an array.
const TRACE: &str = "trace";

/// Writes events as JSON; the fields of spans must be formatted as JSON too.
#[derive(Debug)]
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let metadata = event.metadata();
        let mut line = Line::default();
        line.put("timestamp", time.into());
        line.put("level", metadata.level().as_str().into());
        let mut fields = Line::default();
        event.record(&mut fields);
        // What comes by the `log` crate says so in fields of its own.
        let target = fields.take("log.target");
        line.put("target", target.unwrap_or_else(|| metadata.target().into()));
        line.put("message", fields.take("message").unwrap_or_default());
        for (name, value) in fields.0 {
            if !name.starts_with("log.") {
                line.put(&name, value);
            }
        }
        if let Some(span) = context.lookup_current() {
            line.put("span", span.name().into());
            line.put_trace(&span.id());
        }
        for span in context.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let fields = extensions.get::<FormattedFields<N>>();
            let fields = fields.and_then(|fields| serde_json::from_str::<Map<_, _>>(fields).ok());
            for (name, value) in fields.into_iter().flatten() {
                line.put(&name, value);
            }
        }
        writeln!(writer, "{line}")
    }
}

/// The members of an object, in the order they are written in.
#[derive(Default)]
struct Line(Vec<(String, Value)>);

impl Line {
    fn put(&mut self, name: &str, value: Value) {
        if !self.0.iter().any(|(known, _)| known == name) {
            self.0.push((name.to_owned(), value));
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// The ids by which a collector of traces knows the span, where it is sent to one.
    fn put_trace(&mut self, span: &span::Id) {
        let context = tracing::dispatcher::get_default(|dispatch| {
            tracing_opentelemetry::get_otel_context(span, dispatch)
        });
        let Some(context) = context else {
            return;
        };
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            self.put("trace_id", span.trace_id().to_string().into());
            self.put("span_id", span.span_id().to_string().into());
        }
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let value = match field.name() {
            // A list of strings looks the same in Rust, but for rare characters.
            TRACE => serde_json::from_str(&text).unwrap_or_else(|_| text.into()),
            _ => text.into(),
        };
        self.put(field.name().trim_start_matches("r#"), value);
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        let mut comma = "";
        for (name, value) in &self.0 {
            write!(f, "{comma}{}:{value}", Value::from(name.as_str()))?;
            comma = ",";
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::{fmt::format::JsonFields, fmt::layer, layer::SubscriberExt as _};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The line that `log` writes.
    fn line(log: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let lines = layer()
            .event_format(Json)
            .fmt_fields(JsonFields::new())
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, log);
        let bytes = written.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn line_is_one_flat_object_with_the_fields_of_its_spans() {
        let line = line(|| {
            let outer = tracing::info_span!("outer", request_id = "a\nb", user = 1, n = 1);
            let _outer = outer.entered();
            let device = tracing::field::Empty;
            let inner = tracing::info_span!("inner", n = 2, device).entered();
            inner.record("device", 7);
            tracing::error!(user = 3, trace = ?["x \"q\"", "y"], error = %"so", "it\nfailed");
        });
        let (line, rest) = line.split_once('\n').unwrap();
        assert_eq!(rest, "");
        assert!(line.starts_with("{\"timestamp\":\"20"), "{line}");
        let mut object: Map<String, Value> = serde_json::from_str(line).unwrap();
        object.remove("timestamp");
        let expected = serde_json::json!({
            "level": "ERROR",
            "target": "im::telemetry::json::tests",
            "message": "it\nfailed",
            "user": 3,
            "trace": ["x \"q\"", "y"],
            "error": "so",
            "span": "inner",
            "n": 2,
            "device": 7,
            "request_id": "a\nb",
        });
        assert_eq!(Value::Object(object), expected);
    }

    #[test]
    fn line_without_a_span_is_whole() {
        let line = line(|| tracing::warn!(x = true, y = 1.5, "hm"));
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["x"], &value["y"]), (&true.into(), &1.5.into()));
        assert!(value.get("span").is_none());
    }
}
