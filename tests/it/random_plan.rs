//! A seeded random plan: devices connect, leave, send, sync and acknowledge in any order while the
//! server is restarted now and then. Each device behaves as the contract says, and in the end holds
//! exactly its user's timeline. `IM_PLAN_SEED` replays a run.

use std::collections::{BTreeMap, HashSet};

use im::pb::{Message, SendMessageResp};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{Api, Connection, Device, Server, Transport, messages::text, wire::BOTH};

const USERS: usize = 3;
const DEVICES_EACH: usize = 2;
const STEPS: usize = 400;

/// A device as its user would write it: what it holds, and its connection while it has one.
struct Client {
    device: Device,
    held: BTreeMap<i64, i64>,
    session: Option<Session>,
}

struct Session {
    connection: Connection,
    pushed: HashSet<i64>,
}

impl Client {
    /// The highest seq up to which it holds everything.
    fn cursor(&self) -> i64 {
        let gapless = self.held.keys().zip(1..).take_while(|(seq, n)| **seq == *n);
        gapless.count() as i64
    }

    fn hold(&mut self, seq: i64, message_id: i64) {
        let before = self.held.insert(seq, message_id);
        assert!(
            before.is_none_or(|known| known == message_id),
            "seq {seq} changed"
        );
    }

    async fn connect(&mut self, api: &Api, transport: Transport) {
        let connection = api.connect(transport, &self.device).await;
        self.session = Some(Session {
            connection,
            pushed: HashSet::new(),
        });
        self.sync().await;
    }

    /// Pulls what it lacks, as after every connecting.
    async fn sync(&mut self) {
        loop {
            let after = self.cursor();
            let Some(session) = &mut self.session else {
                return;
            };
            let page = session.connection.sync_after(after.max(0)).await;
            assert!(!page.reset, "its cursor is right: {after}");
            // 0 asks for what no device of the user has acknowledged.
            let mut expected = after + 1;
            for message in &page.messages {
                if after > 0 {
                    assert_eq!(message.seq, expected, "a page has no gaps");
                }
                expected = message.seq + 1;
            }
            let more = page.has_more;
            for Message {
                seq, message_id, ..
            } in page.messages
            {
                self.hold(seq, message_id);
            }
            if !more || self.cursor() == after {
                return;
            }
        }
    }

    /// Takes what was pushed so far: each once, and nothing older than what came before.
    async fn read(&mut self) {
        let Some(session) = &mut self.session else {
            return;
        };
        session.connection.heartbeat().await;
        let mut newest = session.pushed.iter().copied().max().unwrap_or(0);
        let pushes = session.connection.take_pushes();
        for message in &pushes {
            assert!(
                session.pushed.insert(message.seq),
                "{} pushed twice",
                message.seq
            );
            assert!(message.seq > newest, "{} after {newest}", message.seq);
            newest = message.seq;
        }
        for message in pushes {
            self.hold(message.seq, message.message_id);
        }
    }

    async fn send(&mut self, api: &Api, to: i64, over_grpc: bool) {
        let request = text(to, "x");
        let SendMessageResp {
            seq, message_id, ..
        } = match &mut self.session {
            Some(session) if !over_grpc => session.connection.send(&request).await,
            _ => api.send(&self.device, request).await,
        };
        self.hold(seq, message_id);
    }

    async fn ack(&mut self) {
        let cursor = self.cursor();
        if let Some(session) = &mut self.session {
            session.connection.ack(cursor).await;
        }
    }
}

#[tokio::test]
async fn whatever_devices_do_each_holds_its_users_timeline() {
    let seed = std::env::var("IM_PLAN_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("IM_PLAN_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let mut clients = Vec::new();
    for _ in 0..USERS {
        let mut device = server.new_user().await;
        for _ in 0..DEVICES_EACH {
            clients.push(Client {
                device: device.clone(),
                held: BTreeMap::new(),
                session: None,
            });
            device = server.another_device_of(&device).await;
        }
    }
    for _ in 0..STEPS {
        let receiver = clients[random.random_range(0..clients.len())]
            .device
            .user_id;
        let at = random.random_range(0..clients.len());
        let client = &mut clients[at];
        match random.random_range(0..100) {
            0..15 => {
                client
                    .connect(&server, BOTH[random.random_range(0..2)])
                    .await
            }
            15..22 => client.session = None,
            22..75 => client.send(&server, receiver, random.random()).await,
            75..85 => client.read().await,
            85..90 => client.sync().await,
            90..99 => client.ack().await,
            _ => {
                for client in &mut clients {
                    client.session = None;
                }
                server.restart().await;
            }
        }
    }
    for client in &mut clients {
        let timeline = server.timeline(&client.device).await;
        // From the start, because a device that was never there holds nothing yet.
        client.connect(&server, Transport::Tcp).await;
        let session = client.session.as_mut().expect("connected");
        for message in session.connection.sync_from_start().await {
            client.hold(message.seq, message.message_id);
        }
        let held: Vec<_> = client.held.iter().map(|(s, m)| (*s, *m)).collect();
        let stored: Vec<_> = timeline.iter().map(|m| (m.seq, m.message_id)).collect();
        assert_eq!(held, stored);
    }
}
