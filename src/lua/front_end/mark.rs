//! What a change by the API is about, so that later changes of the same take its place: without
//! that, a list of changes would grow for as long as the process runs.

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It creates something.
    Create,
    /// It sets something, whatever that was before.
    Set,
    /// It removes something, with all that was set of it.
    Remove,
}

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The thing, as `server ns1`, or a part of it, as `server ns1/weight`.
    pub key: String,
    /// What is done to it.
    pub act: Act,
}

impl Mark {
    /// Whether it concerns the same thing as `key`, or a part of that.
    fn is_within(&self, key: &str) -> bool {
        self.key.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Returns which changes have no effect any more after the last one, itself included: their places,
/// in ascending order. A change without a mark stays.
#[must_use]
pub(crate) fn outdated(marks: &[Option<&Mark>]) -> Vec<usize> {
    let Some((Some(last), earlier)) = marks.split_last() else { return Vec::new() };
    let places = |keep: &dyn Fn(&Mark) -> bool| -> Vec<usize> {
        let marked = earlier.iter().enumerate().filter_map(|(at, mark)| Some((at, (*mark)?)));
        marked.filter(|(_, mark)| keep(mark)).map(|(at, _)| at).collect()
    };
    match last.act {
        Act::Create => Vec::new(),
        Act::Set => places(&|mark| mark.act == Act::Set && mark.is_within(&last.key)),
        Act::Remove => {
            // What an earlier change removed had been there before: that change stays.
            let since = earlier
                .iter()
                .rposition(|mark| mark.is_some_and(|mark| mark.key == last.key && mark.act == Act::Remove));
            let since = since.map_or(0, |at| at + 1);
            let mut gone = places(&|mark| mark.is_within(&last.key));
            gone.retain(|at| *at >= since);
            let created = gone
                .iter()
                .any(|at| marks[*at].is_some_and(|mark| mark.key == last.key && mark.act == Act::Create));
            if created {
                gone.push(earlier.len());
            }
            gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(changes: &[(&str, Act)]) -> Vec<usize> {
        let marks: Vec<Mark> =
            changes.iter().map(|(key, act)| Mark { key: (*key).to_owned(), act: *act }).collect();
        let mut standing: Vec<usize> = Vec::new();
        for at in 0..marks.len() {
            standing.push(at);
            let list: Vec<Option<&Mark>> = standing.iter().map(|at| Some(&marks[*at])).collect();
            for gone in outdated(&list).into_iter().rev() {
                standing.remove(gone);
            }
        }
        standing
    }

    #[test]
    fn later_changes_take_the_place_of_earlier_ones() {
        use Act::{Create, Remove, Set};
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
        let set = Mark { key: "acl".to_owned(), act: Act::Set };
        assert_eq!(outdated(&[Some(&set), None, Some(&set)]), [0]);
        assert_eq!(outdated(&[Some(&set), None]), [0; 0]);
        assert_eq!(outdated(&[]), [0; 0]);
    }
}
