//! `im bench storm`: all devices lose their connections and sign in again as fast as they can, a
//! number of times; a chat beside it shows what others notice.

use std::{sync::Arc, time::Instant};

use tokio::time::sleep;

use super::{
    Bench, Outcome,
    accounts::{self, Account},
    args::Storm,
    background::Chatter,
    open::{Opened, Opening, open_all},
    probe::own_usage,
    report::{Report, round},
    tally::Stage,
};
use crate::error::Result;

/// Runs the scenario.
pub async fn run(bench: &Bench, options: &Storm) -> Result<Outcome> {
    let others = options.background.device_count();
    bench.check_open_files(options.devices + others)?;
    let mut accounts = accounts::provide(bench, options.devices + others).await?;
    let chatting = accounts.split_off(options.devices as usize);
    let chatter = Chatter::start(bench, &options.background, chatting).await?;

    let mut report = Report::new("storm");
    report.figure("devices", options.devices);
    report.figure("in_flight", options.in_flight);
    let accounts: Arc<[Account]> = accounts.into();
    let opened = Arc::new(Opened::default());
    let opening = Opening {
        in_flight: options.in_flight,
        per_s: 0,
        attempts: 1,
    };
    let (before, own_before) = (bench.probe.read().await, own_usage());
    let enter = |stage| chatter.iter().for_each(|chatter| chatter.enter(stage));
    let (mut signed_in, mut seconds) = (0, 0.0);
    for number in 1..=options.rounds {
        enter(Stage::Measured);
        let begun = Instant::now();
        let connections = open_all(bench, &accounts, opening, &opened).await?;
        enter(Stage::Aside);
        let elapsed = begun.elapsed().as_secs_f64();
        let good = connections.iter().flatten().count();
        report.figure(
            format!("round_{number}_sign_ins_per_s"),
            round(good as f64 / elapsed),
        );
        signed_in += good as u64;
        seconds += elapsed;
        // All connections end at once.
        drop(connections);
        sleep(options.pause).await;
    }
    let (after, own_after) = (bench.probe.read().await, own_usage());
    let verdict = match chatter {
        Some(chatter) => Some(chatter.finish(&mut report).await?),
        None => None,
    };
    report.figure("sign_ins", signed_in);
    report.figure("sign_ins_per_s", round(signed_in as f64 / seconds));
    report.figure("sign_ins_failed", opened.failures.total());
    report.server(&before, &after, signed_in);
    report.tool(own_before, own_after);
    report.latency("sign_in", opened.latency.summary());
    report.failures(&opened.failures);
    let mut outcome = Outcome::new(report, verdict.as_slice());
    if opened.failures.total() > 0 {
        outcome.complain(format!("{} sign-ins failed", opened.failures.total()));
    }
    Ok(outcome)
}
