//! Queries counted by name, or by what a function of the configuration makes of them (`setQueryCount`).
//!
//! Each shard counts in a table of its own. Whoever wants to see the counts takes that table away, in one
//! step, and adds it to those that were taken before: a shard never waits while names are added up. Both
//! have an end: what is beyond it is counted without a name.

#![expect(clippy::disallowed_types, reason = "a shard writes it, and a command takes it away in one step")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::wire::name::Text;

/// Bytes of a table's names, with what it needs for each.
const BYTES_MAX: usize = 8 << 20;
/// What a table needs for a name besides its bytes.
const ENTRY_BYTES: usize = 48;
/// Longest name; longer ones are cut.
pub const NAME_BYTES_MAX: usize = 255;

/// Counts by name.
#[derive(Debug, Default)]
pub struct QueryCounts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    names: BTreeMap<Box<[u8]>, u64>,
    /// Bytes of the names.
    bytes: usize,
    /// Queries whose name had no room.
    unnamed: u64,
}

impl Table {
    fn add(&mut self, name: &[u8], count: u64) {
        if let Some(of) = self.names.get_mut(name) {
            *of += count;
            return;
        }
        let bytes = self.bytes + name.len() + ENTRY_BYTES;
        if bytes > BYTES_MAX {
            self.unnamed += count;
            return;
        }
        self.bytes = bytes;
        self.names.insert(name.into(), count);
    }
}

/// The names with the most queries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Name and queries, most first.
    pub rows: Vec<(String, u64)>,
    /// How many names there are.
    pub names: usize,
    /// All queries that were counted.
    pub queries: u64,
    /// Those of them whose name is not known, because there were too many.
    pub unnamed: u64,
}

impl QueryCounts {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a query.
    pub fn add(&self, name: &[u8]) {
        self.table().add(&name[..name.len().min(NAME_BYTES_MAX)], 1);
    }

    /// Counts a query for a name, whose case makes no difference (RFC 4343).
    pub fn add_name(&self, name: Text<'_>) {
        let mut text = [0; NAME_BYTES_MAX];
        let mut rest = &mut text[..];
        // The one error is that there is no room for more: a longer name is cut.
        let _ = write!(rest, "{name}");
        let len = NAME_BYTES_MAX - rest.len();
        text[..len].make_ascii_lowercase();
        self.add(&text[..len]);
    }

    /// Adds what shards have counted since the last time to what is counted here, and returns the names
    /// with the most queries.
    pub fn collect<'s>(&self, shards: impl Iterator<Item = &'s Self>, rows: usize) -> Counted {
        let mut all = self.table();
        for shard in shards {
            let taken = std::mem::take(&mut *shard.table());
            all.unnamed += taken.unnamed;
            taken.names.into_iter().for_each(|(name, count)| all.add(&name, count));
        }
        let mut list: Vec<(&[u8], u64)> = all.names.iter().map(|(name, count)| (&**name, *count)).collect();
        list.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let named: u64 = list.iter().map(|(_, count)| count).sum();
        let text = |(name, count): &(&[u8], u64)| (String::from_utf8_lossy(name).into_owned(), *count);
        Counted {
            rows: list.iter().take(rows).map(text).collect(),
            names: list.len(),
            queries: named + all.unnamed,
            unnamed: all.unnamed,
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        // Dropped without the lock.
        let _table = std::mem::take(&mut *self.table());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_count_is_added_up() {
        let (total, shards) = (QueryCounts::default(), [QueryCounts::default(), QueryCounts::default()]);
        for (shard, name) in [(0, "a."), (1, "a."), (0, "b."), (1, "c."), (1, "c."), (1, "c.")] {
            shards[shard].add(name.as_bytes());
        }
        let row = |name: &str, count| (name.to_owned(), count);
        let counted = total.collect(shards.iter(), 2);
        assert_eq!(counted.rows, [row("c.", 3), row("a.", 2)]);
        assert_eq!((counted.names, counted.queries, counted.unnamed), (3, 6, 0));
        shards[0].add(b"b.");
        assert_eq!(total.collect(shards.iter(), 9).rows, [row("c.", 3), row("a.", 2), row("b.", 2)]);
        total.clear();
        assert_eq!(total.collect(shards.iter(), 9), Counted::default());
    }

    #[test]
    fn a_name_is_counted_in_lower_case_and_cut() {
        let (counts, shards) = (QueryCounts::default(), [QueryCounts::default()]);
        shards[0].add_name(Text(b"\x03WwW\x07eXample\0"));
        // Each byte is written with four: a name of 240 bytes, as text, has 960.
        let long =
            [&b"\x3b"[..], &[0; 59], b"\x3b", &[1; 59], b"\x3b", &[2; 59], b"\x3b", &[3; 59], b"\0"].concat();
        shards[0].add_name(Text(&long));
        let rows = counts.collect(shards.iter(), 9).rows;
        let cut: String = [&"\\000".repeat(59), ".", &"\\001".repeat(5)[..18]].concat();
        assert_eq!(rows, [(cut, 1), ("www.example.".to_owned(), 1)]);
    }

    #[test]
    fn names_have_an_end() {
        let counts = QueryCounts::default();
        let long = [b'x'; 1_000];
        let names = BYTES_MAX / (NAME_BYTES_MAX + ENTRY_BYTES);
        for n in 0..names + 100 {
            let name = [n.to_string().as_bytes(), b".", &long].concat();
            counts.add(&name);
        }
        counts.add(&[b"1.".as_slice(), &long].concat());
        let counted = counts.collect(std::iter::empty(), 1);
        assert_eq!((counted.names, counted.queries, counted.unnamed), (names, names as u64 + 101, 100));
        assert_eq!((counted.rows[0].0.len(), counted.rows[0].1), (NAME_BYTES_MAX, 2));
    }
}
