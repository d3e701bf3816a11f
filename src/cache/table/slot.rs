//! The slot word: where an entry is, in which version, and how a reader can tell that what it has
//! copied is whole.
//!
//! ```text
//!  63        32 31      16 15 14 13     7 6      0
//! ┌────────────┬──────────┬─────┬────────┬────────┐
//! │  version   │   gone   │kind │  size  │ start  │   size 0: hidden, nothing may be read
//! └────────────┴──────────┴─────┴────────┴────────┘
//!
//!  writer: hide ─► fence(Release) ─► payload (relaxed) ─► publish (Release)
//!  reader: load (Acquire) ─► payload (relaxed) ─► fence(Acquire) ─► load: the same word? else: torn
//! ```
//!
//! Every change makes a word that this slot has not had for 2³² changes, so the same word twice
//! means that nothing between has changed. Memory that one slot gives up and another one takes is
//! covered too: the first is hidden before the fence, and its reader finds that.
//!
//! The protocol is generic over its cells, so that a model checker runs the code that the table runs.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Seconds in a unit of `gone`. Coarse, because 16 bits must reach further than a TTL: 24 days.
const GONE_UNIT_S: u32 = 64;
/// The furthest that `gone` is noted: two weeks. What lives longer is looked at again later.
const GONE_MAX_S: u32 = 14 * 86_400;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key and all of its value.
    Whole,
    /// A key and the beginning of its value.
    Head,
    /// A later piece of a value.
    Part,
}

/// A slot word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u64);

impl Slot {
    /// Returns that of an entry of `size` granules from granule `start`, without a version.
    pub(super) fn new(start: usize, size: usize, kind: Kind, gone: Gone) -> Self {
        debug_assert!(start < 128 && size > 0 && size < 128);
        let kind = match kind {
            Kind::Whole => 0,
            Kind::Head => 1,
            Kind::Part => 2,
        };
        Self(start as u64 | (size as u64) << 7 | kind << 14 | u64::from(gone.0) << 16)
    }

    /// Returns it with another place.
    pub(super) const fn moved(self, start: usize) -> Self {
        Self(self.0 & !127 | start as u64)
    }

    /// Returns the entry's first granule.
    #[inline]
    pub(super) const fn start(self) -> usize {
        (self.0 & 127) as usize
    }

    /// Returns how many granules it has; 0: there is nothing to be read.
    #[inline]
    pub(super) const fn size(self) -> usize {
        (self.0 >> 7 & 127) as usize
    }

    /// Returns what it is.
    #[inline]
    pub(super) const fn kind(self) -> Kind {
        match self.0 >> 14 & 3 {
            0 => Kind::Whole,
            1 => Kind::Head,
            2.. => Kind::Part,
        }
    }

    /// Returns about when it may be removed.
    pub(super) const fn gone(self) -> Gone {
        Gone((self.0 >> 16) as u16)
    }

    /// Returns the word that takes the place of `old`: its next version.
    const fn after(self, old: u64) -> u64 {
        let version = (old >> 32).wrapping_add(1);
        self.0 & 0xffff_ffff | version << 32
    }
}

/// A point in time in units of 64 seconds, modulo 2¹⁶.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gone(u16);

impl Gone {
    /// Returns the first unit that begins at `gone` or later.
    pub(super) fn of(gone: u32, now: u32) -> Self {
        let gone = gone.min(now.saturating_add(GONE_MAX_S));
        Self(gone.div_ceil(GONE_UNIT_S) as u16)
    }

    /// Returns whether it has certainly come.
    pub(super) const fn has_come(self, now: u32) -> bool {
        let age = ((now / GONE_UNIT_S) as u16).wrapping_sub(self.0);
        age < 1 << 15
    }
}

/// A word that threads share.
pub(super) trait Cell {
    /// Reads it.
    fn load(&self, order: Ordering) -> u64;
    /// Writes it.
    fn store(&self, value: u64, order: Ordering);
    /// Orders what is before it and what is after it.
    fn fence(order: Ordering);
}

impl Cell for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        Self::store(self, value, order);
    }

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

/// Hides the entry of a slot. [`before_payload`] must follow before its memory is written to.
#[inline]
pub(super) fn hide<C: Cell>(cell: &C) {
    let old = cell.load(Ordering::Relaxed);
    cell.store(Slot(0).after(old), Ordering::Relaxed);
}

/// Between hiding slots and writing to memory that was theirs.
#[inline]
pub(super) fn before_payload<C: Cell>() {
    C::fence(Ordering::Release);
}

/// Makes an entry visible whose payload has been written.
#[inline]
pub(super) fn publish<C: Cell>(cell: &C, slot: Slot) {
    let old = cell.load(Ordering::Relaxed);
    cell.store(slot.after(old), Ordering::Release);
}

/// Returns the slot word, for who holds the lock or only guesses.
#[inline]
pub(super) fn peek<C: Cell>(cell: &C) -> Slot {
    Slot(cell.load(Ordering::Relaxed))
}

/// What a reader got.
pub(super) enum Read<R> {
    /// What it has read is whole.
    Whole(R),
    /// A writer is at work: once more.
    Torn,
}

/// Reads the entry of a slot with `copy`, which may see a mixture of several ones: it must not rely
/// on anything that it reads, and its result counts only if this returns it.
#[inline]
pub(super) fn read<C: Cell, R>(cell: &C, copy: impl FnOnce(Slot) -> R) -> Read<R> {
    let slot = Slot(cell.load(Ordering::Acquire));
    if slot.size() == 0 {
        return Read::Torn;
    }
    let result = copy(slot);
    C::fence(Ordering::Acquire);
    if cell.load(Ordering::Relaxed) == slot.0 { Read::Whole(result) } else { Read::Torn }
}

#[cfg(test)]
mod tests;
