//! Sets of domain names, compact and immutable.
//!
//! A million names take their bytes in wire format plus 18 each for the table over them. Names are
//! compared ignoring letter case (RFC 4343) and returned in lower case.

use crate::rules::name_table::{Builder, NameTable};
use crate::rules::shared_set::SharedSet;

/// Names that rules share.
pub type Names = SharedSet<NameSet>;

impl Names {
    /// Returns the number of names; 0 before it is filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set().map_or(0, NameSet::len)
    }

    /// Returns whether it has no name, or is not filled yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.set().map_or(0, NameSet::bytes)
    }
}

/// A set of names.
#[derive(Clone, Debug, Default)]
pub struct NameSet {
    table: NameTable,
}

/// Collects names in wire format. What is not a complete uncompressed name is left out.
impl<N: AsRef<[u8]>> FromIterator<N> for NameSet {
    fn from_iter<I: IntoIterator<Item = N>>(names: I) -> Self {
        let mut builder = Builder::new(false);
        for name in names {
            builder.push(name.as_ref());
        }
        Self { table: builder.finish() }
    }
}

impl NameSet {
    /// Returns whether the name itself is in the set.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.table.find(name).is_some()
    }

    /// Returns the offset in `name` of the longest name of the set that it is equal to or below.
    /// The root, when it is in the set, is found for every name.
    #[must_use]
    pub fn suffix_of(&self, name: &[u8]) -> Option<usize> {
        self.table.longest(name).map(|suffix| suffix.start)
    }

    /// Prefetches what [`Self::contains`] and [`Self::suffix_of`] will read for a batch of names
    /// (wire format), so that their cache misses overlap. Of no use, and almost no cost, for a
    /// small set.
    pub fn prefetch<'n>(&self, names: impl IntoIterator<Item = &'n [u8]>) {
        self.table.prefetch(names);
    }

    /// Returns whether prefetching is of use: the set is so large that a search waits for memory.
    #[must_use]
    pub const fn needs_prefetch(&self) -> bool {
        self.table.needs_prefetch()
    }

    /// Returns the number of names.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the bytes of memory that it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        size_of::<Self>() + self.table.bytes()
    }

    /// Returns the names in wire format and lower case, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.table.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wire(text: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for label in text.split('.').filter(|l| !l.is_empty()) {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label.as_bytes());
        }
        wire.push(0);
        wire
    }

    fn set(names: &[&str]) -> NameSet {
        names.iter().map(|n| wire(n)).collect()
    }

    #[test]
    fn longest_listed_suffix_is_found() {
        let set = set(&["example.com", "a.b.example.com", "Example.ORG", "org"]);
        for (name, start) in [
            ("example.com", Some(0)),
            ("www.EXAMPLE.com", Some(4)),
            ("a.b.example.com", Some(0)),
            ("x.a.B.example.com", Some(2)),
            ("b.example.com", Some(2)),
            ("www.example.org", Some(4)),
            ("example.net", None),
            ("notexample.com", None),
            ("com", None),
            ("", None),
            ("org", Some(0)),
        ] {
            assert_eq!(set.suffix_of(&wire(name)), start, "{name}");
        }
        assert!(set.contains(&wire("EXAMPLE.org")) && !set.contains(&wire("www.example.org")));
    }

    #[test]
    fn root_contains_every_name() {
        let set = set(&["", "com"]);
        assert_eq!(set.suffix_of(&[0]), Some(0));
        assert_eq!(set.suffix_of(&wire("www.example.org")), Some(16));
        assert_eq!(set.suffix_of(&wire("example.com")), Some(8));
        assert!(set.contains(&[0]) && !set.contains(&wire("org")));
    }

    #[test]
    fn duplicates_and_invalid_names_are_left_out() {
        let mut names = vec![wire("a.example"); 50];
        names.extend([
            wire("A.EXAMPLE"),
            wire("b.example"),
            b"\x03ab".to_vec(),
            Vec::new(),
            b"\xc0\x0c".to_vec(),
        ]);
        names.push(b"\x01a\x00tail".to_vec());
        let set: NameSet = names.into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [wire("a.example"), wire("b.example")]);
        assert_eq!(set.len(), 2);
        for name in [&b"\x03ab"[..], b"", b"\xc0\x0c", b"\x01a\x00tail"] {
            assert!(!set.contains(name) && set.suffix_of(name).is_none());
        }
        assert!(NameSet::default().suffix_of(&[0]).is_none() && NameSet::default().is_empty());
    }

    #[test]
    fn longest_names_are_kept() {
        let deepest = [b"\x01a".repeat(127), vec![0]].concat();
        let long = [&b"\x3f"[..], &[b'x'; 63]].concat().repeat(3);
        let longest = [&long[..], b"\x3d", &[b'y'; 61], &[0]].concat();
        assert_eq!((deepest.len(), longest.len()), (255, 255));
        let set: NameSet = [&deepest[..], &longest[..], &longest[64..]].into_iter().collect();
        assert_eq!(set.len(), 3);
        assert!(set.contains(&deepest) && !set.contains(&deepest[2..]));
        assert_eq!(set.suffix_of(&longest), Some(0));
        let other = [b"\x3f", &[b'z'; 63][..], &longest[64..]].concat();
        assert_eq!(set.suffix_of(&other), Some(64));
    }

    #[test]
    fn names_are_distinguished_at_any_length_and_case() {
        // Each length of one label, and of another in front of it, around multiples of the word
        // size.
        let label = |byte: u8, length: usize| [&[length as u8][..], &vec![byte; length]].concat();
        let names: Vec<Vec<u8>> = (1..=63)
            .flat_map(|n| {
                [
                    [label(b'm', n), vec![0]].concat(),
                    [label(b'z', n % 9 + 1), label(b'a', n), vec![0]].concat(),
                ]
            })
            .collect();
        let set: NameSet = names.iter().collect();
        assert_eq!(set.len(), names.len());
        set.table.touch(names.iter().map(Vec::as_slice));
        for name in &names {
            assert!(set.contains(name) && set.contains(&name.to_ascii_uppercase()));
            for at in (0..name.len()).filter(|at| name[*at].is_ascii_alphabetic()) {
                let mut other = name.clone();
                other[at] ^= 0x40;
                assert!(!set.contains(&other), "{other:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn set_equals_the_list_of_its_names(
            names in prop::collection::vec("([a-cA-C]{1,2}\\.){0,4}", 0..60),
            probes in prop::collection::vec("([a-cA-C]{1,2}\\.){0,5}", 0..40),
        ) {
            let list: Vec<Vec<u8>> = names.iter().map(|n| wire(&n.to_lowercase())).collect();
            let set: NameSet = names.iter().map(|n| wire(n)).collect();
            // Prefetching changes nothing, whatever the names.
            let asked: Vec<Vec<u8>> = probes.iter().map(|p| wire(p)).collect();
            set.table.touch(asked.iter().map(Vec::as_slice));
            for probe in &probes {
                let asked = wire(probe);
                let folded = wire(&probe.to_lowercase());
                prop_assert_eq!(set.contains(&asked), list.contains(&folded));
                let mut at = 0;
                let naive = loop {
                    if list.iter().any(|n| n[..] == folded[at..]) {
                        break Some(at);
                    }
                    if folded[at] == 0 {
                        break None;
                    }
                    at += 1 + usize::from(folded[at]);
                };
                prop_assert_eq!(set.suffix_of(&asked), naive);
            }
        }

        #[test]
        fn any_bytes_are_handled(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let set = set(&["", "a"]);
            let _ = (set.contains(&bytes), set.suffix_of(&bytes));
            for set in [&set, &NameSet::default()] {
                set.table.touch([&bytes[..], &bytes[..bytes.len() / 2]]);
            }
            let hostile: NameSet = [&bytes[..]].into_iter().collect();
            prop_assert!(hostile.len() <= 1);
        }
    }
}
