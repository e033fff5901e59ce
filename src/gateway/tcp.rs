//! Long connections over plain TCP: accept, learn from a load balancer whose connection it is, and
//! hand the byte pipe to the driver.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{Gateway, connection::Connection, frame::Framing};
use crate::{
    config::{Networks, seconds},
    limits::PROXY_HEADER_MAX,
    listen::Listener,
    proxy::{
        Warnings,
        header::{self, Refused},
    },
};

/// Serves what `listener` accepts until the drain. Connections from `balancers` must begin with a
/// PROXY protocol header; of those from anybody else it would be a bad frame.
pub async fn accept(listener: Listener, gateway: Arc<Gateway>, balancers: Networks) {
    let tasks = gateway.tasks.clone();
    let warnings = Arc::new(Warnings::default());
    listener
        .accept(&tasks, |stream, peer| {
            let gateway = Arc::clone(&gateway);
            if balancers.contains(peer.ip()) {
                tasks.spawn(introduce(gateway, stream, peer, Arc::clone(&warnings)));
            } else {
                tasks.spawn(serve(gateway, stream, peer.ip(), BytesMut::new()));
            }
        })
        .await;
}

/// Reads whose connection it is and serves it, in a task of its own: the memory that this takes is not
/// kept as long as the connection lives.
async fn introduce(
    gateway: Arc<Gateway>,
    mut stream: TcpStream,
    peer: SocketAddr,
    warnings: Arc<Warnings>,
) {
    let within = PROXY_HEADER_MAX.min(seconds(gateway.config.sign_in_timeout_s));
    let read = tokio::select! {
        read = header::read(&mut stream, within) => read,
        // Nobody has said anything that a notice could answer.
        () = gateway.draining.cancelled() => return,
    };
    match read {
        Ok((client, received)) => {
            let client = client.unwrap_or(peer).ip().to_canonical();
            let tasks = gateway.tasks.clone();
            tasks.spawn(serve(gateway, stream, client, received));
        }
        Err(Refused::Empty) => {}
        Err(why) => {
            // The balancer is not set up as this server is, which its operator should hear of.
            if warnings.may_warn() {
                tracing::warn!(%peer, %why, "closed a connection of listen.proxy_protocol_from");
            }
            gateway.metrics.closed("bad_proxy_header");
        }
    }
}

/// Serves one accepted socket of `client`, of which `received` was read already, to its end.
fn serve(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    client: IpAddr,
    received: BytesMut,
) -> impl Future<Output = ()> {
    Connection::new(gateway, stream, client, Framing::Tcp, received, None).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection is idle most of its life, and then this future is the largest part of it.
    #[test]
    fn an_idle_connection_stays_small() {
        fn size_of_future<F>(_: fn(Arc<Gateway>, TcpStream, IpAddr, BytesMut) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        assert!(size_of_future(serve) <= 1_152, "{}", size_of_future(serve));
    }
}
