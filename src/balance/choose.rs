//! The policies: pure functions of a pool's table, the tally, the query's hash and the random
//! source. None of them returns a server that the [`View`] does not accept.

use crate::balance::hash::{rehash, scale};
use crate::balance::table::{Member, Table};
use crate::balance::tally::Tally;
use crate::base::addr::BackendSlot;
use crate::base::rng::ShardRng;
use crate::model::policy::{Kind, Policy};

/// Constraints of one selection, for all policies.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) tally: &'a Tally,
    /// Servers that were tried before.
    pub(crate) avoid: &'a [BackendSlot],
    /// Servers that were selected and rejected as too cold.
    pub(crate) skipped: &'a Skipped,
    /// Every usable member is accepted: no member needs to be checked.
    pub(crate) plain: bool,
}

impl View<'_> {
    /// Returns whether a usable member may be selected.
    pub(crate) fn accepts(&self, member: &Member) -> bool {
        self.plain
            || (!self.avoid.contains(&member.slot)
                && (member.soft_max == 0 || self.tally.outstanding(member.slot) < member.soft_max)
                && !self.skipped.contains(member.slot))
    }
}

/// A set of slots that is cleared in constant time.
#[derive(Debug)]
pub(crate) struct Skipped {
    marks: Box<[u32]>,
    mark: u32,
    empty: bool,
}

impl Skipped {
    pub(crate) fn new(slots: usize) -> Self {
        Self { marks: vec![0; slots].into_boxed_slice(), mark: 1, empty: true }
    }

    pub(crate) fn clear(&mut self) {
        if self.empty {
            return;
        }
        self.empty = true;
        self.mark = self.mark.wrapping_add(1);
        if self.mark == 0 {
            self.marks.fill(0);
            self.mark = 1;
        }
    }

    pub(crate) fn insert(&mut self, slot: BackendSlot) {
        self.empty = false;
        self.marks[slot.index()] = self.mark;
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.empty
    }

    fn contains(&self, slot: BackendSlot) -> bool {
        !self.empty && self.marks[slot.index()] == self.mark
    }
}

/// Selects a server by the pool's policy. `hash` is read by the policies for which [`hashes`] is
/// true.
#[inline]
pub(crate) fn choose(
    view: &View<'_>,
    table: &mut Table,
    policy: &Policy,
    hash: u64,
    rng: &mut ShardRng,
) -> Option<Member> {
    match policy.kind {
        Kind::RoundRobin => return round_robin(view, table, policy.ordered),
        Kind::Concentrate => return concentrate(view, table, policy, hash, rng),
        Kind::LeastOutstanding
        | Kind::FirstAvailable
        | Kind::WRandom
        | Kind::WHashed
        | Kind::CHashed
        | Kind::OrderedWRandUntag
        | Kind::P2c
        | Kind::Lua(_) => {}
    }
    table.selections = table.selections.wrapping_add(1);
    let explores = table.selections.is_multiple_of(EXPLORES);
    let ordered = policy.ordered || policy.kind == Kind::OrderedWRandUntag;
    let group = if ordered { first_group(view, &table.usable)? } else { &table.usable[..] };
    match policy.kind {
        Kind::FirstAvailable => group
            .iter()
            .find(|m| view.accepts(m) && view.tally.within_qps(m.slot))
            .or_else(|| least_outstanding(view, group)),
        Kind::WRandom | Kind::OrderedWRandUntag => {
            let random = rng.u64();
            weighted(view, group, policy.bounded, |total| scale(random, total))
        }
        Kind::WHashed => weighted(view, group, policy.bounded, |total| hash % total),
        Kind::CHashed => consistent(view, table, group, policy.bounded, hash),
        Kind::P2c => {
            let best = two_choices(view, group, rng);
            if explores { unmeasured(view, group, best?, false) } else { best }
        }
        Kind::LeastOutstanding | Kind::RoundRobin | Kind::Concentrate | Kind::Lua(_) => {
            let best = least_outstanding(view, group);
            if explores { unmeasured(view, group, best?, true) } else { best }
        }
    }
    .copied()
}

/// Returns whether a policy reads the query's hash.
pub(crate) const fn hashes(kind: Kind) -> bool {
    matches!(kind, Kind::WHashed | Kind::CHashed | Kind::Concentrate)
}

/// Returns the members of the lowest order that has an acceptable one.
fn first_group<'t>(view: &View<'_>, usable: &'t [Member]) -> Option<&'t [Member]> {
    usable.chunk_by(|a, b| a.order == b.order).find(|g| g.iter().any(|m| view.accepts(m)))
}

/// Of the policies that compare latencies, one selection in so many explores.
const EXPLORES: u32 = 32;

/// Returns the server whose last response is longest ago, if it would be the better choice but for
/// its latency; `best` if all have responded lately. A server that was slow for a moment would
/// otherwise get no query that could show that it is not any more.
fn unmeasured<'t>(
    view: &View<'_>,
    group: &'t [Member],
    best: &'t Member,
    in_order: bool,
) -> Option<&'t Member> {
    let most = view.tally.outstanding(best.slot);
    group
        .iter()
        .filter(|m| view.accepts(m) && (!in_order || m.order == best.order))
        .filter(|m| view.tally.outstanding(m.slot) <= most)
        .filter_map(|m| Some((view.tally.unmeasured_for(m.slot)?, m)))
        .max_by_key(|(pause, _)| *pause)
        .map_or(Some(best), |(_, member)| Some(member))
}

#[inline]
fn least_outstanding<'t>(view: &View<'_>, group: &'t [Member]) -> Option<&'t Member> {
    // A loop of its own for each case: usually every member is accepted.
    if view.plain { least(view, group.iter()) } else { least(view, group.iter().filter(|m| view.accepts(m))) }
}

/// Returns the least loaded of members in ascending order: fewest outstanding queries; then the
/// lowest order; then the lowest latency; then the first.
fn least<'t>(view: &View<'_>, mut members: impl Iterator<Item = &'t Member>) -> Option<&'t Member> {
    let mut best = members.next()?;
    let mut least = view.tally.load(best.slot);
    for member in members {
        let load = view.tally.load(member.slot);
        if load < least && (load.outstanding() < least.outstanding() || member.order == best.order) {
            (best, least) = (member, load);
        }
    }
    Some(best)
}

fn round_robin(view: &View<'_>, table: &mut Table, ordered: bool) -> Option<Member> {
    let mut members = &table.members[..];
    if ordered && let Some(first) = first_group(view, &table.usable).and_then(<[_]>::first) {
        let start = members.partition_point(|m| m.order < first.order);
        let end = members.partition_point(|m| m.order <= first.order);
        members = &members[start..end];
    }
    // A server that replaces a cold one keeps its own turn.
    if view.skipped.is_empty() {
        let turn = index(table.turn, members.len())?;
        table.turn = table.turn.wrapping_add(1);
        let member = &members[turn];
        if member.usable && view.accepts(member) {
            return Some(*member);
        }
    }
    let usable = |m: &&Member| m.usable && view.accepts(m);
    // A turn of its own: if the turn over all members advanced only at dead ones, it would always
    // select the same substitutes.
    let turn = index(table.turn_usable, members.iter().filter(usable).count())?;
    table.turn_usable = table.turn_usable.wrapping_add(1);
    members.iter().filter(usable).nth(turn).copied()
}

/// Selects for roundrobin when no server is usable: in turn over all members except those that
/// drain.
pub(crate) fn round_robin_down(view: &View<'_>, table: &mut Table) -> Option<Member> {
    let able = |m: &&Member| !m.draining && !view.avoid.contains(&m.slot);
    let turn = index(table.turn_usable, table.members.iter().filter(able).count())?;
    table.turn_usable = table.turn_usable.wrapping_add(1);
    table.members.iter().filter(able).nth(turn).copied()
}

/// Walks the weights of the acceptable members to the point that `at` returns for their sum.
fn weighted<'t>(
    view: &View<'_>,
    group: &'t [Member],
    bounded: Option<f64>,
    at: impl Fn(u64) -> u64,
) -> Option<&'t Member> {
    if view.plain && bounded.is_none() {
        let first = group.first()?;
        let before = first.weight_sum - u64::from(first.weight);
        let point = before + at(group.last()?.weight_sum - before);
        return group.get(group.partition_point(|m| m.weight_sum <= point));
    }
    let bound = Bound::of(view, group, bounded);
    let admitted = |m: &&Member| view.accepts(m) && bound.admits(view, m);
    let total: u64 = group.iter().filter(admitted).map(|m| u64::from(m.weight)).sum();
    if total == 0 {
        // A factor below 1 can exclude every member; no query is dropped because of it.
        return if bounded.is_some() { weighted(view, group, None, at) } else { None };
    }
    let mut point = at(total);
    group.iter().filter(admitted).find(|m| {
        let weight = u64::from(m.weight);
        let here = point < weight;
        point = point.saturating_sub(weight);
        here
    })
}

fn consistent<'t>(
    view: &View<'_>,
    table: &Table,
    group: &'t [Member],
    bounded: Option<f64>,
    hash: u64,
) -> Option<&'t Member> {
    let bound = Bound::of(view, group, bounded);
    let admitted = |m: &Member| view.accepts(m) && bound.admits(view, m);
    if !group.iter().any(admitted) {
        // Otherwise the walk would go around the whole ring.
        return if bounded.is_some() { consistent(view, table, group, None, hash) } else { None };
    }
    let first = group.first()?.order;
    let last = group.last()?.order;
    let at = table.ring.as_ref()?.walk(hash).find_map(|slot| {
        let at = usize::from(table.usable_at.get(slot.index()).copied().flatten()?);
        let member = table.usable.get(at)?;
        ((first..=last).contains(&member.order) && admitted(member)).then_some(member.slot)
    })?;
    group.iter().find(|m| m.slot == at)
}

fn two_choices<'t>(view: &View<'_>, group: &'t [Member], rng: &mut ShardRng) -> Option<&'t Member> {
    let accepted = |m: &&Member| view.accepts(m);
    let count = if view.plain { group.len() } else { group.iter().filter(accepted).count() };
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let nth = |n: u32| group.iter().filter(accepted).nth(n as usize);
    if count < 2 {
        return nth(0);
    }
    let one = rng.below(count);
    let two = rng.below(count - 1);
    let (one, two) = (nth(one)?, nth(two + u32::from(two >= one))?);
    let (here, there) = (wait(view, one, two), wait(view, two, one));
    let (better, worse, ratio) = match there < here {
        true => (two, one, here as f64 / there as f64),
        false => (one, two, there as f64 / here as f64),
    };
    // Waits that differ little are as good as equal: if a small difference decided for all queries,
    // one of two equal servers would get nearly all of them for seconds. The worse one gets half of
    // the queries where both are equal, and none from twice the wait on.
    let share = (2.0 - ratio) / 2.0;
    let random = (rng.u64() >> 11) as f64 / (1_u64 << 53) as f64;
    Some(if random < share { worse } else { better })
}

/// Returns how long a query would wait at `member`, without a unit: its queue multiplied by its
/// latency, divided by its weight. When either latency is unmeasured, only the queues are compared:
/// a server that never responded must not look like the fastest.
fn wait(view: &View<'_>, member: &Member, other: &Member) -> u128 {
    let latency = match (view.tally.latency_us(member.slot), view.tally.latency_us(other.slot)) {
        (0, _) | (_, 0) => 1,
        (latency, _) => latency,
    };
    (u128::from(view.tally.outstanding(member.slot)) + 1) * u128::from(latency) * u128::from(other.weight)
}

/// Bounded load: no server may hold more than `factor` times its fair share of the outstanding
/// queries.
#[derive(Debug)]
struct Bound {
    /// Outstanding queries per weight, at most; infinite without a bound.
    per_weight: f64,
}

impl Bound {
    fn of(view: &View<'_>, group: &[Member], factor: Option<f64>) -> Self {
        let Some(factor) = factor.filter(|f| *f > 0.0) else {
            return Self { per_weight: f64::INFINITY };
        };
        let (mut outstanding, mut weight) = (1_u64, 0_u64);
        for member in group.iter().filter(|m| view.accepts(m)) {
            outstanding += u64::from(view.tally.outstanding(member.slot));
            weight += u64::from(member.weight);
        }
        Self { per_weight: factor * outstanding as f64 / weight.max(1) as f64 }
    }

    fn admits(&self, view: &View<'_>, member: &Member) -> bool {
        self.per_weight.is_infinite()
            || f64::from(view.tally.outstanding(member.slot)) <= self.per_weight * f64::from(member.weight)
    }
}

/// Factor by which a server may exceed its share of concentrate's queries where the policy has no
/// `bounded`. With plain hashing the zones of 16 servers give the busiest 1.8 times the mean.
const CONCENTRATE_BOUND: f64 = 1.25;
/// Queries in addition to that, so that the first ones after a change do not spill at random.
const CONCENTRATE_SLACK: f64 = 32.0;
/// Counts are halved at this number: the bound covers the last few thousand queries of the shard.
const CONCENTRATE_RECENT: u32 = 4_096;

/// Maps names to the cumulative shares, so that a changed share moves only the names at its border;
/// a small random part of the queries keeps the standby server warm.
///
/// The load is bounded by the queries sent, not by those outstanding: one zone whose authority is
/// slow makes its server's outstanding count grow, and spilling its names to other servers would
/// only query the slow authority from each of them.
fn concentrate(
    view: &View<'_>,
    table: &mut Table,
    policy: &Policy,
    hash: u64,
    rng: &mut ShardRng,
) -> Option<Member> {
    let survivors = if policy.ordered { first_group(view, &table.usable)? } else { &table.usable };
    let accepted = |m: &&Member| view.accepts(m);
    if survivors.iter().any(|m| m.trickle_ppm != 0) {
        let mut point = rng.below(crate::stats::live::PPM);
        for member in survivors.iter().filter(|m| m.trickle_ppm != 0) {
            if point < member.trickle_ppm {
                if view.accepts(member) {
                    return Some(*member);
                }
                break;
            }
            point -= member.trickle_ppm;
        }
    }
    let total: u64 = table.members.iter().map(|m| u64::from(m.share_ppm)).sum();
    if total == 0 {
        // The control thread has not published shares yet: the first in order takes all.
        return survivors.iter().find(accepted).copied();
    }
    let mut point = scale(hash, total);
    let owner = table.members.iter().position(|m| {
        let share = u64::from(m.share_ppm);
        let here = point < share;
        point = point.saturating_sub(share);
        here
    })?;
    if table.members[owner].usable {
        let open = table.members.iter().filter(|m| m.usable).map(|m| f64::from(m.share_ppm)).sum();
        let bound = policy.bounded.unwrap_or(CONCENTRATE_BOUND).max(1.0);
        let per_share = bound * (f64::from(table.recent_total) + 1.0) / f64::max(open, 1.0);
        let within = |at: usize| {
            let share = f64::from(table.members[at].share_ppm);
            f64::from(table.recent[at]) <= per_share * share + CONCENTRATE_SLACK
        };
        let able = |at: &usize| {
            let m = &table.members[*at];
            m.usable && m.share_ppm != 0 && view.accepts(m)
        };
        let count = table.members.len();
        let around = || (owner..count).chain(0..owner).filter(able);
        if let Some(at) = around().find(|at| within(*at)).or_else(|| around().next()) {
            table.count(at);
            return Some(table.members[at]);
        }
    }
    // The owner died after the control thread's last reading, or no server with a share is
    // acceptable: spread equally over all survivors, each name always to the same one.
    let count = survivors.iter().filter(accepted).count();
    let nth = usize::try_from(scale(rehash(hash), count as u64)).ok()?;
    survivors.iter().filter(accepted).nth(nth).copied()
}

impl Table {
    fn count(&mut self, member: usize) {
        self.recent[member] += 1;
        self.recent_total += 1;
        if self.recent_total >= CONCENTRATE_RECENT {
            self.recent_total = 0;
            for recent in &mut self.recent {
                *recent /= 2;
                self.recent_total += *recent;
            }
        }
    }
}

fn index(turn: u32, len: usize) -> Option<usize> {
    (turn as usize).checked_rem(len)
}
