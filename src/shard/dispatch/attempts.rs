//! The tries of a query: to the chosen server, to a second one when that is slow, to another one
//! when the kernel refuses, and giving up.

use crate::balance::Subject;
use crate::base::addr::{BackendSlot, Route};
use crate::base::packet::Packet;
use crate::base::time::TickDelta;
use crate::shard::backend::events::Moved;
use crate::shard::dispatch::outstanding::{
    Asked, COPIED, DELIVERED, Found, Key, Known, NO_CASE, Queue, Terms,
};
use crate::shard::verdict::Verdict;
use crate::shard::{RETRY_TOKENS_MAX, Shard};
use crate::stats::close_reason::BackendCloseReason;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::PPM;
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::{edit, keepalive, transfer};

impl Shard {
    /// Sends a query to the chosen backend.
    pub(crate) fn forward(
        &mut self,
        backend: BackendSlot,
        mut asked: Asked,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let attached = self.attached.get(backend.index()).copied().flatten();
        let waits = attached.map(|a| a.timeout);
        let clients = asked.client.connection.is_some() || attached.is_some_and(|a| a.by_connection);
        // A second try after the server's own time-out would only make that longer.
        let retry = self.snapshot.pool(asked.pool).retry.filter(|r| waits.is_some_and(|w| r.after < w));
        let mut queue = None;
        if let Some(retry) = retry {
            let tokens = &mut self.retry_tokens[asked.pool.index()];
            *tokens = (*tokens + u64::from(retry.budget_ppm)).min(RETRY_TOKENS_MAX);
        }
        let keeps = retry.is_some() || self.wants.queries;
        if asked.query_state == NO_CASE && (keeps || clients) {
            asked.query_state = self.query_table.open_bare().unwrap_or(NO_CASE);
            if asked.query_state == NO_CASE
                && asked.client.connection.is_some()
                && is_transfer(packet.bytes())
            {
                // Nothing would know that more than one message comes.
                return self.drop(DropReason::QueryTableFull);
            }
        }
        if clients {
            if keepalive::may_be_there(packet.bytes()) {
                // Between the client and us (RFC 7828, 3.2.1: "hop-by-hop").
                keepalive::remove(packet);
            }
            self.prepare_for_connection(&asked, packet.bytes());
        }
        if keeps && !clients {
            let kept = self.query_table.keep_query(asked.query_state, packet.bytes(), retry.is_some());
            if let Some(retry) = retry.filter(|_| kept) {
                queue = self.outstanding.queue(retry.after);
            }
        }
        match self.claim(backend, asked, queue) {
            Some(key) => self.send(key, &asked, packet),
            None => {
                self.query_table.close(asked.query_state);
                self.stats().backend(backend).send_errors.add(1);
                self.drop(DropReason::OutstandingFull)
            }
        }
    }

    pub(crate) fn claim(&mut self, backend: BackendSlot, asked: Asked, queue: Option<Queue>) -> Option<Key> {
        let max = self.snapshot.backend(backend)?.outstanding_max;
        let attached = self.attached.get(backend.index()).copied().flatten()?;
        let route = if self.goes_by_connection(attached, &asked) {
            Some(self.connection_for(backend, &asked)?)
        } else {
            None
        };
        let own = if route.is_some() && asked.client.connection.is_some() {
            attached.connection_queue
        } else {
            attached.queue
        };
        let terms = Terms { max, now: self.now, batch: self.batch, queue: queue.unwrap_or(own), route };
        let Some(key) = self.outstanding.claim(backend, asked, terms, &mut self.rng) else {
            if let Some(socket) = route {
                self.backends.spare(Route { backend, socket });
            }
            return None;
        };
        self.query_table.tried(asked.query_state, key);
        self.selector.claimed(backend);
        self.stats().backend(backend).queries.add(1);
        Some(key)
    }

    /// Sends a query that has its claim: out of here, or into a line's output. Without room for the
    /// PROXY header that its server wants it is dropped.
    pub(crate) fn send(&mut self, key: Key, asked: &Asked, packet: &mut Packet<'_>) -> Verdict {
        if let Some(verdict) = self.put(key, asked, packet) {
            return verdict;
        }
        if self.query_table.ended(asked.query_state, key).is_none() {
            self.query_table.close(asked.query_state);
        }
        self.drop(DropReason::QuerySendError)
    }

    /// As [`Shard::send`]; none, and its claim taken back, when there is no room.
    pub(crate) fn put(&mut self, key: Key, asked: &Asked, packet: &mut Packet<'_>) -> Option<Verdict> {
        edit::set_id(packet.bytes_mut(), key.id);
        let route = key.route;
        if route.is_connection() {
            let alone = self.outstanding.live_on(route) <= 1;
            if self.backends.ask(route, packet.bytes(), alone, self.now) {
                return Some(Verdict::Hold);
            }
            self.backends.spare(route);
        } else if self.proxy_header(route.backend, asked, packet) {
            return Some(Verdict::Forward(route));
        }
        self.stats().backend(route.backend).send_errors.add(1);
        self.outstanding.release(key);
        self.selector.settled(route.backend, None);
        None
    }

    /// The kernel would not send this query (its packet is as `on_query` or `on_tick` left it):
    /// it goes to another server, none of `refused`, or is dropped.
    pub fn on_unsent(&mut self, route: Route, packet: &mut Packet<'_>, refused: &[BackendSlot]) -> Verdict {
        let Some((key, known)) = self.unsent(route, packet) else {
            return self.drop(DropReason::QuerySendError);
        };
        if self.nobody_waits(known) {
            return Verdict::Drop(DropReason::QuerySendError);
        }
        if self.query_table.ended(known.asked.query_state, key).is_some() {
            // The first try is still out: it goes on alone.
            return Verdict::Drop(DropReason::QuerySendError);
        }
        let client = self.asker(&known.asked);
        let other = Question::parse(packet.bytes()).and_then(|question| {
            let subject = Subject { qname: question.qname, client: &client };
            self.selector.select(&self.snapshot, known.asked.pool, &subject, refused, &mut self.rng)
        });
        // The query goes as it stands: with the client's subnet only to servers that want it.
        let other = other.filter(|b| self.sends_subnet(*b) == self.sends_subnet(route.backend));
        match other.and_then(|backend| self.claim(backend, known.asked, None)) {
            Some(second) => {
                self.query_table.take_retry(known.asked.query_state);
                let verdict = self.send(second, &known.asked, packet);
                self.conclude(known.asked.client, verdict, packet)
            }
            None => {
                self.query_table.close(known.asked.query_state);
                let verdict = self.drop(DropReason::QuerySendError);
                self.conclude(known.asked.client, verdict, packet)
            }
        }
    }

    /// The kernel would not send this query to any server that could be tried.
    pub fn abandon(&mut self, route: Route, packet: &mut Packet<'_>) {
        if let Some((key, known)) = self.unsent(route, packet) {
            // A query whose other try is still out is not lost.
            if !self.nobody_waits(known) && self.query_table.ended(known.asked.query_state, key).is_none() {
                self.query_table.close(known.asked.query_state);
                let verdict = self.drop(DropReason::QuerySendError);
                self.conclude(known.asked.client, verdict, packet);
            }
        }
    }

    /// Whether no client waits for a try that was not sent; a copy is counted.
    fn nobody_waits(&mut self, known: Known) -> bool {
        if known.asked.query_state == COPIED {
            self.drop(DropReason::TeeFull);
        }
        let nobody = matches!(known.asked.query_state, DELIVERED | COPIED);
        self.unawaited -= u32::from(nobody);
        nobody
    }

    /// Takes back the claim of a query that was not sent.
    fn unsent(&mut self, route: Route, packet: &mut Packet<'_>) -> Option<(Key, Known)> {
        self.strip(route.backend, packet);
        let key = Key { route, id: Header::parse(packet.bytes())?.id() };
        let Found::Live(known) = self.outstanding.find(key) else { return None };
        self.stats().backend(route.backend).send_errors.add(1);
        self.outstanding.release(key);
        self.selector.settled(route.backend, None);
        Some((key, known))
    }

    /// Time is up for a try.
    pub(crate) fn give_up(&mut self, key: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let backend = key.route.backend;
        if key.route.is_connection()
            && self.backends.is_paused(key.route)
            && let Some(queue) = self.connection_queue(backend)
        {
            // It is the client that keeps it waiting, and has a time-out of its own.
            return self.outstanding.rearm(key, self.now, queue);
        }
        self.outstanding.expire(key);
        self.selector.settled(backend, None);
        self.stats().backend(backend).timeouts.add(1);
        if key.route.is_connection() {
            self.backends.missed(key.route, known.claimed_at);
        }
        // The other try may still be answered; it counts the loss if not.
        if self.query_table.ended(known.asked.query_state, key).is_some() {
            return;
        }
        if key.route.is_connection() && self.backends.is_transferring(key.route) {
            // Half of a zone cannot be followed by the beginning of another.
            self.backends.end(key.route, BackendCloseReason::Silent);
            return self.lose_by_connection(known, true);
        }
        if key.route.is_connection() && self.backends.is_transfer(key.route) {
            // What might still come by it is for nobody.
            self.backends.end(key.route, BackendCloseReason::Done);
        }
        if !self.moves_on(key, known, Moved::Failed, out) {
            self.timed_out(key, known, out);
        }
    }

    /// The first server is slow: asks a second one too, and takes whichever answers first.
    pub(crate) fn try_second(&mut self, first: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let after = self.snapshot.pool(known.asked.pool).retry.map_or(TickDelta(0), |r| r.after);
        let attached = self.attached.get(first.route.backend.index()).copied().flatten();
        let timeout = attached.map_or(after, |a| a.timeout);
        let left = TickDelta(timeout.0.saturating_sub(after.0).max(1_000_000));
        match self.outstanding.queue(left) {
            Some(queue) => self.outstanding.rearm(first, self.now, queue),
            None => return self.give_up(first, known, out),
        }
        if let Some(second) = self.claim_second(first, known) {
            self.stats().retries.add(1);
            let mut query = std::mem::take(&mut self.buffer);
            query.clear();
            query.extend_from_slice(
                self.query_table.query(known.asked.query_state).as_deref().unwrap_or_default(),
            );
            if !self.send_copy(second, &known.asked, &mut query, out) {
                // The first try goes on alone.
                self.query_table.ended(known.asked.query_state, second);
            }
            self.buffer = query;
        }
    }

    fn claim_second(&mut self, first: Key, known: Known) -> Option<Key> {
        let pool = known.asked.pool;
        let tokens = self.retry_tokens.get(pool.index())?.checked_sub(u64::from(PPM))?;
        let client = self.asker(&known.asked);
        let question = Question::parse(self.query_table.query(known.asked.query_state)?)?;
        let subject = Subject { qname: question.qname, client: &client };
        let avoid = [first.route.backend];
        let backend = self.selector.select(&self.snapshot, pool, &subject, &avoid, &mut self.rng)?;
        // The query goes as it stands: with the client's subnet only to servers that want it.
        if self.sends_subnet(backend) != self.sends_subnet(first.route.backend) {
            return None;
        }
        let second = self.claim(backend, known.asked, None)?;
        self.retry_tokens[pool.index()] = tokens;
        Some(second)
    }

    /// A try is answered: the other one, if there is one, is not waited for any more.
    pub(crate) fn settle(&mut self, key: Key, known: Known, code: u8) {
        self.count_answer(key, known, code);
        if let Some(twin) = self.query_table.ended(known.asked.query_state, key) {
            self.let_go(twin);
            // A restart goes on with the case, and the other try is no part of that.
            self.query_table.ended(known.asked.query_state, twin);
        }
    }

    fn count_answer(&mut self, key: Key, known: Known, code: u8) {
        let backend = key.route.backend;
        // How long a whole zone takes says nothing of how fast its server answers.
        let is_zone = key.route.is_connection() && self.backends.is_transferring(key.route);
        let latency = (!is_zone).then(|| self.now.since(known.claimed_at));
        self.outstanding.settle(key);
        self.selector.settled(backend, latency);
        let counts = self.stats().backend(backend);
        counts.responses.add(1);
        if let Some(latency) = latency {
            counts.latency.record(latency.0);
        }
        if code == crate::wire::header::rcode::SERVFAIL {
            counts.servfails.add(1);
        }
    }

    /// The other try of a query that is answered: its server still owes an answer, which tells of
    /// its health. Were it let go, a server that never answers would look idle and fast.
    fn let_go(&mut self, twin: Key) {
        if self.outstanding.deliver(twin) {
            self.unawaited += 1;
        }
    }

    /// An answer that no client waits for: of a try that lost the race, or to a copy.
    pub(crate) fn came_unawaited(&mut self, key: Key, known: Known, code: u8, reason: DropReason) -> Verdict {
        self.unawaited -= 1;
        self.count_answer(key, known, code);
        self.drop(reason)
    }

    /// A try that no client waits for, and whose server never answered: its loss.
    pub(crate) fn never_came(&mut self, key: Key) {
        self.unawaited -= 1;
        self.outstanding.expire(key);
        self.selector.settled(key.route.backend, None);
        self.stats().backend(key.route.backend).timeouts.add(1);
    }
}

/// Whether a query asks for a zone transfer.
fn is_transfer(query: &[u8]) -> bool {
    Question::parse(query).is_some_and(|question| transfer::is_transfer(question.qtype))
}
