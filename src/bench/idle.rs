//! `im bench idle`: what a connection costs that does nothing, and one that did once. The memory is
//! the server process's own; what the kernel holds for sockets is not in it.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{
    Bench, Outcome, accounts,
    args::{Idle, Via, even},
    check::SenderOrder,
    device::Content,
    drive::{self, Plan},
    fleet::Fleet,
    probe::Reading,
    progress::Progress,
    report::{Report, round},
    stamp::CONTENT_BYTES_MIN,
    tally::{Stage, get},
};
use crate::error::Result;

/// Messages under way at once.
const IN_FLIGHT: u32 = 64;
/// All messages must be sent within this time.
const SENDING_MAX: Duration = Duration::from_secs(600);

/// Runs the scenario.
pub async fn run(bench: &Bench, options: &Idle) -> Result<Outcome> {
    let devices = even(options.devices);
    bench.check_open_files(devices)?;
    let accounts = accounts::provide(bench, devices).await?;
    let before = bench.probe.read().await;
    let content = Content {
        size: options
            .message_each
            .map_or(CONTENT_BYTES_MIN, |size| size as usize),
        client_ids: false,
        order: SenderOrder::Kept,
    };
    let fleet = Fleet::connect(bench, accounts, content).await?;
    let tally = Arc::clone(&fleet.tally);
    let progress = Progress::show(&bench.tasks, move || {
        let (beats, answered) = (get(&tally.heartbeats), get(&tally.heartbeats_answered));
        format!("{tally}, heartbeats {beats}, answered {answered}")
    });
    sleep(options.hold).await;
    let mut readings = vec![("connected", bench.probe.read().await)];
    if options.message_each.is_some() {
        fleet.tally.enter(Stage::Measured);
        drive::drive(bench, &fleet, plan(devices)).await?;
        fleet.settle().await;
        sleep(options.hold).await;
        readings.push(("after_messages", bench.probe.read().await));
    }
    let verdict = fleet.finish().await;
    drop(progress);

    let mut report = Report::new("idle");
    report.figure("devices", devices);
    memory(&mut report, &before, &readings, devices);
    report.figure("heartbeats", get(&fleet.tally.heartbeats));
    report.figure("heartbeats_answered", get(&fleet.tally.heartbeats_answered));
    report.figure("connections_lost", get(&fleet.tally.connections_lost));
    if options.message_each.is_some() {
        report.verdict("", &verdict);
        let measured = fleet.tally.counted(Stage::Measured);
        report.latency("acknowledged", measured.ack_latency.summary());
        report.latency("delivered", measured.delivery_latency.summary());
    }
    report.failures(&fleet.tally.failures);
    let mut outcome = Outcome::new(report, &[verdict]);
    outcome.complain_of(&fleet.tally);
    Ok(outcome)
}

/// One message through every connection.
fn plan(devices: u32) -> Plan {
    Plan {
        via: Via::Connection,
        in_flight: IN_FLIGHT,
        rate: None,
        duration: SENDING_MAX,
        sends_max: devices.into(),
    }
}

fn memory(report: &mut Report, before: &Reading, readings: &[(&str, Reading)], devices: u32) {
    report.memory("before", before);
    let Some(before) = before.sum() else { return };
    for (when, reading) in readings {
        report.memory(when, reading);
        let Some(usage) = reading.sum() else { continue };
        let each = (usage.resident_bytes - before.resident_bytes) / f64::from(devices);
        report.figure(format!("connection_{when}_kib"), round(each / 1024.0));
    }
}
