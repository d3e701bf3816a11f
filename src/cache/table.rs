//! Stand-in.
use std::ops::Range;
use std::sync::Mutex;

/// What is known of an entry besides key and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Second of the process's clock at which it was stored.
    pub stored: u32,
    /// End of freshness.
    pub expires: u32,
    /// End of the time for which it is kept as stale.
    pub gone: u32,
    /// Opaque.
    pub extra: u32,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// A new entry.
    New,
    /// Replaced the old one.
    Replaced,
    /// Lock not got.
    Busy,
    /// Larger than an entry may be.
    TooLarge,
}

type Rows = Vec<(u64, Vec<u8>, Vec<u8>, Meta)>;

/// Table.
#[derive(Debug)]
pub struct Table {
    rows: Mutex<Rows>,
    entries: usize,
    largest: usize,
}

#[allow(missing_docs)]
impl Table {
    pub fn new(entries: usize, _bytes: Option<usize>, largest: usize) -> Self {
        Self { rows: Mutex::default(), entries, largest }
    }
    fn rows(&self) -> std::sync::MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    pub fn prefetch_set(&self, _hash: u64) {}
    pub fn prefetch_entry(&self, _hash: u64) {}
    pub fn get(&self, hash: u64, key: &[u8], now: u32, out: &mut [u8]) -> Option<(usize, Meta)> {
        let rows = self.rows();
        let row = rows.iter().find(|r| r.0 == hash && r.1 == key && r.3.gone > now)?;
        out.get_mut(..row.2.len())?.copy_from_slice(&row.2);
        Some((row.2.len(), row.3))
    }
    pub fn insert(&self, hash: u64, key: &[u8], value: &[u8], meta: Meta, _now: u32) -> Insert {
        if key.len() + value.len() > self.largest {
            return Insert::TooLarge;
        }
        let mut rows = self.rows();
        let before = rows.len();
        rows.retain(|r| r.0 != hash || r.1 != key);
        let replaced = rows.len() < before;
        if rows.len() >= self.entries {
            rows.remove(0);
        }
        rows.push((hash, key.to_vec(), value.to_vec(), meta));
        if replaced { Insert::Replaced } else { Insert::New }
    }
    pub fn visit(&self, sets: Range<usize>, mut keep: impl FnMut(&[u8], &[u8], Meta) -> bool) -> usize {
        if !sets.contains(&0) {
            return 0;
        }
        let mut rows = self.rows();
        let before = rows.len();
        rows.retain(|r| keep(&r.1, &r.2, r.3));
        before - rows.len()
    }
    pub fn sets(&self) -> usize {
        1
    }
    pub fn len(&self) -> usize {
        self.rows().len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn capacity(&self) -> usize {
        self.entries
    }
    pub fn memory(&self) -> usize {
        0
    }
    pub fn is_full(&self) -> bool {
        self.len() >= self.entries
    }
    pub fn evicted(&self) -> u64 {
        0
    }
}
