//! Flows by their client, and by their listener: what of them is found without a look at other
//! passages.
//!
//! It knows names and places only; what a flow is, and when it ends, its passage says.

use std::collections::HashMap;

use ahash::RandomState;

use crate::addr::{Client, ListenerSlot, PassageSlot};
use crate::rng::ShardRng;
use crate::time::Tick;

/// The flows of a shard.
#[derive(Debug)]
pub(super) struct Flows {
    /// By who sends, through which listener.
    by_client: HashMap<Client, PassageSlot, RandomState>,
    /// By listener: its flows, in no order, those that have ended and are not forgotten included.
    by_listener: Vec<Vec<PassageSlot>>,
    /// By passage: its place in its listener's list.
    places: Vec<u32>,
    /// By listener: since when it is closed.
    closed: Vec<Option<Tick>>,
}

impl Flows {
    /// None yet; `hasher` tells clients apart.
    pub(super) const fn new(hasher: RandomState) -> Self {
        Self {
            by_client: HashMap::with_hasher(hasher),
            by_listener: Vec::new(),
            places: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// A flow begins; it takes the place of another of the same client.
    pub(super) fn insert(&mut self, client: Client, slot: PassageSlot) {
        self.by_client.insert(client, slot);
        let at = client.listener.index();
        if self.by_listener.len() <= at {
            self.by_listener.resize_with(at + 1, Vec::new);
        }
        if self.places.len() <= slot.index() {
            self.places.resize(slot.index() + 1, 0);
        }
        let list = &mut self.by_listener[at];
        self.places[slot.index()] = list.len() as u32;
        list.push(slot);
    }

    /// A flow is forgotten; one that gave way may have a successor of the same name.
    pub(super) fn remove(&mut self, client: &Client, slot: PassageSlot) {
        if self.by_client.get(client) == Some(&slot) {
            self.by_client.remove(client);
        }
        let list = &mut self.by_listener[client.listener.index()];
        let place = self.places[slot.index()];
        debug_assert_eq!(list.get(place as usize), Some(&slot), "each flow knows its place");
        list.swap_remove(place as usize);
        if let Some(moved) = list.get(place as usize) {
            self.places[moved.index()] = place;
        }
    }

    /// The flow of a client.
    pub(super) fn of(&self, client: &Client) -> Option<PassageSlot> {
        self.by_client.get(client).copied()
    }

    /// All flows of a listener, from a random one on.
    pub(super) fn of_listener(
        &self,
        listener: ListenerSlot,
        rng: &mut ShardRng,
    ) -> impl Iterator<Item = PassageSlot> + '_ {
        let list = self.by_listener.get(listener.index()).map_or(&[][..], Vec::as_slice);
        let start = if list.is_empty() { 0 } else { rng.below(list.len() as u32) as usize };
        list[start..].iter().chain(&list[..start]).copied()
    }

    /// A listener was closed at that time, or is open.
    pub(super) fn close_listener(&mut self, listener: ListenerSlot, at: Option<Tick>) {
        if self.closed.len() <= listener.index() {
            self.closed.resize(listener.index() + 1, None);
        }
        self.closed[listener.index()] = at;
    }

    /// Since when a listener is closed; none for one that is open.
    pub(super) fn closed_at(&self, listener: ListenerSlot) -> Option<Tick> {
        self.closed.get(listener.index()).copied().flatten()
    }

    /// Checks what must hold between calls: `client` tells whose flow a passage is.
    pub(super) fn check_invariants(&self, client: impl Fn(PassageSlot) -> Option<Client>) {
        for (name, slot) in &self.by_client {
            assert_eq!(client(*slot), Some(*name), "a flow is its client's");
        }
        for (listener, list) in self.by_listener.iter().enumerate() {
            for (place, slot) in list.iter().enumerate() {
                assert_eq!(self.places[slot.index()] as usize, place, "each flow knows its place");
                let own = client(*slot).is_some_and(|c| c.listener.index() == listener);
                assert!(own, "a flow is in its listener's list");
            }
        }
    }

    /// Flows there are in all lists; for tests.
    pub(super) fn count(&self) -> usize {
        self.by_listener.iter().map(Vec::len).sum()
    }
}
