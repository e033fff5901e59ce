//! Headers as load balancers send them, whole, cut, broken and in pieces.

use proptest::{collection::vec, prelude::*};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::*;

fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let ports = format!("{} {}", source.port(), destination.port());
    format!("PROXY {family} {from} {to} {ports}\r\n").into_bytes()
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = V2.to_vec();
    header.extend([command, family]);
    header.extend((body.len() as u16).to_be_bytes());
    header.extend(body);
    header
}

fn v2_proxy(source: SocketAddr, destination: SocketAddr, tlvs: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for address in [source.ip(), destination.ip()] {
        match address {
            IpAddr::V4(address) => body.extend(address.octets()),
            IpAddr::V6(address) => body.extend(address.octets()),
        }
    }
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    body.extend(tlvs);
    v2(0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, &body)
}

/// Two addresses of one family.
fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = any::<[([u8; 4], u16); 2]>().prop_map(|pair| {
        let [a, b] = pair.map(SocketAddr::from);
        (a, b)
    });
    let v6 = any::<[([u8; 16], u16); 2]>().prop_map(|pair| {
        let [a, b] = pair.map(SocketAddr::from);
        (a, b)
    });
    prop_oneof![v4, v6]
}

fn assert_is_read(header: &[u8], client: Option<SocketAddr>, rest: &[u8]) {
    for end in 0..header.len() {
        assert_eq!(parse(&header[..end]), Ok(None), "{end} of {header:?}");
    }
    let mut bytes = header.to_vec();
    bytes.extend(rest);
    let length = header.len();
    assert_eq!(
        parse(&bytes),
        Ok(Some(Header { client, length })),
        "{header:?}"
    );
}

proptest! {
    #[test]
    fn headers_of_both_versions_are_read_and_every_beginning_is_incomplete(
        (source, destination) in addresses(),
        tlvs in vec(any::<u8>(), 0..300),
        rest in vec(any::<u8>(), 0..50),
    ) {
        assert_is_read(&v1(source, destination), Some(source), &rest);
        assert_is_read(&v2_proxy(source, destination, &tlvs), Some(source), &rest);
    }

    #[test]
    fn nothing_makes_it_panic(
        beginning in prop_oneof![Just(&b""[..]), Just(V1), Just(&V2[..]), Just(&b"PROXY TCP4 "[..])],
        bytes in vec(any::<u8>(), 0..300),
    ) {
        let bytes = [beginning, &bytes].concat();
        if let Ok(Some(header)) = parse(&bytes) {
            prop_assert!(header.length <= bytes.len());
        }
    }

    #[test]
    fn garbage_is_refused(bytes in vec(any::<u8>(), 1..200)) {
        prop_assume!(!begins(&bytes, V1) && !begins(&bytes, V2));
        prop_assert_eq!(parse(&bytes), Err(Refused::Malformed));
    }
}

#[test]
fn headers_without_a_client_keep_the_peers_address() {
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &[7; 12]),
        v2(0x20, 0xff, b"whatever"),
        v2(0x21, 0x00, b""),
        v2(0x21, 0x00, b"tlvs"),
        v2(0x21, 0x12, &[7; 12]),
        v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        assert_is_read(&header, None, b"rest");
    }
}

#[test]
fn broken_headers_are_refused() {
    for header in [
        &b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"[..],
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \xff\r\n",
        b"PROXY \r\n",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat(),
        &v2(0x22, 0x11, &[7; 12]),
        &v2(0x11, 0x11, &[7; 12]),
        &v2(0x21, 0x13, &[7; 12]),
        &v2(0x21, 0x41, &[7; 12]),
        &v2(0x21, 0x11, &[7; 11]),
        &v2(0x21, 0x21, &[7; 35]),
        &v2(0x21, 0x31, &[7; 215]),
    ] {
        assert_eq!(parse(header), Err(Refused::Malformed), "{header:?}");
    }
    // What is too long is not waited for.
    let long = v2(0x21, 0x11, &vec![0; PROXY_HEADER_BYTES_MAX]);
    assert_eq!(parse(&long[..V2_FIXED_BYTES]), Err(Refused::TooLong));
    let longest = v2(
        0x21,
        0x11,
        &vec![0; PROXY_HEADER_BYTES_MAX - V2_FIXED_BYTES],
    );
    assert!(matches!(parse(&longest), Ok(Some(_))));
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.expect("connected"), theirs.expect("accepted").0)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_header_in_many_segments_is_read_and_the_stream_goes_on_behind_it() {
    let source = "203.0.113.9:4711".parse().expect("an address");
    for header in [v1(source, source), v2_proxy(source, source, &[1; 2_000])] {
        let (mut client, mut server) = pair().await;
        client.set_nodelay(true).expect("an option");
        let sending = async {
            for byte in &header {
                client.write_all(&[*byte]).await.expect("sent");
            }
            client.write_all(b"first frame").await.expect("sent");
        };
        let ((), read) = tokio::join!(sending, read(&mut server, LONG));
        let (found, mut rest) = read.expect("a header");
        assert_eq!(found, Some(source));
        while rest.len() < b"first frame".len() {
            server.read_buf(&mut rest).await.expect("more");
        }
        assert_eq!(&rest[..], b"first frame");
    }
}

#[tokio::test]
async fn a_header_that_ends_early_or_does_not_come_is_refused() {
    for (sent, why) in [(&b""[..], Refused::Empty), (b"PROXY TCP4 ", Refused::Cut)] {
        let (mut client, mut server) = pair().await;
        client.write_all(sent).await.expect("sent");
        drop(client);
        assert_eq!(read(&mut server, LONG).await, Err(why));
    }
    let (_client, mut server) = pair().await;
    let late = read(&mut server, Duration::from_millis(1)).await;
    assert_eq!(late, Err(Refused::Late));
}
