//! A light chat beside a scenario: its latency alone and meanwhile shows what the scenario does to
//! devices that have nothing to do with it.

use std::sync::Arc;

use tokio::{task::JoinHandle, time::sleep};

use super::{
    Bench,
    accounts::Account,
    args::{Background, Via},
    check::{SenderOrder, Verdict},
    device::Content,
    drive::{self, Plan},
    fleet::Fleet,
    report::Report,
    tally::{Stage, get},
};
use crate::error::{Result, ResultExt as _};

const MESSAGE_BYTES: usize = 200;
/// More are under way only when the server has stopped answering.
const IN_FLIGHT_MAX: u32 = 1_024;

/// The chat, once it runs.
#[derive(Debug)]
pub struct Chatter {
    fleet: Arc<Fleet>,
    driving: JoinHandle<Result<u64>>,
}

impl Chatter {
    /// Brings `accounts` online, lets them chat alone for the time that is asked for, and goes on
    /// until `finish`; `None` when no chat is asked for.
    pub async fn start(
        bench: &Bench,
        options: &Background,
        accounts: Vec<Account>,
    ) -> Result<Option<Self>> {
        let Some(rate) = options.rate else {
            return Ok(None);
        };
        let content = Content {
            size: MESSAGE_BYTES,
            client_ids: false,
            order: SenderOrder::Kept,
        };
        let fleet = Arc::new(Fleet::connect(bench, accounts, content).await?);
        let plan = Plan {
            via: Via::Connection,
            in_flight: IN_FLIGHT_MAX,
            rate: Some(rate),
            duration: drive::FOREVER,
            sends_max: u64::MAX,
        };
        let (bench, driven) = (bench.clone(), Arc::clone(&fleet));
        let tasks = bench.tasks.clone();
        let driving = tasks.spawn(async move { drive::drive(&bench, &driven, plan).await });
        eprintln!(
            "background chat alone for {} s",
            options.before.as_secs_f64()
        );
        sleep(options.before).await;
        Ok(Some(Self { fleet, driving }))
    }

    /// Begins a stage: `Measured` while the scenario runs, `Aside` while it pauses.
    pub fn enter(&self, stage: Stage) {
        self.fleet.tally.enter(stage);
    }

    /// Ends the chat and adds what it measured; returns what the checker found.
    pub async fn finish(self, report: &mut Report) -> Result<Verdict> {
        let tally = &self.fleet.tally;
        let (before, meanwhile) = (tally.counted(Stage::Before), tally.counted(Stage::Measured));
        tally.enter(Stage::Aside);
        let latencies = [
            (
                "background_alone_acknowledged",
                before.ack_latency.summary(),
            ),
            (
                "background_alone_delivered",
                before.delivery_latency.summary(),
            ),
            (
                "background_meanwhile_acknowledged",
                meanwhile.ack_latency.summary(),
            ),
            (
                "background_meanwhile_delivered",
                meanwhile.delivery_latency.summary(),
            ),
        ];
        self.fleet.stop_sending.cancel();
        self.driving.await.internal("the background chat")??;
        let verdict = self.fleet.finish().await;
        for (name, summary) in latencies {
            report.latency(name, summary);
        }
        report.figure("background_connections_lost", get(&tally.connections_lost));
        report.verdict("background_", &verdict);
        report.failures(&tally.failures);
        Ok(verdict)
    }
}
