//! The shard's part in its lines: which query goes by one, what becomes of the queries of a line
//! that ends, and zone transfers.

use crate::balance::Subject;
use crate::base::addr::{BackendSlot, Route, SocketSlot};
use crate::base::packet::Packet;
use crate::rules::query_state;
use crate::shard::backend::{BackendInterest, Need};
use crate::shard::client::events::{IsOver, Step};
use crate::shard::dispatch::outstanding::{Asked, COPIED, DELIVERED, Key, Known};
use crate::shard::verdict::Verdict;
use crate::shard::{Attached, Shard};
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::tls::Reason;
use crate::wire::frame::Flow;
use crate::wire::header::Header;
use crate::wire::query::Question;
use crate::wire::transfer::{Progress, Transfer};
use crate::wire::{answer, edit, keepalive, transfer};

/// Bytes of an answer that leaves as a datagram, at most: what engines have room for, and more
/// than any EDNS size in use.
const DATAGRAM_MAX: usize = 4_096;
/// Bytes that a client can take of whom nothing else is known (RFC 1035, 4.2.1).
pub(crate) const DATAGRAM_MIN: usize = 512;

/// How a try has ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Its server does not serve: another one is asked.
    Failed,
    /// Its server has closed a connection that had served: a new one is opened.
    Closed,
}

impl Shard {
    /// Whether a query goes by a line of a server.
    pub(crate) fn goes_by_connection(&self, server: Attached, asked: &Asked) -> bool {
        server.by_connection
            || asked.client.connection.is_some()
                && (!self.snapshot.pool(asked.pool).tcp_to_udp
                    || self.query_table.goes_by_connection(asked.query_state))
    }

    /// Keeps what is needed to ask a query again when its line ends, or by a line.
    pub(crate) fn prepare_for_connection(&mut self, asked: &Asked, query: &[u8]) {
        self.query_table.keep_long(asked.query_state, query);
        if asked.client.connection.is_none() {
            self.query_table.set_limit(asked.query_state, answer::udp_limit(query).min(DATAGRAM_MAX));
        } else if let Some(question) = Question::parse(query)
            && transfer::is_transfer(question.qtype)
        {
            let serial = transfer::ixfr_serial(query);
            self.query_table.set_transfer(asked.query_state, Transfer::new(question.qtype, serial));
            self.query_table.force_connection(asked.query_state);
        }
    }

    /// A line of a server for a query.
    pub(crate) fn connection_for(&mut self, backend: BackendSlot, asked: &Asked) -> Option<SocketSlot> {
        let (key, source) = self.connection_key(backend, asked);
        let need = Need {
            options: &self.snapshot.backend(backend)?.connections,
            transfer: self.query_table.transfer(asked.query_state),
            key,
            source,
        };
        let outstanding = &self.outstanding;
        let route = self.backends.pick(backend, need, |route| outstanding.live_on(route), self.now)?;
        self.begin_connection(route, key);
        Some(route.socket)
    }

    /// An answer that did not fit into a datagram, for a client that has a connection: it is asked
    /// for again, by a line.
    pub(crate) fn ask_by_connection(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> Verdict {
        let asked = known.asked;
        self.settle(key, known, Header::parse(packet.bytes()).map_or(0, |h| h.rcode()));
        self.query_table.force_connection(asked.query_state);
        let kept = self.query_table.query(asked.query_state).is_some_and(|query| packet.replace(query));
        let own = if kept { self.claim(key.route.backend, asked, None) } else { None };
        let claimed = match own {
            None if kept => {
                self.query_table.failed_by(asked.query_state, key.route.backend);
                self.claim_elsewhere(key.route.backend, &asked, packet.bytes())
            }
            own => own,
        };
        let verdict = match claimed {
            Some(key) => self.send(key, &asked, packet),
            None => {
                self.query_table.close(asked.query_state);
                self.drop(DropReason::OutstandingFull)
            }
        };
        self.conclude(asked.client, verdict, packet)
    }

    /// A try of a query has ended without an answer: the query goes to another server, or by
    /// another connection. False when it does not, and the caller ends it.
    pub(crate) fn moves_on(
        &mut self,
        key: Key,
        known: Known,
        how: Moved,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) -> bool {
        let (asked, backend) = (known.asked, key.route.backend);
        let is_left = asked.client.connection.is_some_and(|connection| self.clients.is_over(connection));
        if is_left || !key.route.is_connection() && asked.client.connection.is_none() {
            return false;
        }
        // A server that closes too many connections under one query has failed it.
        let again = how == Moved::Closed && self.query_table.moved(asked.query_state);
        if !again {
            self.query_table.failed_by(asked.query_state, backend);
        }
        let mut query = std::mem::take(&mut self.buffer);
        query.clear();
        query.extend_from_slice(self.query_table.query(asked.query_state).as_deref().unwrap_or_default());
        if query.is_empty() {
            // It was too long to be kept.
            self.buffer = query;
            return false;
        }
        let own = if again { self.claim(backend, asked, None) } else { None };
        let claimed = own.or_else(|| {
            if again {
                self.query_table.failed_by(asked.query_state, backend);
            }
            self.claim_elsewhere(backend, &asked, &query)
        });
        let sent = claimed.is_some_and(|key| {
            self.stats().retries.add(1);
            let sent = self.send_copy(key, &asked, &mut query, out);
            if !sent {
                self.query_table.ended(asked.query_state, key);
            }
            sent
        });
        self.buffer = query;
        sent
    }

    /// A place at the next server that has one, for a query that others have failed.
    fn claim_elsewhere(&mut self, failed: BackendSlot, asked: &Asked, query: &[u8]) -> Option<Key> {
        let tries = usize::from(self.snapshot.backend(failed).map_or(1, |b| b.connections.tries));
        while self.query_table.failed(asked.query_state).len() < tries {
            let next = self.next_server(failed, asked, query)?;
            if let Some(key) = self.claim(next, *asked, None) {
                return Some(key);
            }
            self.query_table.failed_by(asked.query_state, next);
        }
        None
    }

    /// A server for a query that others have failed. It goes as it stands: with the client's
    /// subnet only to servers that want it.
    fn next_server(&mut self, failed: BackendSlot, asked: &Asked, query: &[u8]) -> Option<BackendSlot> {
        let question = Question::parse(query)?;
        let client = self.asker(asked);
        let subject = Subject { qname: question.qname, client: &client };
        let avoid = self.query_table.failed(asked.query_state);
        let next = self.selector.select(&self.snapshot, asked.pool, &subject, avoid, &mut self.rng)?;
        (!avoid.contains(&next) && self.sends_subnet(next) == self.sends_subnet(failed)).then_some(next)
    }

    /// A line stands.
    pub fn on_backend_open(&mut self, route: Route) {
        self.backends.opened(route, self.now);
        self.stats().backend(route.backend).connections.opened.add(1);
    }

    /// A line's TLS handshake is done, and with it the line stands.
    pub fn on_backend_handshake(&mut self, route: Route, resumed: bool) {
        self.stats().backend(route.backend).connections.handshakes.done(resumed);
        self.on_backend_open(route);
    }

    /// TLS has failed on a line, which the engine then closes, for this reason.
    pub fn on_backend_failure(&mut self, route: Route, why: Reason) -> BackendCloseReason {
        if !self.backends.is_connecting(route) {
            return BackendCloseReason::Broken;
        }
        self.stats().backend(route.backend).connections.handshakes.failed(why).add(1);
        BackendCloseReason::Handshake
    }

    /// Bytes of a server. Answers that leave as datagrams go to `out`; what there is no time for is kept,
    /// see [`Shard::resume_next`].
    pub fn on_backend_bytes(
        &mut self,
        route: Route,
        bytes: &[u8],
        is_over: IsOver<'_>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        let Some(mut frames) = self.backends.take_frames(route) else { return };
        let fed = if self.backends.goes_on(route) {
            let mut step = Step::of(usize::MAX, is_over);
            frames.feed(bytes, &mut |message| step.then(self.backend_message(route, message, out)))
        } else {
            Ok(0)
        };
        match fed {
            Ok(used) => frames.keep(&bytes[used..]),
            Err(_) => self.backends.end(route, BackendCloseReason::BadFrame),
        }
        self.backends.put_frames(route, frames);
    }

    /// Goes on with the messages that a line holds.
    pub(crate) fn resume_backend(
        &mut self,
        route: Route,
        is_over: IsOver<'_>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        let Some(mut frames) = self.backends.take_frames(route) else { return };
        let mut step = Step::of(usize::MAX, is_over);
        if self.backends.goes_on(route)
            && frames.resume(&mut |message| step.then(self.backend_message(route, message, out))).is_err()
        {
            self.backends.end(route, BackendCloseReason::BadFrame);
        }
        self.backends.put_frames(route, frames);
        if self.backends.is_told(route) {
            return self.on_backend_closed(route, Some(BackendCloseReason::Closed), out);
        }
        // It may be read again.
        self.backends.mark_pending(route);
    }

    fn backend_message(
        &mut self,
        route: Route,
        message: &[u8],
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) -> Flow {
        let mut flow = Flow::Go;
        let owed = self.outstanding.live_on(route);
        self.with_scratch(message, |shard, packet| match shard.on_response(route, packet) {
            verdict @ (Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_)) => {
                out(verdict, packet.bytes_mut());
            }
            Verdict::Drop(_) => {}
            Verdict::Hold => {
                if !shard.backends.goes_on(route) {
                    flow = Flow::Stop;
                }
            }
        });
        let answers = self.outstanding.live_on(route) < owed || self.backends.is_transferring(route);
        self.backends.heard(route, answers, self.now);
        flow
    }

    /// A message of a zone transfer.
    pub(crate) fn on_transfer(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> Verdict {
        let (asked, route) = (known.asked, key.route);
        let message = packet.bytes();
        // Messages after the first need no question (RFC 5936, 2.2.1).
        let has_question = Header::parse(message).is_some_and(|h| h.qdcount() > 0);
        let same = Question::parse(message).is_some_and(|q| self.hash(&q) == asked.question);
        let progress = match self.backends.transfer(route) {
            Some(transfer) if same || !has_question => transfer.on_message(message),
            Some(_) | None => Progress::Broken,
        };
        if progress == Progress::Broken {
            self.backends.end(route, BackendCloseReason::BadFrame);
            return self.unexpected(route, DropReason::ResponseMismatch);
        }
        let code = Header::parse(message).map_or(0, |h| h.rcode());
        if keepalive::may_be_there(message) {
            // The server's word to us, not ours to the client (RFC 7828).
            keepalive::remove(packet);
        }
        edit::set_id(packet.bytes_mut(), asked.client_id);
        query_state::set_flags(packet.bytes_mut(), query_state::unpacked(asked.flags));
        if !self.evaluate_transfer(key, known, packet) {
            // A zone with a hole is none.
            self.settle(key, known, code);
            self.query_table.close(asked.query_state);
            self.backends.end(route, BackendCloseReason::Done);
            if let Some(connection) = asked.client.connection {
                self.clients.end(connection, ClientCloseReason::Transfer);
            }
            let verdict = self.drop(DropReason::ResponseRule);
            return self.conclude(asked.client, verdict, packet);
        }
        if progress == Progress::More {
            self.backends.has_begun(route);
            if let Some(queue) = self.connection_queue(route.backend) {
                self.outstanding.rearm(key, self.now, queue);
            }
            if asked.client.connection.is_none_or(|s| self.clients.is_over(s)) {
                // Nobody is there to take it.
                self.backends.end(route, BackendCloseReason::Done);
            } else if let Some(connection) = asked.client.connection {
                self.clients.write(connection, packet.bytes(), self.now);
                let takes = self.clients.takes_more(connection, route);
                self.backends.pause(route, !takes);
            }
            return Verdict::Hold;
        }
        self.settle(key, known, code);
        self.query_table.close(asked.query_state);
        self.backends.end(route, BackendCloseReason::Done);
        self.stats().responses.add(1);
        self.conclude(asked.client, Verdict::Deliver(asked.client), packet)
    }

    pub(crate) fn connection_queue(&self, backend: BackendSlot) -> Option<crate::shard::Queue> {
        self.attached.get(backend.index()).copied().flatten().map(|a| a.connection_queue)
    }

    /// A line is closed: by the server, because it failed, or as the engine was asked to (`why` is
    /// then none). Its queries go by other ones.
    pub fn on_backend_closed(
        &mut self,
        route: Route,
        why: Option<BackendCloseReason>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        if why == Some(BackendCloseReason::Closed) && self.backends.holds_back(route) {
            return self.backends.hang_up(route);
        }
        let why = why.unwrap_or_else(|| self.backends.why(route));
        let only = self.snapshot.backend(route.backend).is_some_and(|b| b.connections.only);
        let mut orphans = std::mem::take(&mut self.orphans);
        if self.outstanding.live_on(route) > 0 {
            self.outstanding.on_route(route, &mut |key, known| orphans.push((key, known)));
        }
        let owing = orphans.iter().map(|(_, known)| known.claimed_at).min();
        let Some(past) = self.backends.forget(route, why, only, owing, self.now) else {
            orphans.clear();
            self.orphans = orphans;
            return;
        };
        self.stats().backend(route.backend).connections.ended(why).add(1);
        let served =
            past.answered > 0 && matches!(why, BackendCloseReason::Closed | BackendCloseReason::Broken);
        let how = if served || matches!(why, BackendCloseReason::Done | BackendCloseReason::Idle) {
            Moved::Closed
        } else {
            Moved::Failed
        };
        for (key, known) in orphans.drain(..) {
            self.outstanding.release(key);
            self.selector.settled(route.backend, None);
            self.stats().backend(route.backend).send_errors.add(1);
            if let Some(connection) = known.asked.client.connection {
                self.clients.unfeed(connection, route);
            }
            if matches!(known.asked.query_state, DELIVERED | COPIED) {
                self.unawaited -= 1;
            } else if self.query_table.ended(known.asked.query_state, key).is_none() {
                self.orphan(key, known, if past.transferring { None } else { Some(how) }, out);
            }
        }
        self.orphans = orphans;
    }

    /// A query whose line has ended; `how` is none in the midst of a zone transfer, which cannot
    /// be begun again.
    fn orphan(
        &mut self,
        key: Key,
        known: Known,
        how: Option<Moved>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        if how.is_some_and(|how| self.moves_on(key, known, how, out)) {
            return;
        }
        self.lose_by_connection(known, how.is_none());
    }

    /// A query whose line has ended is lost; `begun`: in the midst of a zone transfer, with which
    /// the client's connection ends.
    pub(crate) fn lose_by_connection(&mut self, known: Known, begun: bool) {
        let client = known.asked.client;
        self.query_table.close(known.asked.query_state);
        let is_left = client.connection.is_some_and(|connection| self.clients.is_over(connection));
        if let Some(connection) = client.connection.filter(|_| begun) {
            self.clients.end(connection, ClientCloseReason::Transfer);
        }
        self.lose(client, if is_left { DropReason::ClientGone } else { DropReason::BackendConnectionFailed });
    }

    /// Open lines of all backends.
    #[must_use]
    pub const fn backend_connections_open(&self) -> u32 {
        self.backends.open_count()
    }

    /// Bytes to be written to a server.
    #[must_use]
    pub fn backend_output(&self, route: Route) -> &[u8] {
        self.backends.output(route)
    }

    /// So many of them were written.
    pub fn backend_written(&mut self, route: Route, count: usize) {
        self.backends.written(route, count, self.now);
    }

    /// Whether the engine may read a line at this time: what was read before comes first.
    #[must_use]
    pub fn backend_may_read(&self, route: Route) -> bool {
        self.backends.may_read(route)
    }

    /// Whether a line has not come about yet.
    #[must_use]
    pub fn backend_is_connecting(&self, route: Route) -> bool {
        self.backends.is_connecting(route)
    }

    /// What the engine should do with a line.
    #[must_use]
    pub fn backend_interest(&self, route: Route) -> BackendInterest {
        self.backends.interest(route)
    }
}
