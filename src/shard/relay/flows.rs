//! Flows by their client: what of them is found without a look at other passages.
//!
//! It knows names only; what a flow is, and when it ends, its passage says.

use std::collections::HashMap;

use ahash::RandomState;

use crate::base::addr::{Client, ListenerSlot, SessionSlot};
use crate::base::time::Tick;

/// The flows of a shard.
#[derive(Debug)]
pub(crate) struct Flows {
    /// By who sends, through which listener.
    by_client: HashMap<Client, SessionSlot, RandomState>,
    /// By listener: since when it is closed.
    closed: Vec<Option<Tick>>,
}

impl Flows {
    /// None yet; `hasher` tells clients apart.
    pub(crate) const fn new(hasher: RandomState) -> Self {
        Self { by_client: HashMap::with_hasher(hasher), closed: Vec::new() }
    }

    /// A flow begins; it takes the place of another of the same client.
    pub(crate) fn insert(&mut self, client: Client, slot: SessionSlot) {
        self.by_client.insert(client, slot);
    }

    /// A flow is forgotten; one that gave way may have a successor of the same name.
    pub(crate) fn remove(&mut self, client: &Client, slot: SessionSlot) {
        if self.by_client.get(client) == Some(&slot) {
            self.by_client.remove(client);
        }
    }

    /// The flow of a client.
    pub(crate) fn of(&self, client: &Client) -> Option<SessionSlot> {
        self.by_client.get(client).copied()
    }

    /// A listener was closed at that time, or is open.
    pub(crate) fn close_listener(&mut self, listener: ListenerSlot, at: Option<Tick>) {
        if self.closed.len() <= listener.index() {
            self.closed.resize(listener.index() + 1, None);
        }
        self.closed[listener.index()] = at;
    }

    /// Since when a listener is closed; none for one that is open.
    pub(crate) fn closed_at(&self, listener: ListenerSlot) -> Option<Tick> {
        self.closed.get(listener.index()).copied().flatten()
    }

    /// Checks what must hold between calls: `client` tells whose flow a passage is.
    pub(crate) fn check_invariants(&self, client: impl Fn(SessionSlot) -> Option<Client>) {
        #[expect(clippy::iter_over_hash_type, reason = "each is checked alone")]
        for (name, slot) in &self.by_client {
            assert_eq!(client(*slot), Some(*name), "a flow is its client's");
        }
    }

    /// Clients that have a flow; for tests.
    pub(crate) fn count(&self) -> usize {
        self.by_client.len()
    }
}
