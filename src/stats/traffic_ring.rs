//! Records of finished queries, on their way from a shard to the thread that counts them.
//!
//! One ring per shard, which only the shard writes and only that thread reads; neither waits for
//! the other. The shard overwrites the oldest records, and a reader that was overtaken knows how
//! many it has missed.
//!
//! ```text
//!  slot, 16 words: sequence, time, address (2), port|id|listener|server, latency|type|pool,
//!                  connection|size|flags|end, counts|length of the name|stored, name (8)
//! ```
//!
//! The sequence is odd while a slot is written and names the record that it then holds, so that a
//! reader sees a whole record or none. Names are in lower case; of one that is longer than 64 bytes
//! the last labels are stored.

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use crate::base::addr::{BackendSlot, Endpoint, ListenerSlot, PoolSlot};
use crate::base::time::Tick;
use crate::stats::drop_reason::DropReason;
use crate::wire::name;

/// Slots of a ring, 1 MB: what 400,000 queries per second leave within 20 ms.
pub const SLOTS: usize = 8_192;
/// Bytes of a name that are stored.
pub const NAME_MAX: usize = 64;
/// Words of a slot before the name.
const FIXED: usize = 8;
/// Words of a slot.
const WORDS: usize = FIXED + NAME_MAX / 8;

/// How a query has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With a server's response.
    Response,
    /// With an answer of our own.
    OwnAnswer,
    /// With an answer of the packet cache.
    Cached,
    /// Without an answer.
    Dropped(DropReason),
}

/// Numbers of the ends with an answer; drop reasons follow.
const RESPONSE: u8 = 0;
const OWN_ANSWER: u8 = 1;
const CACHED: u8 = 2;
const DROPPED: u8 = 3;

impl End {
    const fn number(self) -> u8 {
        match self {
            Self::Response => RESPONSE,
            Self::OwnAnswer => OWN_ANSWER,
            Self::Cached => CACHED,
            Self::Dropped(reason) => DROPPED + reason as u8,
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            RESPONSE => Self::Response,
            OWN_ANSWER => Self::OwnAnswer,
            CACHED => Self::Cached,
            reason => {
                let known = DropReason::ALL.get(usize::from(reason - DROPPED));
                Self::Dropped(known.copied().unwrap_or(DropReason::Timeout))
            }
        }
    }

    /// Returns whether no server has answered in time.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        self == Self::Dropped(DropReason::Timeout)
    }
}

/// What is known of a finished query besides its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// When it ended.
    pub at: Tick,
    /// The client's address.
    pub ip: [u8; 16],
    /// The client's port.
    pub port: u16,
    /// The id of the client's query.
    pub id: u16,
    /// It came over a connection.
    pub by_connection: bool,
    /// The listener that it came to.
    pub listener: ListenerSlot,
    /// The server that responded, or was asked last.
    pub backend: Option<BackendSlot>,
    /// The pool that it went to.
    pub pool: PoolSlot,
    /// How it ended.
    pub end: End,
    /// The requested type.
    pub qtype: u16,
    /// The third and fourth byte of the header of the answer, or of the query that has none.
    pub flags: [u8; 2],
    /// From the query's arrival to its end, microseconds.
    pub latency_us: u32,
    /// Bytes of the answer; 0 without one.
    pub answer_bytes: u16,
}

impl Finished {
    /// Returns the client's address and port.
    #[must_use]
    pub const fn client(&self) -> Endpoint {
        Endpoint { ip: self.ip, scope: 0, port: self.port }
    }

    /// Returns whether a server's response took at least this long.
    #[must_use]
    pub fn is_slow(&self, ms: u32) -> bool {
        self.end == End::Response && u64::from(self.latency_us) >= u64::from(ms) * 1_000
    }

    /// Returns the response code of the answer, the lower four bits; none without one.
    #[must_use]
    pub fn rcode(&self) -> Option<u8> {
        (!matches!(self.end, End::Dropped(_))).then_some(self.flags[1] & 0x0f)
    }
}

/// A name of a record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShortName {
    bytes: [u8; NAME_MAX],
    stored: u8,
    /// Bytes of the whole name; 0 when it is not known.
    whole: u8,
}

impl std::fmt::Debug for ShortName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for ShortName {
    /// Writes it without a final dot, the root as a dot; `...` stands for labels that were too many.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bytes() {
            [] => f.write_str("(unknown)"),
            [0] if !self.is_cut() => f.write_str("."),
            bytes => {
                if self.is_cut() {
                    f.write_str("...")?;
                }
                name::Text(bytes).undotted().fmt(f)
            }
        }
    }
}

impl Default for ShortName {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl ShortName {
    /// A name that is not known.
    pub const UNKNOWN: Self = Self { bytes: [0; NAME_MAX], stored: 0, whole: 0 };

    /// Creates the name of a plain wire name, which is stored in lower case.
    #[must_use]
    pub fn new(wire: &[u8]) -> Self {
        let stored = end_of(wire);
        let mut short = Self { stored: stored.len() as u8, whole: wire.len() as u8, ..Self::UNKNOWN };
        for (to, from) in short.bytes.iter_mut().zip(stored) {
            *to = from.to_ascii_lowercase();
        }
        short
    }

    /// Returns the stored bytes in wire format: the whole name, or its last labels.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.stored).min(NAME_MAX)]
    }

    /// Returns whether the name has labels in front that are not stored.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.whole > self.stored
    }

    /// Returns whether there is a name.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.stored > 0
    }

    /// Returns its text with a final dot, as dnsdist writes names.
    #[must_use]
    pub fn dotted(&self) -> String {
        match self.bytes() {
            [] | [0] => self.to_string(),
            _ => format!("{self}."),
        }
    }

    /// Returns the last `labels` labels as a name of their own.
    #[must_use]
    pub fn zone(&self, labels: u8) -> Self {
        let zone = name::zone(self.bytes(), labels);
        if zone.len() == self.bytes().len() {
            return *self;
        }
        Self::new(zone)
    }
}

/// Returns the labels at the end of a name that can be stored.
#[must_use]
#[inline]
pub fn end_of(wire: &[u8]) -> &[u8] {
    let mut rest = wire;
    while rest.len() > NAME_MAX {
        match rest.first().and_then(|length| rest.get(1 + usize::from(*length)..)) {
            Some(next) => rest = next,
            None => return &[],
        }
    }
    rest
}

/// A finished query with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// What is known of it.
    pub finished: Finished,
    /// The requested name.
    pub qname: ShortName,
}

// What documents say of the memory of records that are kept.
const _: () = assert!(size_of::<Record>() == 120);

#[derive(Debug)]
#[repr(align(128))]
struct Slot([AtomicU64; WORDS]);

/// The ring of one shard. It has no memory before it is opened, and records are not kept then.
#[derive(Debug, Default)]
pub struct TrafficRing {
    slots: OnceLock<Box<[Slot]>>,
    /// Records that were written.
    written: AtomicU64,
}

impl TrafficRing {
    /// Makes room for `slots` records, rounded up to a power of two.
    pub fn open(&self, slots: usize) {
        let slot = |_| Slot(std::array::from_fn(|_| AtomicU64::new(0)));
        self.slots.get_or_init(|| (0..slots.max(2).next_power_of_two()).map(slot).collect());
    }

    /// Returns whether records are kept.
    #[must_use]
    #[inline]
    pub fn is_open(&self) -> bool {
        self.slots.get().is_some()
    }

    /// Writes a record, in place of the oldest one when the ring is full. Only its shard calls this.
    pub fn write(&self, finished: &Finished, qname: &[u8]) {
        self.write_counted(finished, qname, [0; 3]);
    }

    /// The same, with the numbers of records in the sections of the answer, or of the query that has
    /// none.
    pub fn write_counted(&self, finished: &Finished, qname: &[u8], [an, ns, ar]: [u16; 3]) {
        let Some(slots) = self.slots.get() else { return };
        let number = self.written.load(Relaxed);
        let Slot(words) = &slots[number as usize & (slots.len() - 1)];
        words[0].store(number << 1 | 1, Relaxed);
        // A reader that sees what follows sees the odd number too.
        fence(Release);
        let f = finished;
        let (high, low) = halves(f.ip);
        let backend = f.backend.map_or(NO_BACKEND, |slot| slot.0);
        let flags = u16::from_le_bytes(f.flags);
        let stored = end_of(qname);
        words[1].store(f.at.0, Relaxed);
        words[2].store(high, Relaxed);
        words[3].store(low, Relaxed);
        words[4].store(packed([f.port, f.id, f.listener.0, backend]), Relaxed);
        words[5].store(u64::from(f.latency_us) << 32 | packed([0, 0, f.qtype, f.pool.0]), Relaxed);
        words[6].store(
            packed([u16::from(f.by_connection), f.answer_bytes, flags, u16::from(f.end.number())]),
            Relaxed,
        );
        let lengths = (qname.len() as u16 & 0xff) << 8 | stored.len() as u16;
        words[7].store(packed([an, ns, ar, lengths]), Relaxed);
        let (chunks, rest) = stored.as_chunks::<8>();
        for (word, chunk) in words[FIXED..].iter().zip(chunks) {
            word.store(name::fold(u64::from_le_bytes(*chunk)), Relaxed);
        }
        if let Some(word) = words.get(FIXED + chunks.len()).filter(|_| !rest.is_empty()) {
            let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            word.store(name::fold(last), Relaxed);
        }
        words[0].store((number << 1) + 2, Release);
        self.written.store(number.wrapping_add(1), Release);
    }

    /// Returns how many records were written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Acquire)
    }

    /// Calls `each` with the last records that are there, youngest first, and the numbers of records
    /// in their sections; as long as it returns true.
    pub fn last(&self, mut each: impl FnMut(Record, [u16; 3]) -> bool) {
        let written = self.written();
        let slots = self.slots.get().map_or(0, |slots| slots.len() as u64);
        for number in (written.saturating_sub(slots)..written).rev() {
            let Some((record, counts)) = self.read_counted(number) else { return };
            if !each(record, counts) {
                return;
            }
        }
    }

    /// Reads the record with this number; none if it is overwritten, or not written yet.
    fn read(&self, number: u64) -> Option<Record> {
        self.read_counted(number).map(|(record, _)| record)
    }

    fn read_counted(&self, number: u64) -> Option<(Record, [u16; 3])> {
        let slots = self.slots.get()?;
        let Slot(words) = &slots[number as usize & (slots.len() - 1)];
        let whole = (number << 1).wrapping_add(2);
        if words[0].load(Acquire) != whole {
            return None;
        }
        let word = |at: usize| words[at].load(Relaxed);
        let mut bytes = [0; NAME_MAX];
        let ([port, id, listener, backend], [_, _, qtype, pool]) = (parts(word(4)), parts(word(5)));
        let [by_connection, answer_bytes, flags, end] = parts(word(6));
        let latency_us = (word(5) >> 32) as u32;
        let [.., whole_len, stored] = word(7).to_be_bytes();
        let [an, ns, ar, _] = parts(word(7));
        let stored = stored.min(NAME_MAX as u8);
        let mut ip = [0; 16];
        ip[..8].copy_from_slice(&word(2).to_be_bytes());
        ip[8..].copy_from_slice(&word(3).to_be_bytes());
        let at = Tick(word(1));
        for (chunk, at) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(0..usize::from(stored).div_ceil(8)) {
            *chunk = word(FIXED + at).to_le_bytes();
        }
        // All of it was read before the sequence is read again.
        fence(Acquire);
        if words[0].load(Relaxed) != whole {
            return None;
        }
        let [_, end] = end.to_be_bytes();
        let finished = Finished {
            at,
            ip,
            port,
            id,
            by_connection: by_connection != 0,
            listener: ListenerSlot(listener),
            backend: (backend != NO_BACKEND).then_some(BackendSlot(backend)),
            pool: PoolSlot(pool),
            end: End::from_number(end),
            qtype,
            flags: flags.to_le_bytes(),
            latency_us,
            answer_bytes,
        };
        // Bytes behind the name may be of an earlier one.
        bytes[usize::from(stored)..].fill(0);
        Some((Record { finished, qname: ShortName { bytes, stored, whole: whole_len } }, [an, ns, ar]))
    }
}

/// No server has this slot: there are at most 65,535.
const NO_BACKEND: u16 = u16::MAX;

fn halves(ip: [u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, rest @ ..] = ip;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(rest))
}

const fn packed([a, b, c, d]: [u16; 4]) -> u64 {
    (a as u64) << 48 | (b as u64) << 32 | (c as u64) << 16 | d as u64
}

const fn parts(word: u64) -> [u16; 4] {
    [(word >> 48) as u16, (word >> 32) as u16, (word >> 16) as u16, word as u16]
}

/// Where a reader of a ring stands.
#[derive(Debug, Default)]
pub struct Reader {
    next: u64,
    /// Records that were left out, or overwritten before they were read.
    pub missed: u64,
    /// A number that chooses records; any would do.
    mixed: u64,
}

impl Reader {
    /// A reader of what is written from here on.
    #[must_use]
    pub fn behind(ring: &TrafficRing) -> Self {
        Self { next: ring.written(), missed: 0, mixed: 0 }
    }

    /// Reads records that were written since the last call, `most` at most: of more, one of each
    /// equal part is read, and the others are missed. `each` gets a record and how many it stands for.
    /// Returns how many were read.
    pub fn drain(&mut self, ring: &TrafficRing, most: usize, mut each: impl FnMut(&Record, u64)) -> usize {
        let Some(slots) = ring.slots.get() else { return 0 };
        let written = ring.written();
        let oldest = written.saturating_sub(slots.len() as u64);
        self.missed += oldest.saturating_sub(self.next);
        self.next = self.next.max(oldest);
        let part = (written - self.next).div_ceil(most.max(1) as u64).max(1);
        let mut read = 0;
        while self.next < written {
            let end = written.min(self.next + part);
            // Clients ask at intervals of their own: which one is read must not follow them.
            self.mixed =
                self.mixed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let chosen = self.next + (self.mixed >> 33) % (end - self.next);
            match ring.read(chosen) {
                Some(record) => {
                    each(&record, end - self.next);
                    read += 1;
                    self.missed += end - self.next - 1;
                }
                None => self.missed += end - self.next,
            }
            self.next = end;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn finished(number: u64) -> Finished {
        let n = number as u16;
        Finished {
            at: Tick(number),
            ip: (u128::from(number) << 64 | u128::from(number)).to_be_bytes(),
            port: n,
            id: n,
            by_connection: n % 2 == 1,
            listener: ListenerSlot(n & 1023),
            backend: (!n.is_multiple_of(3)).then_some(BackendSlot(n & 1023)),
            pool: PoolSlot(n),
            end: [End::Response, End::OwnAnswer, End::Dropped(DropReason::Timeout)][usize::from(n % 3)],
            qtype: n,
            flags: n.to_le_bytes(),
            latency_us: number as u32,
            answer_bytes: n,
        }
    }

    fn wire(number: u64) -> Vec<u8> {
        let label = "x".repeat(1 + number as usize % 40);
        name::from_text(&format!("{number}.{label}.example")).expect("a name")
    }

    #[test]
    fn of_many_records_one_of_each_part_is_read() {
        let ring = TrafficRing::default();
        ring.open(1_024);
        (0..1_000).for_each(|number| ring.write(&finished(number), &wire(number)));
        let (mut reader, mut read, mut sum) = (Reader::default(), Vec::new(), 0);
        let count = reader.drain(&ring, 100, |record, queries| {
            read.push(record.finished.at.0);
            sum += queries;
        });
        assert_eq!((count, reader.missed, sum), (100, 900, 1_000));
        assert!(read.iter().enumerate().all(|(part, number)| number / 10 == part as u64), "{read:?}");
        let places: std::collections::BTreeSet<_> = read.iter().map(|number| number % 10).collect();
        assert!(places.len() > 5, "at no fixed place: {places:?}");
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let ring = TrafficRing::default();
        ring.write(&finished(0), &wire(0));
        assert!(!ring.is_open() && ring.written() == 0, "without memory nothing is kept");
        ring.open(8);
        for number in 0..5 {
            ring.write(&finished(number), &wire(number));
        }
        let (mut reader, mut next) = (Reader::default(), 0);
        let read = reader.drain(&ring, usize::MAX, |record, _| {
            assert_eq!(record.finished, finished(next));
            assert_eq!(record.qname.bytes(), wire(next));
            next += 1;
        });
        assert_eq!((read, reader.missed), (5, 0));
        assert_eq!(reader.drain(&ring, usize::MAX, |_, _| panic!("read twice")), 0);
    }

    #[test]
    fn every_end_is_kept() {
        let dropped = DropReason::ALL.map(End::Dropped);
        for end in dropped.into_iter().chain([End::Response, End::OwnAnswer]) {
            assert_eq!(End::from_number(end.number()), end);
        }
    }

    #[test]
    fn overwritten_records_are_counted() {
        let ring = TrafficRing::default();
        ring.open(8);
        (0..20).for_each(|number| ring.write(&finished(number), &wire(number)));
        let (mut reader, mut first) = (Reader::default(), None);
        let read = reader.drain(&ring, usize::MAX, |record, _| {
            first.get_or_insert(record.finished.at);
        });
        assert_eq!((read, reader.missed, first), (8, 12, Some(Tick(12))));
    }

    #[test]
    fn names_are_in_lower_case_and_cut_in_front() {
        let ring = TrafficRing::default();
        ring.open(4);
        let long = format!("{}.{}.Example.COM", "A".repeat(63), "B".repeat(30));
        ring.write(&finished(0), &name::from_text(&long).expect("a name"));
        ring.write(&finished(1), &name::from_text("WwW.Example.").expect("a name"));
        ring.write(&finished(2), &[0]);
        ring.write(&finished(3), &[]);
        let mut shown = Vec::new();
        Reader::default().drain(&ring, usize::MAX, |record, _| shown.push(record.qname.to_string()));
        let cut = format!("...{}.example.com", "b".repeat(30));
        assert_eq!(shown, [cut.as_str(), "www.example", ".", "(unknown)"]);
        let name = ShortName::new(&name::from_text("a.b.c.d").expect("a name"));
        assert_eq!([0, 1, 2, 9].map(|n| name.zone(n).to_string()), [".", "d", "c.d", "a.b.c.d"]);
    }

    #[test]
    fn a_reader_beside_a_writer_sees_whole_records_or_none() {
        const RECORDS: u64 = 200_000;
        let (ring, ends) = (TrafficRing::default(), AtomicBool::new(false));
        ring.open(16);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..RECORDS).for_each(|number| ring.write(&finished(number), &wire(number)));
                ends.store(true, Release);
            });
            let (mut reader, mut read) = (Reader::default(), 0);
            loop {
                let last = ends.load(Acquire);
                read += reader.drain(&ring, usize::MAX, |record, _| {
                    let number = record.finished.at.0;
                    assert_eq!(record.finished, finished(number));
                    assert_eq!(record.qname, ShortName::new(&wire(number)));
                }) as u64;
                if last {
                    break;
                }
            }
            assert_eq!(read + reader.missed, RECORDS, "every record is read or counted");
            assert!(read >= 16);
        });
    }
}
