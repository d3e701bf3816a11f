//! The shard's part in its lines: which query goes by one, what becomes of the queries of a line
//! that ends, and zone transfers.

use super::lines::LineWish;
use super::lines::Need;
use super::outstanding::{Asked, DELIVERED, Key, Known, TEED};
use super::policy::Subject;
use super::streamed::{IsOver, Step};
use super::streams::{LineEnd, StreamEnd};
use super::verdict::{DropReason, Verdict};
use super::{Attached, Shard, case};
use crate::addr::{BackendSlot, Route, SocketSlot};
use crate::packet::Packet;
use crate::tls::Reason;
use crate::wire::answer;
use crate::wire::edit;
use crate::wire::frame::Flow;
use crate::wire::header::Header;
use crate::wire::keepalive;
use crate::wire::query::Question;
use crate::wire::transfer::{self, Progress, Transfer};

/// Octets of an answer that leaves as a datagram, at most: what engines have room for, and more
/// than any EDNS size in use.
const DATAGRAM_MAX: usize = 4_096;
/// Octets that a client can take of whom nothing else is known (RFC 1035, 4.2.1).
pub(super) const DATAGRAM_MIN: usize = 512;

/// How a try has ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// Its server does not serve: another one is asked.
    Failed,
    /// Its server has closed a connection that had served: a new one is opened.
    Closed,
}

impl Shard {
    /// Whether a query goes by a line of a server.
    pub(super) fn goes_by_line(&self, server: Attached, asked: &Asked) -> bool {
        server.by_line
            || asked.client.stream.is_some()
                && (!self.snapshot.pool(asked.pool).tcp_to_udp || self.cases.goes_by_line(asked.case))
    }

    /// Keeps what is needed to ask a query again when its line ends, or by a line.
    pub(super) fn prepare_for_line(&mut self, asked: &Asked, query: &[u8]) {
        self.cases.keep_long(asked.case, query);
        if asked.client.stream.is_none() {
            self.cases.set_limit(asked.case, answer::udp_limit(query).min(DATAGRAM_MAX));
        } else if let Some(question) = Question::parse(query)
            && transfer::is_transfer(question.qtype)
        {
            let serial = transfer::ixfr_serial(query);
            self.cases.set_transfer(asked.case, Transfer::new(question.qtype, serial));
            self.cases.force_line(asked.case);
        }
    }

    /// A line of a server for a query.
    pub(super) fn line_for(&mut self, backend: BackendSlot, asked: &Asked) -> Option<SocketSlot> {
        let (key, source) = self.line_key(backend, asked);
        let need = Need {
            options: &self.snapshot.backend(backend)?.lines,
            transfer: self.cases.transfer(asked.case),
            key,
            source,
        };
        let outstanding = &self.outstanding;
        let route = self.lines.pick(backend, need, |route| outstanding.live_on(route), self.now)?;
        self.begin_line(route, key);
        Some(route.socket)
    }

    /// An answer that did not fit into a datagram, for a client that has a connection: it is asked
    /// for again, by a line.
    pub(super) fn asks_by_line(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> Verdict {
        let asked = known.asked;
        self.settle(key, known, Header::parse(packet.bytes()).map_or(0, |h| h.rcode()));
        self.cases.force_line(asked.case);
        let kept = self.cases.query(asked.case).is_some_and(|query| packet.replace(query));
        let own = if kept { self.claim(key.route.backend, asked, None) } else { None };
        let claimed = match own {
            None if kept => {
                self.cases.failed_by(asked.case, key.route.backend);
                self.claim_elsewhere(key.route.backend, &asked, packet.bytes())
            }
            own => own,
        };
        let verdict = match claimed {
            Some(key) => self.send(key, &asked, packet),
            None => {
                self.cases.close(asked.case);
                self.drop(DropReason::OutstandingFull)
            }
        };
        self.conclude(asked.client, verdict, packet)
    }

    /// A try of a query has ended without an answer: the query goes to another server, or by
    /// another connection. False when it does not, and the caller ends it.
    pub(super) fn moves_on(
        &mut self,
        key: Key,
        known: Known,
        how: Moved,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) -> bool {
        let (asked, backend) = (known.asked, key.route.backend);
        let is_left = asked.client.stream.is_some_and(|stream| self.streams.is_over(stream));
        if is_left || !key.route.is_line() && asked.client.stream.is_none() {
            return false;
        }
        // A server that closes too many connections under one query has failed it.
        let again = how == Moved::Closed && self.cases.moved(asked.case);
        if !again {
            self.cases.failed_by(asked.case, backend);
        }
        let mut query = std::mem::take(&mut self.buffer);
        query.clear();
        query.extend_from_slice(self.cases.query(asked.case).as_deref().unwrap_or_default());
        if query.is_empty() {
            // It was too long to be kept.
            self.buffer = query;
            return false;
        }
        let own = if again { self.claim(backend, asked, None) } else { None };
        let claimed = own.or_else(|| {
            if again {
                self.cases.failed_by(asked.case, backend);
            }
            self.claim_elsewhere(backend, &asked, &query)
        });
        let sent = claimed.is_some_and(|key| {
            self.page().retries.add(1);
            let sent = self.send_copy(key, &asked, &mut query, out);
            if !sent {
                self.cases.ended(asked.case, key);
            }
            sent
        });
        self.buffer = query;
        sent
    }

    /// A place at the next server that has one, for a query that others have failed.
    fn claim_elsewhere(&mut self, failed: BackendSlot, asked: &Asked, query: &[u8]) -> Option<Key> {
        let tries = usize::from(self.snapshot.backend(failed).map_or(1, |b| b.lines.tries));
        while self.cases.failed(asked.case).len() < tries {
            let next = self.next_server(failed, asked, query)?;
            if let Some(key) = self.claim(next, *asked, None) {
                return Some(key);
            }
            self.cases.failed_by(asked.case, next);
        }
        None
    }

    /// A server for a query that others have failed. It goes as it stands: with the client's
    /// subnet only to servers that want it.
    fn next_server(&mut self, failed: BackendSlot, asked: &Asked, query: &[u8]) -> Option<BackendSlot> {
        let question = Question::parse(query)?;
        let client = self.asker(asked);
        let subject = Subject { qname: question.qname, client: &client };
        let avoid = self.cases.failed(asked.case);
        let next = self.selector.select(&self.snapshot, asked.pool, &subject, avoid, &mut self.rng)?;
        (!avoid.contains(&next) && self.wants_subnet(next) == self.wants_subnet(failed)).then_some(next)
    }

    /// A line stands.
    pub fn on_line_open(&mut self, line: Route) {
        self.lines.opened(line, self.now);
        self.page().backend(line.backend).lines.opened.add(1);
    }

    /// A line's TLS handshake is done, and with it the line stands.
    pub fn on_line_handshake(&mut self, line: Route, resumed: bool) {
        self.page().backend(line.backend).lines.handshakes.done(resumed);
        self.on_line_open(line);
    }

    /// TLS has failed on a line, which the engine then closes, for this reason.
    pub fn on_line_failure(&mut self, line: Route, why: Reason) -> LineEnd {
        if !self.lines.is_connecting(line) {
            return LineEnd::Broken;
        }
        self.page().backend(line.backend).lines.handshakes.failed(why).add(1);
        LineEnd::Handshake
    }

    /// Octets of a server. Answers that leave as datagrams go to `out`; what there is no time for is kept,
    /// see [`Shard::resume_next`].
    pub fn on_line_octets(
        &mut self,
        line: Route,
        octets: &[u8],
        is_over: IsOver<'_>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        let Some(mut frames) = self.lines.take_frames(line) else { return };
        let fed = if self.lines.goes_on(line) {
            let mut step = Step::of(usize::MAX, is_over);
            frames.feed(octets, &mut |message| step.then(self.line_message(line, message, out)))
        } else {
            Ok(0)
        };
        match fed {
            Ok(used) => frames.keep(&octets[used..]),
            Err(_) => self.lines.end(line, LineEnd::BadFrame),
        }
        self.lines.put_frames(line, frames);
    }

    /// Goes on with the messages that a line holds.
    pub(super) fn resume_line(
        &mut self,
        line: Route,
        is_over: IsOver<'_>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        let Some(mut frames) = self.lines.take_frames(line) else { return };
        let mut step = Step::of(usize::MAX, is_over);
        if self.lines.goes_on(line)
            && frames.resume(&mut |message| step.then(self.line_message(line, message, out))).is_err()
        {
            self.lines.end(line, LineEnd::BadFrame);
        }
        self.lines.put_frames(line, frames);
        if self.lines.is_told(line) {
            return self.on_line_closed(line, Some(LineEnd::Closed), out);
        }
        // It may be read again.
        self.lines.chore(line);
    }

    fn line_message(&mut self, line: Route, message: &[u8], out: &mut dyn FnMut(Verdict, &mut [u8])) -> Flow {
        let mut flow = Flow::Go;
        let owed = self.outstanding.live_on(line);
        self.with_scratch(message, |shard, packet| match shard.on_response(line, packet) {
            verdict @ (Verdict::Answer(_) | Verdict::Deliver(_) | Verdict::Forward(_)) => {
                out(verdict, packet.bytes_mut());
            }
            Verdict::Drop(_) => {}
            Verdict::Hold => {
                if !shard.lines.goes_on(line) {
                    flow = Flow::Stop;
                }
            }
        });
        let answers = self.outstanding.live_on(line) < owed || self.lines.is_transferring(line);
        self.lines.heard(line, answers, self.now);
        flow
    }

    /// A message of a zone transfer.
    pub(super) fn on_transfer(&mut self, key: Key, known: Known, packet: &mut Packet<'_>) -> Verdict {
        let (asked, line) = (known.asked, key.route);
        let message = packet.bytes();
        // Messages after the first need no question (RFC 5936, 2.2.1).
        let has_question = Header::parse(message).is_some_and(|h| h.qdcount() > 0);
        let same = Question::parse(message).is_some_and(|q| self.hash(&q) == asked.question);
        let progress = match self.lines.transfer(line) {
            Some(transfer) if same || !has_question => transfer.on_message(message),
            Some(_) | None => Progress::Broken,
        };
        if progress == Progress::Broken {
            self.lines.end(line, LineEnd::BadFrame);
            return self.unexpected(line, DropReason::ResponseMismatch);
        }
        let code = Header::parse(message).map_or(0, |h| h.rcode());
        if keepalive::may_be_there(message) {
            // The server's word to us, not ours to the client (RFC 7828).
            keepalive::remove(packet);
        }
        edit::set_id(packet.bytes_mut(), asked.client_id);
        case::set_flags(packet.bytes_mut(), case::unpacked(asked.flags));
        if !self.rule_transfer(key, known, packet) {
            // A zone with a hole is none.
            self.settle(key, known, code);
            self.cases.close(asked.case);
            self.lines.end(line, LineEnd::Done);
            if let Some(stream) = asked.client.stream {
                self.streams.end(stream, StreamEnd::Transfer);
            }
            let verdict = self.drop(DropReason::ResponseRule);
            return self.conclude(asked.client, verdict, packet);
        }
        if progress == Progress::More {
            self.lines.has_begun(line);
            if let Some(queue) = self.line_queue(line.backend) {
                self.outstanding.rearm(key, self.now, queue);
            }
            if asked.client.stream.is_none_or(|s| self.streams.is_over(s)) {
                // Nobody is there to take it.
                self.lines.end(line, LineEnd::Done);
            } else if let Some(stream) = asked.client.stream {
                self.streams.write(stream, packet.bytes(), self.now);
                let takes = self.streams.takes_more(stream, line);
                self.lines.pause(line, !takes);
            }
            return Verdict::Hold;
        }
        self.settle(key, known, code);
        self.cases.close(asked.case);
        self.lines.end(line, LineEnd::Done);
        self.page().responses.add(1);
        self.conclude(asked.client, Verdict::Deliver(asked.client), packet)
    }

    pub(super) fn line_queue(&self, backend: BackendSlot) -> Option<super::Queue> {
        self.attached.get(backend.index()).copied().flatten().map(|a| a.line_queue)
    }

    /// A line is closed: by the server, because it failed, or as the engine was asked to (`why` is
    /// then none). Its queries go by other ones.
    pub fn on_line_closed(
        &mut self,
        line: Route,
        why: Option<LineEnd>,
        out: &mut dyn FnMut(Verdict, &mut [u8]),
    ) {
        if why == Some(LineEnd::Closed) && self.lines.holds_back(line) {
            return self.lines.hang_up(line);
        }
        let why = why.unwrap_or_else(|| self.lines.why(line));
        let only = self.snapshot.backend(line.backend).is_some_and(|b| b.lines.only);
        let mut orphans = std::mem::take(&mut self.orphans);
        if self.outstanding.live_on(line) > 0 {
            self.outstanding.on_route(line, &mut |key, known| orphans.push((key, known)));
        }
        let owing = orphans.iter().map(|(_, known)| known.claimed_at).min();
        let Some(past) = self.lines.forget(line, why, only, owing, self.now) else {
            orphans.clear();
            self.orphans = orphans;
            return;
        };
        self.page().backend(line.backend).lines.ended(why).add(1);
        let served = past.answered > 0 && matches!(why, LineEnd::Closed | LineEnd::Broken);
        let how = if served || matches!(why, LineEnd::Done | LineEnd::Idle) {
            Moved::Closed
        } else {
            Moved::Failed
        };
        for (key, known) in orphans.drain(..) {
            self.outstanding.release(key);
            self.selector.settled(line.backend, None);
            self.page().backend(line.backend).send_errors.add(1);
            if let Some(stream) = known.asked.client.stream {
                self.streams.unfeed(stream, line);
            }
            if matches!(known.asked.case, DELIVERED | TEED) {
                self.unawaited -= 1;
            } else if self.cases.ended(known.asked.case, key).is_none() {
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
        self.lose_by_line(known, how.is_none());
    }

    /// A query whose line has ended is lost; `begun`: in the midst of a zone transfer, with which
    /// the client's connection ends.
    pub(super) fn lose_by_line(&mut self, known: Known, begun: bool) {
        let client = known.asked.client;
        self.cases.close(known.asked.case);
        let is_left = client.stream.is_some_and(|stream| self.streams.is_over(stream));
        if let Some(stream) = client.stream.filter(|_| begun) {
            self.streams.end(stream, StreamEnd::Transfer);
        }
        self.lose(client, if is_left { DropReason::ClientGone } else { DropReason::LineFailed });
    }

    /// Open lines of all backends.
    #[must_use]
    pub const fn lines_open(&self) -> u32 {
        self.lines.open_count()
    }

    /// Octets to be written to a server.
    #[must_use]
    pub fn line_output(&self, line: Route) -> &[u8] {
        self.lines.output(line)
    }

    /// So many of them were written.
    pub fn line_written(&mut self, line: Route, count: usize) {
        self.lines.written(line, count, self.now);
    }

    /// Whether the engine may read a line at this time: what was read before comes first.
    #[must_use]
    pub fn line_may_read(&self, line: Route) -> bool {
        self.lines.may_read(line)
    }

    /// Whether a line has not come about yet.
    #[must_use]
    pub fn line_is_connecting(&self, line: Route) -> bool {
        self.lines.is_connecting(line)
    }

    /// What the engine should do with a line.
    #[must_use]
    pub fn line_wish(&self, line: Route) -> LineWish {
        self.lines.wish(line)
    }
}
