//! `im bench`: a load tool that drives a running server over its real sockets, as a stranger would.
//!
//! It uses nothing of the server but the contract (`pb`) and the bounds in `limits`. Every message
//! carries a stamp, every receiver checks what it is given (`check`), and a run in which a message
//! was lost, doubled, skipped or out of order fails. Every wait has a deadline: the tool never
//! hangs on a server that does. It shares the machine with the server, so one connection is one
//! task without buffers of its own, and nothing is spawned per message. A server may be several
//! instances over one database: devices and callers are spread over them, the checks are the same.
//!
//! - scenarios: `chat`, `idle`, `sync` (with `fill` and `pull`), `storm`, `fanout`, `bridge`;
//!   `background` beside them
//! - devices: `accounts` makes them, `open` connects them, `device` and `fleet` keep them online,
//!   `drive` makes them send
//! - the wire: `client`, `websocket`, `grpc`, `stamp`, `failure`
//! - findings: `check`, `ranges`, `tally`, `stats`, `probe`, `progress`, `report`

mod accounts;
mod args;
mod background;
mod bridge;
mod chat;
mod check;
mod client;
mod device;
mod drive;
mod failure;
mod fanout;
mod fill;
mod fleet;
mod grpc;
mod idle;
mod open;
mod probe;
mod progress;
mod pull;
mod ranges;
mod report;
mod stamp;
mod stats;
mod storm;
mod sync;
mod tally;
mod websocket;

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::lookup_host, time::timeout};

pub use self::args::Args;
use self::{
    args::{Command, Common, Scenario, Transport},
    check::Verdict,
    client::Target,
    grpc::Grpc,
    probe::{Probe, Source},
    report::Report,
    tally::{Tally, get},
};
use crate::{
    error::{Error, Result},
    lifecycle::Tasks,
};

/// Files the tool needs besides connections of devices.
const OTHER_FILES: u64 = 100;
/// How long the end waits for the tool's own tasks.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// Runs one scenario and prints what it found.
///
/// # Errors
/// The server could not be reached or refused what every client needs; or messages were lost,
/// given twice, skipped or out of order.
pub async fn run(args: Args) -> Result<()> {
    match &args.command {
        Command::Measure(scenario) => measure(args.common, scenario).await,
        Command::Relay(options) => fanout::relay(options).await,
    }
}

async fn measure(common: Common, scenario: &Scenario) -> Result<()> {
    let json = common.json;
    let bench = Bench::new(common).await?;
    bench.warn_of_probe().await;
    let outcome = match scenario {
        Scenario::Chat(options) => chat::run(&bench, options).await,
        Scenario::Idle(options) => idle::run(&bench, options).await,
        Scenario::Sync(options) => sync::run(&bench, options).await,
        Scenario::Storm(options) => storm::run(&bench, options).await,
        Scenario::Fanout(options) => fanout::run(&bench, options).await,
        Scenario::Bridge(options) => bridge::run(&bench, options).await,
    };
    bench.tasks.stop().cancel();
    // What does not end by then ends with the process.
    drop(timeout(END_DEADLINE, bench.tasks.finished()).await);
    let outcome = outcome?;
    match json {
        true => println!("{}", outcome.report.json()),
        false => print!("{}", outcome.report.table()),
    }
    match outcome.complaints.is_empty() {
        true => Ok(()),
        false => Err(Error::internal(outcome.complaints.join("; "))),
    }
}

/// What every scenario works with.
#[derive(Clone, Debug)]
struct Bench {
    common: Common,
    tasks: Tasks,
    grpc: Grpc,
    target: Arc<Target>,
    probe: Probe,
}

impl Bench {
    async fn new(common: Common) -> Result<Self> {
        let transport = common.transport;
        let addresses = match transport {
            Transport::Tcp => &common.tcp,
            Transport::Ws => &common.http,
        };
        let addresses = resolve(transport.option(), addresses).await?;
        let grpc = resolve("--grpc", &common.grpc).await?;
        let servers: Vec<Source> = match common.server_pid.as_slice() {
            [] => {
                let metrics = resolve("--metrics", &common.metrics).await?;
                metrics.into_iter().map(Source::Metrics).collect()
            }
            pids => pids.iter().copied().map(Source::Process).collect(),
        };
        Ok(Self {
            tasks: Tasks::default(),
            grpc: Grpc::connect("--grpc", &grpc, common.grpc_connections.into()).await?,
            target: Arc::new(Target::new(transport, &addresses)),
            probe: Probe::new(servers, common.pids.clone()),
            common,
        })
    }

    /// Says what of the processes cannot be read, and that not all are.
    async fn warn_of_probe(&self) {
        let reading = self.probe.read().await;
        for what in self.probe.unreadable(&reading) {
            eprintln!("CPU time and memory cannot be read: {what}");
        }
        let (read, instances) = (reading.servers.len(), self.grpc.instances());
        if read < instances {
            eprintln!("CPU time and memory are those of {read} of {instances} instances");
        }
    }

    /// Refuses a run that would fail half-way for want of file descriptors.
    fn check_open_files(&self, devices: u32) -> Result<()> {
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        match open_files_max(&limits) {
            Some(max) if u64::from(devices) + OTHER_FILES > max => {
                let why = format!("this process may have {max} open files; see ulimit -n");
                Err(Error::bad_request("--devices", why))
            }
            _ => Ok(()),
        }
    }
}

/// The soft limit of open files in `/proc/self/limits`.
fn open_files_max(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// One address for each of `hosts`, in their order.
async fn resolve(option: &str, hosts: &[String]) -> Result<Vec<SocketAddr>> {
    let mut addresses = Vec::with_capacity(hosts.len());
    for host in hosts {
        let refused = |why: String| Error::bad_request(option, format!("{host}: {why}"));
        let found = lookup_host(host).await;
        let mut found = found.map_err(|error| refused(error.to_string()))?;
        let address = found.next();
        addresses.push(address.ok_or_else(|| refused("no such host".to_owned()))?);
    }
    Ok(addresses)
}

/// What a scenario found, and what of it must not be.
#[derive(Debug)]
struct Outcome {
    report: Report,
    complaints: Vec<String>,
}

impl Outcome {
    fn new(report: Report, verdicts: &[Verdict]) -> Self {
        let complaints = verdicts.iter().filter_map(Verdict::complaint).collect();
        Self { report, complaints }
    }

    /// Connections must not end, and sends must be answered, if only with an error.
    fn complain_of(&mut self, tally: &Tally) {
        for (count, what) in [
            (get(&tally.connections_lost), "connections were lost"),
            (get(&tally.unanswered), "sends were never answered"),
        ] {
            if count > 0 {
                self.complain(format!("{count} {what}"));
            }
        }
    }

    fn complain(&mut self, what: String) {
        self.complaints.push(what);
    }
}
