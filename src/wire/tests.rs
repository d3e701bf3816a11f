//! An independent parser, against which the edits of this module are checked, and generators of
//! messages: valid ones with all kinds of compression, and corrupted ones.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use crate::base::packet::Packet;
use crate::wire::answer::{AnswerEdns, Flags, Soa};
use crate::wire::edns::Outcome;
use crate::wire::records::rtype;
use crate::wire::svc::{SvcParams, SvcRecord};
use crate::wire::{answer, ecs, edns, rebuild, records};

/// Sections by number, as in `count_types`.
pub(super) const ANSWER: u8 = 1;
pub(super) const AUTHORITY: u8 = 2;
pub(super) const ADDITIONAL: u8 = 3;

/// A parsed message, without compression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: u16,
    pub(super) flags: u16,
    pub(super) questions: Vec<(Vec<u8>, u16, u16)>,
    pub(super) records: Vec<Rr>,
    pub(super) tail: Vec<u8>,
}

/// A record, the names in its data uncompressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rr {
    pub(super) section: u8,
    pub(super) owner: Vec<u8>,
    pub(super) rtype: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    pub(super) rdata: Vec<u8>,
}

struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let bytes = self.message.get(self.at..self.at.checked_add(count)?)?.to_vec();
        self.at += count;
        Some(bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(self.bytes(2)?.into_iter().fold(0, |sum, byte| sum << 8 | u16::from(byte)))
    }

    fn name(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            let length = self.bytes(1)?[0];
            match length {
                0 => {
                    name.push(0);
                    return Some(name);
                }
                1..64 => {
                    name.push(length);
                    name.extend(self.bytes(usize::from(length))?);
                }
                192.. => {
                    let low = self.bytes(1)?[0];
                    let target = usize::from(length & 63) * 256 + usize::from(low);
                    // The valid messages of these tests never point forward, which ends the
                    // recursion.
                    if target + 2 >= self.at {
                        return None;
                    }
                    name.extend(Reader { message: self.message, at: target }.name()?);
                    return Some(name);
                }
                _ => return None,
            }
        }
    }
}

/// Parses a message; `None` when it is invalid.
pub(super) fn read(message: &[u8]) -> Option<Message> {
    let mut reader = Reader { message, at: 0 };
    let mut head = [0; 6];
    for field in &mut head {
        *field = reader.u16()?;
    }
    let mut questions = Vec::new();
    for _ in 0..head[2] {
        questions.push((reader.name()?, reader.u16()?, reader.u16()?));
    }
    let mut all = Vec::new();
    for (section, count) in [(ANSWER, head[3]), (AUTHORITY, head[4]), (ADDITIONAL, head[5])] {
        for _ in 0..count {
            let (owner, rtype, class) = (reader.name()?, reader.u16()?, reader.u16()?);
            let ttl = u32::from(reader.u16()?) << 16 | u32::from(reader.u16()?);
            let length = usize::from(reader.u16()?);
            let end = reader.at + length;
            let (before, names) = match rtype {
                2 | 5 | 12 => (0, 1),
                6 => (0, 2),
                15 => (2, 1),
                33 => (6, 1),
                _ => (0, 0),
            };
            let mut rdata = Vec::new();
            if length > 0 {
                rdata = reader.bytes(before)?;
                for _ in 0..names {
                    rdata.extend(reader.name()?);
                }
            }
            rdata.extend(reader.bytes(end.checked_sub(reader.at)?)?);
            all.push(Rr { section, owner, rtype, class, ttl, rdata });
        }
    }
    let tail = message[reader.at..].to_vec();
    Some(Message { id: head[0], flags: head[1], questions, records: all, tail })
}

/// Edits a message in a buffer with `room` bytes after it.
pub(super) fn edited<T>(
    message: &[u8],
    room: usize,
    edit: impl FnOnce(&mut Packet<'_>) -> T,
) -> (Vec<u8>, T) {
    let mut buf = message.to_vec();
    buf.resize(message.len() + room, 0xee);
    let mut packet = Packet::new(&mut buf, 0, message.len());
    let result = edit(&mut packet);
    (packet.bytes().to_vec(), result)
}

/// Writes a message with every name compressed against all before it, as careless senders do.
fn write(whole: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let count = |section| whole.records.iter().filter(|r| r.section == section).count() as u16;
    let questions = whole.questions.len() as u16;
    for field in [whole.id, whole.flags, questions, count(ANSWER), count(AUTHORITY), count(ADDITIONAL)] {
        out.extend(field.to_be_bytes());
    }
    let mut known = Vec::new();
    for (qname, qtype, qclass) in &whole.questions {
        write_name(&mut out, qname, &mut known);
        out.extend([qtype.to_be_bytes(), qclass.to_be_bytes()].concat());
    }
    for record in &whole.records {
        write_name(&mut out, &record.owner, &mut known);
        out.extend([record.rtype.to_be_bytes(), record.class.to_be_bytes()].concat());
        out.extend(record.ttl.to_be_bytes());
        let length_at = out.len();
        out.extend([0, 0]);
        let (before, names) = match record.rtype {
            2 | 5 | 12 => (0, 1),
            6 => (0, 2),
            15 => (2, 1),
            33 => (6, 1),
            _ => (0, 0),
        };
        let (fixed, mut rest) = record.rdata.split_at(before);
        out.extend(fixed);
        for _ in 0..names {
            let length = Reader { message: rest, at: 0 }.name().unwrap().len();
            write_name(&mut out, &rest[..length], &mut known);
            rest = &rest[length..];
        }
        out.extend(rest);
        let length = (out.len() - length_at - 2) as u16;
        out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
    out.extend(&whole.tail);
    out
}

fn write_name(out: &mut Vec<u8>, name: &[u8], known: &mut Vec<(Vec<u8>, u16)>) {
    let mut rest = name;
    while rest[0] > 0 {
        if let Some((_, at)) = known.iter().find(|k| k.0 == rest) {
            out.extend((0xc000 | at).to_be_bytes());
            return;
        }
        known.push((rest.to_vec(), out.len() as u16));
        let (label, behind) = rest.split_at(1 + usize::from(rest[0]));
        out.extend(label);
        rest = behind;
    }
    out.push(0);
}

fn a_name() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec!["a", "B", "b", "example", "org"]), 0..4).prop_map(
        |labels| {
            let mut name = Vec::new();
            for label in labels {
                name.push(label.len() as u8);
                name.extend(label.as_bytes());
            }
            name.push(0);
            name
        },
    )
}

fn a_record() -> impl Strategy<Value = Rr> {
    let types = vec![rtype::A, rtype::NS, rtype::CNAME, rtype::SOA, rtype::MX, 16, rtype::SRV];
    let any = (1..=3_u8, a_name(), prop::sample::select(types), any::<u32>(), a_name(), a_name());
    any.prop_map(|(section, owner, rtype, ttl, first, second)| {
        let rdata = match rtype {
            rtype::A => vec![192, 0, 2, 1],
            rtype::NS | rtype::CNAME => first,
            rtype::SOA => [first, second, vec![7; 20]].concat(),
            rtype::MX => [vec![0, 10], first].concat(),
            rtype::SRV => [vec![0, 1, 0, 2, 0, 3], first].concat(),
            _ => b"\x04\xc0\x0c\xc0\x0c".to_vec(),
        };
        Rr { section, owner, rtype, class: 1, ttl, rdata }
    })
}

fn an_opt() -> impl Strategy<Value = Rr> {
    let options = prop::collection::vec((prop::sample::select(vec![3_u16, 8, 15]), 0..6_usize), 0..4);
    (any::<u32>(), options).prop_map(|(ttl, options)| {
        let mut rdata = Vec::new();
        for (code, length) in options {
            rdata.extend(code.to_be_bytes());
            rdata.extend((length as u16).to_be_bytes());
            rdata.extend(vec![9; length]);
        }
        Rr { section: ADDITIONAL, owner: vec![0], rtype: rtype::OPT, class: 1400, ttl, rdata }
    })
}

/// Generates any valid message with one question and at most one OPT among the additional records.
pub(super) fn a_message() -> impl Strategy<Value = Message> {
    let records = prop::collection::vec(a_record(), 0..8);
    let tail = prop::collection::vec(any::<u8>(), 0..4);
    let opt = prop::option::of(an_opt());
    (any::<u16>(), any::<u16>(), a_name(), records, opt, any::<prop::sample::Index>(), any::<bool>(), tail)
        .prop_map(|(id, flags, qname, mut records, opt, place, tsig, tail)| {
            records.sort_by_key(|r| r.section);
            if let Some(opt) = opt {
                let first = records.iter().filter(|r| r.section < ADDITIONAL).count();
                let at = first + place.index(records.len() - first + 1);
                records.insert(at, opt);
            }
            if tsig {
                let owner = qname.clone();
                let rdata = b"\x01k\0\xc0\x0c".to_vec();
                records.push(Rr {
                    section: ADDITIONAL,
                    owner,
                    rtype: rtype::TSIG,
                    class: 255,
                    ttl: 0,
                    rdata,
                });
            }
            Message { id, flags, questions: vec![(qname, 1, 1)], records, tail }
        })
}

fn options_of(whole: &Message) -> Option<Vec<(u16, Vec<u8>)>> {
    let opt = whole.records.iter().find(|r| r.rtype == rtype::OPT)?;
    let (mut rest, mut options) = (&opt.rdata[..], Vec::new());
    while let [c0, c1, l0, l1, data @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        options.push((u16::from_be_bytes([*c0, *c1]), data[..length].to_vec()));
        rest = &data[length..];
    }
    Some(options)
}

fn without_opt(whole: &Message) -> Message {
    let mut rest = whole.clone();
    rest.records.retain(|r| r.rtype != rtype::OPT);
    rest
}

const OWN: AnswerEdns = AnswerEdns { wanted: true, payload: 1232 };

/// Applies every edit, and checks that a failing one changes nothing.
fn all_edits(message: &[u8], room: usize) {
    let name = b"\x03new\x07example\0";
    let soa = Soa { zone: name, mname: &[0], rname: &[0], numbers: [1, 2, 3, 4, 5] };
    let params = SvcParams { v4: vec![[1; 4]], v6: vec![[2; 16]], ..SvcParams::default() };
    let binding = SvcRecord::new(1, name.to_vec(), &params).unwrap();
    let flags = Flags::default();
    let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
    type Edit<'e> = Box<dyn Fn(&mut Packet<'_>) -> bool + 'e>;
    let careful: Vec<Edit<'_>> = vec![
        Box::new(|p| edns::set_option(p, 8, b"data", 1232) != Outcome::Failed),
        Box::new(|p| edns::remove_option(p, 8)),
        Box::new(edns::strip),
        Box::new(|p| ecs::set(p, client, 24, 56, true, 1232) != ecs::Ecs::Failed),
        Box::new(|p| rebuild::clear_types(p, |t| t == rtype::MX || t == rtype::A)),
        Box::new(|p| records::edit_ttls(p.bytes_mut(), |_, _, _, ttl| ttl / 2)),
        Box::new(|p| answer::ede(p, 15, b"text")),
        Box::new(answer::to_tc),
        Box::new(answer::truncate_tc),
        Box::new(|p| answer::fixup_case(p.bytes_mut(), b"\x01A\x07EXAMPLE\0")),
    ];
    for edit in &careful {
        let (after, done) = edited(message, room, edit);
        assert!(done || after == message, "a failed edit left another message");
    }
    // Their data are parsed by the queried type, which may be any.
    let by_type: Vec<Edit<'_>> = vec![
        Box::new(|p| answer::raw(p, &[b"x", b"y"], 16, flags, OWN)),
        Box::new(|p| answer::svc(p, std::slice::from_ref(&binding), flags, OWN)),
    ];
    let builders: Vec<Edit<'_>> = vec![
        Box::new(|p| answer::rcode(p, 23, flags, OWN)),
        Box::new(|p| answer::truncated(p, flags, OWN)),
        Box::new(|p| answer::addresses(p, &[[1; 4]; 3], &[[2; 16]; 3], flags, OWN)),
        Box::new(|p| answer::cname(p, name, flags, OWN)),
        Box::new(|p| answer::negative_soa(p, true, &soa, true, flags, OWN)),
    ];
    for (number, build) in builders.iter().chain(&by_type).enumerate() {
        let (after, done) = edited(message, room, build);
        if done {
            assert!(number >= builders.len() || read(&after).is_some(), "an answer of our own can be read");
            assert!(records::end(&after) == Some(after.len()) && after[2] & 0x80 != 0);
            assert_eq!(after[..2], message[..2]);
        }
        let (after, cut) = edited(&after, 0, |p| answer::fit(p, 12));
        assert!(!done || cut && records::end(&after) == Some(after.len()));
    }
    // The message as a template, and as a query for another.
    for (query, template) in [(message, QUERY), (QUERY, message)] {
        let (after, done) = edited(query, room, |p| answer::message(p, template));
        assert!(!done || after.len() >= 12 && after[..2] == query[..2]);
    }
    for rtype in [rtype::A, rtype::OPT] {
        for section in 0..=4 {
            assert!(usize::from(records::count_types(message, section, rtype)) <= message.len());
        }
    }
    assert!(records::end(message).is_none_or(|end| end <= message.len()));
    assert!(edns::rcode(message) < 4096 && answer::udp_limit(message) >= 512);
}

const QUERY: &[u8] = b"\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01";

proptest! {
    #[test]
    fn messages_round_trip(whole in a_message()) {
        prop_assert_eq!(read(&write(&whole)), Some(whole));
    }

    #[test]
    fn no_bytes_panic(message in prop::collection::vec(any::<u8>(), 0..200), room in 0_usize..80) {
        all_edits(&message, room);
    }

    #[test]
    fn no_counts_panic(
        counts in prop::collection::vec(0..3_u8, 4),
        body in prop::collection::vec(prop_oneof![Just(0), Just(0xc0), 0..50_u8], 0..200),
        room in 0_usize..80,
    ) {
        let mut message = vec![0; 4];
        message.extend(counts.iter().flat_map(|c| [0, *c]));
        message.extend(body);
        all_edits(&message, room);
    }

    #[test]
    fn corrupted_messages_do_not_panic(
        whole in a_message(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        room in 0_usize..120,
    ) {
        let mut message = write(&whole);
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        if let Some(cut) = cut {
            message.truncate(cut.index(message.len()));
        }
        all_edits(&message, room);
    }

    #[test]
    fn removed_types_are_gone_and_the_rest_is_kept(whole in a_message(), kind in prop::sample::select(vec![1_u16, 2, 5, 6, 15, 16, 33])) {
        let (after, done) = edited(&write(&whole), 300, |p| rebuild::clear_types(p, |t| t == kind || t == rtype::OPT));
        prop_assert!(done);
        let mut expected = whole;
        expected.records.retain(|r| r.rtype != kind);
        prop_assert_eq!(read(&after), Some(expected));
    }

    #[test]
    fn a_set_option_exists_once_and_the_rest_is_kept(whole in a_message(), code in prop::sample::select(vec![3_u16, 8, 15, 20]), data in prop::collection::vec(any::<u8>(), 0..30)) {
        let message = write(&whole);
        let (after, outcome) = edited(&message, 60, |p| edns::set_option(p, code, &data, 1232));
        let now = read(&after).unwrap();
        let before = options_of(&whole);
        let there = before.iter().flatten().any(|o| o.0 == code);
        let expected = if before.is_none() { Outcome::OptAdded } else if there { Outcome::Replaced } else { Outcome::Added };
        prop_assert_eq!(outcome, expected);
        let mut options = before.unwrap_or_default();
        options.retain(|o| o.0 != code);
        options.push((code, data));
        prop_assert_eq!(options_of(&now), Some(options));
        prop_assert_eq!(without_opt(&now), without_opt(&whole));
        let tsig = whole.records.last().is_some_and(|r| r.rtype == rtype::TSIG);
        prop_assert!(!tsig || now.records.last().unwrap().rtype == rtype::TSIG, "TSIG stays last");
    }

    #[test]
    fn a_removed_option_is_gone_and_the_rest_is_kept(whole in a_message(), code in prop::sample::select(vec![3_u16, 8, 15])) {
        let (after, done) = edited(&write(&whole), 0, |p| edns::remove_option(p, code));
        let now = read(&after).unwrap();
        let before = options_of(&whole);
        prop_assert_eq!(done, before.iter().flatten().any(|o| o.0 == code));
        let kept = before.map(|options| options.into_iter().filter(|o| o.0 != code).collect::<Vec<_>>());
        prop_assert_eq!(options_of(&now), kept);
        prop_assert_eq!(without_opt(&now), without_opt(&whole));
    }

    #[test]
    fn a_stripped_opt_is_gone_and_the_rest_is_kept(whole in a_message()) {
        let (after, done) = edited(&write(&whole), 0, edns::strip);
        prop_assert_eq!(done, options_of(&whole).is_some());
        prop_assert_eq!(read(&after), Some(without_opt(&whole)));
    }

    #[test]
    fn ttls_are_edited_except_that_of_the_opt(whole in a_message()) {
        let mut message = write(&whole);
        prop_assert_eq!(records::end(&message), Some(message.len() - whole.tail.len()));
        prop_assert!(records::edit_ttls(&mut message, |_, class, rtype, ttl| ttl / 2 + u32::from(class) + u32::from(rtype)));
        let mut expected = whole;
        for r in expected.records.iter_mut().filter(|r| r.rtype != rtype::OPT) {
            r.ttl = r.ttl / 2 + u32::from(r.class) + u32::from(r.rtype);
        }
        prop_assert_eq!(read(&message), Some(expected));
    }

    #[test]
    fn a_response_made_tc_keeps_question_and_opt(whole in a_message()) {
        let (after, done) = edited(&write(&whole), 0, answer::to_tc);
        prop_assert!(done);
        let mut expected = whole;
        expected.flags |= 0x0200;
        expected.records.retain(|r| r.rtype == rtype::OPT);
        expected.tail.clear();
        prop_assert_eq!(read(&after), Some(expected));
    }

    #[test]
    fn a_template_answers_any_query(whole in a_message(), qname in a_name(), qtype: u16, rd: bool) {
        let query = Message { id: 0xabcd, flags: u16::from(rd) << 8, questions: vec![(qname, qtype, 3)], records: vec![], tail: vec![] };
        let template = write(&whole);
        let (after, done) = edited(&write(&query), 600, |p| answer::message(p, &template));
        if done {
            let mut expected = whole;
            // A record named by a pointer to the question is renamed with it.
            let now = read(&after).unwrap();
            for (new, old) in now.records.iter().zip(&mut expected.records) {
                old.owner.clone_from(&new.owner);
                old.rdata.clone_from(&new.rdata);
            }
            expected.id = 0xabcd;
            expected.flags = expected.flags & !0x0100 | 0x8000 | query.flags;
            expected.questions = query.questions;
            prop_assert_eq!(now, expected);
        }
    }
}
