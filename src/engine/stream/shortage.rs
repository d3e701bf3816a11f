//! What happens when the kernel has no resources for a new connection.

/// A shortage of descriptors or memory: nothing is accepted until the next idle wake-up.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    waiting: bool,
    reported: bool,
}

impl Shortage {
    /// Notes that accepting failed; returns whether to log it, once until it succeeds again.
    pub(crate) const fn begin(&mut self) -> bool {
        self.waiting = true;
        !std::mem::replace(&mut self.reported, true)
    }

    /// Notes that accepting succeeded.
    pub(crate) const fn end(&mut self) {
        self.reported = false;
    }

    /// Returns whether to retry.
    pub(crate) const fn is_over(&mut self) -> bool {
        std::mem::replace(&mut self.waiting, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_reported_once_however_often_it_is_retried() {
        let mut shortage = Shortage::default();
        assert!(!shortage.is_over(), "nothing to retry");
        assert!(shortage.begin() && shortage.is_over() && !shortage.is_over());
        assert!(!shortage.begin() && shortage.is_over(), "already reported");
        shortage.end();
        assert!(shortage.begin(), "another one");
    }
}
