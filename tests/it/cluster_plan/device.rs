//! A device of a plan: what it holds of its user's timeline and of the large group, its connection,
//! and what must be true of what it is given on one connection (I4).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use im::pb::{
    Message, MessageAck, NoticeCode, Output, PackageType, ReceiverType, SendMessageResp, SyncInput,
    SyncOutput,
};
use prost::Message as _;

use crate::support::{
    Api, Connection, Device, Transport,
    connection::{Heard, sent},
    errors::NOT_IN_GROUP,
    wait::within,
};

/// Longest wait for an answer; the contract promises 10 s.
const ANSWERED: Duration = Duration::from_secs(20);
const TRY_AGAIN: [i32; 2] = [10003, 10004];

/// What became of a send that was answered for good.
pub type Outcome = Option<SendMessageResp>;

/// What a device holds of a timeline: by seq, the message.
pub type Held = BTreeMap<i64, i64>;

/// A device, online or not.
pub struct Member {
    pub device: Device,
    pub user: usize,
    /// What it was given of the user's timeline, and of the large group's.
    pub held: [Held; 2],
    /// What it has the replies to.
    pub own: [Held; 2],
    pub session: Option<Session>,
    /// Sends that were answered.
    pub answered: Vec<(String, Outcome)>,
    /// Sends that may or may not have been stored.
    pub unknown: Vec<String>,
}

/// A connection of a device.
pub struct Session {
    pub connection: Connection,
    waiting: HashMap<i64, String>,
    /// Of each timeline: the last seq that was given on this connection, once it has synced.
    last: [Option<i64>; 2],
    /// The jumps in what was pushed: after which seq, to which. Only own sends explain them.
    pub jumps: [Vec<(i64, i64)>; 2],
    pub replaced: bool,
}

/// Which of the two timelines a message was given on.
fn timeline_of(message: &Message) -> usize {
    usize::from(message.receiver_type() == ReceiverType::RtLargeGroup)
}

impl Member {
    pub fn new(device: Device, user: usize) -> Self {
        Self {
            device,
            user,
            held: Default::default(),
            own: Default::default(),
            session: None,
            answered: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// The highest seq up to which it holds everything: of its user's timeline, or of the large group
    /// from where it was given something first.
    fn cursor(&self, at: usize) -> i64 {
        let first = self.held[at].keys().next().map_or(0, |seq| seq - 1);
        let mut last = if at == 0 { 0 } else { first };
        while self.holds(at, last + 1).is_some() {
            last += 1;
        }
        last
    }

    /// The message that it has at a position.
    pub fn holds(&self, at: usize, seq: i64) -> Option<i64> {
        let given = self.held[at].get(&seq);
        given.or_else(|| self.own[at].get(&seq)).copied()
    }

    /// Signs in, and syncs as after every connecting. Nothing comes of it where the database or the
    /// instance is away.
    pub async fn connect(&mut self, api: &Api, transport: Transport, large: i64) {
        let mut connection = api.open(transport).await;
        let input = self.device.sign_in_input();
        let id = connection.start(PackageType::PtSignIn, &input).await;
        let mut session = Session {
            connection,
            waiting: HashMap::new(),
            last: [None; 2],
            jumps: Default::default(),
            replaced: false,
        };
        let Some(answer) = self.listen_for(&mut session, id).await else {
            return;
        };
        if TRY_AGAIN.contains(&answer.code) {
            return;
        }
        assert_eq!(answer.code, 0, "{answer:?}");
        self.session = Some(session);
        self.sync(large).await;
    }

    /// Pulls what it lacks, page by page.
    pub async fn sync(&mut self, large: i64) {
        let Some(mut session) = self.session.take() else {
            return;
        };
        session.last = [None; 2];
        loop {
            let [own, group] = [0, 1].map(|at| self.cursor(at));
            let input = SyncInput {
                seq: own,
                from_start: own == 0,
                group_seqs: [(large, group)].into(),
                ..Default::default()
            };
            let id = session.connection.start(PackageType::PtSync, &input).await;
            let Some(answer) = self.listen_for(&mut session, id).await else {
                return self.lost(session);
            };
            if TRY_AGAIN.contains(&answer.code) {
                // It would try again; here the connection is given up instead.
                return self.lost(session);
            }
            assert_eq!(answer.code, 0, "{answer:?}");
            let page = SyncOutput::decode(answer.data).expect("a SyncOutput");
            assert!(!page.reset, "its cursor is right: {own} (I10)");
            let mut before = own;
            for message in &page.messages {
                assert_eq!(message.seq, before + 1, "a page has no gaps");
                before = message.seq;
                self.hold(message);
            }
            session.last[0] = Some(before);
            for part in &page.groups {
                assert!(!part.reset, "its cursor is right: {group} (I10)");
                if let Some(first) = part.messages.first()
                    && first.seq > group + 1
                {
                    // It was away for a while: what it held before is of a former membership.
                    self.held[1].clear();
                    self.own[1].clear();
                }
                for message in &part.messages {
                    self.hold(message);
                    session.last[1] = Some(message.seq);
                }
            }
            if !page.has_more {
                self.session = Some(session);
                return;
            }
        }
    }

    /// Starts a send and does not wait for the answer.
    pub async fn send(&mut self, id: String, request: im::pb::SendMessageReq) {
        let Some(session) = &mut self.session else {
            return;
        };
        let package = PackageType::PtSendMessage;
        let request_id = session.connection.start(package, &request).await;
        session.waiting.insert(request_id, id);
    }

    /// Takes what came so far.
    pub async fn read(&mut self) {
        let Some(mut session) = self.session.take() else {
            return;
        };
        let package = PackageType::PtHeartbeat.into();
        let id = session.connection.input(package, Vec::new()).await;
        match self.listen_for(&mut session, id).await {
            Some(_) => self.session = Some(session),
            None => self.lost(session),
        }
    }

    /// Waits until every send of this connection is answered, or the connection is gone.
    pub async fn finish_sends(&mut self) {
        while self.session.as_ref().is_some_and(|s| !s.waiting.is_empty()) {
            let Some(mut session) = self.session.take() else {
                return;
            };
            let id = *session.waiting.keys().next().expect("not empty");
            match self.listen_for(&mut session, id).await {
                Some(_) => self.session = Some(session),
                None => self.lost(session),
            }
        }
    }

    /// Says how much of its user's timeline it holds; what it said.
    pub async fn acknowledge(&mut self) -> i64 {
        let cursor = self.cursor(0);
        if let Some(session) = &mut self.session {
            let ack = MessageAck {
                device_ack: cursor,
                receive_time: 1,
                group_id: 0,
            };
            session.connection.start(PackageType::PtMessage, &ack).await;
        }
        cursor
    }

    /// The connection is gone, and with it the answers that were on their way.
    pub fn lost(&mut self, session: Session) {
        self.unknown.extend(session.waiting.into_values());
    }

    /// Takes everything that comes until the answer to `id`; `None` where the connection ends first.
    async fn listen_for(&mut self, session: &mut Session, id: i64) -> Option<Output> {
        let what = format!("an answer to {:?}", self.device);
        within(ANSWERED, &what, async {
            loop {
                match session.connection.heard().await {
                    Heard::Answer(answer) => {
                        let found = answer.request_id == id;
                        if let Some(send) = session.waiting.remove(&answer.request_id) {
                            self.sent(send, &answer);
                        }
                        if found {
                            return Some(answer);
                        }
                    }
                    Heard::Push(message) => self.pushed(session, &message),
                    Heard::Notice(notice) => {
                        session.replaced |= notice.code() == NoticeCode::NcReplaced;
                    }
                    Heard::End => return None,
                }
            }
        })
        .await
    }

    fn sent(&mut self, id: String, answer: &Output) {
        if TRY_AGAIN.contains(&answer.code) {
            return self.unknown.push(id);
        }
        let outcome = match answer.code {
            NOT_IN_GROUP => None,
            _ => Some(sent(answer)),
        };
        self.answered.push((id, outcome));
    }

    fn pushed(&mut self, session: &mut Session, message: &Message) {
        self.hold(message);
        let at = timeline_of(message);
        if let Some(before) = session.last[at] {
            let seq = message.seq;
            assert!(seq > before, "{seq} after {before} (I4)");
            if seq > before + 1 {
                session.jumps[at].push((before, seq));
            }
            session.last[at] = Some(seq);
        } else if at == 1 {
            // It has become a member since.
            session.last[at] = Some(message.seq);
        }
    }

    fn hold(&mut self, message: &Message) {
        let held = &mut self.held[timeline_of(message)];
        let before = held.insert(message.seq, message.message_id);
        let same = before.is_none_or(|known| known == message.message_id);
        assert!(same, "seq {} changed (I1)", message.seq);
    }
}

/// Reads an older connection of the device to its end.
pub async fn read_to_end(member: &mut Member, mut session: Session) -> bool {
    let ended = member.listen_for(&mut session, i64::MAX).await;
    assert!(ended.is_none(), "nobody asked for that");
    let replaced = session.replaced;
    member.lost(session);
    replaced
}
