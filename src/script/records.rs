//! The records of a message, for what scripts do to answers: read them, change their TTLs, leave
//! some out, give the name asked for another.
//!
//! A message is walked as far as it can be read; what cannot be read stays as it is. Whatever moves
//! octets writes every name out in full, since a pointer would point elsewhere (RFC 1035, 4.1.4);
//! only owners that are the name asked for point to it.

use crate::wire::header::{self, Header};
use crate::wire::name;
use crate::wire::query::Question;

/// TYPE of OPT, whose TTL is none (RFC 6891, 6.1.3).
const OPT: u16 = 41;
/// A pointer to the name behind the header.
const TO_QNAME: [u8; 2] = [0xc0, 12];

/// Places of one record in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// 1: answer, 2: authority, 3: additional.
    pub(super) section: u8,
    /// Where its owner begins.
    pub(super) owner: usize,
    /// TYPE.
    pub(super) rtype: u16,
    /// CLASS.
    pub(super) class: u16,
    /// TTL, seconds.
    pub(super) ttl: u32,
    /// Where its contents begin.
    pub(super) rdata: usize,
    /// Where it ends.
    pub(super) end: usize,
}

/// The records of a message, as far as it can be read.
pub(super) fn records(message: &[u8]) -> impl Iterator<Item = Record> + '_ {
    let header = Header::parse(message);
    let counts = header.map_or([0; 3], |h| [h.ancount(), h.nscount(), h.arcount()]);
    let mut at = header.and_then(|h| questions_end(message, h.qdcount()));
    let mut left = counts.map(u32::from);
    std::iter::from_fn(move || {
        let section = left.iter().position(|n| *n > 0)?;
        left[section] -= 1;
        let record = read(message, at?, u8::try_from(section).ok()? + 1);
        at = record.map(|r| r.end);
        record
    })
}

fn questions_end(message: &[u8], count: u16) -> Option<usize> {
    let mut at = header::LEN;
    for _ in 0..count {
        at = name::end(message, at)? + 4;
    }
    Some(at)
}

fn read(message: &[u8], owner: usize, section: u8) -> Option<Record> {
    let fixed = name::end(message, owner)?;
    let &[t0, t1, c0, c1, s0, s1, s2, s3, l0, l1] = message.get(fixed..)?.first_chunk()?;
    let rdata = fixed + 10;
    let end = rdata + usize::from(u16::from_be_bytes([l0, l1]));
    (end <= message.len()).then_some(Record {
        section,
        owner,
        rtype: u16::from_be_bytes([t0, t1]),
        class: u16::from_be_bytes([c0, c1]),
        ttl: u32::from_be_bytes([s0, s1, s2, s3]),
        rdata,
        end,
    })
}

/// Where a message ends: behind its last record. Its length, if it cannot be read to there.
pub(super) fn end(message: &[u8]) -> usize {
    let Some(header) = Header::parse(message) else { return message.len() };
    let wanted =
        usize::from(header.ancount()) + usize::from(header.nscount()) + usize::from(header.arcount());
    let (count, last) = records(message).fold((0, None), |(n, _), r| (n + 1, Some(r.end)));
    match last {
        Some(end) if count == wanted => end,
        None if wanted == 0 => {
            questions_end(message, header.qdcount()).filter(|e| *e <= message.len()).unwrap_or(message.len())
        }
        _ => message.len(),
    }
}

/// Gives each record, OPT apart, the TTL that `change` makes of section, class, type and TTL.
pub(super) fn edit_ttls(message: &mut [u8], mut change: impl FnMut(u8, u16, u16, u32) -> u32) {
    // The walk reads what is written to: first all places, then all changes.
    let found: Vec<Record> = records(message).filter(|r| r.rtype != OPT).collect();
    for record in found {
        let ttl = change(record.section, record.class, record.rtype, record.ttl);
        message[record.rdata - 6..record.rdata - 2].copy_from_slice(&ttl.to_be_bytes());
    }
}

/// The name at `at` in full, its pointers followed; none when it cannot be read.
pub(super) fn expand(message: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(32);
    let mut at = at;
    // Each pointer must lead to before the last one, so this ends.
    let mut before = message.len();
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                name.push(0);
                return (name.len() <= name::LEN_MAX).then_some(name);
            }
            1..=63 => {
                name.extend_from_slice(message.get(at..=at + usize::from(length))?);
                if name.len() >= name::LEN_MAX {
                    return None;
                }
                at += 1 + usize::from(length);
            }
            0xc0.. => {
                let to = usize::from(u16::from_be_bytes([length & 0x3f, *message.get(at + 1)?]));
                if to >= before {
                    return None;
                }
                (before, at) = (to, to);
            }
            _ => return None,
        }
    }
}

/// Names in the contents of a type, all that may be compressed (RFC 3597, 4): octets in front, and
/// how many names.
const fn names_in(rtype: u16) -> (usize, usize) {
    match rtype {
        2 | 5 | 7 | 8 | 9 | 12 | 39 => (0, 1),
        6 | 14 | 17 => (0, 2),
        15 | 18 | 21 | 36 => (2, 1),
        26 => (2, 2),
        33 => (6, 1),
        _ => (0, 0),
    }
}

/// Writes a message anew: only the records that `keep` wants, and `new` wherever the name asked for
/// stands. None, when it cannot be read to its end or becomes longer than a message may be.
pub(super) fn rewrite(
    message: &[u8],
    new: Option<&[u8]>,
    mut keep: impl FnMut(&Record) -> bool,
) -> Option<Vec<u8>> {
    let header = Header::parse(message)?;
    let question = Question::parse(message).filter(|_| header.qdcount() == 1)?;
    let old = question.qname;
    let new = new.unwrap_or(old);
    let renamed = |name: Vec<u8>| if name.eq_ignore_ascii_case(old) { new.to_vec() } else { name };
    let mut out = Vec::with_capacity(message.len() + 64);
    out.extend_from_slice(&message[..header::LEN]);
    out.extend_from_slice(new);
    out.extend_from_slice(&message[header::LEN + old.len()..question.end]);
    let mut counts = [0_u16; 3];
    let mut end = question.end;
    let mut seen = 0_usize;
    for record in records(message) {
        (end, seen) = (record.end, seen + 1);
        if !keep(&record) {
            continue;
        }
        counts[usize::from(record.section) - 1] += 1;
        let owner = expand(message, record.owner)?;
        if owner.eq_ignore_ascii_case(old) && old.len() > 1 {
            out.extend_from_slice(&TO_QNAME);
        } else {
            out.extend(renamed(owner));
        }
        out.extend_from_slice(&message[record.rdata - 10..record.rdata - 2]);
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        let (front, names) = names_in(record.rtype);
        let mut at = record.rdata;
        if names > 0 {
            out.extend_from_slice(message.get(at..at + front)?);
            at += front;
            for _ in 0..names {
                out.extend(renamed(expand(message, at)?));
                at = name::end(message, at)?;
            }
        }
        out.extend_from_slice(message.get(at..record.end)?);
        let length = u16::try_from(out.len() - length_at - 2).ok()?;
        out[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }
    let wanted =
        usize::from(header.ancount()) + usize::from(header.nscount()) + usize::from(header.arcount());
    if seen != wanted || out.len() > usize::from(u16::MAX) {
        return None;
    }
    for (at, count) in [6, 8, 10].into_iter().zip(counts) {
        out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    out.extend_from_slice(&message[end..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// a.example. CNAME b.example., b.example. A 192.0.2.1, and trailing octets.
    const ANSWER: &[u8] = b"\0\x07\x81\x80\0\x01\0\x02\0\0\0\0\x01a\x07example\0\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01b\xc0\x0e\
        \xc0\x27\0\x01\0\x01\0\0\x01\x00\0\x04\xc0\0\x02\x01tail";

    #[test]
    fn records_are_walked() {
        let found: Vec<_> = records(ANSWER).map(|r| (r.section, r.rtype, r.ttl)).collect();
        assert_eq!(found, [(1, 5, 60), (1, 1, 256)]);
        assert_eq!(end(ANSWER), ANSWER.len() - 4);
        assert_eq!(expand(ANSWER, 0x27).as_deref(), Some(&b"\x01b\x07example\0"[..]));
    }

    #[test]
    fn ttls_are_changed() {
        let mut message = ANSWER.to_vec();
        edit_ttls(&mut message, |_, _, rtype, ttl| if rtype == 1 { ttl + 1 } else { 5 });
        assert_eq!(records(&message).map(|r| r.ttl).collect::<Vec<_>>(), [5, 257]);
    }

    #[test]
    fn a_rewrite_renames_and_leaves_out() {
        let out = rewrite(ANSWER, Some(b"\x03new\0"), |_| true).expect("readable");
        let found: Vec<_> = records(&out).map(|r| (expand(&out, r.owner), r.rtype)).collect();
        assert_eq!(found, [(Some(b"\x03new\0".to_vec()), 5), (Some(b"\x01b\x07example\0".to_vec()), 1)]);
        assert!(out.ends_with(b"tail"));
        let out = rewrite(ANSWER, None, |r| r.rtype != 5).expect("readable");
        assert_eq!(
            records(&out).map(|r| expand(&out, r.owner)).collect::<Vec<_>>(),
            [Some(b"\x01b\x07example\0".to_vec())]
        );
    }

    #[test]
    fn pointers_in_circles_end() {
        assert_eq!(expand(b"\xc0\x00", 0), None);
        assert_eq!(expand(b"\xc0\x02\xc0\x00", 0), None);
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(message in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..80) {
            let mut mixed = ANSWER[..cut.min(ANSWER.len())].to_vec();
            mixed.extend(&message);
            for mut octets in [message, mixed] {
                prop_assert!(end(&octets) <= octets.len());
                let rewritten = rewrite(&octets, Some(b"\x03new\0"), |_| true);
                if let Some(out) = rewritten {
                    prop_assert_eq!(records(&out).count(), records(&octets).count());
                }
                edit_ttls(&mut octets, |_, _, _, ttl| ttl ^ 1);
            }
        }
    }
}
