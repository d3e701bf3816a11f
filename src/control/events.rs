//! What has happened lately, for people: states of servers, configurations.
//!
//! It is what differs between two looks at the figures, so what came and went in between is not seen.

use std::collections::{BTreeMap, VecDeque};

use crate::base::addr::BackendSlot;
use crate::base::printable::Printable;
use crate::control::notes::Note;
use crate::control::stats::figures::Figures;
use crate::control::stats::text::state_name;

/// Events that are kept.
const EVENTS_MAX: usize = 100;
/// Servers that one event names.
const NAMES_MAX: usize = 5;

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// How many were before it.
    pub(super) number: u64,
    /// When it was seen, seconds since 1970.
    pub(super) unix: u64,
    /// What it concerns: `server`, `servers`, `generation`, or the kind of a note.
    pub(super) kind: &'static str,
    /// One line.
    pub(super) text: String,
}

/// The last events.
#[derive(Debug, Default)]
pub(super) struct Events {
    events: VecDeque<Event>,
    number: u64,
    generation: Option<u64>,
    servers: BTreeMap<BackendSlot, Seen>,
}

/// A server at the last look.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    id: String,
    name: String,
    state: &'static str,
}

impl Events {
    /// The number of the oldest event, and the one that the next will have.
    pub(super) fn numbers(&self) -> (u64, u64) {
        (self.number - self.events.len() as u64, self.number)
    }

    /// The events from a number on, the oldest first.
    pub(super) fn from(&self, number: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.number >= number)
    }

    /// Takes what the control loop says.
    pub(super) fn note(&mut self, unix: u64, notes: Vec<Note>) {
        for Note { kind, text } in notes {
            self.add(unix, kind, text);
        }
    }

    /// The events, the latest first.
    pub(super) fn latest(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().rev()
    }

    /// Takes a look.
    pub(super) fn feed(&mut self, figures: &Figures) {
        let snapshot = &figures.snapshot;
        let servers: BTreeMap<_, _> = snapshot
            .backends
            .iter()
            .flatten()
            .map(|backend| {
                let state = state_name(figures.standing(backend.slot).state, backend.health.mode);
                let seen = Seen { id: backend.id.clone(), name: backend.name.clone(), state };
                (backend.slot, seen)
            })
            .collect();
        let before = std::mem::replace(&mut self.servers, servers);
        let Some(generation) = self.generation.replace(snapshot.generation) else { return };
        if generation != snapshot.generation {
            let text = format!("generation {} of the configuration is in force", snapshot.generation);
            self.add(figures.unix, "generation", text);
        }
        let mut texts = Vec::new();
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (slot, seen) in &self.servers {
            match before.get(slot).filter(|earlier| earlier.id == seen.id) {
                Some(earlier) if earlier.state != seen.state => {
                    texts.push((
                        "server",
                        format!("server {}: {} → {}", seen.name, earlier.state, seen.state),
                    ));
                }
                Some(_) => {}
                None => added.push(seen.name.as_str()),
            }
        }
        for (slot, earlier) in &before {
            if self.servers.get(slot).is_none_or(|seen| seen.id != earlier.id) {
                removed.push(earlier.name.as_str());
            }
        }
        texts.extend(listed("added", &added).map(|text| ("servers", text)));
        texts.extend(listed("removed", &removed).map(|text| ("servers", text)));
        for (kind, text) in texts {
            self.add(figures.unix, kind, text);
        }
    }

    fn add(&mut self, unix: u64, kind: &'static str, text: String) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { number: self.number, unix, kind, text: Printable(text).to_string() });
        self.number += 1;
    }
}

/// `added: a, b and 3 more`; none without a name.
fn listed(what: &str, names: &[&str]) -> Option<String> {
    let shown = &names[..names.len().min(NAMES_MAX)];
    let more = names.len() - shown.len();
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("{what}: {}{rest}", shown.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::control::fixture;
    use crate::control::monitor::Monitor;
    use crate::control::publisher::Feed;
    use crate::stats::live::{LiveState, State};

    fn texts(events: &Events) -> Vec<&str> {
        events.latest().map(|event| event.text.as_str()).collect()
    }

    #[test]
    fn what_differs_between_two_looks_has_happened() {
        let live_state = Arc::new(LiveState::new(1, 9));
        let feed = Feed::new(Arc::new(fixture::snapshot(1, &[], &[0, 1])), Arc::clone(&live_state));
        let monitor = Monitor::new(&feed, Arc::new(AtomicU64::new(0)));
        let mut events = Events::default();
        let mut figures = monitor.figures();
        events.feed(&figures);
        assert_eq!(texts(&events), [""; 0]);
        live_state.set_state(BackendSlot(1), State::Up);
        events.feed(&figures);
        events.feed(&figures);
        assert_eq!(texts(&events), ["server ns1: down → up"]);
        figures.snapshot = Arc::new(fixture::snapshot(2, &[], &[1, 2, 3, 4, 5, 6, 7, 8]));
        events.feed(&figures);
        assert_eq!(
            texts(&events),
            [
                "removed: ns0",
                "added: ns2, ns3, ns4, ns5, ns6 and 2 more",
                "generation 2 of the configuration is in force",
                "server ns1: down → up",
            ]
        );
    }

    #[test]
    fn the_oldest_goes_first() {
        let live_state = Arc::new(LiveState::new(1, 1));
        let feed = Feed::new(Arc::new(fixture::snapshot(1, &[], &[0])), Arc::clone(&live_state));
        let figures = Monitor::new(&feed, Arc::new(AtomicU64::new(0))).figures();
        let mut events = Events::default();
        for n in 0..2 * EVENTS_MAX {
            live_state.set_state(BackendSlot(0), if n % 2 == 0 { State::Up } else { State::Down });
            events.feed(&figures);
        }
        assert_eq!(events.latest().count(), EVENTS_MAX);
        assert_eq!(events.latest().next().expect("events").number, 2 * EVENTS_MAX as u64 - 2);
    }
}
