//! A client as the contract asks for: it reconnects when it is told to or cut off, syncs from what it
//! holds, and sends again, under the same id, what was not answered. It keeps what it was given, so
//! that a test can check it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use im::pb::{Message, MessageAck, NoticeCode, Output, PackageType, SyncInput, SyncOutput};
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Device,
    balancer::Balancer,
    connection::{Heard, sent},
    history::History,
    messages::text_with_id,
    wire::try_open_tcp,
};

const OK: i32 = 0;
/// Answers after which the same send may be tried again.
const TRY_AGAIN: [i32; 2] = [10003, 10004];
/// How long a client waits for an answer before it gives its connection up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);
/// After a connection that could not be opened, or a send that could not be stored.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a client says what it holds.
const ACK_EVERY: i64 = 16;

/// What all clients of a test tell.
#[derive(Debug, Default)]
pub struct Book {
    pub history: History,
    /// When a send was acknowledged.
    acknowledged: HashMap<String, Instant>,
    /// When the receiver had it first.
    received: HashMap<String, Instant>,
}

/// A book that several tasks write to.
pub type Shared = Arc<Mutex<Book>>;

/// The book, for a moment.
pub fn open(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().expect("no panic under the lock")
}

impl Book {
    /// How long the slowest message took from its acknowledgement to its receiver.
    pub fn longest_delay(&self) -> Duration {
        let delays = self.acknowledged.iter().filter_map(|(id, acknowledged)| {
            let received = self.received.get(id)?;
            Some(received.saturating_duration_since(*acknowledged))
        });
        delays.max().unwrap_or_default()
    }

    /// The messages that were acknowledged and have not reached their receivers.
    pub fn outstanding(&self) -> Vec<&str> {
        let ids = self.acknowledged.keys();
        let missing = ids.filter(|id| !self.received.contains_key(*id));
        missing.map(String::as_str).collect()
    }

    /// How many sends were acknowledged.
    pub fn acknowledgements(&self) -> usize {
        self.acknowledged.len()
    }
}

/// One device, which sends to one user and holds what its own user is sent.
pub struct Client {
    device: Device,
    to: i64,
    /// Between two sends.
    pace: Duration,
    balancer: Arc<Balancer>,
    book: Shared,
    /// By seq: the message.
    held: BTreeMap<i64, i64>,
    sent: u64,
    unanswered: BTreeMap<u64, String>,
    /// What each connection was given, pages and pushes, with the seqs that came in pages.
    deliveries: Vec<Given>,
}

/// What one connection was given from its first sync on.
#[derive(Debug, Default)]
struct Given {
    messages: Vec<Message>,
    in_pages: HashSet<i64>,
}

/// A connection while it lasts.
struct Session {
    connection: Connection,
    given: Given,
    /// The sends under way: by request id, their number.
    waiting: HashMap<i64, u64>,
    synced: bool,
    sync_id: Option<i64>,
    last_heard: Instant,
    last_ack: i64,
}

/// Why a session ended.
enum End {
    /// The server, or the way to it, went away; `after` is what the server asked for.
    Gone { after: Duration },
    /// The test wants no more.
    Stopped,
}

/// What a client has seen when it ends.
pub struct Seen {
    pub device: Device,
    pub held: BTreeMap<i64, i64>,
    deliveries: Vec<Given>,
}

impl Seen {
    /// Writes what was pushed into the history; `timeline` says what the device itself sent.
    pub fn tell(self, history: &mut History, timeline: &[Message]) {
        let device_id = self.device.device_id;
        let own: HashSet<i64> = timeline
            .iter()
            .filter(|m| is_from(m, device_id))
            .map(|m| m.seq)
            .collect();
        for given in self.deliveries {
            let own = own.difference(&given.in_pages).copied().collect();
            history.delivered(self.device.user_id, given.messages, own);
        }
    }
}

/// Clients name the device in the ids of what they send.
fn is_from(message: &Message, device_id: i64) -> bool {
    let id = &message.client_message_id;
    id.split('-').next() == Some(&device_id.to_string())
}

impl Client {
    /// A client that sends to user `to` at `pace`.
    pub fn new(
        device: Device,
        to: i64,
        pace: Duration,
        balancer: Arc<Balancer>,
        book: Shared,
    ) -> Self {
        Self {
            device,
            to,
            pace,
            balancer,
            book,
            held: BTreeMap::new(),
            sent: 0,
            unanswered: BTreeMap::new(),
            deliveries: Vec::new(),
        }
    }

    /// Lives until `stop`; after `quiet` it sends nothing new, but goes on until all is answered.
    pub async fn run(mut self, quiet: CancellationToken, stop: CancellationToken) -> Seen {
        loop {
            match self.session(&quiet, &stop).await {
                End::Stopped => {
                    return Seen {
                        device: self.device,
                        held: self.held,
                        deliveries: self.deliveries,
                    };
                }
                End::Gone { after } => {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = tokio::time::sleep(after) => {}
                    }
                }
            }
        }
    }

    /// One connection from its beginning to its end.
    async fn session(&mut self, quiet: &CancellationToken, stop: &CancellationToken) -> End {
        let opened = tokio::select! {
            () = stop.cancelled() => return End::Stopped,
            opened = self.open() => opened,
        };
        let Some(mut session) = opened else {
            return End::Gone { after: PAUSE };
        };
        let end = self.converse(&mut session, quiet, stop).await;
        self.deliveries.push(session.given);
        end
    }

    async fn open(&self) -> Option<Session> {
        let instance = self.balancer.next().await;
        let (reader, writer) = try_open_tcp(instance.addresses.tcp).await.ok()?;
        let mut connection = Connection::new(reader, writer);
        let input = self.device.sign_in_input();
        let id = connection.start(PackageType::PtSignIn, &input).await;
        let signed_in = tokio::time::timeout(ANSWER_PATIENCE, async {
            loop {
                match connection.heard().await {
                    Heard::Answer(answer) if answer.request_id == id => return Some(answer.code),
                    Heard::End => return None,
                    _ => {}
                }
            }
        });
        match signed_in.await.ok().flatten() {
            Some(OK) => {}
            Some(code) if TRY_AGAIN.contains(&code) => return None,
            Some(code) => panic!("{}: sign in: {code}", self.device.device_id),
            None => return None,
        }
        Some(Session {
            connection,
            given: Given::default(),
            waiting: HashMap::new(),
            synced: false,
            sync_id: None,
            last_heard: Instant::now(),
            last_ack: 0,
        })
    }

    async fn converse(
        &mut self,
        session: &mut Session,
        quiet: &CancellationToken,
        stop: &CancellationToken,
    ) -> End {
        self.sync(session).await;
        let mut next = tokio::time::interval(self.pace);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return End::Stopped,
                heard = session.connection.heard() => {
                    session.last_heard = Instant::now();
                    match heard {
                        Heard::Answer(answer) => self.answered(session, answer).await,
                        Heard::Push(message) => self.pushed(session, *message).await,
                        Heard::Notice(notice) => {
                            assert_ne!(notice.code(), NoticeCode::NcSignedOut, "{notice:?}");
                            let after = u64::try_from(notice.retry_after_ms).unwrap_or(0);
                            return End::Gone { after: Duration::from_millis(after) };
                        }
                        Heard::End => return End::Gone { after: PAUSE },
                    }
                }
                _ = next.tick() => {
                    let awaits = !session.waiting.is_empty() || session.sync_id.is_some();
                    if awaits && session.last_heard.elapsed() > ANSWER_PATIENCE {
                        return End::Gone { after: PAUSE };
                    }
                    if session.synced {
                        self.send_something(session, quiet.is_cancelled()).await;
                    }
                }
            }
        }
    }

    /// What was not answered before something new; one at a time, so that the order is the sender's.
    async fn send_something(&mut self, session: &mut Session, is_quiet: bool) {
        if !session.waiting.is_empty() {
            return;
        }
        if self.unanswered.is_empty() {
            if is_quiet {
                return;
            }
            let id = format!("{}-{}", self.device.device_id, self.sent);
            open(&self.book)
                .history
                .attempted(&id, self.device.user_id, self.to);
            self.unanswered.insert(self.sent, id);
            self.sent += 1;
        }
        let (number, id) = self.unanswered.first_key_value().expect("there is one");
        let request = text_with_id(self.to, "x", id);
        let package = PackageType::PtSendMessage;
        let request_id = session.connection.start(package, &request).await;
        if session.waiting.is_empty() {
            session.last_heard = Instant::now();
        }
        session.waiting.insert(request_id, *number);
    }

    async fn answered(&mut self, session: &mut Session, answer: Output) {
        if session.sync_id == Some(answer.request_id) {
            return self.page(session, answer).await;
        }
        let Some(number) = session.waiting.remove(&answer.request_id) else {
            return;
        };
        if TRY_AGAIN.contains(&answer.code) {
            return;
        }
        let id = self
            .unanswered
            .remove(&number)
            .expect("it was not answered");
        let result = sent(&answer);
        let mut book = open(&self.book);
        book.history.acknowledged(&id, result);
        book.acknowledged.entry(id).or_insert_with(Instant::now);
        drop(book);
        self.hold(result.seq, result.message_id);
    }

    async fn pushed(&mut self, session: &mut Session, message: Message) {
        self.take(&message);
        if session.synced {
            session.given.messages.push(message);
        }
        let cursor = self.cursor();
        if cursor >= session.last_ack + ACK_EVERY {
            session.last_ack = cursor;
            let ack = MessageAck {
                device_ack: cursor,
                receive_time: 1,
                group_id: 0,
            };
            session.connection.start(PackageType::PtMessage, &ack).await;
        }
    }

    async fn sync(&mut self, session: &mut Session) {
        let cursor = self.cursor();
        let input = SyncInput {
            seq: cursor,
            from_start: cursor == 0,
            ..Default::default()
        };
        let id = session.connection.start(PackageType::PtSync, &input).await;
        session.sync_id = Some(id);
        session.last_heard = Instant::now();
    }

    async fn page(&mut self, session: &mut Session, answer: Output) {
        session.sync_id = None;
        if TRY_AGAIN.contains(&answer.code) {
            tokio::time::sleep(PAUSE).await;
            return self.sync(session).await;
        }
        assert_eq!(answer.code, OK, "{answer:?}");
        let page = SyncOutput::decode(answer.data).expect("a SyncOutput");
        assert!(!page.reset, "its cursor is right: {}", self.cursor());
        for message in page.messages {
            self.take(&message);
            session.given.in_pages.insert(message.seq);
            session.given.messages.push(message);
        }
        if page.has_more {
            return self.sync(session).await;
        }
        session.synced = true;
    }

    fn take(&mut self, message: &Message) {
        self.hold(message.seq, message.message_id);
        let own_device = is_from(message, self.device.device_id);
        if message.receiver_id == self.device.user_id && !own_device {
            let mut book = open(&self.book);
            let id = message.client_message_id.clone();
            book.received.entry(id).or_insert_with(Instant::now);
        }
    }

    fn hold(&mut self, seq: i64, message_id: i64) {
        let before = self.held.insert(seq, message_id);
        let same = before.is_none_or(|known| known == message_id);
        assert!(same, "seq {seq} of {} changed (I1)", self.device.user_id);
    }

    /// The highest seq up to which it holds everything.
    fn cursor(&self) -> i64 {
        let gapless = self.held.keys().zip(1..).take_while(|(seq, n)| **seq == *n);
        gapless.count() as i64
    }
}
