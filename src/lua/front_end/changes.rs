//! The commands that changed something since the file was read: for `delta()`, and for the shards'
//! states, which run some of them again.
//!
//! Their length is limited, those of the console and those of the API each by themselves, as the API's
//! are kept in its directory. At the limit nothing is added any more, but whatever takes away or sets
//! what is there goes on: a server must be drained however long a list of rules has become. For that
//! the oldest commands are forgotten some time, beyond another limit; they stay in force.

use std::time::Duration;

use crate::lua::front_end::mark::{Mark, shorten};
use crate::lua::state::File;

/// Most bytes of commands of the console.
const CONSOLE_BYTES: usize = 1 << 20;
/// Most bytes of changes by the API: as many as its file in its directory may have.
const API_BYTES: usize = 8 << 20;

/// A command that changed something.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) file: File,
    /// As it can stand in a file.
    pub(super) typed: String,
    /// The shards' states need it: it has functions, globals, or what functions use.
    pub(super) is_replayed: bool,
    /// How long it took.
    pub(super) took: Duration,
    pub(super) at: String,
    /// It came by the API.
    pub(super) by_api: bool,
    /// What it is about, if a later one may take its place: not with functions or globals, which
    /// later commands may use.
    pub(super) mark: Option<Mark>,
    /// `delta` shows it.
    pub(super) is_shown: bool,
}

/// All of them, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Changes {
    list: Vec<Change>,
    /// How many were forgotten that `delta` would show.
    forgotten: usize,
}

impl Changes {
    pub(super) const fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn push(&mut self, change: Change) {
        self.list.push(change);
    }

    /// Removes those behind the first so many.
    pub(super) fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.list.iter()
    }

    /// Removes those whose place the last one takes, and what is too much by far.
    pub(super) fn settle(&mut self) {
        shorten(&mut self.list, |change| &mut change.mark);
        for (by_api, most) in [(false, 2 * CONSOLE_BYTES), (true, 2 * API_BYTES)] {
            let mut bytes = self.bytes(by_api);
            let forgotten = &mut self.forgotten;
            self.list.retain(|change| {
                let goes = bytes > most && change.by_api == by_api && !change.is_replayed;
                if goes {
                    bytes -= change.file.text.len();
                    *forgotten += usize::from(change.is_shown);
                }
                !goes
            });
        }
    }

    /// Shows none of those so far.
    pub(super) fn forget(&mut self) {
        self.list.iter_mut().for_each(|change| change.is_shown = false);
        self.forgotten = 0;
    }

    /// Returns them ready to paste.
    pub(super) fn delta(&self) -> String {
        let mut out = String::new();
        if self.forgotten > 0 {
            out =
                format!("-- {} earlier changes are in force, and were too long to be kept\n", self.forgotten);
        }
        for change in self.list.iter().filter(|change| change.is_shown) {
            out.extend(["-- ", &change.at, "\n", &change.typed, "\n"]);
        }
        out
    }

    /// Says what to do if the last one, which adds something, makes them too long.
    pub(super) fn too_long(&self) -> Option<String> {
        let last = self.list.last()?;
        let (by_api, most) = (last.by_api, if last.by_api { API_BYTES } else { CONSOLE_BYTES });
        if self.bytes(by_api) <= most || self.bytes_if_settled(by_api) <= most {
            return None;
        }
        Some(if by_api {
            format!(
                "changes by the API since the configuration was read exceed {most} bytes: reload, which keeps \
                 those that are in the directory of setAPIWritable; what is there can still be changed and removed"
            )
        } else {
            format!(
                "commands since the configuration was read exceed {most} bytes: put the output of delta() into \
                 its file, and reload; what is there can still be changed and removed"
            )
        })
    }

    fn bytes(&self, by_api: bool) -> usize {
        self.list.iter().filter(|change| change.by_api == by_api).map(|change| change.file.text.len()).sum()
    }

    /// What is left of them when the last one has taken the place of earlier ones.
    fn bytes_if_settled(&self, by_api: bool) -> usize {
        let of = |change: &Change| {
            (if change.by_api == by_api { change.file.text.len() } else { 0 }, change.mark.clone())
        };
        let mut left: Vec<(usize, Option<Mark>)> = self.list.iter().map(of).collect();
        shorten(&mut left, |change| &mut change.1);
        left.iter().map(|(bytes, _)| bytes).sum()
    }
}
