//! The command line of `im bench fanout`, and what of it goes together.

use std::net::SocketAddr;

use clap::{ArgAction, ValueEnum, value_parser};

use crate::{
    bench::args::{ADDRESSES, CONTENT_MAX, CONTENT_MIN, DEVICES_MAX},
    error::{Error, Result},
    pb,
};

/// Most members without a device.
const OFFLINE_MAX: i64 = 10_000_000;
/// Most messages of one run: each takes a counter.
const MESSAGES_MAX: i64 = 100_000_000;

/// Options of `fanout`.
#[derive(Clone, Debug, clap::Args)]
pub struct Fanout {
    /// What messages are sent to
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// Members, or subscribers of the room, that are online, each a user with one device
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(2..=DEVICES_MAX))]
    pub online: u32,
    /// Further members of the group, who have no device
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = value_parser!(u32).range(0..=OFFLINE_MAX))]
    pub offline: u32,
    /// These are the existing users with the ids from this one on; without it users are created,
    /// with a call for each
    #[arg(long, value_name = "USER_ID", value_parser = value_parser!(i64).range(1..))]
    pub offline_from: Option<i64>,
    /// Send to this group of an earlier run with the same accounts, instead of a new one
    #[arg(long, value_name = "ID", value_parser = value_parser!(i64).range(1..), conflicts_with_all = ["offline", "offline_from"])]
    pub group: Option<i64>,
    /// Messages that are measured
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = value_parser!(u32).range(1..=MESSAGES_MAX))]
    pub messages: u32,
    /// Messages before them; checked, not measured
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = value_parser!(u32).range(0..=MESSAGES_MAX))]
    pub warm_up_messages: u32,
    /// Senders, each with one message at a time; they are the first of those online
    #[arg(long, default_value_t = 1, value_name = "K", value_parser = value_parser!(u32).range(1..=100_000))]
    pub senders: u32,
    /// When a sender sends the next message
    #[arg(long, value_enum, default_value_t = Until::Delivered)]
    pub until: Until,
    /// How messages are sent
    #[arg(long, value_enum, default_value_t = Route::Grpc)]
    pub via: Route,
    /// Bytes of message_content
    #[arg(long, default_value_t = 200, value_name = "BYTES", value_parser = value_parser!(u32).range(CONTENT_MIN..=CONTENT_MAX))]
    pub size: u32,
    /// Messages a device receives before it acknowledges them; 0: it never does
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub ack_every: u32,
    /// Percent of those online that use WebSocket, where --transport is tcp
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = value_parser!(u32).range(0..=100))]
    pub websocket: u32,
    /// Before it, write as many frames of the same size to as many connections of a process that
    /// does nothing else: the floor of what a delivery costs
    #[arg(long, action = ArgAction::SetTrue)]
    pub floor: bool,
    /// The server's internal listener, for --via internal
    #[arg(long, default_value = "127.0.0.1:50000", value_delimiter = ',', value_name = ADDRESSES)]
    pub internal: Vec<String>,
    /// The server's internal.token, where it has one
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "TOKEN"
    )]
    pub internal_token: String,
}

/// What messages are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A group whose messages are written to every member's timeline.
    Small,
    /// A group with one timeline, which its members read.
    Large,
    /// Whoever is subscribed to a room; nothing is stored.
    Room,
}

impl Kind {
    /// How the contract calls it.
    pub fn receiver_type(self) -> pb::ReceiverType {
        match self {
            Self::Small => pb::ReceiverType::RtSmallGroup,
            Self::Large => pb::ReceiverType::RtLargeGroup,
            Self::Room => pb::ReceiverType::RtRoom,
        }
    }
}

/// When a sender sends the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Until {
    /// Once the one before was answered.
    Answered,
    /// Once all devices have the one before.
    Delivered,
}

/// How messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Route {
    /// LogicExt.SendMessage.
    Grpc,
    /// PT_SEND_MESSAGE on the sender's long connection.
    Connection,
    /// LogicInt.SendMessage as the business, or LogicInt.PushToRoom.
    Internal,
}

/// What the hidden process of `--floor` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct RelayArgs {
    /// Where the process that started it listens
    #[arg(long)]
    pub control: SocketAddr,
}

impl Fanout {
    /// Refuses options that do not go together.
    pub fn check(&self) -> Result<()> {
        if self.senders > self.online {
            let why = format!("at most --online, which is {}", self.online);
            return Err(Error::bad_request("--senders", why));
        }
        if self.kind == Kind::Room && (self.offline > 0 || self.group.is_some()) {
            return Err(Error::bad_request("--kind", "a room has no members"));
        }
        Ok(())
    }

    /// Whether a message that does not arrive breaks a promise. Whoever is too slow for a room
    /// misses messages, and without waiting for deliveries everybody may be too slow.
    pub fn must_arrive(&self) -> bool {
        self.kind != Kind::Room || self.until == Until::Delivered
    }

    /// How many devices each message is given to: not to the one that sent it.
    pub fn receivers(&self) -> u32 {
        match self.via {
            Route::Grpc | Route::Connection => self.online - 1,
            Route::Internal => self.online,
        }
    }

    /// How many of those online use WebSocket.
    pub fn websockets(&self) -> usize {
        (u64::from(self.online) * u64::from(self.websocket) / 100) as usize
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        options: Fanout,
    }

    fn parse(line: &str) -> Result<Fanout, clap::Error> {
        let words = ["fanout"].into_iter().chain(line.split_whitespace());
        Program::try_parse_from(words).map(|program| program.options)
    }

    #[test]
    fn the_sender_is_not_among_the_receivers_unless_it_is_the_business() {
        let options = parse("--kind large --online 1000").unwrap();
        assert_eq!(
            (options.receivers(), options.until),
            (999, Until::Delivered)
        );
        let options = parse("--kind room --online 1000 --via internal").unwrap();
        assert_eq!(options.receivers(), 1000);
    }

    #[test]
    fn a_share_uses_websocket() {
        let share = |line| parse(line).unwrap().websockets();
        assert_eq!(share("--kind small --online 500"), 0);
        assert_eq!(share("--kind small --online 500 --websocket 30"), 150);
        assert_eq!(share("--kind small --online 500 --websocket 100"), 500);
    }

    #[test]
    fn only_a_room_without_waiting_may_lose_messages() {
        for (line, must) in [
            ("--kind room", true),
            ("--kind room --until answered", false),
            ("--kind large --until answered", true),
        ] {
            assert_eq!(parse(line).unwrap().must_arrive(), must, "{line}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        for line in [
            "",
            "--kind huge",
            "--kind small --online 1",
            "--kind small --messages 0",
            "--kind small --websocket 101",
            "--kind large --group 0",
            "--kind large --group 5 --offline 10",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn options_that_do_not_go_together_are_refused() {
        for (line, good) in [
            ("--kind small --senders 100", true),
            ("--kind small --senders 101", false),
            ("--kind large --offline 999000", true),
            ("--kind room --offline 1", false),
            ("--kind room --group 7", false),
        ] {
            assert_eq!(parse(line).unwrap().check().is_ok(), good, "{line}");
        }
    }
}
