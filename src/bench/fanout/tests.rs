//! A run against a little room server that keeps the contract, or breaks it in one way: what is
//! broken must be found, and nothing else.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    time::timeout,
};

use super::{
    ledger::Ledger,
    member::{Driver, Member},
    options::{Kind, Until},
    relay::frame,
    send::{Habit, Path, Sender},
    shared::{Audience, Plan, Shared},
};
use crate::{
    bench::{
        accounts::Account,
        args::Transport,
        check::Verdict,
        client::{Connection, Target},
        stats::lock,
        tally::{Stage, Tally, get},
    },
    lifecycle::Tasks,
    pb::{self, Input, Output, PackageType},
};

const ROOM: i64 = 77;
const MEMBERS: usize = 3;
const SENDERS: u32 = 2;
const MESSAGES: u32 = 20;

/// What the server does wrong with the messages it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    LosesOne,
    RepeatsOne,
    SwapsTwo,
    EchoesOne,
    AddressesOneToAnother,
    RefusesTheRoom,
    HangsUp,
}

/// Those who are connected, by their number.
type Outlets = Arc<Mutex<Vec<mpsc::Sender<Vec<u8>>>>>;

/// Forwards what one connection sends to all the others; the fault strikes the first sender's
/// fifth message, on the way to the last connection.
async fn serve(mut read: OwnedReadHalf, number: usize, outlets: Outlets, fault: Fault) {
    let mut sent = 0;
    let mut kept: Option<Vec<u8>> = None;
    while let Ok(length) = read.read_u16().await {
        let mut body = vec![0; length.into()];
        read.read_exact(&mut body).await.unwrap();
        let input = Input::decode(&body[..]).unwrap();
        let all = lock(&outlets).clone();
        let refused = fault == Fault::RefusesTheRoom && number == 0;
        let answer = Output {
            r#type: input.r#type,
            request_id: input.request_id,
            code: match input.r#type() {
                PackageType::PtSubscribeRoom if refused => 10001,
                _ => 0,
            },
            ..Output::default()
        };
        all[number].send(frame(&answer)).await.unwrap();
        if input.r#type() != PackageType::PtSendMessage {
            continue;
        }
        sent += 1;
        let strikes = number == 0 && sent == 5;
        if strikes && fault == Fault::HangsUp {
            lock(&outlets)[2] = mpsc::channel(1).0;
            continue;
        }
        let message = pb::SendMessageReq::decode(input.data).unwrap();
        for (to, outlet) in all.iter().enumerate() {
            let last = strikes && to == MEMBERS - 1;
            let room = match (last, fault) {
                (true, Fault::LosesOne) => continue,
                (true, Fault::AddressesOneToAnother) => ROOM + 1,
                _ => ROOM,
            };
            if to == number && !(strikes && fault == Fault::EchoesOne) {
                continue;
            }
            let push = push(&message, room);
            if last && fault == Fault::SwapsTwo {
                kept = Some(push);
                continue;
            }
            if last && fault == Fault::RepeatsOne {
                outlet.send(push.clone()).await.unwrap();
            }
            // Whoever has gone needs nothing.
            drop(outlet.send(push).await);
            if to == MEMBERS - 1
                && let Some(kept) = kept.take()
            {
                outlet.send(kept).await.unwrap();
            }
        }
    }
}

fn push(message: &pb::SendMessageReq, room: i64) -> Vec<u8> {
    let message = pb::Message {
        receiver_type: message.receiver_type,
        receiver_id: room,
        message_content: message.message_content.clone(),
        ..pb::Message::default()
    };
    let push = pb::MessageSend {
        message: Some(message),
    };
    frame(&Output {
        r#type: PackageType::PtMessage.into(),
        data: push.encode_to_vec().into(),
        ..Output::default()
    })
}

async fn write(mut write: OwnedWriteHalf, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if write.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Starts the server and connects everybody to it.
async fn connect(tasks: &Tasks, fault: Fault) -> Vec<Connection> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let target = Target::new(Transport::Tcp, &[listener.local_addr().unwrap()]);
    let outlets = Outlets::default();
    let mut connections = Vec::new();
    for number in 0..MEMBERS {
        let account = Account {
            user_id: 1,
            device_id: 1,
            token: String::new(),
        };
        let accept = async {
            let (stream, _): (TcpStream, _) = listener.accept().await.unwrap();
            let (read, writing) = stream.into_split();
            let (outlet, frames) = mpsc::channel(1_000);
            lock(&outlets).push(outlet);
            tasks.spawn(write(writing, frames));
            tasks.spawn(serve(read, number, Arc::clone(&outlets), fault));
        };
        let (connection, ()) = tokio::join!(Connection::open(&target, 0, &account), accept);
        connections.push(connection.unwrap());
    }
    connections
}

struct Found {
    shared: Arc<Shared>,
    verdict: Verdict,
}

async fn run(fault: Fault, until: Until) -> Found {
    let tasks = Tasks::default();
    let tally = Arc::new(Tally::new());
    let ledger = Ledger::new(tally.clock, SENDERS, MEMBERS as u32 - 1, (0, MESSAGES));
    let plan = Plan {
        audience: Audience {
            kind: Kind::Room,
            id: ROOM,
        },
        devices_send: true,
        receivers: MEMBERS as u32 - 1,
        ack_every: 1,
    };
    let shared = Arc::new(Shared::new(plan, tally, ledger));
    shared.tally.enter(Stage::Measured);
    let members: Vec<_> = (0..MEMBERS as u32)
        .map(|index| Arc::new(Member::new(index, &shared)))
        .collect();
    for (member, connection) in members.iter().zip(connect(&tasks, fault).await) {
        let driver = Driver::new(Arc::clone(member), connection, Duration::from_secs(60));
        tasks.spawn(driver.run());
    }
    let subscribed = shared.subscribed.acquire_many(MEMBERS as u32);
    let ready = tokio::select! {
        ready = timeout(Duration::from_secs(10), subscribed) => ready.is_ok(),
        () = shared.stop.cancelled() => false,
    };
    assert_eq!(ready, fault != Fault::RefusesTheRoom);
    // A machine that is busy for long is no fault, and what never comes is waited for so long.
    let grace = match fault {
        Fault::LosesOne | Fault::AddressesOneToAnother => Duration::from_secs(3),
        _ => Duration::from_secs(60),
    };
    let habit = Habit {
        size: 100,
        until,
        grace,
    };
    let senders: Vec<_> = (0..SENDERS)
        .map(|index| {
            let path = Path::Connection(Arc::clone(&members[index as usize]));
            let sender = Sender::new(index, path, &shared, habit);
            tasks.spawn(sender.run(0..MESSAGES))
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    let verdict = shared.verdict(&members, SENDERS);
    for member in members {
        member.stop();
    }
    Found { shared, verdict }
}

#[tokio::test]
async fn a_server_that_keeps_the_contract_is_given_no_blame() {
    for until in [Until::Delivered, Until::Answered] {
        let Found { shared, verdict } = run(Fault::Nothing, until).await;
        let all = u64::from(MESSAGES);
        assert_eq!((verdict.acknowledged, verdict.failed), (all, 0));
        assert_eq!(verdict.delivered, 2 * all);
        assert_eq!((verdict.lost, verdict.complaint()), (0, None));
        assert_eq!((get(&shared.overdue), get(&shared.echoes)), (0, 0));
        let counted = shared.tally.counted(Stage::Measured);
        assert_eq!(counted.delivery_latency.summary().count, 2 * all);
        assert_eq!(shared.ledger.complete_latency.summary().count, all);
        assert!(shared.tally.failures.list().is_empty());
    }
}

#[tokio::test]
async fn a_lost_message_is_waited_for_and_found() {
    for until in [Until::Delivered, Until::Answered] {
        let Found { shared, verdict } = run(Fault::LosesOne, until).await;
        assert_eq!((verdict.lost, verdict.duplicates), (1, 0), "{until:?}");
        assert!(get(&shared.overdue) > 0);
    }
}

#[tokio::test]
async fn what_is_given_wrongly_is_found() {
    let found = run(Fault::RepeatsOne, Until::Answered).await;
    assert_eq!((found.verdict.duplicates, found.verdict.lost), (1, 0));
    let found = run(Fault::SwapsTwo, Until::Answered).await;
    assert_eq!((found.verdict.disorder, found.verdict.lost), (1, 0));
    let found = run(Fault::AddressesOneToAnother, Until::Answered).await;
    assert_eq!(found.verdict.misdelivered, 1);
    let found = run(Fault::EchoesOne, Until::Answered).await;
    assert_eq!(get(&found.shared.echoes), 1);
}

#[tokio::test]
async fn a_device_that_is_not_let_into_the_room_stops_the_run() {
    let found = run(Fault::RefusesTheRoom, Until::Answered).await;
    assert_eq!(found.shared.tally.failures.total(), 1);
}

#[tokio::test]
async fn a_connection_that_ends_stops_the_run() {
    let found = run(Fault::HangsUp, Until::Delivered).await;
    assert_eq!(get(&found.shared.tally.connections_lost), 1);
    assert!(found.verdict.acknowledged < u64::from(MESSAGES));
}
