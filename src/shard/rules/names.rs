//! Sets of domain names, compact and immutable.

use std::sync::{Arc, OnceLock};

/// A set that rules share, and that is filled before they are compiled.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<OnceLock<NameSet>>);

impl Names {
    /// Fills it, once.
    pub fn fill(&self, set: NameSet) {
        let _ = self.0.set(set);
    }

    /// What it was filled with; none before.
    #[must_use]
    pub fn set(&self) -> Option<&NameSet> {
        self.0.get()
    }

    /// What tells it apart from every other set that is there.
    #[must_use]
    pub fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

/// A set of names.
#[derive(Clone, Debug, Default)]
pub struct NameSet {}

impl FromIterator<Vec<u8>> for NameSet {
    fn from_iter<I: IntoIterator<Item = Vec<u8>>>(_: I) -> Self {
        Self {}
    }
}

impl NameSet {
    /// Whether the name itself is in the set; letter case aside.
    #[must_use]
    pub const fn contains(&self, _: &[u8]) -> bool {
        false
    }

    /// The longest name of the set that `name` is, or is below of: where it begins in `name`.
    #[must_use]
    pub const fn suffix_of(&self, _: &[u8]) -> Option<usize> {
        None
    }
}
