//! The local addresses on which a shard's wildcard listeners received queries, so that each answer
//! leaves from the address that was queried. A query carries only the slot of its address.

use ahash::AHashMap;

use crate::base::addr::LocalSlot;
use crate::engine::sys::Local;
use crate::shard::Shard;
use crate::stats::drop_reason::DropReason;

/// Local addresses that a shard remembers for its wildcard listeners: 96 kB.
const LOCALS_MAX: usize = 4096;

/// A two-way map between local addresses and their slots.
#[derive(Debug)]
pub(crate) struct Locals {
    by_slot: Vec<Local>,
    slots: AHashMap<Local, LocalSlot>,
}

impl Locals {
    #[expect(clippy::disallowed_methods, reason = "a few addresses of our own, looked up and never walked")]
    pub(crate) fn new() -> Self {
        // Slot 0 is the listener's own address.
        Self { by_slot: vec![Local { ip: [0; 16], interface: 0 }], slots: AHashMap::new() }
    }

    /// Returns the slot of an address, and whether it is new; `None` when the table is full.
    pub(crate) fn slot(&mut self, local: Local) -> Option<(LocalSlot, bool)> {
        if let Some(slot) = self.slots.get(&local) {
            return Some((*slot, false));
        }
        if self.by_slot.len() >= LOCALS_MAX {
            return None;
        }
        let slot = LocalSlot(self.by_slot.len() as u16);
        self.by_slot.push(local);
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
        self.by_slot.iter().enumerate().skip(1).map(|(at, local)| (LocalSlot(at as u16), *local))
    }

    pub(crate) fn local(&self, slot: LocalSlot) -> Option<Local> {
        if slot == LocalSlot::LISTENER { None } else { self.by_slot.get(slot.index()).copied() }
    }
}
