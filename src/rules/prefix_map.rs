//! Maps networks to values; the longest network that contains an address decides.
//!
//! Networks are turned into ranges that do not overlap, each with the value of the longest network
//! over it: a look-up is one search for the last range that begins at or before the address. A
//! table over the first bits in which the ranges differ leaves few of them to search.

use crate::base::narrow::to_u32;
use crate::base::prefix::Prefix;

/// No network contains the address.
const NONE: u32 = u32::MAX;
/// Fewer ranges than this are searched without a table.
const TABLE_MIN: usize = 32;
/// Bits of the table's key, at most: 65,536 entries of four bytes.
const TABLE_BITS_MAX: u32 = 16;

/// Networks and their values; immutable. IPv4 and IPv6 are separate: `::/0` contains no IPv4
/// address.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixMap {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

impl FromIterator<(Prefix, u32)> for PrefixMap {
    /// Values are below `u32::MAX`. The last value for a network counts.
    fn from_iter<I: IntoIterator<Item = (Prefix, u32)>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in networks {
            let (first, last) = prefix.bounds();
            if prefix.is_ipv4() { v4.push((first, last, value)) } else { v6.push((first, last, value)) }
        }
        Self { v4: Ranges::new(v4, low), v6: Ranges::new(v6, |a| a) }
    }
}

/// Returns the address of IPv4 in a mapped one.
const fn low(mapped: u128) -> u32 {
    let [.., a, b, c, d] = mapped.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

impl PrefixMap {
    /// Returns the value of the longest network that contains an address (16 bytes, IPv4 mapped).
    pub(crate) fn find(&self, ip: &[u8; 16]) -> Option<u32> {
        match ip {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4 @ ..] => self.v4.find(u32::from_be_bytes(*v4)),
            _ => self.v6.find(u128::from_be_bytes(*ip)),
        }
    }

    /// Returns the bytes that it has allocated.
    pub(crate) const fn bytes(&self) -> usize {
        self.v4.bytes() + self.v6.bytes()
    }
}

/// Ranges of one address family.
#[derive(Clone, Debug)]
struct Ranges<A> {
    /// Where each range begins, ascending.
    starts: Box<[A]>,
    values: Box<[u32]>,
    /// For each value of the table's key: the first range that begins there or later. Empty without
    /// a table.
    table: Box<[u32]>,
    /// Leading bits that all starts have in common, and bits of the table's key.
    shared: u32,
    bits: u32,
}

impl<A> Default for Ranges<A> {
    fn default() -> Self {
        Self { starts: Box::default(), values: Box::default(), table: Box::default(), shared: 0, bits: 0 }
    }
}

impl<A: Copy + Ord + Into<u128>> Ranges<A> {
    /// Builds the ranges from networks as first address, last address, and value.
    fn new(mut networks: Vec<(u128, u128, u32)>, narrow: fn(u128) -> A) -> Self {
        // Wider ones first; stable, so that of equal ones the last stays last.
        networks.sort_by_key(|(first, last, _)| (*first, u128::MAX - last));
        let mut ranges: Vec<(u128, u32)> = Vec::with_capacity(networks.len());
        let mut open: Vec<(u128, u32)> = Vec::new();
        let mut begin = |at: u128, value: u32| {
            if let Some(last) = ranges.last_mut().filter(|last| last.0 == at) {
                last.1 = value;
            } else {
                ranges.push((at, value));
            }
        };
        let family_last = if size_of::<A>() == 4 { (0xffff << 32) | u128::from(u32::MAX) } else { u128::MAX };
        let close = |open: &mut Vec<(u128, u32)>, begin: &mut dyn FnMut(u128, u32)| {
            let Some((last, _)) = open.pop() else { return };
            if last < family_last {
                begin(last + 1, open.last().map_or(NONE, |o| o.1));
            }
        };
        for (first, last, value) in networks {
            while open.last().is_some_and(|o| o.0 < first) {
                close(&mut open, &mut begin);
            }
            begin(first, value);
            open.push((last, value));
        }
        while !open.is_empty() {
            close(&mut open, &mut begin);
        }
        ranges.dedup_by_key(|r| r.1);
        let starts: Box<[A]> = ranges.iter().map(|r| narrow(r.0)).collect();
        let values = ranges.iter().map(|r| r.1).collect();
        Self { starts, values, ..Self::default() }.tabled()
    }

    /// Adds the table, if there are enough ranges.
    fn tabled(mut self) -> Self {
        let (Some(first), Some(last)) = (self.starts.first(), self.starts.last()) else { return self };
        if self.starts.len() < TABLE_MIN {
            return self;
        }
        let (first, last): (u128, u128) = ((*first).into(), (*last).into());
        self.shared = (first ^ last).leading_zeros();
        self.bits = self.starts.len().ilog2().min(TABLE_BITS_MAX).min(128 - self.shared);
        let mut table = Vec::with_capacity((1 << self.bits) + 1);
        let mut at = 0;
        for key in 0..=1_usize << self.bits {
            while self.starts.get(at).is_some_and(|s| self.key((*s).into()) < key) {
                at += 1;
            }
            table.push(to_u32(at));
        }
        self.table = table.into();
        self
    }

    /// Returns the table's key of an address.
    const fn key(&self, address: u128) -> usize {
        ((address << self.shared) >> (128 - self.bits)) as usize
    }

    fn find(&self, address: A) -> Option<u32> {
        let (first, last) = (self.starts.first()?, self.starts.last()?);
        if address < *first {
            return None;
        }
        let behind = if address >= *last {
            self.starts.len()
        } else if self.table.is_empty() {
            self.starts.partition_point(|s| *s <= address)
        } else {
            // Between the first and the last start, so it shares their common bits.
            let key = self.key(address.into());
            let (from, to) = (*self.table.get(key)? as usize, *self.table.get(key + 1)? as usize);
            from + self.starts.get(from..to)?.partition_point(|s| *s <= address)
        };
        self.values.get(behind.checked_sub(1)?).copied().filter(|v| *v != NONE)
    }
}

impl<A> Ranges<A> {
    const fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.values) + size_of_val(&*self.table)
    }
}
