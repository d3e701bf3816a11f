//! The attempts of a query: to the chosen server, to a second one when that is slow, to another one
//! when the kernel refuses or a connection fails.

use crate::balance::Subject;
use crate::base::addr::{BackendSlot, Route, SocketSlot};
use crate::base::packet::Packet;
use crate::base::time::TickDelta;
use crate::model::Retry;
use crate::shard::Connections;
use crate::shard::backend::Need;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::{Asked, Found, Key, Known, Queue, Terms, Waiter};
use crate::shard::dispatch::query_table::EntryId;
use crate::shard::dispatch::{Attached, Dispatcher, RETRY_TOKENS_MAX};
use crate::shard::scratch::Scratch;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::PPM;
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::transfer::Transfer;
use crate::wire::{answer, edit, keepalive, transfer};

/// Bytes of an answer that leaves as a datagram, at most: what engines have room for, and more
/// than any EDNS size in use.
const DATAGRAM_MAX: usize = 4_096;
/// The shortest time that a first attempt still has after a second one has begun.
const FIRST_ATTEMPT_LEFT_MIN: TickDelta = TickDelta::from_ms(1);

/// How a query was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The packet is to leave as a datagram.
    Datagram(Route),
    /// It is in the output of a connection.
    Connection,
}

/// How an attempt has ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    /// Its server does not serve: another one is asked.
    Failed,
    /// Its server has closed a connection that had served: a new one is opened.
    Closed,
}

impl Dispatcher {
    /// Sends a query to the chosen backend: its first attempt. What is kept of the query gets its
    /// entry here, where it has none yet.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub(crate) fn dispatch(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        asked: &mut Asked,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let attached = self.attached(backend);
        let by_connection = asked.client.connection.is_some() || attached.is_some_and(|a| a.by_connection);
        let retry = self.retry(cx, attached, asked);
        let keeps = retry.is_some() || cx.needs.queries;
        if asked.waiter == Waiter::Client(None) && (keeps || by_connection) {
            asked.waiter = Waiter::Client(self.queries.open());
            if asked.waiter == Waiter::Client(None)
                && asked.client.connection.is_some()
                && is_transfer(packet.bytes())
            {
                // Nothing would know that more than one message comes.
                return Err(DropReason::QueryTableFull);
            }
        }
        let mut queue = None;
        if by_connection {
            if keepalive::may_be_there(packet.bytes()) {
                // Between the client and us (RFC 7828, 3.2.1: "hop-by-hop").
                keepalive::remove(packet);
            }
            self.prepare_for_connection(asked, packet.bytes());
        } else if keeps {
            let kept = self.queries.keep_query(asked.waiter.entry(), packet.bytes(), retry.is_some());
            queue = retry.filter(|_| kept).and_then(|retry| self.outstanding.queue(retry.after));
        }
        match self.claim(cx, connections, backend, *asked, queue) {
            Some(key) => self.put(cx, connections, key, asked, packet).ok_or(DropReason::QuerySendError),
            None => {
                cx.stats().backend(backend).send_errors.add(1);
                Err(DropReason::OutstandingFull)
            }
        }
    }

    /// Whether a second server is asked when the first one is slow. The pool earns a part of such
    /// an attempt with each query.
    fn retry(&mut self, cx: &Context, attached: Option<Attached>, asked: &Asked) -> Option<Retry> {
        // After the server's own time-out it would only make that longer.
        let waits = attached.map(|a| a.timeout);
        let retry =
            cx.snapshot.pool(asked.pool).retry.filter(|r| waits.is_some_and(|waits| r.after < waits))?;
        let tokens = &mut self.retry_tokens[asked.pool.index()];
        *tokens = (*tokens + u64::from(retry.budget_ppm)).min(RETRY_TOKENS_MAX);
        Some(retry)
    }

    /// Takes a slot for an attempt, and a connection if it goes by one. None when there is none.
    fn claim(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        asked: Asked,
        queue: Option<Queue>,
    ) -> Option<Key> {
        let max = cx.snapshot.backend(backend)?.outstanding_max;
        let attached = self.attached(backend)?;
        let connection = if self.goes_by_connection(cx, attached, &asked) {
            Some(self.connection_for(cx, connections, backend, &asked)?)
        } else {
            None
        };
        let own = if connection.is_some() && asked.client.connection.is_some() {
            attached.connection_queue
        } else {
            attached.queue
        };
        let terms = Terms { max, now: cx.now, batch: cx.batch, queue: queue.unwrap_or(own), connection };
        let Some(key) = self.outstanding.claim(backend, asked, terms, &mut cx.rng) else {
            if let Some(connection) = connection {
                connections.backends.spare(Route { backend, socket: SocketSlot::Connection(connection) });
            }
            return None;
        };
        self.queries.attempted(asked.waiter.entry(), key);
        self.balancer.claimed(backend);
        cx.stats().backend(backend).queries.add(1);
        Some(key)
    }

    fn goes_by_connection(&self, cx: &Context, server: Attached, asked: &Asked) -> bool {
        server.by_connection
            || asked.client.connection.is_some()
                && (!cx.snapshot.pool(asked.pool).tcp_to_udp
                    || self.queries.goes_by_connection(asked.waiter.entry()))
    }

    /// Keeps what is needed to ask a query again by a connection, or when its connection ends.
    fn prepare_for_connection(&mut self, asked: &Asked, query: &[u8]) {
        let entry = asked.waiter.entry();
        self.queries.keep_long(entry, query);
        if asked.client.connection.is_none() {
            self.queries.set_limit(entry, answer::udp_limit(query).min(DATAGRAM_MAX));
        } else if let Some(question) = Question::parse(query)
            && transfer::is_transfer(question.qtype)
        {
            let serial = transfer::ixfr_serial(query);
            self.queries.set_transfer(entry, Transfer::new(question.qtype, serial));
            self.queries.force_connection(entry);
        }
    }

    /// A connection to a server for a query; a new one begins with the header that the server wants.
    fn connection_for(
        &mut self,
        cx: &Context,
        connections: &mut Connections,
        backend: BackendSlot,
        asked: &Asked,
    ) -> Option<u16> {
        let mut header = std::mem::take(&mut self.header);
        let found = self.connection_key(cx, connections, backend, asked, &mut header);
        let need = Need {
            options: &cx.snapshot.backend(backend)?.connections,
            transfer: self.queries.transfer(asked.waiter.entry()),
            key: found.key,
            source: found.source,
        };
        let outstanding = &self.outstanding;
        let picked = connections.backends.pick(backend, need, |route| outstanding.live_on(route), cx.now);
        if let Some(route) = picked {
            connections.backends.begin(route, found, &header);
        }
        self.header = header;
        match picked?.socket {
            SocketSlot::Connection(connection) => Some(connection),
            SocketSlot::Datagram(_) => None,
        }
    }

    /// Sends a query that has its claim: it is made the datagram to be sent, or goes into a
    /// connection's output. None, and its claim taken back, when there is no room for it.
    fn put(
        &mut self,
        cx: &Context,
        connections: &mut Connections,
        key: Key,
        asked: &Asked,
        packet: &mut Packet<'_>,
    ) -> Option<Sent> {
        edit::set_id(packet.bytes_mut(), key.id);
        let route = key.route;
        if route.is_connection() {
            let alone = self.outstanding.live_on(route) <= 1;
            if connections.backends.ask(route, packet.bytes(), alone, cx.now) {
                return Some(Sent::Connection);
            }
            connections.backends.spare(route);
        } else if self.prepend_header(cx, connections, route.backend, asked, packet) {
            return Some(Sent::Datagram(route));
        }
        self.release(cx, key);
        self.queries.ended(asked.waiter.entry(), key);
        None
    }

    /// Takes back the claim of a datagram that the kernel would not send.
    pub(crate) fn unsent(
        &mut self,
        cx: &Context,
        route: Route,
        packet: &mut Packet<'_>,
    ) -> Option<(Key, Known)> {
        Self::strip_header(cx, route.backend, packet);
        let key = Key { route, id: Header::parse(packet.bytes())?.id() };
        let Found::Live(known) = self.outstanding.find(key) else { return None };
        self.release(cx, key);
        Some((key, known))
    }

    /// Sends a query that the kernel refused to send to `from` to another server, none of `refused`.
    pub(crate) fn resend(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        from: BackendSlot,
        refused: &[BackendSlot],
        asked: &Asked,
        packet: &mut Packet<'_>,
    ) -> Option<Sent> {
        let client = self.asker(asked);
        let question = Question::parse(packet.bytes())?;
        let subject = Subject { qname: question.qname, client: &client };
        let backend = self.balancer.select(&cx.snapshot, asked.pool, &subject, refused, &mut cx.rng)?;
        // The query goes as it stands: with the client's subnet only to servers that want it.
        if cx.sends_subnet(backend) != cx.sends_subnet(from) {
            return None;
        }
        let key = self.claim(cx, connections, backend, *asked, None)?;
        self.queries.take_retry(asked.waiter.entry());
        self.put(cx, connections, key, asked, packet)
    }

    /// Sends a query to a server once more, for a rule that asked for it: there is no second attempt
    /// beside this one.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub(crate) fn restart(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        asked: &Asked,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        self.queries.keep_again(asked.waiter.entry(), packet.bytes());
        self.queries.take_retry(asked.waiter.entry());
        let key = self.claim(cx, connections, backend, *asked, None).ok_or(DropReason::OutstandingFull)?;
        self.put(cx, connections, key, asked, packet).ok_or(DropReason::QuerySendError)
    }

    /// An answer did not fit into a datagram, and its client has a connection: it is asked for again,
    /// by a connection, from the same server if that has one. `packet` becomes the query.
    pub(crate) fn ask_by_connection(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        backend: BackendSlot,
        asked: &Asked,
        packet: &mut Packet<'_>,
    ) -> Result<Sent, DropReason> {
        let entry = asked.waiter.entry();
        self.queries.force_connection(entry);
        if !self.queries.query(entry).is_some_and(|query| packet.replace(query)) {
            return Err(DropReason::OutstandingFull);
        }
        let own = self.claim(cx, connections, backend, *asked, None);
        let claimed = own.or_else(|| {
            self.queries.failed_by(entry, backend);
            self.claim_elsewhere(cx, connections, backend, asked, packet.bytes())
        });
        let key = claimed.ok_or(DropReason::OutstandingFull)?;
        self.put(cx, connections, key, asked, packet).ok_or(DropReason::QuerySendError)
    }

    /// The first server is slow: asks a second one too, with the query in `scratch`. None when there
    /// is none, or the pool has asked too many.
    pub(crate) fn ask_second<'s>(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        first: Key,
        known: Known,
        scratch: &'s mut Scratch,
    ) -> Option<(Sent, Packet<'s>)> {
        let (asked, entry) = (known.asked, known.asked.waiter.entry());
        let tokens = self.retry_tokens.get(asked.pool.index())?.checked_sub(u64::from(PPM))?;
        let client = self.asker(&asked);
        let mut packet = scratch.load(self.queries.query(entry)?);
        let question = Question::parse(packet.bytes())?;
        let subject = Subject { qname: question.qname, client: &client };
        let avoid = [first.route.backend];
        let backend = self.balancer.select(&cx.snapshot, asked.pool, &subject, &avoid, &mut cx.rng)?;
        // The query goes as it stands: with the client's subnet only to servers that want it.
        if cx.sends_subnet(backend) != cx.sends_subnet(first.route.backend) {
            return None;
        }
        let second = self.claim(cx, connections, backend, asked, None)?;
        self.retry_tokens[asked.pool.index()] = tokens;
        cx.stats().retries.add(1);
        let sent = self.put(cx, connections, second, &asked, &mut packet)?;
        Some((sent, packet))
    }

    /// Moves a first attempt to the rest of its time, once a second one may begin; false when that
    /// cannot be had.
    pub(crate) fn wait_for_rest(&mut self, cx: &Context, first: Key, known: Known) -> bool {
        let after = cx.snapshot.pool(known.asked.pool).retry.map_or(TickDelta(0), |r| r.after);
        let timeout = self.attached(first.route.backend).map_or(after, |a| a.timeout);
        let left = TickDelta(timeout.0.saturating_sub(after.0).max(FIRST_ATTEMPT_LEFT_MIN.0));
        let Some(queue) = self.outstanding.queue(left) else { return false };
        self.outstanding.rearm(first, cx.now, queue);
        true
    }

    /// An attempt of a query has ended without an answer: the query goes to another server, or by
    /// another connection. None when it does not, and the caller ends it.
    pub(crate) fn move_on<'s>(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        key: Key,
        asked: &Asked,
        how: AttemptEnd,
        scratch: &'s mut Scratch,
    ) -> Option<(Sent, Packet<'s>)> {
        let (entry, backend) = (asked.waiter.entry(), key.route.backend);
        let has_left = asked.client.connection.is_some_and(|c| connections.clients.is_over(c));
        if has_left || !key.route.is_connection() && asked.client.connection.is_none() {
            return None;
        }
        // A server that closes too many connections under one query has failed it.
        let again = how == AttemptEnd::Closed && self.queries.moved(entry);
        if !again {
            self.queries.failed_by(entry, backend);
        }
        // One that was too long to be kept is not asked again.
        let mut packet = scratch.load(self.queries.query(entry)?);
        let own = if again { self.claim(cx, connections, backend, *asked, None) } else { None };
        let next = own.or_else(|| {
            if again {
                self.queries.failed_by(entry, backend);
            }
            self.claim_elsewhere(cx, connections, backend, asked, packet.bytes())
        })?;
        cx.stats().retries.add(1);
        let sent = self.put(cx, connections, next, asked, &mut packet)?;
        Some((sent, packet))
    }

    /// A slot at the next server that has one, for a query that others have failed.
    fn claim_elsewhere(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        failed: BackendSlot,
        asked: &Asked,
        query: &[u8],
    ) -> Option<Key> {
        let entry = asked.waiter.entry();
        let most = usize::from(cx.snapshot.backend(failed).map_or(1, |b| b.connections.tries));
        while self.queries.failed(entry).len() < most {
            let next = self.next_server(cx, failed, asked, query)?;
            if let Some(key) = self.claim(cx, connections, next, *asked, None) {
                return Some(key);
            }
            self.queries.failed_by(entry, next);
        }
        None
    }

    /// A server for a query that others have failed. It goes as it stands: with the client's
    /// subnet only to servers that want it.
    fn next_server(
        &mut self,
        cx: &mut Context,
        failed: BackendSlot,
        asked: &Asked,
        query: &[u8],
    ) -> Option<BackendSlot> {
        let question = Question::parse(query)?;
        let client = self.asker(asked);
        let subject = Subject { qname: question.qname, client: &client };
        let avoid = self.queries.failed(asked.waiter.entry());
        let next = self.balancer.select(&cx.snapshot, asked.pool, &subject, avoid, &mut cx.rng)?;
        (!avoid.contains(&next) && cx.sends_subnet(next) == cx.sends_subnet(failed)).then_some(next)
    }

    /// Sends the next copy that rules have made; its packet is in `scratch`. None when there is none
    /// left. One that cannot be sent is counted.
    pub(crate) fn send_copy<'s>(
        &mut self,
        cx: &mut Context,
        connections: &mut Connections,
        scratch: &'s mut Scratch,
    ) -> Option<(Option<Sent>, Packet<'s>)> {
        let (backend, bytes, len) = self.copies.take()?;
        let mut packet = scratch.load(&bytes[..len]);
        self.copies.put_back(bytes);
        let question = Question::parse(packet.bytes()).map_or(0, |q| cx.hash(&q));
        let asked = Asked::copy(question);
        let key = self.claim(cx, connections, backend, asked, None);
        let sent = key.and_then(|key| self.put(cx, connections, key, &asked, &mut packet));
        match sent {
            Some(_) => self.unawaited += 1,
            None => {
                cx.drop(DropReason::TeeFull);
            }
        }
        Some((sent, packet))
    }

    /// What is kept of a query for which rules have decided something. None when the table is full.
    pub(crate) fn open_entry(
        &mut self,
        state: Box<crate::rules::query_state::QueryState>,
    ) -> Option<EntryId> {
        let Some(entry) = self.queries.open() else {
            self.queries.recycle(state);
            return None;
        };
        self.queries.put(Some(entry), state);
        Some(entry)
    }
}

/// Whether a query asks for a zone transfer.
fn is_transfer(query: &[u8]) -> bool {
    Question::parse(query).is_some_and(|question| transfer::is_transfer(question.qtype))
}
