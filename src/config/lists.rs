//! Lists of a draft that are searched while they grow: a file may do so once for each entry.

use std::collections::{BTreeMap, HashMap};

/// Names of pools, each once, in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolNames {
    by_number: BTreeMap<u64, String>,
    numbers: HashMap<String, u64>,
}

impl PoolNames {
    /// Adds a name, unless it is there.
    pub fn add(&mut self, name: String) {
        if !self.numbers.contains_key(&name) {
            let number = self.by_number.last_key_value().map_or(0, |(last, _)| last + 1);
            self.numbers.insert(name.clone(), number);
            self.by_number.insert(number, name);
        }
    }

    /// Removes a name; returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.numbers.remove(name).is_some_and(|number| self.by_number.remove(&number).is_some())
    }

    /// Returns the names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.by_number.values().map(String::as_str)
    }
}

impl FromIterator<String> for PoolNames {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Self {
        let mut made = Self::default();
        names.into_iter().for_each(|name| made.add(name));
        made
    }
}

/// Finds servers by number, id, name and address.
#[derive(Clone, Debug, Default)]
pub struct ServerIndex {
    by_text: HashMap<String, Vec<usize>>,
    /// In order, with removed ones until the next search by number.
    in_order: Vec<usize>,
    gone: bool,
}

impl ServerIndex {
    /// Adds a server by its index.
    pub fn add(&mut self, at: usize, identity: &str, name: Option<&str>) {
        self.in_order.push(at);
        for text in std::iter::once(identity).chain(name.filter(|name| *name != identity)) {
            self.by_text.entry(text.to_owned()).or_default().push(at);
        }
    }

    /// Returns the first with this text.
    pub fn called(&mut self, text: &str, removed: impl Fn(usize) -> bool) -> Option<usize> {
        let list = self.by_text.get_mut(text)?;
        list.retain(|at| !removed(*at));
        list.first().copied()
    }

    /// Returns the one with this number.
    pub fn by_number(&mut self, number: usize, removed: impl Fn(usize) -> bool) -> Option<usize> {
        if std::mem::take(&mut self.gone) {
            self.in_order.retain(|at| !removed(*at));
        }
        self.in_order.get(number).copied()
    }

    /// Notes that servers were removed.
    pub const fn some_are_gone(&mut self) {
        self.gone = true;
    }
}
