//! What one client sends in plenty costs the others nothing (I9).

use std::time::{Duration, Instant};

use im::pb::{Input, PackageType};
use prost::Message as _;

use crate::support::{Server, Transport, wire::web_socket_frame};

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;

/// Wrong sign-ins of one device wait in one line with everybody's, and must not make it slow.
#[tokio::test]
async fn a_flood_of_wrong_sign_ins_does_not_delay_a_right_one() {
    // Long for one sign-in, short for four hundred one after the other.
    const QUICK: Duration = Duration::from_secs(2);
    // The machine may be slow for a moment, but not each time.
    const ROUNDS: usize = 6;
    let server = Server::start().await;
    let (alice, target) = (server.new_user().await, server.new_user().await);
    let mut wrong = target.sign_in_input();
    wrong.token = "00".repeat(32);
    let mut took = Vec::new();
    while took.len() < ROUNDS && took.iter().all(|took| *took > QUICK) {
        let mut flood = Vec::new();
        for _ in 0..400 {
            let mut connection = server.open(Transport::Tcp).await;
            connection.start(PackageType::PtSignIn, &wrong).await;
            flood.push(connection);
        }
        let begun = Instant::now();
        let mut session = server.connect(Transport::Tcp, &alice).await;
        took.push(begun.elapsed());
        session.heartbeat().await;
    }
    assert!(took.iter().any(|took| *took < QUICK), "{took:?}");
}

/// A message in a thousand parts is a thousand frames.
#[tokio::test]
async fn parts_of_a_message_count_against_the_rate() {
    const RATE: u64 = 100;
    const PARTS: usize = 500; // 200 at once, 300 in three seconds
    let server = Server::with(|config| config.session.frames_per_s_max = RATE).await;
    let alice = server.new_user().await;
    let mut session = server.connect(Transport::WebSocket, &alice).await;
    let beat = Input {
        r#type: PackageType::PtHeartbeat.into(),
        request_id: 7,
        ..Default::default()
    };
    let mut parts = web_socket_frame(BINARY, false, &beat.encode_to_vec());
    parts.extend(web_socket_frame(CONTINUATION, false, b"").repeat(PARTS));
    parts.extend(web_socket_frame(CONTINUATION, true, b""));
    let begun = Instant::now();
    session.raw(&parts).await;
    let answer = session.any_answer().await.expect("it stays open");
    assert_eq!((answer.code, answer.request_id), (0, 7));
    let elapsed = begun.elapsed();
    assert!(elapsed > Duration::from_millis(2_500), "{elapsed:?}");
}
