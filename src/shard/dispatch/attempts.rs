//! The attempts of a query: on the selected server, on a second one when that is slow, on another
//! one when the kernel refuses to send or a connection fails. `select_next` chooses the server of
//! each further attempt, and `send` sends every one; [`AttemptKind`] is what differs.

use crate::balance::Subject;
use crate::base::addr::{BackendSlot, Route};
use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::model::Retry;
use crate::shard::Connections;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::{InFlight, Key, Lookup, PendingQuery, Waiter};
use crate::shard::dispatch::query_table::{EntryId, FAILED_MAX};
use crate::shard::dispatch::send::{AttemptKind, Sent};
use crate::shard::dispatch::{Attached, Dispatcher, RETRY_TOKENS_MAX};
use crate::shard::scratch::Scratch;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::PPM;
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::transfer::Transfer;
use crate::wire::{answer, keepalive, signature, transfer};

/// Bytes of an answer that leaves as a datagram, at most: the size of the engines' buffers, and
/// more than any EDNS size in use.
pub(crate) const DATAGRAM_MAX: usize = 4_096;
/// Bytes of a query that came over a connection and may leave as a datagram first, at most: when
/// its response is truncated, the query is repeated in the buffer of that. It is far below what a
/// datagram can carry, too.
const DATAGRAM_FIRST_MAX: usize = DATAGRAM_MAX;
/// The shortest time that a first attempt still has after a second one has begun.
const FIRST_ATTEMPT_LEFT_MIN: TickDelta = TickDelta::from_ms(1);

/// Why no other server takes a query.
#[derive(Clone, Copy, Debug)]
struct Unsent {
    reason: DropReason,
    /// The first one for which there is no descriptor: the query may wait for one there.
    short: Option<BackendSlot>,
}

/// How an attempt ended without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    /// Its server failed: another one is queried.
    Failed,
    /// Its server has closed a connection that had worked: a new one is opened.
    Closed,
    /// Its server has closed a connection on which it had not answered: another one is queried, or
    /// the same one by a new connection if there is no other.
    Unanswered,
    /// Its server was silent on a connection, which may be the connection's fault: another server is
    /// queried, or the same one by a new connection if there is no other.
    Silent,
    /// It waited for a descriptor in vain: another server is queried if that needs none.
    Unserved,
}

impl Dispatcher {
    /// Sends a query to the selected backend: its first attempt. What is kept of the query gets its
    /// entry here, if it has none yet.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub(crate) fn dispatch(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &mut PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let client = pending.client.peer.ip;
        let addresses = &self.addresses;
        let is_server = || addresses.binary_search(&client).is_ok();
        if self.queries.proxied(pending.waiter.entry()).is_none()
            && self.outstanding.repeats(pending, cx.snapshot.globals.repeats_max, is_server)
        {
            return Err(DropReason::QueryRepeated);
        }
        let attached = self.attached(backend);
        let may_use_connection = pending.came_by_connection() || attached.is_some_and(|a| a.only_connections);
        let retry = self.retry(cx, attached, pending);
        let keeps = retry.is_some() || cx.needs.queries;
        // Read once: reading back what was just written would wait for its parts.
        let mut entry = pending.waiter.entry();
        if pending.waiter == Waiter::Client(None) && (keeps || may_use_connection) {
            entry = self.queries.open(cx.now);
            pending.waiter = Waiter::Client(entry);
            if entry.is_none()
                && pending.came_by_connection()
                && transfer::requested(packet.bytes()).is_some()
            {
                // Without an entry nothing would tell that several messages follow.
                return Err(DropReason::QueryTableFull);
            }
        }
        let mut queue = None;
        if may_use_connection {
            if keepalive::may_be_there(packet.bytes()) && !signature::is_signed(packet.bytes()) {
                // Hop by hop, between the client and us (RFC 7828, 3.2.1).
                keepalive::remove(packet);
            }
            self.prepare_for_connection(entry, pending.came_by_connection(), packet.bytes());
        } else if keeps {
            let kept = self.queries.keep_query(entry, packet.bytes(), retry.is_some());
            queue = retry.filter(|_| kept).and_then(|retry| self.outstanding.queue(retry.after));
        }
        self.send_selected(cx, connections, backend, AttemptKind::First(queue), pending, packet)
    }

    /// Returns whether a second server is queried when the first one is slow. The pool earns a part
    /// of such an attempt with each query.
    fn retry(&mut self, cx: &Context, attached: Option<Attached>, pending: &PendingQuery) -> Option<Retry> {
        // After the server's own timeout it would only prolong that.
        let waits = attached.map(|a| a.timeout);
        let retry =
            cx.snapshot.pool(pending.pool).retry.filter(|r| waits.is_some_and(|waits| r.after < waits))?;
        let tokens = &mut self.retry_tokens[pending.pool.index()];
        *tokens = (*tokens + u64::from(retry.budget_ppm)).min(RETRY_TOKENS_MAX);
        Some(retry)
    }

    /// Keeps what is needed to send a query again over a connection, or when its connection ends.
    fn prepare_for_connection(&mut self, entry: Option<EntryId>, came_by_connection: bool, query: &[u8]) {
        let is_kept = self.queries.keep_query(entry, query, false);
        if !came_by_connection {
            // That of a query which rules have changed was stored before.
            if self.queries.limit(entry).is_none() {
                self.queries.set_limit(entry, answer::udp_limit(query).min(DATAGRAM_MAX));
            }
            return;
        }
        let transfer = transfer::requested(query);
        if let Some(qtype) = transfer {
            let serial = transfer::ixfr_serial(query);
            self.queries.set_transfer(entry, Transfer::new(qtype, serial));
        }
        if transfer.is_some() || !is_kept || query.len() > DATAGRAM_FIRST_MAX {
            self.queries.require_connection(entry);
        }
    }

    /// Sends a query to a server again, because a rule restarted it: without a second attempt
    /// beside this one.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub(crate) fn restart(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        self.queries.keep_again(pending.waiter.entry(), packet.bytes());
        self.send_selected(cx, connections, backend, AttemptKind::Restart, pending, packet)
    }

    /// Releases the slot of a datagram that the kernel refused to send.
    pub(crate) fn unsent(
        &mut self,
        cx: &Context,
        route: Route,
        packet: &mut Packet<'_>,
    ) -> Option<(Key, InFlight)> {
        Self::strip_header(cx, route.backend, packet);
        let key = Key { route, id: Header::parse(packet.bytes())?.id() };
        let Lookup::Live(in_flight) = self.outstanding.find(key) else { return None };
        self.release(cx, key);
        Some((key, in_flight))
    }

    /// Sends a query that the kernel refused to send to `from` to another server, none of
    /// `refused`.
    pub(crate) fn resend(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        from: BackendSlot,
        refused: &[BackendSlot],
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Option<Sent> {
        let next = self.select_next(cx, connections, from, refused, pending, packet.bytes())?;
        let kind = AttemptKind::Refused;
        match self.send(cx, connections, next, kind.at_once(), pending, packet) {
            Err(DropReason::Descriptors) => {
                self.send(cx, connections, next, kind.waiting(), pending, packet).ok()
            }
            sent => sent.ok(),
        }
    }

    /// Queries a second server too, because the first is slow, with the query in `scratch`. Returns
    /// none when there is none, or the pool's budget is used up.
    pub(crate) fn send_second<'s>(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        first: Key,
        in_flight: &InFlight,
        scratch: &'s mut Scratch,
    ) -> Option<(Sent, Packet<'s>)> {
        let (pending, from) = (in_flight.pending, first.route.backend);
        if *self.retry_tokens.get(pending.pool.index())? < u64::from(PPM) {
            return None;
        }
        let mut packet = scratch.load(self.queries.query(pending.waiter.entry())?);
        let next = self.select_next(cx, connections, from, &[from], &pending, packet.bytes())?;
        let sent =
            self.send(cx, connections, next, AttemptKind::Second.at_once(), &pending, &mut packet).ok()?;
        Some((sent, packet))
    }

    /// Rearms a first attempt for its remaining time, when a second one may begin; returns false
    /// when no queue is free.
    pub(crate) fn rearm_first(&mut self, cx: &Context, first: Key, in_flight: &InFlight) -> bool {
        let after = cx.snapshot.pool(in_flight.pending.pool).retry.map_or(TickDelta(0), |r| r.after);
        let timeout = self.attached(first.route.backend).map_or(after, |a| a.timeout);
        let left = TickDelta(timeout.0.saturating_sub(after.0).max(FIRST_ATTEMPT_LEFT_MIN.0));
        let Some(queue) = self.outstanding.queue(left) else { return false };
        self.outstanding.rearm(first, cx.now, queue);
        true
    }

    /// Repeats a query over a connection, because its response did not fit a datagram and its
    /// client uses a connection: on the same server if that has one. `packet` becomes the query.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub(crate) fn repeat_over_connection(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let entry = pending.waiter.entry();
        self.queries.require_connection(entry);
        if !self.queries.query(entry).is_some_and(|query| packet.replace(query)) {
            return Err(DropReason::QueryNotKept);
        }
        self.send_here_or_elsewhere(cx, connections, backend, AttemptKind::Truncated, pending, packet)
    }

    /// Continues a query whose attempt has ended without a response: on another server, or over
    /// another connection. Returns none when it cannot, and the caller finishes it.
    pub(crate) fn move_on<'s>(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        key: Key,
        pending: &PendingQuery,
        how: AttemptEnd,
        scratch: &'s mut Scratch,
    ) -> Option<(Sent, Packet<'s>)> {
        let (entry, backend) = (pending.waiter.entry(), key.route.backend);
        let has_left = pending.client.connection.is_some_and(|c| connections.clients.is_over(c));
        if has_left || !key.route.is_connection() && !pending.came_by_connection() {
            return None;
        }
        // A query that was too long to be kept has no further attempt.
        let mut packet = scratch.load(self.queries.query(entry)?);
        let (kind, to) = (AttemptKind::Failover, &mut packet);
        let sent = match how {
            // A server that closes too many connections under one query has failed it.
            AttemptEnd::Closed if self.queries.moved(entry) => {
                self.send_here_or_elsewhere(cx, connections, backend, kind, pending, to)
            }
            // One that was silent twice has, too.
            AttemptEnd::Silent if !self.queries.has_failed(entry, backend) && self.queries.moved(entry) => {
                self.send_elsewhere_or_here(cx, connections, backend, how, pending, to)
            }
            AttemptEnd::Unanswered => self.send_elsewhere_or_here(cx, connections, backend, how, pending, to),
            AttemptEnd::Failed | AttemptEnd::Closed | AttemptEnd::Silent => {
                match self.send_elsewhere(cx, connections, backend, kind, pending, to) {
                    Err(Unsent { short: Some(short), .. }) => {
                        self.send(cx, connections, short, kind.waiting(), pending, to)
                    }
                    sent => sent.map_err(|unsent| unsent.reason),
                }
            }
            AttemptEnd::Unserved => {
                let sent = self.send_elsewhere(cx, connections, backend, kind, pending, to);
                sent.map_err(|unsent| unsent.reason)
            }
        };
        Some((sent.ok()?, packet))
    }

    /// Sends the next copy that rules have made; its packet is in `scratch`. Returns none when
    /// there is none left. One that cannot be sent is counted.
    pub(crate) fn send_copy<'s>(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        scratch: &'s mut Scratch,
    ) -> Option<(Option<Sent>, Packet<'s>)> {
        let (backend, query) = self.copies.take()?;
        let mut packet = scratch.load(query);
        let question = Question::parse(packet.bytes()).map_or(0, |q| cx.hash(&q));
        let pending = PendingQuery::copy(question, packet.bytes());
        let sent = self.send_unawaited(cx, connections, backend, &pending, &mut packet);
        if sent.is_none() {
            cx.drop(DropReason::TeeFull);
        }
        Some((sent, packet))
    }

    /// Sends a copy of a query, whose response no client waits for; none if it cannot be sent.
    pub(crate) fn send_unawaited(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Option<Sent> {
        let sent = self.send(cx, connections, backend, AttemptKind::Copy.at_once(), pending, packet).ok()?;
        cx.stats().backend(backend).copies.add(1);
        self.unawaited += 1;
        Some(sent)
    }

    /// Sends a query to the server that was selected for it. Where that needs a descriptor and there
    /// is none, another one may have a connection; if not, the query waits for the selected one.
    #[inline]
    fn send_selected(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        kind: AttemptKind,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        match self.send(cx, connections, backend, kind.at_once(), pending, packet) {
            Err(DropReason::Descriptors) => self.send_or_wait(cx, connections, backend, pending, packet),
            sent => sent,
        }
    }

    #[cold]
    fn send_or_wait(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let (entry, kind) = (pending.waiter.entry(), AttemptKind::Refused);
        self.queries.set_subnet(entry, cx.sends_subnet(backend));
        if let Ok(sent) = self.send_elsewhere(cx, connections, backend, kind, pending, packet) {
            return Ok(sent);
        }
        self.queries.set_subnet(entry, cx.sends_subnet(backend));
        self.send(cx, connections, backend, kind.waiting(), pending, packet)
    }

    /// Sends a query to the server of its last attempt again, or elsewhere if that takes no more.
    /// Where all need a descriptor, it waits.
    fn send_here_or_elsewhere(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        from: BackendSlot,
        kind: AttemptKind,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let here = match self.send(cx, connections, from, kind.at_once(), pending, packet) {
            Err(reason) if is_unavailable(reason) => reason,
            sent => return sent,
        };
        let unsent = match self.send_elsewhere(cx, connections, from, kind, pending, packet) {
            Ok(sent) => return Ok(sent),
            Err(unsent) => unsent,
        };
        let waits_here = here == DropReason::Descriptors;
        let server = if waits_here { Some(from) } else { unsent.short }.ok_or(unsent.reason)?;
        self.send(cx, connections, server, kind.waiting(), pending, packet)
    }

    /// Continues a query on another server, or on that of its last attempt if no other takes it.
    /// Where all need a descriptor, it waits.
    fn send_elsewhere_or_here(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        from: BackendSlot,
        how: AttemptEnd,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let (entry, kind) = (pending.waiter.entry(), AttemptKind::Failover);
        let unsent = match self.send_elsewhere(cx, connections, from, kind, pending, packet) {
            Err(unsent) if is_unavailable(unsent.reason) => unsent,
            sent => return sent.map_err(|unsent| unsent.reason),
        };
        let mut short = unsent.short;
        // The query is sent as it is: see `select_next`.
        let may_return = how == AttemptEnd::Silent
            || self.has_tries_left(entry, from)
                && cx.sends_subnet(from) == self.has_subnet(cx, from, pending);
        if may_return {
            match self.send(cx, connections, from, kind.at_once(), pending, packet) {
                Err(DropReason::Descriptors) => short = short.or(Some(from)),
                Err(DropReason::OutstandingFull) => {}
                sent => return sent,
            }
        }
        self.send(cx, connections, short.ok_or(unsent.reason)?, kind.waiting(), pending, packet)
    }

    /// Sends a query that `from` has failed to the next server that takes it at once and has not
    /// failed it.
    fn send_elsewhere(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        from: BackendSlot,
        kind: AttemptKind,
        pending: &PendingQuery,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, Unsent> {
        let entry = pending.waiter.entry();
        let mut unsent = Unsent { reason: DropReason::OutstandingFull, short: None };
        // Without an entry nothing would tell which servers have failed it.
        if entry.is_none() {
            return Err(unsent);
        }
        self.queries.failed_by(entry, from);
        while self.has_tries_left(entry, from) {
            let failed = self.queries.failed(entry);
            let next = self.select_next(cx, connections, from, failed.as_slice(), pending, packet.bytes());
            let next = next.ok_or(unsent)?;
            match self.send(cx, connections, next, kind.at_once(), pending, packet) {
                Err(reason) if is_unavailable(reason) => {
                    let is_short = reason == DropReason::Descriptors;
                    unsent.short = unsent.short.or_else(|| is_short.then_some(next));
                    self.queries.failed_by(entry, next);
                }
                Err(reason) => return Err(Unsent { reason, short: None }),
                Ok(sent) => return Ok(sent),
            }
        }
        Err(unsent)
    }

    /// Returns whether the query may have another attempt, by the setting of this server.
    fn has_tries_left(&self, entry: Option<EntryId>, server: BackendSlot) -> bool {
        let most = usize::from(self.attached(server).map_or(1, |a| a.tries)).min(FAILED_MAX);
        self.queries.failed(entry).as_slice().len() < most
    }

    /// Selects the server of a further attempt, none of `excluded`, by the policy of the pool (a
    /// Lua policy's fallback).
    fn select_next(
        &mut self,
        cx: &mut Context,
        connections: &Connections,
        from: BackendSlot,
        excluded: &[BackendSlot],
        pending: &PendingQuery,
        query: &[u8],
    ) -> Option<BackendSlot> {
        let question = Question::parse(query)?;
        let client = self.client_of(pending);
        let subject = Subject { qname: question.qname, client: &client };
        let came_by_connection = pending.came_by_connection();
        let next = self.select(cx, connections, pending.pool, &subject, came_by_connection, excluded)?;
        // The query is sent as it is: with the client's subnet only to servers that get it.
        (cx.sends_subnet(next) == self.has_subnet(cx, from, pending)).then_some(next)
    }

    /// Returns whether a query is as servers get it that get the client's subnet: as `from` got it.
    pub(crate) fn has_subnet(&self, cx: &Context, from: BackendSlot, pending: &PendingQuery) -> bool {
        // Without an entry it was sent in this batch, by this configuration.
        self.queries.with_subnet(pending.waiter.entry()).unwrap_or_else(|| cx.sends_subnet(from))
    }

    /// Opens the entry of a query for which rules have decided something. Returns none when the
    /// table is full.
    pub(crate) fn open_entry(
        &mut self,
        now: Tick,
        state: Box<crate::rules::query_state::QueryState>,
    ) -> Option<EntryId> {
        let Some(entry) = self.queries.open(now) else {
            self.queries.recycle(state);
            return None;
        };
        self.queries.put(Some(entry), state);
        Some(entry)
    }
}

/// Returns whether a query could not be sent because its server takes none at this time.
const fn is_unavailable(reason: DropReason) -> bool {
    matches!(reason, DropReason::OutstandingFull | DropReason::Descriptors)
}
