//! `im bench chat`: pairs of online users send each other stored messages; everything is checked.

use std::{sync::Arc, time::Instant};

use super::{
    Bench, Outcome, accounts,
    args::{Chat, even},
    device::Content,
    drive::{self, Plan},
    fleet::Fleet,
    probe::own_usage,
    progress::Progress,
    report::{Report, round},
    tally::{Stage, get},
};
use crate::error::Result;

/// Runs the scenario.
pub async fn run(bench: &Bench, options: &Chat) -> Result<Outcome> {
    let devices = even(options.devices);
    bench.check_open_files(devices)?;
    let accounts = accounts::provide(bench, devices).await?;
    let content = Content {
        size: options.size as usize,
        client_ids: options.client_ids,
        order: drive::sender_order(options.via, options.in_flight, devices),
    };
    let fleet = Fleet::connect(bench, accounts, content).await?;
    let plan = |duration| Plan {
        via: options.via,
        in_flight: options.in_flight,
        rate: options.rate,
        duration,
        sends_max: u64::MAX,
    };
    let tally = Arc::clone(&fleet.tally);
    let progress = Progress::show(&bench.tasks, move || tally.to_string());
    if !options.warm_up.is_zero() {
        drive::drive(bench, &fleet, plan(options.warm_up)).await?;
    }
    let (before, own_before) = (bench.probe.read().await, own_usage());
    fleet.tally.enter(Stage::Measured);
    let begun = Instant::now();
    let overdue = drive::drive(bench, &fleet, plan(options.duration)).await?;
    let elapsed = begun.elapsed().as_secs_f64();
    let verdict = fleet.finish().await;
    let (after, own_after) = (bench.probe.read().await, own_usage());
    drop(progress);

    let measured = fleet.tally.counted(Stage::Measured);
    let sends = get(&measured.acknowledged);
    let mut report = Report::new("chat");
    report.figure("devices", devices);
    report.figure("in_flight", options.in_flight);
    report.figure("message_bytes", options.size);
    report.figure("duration_s", round(elapsed));
    report.figure("sends_per_s", round(sends as f64 / elapsed));
    report.figure("overdue_never_sent", overdue);
    report.figure("connections_lost", get(&fleet.tally.connections_lost));
    report.verdict("", &verdict);
    report.server(&before, &after, sends);
    report.tool(own_before, own_after);
    report.latency("acknowledged", measured.ack_latency.summary());
    report.latency("delivered", measured.delivery_latency.summary());
    report.failures(&fleet.tally.failures);
    let mut outcome = Outcome::new(report, &[verdict]);
    outcome.complain_of(&fleet.tally);
    if verdict.acknowledged == 0 {
        outcome.complain("no message was acknowledged".to_owned());
    }
    Ok(outcome)
}
