//! Makes messages and sends them, one at a time for each sender, over whatever route the run uses.

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout};
use tonic::{metadata::MetadataMap, transport::Channel};

use super::{
    floor::Feeder,
    member::Member,
    options::{Kind, Until},
    shared::{Audience, Shared},
};
use crate::{
    bench::{failure::Failure, grpc, stamp::Stamp, tally::count},
    pb::{
        IntSendMessageReq, MessageType, PushToRoomReq, SendMessageReq, SenderType,
        logic_ext_client::LogicExtClient, logic_int_client::LogicIntClient,
    },
};

/// How long a sender waits after a failure, so that a busy server is not stormed.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// How one sender's messages get to the server.
#[derive(Debug)]
pub enum Path {
    /// As a device, over gRPC.
    Grpc {
        client: Box<LogicExtClient<Channel>>,
        credentials: MetadataMap,
        member: Arc<Member>,
    },
    /// As a device, over its long connection.
    Connection(Arc<Member>),
    /// As the business.
    Internal {
        client: Box<LogicIntClient<Channel>>,
        credentials: MetadataMap,
    },
    /// Not to the server but to the process that takes its place.
    Feeder(Arc<Feeder>),
}

impl Path {
    async fn send(
        &mut self,
        audience: Audience,
        sender: u32,
        content: Vec<u8>,
    ) -> Result<(), Failure> {
        match self {
            Self::Grpc {
                client,
                credentials,
                member,
            } => {
                let request = grpc::request(message(audience, content), credentials);
                let answer = client.send_message(request).await?.into_inner();
                member.replied(answer.seq);
            }
            Self::Connection(member) => {
                let answer = member.send(message(audience, content)).await?;
                member.replied(answer.seq);
            }
            Self::Internal {
                client,
                credentials,
            } if audience.kind == Kind::Room => {
                let push = PushToRoomReq {
                    room_id: audience.id,
                    message_type: MessageType::MtText.into(),
                    message_content: content.into(),
                };
                client
                    .push_to_room(grpc::request(push, credentials))
                    .await?;
            }
            Self::Internal {
                client,
                credentials,
            } => {
                let request = IntSendMessageReq {
                    sender_type: SenderType::StBusiness.into(),
                    sender_id: i64::from(sender) + 1,
                    message: Some(message(audience, content)),
                };
                client
                    .send_message(grpc::request(request, credentials))
                    .await?;
            }
            Self::Feeder(feeder) => feeder.send(audience, content).await?,
        }
        Ok(())
    }
}

fn message(audience: Audience, content: Vec<u8>) -> SendMessageReq {
    SendMessageReq {
        receiver_type: audience.kind.receiver_type().into(),
        receiver_id: audience.id,
        to_user_ids: Vec::new(),
        message_type: MessageType::MtText.into(),
        message_content: content.into(),
        send_time: 0,
        is_persist: true,
        client_message_id: String::new(),
    }
}

/// What senders do, the same for all.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// Bytes of `message_content`.
    pub size: usize,
    /// When the next message is sent.
    pub until: Until,
    /// How long nobody may be given anything while a message is under way.
    pub grace: Duration,
}

/// One sender.
#[derive(Debug)]
pub struct Sender {
    index: u32,
    path: Path,
    shared: Arc<Shared>,
    habit: Habit,
}

impl Sender {
    /// The sender with that index in stamps.
    pub fn new(index: u32, path: Path, shared: &Arc<Shared>, habit: Habit) -> Self {
        Self {
            index,
            path,
            shared: Arc::clone(shared),
            habit,
        }
    }

    /// Sends its part of the messages with these numbers and waits until all devices have them, or
    /// until something makes that senseless. Returns the sender for the next numbers.
    pub async fn run(mut self, numbers: Range<u32>) -> Self {
        let shared = Arc::clone(&self.shared);
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => {}
            () = self.send_all(numbers) => {}
        }
        self
    }

    async fn send_all(&mut self, numbers: Range<u32>) {
        let mut answered = Vec::new();
        let shared = Arc::clone(&self.shared);
        for counter in shared.ledger.counters(numbers, self.index) {
            if let Err(failure) = self.send(counter).await {
                self.failed(&failure);
                sleep(AFTER_FAILURE).await;
                continue;
            }
            match self.habit.until {
                Until::Delivered => self.await_delivery(counter).await,
                Until::Answered => answered.push(counter),
            }
        }
        for counter in answered {
            self.await_delivery(counter).await;
        }
    }

    async fn send(&mut self, counter: u32) -> Result<(), Failure> {
        let Shared { tally, ledger, .. } = &*self.shared;
        let due_ns = tally.clock.now_ns();
        let stamp = Stamp {
            run: tally.run,
            sender: self.index,
            counter,
            due_ns,
        };
        count(&tally.sent);
        ledger.begun(self.index);
        let content = stamp.content(self.habit.size);
        self.path
            .send(self.shared.plan.audience, self.index, content)
            .await?;
        ledger.acknowledged(self.index, counter);
        let counted = tally.now();
        counted
            .ack_latency
            .record(self.index, tally.clock.since(due_ns));
        count(&counted.acknowledged);
        Ok(())
    }

    fn failed(&self, failure: &Failure) {
        let kind = format_args!("send: {}", failure.kind());
        self.shared.tally.failures.count(kind, failure);
    }

    /// Waits until all devices have the message, as long as any message is given to anybody.
    /// Otherwise the run is over: one message after the other would be waited for in vain.
    async fn await_delivery(&self, counter: u32) {
        let Shared {
            tally,
            ledger,
            stop,
            overdue,
            ..
        } = &*self.shared;
        loop {
            let delivered = tally.delivered();
            let complete = ledger.until_complete(self.index, counter);
            if timeout(self.habit.grace, complete).await.is_ok() {
                return;
            }
            if tally.delivered() == delivered {
                count(overdue);
                stop.cancel();
                return;
            }
        }
    }
}
