//! Configuration errors: typed, with their place, and worded for the operator.
//!
//! Every message reads `FILE:LINE: FUNCTION: what is wrong; what was expected`.

use std::fmt;
use std::sync::Arc;

use crate::base::printable::{Printable, cut, shortened};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    file: Arc<str>,
    line: u32,
}

impl Origin {
    /// A line of a file, counted from 1.
    #[must_use]
    pub fn line(file: &str, line: u32) -> Self {
        Self { file: file.into(), line }
    }

    /// A file as a whole.
    #[must_use]
    pub fn file(file: &str) -> Self {
        Self::line(file, 0)
    }

    /// The command line.
    #[must_use]
    pub fn command_line() -> Self {
        Self::file("command line")
    }

    /// Returns whether no line is known.
    #[must_use]
    pub const fn is_whole_file(&self) -> bool {
        self.line == 0
    }

    /// The file's name.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// A value with the place where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Sited<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub origin: Origin,
}

/// An error in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub origin: Origin,
    /// The Lua function or the flag; empty for the file as a whole.
    pub function: String,
    /// The error.
    pub fault: Fault,
}

/// The kinds of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Lua refused the file: a syntax error, or an error at run time.
    Script(String),
    /// The file called `os.exit` with this code.
    Exit(i32),
    /// A file or directory could not be read.
    Unreadable {
        /// Its path.
        path: String,
        /// The operating system's reason.
        reason: String,
    },
    /// A value of the wrong type or out of range.
    Value {
        /// The argument or setting; empty when the function has only one.
        what: String,
        /// What was written.
        wrong: String,
        /// What may be written.
        expected: String,
    },
    /// An error in a TLS file or setting.
    Tls(String),
    /// An unknown name.
    Unknown {
        /// What the name should refer to.
        what: &'static str,
        /// The name.
        name: String,
        /// The nearest known name, or where to find them all.
        hint: String,
    },
    /// A name of dnsdist that dnslob does not implement yet.
    Missing {
        /// The function, or `argument "x"`.
        what: String,
        /// What to do meanwhile.
        meanwhile: String,
    },
    /// The second of two things of which there may be one.
    Duplicate {
        /// The thing.
        what: String,
        /// Where the first one is.
        first: Origin,
    },
    /// More than a limit allows.
    Limit {
        /// The things, with their number.
        what: String,
        /// The limit, and the setting that raises it.
        limit: String,
    },
    /// Two settings that exclude each other.
    Conflict {
        /// What is wrong.
        wrong: String,
        /// What to write.
        expected: String,
    },
    /// Something that is taken with another meaning than written, or without effect: a warning.
    Note(String),
    /// What is to be removed or moved is not there: a command that does nothing else has failed.
    Absent(Box<Self>),
    /// The number of errors that are not listed.
    More(usize),
}

/// Errors that are listed; of the rest, the number is reported.
const ERRORS_LISTED: usize = 100;

/// Errors in the order in which they were found. Bounded: each line of a generated file may repeat
/// the same mistake.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    listed: Vec<ConfigError>,
    /// Errors that are not listed.
    more: usize,
}

impl Errors {
    /// Adds an error, or counts it.
    pub fn push(&mut self, error: ConfigError) {
        if self.listed.len() < ERRORS_LISTED {
            self.listed.push(error);
        } else {
            self.more += 1;
        }
    }

    /// Adds all of these.
    pub fn append(&mut self, other: Self) {
        self.more += other.more;
        other.listed.into_iter().for_each(|error| self.push(error));
    }

    /// Adds an error unless it is there.
    pub fn push_once(&mut self, error: ConfigError) {
        if !self.listed.contains(&error) {
            self.push(error);
        }
    }

    /// Forgets all but the first `len` errors; returns the first of the others, if it is listed.
    pub fn take_beyond(&mut self, len: usize) -> Option<ConfigError> {
        let listed = self.listed.len().min(len);
        self.more = len - listed;
        self.listed.drain(listed..).next()
    }

    /// Returns the number of errors.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.listed.len() + self.more
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns whether one of those listed is of a kind.
    #[must_use]
    pub fn any(&self, is_one: impl Fn(&Fault) -> bool) -> bool {
        self.listed.iter().any(|error| is_one(&error.fault))
    }

    /// Returns the list; its last entry counts the unlisted ones.
    #[must_use]
    pub fn into_list(mut self) -> Vec<ConfigError> {
        if let Some(last) = self.listed.last().filter(|_| self.more > 0) {
            let origin = Origin::file(last.origin.file_name());
            self.listed.push(ConfigError::new(&origin, "", Fault::More(self.more)));
        }
        self.listed
    }
}

impl ConfigError {
    /// Creates an error of `function` at `origin`.
    #[must_use]
    pub fn new(origin: &Origin, function: &str, fault: Fault) -> Self {
        Self { origin: origin.clone(), function: function.to_owned(), fault }
    }
}

impl Fault {
    /// Creates a fault about a wrong value of `what`.
    #[must_use]
    pub fn value(what: &str, wrong: impl fmt::Display, expected: impl fmt::Display) -> Self {
        Self::Value { what: what.to_owned(), wrong: wrong.to_string(), expected: expected.to_string() }
    }

    /// Creates a fault about a name that is not in `known`.
    #[must_use]
    pub fn unknown<'k>(what: &'static str, name: &str, known: impl Iterator<Item = &'k str>) -> Self {
        let hint = match nearest(name, known) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("docs/reference.md lists every {what}"),
        };
        Self::Unknown { what, name: cut(name, NAME_CHARS).into_owned(), hint }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", Printable(&self.origin))?;
        if !self.function.is_empty() {
            write!(f, "{}: ", self.function)?;
        }
        // It quotes what the file contains.
        Printable(shortened(&self.fault.to_string())).fmt(f)
    }
}

/// Characters shown of an unknown name.
const NAME_CHARS: usize = 80;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(message) | Self::Tls(message) | Self::Note(message) => f.write_str(message),
            Self::Absent(why) => why.fmt(f),
            Self::Exit(code) => {
                write!(f, "os.exit({code}) ends the process only at its start and with --check-config")
            }
            Self::Unreadable { path, reason } => write!(f, "cannot read \"{path}\": {reason}"),
            Self::Value { what, wrong, expected } if what.is_empty() => {
                write!(f, "{wrong} is not allowed; expected {expected}")
            }
            Self::Value { what, wrong, expected } => write!(f, "{what} is {wrong}; expected {expected}"),
            Self::Unknown { what, name, hint } => write!(f, "unknown {what} \"{name}\"; {hint}"),
            Self::Missing { what, meanwhile } => write!(f, "{what} is not implemented yet; {meanwhile}"),
            Self::Duplicate { what, first } => {
                write!(f, "{what} is already defined at {first}; expected it once")
            }
            Self::Limit { what, limit } => write!(f, "{what}; expected at most {limit}"),
            Self::Conflict { wrong, expected } => write!(f, "{wrong}; expected {expected}"),
            Self::More(1) => f.write_str("1 more, which is not listed"),
            Self::More(count) => write!(f, "{count} more, which are not listed"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Formats a number of things: "1 file", "2 files".
#[must_use]
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// Returns the known name nearest to `name`, if it is near enough to be a typo: ignoring case, at
/// most a third of its letters changed, added, omitted or transposed.
#[must_use]
pub fn nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let name = name.to_lowercase();
    // Quadratic in the length; no typo of a known name is longer.
    if name.len() > 64 {
        return None;
    }
    let near = |d: usize, k: &str| d * 3 <= k.len().max(3);
    let letters: Vec<char> = name.chars().collect();
    known
        // A difference in length is a lower bound of the distance.
        .filter(|k| near(letters.len().abs_diff(k.chars().count()), k))
        .map(|k| (distance(&letters, &k.to_lowercase().chars().collect::<Vec<char>>()), k))
        .filter(|(d, k)| near(*d, k))
        .min_by_key(|(d, _)| *d)
        .map(|(_, k)| k)
}

/// Edit distance with transpositions (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let (mut before, mut row) = (vec![0; b.len() + 1], vec![0; b.len() + 1]);
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row[j] = best;
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_name_and_another_word_none() {
        let known = ["checkInterval", "checkName", "weight", "order"];
        assert_eq!(nearest("checkinterval", known.into_iter()), Some("checkInterval"));
        assert_eq!(nearest("wieght", known.into_iter()), Some("weight"));
        assert_eq!(nearest("oder", known.into_iter()), Some("order"));
        assert_eq!(nearest("banana", known.into_iter()), None);
        assert_eq!(nearest(&"x".repeat(100_000), known.into_iter()), None);
    }
}
