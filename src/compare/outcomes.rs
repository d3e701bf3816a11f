//! What many comparisons have found: counts, and a few examples of each class.

use crate::compare::{Class, Found, Verdict, describe, judge, question};

/// Examples of each class.
const EXAMPLES_MAX: usize = 5;

/// A difference for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its most important class.
    pub class: Class,
    /// The question, as `NAME TYPE`.
    pub question: String,
    /// What differs.
    pub words: String,
}

/// The counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    classes: [u64; Class::ALL.len()],
    verdicts: [u64; Verdict::ALL.len()],
    /// Queries that only the first has answered.
    pub only_first: u64,
    /// Queries that only the second has answered.
    pub only_second: u64,
    /// Queries that neither has answered.
    pub neither: u64,
    /// Pairs that were not compared: there was no memory to keep the earlier answer.
    pub skipped: u64,
    /// At most five of each class.
    pub examples: Vec<Example>,
}

impl Outcomes {
    /// Adds a comparison of two answers; each counts by its most important class.
    pub fn add(&mut self, found: &Found, first: &[u8], second: &[u8]) {
        let (class, verdict) = (found.class(), judge(found, first, second));
        self.classes[class.index()] += 1;
        self.verdicts[verdict.index()] += 1;
        if class != Class::Same && self.has_room(class) {
            let (question, words) = (question(first), describe(found, first, second));
            self.examples.push(Example { class, question, words });
        }
    }

    /// Adds those of another.
    pub fn join(&mut self, other: Self) {
        for class in Class::ALL {
            self.classes[class.index()] += other.classes[class.index()];
        }
        for verdict in Verdict::ALL {
            self.verdicts[verdict.index()] += other.verdicts[verdict.index()];
        }
        self.only_first += other.only_first;
        self.only_second += other.only_second;
        self.neither += other.neither;
        self.skipped += other.skipped;
        for example in other.examples {
            if self.has_room(example.class) {
                self.examples.push(example);
            }
        }
    }

    /// Returns the number of comparisons with this result.
    #[must_use]
    pub const fn of(&self, class: Class) -> u64 {
        self.classes[class.index()]
    }

    /// Returns the number of comparisons with this verdict.
    #[must_use]
    pub const fn judged(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict.index()]
    }

    /// Returns the number of comparisons.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Returns whether any query has had an answer that could be compared with what the other side gave.
    #[must_use]
    pub fn any(&self) -> bool {
        self.compared() + self.only_first + self.only_second > 0
    }

    /// Returns the answers that differ, and those that only one side has.
    #[must_use]
    pub fn different(&self) -> u64 {
        self.compared() - self.of(Class::Same) + self.only_first + self.only_second
    }

    /// Returns the answers of the second that are worse, and those that it lacks.
    #[must_use]
    pub const fn worse(&self) -> u64 {
        self.judged(Verdict::Worse) + self.only_first
    }

    fn has_room(&self, class: Class) -> bool {
        self.examples.iter().filter(|example| example.class == class).count() < EXAMPLES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Aspects, Comparer};

    #[test]
    fn counts_add_up_and_examples_are_few() {
        let good = *b"\0\0\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
        let mut failed = good;
        failed[3] = 0x82;
        let mut comparer = Comparer::new(Aspects::default());
        let mut all = Outcomes::default();
        for _ in 0..2 {
            let mut part = Outcomes::default();
            for n in 0..10 {
                let other = if n < 4 { good } else { failed };
                part.add(&comparer.compare(&good, &other), &good, &other);
            }
            (part.only_first, part.neither) = (1, 3);
            all.join(part);
        }
        assert_eq!((all.compared(), all.of(Class::Same), all.of(Class::Rcode)), (20, 8, 12));
        assert_eq!((all.judged(Verdict::Worse), all.worse(), all.different()), (12, 14, 14));
        assert_eq!((all.only_first, all.only_second, all.neither), (2, 0, 6));
        assert_eq!(all.examples.len(), EXAMPLES_MAX);
        assert_eq!(all.examples[0].question, "a. A");
        assert_eq!(all.examples[0].words, "NOERROR, then SERVFAIL");
    }
}
