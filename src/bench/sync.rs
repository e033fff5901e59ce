//! `im bench sync`: timelines of users who are away are filled, then their devices come back and
//! pull everything from the start, page by page; a chat beside it shows what others notice.

use std::{sync::Arc, time::Instant};

use super::{
    Bench, Outcome,
    accounts::{self, Account},
    args::Sync,
    background::Chatter,
    check::{Inbox, SenderOrder, Verdict},
    fill::Fill,
    open::{Opened, Opening, open_all},
    probe::own_usage,
    progress::Progress,
    pull::Puller,
    ranges::Ranges,
    report::{Report, round},
    stats::{Failures, Latencies},
    tally::Stage,
};
use crate::error::{Error, Result, ResultExt as _};

/// Runs the scenario.
pub async fn run(bench: &Bench, options: &Sync) -> Result<Outcome> {
    let (devices, others) = (options.devices, options.background.device_count());
    let senders = options.in_flight.min(options.messages);
    bench.check_open_files(devices + others)?;
    // Senders and the chat come behind, so that another number of them changes no timeline.
    let mut accounts = accounts::provide(bench, devices + others + senders).await?;
    let mut chatting = accounts.split_off(devices as usize);
    let sending = chatting.split_off(others as usize);
    let accounts: Arc<[Account]> = accounts.into();

    let fill = Fill::new(options, rand::random());
    let filling = Instant::now();
    fill.run(bench, &accounts, sending).await?;
    let filling = filling.elapsed().as_secs_f64();
    let chatter = Chatter::start(bench, &options.background, chatting).await?;

    let (before, own_before) = (bench.probe.read().await, own_usage());
    let pulled = pull_all(bench, &accounts, fill.run_id(), chatter.as_ref()).await?;
    let (after, own_after) = (bench.probe.read().await, own_usage());

    let mut report = Report::new("sync");
    report.figure("devices", devices);
    report.figure("filled", fill.total());
    report.figure("filled_per_s", round(fill.total() as f64 / filling));
    report.figure("messages", pulled.messages);
    report.figure("pages", pulled.pages.summary().count);
    report.figure("duration_s", round(pulled.seconds));
    report.figure(
        "messages_per_s",
        round(pulled.messages as f64 / pulled.seconds),
    );
    let verdict = verdict(&fill, &pulled.inboxes);
    report.verdict("", &verdict);
    report.server(&before, &after, pulled.messages);
    report.tool(own_before, own_after);
    report.latency("page", pulled.pages.summary());
    report.latency("device", pulled.devices.summary());
    report.failures(&pulled.failures);
    let mut verdicts = vec![verdict];
    if let Some(chatter) = chatter {
        verdicts.push(chatter.finish(&mut report).await?);
    }
    let mut outcome = Outcome::new(report, &verdicts);
    if pulled.failures.total() > 0 {
        outcome.complain(format!(
            "{} devices did not finish",
            pulled.failures.total()
        ));
    }
    Ok(outcome)
}

/// What all devices pulled.
struct Pulled {
    /// Of the devices that finished.
    inboxes: Vec<Inbox>,
    messages: u64,
    seconds: f64,
    pages: Arc<Latencies>,
    devices: Latencies,
    failures: Failures,
}

/// Brings every device online, then lets all of them pull at once.
async fn pull_all(
    bench: &Bench,
    accounts: &Arc<[Account]>,
    run: u32,
    chatter: Option<&Chatter>,
) -> Result<Pulled> {
    let opened = Arc::new(Opened::default());
    let connections = open_all(bench, accounts, Opening::calm(bench), &opened).await?;
    if let Some((kind, count, example)) = opened.failures.list().into_iter().next() {
        let what = format!("{count} devices did not come online: {kind}; {example}");
        return Err(Error::internal(what));
    }
    let pages = Arc::new(Latencies::default());
    let shown = Arc::clone(&pages);
    let _progress = Progress::show(&bench.tasks, move || {
        format!("pages pulled: {}", shown.summary().count)
    });
    let enter = |stage| chatter.iter().for_each(|chatter| chatter.enter(stage));
    enter(Stage::Measured);
    let begun = Instant::now();
    let pullers: Vec<_> = connections
        .into_iter()
        .flatten()
        .zip(accounts.iter())
        .map(|(connection, account)| {
            let inbox = Inbox::new(account.user_id, run, SenderOrder::Kept);
            bench
                .tasks
                .spawn(Puller::new(connection, inbox, Arc::clone(&pages)).run())
        })
        .collect();
    let mut pulled = Pulled {
        inboxes: Vec::with_capacity(pullers.len()),
        messages: 0,
        seconds: 0.0,
        pages,
        devices: Latencies::default(),
        failures: Failures::default(),
    };
    for puller in pullers {
        match puller.await.internal("pulling")? {
            Ok((inbox, took)) => {
                pulled.devices.record(0, took);
                pulled.messages += inbox.seqs().len();
                pulled.inboxes.push(inbox);
            }
            Err(failure) => pulled.failures.count(failure.kind(), &failure),
        }
    }
    enter(Stage::Aside);
    pulled.seconds = begun.elapsed().as_secs_f64();
    Ok(pulled)
}

/// Every device must hold all that was put into its timeline, and its timeline from 1 on.
fn verdict(fill: &Fill, inboxes: &[Inbox]) -> Verdict {
    let mut verdict = Verdict {
        acknowledged: fill.total(),
        ..Verdict::default()
    };
    for inbox in inboxes {
        verdict.add_inbox(inbox, 0);
        verdict.gaps += inbox.seqs().first().map_or(0, |first| first.abs_diff(1));
        for (sender, quota) in fill.quotas() {
            verdict.lost += inbox.lacks(sender, &Ranges::up_to(quota));
        }
    }
    verdict
}
