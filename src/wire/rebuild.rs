//! Rewrites a message: without some of its records, or with another name.
//!
//! Removing a record moves the bytes after it and may remove a name that others point to. So all
//! names are read through their pointers and written again, compressed where a sender may (RFC
//! 3597, section 4) against the names written so far. Case is kept: only equal bytes are shared.

use std::cell::Cell;

use crate::base::packet::Packet;
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::records::{POINTER_MAX, Record, Walk, rtype};
use crate::wire::{header, name, records};

/// Longest rewritten message, bytes, including trailing data: the longest in a frame.
const MESSAGE_MAX: usize = u16::MAX as usize;
/// Names remembered for compression; further ones are written uncompressed.
const KNOWN_MAX: usize = 64;

thread_local! {
    /// The buffer for rewritten messages; allocated at a thread's first one.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Removes the records whose type is in `types` from all sections; the OPT always stays. False, and
/// nothing changed, when a record cannot be parsed or the result does not fit.
#[must_use]
pub fn clear_types(packet: &mut Packet<'_>, types: impl Fn(u16) -> bool) -> bool {
    keep(packet, |record| record.rtype == rtype::OPT || !types(record.rtype))
}

/// Rewrites the message with the records for which `wanted` returns true.
fn keep(packet: &mut Packet<'_>, wanted: impl Fn(&Record) -> bool) -> bool {
    let message = packet.bytes();
    let mut walk = Walk::of(message);
    let mut unwanted = false;
    while let Some(record) = walk.next(message) {
        unwanted |= !wanted(&record);
    }
    if !walk.whole() || !unwanted {
        return walk.whole();
    }
    let end = walk.at();
    copied(packet, None, wanted, end)
}

/// Replaces the message by a copy with the wanted records and another name.
fn copied(
    packet: &mut Packet<'_>,
    renamed: Option<(&[u8], &[u8])>,
    wanted: impl Fn(&Record) -> bool,
    end: usize,
) -> bool {
    let mut buffer = BUFFER.take();
    buffer.resize(MESSAGE_MAX, 0);
    let mut copy = Copy { renamed, out: &mut buffer, len: 0, known: [(0, 0); KNOWN_MAX], known_count: 0 };
    let done = copy.run(packet.bytes(), wanted, end).is_some();
    let len = copy.len;
    let done = done && packet.replace(&buffer[..len]);
    BUFFER.set(buffer);
    done
}

/// Renames the question, and each record that its name owns, to `qname` (plain wire format). False,
/// and nothing changed, when there is more than one question, or none but records, a record cannot
/// be parsed or the result does not fit.
#[must_use]
pub fn rename(packet: &mut Packet<'_>, qname: &[u8]) -> bool {
    let message = packet.bytes();
    let head = Header::parse(message);
    if head.is_some_and(|head| head.qdcount() == 0 && head.ancount() == 0 && head.nscount() == 0) {
        // It has no name: a refusal, for example.
        return true;
    }
    let one = head.is_some_and(|head| head.qdcount() == 1);
    let (Some(question), Some(end)) = (Question::parse(message).filter(|_| one), records::end(message))
    else {
        return false;
    };
    let mut old = [0; name::LEN_MAX];
    let length = question.qname.len();
    old[..length].copy_from_slice(question.qname);
    copied(packet, Some((&old[..length], qname)), |_| true, end)
}

/// Renames each record that `old` owns to `new` in a message without a question, as later ones of a
/// zone transfer may be (RFC 5936, 2.2.1). False, and nothing changed, when a record cannot be parsed
/// or the result does not fit.
#[must_use]
pub fn rename_records(packet: &mut Packet<'_>, old: &[u8], new: &[u8]) -> bool {
    let Some(end) = records::end(packet.bytes()) else { return false };
    copied(packet, Some((old, new)), |_| true, end)
}

/// The message that is being written.
struct Copy<'n, 'o> {
    /// The name that is replaced, that of the question if there is one, and its replacement.
    renamed: Option<(&'n [u8], &'n [u8])>,
    out: &'o mut [u8],
    len: usize,
    /// Offsets of labels in `out` that a pointer may refer to, and the length of the name that
    /// begins there: only names of that length are compared, which bounds the work for a hostile
    /// message.
    known: [(u16, u8); KNOWN_MAX],
    known_count: usize,
}

impl Copy<'_, '_> {
    fn run(&mut self, message: &[u8], wanted: impl Fn(&Record) -> bool, end: usize) -> Option<()> {
        let mut walk = Walk::of(message);
        match self.renamed {
            Some((old, new)) if walk.at() > header::LEN => {
                self.push(message.get(..header::LEN)?)?;
                self.push(new)?;
                self.push(message.get(header::LEN + old.len()..walk.at())?)?;
            }
            // Header and questions keep their offsets, so pointers among them stay valid.
            Some(_) | None => self.push(message.get(..walk.at())?)?,
        }
        if walk.at() > header::LEN
            && let Some(end) = name::end_plain(&self.out[..self.len], header::LEN)
        {
            self.learn(header::LEN, end - header::LEN);
        }
        let mut counts = [0_u16; 3];
        while let Some(record) = walk.next(message) {
            if wanted(&record) {
                self.record(message, &record)?;
                *counts.get_mut((record.section.count_at() - 6) / 2)? += 1;
            }
        }
        for (number, count) in counts.iter().enumerate() {
            self.out[6 + 2 * number..8 + 2 * number].copy_from_slice(&count.to_be_bytes());
        }
        self.push(message.get(end..)?)
    }

    fn record(&mut self, message: &[u8], record: &Record) -> Option<()> {
        match self.renamed {
            Some((old, new)) if name::is_at(message, record.start, old) => self.write(new, true)?,
            Some(_) | None => {
                self.name(message, record.start, true)?;
            }
        }
        self.push(message.get(record.ttl_at - 4..record.rdata.start)?)?;
        let data_at = self.len;
        let (mut at, count, compressed) = records::names_in(message, record)?;
        self.push(message.get(record.rdata.start..at)?)?;
        for _ in 0..count {
            at = self.name(message, at, compressed)?;
        }
        self.push(message.get(at..record.rdata.end)?)?;
        let length = u16::try_from(self.len - data_at).ok()?;
        self.out[data_at - 2..data_at].copy_from_slice(&length.to_be_bytes());
        Some(())
    }

    /// Copies the name at `at` in `message`; returns its end there.
    fn name(&mut self, message: &[u8], at: usize, compressed: bool) -> Option<usize> {
        let mut plain = [0; name::LEN_MAX];
        let (length, end) = name::read(message, at, &mut plain)?;
        self.write(plain.get(..length)?, compressed)?;
        Some(end)
    }

    fn write(&mut self, plain: &[u8], compressed: bool) -> Option<()> {
        let written_at = self.len;
        let mut rest = plain;
        while let Some(&label @ 1..) = rest.first() {
            if compressed && let Some(known) = self.find(rest) {
                self.push(&(0xc000 | known).to_be_bytes())?;
                self.learn(written_at, plain.len());
                return Some(());
            }
            let (label, behind) = rest.split_at_checked(1 + usize::from(label))?;
            self.push(label)?;
            rest = behind;
        }
        self.push(&[0])?;
        self.learn(written_at, plain.len());
        Some(())
    }

    fn find(&self, plain: &[u8]) -> Option<u16> {
        let known = self.known.get(..self.known_count)?;
        let same_length = known.iter().filter(|(_, len)| usize::from(*len) == plain.len());
        same_length.map(|(at, _)| *at).find(|at| name::is_at(&self.out[..self.len], usize::from(*at), plain))
    }

    /// Remembers the labels of the name at `at` in `out`, up to its pointer; `len`: of the whole
    /// name, without pointers.
    fn learn(&mut self, mut at: usize, mut len: usize) {
        while let Some(&label @ 1..=63) = self.out.get(at) {
            let (Ok(place), Ok(length)) = (u16::try_from(at), u8::try_from(len)) else { return };
            if at > POINTER_MAX || self.known_count == KNOWN_MAX {
                return;
            }
            self.known[self.known_count] = (place, length);
            self.known_count += 1;
            at += 1 + usize::from(label);
            len = len.saturating_sub(1 + usize::from(label));
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len + bytes.len();
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::tests::{ADDITIONAL, ANSWER, AUTHORITY, Rr, edited, read};

    fn response([an, ns, ar]: [u8; 3], records: &[u8]) -> Vec<u8> {
        let head = [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, an, 0, ns, 0, ar];
        [&head[..], b"\x03www\x04Test\0\0\x01\0\x01", records].concat()
    }

    #[test]
    fn a_renamed_answer_only_differs_in_its_name() {
        let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x09\x06target\xc0\x10";
        let address = b"\xc0\x26\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        let whole = response([2, 0, 0], &[&alias[..], address, b"tail"].concat());
        for new in [&b"\x01n\0"[..], b"\x05other\x04Test\0", b"\0"] {
            let (after, done) = edited(&whole, 64, |p| rename(p, new));
            assert!(done);
            let (before, now) = (read(&whole).unwrap(), read(&after).unwrap());
            assert_eq!(Question::parse(&after).map(|q| q.qname), Some(new));
            assert_eq!(now.records[0].owner, new);
            assert_eq!(now.records[1], before.records[1], "other names stay");
            assert_eq!(now.records[0].rdata, before.records[0].rdata);
            assert!(after.ends_with(b"tail"));
        }
        assert!(!edited(&whole[..20], 64, |p| rename(p, b"\x01n\0")).1);
    }

    #[test]
    fn the_records_of_a_message_without_a_question_are_renamed() {
        let address = b"\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        let head = b"\xab\xcd\x81\x80\0\0\0\x03\0\0\0\0";
        let owners = [&b"\x02in\0"[..], b"\xc0\x0c", b"\x01a\xc0\x0c"];
        let records: Vec<u8> = owners.iter().flat_map(|o| [o, &address[..]].concat()).collect();
        let whole = [&head[..], &records].concat();
        for new in [&b"\x05other\x04Test\0"[..], b"\x01n\0"] {
            let (after, done) = edited(&whole, 64, |p| rename_records(p, b"\x02in\0", new));
            assert!(done);
            let owners: Vec<_> = read(&after).unwrap().records.into_iter().map(|r| r.owner).collect();
            assert_eq!(owners, [new.to_vec(), new.to_vec(), b"\x01a\x02in\0".to_vec()]);
        }
        let (after, done) = edited(&head[..], 64, |p| rename_records(p, b"\x02in\0", b"\x01n\0"));
        assert!(!done && after == head, "fewer records than it says");
    }

    #[test]
    fn removed_types_keep_names_that_pointed_to_them() {
        // An alias, whose target (in its data) owns the address after it.
        let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x09\x06target\xc0\x10";
        let address = b"\xc0\x26\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        let exchange = b"\xc0\x26\0\x0f\0\x01\0\0\0\x3c\0\x04\0\x0a\xc0\x26";
        let opt = b"\0\0\x29\x10\0\0\0\0\0\0\0";
        let records = [&alias[..], address, exchange, opt, b"tail"].concat();
        let whole = response([2, 1, 1], &records);
        let (after, done) = edited(&whole, 0, |p| clear_types(p, |t| t == 5 || t == 41));
        assert!(done);
        let records = [
            &b"\x06target\xc0\x10\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01"[..],
            b"\xc0\x1a\0\x0f\0\x01\0\0\0\x3c\0\x04\0\x0a\xc0\x1a",
            opt,
            b"tail",
        ];
        assert_eq!(after, response([1, 1, 1], &records.concat()));
        let now = read(&after).unwrap();
        let target = b"\x06target\x04Test\0".to_vec();
        let rr = |section, rtype, rdata: Vec<u8>| Rr {
            section,
            owner: target.clone(),
            rtype,
            class: 1,
            ttl: 60,
            rdata,
        };
        assert_eq!(now.records[0], rr(ANSWER, 1, vec![192, 0, 2, 1]));
        assert_eq!(now.records[1], rr(AUTHORITY, 15, [&[0, 10][..], &target].concat()));
        assert_eq!((now.records[2].section, now.tail), (ADDITIONAL, b"tail".to_vec()));
        let (same, done) = edited(&whole, 0, |p| clear_types(p, |t| t == 28));
        assert!(done && same == whole, "nothing to remove changes nothing");
    }

    #[test]
    fn a_message_of_any_length_is_rewritten() {
        for count in [100_u16, 1_000, 4_000] {
            let mut whole = response([0, 0, 0], b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
            whole[6..8].copy_from_slice(&(count + 1).to_be_bytes());
            for _ in 0..count {
                whole.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01");
            }
            let (after, done) = edited(&whole, 0, |p| clear_types(p, |t| t == 28));
            assert!(done && after.len() == whole.len() - 16, "{count} records");
            let (after, done) = edited(&whole, 0, |p| rename(p, b"\x01n\0"));
            assert!(
                done && after.len() == whole.len() - 7 && after[12..15] == *b"\x01n\0",
                "{count} records"
            );
            let (after, done) = edited(&whole, 0, |p| clear_types(p, |t| t == 1));
            assert!(done && after.len() == 42, "{count} records");
        }
    }

    #[test]
    fn an_edit_that_does_not_fit_changes_nothing() {
        // Each service's target is compressed, which a sender may not do: uncompressed, they grow.
        let mut records = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01".to_vec();
        for _ in 0..200 {
            records.extend(b"\xc0\x0c\0\x21\0\x01\0\0\0\x3c\0\x08\0\0\0\0\0\0\xc0\x0c");
        }
        let whole = response([201, 0, 0], &records);
        assert_eq!(edited(&whole, 1000, |p| clear_types(p, |t| t == 1)), (whole.clone(), false));
        let (after, done) =
            edited(&response([21, 0, 0], &records[..16 + 20 * 20]), 200, |p| clear_types(p, |t| t == 1));
        assert!(done && read(&after).is_some_and(|now| now.records.len() == 20));
    }
}
