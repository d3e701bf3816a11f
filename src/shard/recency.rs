//! Selects the connection or flow that makes room for a new one: lists in the order of their last
//! use.
//!
//! ```text
//!  group (DNS clients, or one relay's clients) ─► new ──────► answered ──────► established
//!                                              oldest ...  oldest ...       oldest ... newest
//! ```
//!
//! The lowest class with more than an eighth of its group loses its oldest member. So clients that
//! open connections or flows and do nothing with them, or send from forged addresses, evict their
//! own kind; a group that is full of established members still accepts new ones. Each step costs
//! the same however many members there are.

use crate::base::narrow::to_u32;

/// Part of a group that a class may have before it makes room for others: one in this many.
const SHARE: u32 = 8;
/// No member.
const NONE: u32 = u32::MAX;

/// How far a member is proven. Where a client shows nothing but its queries, the class in the
/// middle is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// It was not answered yet, or has sent nothing.
    New,
    /// It was answered, which may be a forged address too.
    Answered,
    /// Its client has continued after an answer.
    Established,
}

const CLASSES: usize = Class::Established as usize + 1;

/// Members of all groups, by the index of their slot.
#[derive(Debug, Default)]
pub(super) struct Recency {
    nodes: Vec<Option<Node>>,
    groups: Vec<[List; CLASSES]>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    older: u32,
    newer: u32,
    group: u32,
    class: Class,
}

#[derive(Clone, Copy, Debug)]
struct List {
    oldest: u32,
    newest: u32,
    len: u32,
}

const EMPTY: List = List { oldest: NONE, newest: NONE, len: 0 };

impl Recency {
    /// Makes `slot` the newest of a class, wherever it was before.
    pub(super) fn put(&mut self, slot: usize, group: usize, class: Class) {
        self.remove(slot);
        if self.nodes.len() <= slot {
            self.nodes.resize(slot + 1, None);
        }
        if self.groups.len() <= group {
            self.groups.resize(group + 1, [EMPTY; CLASSES]);
        }
        let list = &mut self.groups[group][class as usize];
        let (slot32, older) = (to_u32(slot), list.newest);
        list.newest = slot32;
        list.len += 1;
        if older == NONE {
            list.oldest = slot32;
        }
        self.nodes[slot] = Some(Node { older, newer: NONE, group: to_u32(group), class });
        if let Some(node) = self.node_mut(older) {
            node.newer = slot32;
        }
    }

    /// Removes `slot`, if it is a member.
    pub(super) fn remove(&mut self, slot: usize) {
        let Some(node) = self.nodes.get_mut(slot).and_then(Option::take) else { return };
        let list = &mut self.groups[node.group as usize][node.class as usize];
        list.len -= 1;
        if node.older == NONE {
            list.oldest = node.newer;
        }
        if node.newer == NONE {
            list.newest = node.older;
        }
        if let Some(older) = self.node_mut(node.older) {
            older.newer = node.newer;
        }
        if let Some(newer) = self.node_mut(node.newer) {
            newer.older = node.older;
        }
    }

    fn node_mut(&mut self, slot: u32) -> Option<&mut Node> {
        self.nodes.get_mut(slot as usize)?.as_mut()
    }

    /// Returns the class of a member.
    pub(super) fn class(&self, slot: usize) -> Option<Class> {
        self.nodes.get(slot)?.map(|node| node.class)
    }

    /// Returns the members of a group.
    pub(super) fn len(&self, group: usize) -> u32 {
        self.groups.get(group).map_or(0, |lists| lists.iter().map(|l| l.len).sum())
    }

    /// Returns the member that makes room; none if there is none, or if `is_busy` holds for all.
    /// Members of the lowest class are never busy.
    pub(super) fn victim(&self, group: usize, is_busy: impl Fn(usize) -> bool) -> Option<usize> {
        let lists = self.groups.get(group)?;
        let total = self.len(group);
        let class = lists.iter().position(|list| list.len * SHARE > total)?;
        let oldest = lists[class].oldest as usize;
        if class == Class::New as usize || !is_busy(oldest) {
            return Some(oldest);
        }
        // All above the oldest were used later.
        lists[..class].iter().find(|list| list.len > 0).map(|list| list.oldest as usize)
    }

    /// Checks the invariants between calls, for tests; returns the number of members.
    pub(super) fn check_invariants(&self) -> usize {
        let mut members = 0;
        for (group, lists) in self.groups.iter().enumerate() {
            for (class, list) in lists.iter().enumerate() {
                let (mut at, mut older, mut len) = (list.oldest, NONE, 0);
                while at != NONE {
                    let node = self.nodes[at as usize].expect("a member of a list is one");
                    assert_eq!((node.group as usize, node.class as usize, node.older), (group, class, older));
                    (older, at, len) = (at, node.newer, len + 1);
                }
                assert_eq!((list.newest, list.len), (older, len), "each list ends and is counted");
                members += len as usize;
            }
        }
        assert_eq!(self.nodes.iter().flatten().count(), members, "each member is in one list");
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: fn(usize) -> bool = |_| false;

    #[test]
    fn members_are_in_order_of_last_use() {
        let mut recency = Recency::default();
        (0..5).for_each(|slot| recency.put(slot, 0, Class::New));
        recency.put(0, 0, Class::New);
        recency.remove(2);
        recency.remove(2);
        let mut order = Vec::new();
        while let Some(slot) = recency.victim(0, FREE) {
            recency.check_invariants();
            recency.remove(slot);
            order.push(slot);
        }
        assert_eq!(order, [1, 3, 4, 0]);
        assert_eq!(recency.check_invariants(), 0);
    }

    #[test]
    fn class_of_the_victim_as_a_table() {
        // New, answered and established members; then the class that loses its oldest.
        for (counts, class) in [
            ([1, 0, 0], Some(Class::New)),
            ([0, 1, 0], Some(Class::Answered)),
            ([0, 0, 1], Some(Class::Established)),
            ([1, 0, 7], Some(Class::Established)), // an eighth is what new ones may have
            ([1, 0, 6], Some(Class::New)),
            ([2, 0, 8], Some(Class::New)),
            ([1, 2, 8], Some(Class::Answered)),
            ([1, 1, 8], Some(Class::Established)),
            ([10, 80, 10], Some(Class::Answered)),
            ([0, 0, 0], None),
        ] {
            let mut recency = Recency::default();
            let classes = [Class::New, Class::Answered, Class::Established];
            let all = classes.iter().zip(counts).flat_map(|(class, n)| std::iter::repeat_n(*class, n));
            all.enumerate().for_each(|(slot, class)| recency.put(slot, 3, class));
            let victim = recency.victim(3, FREE);
            assert_eq!(victim.and_then(|slot| recency.class(slot)), class, "{counts:?}");
            assert_eq!(recency.victim(0, FREE), None, "another group");
        }
    }

    #[test]
    fn busy_members_stay_and_a_new_one_goes() {
        let mut recency = Recency::default();
        (0..9).for_each(|slot| recency.put(slot, 0, Class::Established));
        assert_eq!(recency.victim(0, |_| true), None);
        recency.put(9, 0, Class::New);
        assert_eq!(recency.victim(0, |_| true), Some(9));
        assert_eq!(recency.victim(0, FREE), Some(0));
    }

    #[test]
    fn flood_of_new_members_takes_at_most_an_eighth() {
        let (mut recency, most) = (Recency::default(), 800);
        (0..most).for_each(|slot| recency.put(slot, 0, Class::Established));
        for _ in 0..60_000 {
            let slot = recency.victim(0, FREE).expect("somebody");
            recency.put(slot, 0, Class::New);
        }
        let kept = (0..most).filter(|slot| recency.class(*slot) == Some(Class::Established)).count();
        assert_eq!(kept, most * 7 / 8 - 1);
        recency.check_invariants();
    }
}
