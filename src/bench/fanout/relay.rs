//! The floor of a delivery: a process that takes connections and writes every frame it is fed to
//! all of them, one write each, and nothing else. It stands in the server's place, so that what the
//! server costs beyond the kernel shows in one run on one machine.
//!
//! It is fed over one connection, the control: its own port first, then how many connections to
//! take, then frames. It ends with the control, so that it does not outlive who started it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    thread::available_parallelism,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};

use super::options::RelayArgs;
use crate::{
    error::{Error, Result, ResultExt as _},
    lifecycle::Tasks,
    pb::{Output, PackageType},
};

/// The next connection, and its sign-in, must come within this time.
const NEXT_CONNECTION: Duration = Duration::from_secs(30);
/// Frames that wait for one writing task.
const FRAMES_MAX: usize = 256;

/// Serves until the control ends.
pub async fn serve(options: &RelayArgs) -> Result<()> {
    let control = TcpStream::connect(options.control).await;
    relay(control.internal("connecting to the control")?).await
}

async fn relay(mut control: TcpStream) -> Result<()> {
    const DOING: &str = "taking the floor's connections";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.internal(DOING)?;
    let port = listener.local_addr().internal(DOING)?.port();
    control.write_u16(port).await.internal(DOING)?;
    let wanted = control.read_u32().await.internal(DOING)?;
    let mut streams = Vec::with_capacity(wanted as usize);
    for _ in 0..wanted {
        let accepted = timeout(NEXT_CONNECTION, accept(&listener)).await;
        streams.push(accepted.map_err(|_| Error::internal("too few connections"))??);
    }
    // The server's writes come from as many threads.
    let writers = available_parallelism().map_or(1, NonZero::get);
    let tasks = Tasks::default();
    let mut feeds = Vec::with_capacity(writers);
    for part in deal(streams, writers) {
        let (feed, frames) = mpsc::channel(FRAMES_MAX);
        tasks.spawn(write(part, frames));
        feeds.push(feed);
    }
    while let Some(frame) = read_frame(&mut control).await {
        for feed in &feeds {
            if feed.send(frame.clone()).await.is_err() {
                return Err(Error::internal("a connection of the floor broke"));
            }
        }
    }
    Ok(())
}

/// Accepts a connection and takes its sign-in, whatever it says.
async fn accept(listener: &TcpListener) -> Result<TcpStream> {
    const DOING: &str = "signing in at the floor";
    let (mut stream, _): (_, SocketAddr) = listener.accept().await.internal(DOING)?;
    stream.set_nodelay(true).internal(DOING)?;
    let length = stream.read_u16().await.internal(DOING)?;
    let mut sign_in = vec![0; length.into()];
    stream.read_exact(&mut sign_in).await.internal(DOING)?;
    let answer = frame(&Output {
        r#type: PackageType::PtSignIn.into(),
        request_id: 1,
        ..Output::default()
    });
    stream.write_all(&answer).await.internal(DOING)?;
    Ok(stream)
}

/// Spreads what there is over `parts` of about the same size.
fn deal<T>(all: Vec<T>, parts: usize) -> Vec<Vec<T>> {
    let mut dealt: Vec<Vec<T>> = (0..parts).map(|_| Vec::new()).collect();
    for (number, one) in all.into_iter().enumerate() {
        dealt[number % parts].push(one);
    }
    dealt
}

/// What is measured.
async fn write(mut streams: Vec<TcpStream>, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        for stream in &mut streams {
            if stream.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}

/// The next frame with its length before it; `None` when the control has ended.
async fn read_frame(control: &mut TcpStream) -> Option<Bytes> {
    let length = control.read_u16().await.ok()?;
    let mut frame = BytesMut::zeroed(2 + usize::from(length));
    frame[..2].copy_from_slice(&length.to_be_bytes());
    control.read_exact(&mut frame[2..]).await.ok()?;
    Some(frame.freeze())
}

/// A package as it stands on a TCP connection.
pub fn frame(output: &Output) -> Vec<u8> {
    let body = output.encode_to_vec();
    let mut frame = Vec::with_capacity(2 + body.len());
    frame.extend_from_slice(&(body.len() as u16).to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the task ends with its test")]
mod tests {
    use super::*;

    #[test]
    fn everything_is_dealt_once() {
        let dealt = deal((0..7).collect(), 3);
        assert_eq!(dealt, [vec![0, 3, 6], vec![1, 4], vec![2, 5]]);
    }

    #[tokio::test]
    async fn every_connection_is_given_every_frame() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let control = listener.local_addr().unwrap();
        let relay = tokio::spawn(async move { serve(&RelayArgs { control }).await });
        let (mut control, _) = listener.accept().await.unwrap();
        let port = control.read_u16().await.unwrap();
        control.write_u32(3).await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..3 {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            stream.write_all(b"\x00\x02hi").await.unwrap();
            let answer = read_frame(&mut stream).await.unwrap();
            let answer = Output::decode(&answer[2..]).unwrap();
            assert_eq!((answer.r#type(), answer.code), (PackageType::PtSignIn, 0));
            streams.push(stream);
        }
        for message in [&b"\x00\x03abc"[..], b"\x00\x00", b"\x00\x01d"] {
            control.write_all(message).await.unwrap();
            for stream in &mut streams {
                assert_eq!(read_frame(stream).await.unwrap(), message);
            }
        }
        drop(control);
        assert!(relay.await.unwrap().is_ok());
        assert!(read_frame(&mut streams[0]).await.is_none());
    }
}
