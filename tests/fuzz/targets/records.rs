//! Any bytes as a message, and a sequence of edits: a message that could be parsed can be parsed
//! afterwards, and an edit that fails has changed nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dnslob::base::packet::Packet;
use dnslob::base::time::TickDelta;
use dnslob::wire::ecs::Ecs;
use dnslob::wire::edns::Outcome;
use dnslob::wire::header::Header;
use dnslob::wire::query::Question;
use dnslob::wire::{answer, ecs, edns, keepalive, rebuild, records};

/// Edits of one input, and the longest message.
const EDITS_MAX: usize = 24;
const MESSAGE_MAX: usize = 4_096;
const NAMES: [&[u8]; 3] =
    [b"\0", b"\x01a\x07example\0", b"\x3f222222222222222222222222222222222222222222222222222222222222222\0"];

/// The input is the number of edits, half the space behind the message, the edits, the message.
pub(crate) fn target(data: &[u8]) {
    let Some((&[count, space], rest)) = data.split_first_chunk::<2>() else { return };
    let count = usize::from(count).min(EDITS_MAX);
    let Some((edits, message)) = rest.split_at_checked(count) else { return };
    let message = &message[..message.len().min(MESSAGE_MAX)];
    let mut buffer = message.to_vec();
    buffer.resize(message.len() + 2 * usize::from(space), 0xee);
    let mut packet = Packet::new(&mut buffer, 0, message.len());
    walk(packet.bytes());
    for edit in edits {
        let before = packet.bytes().to_vec();
        let changed = apply(&mut packet, *edit);
        walk(packet.bytes());
        if !changed {
            assert_eq!(packet.bytes(), before, "edit {edit} failed, but changed the message");
        }
        if records::end(&before).is_some() {
            assert!(records::end(packet.bytes()).is_some(), "edit {edit} makes it malformed: {before:x?}");
        }
        // Only renaming may change the question.
        let asked = Header::parse(&before).is_some_and(|head| head.qdcount() > 0);
        if let Some(question) = Question::parse(&before).filter(|_| asked && edit % 10 != 4) {
            let after = Question::parse(packet.bytes()).expect("the question is still there");
            assert_eq!((after.qname, after.qtype), (question.qname, question.qtype), "edit {edit}");
        }
    }
}

/// Returns whether the edit changed something; also true for edits that may have changed nothing.
fn apply(packet: &mut Packet<'_>, edit: u8) -> bool {
    let choice = edit / 10;
    match edit % 10 {
        0 => {
            let data = vec![choice; usize::from(choice) * 3];
            let done = edns::set_option(packet, u16::from(choice) % 4, &data, 1232);
            if done != Outcome::Failed {
                let opt = edns::locate(packet.bytes()).expect("an OPT record");
                let of_code = |o: &(u16, std::ops::Range<usize>)| o.0 == u16::from(choice) % 4;
                let found: Vec<_> = edns::options(packet.bytes(), &opt).filter(of_code).collect();
                assert_eq!(found.len(), 1, "one option of its code");
                assert_eq!(packet.bytes()[found[0].1.clone()], data);
            }
            done != Outcome::Failed
        }
        1 => edns::remove_option(packet, u16::from(choice) % 12),
        2 => edns::strip(packet),
        3 => rebuild::clear_types(packet, |rtype| rtype % 4 == u16::from(choice) % 4),
        4 => rebuild::rename(packet, NAMES[usize::from(choice) % NAMES.len()]),
        5 => {
            let client: IpAddr = if choice.is_multiple_of(2) {
                Ipv4Addr::LOCALHOST.into()
            } else {
                Ipv6Addr::LOCALHOST.into()
            };
            let before = packet.bytes().to_vec();
            let done = ecs::set(packet, client, choice, choice * 4, choice > 12, 512);
            if done == Ecs::OptAdded {
                let mut undone = packet.bytes().to_vec();
                let length = undone.len();
                let mut undone = Packet::new(&mut undone, 0, length);
                assert!(ecs::undo(&mut undone, done));
                assert_eq!(undone.bytes(), before, "the added option is removed");
            }
            !matches!(done, Ecs::Failed | Ecs::Left)
        }
        6 => keepalive::set(packet, TickDelta::from_ms(u64::from(choice) * 1_000)),
        7 => {
            let ttl = u32::from(choice);
            let changed = records::edit_ttls(packet.bytes_mut(), |_, _, _, _| ttl);
            if changed {
                let all = records::Records::of(packet.bytes());
                assert!(all.filter(|r| r.rtype != records::rtype::OPT).all(|r| r.ttl == ttl));
            }
            changed
        }
        8 => answer::to_tc(packet),
        _ => answer::ede(packet, u16::from(choice), b"text"),
    }
}

fn walk(message: &[u8]) {
    let mut at = records::start(message);
    let mut all = records::Records::of(message);
    for record in all.by_ref() {
        assert_eq!(Some(record.start), at);
        assert!(record.start < record.ttl_at && record.ttl_at < record.rdata.start);
        assert!(record.rdata.end == record.end && record.end <= message.len());
        at = Some(record.end);
    }
    assert_eq!(records::end(message), at.filter(|_| all.whole()));
    if let Some(opt) = edns::locate(message) {
        for (_, place) in edns::options(message, &opt) {
            assert!(opt.start < place.start && place.end <= opt.end);
        }
    }
    if let Some(subnet) = ecs::parse(message) {
        assert!(subnet.address.end <= message.len());
    }
    let _ = (keepalive::timeout(message), edns::rcode(message), answer::udp_limit(message));
}
