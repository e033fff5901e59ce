//! `im bench bridge`: what it costs that sender and receiver are on different instances. The same
//! one-to-one sends, from the first instance, to receivers there and to receivers on the others,
//! alone and under load; they take turns, so that a machine whose speed drifts treats all alike.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::value_parser;
use tokio::time::sleep;

use super::{
    Bench, Outcome,
    accounts::{self, Account},
    args::{CONTENT_MAX, CONTENT_MIN, DEVICES_MAX, Via, even, seconds},
    check::Verdict,
    device::Content,
    drive::{self, Plan},
    fleet::Fleet,
    probe::{Spent, cpu_each_us, own_usage},
    progress::Progress,
    report::{Report, round},
    stats::Summary,
    tally::{Stage, get},
};
use crate::error::{Error, Result};

/// Devices of a course that has one send at a time.
const ALONE_DEVICES: u32 = 2;
/// The time a course rests before its CPU time is read, so that its last acks are in it.
const REST: Duration = Duration::from_millis(100);

/// Options of `bridge`.
#[derive(Clone, Debug, clap::Args)]
pub struct Bridge {
    /// Devices under load, each its own user, as many again on one instance as on several; an odd
    /// number is rounded up
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(2..=DEVICES_MAX))]
    pub devices: u32,
    /// Sends under way at once under load
    #[arg(long, default_value_t = 64, value_name = "K", value_parser = value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// How messages are sent
    #[arg(long, value_enum, default_value_t = Via::Grpc)]
    pub via: Via,
    /// How often each course has its turn
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Seconds of each turn that are measured
    #[arg(long, default_value = "5", value_name = "S", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds of the same load before; checked, not measured
    #[arg(long, default_value = "1", value_name = "S", value_parser = seconds)]
    pub warm_up: Duration,
    /// Bytes of message_content
    #[arg(long, default_value_t = 200, value_name = "BYTES", value_parser = value_parser!(u32).range(CONTENT_MIN..=CONTENT_MAX))]
    pub size: u32,
}

/// Whether receivers are where their senders are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Same,
    Apart,
}

/// How many sends are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Alone,
    Loaded,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Apart => "apart",
        }
    }
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Loaded => "loaded",
        }
    }
}

/// The courses, those that are compared one after the other.
const COURSES: [(Load, Place); 4] = [
    (Load::Alone, Place::Same),
    (Load::Alone, Place::Apart),
    (Load::Loaded, Place::Same),
    (Load::Loaded, Place::Apart),
];

/// Runs the scenario.
pub async fn run(bench: &Bench, options: &Bridge) -> Result<Outcome> {
    let [same, apart] = places(bench)?;
    let loaded = even(options.devices);
    let devices = 2 * (ALONE_DEVICES + loaded);
    bench.check_open_files(devices)?;
    let mut accounts = accounts::provide(bench, devices).await?;
    let mut courses = Vec::with_capacity(COURSES.len());
    for (load, place) in COURSES {
        let (count, in_flight) = match load {
            Load::Alone => (ALONE_DEVICES, 1),
            Load::Loaded => (loaded, options.in_flight),
        };
        let bench = match place {
            Place::Same => same.clone(),
            Place::Apart => apart.clone(),
        };
        let accounts = accounts.split_off(accounts.len() - count as usize);
        courses.push(Course::begin(bench, options, (load, place), accounts, in_flight).await?);
    }
    let own_before = own_usage();
    for _ in 0..options.rounds {
        for course in &mut courses {
            course.turn(options).await?;
        }
    }
    let own_after = own_usage();

    let mut report = Report::new("bridge");
    report.figure("devices", devices);
    report.figure("in_flight", options.in_flight);
    report.figure("message_bytes", options.size);
    report.figure("rounds", options.rounds);
    let mut verdict = Verdict::default();
    for course in &courses {
        verdict.add(&course.fleet.finish().await);
    }
    report.verdict("", &verdict);
    for course in &courses {
        course.tell(&mut report);
    }
    compare(&mut report, &courses);
    report.tool(own_before, own_after);
    let mut outcome = Outcome::new(report, &[verdict]);
    for course in &courses {
        outcome.complain_of(&course.fleet.tally);
        if course.sends() == 0 {
            let name = &course.name;
            outcome.complain(format!("{name}: no message was acknowledged"));
        }
    }
    Ok(outcome)
}

/// What works with the first instance only, and what has its receivers on the others; both send
/// to the first.
fn places(bench: &Bench) -> Result<[Bench; 2]> {
    let option = bench.common.transport.option();
    let why = "two instances or more, separated by commas";
    let apart = bench.target.apart();
    let apart = apart.ok_or_else(|| Error::bad_request(option, why))?;
    Ok([bench.target.first(), apart].map(|target| Bench {
        grpc: bench.grpc.first(),
        target: target.into(),
        ..bench.clone()
    }))
}

/// One fleet with its way of sending, and what its turns measured.
struct Course {
    bench: Bench,
    load: Load,
    /// Begins its names in the report.
    name: String,
    fleet: Fleet,
    plan: Plan,
    seconds: f64,
    spent: Spent,
}

impl Course {
    async fn begin(
        bench: Bench,
        options: &Bridge,
        (load, place): (Load, Place),
        accounts: Vec<Account>,
        in_flight: u32,
    ) -> Result<Self> {
        let senders = accounts.len() as u32 / 2;
        let content = Content {
            size: options.size as usize,
            client_ids: false,
            order: drive::sender_order(options.via, in_flight, senders),
        };
        let fleet = Fleet::connect(&bench, accounts, content).await?.one_way();
        fleet.tally.enter(Stage::Aside);
        Ok(Self {
            bench,
            load,
            name: format!("{}_{}", load.name(), place.name()),
            fleet,
            plan: Plan {
                via: options.via,
                in_flight,
                rate: None,
                duration: options.duration,
                sends_max: u64::MAX,
            },
            seconds: 0.0,
            spent: Spent::default(),
        })
    }

    /// Sends for the time of one turn; nothing is under way when it returns.
    async fn turn(&mut self, options: &Bridge) -> Result<()> {
        let Self { bench, fleet, .. } = self;
        let (tally, name) = (Arc::clone(&fleet.tally), self.name.clone());
        let _progress = Progress::show(&bench.tasks, move || format!("{name}: {tally}"));
        let warm_up = Plan {
            duration: options.warm_up,
            ..self.plan
        };
        drive::drive(bench, fleet, warm_up).await?;
        fleet.settle().await;
        let before = bench.probe.read().await;
        fleet.tally.enter(Stage::Measured);
        let begun = Instant::now();
        drive::drive(bench, fleet, self.plan).await?;
        self.seconds += begun.elapsed().as_secs_f64();
        fleet.settle().await;
        sleep(REST).await;
        fleet.tally.enter(Stage::Aside);
        let after = bench.probe.read().await;
        self.spent.add(after.spent_since(&before));
        Ok(())
    }

    fn sends(&self) -> u64 {
        get(&self.fleet.tally.counted(Stage::Measured).acknowledged)
    }

    fn delivered(&self) -> Summary {
        let measured = self.fleet.tally.counted(Stage::Measured);
        measured.delivery_latency.summary()
    }

    /// Adds what was measured.
    fn tell(&self, report: &mut Report) {
        let (prefix, sends) = (format!("{}_", self.name), self.sends());
        let per_s = round(sends as f64 / self.seconds);
        report.figure(format!("{prefix}sends_per_s"), per_s);
        report.spent(&prefix, "send", &self.spent, sends);
        let measured = self.fleet.tally.counted(Stage::Measured);
        let acknowledged = measured.ack_latency.summary();
        report.latency(format!("{prefix}acknowledged"), acknowledged);
        report.latency(format!("{prefix}delivered"), self.delivered());
        report.failures(&self.fleet.tally.failures);
    }
}

/// Adds what it costs to be apart: latency, and CPU time per send of all servers together.
fn compare(report: &mut Report, courses: &[Course]) {
    for pair in courses.chunks_exact(2) {
        let [same, apart] = pair else { continue };
        let load = same.load.name();
        let (near, far) = (same.delivered(), apart.delivered());
        for (name, us) in [
            ("p50", far.p50_us - near.p50_us),
            ("p99", far.p99_us - near.p99_us),
        ] {
            report.figure(format!("{load}_apart_adds_{name}_us"), round(us));
        }
        let each = |course: &Course| cpu_each_us(course.spent.servers_s()?, course.sends());
        if let (Some(near), Some(far)) = (each(same), each(apart)) {
            let name = format!("{load}_apart_adds_server_cpu_per_send_us");
            report.figure(name, round(far - near));
        }
    }
}
