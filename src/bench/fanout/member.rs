//! One device of those messages are sent to: it subscribes where there is a room, receives, checks
//! and acknowledges, and sends where it is asked to. One connection is one task.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    options::Kind,
    shared::{Audience, Shared},
};
use crate::{
    bench::{
        check::{Arrival, Inbox, SenderOrder, Verdict},
        client::Connection,
        failure::Failure,
        grpc::CALL_DEADLINE,
        ranges::Ranges,
        stats::lock,
        tally::count,
    },
    pb::{self, Output, PackageType, SendMessageReq, SendMessageResp},
};

/// The `request_id` of everything but sends, which are counted from 1.
const OTHER_REQUEST: i64 = 0;

/// Whoever waits for the answer to a send.
type Waiting = oneshot::Sender<Result<SendMessageResp, Failure>>;

/// A send that the connection's task is asked for.
#[derive(Debug)]
struct Ask {
    message: SendMessageReq,
    waiting: Waiting,
}

/// One device.
#[derive(Debug)]
pub struct Member {
    index: u32,
    shared: Arc<Shared>,
    inbox: Mutex<Inbox>,
    ask: Mutex<Option<Ask>>,
    wake: Notify,
    stop: AtomicBool,
    closed: AtomicBool,
}

impl Member {
    /// A device that was given nothing.
    pub fn new(index: u32, shared: &Arc<Shared>) -> Self {
        let inbox = Inbox::new(shared.plan.audience.id, shared.tally.run, SenderOrder::Kept);
        Self {
            index,
            shared: Arc::clone(shared),
            inbox: Mutex::new(inbox),
            ask: Mutex::new(None),
            wake: Notify::new(),
            stop: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// True when its connection has ended before it should.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Ends the connection.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Sends over the connection; one at a time.
    pub async fn send(&self, message: SendMessageReq) -> Result<SendMessageResp, Failure> {
        let (waiting, answered) = oneshot::channel();
        *lock(&self.ask) = Some(Ask { message, waiting });
        self.wake.notify_one();
        match timeout(CALL_DEADLINE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::closed("before the answer to a send")),
            Err(_) => {
                count(&self.shared.tally.unanswered);
                Err(Failure::deadline("send"))
            }
        }
    }

    /// Notes the position that one of its own sends was given; 0: none.
    pub fn replied(&self, seq: i64) {
        lock(&self.inbox).replied(seq);
    }

    /// How many of the acknowledged sends of another `sender` have not arrived here.
    pub fn lacks(&self, sender: u32, acknowledged: &Ranges) -> u64 {
        match self.is_own(sender) {
            true => 0,
            false => lock(&self.inbox).lacks(sender, acknowledged),
        }
    }

    /// Adds what it was given.
    pub fn add_to(&self, verdict: &mut Verdict) {
        let failed = match self.shared.plan.devices_send {
            true => self.shared.ledger.sent(self.index).1,
            false => 0,
        };
        verdict.add_inbox(&lock(&self.inbox), failed);
    }

    fn is_own(&self, sender: u32) -> bool {
        self.shared.plan.devices_send && sender == self.index
    }
}

/// The task of one device.
#[derive(Debug)]
pub struct Driver {
    member: Arc<Member>,
    connection: Connection,
    heartbeat_every: Duration,
    /// The number of the last send, and who waits for its answer.
    sent: i64,
    waiting: Option<Waiting>,
    unacknowledged: u32,
    notice: Option<pb::NoticeCode>,
}

impl Driver {
    /// Drives `member` over `connection`.
    pub fn new(member: Arc<Member>, connection: Connection, heartbeat_every: Duration) -> Self {
        Self {
            member,
            connection,
            heartbeat_every,
            sent: 0,
            waiting: None,
            unacknowledged: 0,
            notice: None,
        }
    }

    /// Runs until the device is stopped or the connection ends.
    pub async fn run(mut self) {
        let Err(failure) = self.live().await else {
            return;
        };
        let shared = &self.member.shared;
        self.member.closed.store(true, Ordering::Relaxed);
        count(&shared.tally.connections_lost);
        let failure = match self.notice {
            Some(notice) => &Failure::closed(notice.as_str_name()),
            None => &failure,
        };
        shared.tally.failures.count(failure.kind(), failure);
        shared.stop.cancel();
    }

    async fn live(&mut self) -> Result<(), Failure> {
        let member = Arc::clone(&self.member);
        self.subscribe();
        // Spread, or thousands that came online together would beat together.
        let first = self.heartbeat_every.mul_f64(rand::random());
        let mut heartbeat: Pin<Box<Sleep>> = Box::pin(sleep(first));
        while !member.stop.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                () = member.wake.notified() => self.send_what_is_asked(),
                turned = self.connection.turn() => {
                    turned?;
                    while let Some(output) = self.connection.take()? {
                        self.handle(output)?;
                    }
                }
                () = &mut heartbeat => {
                    self.queue(PackageType::PtHeartbeat, &());
                    count(&member.shared.tally.heartbeats);
                    heartbeat.as_mut().reset(Instant::now() + self.heartbeat_every);
                }
            }
        }
        Ok(())
    }

    fn queue(&mut self, package: PackageType, data: &impl prost::Message) {
        self.connection
            .queue(package, OTHER_REQUEST, data.encode_to_vec());
    }

    fn subscribe(&mut self) {
        let Audience { kind, id } = self.member.shared.plan.audience;
        if kind == Kind::Room {
            let input = pb::SubscribeRoomInput { room_id: id };
            self.queue(PackageType::PtSubscribeRoom, &input);
        }
    }

    fn send_what_is_asked(&mut self) {
        let Some(Ask { message, waiting }) = lock(&self.member.ask).take() else {
            return;
        };
        self.sent += 1;
        self.waiting = Some(waiting);
        let data = message.encode_to_vec();
        self.connection
            .queue(PackageType::PtSendMessage, self.sent, data);
    }

    fn handle(&mut self, output: Output) -> Result<(), Failure> {
        let shared = &self.member.shared;
        match output.r#type() {
            PackageType::PtMessage if output.code == 0 => self.given(output)?,
            PackageType::PtSendMessage => self.answered(output)?,
            PackageType::PtSubscribeRoom if output.code == 0 => shared.subscribed.add_permits(1),
            PackageType::PtHeartbeat => count(&shared.tally.heartbeats_answered),
            PackageType::PtNotice => {
                let notice = pb::Notice::decode(output.data);
                self.notice = notice.ok().map(|notice| notice.code());
            }
            _ => {
                let failure = Failure::answer(output.code, output.message);
                shared.tally.failures.count(failure.kind(), &failure);
                shared.stop.cancel();
            }
        }
        Ok(())
    }

    fn given(&mut self, output: Output) -> Result<(), Failure> {
        let message = pb::MessageSend::decode(output.data)
            .ok()
            .and_then(|push| push.message);
        let message = message.ok_or_else(|| Failure::protocol("bad MessageSend"))?;
        let member = &self.member;
        let shared = &member.shared;
        let (to, seq) = shared.plan.audience.place(&message);
        let (arrival, held) = {
            let mut inbox = lock(&member.inbox);
            let arrival = inbox.given(to, seq, &message.message_content);
            (arrival, inbox.seqs().held())
        };
        match arrival {
            Arrival::New(stamp) if member.is_own(stamp.sender) => count(&shared.echoes),
            Arrival::New(stamp) => {
                let counted = shared.tally.now();
                let latency = shared.tally.clock.since(stamp.due_ns);
                counted.delivery_latency.record(member.index, latency);
                count(&counted.delivered);
                shared.ledger.delivered(&stamp);
            }
            Arrival::Repeated | Arrival::Foreign => {}
        }
        self.acknowledge(held, message.send_time);
        Ok(())
    }

    fn acknowledge(&mut self, held: Option<i64>, receive_time: i64) {
        let shared = &self.member.shared;
        let (Some(device_ack), 1..) = (held, shared.plan.ack_every) else {
            return;
        };
        self.unacknowledged += 1;
        if self.unacknowledged < shared.plan.ack_every {
            return;
        }
        self.unacknowledged = 0;
        let ack = pb::MessageAck {
            device_ack,
            receive_time,
            group_id: match shared.plan.audience.kind {
                Kind::Large => shared.plan.audience.id,
                Kind::Small | Kind::Room => 0,
            },
        };
        self.queue(PackageType::PtMessage, &ack);
    }

    /// The answer to an earlier send, which was given up, is not waited for any more.
    fn answered(&mut self, output: Output) -> Result<(), Failure> {
        let is_last = output.request_id == self.sent;
        let Some(waiting) = self.waiting.take_if(|_| is_last) else {
            return Ok(());
        };
        let answer = match output.code {
            0 => Ok(SendMessageResp::decode(output.data)
                .map_err(|_| Failure::protocol("bad SendMessageResp"))?),
            code => Err(Failure::answer(code, output.message)),
        };
        // Whoever asked may have ended.
        let _ = waiting.send(answer);
        Ok(())
    }
}
