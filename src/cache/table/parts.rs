//! Values that are larger than an entry may be: a head with the beginning, and parts in other sets.
//!
//! ```text
//!  set of the key's hash      sets from a place that the stamp says, one after the other
//!  ┌──────────────────┐      ┌──────────────────┐ ┌──────────────────┐
//!  │ key family piece │      │ stamp 1    piece │ │ stamp 2    piece │ …
//!  └──────────────────┘      └──────────────────┘ └──────────────────┘
//! ```
//!
//! So large values take any memory that small ones leave. A stamp is used once: who finds all parts
//! of it has one value. Parts are written before their head and removed after it; a family that has
//! lost one of its entries is removed as a whole, as far as locks are free, and else ages out.

/// What a head and its parts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Family {
    /// 48 bits.
    pub(super) stamp: u64,
    /// Entries besides the head.
    pub(super) parts: u8,
    /// Length of the whole value.
    pub(super) length: u32,
}

impl Family {
    /// Returns it as the head has it.
    pub(super) const fn to_words(self) -> [u64; 2] {
        [self.key_of(0), self.length as u64]
    }

    /// Reads that of a head.
    #[inline]
    pub(super) const fn from_words(words: [u64; 2]) -> Self {
        Self { stamp: words[0] >> 16, parts: words[0] as u8, length: words[1] as u32 }
    }

    /// Returns the key of a part: stamp:48 | index:8 | parts:8.
    #[inline]
    pub(super) const fn key_of(self, index: u8) -> u64 {
        self.stamp << 16 | (index as u64) << 8 | self.parts as u64
    }

    /// Returns a number that is spread well, for the place of all parts (index 0) and the tag of one.
    #[inline]
    pub(super) const fn spread(self, index: u8) -> u64 {
        // The finalizer of MurmurHash3. Stamps are not the choice of anybody outside.
        let mut x = self.stamp << 8 | index as u64;
        x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        x ^ x >> 33
    }
}

/// A family that has lost an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    pub(super) family: Family,
    /// The hash of its head, if that is still there.
    pub(super) head: Option<u64>,
}

/// How many of them one change remembers. What is beyond ages out.
const BROKEN_MAX: usize = 8;

/// What a change of a set has removed to make room.
#[derive(Default)]
pub(super) struct Removed {
    /// Entries with a key that could still be used.
    pub(super) alive: usize,
    /// Those whose time was over.
    pub(super) gone: usize,
    broken: [Option<Broken>; BROKEN_MAX],
}

impl Removed {
    /// Returns how many entries with a key there were.
    pub(super) const fn keys(&self) -> usize {
        self.alive + self.gone
    }

    /// Notes a family that is to be removed.
    pub(super) fn add_broken(&mut self, broken: Broken) {
        let known = |known: &Broken| known.family.stamp == broken.family.stamp;
        if let Some(known) = self.broken.iter_mut().flatten().find(|b| known(b)) {
            // The second loss may be the head itself.
            known.head = known.head.and(broken.head);
        } else if let Some(free) = self.broken.iter_mut().find(|b| b.is_none()) {
            *free = Some(broken);
        }
    }

    /// Returns the family noted last, and the hash of its head, if that is still there.
    pub(super) fn last_head(&self) -> Option<(Family, u64)> {
        let last = self.broken.iter().flatten().last()?;
        last.head.map(|hash| (last.family, hash))
    }

    /// Notes that the head of a family is gone as well.
    pub(super) fn forget_head(&mut self, family: Family) {
        if let Some(known) = self.broken.iter_mut().flatten().find(|b| b.family.stamp == family.stamp) {
            known.head = None;
        }
    }

    /// Takes what is to be removed.
    pub(super) fn take_broken(&mut self) -> impl Iterator<Item = Broken> + use<> {
        std::mem::take(&mut self.broken).into_iter().flatten()
    }
}
