//! Memory that the queries of a batch will access, read ahead.

use crate::base::addr::PoolSlot;
use crate::cache::PacketCache;
use crate::cache::key::{About, Key};
use crate::shard::Shard;
use crate::shard::context::Context;
use crate::wire::query::Question;

/// Queries whose memory is prefetched together: what the first-level cache holds beside everything
/// else.
const PREFETCH_MAX: usize = 64;
/// Entries of a packet cache whose look-ups wait for memory: each of them is in a page of its own.
const FAR_ENTRIES: usize = 256;

/// What prefetching needs between two batches.
#[derive(Debug, Default)]
pub(crate) struct Prefetch {
    /// The key of the query at hand.
    key: Key,
}

impl Shard {
    /// Returns whether [`Shard::prefetch`] is of use: queries access large sets of names, tables of
    /// clients, or a packet cache.
    #[must_use]
    pub fn needs_prefetch(&self) -> bool {
        self.cx.snapshot.chains.query.needs_prefetch() || self.cx.needs.cache && far_cache(&self.cx).is_some()
    }

    /// Prefetches the memory that the queries of a batch will access, so that their cache misses
    /// overlap. It decides nothing and counts nothing: a query that is left out is only slower.
    pub fn prefetch<'q>(&mut self, batch: impl Iterator<Item = ([u8; 16], &'q [u8])>) {
        let (mut names, mut clients) = ([&[][..]; PREFETCH_MAX], [[0; 16]; PREFETCH_MAX]);
        let (mut hashes, mut keys) = ([0; PREFETCH_MAX], 0);
        let (needs_chain, cache) = (self.cx.snapshot.chains.query.needs_prefetch(), far_cache(&self.cx));
        let mut count = 0;
        for (client, message) in batch {
            if needs_chain && let Some(question) = Question::parse(message) {
                (names[count], clients[count]) = (question.qname, client);
                count += 1;
                if count == PREFETCH_MAX {
                    self.evaluator.prefetch(&self.cx, &names, &clients);
                    count = 0;
                }
            }
            // That of most queries: rules and the client's subnet may lead to another one.
            if let Some(cache) = cache
                && self.prefetch.key.read(message, About::default(), cache)
            {
                hashes[keys] = self.prefetch.key.hash();
                keys += 1;
                if keys == PREFETCH_MAX {
                    cache.prefetch(&hashes);
                    keys = 0;
                }
            }
        }
        if needs_chain {
            self.evaluator.prefetch(&self.cx, &names[..count], &clients[..count]);
        }
        if let Some(cache) = cache {
            cache.prefetch(&hashes[..keys]);
        }
    }
}

/// Returns the cache of the default pool, if its look-ups wait for memory.
fn far_cache(cx: &Context) -> Option<&PacketCache> {
    let pool = cx.snapshot.pools.get(PoolSlot::default().index())?;
    pool.cache.as_deref().filter(|cache| !pool.sends_subnet && cache.len() >= FAR_ENTRIES)
}
