//! Queries that wait for a response, and their timeouts.
//!
//! One `Table` per backend, one slot per query, no free list: the slot of a query follows from the
//! random id that it was sent with. Claiming draws ids until one has a free slot (at most half are
//! used before the table doubles, so two draws on average), and a response finds its slot by one
//! access.
//!
//! ```text
//!  id: 16 random bits ┐
//!  socket/connection  ┴─► (socket << 16 | id) & (slots - 1) ─► Slot, 64 bytes, one cache line
//! ```
//!
//! Timeouts come from the `timers`: a queue per span, a bucket per slice of time.
//!
//! Invariant: `claimed = settled + expired + released`, and live slots = the sum of the buckets.

mod invariants;
mod redraw;
mod repeats;
mod slot;
pub(crate) mod timers;

use crate::base::addr::{
    BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot, Route, SocketSlot,
};
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::shard::dispatch::query_table::EntryId;
use crate::stats::shadow_queue::ShadowId;

pub use crate::shard::dispatch::key::Key;
use crate::shard::dispatch::outstanding::repeats::Repeats;
use crate::shard::dispatch::outstanding::slot::{FREE, Slot, State, WaiterKind};
pub use crate::shard::dispatch::outstanding::timers::Queue;
use crate::shard::dispatch::outstanding::timers::Timers;

/// Slots of a table at its first query: 16 kB.
const SLOTS_MIN: usize = 256;
/// Draws before a table counts as full: at half full, one failure in 2^32.
const DRAWS: u32 = 32;

/// Who waits for the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// The client; this is the query's entry in the [`QueryTable`](super::query_table::QueryTable),
    /// if it has one.
    Client(Option<EntryId>),
    /// Nobody: another server has responded. This response is only counted.
    Nobody,
    /// Nobody: the query is a copy.
    Copy,
    /// Nobody: the response is compared with the one that the client gets.
    Shadow(ShadowId),
}

impl Waiter {
    /// Returns the query's entry.
    #[must_use]
    pub const fn entry(self) -> Option<EntryId> {
        match self {
            Self::Client(entry) => entry,
            Self::Nobody | Self::Copy | Self::Shadow(_) => None,
        }
    }
}

/// What is known of a query besides its bytes and its query state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingQuery {
    /// The client.
    pub client: Client,
    /// The client's id.
    pub client_id: u16,
    /// Keyed hash of the question.
    pub question: u64,
    /// Who waits for the response.
    pub waiter: Waiter,
    /// The pool that it goes to.
    pub pool: PoolSlot,
    /// The client's RD and CD in the lower bits, as packed by
    /// [`query_state::packed`](crate::rules::query_state::packed), [`PADDED`], and those of its opcode.
    pub flags: u8,
}

/// Bit of a query's flags, beside RD and CD: its client wants a padded answer.
pub const PADDED: u8 = 0x02;
/// Bits of a query's flags, beside these: its opcode.
const OPCODE: u8 = 0x6C;

/// Returns the opcode of a message in its bits of a query's flags.
#[inline]
pub(crate) fn opcode_flags(message: &[u8]) -> u8 {
    let byte = message.get(2).copied().unwrap_or(0);
    byte & 0x68 | (byte & 0x10) >> 2
}

impl PendingQuery {
    /// Returns whether a response has the opcode of the query, which a server copies (RFC 1035, 4.1.1).
    #[inline]
    pub(crate) fn has_opcode_of(&self, response: &[u8]) -> bool {
        self.flags & OPCODE == opcode_flags(response)
    }

    /// Notes the opcode of a query that rules may have changed.
    pub(crate) fn note_opcode(&mut self, query: &[u8]) {
        self.flags = self.flags & !OPCODE | opcode_flags(query);
    }

    /// Returns the record of a copy, whose response nobody waits for.
    pub(crate) fn copy(question: u64, query: &[u8]) -> Self {
        let peer = Endpoint { ip: [0; 16], scope: 0, port: 0 };
        let client = Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None };
        Self {
            client,
            client_id: 0,
            question,
            waiter: Waiter::Copy,
            pool: PoolSlot(0),
            flags: opcode_flags(query),
        }
    }

    /// Returns whether it counts among the repeats of its question: a copy does not.
    #[inline]
    const fn is_counted(&self) -> bool {
        matches!(self.waiter, Waiter::Client(_))
    }

    /// Returns whether its client wants a padded answer.
    #[inline]
    pub(crate) const fn wants_padding(&self) -> bool {
        self.flags & PADDED != 0
    }

    /// Returns whether the client sent it over a connection.
    #[inline]
    pub(crate) const fn came_by_connection(&self) -> bool {
        self.client.connection.is_some()
    }
}

/// The terms of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Outstanding queries of the backend in this shard, at most: this many on its sockets, and as
    /// many on its connections, so that clients of one kind do not use up what the others need.
    pub max: u32,
    /// When it is sent.
    pub now: Tick,
    /// Any number that changes with each batch.
    pub batch: u64,
    /// Its timeout.
    pub queue: Queue,
    /// The connection that it uses; none for any UDP socket.
    pub connection: Option<u16>,
}

/// An outstanding query as stored in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The query.
    pub pending: PendingQuery,
    /// When it was sent.
    pub claimed_at: Tick,
}

/// Result of looking up an id on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It is outstanding.
    Live(InFlight),
    /// It was answered a moment ago; this is the keyed hash of its question.
    Settled(u64),
    /// It timed out; this is the keyed hash of its question.
    Expired(u64),
    /// There is no such query.
    Foreign,
}

/// One backend's outstanding queries in one shard.
#[derive(Debug)]
struct Table {
    slots: Vec<Slot>,
    live: u32,
    /// Live queries on connections.
    on_connections: u32,
    /// Number of sockets.
    sockets: u8,
    /// The first of them: sockets that were drawn anew have other numbers than their predecessors.
    first: u8,
    /// The socket of this batch and the batch it was drawn for: a port per batch is as hard to
    /// guess as a port per query, and keeps a batch together in one system call.
    socket: u16,
    batch: u64,
    /// Live queries by connection.
    connections: Vec<u32>,
}

impl Table {
    fn index(&self, socket: u16, id: u16) -> usize {
        (usize::from(socket) << 16 | usize::from(id)) & (self.slots.len() - 1)
    }

    /// Returns the live queries of a connection.
    fn connection(&mut self, connection: u16) -> &mut u32 {
        let at = usize::from(connection);
        if self.connections.len() <= at {
            self.connections.resize(at + 1, 0);
        }
        &mut self.connections[at]
    }

    /// Doubles the slots, so that draws keep finding free ones. Amortised over the claims that
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
        // Connections multiply the ids as further sockets do, and have as many queries as these.
        (usize::from(self.sockets.max(2)) << 16).next_power_of_two()
    }
}

/// All outstanding queries of a shard.
#[derive(Debug, Default)]
pub struct Outstanding {
    tables: Vec<Option<Box<Table>>>,
    timers: Timers,
    repeats: Repeats,
    live: u32,
    claimed: u64,
    settled: u64,
    expired: u64,
    released: u64,
}

impl Outstanding {
    /// Creates a table for a backend with this many sockets, unless it has one.
    pub fn attach(&mut self, backend: BackendSlot, sockets: u8) {
        if self.tables.len() <= backend.index() {
            self.tables.resize_with(backend.index() + 1, || None);
        }
        self.tables[backend.index()].get_or_insert_with(|| {
            Box::new(Table {
                slots: vec![FREE; SLOTS_MIN],
                live: 0,
                on_connections: 0,
                sockets: sockets.max(1),
                first: 0,
                socket: 0,
                batch: u64::MAX,
                connections: Vec::new(),
            })
        });
    }

    /// Removes a backend's table; live queries in it are released.
    pub fn detach(&mut self, backend: BackendSlot) {
        let Some(table) = self.tables.get_mut(backend.index()).and_then(Option::take) else { return };
        for slot in table.slots.iter().filter(|s| s.state == State::Live) {
            self.timers.cancel(slot.queue, slot.bucket);
            if let Some(counter) = slot.counter() {
                self.repeats.end(counter, false);
            }
            self.live -= 1;
            self.released += 1;
        }
    }

    /// Returns the outstanding queries of this backend.
    #[must_use]
    pub fn live_of(&self, backend: BackendSlot) -> u32 {
        self.table(backend).map_or(0, |t| t.live)
    }

    /// Returns whether too many queries like this one, with its question and of its client, are
    /// outstanding; never of those that are not counted. `is_server`: its client is a server of ours.
    #[inline]
    pub fn repeats(&mut self, pending: &PendingQuery, max: u16, is_server: impl FnOnce() -> bool) -> bool {
        pending.is_counted()
            && self.repeats.exceeds(Repeats::at(pending.question, &pending.client.peer.ip), max, is_server)
    }

    /// Returns the outstanding queries on a connection.
    #[must_use]
    pub fn live_on(&self, route: Route) -> u32 {
        let SocketSlot::Connection(at) = route.socket else { return 0 };
        self.table(route.backend).and_then(|t| t.connections.get(usize::from(at))).copied().unwrap_or(0)
    }

    /// Calls `each` with the queries on one of a backend's sockets or connections; scans the whole
    /// table.
    pub fn on_route(&self, route: Route, each: &mut dyn FnMut(Key, InFlight)) {
        let Some(table) = self.table(route.backend) else { return };
        for slot in table.slots.iter().filter(|s| s.state == State::Live && s.socket == route.socket.number())
        {
            each(
                Key { route, id: slot.id },
                InFlight { pending: slot.pending(), claimed_at: slot.claimed_at },
            );
        }
    }

    /// Returns the outstanding queries of all backends.
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

    /// Claims a slot for a query to `backend` and returns the id and socket to send it with.
    /// Returns none when the table is full or the backend has none.
    #[inline]
    pub fn claim(
        &mut self,
        backend: BackendSlot,
        pending: &PendingQuery,
        terms: Terms,
        rng: &mut ShardRng,
    ) -> Option<Key> {
        let Terms { max, now, batch, queue, connection } = terms;
        let table = self.tables.get_mut(backend.index())?.as_deref_mut()?;
        let waiting =
            if connection.is_some() { table.on_connections } else { table.live - table.on_connections };
        if waiting >= max {
            return None;
        }
        if connection.is_none() && table.batch != batch {
            table.batch = batch;
            table.socket = (table.first + rng.below_u8(table.sockets)).into();
        }
        if table.live as usize * 2 >= table.slots.len() && table.slots.len() < table.slots_max() {
            table.grow();
        }
        let mut socket = connection.map_or(table.socket, |c| SocketSlot::Connection(c).number());
        for draw in 0..DRAWS {
            let id = rng.id();
            let at = table.index(socket, id);
            if table.slots[at].state != State::Live {
                let key = Key { route: Route { backend, socket: SocketSlot::from_number(socket) }, id };
                let bucket = self.timers.arm(queue, now, key);
                table.slots[at] = Slot::live(pending, socket, id, now, (queue, bucket));
                table.live += 1;
                if let Some(connection) = connection {
                    table.on_connections += 1;
                    *table.connection(connection) += 1;
                }
                self.live += 1;
                self.claimed += 1;
                if let Some(counter) = table.slots[at].counter() {
                    self.repeats.begin(counter);
                }
                return Some(key);
            }
            if draw >= DRAWS / 2 && connection.is_none() {
                // This socket's ids are nearly used up: another one may have more.
                socket = (table.first + rng.below_u8(table.sockets)).into();
            }
        }
        None
    }

    /// Looks up an id on a socket.
    #[must_use]
    #[inline]
    pub fn find(&self, key: Key) -> Lookup {
        match self.slot(key) {
            None => Lookup::Foreign,
            Some(slot) => match slot.state {
                State::Live => {
                    Lookup::Live(InFlight { pending: slot.pending(), claimed_at: slot.claimed_at })
                }
                State::Settled => Lookup::Settled(slot.question),
                State::Expired => Lookup::Expired(slot.question),
                State::Free => Lookup::Foreign,
            },
        }
    }

    /// Ends a query that was answered.
    #[inline]
    pub fn settle(&mut self, key: Key) {
        if self.leave(key, State::Settled, true) {
            self.settled += 1;
        }
    }

    /// Ends a query that needs no response: its other attempt was answered, or it could not be
    /// sent.
    pub fn release(&mut self, key: Key) {
        if self.leave(key, State::Settled, false) {
            self.released += 1;
        }
    }

    #[inline]
    fn leave(&mut self, key: Key, state: State, is_answered: bool) -> bool {
        let Some(slot) = self.slot_mut(key).filter(|s| s.state == State::Live) else { return false };
        slot.state = state;
        let (queue, bucket, counter) = (slot.queue, slot.bucket, slot.counter());
        self.timers.cancel(queue, bucket);
        if let Some(counter) = counter {
            self.repeats.end(counter, is_answered);
        }
        self.left(key.route);
        true
    }

    fn left(&mut self, route: Route) {
        self.live -= 1;
        if let Some(table) = self.tables.get_mut(route.backend.index()).and_then(Option::as_deref_mut) {
            table.live -= 1;
            if let SocketSlot::Connection(connection) = route.socket {
                table.on_connections -= 1;
                *table.connection(connection) -= 1;
            }
        }
    }

    /// Marks a live query as answered by another server; returns false when it is not live.
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

    /// Returns the queue of a span; created at its first use. Returns none when 255 spans are in
    /// use.
    pub fn queue(&mut self, span: TickDelta) -> Option<Queue> {
        self.timers.queue(span)
    }

    /// Begins a new configuration, which requests its spans anew; unused ones may be replaced.
    pub fn renew_queues(&mut self) {
        self.timers.renew();
    }

    /// Returns the next query that has timed out. It stays live until it is expired, released or
    /// rearmed; one of these must follow before the next call.
    pub fn due(&mut self, now: Tick) -> Option<(Key, InFlight)> {
        while let Some((queue, bucket, key)) = self.timers.due(now) {
            if let Some(slot) = self.slot(key)
                && slot.state == State::Live
                && slot.queue == queue
                && slot.bucket == bucket
            {
                return Some((key, InFlight { pending: slot.pending(), claimed_at: slot.claimed_at }));
            }
        }
        None
    }

    /// Ends a query that timed out.
    pub fn expire(&mut self, key: Key) {
        if self.leave(key, State::Expired, false) {
            self.expired += 1;
        }
    }

    /// Returns when the next timeout can be due; constant in the number of queries.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Tick> {
        self.timers.next_deadline()
    }

    /// Returns the numbers of queries claimed, settled, expired and released since the start.
    #[must_use]
    pub const fn totals(&self) -> [u64; 4] {
        [self.claimed, self.settled, self.expired, self.released]
    }
}

#[cfg(test)]
mod tests;
