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
    /// By order, and of the same order as written; with removed ones, and not sorted, until the next
    /// search by number.
    in_order: Vec<usize>,
    is_stale: bool,
}

impl ServerIndex {
    /// Adds a server by its index; `is_last`: its order is not below that of the one before it.
    pub fn add(&mut self, at: usize, is_last: bool, identity: &str, name: Option<&str>) {
        self.in_order.push(at);
        self.is_stale |= !is_last;
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

    /// Returns the servers by their order, which is none of those that were removed.
    pub fn in_order(&mut self, order: impl Fn(usize) -> Option<i32>) -> &[usize] {
        if std::mem::take(&mut self.is_stale) {
            self.in_order.retain(|at| order(*at).is_some());
            self.in_order.sort_by_key(|at| (order(*at), *at));
        }
        &self.in_order
    }

    /// Notes that servers were removed, or have another order.
    pub const fn have_changed(&mut self) {
        self.is_stale = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_found_before_a_name() {
        let mut index = ServerIndex::default();
        index.add(0, true, "b", Some("192.0.2.1:53"));
        index.add(1, true, "192.0.2.1:53", Some("a"));
        assert_eq!(
            ["192.0.2.1:53", "a", "b", "c"].map(|t| index.called(t, |_| false)),
            [Some(1), Some(1), Some(0), None]
        );
        assert_eq!(index.called("192.0.2.1:53", |at| at == 1), Some(0), "the other is removed");
    }

    #[test]
    fn servers_are_numbered_by_their_order() {
        let (mut index, orders) = (ServerIndex::default(), [5, 1, 5, 0]);
        for (at, order) in orders.iter().enumerate() {
            index.add(at, at == 0 || orders[at - 1] <= *order, "", None);
        }
        assert_eq!(index.in_order(|at| Some(orders[at])), [3, 1, 0, 2]);
        index.have_changed();
        assert_eq!(index.in_order(|at| [None, Some(9), Some(5), Some(5)][at]), [2, 3, 1]);
    }
}
