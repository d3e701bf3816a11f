//! Says when somebody seems to guess answers of a server, and when that is over.
//!
//! The shards find it and act on it (see [`spoofing`](crate::shard::dispatch::spoofing)); here their
//! counters are read. Each attack has one line at its begin and one at its end.

use std::collections::BTreeMap;

use crate::base::addr::BackendSlot;
use crate::base::time::{Tick, TickDelta};
use crate::model::{Backend, Snapshot};
use crate::shard::dispatch::spoofing::CALM;
use crate::stats::live::LiveState;

/// How far the answers that the first line names go back, at least; twice that at most.
const SPAN: TickDelta = TickDelta::from_ms(1_000);

/// The attacks on all servers.
#[derive(Debug, Default)]
pub(crate) struct SpoofingMonitor {
    servers: BTreeMap<BackendSlot, Watched>,
    has_looked: bool,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    /// Bursts in all shards up to the last look.
    bursts: u64,
    /// Foreign answers at the beginning of this span, and of the one before.
    spans: [(Tick, u64); 2],
    attack: Option<Attack>,
}

#[derive(Clone, Copy, Debug)]
struct Attack {
    /// Foreign answers when it began.
    before: u64,
    last_burst: Tick,
}

/// What is to be said of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// An attack has begun.
    Begun { server: String, answers: u64, over_tcp: bool },
    /// It is over.
    Over { server: String, answers: u64 },
}

impl SpoofingMonitor {
    /// Reads the counters of all servers.
    pub(crate) fn turn(&mut self, snapshot: &Snapshot, live_state: &LiveState, now: Tick) -> Vec<Notice> {
        self.servers.retain(|slot, _| snapshot.backend(*slot).is_some());
        let mut notices = Vec::new();
        // What was counted before the first look is of these servers; later it may be of a server
        // that had the slot before.
        let is_later = std::mem::replace(&mut self.has_looked, true);
        for backend in snapshot.backends.iter().flatten() {
            let (mut foreign, mut bursts) = (0, 0);
            for stats in live_state.shards().iter().filter_map(|shard| shard.backend_if_used(backend.slot)) {
                foreign += stats.foreign.get();
                bursts += stats.foreign_bursts.get();
            }
            let before = if is_later { (bursts, foreign) } else { (0, 0) };
            let first = Watched { bursts: before.0, spans: [(now, before.1); 2], attack: None };
            let watched = self.servers.entry(backend.slot).or_insert(first);
            notices.extend(watched.look(backend, foreign, bursts, now));
        }
        notices
    }
}

impl Watched {
    fn look(&mut self, backend: &Backend, foreign: u64, bursts: u64, now: Tick) -> Option<Notice> {
        let is_burst = std::mem::replace(&mut self.bursts, bursts) != bursts;
        let server = || backend.name.clone();
        let notice = match &mut self.attack {
            Some(attack) if is_burst => {
                attack.last_burst = now;
                None
            }
            Some(attack) if now.since(attack.last_burst) >= CALM => {
                let answers = foreign - attack.before;
                self.attack = None;
                Some(Notice::Over { server: server(), answers })
            }
            None if is_burst => {
                let before = self.spans[1].1;
                self.attack = Some(Attack { before, last_burst: now });
                let over_tcp = backend.connections.while_spoofed && !backend.connections.only;
                Some(Notice::Begun { server: server(), answers: foreign - before, over_tcp })
            }
            _ => None,
        };
        if now.since(self.spans[0].0) >= SPAN {
            self.spans = [(now, foreign), self.spans[0]];
        }
        notice
    }
}

/// Logs notices.
pub(crate) fn log(notices: &[Notice]) {
    for notice in notices {
        match notice {
            Notice::Begun { server, answers, over_tcp } => {
                let queries =
                    if *over_tcp { "queries go to it over TCP" } else { "its queries leave by new ports" };
                tracing::warn!(
                    server,
                    answers,
                    "answers arrive that it was not asked for: somebody may be guessing them; {queries}"
                );
            }
            Notice::Over { server, answers } => {
                tracing::info!(server, answers, "no more answers that it was not asked for");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixture;

    #[test]
    fn an_attack_has_two_lines() {
        let (snapshot, live_state) = (fixture::snapshot(1, &[], &[0]), LiveState::new(2, 1));
        let backend = snapshot.backends[0].as_ref().expect("a server");
        let mut monitor = SpoofingMonitor::default();
        let stats = live_state.shards()[1].backend(backend.slot);
        let mut all = Vec::new();
        for step in 0..2_000 {
            let now = Tick(step * 200_000_000);
            // Up to 100 a second are none; an attack of 20 s begins after 20 s.
            stats.foreign.add(10);
            if (100..200).contains(&step) {
                stats.foreign.add(1_000);
                stats.foreign_bursts.add(u64::from(step % 5 == 0));
            }
            all.extend(monitor.turn(&snapshot, &live_state, now).into_iter().map(|notice| (step, notice)));
        }
        let server = backend.name.clone();
        let [
            (100, Notice::Begun { server: begun, answers, over_tcp: false }),
            (at, Notice::Over { server: over, .. }),
        ] = &all[..]
        else {
            panic!("{all:?}")
        };
        assert_eq!((begun, over), (&server, &server));
        assert!((1_010..=1_110).contains(answers), "{answers}");
        assert_eq!(*at, 195 + 300, "60 s after the last burst");
    }
}
