//! One device that pulls its whole timeline.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message as _;
use tokio::time::timeout;

use super::{check::Inbox, client::Connection, failure::Failure, stats::Latencies};
use crate::pb::{PackageType, SyncInput, SyncOutput};

/// A page must come within this time.
const PAGE_DEADLINE: Duration = Duration::from_secs(60);

/// Pulls over one connection.
#[derive(Debug)]
pub struct Puller {
    connection: Connection,
    inbox: Inbox,
    pages: Arc<Latencies>,
    epoch: i64,
    held: i64,
}

impl Puller {
    /// Will pull into `inbox` and record in `pages` how long each took.
    pub fn new(connection: Connection, inbox: Inbox, pages: Arc<Latencies>) -> Self {
        Self {
            connection,
            inbox,
            pages,
            epoch: 0,
            held: 0,
        }
    }

    /// Pulls everything; returns the inbox and how long it took.
    pub async fn run(mut self) -> Result<(Inbox, Duration), Failure> {
        let begun = Instant::now();
        let mut number = 1;
        while self.page(number).await? {
            number += 1;
        }
        Ok((self.inbox, begun.elapsed()))
    }

    /// Pulls one page; true when there is more.
    async fn page(&mut self, number: i64) -> Result<bool, Failure> {
        let input = SyncInput {
            seq: self.held,
            from_start: self.held == 0,
            epoch: self.epoch,
            ..SyncInput::default()
        };
        let begun = Instant::now();
        self.connection
            .queue(PackageType::PtSync, number, input.encode_to_vec());
        let page = timeout(PAGE_DEADLINE, self.answer(number)).await;
        let page = page.unwrap_or_else(|_| Err(Failure::deadline("sync")))?;
        self.pages.record(number as u32, begun.elapsed());
        if page.reset {
            return Err(Failure::protocol(
                "reset of a device that holds what it was given",
            ));
        }
        if page.has_more && page.messages.is_empty() {
            return Err(Failure::protocol("an empty page that is not the last"));
        }
        self.epoch = page.epoch;
        for message in page.messages {
            self.inbox
                .given(message.receiver_id, message.seq, &message.message_content);
            self.held = message.seq;
        }
        Ok(page.has_more)
    }

    async fn answer(&mut self, number: i64) -> Result<SyncOutput, Failure> {
        loop {
            let output = self.connection.next().await?;
            if output.request_id != number || output.r#type() != PackageType::PtSync {
                continue;
            }
            if output.code != 0 {
                return Err(Failure::answer(output.code, output.message));
            }
            return SyncOutput::decode(output.data)
                .map_err(|_| Failure::protocol("bad SyncOutput"));
        }
    }
}
