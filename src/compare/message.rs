//! One answer in a form that can be compared.
//!
//! ```text
//!  record: owner | type | class | data          names whole and in lower case (RFC 4034, 6.2)
//!          └── hash: set ──┘
//!          └────── hash: record ──────┘
//! ```
//! Hashes of 128 bits stand for the bytes, so that an answer takes 64 bytes a record, whatever its
//! pointers blow up to.

use xxhash_rust::xxh3::xxh3_128;

use crate::wire::edns;
use crate::wire::header::Header;
use crate::wire::name;
use crate::wire::records::{self, Record, Records, Section, rtype};

/// Types with a name that must not be compressed but has no case (RFC 4034, 6.2; RFC 9460, 2.2), and
/// the bytes before it.
const PLAIN_NAMES: [(u16, usize); 4] = [(46, 18), (47, 0), (rtype::SVCB, 2), (rtype::HTTPS, 2)];
/// Options that belong to a connection or a client rather than to an answer: cookie, keepalive, padding.
const NOT_COMPARED: [u16; 3] = [10, 11, 12];

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    section: u8,
    /// Owner, type and class.
    pub(super) set: u128,
    /// These and the data.
    pub(super) record: u128,
    pub(super) ttl: u32,
    /// Where it begins.
    pub(super) start: u16,
}

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) rcode: u16,
    /// The third and the fourth byte without QR and response code.
    pub(super) flags: [u8; 2],
    /// A hash of the OPT record; `None` without one.
    pub(super) edns: Option<u128>,
    /// By section, a hash of the records in their order.
    pub(super) orders: [u64; 3],
    items: Vec<Item>,
    /// The bytes of the record that is read.
    bytes: Vec<u8>,
}

impl Message {
    /// Reads a message; false if it is no answer that can be parsed.
    pub(super) fn read(&mut self, message: &[u8]) -> bool {
        self.items.clear();
        self.orders = [0; 3];
        let Some(header) = Header::parse(message).filter(Header::is_response) else { return false };
        if message.len() > usize::from(u16::MAX) {
            return false;
        }
        self.rcode = edns::rcode(message);
        self.flags = [message[2] & 0x7f, message[3] & 0xf0];
        debug_assert_eq!(u16::from(header.rcode()), self.rcode & 0x0f);
        let mut all = Records::of(message);
        for record in all.by_ref() {
            let is_apart =
                record.section == Section::Additional && matches!(record.rtype, rtype::OPT | rtype::TSIG);
            if !is_apart && self.add(message, &record).is_none() {
                return false;
            }
        }
        if !all.whole() {
            return false;
        }
        self.edns = edns::locate(message).map(|opt| self.hash_opt(message, &opt));
        true
    }

    /// Sorts the records by section, set, data and TTL. One that is there twice is one: they are sets
    /// (RFC 2181, 5).
    pub(super) fn sort(&mut self) {
        self.items.sort_unstable();
        self.items.dedup_by_key(|item| (item.section, item.record));
    }

    /// Returns the records of a section, which are sorted.
    pub(super) fn section(&self, section: Section) -> &[Item] {
        let number = number(section);
        let begin = self.items.partition_point(|item| item.section < number);
        let end = self.items.partition_point(|item| item.section <= number);
        &self.items[begin..end]
    }

    /// Adds a record; `None` if its names cannot be read.
    fn add(&mut self, message: &[u8], record: &Record) -> Option<()> {
        self.bytes.clear();
        let end = push_name(&mut self.bytes, message, record.start)?;
        self.bytes.extend_from_slice(message.get(end..end + 4)?);
        let set = xxh3_128(&self.bytes);
        let (mut at, count) = names_in(message, record)?;
        self.bytes.extend_from_slice(message.get(record.rdata.start..at)?);
        for _ in 0..count {
            at = push_name(&mut self.bytes, message, at)?;
        }
        // A name that ends behind the data makes this range invalid.
        self.bytes.extend_from_slice(message.get(at..record.rdata.end)?);
        let section = number(record.section);
        let whole = xxh3_128(&self.bytes);
        let order = &mut self.orders[usize::from(section)];
        *order = order.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(whole as u64);
        // A message has less than 65,536 bytes.
        let start = record.start as u16;
        self.items.push(Item { section, set, record: whole, ttl: record.ttl, start });
        Some(())
    }

    fn hash_opt(&mut self, message: &[u8], opt: &edns::Opt) -> u128 {
        self.bytes.clear();
        self.bytes.extend_from_slice(&opt.payload.to_be_bytes());
        self.bytes.extend_from_slice(&[opt.version, u8::from(opt.dnssec_ok)]);
        for (code, data) in edns::options(message, opt) {
            if !NOT_COMPARED.contains(&code) {
                self.bytes.extend_from_slice(&code.to_be_bytes());
                self.bytes.extend_from_slice(&(data.len() as u32).to_be_bytes());
                self.bytes.extend_from_slice(&message[data]);
            }
        }
        xxh3_128(&self.bytes)
    }
}

const fn number(section: Section) -> u8 {
    match section {
        Section::Answer => 0,
        Section::Authority => 1,
        Section::Additional => 2,
    }
}

/// Adds the name at `at`, whole and in lower case; returns its end in the message.
fn push_name(out: &mut Vec<u8>, message: &[u8], at: usize) -> Option<usize> {
    let mut buffer = [0; name::LEN_MAX];
    let (length, end) = name::read(message, at, &mut buffer)?;
    let name = buffer.get_mut(..length)?;
    // Lengths of labels are below 'A'.
    name.make_ascii_lowercase();
    out.extend_from_slice(name);
    Some(end)
}

/// Returns where the names of a record's data begin, and how many there are.
fn names_in(message: &[u8], record: &Record) -> Option<(usize, u8)> {
    let (first, count, _) = records::names_in(message, record)?;
    let plain = PLAIN_NAMES.iter().find(|(rtype, _)| *rtype == record.rtype);
    match plain {
        Some((_, before)) if !record.rdata.is_empty() => Some((record.rdata.start + before, 1)),
        Some(_) | None => Some((first, count)),
    }
}
