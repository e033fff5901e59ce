//! Long connections over plain TCP: accept, and hand the byte pipe to the driver.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::{Gateway, connection::Connection, frame::Framing};

/// Serves one accepted socket to its end.
pub async fn serve(gateway: Arc<Gateway>, stream: TcpStream) {
    Connection::new(gateway, stream, Framing::Tcp, BytesMut::new(), None)
        .run()
        .await;
}
