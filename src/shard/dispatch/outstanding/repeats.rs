//! How many queries of one client with the same question are outstanding, whatever their servers: a
//! loop over another program makes them many.
//!
//! ```text
//!  client ─► dnslob ─► forwarder ─► dnslob ─► forwarder ─► …    never answered; each turn is one more
//! ```
//!
//! Different clients and questions may share a counter, so a count can be too high by what else is
//! outstanding with it: a sixteen-thousandth of all. Below 65,535, where it stays, it is never too low.

/// Bits of a counter's number: 32 KiB a shard.
const BITS: u32 = 14;

/// The counters.
#[derive(Debug)]
pub(super) struct Repeats(Box<[u16]>);

/// The number of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(u16);

impl Default for Repeats {
    fn default() -> Self {
        Self(vec![0; 1 << BITS].into_boxed_slice())
    }
}

impl Repeats {
    /// Returns the counter of a question, by its keyed hash, and a client's address without its
    /// port: a forwarder may use a new one for each query.
    #[inline]
    pub(super) const fn at(question: u64, client: &[u8; 16]) -> At {
        let (halves, _) = client.as_chunks::<8>();
        let (low, high) = (u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1]));
        let mixed = (question ^ low ^ high.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        At((mixed >> (u64::BITS - BITS)) as u16)
    }

    #[inline]
    pub(super) fn count(&self, at: At) -> u16 {
        self.0[usize::from(at.0)]
    }

    #[inline]
    pub(super) fn begin(&mut self, at: At) {
        let count = &mut self.0[usize::from(at.0)];
        *count = count.saturating_add(1);
    }

    #[inline]
    pub(super) fn end(&mut self, at: At) {
        let count = &mut self.0[usize::from(at.0)];
        *count = count.saturating_sub(1);
    }

    /// Returns the sum of all counters; for tests.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }
}
