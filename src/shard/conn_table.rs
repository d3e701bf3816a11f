//! Connections of one kind, by slots that carry a generation, and those of them that wait for
//! something: the engine's work, their turn, the next look at their time-outs.
//!
//! ```text
//!  slot (index, generation) ─► entry { generation, value }
//!  pending:   slots that the engine has work for, each once, in the order of their coming
//!  resumable: slots that hold messages and may go on, each once, likewise
//!  sweep:     a part of the table at each step, all of it in `SWEEP`
//! ```
//!
//! It does not know what a connection is, or when it ends.

use std::collections::VecDeque;

use crate::base::addr::Generational;
use crate::base::narrow::to_u32;
use crate::base::time::{Tick, TickDelta};

/// The whole table is looked through for time-outs in this time.
const SWEEP: TickDelta = TickDelta::from_ms(500);
/// And a part of it this often.
const SWEEP_STEP: TickDelta = TickDelta::from_ms(50);

/// Connections by slot.
#[derive(Debug)]
pub(crate) struct ConnTable<S, T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    pending: VecDeque<S>,
    resumable: VecDeque<S>,
    /// How far the sweep is, and when it was last taken up.
    sweep_at: usize,
    swept: Tick,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u8,
    is_pending: bool,
    is_resumable: bool,
    value: Option<T>,
}

impl<S, T> Default for ConnTable<S, T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            pending: VecDeque::new(),
            resumable: VecDeque::new(),
            sweep_at: 0,
            swept: Tick(0),
        }
    }
}

impl<S: Generational, T> ConnTable<S, T> {
    /// Takes a connection in, which is made with its slot.
    pub(crate) fn insert(&mut self, make: impl FnOnce(S) -> T) -> S {
        let index = self.free.pop().unwrap_or_else(|| {
            let entry = Entry { generation: 0, is_pending: false, is_resumable: false, value: None };
            self.entries.push(entry);
            to_u32(self.entries.len() - 1)
        });
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.value.is_none(), "a free entry is empty");
        let slot = S::new(index, entry.generation);
        entry.value = Some(make(slot));
        slot
    }

    /// Takes a connection out; its index may be given to another.
    pub(crate) fn remove(&mut self, slot: S) -> Option<T> {
        let entry = self.entry_mut(slot)?;
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        (entry.is_pending, entry.is_resumable) = (false, false);
        self.free.push(to_u32(slot.index()));
        Some(value)
    }

    /// The connection with this slot.
    pub(crate) fn value(&self, slot: S) -> Option<&T> {
        self.entry(slot)?.value.as_ref()
    }

    /// The same, to be changed.
    pub(crate) fn value_mut(&mut self, slot: S) -> Option<&mut T> {
        self.entry_mut(slot)?.value.as_mut()
    }

    fn entry(&self, slot: S) -> Option<&Entry<T>> {
        self.entries.get(slot.index()).filter(|e| e.generation == slot.generation())
    }

    fn entry_mut(&mut self, slot: S) -> Option<&mut Entry<T>> {
        self.entries.get_mut(slot.index()).filter(|e| e.generation == slot.generation())
    }

    /// The connection that has an index at present, for lists that keep indexes.
    pub(crate) fn at(&self, index: usize) -> Option<(S, &T)> {
        let entry = self.entries.get(index)?;
        Some((S::new(to_u32(index), entry.generation), entry.value.as_ref()?))
    }

    /// All connections.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (S, &T)> {
        (0..self.entries.len()).filter_map(|index| self.at(index))
    }

    /// Connections that there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Notes that the engine has work for a connection.
    pub(crate) fn mark_pending(&mut self, slot: S) {
        if let Some(entry) = self.entry_mut(slot)
            && !std::mem::replace(&mut entry.is_pending, true)
        {
            self.pending.push_back(slot);
        }
    }

    /// The next connection that the engine has work for.
    pub(crate) fn next_pending(&mut self) -> Option<S> {
        while let Some(slot) = self.pending.pop_front() {
            if let Some(entry) = self.entry_mut(slot)
                && std::mem::take(&mut entry.is_pending)
            {
                return Some(slot);
            }
        }
        None
    }

    /// Connections that the engine has work for; perhaps some more.
    pub(crate) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Notes that a connection may go on with what it holds, when all that came before it have had
    /// their turn.
    pub(crate) fn mark_resumable(&mut self, slot: S) {
        if let Some(entry) = self.entry_mut(slot)
            && !std::mem::replace(&mut entry.is_resumable, true)
        {
            self.resumable.push_back(slot);
        }
    }

    /// The connection whose turn it is; it keeps it until [`ConnTable::end_turn`].
    pub(crate) fn resumable(&mut self) -> Option<S> {
        while let Some(slot) = self.resumable.front().copied() {
            if self.entry(slot).is_some_and(|e| e.is_resumable) {
                return Some(slot);
            }
            self.resumable.pop_front();
        }
        None
    }

    /// Ends the turn of the connection whose turn it is; `again`: it gets another one.
    pub(crate) fn end_turn(&mut self, again: bool) {
        let Some(slot) = self.resumable.pop_front() else { return };
        if let Some(entry) = self.entry_mut(slot) {
            entry.is_resumable = false;
        }
        if again {
            self.mark_resumable(slot);
        }
    }

    /// Connections that may go on; perhaps some more.
    pub(crate) fn resumable_count(&self) -> usize {
        self.resumable.len()
    }

    /// Begins a step of the sweep, if one is due: how many entries [`ConnTable::next_in_sweep`] is
    /// to be asked for.
    pub(crate) fn begin_sweep(&mut self, now: Tick) -> usize {
        let since = now.since(self.swept);
        if since < SWEEP_STEP || self.entries.is_empty() {
            return 0;
        }
        self.swept = now;
        let share = self.entries.len() as u64 * since.0.min(SWEEP.0) / SWEEP.0;
        (share as usize + 1).min(self.entries.len())
    }

    /// The next entry of the sweep; none where no connection stands.
    pub(crate) fn next_in_sweep(&mut self) -> Option<S> {
        self.sweep_at = (self.sweep_at + 1) % self.entries.len().max(1);
        self.at(self.sweep_at).map(|(slot, _)| slot)
    }

    /// When the next step of the sweep is due; at once while a connection waits for its turn.
    pub(crate) fn next_deadline(&self) -> Option<Tick> {
        if !self.resumable.is_empty() {
            return Some(Tick(0));
        }
        (self.len() > 0).then(|| self.swept + SWEEP_STEP)
    }

    /// Checks what must hold between calls; for tests. `must_wait` says whether a connection must
    /// be among the pending, and among the resumable ones.
    pub(crate) fn check_invariants(&self, must_wait: impl Fn(&T) -> (bool, bool)) {
        for (slot, value) in self.iter() {
            let entry = &self.entries[slot.index()];
            let (pending, resumable) = must_wait(value);
            assert!(!pending || entry.is_pending, "the engine is told of its work");
            assert!(!resumable || entry.is_resumable, "what may go on does");
            assert_eq!(entry.is_pending, self.pending.contains(&slot), "pending work is listed");
            assert_eq!(entry.is_resumable, self.resumable.contains(&slot), "turns are listed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::ConnectionSlot;

    type Table = ConnTable<ConnectionSlot, u32>;

    #[test]
    fn a_slot_names_one_connection_and_no_later_one() {
        let mut table = Table::default();
        let first = table.insert(|_| 1);
        table.mark_pending(first);
        table.mark_resumable(first);
        assert_eq!((table.remove(first), table.remove(first)), (Some(1), None));
        let second = table.insert(|_| 2);
        assert_eq!((second.index(), second == first), (first.index(), false));
        assert_eq!((table.value(first), table.value(second)), (None, Some(&2)));
        table.mark_pending(first);
        assert_eq!((table.next_pending(), table.resumable(), table.len()), (None, None, 1));
        for _ in 0..600 {
            let slot = table.insert(|_| 3);
            table.remove(slot);
            assert_eq!(table.value(slot), None, "over the wrap of generations");
        }
    }

    #[test]
    fn work_is_handed_out_once_and_in_order() {
        let mut table = Table::default();
        let slots: Vec<_> = (0..4).map(|n| table.insert(|_| n)).collect();
        for n in [2, 0, 2, 3, 0] {
            table.mark_pending(slots[n]);
        }
        table.remove(slots[0]);
        table.check_invariants(|_| (false, false));
        let order: Vec<_> = std::iter::from_fn(|| table.next_pending()).collect();
        assert_eq!((order, table.pending_count()), (vec![slots[2], slots[3]], 0));
    }

    #[test]
    fn turns_go_round() {
        let mut table = Table::default();
        let slots: Vec<_> = (0..3).map(|n| table.insert(|_| n)).collect();
        slots.iter().for_each(|slot| table.mark_resumable(*slot));
        let mut turns = Vec::new();
        for step in 0..7 {
            let Some(slot) = table.resumable() else { break };
            turns.push(*table.value(slot).expect("a connection"));
            table.end_turn(step < 4);
        }
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
        table.check_invariants(|_| (false, false));
    }

    #[test]
    fn a_sweep_comes_by_every_entry_within_its_time() {
        let mut table = Table::default();
        let slots: Vec<_> = (0..100).map(|n| table.insert(|_| n)).collect();
        table.remove(slots[7]);
        let mut seen = Vec::new();
        let mut now = Tick(0);
        for _ in 0..=SWEEP.0 / SWEEP_STEP.0 {
            now = now + SWEEP_STEP;
            let count = table.begin_sweep(now);
            assert!(count <= 11, "a part of the table at a time");
            for _ in 0..count {
                seen.extend(table.next_in_sweep().and_then(|slot| table.value(slot)).copied());
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 99);
    }
}
