//! The local addresses on which a shard's wildcard listeners received queries, so that each answer
//! leaves from the address that was queried. A query carries only the slot of its address.
//!
//! When the table is full, a new address takes the slot of one that has been idle for longer than a
//! query waits or a flow lives: each query, each answer and each datagram of a flow, in either
//! direction, counts as use.

use std::cell::Cell;

use ahash::AHashMap;

use crate::base::addr::LocalSlot;
use crate::base::time::{Tick, TickDelta};
use crate::engine::sys::Local;
use crate::shard::Shard;
use crate::stats::drop_reason::DropReason;

/// Local addresses that a shard remembers for its wildcard listeners: 3 MB if so many are queried.
const LOCALS_MAX: usize = 1 << 15;
/// An address without a query or an answer for this long is idle. Queries wait for their answers
/// for some seconds, flows end after a minute unless configured otherwise.
const IDLE: TickDelta = TickDelta::from_ms(60_000);
/// Slots that a new address examines when the table is full.
const EXAMINED: usize = 64;

/// A two-way map between local addresses and their slots.
#[derive(Debug)]
pub(crate) struct Locals {
    by_slot: Vec<Entry>,
    slots: AHashMap<Local, LocalSlot>,
    most: usize,
    /// The slot that is examined next.
    hand: usize,
    /// Of the batch.
    now: Tick,
}

#[derive(Debug)]
struct Entry {
    local: Local,
    used: Cell<Tick>,
}

impl Locals {
    pub(crate) fn new() -> Self {
        Self::with_room(LOCALS_MAX)
    }

    #[expect(clippy::disallowed_methods, reason = "addresses of our own, looked up and never walked")]
    fn with_room(most: usize) -> Self {
        // Slot 0 is the listener's own address.
        let none = Entry { local: Local { ip: [0; 16], interface: 0 }, used: Cell::default() };
        Self { by_slot: vec![none], slots: AHashMap::new(), most, hand: 1, now: Tick(0) }
    }

    /// Sets the time of the batch.
    pub(crate) const fn begin_batch(&mut self, now: Tick) {
        self.now = now;
    }

    /// Returns the slot of an address, and whether it is new; `None` when the table is full.
    pub(crate) fn slot(&mut self, local: Local) -> Option<(LocalSlot, bool)> {
        if let Some(slot) = self.slots.get(&local) {
            self.touch(*slot);
            return Some((*slot, false));
        }
        let at = if self.by_slot.len() < self.most { self.by_slot.len() } else { self.idle()? };
        let slot = LocalSlot(at as u16);
        let entry = Entry { local, used: Cell::new(self.now) };
        if let Some(old) = self.by_slot.get_mut(at) {
            self.slots.remove(&std::mem::replace(old, entry).local);
        } else {
            self.by_slot.push(entry);
        }
        self.slots.insert(local, slot);
        Some((slot, true))
    }

    /// Returns the slot of a datagram's local address and reports a new one to the shard; `None`,
    /// and counted, when the table is full.
    pub(crate) fn slot_for(&mut self, local: Option<Local>, shard: &mut Shard) -> Option<LocalSlot> {
        let Some(address) = local else { return Some(LocalSlot::LISTENER) };
        let Some((slot, new)) = self.slot(address) else {
            shard.drop(DropReason::LocalTableFull);
            return None;
        };
        if new {
            shard.on_local(slot, address.ip);
        }
        Some(slot)
    }

    /// Returns all addresses with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LocalSlot, Local)> {
        self.by_slot.iter().enumerate().skip(1).map(|(at, entry)| (LocalSlot(at as u16), entry.local))
    }

    pub(crate) fn local(&self, slot: LocalSlot) -> Option<Local> {
        if slot == LocalSlot::LISTENER {
            return None;
        }
        self.touch(slot);
        self.by_slot.get(slot.index()).map(|entry| entry.local)
    }

    fn touch(&self, slot: LocalSlot) {
        if let Some(entry) = self.by_slot.get(slot.index()) {
            entry.used.set(self.now);
        }
    }

    /// Returns the next idle slot, if one of those that are examined is.
    fn idle(&mut self) -> Option<usize> {
        (0..EXAMINED).find_map(|_| {
            let at = self.hand;
            self.hand = if at + 1 < self.by_slot.len() { at + 1 } else { 1 };
            let used = self.by_slot.get(at).filter(|_| at > 0)?.used.get();
            (self.now.since(used) >= IDLE).then_some(at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(n: u32) -> Local {
        Local { ip: crate::base::addr::mapped(std::net::Ipv4Addr::from(n).into()), interface: 0 }
    }

    #[test]
    fn tens_of_thousands_of_addresses_are_told_apart() {
        let mut locals = Locals::new();
        for round in [true, false] {
            for n in 0..20_000 {
                let (slot, new) = locals.slot(local(n)).expect("room");
                assert_eq!((new, locals.local(slot)), (round, Some(local(n))));
            }
        }
        assert_eq!(locals.local(LocalSlot::LISTENER), None);
    }

    #[test]
    fn new_address_takes_the_slot_of_an_idle_one() {
        let mut locals = Locals::with_room(101);
        let begin = Tick(1 << 40);
        locals.begin_batch(begin);
        let slots: Vec<_> = (0..100).filter_map(|n| locals.slot(local(n))).collect();
        assert_eq!(slots.len(), 100);
        locals.begin_batch(begin + TickDelta(IDLE.0 - 1));
        assert_eq!(locals.slot(local(1_000)), None, "all are in use");
        // One is queried, of another one a query is answered.
        assert_eq!(locals.slot(local(3)), Some((slots[3].0, false)));
        assert_eq!(locals.local(slots[70].0), Some(local(70)));
        locals.begin_batch(begin + IDLE);
        let taken: Vec<_> = (1_000..1_098).map(|n| (n, locals.slot(local(n)))).collect();
        for (n, slot) in taken {
            let (slot, new) = slot.expect("an idle one");
            assert_eq!((new, locals.local(slot)), (true, Some(local(n))));
        }
        assert_eq!(locals.slot(local(2_000)), None);
        for n in [3, 70] {
            assert_eq!(locals.slot(local(n)), Some((slots[n as usize].0, false)));
        }
        assert_eq!(locals.iter().count(), 100);
        // An address that lost its slot is a new one.
        locals.begin_batch(begin + IDLE + IDLE);
        assert!(locals.slot(local(0)).is_some_and(|(_, new)| new));
    }
}
