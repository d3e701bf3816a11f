//! The lists of rules under each key: ascending numbers in one allocation.

use std::collections::BTreeMap;

/// A list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// No rule.
    pub(crate) const EMPTY: Self = Self { start: 0, end: 0 };

    pub(crate) const fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Lists under construction. Equal lists are kept once.
#[derive(Debug)]
pub(crate) struct Postings {
    rules: Vec<u32>,
    known: BTreeMap<Box<[u32]>, Span>,
    all: Span,
}

impl Postings {
    /// Creates an empty collection for this many rules.
    pub(crate) fn new(rules: u32) -> Self {
        let all = Span { start: 0, end: rules };
        Self { rules: (0..rules).collect(), known: BTreeMap::new(), all }
    }

    /// Stores a list after sorting it. When the memory is used up, the list becomes that of all
    /// rules, which is always correct.
    pub(crate) fn put(&mut self, mut list: Vec<u32>) -> Span {
        list.sort_unstable();
        list.dedup();
        if list.is_empty() {
            return Span::EMPTY;
        }
        if let Some(span) = self.known.get(&list[..]) {
            return *span;
        }
        let start = self.rules.len();
        let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(start + list.len())) else {
            return self.all;
        };
        self.rules.extend_from_slice(&list);
        let span = Span { start, end };
        self.known.insert(list.into(), span);
        span
    }

    /// Returns the rules of a list.
    pub(crate) fn list(&self, span: Span) -> &[u32] {
        &self.rules[span.start as usize..span.end as usize]
    }

    /// Returns the memory that all spans point into.
    pub(crate) fn finish(self) -> Box<[u32]> {
        self.rules.into()
    }
}
