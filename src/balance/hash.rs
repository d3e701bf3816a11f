//! The hash of a query that the hashed policies use to select a server.
//!
//! It is the same on every machine and in every release: XXH3-64, seeded by the policy, over bytes
//! that depend on the query alone. It spreads load; it does not protect against names that were
//! chosen to collide, because the seed is no secret.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::balance::Subject;
use crate::model::policy::HashKey;
use crate::wire::name::zone;

/// Bytes of the longest name, RFC 1035, 2.3.4.
const NAME_MAX: usize = 255;

/// Returns the hash of what `key` takes from `subject`.
pub(crate) fn hash(key: HashKey, seed: u32, subject: &Subject<'_>) -> u64 {
    let seed = u64::from(seed);
    match key {
        HashKey::QName => name(subject.qname, seed),
        HashKey::Zone(labels) => name(zone(subject.qname, labels), seed),
        HashKey::Client => xxh3_64_with_seed(&subject.client.ip, seed),
        HashKey::ClientPrefix(v4, v6) => {
            let bits = if subject.client.is_ipv4() { 96 + u32::from(v4.min(32)) } else { u32::from(v6) };
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            let network = u128::from_be_bytes(subject.client.ip) & mask;
            xxh3_64_with_seed(&network.to_be_bytes(), seed)
        }
    }
}

/// Returns a second, independent hash of the same query, for when its first choice cannot be used.
pub(crate) const fn rehash(hash: u64) -> u64 {
    // The finaliser of SplitMix64.
    let mut z = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales a hash to `0..bound`, keeping the order of hashes; returns 0 when `bound` is 0.
pub(crate) fn scale(hash: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(hash) * u128::from(bound)) >> 64).unwrap_or(0)
}

/// Returns the hash of a name, ignoring letter case. Length bytes are below 64 and `A` is 65, so
/// every byte can be folded alike.
fn name(qname: &[u8], seed: u64) -> u64 {
    let mut folded = [0_u8; NAME_MAX];
    let len = qname.len().min(NAME_MAX);
    folded[..len].copy_from_slice(&qname[..len]);
    folded[..len].make_ascii_lowercase();
    xxh3_64_with_seed(&folded[..len], seed)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::base::addr::Endpoint;

    const WWW: &[u8] = b"\x03www\x07example\x03org\x00";

    fn client(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().expect("an address").into()
    }

    fn of(key: HashKey, qname: &[u8], from: &str) -> u64 {
        hash(key, 7, &Subject { qname, client: &client(from) })
    }

    #[test]
    fn letter_case_is_ignored() {
        let upper = b"\x03WWW\x07EXAMPLE\x03Org\x00";
        assert_eq!(of(HashKey::QName, WWW, "192.0.2.1:53"), of(HashKey::QName, upper, "192.0.2.1:53"));
    }

    #[test]
    fn zone_is_the_last_labels() {
        assert_eq!(zone(WWW, 2), b"\x07example\x03org\x00");
        assert_eq!(zone(WWW, 1), b"\x03org\x00");
        assert_eq!(zone(WWW, 0), b"\x00");
        assert_eq!(zone(WWW, 9), WWW);
        assert_eq!(zone(b"\x00", 2), b"\x00");
    }

    #[test]
    fn malformed_name_is_hashed() {
        for broken in [&b""[..], b"\x3fab", b"\x03www", &[1; 400]] {
            let _ = of(HashKey::QName, broken, "192.0.2.1:53");
            let _ = of(HashKey::Zone(2), broken, "192.0.2.1:53");
        }
    }

    #[test]
    fn prefix_groups_clients() {
        let key = HashKey::ClientPrefix(24, 56);
        assert_eq!(of(key, WWW, "192.0.2.1:1"), of(key, WWW, "192.0.2.200:2"));
        assert_ne!(of(key, WWW, "192.0.2.1:1"), of(key, WWW, "192.0.3.1:1"));
        assert_eq!(of(key, WWW, "[2001:db8:0:0:1::]:1"), of(key, WWW, "[2001:db8:0:ff::]:2"));
        assert_ne!(of(key, WWW, "[2001:db8:0:0::]:1"), of(key, WWW, "[2001:db8:0:100::]:1"));
        let none = HashKey::ClientPrefix(0, 0);
        assert_eq!(of(none, WWW, "192.0.2.1:1"), of(none, WWW, "203.0.113.1:1"));
        assert_ne!(of(HashKey::Client, WWW, "192.0.2.1:1"), of(HashKey::Client, WWW, "192.0.2.2:1"));
    }
}
