//! The OPT record (RFC 6891): parsing, and in-place edits.
//!
//! ```text
//!  | 0 | 41 | payload | code 11..4 | version | DO, Z | length | option code | length | data ...
//!  name type  class     '------------- TTL ------------'         2             2
//! ```

use std::ops::Range;

use crate::base::packet::Packet;
use crate::wire::header::Header;
use crate::wire::records::{Records, Section, rtype};
use crate::wire::{name, records};

/// Bytes of an OPT record before its options.
const FIXED: usize = 11;

/// Longest message of a frame, bytes.
const MESSAGE_MAX: usize = u16::MAX as usize;

/// Option codes that this crate writes.
pub mod code {
    /// Client subnet (RFC 7871).
    pub const CLIENT_SUBNET: u16 = 8;
    /// Extended DNS error (RFC 8914).
    pub const EXTENDED_ERROR: u16 = 15;
}

/// The fixed part of an OPT record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opt {
    /// Where the record begins in the message.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// UDP payload size that the sender accepts, bytes.
    pub payload: u16,
    /// The eight bits of the response code above the header's four.
    pub code_high: u8,
    /// EDNS version.
    pub version: u8,
    /// Whether DNSSEC records are requested (DO; RFC 3225).
    pub dnssec_ok: bool,
}

/// Finds the OPT record of a message whose question section ends at `question_end`. `None` when
/// there is none, or the records before it cannot be parsed. A record whose owner is not the root
/// does not count (RFC 6891, 6.1.2).
#[must_use]
pub fn find(message: &[u8], question_end: usize) -> Option<Opt> {
    let header = Header::parse(message)?;
    let before = u32::from(header.ancount()) + u32::from(header.nscount());
    let mut at = question_end;
    for _ in 1..header.qdcount() {
        at = name::end(message, at)? + 4;
    }
    for number in 0..before + u32::from(header.arcount()) {
        let fixed = name::end(message, at)?;
        let &[t0, t1, c0, c1, code_high, version, flags, _, l0, l1] = message.get(fixed..)?.first_chunk()?;
        let end = fixed + 10 + usize::from(u16::from_be_bytes([l0, l1]));
        if end > message.len() {
            return None;
        }
        if number >= before && fixed == at + 1 && u16::from_be_bytes([t0, t1]) == rtype::OPT {
            return Some(Opt {
                start: at,
                end,
                payload: u16::from_be_bytes([c0, c1]),
                code_high,
                version,
                dnssec_ok: flags & 0x80 != 0,
            });
        }
        at = end;
    }
    None
}

/// Returns an OPT record without options.
#[must_use]
pub const fn bare(payload: u16, dnssec_ok: bool) -> [u8; 11] {
    let [p0, p1] = payload.to_be_bytes();
    let [t0, t1] = rtype::OPT.to_be_bytes();
    [0, t0, t1, p0, p1, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

/// Returns the options of an OPT record: code, and range of the data. They end at the first invalid
/// one.
pub fn options(message: &[u8], opt: &Opt) -> impl Iterator<Item = (u16, Range<usize>)> {
    Options { message, at: opt.start + FIXED, end: opt.end.min(message.len()) }.map(|o| (o.code, o.data))
}

/// Returns whether the options of an OPT record fill it, so that [`options`] has them all.
#[must_use]
pub fn is_whole(message: &[u8], opt: &Opt) -> bool {
    options(message, opt).last().map_or(opt.start + FIXED, |(_, data)| data.end) == opt.end
}

struct Options<'m> {
    message: &'m [u8],
    at: usize,
    end: usize,
}

struct Choice {
    code: u16,
    data: Range<usize>,
}

impl Iterator for Options<'_> {
    type Item = Choice;

    fn next(&mut self) -> Option<Choice> {
        let &[c0, c1, l0, l1] = self.message.get(self.at..self.end)?.first_chunk()?;
        let data = self.at + 4..self.at + 4 + usize::from(u16::from_be_bytes([l0, l1]));
        if data.end > self.end {
            return None;
        }
        self.at = data.end;
        Some(Choice { code: u16::from_be_bytes([c0, c1]), data })
    }
}

/// Returns the OPT record of a message with any number of questions.
#[must_use]
pub fn locate(message: &[u8]) -> Option<Opt> {
    // `find` continues after further questions.
    match Header::parse(message)?.qdcount() {
        0 => find(message, crate::wire::header::LEN),
        _ => find(message, name::end(message, crate::wire::header::LEN)? + 4),
    }
}

/// Returns the response code of a message, with its eight high bits from the OPT record; 0 without
/// a header.
#[must_use]
pub fn rcode(message: &[u8]) -> u16 {
    let low = Header::parse(message).map_or(0, |head| u16::from(head.rcode()));
    locate(message).map_or(low, |opt| u16::from(opt.code_high) << 4 | low)
}

/// The outcome of setting an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no OPT record: one with this option was added.
    OptAdded,
    /// There was no such option: it was added.
    Added,
    /// The option replaced earlier ones.
    Replaced,
    /// The message cannot be parsed, or there is no space; nothing was changed.
    Failed,
}

/// Sets an option in the OPT record, replacing all of its code. A message without OPT gets one with
/// `payload` (UDP payload size, bytes), before a TSIG.
#[must_use]
pub fn set_option(packet: &mut Packet<'_>, code: u16, data: &[u8], payload: u16) -> Outcome {
    put_option(packet, code, &[data], payload)
}

/// [`set_option`] with its data in parts.
pub(super) fn put_option(packet: &mut Packet<'_>, code: u16, data: &[&[u8]], payload: u16) -> Outcome {
    put_options(packet, code, data, &[], payload)
}

/// The same; behind the option come further ones, as bytes.
pub(super) fn put_options(
    packet: &mut Packet<'_>,
    code: u16,
    data: &[&[u8]],
    further: &[u8],
    payload: u16,
) -> Outcome {
    let Some(head) = option_head(code, data) else { return Outcome::Failed };
    let opt = locate(packet.bytes());
    // A message of more bytes than a frame holds would be lost.
    let fixed = if opt.is_some() { 0 } else { FIXED };
    let added = fixed + head.len() + data.iter().map(|part| part.len()).sum::<usize>() + further.len();
    if packet.len() + added > MESSAGE_MAX {
        return Outcome::Failed;
    }
    let mut parts: [&[u8]; 6] = [&[]; 6];
    let Some(rest) = parts[..5].get_mut(2..2 + data.len()) else { return Outcome::Failed };
    rest.copy_from_slice(data);
    (parts[1], parts[5]) = (&head, further);
    if let Some(opt) = opt {
        return match rewrite(packet, &opt, code, &parts) {
            Some(true) => Outcome::Replaced,
            Some(false) => Outcome::Added,
            None => Outcome::Failed,
        };
    }
    let mut fixed = bare(payload, false);
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let Ok(length) = u16::try_from(length) else { return Outcome::Failed };
    fixed[9..].copy_from_slice(&length.to_be_bytes());
    parts[0] = &fixed;
    if place(packet, &parts) { Outcome::OptAdded } else { Outcome::Failed }
}

/// Adds an OPT record without options to a message that has none, before a TSIG. False, and nothing
/// changed, when that is impossible.
#[must_use]
pub fn add(packet: &mut Packet<'_>, payload: u16, dnssec_ok: bool) -> bool {
    packet.len() + FIXED <= MESSAGE_MAX && place(packet, &[&bare(payload, dnssec_ok)])
}

/// Puts a new OPT record in its place.
fn place(packet: &mut Packet<'_>, parts: &[&[u8]]) -> bool {
    let full = Header::parse(packet.bytes()).is_none_or(|head| head.arcount() == u16::MAX);
    let placed =
        !full && place_for_opt(packet.bytes()).is_some_and(|at| records::splice(packet, at..at, parts, true));
    if placed {
        records::count(packet.bytes_mut(), Section::Additional, 1);
    }
    placed
}

/// Removes all options of a code. False when there was none, or the message cannot be parsed.
pub fn remove_option(packet: &mut Packet<'_>, code: u16) -> bool {
    let Some(opt) = locate(packet.bytes()) else { return false };
    options(packet.bytes(), &opt).any(|option| option.0 == code) && rewrite(packet, &opt, code, &[]).is_some()
}

/// Removes all options; the OPT record stays. False when there is no
/// such record.
pub fn remove_options(packet: &mut Packet<'_>) -> bool {
    let Some(opt) = locate(packet.bytes()) else { return false };
    let from = opt.start + FIXED;
    if !records::splice(packet, from..opt.end, &[], false) {
        return false;
    }
    packet.bytes_mut()[from - 2..from].fill(0);
    true
}

/// Removes the OPT record. False when there is none, or the message cannot be parsed; nothing was
/// changed then.
pub fn strip(packet: &mut Packet<'_>) -> bool {
    let Some(opt) = locate(packet.bytes()) else { return false };
    let gone = records::splice(packet, opt.start..opt.end, &[], false);
    if gone {
        records::count(packet.bytes_mut(), Section::Additional, -1);
    }
    gone
}

/// Replaces the OPT record, if there is one, by one with `payload` and without options; DO and the
/// code's upper bits stay. False, and nothing changed, when that is impossible.
#[must_use]
pub fn reset(packet: &mut Packet<'_>, payload: u16) -> bool {
    let Some(opt) = locate(packet.bytes()) else { return true };
    let mut own = bare(payload, opt.dnssec_ok);
    own[5] = opt.code_high;
    records::splice(packet, opt.start..opt.end, &[&own], true)
}

/// Encodes code and length of an option.
fn option_head(code: u16, data: &[&[u8]]) -> Option<[u8; 4]> {
    let length = u16::try_from(data.iter().map(|part| part.len()).sum::<usize>()).ok()?;
    let ([c0, c1], [l0, l1]) = (code.to_be_bytes(), length.to_be_bytes());
    Some([c0, c1, l0, l1])
}

/// Returns where a new OPT record belongs: at the end of the message, but before a TSIG, which is
/// last (RFC 8945, 5.1).
fn place_for_opt(message: &[u8]) -> Option<usize> {
    let mut records = Records::of(message);
    let last = records.by_ref().last().filter(|r| r.rtype == rtype::TSIG && r.section == Section::Additional);
    if !records.whole() {
        return None;
    }
    last.map_or_else(|| records::end(message), |tsig| Some(tsig.start))
}

/// Removes the options of `code` from the OPT record and appends `parts`; returns whether there was
/// one. `None`, and nothing changed, when that is impossible.
fn rewrite(packet: &mut Packet<'_>, opt: &Opt, code: u16, parts: &[&[u8]]) -> Option<bool> {
    let message = packet.bytes();
    let first = opt.start + FIXED;
    let (mut read, mut removed) = (first, 0);
    for (other, data) in options(message, opt) {
        read = data.end;
        if other == code {
            removed += 4 + data.len();
        }
    }
    if read != opt.end {
        return None;
    }
    let added = parts.iter().map(|part| part.len()).sum::<usize>();
    let length = u16::try_from(opt.end - first - removed + added).ok()?;
    // Moves the kept options to the front of the record and the removed ones behind them: within
    // the record, so that a failing splice is detected before anything changed.
    let kept_end = opt.end - removed;
    if !records::can_splice(packet, kept_end..opt.end, added, false) {
        return None;
    }
    let (mut from, mut to) = (first, first);
    let message = packet.bytes_mut();
    while from < opt.end {
        let &[c0, c1, l0, l1] = message.get(from..)?.first_chunk()?;
        let whole = from..from + 4 + usize::from(u16::from_be_bytes([l0, l1]));
        from = whole.end;
        if u16::from_be_bytes([c0, c1]) != code {
            let kept = whole.len();
            message.copy_within(whole, to);
            to += kept;
        }
    }
    let spliced = records::splice(packet, kept_end..opt.end, parts, false);
    debug_assert!(spliced, "checked before");
    packet.bytes_mut().get_mut(first - 2..first)?.copy_from_slice(&length.to_be_bytes());
    spliced.then_some(removed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::edited;
    use proptest::prelude::*;

    #[test]
    fn an_opt_is_found_after_other_records() {
        let mut message = b"\0\0\x01\0\0\x01\0\0\0\0\0\x02\x01a\0\0\x01\0\x01".to_vec();
        let question_end = message.len();
        message.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x7f\0\0\x01");
        message.extend(bare(1400, true));
        let opt = find(&message, question_end).expect("an OPT");
        assert_eq!((opt.payload, opt.version, opt.dnssec_ok), (1400, 0, true));
        assert_eq!(opt.end, message.len());
        message.pop();
        assert_eq!(find(&message, question_end), None);
    }

    #[test]
    fn an_opt_is_owned_by_the_root() {
        let head = b"\0\0\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01";
        for owner in [&b"\x01b\0"[..], b"\xc0\x0c", b"\xc0\x0e"] {
            let message = [&head[..], owner, &bare(1400, false)[1..]].concat();
            assert_eq!((find(&message, head.len()), locate(&message)), (None, None));
        }
        assert!(locate(&[&head[..], &bare(1400, false)].concat()).is_some());
    }

    /// Builds a query with an OPT of two cookies and a subnet, followed by a TSIG named like the
    /// question, and trailing data.
    fn signed(options: &[u8]) -> Vec<u8> {
        let head =
            [&b"\0\x01\x01\0\0\x01\0\0\0\0\0\x02\x01a\0\0\x01\0\x01"[..], b"\0\0\x29\x05\x78\x01\0\x80\0"];
        [&head.concat()[..], &(options.len() as u16).to_be_bytes(), options, TSIG].concat()
    }

    const TSIG: &[u8] = b"\xc0\x0c\0\xfa\0\xff\0\0\0\0\0\x01xtail";
    const OPTIONS: &[u8] = b"\0\x0a\0\x01c\0\x08\0\x02sn\0\x0a\0\0";

    #[test]
    fn options_are_listed() {
        let message = signed(OPTIONS);
        let opt = locate(&message).unwrap();
        assert_eq!((opt.start, opt.end, opt.code_high, rcode(&message)), (19, 45, 1, 16));
        let list: Vec<_> =
            options(&message, &opt).map(|(code, data)| (code, message[data].to_vec())).collect();
        assert_eq!(list, [(10, b"c".to_vec()), (8, b"sn".to_vec()), (10, Vec::new())]);
        let message = signed(b"\0\x0a\0\x01c\0\x08\0\x02s");
        let opt = locate(&message).unwrap();
        assert_eq!(options(&message, &opt).count(), 1, "the second is truncated");
    }

    #[test]
    fn a_set_option_replaces_all_of_its_code() {
        let (after, outcome) = edited(&signed(OPTIONS), 3, |p| set_option(p, 10, b"new one", 512));
        assert_eq!(outcome, Outcome::Replaced);
        assert_eq!(after, signed(b"\0\x08\0\x02sn\0\x0a\0\x07new one"));
        let (after, outcome) = edited(&signed(OPTIONS), 5, |p| set_option(p, 15, b"x", 512));
        assert_eq!(outcome, Outcome::Added);
        assert_eq!(after, signed(&[OPTIONS, b"\0\x0f\0\x01x"].concat()));
    }

    #[test]
    fn an_option_that_cannot_be_set_changes_nothing() {
        for (message, data) in [
            (signed(OPTIONS), vec![0; 30]),
            (signed(OPTIONS), vec![0; 65_536]),
            (signed(b"\0\x0a\0\x09c"), vec![0]),
            (signed(OPTIONS)[..50].to_vec(), vec![0]),
            (b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01".to_vec(), vec![0; 10]),
            (vec![0; 11], vec![]),
        ] {
            assert_eq!(edited(&message, 20, |p| set_option(p, 8, &data, 512)), (message, Outcome::Failed));
        }
    }

    #[test]
    fn a_message_does_not_grow_beyond_a_frame() {
        let mut plain = signed(OPTIONS);
        for (length, added, outcome) in [(65_535 - 7, 3, Outcome::Added), (65_535 - 7, 4, Outcome::Failed)] {
            plain.resize(length, 0);
            let (after, done) = edited(&plain, 50, |p| set_option(p, 15, &vec![1; added], 512));
            assert_eq!(done, outcome);
            assert_eq!(after.len(), if done == Outcome::Failed { length } else { 65_535 });
        }
    }

    #[test]
    fn a_new_opt_precedes_a_tsig() {
        let mut plain = signed(b"");
        plain.drain(19..30);
        plain[11] = 1;
        let (after, outcome) = edited(&plain, 30, |p| set_option(p, 8, b"net", 1232));
        assert_eq!(outcome, Outcome::OptAdded);
        let mut expected = signed(b"\0\x08\0\x03net");
        expected[22..28].copy_from_slice(&[4, 0xd0, 0, 0, 0, 0]);
        assert_eq!(after, expected);
        assert_eq!(edited(&after, 0, strip), (plain, true));
    }

    #[test]
    fn a_removed_option_leaves_the_record() {
        let (after, done) = edited(&signed(OPTIONS), 0, |p| remove_option(p, 10));
        assert_eq!((after, done), (signed(b"\0\x08\0\x02sn"), true));
        assert_eq!(edited(&signed(OPTIONS), 0, |p| remove_option(p, 3)), (signed(OPTIONS), false));
    }

    #[test]
    fn an_opt_that_others_point_into_is_kept() {
        let mut message = signed(OPTIONS);
        message[46] = 19;
        assert_eq!(edited(&message, 0, strip), (message, false));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(message in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..220) {
            if let Some(opt) = find(&message, at) {
                prop_assert!(opt.start < opt.end && opt.end <= message.len());
            }
        }
    }
}
