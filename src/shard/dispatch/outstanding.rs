//! Queries that wait for their answer, and when they stop waiting.
//!
//! One `Table` a backend, one slot a query, no free list: the slot of a query is given by the
//! random id that it was sent with, so claiming draws ids until one meets a free slot (at most half are
//! taken before the table doubles, so two draws on average), and an answer finds its slot by one look.
//!
//! ```text
//!  id: 16 random bits ┐
//!  socket or line     ┴─► (socket << 16 | id) & (slots - 1) ─► Slot, 64 bytes, one cache line
//! ```
//!
//! Time-outs come from the `timers`: a queue per span, a bucket per slice of time.
//!
//! Invariant: `claimed = settled + expired + released`, and live slots = the sum of the buckets.

mod timers;

use crate::base::addr::{
    BackendSlot, Client, ConnectionSlot, Endpoint, ListenerSlot, LocalSlot, PoolSlot, Route, SocketSlot,
};
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::shard::dispatch::query_table::EntryId;

pub use crate::shard::dispatch::outstanding::timers::Queue;
use crate::shard::dispatch::outstanding::timers::Timers;

/// Slots of a table at its first query: 16 kB.
const SLOTS_MIN: usize = 256;
/// Draws before a full table is believed: at half full, one failure in 2^32.
const DRAWS: u32 = 32;

/// Which query, exactly: the backend's socket and the id on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it was sent.
    pub route: Route,
    /// With which id.
    pub id: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Free,
    Live,
    Settled,
    Expired,
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The client; what else is kept of its query, if anything is, has this entry in the
    /// [`QueryTable`](super::query_table::QueryTable).
    Client(Option<EntryId>),
    /// Nobody: another server has answered. This one's answer is only counted.
    Nobody,
    /// Nobody: the query is a copy.
    Copy,
}

impl Waiter {
    /// What else is kept of the query.
    #[must_use]
    pub const fn entry(self) -> Option<EntryId> {
        match self {
            Self::Client(entry) => entry,
            Self::Nobody | Self::Copy => None,
        }
    }
}

/// A [`Waiter`] without its entry, as a slot keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum WaiterKind {
    Client,
    ClientWithEntry,
    Nobody,
    Copy,
}

/// One query.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    question: u64,
    claimed_at: Tick,
    /// The client's address, without the padding of an [`Endpoint`].
    ip: [u8; 16],
    scope: u32,
    /// The client's connection, or the local address that it asked: which one, say the flags.
    place: u32,
    bucket: u32,
    entry: EntryId,
    client_id: u16,
    id: u16,
    pool: PoolSlot,
    listener: ListenerSlot,
    port: u16,
    socket: u16,
    flags: u8,
    queue: u8,
    state: State,
    waiter: WaiterKind,
}

/// Among a slot's flags: the client has a connection.
const CONNECTION: u8 = 0x80;

// One cache line: an answer costs one miss.
const _: () = assert!(size_of::<Slot>() == 64);

const FREE: Slot = Slot {
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
    const fn holds(&self, socket: SocketSlot, id: u16) -> bool {
        self.id == id && self.socket == socket.number()
    }

    const fn client(&self) -> Client {
        let (local, connection) = if self.flags & CONNECTION == 0 {
            (LocalSlot(self.place as u16), None)
        } else {
            (LocalSlot::LISTENER, Some(ConnectionSlot(self.place)))
        };
        let peer = Endpoint { ip: self.ip, scope: self.scope, port: self.port };
        Client { peer, listener: self.listener, local, connection }
    }

    const fn waiter(&self) -> Waiter {
        match self.waiter {
            WaiterKind::Client => Waiter::Client(None),
            WaiterKind::ClientWithEntry => Waiter::Client(Some(self.entry)),
            WaiterKind::Nobody => Waiter::Nobody,
            WaiterKind::Copy => Waiter::Copy,
        }
    }

    const fn asked(&self) -> Asked {
        Asked {
            client: self.client(),
            client_id: self.client_id,
            question: self.question,
            waiter: self.waiter(),
            pool: self.pool,
            flags: self.flags & !CONNECTION,
        }
    }
}

/// What is known of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who asked.
    pub client: Client,
    /// The id the client used.
    pub client_id: u16,
    /// Keyed hash of the question.
    pub question: u64,
    /// Who waits for its answer.
    pub waiter: Waiter,
    /// The pool that was to answer it.
    pub pool: PoolSlot,
    /// The client's RD and CD, as [`query_state::packed`](crate::rules::query_state::packed) has them: the lower bits.
    pub flags: u8,
}

impl Asked {
    /// A copy of a query, whose answer nobody waits for.
    pub(crate) const fn copy(question: u64) -> Self {
        let peer = Endpoint { ip: [0; 16], scope: 0, port: 0 };
        let client = Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None };
        Self { client, client_id: 0, question, waiter: Waiter::Copy, pool: PoolSlot(0), flags: 0 }
    }
}

/// On which terms a query waits.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The backend's outstanding queries in this shard, at most: so many by its sockets, and as many
    /// by its lines, so that clients of one kind do not use up what the others need.
    pub max: u32,
    /// When it is sent.
    pub now: Tick,
    /// Any number that changes with each batch.
    pub batch: u64,
    /// How long it waits.
    pub queue: Queue,
    /// The connection it goes by; none for any UDP socket.
    pub connection: Option<u16>,
}

/// What is known of a query that is looked at in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What was known of it.
    pub asked: Asked,
    /// When it was sent.
    pub claimed_at: Tick,
}

/// What an id on a socket means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It waits.
    Live(Known),
    /// It was answered a moment ago.
    Settled,
    /// Its time was up.
    Expired,
    /// Nothing of the kind was asked.
    Foreign,
}

/// One backend's outstanding queries in one shard.
#[derive(Debug)]
struct Table {
    slots: Vec<Slot>,
    live: u32,
    /// Of these, by lines.
    by_connections: u32,
    /// Sockets there are to choose from.
    sockets: u8,
    /// The socket of this batch and the batch it was drawn for: a port per batch is as hard to
    /// guess as a port per query, and keeps a batch together in one system call.
    socket: u16,
    batch: u64,
    /// Live queries by line.
    connections: Vec<u32>,
}

impl Table {
    fn index(&self, socket: u16, id: u16) -> usize {
        (usize::from(socket) << 16 | usize::from(id)) & (self.slots.len() - 1)
    }

    /// Live queries of a line.
    fn connection(&mut self, connection: u16) -> &mut u32 {
        let at = usize::from(connection);
        if self.connections.len() <= at {
            self.connections.resize(at + 1, 0);
        }
        &mut self.connections[at]
    }

    /// Twice the slots, so that draws keep meeting free ones. Amortised over the claims that
    /// filled the table; the largest step copies 16 MB, once in the life of a table.
    fn grow(&mut self) {
        let doubled = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![FREE; doubled]);
        for slot in old {
            if slot.state == State::Live {
                let at = self.index(slot.socket, slot.id);
                self.slots[at] = slot;
            }
        }
    }

    fn slots_max(&self) -> usize {
        // Lines multiply the ids as further sockets do, and have as many queries as these.
        (usize::from(self.sockets.max(2)) << 16).next_power_of_two()
    }
}

/// All of a shard's outstanding queries.
#[derive(Debug, Default)]
pub struct Outstanding {
    tables: Vec<Option<Box<Table>>>,
    timers: Timers,
    live: u32,
    claimed: u64,
    settled: u64,
    expired: u64,
    released: u64,
}

impl Outstanding {
    /// Makes a table for a backend with so many sockets, unless it has one.
    pub fn attach(&mut self, backend: BackendSlot, sockets: u8) {
        if self.tables.len() <= backend.index() {
            self.tables.resize_with(backend.index() + 1, || None);
        }
        self.tables[backend.index()].get_or_insert_with(|| {
            Box::new(Table {
                slots: vec![FREE; SLOTS_MIN],
                live: 0,
                by_connections: 0,
                sockets: sockets.max(1),
                socket: 0,
                batch: u64::MAX,
                connections: Vec::new(),
            })
        });
    }

    /// Takes a backend's table away; what was live in it is released.
    pub fn detach(&mut self, backend: BackendSlot) {
        let Some(table) = self.tables.get_mut(backend.index()).and_then(Option::take) else { return };
        for slot in table.slots.iter().filter(|s| s.state == State::Live) {
            self.timers.cancel(slot.queue, slot.bucket);
            self.live -= 1;
            self.released += 1;
        }
    }

    /// Queries that wait for this backend.
    #[must_use]
    pub fn live_of(&self, backend: BackendSlot) -> u32 {
        self.table(backend).map_or(0, |t| t.live)
    }

    /// Queries that wait on a line.
    #[must_use]
    pub fn live_on(&self, route: Route) -> u32 {
        let SocketSlot::Connection(at) = route.socket else { return 0 };
        self.table(route.backend).and_then(|t| t.connections.get(usize::from(at))).copied().unwrap_or(0)
    }

    /// The queries that wait on one of a backend's sockets or lines; reads the whole table.
    pub fn on_route(&self, route: Route, each: &mut dyn FnMut(Key, Known)) {
        let Some(table) = self.table(route.backend) else { return };
        for slot in table.slots.iter().filter(|s| s.state == State::Live && s.socket == route.socket.number())
        {
            each(Key { route, id: slot.id }, Known { asked: slot.asked(), claimed_at: slot.claimed_at });
        }
    }

    /// Queries that wait for any backend.
    #[must_use]
    pub const fn live(&self) -> u32 {
        self.live
    }

    fn table(&self, backend: BackendSlot) -> Option<&Table> {
        self.tables.get(backend.index())?.as_deref()
    }

    fn slot(&self, key: Key) -> Option<&Slot> {
        let table = self.table(key.route.backend)?;
        let slot = &table.slots[table.index(key.route.socket.number(), key.id)];
        slot.holds(key.route.socket, key.id).then_some(slot)
    }

    fn slot_mut(&mut self, key: Key) -> Option<&mut Slot> {
        let table = self.tables.get_mut(key.route.backend.index())?.as_deref_mut()?;
        let at = table.index(key.route.socket.number(), key.id);
        Some(&mut table.slots[at]).filter(|s| s.holds(key.route.socket, key.id))
    }

    /// Takes a slot for a query to `backend` and says which id and socket to send it with. None
    /// when the table is full or the backend has none.
    pub fn claim(
        &mut self,
        backend: BackendSlot,
        asked: Asked,
        terms: Terms,
        rng: &mut ShardRng,
    ) -> Option<Key> {
        let Terms { max, now, batch, queue, connection } = terms;
        let table = self.tables.get_mut(backend.index())?.as_deref_mut()?;
        let waiting =
            if connection.is_some() { table.by_connections } else { table.live - table.by_connections };
        if waiting >= max {
            return None;
        }
        if connection.is_none() && table.batch != batch {
            table.batch = batch;
            table.socket = rng.below(u32::from(table.sockets)) as u16;
        }
        if table.live as usize * 2 >= table.slots.len() && table.slots.len() < table.slots_max() {
            table.grow();
        }
        let mut socket = connection.map_or(table.socket, |c| SocketSlot::Connection(c).number());
        for draw in 0..DRAWS {
            let id = rng.id();
            let at = table.index(socket, id);
            if table.slots[at].state != State::Live {
                table.slots[at] = Slot {
                    question: asked.question,
                    claimed_at: now,
                    ip: asked.client.peer.ip,
                    scope: asked.client.peer.scope,
                    port: asked.client.peer.port,
                    place: asked
                        .client
                        .connection
                        .map_or(asked.client.local.0.into(), |connection| connection.0),
                    listener: asked.client.listener,
                    bucket: self.timers.arm(
                        queue,
                        now,
                        Key { route: Route { backend, socket: SocketSlot::from_number(socket) }, id },
                    ),
                    entry: asked.waiter.entry().unwrap_or(EntryId::FIRST),
                    waiter: match asked.waiter {
                        Waiter::Client(None) => WaiterKind::Client,
                        Waiter::Client(Some(_)) => WaiterKind::ClientWithEntry,
                        Waiter::Nobody => WaiterKind::Nobody,
                        Waiter::Copy => WaiterKind::Copy,
                    },
                    client_id: asked.client_id,
                    id,
                    pool: asked.pool,
                    flags: asked.flags | if asked.client.connection.is_some() { CONNECTION } else { 0 },
                    socket,
                    queue: queue.number(),
                    state: State::Live,
                };
                table.live += 1;
                if let Some(connection) = connection {
                    table.by_connections += 1;
                    *table.connection(connection) += 1;
                }
                self.live += 1;
                self.claimed += 1;
                return Some(Key { route: Route { backend, socket: SocketSlot::from_number(socket) }, id });
            }
            if draw >= DRAWS / 2 && connection.is_none() {
                // This socket's ids are nearly used up: any other may have more.
                socket = rng.below(u32::from(table.sockets)) as u16;
            }
        }
        None
    }

    /// What waits under an id on a socket.
    #[must_use]
    pub fn find(&self, key: Key) -> Found {
        match self.slot(key) {
            None => Found::Foreign,
            Some(slot) => match slot.state {
                State::Live => Found::Live(Known { asked: slot.asked(), claimed_at: slot.claimed_at }),
                State::Settled => Found::Settled,
                State::Expired => Found::Expired,
                State::Free => Found::Foreign,
            },
        }
    }

    /// Ends a query that was answered.
    pub fn settle(&mut self, key: Key) {
        if self.leave(key, State::Settled) {
            self.settled += 1;
        }
    }

    /// Ends a query that needs no answer: its twin was answered, or it could not be sent.
    pub fn release(&mut self, key: Key) {
        if self.leave(key, State::Settled) {
            self.released += 1;
        }
    }

    fn leave(&mut self, key: Key, state: State) -> bool {
        let Some(slot) = self.slot_mut(key).filter(|s| s.state == State::Live) else { return false };
        slot.state = state;
        let (queue, bucket) = (slot.queue, slot.bucket);
        self.timers.cancel(queue, bucket);
        self.left(key.route);
        true
    }

    fn left(&mut self, route: Route) {
        self.live -= 1;
        if let Some(table) = self.tables.get_mut(route.backend.index()).and_then(Option::as_deref_mut) {
            table.live -= 1;
            if let SocketSlot::Connection(connection) = route.socket {
                table.by_connections -= 1;
                *table.connection(connection) -= 1;
            }
        }
    }

    /// Marks a live query as answered by another server; false when it is not live.
    pub fn deliver(&mut self, key: Key) -> bool {
        let Some(slot) = self.slot_mut(key).filter(|s| s.state == State::Live) else { return false };
        slot.waiter = WaiterKind::Nobody;
        true
    }

    /// Moves a live query to another queue, armed from `now`.
    pub fn rearm(&mut self, key: Key, now: Tick, queue: Queue) {
        let Some(slot) = self.slot(key).filter(|s| s.state == State::Live) else { return };
        self.timers.cancel(slot.queue, slot.bucket);
        let bucket = self.timers.arm(queue, now, key);
        if let Some(slot) = self.slot_mut(key) {
            slot.queue = queue.number();
            slot.bucket = bucket;
        }
    }

    /// The queue of a span; made at its first use. None when 255 spans are in use.
    pub fn queue(&mut self, span: TickDelta) -> Option<Queue> {
        self.timers.queue(span)
    }

    /// Begins a new configuration: its spans are asked for anew, and unused ones make room.
    pub fn renew_queues(&mut self) {
        self.timers.renew();
    }

    /// The next query whose time is up. It stays live until it is expired, released or rearmed;
    /// one of these must follow before the next call.
    pub fn due(&mut self, now: Tick) -> Option<(Key, Known)> {
        while let Some((queue, bucket, key)) = self.timers.due(now) {
            if let Some(slot) = self.slot(key)
                && slot.state == State::Live
                && slot.queue == queue
                && slot.bucket == bucket
            {
                return Some((key, Known { asked: slot.asked(), claimed_at: slot.claimed_at }));
            }
        }
        None
    }

    /// Ends a query that is due without an answer.
    pub fn expire(&mut self, key: Key) {
        if self.leave(key, State::Expired) {
            self.expired += 1;
        }
    }

    /// When the next time-out can be due; constant in the number of queries.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.timers.next_deadline()
    }

    /// Queries ever claimed, settled, expired and released.
    #[must_use]
    pub const fn totals(&self) -> [u64; 4] {
        [self.claimed, self.settled, self.expired, self.released]
    }

    /// Checks what must hold between calls; for tests.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check_invariants(&self) {
        let counted: usize = self
            .tables
            .iter()
            .flatten()
            .map(|t| {
                let live = t.slots.iter().filter(|s| s.state == State::Live).count();
                assert_eq!(live, t.live as usize, "a table's live slots are counted");
                let by_connections: u32 = t.connections.iter().sum();
                assert_eq!(by_connections, t.by_connections, "those by lines are counted");
                live
            })
            .sum();
        assert_eq!(counted, self.live as usize, "live slots are counted");
        assert_eq!(self.timers.live(), u64::from(self.live), "each live slot has one timer");
        let ended = self.settled + self.expired + self.released;
        assert_eq!(self.claimed, ended + u64::from(self.live), "claimed = ended + live");
    }
}

#[cfg(test)]
mod tests;
