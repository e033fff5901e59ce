//! Spans as a collector of traces is sent them: a request's, within the trace of its caller, and those
//! of the deliveries it led to. Nothing is sent unless it is asked for, and nothing waits for it.

use im::pb::{GetDeviceReq, GetUserReq, PackageType, SendCodeReq};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use test_servers::Proxy;
use tokio::{net::TcpListener, time::timeout};
use tonic::{Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use crate::support::{
    Cluster, Process, Transport,
    api::random_phone_number,
    collector::{Collector, Seen},
    errors::{SIGN_IN_AGAIN, code},
    messages::{text, words},
    receiver::{Answer, Receiver, SECRET},
    wait::{PATIENCE, eventually},
    webhook::Webhook,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A request within a trace that began elsewhere, and is kept there or not.
fn traced<T>(message: T, request_id: &str, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    let parent = format!("00-{TRACE}-{PARENT}-{flags}");
    metadata.insert("traceparent", parent.parse().expect("ASCII"));
    metadata.insert("tracestate", "vendor=1".parse().expect("ASCII"));
    metadata.insert("request_id", request_id.parse().expect("ASCII"));
    request
}

async fn traced_server(collector: &Collector, more: &[(&str, &str)]) -> Process {
    let url = collector.url();
    let mut variables = vec![("IM_TRACING__OTLP_ENDPOINT", url.as_str())];
    variables.extend(more);
    Process::with(&variables).await
}

fn of_request<'a>(name: &'a str, request_id: &'a str) -> impl Fn(&Seen) -> bool + 'a {
    move |span| span.name() == name && span.get("request_id").as_deref() == Some(request_id)
}

#[tokio::test]
async fn a_request_and_what_it_pushes_are_in_the_trace_of_the_caller() {
    let collector = Collector::start().await;
    let server = traced_server(&collector, &[("IM_TRACING__SERVICE_NAME", "chat")]).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut bobs = server.connect(Transport::Tcp, &bob).await;

    let request = traced(text(bob.user_id, "hi"), "order-17", "01");
    let mut logic = server.logic(&alice);
    let sent = logic.send_message(request).await.expect("SendMessage");
    let sent = sent.into_inner();
    let pushed = bobs.push().await;
    assert_eq!(words(&pushed), "hi");

    let request = of_request("pb.LogicExt/SendMessage", "order-17");
    let request = collector.span("the request's span", request).await;
    assert_eq!(request.service(), "chat");
    assert_eq!(
        (request.trace(), request.parent()),
        (TRACE.into(), PARENT.into())
    );
    assert_eq!(request.kind(), SpanKind::Server);
    for (key, value) in [
        ("rpc.system", "grpc".to_owned()),
        ("rpc.service", "pb.LogicExt".to_owned()),
        ("rpc.method", "SendMessage".to_owned()),
        ("rpc.grpc.status_code", "0".to_owned()),
        ("user", alice.user_id.to_string()),
        ("device", alice.device_id.to_string()),
        ("client", "127.0.0.1".to_owned()),
    ] {
        assert_eq!(request.get(key), Some(value), "{key}");
    }
    assert!(!request.failed());

    let push = of_request("push", "order-17");
    let push = collector.span("the push's span", push).await;
    assert_eq!((push.trace(), push.parent()), (TRACE.into(), request.id()));
    assert_eq!(push.kind(), SpanKind::Producer);
    for (key, value) in [
        ("messaging.system", "im".to_owned()),
        ("messaging.operation.name", "push".to_owned()),
        ("user", bob.user_id.to_string()),
        ("device", bob.device_id.to_string()),
        ("seq", pushed.seq.to_string()),
    ] {
        assert_eq!(push.get(key), Some(value), "{key}");
    }
    assert_eq!((sent.seq, pushed.seq), (1, 1));
}

#[tokio::test]
async fn a_message_from_a_long_connection_and_its_pushes_are_one_trace() {
    let collector = Collector::start().await;
    let server = traced_server(&collector, &[]).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut alices = server.connect(Transport::WebSocket, &alice).await;
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    let message = text(bob.user_id, "hi");
    let id = alices.start(PackageType::PtSendMessage, &message).await;
    assert_eq!(alices.answer(id).await.code, 0);
    bobs.push().await;
    let id = id.to_string();
    let send = collector.span("the send", of_request("send", &id)).await;
    assert_eq!(send.get("user"), Some(alice.user_id.to_string()));
    assert_eq!(send.parent(), "");
    let push = collector.span("the push", of_request("push", &id)).await;
    assert_eq!((push.trace(), push.parent()), (send.trace(), send.id()));
}

#[tokio::test]
async fn a_push_on_another_instance_is_in_the_trace_of_the_sender() {
    let collector = Collector::start().await;
    let plan = Cluster::plan(2).set("tracing.otlp_endpoint", collector.url());
    let cluster = plan.start_processes().await;
    let (alice, bob) = (cluster[0].new_user().await, cluster[0].new_user().await);
    let mut bobs = cluster[1].connect(Transport::Tcp, &bob).await;
    for id in ["order-18", "order-19", "order-20"] {
        let before = cluster.disturbances().await;
        let request = traced(text(bob.user_id, "hi"), id, "01");
        let mut logic = cluster[0].logic(&alice);
        logic.send_message(request).await.expect("SendMessage");
        let pushed = bobs.push().await;

        let request = of_request("pb.LogicExt/SendMessage", id);
        let request = collector.span("the request's span", request).await;
        let push = collector.span("the push", of_request("push", id));
        let Ok(push) = timeout(PATIENCE / 2, push).await else {
            // What comes by way of the database has no cause. A bridge that works is faster, but not
            // where the machine has no time for Redis.
            let is_disturbed = cluster.disturbances().await > before;
            assert!(is_disturbed, "nothing was lost, but the cause of {id}");
            continue;
        };
        assert_eq!((push.trace(), push.parent()), (TRACE.into(), request.id()));
        assert_eq!(push.get("device"), Some(bob.device_id.to_string()));
        assert_eq!(push.get("seq"), Some(pushed.seq.to_string()));
        return;
    }
    panic!("something was lost each time");
}

/// Calls what there is not.
async fn call_nothing(channel: Channel) -> Status {
    let mut client = Grpc::new(channel);
    client.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static("/pb.LogicExt/Nothing");
    let codec = ProstCodec::<GetUserReq, GetUserReq>::default();
    let request = Request::new(GetUserReq::default());
    let answer = client.unary(request, path, codec).await;
    answer.expect_err("there is no such rpc")
}

#[tokio::test]
async fn failures_are_marked_and_refusals_are_not() {
    let collector = Collector::start().await;
    let server = traced_server(&collector, &[]).await;
    let stranger = server.new_user().await.with_token("wrong");
    let request = traced(GetUserReq { user_id: 0 }, "refused", "01");
    let refused = server.users(&stranger).get_user(request).await;
    assert_eq!(code(&refused.expect_err("refused")), SIGN_IN_AGAIN);
    let span = of_request("pb.UserExt/GetUser", "refused");
    let span = collector.span("the refused call", span).await;
    assert_eq!(span.get("rpc.grpc.status_code").as_deref(), Some("16"));
    assert!(!span.failed(), "it is the caller's fault");

    let unknown = call_nothing(server.grpc_channel()).await;
    assert_eq!(unknown.code(), tonic::Code::Unimplemented);
    let span = |span: &Seen| span.get("rpc.method").as_deref() == Some("Nothing");
    let span = collector.span("the unknown call", span).await;
    assert_eq!(span.get("rpc.grpc.status_code").as_deref(), Some("12"));
    assert!(span.failed());
}

/// A device may have its request in its own trace, but what is kept is not its to decide.
#[tokio::test]
async fn of_traces_of_devices_no_more_are_kept_than_of_those_that_begin_here() {
    let collector = Collector::start().await;
    let server = traced_server(&collector, &[("IM_TRACING__SAMPLE_PERCENT", "0")]).await;
    let alice = server.new_user().await;
    let request = traced(GetUserReq { user_id: 0 }, "device", "01");
    server
        .users(&alice)
        .get_user(request)
        .await
        .expect("GetUser");
    // A business server's word counts, and what is not to be kept is not.
    for (id, flags) in [("dropped", "00"), ("kept", "01")] {
        let device_id = alice.device_id;
        let request = traced(GetDeviceReq { device_id }, id, flags);
        let mut internal = server.internal();
        internal.get_device(request).await.expect("GetDevice");
    }
    let kept = of_request("pb.LogicInt/GetDevice", "kept");
    let kept = collector.span("the business server's call", kept).await;
    assert_eq!(kept.trace(), TRACE);
    assert_eq!(collector.seen().len(), 1, "{:?}", collector.seen());
}

#[tokio::test]
async fn spans_that_wait_are_sent_at_the_end() {
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        if last_span_is_sent().await {
            return;
        }
    }
    panic!("the collector was too slow each time");
}

/// Whether the last span of a server that ends has come, or else the server has said that it may not
/// have: it waits for two seconds, for which a machine may hold the collector up.
async fn last_span_is_sent() -> bool {
    let collector = Collector::start().await;
    let mut server = traced_server(&collector, &[]).await;
    let alice = server.new_user().await;
    let request = traced(GetUserReq { user_id: 0 }, "last", "01");
    server
        .users(&alice)
        .get_user(request)
        .await
        .expect("GetUser");
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
    eventually("the last span is sent", async || {
        let mut seen = collector.seen().into_iter();
        let is_sent = seen.any(|span| of_request("pb.UserExt/GetUser", "last")(&span));
        let is_excuse = |line: &String| line.contains("the last spans may not have been sent");
        let is_excused = server.log_lines().iter().any(is_excuse);
        (is_sent || is_excused).then_some(is_sent)
    })
    .await
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up_and_is_found_when_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let proxy = Proxy::to(listener.local_addr().expect("an address")).await;
    proxy.cut().await;
    let collector = Collector::on(listener);
    let url = format!("http://{}", proxy.address());
    let server = Process::with(&[("IM_TRACING__OTLP_ENDPOINT", &url)]).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    for n in 1..=50 {
        server.send(&alice, text(bob.user_id, &n.to_string())).await;
    }
    bobs.pushed(50).await;
    let is_warning = |line: &str| line.contains("spans cannot be sent");
    server.logged("that spans are lost", is_warning).await;

    proxy.resume().await;
    eventually("spans are sent again", async || {
        server.new_user().await;
        let lines = server.log_lines();
        let is_news = |line: &String| line.contains("spans are sent again");
        lines.iter().any(is_news).then_some(())
    })
    .await;
    assert!(!collector.seen().is_empty());
    let warnings = server
        .log_lines()
        .into_iter()
        .filter(|line| is_warning(line));
    assert_eq!(warnings.count(), 1, "it is said seldom");
}

#[tokio::test]
async fn a_process_ends_in_time_although_its_collector_hangs() {
    // It accepts connections, in the kernel's backlog, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let mut server = Process::with(&[("IM_TRACING__OTLP_ENDPOINT", &url)]).await;
    server.new_user().await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_before_send_hook_is_asked_within_the_trace() {
    let collector = Collector::start().await;
    let receiver = Receiver::answering(|_| Answer::json(r#"{"action":"allow"}"#)).await;
    let server = traced_server(
        &collector,
        &[
            ("IM_BEFORE_SEND__URL", &receiver.url()),
            // As long as may be: a busy machine delays the answer.
            ("IM_BEFORE_SEND__TIMEOUT_MS", "3000"),
            ("IM_WEBHOOKS__SECRET", SECRET),
        ],
    )
    .await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let request = traced(text(bob.user_id, "may I?"), "asked", "01");
    let sent = server.logic(&alice).send_message(request).await;
    sent.expect("SendMessage");
    let span = of_request("pb.LogicExt/SendMessage", "asked");
    let span = collector.span("the call", span).await;
    let expected = format!("00-{TRACE}-{}-01", span.id());
    let asked = receiver.posted();
    assert_eq!(asked[0].traceparent.as_deref(), Some(&*expected));
}

#[tokio::test]
async fn the_webhook_for_codes_is_called_within_the_trace() {
    let collector = Collector::start().await;
    let webhook = Webhook::answering("204 No Content").await;
    let url = format!("http://{}/codes", webhook.address);
    let server = traced_server(
        &collector,
        &[
            ("IM_SIGN_IN__CODE_SENDER", "webhook"),
            ("IM_SIGN_IN__WEBHOOK_URL", &url),
        ],
    )
    .await;
    let request = SendCodeReq {
        phone_number: random_phone_number(),
    };
    let request = traced(request, "code", "01");
    let mut users = server.anyones_users();
    users.send_code(request).await.expect("SendCode");
    let span = of_request("pb.UserExt/SendCode", "code");
    let span = collector.span("the call", span).await;
    let called = webhook.last_request().to_lowercase();
    let expected = format!("traceparent: 00-{TRACE}-{}-01", span.id());
    assert!(called.contains(&expected), "{called}");
    assert!(!called.contains("vendor=1"), "a device's words go nowhere");
}

#[tokio::test]
async fn nothing_is_sent_and_nothing_is_passed_on_unless_it_is_asked_for() {
    let collector = Collector::start().await;
    let webhook = Webhook::answering("204 No Content").await;
    let url = format!("http://{}/codes", webhook.address);
    // The endpoint is the configuration's to say, not that of the usual variables.
    let endpoint = collector.url();
    let mut server = Process::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &endpoint),
        ("IM_SIGN_IN__CODE_SENDER", "webhook"),
        ("IM_SIGN_IN__WEBHOOK_URL", &url),
    ])
    .await;
    let request = SendCodeReq {
        phone_number: random_phone_number(),
    };
    let mut users = server.anyones_users();
    let request = traced(request, "code", "01");
    users.send_code(request).await.expect("SendCode");
    assert!(
        !webhook
            .last_request()
            .to_lowercase()
            .contains("traceparent")
    );
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(collector.seen().is_empty());
}
