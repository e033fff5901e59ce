//! A device has one session: the newest sign-in wins (I7).

use im::pb::NoticeCode;

use crate::support::{
    Server, Transport,
    messages::{text, words},
    wait::eventually,
    wire::BOTH,
};

on_each_transport!(
    replaced_device_gets_a_notice_then_is_closed,
    a_sign_in_by_url_replaces_too,
    of_many_sign_ins_at_once_exactly_one_stays,
);

async fn replaced_device_gets_a_notice_then_is_closed(transport: Transport) {
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    for newer in BOTH {
        let mut old = server.connect(transport, &alice).await;
        let mut new = server.connect(newer, &alice).await;
        old.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
        assert!(old.take_pushes().is_empty());
        // The newer stays, and the dying one has not taken its feed away.
        server.send(&bob, text(alice.user_id, "to the newer")).await;
        assert_eq!(words(&new.push().await), "to the newer");
        new.heartbeat().await;
    }
}

async fn a_sign_in_by_url_replaces_too(transport: Transport) {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let mut old = server.connect(transport, &alice).await;
    let mut new = server
        .connect_by_url(&alice.url_path())
        .await
        .expect("signed in");
    old.assert_ends_with(NoticeCode::NcReplaced, 4001).await;
    new.heartbeat().await;
}

async fn of_many_sign_ins_at_once_exactly_one_stays(transport: Transport) {
    const SIGN_INS: usize = 12;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let attempts: Vec<_> = (0..SIGN_INS)
        .map(|_| {
            let (api, alice) = (server.clone_api(), alice.clone());
            tokio::spawn(async move {
                let mut connection = api.open(transport).await;
                let input = alice.sign_in_input();
                // It may be replaced before or after it is answered.
                connection
                    .start(im::pb::PackageType::PtSignIn, &input)
                    .await;
                connection
            })
        })
        .collect();
    let mut connections = Vec::new();
    for attempt in attempts {
        connections.push(attempt.await.expect("no panic"));
    }
    // Each but one ends; the one that stays is pushed what comes now.
    let stays: Vec<_> = connections
        .into_iter()
        .map(|mut connection| {
            tokio::spawn(async move {
                let message = connection.push_or_end().await;
                message.is_some_and(|m| words(&m) == "stay")
            })
        })
        .collect();
    eventually("one session is left", async || {
        let running = stays.iter().filter(|s| !s.is_finished()).count();
        (running == 1).then_some(())
    })
    .await;
    server.send(&bob, text(alice.user_id, "stay")).await;
    let mut stayed = 0;
    for connection in stays {
        stayed += usize::from(connection.await.expect("no panic"));
    }
    assert_eq!(stayed, 1);
}

/// Devices of one user do not replace each other.
#[tokio::test]
async fn another_device_of_the_user_is_left_alone() {
    let server = Server::start().await;
    let alice = server.new_user().await;
    let other = server.another_device_of(&alice).await;
    let mut first = server.connect(Transport::Tcp, &alice).await;
    let mut second = server.connect(Transport::WebSocket, &other).await;
    first.heartbeat().await;
    second.heartbeat().await;
}
