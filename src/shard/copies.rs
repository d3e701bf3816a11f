//! Kept copies of queries, for a second try: a bounded pool of equal blocks.

use super::outstanding::NO_COPY;
use crate::addr::PoolSlot;

/// Octets of a block. Queries are nearly always shorter (a question and an OPT with client
/// subnet, cookie and padding to 468 fit); a longer one is not kept, so it gets no second try.
pub const COPY_OCTETS: usize = 512;
/// Blocks of a shard: 8 MB when all are in use.
const BLOCKS_MAX: usize = 16_384;

#[derive(Debug)]
struct Block {
    octets: [u8; COPY_OCTETS],
    len: u16,
    pool: PoolSlot,
}

/// The pool of blocks; grows with use and never shrinks.
#[derive(Debug, Default)]
pub struct Copies {
    blocks: Vec<Block>,
    free: Vec<u32>,
}

impl Copies {
    /// Keeps a query of a pool; [`NO_COPY`] when it is too long or the blocks are used up.
    pub fn keep(&mut self, query: &[u8], pool: PoolSlot) -> u32 {
        if query.len() > COPY_OCTETS {
            return NO_COPY;
        }
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.blocks.len() < BLOCKS_MAX => {
                self.blocks.push(Block { octets: [0; COPY_OCTETS], len: 0, pool });
                self.blocks.len() as u32 - 1
            }
            None => return NO_COPY,
        };
        let block = &mut self.blocks[at as usize];
        block.octets[..query.len()].copy_from_slice(query);
        block.len = query.len() as u16;
        block.pool = pool;
        at
    }

    /// A kept query, to be edited, and its pool.
    pub fn kept(&mut self, copy: u32) -> Option<(&mut [u8], PoolSlot)> {
        let block = self.blocks.get_mut(copy as usize)?;
        Some((&mut block.octets[..usize::from(block.len)], block.pool))
    }

    /// Gives a block back; [`NO_COPY`] is no block.
    pub fn release(&mut self, copy: u32) {
        if (copy as usize) < self.blocks.len() {
            self.free.push(copy);
        }
    }

    /// Blocks in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.blocks.len() - self.free.len()
    }
}
