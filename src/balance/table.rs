//! One pool in the form that the policies need: its members with their state from the control
//! thread.
//!
//! Rebuilt when the snapshot or the live state's epoch changed, never per query. What changes with
//! each query (outstanding, tokens) is in the tally.

use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::model::Ring;
use crate::model::policy::{Kind, Policy};
use crate::model::{Backend, HealthMode, Pool, Snapshot};
use crate::stats::live::{LiveState, PPM, State};

/// A pool's member.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) slot: BackendSlot,
    pub(crate) order: i32,
    pub(crate) weight: u32,
    /// Sum of the weights up to and including this one, over the usable members.
    pub(crate) weight_sum: u64,
    pub(crate) soft_max: u32,
    /// It may get queries: because of its state, or because the pool is in panic.
    pub(crate) usable: bool,
    /// The operator drains it: it gets no query in any case.
    pub(crate) draining: bool,
    /// Share of its selections that it accepts, parts per million of the warmest member's.
    pub(crate) warmth_ppm: u32,
    pub(crate) share_ppm: u32,
    pub(crate) trickle_ppm: u32,
}

/// A pool.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// All members, by order.
    pub(crate) members: Vec<Member>,
    /// The usable ones, by order.
    pub(crate) usable: Vec<Member>,
    /// Some usable member has a `soft_max`.
    pub(crate) soft_limits: bool,
    /// roundrobin's turn over all members, and over the usable ones when the first turn selects a
    /// dead one.
    pub(crate) turn: u32,
    pub(crate) turn_usable: u32,
    /// Selections by latency, one in so many of which explores.
    pub(crate) selections: u32,
    /// chashed's ring, and the index of each owner in `usable`, by slot.
    pub(crate) ring: Option<Arc<Ring>>,
    pub(crate) usable_at: Vec<Option<u16>>,
    /// concentrate's recent queries to each of `members`.
    pub(crate) recent: Vec<u32>,
    pub(crate) recent_total: u32,
    /// Generation of the snapshot that the ring was built from.
    pub(crate) generation: u64,
}

impl Table {
    /// Updates the table from the live state, and from the snapshot if that changed.
    pub(crate) fn rebuild(&mut self, snapshot: &Snapshot, pool: &Pool, live_state: &LiveState) {
        let backends = backends_of(snapshot, pool, live_state);
        let before: Vec<_> = self.members.iter().map(|m| (m.slot, m.share_ppm)).collect();
        self.members = members(&backends, pool.panic_ppm, live_state);
        self.usable.clear();
        self.usable.extend(self.members.iter().filter(|m| m.usable));
        let warmest = self.usable.iter().map(|m| m.warmth_ppm).max().unwrap_or(PPM).max(1);
        let mut sum = 0;
        for member in &mut self.usable {
            // When all are equally cold, none has a warmer one to leave its queries to.
            let relative = u64::from(member.warmth_ppm) * u64::from(PPM) / u64::from(warmest);
            member.warmth_ppm = u32::try_from(relative).unwrap_or(PPM);
            sum += u64::from(member.weight);
            member.weight_sum = sum;
        }
        self.soft_limits = self.usable.iter().any(|m| m.soft_max != 0);
        if pool.policy.kind == Kind::CHashed {
            self.rebuild_ring(snapshot, pool, &backends);
        }
        if !before.iter().copied().eq(self.members.iter().map(|m| (m.slot, m.share_ppm))) {
            self.recent.clear();
            self.recent.resize(self.members.len(), 0);
            self.recent_total = 0;
        }
        self.generation = snapshot.generation;
    }

    fn rebuild_ring(&mut self, snapshot: &Snapshot, pool: &Pool, backends: &[&Backend]) {
        if let Some(ring) = &pool.ring {
            self.ring = Some(Arc::clone(ring));
        } else if self.ring.is_none() || self.generation != snapshot.generation {
            let members: Vec<_> = backends.iter().map(|b| (b.slot, *b)).collect();
            self.ring = Some(Arc::new(Ring::build(&members)));
        }
        self.usable_at.clear();
        let slots = snapshot.backends.len().max(1);
        self.usable_at.resize(slots, None);
        for (at, member) in self.usable.iter().enumerate() {
            self.usable_at[member.slot.index()] = u16::try_from(at).ok();
        }
    }
}

/// Returns the pool's members as a selector sees them: slot, order, and whether it may get queries.
/// Under `ordered` those above the lowest order with a usable one may not.
#[must_use]
pub fn usable_members(
    snapshot: &Snapshot,
    pool: &Pool,
    live_state: &LiveState,
) -> Vec<(BackendSlot, i32, bool)> {
    let members = members(&backends_of(snapshot, pool, live_state), pool.panic_ppm, live_state);
    let lowest = members.iter().filter(|m| m.usable).map(|m| m.order).min();
    let within = |m: &Member| !pool.policy.ordered || Some(m.order) == lowest;
    members.iter().map(|m| (m.slot, m.order, m.usable && within(m))).collect()
}

/// Returns the pool's backends that exist in this configuration and in the live state.
pub(crate) fn backends_of<'s>(
    snapshot: &'s Snapshot,
    pool: &Pool,
    live_state: &LiveState,
) -> Vec<&'s Backend> {
    pool.members
        .iter()
        .filter(|slot| slot.index() < live_state.backends_max())
        .filter_map(|slot| snapshot.backend(*slot).map(|backend| &**backend))
        .collect()
}

/// Returns whether the policy compares counts that other shards change too.
pub(crate) fn compares_counts(policy: &Policy, backends: &[&Backend]) -> bool {
    policy.bounded.is_some()
        || matches!(policy.kind, Kind::LeastOutstanding | Kind::FirstAvailable | Kind::P2c | Kind::Lua(_))
        || backends.iter().any(|b| b.outstanding_soft_max != 0)
}

fn members(backends: &[&Backend], panic_ppm: u32, live_state: &LiveState) -> Vec<Member> {
    let draining = |b: &Backend| {
        b.health.mode == HealthMode::Drain || live_state.backend(b.slot).state() == State::Draining
    };
    // Members that the operator took out count neither as up nor as missing.
    let wanted = |b: &Backend| !draining(b) && b.health.mode != HealthMode::Down;
    let up = |b: &Backend| !draining(b) && live_state.backend(b.slot).state() == State::Up;
    let wanted_count = backends.iter().filter(|b| wanted(b)).count() as u64;
    let up_count = backends.iter().filter(|b| wanted(b) && up(b)).count() as u64;
    let panic = up_count * u64::from(PPM) < wanted_count * u64::from(panic_ppm);
    let mut members: Vec<_> = backends
        .iter()
        .map(|b| {
            let live = live_state.backend(b.slot);
            Member {
                slot: b.slot,
                order: b.order,
                weight: b.weight.max(1),
                weight_sum: 0,
                soft_max: b.outstanding_soft_max,
                usable: up(b) || (panic && wanted(b)),
                draining: draining(b),
                // In a panic every server takes its full share.
                warmth_ppm: if panic { PPM } else { live.warmth_ppm() },
                share_ppm: live.share_ppm(),
                trickle_ppm: live.trickle_ppm(),
            }
        })
        .collect();
    members.sort_by_key(|m| m.order);
    members
}
