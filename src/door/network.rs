//! A network of the configuration, such as 10.0.0.0/8.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

/// A network, an IPv4 one never in its IPv6 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network(IpNet);

/// Why a text is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNetwork {
    /// No address, no prefix, or more behind them.
    #[error("{0:?} is not a network such as 10.0.0.0/8, 192.0.2.7/32 or 2001:db8::/32")]
    Malformed(String),
    /// Whether one address or many are meant cannot be told.
    #[error("{text} names an address within {network}: write that, or the address with /{whole}")]
    Ambiguous {
        /// The text.
        text: String,
        /// The network that the address lies in.
        network: IpNet,
        /// The prefix that means one address.
        whole: u8,
    },
}

impl Network {
    /// This machine itself, over IPv4.
    pub const LOOPBACK_V4: Self = Self(IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)));
    /// This machine itself, over IPv6.
    pub const LOOPBACK_V6: Self = Self(IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)));

    /// Parses `ADDRESS/PREFIX`.
    pub fn parse(text: &str) -> Result<Self, InvalidNetwork> {
        let given: IpNet = text.parse().map_err(|_| InvalidNetwork::Malformed(text.to_owned()))?;
        let network = given.trunc();
        if network != given {
            let whole = given.max_prefix_len();
            return Err(InvalidNetwork::Ambiguous { text: text.to_owned(), network, whole });
        }
        let mapped = match network {
            IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
            IpNet::V4(_) => None,
        };
        let v4 = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
        Ok(Self(v4.map_or(network, IpNet::V4)))
    }

    /// Whether the address lies in it, in whichever form it is given.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }

    /// Whether that is every address of its family.
    pub fn is_everybody(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl TryFrom<String> for Network {
    type Error = InvalidNetwork;

    fn try_from(text: String) -> Result<Self, InvalidNetwork> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_its_addresses_in_either_form() {
        let table = [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "11.0.0.0", false),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("192.0.2.7/32", "192.0.2.6", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::1/128", "::1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "192.0.2.1", false),
            ("::/0", "::ffff:192.0.2.1", false),
        ];
        for (network, ip, want) in table {
            assert_eq!(
                Network::parse(network).unwrap().contains(ip.parse().unwrap()),
                want,
                "{network} {ip}"
            );
        }
    }

    #[test]
    fn what_is_not_clearly_a_network_is_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "localhost/8", "10.0.0.0/8 "] {
            assert_eq!(Network::parse(text), Err(InvalidNetwork::Malformed(text.to_owned())), "{text}");
        }
        let table = [
            (
                "10.0.0.5/8",
                "10.0.0.5/8 names an address within 10.0.0.0/8: write that, or the address with /32",
            ),
            (
                "2001:db8::1/32",
                "2001:db8::1/32 names an address within 2001:db8::/32: write that, or the address with /128",
            ),
        ];
        for (text, want) in table {
            assert_eq!(Network::parse(text).unwrap_err().to_string(), want);
        }
    }
}
