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

impl fmt::Display for Prefix {
    /// Formats it as `ADDRESS/LENGTH`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ipv4() {
            // The low 32 bits are the address.
            #[allow(clippy::cast_possible_truncation)]
            let address = std::net::Ipv4Addr::from(self.first as u32);
            write!(f, "{address}/{}", self.bits - 96)
        } else {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(self.first), self.bits)
        }
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

/// The network of all mapped IPv4 addresses.
const IPV4: Prefix = Prefix { first: 0xffff << 32, bits: 96 };

const fn mask(bits: u8) -> u128 {
    if bits == 0 { 0 } else { u128::MAX << (128 - bits) }
}

/// Returns the networks of a list, as text; exceptions (`false`) begin with `!`.
#[must_use]
pub fn listed(list: &[(Prefix, bool)]) -> Vec<String> {
    list.iter().map(|(net, is_in)| format!("{}{net}", if *is_in { "" } else { "!" })).collect()
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

    /// Returns the fewest networks that make up the set, as text.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        for (first, last) in &self.ranges {
            let mut at = *first;
            loop {
                // The largest network that begins here and does not go beyond the end.
                let beyond = |bits: u8| at & !mask(bits) != 0 || at | !mask(bits) > *last;
                let bits = (0..=128).find(|bits| !beyond(*bits)).unwrap_or(128);
                texts.push(Prefix { first: at, bits }.to_string());
                match (at | !mask(bits)).checked_add(1) {
                    Some(next) if next <= *last => at = next,
                    _ => break,
                }
            }
        }
        texts
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
        prefixes.into_iter().map(|p| (p, true)).collect()
    }
}

impl FromIterator<(Prefix, bool)> for PrefixSet {
    /// Builds a set of networks that are in it, and of exceptions (`false`) that are not. The
    /// longest network that contains an address decides; of two equal ones the later.
    fn from_iter<I: IntoIterator<Item = (Prefix, bool)>>(prefixes: I) -> Self {
        let mut all: Vec<(Prefix, bool)> = prefixes.into_iter().collect();
        // IPv4 addresses are stored among those of IPv6, and a short network of IPv6, as ::/0, must
        // not contain them.
        if all.iter().any(|(p, is_in)| *is_in && p.bits < IPV4.bits && IPV4.first & mask(p.bits) == p.first) {
            all.insert(0, (IPV4, false));
        }
        all.sort_by_key(|(p, _)| (p.first, p.bits));
        let mut set = Self { ranges: Vec::with_capacity(all.len()) };
        // Networks are disjoint or nested: those around the cursor, the innermost last.
        let mut around: Vec<(u128, bool)> = Vec::new();
        let mut at = 0_u128;
        for (prefix, is_in) in all {
            let (first, last) = prefix.bounds();
            while let Some((end, inside)) = around.last().copied().filter(|(end, _)| *end < first) {
                set.append(at, end, inside);
                at = at.max(end + 1);
                around.pop();
            }
            if let (Some((_, inside)), true) = (around.last(), at < first) {
                set.append(at, first - 1, *inside);
            }
            at = first;
            around.push((last, is_in));
        }
        while let Some((end, inside)) = around.pop() {
            set.append(at, end, inside);
            let Some(next) = end.checked_add(1) else { break };
            at = at.max(next);
        }
        set
    }
}

impl PrefixSet {
    /// Appends a range behind all others, if it is one and belongs to the set.
    fn append(&mut self, first: u128, last: u128, is_in: bool) {
        if !is_in || first > last {
            return;
        }
        match self.ranges.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => self.ranges.push((first, last)),
        }
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
    fn networks_of_ipv6_contain_no_ipv4_address() {
        for text in ["::/0", "::/1", "::/64", "::/80", "::/96", "::ffff:0:0/95"] {
            assert!(!has(&set(&["192.0.2.0/24", text]), "127.0.0.1"), "{text}");
            assert!(has(&set(&["192.0.2.0/24", text]), "192.0.2.7"), "{text}");
            assert!(has(&set(&[text, "0.0.0.0/0"]), "127.0.0.1"), "{text}");
        }
        assert!(has(&set(&["::/0"]), "::1") && has(&set(&["::/0"]), "2001:db8::1"));
        // Written as IPv6, the mapped network itself is that of all IPv4 addresses.
        assert!(has(&set(&["::ffff:0:0/96"]), "127.0.0.1"));
    }

    #[test]
    fn invalid_networks_are_quoted_in_the_error() {
        for text in ["", "192.0.2.1/33", "::/129", "192.0.2.0/x", "here"] {
            let e = text.parse::<Prefix>().expect_err(text);
            assert!(e.to_string().contains(text));
        }
    }

    #[test]
    fn the_longest_network_decides_about_an_exception() {
        let entries = [("10.0.0.0/8", true), ("10.1.0.0/16", false), ("10.1.2.0/24", true), ("::/0", false)];
        let set: PrefixSet =
            entries.iter().map(|(t, is_in)| (t.parse::<Prefix>().expect("a network"), *is_in)).collect();
        for (ip, want) in [
            ("10.0.0.1", true),
            ("10.1.0.1", false),
            ("10.1.2.3", true),
            ("10.1.3.0", false),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("2001:db8::1", false),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
        ] {
            assert_eq!(has(&set, ip), want, "{ip}");
        }
        let all: PrefixSet = [("::/0", true), ("::/0", false), ("ffff::/16", true)]
            .map(|(t, i)| (t.parse().expect("one"), i))
            .into_iter()
            .collect();
        assert!(!has(&all, "::1") && has(&all, "ffff::1"));
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
