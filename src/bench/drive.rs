//! Makes a fleet send: on a schedule (open loop, latency counts from when a send was due) or as
//! fast as answers come (closed loop), over gRPC or over the devices' own connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

use super::{
    Bench,
    args::Via,
    check::SenderOrder,
    device::Device,
    failure::Failure,
    fleet::Fleet,
    grpc::{self, CALL_DEADLINE, Grpc},
    tally::{Clock, count},
};
use crate::error::{Result, ResultExt as _};

/// A timer fires up to this late by itself; that is not held against the server.
const TIMER_SLACK_NS: u64 = 2_000_000;
/// How long a sender waits after a failure, so that a busy server is not stormed.
const AFTER_FAILURE: Duration = Duration::from_millis(10);

/// A duration no run reaches.
pub const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a fleet sends.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Over what.
    pub via: Via,
    /// Sends under way at once, in all.
    pub in_flight: u32,
    /// Sends a second; `None`: as fast as answers come.
    pub rate: Option<f64>,
    /// No send is begun after this time.
    pub duration: Duration,
    /// No more sends than this.
    pub sends_max: u64,
}

/// When sends are due, shared by all who send.
#[derive(Debug)]
struct Schedule {
    clock: Clock,
    start_ns: u64,
    end_ns: u64,
    interval_ns: Option<f64>,
    sends_max: u64,
    next: AtomicU64,
    stop: CancellationToken,
}

impl Schedule {
    fn new(plan: &Plan, fleet: &Fleet) -> Self {
        let clock = fleet.tally.clock;
        let start_ns = clock.now_ns();
        Self {
            clock,
            start_ns,
            end_ns: start_ns + plan.duration.as_nanos() as u64,
            interval_ns: plan.rate.map(|rate| 1e9 / rate),
            sends_max: plan.sends_max,
            next: AtomicU64::new(0),
            stop: fleet.stop_sending.clone(),
        }
    }

    /// Waits until the next send is due and says when that was; `None` at the end.
    async fn due(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number >= self.sends_max || self.stop.is_cancelled() {
            return None;
        }
        let Some(interval_ns) = self.interval_ns else {
            let now_ns = self.clock.now_ns();
            return (now_ns < self.end_ns).then_some(now_ns);
        };
        let scheduled_ns = self.start_ns + (number as f64 * interval_ns) as u64;
        if scheduled_ns >= self.end_ns {
            return None;
        }
        if scheduled_ns > self.clock.now_ns() {
            tokio::select! {
                () = sleep_until(self.clock.moment(scheduled_ns)) => {}
                () = self.stop.cancelled() => return None,
            }
        }
        let now_ns = self.clock.now_ns();
        (now_ns < self.end_ns).then(|| now_ns.min(scheduled_ns + TIMER_SLACK_NS))
    }

    /// How many sends should have been begun by the end.
    fn wanted(&self) -> u64 {
        let on_schedule = self.interval_ns.map_or(0.0, |interval_ns| {
            ((self.end_ns - self.start_ns) as f64 / interval_ns).floor()
        });
        self.sends_max.min(on_schedule as u64)
    }
}

/// Whether the messages of one sender come in the order they were begun: over gRPC only while a
/// sender has one at a time.
pub fn sender_order(via: Via, in_flight: u32, devices: u32) -> SenderOrder {
    match via {
        Via::Connection => SenderOrder::Kept,
        Via::Grpc if in_flight <= devices => SenderOrder::Kept,
        Via::Grpc => SenderOrder::Free,
    }
}

/// Sends by `plan` and waits for the answers; returns how many sends of the schedule were never
/// begun, because too many before them were not answered.
pub async fn drive(bench: &Bench, fleet: &Fleet, plan: Plan) -> Result<u64> {
    let sent_before = fleet.tally.sent.load(Ordering::Relaxed);
    let schedule = Arc::new(Schedule::new(&plan, fleet));
    match plan.via {
        Via::Grpc => call(bench, fleet, &plan, &schedule).await?,
        Via::Connection => pace(fleet, &plan, &schedule).await,
    }
    let sent = fleet.tally.sent.load(Ordering::Relaxed) - sent_before;
    Ok(schedule.wanted().saturating_sub(sent))
}

/// Hands out credits to the devices, one after the other, as long as few enough are unanswered.
async fn pace(fleet: &Fleet, plan: &Plan, schedule: &Schedule) {
    let clock = schedule.clock;
    let end = clock.moment(schedule.end_ns);
    let mut failures_seen = fleet.tally.failures.total();
    fleet.answered.add_permits(plan.in_flight as usize);
    let mut devices = fleet.senders.iter().cycle();
    while let Some(due_ns) = schedule.due().await {
        let Ok(Ok(permit)) = timeout_at(end, fleet.answered.acquire()).await else {
            break;
        };
        let all = fleet.senders.len();
        let Some(device) = devices
            .by_ref()
            .take(all)
            .find(|device| !device.is_closed())
        else {
            break;
        };
        permit.forget();
        match plan.rate {
            Some(_) => device.credit(due_ns),
            None => device.credit(clock.now_ns()),
        }
        let failures = fleet.tally.failures.total();
        if failures > failures_seen {
            failures_seen = failures;
            sleep(AFTER_FAILURE).await;
        }
    }
    finish_sends(fleet, plan).await;
}

/// Waits for the last answers. What is not answered by the deadline has failed; the next plan
/// begins with its own permits.
async fn finish_sends(fleet: &Fleet, plan: &Plan) {
    let all = fleet.answered.acquire_many(plan.in_flight);
    drop(timeout(CALL_DEADLINE, all).await);
    let in_flight = plan.in_flight as usize;
    let answered = fleet.answered.forget_permits(in_flight);
    let failure = Failure::deadline("send");
    for _ in answered..in_flight {
        fleet.tally.failures.count(failure.kind(), &failure);
        count(&fleet.tally.unanswered);
    }
}

/// Runs `in_flight` loops that each make one call at a time.
async fn call(bench: &Bench, fleet: &Fleet, plan: &Plan, schedule: &Arc<Schedule>) -> Result<()> {
    let mut workers = Vec::with_capacity(plan.in_flight as usize);
    for number in 0..plan.in_flight as usize {
        let worker = Caller {
            number,
            grpc: bench.grpc.clone(),
            senders: senders(&fleet.senders, number, plan.in_flight as usize)?,
        };
        let schedule = Arc::clone(schedule);
        workers.push(
            bench
                .tasks
                .spawn(async move { worker.run(&schedule).await }),
        );
    }
    for worker in workers {
        worker.await.internal("sending")?;
    }
    Ok(())
}

/// The devices the worker `number` of `workers` sends for: its own where there are enough.
fn senders(
    devices: &[Arc<Device>],
    number: usize,
    workers: usize,
) -> Result<Vec<(Arc<Device>, MetadataMap)>> {
    let own = devices.iter().skip(number % devices.len()).step_by(workers);
    own.map(|device| Ok((Arc::clone(device), grpc::credentials(&device.account)?)))
        .collect()
}

struct Caller {
    number: usize,
    grpc: Grpc,
    senders: Vec<(Arc<Device>, MetadataMap)>,
}

impl Caller {
    async fn run(self, schedule: &Schedule) {
        let mut client = self.grpc.logic(self.number);
        for (device, credentials) in self.senders.iter().cycle() {
            let Some(due_ns) = schedule.due().await else {
                return;
            };
            let (counter, message) = device.begin_send(due_ns);
            let request = grpc::request(message, credentials);
            match client.send_message(request).await {
                Ok(answer) => device.send_answered(counter, due_ns, answer.get_ref()),
                Err(status) => {
                    device.send_failed(&Failure::from(status));
                    sleep(AFTER_FAILURE).await;
                }
            }
        }
    }
}
