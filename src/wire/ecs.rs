//! The client subnet option (RFC 7871): the part of a client's address that a backend gets.
//!
//! ```text
//!  | family (1: IPv4, 2: IPv6) | source prefix | scope prefix | address, cut to the source prefix |
//!    2 bytes                    1               1              0 to 16
//! ```

use std::net::IpAddr;
use std::ops::Range;

use crate::base::packet::Packet;
use crate::wire::edns;
use crate::wire::edns::{Outcome, code};

/// Bytes of an option's code and length.
const HEAD: usize = 4;
/// Bytes of the option's data before its address.
const FIXED: usize = 4;

/// A client subnet option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Address family: 1 is IPv4, 2 is IPv6.
    pub family: u16,
    /// Significant bits of the address.
    pub source: u8,
    /// Bits for which an answer is valid; 0 in a query.
    pub scope: u8,
    /// Where the address bytes are in the message.
    pub address: Range<usize>,
}

/// What was done to the client subnet of a query, to be undone in its response.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ecs {
    /// Nothing: the client has sent one, which is not to be overridden.
    #[default]
    Left,
    /// There was no OPT record: one with this option was added.
    OptAdded,
    /// There was an OPT record: the option was added to it.
    OptionAdded,
    /// The option replaced the client's.
    Replaced,
    /// The message cannot be parsed, or there is no space; nothing was changed.
    Failed,
}

/// Returns the first client subnet option of a message. `None` when there is none, or it is shorter
/// than its fixed part.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Subnet> {
    let opt = edns::locate(message)?;
    let (_, data) = edns::options(message, &opt).find(|option| option.0 == code::CLIENT_SUBNET)?;
    let &[f0, f1, source, scope] = message.get(data.clone())?.first_chunk()?;
    let address = data.start + 4..data.end;
    Some(Subnet { family: u16::from_be_bytes([f0, f1]), source, scope, address })
}

/// Returns the first client subnet option of a message as it was sent, with its code and length. It
/// may say nothing of the client: a source prefix of 0 asks for that (RFC 7871, 7.1.2).
#[must_use]
pub fn whole(message: &[u8]) -> Option<&[u8]> {
    let opt = edns::locate(message)?;
    let (_, data) = edns::options(message, &opt).find(|option| option.0 == code::CLIENT_SUBNET)?;
    message.get(data.start - HEAD..data.end)
}

/// Puts the option that the client sent ([`whole`]) in place of the one of a response: a client
/// discards an answer that repeats another subnet than its own (RFC 7871, 7.3). The server has not
/// seen that subnet, so the answer is valid for all: the scope is 0. A response without the option
/// stays so. False, and nothing changed, when it does not fit.
#[must_use]
pub fn give_back(packet: &mut Packet<'_>, own: &[u8]) -> bool {
    let Some((_, data)) = own.split_at_checked(HEAD) else { return true };
    let Some(opt) = edns::locate(packet.bytes()) else { return true };
    // One without its fixed part has no scope.
    let parts = match data.split_at_checked(FIXED) {
        Some((fixed, address)) => [&fixed[..3], &[0], address],
        None => [data, &[], &[]],
    };
    edns::options(packet.bytes(), &opt).all(|option| option.0 != code::CLIENT_SUBNET)
        || edns::put_option(packet, code::CLIENT_SUBNET, &parts, opt.payload) != Outcome::Failed
}

/// Adds the client's network: the first `source_v4` or `source_v6` bits of its address (at most 32
/// and 128; an IPv4-mapped address is IPv4). `payload` is the UDP payload size of an added OPT
/// record, bytes.
#[must_use]
pub fn set(
    packet: &mut Packet<'_>,
    client: IpAddr,
    source_v4: u8,
    source_v6: u8,
    override_existing: bool,
    payload: u16,
) -> Ecs {
    if !override_existing
        && let Some(opt) = edns::locate(packet.bytes())
        && edns::options(packet.bytes(), &opt).any(|option| option.0 == code::CLIENT_SUBNET)
    {
        return Ecs::Left;
    }
    let mut data = [0; 4 + 16];
    let bits = match client.to_canonical() {
        IpAddr::V4(ip) => {
            data[1] = 1;
            data[4..8].copy_from_slice(&ip.octets());
            source_v4.min(32)
        }
        IpAddr::V6(ip) => {
            data[1] = 2;
            data[4..].copy_from_slice(&ip.octets());
            source_v6.min(128)
        }
    };
    data[2] = bits;
    let length = 4 + usize::from(bits).div_ceil(8);
    if !bits.is_multiple_of(8) {
        data[length - 1] &= 0xff << (8 - bits % 8);
    }
    match edns::set_option(packet, code::CLIENT_SUBNET, &data[..length], payload) {
        Outcome::OptAdded => Ecs::OptAdded,
        Outcome::Added => Ecs::OptionAdded,
        Outcome::Replaced => Ecs::Replaced,
        Outcome::Failed => Ecs::Failed,
    }
}

/// Removes from a response what was added to its query: the whole OPT record for a client without
/// EDNS, or the option. False when it is there and could not be removed.
#[must_use]
pub fn undo(packet: &mut Packet<'_>, done: Ecs) -> bool {
    match done {
        Ecs::OptAdded => edns::strip(packet) || edns::locate(packet.bytes()).is_none(),
        Ecs::OptionAdded => {
            edns::remove_option(packet, code::CLIENT_SUBNET) || parse(packet.bytes()).is_none()
        }
        Ecs::Left | Ecs::Replaced | Ecs::Failed => true,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use proptest::prelude::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 255));
    const QUERY: &[u8] = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

    fn with<T>(message: &[u8], edit: impl FnOnce(&mut Packet<'_>) -> T) -> (Vec<u8>, T) {
        let mut buf = message.to_vec();
        buf.resize(message.len() + 64, 0xee);
        let mut packet = Packet::new(&mut buf, 0, message.len());
        let result = edit(&mut packet);
        (packet.bytes().to_vec(), result)
    }

    fn counted(records: &[u8]) -> Vec<u8> {
        let mut message = [QUERY, records].concat();
        message[11] = 1;
        message
    }

    #[test]
    fn an_opt_added_to_a_query_is_removed_from_its_response() {
        let (query, done) = with(QUERY, |p| set(p, V4, 20, 56, false, 1232));
        assert_eq!(done, Ecs::OptAdded);
        let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\x0b\0\x08\0\x07\0\x01\x14\0\xc0\0\0";
        assert_eq!(query, counted(opt));
        assert_eq!(parse(&query), Some(Subnet { family: 1, source: 20, scope: 0, address: 38..41 }));
        assert_eq!(with(&query, |p| undo(p, done)), (QUERY.to_vec(), true));
        assert_eq!(with(QUERY, |p| undo(p, done)), (QUERY.to_vec(), true), "nothing to undo");
    }

    #[test]
    fn an_added_option_is_removed_from_the_response() {
        let plain = counted(&[&b"\0\0\x29\x10\0\0\0\x80\0\0\x05"[..], b"\0\x03\0\x01x"].concat());
        let client = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 1));
        let (query, done) = with(&plain, |p| set(p, client, 24, 57, false, 1232));
        assert_eq!(done, Ecs::OptionAdded);
        let options = b"\0\x03\0\x01x\0\x08\0\x0c\0\x02\x39\0\x20\x01\x0d\xb8\xff\xff\xff\x80";
        assert_eq!(query, counted(&[&b"\0\0\x29\x10\0\0\0\x80\0\0\x15"[..], options].concat()));
        assert_eq!(with(&query, |p| undo(p, done)), (plain, true));
    }

    #[test]
    fn the_clients_own_subnet_is_kept_unless_overridden() {
        let (own, _) = with(QUERY, |p| set(p, V4, 32, 0, false, 512));
        assert_eq!(with(&own, |p| set(p, V4, 24, 0, false, 512)), (own.clone(), Ecs::Left));
        let (query, done) = with(&own, |p| set(p, V4, 24, 0, true, 512));
        assert_eq!(done, Ecs::Replaced);
        assert_eq!(query, counted(b"\0\0\x29\x02\0\0\0\0\0\0\x0b\0\x08\0\x07\0\x01\x18\0\xc0\0\x02"));
        assert_eq!(with(&query, |p| undo(p, done)), (query.clone(), true));
    }

    #[test]
    fn a_replaced_subnet_is_given_back_with_scope_0() {
        let (own, _) = with(QUERY, |p| set(p, V4, 32, 0, false, 512));
        let kept = whole(&own).unwrap().to_vec();
        assert_eq!(kept, b"\0\x08\0\x08\0\x01\x20\0\xc0\0\x02\xff");
        let (mut response, _) = with(&own, |p| set(p, "10.0.0.1".parse().unwrap(), 24, 0, true, 512));
        let scope_at = response.len() - 4;
        response[scope_at] = 24;
        assert_eq!(with(&response, |p| give_back(p, &kept)), (own, true));
        assert_eq!(with(QUERY, |p| give_back(p, &kept)), (QUERY.to_vec(), true), "a response without EDNS");
        let bare = counted(b"\0\0\x29\x02\0\0\0\0\0\0\0");
        assert_eq!(with(&bare, |p| give_back(p, &kept)), (bare.clone(), true), "without the option");
        assert_eq!(with(&response, |p| give_back(p, b"")), (response.clone(), true), "nothing was kept");
        assert_eq!(whole(QUERY), None);
        for short in [&b"\0\x08\0\0"[..], b"\0\x08\0\x03\0\x01\0"] {
            let length = short.len() as u8;
            let sent = counted(&[&b"\0\0\x29\x02\0\0\0\0\0\0"[..], &[length], short].concat());
            assert_eq!(whole(&sent), Some(short));
            assert_eq!(with(&response, |p| give_back(p, short)), (sent, true));
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_prefixes_are_capped() {
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped());
        let (query, _) = with(QUERY, |p| set(p, mapped, 200, 8, false, 512));
        let subnet = parse(&query).unwrap();
        assert_eq!((subnet.family, subnet.source, &query[subnet.address]), (1, 32, &[10, 1, 2, 3][..]));
        let (query, _) = with(QUERY, |p| set(p, "::1".parse().unwrap(), 0, 255, false, 512));
        assert_eq!(parse(&query).map(|s| (s.family, s.source, s.address.len())), Some((2, 128, 16)));
    }

    #[test]
    fn without_space_nothing_changes() {
        let mut buf = QUERY.to_vec();
        let mut packet = Packet::new(&mut buf, 0, QUERY.len());
        assert_eq!(set(&mut packet, V4, 24, 56, true, 512), Ecs::Failed);
        assert_eq!(packet.bytes(), QUERY);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(message in prop::collection::vec(any::<u8>(), 0..100), v4: u8, v6: u8, host: u128) {
            for client in [V4, IpAddr::V6(host.into())] {
                let (after, done) = with(&message, |p| set(p, client, v4, v6, true, 1232));
                if done == Ecs::Failed {
                    prop_assert_eq!(&after, &message);
                    continue;
                }
                let subnet = parse(&after).unwrap();
                prop_assert_eq!(subnet.address.len(), usize::from(subnet.source).div_ceil(8));
                prop_assert!(with(&after, |p| undo(p, done)).1);
            }
        }
    }
}
