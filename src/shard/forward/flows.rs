//! Flows by their client: what of them is found without a look at other passages.
//!
//! It knows names only; what a flow is, and when it ends, its passage says.

use std::collections::HashMap;

use ahash::RandomState;

use crate::addr::{Client, ListenerSlot, PassageSlot};
use crate::time::Tick;

/// The flows of a shard.
#[derive(Debug)]
pub(super) struct Flows {
    /// By who sends, through which listener.
    by_client: HashMap<Client, PassageSlot, RandomState>,
    /// By listener: since when it is closed.
    closed: Vec<Option<Tick>>,
}

impl Flows {
    /// None yet; `hasher` tells clients apart.
    pub(super) const fn new(hasher: RandomState) -> Self {
        Self { by_client: HashMap::with_hasher(hasher), closed: Vec::new() }
    }

    /// A flow begins; it takes the place of another of the same client.
    pub(super) fn insert(&mut self, client: Client, slot: PassageSlot) {
        self.by_client.insert(client, slot);
    }

    /// A flow is forgotten; one that gave way may have a successor of the same name.
    pub(super) fn remove(&mut self, client: &Client, slot: PassageSlot) {
        if self.by_client.get(client) == Some(&slot) {
            self.by_client.remove(client);
        }
    }

    /// The flow of a client.
    pub(super) fn of(&self, client: &Client) -> Option<PassageSlot> {
        self.by_client.get(client).copied()
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
    }

    /// Clients that have a flow; for tests.
    pub(super) fn count(&self) -> usize {
        self.by_client.len()
    }
}
