//! One device of a fleet: what it has sent and was given, and the task that keeps its connection.
//! Sends over the connection are asked for by credits; sends over gRPC are made elsewhere
//! (`drive`) and only noted here.

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prost::Message as _;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, Sleep, sleep},
};

use super::{
    accounts::Account,
    check::{Arrival, Inbox, SenderOrder, Verdict},
    client::Connection,
    failure::Failure,
    ranges::Ranges,
    stamp::Stamp,
    stats::lock,
    tally::{Tally, count},
};
use crate::pb::{self, Output, PackageType, SendMessageReq, SendMessageResp};

/// Messages a device receives before it acknowledges them.
const ACK_EVERY: u32 = 32;

/// What messages look like.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Bytes of `message_content`.
    pub size: usize,
    /// Whether messages bear a `client_message_id`.
    pub client_ids: bool,
    /// Whether one device's messages must arrive in the order of their counters.
    pub order: SenderOrder,
}

/// What a device has sent.
#[derive(Debug, Default)]
struct Sends {
    begun: u32,
    acknowledged: Ranges,
}

/// Sends asked for, each with the time it is due.
#[derive(Debug, Default)]
struct Lane {
    credits: Mutex<VecDeque<u64>>,
    wake: Notify,
    stop: AtomicBool,
}

/// One device: its user talks to one other user of the fleet.
#[derive(Debug)]
pub struct Device {
    /// Its place in the fleet.
    pub index: u32,
    /// Who it is.
    pub account: Account,
    peer_user_id: i64,
    content: Content,
    tally: Arc<Tally>,
    /// One permit per answered send over the connection.
    answered: Arc<Semaphore>,
    inbox: Mutex<Inbox>,
    sends: Mutex<Sends>,
    lane: Lane,
    closed: AtomicBool,
}

impl Device {
    /// A device that has sent and received nothing.
    pub fn new(
        index: u32,
        account: Account,
        peer_user_id: i64,
        content: Content,
        (tally, answered): (&Arc<Tally>, &Arc<Semaphore>),
    ) -> Self {
        let inbox = Inbox::new(account.user_id, tally.run, content.order);
        Self {
            index,
            account,
            peer_user_id,
            content,
            tally: Arc::clone(tally),
            answered: Arc::clone(answered),
            inbox: Mutex::new(inbox),
            sends: Mutex::default(),
            lane: Lane::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// True when its connection has ended before it should.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Asks for one send over the connection, due at `due_ns`.
    pub fn credit(&self, due_ns: u64) {
        lock(&self.lane.credits).push_back(due_ns);
        self.lane.wake.notify_one();
    }

    /// Ends the connection.
    pub fn stop(&self) {
        self.lane.stop.store(true, Ordering::Relaxed);
        self.lane.wake.notify_one();
    }

    /// The next message to the peer, and its counter.
    pub fn begin_send(&self, due_ns: u64) -> (u32, SendMessageReq) {
        count(&self.tally.sent);
        let counter = {
            let mut sends = lock(&self.sends);
            sends.begun += 1;
            sends.begun
        };
        let stamp = Stamp {
            run: self.tally.run,
            sender: self.index,
            counter,
            due_ns,
        };
        let client_message_id = match self.content.client_ids {
            true => format!("{:08x}-{counter}", stamp.run),
            false => String::new(),
        };
        let request = SendMessageReq {
            receiver_type: pb::ReceiverType::RtUser.into(),
            receiver_id: self.peer_user_id,
            to_user_ids: Vec::new(),
            message_type: pb::MessageType::MtText.into(),
            message_content: stamp.content(self.content.size).into(),
            send_time: 0,
            is_persist: true,
            client_message_id,
        };
        (counter, request)
    }

    /// Notes the answer to a send.
    pub fn send_answered(&self, counter: u32, due_ns: u64, answer: &SendMessageResp) {
        let counted = self.tally.now();
        counted
            .ack_latency
            .record(self.index, self.tally.clock.since(due_ns));
        count(&counted.acknowledged);
        lock(&self.sends).acknowledged.insert(counter.into());
        lock(&self.inbox).replied(answer.seq);
    }

    /// Notes that a send failed; it may have been stored all the same.
    pub fn send_failed(&self, failure: &Failure) {
        self.tally
            .failures
            .count(format_args!("send: {}", failure.kind()), failure);
    }

    /// How many of the acknowledged sends of `sender` have not arrived here.
    pub fn lacks(&self, sender: &Self) -> u64 {
        let acknowledged = lock(&sender.sends).acknowledged.clone();
        lock(&self.inbox).lacks(sender.index, &acknowledged)
    }

    /// Adds what it sent and was given.
    pub fn add_to(&self, verdict: &mut Verdict) {
        let sends = lock(&self.sends);
        let acknowledged = sends.acknowledged.len();
        let unanswered = u64::from(sends.begun) - acknowledged;
        verdict.acknowledged += acknowledged;
        verdict.failed += unanswered;
        verdict.add_inbox(&lock(&self.inbox), unanswered);
    }
}

/// A send over the connection that is not answered yet.
#[derive(Debug)]
struct Pending {
    counter: u32,
    due_ns: u64,
}

/// The task of one device: reads, acknowledges, sends what credits ask for, beats.
#[derive(Debug)]
pub struct Driver {
    device: Arc<Device>,
    connection: Connection,
    heartbeat_every: Duration,
    pending: VecDeque<Pending>,
    unacknowledged: u32,
    notice: Option<pb::NoticeCode>,
}

impl Driver {
    /// Drives `device` over `connection`.
    pub fn new(device: Arc<Device>, connection: Connection, heartbeat_every: Duration) -> Self {
        Self {
            device,
            connection,
            heartbeat_every,
            pending: VecDeque::new(),
            unacknowledged: 0,
            notice: None,
        }
    }

    /// Runs until the device is stopped or the connection ends.
    pub async fn run(mut self) {
        if let Err(failure) = self.live().await {
            self.ended(&failure);
        }
    }

    async fn live(&mut self) -> Result<(), Failure> {
        let device = Arc::clone(&self.device);
        // Spread, or thousands that signed in together would beat together.
        let first = self.heartbeat_every.mul_f64(rand::random());
        let mut heartbeat: Pin<Box<Sleep>> = Box::pin(sleep(first));
        while !device.lane.stop.load(Ordering::Relaxed) {
            tokio::select! {
                biased;
                () = device.lane.wake.notified() => self.send_credits(),
                turned = self.connection.turn() => {
                    turned?;
                    while let Some(output) = self.connection.take()? {
                        self.handle(output)?;
                    }
                }
                () = &mut heartbeat => {
                    self.connection.queue(PackageType::PtHeartbeat, 0, Vec::new());
                    count(&device.tally.heartbeats);
                    heartbeat.as_mut().reset(Instant::now() + self.heartbeat_every);
                }
            }
        }
        Ok(())
    }

    /// Everything asked for goes out in one write.
    fn send_credits(&mut self) {
        let credits = mem::take(&mut *lock(&self.device.lane.credits));
        for due_ns in credits {
            let (counter, request) = self.device.begin_send(due_ns);
            self.connection.queue(
                PackageType::PtSendMessage,
                counter.into(),
                request.encode_to_vec(),
            );
            self.pending.push_back(Pending { counter, due_ns });
        }
    }

    fn handle(&mut self, output: Output) -> Result<(), Failure> {
        let tally = &self.device.tally;
        match output.r#type() {
            PackageType::PtMessage if output.code == 0 => self.given(output)?,
            PackageType::PtSendMessage => self.answered(output)?,
            PackageType::PtHeartbeat => count(&tally.heartbeats_answered),
            PackageType::PtNotice => {
                let notice = pb::Notice::decode(output.data);
                self.notice = notice.ok().map(|notice| notice.code());
            }
            _ => {
                let failure = Failure::answer(output.code, output.message);
                tally.failures.count(failure.kind(), &failure);
            }
        }
        Ok(())
    }

    fn given(&mut self, output: Output) -> Result<(), Failure> {
        let message = pb::MessageSend::decode(output.data)
            .ok()
            .and_then(|push| push.message);
        let message = message.ok_or_else(|| Failure::protocol("bad MessageSend"))?;
        let (arrival, held) = {
            let mut inbox = lock(&self.device.inbox);
            let (to, seq) = (message.receiver_id, message.seq);
            let arrival = inbox.given(to, seq, &message.message_content);
            (arrival, inbox.seqs().held())
        };
        if let Arrival::New(stamp) = arrival {
            let tally = &self.device.tally;
            let counted = tally.now();
            counted
                .delivery_latency
                .record(self.device.index, tally.clock.since(stamp.due_ns));
            count(&counted.delivered);
        }
        self.unacknowledged += 1;
        if self.unacknowledged >= ACK_EVERY {
            self.unacknowledged = 0;
            let ack = pb::MessageAck {
                device_ack: held.unwrap_or(0),
                receive_time: message.send_time,
                group_id: 0,
            };
            self.connection
                .queue(PackageType::PtMessage, 0, ack.encode_to_vec());
        }
        Ok(())
    }

    fn answered(&mut self, output: Output) -> Result<(), Failure> {
        let same = |pending: &Pending| i64::from(pending.counter) == output.request_id;
        let at = self.pending.iter().position(same);
        let Some(pending) = at.and_then(|at| self.pending.remove(at)) else {
            return Err(Failure::protocol("answer to no send"));
        };
        self.device.answered.add_permits(1);
        if output.code != 0 {
            self.device
                .send_failed(&Failure::answer(output.code, output.message));
            return Ok(());
        }
        let answer = SendMessageResp::decode(output.data);
        let answer = answer.map_err(|_| Failure::protocol("bad SendMessageResp"))?;
        self.device
            .send_answered(pending.counter, pending.due_ns, &answer);
        Ok(())
    }

    /// The connection ended: whoever waits for answers is let go.
    fn ended(&mut self, failure: &Failure) {
        let device = &self.device;
        device.closed.store(true, Ordering::Relaxed);
        count(&device.tally.connections_lost);
        let failure = match self.notice {
            Some(notice) => &Failure::closed(notice.as_str_name()),
            None => failure,
        };
        device.tally.failures.count(failure.kind(), failure);
        let unsent = mem::take(&mut *lock(&device.lane.credits)).len();
        device.answered.add_permits(self.pending.len() + unsent);
    }
}
