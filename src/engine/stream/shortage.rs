//! What is done when the kernel has nothing left for a new connection.

/// Shortage of descriptors or memory: nothing is accepted until the next idle wake-up.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    waiting: bool,
    told: bool,
}

impl Shortage {
    /// Accepting has failed; whether that is to be said, as it is once until one succeeds.
    pub(crate) const fn begin(&mut self) -> bool {
        self.waiting = true;
        !std::mem::replace(&mut self.told, true)
    }

    /// Accepting has succeeded.
    pub(crate) const fn end(&mut self) {
        self.told = false;
    }

    /// Whether to try again now.
    pub(crate) const fn is_over(&mut self) -> bool {
        std::mem::replace(&mut self.waiting, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_once_however_often_it_is_tried_again() {
        let mut shortage = Shortage::default();
        assert!(!shortage.is_over(), "nothing to try again");
        assert!(shortage.begin() && shortage.is_over() && !shortage.is_over());
        assert!(!shortage.begin() && shortage.is_over(), "said before");
        shortage.end();
        assert!(shortage.begin(), "another one");
    }
}
