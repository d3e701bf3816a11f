//! Addresses of clients in logs: whole, without their host bits, or as pseudonyms.
//!
//! A pseudonym is a keyed hash (HMAC-SHA-256, RFC 2104) of the address. The key is random and lives as
//! long as the process: all logs of a run have the same pseudonym for a client, no two runs do, and
//! nobody who has only the logs can try addresses until one fits.

#![expect(clippy::disallowed_methods, reason = "a key of the process that nothing is decided by")]

use std::fmt;
use std::sync::OnceLock;

use ring::hmac;
use ring::rand::SystemRandom;

use crate::base::addr::Endpoint;
use crate::config::log_style::ClientAddresses;
use crate::control::log;

/// Bits of an address that are kept: a network as registries give it to one customer.
const V4_BITS: u32 = 24;
const V6_BITS: u32 = 48;
/// Bytes of a pseudonym.
const PSEUDONYM: usize = 8;

/// A client as logs show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) enum Shown {
    /// Address and port.
    Whole(Endpoint),
    /// The network's first address.
    Network(Endpoint),
    /// A number without a meaning.
    Pseudonym([u8; 16]),
}

impl Shown {
    /// That of a client, as the configuration in force wants it.
    pub(in crate::control) fn of(client: Endpoint) -> Self {
        match log::client_addresses() {
            ClientAddresses::Whole => Self::Whole(client),
            ClientAddresses::Network => Self::network(client),
            // Without randomness nothing is better than an address.
            ClientAddresses::Pseudonym => {
                Self::Pseudonym(key().map_or([0; 16], |key| pseudonym(key, client)))
            }
        }
    }

    fn network(client: Endpoint) -> Self {
        let bits = if client.is_ipv4() { 96 + V4_BITS } else { V6_BITS };
        let mask = u128::MAX << (128 - bits);
        // The port tells clients of one network apart, too.
        Self::Network(Endpoint {
            ip: (u128::from_be_bytes(client.ip) & mask).to_be_bytes(),
            port: 0,
            ..client
        })
    }

    /// Its sixteen bytes and its port in the binary format.
    pub(in crate::control) const fn bytes(&self) -> ([u8; 16], u16) {
        match self {
            Self::Whole(client) | Self::Network(client) => (client.ip, client.port),
            Self::Pseudonym(bytes) => (*bytes, 0),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(client) => client.fmt(f),
            Self::Network(client) => client.ip().fmt(f),
            Self::Pseudonym(bytes) => {
                f.write_str("client-")?;
                bytes[..PSEUDONYM].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

fn key() -> Option<&'static hmac::Key> {
    static KEY: OnceLock<Option<hmac::Key>> = OnceLock::new();
    KEY.get_or_init(|| hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()).as_ref()
}

/// Hashes an address; the port changes with each query.
fn pseudonym(key: &hmac::Key, client: Endpoint) -> [u8; 16] {
    let tag = hmac::sign(key, &client.ip);
    tag.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::from(text.parse::<SocketAddr>().expect("an address"))
    }

    #[test]
    fn host_bits_and_ports_are_left_out() {
        for (client, shown) in [
            ("192.0.2.77:5353", "192.0.2.0"),
            ("[::ffff:192.0.2.77]:5353", "192.0.2.0"),
            ("[2001:db8:1:2:3:4:5:6]:53", "2001:db8:1::"),
        ] {
            let network = Shown::network(endpoint(client));
            assert_eq!((network.to_string(), network.bytes().1), (shown.to_owned(), 0), "{client}");
        }
    }

    #[test]
    fn a_client_has_one_pseudonym_in_a_run() {
        let keys = [1_u8, 2].map(|byte| hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32]));
        let of = |key: usize, client: &str| Shown::Pseudonym(pseudonym(&keys[key], endpoint(client)));
        let shown = of(0, "192.0.2.1:1000");
        assert_eq!(shown, of(0, "[::ffff:192.0.2.1]:2000"));
        assert_ne!(shown, of(0, "192.0.2.2:1000"));
        assert_ne!(shown, of(1, "192.0.2.1:1000"));
        let text = shown.to_string();
        let hexadecimal = text.strip_prefix("client-").expect("a pseudonym");
        assert!(hexadecimal.len() == 16 && hexadecimal.bytes().all(|b| b.is_ascii_hexdigit()), "{text}");
        assert_eq!(
            key().map(|key| pseudonym(key, endpoint("192.0.2.1:1"))),
            key().map(|key| pseudonym(key, endpoint("192.0.2.1:9")))
        );
    }
}
