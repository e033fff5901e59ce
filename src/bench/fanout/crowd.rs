//! The devices that are online together, and a run over them: they come online, senders send,
//! everything is counted, and at the end the checker says what it thinks.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use super::{
    ledger::Ledger,
    member::{Driver, Member},
    options::{Fanout, Kind},
    send::{Habit, Path, Sender},
    shared::{Plan, Shared},
};
use crate::{
    bench::{
        Bench,
        accounts::Account,
        check::Verdict,
        client::{Connection, Target},
        open::{Opened, Opening, open_all},
        probe::{Probe, Reading, Spent, Usage, cpu_each_us, own_usage},
        progress::Progress,
        stats::Summary,
        tally::{Stage, Tally, get},
    },
    error::{Error, Result, ResultExt as _},
};

/// All devices must be subscribed within this time.
const SUBSCRIBE_DEADLINE: Duration = Duration::from_secs(30);
/// The time a second copy of a message has to show up after everything has arrived.
const SETTLE: Duration = Duration::from_millis(300);

/// Devices that are online.
#[derive(Debug)]
pub struct Crowd {
    bench: Bench,
    /// By their number.
    pub members: Vec<Arc<Member>>,
    /// What they share.
    pub shared: Arc<Shared>,
    habit: Habit,
    senders: u32,
    messages: (u32, u32),
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// From the first send to the last delivery.
    pub seconds: f64,
    /// Sends that were answered with success.
    pub sends: u64,
    /// Messages given to devices.
    pub deliveries: u64,
    /// The servers, before and after.
    pub server: (Reading, Reading),
    /// This tool, before and after.
    pub tool: (Option<Usage>, Option<Usage>),
    /// From the send to the answer.
    pub acknowledged: Summary,
    /// From the send to each device.
    pub delivered: Summary,
    /// From the send to the last device.
    pub complete: Summary,
}

impl Measured {
    /// The CPU time that was used.
    pub fn spent(&self) -> Spent {
        self.server.1.spent_since(&self.server.0)
    }

    /// The servers' CPU time for each of `operations`, in microseconds.
    pub fn cpu_each_us(&self, operations: u64) -> Option<f64> {
        cpu_each_us(self.spent().servers_s()?, operations)
    }
}

/// Brings `accounts` online, the first `websockets` of them over WebSocket.
pub async fn connect(
    bench: &Bench,
    accounts: &Arc<[Account]>,
    websockets: usize,
    websocket: &Arc<Target>,
) -> Result<Vec<Connection>> {
    let over_websocket = Bench {
        target: Arc::clone(websocket),
        ..bench.clone()
    };
    let (first, last) = accounts.split_at(websockets);
    let mut connections = Vec::with_capacity(accounts.len());
    for (bench, accounts) in [(&over_websocket, first), (bench, last)] {
        let opened = Arc::new(Opened::default());
        let some = open_all(bench, &accounts.into(), Opening::calm(bench), &opened).await?;
        if let Some((kind, count, example)) = opened.failures.list().into_iter().next() {
            let what = format!("{count} devices did not come online: {kind}; {example}");
            return Err(Error::internal(what));
        }
        connections.extend(some.into_iter().flatten());
    }
    Ok(connections)
}

impl Crowd {
    /// Lets a device live on each of `connections`; returns when all are ready to be given
    /// messages.
    pub async fn gather(
        bench: &Bench,
        options: &Fanout,
        plan: Plan,
        connections: Vec<Connection>,
    ) -> Result<Self> {
        let tally = Arc::new(Tally::new());
        let messages = (options.warm_up_messages, options.messages);
        let ledger = Ledger::new(tally.clock, options.senders, plan.receivers, messages);
        let shared = Arc::new(Shared::new(plan, tally, ledger));
        let mut members = Vec::with_capacity(connections.len());
        for (index, connection) in connections.into_iter().enumerate() {
            let member = Arc::new(Member::new(index as u32, &shared));
            let driver = Driver::new(Arc::clone(&member), connection, bench.common.heartbeat);
            bench.tasks.spawn(driver.run());
            members.push(member);
        }
        let crowd = Self {
            bench: bench.clone(),
            members,
            shared,
            habit: Habit {
                size: options.size as usize,
                until: options.until,
                grace: bench.common.grace,
            },
            senders: options.senders,
            messages,
        };
        crowd.subscribed().await?;
        Ok(crowd)
    }

    async fn subscribed(&self) -> Result<()> {
        let shared = &self.shared;
        if shared.plan.audience.kind != Kind::Room {
            return Ok(());
        }
        let all = shared.subscribed.acquire_many(self.members.len() as u32);
        let ready = tokio::select! {
            ready = timeout(SUBSCRIBE_DEADLINE, all) => ready.is_ok(),
            () = shared.stop.cancelled() => false,
        };
        if ready {
            return Ok(());
        }
        let (subscribed, all) = (shared.subscribed.available_permits(), self.members.len());
        let failures = shared.tally.failures.list();
        let why = failures
            .first()
            .map_or("no answer in time", |(kind, ..)| kind);
        let what = format!("only {subscribed} of {all} devices are in the room: {why}");
        Err(Error::internal(what))
    }

    /// Sends everything over `paths`, one for each sender, and waits until it has arrived.
    pub async fn send(&self, paths: Vec<Path>, server: &Probe) -> Result<Measured> {
        let shared = Arc::clone(&self.shared);
        let progress = Progress::show(&self.bench.tasks, move || shared.progress());
        let sender = |(index, path)| Sender::new(index as u32, path, &self.shared, self.habit);
        let senders = paths.into_iter().enumerate().map(sender).collect();
        let (warm_up, measured) = self.messages;
        let senders = self.run(senders, 0..warm_up).await?;

        let tally = &self.shared.tally;
        let before = (server.read().await, own_usage());
        tally.enter(Stage::Measured);
        let (begun, begun_ns) = (Instant::now(), tally.clock.now_ns());
        self.run(senders, warm_up..warm_up + measured).await?;
        let elapsed = match self.shared.ledger.last_delivery_ns() {
            last_ns if last_ns > begun_ns => Duration::from_nanos(last_ns - begun_ns),
            _ => begun.elapsed(),
        };
        let after = (server.read().await, own_usage());
        sleep(SETTLE).await;
        tally.enter(Stage::Aside);
        drop(progress);
        let counted = tally.counted(Stage::Measured);
        Ok(Measured {
            seconds: elapsed.as_secs_f64(),
            sends: get(&counted.acknowledged),
            deliveries: get(&counted.delivered),
            server: (before.0, after.0),
            tool: (before.1, after.1),
            acknowledged: counted.ack_latency.summary(),
            delivered: counted.delivery_latency.summary(),
            complete: self.shared.ledger.complete_latency.summary(),
        })
    }

    /// Sends the messages with these numbers; nothing is under way when it returns.
    async fn run(&self, senders: Vec<Sender>, numbers: Range<u32>) -> Result<Vec<Sender>> {
        let sending: Vec<_> = senders
            .into_iter()
            .map(|sender| self.bench.tasks.spawn(sender.run(numbers.clone())))
            .collect();
        let mut senders = Vec::with_capacity(sending.len());
        for sender in sending {
            senders.push(sender.await.internal("sending")?);
        }
        Ok(senders)
    }

    /// Says what the checker found; the connections end with the crowd.
    pub fn verdict(&self) -> Verdict {
        self.shared.verdict(&self.members, self.senders)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for member in &self.members {
            member.stop();
        }
    }
}
