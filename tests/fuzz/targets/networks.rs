//! Arbitrary text as a list of networks: a parsed list behaves as a set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dnslob::base::addr::mapped;
use dnslob::base::prefix::{Prefix, PrefixSet};

pub(crate) fn target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut words: Vec<&str> = text.split_whitespace().take(64).collect();
    let networks: Vec<Prefix> = words.iter().filter_map(|w| w.parse().ok()).collect();
    let set: PrefixSet = networks.iter().copied().collect();
    // A network of IPv6 around the mapped IPv4 addresses is two ranges.
    assert!(set.len() <= networks.len() + 1);
    // The order in the text does not matter.
    let backwards: PrefixSet = networks.iter().rev().copied().collect();
    assert_eq!(set, backwards);
    // An address is in the set if it is in one of its networks.
    words.retain(|w| w.parse::<IpAddr>().is_ok());
    let own = words.iter().filter_map(|w| w.parse().ok());
    let others = [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into(), Ipv6Addr::LOCALHOST.into()];
    for address in own.chain(others) {
        let bytes = mapped(address);
        let one_by_one = networks.iter().any(|n| PrefixSet::from_iter([*n]).contains(&bytes));
        assert_eq!(set.contains(&bytes), one_by_one, "{address}");
    }
}
