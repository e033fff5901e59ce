//! An instance is held still for longer than it counts as there, its place on the database included,
//! and then goes on as if nothing had been: it takes nothing away from those who have come meanwhile,
//! stores nothing twice, and gives its own devices what they missed or lets them go (I1 to I5, I7).

use std::time::Duration;

use im::pb::{GetDeviceReq, Message, NoticeCode, PackageType, SendMessageReq, SendMessageResp};

use crate::support::{
    Api, Cluster, Connection, Device, Process, Transport,
    connection::sent,
    errors::{TRY_AGAIN_LATER, code},
    load::Load,
    messages::{seqs, text, text_with_id, words},
    rooms::room_text,
    wait::{eventually, soon},
};

const INTERVAL_S: u64 = 2;
const CLIENTS: usize = 6;
const PACE: Duration = Duration::from_millis(20);
/// Sends that are under way when the instance stops.
const UNDER_WAY: usize = 200;
const ROOM: i64 = 7;

/// Whether a device is signed in anywhere, as an instance says.
async fn is_online(api: &Api, device: &Device) -> bool {
    let request = GetDeviceReq {
        device_id: device.device_id,
    };
    let mut internal = api.internal();
    let answer = soon("GetDevice", internal.get_device(request)).await;
    let answer = answer.expect("GetDevice").into_inner();
    answer.device.expect("a device").status == 1
}

/// Waits until an instance says that the device is online, or that it is not.
async fn says_online(api: &Api, device: &Device, expected: bool) {
    let what = format!("online: {expected}");
    eventually(&what, async || {
        (is_online(api, device).await == expected).then_some(())
    })
    .await;
}

/// A send that is tried again until it is stored: the one that stopped may hold locks.
async fn send_again(api: &Api, from: &Device, request: SendMessageReq) -> SendMessageResp {
    eventually("a send is stored", async || {
        match api.try_send(from, request.clone()).await {
            Ok(result) => Some(result),
            Err(status) => {
                assert_eq!(code(&status), TRY_AGAIN_LATER, "{status:?}");
                None
            }
        }
    })
    .await
}

/// Asserts that the device is known to be in the room, by an instance that it is not signed in on.
async fn assert_in_room(api: &Api, device: &Device) {
    eventually("Redis says where the device is", async || {
        match api.try_send(device, room_text(ROOM, "x")).await {
            Ok(_) => Some(()),
            Err(status) => {
                assert_eq!(code(&status), TRY_AGAIN_LATER, "{status:?}");
                None
            }
        }
    })
    .await;
}

/// The next `count` pushes that are stored; those of the room may stand between them.
async fn stored(connection: &mut Connection, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let message = connection.push().await;
        if message.seq > 0 {
            messages.push(message);
        }
    }
    messages
}

/// What the older connection of a device is still given before it is told that it was replaced.
async fn pushes_until_replaced(mut connection: Connection) -> Vec<Message> {
    connection
        .assert_ends_with(NoticeCode::NcReplaced, 4001)
        .await;
    connection.take_pushes()
}

/// Asserts that no seq is missing or stands twice, from `first` on.
fn assert_in_order(messages: &[Message], first: usize) {
    let expected: Vec<_> = (first as i64..).take(messages.len()).collect();
    assert_eq!(seqs(messages), expected);
}

struct World {
    /// The first of two stops.
    cluster: Cluster<Process>,
    load: Load,
    alice: Device,
    /// Signed in on the one that stops.
    old: Connection,
    bob: Device,
    bobs: Connection,
    dave: Device,
    daves: Connection,
    carol: Device,
}

impl World {
    async fn new() -> Self {
        let plan = Cluster::plan(2).set("delivery.reconcile_interval_s", INTERVAL_S);
        let cluster = plan.start_processes().await;
        let load = Load::start(cluster.apis(), CLIENTS, PACE).await;
        let [alice, bob, dave] = [
            cluster[0].new_user().await,
            cluster[0].new_user().await,
            cluster[0].new_user().await,
        ];
        let carol = cluster[1].new_user().await;
        Self {
            old: cluster[0].connect(Transport::Tcp, &alice).await,
            bobs: cluster[0].connect(Transport::WebSocket, &bob).await,
            daves: cluster[0].connect(Transport::Tcp, &dave).await,
            cluster,
            load,
            alice,
            bob,
            dave,
            carol,
        }
    }

    /// Sends of Dave to Carol, which the instance stops in the middle of: by request id, which.
    async fn stop_in_the_middle(&mut self) -> Vec<(i64, String)> {
        let mut under_way = Vec::new();
        for n in 0..UNDER_WAY {
            let id = format!("under-way-{n}");
            let request = text_with_id(self.carol.user_id, "x", &id);
            let package = PackageType::PtSendMessage;
            under_way.push((self.daves.start(package, &request).await, id));
        }
        // Some are stored.
        self.daves.answer(under_way[0].0).await;
        self.cluster[0].signal("STOP");
        under_way
    }

    /// Sends from the other instance to Alice and Bob.
    async fn send_to_both(&self, count: usize) {
        for _ in 0..count {
            for to in [&self.alice, &self.bob] {
                let request = text(to.user_id, "x");
                self.cluster[1].send(&self.carol, request).await;
            }
        }
    }
}

#[tokio::test]
async fn an_instance_that_was_held_still_disturbs_nobody_when_it_goes_on() {
    const BEFORE: usize = 3;
    const MEANWHILE: usize = 30;
    let mut world = World::new().await;
    world.load.more(100).await;
    world.send_to_both(BEFORE).await;
    world.bobs.pushed(BEFORE).await;
    let under_way = world.stop_in_the_middle().await;
    let mut results = Vec::new();
    for (_, id) in &under_way {
        let request = text_with_id(world.carol.user_id, "x", id);
        results.push(send_again(&world.cluster[1], &world.dave, request).await);
    }
    // Alice's device signs in where there is somebody.
    let mut new = world.cluster[1].connect(Transport::Tcp, &world.alice).await;
    new.subscribe(ROOM).await;
    world.load.more(100).await;
    world.send_to_both(MEANWHILE).await;
    assert_in_order(&new.pushed(MEANWHILE).await, BEFORE + 1);
    // It counts as gone, and its place on the database is anybody's.
    says_online(&world.cluster[1], &world.bob, false).await;
    says_online(&world.cluster[1], &world.alice, true).await;
    world.cluster[0].signal("CONT");

    // Its session of Alice's device is the older one, and is no more (I7).
    let pushed = pushes_until_replaced(world.old).await;
    assert_in_order(&pushed, 1);
    // That it has gone is written down when a room is entered, and what the newer one wrote still stands.
    let mut bobs = world.bobs;
    bobs.subscribe(ROOM).await;
    assert_in_room(&world.cluster[0], &world.alice).await;
    // Bob was there all the time as far as he knows; he is given all that he missed (I5).
    let missed = stored(&mut bobs, MEANWHILE).await;
    assert_in_order(&missed, BEFORE + 1);
    bobs.heartbeat().await;
    let more = bobs.take_pushes();
    assert!(more.iter().all(|m| m.seq == 0), "nothing twice (I4)");
    // Answered late, or not: the sends were stored once (I3).
    for ((id, _), result) in under_way[1..].iter().zip(&results[1..]) {
        let answer = world.daves.answer(*id).await;
        if answer.code != TRY_AGAIN_LATER {
            assert_eq!(sent(&answer), *result);
        }
    }
    let timeline = world.cluster[1].timeline(&world.carol).await;
    let mut ids: Vec<_> = timeline.iter().map(|m| &m.client_message_id).collect();
    ids.retain(|id| id.starts_with("under-way"));
    assert_eq!(ids.len(), UNDER_WAY, "each once (I2, I3)");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), UNDER_WAY, "each once (I3)");

    // When it has written down who is there, the newer session still is.
    says_online(&world.cluster[1], &world.bob, true).await;
    assert_in_room(&world.cluster[0], &world.alice).await;
    let next = BEFORE + MEANWHILE + 1;
    world.cluster[0]
        .send(&world.carol, text(world.alice.user_id, "to the newer"))
        .await;
    let message = new.push().await;
    assert_eq!(
        (words(&message), message.seq),
        ("to the newer".into(), next as i64)
    );
    new.heartbeat().await;
    println!("{:?}", world.load.finish().await);
}
