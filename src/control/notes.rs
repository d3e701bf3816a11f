//! What the control loop has to say for people, until somebody takes it.

#![expect(clippy::disallowed_types, reason = "one thread says it, and another one takes it")]

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::base::printable::shortened;
use crate::config::diff::stands_for;

/// Notes that wait; without a web server nobody takes them.
const NOTES_MAX: usize = 100;
/// Lines of one change that are noted.
const LINES_MAX: usize = 10;

/// A note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// What it is about: `reload`, `refused`, `change` or `certificate`.
    pub(super) kind: &'static str,
    /// One line.
    pub(super) text: String,
}

/// The notes that wait, the last ones if there are too many.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<VecDeque<Note>>);

impl Notes {
    /// Notes something.
    pub(super) fn add(&self, kind: &'static str, text: impl Into<String>) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() == NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back(Note { kind, text: shortened(&text.into()).into_owned() });
    }

    /// Notes some lines, and how many more there are.
    pub(super) fn add_lines(&self, kind: &'static str, lines: &[String]) {
        let noted = &lines[..lines.len().min(LINES_MAX)];
        noted.iter().for_each(|line| self.add(kind, line));
        let more: usize = lines[noted.len()..].iter().map(|line| stands_for(line)).sum();
        if more > 0 {
            self.add(kind, format!("and {more} more"));
        }
    }

    /// Notes warnings, which go to the log too.
    pub(super) fn warn(&self, kind: &'static str, warnings: &[String]) {
        self.add_lines(kind, warnings);
        warnings.iter().for_each(|warning| tracing::warn!("{}", shortened(warning)));
    }

    /// Takes what waits.
    pub(super) fn take(&self) -> Vec<Note> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_notes_wait() {
        let notes = Notes::default();
        (0..250).for_each(|n| notes.add("reload", n.to_string()));
        let taken = notes.take();
        assert_eq!((taken.len(), taken[0].text.as_str(), taken[99].text.as_str()), (100, "150", "249"));
        let lines: Vec<String> = (0..15).map(|n| n.to_string()).collect();
        notes.add_lines("change", &lines);
        let taken = notes.take();
        assert_eq!((taken.len(), taken[10].text.as_str()), (11, "and 5 more"));
        assert!(notes.take().is_empty());
        let lines = lines.into_iter().chain(["200 more servers added, removed or changed".to_owned()]);
        notes.add_lines("change", &lines.collect::<Vec<_>>());
        assert_eq!(notes.take()[10].text, "and 205 more");
    }
}
