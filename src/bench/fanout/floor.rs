//! Measures the floor: the same devices, messages and senders as in the run itself, with `relay`
//! in the server's place.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};

use super::{
    crowd::{Crowd, Measured, connect},
    options::{Fanout, Kind},
    relay::frame,
    send::Path,
    shared::{Audience, Plan},
};
use crate::{
    bench::{
        Bench,
        accounts::Account,
        args::Transport,
        check::Verdict,
        client::Target,
        failure::Failure,
        probe::{Probe, Source},
    },
    error::{Error, Result, ResultExt as _},
    pb::{self, MessageStatus, MessageType, Output, PackageType, SenderType},
};

/// The process must be there within this time.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// To whom its messages say they go, whatever the run's own go to: nobody subscribes to anything.
const AUDIENCE: Audience = Audience {
    kind: Kind::Large,
    id: 1,
};

/// The process, which ends with this.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Feeds the process with frames that look like the server's own.
#[derive(Debug)]
pub struct Feeder {
    /// The control, and the seq of the last message.
    control: Mutex<(TcpStream, i64)>,
}

impl Feeder {
    /// Has a message written to all connections; returns when the process is told.
    pub async fn send(&self, audience: Audience, content: Vec<u8>) -> Result<(), Failure> {
        let mut guard = self.control.lock().await;
        let (control, seq) = &mut *guard;
        *seq += 1;
        let bytes = frame(&push(audience, *seq, content));
        let written = control.write_all(&bytes).await;
        written.map_err(|error| Failure::io("floor", &error))
    }
}

/// A push of the server, as it is for a user without a nickname.
fn push(Audience { kind, id }: Audience, seq: i64, content: Vec<u8>) -> Output {
    /// As long as that of today.
    const SEND_TIME_MS: i64 = 1_800_000_000_000;
    let message = pb::Message {
        sender: Some(pb::Sender {
            sender_type: SenderType::StUser.into(),
            sender_id: 1,
            ..pb::Sender::default()
        }),
        receiver_type: kind.receiver_type().into(),
        receiver_id: id,
        to_user_ids: Vec::new(),
        message_type: MessageType::MtText.into(),
        message_content: content.into(),
        seq,
        send_time: SEND_TIME_MS,
        status: MessageStatus::MsNormal.into(),
        message_id: seq,
        client_message_id: String::new(),
    };
    let push = pb::MessageSend {
        message: Some(message),
    };
    Output {
        r#type: PackageType::PtMessage.into(),
        data: push.encode_to_vec().into(),
        ..Output::default()
    }
}

/// Measures the floor of what `options` ask for, over TCP.
pub async fn measure(
    bench: &Bench,
    options: &Fanout,
    accounts: &Arc<[Account]>,
) -> Result<(Measured, Verdict)> {
    let (process, mut control) = start().await?;
    const DOING: &str = "starting the floor";
    let port = timeout(START_DEADLINE, control.read_u16()).await;
    let port = port.map_err(|_| Error::internal(DOING))?.internal(DOING)?;
    control.write_u32(options.online).await.internal(DOING)?;

    let target = Target::new(Transport::Tcp, &[(Ipv4Addr::LOCALHOST, port).into()]);
    let floor = Bench {
        target: Arc::new(target),
        ..bench.clone()
    };
    let connections = connect(&floor, accounts, 0, &floor.target).await?;
    let plan = Plan {
        audience: AUDIENCE,
        devices_send: false,
        receivers: options.online,
        // Nobody reads them.
        ack_every: 0,
    };
    let crowd = Crowd::gather(&floor, options, plan, connections).await?;
    let feeder = Arc::new(Feeder {
        control: Mutex::new((control, 0)),
    });
    let paths = (0..options.senders).map(|_| Path::Feeder(Arc::clone(&feeder)));
    let probe = Probe::new(vec![Source::Process(process.0.id())], Vec::new());
    let measured = crowd.send(paths.collect(), &probe).await?;
    Ok((measured, crowd.verdict()))
}

/// Starts the process and waits until it has called back.
async fn start() -> Result<(Process, TcpStream)> {
    const DOING: &str = "starting the floor";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.internal(DOING)?;
    let address = listener.local_addr().internal(DOING)?;
    let program = env::current_exe().internal(DOING)?;
    let child = Command::new(program)
        .args(["bench", "relay", "--control", &address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    let process = Process(child.internal(DOING)?);
    let accepted = timeout(START_DEADLINE, listener.accept()).await;
    let accepted = accepted.map_err(|_| Error::internal("the floor's process did not call"))?;
    let (control, _): (_, SocketAddr) = accepted.internal(DOING)?;
    control.set_nodelay(true).internal(DOING)?;
    Ok((process, control))
}
