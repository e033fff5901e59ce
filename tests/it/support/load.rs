//! Clients that talk to each other while a test makes things fail, and the check that nothing of what
//! was acknowledged is lost, doubled or out of order, and that everybody was given everything.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    Api,
    balancer::Balancer,
    client::{Client, Seen, Shared, open},
    wait::eventually,
};

/// Clients in a ring, each of whom sends to the next.
pub struct Load {
    balancer: Arc<Balancer>,
    book: Shared,
    quiet: CancellationToken,
    stop: CancellationToken,
    clients: Vec<JoinHandle<Seen>>,
}

/// What a load went through.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub acknowledged: usize,
    /// From an acknowledgement to the receiver.
    pub longest_delay: Duration,
}

impl Load {
    /// Starts `clients` of new users, handed to `instances` by turns.
    pub async fn start(instances: Vec<Api>, clients: usize, pace: Duration) -> Self {
        let balancer = Arc::new(Balancer::new(instances));
        let users = balancer.next().await.new_users(clients).await;
        let (book, quiet, stop) = (
            Shared::default(),
            CancellationToken::new(),
            CancellationToken::new(),
        );
        let mut running = Vec::new();
        for (at, device) in users.iter().enumerate() {
            let to = users[(at + 1) % users.len()].user_id;
            let (balancer, book) = (Arc::clone(&balancer), Arc::clone(&book));
            let client = Client::new(device.clone(), to, pace, balancer, book);
            running.push(tokio::spawn(client.run(quiet.clone(), stop.clone())));
        }
        Self {
            balancer,
            book,
            quiet,
            stop,
            clients: running,
        }
    }

    /// Waits until so many more sends were acknowledged.
    pub async fn more(&self, count: usize) {
        let enough = self.acknowledged() + count;
        eventually("sends are acknowledged", async || {
            self.assert_well();
            (self.acknowledged() >= enough).then_some(())
        })
        .await;
    }

    /// How many sends were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        open(&self.book).acknowledgements()
    }

    /// Waits until everything acknowledged so far, and a bit more, has reached its receiver.
    pub async fn settled(&self) {
        let due: Vec<String> = {
            let book = open(&self.book);
            let outstanding = book.outstanding();
            outstanding.into_iter().map(str::to_owned).collect()
        };
        eventually("what was acknowledged arrives", async || {
            self.assert_well();
            let book = open(&self.book);
            let outstanding = book.outstanding();
            let missing = due.iter().any(|id| outstanding.contains(&id.as_str()));
            (!missing).then_some(())
        })
        .await;
    }

    /// Ends the sending, waits until everybody has everything, and checks the history.
    pub async fn finish(self) -> Report {
        self.quiet.cancel();
        eventually("everything is answered and arrives", async || {
            self.assert_well();
            let book = open(&self.book);
            let all_answered = book.history.unanswered() == 0;
            (all_answered && book.outstanding().is_empty()).then_some(())
        })
        .await;
        self.stop.cancel();
        let mut seen = Vec::new();
        for client in self.clients {
            seen.push(client.await.expect("a client that is well"));
        }
        let api = self.balancer.next().await;
        let mut timelines = Vec::new();
        for client in &seen {
            timelines.push(api.timeline(&client.device).await);
        }
        let mut book = open(&self.book);
        for (client, timeline) in seen.into_iter().zip(timelines) {
            let held: Vec<_> = client.held.iter().map(|(seq, id)| (*seq, *id)).collect();
            let stored: Vec<_> = timeline.iter().map(|m| (m.seq, m.message_id)).collect();
            assert_eq!(held, stored, "what {:?} holds (I5)", client.device);
            let user = client.device.user_id;
            client.tell(&mut book.history, &timeline);
            book.history.timeline(user, timeline);
        }
        book.history.check();
        Report {
            acknowledged: book.acknowledgements(),
            longest_delay: book.longest_delay(),
        }
    }

    /// A client ends only when it is told to, or when it saw what must not be.
    fn assert_well(&self) {
        let ended = self.clients.iter().any(JoinHandle::is_finished);
        assert!(!ended, "a client has failed: see above");
    }
}
