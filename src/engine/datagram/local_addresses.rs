//! The local addresses that wildcard listeners of one shard were asked on, so that each answer
//! leaves from the address that was asked. A query carries only the slot.

use ahash::AHashMap;

use crate::base::addr::LocalSlot;
use crate::engine::sys::Local;
use crate::shard::Shard;
use crate::stats::drop_reason::DropReason;

/// Distinct local addresses that wildcard listeners of one shard remember: 96 kB.
const LOCALS_MAX: usize = 4096;

/// Local addresses of wildcard listeners, by their slot and back.
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

    /// The slot of an address, and whether it is a new one; none when the table is full.
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

    /// The slot of the address that a datagram was sent to, which the shard hears of; none, and
    /// counted, when the table is full.
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

    /// All addresses with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LocalSlot, Local)> {
        self.by_slot.iter().enumerate().skip(1).map(|(at, local)| (LocalSlot(at as u16), *local))
    }

    pub(crate) fn local(&self, slot: LocalSlot) -> Option<Local> {
        if slot == LocalSlot::LISTENER { None } else { self.by_slot.get(slot.index()).copied() }
    }
}
