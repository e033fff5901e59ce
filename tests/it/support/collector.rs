//! A collector of traces: it takes spans by OTLP over gRPC, as any that is for sale, and keeps them.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::wait::eventually;

/// A running collector; it ends with the test's runtime.
pub struct Collector {
    address: SocketAddr,
    spans: Spans,
}

/// What has come so far, each span with the name of the service it is from.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<(String, Span)>>>);

/// A span as a test looks at it.
#[derive(Clone, Debug)]
pub struct Seen {
    service: String,
    span: Span,
}

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::on(listener)
    }

    /// Starts a collector on a listener.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("an address");
        let spans = Spans::default();
        let service = TraceServiceServer::new(spans.clone());
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::task::spawn(serving);
        Self { address, spans }
    }

    /// What `tracing.otlp_endpoint` is set to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that has come so far.
    pub fn seen(&self) -> Vec<Seen> {
        let spans = self.spans.0.lock().expect("no panic under the lock");
        let seen = spans.iter().cloned();
        seen.map(|(service, span)| Seen { service, span }).collect()
    }

    /// Waits for the first span that `matches`.
    pub async fn span(&self, what: &str, matches: impl Fn(&Seen) -> bool) -> Seen {
        eventually(what, async || self.seen().into_iter().find(&matches)).await
    }
}

impl Seen {
    pub fn name(&self) -> &str {
        &self.span.name
    }

    /// What the program that sent it calls itself.
    pub fn service(&self) -> &str {
        &self.service
    }

    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// The id of the span it is a child of; empty for none.
    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub fn kind(&self) -> SpanKind {
        self.span.kind()
    }

    pub fn failed(&self) -> bool {
        let status = self.span.status.as_ref();
        status.is_some_and(|status| status.code() == StatusCode::Error)
    }

    /// An attribute as text.
    pub fn get(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(yes) => Some(yes.to_string()),
        other => Some(format!("{other:?}")),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.0.lock().expect("no panic under the lock");
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes);
            let service = attribute(&attributes.unwrap_or_default(), "service.name");
            let service = service.unwrap_or_default();
            let came = resource.scope_spans.into_iter();
            let came = came.flat_map(|scope| scope.spans);
            spans.extend(came.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
