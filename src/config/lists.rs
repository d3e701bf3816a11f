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
    by_identity: HashMap<String, Vec<usize>>,
    by_name: HashMap<String, Vec<usize>>,
    /// In order, with removed ones until the next search by number.
    in_order: Vec<usize>,
    gone: bool,
}

impl ServerIndex {
    /// Adds a server by its index.
    pub fn add(&mut self, at: usize, identity: &str, name: Option<&str>) {
        self.in_order.push(at);
        self.by_identity.entry(identity.to_owned()).or_default().push(at);
        if let Some(name) = name {
            self.by_name.entry(name.to_owned()).or_default().push(at);
        }
    }

    /// Returns the first with this identity, or else with this name.
    pub fn called(&mut self, text: &str, removed: impl Fn(usize) -> bool) -> Option<usize> {
        [&mut self.by_identity, &mut self.by_name].into_iter().find_map(|by_text| {
            let list = by_text.get_mut(text)?;
            list.retain(|at| !removed(*at));
            list.first().copied()
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_found_before_a_name() {
        let mut index = ServerIndex::default();
        index.add(0, "b", Some("192.0.2.1:53"));
        index.add(1, "192.0.2.1:53", Some("a"));
        assert_eq!(
            ["192.0.2.1:53", "a", "b", "c"].map(|t| index.called(t, |_| false)),
            [Some(1), Some(1), Some(0), None]
        );
        assert_eq!(index.called("192.0.2.1:53", |at| at == 1), Some(0), "the other is removed");
    }
}
