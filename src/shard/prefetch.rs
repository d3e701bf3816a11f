//! Memory that the queries of a batch will access, read ahead.

use crate::shard::Shard;
use crate::wire::query::Question;

/// Queries whose memory is prefetched together: what the first-level cache holds beside everything
/// else.
const PREFETCH_MAX: usize = 64;
impl Shard {
    /// Returns whether [`Shard::prefetch`] is of use: queries access large sets of names or tables
    /// of clients.
    #[must_use]
    pub fn needs_prefetch(&self) -> bool {
        self.cx.snapshot.chains.query.needs_prefetch()
    }

    /// Prefetches the memory that the queries of a batch will access, so that their cache misses
    /// overlap. It decides nothing and counts nothing: a query that is left out is only slower.
    pub fn prefetch<'q>(&self, batch: impl Iterator<Item = ([u8; 16], &'q [u8])>) {
        let (mut names, mut clients) = ([&[][..]; PREFETCH_MAX], [[0; 16]; PREFETCH_MAX]);
        let mut count = 0;
        for (client, message) in batch {
            let Some(question) = Question::parse(message) else { continue };
            (names[count], clients[count]) = (question.qname, client);
            count += 1;
            if count == PREFETCH_MAX {
                self.evaluator.prefetch(&self.cx, &names, &clients);
                count = 0;
            }
        }
        self.evaluator.prefetch(&self.cx, &names[..count], &clients[..count]);
    }
}
