//! Conversions to narrower types of numbers whose bounds the caller knows, at no cost: an assertion
//! in builds with checks holds the caller to them.

/// Converts a number below 2^8.
#[inline]
#[must_use]
pub const fn to_u8(n: usize) -> u8 {
    debug_assert!(n <= u8::MAX as usize);
    n as u8
}

/// Converts a number below 2^16.
#[inline]
#[must_use]
pub const fn to_u16(n: usize) -> u16 {
    debug_assert!(n <= u16::MAX as usize);
    n as u16
}

/// Converts a number below 2^32.
#[inline]
#[must_use]
pub const fn to_u32(n: usize) -> u32 {
    debug_assert!(n <= u32::MAX as usize);
    n as u32
}

/// Returns which of `count` places of equal share a hash belongs to.
#[inline]
#[must_use]
pub const fn place(hash: u64, count: usize) -> usize {
    // Below `count`.
    ((hash as u128 * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_numbers_are_kept() {
        assert_eq!((to_u8(255), to_u16(65_535), to_u32(4_294_967_295)), (u8::MAX, u16::MAX, u32::MAX));
    }

    #[test]
    fn places_are_of_equal_share() {
        assert_eq!([0, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX].map(|hash| place(hash, 4)), [0, 1, 2, 3]);
        assert_eq!(place(u64::MAX, 1), 0);
    }
}
