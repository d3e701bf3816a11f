//! Sets that rules share.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// A set that rules share, and that is filled before they are compiled.
#[derive(Debug)]
pub struct SharedSet<S>(Arc<Shared<S>>);

#[derive(Debug)]
struct Shared<S> {
    set: OnceLock<S>,
    /// It is not shown.
    hidden: AtomicBool,
}

impl<S> SharedSet<S> {
    fn new(set: OnceLock<S>) -> Self {
        Self(Arc::new(Shared { set, hidden: AtomicBool::new(false) }))
    }

    /// Fills it, once.
    pub fn fill(&self, set: S) {
        let _ = self.0.set.set(set);
    }

    /// Returns its content; none before it is filled.
    #[must_use]
    pub fn set(&self) -> Option<&S> {
        self.0.set.get()
    }

    /// Lets lists of rules show the number of its elements alone.
    pub fn hide(&self) {
        self.0.hidden.store(true, Relaxed);
    }

    /// Returns whether it is hidden.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.hidden.load(Relaxed)
    }

    /// Returns a key that no other living set has.
    #[must_use]
    pub fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }
}

impl<S> Default for SharedSet<S> {
    fn default() -> Self {
        Self::new(OnceLock::new())
    }
}

// A derived one would want sets that can be copied.
impl<S> Clone for SharedSet<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> From<S> for SharedSet<S> {
    fn from(set: S) -> Self {
        Self::new(OnceLock::from(set))
    }
}
