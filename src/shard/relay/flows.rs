//! Flows by client: looked up without a scan of the sessions.
//!
//! It holds slots only; the session defines what a flow is and when it ends.

use std::collections::HashMap;

use ahash::RandomState;

use crate::base::addr::{Client, ListenerSlot, SessionSlot};
use crate::base::time::Tick;

/// The flows of a shard.
#[derive(Debug)]
pub(crate) struct Flows {
    /// By client and listener.
    by_client: HashMap<Client, SessionSlot, RandomState>,
    /// By listener: since when it is closed.
    closed: Vec<Option<Tick>>,
}

impl Flows {
    /// Creates an empty set; `hasher` hashes clients.
    pub(crate) const fn new(hasher: RandomState) -> Self {
        Self { by_client: HashMap::with_hasher(hasher), closed: Vec::new() }
    }

    /// Adds a flow; it replaces another one of the same client.
    pub(crate) fn insert(&mut self, client: Client, slot: SessionSlot) {
        self.by_client.insert(client, slot);
    }

    /// Removes a flow; an evicted one may have a successor of the same client.
    pub(crate) fn remove(&mut self, client: &Client, slot: SessionSlot) {
        if self.by_client.get(client) == Some(&slot) {
            self.by_client.remove(client);
        }
    }

    /// Returns the flow of a client.
    pub(crate) fn of(&self, client: &Client) -> Option<SessionSlot> {
        self.by_client.get(client).copied()
    }

    /// Records that a listener was closed at that time, or is open.
    pub(crate) fn close_listener(&mut self, listener: ListenerSlot, at: Option<Tick>) {
        if self.closed.len() <= listener.index() {
            self.closed.resize(listener.index() + 1, None);
        }
        self.closed[listener.index()] = at;
    }

    /// Returns since when a listener is closed; none for one that is open.
    pub(crate) fn closed_at(&self, listener: ListenerSlot) -> Option<Tick> {
        self.closed.get(listener.index()).copied().flatten()
    }

    /// Checks the invariants between calls: `client` returns the client of a session.
    pub(crate) fn check_invariants(&self, client: impl Fn(SessionSlot) -> Option<Client>) {
        #[expect(clippy::iter_over_hash_type, reason = "each is checked alone")]
        for (name, slot) in &self.by_client {
            assert_eq!(client(*slot), Some(*name), "a flow is its client's");
        }
    }

    /// Returns the clients that have a flow; for tests.
    pub(crate) fn count(&self) -> usize {
        self.by_client.len()
    }
}
