//! Two answers to one question, compared: what the second has otherwise than the first.
//!
//! ```text
//!  first  ─► records: owner, type, class, data; names in lower case and whole ─► sorted ─┐
//!  second ─► the same                                                                     ├─► Found: classes, places
//!            response code, flags, OPT ───────────────────────────────────────────────────┘
//! ```
//! Records are compared as sets: neither their order nor the case or compression of their names makes
//! a difference, unless it is asked for. The messages may be hostile: what cannot be parsed is
//! [`Class::Malformed`]. Whoever compares has made sure that both have the question that was asked.
//!
//! A [`Comparer`] keeps its memory: after the largest answer it allocates nothing.

mod aspects;
mod class;
mod describe;
mod judge;
mod message;
mod outcomes;

pub use crate::compare::aspects::{Aspect, Aspects};
pub use crate::compare::class::{Class, Classes};
pub use crate::compare::describe::{describe, question};
pub use crate::compare::judge::{Verdict, judge};
pub use crate::compare::outcomes::{Example, Outcomes};

use crate::compare::message::{Item, Message};
use crate::wire::header::TC;
use crate::wire::records::Section;

/// What a comparison has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Every class of difference.
    pub classes: Classes,
    /// Where a record of the first begins that the second does not have.
    pub missing_at: Option<u16>,
    /// Where a record of the second begins that the first does not have.
    pub extra_at: Option<u16>,
    /// Where records of one set begin, of the first and the second, that differ in their data.
    pub data_at: Option<(u16, u16)>,
    /// Where a record with different TTLs begins, in either.
    pub ttl_at: Option<(u16, u16)>,
}

impl Found {
    /// Returns the most important class: [`Class::Same`] without a difference.
    #[must_use]
    pub fn class(&self) -> Class {
        self.classes.first()
    }

    /// Returns whether there is no difference.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.classes.is_empty()
    }

    fn malformed() -> Self {
        let mut classes = Classes::default();
        classes.add(Class::Malformed);
        Self { classes, ..Self::default() }
    }
}

/// Compares answers.
#[derive(Debug)]
pub struct Comparer {
    aspects: Aspects,
    first: Message,
    second: Message,
}

impl Comparer {
    /// Creates one that compares these aspects.
    #[must_use]
    pub fn new(aspects: Aspects) -> Self {
        Self { aspects, first: Message::default(), second: Message::default() }
    }

    /// Returns what it compares.
    #[must_use]
    pub const fn aspects(&self) -> Aspects {
        self.aspects
    }

    /// Compares two messages without TCP's length.
    pub fn compare(&mut self, first: &[u8], second: &[u8]) -> Found {
        let Self { aspects, first: a, second: b } = self;
        if !a.read(first) || !b.read(second) {
            return Found::malformed();
        }
        let mut found = Found::default();
        if aspects.has(Aspect::Rcode) && a.rcode != b.rcode {
            found.classes.add(Class::Rcode);
        }
        if aspects.has(Aspect::Flags) && a.flags != b.flags {
            found.classes.add(Class::Flags);
        }
        if aspects.has(Aspect::Edns) && a.edns != b.edns {
            found.classes.add(Class::Edns);
        }
        // Which records a truncated answer has, chance decides.
        if (a.flags[0] | b.flags[0]) & TC == 0 {
            a.sort();
            b.sort();
            compare_records(*aspects, a, b, &mut found);
        }
        found
    }
}

const SECTIONS: [(Section, Aspect); 3] = [
    (Section::Answer, Aspect::Answer),
    (Section::Authority, Aspect::Authority),
    (Section::Additional, Aspect::Additional),
];

fn compare_records(aspects: Aspects, a: &Message, b: &Message, found: &mut Found) {
    for (number, (section, aspect)) in SECTIONS.into_iter().enumerate() {
        if !aspects.has(aspect) {
            continue;
        }
        let (mut ours, mut theirs) = (a.section(section), b.section(section));
        let mut is_equal = true;
        // Both are sorted by their sets: the lesser of the two comes next.
        while let Some(set) = ours.first().into_iter().chain(theirs.first()).map(|item| item.set).min() {
            let (left, right) = (split_set(&mut ours, set), split_set(&mut theirs, set));
            is_equal &= compare_set(aspects, left, right, found);
        }
        if is_equal && aspects.has(Aspect::Order) && a.orders[number] != b.orders[number] {
            found.classes.add(Class::Order);
        }
    }
}

/// Takes the records of a set from the front.
fn split_set<'i>(items: &mut &'i [Item], set: u128) -> &'i [Item] {
    let count = items.iter().take_while(|item| item.set == set).count();
    let (front, rest) = items.split_at(count);
    *items = rest;
    front
}

/// Compares the records of one owner, type and class; returns whether they are the same.
fn compare_set(aspects: Aspects, mut ours: &[Item], mut theirs: &[Item], found: &mut Found) -> bool {
    let (mut missing, mut extra) = (None, None);
    loop {
        let order = match (ours.first(), theirs.first()) {
            (Some(a), Some(b)) => a.record.cmp(&b.record),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => break,
        };
        match order {
            std::cmp::Ordering::Less => {
                missing.get_or_insert(ours[0].start);
                ours = &ours[1..];
            }
            std::cmp::Ordering::Greater => {
                extra.get_or_insert(theirs[0].start);
                theirs = &theirs[1..];
            }
            std::cmp::Ordering::Equal => {
                if aspects.has(Aspect::Ttl) && ours[0].ttl != theirs[0].ttl {
                    found.classes.add(Class::Ttl);
                    found.ttl_at.get_or_insert((ours[0].start, theirs[0].start));
                }
                (ours, theirs) = (&ours[1..], &theirs[1..]);
            }
        }
    }
    match (missing, extra) {
        (Some(a), Some(b)) => {
            found.classes.add(Class::Data);
            found.data_at.get_or_insert((a, b));
        }
        (Some(at), None) => {
            found.classes.add(Class::Missing);
            found.missing_at.get_or_insert(at);
        }
        (None, Some(at)) => {
            found.classes.add(Class::Extra);
            found.extra_at.get_or_insert(at);
        }
        (None, None) => {}
    }
    missing.is_none() && extra.is_none()
}

#[cfg(test)]
mod tests;
