//! Queries the index, one kind of key at a time, and merges the lists that it returns in the order
//! of the rules.
//!
//! A kind is queried when the merge reaches the first rule that the kind could return, not before:
//! a match near the top saves the look-ups for the rules below it.

use crate::base::narrow::to_u32;
use crate::rules::context::{Environment, EvaluationContext};
use crate::rules::index::postings::Span;
use crate::rules::index::{Index, Kind, Source};

/// Lists that are merged at once. There are at most 14 kinds and the list of rules that are always
/// evaluated; a kind that has more lists for a packet than there are free cursors returns all its
/// rules.
const CURSORS: usize = 24;
/// In place of a cursor's end: a kind that was not queried yet.
const UNASKED: u32 = u32::MAX;

/// A position in a list, or a kind that was not queried yet.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// The rule there; of a kind that was not queried yet, the first rule that it could return.
    head: u32,
    /// Its position in the lists, or the source.
    at: u32,
    end: u32,
}

/// The rules that can match, in order. It lives on the stack and allocates nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Candidates {
    cursors: [Cursor; CURSORS],
    len: usize,
    begun: bool,
}

impl Candidates {
    /// Returns the first one from `from` on; `from` must not decrease. All calls up to
    /// [`Self::renew`] are for the same packet and index.
    pub fn next(
        &mut self,
        index: &Index,
        from: u32,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) -> Option<u32> {
        if !self.begun {
            self.begin(index, from);
        }
        loop {
            let mut least = self.cursors[..self.len].first()?.rank(from);
            let mut which = 0;
            for (at, cursor) in self.cursors[..self.len].iter().enumerate().skip(1) {
                let rank = cursor.rank(from);
                if rank < least {
                    (least, which) = (rank, at);
                }
            }
            let cursor = self.cursors[which];
            if cursor.end != UNASKED {
                self.pass(index, cursor.head);
                return Some(cursor.head);
            }
            self.remove(which);
            if let Some(source) = index.sources.get(cursor.at as usize) {
                self.ask(index, source, from, context, env);
            }
        }
    }

    /// Forgets the look-ups: the packet has changed.
    pub const fn renew(&mut self) {
        (self.len, self.begun) = (0, false);
    }

    fn begin(&mut self, index: &Index, from: u32) {
        self.renew();
        self.begun = true;
        self.push(index, index.always, from);
        for (at, source) in (0..).zip(&index.sources) {
            if source.last >= from {
                self.put(Cursor { head: source.first, at, end: UNASKED });
            }
        }
    }

    fn ask(
        &mut self,
        index: &Index,
        source: &Source,
        from: u32,
        context: &mut EvaluationContext<'_, '_>,
        env: &mut Environment<'_>,
    ) {
        let before = self.len;
        let mut fits = true;
        let mut push = |list: Span| fits &= self.push(index, list, from);
        match source.kind {
            Kind::Names => index.names.lists(context.qname()).for_each(push),
            Kind::Client => index.client.lists(&context.client.peer.ip).for_each(push),
            Kind::Local => index.local.lists(&context.local.ip).for_each(push),
            Kind::Fact(fact) => push(index.facts[fact as usize].list(fact.value(context))),
            Kind::Patterns => index.patterns.each(context.qname(), env.patterns, |number| {
                push(index.pattern_lists.get(number).copied().unwrap_or(Span::EMPTY));
            }),
        }
        if !fits {
            self.len = before;
            self.push(index, source.rules, from);
        }
    }

    /// Adds a cursor at a list's first rule from `from` on; returns false when no cursor is free.
    fn push(&mut self, index: &Index, list: Span, from: u32) -> bool {
        let Some(rules) = index.lists.get(list.start as usize..list.end as usize) else { return true };
        let skipped = match rules.first() {
            Some(first) if *first < from => rules.partition_point(|r| *r < from),
            _ => 0,
        };
        let Some(head) = rules.get(skipped) else { return true };
        self.put(Cursor { head: *head, at: list.start + to_u32(skipped), end: list.end })
    }

    fn put(&mut self, cursor: Cursor) -> bool {
        let Some(place) = self.cursors.get_mut(self.len) else { return false };
        *place = cursor;
        self.len += 1;
        true
    }

    fn remove(&mut self, at: usize) {
        self.len -= 1;
        self.cursors[at] = self.cursors[self.len];
    }

    /// Advances every cursor at `rule` behind it.
    fn pass(&mut self, index: &Index, rule: u32) {
        let mut at = 0;
        while at < self.len {
            let cursor = &mut self.cursors[at];
            if cursor.end != UNASKED && cursor.head == rule {
                cursor.at += 1;
                match index.lists.get(cursor.at as usize).filter(|_| cursor.at < cursor.end) {
                    Some(next) => cursor.head = *next,
                    None => {
                        self.remove(at);
                        continue;
                    }
                }
            }
            at += 1;
        }
    }
}

impl Cursor {
    /// Returns the merge key: the rule; for equal rules, lists before kinds that were not queried
    /// yet.
    fn rank(&self, from: u32) -> u64 {
        let unasked = self.end == UNASKED;
        let head = if unasked { self.head.max(from) } else { self.head };
        u64::from(head) << 1 | u64::from(unasked)
    }
}
