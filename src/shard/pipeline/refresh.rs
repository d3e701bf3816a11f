//! Queries of the shard's own, whose responses go into a packet cache and to nobody: popular entries
//! are asked for again before they expire, and names of a list when a cache begins.
//!
//! Such a query waits, as one that waits for another one, until the next tick sends it; then it leads
//! those like it.

use crate::base::addr::{Client, Endpoint, ListenerSlot, LocalSlot, PoolSlot};
use crate::base::narrow::to_u16;
use crate::base::packet::Packet;
use crate::cache::Hit;
use crate::cache::key::{About, COOKIE, question};
use crate::rules::query_state;
use crate::shard::Shard;
use crate::shard::coalescing::Fate;
use crate::shard::dispatch::outstanding::{PendingQuery, Waiter};
use crate::shard::dispatch::query_table::{EntryId, Own};
use crate::shard::pipeline::Query;
use crate::shard::refreshes::Refreshes;
use crate::shard::verdict::Verdict;
use crate::wire::edns;
use crate::wire::query::Question;

impl Shard {
    /// The entry with the key at hand was hit in the last part of its time, by a query whose bytes
    /// were kept: if it is popular, it is asked for again, as its client has asked.
    pub(super) fn prefetch_popular(&mut self, hit: Hit, query: &Query) {
        let Some(cache) = self.cx.snapshot.pool(query.pending.pool).cache.as_deref() else { return };
        let (hits, hash) = (cache.options().prefetch_hits, self.cache.hit_key().hash());
        if !self.refreshes.is_popular(hash, hit.expires, hits, self.cx.now) {
            return;
        }
        match cache.claim_refresh(self.cache.hit_key()) {
            Some(true) => self.refreshes.asked(hash),
            Some(false) => return self.refreshes.postpone(hash, self.cx.now),
            // The next hit tries again.
            None => return,
        }
        let mut bytes = std::mem::take(&mut self.refreshes.query);
        if !cache.options().keys_have_cookies() {
            // An answer with a cookie is for its client alone, who does not get this one.
            let len = bytes.len();
            let mut packet = Packet::new(&mut bytes, 0, len);
            edns::remove_option(&mut packet, COOKIE);
            let len = packet.len();
            bytes.truncate(len);
        }
        let client = Client { connection: None, ..query.pending.client };
        let pending = PendingQuery { client, ..query.pending };
        let entry = self.begin_refresh(pending, &bytes, Own::Popular);
        self.refreshes.query = bytes;
        if entry.is_none() {
            // There was no room for it.
            self.refreshes.failed(hash, self.cx.now);
            let cache = self.cx.snapshot.pool(query.pending.pool).cache.as_deref();
            cache.into_iter().for_each(|cache| cache.release_refresh(self.cache.hit_key()));
        } else if let Some(state) = &query.state {
            self.dispatcher.queries.put(entry, state.clone());
        }
    }

    /// Asks for names with which caches begin, as many as may be outstanding.
    pub(in crate::shard) fn warm_up(&mut self) {
        let most = self.warm_up_max();
        if !self.refreshes.may_warm_up(most, self.cx.now) {
            return;
        }
        let snapshot = std::sync::Arc::clone(&self.cx.snapshot);
        let mut bytes = std::mem::take(&mut self.refreshes.query);
        let mut is_over = true;
        // Those that cannot be kept end this turn as well.
        let mut left = most;
        for (at, pool) in snapshot.pools.iter().enumerate() {
            let Some(cache) = pool.cache.as_deref() else { continue };
            // Where servers get the clients' subnets, entries without one are found by nobody.
            let names = cache.warm_up().filter(|names| !names.is_over() && !pool.sends_subnet);
            let Some(names) = names else { continue };
            let slot = PoolSlot(to_u16(at));
            if cache.is_reading() || !self.has_server(slot) {
                is_over = false;
                continue;
            }
            while left > 0
                && self.refreshes.may_warm_up(most, self.cx.now)
                && let Some(number) = names.next(&mut bytes)
            {
                left -= 1;
                self.cache.key.clear();
                let is_known = self.cache.key.read(&bytes, About::default(), cache);
                let Some(question) = Question::parse(&bytes).filter(|_| is_known) else {
                    names.ended(number, true);
                    continue;
                };
                if self.cache.has_fresh(cache, self.cx.now) {
                    names.ended(number, false);
                    continue;
                }
                let pending = PendingQuery {
                    client: nobody(),
                    client_id: 0,
                    question: self.cx.hash(&question),
                    waiter: Waiter::Client(None),
                    pool: slot,
                    flags: query_state::packed(query_state::flags_of(&bytes)),
                };
                if self.begin_refresh(pending, &bytes, Own::WarmUp(names.id(), number)).is_none() {
                    names.ended(number, true);
                }
            }
            is_over &= names.is_over();
        }
        // There is no server, a snapshot is being read, or the rest is outstanding.
        if left == most && !is_over {
            self.refreshes.pause(self.cx.now);
        }
        self.cache.key.clear();
        self.refreshes.query = bytes;
        self.refreshes.warms_up = !is_over;
    }

    /// Makes an own query with the key at hand wait for the next tick.
    fn begin_refresh(&mut self, mut pending: PendingQuery, bytes: &[u8], own: Own) -> Option<EntryId> {
        let asked = question(self.cache.key.bytes())?;
        let (by_stream, qname) = (asked.by_stream, Question::parse(bytes)?.qname);
        let entry = self.open_waiting(&mut pending, qname, bytes)?;
        let queries = &mut self.dispatcher.queries;
        if by_stream {
            queries.require_connection(Some(entry));
        }
        if let Some(ticket) = queries.ticket_mut(Some(entry)) {
            ticket.own = Some(own);
        }
        self.refreshes.begun();
        self.coalescing.release(entry, Fate::Separate);
        Some(entry)
    }

    /// Returns whether a query is the shard's own.
    #[inline]
    pub(super) fn is_refresh(&self, entry: Option<EntryId>) -> bool {
        !self.refreshes.is_idle() && self.dispatcher.queries.is_refresh(entry)
    }

    /// Returns how many names this shard resolves at a time that nobody has asked for.
    pub(in crate::shard) fn warm_up_max(&self) -> u32 {
        Refreshes::warm_up_max(self.cx.live_state().shards().len())
    }

    /// Ends an own query for a pool: whatever has come of it, nobody gets it.
    pub(super) fn finish_refresh(&mut self, entry: Option<EntryId>, pool: PoolSlot) -> Verdict {
        self.refreshes.ended();
        let pool = self.cx.snapshot.pools.get(pool.index());
        let zero_scope = pool.is_some_and(|pool| pool.zero_scope);
        let cache = pool.and_then(|pool| pool.cache.as_deref());
        if let Some((ticket, cache)) = self.dispatcher.queries.ticket(entry).zip(cache)
            && cache.id() == ticket.key.store()
        {
            let is_stored = ticket.is_stored;
            match (ticket.own, cache.warm_up()) {
                (Some(Own::Popular), _) if !is_stored => {
                    let hashes = self.cache.release_refresh(&ticket.key, cache, zero_scope);
                    hashes.into_iter().for_each(|hash| self.refreshes.failed(hash, self.cx.now));
                }
                // A reload may have begun another list.
                (Some(Own::WarmUp(list, number)), Some(names)) if list == names.id() => {
                    names.ended(number, !is_stored);
                }
                (Some(Own::Popular | Own::WarmUp(..)) | None, _) => {}
            }
        }
        self.dispatcher.queries.close(entry);
        Verdict::Hold
    }

    /// Returns whether a pool has a server that can be asked.
    fn has_server(&mut self, pool: PoolSlot) -> bool {
        let mut candidates = std::mem::take(&mut self.evaluator.candidates);
        self.dispatcher.balancer.candidates(pool, &mut candidates);
        let has_some = !candidates.is_empty();
        self.evaluator.candidates = candidates;
        has_some
    }
}

/// Returns the client of a query that no client has sent.
fn nobody() -> Client {
    Client {
        peer: Endpoint { ip: [0; 16], port: 0, scope: 0 },
        listener: ListenerSlot(0),
        local: LocalSlot::LISTENER,
        connection: None,
    }
}
