//! Long connections over plain TCP: accept, and hand the byte pipe to the driver.

use std::{future::Future, sync::Arc};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{Gateway, connection::Connection, frame::Framing};

/// Serves one accepted socket to its end.
pub fn serve(gateway: Arc<Gateway>, stream: TcpStream) -> impl Future<Output = ()> {
    Connection::new(gateway, stream, Framing::Tcp, BytesMut::new(), None).run()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection is idle most of its life, and then this future is the largest part of it.
    #[test]
    fn an_idle_connection_stays_small() {
        fn size_of_future<F>(_: fn(Arc<Gateway>, TcpStream) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        assert!(size_of_future(serve) <= 1_152, "{}", size_of_future(serve));
    }
}
