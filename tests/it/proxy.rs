//! The PROXY protocol on the TCP listener: who must send a header, who cannot, and that a broken one
//! closes its connection and nothing else.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use im::{config::Networks, pb::PackageType};
use prost::Message as _;

use crate::support::{
    Connection, Device, Process, Server, Transport,
    errors::{SIGN_IN_AGAIN, assert_code},
    http::get,
    wait::eventually,
    wire::framed,
};

/// What follows is read by a server that asks for headers from the address all tests come from.
async fn behind_a_balancer() -> Server {
    Server::with(|config| config.listen.proxy_protocol_from = networks("127.0.0.0/8")).await
}

fn networks(text: &str) -> Networks {
    Networks::from_iter([text.parse().expect("a network")])
}

fn v1(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (ip, port) = (client.ip(), client.port());
    format!("PROXY {family} {ip} {ip} {port} 8080\r\n").into_bytes()
}

fn v2(client: &str, tlvs: &[u8]) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address");
    let (family, mut body) = match client {
        SocketAddr::V4(client) => (0x11, [client.ip().octets(); 2].concat()),
        SocketAddr::V6(client) => (0x21, [client.ip().octets(); 2].concat()),
    };
    body.extend(client.port().to_be_bytes());
    body.extend(8080_u16.to_be_bytes());
    body.extend(tlvs);
    v2_header(0x21, family, &body)
}

fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let signature = b"\r\n\r\n\0\r\nQUIT\n".as_slice();
    [signature, &[command, family], &length, body].concat()
}

/// Opens a connection that begins with `header`.
async fn open_with(server: &crate::support::Api, header: &[u8]) -> Connection {
    let mut connection = server.open(Transport::Tcp).await;
    connection.raw(header).await;
    connection
}

/// Opens connections that begin with `header` until one is closed as soon as is promised: a busy
/// machine may be late. Returns how many it were.
async fn until_closed_within(promised: Duration, server: &Server, header: &[u8]) -> usize {
    for opened in 1..=3 {
        let begun = Instant::now();
        open_with(server, header).await.closed().await;
        if begun.elapsed() < promised {
            return opened;
        }
    }
    panic!("none is closed within {promised:?}");
}

async fn assert_signs_in(connection: &mut Connection, device: &Device) {
    let answer = connection.sign_in(device).await;
    assert_code(&answer, 0);
    connection.heartbeat().await;
}

#[tokio::test]
async fn headers_of_both_versions_are_taken_off() {
    let server = behind_a_balancer().await;
    let alice = server.new_user().await;
    for header in [
        v1("203.0.113.9:4711"),
        v1("[2001:db8::9]:4711"),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2("203.0.113.9:4711", b""),
        v2("[2001:db8::9]:4711", &[4; 1_000]),
        v2_header(0x20, 0, b""),
        v2_header(0x21, 0, b""),
    ] {
        let mut connection = open_with(&server, &header).await;
        assert_signs_in(&mut connection, &alice).await;
    }
}

/// As the network may deliver it: byte by byte, and in one piece with what follows.
#[tokio::test]
async fn a_header_ends_where_it_says() {
    let server = behind_a_balancer().await;
    let alice = server.new_user().await;
    for header in [v1("203.0.113.9:1"), v2("203.0.113.9:1", b"")] {
        let mut connection = server.open(Transport::Tcp).await;
        for byte in &header {
            connection.raw(&[*byte]).await;
        }
        assert_signs_in(&mut connection, &alice).await;

        let sign_in = im::pb::Input {
            r#type: PackageType::PtSignIn.into(),
            request_id: 77,
            data: alice.sign_in_input().encode_to_vec().into(),
        };
        let frame = framed(Transport::Tcp, &sign_in.encode_to_vec());
        let mut connection = open_with(&server, &[header, frame].concat()).await;
        assert_code(&connection.answer(77).await, 0);
        connection.heartbeat().await;
    }
}

#[tokio::test]
async fn a_broken_header_closes_its_connection_and_no_other() {
    let server = behind_a_balancer().await;
    let (alice, bob) = (server.new_user().await, server.new_user().await);
    let mut other = open_with(&server, &v2("203.0.113.9:1", b"")).await;
    assert_signs_in(&mut other, &bob).await;
    let sign_in = framed(Transport::Tcp, &alice.sign_in_input().encode_to_vec());
    let mut closed = 0;
    for broken in [
        sign_in,
        b"PROXY TCP4 1.2.3.4\r\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [b"PROXY ".as_slice(), &[b'x'; 200]].concat(),
        v2_header(0x2f, 0x11, &[0; 12]),
        v2_header(0x21, 0x11, &[0; 11]),
        v2("203.0.113.9:1", &[0; 5_000]),
    ] {
        closed += until_closed_within(Duration::from_secs(2), &server, &broken).await;
        other.heartbeat().await;
    }
    let metrics = get(server.addresses.metrics, "/metrics").await.body;
    let counted = format!(r#"im_closes_total{{reason="bad_proxy_header"}} {closed}"#);
    assert!(metrics.contains(&counted), "{metrics}");
    let mut fine = open_with(&server, &v1("203.0.113.9:1")).await;
    assert_signs_in(&mut fine, &alice).await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let server = Server::with(|config| {
        config.listen.proxy_protocol_from = networks("127.0.0.1");
        config.session.sign_in_timeout_s = 1;
    })
    .await;
    for beginning in [&b""[..], b"PROXY TCP4 ", &v2("203.0.113.9:1", b"")[..20]] {
        until_closed_within(Duration::from_secs(4), &server, beginning).await;
    }
}

/// From an address that is not listed a header is a frame like any other, and a bad one.
#[tokio::test]
async fn a_header_from_anybody_else_is_not_read() {
    let server = Server::with(|config| {
        config.listen.proxy_protocol_from = networks("127.0.0.2");
        config.session.sign_in_timeout_s = 1;
    })
    .await;
    let alice = server.new_user().await;
    for header in [v1("203.0.113.9:1"), v2("203.0.113.9:1", b"")] {
        let mut connection = open_with(&server, &header).await;
        connection
            .start(PackageType::PtSignIn, &alice.sign_in_input())
            .await;
        // Its first two bytes announce a frame that does not come.
        let answer = connection.any_answer().await.expect("an answer");
        assert_code(&answer, SIGN_IN_AGAIN);
        connection.closed().await;
    }
    // In time, which on a busy machine not every connection is.
    eventually("one without a header signs in", async || {
        let mut plain = server.open(Transport::Tcp).await;
        plain
            .start(PackageType::PtSignIn, &alice.sign_in_input())
            .await;
        assert_code(&plain.any_answer().await?, 0);
        Some(())
    })
    .await;
}

#[tokio::test]
async fn the_clients_address_is_what_the_log_shows() {
    let server = Process::with(&[
        ("IM_LISTEN__PROXY_PROTOCOL_FROM", "10.0.0.0/8, 127.0.0.1"),
        ("IM_LOG__LEVEL", "info,im=debug"),
    ])
    .await;
    let alice = server.new_user().await;
    for header in [v1("203.0.113.9:4711"), v2("[2001:db8::9]:4711", b"")] {
        let mut connection = open_with(&server, &header).await;
        assert_signs_in(&mut connection, &alice).await;
    }
    for client in ["203.0.113.9", "2001:db8::9"] {
        server
            .logged("the end of a connection", |line| {
                line.contains("connection ended") && line.contains(client)
            })
            .await;
    }
}
