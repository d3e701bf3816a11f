//! Counts and indexes in types narrower than `usize`, where a limit elsewhere keeps them small.
//!
//! In tests one that does not fit panics; otherwise it becomes the largest value, which no table
//! has as an index.

/// Returns a count or index that fits 32 bits.
#[inline]
#[must_use]
pub fn to_u32(n: usize) -> u32 {
    debug_assert!(u32::try_from(n).is_ok(), "{n} fits 32 bits");
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Returns a count or index that fits 16 bits.
#[inline]
#[must_use]
pub fn to_u16(n: usize) -> u16 {
    debug_assert!(u16::try_from(n).is_ok(), "{n} fits 16 bits");
    u16::try_from(n).unwrap_or(u16::MAX)
}
