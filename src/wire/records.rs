//! The records of a message: iteration, and in-place edits.
//!
//! ```text
//! | header | questions | answer ...... | authority .. | additional (OPT, TSIG) | trailing data |
//!                       ^ Walk::of                                               ^ end
//! ```
//!
//! Compression pointers refer to offsets, so no byte before a record moves unless `splice` fixes
//! the pointers, or [`crate::wire::rebuild`] rewrites the names.

use std::ops::Range;

use crate::base::packet::Packet;
use crate::wire::header::Header;
use crate::wire::{header, name};

/// Record types whose data must be known (RFC 1035, 3.2.2, and those that RFC 3597, section 4,
/// lists as possibly compressed).
pub mod rtype {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// A mail destination (obsolete).
    pub const MD: u16 = 3;
    /// A mail forwarder (obsolete).
    pub const MF: u16 = 4;
    /// A canonical name.
    pub const CNAME: u16 = 5;
    /// The start of authority.
    pub const SOA: u16 = 6;
    /// A mailbox (experimental).
    pub const MB: u16 = 7;
    /// A mail group (experimental).
    pub const MG: u16 = 8;
    /// A renamed mailbox (experimental).
    pub const MR: u16 = 9;
    /// A pointer to another name.
    pub const PTR: u16 = 12;
    /// A mailing list's mailboxes (experimental).
    pub const MINFO: u16 = 14;
    /// A mail exchange.
    pub const MX: u16 = 15;
    /// Strings.
    pub const TXT: u16 = 16;
    /// A responsible person.
    pub const RP: u16 = 17;
    /// An AFS database.
    pub const AFSDB: u16 = 18;
    /// A route through another host.
    pub const RT: u16 = 21;
    /// A signature (RFC 2535; SIG(0): RFC 2931).
    pub const SIG: u16 = 24;
    /// An X.400 mapping.
    pub const PX: u16 = 26;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// The next name of a zone (obsolete).
    pub const NXT: u16 = 30;
    /// A service location.
    pub const SRV: u16 = 33;
    /// A naming authority pointer.
    pub const NAPTR: u16 = 35;
    /// A key exchanger.
    pub const KX: u16 = 36;
    /// An IPv6 address in parts (obsolete).
    pub const A6: u16 = 38;
    /// An alias of a subtree.
    pub const DNAME: u16 = 39;
    /// The pseudo-record of EDNS (RFC 6891).
    pub const OPT: u16 = 41;
    /// A service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// A service binding for HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// A transaction signature (RFC 8945); the last record of its message.
    pub const TSIG: u16 = 250;
    /// All types, in a question.
    pub const ANY: u16 = 255;
}

/// The section of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority.
    Authority,
    /// Additional, with OPT and TSIG.
    Additional,
}

impl Section {
    /// Returns the offset of its count in the header.
    pub(super) const fn count_at(self) -> usize {
        match self {
            Self::Answer => 6,
            Self::Authority => 8,
            Self::Additional => 10,
        }
    }
}

/// One record, by its offsets in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its section.
    pub section: Section,
    /// Where its owner name begins.
    pub start: usize,
    /// Its type.
    pub rtype: u16,
    /// Its class.
    pub class: u16,
    /// Offset of the four bytes of its TTL.
    pub ttl_at: usize,
    /// Its TTL, seconds; of an OPT: extended code, version and flags.
    pub ttl: u32,
    /// Range of its data.
    pub rdata: Range<usize>,
    /// Where it ends.
    pub end: usize,
}

/// An iteration over the records of a message. It does not borrow the message, which can be edited
/// meanwhile as long as no byte moves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk {
    /// Where the next record begins.
    at: usize,
    /// Remaining records, by section.
    left: [u16; 3],
    broken: bool,
}

impl Walk {
    /// Begins after the questions; invalid when those cannot be parsed.
    pub(super) fn of(message: &[u8]) -> Self {
        let start = Header::parse(message).and_then(|head| {
            let mut at = header::LEN;
            for _ in 0..head.qdcount() {
                at = name::end(message, at)? + 4;
            }
            (at <= message.len()).then_some((at, [head.ancount(), head.nscount(), head.arcount()]))
        });
        match start {
            Some((at, left)) => Self { at, left, broken: false },
            None => Self { at: 0, left: [0; 3], broken: true },
        }
    }

    /// Returns the next record of `message`, which must be the original message.
    pub(super) fn next(&mut self, message: &[u8]) -> Option<Record> {
        let number = self.left.iter().position(|left| *left > 0)?;
        let section = [Section::Answer, Section::Authority, Section::Additional][number];
        let record = record_at(message, self.at, section);
        match &record {
            Some(record) => {
                self.left[number] -= 1;
                self.at = record.end;
            }
            None => *self = Self { left: [0; 3], broken: true, ..*self },
        }
        record
    }

    /// Returns the current offset: after the last record at the end.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Returns whether everything so far could be parsed.
    pub(super) const fn whole(&self) -> bool {
        !self.broken
    }
}

fn record_at(message: &[u8], start: usize, section: Section) -> Option<Record> {
    let fixed = name::end(message, start)?;
    let &[t0, t1, c0, c1, s0, s1, s2, s3, l0, l1] = message.get(fixed..)?.first_chunk()?;
    let data = fixed + 10;
    let end = data + usize::from(u16::from_be_bytes([l0, l1]));
    (end <= message.len()).then_some(Record {
        section,
        start,
        rtype: u16::from_be_bytes([t0, t1]),
        class: u16::from_be_bytes([c0, c1]),
        ttl_at: fixed + 4,
        ttl: u32::from_be_bytes([s0, s1, s2, s3]),
        rdata: data..end,
        end,
    })
}

/// The records of a message, in order. They end at the first invalid one.
#[derive(Clone, Debug)]
pub struct Records<'m> {
    message: &'m [u8],
    walk: Walk,
}

impl<'m> Records<'m> {
    /// Returns the records of `message`.
    #[must_use]
    pub fn of(message: &'m [u8]) -> Self {
        Self { message, walk: Walk::of(message) }
    }

    /// Returns whether everything so far could be parsed; after the last record, whether all are
    /// there.
    #[must_use]
    pub const fn whole(&self) -> bool {
        self.walk.whole()
    }
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        self.walk.next(self.message)
    }
}

/// Returns the offset of the first record; `None` when the questions cannot be parsed.
#[must_use]
pub fn start(message: &[u8]) -> Option<usize> {
    let walk = Walk::of(message);
    walk.whole().then_some(walk.at())
}

/// Returns where the DNS message ends; bytes after that are trailing data. `None` when a record
/// cannot be parsed.
#[must_use]
pub fn end(message: &[u8]) -> Option<usize> {
    let mut walk = Walk::of(message);
    while walk.next(message).is_some() {}
    walk.whole().then_some(walk.at())
}

/// Returns whether the records of an answer to a query can be read, with the names in them; of a truncated one they
/// need not. What is behind them does not matter.
#[must_use]
pub fn is_answer(message: &[u8]) -> bool {
    let Some(head) = Header::parse(message) else { return false };
    if message[2] >> 3 & 0x0f != 0 {
        return false;
    }
    let mut all = Records::of(message);
    head.is_truncated() || all.all(|record| is_readable(message, &record)) && all.whole()
}

/// Returns whether the names of a record can be read.
fn is_readable(message: &[u8], record: &Record) -> bool {
    let mut name = [0; name::LEN_MAX];
    let Some((mut at, count, _)) = names_in(message, record) else { return false };
    if name::read(message, record.start, &mut name).is_none() {
        return false;
    }
    for _ in 0..count {
        let Some((_, end)) = name::read(message, at, &mut name) else { return false };
        at = end;
    }
    at <= record.rdata.end
}

/// Sets the TTL of each record except the OPT to what `new` returns for section, class, type and
/// TTL. False, and nothing changed, when a record cannot be parsed.
pub fn edit_ttls(message: &mut [u8], mut new: impl FnMut(Section, u16, u16, u32) -> u32) -> bool {
    if end(message).is_none() {
        return false;
    }
    let mut walk = Walk::of(message);
    while let Some(record) = walk.next(message) {
        if record.rtype != rtype::OPT {
            let ttl = new(record.section, record.class, record.rtype, record.ttl);
            message[record.ttl_at..record.ttl_at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
    }
    true
}

/// Returns the number of entries of a type in a section: 0 is the question section, 1 to 3 are
/// answer, authority and additional. Counts only what can be parsed.
#[must_use]
pub fn count_types(message: &[u8], section: u8, rtype: u16) -> u16 {
    let section = match section {
        0 => return count_questions(message, rtype),
        1 => Section::Answer,
        2 => Section::Authority,
        3 => Section::Additional,
        _ => return 0,
    };
    let found = Records::of(message).filter(|r| r.section == section && r.rtype == rtype).count();
    u16::try_from(found).unwrap_or(u16::MAX)
}

fn count_questions(message: &[u8], qtype: u16) -> u16 {
    let Some(head) = Header::parse(message) else { return 0 };
    let (mut at, mut found) = (header::LEN, 0);
    for _ in 0..head.qdcount() {
        let Some(name_end) = name::end(message, at) else { break };
        let Some(bytes) = message.get(name_end..name_end + 4) else { break };
        found += u16::from(bytes[..2] == qtype.to_be_bytes());
        at = name_end + 4;
    }
    found
}

/// Returns the names in a record's data that may be compressed: the offset of the first, the number
/// of consecutive ones, and whether a sender may compress them (RFC 3597, section 4). `None` when
/// the data are too short.
pub(crate) fn names_in(message: &[u8], record: &Record) -> Option<(usize, u8, bool)> {
    use rtype::{
        A6, AFSDB, CNAME, DNAME, KX, MB, MD, MF, MG, MINFO, MR, MX, NAPTR, NS, NXT, PTR, PX, RP, RT, SIG,
        SOA, SRV,
    };
    let data = message.get(record.rdata.clone())?;
    // A record without data is a prerequisite or a deletion (RFC 2136, 2.4 and 2.5).
    if data.is_empty() {
        return Some((record.rdata.start, 0, false));
    }
    let (before, count, known) = match record.rtype {
        NS | MD | MF | CNAME | MB | MG | MR | PTR => (0, 1, true),
        SOA | MINFO => (0, 2, true),
        MX => (2, 1, true),
        RP => (0, 2, false),
        AFSDB | RT | KX => (2, 1, false),
        SIG => (18, 1, false),
        PX => (2, 2, false),
        NXT | DNAME => (0, 1, false),
        SRV => (6, 1, false),
        NAPTR => {
            let mut at = 4;
            for _ in 0..3 {
                at += 1 + usize::from(*data.get(at)?);
            }
            (at, 1, false)
        }
        // A prefix length and the address's other bits; a name only with a prefix.
        A6 => match *data.first()? {
            0 => (0, 0, false),
            bits @ 1..=128 => (1 + usize::from(128 - bits).div_ceil(8), 1, false),
            _ => return None,
        },
        _ => (0, 0, false),
    };
    Some((record.rdata.start + before, count, known))
}

/// Replaces the target of each compression pointer of a record by the result of `moved`. False when
/// a name cannot be parsed or exceeds the record's data.
fn fix(message: &mut [u8], record: &Record, mut moved: impl FnMut(usize) -> usize) -> bool {
    let Some((first, count, _)) = names_in(message, record) else { return false };
    let mut at = record.start;
    for number in 0..=count {
        let Some((name_end, pointer_at)) = name::extent(message, at) else { return false };
        if number > 0 && name_end > record.rdata.end {
            return false;
        }
        if let Some(place) = pointer_at
            && let Some(target) = name::pointer(message, place)
        {
            let [.., high, low] = (moved(target) & POINTER_MAX).to_be_bytes();
            message[place..place + 2].copy_from_slice(&[0xc0 | high, low]);
        }
        at = if number == 0 { first } else { name_end };
    }
    true
}

/// The largest target of a compression pointer.
pub(super) const POINTER_MAX: usize = 0x3fff;

/// Replaces the bytes at `place` by `parts`, moves what follows, and fixes the compression pointers
/// of the records from there on. `same_start`: what begins at the start of `place` keeps its
/// meaning, so pointers to it stay valid.
///
/// False, and nothing changed, when there is no space, a record cannot be parsed, or a pointer
/// would lose its target.
#[must_use]
pub(super) fn splice(
    packet: &mut Packet<'_>,
    place: Range<usize>,
    parts: &[&[u8]],
    same_start: bool,
) -> bool {
    let inserted = parts.iter().map(|part| part.len()).sum::<usize>();
    if !can_splice(packet, place.clone(), inserted, same_start) {
        return false;
    }
    fix_behind(packet.bytes_mut(), place.end, |target| {
        moved(target, &place, inserted, same_start).unwrap_or(target)
    });
    packet.bytes_mut().copy_within(place.end.., place.start);
    packet.truncate(packet.len() - place.len());
    for part in parts {
        if !packet.append(part) {
            return false;
        }
    }
    packet.bytes_mut()[place.start..].rotate_right(inserted);
    true
}

/// Returns whether [`splice`] of `inserted` bytes would succeed.
#[must_use]
pub(super) fn can_splice(
    packet: &mut Packet<'_>,
    place: Range<usize>,
    inserted: usize,
    same_start: bool,
) -> bool {
    if place.start > place.end || place.end > packet.len() || packet.tailroom() + place.len() < inserted {
        return false;
    }
    let mut sound = true;
    fix_behind(packet.bytes_mut(), place.end, |target| {
        sound &= moved(target, &place, inserted, same_start).is_some();
        target
    }) && sound
}

/// Returns where the target of a pointer is after a splice; `None` when it is gone or too far.
fn moved(target: usize, place: &Range<usize>, inserted: usize, same_start: bool) -> Option<usize> {
    if target < place.start || same_start && target == place.start {
        return Some(target);
    }
    (target >= place.end).then(|| target - place.len() + inserted).filter(|t| *t <= POINTER_MAX)
}

/// Applies [`fix`] to each record that begins at `from` or later.
fn fix_behind(message: &mut [u8], from: usize, mut moved: impl FnMut(usize) -> usize) -> bool {
    let mut walk = Walk::of(message);
    while let Some(record) = walk.next(message) {
        if record.start >= from && !fix(message, &record, &mut moved) {
            return false;
        }
    }
    walk.whole()
}

/// Adds `by` to the count of a section. The caller ensures that it stays within 16 bits.
pub(super) fn count(message: &mut [u8], section: Section, by: i16) {
    if let Some(bytes) = message.get_mut(section.count_at()..).and_then(<[u8]>::first_chunk_mut) {
        *bytes = u16::from_be_bytes(*bytes).wrapping_add_signed(by).to_be_bytes();
    }
}

#[cfg(test)]
mod tests;
