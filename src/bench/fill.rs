//! Puts messages into the timelines of users who are away: many senders over gRPC, each with one
//! send at a time, so that each sender's messages are in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tonic::metadata::MetadataMap;

use super::{
    Bench,
    accounts::Account,
    args::Sync,
    failure::Failure,
    grpc::{self, Grpc},
    progress::Progress,
    stamp::Stamp,
    tally::{count, get},
};
use crate::{
    error::{Error, Result, ResultExt as _},
    pb::{MessageType, ReceiverType, SendMessageReq},
};

/// How often one send is tried; a retry bears the same `client_message_id`.
const ATTEMPTS_MAX: u32 = 8;
/// The wait before the second attempt; it grows with each.
const BACKOFF: Duration = Duration::from_millis(100);

/// How many messages go where.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    run: u32,
    receivers: u32,
    senders: u32,
    messages: u32,
    size: usize,
}

impl Fill {
    /// What `options` ask for, in the run `run`.
    pub fn new(options: &Sync, run: u32) -> Self {
        Self {
            run,
            receivers: options.devices,
            senders: options.in_flight.min(options.messages),
            messages: options.messages,
            size: options.size as usize,
        }
    }

    /// The run the messages belong to.
    pub fn run_id(&self) -> u32 {
        self.run
    }

    /// Messages in all.
    pub fn total(&self) -> u64 {
        u64::from(self.receivers) * u64::from(self.messages)
    }

    /// Every sender and how many messages each receiver gets from it.
    pub fn quotas(&self) -> impl Iterator<Item = (u32, u32)> {
        let Self {
            senders, messages, ..
        } = *self;
        let quota = move |sender| messages / senders + u32::from(sender < messages % senders);
        (0..senders).map(move |sender| (sender, quota(sender)))
    }

    /// Sends everything; fails unless all of it was acknowledged.
    pub async fn run(
        &self,
        bench: &Bench,
        receivers: &Arc<[Account]>,
        senders: Vec<Account>,
    ) -> Result<()> {
        let sent = Arc::new(AtomicU64::new(0));
        let (shown, total) = (Arc::clone(&sent), self.total());
        let _progress = Progress::show(&bench.tasks, move || {
            format!("filling timelines: {} of {total}", get(&shown))
        });
        let mut workers = Vec::with_capacity(senders.len());
        for ((sender, quota), account) in self.quotas().zip(&senders) {
            let filler = Filler {
                fill: *self,
                sender,
                quota,
                credentials: grpc::credentials(account)?,
                grpc: bench.grpc.clone(),
                receivers: Arc::clone(receivers),
                sent: Arc::clone(&sent),
            };
            workers.push(bench.tasks.spawn(filler.run()));
        }
        for worker in workers {
            let result = worker.await.internal("filling timelines")?;
            result.map_err(|failure| Error::internal(format!("filling timelines: {failure}")))?;
        }
        match sent.load(Ordering::Relaxed) {
            sent if sent == self.total() => Ok(()),
            sent => Err(Error::internal(format!("only {sent} of {total} were sent"))),
        }
    }
}

struct Filler {
    fill: Fill,
    sender: u32,
    quota: u32,
    credentials: MetadataMap,
    grpc: Grpc,
    receivers: Arc<[Account]>,
    sent: Arc<AtomicU64>,
}

impl Filler {
    async fn run(self) -> Result<(), Failure> {
        // Senders begin at different receivers.
        let start = self.sender as usize % self.receivers.len();
        for counter in 1..=self.quota {
            let (last, first) = self.receivers.split_at(start);
            for receiver in first.iter().chain(last) {
                self.send(counter, receiver.user_id).await?;
                count(&self.sent);
            }
        }
        Ok(())
    }

    async fn send(&self, counter: u32, receiver_id: i64) -> Result<(), Failure> {
        let stamp = Stamp {
            run: self.fill.run,
            sender: self.sender,
            counter,
            due_ns: 0,
        };
        let message = SendMessageReq {
            receiver_type: ReceiverType::RtUser.into(),
            receiver_id,
            to_user_ids: Vec::new(),
            message_type: MessageType::MtText.into(),
            message_content: stamp.content(self.fill.size).into(),
            send_time: 0,
            is_persist: true,
            client_message_id: format!("{:08x}-{counter}-{receiver_id}", stamp.run),
        };
        let mut client = self.grpc.logic(self.sender as usize);
        for attempt in 1..ATTEMPTS_MAX {
            let request = grpc::request(message.clone(), &self.credentials);
            if client.send_message(request).await.is_ok() {
                return Ok(());
            }
            sleep(BACKOFF * attempt).await;
        }
        client
            .send_message(grpc::request(message, &self.credentials))
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_add_up_to_the_messages() {
        for (messages, in_flight) in [(0, 4), (1, 4), (10, 4), (10, 10), (1000, 7)] {
            let fill = Fill {
                run: 0,
                receivers: 3,
                senders: in_flight.min(messages),
                messages,
                size: 100,
            };
            let sum: u32 = fill.quotas().map(|(_, quota)| quota).sum();
            assert_eq!(sum, messages);
            assert!(fill.quotas().all(|(_, quota)| quota > 0));
        }
    }
}
