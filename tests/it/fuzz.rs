//! One client's nonsense ends at most that client's connection (I9). The nonsense is random and
//! seeded: `IM_FUZZ_SEED` replays a run, and the seed of a failure is in its output.

use im::pb::{Input, Message, SyncInput};
use prost::Message as _;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{
    Api, Connection, Device, Server, Transport,
    http::assert_ready,
    messages::{seqs, text},
    wire::{framed, opcode, web_socket_frame},
};

const CONNECTIONS: usize = 150;
const STEPS_MAX: usize = 12;

on_each_transport!(nonsense_ends_only_the_connection_it_came_on);

async fn nonsense_ends_only_the_connection_it_came_on(transport: Transport) {
    let seed = std::env::var("IM_FUZZ_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("IM_FUZZ_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let server = Server::start().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut alices = server.connect(transport, &alice).await;
    let mut bobs = server.connect(Transport::Tcp, &bob).await;
    let fuzzer = server.new_user().await;
    for round in 1..=CONNECTIONS {
        misbehave(&server, &fuzzer, transport, &mut random).await;
        if round % 10 == 0 {
            alices.send(&text(bob.user_id, "undisturbed")).await;
            while !is_from(&alice, &bobs.push().await) {}
        }
    }
    // The one who misbehaved can still behave.
    let mut connection = server.connect(transport, &fuzzer).await;
    connection.heartbeat().await;
    connection.sync_from_start().await;
    let timeline = server.timeline(&bob).await;
    assert_eq!(
        seqs(&timeline),
        (1..=timeline.len() as i64).collect::<Vec<_>>()
    );
    let hers = timeline.iter().filter(|message| is_from(&alice, message));
    assert_eq!(hers.count(), CONNECTIONS / 10);
    assert_ready(server.addresses.http).await;
}

/// A turned bit may make a message of the misbehaving one's go to Bob.
fn is_from(device: &Device, message: &Message) -> bool {
    let sender = message.sender.as_ref().expect("a sender");
    sender.sender_id == device.user_id
}

/// One connection, signed in or not, that sends a few things it should not.
async fn misbehave(api: &Api, device: &Device, transport: Transport, random: &mut StdRng) {
    let mut connection = api.open(transport).await;
    if random.random_bool(0.7) {
        let input = device.sign_in_input();
        connection
            .start(im::pb::PackageType::PtSignIn, &input)
            .await;
    }
    for _ in 0..random.random_range(1..=STEPS_MAX) {
        step(&mut connection, device, random).await;
    }
    // Some hang up, some wait for what comes; some are closed by the server meanwhile.
    if random.random_bool(0.5) {
        let answered = connection.any_answer();
        let _closed = tokio::time::timeout(std::time::Duration::from_millis(20), answered).await;
    }
}

async fn step(connection: &mut Connection, device: &Device, random: &mut StdRng) {
    let transport = connection.transport();
    match random.random_range(0..7) {
        0 => connection.raw(&noise(random, 300)).await,
        1 => connection.body(&noise(random, 300)).await,
        2 => {
            let package = random.random_range(-2..12);
            connection.input(package, noise(random, 200)).await;
        }
        3 => connection.body(&mutated(random, device)).await,
        4 => {
            // The beginning of a frame whose rest never comes, or something else comes instead.
            let frame = framed(transport, &valid(random, device));
            let cut = random.random_range(0..frame.len());
            connection.raw(&frame[..cut]).await;
        }
        5 => connection.body(&valid(random, device)).await,
        _ => connection.raw(&odd_frame(transport, random)).await,
    }
}

fn noise(random: &mut StdRng, length_max: usize) -> Vec<u8> {
    let mut bytes = vec![0; random.random_range(0..length_max)];
    random.fill(bytes.as_mut_slice());
    bytes
}

/// An `Input` as a client sends it; what it sends goes to itself.
fn valid(random: &mut StdRng, device: &Device) -> Vec<u8> {
    let (package, data) = match random.random_range(0..5) {
        0 => (1, device.sign_in_input().encode_to_vec()),
        1 => {
            let input = SyncInput {
                seq: random.random_range(-5..200),
                group_seqs: [(random.random(), random.random())].into(),
                from_start: random.random(),
                epoch: if random.random() { 0 } else { random.random() },
            };
            (2, input.encode_to_vec())
        }
        2 => (3, Vec::new()),
        3 => {
            let ack = im::pb::MessageAck {
                device_ack: random.random_range(-5..200),
                receive_time: random.random(),
                group_id: random.random_range(-1..2),
            };
            (4, ack.encode_to_vec())
        }
        _ => (6, text(device.user_id, "to myself").encode_to_vec()),
    };
    let input = Input {
        r#type: package,
        request_id: random.random(),
        data: data.into(),
    };
    input.encode_to_vec()
}

/// A valid body with a few bits turned, bytes dropped or doubled.
fn mutated(random: &mut StdRng, device: &Device) -> Vec<u8> {
    let mut body = valid(random, device);
    for _ in 0..random.random_range(1..4) {
        if body.is_empty() {
            break;
        }
        let at = random.random_range(0..body.len());
        match random.random_range(0..3) {
            0 => body[at] ^= 1 << random.random_range(0..8),
            1 => drop(body.remove(at)),
            _ => body.insert(at, body[at]),
        }
    }
    body
}

/// Frames at the edges of what the framing can say.
fn odd_frame(transport: Transport, random: &mut StdRng) -> Vec<u8> {
    match transport {
        Transport::Tcp => {
            let length: u16 = *[0, 1, 2, 255, 256, 65_534, 65_535]
                .get(random.random_range(0..7))
                .expect("in range");
            let mut frame = length.to_be_bytes().to_vec();
            frame.extend(noise(random, 70_000));
            frame
        }
        Transport::WebSocket => {
            let opcodes = [
                opcode::CONTINUATION,
                opcode::TEXT,
                opcode::BINARY,
                opcode::CLOSE,
                opcode::PING,
                opcode::PONG,
                0x3,
                0xB,
            ];
            let opcode = opcodes[random.random_range(0..opcodes.len())];
            let payload = noise(random, 70_000);
            let mut frame = web_socket_frame(opcode, random.random(), &payload);
            if random.random_bool(0.2) {
                frame[0] |= random.random::<u8>() & 0x70; // reserved bits
            }
            if random.random_bool(0.2) {
                frame[1] &= 0x7F; // not masked
            }
            frame
        }
    }
}
