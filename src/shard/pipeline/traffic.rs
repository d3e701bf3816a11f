//! Records of finished queries, for whoever watches the traffic.

use crate::base::addr::{BackendSlot, Endpoint, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::packet::Packet;
use crate::base::time::Tick;
use crate::rules::query_state;
use crate::shard::Shard;
use crate::shard::context::Context;
use crate::shard::dispatch::outstanding::PendingQuery;
use crate::shard::dispatch::query_table::{EntryId, QueryTable};
use crate::shard::pipeline::{Ending, Query};
use crate::stats::drop_reason::DropReason;
use crate::stats::traffic_ring::{End, Finished};
use crate::wire::header::Header;
use crate::wire::query::Question;

/// What was asked, and of whom.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Keyed hash of the question; 0 where the packet holds it.
    question: u64,
    id: u16,
    flags: u8,
    pub(super) pool: PoolSlot,
    /// The server that was asked last, and when.
    last: Option<(BackendSlot, Tick)>,
}

impl Asked {
    /// What is known of a query that may be on its way.
    #[inline]
    pub(super) const fn of(pending: &PendingQuery) -> Self {
        let PendingQuery { question, client_id: id, flags, pool, .. } = *pending;
        Self { question, id, flags, pool, last: None }
    }

    /// The pool whose server was asked; no pool where none was.
    #[inline]
    pub(super) const fn pool(&self) -> PoolSlot {
        if self.last.is_some() { self.pool } else { PoolSlot::NONE }
    }

    /// The server that was asked last.
    #[inline]
    pub(super) fn server(&self) -> Option<BackendSlot> {
        self.last.map(|(backend, _)| backend)
    }

    /// When the query arrived: with several attempts its entry has it, otherwise it was sent then.
    #[inline]
    pub(super) fn arrived(&self, cx: &Context, queries: &QueryTable, entry: Option<EntryId>) -> Tick {
        queries.arrived(entry).or(self.last.map(|(_, at)| at)).unwrap_or(cx.now)
    }

    /// The same, sent to a server at a time.
    #[inline]
    pub(super) const fn by(self, backend: BackendSlot, at: Tick) -> Self {
        Self { last: Some((backend, at)), ..self }
    }
}

impl Shard {
    /// Remembers the name of a query that is sent, in case that no response brings it back.
    #[inline]
    pub(super) fn remember_name(&mut self, query: &Query, packet: &Packet<'_>) {
        if self.cx.stats().traffic.is_open() {
            let qname = query.facts.qname(packet.bytes());
            self.dispatcher.asked_names.note(query.pending.question, query.facts.qtype, qname);
        }
    }

    /// Records the end of a query, before its entry is closed. `packet` is the answer, or without
    /// one whatever is left of the query.
    #[inline]
    pub(super) fn record(&self, ending: &Ending, proxied: Option<Endpoint>, end: End, packet: &Packet<'_>) {
        if self.cx.stats().traffic.is_open() {
            self.write_record(ending, proxied, end, packet);
        }
    }

    #[inline(never)]
    fn write_record(&self, ending: &Ending, proxied: Option<Endpoint>, end: End, packet: &Packet<'_>) {
        let (cx, queries, message) = (&self.cx, &self.dispatcher.queries, packet.bytes());
        let Ending { client, entry, ref asked, .. } = *ending;
        let has_answer = !matches!(end, End::Dropped(_));
        let mut peer = client.peer;
        if cx.needs.proxy_headers
            && let Some(source) = proxied.or_else(|| queries.proxied(entry).map(|p| p.source))
        {
            peer = source;
        }
        let arrived = asked.arrived(cx, queries, entry);
        let (id, flags) = match Header::parse(message) {
            Some(header) => (header.id(), [message[2], message[3]]),
            None => (asked.id, query_state::unpacked(asked.flags)),
        };
        // In front of a query without a valid PROXY header stands something else.
        let is_query = end != End::Dropped(DropReason::ProxyHeader);
        let question = Question::parse(message)
            .filter(|_| is_query)
            .or_else(|| queries.query(entry).and_then(Question::parse));
        let (qtype, qname) = match question {
            Some(question) => (question.qtype, question.qname),
            None => self.dispatcher.asked_names.name(asked.question).unwrap_or_default(),
        };
        let finished = Finished {
            at: cx.now,
            ip: peer.ip,
            port: peer.port,
            id: if asked.question == 0 { id } else { asked.id },
            by_connection: client.connection.is_some(),
            listener: client.listener,
            backend: asked.server(),
            pool: asked.pool,
            end,
            qtype,
            flags,
            latency_us: u32::try_from(cx.now.since(arrived).0 / 1_000).unwrap_or(u32::MAX),
            answer_bytes: if has_answer { to_u16(message.len()) } else { 0 },
        };
        let count = |at: usize| message.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
        cx.stats().traffic.write_counted(&finished, qname, [count(6), count(8), count(10)]);
    }
}
