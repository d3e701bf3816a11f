//! What the engine keeps of connections and flows, each with the slot that the shard gave it: an
//! event, or work of the shard, may be of one that had the place before.

use crate::base::addr::Generational;

/// Entries by the indexes of their slots.
#[derive(Debug)]
pub(crate) struct Owned<S, T>(Vec<Option<(S, T)>>);

impl<S, T> Default for Owned<S, T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: Generational, T> Owned<S, T> {
    /// Creates an empty table.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns the entry of a slot.
    pub(crate) fn get(&self, slot: S) -> Option<&T> {
        let (owner, entry) = self.0.get(slot.index())?.as_ref()?;
        (*owner == slot).then_some(entry)
    }

    /// Returns the entry of a slot, to be changed.
    pub(crate) fn get_mut(&mut self, slot: S) -> Option<&mut T> {
        let (owner, entry) = self.0.get_mut(slot.index())?.as_mut()?;
        (*owner == slot).then_some(entry)
    }

    /// Puts an entry in the place of a slot; one that was there is dropped.
    pub(crate) fn insert(&mut self, slot: S, entry: T) {
        if self.0.len() <= slot.index() {
            self.0.resize_with(slot.index() + 1, || None);
        }
        self.0[slot.index()] = Some((slot, entry));
    }

    /// Removes the entry of a slot.
    pub(crate) fn take(&mut self, slot: S) -> Option<T> {
        let place = self.0.get_mut(slot.index())?;
        place.take_if(|(owner, _)| *owner == slot).map(|(_, entry)| entry)
    }

    /// Removes all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::SessionSlot;

    #[test]
    fn an_entry_is_found_by_its_own_slot_only() {
        let mut table = Owned::default();
        let [before, after] = [1, 2].map(|generation| SessionSlot::new(7, generation));
        assert_eq!(table.take(before), None);
        table.insert(before, "before");
        assert_eq!((table.get(before), table.get(after)), (Some(&"before"), None));
        table.insert(after, "after");
        assert_eq!(table.get(before), None);
        assert_eq!(table.get_mut(before), None);
        assert_eq!((table.take(before), table.take(after), table.take(after)), (None, Some("after"), None));
    }
}
