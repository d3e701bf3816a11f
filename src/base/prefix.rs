//! Sets of IP networks, such as the ACL.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::base::addr::mapped;

/// A network: an address and a prefix length, stored as IPv6 (IPv4 mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    first: u128,
    bits: u8,
}

impl Prefix {
    /// Returns the first and the last address, IPv4 mapped.
    #[must_use]
    pub const fn bounds(&self) -> (u128, u128) {
        (self.first, self.first | !mask(self.bits))
    }

    /// Returns the prefix length in IPv6 bits: that of an IPv4 network plus 96.
    #[must_use]
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Returns whether this is a network of IPv4 addresses only.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.bits >= 96 && self.first >> 32 == 0xffff
    }
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotANetwork(String);

impl fmt::Display for NotANetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"{}\" is not a network; expected ADDRESS or ADDRESS/LENGTH, as 192.0.2.0/24 or 2001:db8::/32",
            self.0
        )
    }
}

impl std::error::Error for NotANetwork {}

impl FromStr for Prefix {
    type Err = NotANetwork;

    /// Parses `ADDRESS` or `ADDRESS/LENGTH`; host bits beyond the length are cleared.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((a, l)) => (a, Some(l.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let ip: IpAddr = address.parse().map_err(|_| wrong())?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        let length = length.unwrap_or(width);
        if length > width {
            return Err(wrong());
        }
        let bits = 128 - width + length;
        Ok(Self { first: u128::from_be_bytes(mapped(ip)) & mask(bits), bits })
    }
}

const fn mask(bits: u8) -> u128 {
    if bits == 0 { 0 } else { u128::MAX << (128 - bits) }
}

/// A set of networks. Overlaps are merged, so a look-up is one binary search over disjoint ranges:
/// about four comparisons for the default ACL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    /// First and last address of each range, ascending, disjoint.
    ranges: Vec<(u128, u128)>,
}

impl PrefixSet {
    /// Returns whether a network of the set contains the address (16 bytes, IPv4 mapped).
    #[must_use]
    pub fn contains(&self, ip: &[u8; 16]) -> bool {
        let ip = u128::from_be_bytes(*ip);
        let after = self.ranges.partition_point(|r| r.0 <= ip);
        after > 0 && self.ranges[after - 1].1 >= ip
    }

    /// Returns the number of ranges after merging.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<Prefix> for PrefixSet {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut all: Vec<(u128, u128)> =
            prefixes.into_iter().map(|p| (p.first, p.first | !mask(p.bits))).collect();
        all.sort_unstable();
        let mut ranges: Vec<(u128, u128)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match ranges.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }
}

/// The default ACL: loopback, private, carrier-grade NAT and link-local networks (RFC 1918, 6598,
/// 3927, 4193, 4291).
pub const DEFAULT_ACL: [&str; 9] = [
    "127.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "192.168.0.0/16",
    "172.16.0.0/12",
    "::1/128",
    "fc00::/7",
    "fe80::/10",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[&str]) -> PrefixSet {
        texts.iter().map(|t| t.parse::<Prefix>().expect("a network")).collect()
    }

    fn has(s: &PrefixSet, ip: &str) -> bool {
        s.contains(&mapped(ip.parse().expect("an address")))
    }

    #[test]
    fn the_default_acl_admits_only_local_networks() {
        let acl = set(&DEFAULT_ACL);
        for ip in
            ["127.0.0.1", "10.1.2.3", "100.64.0.1", "192.168.7.7", "172.31.0.1", "::1", "fd00::1", "fe80::1"]
        {
            assert!(has(&acl, ip), "{ip}");
        }
        for ip in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "0.0.0.0"] {
            assert!(!has(&acl, ip), "{ip}");
        }
    }

    #[test]
    fn invalid_networks_are_quoted_in_the_error() {
        for text in ["", "192.0.2.1/33", "::/129", "192.0.2.0/x", "here"] {
            let e = text.parse::<Prefix>().expect_err(text);
            assert!(e.to_string().contains(text));
        }
    }

    proptest! {
        #[test]
        fn a_set_is_the_union_of_its_networks(
            networks in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..20), probe in any::<u32>()
        ) {
            let parsed: Vec<Prefix> = networks.iter()
                .map(|(a, l)| format!("{}/{l}", std::net::Ipv4Addr::from(*a)).parse().expect("a network"))
                .collect();
            let naive = networks.iter().any(|(a, l)| *l == 0 || (a ^ probe) >> (32 - l) == 0);
            let set: PrefixSet = parsed.into_iter().collect();
            prop_assert_eq!(set.contains(&mapped(std::net::Ipv4Addr::from(probe).into())), naive);
        }
    }
}
