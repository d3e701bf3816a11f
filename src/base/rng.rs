//! The random numbers of one shard: unpredictable to others (RFC 5452, 4.4 and 9.2), reproducible
//! from the seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A seeded, cryptographically strong generator. Engines seed it from the operating system, tests
/// from a number.
#[derive(Clone, Debug)]
pub struct ShardRng(ChaCha8Rng);

impl ShardRng {
    /// Creates a generator from 32 bytes of entropy.
    #[must_use]
    pub fn from_entropy(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// Creates a generator for tests: the same number gives the same run.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Returns 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Returns 32 random bits.
    pub fn u32(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// Returns 16 random bits, for a DNS message id.
    pub fn id(&mut self) -> u16 {
        (self.0.next_u32() >> 16) as u16
    }

    /// Returns a number in `0..bound`; 0 when `bound` is 0. The bias is under `bound` / 2^32.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// The same for a small bound.
    #[inline]
    pub fn below_u8(&mut self, bound: u8) -> u8 {
        u8::try_from(self.below(bound.into())).unwrap_or(0)
    }

    /// Returns true with probability `ppm` / 1,000,000.
    pub fn chance(&mut self, ppm: u32) -> bool {
        self.below(1_000_000) < ppm
    }
}
