//! Sends one attempt of a query to a server: claims its slot, and a connection if it uses one.

use crate::base::addr::{BackendSlot, Route, SocketSlot};
use crate::base::packet::Packet;
use crate::shard::Connections;
use crate::shard::backend::Need;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::{Key, PendingQuery, Queue, Terms};
use crate::shard::dispatch::{Attached, Dispatcher};
use crate::shard::verdict::Verdict;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::PPM;
use crate::wire::edit;

/// How a query was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The packet leaves as a datagram.
    Datagram(Route),
    /// It is in the output of a connection.
    Connection,
}

impl Sent {
    /// What the engine does with the packet.
    pub(crate) const fn verdict(self) -> Verdict {
        match self {
            Self::Datagram(route) => Verdict::Forward(route),
            Self::Connection => Verdict::Hold,
        }
    }
}

/// Why a query is sent to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptKind {
    /// It is its first attempt; a second one follows after the time of this queue.
    First(Option<Queue>),
    /// The first attempt is slow: it is in flight beside this one.
    Second,
    /// The kernel refused to send it to another server, or no descriptor was left for a connection
    /// to that.
    Refused,
    /// The connection of an earlier attempt has ended, or its server owes the response.
    Failover,
    /// A rule restarted it.
    Restart,
    /// Its response did not fit a datagram.
    Truncated,
    /// It is a copy, whose response nobody waits for.
    Copy,
}

/// How an attempt is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    kind: AttemptKind,
    /// It may wait for a descriptor, because no server takes it at once.
    waits: bool,
}

impl AttemptKind {
    /// Returns the attempt that is sent at once or not at all.
    pub(super) const fn at_once(self) -> Attempt {
        Attempt { kind: self, waits: false }
    }

    /// Returns the attempt that may wait.
    pub(super) const fn waiting(self) -> Attempt {
        Attempt { kind: self, waits: true }
    }
}

impl Dispatcher {
    /// Sends a query to a server: claims a slot and counts the attempt.
    ///
    /// # Errors
    /// [`DropReason::OutstandingFull`] when the server takes no more queries,
    /// [`DropReason::Descriptors`] when it would need a connection, or
    /// [`DropReason::QuerySendError`].
    #[inline]
    pub(super) fn send(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        attempt: Attempt,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let kind = attempt.kind;
        let claimed = self.claim(cx, connections, backend, pending, attempt);
        if claimed.is_err() && matches!(kind, AttemptKind::First(_)) {
            cx.stats().backend(backend).send_errors.add(1);
        }
        let key = claimed?;
        match kind {
            AttemptKind::First(_) | AttemptKind::Truncated | AttemptKind::Copy => {}
            AttemptKind::Failover => cx.stats().retries.add(1),
            AttemptKind::Second => {
                let tokens = &mut self.retry_tokens[pending.pool.index()];
                *tokens = tokens.saturating_sub(u64::from(PPM));
                cx.stats().retries.add(1);
            }
            // It has no second attempt beside it.
            AttemptKind::Refused | AttemptKind::Restart => {
                self.queries.take_retry(pending.waiter.entry());
            }
        }
        self.put(cx, connections, key, pending, packet).ok_or(DropReason::QuerySendError)
    }

    /// Claims a slot for an attempt, and a connection if it uses one.
    ///
    /// # Errors
    /// What there is none of: [`DropReason::OutstandingFull`] or [`DropReason::Descriptors`].
    #[inline]
    fn claim(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        attempt: Attempt,
    ) -> Result<Key, DropReason> {
        let queue = if let AttemptKind::First(queue) = attempt.kind { queue } else { None };
        let server = cx.snapshot.backend(backend).ok_or(DropReason::OutstandingFull)?;
        let (max, with_subnet) = (server.outstanding_max, server.use_client_subnet);
        let attached = self.attached(backend).ok_or(DropReason::OutstandingFull)?;
        let connection = if self.uses_connection(cx, attached, pending) {
            match self.connection_for(cx, connections, backend, pending, attempt.waits) {
                Err(DropReason::Descriptors) if self.may_use_datagram(attached, pending) => None,
                connection => Some(connection?),
            }
        } else {
            None
        };
        let own = if connection.is_some() && pending.came_by_connection() {
            attached.connection_queue
        } else {
            attached.queue
        };
        let terms = Terms { max, now: cx.now, batch: cx.batch, queue: queue.unwrap_or(own), connection };
        let Some(key) = self.outstanding.claim(backend, pending, terms, &mut cx.rng) else {
            if let Some(connection) = connection {
                connections
                    .backends
                    .close_if_new(Route { backend, socket: SocketSlot::Connection(connection) });
            }
            return Err(DropReason::OutstandingFull);
        };
        self.queries.attempted(pending.waiter.entry(), key, with_subnet);
        self.balancer.claimed(backend);
        cx.stats().backend(backend).queries.add(1);
        Ok(key)
    }

    /// Returns whether an attempt on this server uses a connection.
    #[inline]
    fn uses_connection(&self, cx: &Context, server: Attached, pending: &PendingQuery) -> bool {
        let entry = pending.waiter.entry();
        server.only_connections
            || pending.came_by_connection()
                && (!cx.snapshot.pool(pending.pool).tcp_to_udp
                    // Without an entry it could not be repeated.
                    || entry.is_none()
                    || self.queries.requires_connection(entry))
            || self.queries.is_refresh(entry) && self.queries.requires_connection(entry)
    }

    /// Returns whether an attempt that uses a connection may do without if there is none: its
    /// response comes by a datagram too, and a truncated one is no worse than none.
    fn may_use_datagram(&self, server: Attached, pending: &PendingQuery) -> bool {
        let entry = pending.waiter.entry();
        !server.only_connections && entry.is_some() && !self.queries.requires_connection(entry)
    }

    /// Returns a connection to a server for a query; a new one begins with the server's PROXY
    /// header.
    fn connection_for(
        &mut self,
        cx: &Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        waits: bool,
    ) -> Result<u16, DropReason> {
        let server = cx.snapshot.backend(backend).ok_or(DropReason::OutstandingFull)?;
        let mut header = std::mem::take(&mut self.header);
        let found = self.connection_key(cx, connections, backend, pending, &mut header);
        let need = Need {
            options: &server.connections,
            transfer: self.queries.transfer(pending.waiter.entry()),
            key: found.key,
            source: found.source,
            waits,
        };
        let outstanding = &self.outstanding;
        let picked = connections.backends.pick(backend, need, |route| outstanding.live_on(route), cx.now);
        if let Ok(route) = picked {
            connections.backends.begin(route, found, &header);
        }
        self.header = header;
        match picked?.socket {
            SocketSlot::Connection(connection) => Ok(connection),
            SocketSlot::Datagram(_) => Err(DropReason::OutstandingFull),
        }
    }

    /// Sends a query that has claimed a slot: as a datagram, or in a connection's output. Returns
    /// none, and releases the slot, when it does not fit.
    #[inline]
    fn put(
        &mut self,
        cx: &Context,
        connections: &mut Connections,
        key: Key,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Option<Sent> {
        let route = key.route;
        if route.is_connection() {
            let id = connections.backends.id_on_wire(route, key.id, pending.client_id);
            edit::set_id(packet.bytes_mut(), id);
            let alone = self.outstanding.live_on(route) <= 1;
            if !connections.backends.is_new(route) {
                cx.stats().backend(route.backend).connections.reused.add(1);
            }
            if connections.backends.ask(route, packet.bytes(), alone, cx.now) {
                return Some(Sent::Connection);
            }
            connections.backends.close_if_new(route);
        } else {
            edit::set_id(packet.bytes_mut(), key.id);
            if self.prepend_header(cx, connections, route.backend, pending, packet) {
                return Some(Sent::Datagram(route));
            }
        }
        self.release(cx, key);
        self.queries.ended(pending.waiter.entry(), key);
        None
    }
}
