//! The command line of `im bench`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Subcommand, ValueEnum, value_parser};

use super::{bridge::Bridge, fanout, probe::Named, stamp::CONTENT_BYTES_MIN};
use crate::limits;

/// Most connections one run opens; the limit of open files usually comes first.
pub const DEVICES_MAX: i64 = 1_000_000;
/// Smallest `message_content` in bytes.
pub const CONTENT_MIN: i64 = CONTENT_BYTES_MIN as i64;
/// Largest `message_content` in bytes.
pub const CONTENT_MAX: i64 = limits::CONTENT_BYTES_MAX as i64;

/// Arguments of `im bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What every scenario needs.
    #[command(flatten)]
    pub common: Common,
    /// What is to be done.
    #[command(subcommand)]
    pub command: Command,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// To measure.
    #[command(flatten)]
    Measure(Scenario),
    /// The process that `fanout --floor` starts
    #[command(hide = true)]
    Relay(fanout::RelayArgs),
}

/// One address of each instance.
pub const ADDRESSES: &str = "HOST:PORT,…";

/// What every scenario needs. Every list of addresses has the instances in the same order.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// The server's gRPC listener. Here and below several instances of one server are separated by
    /// commas, in the same order; devices and callers are spread over them, one after the other
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:50001",
        value_delimiter = ',',
        value_name = ADDRESSES
    )]
    pub grpc: Vec<String>,
    /// The server's TCP listener
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:8080",
        value_delimiter = ',',
        value_name = ADDRESSES
    )]
    pub tcp: Vec<String>,
    /// The server's HTTP listener, for --transport ws
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:8081",
        value_delimiter = ',',
        value_name = ADDRESSES
    )]
    pub http: Vec<String>,
    /// The server's metrics, where its CPU time and memory are read; of several instances each is
    /// told, and their sum
    #[arg(
        long,
        global = true,
        default_value = "127.0.0.1:9090",
        value_delimiter = ',',
        value_name = ADDRESSES
    )]
    pub metrics: Vec<String>,
    /// Read CPU time and memory of this process instead, from /proc; of several, as with --metrics
    #[arg(long, global = true, value_delimiter = ',', value_name = "PID,…")]
    pub server_pid: Vec<u32>,
    /// Tell the CPU time of further processes on this machine too, each with its children, under
    /// these names: --pid redis=PID,mariadbd=PID
    #[arg(
        long = "pid",
        global = true,
        value_delimiter = ',',
        value_name = "NAME=PID,…"
    )]
    pub pids: Vec<Named>,
    /// The server's sign_in.test_code, which must be set
    #[arg(long, global = true, default_value = "000000", value_name = "CODE")]
    pub test_code: String,
    /// Keep the accounts in this file, so that the next run on the same database need not create them
    #[arg(long, global = true, value_name = "FILE")]
    pub accounts: Option<PathBuf>,
    /// What long connections use
    #[arg(long, global = true, value_enum, default_value_t = Transport::Tcp)]
    pub transport: Transport,
    /// Connections opened a second while devices come online; 0: as fast as possible
    #[arg(long, global = true, default_value_t = 2_000, value_name = "N")]
    pub connections_per_s: u32,
    /// Connections to each instance that gRPC calls share
    #[arg(long, global = true, default_value_t = 4, value_name = "N", value_parser = value_parser!(u16).range(1..=64))]
    pub grpc_connections: u16,
    /// Names the accounts: the same seed signs in the same users again
    #[arg(long, global = true, default_value_t = 1, value_name = "N", value_parser = value_parser!(u16).range(0..=9_999))]
    pub seed: u16,
    /// Seconds between two heartbeats of a connection
    #[arg(long, global = true, default_value = "60", value_name = "S", value_parser = seconds)]
    pub heartbeat: Duration,
    /// Seconds to wait at the end for messages that have not arrived
    #[arg(long, global = true, default_value = "10", value_name = "S", value_parser = seconds)]
    pub grace: Duration,
    /// Print one JSON object instead of a table
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub json: bool,
}

/// What long connections use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// A length before every body.
    Tcp,
    /// WebSocket at /ws, signed in by the URL.
    Ws,
}

impl Transport {
    /// The option that says where long connections go.
    pub fn option(self) -> &'static str {
        match self {
            Self::Tcp => "--tcp",
            Self::Ws => "--http",
        }
    }
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// LogicExt.SendMessage.
    Grpc,
    /// PT_SEND_MESSAGE on the sender's long connection.
    Connection,
}

/// What is to be measured.
#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// Pairs of online users send each other stored text messages
    Chat(Chat),
    /// Many connections that do nothing: the server's memory for each
    Idle(Idle),
    /// Devices that were offline pull everything they missed
    Sync(Sync),
    /// All devices sign in at once, again and again
    Storm(Storm),
    /// Messages to a group or a room, each given to all who are online
    Fanout(fanout::Fanout),
    /// One-to-one messages to users on the same instance and on other ones, beside each other
    Bridge(Bridge),
}

/// Options of `chat`.
#[derive(Clone, Debug, clap::Args)]
pub struct Chat {
    /// Devices, each its own user; an odd number is rounded up
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(1..=DEVICES_MAX))]
    pub devices: u32,
    /// How messages are sent
    #[arg(long, value_enum, default_value_t = Via::Grpc)]
    pub via: Via,
    /// Sends under way at once, in all
    #[arg(long, default_value_t = 64, value_name = "K", value_parser = value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// Sends a second, started on schedule whatever the server does, latencies measured from the
    /// schedule; without it the next send starts when one is answered
    #[arg(long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// Seconds that are measured
    #[arg(long, default_value = "10", value_name = "S", value_parser = seconds)]
    pub duration: Duration,
    /// Seconds of the same load before; checked, not measured
    #[arg(long, default_value = "2", value_name = "S", value_parser = seconds)]
    pub warm_up: Duration,
    /// Bytes of message_content
    #[arg(long, default_value_t = 200, value_name = "BYTES", value_parser = value_parser!(u32).range(CONTENT_MIN..=CONTENT_MAX))]
    pub size: u32,
    /// Give every message a client_message_id
    #[arg(long)]
    pub client_ids: bool,
}

/// Options of `idle`.
#[derive(Clone, Debug, clap::Args)]
pub struct Idle {
    /// Devices, each its own user; an odd number is rounded up
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = value_parser!(u32).range(1..=DEVICES_MAX))]
    pub devices: u32,
    /// Seconds the connections are held before memory is read, and again after the messages
    #[arg(long, default_value = "10", value_name = "S", value_parser = seconds)]
    pub hold: Duration,
    /// Send one message of this size through each connection, to its neighbour
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u32).range(CONTENT_MIN..=CONTENT_MAX))]
    pub message_each: Option<u32>,
}

/// Options of `sync`.
#[derive(Clone, Debug, clap::Args)]
pub struct Sync {
    /// Devices that sync, each its own user
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..=DEVICES_MAX))]
    pub devices: u32,
    /// Messages put into each of their timelines before; 0: what an earlier run put there
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub messages: u32,
    /// Sends under way at once while the timelines are filled
    #[arg(long, default_value_t = 256, value_name = "K", value_parser = value_parser!(u32).range(1..=10_000))]
    pub in_flight: u32,
    /// Bytes of message_content
    #[arg(long, default_value_t = 200, value_name = "BYTES", value_parser = value_parser!(u32).range(CONTENT_MIN..=CONTENT_MAX))]
    pub size: u32,
    /// Other devices that chat before and meanwhile.
    #[command(flatten)]
    pub background: Background,
}

/// Options of `storm`.
#[derive(Clone, Debug, clap::Args)]
pub struct Storm {
    /// Devices, each its own user
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = value_parser!(u32).range(1..=DEVICES_MAX))]
    pub devices: u32,
    /// How often all of them come back
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000))]
    pub rounds: u32,
    /// Sign-ins under way at once
    #[arg(long, default_value_t = 512, value_name = "K", value_parser = value_parser!(u32).range(1..=100_000))]
    pub in_flight: u32,
    /// Seconds between the end of all connections and their return
    #[arg(long, default_value = "1", value_name = "S", value_parser = seconds)]
    pub pause: Duration,
    /// Other devices that chat before and meanwhile.
    #[command(flatten)]
    pub background: Background,
}

/// A light chat beside a scenario, whose latency shows what the scenario does to others.
#[derive(Clone, Debug, clap::Args)]
pub struct Background {
    /// Messages a second of a chat beside it, on connections of its own
    #[arg(id = "background", long, value_name = "R", value_parser = rate)]
    pub rate: Option<f64>,
    /// Devices that chat beside it; an odd number is rounded up
    #[arg(id = "background_devices", long = "background-devices", default_value_t = 20, value_name = "N", value_parser = value_parser!(u32).range(1..=10_000))]
    pub devices: u32,
    /// Seconds the chat is measured alone
    #[arg(id = "background_before", long = "background-before", default_value = "5", value_name = "S", value_parser = seconds)]
    pub before: Duration,
}

impl Background {
    /// How many devices chat: none without a rate.
    pub fn device_count(&self) -> u32 {
        self.rate.map_or(0, |_| even(self.devices))
    }
}

/// The next even number: devices chat in pairs.
pub fn even(devices: u32) -> u32 {
    devices.next_multiple_of(2)
}

/// Parses a number of seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    const LONGEST_S: f64 = 7.0 * 24.0 * 3600.0;
    match text.parse::<f64>() {
        Ok(s) if (0.0..=LONGEST_S).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("expected seconds, from 0 to a week".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a positive number a second".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Program::try_parse_from(line.split(' ')).map(|program| program.args)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn common_options_stand_before_or_after_the_scenario() {
        for line in ["bench --seed 7 --json idle", "bench idle --json --seed 7"] {
            let args = parse(line).unwrap();
            assert!(args.common.json && args.common.seed == 7);
        }
    }

    #[test]
    fn one_instance_is_the_default_and_several_are_separated_by_commas() {
        let common = parse("bench chat").unwrap().common;
        assert_eq!(common.tcp, ["127.0.0.1:8080"]);
        assert!(common.server_pid.is_empty() && common.pids.is_empty());
        let line = "bench bridge --tcp a:1,b:2 --grpc a:3 --grpc b:4 --server-pid 5,6 --pid redis=7 --pid mariadbd=8";
        let common = parse(line).unwrap().common;
        assert_eq!(common.tcp, ["a:1", "b:2"]);
        assert_eq!(common.grpc, ["a:3", "b:4"]);
        assert_eq!(common.server_pid, [5, 6]);
        assert_eq!(common.pids.len(), 2);
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for line in [
            "bench",
            "bench chat --rate 0",
            "bench chat --rate -1",
            "bench chat --size 10",
            "bench chat --size 60001",
            "bench chat --duration -1",
            "bench chat --in-flight 0",
            "bench idle --devices 0",
            "bench idle --transport udp",
            "bench fanout",
            "bench bridge --rounds 0",
            "bench chat --pid 7",
            "bench chat --server-pid x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
