//! Whose request it is, by `Forwarded` (RFC 7239) or `X-Forwarded-For`. Each proxy adds on the right
//! whom it heard the request from, so the list is read from the right: as long as a hop is listed, the
//! hop before it is believed. What a client itself wrote stands left of all that, and is never reached.
//!
//! Where both headers are there they must agree on the client: most proxies maintain one of them and
//! pass the other on, which then is the client's own words, and nothing tells which.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};

use super::Warnings;
use crate::config::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies that are believed.
#[derive(Debug)]
pub struct Proxies {
    listed: Networks,
    warnings: Warnings,
}

impl Proxies {
    /// Those of `listen.forwarded_from`.
    #[must_use]
    pub fn new(listed: Networks) -> Self {
        Self {
            listed,
            warnings: Warnings::default(),
        }
    }

    /// Whose request it is that `peer` sent, the peer's own where it may not be believed, or where
    /// it says one thing in `Forwarded` and another in `X-Forwarded-For`.
    #[must_use]
    pub fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.listed.contains(peer.ip()) {
            return peer;
        }
        let by_standard = || client(peer, headers, FORWARDED, forwarded, &self.listed);
        let by_custom = || {
            client(
                peer,
                headers,
                X_FORWARDED_FOR,
                x_forwarded_for,
                &self.listed,
            )
        };
        if !headers.contains_key(FORWARDED) {
            return by_custom();
        }
        let client = by_standard();
        if headers.contains_key(X_FORWARDED_FOR) && by_custom().ip() != client.ip() {
            if self.warnings.may_warn() {
                tracing::warn!(
                    %peer,
                    "`Forwarded` and `X-Forwarded-For` of a proxy name different clients, neither is believed"
                );
            }
            return peer;
        }
        client
    }
}

/// Whose request it is by the header `name`: the right-most hop that is not listed in `proxies`, or the
/// left-most of all where every hop is. A hop that does not say where it is (`unknown`, `_hidden`) and a
/// header that cannot be read end the list: then it is the last hop that is known, which is the peer
/// where there is one proxy. The port is 0 where none is told.
fn client(
    peer: SocketAddr,
    headers: &HeaderMap,
    name: HeaderName,
    read: fn(&str) -> Hops,
    proxies: &Networks,
) -> SocketAddr {
    let mut client = peer;
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    for line in lines.into_iter().rev() {
        // A byte that is no text spoils the hop it stands in, not those that proxies added behind it.
        let text = String::from_utf8_lossy(line.as_bytes());
        for hop in read(&text).into_iter().rev() {
            let Some(address) = hop else { return client };
            client = address;
            if !proxies.contains(address.ip()) {
                return client;
            }
        }
    }
    client
}

/// The hops of one header, from left to right; `None` for one that is not known.
type Hops = Vec<Option<SocketAddr>>;

/// Reads `X-Forwarded-For: client, proxy, proxy`. There is no quoting, so each hop stands for itself.
fn x_forwarded_for(text: &str) -> Hops {
    let hops = text.split(',').map(str::trim);
    hops.filter(|hop| !hop.is_empty()).map(node).collect()
}

/// Reads `Forwarded: for=client;proto=https, for=proxy`. A header that cannot be read is one hop that
/// is not known.
fn forwarded(text: &str) -> Hops {
    elements(text).unwrap_or_else(|| vec![None])
}

/// The hops of a `Forwarded` header, `None` where it is not one.
fn elements(text: &str) -> Option<Hops> {
    let mut hops = Hops::new();
    let mut rest = text;
    loop {
        // A list may have empty elements (RFC 9110 §5.6.1).
        rest = rest.trim_start_matches([',', ' ', '\t']);
        if rest.is_empty() {
            return Some(hops);
        }
        let (hop, behind) = element(rest)?;
        hops.push(hop);
        rest = behind;
    }
}

/// The hop of the element that `text` begins with, and what is behind it; `None` where the element
/// cannot be read.
fn element(text: &str) -> Option<(Option<SocketAddr>, &str)> {
    let mut rest = text;
    let mut hop = None;
    loop {
        let (name, behind) = rest.split_once('=')?;
        let (value, behind) = value(behind)?;
        let name = name.trim();
        if name.is_empty() || !name.bytes().all(is_in_token) {
            return None;
        }
        if name.eq_ignore_ascii_case("for") && hop.replace(value).is_some() {
            return None;
        }
        rest = behind.trim_start();
        if let Some(next) = rest.strip_prefix(';') {
            rest = next;
        } else if rest.is_empty() || rest.starts_with(',') {
            let address = hop.and_then(|hop| node(&hop));
            return Some((address, rest));
        } else {
            return None;
        }
    }
}

/// A parameter's value, quoted or not, and what is behind it. Brackets and colons belong into quotes;
/// proxies that leave those away are understood all the same.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';', ' ', '\t']).unwrap_or(text.len());
        let (value, behind) = text.split_at(end);
        let is_value = |byte| is_in_token(byte) || matches!(byte, b'[' | b']' | b':');
        let is_one = !value.is_empty() && value.bytes().all(is_value);
        return is_one.then(|| (value.to_owned(), behind));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            _ => value.push(character),
        }
    }
    None
}

/// True for what a token is made of (RFC 9110 §5.6.2).
fn is_in_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The address of a node (RFC 7239 §6), which may have a port; `None` where it is hidden or is none.
/// `X-Forwarded-For` has IPv6 addresses without brackets too.
fn node(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(canonical(address, 0));
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address = address.parse::<Ipv6Addr>().ok()?;
            match port.strip_prefix(':') {
                Some(port) => (IpAddr::V6(address), port),
                None if port.is_empty() => return Some(canonical(address.into(), 0)),
                None => return None,
            }
        }
        None => {
            let (address, port) = text.split_once(':')?;
            (IpAddr::V4(address.parse().ok()?), port)
        }
    };
    Some(canonical(address, port_number(port)?))
}

/// The number of a port; 0 where it is hidden (`_name`).
fn port_number(port: &str) -> Option<u16> {
    if port.starts_with('_') {
        return Some(0);
    }
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    port.parse().ok().filter(|_| is_number)
}

fn canonical(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PROXY: &str = "10.0.0.1:555";

    fn client_of(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                *name,
                HeaderValue::from_bytes(value.as_bytes()).expect(value),
            );
        }
        let proxies = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect(network));
        let proxies = proxies.into_iter().collect();
        let proxies = Proxies::new(proxies);
        let client = proxies.client(peer.parse().expect(peer), &headers);
        client.to_string()
    }

    #[test]
    fn only_listed_peers_are_believed() {
        for name in ["forwarded", "x-forwarded-for"] {
            let value = if name == "forwarded" {
                "for=1.2.3.4"
            } else {
                "1.2.3.4"
            };
            assert_eq!(
                client_of("203.0.113.9:1", &[(name, value)]),
                "203.0.113.9:1"
            );
            assert_eq!(client_of(PROXY, &[(name, value)]), "1.2.3.4:0");
            assert_eq!(
                client_of("[::ffff:10.0.0.1]:1", &[(name, value)]),
                "1.2.3.4:0"
            );
        }
        assert_eq!(client_of(PROXY, &[]), PROXY);
    }

    #[test]
    fn x_forwarded_for_is_read_from_the_right() {
        for (value, client) in [
            ("1.2.3.4", "1.2.3.4:0"),
            ("6.6.6.6, 1.2.3.4", "1.2.3.4:0"),
            ("garbage\u{e4}, \"x, 1.2.3.4", "1.2.3.4:0"),
            ("6.6.6.6, 1.2.3.4, 10.1.1.1,10.2.2.2", "1.2.3.4:0"),
            ("10.1.1.1, 10.2.2.2", "10.1.1.1:0"),
            ("1.2.3.4:80", "1.2.3.4:80"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("::ffff:1.2.3.4", "1.2.3.4:0"),
            (", 1.2.3.4,, ", "1.2.3.4:0"),
            ("6.6.6.6, unknown", PROXY),
            ("6.6.6.6, unknown, 10.1.1.1", "10.1.1.1:0"),
            ("", PROXY),
            ("1.2.3.4.5", PROXY),
            ("1.2.3.4:99999", PROXY),
            ("[1.2.3.4]", PROXY),
        ] {
            assert_eq!(
                client_of(PROXY, &[("x-forwarded-for", value)]),
                client,
                "{value}"
            );
        }
        let lines = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "1.2.3.4"),
        ];
        assert_eq!(client_of(PROXY, &lines), "1.2.3.4:0");
    }

    #[test]
    fn forwarded_is_read_from_the_right() {
        for (value, client) in [
            ("for=1.2.3.4", "1.2.3.4:0"),
            ("For=\"1.2.3.4:80\";proto=https;by=10.0.0.1", "1.2.3.4:80"),
            ("proto=https; for=1.2.3.4", "1.2.3.4:0"),
            (
                "for=6.6.6.6, for=1.2.3.4 , for=\"[fd00::1]:99\"",
                "1.2.3.4:0",
            ),
            ("for=\"[2001:db8::1]\"", "[2001:db8::1]:0"),
            ("for=[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("for=\"1.2\\.3.4\"", "1.2.3.4:0"),
            ("for=\"1.2.3.4:_port\"", "1.2.3.4:0"),
            ("for=6.6.6.6, for=unknown", PROXY),
            ("for=6.6.6.6, for=_hidden, for=10.9.9.9", "10.9.9.9:0"),
            ("for=6.6.6.6, proto=http", PROXY),
            (",for=1.2.3.4,", "1.2.3.4:0"),
        ] {
            assert_eq!(client_of(PROXY, &[("forwarded", value)]), client, "{value}");
        }
    }

    /// One of them is the client's own, and nothing tells which.
    #[test]
    fn headers_that_do_not_agree_are_not_believed() {
        for (by_standard, by_custom, client) in [
            ("for=6.6.6.6", "1.2.3.4", PROXY),
            ("for=1.2.3.4", "6.6.6.6, 1.2.3.4", "1.2.3.4:0"),
            ("for=\"1.2.3.4:80\"", "1.2.3.4", "1.2.3.4:80"),
            ("nonsense", "1.2.3.4", PROXY),
            ("for=1.2.3.4", "nonsense", PROXY),
            ("", "1.2.3.4", PROXY),
        ] {
            let lines = [("x-forwarded-for", by_custom), ("forwarded", by_standard)];
            assert_eq!(client_of(PROXY, &lines), client, "{by_standard}");
        }
    }

    /// The header as a whole says nothing then, not even what looks fine in it.
    #[test]
    fn malformed_forwarded_is_ignored() {
        for value in [
            "for",
            "for=",
            "=1.2.3.4",
            "for=1.2.3.4;",
            "for=1.2.3.4 proto=http",
            "for=\"1.2.3.4",
            "for=1.2.3.4, for=\"x",
            "for=1.2.3.4;for=1.2.3.4",
            "1.2.3.4",
            "for=1.2.3.4;;proto=http",
            "fo r=1.2.3.4",
            "for=1.2.3.4\"",
        ] {
            assert_eq!(client_of(PROXY, &[("forwarded", value)]), PROXY, "{value}");
        }
        // A line that a client left open does not swallow the one that the proxy added.
        let lines = [("forwarded", "for=\"6.6.6.6"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(client_of(PROXY, &lines), "1.2.3.4:0");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[for=;,\"\\\\ .:0-9a-f_\\[\\]x]{0,60}") {
            let _ = (forwarded(&text), x_forwarded_for(&text));
        }

        /// Whatever a client writes, the address that the proxy adds is the one that counts.
        #[test]
        fn what_a_client_writes_is_never_believed(
            spoofed in vec("[ -~]{0,40}", 0..3),
            address: [u8; 4],
            port: u16,
        ) {
            prop_assume!(address[0] != 10);
            let client = SocketAddr::from((address, port));
            let real = format!("for=\"{client}\"");
            let mut lines: Vec<_> = spoofed.iter().map(|line| ("forwarded", &**line)).collect();
            lines.push(("forwarded", &real));
            prop_assert_eq!(client_of(PROXY, &lines), client.to_string());

            let appended = format!("{}, {}", spoofed.join(","), client.ip());
            let lines = [("x-forwarded-for", &*appended)];
            prop_assert_eq!(client_of(PROXY, &lines), SocketAddr::new(client.ip(), 0).to_string());
        }
    }
}
