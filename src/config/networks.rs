//! Lists of IP addresses and networks: who is believed about what. An IPv4 address and the same one
//! mapped to IPv6 (`::ffff:10.0.0.7`, as a listener on `[::]` sees it) are one address.

use std::{net::IpAddr, str::FromStr};

use serde::Deserialize;

/// An address, or all addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

/// A list of addresses and networks; often empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Networks(Vec<Network>);

/// What is not an address or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address or a network")]
pub struct NotANetwork;

/// Bits that an IPv4 address mapped to IPv6 has before its own.
const MAPPED_BITS: u32 = 96;

impl Network {
    /// True for an address of this network.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= self.prefix_bits
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let differing = ours.to_bits() ^ theirs.to_bits();
                differing.leading_zeros() >= self.prefix_bits
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// Reads `10.0.0.7` or `10.0.0.0/8`. Bits behind the prefix do not matter.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits: u32 = match prefix {
            None => bits,
            // `parse` would take a sign.
            Some(prefix) if prefix.bytes().all(|b| b.is_ascii_digit()) => {
                prefix.parse().map_err(|_| NotANetwork)?
            }
            Some(_) => return Err(NotANetwork),
        };
        if prefix_bits > bits {
            return Err(NotANetwork);
        }
        let canonical = address.to_canonical();
        let is_mapped = canonical.is_ipv4() && address.is_ipv6();
        Ok(match prefix_bits.checked_sub(MAPPED_BITS) {
            Some(prefix_bits) if is_mapped => Self {
                address: canonical,
                prefix_bits,
            },
            _ => Self {
                address,
                prefix_bits,
            },
        })
    }
}

impl Networks {
    /// True for an address of one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// True where nobody is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl TryFrom<Vec<String>> for Networks {
    type Error = NotANetwork;

    fn try_from(list: Vec<String>) -> Result<Self, NotANetwork> {
        list.iter().map(|text| text.parse()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        let network: Network = network.parse().expect(network);
        network.contains(address.parse().expect(address))
    }

    #[test]
    fn a_network_has_the_addresses_that_share_its_prefix() {
        for (network, address) in [
            ("10.0.0.7", "10.0.0.7"),
            ("10.0.0.7", "::ffff:10.0.0.7"),
            ("::ffff:10.0.0.7", "10.0.0.7"),
            ("::ffff:10.0.0.0/104", "10.1.2.3"),
            ("10.1.2.3/8", "10.200.0.1"),
            ("0.0.0.0/0", "203.0.113.9"),
            ("fd00::/8", "fdff::1"),
            ("::/0", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert!(contains(network, address), "{network} {address}");
        }
        for (network, address) in [
            ("10.0.0.7", "10.0.0.8"),
            ("10.0.0.0/9", "10.128.0.0"),
            ("fd00::/8", "fe00::1"),
            ("::/0", "10.0.0.1"),
            ("0.0.0.0/0", "::1"),
        ] {
            assert!(!contains(network, address), "{network} {address}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10.0.0/8",
            "localhost",
            "10.0.0.7:80",
            "[::1]",
            " 10.0.0.7",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(NotANetwork), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn membership_is_that_of_the_leading_bits(ours: u32, theirs: u32, prefix in 0..=32_u32) {
            let network: Network = format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(ours))
                .parse()
                .expect("a network");
            let shift = 32 - prefix;
            let same = u64::from(ours) >> shift == u64::from(theirs) >> shift;
            prop_assert_eq!(network.contains(std::net::Ipv4Addr::from_bits(theirs).into()), same);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = text.parse::<Network>();
        }
    }
}
