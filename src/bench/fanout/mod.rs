//! `im bench fanout`: messages to a group or a room, each given to all who are online. Every device
//! checks that it is given each message once and in order; the server's CPU time is told for each
//! send and each delivery, if wished beside the floor of what a delivery costs.
//!
//! - `options`: the command line
//! - `group`: the group and its members; `crowd`: who is online, and a run over them
//! - `member`: one device; `send`: one sender; `shared`, `ledger`: what they count
//! - `floor`, `relay`: the same with a process that only writes

mod crowd;
mod floor;
mod group;
mod ledger;
mod member;
mod options;
mod relay;
mod send;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use clap::ValueEnum;

pub use self::options::{Fanout, RelayArgs};
use self::{
    crowd::{Crowd, Measured, connect},
    options::{Kind, Route},
    send::Path,
    shared::{Audience, Plan},
};
use super::{
    Bench, Outcome,
    accounts::{self, Account},
    args::Transport,
    check::Verdict,
    client::Target,
    grpc::{self, Grpc},
    probe::{SERVERS, cpu_each_us},
    report::{Report, round},
    resolve,
    tally::get,
};
use crate::error::Result;

/// Runs the process that `--floor` starts.
pub async fn relay(options: &RelayArgs) -> Result<()> {
    relay::serve(options).await
}

/// Runs the scenario.
pub async fn run(bench: &Bench, options: &Fanout) -> Result<Outcome> {
    options.check()?;
    bench.check_open_files(options.online)?;
    let accounts: Arc<[Account]> = accounts::provide(bench, options.online).await?.into();
    let mut report = Report::new("fanout");
    describe(&mut report, options);
    let floor = match options.floor {
        true => {
            eprintln!("measuring the floor");
            Some(floor::measure(bench, options, &accounts).await?)
        }
        false => None,
    };
    let audience = audience(bench, options, &accounts, &mut report).await?;
    let websocket = websocket(bench, options).await?;
    let connections = connect(bench, &accounts, options.websockets(), &websocket).await?;
    let plan = Plan {
        audience,
        devices_send: options.via != Route::Internal,
        receivers: options.receivers(),
        ack_every: options.ack_every,
    };
    let crowd = Crowd::gather(bench, options, plan, connections).await?;
    let paths = paths(bench, options, &crowd, &accounts).await?;
    let measured = crowd.send(paths, &bench.probe).await?;
    let verdict = crowd.verdict();

    tell(&mut report, &crowd, &measured, &verdict);
    if let Some((floor, _)) = &floor {
        compare(&mut report, &measured, floor);
    }
    let floor_verdict = floor.map(|(_, verdict)| verdict);
    Ok(judge(report, options, &crowd, verdict, floor_verdict))
}

fn describe(report: &mut Report, options: &Fanout) {
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or(String::new(), |value| value.get_name().to_owned())
    };
    report.figure("kind", name(options.kind.to_possible_value()));
    report.figure("via", name(options.via.to_possible_value()));
    report.figure("until", name(options.until.to_possible_value()));
    report.figure("online", options.online);
    report.figure("senders", options.senders);
    report.figure("message_bytes", options.size);
    report.figure("ack_every", options.ack_every);
    report.figure("websocket_percent", options.websocket);
}

/// The group or room of this run.
async fn audience(
    bench: &Bench,
    options: &Fanout,
    accounts: &[Account],
    report: &mut Report,
) -> Result<Audience> {
    let kind = options.kind;
    if kind == Kind::Room {
        // Rooms need not be made. Nobody else is in one with such a number.
        let id = i64::from(rand::random::<u32>()) + 1;
        report.figure("room_id", id);
        return Ok(Audience { kind, id });
    }
    let group = group::provide(bench, options, accounts).await?;
    report.figure("group_id", group.id);
    report.figure("members", group.members);
    Ok(Audience { kind, id: group.id })
}

/// Where those connect who use WebSocket.
async fn websocket(bench: &Bench, options: &Fanout) -> Result<Arc<Target>> {
    if options.websocket == 0 {
        return Ok(Arc::clone(&bench.target));
    }
    let addresses = resolve("--http", &bench.common.http).await?;
    Ok(Arc::new(Target::new(Transport::Ws, &addresses)))
}

/// One path for each sender.
async fn paths(
    bench: &Bench,
    options: &Fanout,
    crowd: &Crowd,
    accounts: &[Account],
) -> Result<Vec<Path>> {
    let senders = 0..options.senders as usize;
    let member = |number: usize| Arc::clone(&crowd.members[number]);
    if options.via == Route::Connection {
        return Ok(senders.map(member).map(Path::Connection).collect());
    }
    if options.via == Route::Grpc {
        let path = |number: usize| {
            Ok(Path::Grpc {
                client: Box::new(bench.grpc.logic(number)),
                credentials: grpc::credentials(&accounts[number])?,
                member: member(number),
            })
        };
        return senders.map(path).collect();
    }
    let addresses = resolve("--internal", &options.internal).await?;
    let connections = bench.common.grpc_connections.into();
    let internal = Grpc::connect("--internal", &addresses, connections).await?;
    let path = |number: usize| {
        Ok(Path::Internal {
            client: Box::new(internal.internal(number)),
            credentials: grpc::business_credentials(&options.internal_token)?,
        })
    };
    senders.map(path).collect()
}

/// Adds what was measured.
fn tell(report: &mut Report, crowd: &Crowd, measured: &Measured, verdict: &Verdict) {
    let shared = &crowd.shared;
    report.figure("messages", measured.sends);
    report.figure("deliveries", measured.deliveries);
    report.figure("duration_s", round(measured.seconds));
    rates(report, "", measured);
    report.figure("connections_lost", get(&shared.tally.connections_lost));
    report.figure("overdue", get(&shared.overdue));
    report.figure("echoes", get(&shared.echoes));
    report.verdict("", verdict);
    // What one operation costs is told by `rates`.
    report.server(&measured.server.0, &measured.server.1, 0);
    report.tool(measured.tool.0, measured.tool.1);
    report.latency("acknowledged", measured.acknowledged);
    report.latency("delivered", measured.delivered);
    report.latency("delivered_to_last", measured.complete);
    report.failures(&shared.tally.failures);
}

fn rates(report: &mut Report, prefix: &str, measured: &Measured) {
    let seconds = measured.seconds;
    let (sends, deliveries) = (measured.sends, measured.deliveries);
    report.figure(
        format!("{prefix}sends_per_s"),
        round(sends as f64 / seconds),
    );
    report.figure(
        format!("{prefix}deliveries_per_s"),
        round(deliveries as f64 / seconds),
    );
    for (name, us) in [
        ("cpu_per_send_us", measured.cpu_each_us(sends)),
        ("cpu_per_delivery_us", measured.cpu_each_us(deliveries)),
    ] {
        if let Some(us) = us {
            report.figure(format!("{prefix}{name}"), round(us));
        }
    }
    // All servers together were told; beside them stand each of several, and the others.
    let spent = measured.spent();
    for (name, cpu_s) in spent.iter().filter(|(name, _)| *name != SERVERS) {
        for (what, operations) in [("send", sends), ("delivery", deliveries)] {
            if let Some(us) = cpu_each_us(cpu_s, operations) {
                report.figure(format!("{prefix}{name}_cpu_per_{what}_us"), round(us));
            }
        }
    }
}

/// Adds the floor, and how far above it the server is.
fn compare(report: &mut Report, measured: &Measured, floor: &Measured) {
    rates(report, "floor_", floor);
    report.latency("floor_delivered", floor.delivered);
    report.latency("floor_delivered_to_last", floor.complete);
    let each = |measured: &Measured| measured.cpu_each_us(measured.deliveries);
    if let (Some(ours), Some(floor)) = (each(measured), each(floor))
        && floor > 0.0
    {
        report.figure("cpu_per_delivery_to_floor", round(ours / floor));
    }
}

fn judge(
    report: Report,
    options: &Fanout,
    crowd: &Crowd,
    verdict: Verdict,
    floor: Option<Verdict>,
) -> Outcome {
    let shared = &crowd.shared;
    let mut judged = verdict;
    if !options.must_arrive() {
        judged.lost = 0;
    }
    let mut outcome = Outcome::new(report, &[judged]);
    outcome.complain_of(&shared.tally);
    let overdue = match options.must_arrive() {
        true => get(&shared.overdue),
        false => 0,
    };
    for (count, what) in [
        (overdue, "messages did not reach everybody in time"),
        (get(&shared.echoes), "messages came back to their sender"),
    ] {
        if count > 0 {
            outcome.complain(format!("{count} {what}"));
        }
    }
    if verdict.acknowledged == 0 {
        outcome.complain("no message was acknowledged".to_owned());
    }
    if let Some(what) = floor.and_then(|floor| floor.complaint()) {
        outcome.complain(format!("the floor: {what}"));
    }
    outcome
}
