//! The tries of a query: to the chosen server, to a second one when that is slow, to another one
//! when the kernel refuses, and giving up.

use super::lined::Moved;
use super::outstanding::{Asked, DELIVERED, Found, Key, Known, NO_CASE, Queue, TEED, Terms};
use super::policy::Subject;
use super::streams::LineEnd;
use super::verdict::{DropReason, Verdict};
use super::{RETRY_SAVINGS_MAX, Shard};
use crate::addr::{BackendSlot, Route};
use crate::live::PPM;
use crate::packet::Packet;
use crate::time::TickDelta;
use crate::wire::edit;
use crate::wire::header::Header;
use crate::wire::keepalive;
use crate::wire::query::Question;
use crate::wire::transfer;

impl Shard {
    /// Sends a query to the chosen backend.
    pub(super) fn lob(&mut self, backend: BackendSlot, mut asked: Asked, packet: &mut Packet<'_>) -> Verdict {
        let attached = self.attached.get(backend.index()).copied().flatten();
        let waits = attached.map(|a| a.timeout);
        let streams = asked.client.stream.is_some() || attached.is_some_and(|a| a.by_line);
        // A second try after the server's own time-out would only make that longer.
        let retry = self.snapshot.pool(asked.pool).retry.filter(|r| waits.is_some_and(|w| r.after < w));
        let mut queue = None;
        if let Some(retry) = retry {
            let savings = &mut self.retry_savings[asked.pool.index()];
            *savings = (*savings + u64::from(retry.budget_ppm)).min(RETRY_SAVINGS_MAX);
        }
        let keeps = retry.is_some() || self.wants.queries;
        if asked.case == NO_CASE && (keeps || streams) {
            asked.case = self.cases.open_bare().unwrap_or(NO_CASE);
            if asked.case == NO_CASE && asked.client.stream.is_some() && is_transfer(packet.bytes()) {
                // Nothing would know that more than one message comes.
                return self.drop(DropReason::CasesFull);
            }
        }
        if streams {
            if keepalive::may_be_there(packet.bytes()) {
                // Between the client and us (RFC 7828, 3.2.1: "hop-by-hop").
                keepalive::remove(packet);
            }
            self.prepare_for_line(&asked, packet.bytes());
        }
        if keeps && !streams {
            let kept = self.cases.keep_query(asked.case, packet.bytes(), retry.is_some());
            if let Some(retry) = retry.filter(|_| kept) {
                queue = self.outstanding.queue(retry.after);
            }
        }
        match self.claim(backend, asked, queue) {
            Some(key) => self.send(key, &asked, packet),
            None => {
                self.cases.close(asked.case);
                self.page().backend(backend).send_errors.add(1);
                self.drop(DropReason::OutstandingFull)
            }
        }
    }

    pub(super) fn claim(&mut self, backend: BackendSlot, asked: Asked, queue: Option<Queue>) -> Option<Key> {
        let max = self.snapshot.backend(backend)?.outstanding_max;
        let attached = self.attached.get(backend.index()).copied().flatten()?;
        let line =
            if self.goes_by_line(attached, &asked) { Some(self.line_for(backend, &asked)?) } else { None };
        let own = if line.is_some() && asked.client.stream.is_some() {
            attached.line_queue
        } else {
            attached.queue
        };
        let terms = Terms { max, now: self.now, batch: self.batch, queue: queue.unwrap_or(own), line };
        let Some(key) = self.outstanding.claim(backend, asked, terms, &mut self.rng) else {
            if let Some(socket) = line {
                self.lines.spare(Route { backend, socket });
            }
            return None;
        };
        self.cases.tried(asked.case, key);
        self.selector.claimed(backend);
        self.page().backend(backend).queries.add(1);
        Some(key)
    }

    /// Sends a query that has its claim: out of here, or into a line's output. Without room for the
    /// PROXY header that its server wants it is dropped.
    pub(super) fn send(&mut self, key: Key, asked: &Asked, packet: &mut Packet<'_>) -> Verdict {
        if let Some(verdict) = self.put(key, asked, packet) {
            return verdict;
        }
        if self.cases.ended(asked.case, key).is_none() {
            self.cases.close(asked.case);
        }
        self.drop(DropReason::QuerySendError)
    }

    /// As [`Shard::send`]; none, and its claim taken back, when there is no room.
    pub(super) fn put(&mut self, key: Key, asked: &Asked, packet: &mut Packet<'_>) -> Option<Verdict> {
        edit::set_id(packet.bytes_mut(), key.id);
        let route = key.route;
        if route.is_line() {
            let alone = self.outstanding.live_on(route) <= 1;
            if self.lines.ask(route, packet.bytes(), alone, self.now) {
                return Some(Verdict::Hold);
            }
            self.lines.spare(route);
        } else if self.preface(route.backend, asked, packet) {
            return Some(Verdict::Forward(route));
        }
        self.page().backend(route.backend).send_errors.add(1);
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
        if self.cases.ended(known.asked.case, key).is_some() {
            // The first try is still out: it goes on alone.
            return Verdict::Drop(DropReason::QuerySendError);
        }
        let client = self.asker(&known.asked);
        let other = Question::parse(packet.bytes()).and_then(|question| {
            let subject = Subject { qname: question.qname, client: &client };
            self.selector.select(&self.snapshot, known.asked.pool, &subject, refused, &mut self.rng)
        });
        // The query goes as it stands: with the client's subnet only to servers that want it.
        let other = other.filter(|b| self.wants_subnet(*b) == self.wants_subnet(route.backend));
        match other.and_then(|backend| self.claim(backend, known.asked, None)) {
            Some(second) => {
                self.cases.take_retry(known.asked.case);
                let verdict = self.send(second, &known.asked, packet);
                self.conclude(known.asked.client, verdict, packet)
            }
            None => {
                self.cases.close(known.asked.case);
                let verdict = self.drop(DropReason::QuerySendError);
                self.conclude(known.asked.client, verdict, packet)
            }
        }
    }

    /// The kernel would not send this query to any server that could be tried.
    pub fn abandon(&mut self, route: Route, packet: &mut Packet<'_>) {
        if let Some((key, known)) = self.unsent(route, packet) {
            // A query whose other try is still out is not lost.
            if !self.nobody_waits(known) && self.cases.ended(known.asked.case, key).is_none() {
                self.cases.close(known.asked.case);
                let verdict = self.drop(DropReason::QuerySendError);
                self.conclude(known.asked.client, verdict, packet);
            }
        }
    }

    /// Whether no client waits for a try that was not sent; a copy is counted.
    fn nobody_waits(&mut self, known: Known) -> bool {
        if known.asked.case == TEED {
            self.drop(DropReason::TeeFull);
        }
        let nobody = matches!(known.asked.case, DELIVERED | TEED);
        self.unawaited -= u32::from(nobody);
        nobody
    }

    /// Takes back the claim of a query that was not sent.
    fn unsent(&mut self, route: Route, packet: &mut Packet<'_>) -> Option<(Key, Known)> {
        self.strip(route.backend, packet);
        let key = Key { route, id: Header::parse(packet.bytes())?.id() };
        let Found::Live(known) = self.outstanding.find(key) else { return None };
        self.page().backend(route.backend).send_errors.add(1);
        self.outstanding.release(key);
        self.selector.settled(route.backend, None);
        Some((key, known))
    }

    /// Time is up for a try.
    pub(super) fn give_up(&mut self, key: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let backend = key.route.backend;
        if key.route.is_line()
            && self.lines.is_paused(key.route)
            && let Some(queue) = self.line_queue(backend)
        {
            // It is the client that keeps it waiting, and has a time-out of its own.
            return self.outstanding.rearm(key, self.now, queue);
        }
        self.outstanding.expire(key);
        self.selector.settled(backend, None);
        self.page().backend(backend).timeouts.add(1);
        if key.route.is_line() {
            self.lines.missed(key.route, known.claimed_at);
        }
        // The other try may still be answered; it counts the loss if not.
        if self.cases.ended(known.asked.case, key).is_some() {
            return;
        }
        if key.route.is_line() && self.lines.is_transferring(key.route) {
            // Half of a zone cannot be followed by the beginning of another.
            self.lines.end(key.route, LineEnd::Silent);
            return self.lose_by_line(known, true);
        }
        if key.route.is_line() && self.lines.is_transfer(key.route) {
            // What might still come by it is for nobody.
            self.lines.end(key.route, LineEnd::Done);
        }
        if !self.moves_on(key, known, Moved::Failed, out) {
            self.timed_out(key, known, out);
        }
    }

    /// The first server is slow: asks a second one too, and takes whichever answers first.
    pub(super) fn try_second(&mut self, first: Key, known: Known, out: &mut dyn FnMut(Verdict, &mut [u8])) {
        let after = self.snapshot.pool(known.asked.pool).retry.map_or(TickDelta(0), |r| r.after);
        let attached = self.attached.get(first.route.backend.index()).copied().flatten();
        let timeout = attached.map_or(after, |a| a.timeout);
        let left = TickDelta(timeout.0.saturating_sub(after.0).max(1_000_000));
        match self.outstanding.queue(left) {
            Some(queue) => self.outstanding.rearm(first, self.now, queue),
            None => return self.give_up(first, known, out),
        }
        if let Some(second) = self.claim_second(first, known) {
            self.page().retries.add(1);
            let mut query = std::mem::take(&mut self.buffer);
            query.clear();
            query.extend_from_slice(self.cases.query(known.asked.case).as_deref().unwrap_or_default());
            if !self.send_copy(second, &known.asked, &mut query, out) {
                // The first try goes on alone.
                self.cases.ended(known.asked.case, second);
            }
            self.buffer = query;
        }
    }

    fn claim_second(&mut self, first: Key, known: Known) -> Option<Key> {
        let pool = known.asked.pool;
        let savings = self.retry_savings.get(pool.index())?.checked_sub(u64::from(PPM))?;
        let client = self.asker(&known.asked);
        let question = Question::parse(self.cases.query(known.asked.case)?)?;
        let subject = Subject { qname: question.qname, client: &client };
        let avoid = [first.route.backend];
        let backend = self.selector.select(&self.snapshot, pool, &subject, &avoid, &mut self.rng)?;
        // The query goes as it stands: with the client's subnet only to servers that want it.
        if self.wants_subnet(backend) != self.wants_subnet(first.route.backend) {
            return None;
        }
        let second = self.claim(backend, known.asked, None)?;
        self.retry_savings[pool.index()] = savings;
        Some(second)
    }

    /// A try is answered: the other one, if there is one, is not waited for any more.
    pub(super) fn settle(&mut self, key: Key, known: Known, code: u8) {
        self.count_answer(key, known, code);
        if let Some(twin) = self.cases.ended(known.asked.case, key) {
            self.let_go(twin);
            // A restart goes on with the case, and the other try is no part of that.
            self.cases.ended(known.asked.case, twin);
        }
    }

    fn count_answer(&mut self, key: Key, known: Known, code: u8) {
        let backend = key.route.backend;
        // How long a whole zone takes says nothing of how fast its server answers.
        let is_zone = key.route.is_line() && self.lines.is_transferring(key.route);
        let latency = (!is_zone).then(|| self.now.since(known.claimed_at));
        self.outstanding.settle(key);
        self.selector.settled(backend, latency);
        let counts = self.page().backend(backend);
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
    pub(super) fn came_unawaited(&mut self, key: Key, known: Known, code: u8, reason: DropReason) -> Verdict {
        self.unawaited -= 1;
        self.count_answer(key, known, code);
        self.drop(reason)
    }

    /// A try that no client waits for, and whose server never answered: its loss.
    pub(super) fn never_came(&mut self, key: Key) {
        self.unawaited -= 1;
        self.outstanding.expire(key);
        self.selector.settled(key.route.backend, None);
        self.page().backend(key.route.backend).timeouts.add(1);
    }
}

/// Whether a query asks for a zone transfer.
fn is_transfer(query: &[u8]) -> bool {
    Question::parse(query).is_some_and(|question| transfer::is_transfer(question.qtype))
}
