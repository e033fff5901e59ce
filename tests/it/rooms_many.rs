//! Ten thousand devices in one room of one instance: each is given every message, while one of them
//! does not read.

use std::time::{Duration, Instant};

use crate::support::{
    Connection, Process, Transport, crowd::all, messages::sized, messages::words, rooms::room_text,
    wait::within,
};

/// The server is a process of its own, so that each side has file descriptors for that many.
const SUBSCRIBERS: usize = 10_000;
const MESSAGES: usize = 5;
/// Of 60,000 bytes: more than the sockets' buffers take.
const STUFFING: usize = 300;
/// A build without optimizations shares two cores with other tests.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test]
async fn ten_thousand_subscribers_each_get_each_message_while_one_does_not_read() {
    let server = Process::with(&[
        // Creating the crowd is not what is shown here.
        ("IM_DATABASE__SQLITE_SYNCHRONOUS", "normal"),
        ("IM_SESSION__WRITE_TIMEOUT_S", "600"),
    ])
    .await;
    let users = within(LONG, "the users", server.new_users(SUBSCRIBERS + 1)).await;
    let (sender, subscribers) = users.split_first().expect("somebody");
    let connect = server.connect_all(subscribers);
    let mut connections = within(LONG, "all connect", connect).await;
    let subscribe = connections
        .iter_mut()
        .map(async |connection: &mut Connection| connection.subscribe(1).await);
    within(LONG, "all subscribe", all(subscribe)).await;

    // One is given so much of his own that his socket is full.
    let mut slow = connections.pop().expect("the last one");
    let slow_user = subscribers.last().expect("the last one").user_id;
    let mut sending = server.connect(Transport::Tcp, sender).await;
    for _ in 0..STUFFING {
        sending.send(&sized(slow_user, 60_000)).await;
    }

    sending.subscribe(1).await;
    for n in 0..MESSAGES {
        let started = Instant::now();
        if n % 2 == 0 {
            sending.send(&room_text(1, &n.to_string())).await;
        } else {
            server.push_text_to_room(1, &n.to_string()).await;
        }
        let reading = all(connections.iter_mut().map(async |connection| {
            assert_eq!(words(&connection.push().await), n.to_string());
        }));
        within(LONG, "everybody who reads has it", reading).await;
        println!("{n}: everybody had it after {:?}", started.elapsed());
    }
    // The slow one loses nothing that is stored.
    let read = async {
        let mut own = 0;
        while own < STUFFING as i64 {
            let message = slow.push().await;
            if message.seq > 0 {
                own += 1;
                assert_eq!(message.seq, own);
            }
        }
    };
    within(LONG, "the slow one reads", read).await;
}
