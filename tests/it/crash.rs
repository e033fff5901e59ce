//! The process is killed in mid load, again and again, and started on the same data: what was
//! acknowledged is there, once, and no timeline has a gap (I1, I2, I3).

use std::sync::{Arc, Mutex};

use im::pb::{PackageType, SendMessageResp};
use prost::Message as _;

use crate::support::{
    Api, Device, Process, Transport, history::History, messages::text_with_id, wait::eventually,
};

const ROUNDS: usize = 4;
const SENDERS: usize = 9;
const ACKNOWLEDGED_PER_ROUND: usize = 250;

#[tokio::test]
async fn a_killed_server_keeps_what_it_acknowledged_and_repeats_nothing() {
    let mut server = Process::start().await;
    let mut users = Vec::new();
    for _ in 0..SENDERS {
        users.push(server.new_user().await);
    }
    let history = Arc::new(Mutex::new(History::default()));
    let mut retries = Vec::new();
    for round in 0..ROUNDS {
        let senders: Vec<_> = (0..SENDERS)
            .map(|index| {
                let task = Sender {
                    api: Api::new(server.addresses),
                    from: users[index].clone(),
                    to: users[(index + 1 + round) % SENDERS].user_id,
                    prefix: format!("{round}-{index}"),
                    history: Arc::clone(&history),
                };
                tokio::spawn(task.run(index % 3))
            })
            .collect();
        let enough = (round + 1) * ACKNOWLEDGED_PER_ROUND;
        eventually("enough is acknowledged", async || {
            (lock(&history).acknowledgements() >= enough).then_some(())
        })
        .await;
        server.kill();
        for sender in senders {
            retries.extend(sender.await.expect("no panic"));
        }
        server.start_again().await;
        // Half of what got no answer is sent again; the other half stays unknown.
        for (n, retry) in retries.drain(..).enumerate() {
            if n % 2 == 0 {
                let result = server.send(&retry.from, retry.request()).await;
                lock(&history).acknowledged(&retry.id, result);
            }
        }
    }
    for user in &users {
        let timeline = server.timeline(user).await;
        lock(&history).timeline(user.user_id, timeline);
    }
    lock(&history).check();
}

fn lock(history: &Mutex<History>) -> std::sync::MutexGuard<'_, History> {
    history.lock().expect("no panic under the lock")
}

/// A send that got no answer.
struct Unanswered {
    from: Device,
    to: i64,
    id: String,
}

impl Unanswered {
    fn request(&self) -> im::pb::SendMessageReq {
        text_with_id(self.to, "x", &self.id)
    }
}

/// Sends without end, until the server is gone.
struct Sender {
    api: Api,
    from: Device,
    to: i64,
    prefix: String,
    history: Arc<Mutex<History>>,
}

impl Sender {
    /// `way`: over gRPC, over TCP one by one, or over TCP with several on their way at once.
    async fn run(self, way: usize) -> Vec<Unanswered> {
        match way {
            0 => self.over_grpc().await,
            1 => self.over_tcp(1).await,
            _ => self.over_tcp(20).await,
        }
    }

    fn attempt(&self, n: usize) -> Unanswered {
        let id = format!("{}-{n}", self.prefix);
        lock(&self.history).attempted(&id, self.from.user_id, self.to);
        Unanswered {
            from: self.from.clone(),
            to: self.to,
            id,
        }
    }

    async fn over_grpc(self) -> Vec<Unanswered> {
        for n in 0.. {
            let attempt = self.attempt(n);
            match self.api.try_send(&self.from, attempt.request()).await {
                Ok(result) => lock(&self.history).acknowledged(&attempt.id, result),
                Err(_) => return vec![attempt],
            }
        }
        Vec::new()
    }

    async fn over_tcp(self, window: usize) -> Vec<Unanswered> {
        let mut connection = self.api.connect(Transport::Tcp, &self.from).await;
        let mut waiting = std::collections::VecDeque::new();
        for n in 0.. {
            let attempt = self.attempt(n);
            let package = PackageType::PtSendMessage;
            let request_id = connection.start(package, &attempt.request()).await;
            waiting.push_back((request_id, attempt));
            while waiting.len() >= window {
                let Some(answer) = connection.any_answer().await else {
                    return waiting.into_iter().map(|(_, attempt)| attempt).collect();
                };
                let (request_id, attempt) = waiting.pop_front().expect("not empty");
                assert_eq!(answer.request_id, request_id, "answers keep the order");
                assert_eq!(answer.code, 0, "{answer:?}");
                let result = SendMessageResp::decode(answer.data).expect("a result");
                lock(&self.history).acknowledged(&attempt.id, result);
            }
        }
        Vec::new()
    }
}
