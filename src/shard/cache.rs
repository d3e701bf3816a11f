//! What a shard needs to use the packet caches, which it shares with the others.

use crate::base::packet::Packet;
use crate::base::time::{Tick, TickDelta};
use crate::cache::key::{About, Key};
use crate::cache::{ENTRY_BYTES_MAX, Hit, PacketCache, Wanted};
use crate::shard::scratch::MESSAGE_MAX;
use crate::stats::not_cached::NotCached;
use crate::wire::ecs;
use crate::wire::header::LEN;

/// Buffers for the query at hand.
#[derive(Debug, Default)]
pub(crate) struct CacheBuffers {
    /// Its key; empty when it has none, or its response is not to be stored.
    pub(crate) key: Key,
    /// The key of an answer for every subnet.
    every_subnet: Key,
    /// What was found.
    found: Vec<u8>,
    /// What is to be stored.
    packed: Vec<u8>,
    /// The fresh answer that was found last is one for every subnet.
    is_of_every_subnet: bool,
    /// An answer for every subnet is one for the query, too.
    is_shared: bool,
    /// A server has said that its response is valid for every subnet.
    is_for_every_subnet: bool,
    /// The answer to a query whose packet is gone.
    message: Vec<u8>,
    /// Bytes that the client of the query at hand can take as a datagram.
    pub(crate) limit: usize,
    /// What the servers have failed to answer lately.
    pub(crate) failing: Failing,
    /// The key that the query at hand had before.
    previous: Key,
}

/// Keys for which servers are not asked for a while, as they have just failed to answer: there is a
/// stale answer meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Failing {
    /// By hash.
    noted: Vec<Noted>,
    /// The configuration was another one before: what has failed then says nothing.
    since: Tick,
}

/// A failure.
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    hash: u64,
    at: Tick,
    until: Tick,
}

/// Places for them, by hash: one that takes another's place costs a query.
const FAILING_MAX: usize = 4_096;

impl Failing {
    fn place(hash: u64) -> usize {
        let low = hash.to_le_bytes().first_chunk().map_or(0, |low| u16::from_le_bytes(*low));
        usize::from(low) % FAILING_MAX
    }

    /// Notes one, for a time.
    pub(crate) fn note(&mut self, hash: u64, now: Tick, pause: TickDelta) {
        self.noted.resize(FAILING_MAX, Noted::default());
        self.noted[Self::place(hash)] = Noted { hash, at: now, until: now + pause };
    }

    /// Returns when one has failed that is still one of them.
    pub(crate) fn failed_at(&self, hash: u64, now: Tick) -> Option<Tick> {
        let noted = self.noted.get(Self::place(hash))?;
        (noted.hash == hash && now < noted.until).then_some(noted.at)
    }

    /// Forgets them: another configuration may have other servers.
    pub(crate) fn forget(&mut self, now: Tick) {
        self.noted.clear();
        self.since = now;
    }

    /// Returns since when failures count.
    pub(crate) const fn since(&self) -> Tick {
        self.since
    }
}

impl CacheBuffers {
    /// Begins with another configuration.
    pub(crate) fn adopt(&mut self, now: Tick) {
        self.key.clear();
        self.failing.forget(now);
    }

    /// Looks for the answer to the query with the key at hand, whose question ends at `question_end`.
    /// `shared`: an answer for every subnet is good too.
    pub(crate) fn answer(
        &mut self,
        cache: &PacketCache,
        packet: &mut Packet<'_>,
        question_end: usize,
        (wanted, shared): (Wanted, bool),
        now: Tick,
    ) -> Option<Hit> {
        self.found.resize(ENTRY_BYTES_MAX, 0);
        self.is_of_every_subnet = false;
        if !self.has_two_keys(cache, shared) {
            return cache.answer(&self.key, packet, question_end, wanted, now, &mut self.found);
        }
        self.every_subnet.for_every_subnet(&self.key, cache);
        for for_all in [true, false] {
            let key = if for_all { &self.every_subnet } else { &self.key };
            if let Some(hit) = cache.answer(key, packet, question_end, Wanted::Whole, now, &mut self.found) {
                self.is_of_every_subnet = for_all;
                return Some(hit);
            }
        }
        // The newer one supersedes the other, were it a failure.
        let [for_all, own] = [&self.every_subnet, &self.key].map(|key| cache.stored_ms(key, &mut self.found));
        let is_own_newer = own > for_all;
        let keys = [&self.every_subnet, &self.key];
        let [newer, older] = if is_own_newer { [keys[1], keys[0]] } else { keys };
        let found = &mut self.found;
        let mut answer = |key, wanted| cache.answer(key, packet, question_end, wanted, now, found);
        let hit = answer(newer, Wanted::Fresh);
        self.is_of_every_subnet = hit.is_some() && !is_own_newer;
        match wanted {
            Wanted::Fresh | Wanted::Whole => hit,
            Wanted::Stale(_) => hit.or_else(|| answer(newer, wanted)).or_else(|| answer(older, wanted)),
        }
    }

    /// Returns the key of the fresh answer that was found last.
    pub(crate) const fn hit_key(&self) -> &Key {
        if self.is_of_every_subnet { &self.every_subnet } else { &self.key }
    }

    /// Returns when servers have failed last to refresh the answer that a client with the key at hand gets
    /// meanwhile, as far as this shard knows, and when that answer was stored, milliseconds. Neither without
    /// such an answer.
    pub(crate) fn failed_at(
        &mut self,
        cache: &PacketCache,
        shared: bool,
        now: Tick,
    ) -> Option<(Option<Tick>, u64)> {
        let (hash, stored_ms) = self.newest(cache, shared)?;
        Some((self.failing.failed_at(hash, now), stored_ms))
    }

    /// Returns whether servers have failed, as far as this shard knows, to refresh an answer that the client
    /// with the key at hand may get.
    pub(crate) fn may_have_failed(&mut self, cache: &PacketCache, shared: bool, now: Tick) -> bool {
        let has_failed = |failing: &Failing, key: &Key| failing.failed_at(key.hash(), now).is_some();
        if has_failed(&self.failing, &self.key) {
            return true;
        }
        self.has_two_keys(cache, shared) && {
            self.every_subnet.for_every_subnet(&self.key, cache);
            has_failed(&self.failing, &self.every_subnet)
        }
    }

    /// Notes that servers have failed to refresh the answer that the client with the key at hand gets: that
    /// for every subnet for all clients, that for its own for those of its subnet.
    pub(crate) fn note_failure(&mut self, cache: &PacketCache, shared: bool, now: Tick, pause: TickDelta) {
        if let Some((hash, _)) = self.newest(cache, shared) {
            self.failing.note(hash, now, pause);
        }
    }

    /// The entry for a query was asked for anew in vain: somebody may ask again. Returns the hashes of the
    /// keys that it may have.
    pub(crate) fn release_refresh(&mut self, key: &Key, cache: &PacketCache, shared: bool) -> [u64; 2] {
        cache.release_refresh(key);
        if !(shared && key.has_subnet() && cache.options().parse_ecs) {
            return [key.hash(); 2];
        }
        self.every_subnet.for_every_subnet(key, cache);
        cache.release_refresh(&self.every_subnet);
        [key.hash(), self.every_subnet.hash()]
    }

    /// Returns whether the answer to the query with the key at hand is there, and has not expired.
    pub(crate) fn has_fresh(&mut self, cache: &PacketCache, now: Tick) -> bool {
        self.found.resize(ENTRY_BYTES_MAX, 0);
        cache.has_fresh(&self.key, now, &mut self.found)
    }

    fn has_two_keys(&self, cache: &PacketCache, shared: bool) -> bool {
        shared && self.key.has_subnet() && cache.options().parse_ecs
    }

    /// Returns the hash of the newest entry that is an answer to the query with the key at hand, fresh or
    /// not, and when it was stored, milliseconds.
    fn newest(&mut self, cache: &PacketCache, shared: bool) -> Option<(u64, u64)> {
        self.found.resize(ENTRY_BYTES_MAX, 0);
        let own = cache.stored_ms(&self.key, &mut self.found);
        let mut for_all = None;
        if self.has_two_keys(cache, shared) {
            self.every_subnet.for_every_subnet(&self.key, cache);
            for_all = cache.stored_ms(&self.every_subnet, &mut self.found);
        }
        // As when the answer is looked for.
        if own > for_all || for_all.is_none() {
            Some((self.key.hash(), own?))
        } else {
            Some((self.every_subnet.hash(), for_all?))
        }
    }

    /// Reads the key of the query at hand again. Returns whether it is another one, by which it can be
    /// looked up; it is empty if the query has none.
    pub(crate) fn read_again(&mut self, query: &[u8], about: Option<About>, cache: &PacketCache) -> bool {
        std::mem::swap(&mut self.key, &mut self.previous);
        self.key.clear();
        about.is_some_and(|about| self.key.read(query, about, cache)) && self.key != self.previous
    }

    /// Takes a copy of the key of an outstanding query, whose response has come from its server.
    pub(crate) fn take(&mut self, key: &Key, response: &[u8], shared: bool) {
        self.key.copy(key);
        self.is_shared = shared && key.has_subnet();
        self.is_for_every_subnet = self.is_shared
            && ecs::parse(response)
                // Another subnet than the query's (RFC 7871, 7.3).
                .filter(|subnet| {
                    key.is_of_subnet(subnet.family, subnet.source, &response[subnet.address.clone()])
                })
                .is_some_and(|subnet| subnet.scope == 0);
    }

    /// Stores a response under the key at hand. Returns whether it is a new entry. `renews`: it is that to
    /// an own query. It takes nothing away that is fresh if it cannot be stored; neither does one with a cookie.
    pub(crate) fn store(
        &mut self,
        cache: &PacketCache,
        response: &[u8],
        (failure_ttl, stale_seconds): (Option<u32>, u32),
        renews: bool,
        now: Tick,
    ) -> Result<bool, NotCached> {
        let is_for_every_subnet = self.reads_every_subnet(cache);
        let key = if is_for_every_subnet { &self.every_subnet } else { &self.key };
        let stored = cache.store(key, response, failure_ttl, stale_seconds, now, &mut self.packed);
        let Err(reason) = stored else { return stored };
        // Others may have what is fresh until its end. One that has expired is renewed for who waits for it.
        if (renews || reason == NotCached::Cookie) && self.has_fresh_for_any(cache, now) {
            return stored;
        }
        let key = if is_for_every_subnet { &self.every_subnet } else { &self.key };
        cache.give_way(key, response, reason, stale_seconds, now, &mut self.packed);
        if !matches!(reason, NotCached::Malformed | NotCached::Class) && !self.is_for_every_subnet {
            self.supersede_for_every_subnet(cache, response);
        }
        stored
    }

    /// Stores a response under the key at hand for those who wait for it at this moment.
    pub(crate) fn store_briefly(
        &mut self,
        cache: &PacketCache,
        response: &[u8],
        now: Tick,
    ) -> Result<bool, NotCached> {
        let key = if self.reads_every_subnet(cache) { &self.every_subnet } else { &self.key };
        cache.store_briefly(key, response, now, &mut self.packed)
    }

    /// Returns whether the response to the query with the key at hand is for every subnet; its key is read
    /// then.
    fn reads_every_subnet(&mut self, cache: &PacketCache) -> bool {
        let is_for_every_subnet = self.is_for_every_subnet && cache.options().parse_ecs;
        if is_for_every_subnet {
            self.every_subnet.for_every_subnet(&self.key, cache);
        }
        is_for_every_subnet
    }

    /// A response to the query with the key at hand is not stored: what is there is superseded. So is the
    /// answer for every subnet: either by this one, or because it is not for every subnet any longer.
    pub(crate) fn supersede(&mut self, cache: &PacketCache, response: &[u8]) {
        cache.supersede(&self.key, response);
        self.supersede_for_every_subnet(cache, response);
    }

    /// Returns whether a fresh answer is there that the response to the query with the key at hand would take
    /// away: that for its subnet, or that for every subnet.
    fn has_fresh_for_any(&mut self, cache: &PacketCache, now: Tick) -> bool {
        if self.has_fresh(cache, now) {
            return true;
        }
        self.is_shared && cache.options().parse_ecs && {
            self.every_subnet.for_every_subnet(&self.key, cache);
            cache.has_fresh(&self.every_subnet, now, &mut self.found)
        }
    }

    fn supersede_for_every_subnet(&mut self, cache: &PacketCache, response: &[u8]) {
        if self.is_shared && cache.options().parse_ecs {
            self.every_subnet.for_every_subnet(&self.key, cache);
            cache.supersede(&self.every_subnet, response);
        }
    }

    /// Takes the buffer for a message, with an id and a question in it; returns where that ends, too.
    /// [`CacheBuffers::give`] takes the buffer back.
    pub(crate) fn message(&mut self, id: u16, qname: &[u8], qtype: u16) -> (Vec<u8>, usize) {
        let mut message = std::mem::take(&mut self.message);
        // Once: whatever is in it is overwritten, or is behind the message.
        message.resize(MESSAGE_MAX, 0);
        let name_end = LEN + qname.len();
        message[..LEN].fill(0);
        message[..2].copy_from_slice(&id.to_be_bytes());
        message[LEN..name_end].copy_from_slice(qname);
        message[name_end..name_end + 2].copy_from_slice(&qtype.to_be_bytes());
        message[name_end + 2..name_end + 4].copy_from_slice(&1_u16.to_be_bytes());
        (message, name_end + 4)
    }

    /// Takes the buffer back.
    pub(crate) fn give(&mut self, message: Vec<u8>) {
        self.message = message;
    }
}
