//! How events are delivered: in the order of each user, at least once, whatever the receiver does and
//! whenever the server dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use im::clock::{Clock as _, Manual, System};

use crate::support::{
    Process, Server,
    messages::text,
    receiver::{Answer, Posted, Receiver},
    wait::eventually,
};

const USERS: usize = 8;
const MESSAGES: usize = 12;
/// How long the receiver is away in seconds.
const AWAY_FOR_S: i64 = 5;

/// Who sent what an event tells of.
fn sender(posted: &Posted) -> String {
    let json = posted.json();
    json["data"]["message"]["sender"]["id"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// The words that were taken of each sender, in order; without what was posted again.
fn taken_by_sender(receiver: &Receiver) -> BTreeMap<String, Vec<String>> {
    let (mut taken, mut ids) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
    for posted in receiver.taken("message.sent") {
        if ids.insert(posted.id.clone()) {
            taken
                .entry(sender(&posted))
                .or_default()
                .push(posted.words());
        }
    }
    taken
}

/// Each user sends himself so many messages; then all of them were told in order.
async fn send_and_see(server: &Server, receiver: &Receiver, meanwhile: impl AsyncFnOnce()) {
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(server.new_user().await);
    }
    for n in 0..MESSAGES {
        for user in &users {
            server.send(user, text(user.user_id, &n.to_string())).await;
        }
    }
    meanwhile().await;
    let expected: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).collect();
    eventually("all are told in order", async || {
        let taken = taken_by_sender(receiver);
        let count: usize = taken.values().map(Vec::len).sum();
        if count < USERS * MESSAGES {
            return None;
        }
        assert!(taken.values().all(|words| *words == expected), "{taken:?}");
        Some(())
    })
    .await;
}

/// The first attempt of every seventh event fails: those of its user wait, the others do not.
#[tokio::test]
async fn events_of_a_user_stay_in_order_when_some_fail() {
    let (mut seen, mut count) = (BTreeSet::new(), 0);
    let receiver = Receiver::answering(move |posted| {
        count += 1;
        match seen.insert(posted.id.clone()) && count % 7 == 0 {
            true => Answer::failure(),
            false => Answer::ok(),
        }
    })
    .await;
    let server = Server::with(|config| receiver.tell(config, &["message.sent"])).await;
    send_and_see(&server, &receiver, async || {}).await;
}

#[tokio::test]
async fn one_user_whose_events_fail_holds_nobody_else_up() {
    let receiver = Receiver::answering(|posted| match posted.words().as_str() {
        "poison" => Answer::failure(),
        _ => Answer::ok(),
    })
    .await;
    let server = Server::with(|config| receiver.tell(config, &["message.sent"])).await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    server.send(&alice, text(alice.user_id, "poison")).await;
    server.send(&alice, text(alice.user_id, "behind it")).await;
    for n in 0..20 {
        server.send(&bob, text(bob.user_id, &n.to_string())).await;
    }
    receiver.until_taken("message.sent", 20).await;
    let posted = receiver.posted();
    assert!(posted.iter().all(|posted| posted.words() != "behind it"));
    receiver.answer(|_| Answer::ok());
    let taken = receiver.until_taken("message.sent", 22).await;
    let of_alice = taken
        .iter()
        .filter(|posted| sender(posted) == alice.user_id.to_string());
    let words: Vec<String> = of_alice.map(Posted::words).collect();
    assert_eq!(words, ["poison", "behind it"]);
}

#[tokio::test]
async fn nothing_is_lost_while_the_receiver_is_away_and_it_is_not_flooded() {
    let receiver = Receiver::answering(|_| Answer::failure()).await;
    let server = Server::with(|config| receiver.tell(config, &["message.sent"])).await;
    send_and_see(&server, &receiver, async || {
        // Each user's first event has its time three times until then, were they not held back.
        let attempts = eventually("it is tried for a while", async || {
            let seconds: Vec<i64> = receiver.posted().iter().map(Posted::second).collect();
            let is_over = seconds.last()? - seconds.first()? >= AWAY_FOR_S;
            is_over.then_some(seconds.len())
        })
        .await;
        assert!(attempts < 2 * USERS, "{attempts} attempts while it is away");
        receiver.answer(|_| Answer::ok());
    })
    .await;
}

#[tokio::test]
async fn event_that_nobody_takes_is_given_up_in_the_end() {
    let receiver = Receiver::answering(|_| Answer::failure()).await;
    let clock = Arc::new(Manual::at(System.now_ms()));
    let server = Server::with_clock(clock.clone(), |config| {
        receiver.tell(config, &["message.sent"]);
        config.webhooks.retry_for_h = 1;
    })
    .await;
    let alice = server.new_user().await;
    server.send(&alice, text(alice.user_id, "old")).await;
    eventually("it is tried", async || receiver.posted().pop()).await;
    clock.advance_ms(2 * 3_600 * 1_000);
    let rows = server.database().connect().await;
    eventually("it is given up", async || {
        (rows.number("SELECT COUNT(*) FROM outbox").await == 0).then_some(())
    })
    .await;
    receiver.answer(|_| Answer::ok());
    server.send(&alice, text(alice.user_id, "new")).await;
    let taken = receiver.until_taken("message.sent", 1).await;
    assert_eq!(taken[0].words(), "new");
}

/// The server dies when the receiver has an event but has not answered: after the commit, before the
/// deletion.
#[tokio::test]
async fn killed_server_tells_again_under_the_same_id() {
    let receiver = Receiver::answering(|_| Answer::Silence).await;
    let variables = receiver.variables("message.sent");
    let variables: Vec<_> = variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut server = Process::with(&variables).await;
    let alice = server.new_user().await;
    for words in ["first", "second"] {
        server.send(&alice, text(alice.user_id, words)).await;
    }
    let before = eventually("it is told", async || receiver.posted().pop()).await;
    assert_eq!(before.words(), "first");
    server.kill();
    receiver.answer(|_| Answer::ok());
    server.start_again().await;
    let taken = receiver.until_taken("message.sent", 2).await;
    let words: Vec<String> = taken.iter().map(Posted::words).collect();
    assert_eq!(words, ["first", "second"]);
    assert_eq!(taken[0].id, before.id);
    assert_eq!(taken[0].body, before.body);
}

/// What a killed server left online is offline when it starts again.
#[tokio::test]
async fn killed_server_tells_that_everybody_has_left() {
    let receiver = Receiver::start().await;
    let variables = receiver.variables("user.online,user.offline");
    let variables: Vec<_> = variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let mut server = Process::with(&variables).await;
    let alice = server.new_user().await;
    let connection = server.connect(crate::support::Transport::Tcp, &alice).await;
    receiver.until_taken("user.online", 1).await;
    server.kill();
    drop(connection);
    server.start_again().await;
    let told = receiver.until_taken("user.offline", 1).await;
    assert_eq!(told[0].user(), alice.user_id);
}
