//! A slot of the table of outstanding queries: one cache line.

use crate::base::addr::{Client, ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, PoolSlot, SocketSlot};
use crate::base::time::Tick;
use crate::shard::dispatch::outstanding::repeats::{At, Repeats};
use crate::shard::dispatch::outstanding::timers::Queue;
use crate::shard::dispatch::outstanding::{PendingQuery, Waiter};
use crate::shard::dispatch::query_table::EntryId;
use crate::stats::shadow_queue::ShadowId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Free,
    Live,
    Settled,
    Expired,
}

/// A [`Waiter`] without its entry, as stored in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum WaiterKind {
    Client,
    ClientWithEntry,
    Nobody,
    Copy,
    Shadow,
}

/// An outstanding query.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) question: u64,
    pub(super) claimed_at: Tick,
    /// The client's address, without the padding of an [`Endpoint`].
    pub(super) ip: [u8; 16],
    pub(super) scope: u32,
    /// The client's connection, or the local address that the query was sent to; the flags tell
    /// which.
    pub(super) place: u32,
    pub(super) bucket: u32,
    pub(super) entry: EntryId,
    pub(super) client_id: u16,
    pub(super) id: u16,
    pub(super) pool: PoolSlot,
    pub(super) listener: ListenerSlot,
    pub(super) port: u16,
    pub(super) socket: u16,
    pub(super) flags: u8,
    pub(super) queue: u8,
    pub(super) state: State,
    pub(super) waiter: WaiterKind,
}

/// Bit of a slot's flags: the client uses a connection.
const CONNECTION: u8 = 0x80;
/// Bit of a slot's flags: the query is counted among its repeats.
const COUNTED: u8 = 0x40;

// One cache line: a response costs one miss.
const _: () = assert!(size_of::<Slot>() == 64);

pub(super) const FREE: Slot = Slot {
    question: 0,
    claimed_at: Tick(0),
    ip: [0; 16],
    scope: 0,
    place: 0,
    bucket: 0,
    entry: EntryId::FIRST,
    client_id: 0,
    id: 0,
    pool: PoolSlot(0),
    listener: ListenerSlot(0),
    port: 0,
    flags: 0,
    socket: 0,
    queue: 0,
    state: State::Free,
    waiter: WaiterKind::Client,
};

impl Slot {
    pub(super) const fn holds(&self, socket: SocketSlot, id: u16) -> bool {
        self.id == id && self.socket == socket.number()
    }

    /// Creates the slot of a query that is sent.
    #[inline]
    pub(super) fn live(
        pending: &PendingQuery,
        socket: u16,
        id: u16,
        claimed_at: Tick,
        (queue, bucket): (Queue, u32),
    ) -> Self {
        let Client { peer, listener, local, connection } = pending.client;
        let waiter = match pending.waiter {
            Waiter::Client(None) => WaiterKind::Client,
            Waiter::Client(Some(_)) => WaiterKind::ClientWithEntry,
            Waiter::Nobody => WaiterKind::Nobody,
            Waiter::Copy => WaiterKind::Copy,
            Waiter::Shadow(_) => WaiterKind::Shadow,
        };
        Self {
            question: pending.question,
            claimed_at,
            ip: peer.ip,
            scope: peer.scope,
            port: peer.port,
            place: connection.map_or(local.0.into(), |connection| connection.0),
            listener,
            bucket,
            entry: match pending.waiter {
                Waiter::Shadow(id) => EntryId::of_number(id.0),
                Waiter::Client(entry) => entry.unwrap_or(EntryId::FIRST),
                Waiter::Nobody | Waiter::Copy => EntryId::FIRST,
            },
            waiter,
            client_id: pending.client_id,
            id,
            pool: pending.pool,
            flags: pending.flags
                | if connection.is_some() { CONNECTION } else { 0 }
                | if pending.is_counted() { COUNTED } else { 0 },
            socket,
            queue: queue.number(),
            state: State::Live,
        }
    }

    const fn client(&self) -> Client {
        let (local, connection) = if self.flags & CONNECTION == 0 {
            let [low, high, ..] = self.place.to_le_bytes();
            (LocalSlot(u16::from_le_bytes([low, high])), None)
        } else {
            (LocalSlot::LISTENER, Some(ConnectionSlot(self.place)))
        };
        let peer = Endpoint { ip: self.ip, scope: self.scope, port: self.port };
        Client { peer, listener: self.listener, local, connection }
    }

    /// Returns the counter of its repeats, if it is counted there.
    #[inline]
    pub(super) const fn counter(&self) -> Option<At> {
        if self.flags & COUNTED == 0 { None } else { Some(Repeats::at(self.question, &self.ip)) }
    }

    pub(super) const fn waiter(&self) -> Waiter {
        match self.waiter {
            WaiterKind::Client => Waiter::Client(None),
            WaiterKind::ClientWithEntry => Waiter::Client(Some(self.entry)),
            WaiterKind::Nobody => Waiter::Nobody,
            WaiterKind::Copy => Waiter::Copy,
            WaiterKind::Shadow => Waiter::Shadow(ShadowId(self.entry.number())),
        }
    }

    pub(super) const fn pending(&self) -> PendingQuery {
        PendingQuery {
            client: self.client(),
            client_id: self.client_id,
            question: self.question,
            waiter: self.waiter(),
            pool: self.pool,
            flags: self.flags & !(CONNECTION | COUNTED),
        }
    }
}
