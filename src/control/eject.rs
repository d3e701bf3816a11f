//! Ejects servers that answer worse than their peers: one instance per pool.
//!
//! It compares the failure rate of each member (time-outs and SERVFAIL over finished queries) with
//! that of the whole pool over the last ten seconds. It only names servers; the caller ejects them.
//! A pool that fails as a whole has no outlier, and no more than a configured share is ejected.

use std::collections::BTreeMap;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::control::health::Live;
use crate::model::Eject;
use crate::stats::live::PPM;

/// Portions of the window, one per second.
const PORTIONS: usize = 10;
const PORTION: TickDelta = TickDelta::from_ms(1_000);

/// Compares the members of one pool with each other.
#[derive(Debug, Default)]
pub struct Ejector {
    windows: BTreeMap<BackendSlot, [Portion; PORTIONS]>,
    at: usize,
    since: Tick,
}

#[derive(Clone, Copy, Debug, Default)]
struct Portion {
    ended: u64,
    failed: u64,
}

impl Portion {
    fn add(&mut self, other: Self) {
        self.ended += other.ended;
        self.failed += other.failed;
    }
}

impl Ejector {
    /// Adds the live results of all members since the last call.
    pub fn observe(&mut self, live: impl Iterator<Item = (BackendSlot, Live)>, now: Tick) {
        if now.since(self.since) >= PORTION {
            self.since = now;
            self.at = (self.at + 1) % PORTIONS;
            for window in self.windows.values_mut() {
                window[self.at] = Portion::default();
            }
        }
        for (slot, live) in live {
            let window = self.windows.entry(slot).or_default();
            window[self.at].add(Portion { ended: live.ended(), failed: live.timeouts + live.servfails });
        }
    }

    /// Returns the members to eject, the worst first. `members` tells whether each is usable;
    /// unusable ones count towards the maximum share.
    pub fn judge(&mut self, settings: &Eject, members: &[(BackendSlot, bool)]) -> Vec<BackendSlot> {
        self.windows.retain(|slot, _| members.iter().any(|(s, _)| s == slot));
        let out = members.iter().filter(|(_, usable)| !usable).count();
        let may = members.len() as u64 * u64::from(settings.share_max_ppm.min(PPM)) / u64::from(PPM);
        let room = usize::try_from(may).unwrap_or(usize::MAX).saturating_sub(out);
        if room == 0 {
            return Vec::new();
        }
        let sums: Vec<(BackendSlot, Portion)> = members
            .iter()
            .filter(|(_, usable)| *usable)
            .filter_map(|(slot, _)| Some((*slot, sum(self.windows.get(slot)?))))
            .collect();
        let mut pool = Portion::default();
        sums.iter().for_each(|(_, p)| pool.add(*p));
        let limit = failed_ppm(pool) + u64::from(settings.excess_ppm);
        let mut worst: Vec<(u64, BackendSlot)> = sums
            .into_iter()
            .filter(|(_, p)| p.ended >= u64::from(settings.queries_min.max(1)))
            .map(|(slot, p)| (failed_ppm(p), slot))
            .filter(|(ppm, _)| *ppm > limit)
            .collect();
        worst.sort_unstable_by(|a, b| b.cmp(a));
        worst.truncate(room);
        for (_, slot) in &worst {
            // It is judged afresh after its return.
            self.windows.remove(slot);
        }
        worst.into_iter().map(|(_, slot)| slot).collect()
    }
}

fn sum(window: &[Portion; PORTIONS]) -> Portion {
    let mut all = Portion::default();
    window.iter().for_each(|p| all.add(*p));
    all
}

fn failed_ppm(p: Portion) -> u64 {
    (p.failed * u64::from(PPM)).checked_div(p.ended).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BackendSlot = BackendSlot(0);
    const B: BackendSlot = BackendSlot(1);
    const C: BackendSlot = BackendSlot(2);
    const D: BackendSlot = BackendSlot(3);

    fn settings(share_max_ppm: u32) -> Eject {
        Eject { excess_ppm: 200_000, span: TickDelta::from_ms(30_000), share_max_ppm, queries_min: 50 }
    }

    fn live(responses: u64, timeouts: u64) -> Live {
        Live { responses, timeouts, servfails: 0 }
    }

    fn all_usable() -> Vec<(BackendSlot, bool)> {
        [A, B, C, D].map(|s| (s, true)).to_vec()
    }

    #[test]
    fn a_single_failing_server_is_ejected_and_then_judged_afresh() {
        let mut judge = Ejector::default();
        let seen = [(A, live(100, 0)), (B, live(100, 0)), (C, live(50, 50)), (D, live(100, 0))];
        judge.observe(seen.into_iter(), Tick(0));
        assert_eq!(judge.judge(&settings(500_000), &all_usable()), [C]);
        assert!(judge.judge(&settings(500_000), &all_usable()).is_empty());
    }

    #[test]
    fn a_pool_that_fails_as_a_whole_has_no_outlier() {
        let mut judge = Ejector::default();
        judge.observe([A, B, C, D].map(|s| (s, live(20, 80))).into_iter(), Tick(0));
        assert!(judge.judge(&settings(PPM), &all_usable()).is_empty());
    }

    #[test]
    fn at_most_the_maximum_share_is_ejected_the_worst_first() {
        let mut judge = Ejector::default();
        let seen = [(A, live(1000, 0)), (B, live(1000, 0)), (C, live(50, 50)), (D, live(20, 80))];
        judge.observe(seen.into_iter(), Tick(0));
        assert_eq!(judge.judge(&settings(250_000), &all_usable()), [D]);
        let one_out = [(A, false), (B, true), (C, true), (D, false)];
        assert!(judge.judge(&settings(250_000), &one_out).is_empty());
        assert_eq!(judge.judge(&settings(750_000), &one_out), [C]);
    }

    #[test]
    fn few_or_old_queries_are_no_evidence() {
        let mut judge = Ejector::default();
        judge.observe([(A, live(1000, 0)), (B, live(0, 49))].into_iter(), Tick(0));
        assert!(judge.judge(&settings(PPM), &all_usable()).is_empty());
        judge.observe([(B, live(0, 100))].into_iter(), Tick(0));
        for second in 1..=10 {
            judge.observe([(A, live(1000, 0)), (B, live(10, 0))].into_iter(), Tick(second * 1_000_000_000));
        }
        assert!(judge.judge(&settings(PPM), &all_usable()).is_empty(), "ten seconds later they have expired");
    }
}
