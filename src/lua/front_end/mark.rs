//! What a change by the API is about, so that later changes of the same take its place: without
//! that, a list of changes would grow for as long as the process runs.
//!
//! A change can be about several things: a rule that is added to a group changes that group too, and
//! a group that is removed takes its rules along. A list is shortened only by changes whose things
//! nothing else in it has made meanwhile, so that what was removed does not come back when the list
//! is read again.

use std::collections::BTreeSet;

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It creates something.
    Create,
    /// It sets something, whatever that was before.
    Set,
    /// It removes something, with all that was set of it.
    Remove,
    /// It needs something, and makes that where it is not there, as a server its pools.
    Use,
}

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The thing, as `server ns1`, or a part of it, as `server ns1/weight`.
    pub key: String,
    /// What is done to it.
    pub act: Act,
    /// What it does to other things.
    pub also: Vec<(String, Act)>,
}

impl Mark {
    /// Returns everything that it does, each with the thing; a part of a thing as that.
    fn acts(&self) -> impl Iterator<Item = (&str, Act)> {
        let thing = |key| str::split_once(key, '/').map_or(key, |(thing, _)| thing);
        let also = self.also.iter().map(move |(key, act)| (thing(key), *act));
        std::iter::once((thing(&self.key), self.act)).chain(also)
    }

    /// Returns the things that it makes, sets or removes.
    fn own(&self) -> impl Iterator<Item = (&str, Act)> {
        self.acts().filter(|(_, act)| *act != Act::Use)
    }

    /// Whether it concerns the same thing as `key`, or a part of that.
    fn is_within(&self, key: &str) -> bool {
        self.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether both concern some thing.
    fn shares(&self, other: &Self) -> bool {
        self.acts().any(|(thing, _)| other.acts().any(|(of, _)| of == thing))
    }

    /// Whether `later` sets or removes all that this has made besides its own thing.
    fn is_covered_by(&self, later: &Self) -> bool {
        let made = self.also.iter().filter(|(_, act)| *act == Act::Create);
        let mut made = made.map(|(key, _)| key);
        made.all(|key| later.also.iter().any(|(of, act)| of == key && *act != Act::Use))
    }

    /// Does also what an earlier change did, whose place it takes.
    fn inherit(&mut self, earlier: &Self) {
        for (key, before) in &earlier.also {
            let at = self.also.iter().position(|(of, _)| of == key);
            match (before, at.map(|at| (at, self.also[at].1))) {
                (Act::Remove, None) => self.also.push((key.clone(), Act::Remove)),
                (Act::Remove, Some((at, Act::Create))) => self.also[at].1 = Act::Set,
                (Act::Create, Some((at, Act::Set))) => self.also[at].1 = Act::Create,
                // It came and went.
                (Act::Create, Some((at, Act::Remove))) => {
                    self.also.remove(at);
                }
                (Act::Create | Act::Set | Act::Use | Act::Remove, _) => {}
            }
        }
    }
}

/// Shortens a list of changes after its last one, which itself may have no effect any more.
/// `mark_of` returns what a change is about; one without a mark stays.
pub(crate) fn shorten<T>(changes: &mut Vec<T>, mark_of: impl Fn(&mut T) -> &mut Option<Mark>) {
    let marks: Vec<Option<Mark>> = changes.iter_mut().map(|change| mark_of(change).clone()).collect();
    let Some((Some(last), earlier)) = marks.split_last() else { return };
    let mut gone = came_and_went(&marks);
    gone.extend(remade(last, earlier));
    if gone.is_empty() {
        let mut last = last.clone();
        gone = superseded(&mut last, earlier);
        if let Some(change) = changes.last_mut() {
            *mark_of(change) = Some(last);
        }
    }
    let mut at = 0;
    changes.retain(|_| {
        at += 1;
        !gone.contains(&(at - 1))
    });
}

/// Returns the changes whose place the last one takes, which then does what they did besides.
fn superseded(last: &mut Mark, earlier: &[Option<Mark>]) -> BTreeSet<usize> {
    let mut gone = BTreeSet::new();
    if !matches!(last.act, Act::Set | Act::Remove) {
        return gone;
    }
    for (at, mark) in earlier.iter().enumerate().rev() {
        let Some(mark) = mark.as_ref().filter(|mark| mark.act == Act::Set && mark.is_within(&last.key))
        else {
            continue;
        };
        // Others may build on what it did besides; nothing can on what is set again.
        let mut between = (at + 1..earlier.len()).filter(|at| !gone.contains(at));
        let stays = !mark.also.is_empty()
            && (!mark.is_covered_by(last)
                || between.any(|at| earlier[at].as_ref().is_none_or(|other| other.shares(mark))));
        if !stays {
            last.inherit(mark);
            gone.insert(at);
        }
    }
    gone
}

/// Returns the changes of a thing that the last one makes although they have made it: somebody else has
/// removed it meanwhile.
fn remade(last: &Mark, earlier: &[Option<Mark>]) -> BTreeSet<usize> {
    let mut gone = BTreeSet::new();
    if last.act != Act::Create {
        return gone;
    }
    let mut is_made = false;
    // What has no mark may have removed it, and would fail without it.
    let since = earlier.iter().enumerate().rev().map_while(|(at, mark)| Some((at, mark.as_ref()?)));
    for (at, mark) in since {
        if mark.own().any(|(thing, act)| thing == last.key && act == Act::Remove) {
            break;
        }
        if mark.is_within(&last.key) {
            // Others may build on what it did besides.
            if mark.also.iter().any(|(_, act)| *act != Act::Use) {
                return BTreeSet::new();
            }
            is_made |= mark.act == Act::Create;
            gone.insert(at);
        }
    }
    if is_made { gone } else { BTreeSet::new() }
}

/// Returns the changes that together leave nothing: they have created all their things, and the last
/// one has removed them; none if there is anything else that these things owe to other changes, or
/// other things to these.
fn came_and_went(marks: &[Option<Mark>]) -> BTreeSet<usize> {
    let mut since = 0;
    loop {
        let together = connected(marks, since);
        // What was there before its first change: an earlier change made it, or the file.
        let mut inherited = None;
        let mut things = BTreeSet::new();
        for at in &together {
            let Some(mark) = &marks[*at] else { continue };
            for (thing, act) in mark.own() {
                if things.insert(thing) && act != Act::Create || !ends_removed(marks, &together, thing) {
                    inherited = inherited.max(Some(*at));
                }
            }
        }
        match inherited {
            None => return together,
            Some(at) if at + 1 >= marks.len() => return BTreeSet::new(),
            Some(at) => since = at + 1,
        }
    }
}

/// Whether the last of these changes that does something to a thing removes it.
fn ends_removed(marks: &[Option<Mark>], of: &BTreeSet<usize>, thing: &str) -> bool {
    let mut acts = of.iter().rev().filter_map(|at| marks[*at].as_ref()).flat_map(|mark| {
        let all: Vec<_> = mark.own().collect();
        all.into_iter().rev()
    });
    acts.find(|(of, _)| *of == thing).is_some_and(|(_, act)| act == Act::Remove)
}

/// Returns the last change, and those since a place that have to do with its things, and with theirs.
fn connected(marks: &[Option<Mark>], since: usize) -> BTreeSet<usize> {
    let mut things: BTreeSet<&str> = BTreeSet::new();
    let mut found = BTreeSet::new();
    let Some(Some(last)) = marks.last() else { return found };
    things.extend(last.own().map(|(thing, _)| thing));
    found.insert(marks.len() - 1);
    loop {
        let before = found.len();
        for (at, mark) in marks.iter().enumerate().skip(since) {
            let Some(mark) = mark else { continue };
            if !found.contains(&at) && mark.acts().any(|(thing, _)| things.contains(thing)) {
                things.extend(mark.own().map(|(thing, _)| thing));
                found.insert(at);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Act::{Create, Remove, Set, Use};
    use super::*;

    fn left_of(changes: Vec<Mark>) -> Vec<(usize, Option<Mark>)> {
        let mut standing = Vec::new();
        for (at, mark) in changes.into_iter().enumerate() {
            standing.push((at, Some(mark)));
            shorten(&mut standing, |change| &mut change.1);
        }
        standing
    }

    fn places(standing: &[(usize, Option<Mark>)]) -> Vec<usize> {
        standing.iter().map(|(at, _)| *at).collect()
    }

    fn mark(acts: &[(&str, Act)]) -> Mark {
        let [(key, act), also @ ..] = acts else { panic!("a change does something") };
        let also = also.iter().map(|(key, act)| ((*key).to_owned(), *act)).collect();
        Mark { key: (*key).to_owned(), act: *act, also }
    }

    fn left(changes: &[(&str, Act)]) -> Vec<usize> {
        places(&left_of(changes.iter().map(|change| mark(&[*change])).collect()))
    }

    #[test]
    fn later_changes_take_the_place_of_earlier_ones() {
        assert_eq!(left(&[("acl", Set), ("acl", Set)]), [1]);
        assert_eq!(
            left(&[("server a/weight", Set), ("server a/order", Set), ("server a/weight", Set)]),
            [1, 2]
        );
        // A server of the file.
        assert_eq!(left(&[("server a/weight", Set), ("server a", Remove)]), [1]);
        // One that came and went.
        assert_eq!(left(&[("server a", Create), ("server a/weight", Set), ("server a", Remove)]), [0; 0]);
        // One of the file that another took the place of, until that went.
        let all = [("server a", Remove), ("server a", Create), ("server a/qps", Set), ("server a", Remove)];
        assert_eq!(left(&all), [0]);
        // Names that begin alike.
        assert_eq!(left(&[("server a2", Create), ("server a", Remove)]), [0, 1]);
        assert_eq!(left(&[("server a", Create), ("server a", Set), ("server a", Set)]), [0, 2]);
    }

    #[test]
    fn what_has_no_mark_stays() {
        let set = || Some(mark(&[("acl", Set)]));
        let made = || Some(mark(&[("server n", Create)]));
        for (mut marks, left) in [
            (vec![set(), None, set()], vec![None, set()]),
            (vec![set(), None], vec![set(), None]),
            // A command at the console has removed it.
            (vec![made(), None, made()], vec![made(), None, made()]),
            (vec![], vec![]),
        ] {
            shorten(&mut marks, |mark| mark);
            assert_eq!(marks, left);
        }
    }

    #[test]
    fn what_several_changes_have_made_does_not_come_back() {
        for (changes, left) in [
            // A rule is added to a group, which is removed.
            (
                vec![
                    mark(&[("group g", Create), ("rule F", Create)]),
                    mark(&[("rule S", Create), ("group g", Set)]),
                    mark(&[("group g", Remove), ("rule F", Remove), ("rule S", Remove)]),
                ],
                vec![],
            ),
            // A group keeps a rule, which is removed.
            (
                vec![
                    mark(&[("rule U", Create), ("group h", Create)]),
                    mark(&[("group h", Set), ("rule U", Set)]),
                    mark(&[("rule U", Remove), ("group h", Remove)]),
                ],
                vec![],
            ),
            // As before, but another rule of the group stays.
            (
                vec![
                    mark(&[("rule U", Create), ("group h", Create)]),
                    mark(&[("group h", Set), ("rule U", Set), ("rule V", Create)]),
                    mark(&[("rule U", Remove), ("group h", Set)]),
                ],
                vec![0, 1, 2],
            ),
            // A rule of the file is taken into a group, which is removed.
            (
                vec![
                    mark(&[("group g", Create), ("rule F", Create)]),
                    mark(&[("rule U", Set), ("group g", Set)]),
                    mark(&[("group g", Remove), ("rule F", Remove), ("rule U", Remove)]),
                ],
                vec![0, 1, 2],
            ),
            // A rule leaves its group before that is removed, and stays.
            (
                vec![
                    mark(&[("group g", Create), ("rule F", Create)]),
                    mark(&[("rule F", Set), ("group g", Remove), ("group h", Create)]),
                    mark(&[("group g", Create), ("rule S", Create)]),
                    mark(&[("group g", Remove), ("rule S", Remove)]),
                ],
                vec![0, 1],
            ),
            // What a group was is forgotten, but not that a rule of its own went with it.
            (
                vec![
                    mark(&[("rule U", Create), ("group h", Create)]),
                    mark(&[("group h", Set), ("rule U", Remove), ("rule V", Create)]),
                    mark(&[("group h", Set), ("rule V", Remove), ("rule W", Create)]),
                ],
                vec![0, 2],
            ),
            // And with the group all of it.
            (
                vec![
                    mark(&[("rule U", Create), ("group h", Create)]),
                    mark(&[("group h", Set), ("rule U", Remove), ("rule V", Create)]),
                    mark(&[("group h", Set), ("rule V", Remove), ("rule W", Create)]),
                    mark(&[("group h", Remove), ("rule W", Remove)]),
                ],
                vec![],
            ),
            // A pool is as good as needed by what has a server of the file in it.
            (
                vec![
                    mark(&[("pool p", Create)]),
                    mark(&[("server a/pools+weight", Set), ("pool p", Use)]),
                    mark(&[("server a/pools", Set)]),
                    mark(&[("pool p", Remove)]),
                ],
                vec![0, 1, 2, 3],
            ),
            // A pool is removed, which a server of the file had left before it was removed itself.
            (
                vec![
                    mark(&[("server f/pools", Set), ("pool p", Use)]),
                    mark(&[("pool p", Remove)]),
                    mark(&[("server f", Remove)]),
                ],
                vec![0, 1, 2],
            ),
            // The same, and another one takes its place in a new pool of that name.
            (
                vec![
                    mark(&[("server f/pools", Set), ("pool p", Use)]),
                    mark(&[("pool p", Remove)]),
                    mark(&[("server n", Create), ("pool p", Use)]),
                    mark(&[("server f/pools", Set), ("pool q", Use)]),
                    mark(&[("server f", Remove)]),
                ],
                vec![0, 1, 2, 4],
            ),
            // It has left one that nobody has removed.
            (vec![mark(&[("server f/pools", Set), ("pool p", Use)]), mark(&[("server f", Remove)])], vec![1]),
            // A server is made again that somebody else has removed.
            (
                vec![
                    mark(&[("server n", Create), ("pool p", Use)]),
                    mark(&[("server n/weight", Set)]),
                    mark(&[("server m", Create)]),
                    mark(&[("server n", Create)]),
                ],
                vec![2, 3],
            ),
            // The same of one in the place of one of the file.
            (
                vec![
                    mark(&[("server n/weight", Set)]),
                    mark(&[("server n", Remove)]),
                    mark(&[("server n", Create)]),
                    mark(&[("server n", Create)]),
                ],
                vec![1, 3],
            ),
            // One of the file may come back.
            (vec![mark(&[("server n/weight", Set)]), mark(&[("server n", Create)])], vec![0, 1]),
            // A group that is emptied again and again.
            (
                vec![
                    mark(&[("group g", Set)]),
                    mark(&[("group g", Create), ("rule r", Create)]),
                    mark(&[("group g", Remove), ("rule r", Remove)]),
                    mark(&[("group g", Set)]),
                ],
                vec![3],
            ),
            // Servers come and go, with a pool that stays.
            (
                vec![
                    mark(&[("server b", Create), ("pool p", Use)]),
                    mark(&[("server b", Remove)]),
                    mark(&[("server b", Create), ("pool p", Use)]),
                    mark(&[("server b", Remove)]),
                ],
                vec![],
            ),
        ] {
            let text = format!("{changes:?}");
            assert_eq!(places(&left_of(changes)), left, "{text}");
        }
    }

    #[test]
    fn groups_that_come_and_go_leave_no_lines() {
        let mut changes = Vec::new();
        for n in 0..20 {
            let rule = format!("rule {n}");
            changes.push(mark(&[(&rule, Create), ("group g", Create)]));
            changes.push(mark(&[("group g", Remove), (&rule, Remove)]));
        }
        assert_eq!(places(&left_of(changes)), [0; 0]);
        let mut changes = vec![mark(&[("group g", Set), ("rule old", Remove), ("rule 0", Create)])];
        for n in 0..20 {
            let (old, new) = (format!("rule {n}"), format!("rule {}", n + 1));
            changes.push(mark(&[("group g", Set), (&old, Remove), (&new, Create)]));
        }
        let standing = left_of(changes);
        assert_eq!(places(&standing), [20]);
        let last = mark(&[("group g", Set), ("rule 20", Create), ("rule old", Remove)]);
        assert_eq!(standing[0].1, Some(last));
    }
}
