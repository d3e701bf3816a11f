//! Which changes of a server's state are a line of the log: those of a server that comes and goes all
//! the time are told in a line every 10 s.

use std::collections::BTreeMap;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};

/// Most changes of one server within an interval that have a line of their own.
const LINES: u32 = 4;
/// The interval.
const INTERVAL: TickDelta = TickDelta::from_ms(10_000);

/// What was said of each server lately.
#[derive(Debug, Default)]
pub(super) struct StateLines {
    servers: BTreeMap<BackendSlot, Lately>,
}

#[derive(Debug)]
struct Lately {
    /// When the interval began.
    since: Tick,
    /// How many lines there may still be in it.
    lines: u32,
    /// Changes in it without a line.
    untold: u32,
}

impl StateLines {
    /// Takes a change; returns whether it has a line.
    pub(super) fn is_told(&mut self, slot: BackendSlot, now: Tick) -> bool {
        let fresh = || Lately { since: now, lines: LINES, untold: 0 };
        let lately = self.servers.entry(slot).or_insert_with(fresh);
        if lately.lines == 0 {
            lately.untold += 1;
            return false;
        }
        lately.lines -= 1;
        true
    }

    /// Ends the intervals that are over; returns the servers whose changes had no line, and how many
    /// they were. These have none in the next interval, either.
    pub(super) fn ended(&mut self, now: Tick) -> Vec<(BackendSlot, u32)> {
        let mut untold = Vec::new();
        self.servers.retain(|slot, lately| {
            if now.since(lately.since) < INTERVAL {
                return true;
            }
            let count = std::mem::take(&mut lately.untold);
            if count > 0 {
                untold.push((*slot, count));
                lately.since = now;
            }
            count > 0
        });
        untold
    }

    /// Forgets a server.
    pub(super) fn forget(&mut self, slot: BackendSlot) {
        self.servers.remove(&slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_comes_and_goes_has_few_lines() {
        let (mut lines, slot) = (StateLines::default(), BackendSlot(3));
        let at = |ms: u64| Tick(ms * 1_000_000);
        let mut told = 0;
        let mut summed = Vec::new();
        // A change every 100 ms, for half a minute.
        for ms in (0..30_000).step_by(100) {
            summed.extend(lines.ended(at(ms)));
            told += u32::from(lines.is_told(slot, at(ms)));
        }
        assert_eq!((told, &summed), (LINES, &vec![(slot, 96), (slot, 100)]));
        assert_eq!(lines.ended(at(30_000)), [(slot, 100)], "the last ones are told");
        assert_eq!(lines.ended(at(40_000)), [], "nothing happened");
        assert!(lines.is_told(slot, at(40_000)) && lines.servers.len() == 1);
        assert_eq!(lines.ended(at(50_000)), []);
        assert!(lines.servers.is_empty(), "nothing is kept of servers that stay as they are");
        assert!((0..LINES).all(|n| lines.is_told(slot, at(60_000 + u64::from(n)))));
        assert!(lines.is_told(BackendSlot(4), at(60_000)), "each by itself");
        assert!(!lines.is_told(slot, at(60_010)));
        lines.forget(slot);
        assert!(lines.is_told(slot, at(60_020)));
    }
}
