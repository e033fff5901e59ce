//! SIGTERM: sessions are told, what was acknowledged is kept, and the process ends well.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use im::pb::NoticeCode;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Api, Connection, Process, Server, Transport,
    history::History,
    http::try_get,
    messages::{sized, text_with_id},
    wait::{eventually, within},
    wire::BOTH,
};

on_each_transport!(
    a_drain_tells_every_session_when_to_come_back,
    a_drain_under_load_keeps_what_was_acknowledged,
    a_send_that_waits_for_the_database_is_answered_in_a_drain,
    a_session_serves_until_it_is_told_to_go,
    who_comes_during_a_drain_is_told_at_once,
);

/// Sessions that a test lets go over some seconds.
const CROWD: usize = 400;

async fn a_drain_tells_every_session_when_to_come_back(transport: Transport) {
    let mut server = Server::start().await;
    let mut sessions = Vec::new();
    for _ in 0..10 {
        let device = server.new_user().await;
        sessions.push(server.connect(transport, &device).await);
    }
    let listening = async {
        let mut delays = HashSet::new();
        for session in &mut sessions {
            let notice = session.notice().await;
            assert_eq!(notice.code, i32::from(NoticeCode::NcDraining));
            assert!(notice.retry_after_ms > 0, "{notice:?}");
            delays.insert(notice.retry_after_ms);
            session.assert_closes(1001).await;
        }
        assert!(delays.len() > 1, "they do not come back all at once");
    };
    tokio::join!(server.stop(), listening);
}

/// Another program holds the database while the drain begins.
async fn a_send_that_waits_for_the_database_is_answered_in_a_drain(transport: Transport) {
    let mut server = Process::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut session = server.connect(transport, &alice).await;
    let holder = server.database().connect().await;
    holder.hold_timelines().await;
    let package = im::pb::PackageType::PtSendMessage;
    let id = session
        .start(package, &text_with_id(bob.user_id, "x", "1"))
        .await;
    // Frames are taken in order: the send is under way.
    session.heartbeat().await;
    server.signal("TERM");
    eventually("it drains", async || {
        let answer = try_get(server.addresses.http, "/readyz").await;
        answer
            .is_ok_and(|answer| answer.body.contains("draining"))
            .then_some(())
    })
    .await;
    holder.let_go().await;
    let answer = session.answer(id).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    session.assert_ends_with(NoticeCode::NcDraining, 1001).await;
    assert_eq!(server.ended().await.code(), Some(0));
}

/// Clients that watch the health of a server do so for ever.
#[tokio::test]
async fn an_open_stream_does_not_hold_a_drain_up() {
    let mut server = Process::with(&[("IM_DELIVERY__DRAIN_TIMEOUT_S", "8")]).await;
    let mut watches = Vec::new();
    for channel in [server.grpc_channel(), server.internal_channel()] {
        let request = HealthCheckRequest::default();
        let watch = HealthClient::new(channel).watch(request).await;
        let mut watch = watch.expect("a stream").into_inner();
        watch.message().await.expect("a status").expect("one");
        watches.push(watch);
    }
    server.signal("TERM");
    let status = server.ended().await;
    assert_eq!(status.code(), Some(0), "it drained and was not cut off");
}

async fn a_drain_under_load_keeps_what_was_acknowledged(transport: Transport) {
    let mut server = Process::start().await;
    let bob = server.new_user().await;
    let mut receiver = server.connect(transport, &bob).await;
    let mut senders = Vec::new();
    for index in 0..6 {
        let device = server.new_user().await;
        let (api, to) = (Api::new(server.addresses), bob.user_id);
        senders.push(tokio::spawn(async move {
            let mut connection = api.connect(transport, &device).await;
            let mut history = History::default();
            for n in 0.. {
                let id = format!("{index}-{n}");
                history.attempted(&id, device.user_id, to);
                let request = text_with_id(to, "x", &id);
                if index % 2 == 0 {
                    match api.try_send(&device, request).await {
                        Ok(result) => history.acknowledged(&id, result),
                        Err(_) => break,
                    }
                    continue;
                }
                let package = im::pb::PackageType::PtSendMessage;
                connection.start(package, &request).await;
                match connection.any_answer().await {
                    Some(answer) if answer.code == 0 => {
                        history.acknowledged(&id, crate::support::connection::sent(&answer));
                    }
                    _ => break,
                }
            }
            (device, history)
        }));
    }
    let mut given = receiver.pushed(200).await;
    server.signal("TERM");
    receiver
        .assert_ends_with(NoticeCode::NcDraining, 1001)
        .await;
    given.extend(receiver.take_pushes());
    assert_eq!(server.ended().await.code(), Some(0));
    let mut history = History::default();
    let mut devices = vec![bob.clone()];
    for sender in senders {
        let (device, part) = sender.await.expect("no panic");
        history.merge(part);
        devices.push(device);
    }
    history.delivered(bob.user_id, given, HashSet::new());
    server.start_again().await;
    for device in &devices {
        history.timeline(device.user_id, server.timeline(device).await);
    }
    history.check();
}

/// A session that does not read holds a drain up for a moment; meanwhile the instance says that it
/// is not ready, and it ends all the same.
#[tokio::test]
async fn a_draining_instance_is_not_ready() {
    let mut server = Process::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut deaf = Vec::new();
    for transport in BOTH {
        let device = server.another_device_of(&bob).await;
        deaf.push(server.connect(transport, &device).await);
    }
    let mut sender = server.connect(Transport::Tcp, &alice).await;
    for _ in 0..400 {
        sender.send(&sized(bob.user_id, 60_000)).await;
    }
    let http = server.addresses.http;
    assert_eq!(
        try_get(http, "/readyz").await.expect("it listens").status,
        200
    );
    server.signal("TERM");
    assert_eq!(
        sender.notice().await.code,
        i32::from(NoticeCode::NcDraining)
    );
    let mut statuses = Vec::new();
    let until_it_is_gone = async {
        while let Ok(answer) = try_get(http, "/readyz").await {
            statuses.push(answer.status);
        }
    };
    within(Duration::from_secs(20), "no more answers", until_it_is_gone).await;
    assert!(!statuses.contains(&200), "after the notice: {statuses:?}");
    assert!(
        statuses.contains(&503),
        "it says so while it drains: {statuses:?}"
    );
    let status = within(Duration::from_secs(20), "the end", server.ended()).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn an_interrupt_drains_too() {
    let mut server = Process::start().await;
    let alice = server.new_user().await;
    let mut session = server.connect(Transport::Tcp, &alice).await;
    server.signal("INT");
    session.assert_ends_with(NoticeCode::NcDraining, 1001).await;
    assert_eq!(server.ended().await.code(), Some(0));
}

/// When each session was told to go, since the first moment of the drain, in order. Each is told once,
/// and closed right after it.
async fn times_of_release(server: &mut Server, sessions: Vec<Connection>) -> Vec<Duration> {
    let begun = Instant::now();
    let leaving = sessions.into_iter().map(|mut session| {
        tokio::spawn(async move {
            let notice = session.notice().await;
            let at = begun.elapsed();
            assert_eq!(notice.code, i32::from(NoticeCode::NcDraining));
            let closing = session.assert_closes(1001);
            within(Duration::from_secs(1), "closed right after it", closing).await;
            at
        })
    });
    let leaving: Vec<_> = leaving.collect();
    server.stop().await;
    let mut times = Vec::new();
    for left in leaving {
        times.push(left.await.expect("told"));
    }
    times.sort();
    times
}

#[tokio::test]
async fn a_few_sessions_are_gone_within_three_seconds() {
    let mut server = Server::start().await;
    let devices = server.new_users(20).await;
    let sessions = server.connect_all(&devices).await;
    let begun = Instant::now();
    let times = times_of_release(&mut server, sessions).await;
    assert!(
        times[19] > times[0] + Duration::from_millis(50),
        "{times:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "{times:?}");
}

/// A rolling restart is no storm: 50 sessions a second, not all at once.
#[tokio::test]
async fn many_sessions_are_let_go_at_a_steady_rate() {
    let mut server = Server::start().await;
    let devices = server.new_users(CROWD).await;
    let sessions = server.connect_all(&devices).await;
    let times = times_of_release(&mut server, sessions).await;
    let last = times[CROWD - 1];
    assert!(
        last > Duration::from_secs(6),
        "400 at 50 a second: {last:?}"
    );
    assert!(last < Duration::from_secs(14), "{last:?}");
    for (first, later) in times.iter().zip(&times[150..]) {
        let took = *later - *first;
        assert!(
            took > Duration::from_secs(1),
            "150 within {took:?} at {first:?}"
        );
    }
}

#[tokio::test]
async fn a_short_drain_lets_go_faster() {
    let mut server = Server::with(|config| config.delivery.drain_timeout_s = 6).await;
    let devices = server.new_users(CROWD).await;
    let sessions = server.connect_all(&devices).await;
    let times = times_of_release(&mut server, sessions).await;
    let last = times[CROWD - 1];
    assert!(
        last > Duration::from_secs(1),
        "paced all the same: {last:?}"
    );
    assert!(last < Duration::from_secs(5), "told in time: {last:?}");
}

/// Two that write to each other while hundreds are let go: every send is answered and delivered until
/// one of the two is told.
async fn a_session_serves_until_it_is_told_to_go(transport: Transport) {
    let mut server = Process::start().await;
    let devices = server.new_users(250).await;
    let crowd = server.connect_all(&devices).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut sender = server.connect(transport, &alice).await;
    let mut receiver = server.connect(transport, &bob).await;
    server.signal("TERM");
    let begun = Instant::now();
    let sending = async {
        let mut answered = 0;
        loop {
            let request = text_with_id(bob.user_id, "x", &answered.to_string());
            let id = sender
                .start(im::pb::PackageType::PtSendMessage, &request)
                .await;
            match sender.any_answer().await {
                Some(answer) if answer.request_id == id && answer.code == 0 => answered += 1,
                Some(answer) => panic!("refused: {answer:?}"),
                None => break,
            }
        }
        sender.assert_ends_with(NoticeCode::NcDraining, 1001).await;
        (answered, begun.elapsed())
    };
    let receiving = async {
        let mut given = 0;
        while receiver.push_or_end().await.is_some() {
            given += 1;
        }
        receiver
            .assert_ends_with(NoticeCode::NcDraining, 1001)
            .await;
        (given, begun.elapsed())
    };
    let ((answered, sent_for), (given, received_for)) = tokio::join!(sending, receiving);
    if sent_for < received_for {
        assert_eq!(given, answered, "whoever stays is given everything");
    } else {
        assert!(given <= answered, "{given} of {answered}");
    }
    drop(crowd);
    assert_eq!(server.ended().await.code(), Some(0));
}

/// A connection that has not signed in when the drain begins, and on WebSocket one that comes later.
async fn who_comes_during_a_drain_is_told_at_once(transport: Transport) {
    let server = Process::start().await;
    let devices = server.new_users(200).await;
    let mut crowd = server.connect_all(&devices).await;
    let mut waiting = server.open(transport).await;
    // Connections are accepted in order: the one before is there when this one has signed in.
    let alice = server.new_user().await;
    crowd.push(server.connect(transport, &alice).await);
    server.signal("TERM");
    let told = waiting.assert_ends_with(NoticeCode::NcDraining, 1001);
    within(Duration::from_secs(1), "told at once", told).await;
    if transport == Transport::WebSocket {
        let mut late = server.open(transport).await;
        late.assert_ends_with(NoticeCode::NcDraining, 1001).await;
        let by_url = server.connect_by_url(&devices[0].url_path()).await;
        assert_eq!(by_url.err(), Some(503), "another instance takes it");
    }
}

#[tokio::test]
async fn a_second_signal_leaves_at_once() {
    let mut server = Process::start().await;
    let devices = server.new_users(250).await;
    let mut sessions = server.connect_all(&devices).await;
    server.signal("TERM");
    let any_told = sessions
        .iter_mut()
        .map(|session| Box::pin(session.notice()));
    futures_util::future::select_all(any_told).await;
    server.signal("TERM");
    let ended = within(Duration::from_secs(2), "it leaves", server.ended()).await;
    assert_eq!(ended.code(), Some(1));
}
