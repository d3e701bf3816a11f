//! Datagrams out of fragments of IP, within bounds.

use std::collections::VecDeque;
use std::net::IpAddr;

use ahash::{AHashMap, RandomState};

use crate::tools::capture::counts::{Counts, Skip};
use crate::tools::capture::ip::{Fragment, Packet};

/// Most datagrams whose fragments are kept.
const DATAGRAMS_MAX: usize = 1_024;
/// Most bytes of them.
const BYTES_MAX: usize = 8 << 20;
/// Most fragments of a datagram: of a large one over a link with the least MTU of IPv4 that is used.
const PARTS_MAX: usize = 128;
/// Most bytes of a datagram.
const DATAGRAM_MAX: usize = 65_535;
/// How long fragments wait (RFC 8200, 4.5: 60 s; Linux: 30 s), nanoseconds.
const WAIT: u64 = 30_000_000_000;
/// For how long fragments belong to a datagram that is whole or given up, nanoseconds: they are repetitions, or the
/// rest. Behind it the number is used anew.
const ENDED: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    source: IpAddr,
    destination: IpAddr,
    id: u32,
    protocol: u8,
}

#[derive(Debug)]
struct Partial {
    /// Tells it from a later one with the same key.
    number: u64,
    /// In the order of their offsets, without overlap.
    parts: Vec<(usize, Vec<u8>)>,
    /// Known when the last fragment is there.
    whole: Option<usize>,
    bytes: usize,
    /// When it became whole or was given up; it has no parts since then.
    ended: Option<u64>,
}

/// Fragments that wait for others.
#[derive(Debug)]
pub(super) struct Fragments {
    table: AHashMap<Key, Partial>,
    /// Oldest first: when it came, its number. Those that are gone stay here until their turn.
    order: VecDeque<(u64, u64, Key)>,
    bytes: usize,
    numbers: u64,
    /// Datagrams of the table that have ended.
    ended: usize,
}

impl Fragments {
    pub(super) fn new(hasher: RandomState) -> Self {
        Self { table: AHashMap::with_hasher(hasher), order: VecDeque::new(), bytes: 0, numbers: 0, ended: 0 }
    }

    /// Adds a fragment; returns the payload of the datagram that is whole with it.
    pub(super) fn add(
        &mut self,
        at: u64,
        packet: &Packet<'_>,
        fragment: Fragment,
        counts: &mut Counts,
    ) -> Option<Vec<u8>> {
        self.drop_old(at, counts);
        let Packet { source, destination, protocol, payload, .. } = *packet;
        let key = Key { source, destination, id: fragment.id, protocol };
        let end = fragment.offset + payload.len();
        // All but the last have a length that the next one's offset can tell.
        if end > DATAGRAM_MAX || payload.is_empty() || fragment.more && !payload.len().is_multiple_of(8) {
            counts.skip(Skip::Malformed);
            return None;
        }
        if let Some(ended) = self.table.get(&key).and_then(|partial| partial.ended) {
            if at.abs_diff(ended) < ENDED {
                return None;
            }
            self.remove(key);
        }
        let number = self.numbers;
        let partial = self.table.entry(key).or_insert_with(|| {
            self.order.push_back((at, number, key));
            self.numbers += 1;
            Partial { number, parts: Vec::new(), whole: None, bytes: 0, ended: None }
        });
        let place = partial.parts.partition_point(|(offset, _)| *offset < fragment.offset);
        if partial
            .parts
            .get(place)
            .is_some_and(|(offset, part)| *offset == fragment.offset && part == payload)
        {
            // The same once more.
            return None;
        }
        let before = place.checked_sub(1).map(|p| &partial.parts[p]);
        let overlaps = before.is_some_and(|(offset, part)| offset + part.len() > fragment.offset)
            || partial.parts.get(place).is_some_and(|(offset, _)| *offset < end)
            || partial.whole.is_some_and(|whole| end > whole || !fragment.more && end != whole)
            || !fragment.more && partial.parts.last().is_some_and(|(offset, part)| offset + part.len() > end);
        if overlaps || partial.parts.len() == PARTS_MAX {
            counts.skip(if overlaps { Skip::FragmentOverlap } else { Skip::FragmentLost });
            self.finish(at, key);
            return None;
        }
        partial.parts.insert(place, (fragment.offset, payload.to_vec()));
        partial.bytes += payload.len();
        self.bytes += payload.len();
        if !fragment.more {
            partial.whole = Some(end);
        }
        if partial.whole == Some(partial.bytes) {
            counts.reassembled += 1;
            return self.finish(at, key).map(|parts| parts.into_iter().flat_map(|(_, part)| part).collect());
        }
        while self.table.len() - self.ended > DATAGRAMS_MAX || self.bytes > BYTES_MAX {
            self.drop_oldest(counts);
        }
        None
    }

    /// Counts those that are left.
    pub(super) fn end(&mut self, counts: &mut Counts) {
        while !self.order.is_empty() {
            self.drop_oldest(counts);
        }
    }

    fn drop_old(&mut self, at: u64, counts: &mut Counts) {
        while self.order.front().is_some_and(|(came, ..)| at.saturating_sub(*came) > WAIT) {
            self.drop_oldest(counts);
        }
        // Each that was completed leaves an entry.
        while self.order.len() > DATAGRAMS_MAX * 4 {
            self.drop_oldest(counts);
        }
    }

    fn drop_oldest(&mut self, counts: &mut Counts) {
        if let Some((_, number, key)) = self.order.pop_front()
            && let Some(partial) = self.table.get(&key).filter(|partial| partial.number == number)
        {
            if partial.ended.is_none() {
                counts.skip(Skip::FragmentLost);
            }
            self.remove(key);
        }
    }

    /// Takes the parts of a datagram that is whole or given up, which is remembered.
    fn finish(&mut self, at: u64, key: Key) -> Option<Vec<(usize, Vec<u8>)>> {
        let partial = self.table.get_mut(&key)?;
        self.bytes -= std::mem::take(&mut partial.bytes);
        partial.ended = Some(at);
        self.ended += 1;
        Some(std::mem::take(&mut partial.parts))
    }

    fn remove(&mut self, key: Key) {
        let Some(partial) = self.table.remove(&key) else { return };
        self.bytes -= partial.bytes;
        self.ended -= usize::from(partial.ended.is_some());
    }
}
