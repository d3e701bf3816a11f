//! Sets of networks with exceptions.
//!
//! A network is included or, as an exception, excluded; the longest one that contains an address
//! decides, in whatever order they were given. IPv4 and IPv6 networks are separate: `::/0` contains
//! no IPv4 address.

use crate::base::prefix::Prefix;
use crate::rules::prefix_map::PrefixMap;
use crate::rules::shared_set::SharedSet;

/// Networks that rules share.
pub type Networks = SharedSet<NetworkSet>;

impl Networks {
    /// Returns the number of networks, exceptions included; 0 before it is filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set().map_or(0, NetworkSet::len)
    }

    /// Returns whether it has no network, or is not filled yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Networks, each included or, as an exception, excluded; the longest one that contains an address
/// decides.
#[derive(Clone, Debug, Default)]
pub struct NetworkSet {
    networks: Box<[(Prefix, bool)]>,
    map: PrefixMap,
}

/// Collects networks: `true` includes, `false` excludes. The last value for a network counts.
impl FromIterator<(Prefix, bool)> for NetworkSet {
    fn from_iter<I: IntoIterator<Item = (Prefix, bool)>>(networks: I) -> Self {
        let networks: Box<[(Prefix, bool)]> = networks.into_iter().collect();
        let map = networks.iter().map(|(prefix, is_in)| (*prefix, u32::from(*is_in))).collect();
        Self { networks, map }
    }
}

impl NetworkSet {
    /// Returns whether the set contains the address (16 bytes, IPv4 mapped).
    #[must_use]
    pub fn contains(&self, ip: &[u8; 16]) -> bool {
        self.map.find(ip) == Some(1)
    }

    /// Returns the number of networks, exceptions and duplicates included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.networks.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }

    /// Returns the bytes of memory that it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.networks) + self.map.bytes()
    }

    /// Returns the networks, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, bool)> {
        self.networks.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::mapped;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn set(texts: &[&str]) -> NetworkSet {
        let network = |t: &&str| {
            let exception = t.starts_with('!');
            (t.trim_start_matches('!').parse::<Prefix>().expect("a network"), !exception)
        };
        texts.iter().map(network).collect()
    }

    fn has(set: &NetworkSet, ip: &str) -> bool {
        set.contains(&mapped(ip.parse().expect("an address")))
    }

    #[test]
    fn longest_network_decides() {
        let set = set(&["!10.0.0.0/8", "0.0.0.0/0", "10.1.0.0/16", "!10.1.2.3", "2001:db8::/32"]);
        for ip in ["0.0.0.0", "9.255.255.255", "11.0.0.0", "10.1.2.4", "255.255.255.255", "2001:db8::1"] {
            assert!(has(&set, ip), "{ip}");
        }
        for ip in ["10.0.0.0", "10.2.0.0", "10.1.2.3", "2001:db9::", "::"] {
            assert!(!has(&set, ip), "{ip}");
        }
    }

    #[test]
    fn families_are_separate_and_the_last_value_counts() {
        assert!(!has(&set(&["::/0"]), "192.0.2.1") && has(&set(&["::/0"]), "ffff::"));
        assert!(!has(&set(&["0.0.0.0/0"]), "::1"));
        assert!(!has(&set(&["192.0.2.0/24", "!192.0.2.0/24"]), "192.0.2.1"));
        assert!(!has(&NetworkSet::default(), "192.0.2.1"));
    }

    /// Few distinct addresses with many lengths, so that networks nest.
    fn networks(count: usize) -> impl Strategy<Value = Vec<(u128, u8, bool)>> {
        let address = prop_oneof![
            any::<u32>().prop_map(|a| u128::from(a & 0xc0f0_f00f) | 0xffff << 32),
            any::<u128>().prop_map(|a| (0x2001_0db8 << 96) | (a & 0xff_ff00_00ff_0000_000f)),
        ];
        let exact = (address, 0_u8..=128, any::<bool>());
        prop::collection::vec(exact, 0..count)
    }

    proptest! {
        #[test]
        fn set_equals_the_list_of_its_networks(list in networks(120), shift in prop::collection::vec(0_u32..128, 40)) {
            let v4 = |a: u128| a >> 32 == 0xffff;
            let list: Vec<(u128, u8, bool)> =
                list.into_iter().map(|(a, l, i)| (a, if v4(a) { 96 + l % 33 } else { l }, i)).collect();
            let text = |a: u128, l: u8| if v4(a) {
                format!("{}/{}", Ipv4Addr::from(a as u32), l - 96)
            } else {
                format!("{}/{l}", std::net::Ipv6Addr::from(a))
            };
            let set: NetworkSet =
                list.iter().map(|(a, l, i)| (text(*a, *l).parse().expect("a network"), *i)).collect();
            for ((a, _, _), shift) in list.iter().zip(shift.iter().cycle()) {
                let probe = *a ^ (1 << shift);
                let naive = list.iter().enumerate()
                    .filter(|(_, (a, l, _))| v4(*a) == v4(probe) && (*l == 0 || (a ^ probe) >> (128 - u32::from(*l)) == 0))
                    .max_by_key(|(at, (_, l, _))| (*l, *at))
                    .is_some_and(|(_, (_, _, is_in))| *is_in);
                prop_assert_eq!(set.contains(&probe.to_be_bytes()), naive);
            }
        }
    }
}
