//! chashed's ring: each member owns `weight` points on the circle of 64-bit hashes, and a query
//! belongs to the first point at or above its own hash.
//!
//! ```text
//!  0 ──b──a────a──c──b───c──a──b────c── 2^64 ─► 0
//!           ▲ query: a's; with a unusable: c's
//! ```
//!
//! The points follow from [`Backend::id`] and its weight alone, so every dnslob with the same
//! configuration selects alike, and the queries of an unusable server go to as many others as it
//! has points while all others stay. The ring does not know which servers are usable.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::base::addr::BackendSlot;
use crate::model::Backend;

/// Points of the lightest member: with 100, shares are within about 10 % of the weights.
const POINTS_MIN: u64 = 100;
/// Points of a ring, approximately: 2.6 MB. Above it the points of all members are reduced alike.
const POINTS_MAX: u64 = 1 << 18;

/// chashed's points over all members of a pool, built once per configuration.
#[derive(Debug, Default)]
pub struct Ring {
    points: Box<[u64]>,
    owners: Box<[BackendSlot]>,
}

impl Ring {
    /// Builds the ring of `members`. Weights below 100 are scaled up together, proportions kept.
    #[must_use]
    pub fn build(members: &[(BackendSlot, &Backend)]) -> Self {
        let weight = |b: &Backend| u64::from(b.weight.max(1));
        let lightest = members.iter().map(|(_, b)| weight(b)).min().unwrap_or(1);
        let total: u64 = members.iter().map(|(_, b)| weight(b)).sum();
        // Points per weight are `up / down`.
        let (mut up, mut down) = (POINTS_MIN.div_ceil(lightest), 1);
        if u128::from(total) * u128::from(up) > u128::from(POINTS_MAX) {
            (up, down) = (POINTS_MAX, total);
        }
        let mut points = Vec::new();
        for (slot, backend) in members {
            let count = u128::from(weight(backend)) * u128::from(up) / u128::from(down);
            let count = u64::try_from(count).unwrap_or(POINTS_MAX).max(1);
            let id = backend.id.as_bytes();
            points.extend((0..count).map(|n| (xxh3_64_with_seed(id, n), *slot)));
        }
        points.sort_unstable_by_key(|(point, _)| *point);
        Self {
            points: points.iter().map(|(point, _)| *point).collect(),
            owners: points.iter().map(|(_, slot)| *slot).collect(),
        }
    }

    /// Returns the owners of the points from `hash` upward, once around. A server occurs as often
    /// as it has points.
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = BackendSlot> + '_ {
        let at = self.points.partition_point(|point| *point < hash);
        let (before, after) = self.owners.split_at(at);
        after.iter().chain(before).copied()
    }

    /// Returns the owner of each point, once around.
    #[cfg(test)]
    pub(crate) fn owners(&self) -> impl Iterator<Item = BackendSlot> + '_ {
        self.walk(0)
    }

    /// Returns the number of points.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Returns whether there is no point: no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }
}
