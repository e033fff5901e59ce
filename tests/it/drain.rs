//! SIGTERM: sessions are told, what was acknowledged is kept, and the process ends well.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use im::pb::NoticeCode;
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Api, Connection, Process, Server, Transport,
    history::History,
    http::{assert_ready, try_get},
    messages::{sized, text, text_with_id},
    wait::{BUSY, eventually, within},
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
/// Between two of them: 50 a second.
const INTERVAL: Duration = Duration::from_millis(20);
/// From being told to the close.
const PROMPT: Duration = Duration::from_secs(1);

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

/// A session that does not read holds a drain up for a moment, as others do; meanwhile the instance says
/// that it is not ready, and it ends all the same.
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
    let devices = server.new_users(150).await;
    let _others = server.connect_all(&devices).await;
    let http = server.addresses.http;
    assert_ready(http).await;
    server.signal("TERM");
    let mut statuses = Vec::new();
    let until_it_is_gone = async {
        while let Ok(answer) = try_get(http, "/readyz").await {
            statuses.push(answer.status);
        }
    };
    within(Duration::from_secs(20), "no more answers", until_it_is_gone).await;
    assert_eq!(
        sender.notice().await.code,
        i32::from(NoticeCode::NcDraining)
    );
    let ready = statuses.iter().take_while(|status| **status == 200).count();
    let draining = &statuses[ready..];
    assert!(!draining.is_empty(), "it says so while it drains");
    assert!(draining.iter().all(|status| *status == 503), "{statuses:?}");
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

/// When a session was told to go and when it was closed, since the first moment of the drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Release {
    told: Duration,
    closed: Duration,
}

/// Drains `server`, and asserts of its sessions what a drain promises: each is told once, at a steady
/// rate of one in `interval` and not faster, and closed right after it.
async fn assert_let_go(server: &mut Server, sessions: Vec<Connection>, interval: Duration) {
    let count = sessions.len();
    let releases = releases(server, sessions).await;
    for (release, turn) in releases.iter().zip(0..) {
        assert!(
            release.told >= interval * turn,
            "{turn} were told before that: {release:?}"
        );
    }
    let due = interval * count as u32;
    let last = releases[count - 1];
    assert!(last.told < due + BUSY, "all within {due:?}: {last:?}");
    // A machine that has no time for a moment delays the closes of those who were told just before it.
    let is_prompt = |release: &&Release| release.closed - release.told < PROMPT;
    let prompt = releases.iter().filter(is_prompt).count();
    assert!(
        4 * prompt > 3 * count,
        "closed right after it: {releases:?}"
    );
}

/// How each session was let go, by the time that it was told.
async fn releases(server: &mut Server, sessions: Vec<Connection>) -> Vec<Release> {
    let begun = Instant::now();
    let leaving = sessions.into_iter().map(|mut session| {
        tokio::spawn(async move {
            let notice = session.notice().await;
            let told = begun.elapsed();
            assert_eq!(notice.code, i32::from(NoticeCode::NcDraining));
            session.assert_closes(1001).await;
            let closed = begun.elapsed();
            Release { told, closed }
        })
    });
    let leaving: Vec<_> = leaving.collect();
    server.stop().await;
    let mut releases = Vec::new();
    for left in leaving {
        releases.push(left.await.expect("told"));
    }
    releases.sort_unstable();
    releases
}

#[tokio::test]
async fn a_few_sessions_are_gone_within_three_seconds() {
    let mut server = Server::start().await;
    let devices = server.new_users(20).await;
    let sessions = server.connect_all(&devices).await;
    let begun = Instant::now();
    assert_let_go(&mut server, sessions, INTERVAL).await;
    let elapsed = begun.elapsed();
    assert!(elapsed < Duration::from_secs(3) + BUSY, "{elapsed:?}");
}

/// A rolling restart is no storm: 50 sessions a second, not all at once.
#[tokio::test]
async fn many_sessions_are_let_go_at_a_steady_rate() {
    let mut server = Server::start().await;
    let devices = server.new_users(CROWD).await;
    let sessions = server.connect_all(&devices).await;
    assert_let_go(&mut server, sessions, INTERVAL).await;
}

/// A third of its time is for telling them, however many there are.
#[tokio::test]
async fn a_short_drain_lets_go_faster() {
    const TIMEOUT_S: u64 = 12;
    let mut server = Server::with(|config| config.delivery.drain_timeout_s = TIMEOUT_S).await;
    let devices = server.new_users(2 * CROWD).await;
    let sessions = server.connect_all(&devices).await;
    let interval = Duration::from_secs(TIMEOUT_S) / 3 / (2 * CROWD as u32);
    assert!(INTERVAL * 2 * CROWD as u32 > Duration::from_secs(TIMEOUT_S));
    assert_let_go(&mut server, sessions, interval).await;
}

/// A sender and a receiver, both of whom are let go at some moment of a drain. One message is on its way
/// at a time, so whatever was given is known by order, and no clock is asked.
struct Pair {
    sender: Connection,
    receiver: Connection,
    to: i64,
}

impl Pair {
    async fn new(server: &Api, transport: Transport) -> Self {
        let (alice, bob) = (server.new_user().await, server.new_user().await);
        Self {
            sender: server.connect(transport, &alice).await,
            receiver: server.connect(transport, &bob).await,
            to: bob.user_id,
        }
    }

    /// Whether it was answered; it is not once the sender was told to go.
    async fn send(&mut self) -> bool {
        let package = im::pb::PackageType::PtSendMessage;
        let id = self.sender.start(package, &text(self.to, "x")).await;
        let Some(answer) = self.sender.any_answer().await else {
            return false;
        };
        assert_eq!((answer.request_id, answer.code), (id, 0), "{answer:?}");
        true
    }

    /// Sends until both were told; how many messages were given after `begun` was. Everything that was
    /// answered is given to a receiver that stays. Where he is told, he may miss the one that came then.
    async fn serve_until_told(mut self, begun: CancellationToken) -> usize {
        let mut given_in_drain = 0;
        let mut n = 0;
        let mut stays = true;
        while self.send().await {
            n += 1;
            if !stays {
                continue;
            }
            let in_drain = begun.is_cancelled();
            match self.receiver.push_or_end().await {
                Some(message) => {
                    assert_eq!(message.seq, n, "each, in order");
                    given_in_drain += usize::from(in_drain);
                }
                None => stays = false,
            }
        }
        for connection in [&mut self.sender, &mut self.receiver] {
            connection
                .assert_ends_with(NoticeCode::NcDraining, 1001)
                .await;
        }
        given_in_drain
    }
}

/// Some write to each other while hundreds are let go: each is served until it is told itself.
async fn a_session_serves_until_it_is_told_to_go(transport: Transport) {
    const PAIRS: usize = 12;
    let mut server = Process::start().await;
    let devices = server.new_users(500).await;
    let crowd = server.connect_all(&devices).await;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(Pair::new(&server, transport).await);
    }
    let begun = CancellationToken::new();
    let serving = pairs
        .into_iter()
        .map(|pair| tokio::spawn(pair.serve_until_told(begun.clone())));
    let serving: Vec<_> = serving.collect();
    server.signal("TERM");
    let told = crowd.into_iter().map(|mut session| {
        let begun = begun.clone();
        tokio::spawn(async move {
            session.notice().await;
            begun.cancel();
        })
    });
    let told: Vec<_> = told.collect();
    let mut given_in_drain = 0;
    for pair in serving {
        given_in_drain += pair.await.expect("served until told");
    }
    assert!(given_in_drain > 0, "nobody is served while others are told");
    for session in told {
        session.await.expect("told");
    }
    assert_eq!(server.ended().await.code(), Some(0));
}

/// A connection that has not signed in when the drain begins, and on WebSocket one that comes later.
async fn who_comes_during_a_drain_is_told_at_once(transport: Transport) {
    let server = Process::start().await;
    let devices = server.new_users(500).await;
    let mut crowd = server.connect_all(&devices).await;
    let mut waiting = server.open(transport).await;
    // Connections are accepted in order: the one before is there when this one has signed in.
    let alice = server.new_user().await;
    crowd.push(server.connect(transport, &alice).await);
    server.signal("TERM");
    let told = waiting.assert_ends_with(NoticeCode::NcDraining, 1001);
    let crowd_told = crowd.iter_mut().map(Connection::notice);
    tokio::select! {
        biased;
        () = told => {}
        _ = join_all(crowd_told) => panic!("told after all the others"),
    }
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
    let devices = server.new_users(CROWD).await;
    let mut sessions = server.connect_all(&devices).await;
    server.signal("TERM");
    let any_told = sessions
        .iter_mut()
        .map(|session| Box::pin(session.notice()));
    futures_util::future::select_all(any_told).await;
    server.signal("TERM");
    // Whoever waits for the others has nothing to complain of in the end.
    assert_eq!(server.ended().await.code(), Some(1));
}
