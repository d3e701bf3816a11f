//! The lists of rules under each key: ascending numbers, all in one piece of memory.

use ahash::AHashMap;

/// A list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    /// No rule.
    pub(super) const EMPTY: Self = Self { start: 0, end: 0 };

    pub(super) const fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// Lists under construction. Equal lists are kept once.
#[derive(Debug)]
pub(super) struct Postings {
    rules: Vec<u32>,
    known: AHashMap<Box<[u32]>, Span>,
    all: Span,
}

impl Postings {
    /// None yet, for so many rules.
    pub(super) fn new(rules: u32) -> Self {
        let all = Span { start: 0, end: rules };
        Self { rules: (0..rules).collect(), known: AHashMap::new(), all }
    }

    /// Keeps a list; sorts it first. One that there is no more room for becomes that of every
    /// rule, which is never wrong.
    pub(super) fn put(&mut self, mut list: Vec<u32>) -> Span {
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

    /// The rules of a list.
    pub(super) fn list(&self, span: Span) -> &[u32] {
        &self.rules[span.start as usize..span.end as usize]
    }

    /// The memory that all spans point into.
    pub(super) fn finish(self) -> Box<[u32]> {
        self.rules.into()
    }
}
