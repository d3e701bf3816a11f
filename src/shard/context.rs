//! The environment of every event: the time, the configuration, randomness, counters.
//!
//! It is passed to the shard's owners with each call. It knows nothing about queries or
//! connections.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use ahash::RandomState;

use crate::base::addr::{BackendSlot, Client, ListenerSlot, LocalSlot, PoolSlot, Route, mapped};
use crate::base::narrow::to_u16;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::model::{ClientAddress, Listener, Snapshot};
use crate::rules::action::ActionNeeds;
use crate::shard::verdict::Verdict;
use crate::stats::claims::Claims;
use crate::stats::connection_limits::ClientConnectionLimits;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::{LiveState, ShardStats};
use crate::stats::response_code::ResponseCode;
use crate::wire::answer::AnswerEdns;
use crate::wire::name;
use crate::wire::query::Question;

/// The environment of every event.
#[derive(Debug)]
pub(crate) struct Context {
    index: usize,
    live_state: Arc<LiveState>,
    /// The shard's own part of it.
    stats: Arc<ShardStats>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) needs: Needs,
    /// The time of everything in this batch.
    pub(crate) now: Tick,
    /// Number of the batch; ports are drawn anew with each.
    pub(crate) batch: u64,
    pub(crate) rng: ShardRng,
    /// Keyed by this shard's randomness, so that nobody can aim for a collision.
    hasher: RandomState,
    /// Local addresses of wildcard listeners, by local slot.
    local_addresses: Vec<[u8; 16]>,
}

/// What a configuration needs beyond plain forwarding; computed once, when it is adopted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Queries pass through rules or a script, or go to servers that get the client's subnet.
    pub(crate) rules: bool,
    /// Responses are evaluated.
    pub(crate) responses: bool,
    /// Rules of responses see the whole query state: those of Lua, and those that may make a
    /// response longer than its client can take.
    pub(crate) states: bool,
    /// Rules of responses may make a response longer than its client can take.
    pub(crate) grows: bool,
    /// Rules of any answers may give these EDNS options.
    pub(crate) options: bool,
    /// Rules after the query rules may read its tags.
    pub(crate) tags: bool,
    /// Queries are kept, for further attempts or their letter case.
    pub(crate) queries: bool,
    /// Clients may send PROXY headers.
    pub(crate) proxy_headers: bool,
    /// The values of PROXY headers are used.
    pub(crate) proxy_values: bool,
    /// Some server gets a PROXY header.
    pub(crate) sends_proxy_headers: bool,
    /// Some pool has a packet cache.
    pub(crate) cache: bool,
    /// Some packet cache has names left to begin with.
    pub(crate) warm_up: bool,
    /// Some queries go to a second pool too.
    pub(crate) shadows: bool,
    /// Answers may come long after a server's timeout: they are delayed, or the query is restarted.
    pub(crate) late_answers: bool,
}

impl Needs {
    /// Returns what this configuration needs.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let chains = &snapshot.chains;
        let queries = chains.query.rules().iter().chain(chains.cache_miss.rules());
        let queries = queries.fold(ActionNeeds::default(), |n, r| n | r.action.traits().needs);
        let of = |chain: &crate::rules::Chain<crate::rules::action::ResponseAction>| {
            chain.rules().iter().fold(ActionNeeds::default(), |n, r| n | r.action.traits().needs)
        };
        let (responses, self_answered) = (of(&chains.response), of(&chains.self_answered));
        let has_script = snapshot.script.is_some();
        let grows = responses.grows || of(&chains.cache_inserted).grows;
        let transfers_grow = of(&chains.xfr).grows;
        let backends = || snapshot.backends.iter().flatten();
        let subnets = backends().any(|b| b.use_client_subnet);
        let sends = backends().any(|b| matches!(b.client_address, ClientAddress::Proxy { .. }));
        let has_response_rules = !chains.response.is_empty() || !chains.cache_inserted.is_empty();
        Self {
            // The SERVFAIL of a pool without a server passes through the self-answered rules.
            rules: !chains.query.is_empty()
                || chains.counting.is_some()
                || !chains.self_answered.is_empty()
                || !chains.cache_miss.is_empty()
                || !chains.cache_hit.is_empty()
                || subnets
                || grows
                || transfers_grow
                || has_script,
            responses: has_response_rules || snapshot.globals.truncate_tc || snapshot.globals.fixup_case,
            states: has_response_rules && has_script || grows || transfers_grow,
            grows,
            options: grows || transfers_grow || of(&chains.cache_hit).grows || has_script,
            tags: has_response_rules || !chains.timeout.is_empty(),
            queries: !chains.timeout.is_empty() || snapshot.globals.fixup_case || responses.restarts,
            proxy_headers: !snapshot.globals.proxy.peers.is_empty(),
            proxy_values: sends || snapshot.script.is_some() || !chains.query.is_empty(),
            sends_proxy_headers: sends,
            cache: snapshot.pools.iter().any(|pool| pool.cache.is_some()),
            warm_up: snapshot
                .pools
                .iter()
                .filter_map(|pool| pool.cache.as_ref()?.warm_up())
                .any(|w| !w.is_over()),
            shadows: queries.shadows,
            late_answers: snapshot.script.is_some()
                || !chains.timeout.is_empty()
                || (queries | responses | self_answered).delays
                || responses.restarts
                || self_answered.restarts,
        }
    }
}

impl Context {
    /// Creates the context of one shard.
    pub(crate) fn new(
        index: usize,
        live_state: Arc<LiveState>,
        snapshot: Arc<Snapshot>,
        mut rng: ShardRng,
    ) -> Self {
        let hasher = RandomState::with_seeds(rng.u64(), rng.u64(), rng.u64(), rng.u64());
        let needs = Needs::of(&snapshot);
        let (stats, local_addresses) = (Arc::clone(&live_state.shards()[index]), Vec::new());
        Self {
            index,
            live_state,
            stats,
            snapshot,
            needs,
            now: Tick(0),
            batch: 0,
            rng,
            hasher,
            local_addresses,
        }
    }

    /// Returns the shard's number.
    pub(crate) const fn index(&self) -> usize {
        self.index
    }

    /// Returns what the shards ask for, if there is more than one.
    pub(crate) fn claims(&self) -> Option<&Claims> {
        (self.live_state.shards().len() > 1).then(|| self.live_state.claims())
    }

    /// Returns what all shards share.
    pub(crate) const fn live_state(&self) -> &Arc<LiveState> {
        &self.live_state
    }

    /// The connections to servers of a shard that was restarted have ended with it.
    pub(crate) fn forget_connections_of_predecessor(&self) {
        for backend in (0..self.live_state.backends_max()).map(|at| BackendSlot(to_u16(at))) {
            let Some(stats) = self.stats().backend_if_used(backend).map(|b| &b.connections) else { continue };
            let left = stats.opened.get().saturating_sub(stats.ended.get());
            stats.ended.add(left);
            self.live_state.backend(backend).disconnected(u32::try_from(left).unwrap_or(u32::MAX));
        }
    }

    /// Returns the shard's own counters.
    #[inline]
    pub(crate) fn stats(&self) -> &ShardStats {
        &self.stats
    }

    /// Borrows counters, configuration and randomness separately.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&ShardStats, &Snapshot, &mut ShardRng) {
        (&self.stats, &self.snapshot, &mut self.rng)
    }

    /// Counts a packet that is dropped.
    #[inline]
    pub(crate) fn drop(&self, reason: DropReason) -> Verdict {
        self.stats().dropped(reason).add(1);
        Verdict::Drop(reason)
    }

    /// Counts an answer to a client, under its response code.
    #[inline]
    pub(crate) fn count_answer(&self, client: Client, answer: &[u8]) {
        let page = self.stats().listener(client.listener, client.connection.is_some());
        page.stats.answers[ResponseCode::of(answer)].add(1);
    }

    /// Counts an answer to a client, and how long it has waited for it, for a query for this pool.
    #[inline]
    pub(crate) fn count_timed_answer(
        &self,
        client: Client,
        pool: PoolSlot,
        latency: TickDelta,
        answer: &[u8],
    ) {
        let (stats, code) = (self.stats(), ResponseCode::of(answer));
        let page = stats.listener(client.listener, client.connection.is_some());
        page.stats.answers[code].add(1);
        stats.answered(page, pool, code, latency.0);
    }

    /// Counts how long a client will have waited for an answer that is delayed.
    pub(crate) fn count_delayed(&self, client: Client, pool: PoolSlot, latency: TickDelta, answer: &[u8]) {
        let page = self.stats().listener(client.listener, client.connection.is_some());
        self.stats().answered(page, pool, ResponseCode::of(answer), latency.0);
    }

    /// Counts a query that is dropped before anything is read of it.
    pub(crate) fn count_refused(&self, client: Client) {
        self.stats().listener(client.listener, client.connection.is_some()).stats.refused.add(1);
    }

    /// Counts a query that is none, or malformed, and is dropped.
    pub(crate) fn count_noncompliant(&self, client: Client) {
        self.stats().listener(client.listener, client.connection.is_some()).stats.noncompliant.add(1);
    }

    /// Counts a message of a backend that matches no query.
    pub(crate) fn unexpected(&self, from: Route, reason: DropReason) -> Verdict {
        self.stats().backend(from.backend).unexpected.add(1);
        self.drop(reason)
    }

    /// Returns the limits of client connections.
    #[inline]
    pub(crate) fn client_limits(&self) -> &ClientConnectionLimits {
        &self.snapshot.globals.client_connections
    }

    /// Returns the EDNS of self-generated answers.
    pub(crate) fn answer_edns(&self) -> AnswerEdns {
        let globals = &self.snapshot.globals;
        AnswerEdns { wanted: globals.self_answer_edns, payload: globals.self_answer_payload }
    }

    /// Returns the listener with this slot.
    #[inline]
    pub(crate) fn listener(&self, slot: ListenerSlot) -> Option<&Listener> {
        self.snapshot.listener(slot).map(|l| &**l)
    }

    /// Returns whether a server's queries carry the client's subnet.
    #[inline]
    pub(crate) fn sends_subnet(&self, backend: BackendSlot) -> bool {
        self.snapshot.backend(backend).is_some_and(|b| b.use_client_subnet)
    }

    /// Stores a local address of a wildcard listener.
    pub(crate) fn set_local_address(&mut self, slot: LocalSlot, ip: [u8; 16]) {
        if self.local_addresses.len() <= slot.index() {
            let unknown = mapped(std::net::Ipv4Addr::UNSPECIFIED.into());
            self.local_addresses.resize(slot.index() + 1, unknown);
        }
        self.local_addresses[slot.index()] = ip;
    }

    /// Returns that address; none for the listener's own.
    pub(crate) fn local_address(&self, slot: LocalSlot) -> Option<[u8; 16]> {
        if slot == LocalSlot::LISTENER { None } else { self.local_addresses.get(slot.index()).copied() }
    }

    /// Returns a hasher keyed by this shard's randomness.
    pub(crate) fn hasher(&self) -> impl Hasher + use<> {
        self.hasher.build_hasher()
    }

    /// Returns the same key for a table.
    pub(crate) fn random_state(&self) -> RandomState {
        self.hasher.clone()
    }

    /// Returns a keyed hash of a question, its name folded to lower case. Eight bytes at a time:
    /// this runs for each query and each response, and byte by byte it took a third of the whole
    /// path.
    #[inline]
    pub(crate) fn hash(&self, question: &Question<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let (words, rest) = question.qname.as_chunks::<8>();
        for word in words {
            hasher.write_u64(name::fold(u64::from_le_bytes(*word)));
        }
        // The last bytes come in registers: copied into a word in memory, they could not be read
        // before the copy has left the store buffer. A long name overlaps itself.
        let last = match question.qname.last_chunk::<8>() {
            Some(last) => u64::from_le_bytes(*last),
            None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        };
        hasher.write_u64(name::fold(last));
        // The length distinguishes a name from one with zeros behind it.
        let length = (question.qname.len() as u64) << 32;
        hasher.write_u64(length | u64::from(question.qtype) << 16 | u64::from(question.qclass));
        hasher.finish()
    }
}
