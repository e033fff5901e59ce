//! Holding is per timeline: while a device pulls pages of one large group, nothing of that group is
//! pushed to it, and pushes of the others go on.

use im::pb::GroupType;

use crate::support::{
    Connection, Device, Server, Transport,
    groups::Group,
    messages::{seqs, text, words},
};

on_each_transport!(
    a_group_that_syncs_is_held_and_the_others_are_not,
    a_group_sync_that_is_given_up_goes_on_by_push,
    a_group_sync_amid_live_traffic_gives_everything_once,
);

const KIND: GroupType = GroupType::GtLarge;

struct Scene {
    alice: Device,
    bob: Device,
    busy: Group,
    quiet: Group,
    connection: Connection,
    /// How far the first page of the busy group went.
    cursor: i64,
}

/// Bob has taken the first page of a group with 61 messages, and is in another that has only begun.
async fn in_mid_sync(server: &Server, transport: Transport) -> Scene {
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let busy = server.create_group(&alice, KIND, &[bob.user_id]).await;
    let quiet = server.create_group(&alice, KIND, &[bob.user_id]).await;
    for _ in 0..60 {
        server.send(&alice, busy.text("x")).await;
    }
    let mut connection = server.connect(transport, &bob).await;
    let page = connection.sync_groups(2, &[(busy.id, 0)]).await;
    assert!(page.has_more && page.messages.is_empty());
    let messages = &page.groups[0].messages;
    assert!(page.groups[0].has_more && messages[0].seq == 1);
    let cursor = messages.last().expect("a full page").seq;
    Scene {
        alice,
        bob,
        busy,
        quiet,
        connection,
        cursor,
    }
}

async fn a_group_that_syncs_is_held_and_the_others_are_not(transport: Transport) {
    let server = Server::start().await;
    let mut scene = in_mid_sync(&server, transport).await;
    let other = server.another_device_of(&scene.bob).await;
    let mut witness = server.connect(transport, &other).await;
    server.send(&scene.alice, scene.busy.text("held")).await;
    server.send(&scene.alice, scene.quiet.text("at once")).await;
    let mut seen = [words(&witness.push().await), words(&witness.push().await)];
    seen.sort_unstable();
    assert_eq!(seen, ["at once", "held"], "others are pushed both");
    let first = scene.connection.push().await;
    assert_eq!(words(&first), "at once");
    assert!(scene.quiet.got(&first));
    scene.connection.heartbeat().await;
    assert!(scene.connection.take_pushes().is_empty(), "held");

    let cursors = [(scene.busy.id, scene.cursor)];
    let mut pulled = scene.connection.pull(2, &cursors).await;
    let rest = pulled.groups.remove(&scene.busy.id).expect("the rest");
    assert_eq!(seqs(&rest), (scene.cursor + 1..=62).collect::<Vec<_>>());
    assert_eq!(rest.last().map(words).as_deref(), Some("held"));
    server.send(&scene.alice, scene.busy.text("pushed")).await;
    let next = scene.connection.push().await;
    assert_eq!((&*words(&next), next.seq), ("pushed", 63), "nothing twice");
    let request = text(scene.bob.user_id, "to Bob");
    server.send(&scene.alice, request).await;
    assert_eq!(scene.connection.push().await.seq, 3, "nor left out");
}

async fn a_group_sync_that_is_given_up_goes_on_by_push(transport: Transport) {
    let server = Server::with(|config| config.session.sync_hold_s = 1).await;
    let mut scene = in_mid_sync(&server, transport).await;
    server.send(&scene.alice, scene.busy.text("x")).await;
    let rest = (62 - scene.cursor) as usize;
    let pushed = scene.connection.pushed(rest).await;
    let expected: Vec<_> = (scene.cursor + 1..=62).collect();
    assert_eq!(seqs(&pushed), expected, "from its position");
}

async fn a_group_sync_amid_live_traffic_gives_everything_once(transport: Transport) {
    const COUNT: i64 = 300;
    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let group = server.create_group(&alice, KIND, &[bob.user_id]).await;
    let sending = {
        let api = server.clone_api();
        tokio::spawn(async move {
            let mut sender = api.connect(transport, &alice).await;
            for _ in 0..COUNT {
                sender.send(&group.text("x")).await;
            }
        })
    };
    let mut connection = server.connect(transport, &bob).await;
    // Pushes that come before the first page was asked for are what that page gives again.
    let page = connection.sync_groups(1, &[(group.id, 0)]).await;
    connection.take_pushes();
    let mut received = page.groups[0].messages.clone();
    let mut more = page.has_more;
    while more {
        let cursor = received.len() as i64;
        let page = connection.sync_groups(1, &[(group.id, cursor)]).await;
        more = page.has_more;
        let of_group = page.groups.into_iter().flat_map(|g| g.messages);
        received.extend(of_group);
    }
    while received.len() <= COUNT as usize {
        received.push(connection.push().await);
    }
    assert_eq!(seqs(&received), (1..=COUNT + 1).collect::<Vec<_>>());
    assert!(connection.take_pushes().is_empty());
    sending.await.expect("no panic");
}
