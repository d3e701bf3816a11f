//! Cleans a cache of expired entries, a part of its table at a time.

use std::sync::atomic::Ordering::Relaxed;

use crate::base::time::Tick;
use crate::cache::{PacketCache, entry, seconds};

impl PacketCache {
    /// Removes expired entries, those that are kept as stale apart, from `sets` sets of the table
    /// that begin at `from`, as long as there are more than `most` entries. `stale_seconds`: how long they
    /// are kept, if that is longer than when they were stored. Returns where the next part begins; none at
    /// the end.
    pub fn clean(
        &self,
        from: usize,
        sets: usize,
        most: usize,
        stale_seconds: u32,
        now: Tick,
    ) -> Option<usize> {
        let now = seconds(now);
        let (table, all) = (&self.store.table, self.store.table.sets());
        let mut left = table.len();
        for set in from..from.saturating_add(sets).min(all) {
            if left <= most {
                break;
            }
            table.visit(set..set + 1, |_, value, meta| {
                let is_stale_wanted = || {
                    now < meta.expires.saturating_add(stale_seconds) && entry::is_stored_worth_keeping(value)
                };
                let goes = left > most && meta.gone <= now && !is_stale_wanted();
                left -= usize::from(goes);
                !goes
            });
        }
        let next = Some(from.saturating_add(sets)).filter(|next| *next < all && left > most);
        if next.is_none() {
            self.store.cleanups.fetch_add(1, Relaxed);
        }
        next
    }

    /// Returns how often it was cleaned.
    #[must_use]
    pub fn cleanups(&self) -> u64 {
        self.store.cleanups.load(Relaxed)
    }
}
