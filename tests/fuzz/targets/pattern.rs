//! Any bytes as a Lua pattern and its subject: our matcher finds what LuaJIT's does, or fails as it
//! does. The subject is no longer than what LuaJIT's is trusted with.

use std::cell::Cell;

use dnslob::lua::limits::pattern::{Capture, Matcher, Wrong, reach};
use mlua::{Function, Lua, MultiValue, Value};

/// Longest pattern, and longest subject, bytes.
const PATTERN_MAX: usize = 48;
const SUBJECT_MAX: usize = 200;
/// Checks of the time, of 4,096 steps each, after which a search is given up: far more than such a
/// subject takes.
const CHECKS_MAX: u32 = 1_000;

thread_local! {
    static LIBRARY: (Lua, Function) = library();
}

/// Returns a state, and `string.match` within it, with its errors as results.
#[expect(clippy::expect_used)]
fn library() -> (Lua, Function) {
    let lua = Lua::new();
    let function = lua.load("return pcall(string.match, ...)").into_function().expect("a function");
    (lua, function)
}

/// The input is the length of the pattern, the pattern, the subject.
pub(crate) fn target(data: &[u8]) {
    let Some((&length, rest)) = data.split_first() else { return };
    let (pattern, subject) = rest.split_at(usize::from(length).min(PATTERN_MAX).min(rest.len()));
    let most = SUBJECT_MAX.min(reach(pattern, false) as usize).min(subject.len());
    let subject = &subject[..most];
    assert_eq!(ours(pattern, subject), theirs(pattern, subject), "{pattern:?} in {subject:?}");
    given_up(pattern, subject);
}

/// What was found: each capture, positions as numbers; or the error.
type Found = Result<Option<Vec<Vec<u8>>>, String>;

fn ours(pattern: &[u8], subject: &[u8]) -> Found {
    let checks = Cell::new(0);
    let is_over = || {
        checks.set(checks.get() + 1);
        checks.get() > CHECKS_MAX
    };
    let mut matcher = Matcher::new(subject, pattern, &is_over);
    let shown = |wrong: Wrong| {
        assert_ne!(wrong, Wrong::Over, "{pattern:?} takes too long in {subject:?}");
        wrong.to_string()
    };
    let Some((start, end)) = matcher.search(0, true).map_err(shown)? else { return Ok(None) };
    assert!(start <= end && end <= subject.len());
    let all = (0..matcher.count().max(1)).map(|at| match matcher.capture(at, start, end).map_err(shown)? {
        Capture::Position(place) => Ok(place.to_string().into_bytes()),
        Capture::Text(from, to) => Ok(subject[from..to].to_vec()),
    });
    all.collect::<Result<_, _>>().map(Some)
}

#[expect(clippy::expect_used)]
fn theirs(pattern: &[u8], subject: &[u8]) -> Found {
    LIBRARY.with(|(lua, function)| {
        let text = |bytes| lua.create_string(bytes).expect("a string");
        let mut found: MultiValue =
            function.call((text(subject), text(pattern))).expect("pcall raises nothing");
        let matched = found.pop_front() == Some(Value::Boolean(true));
        let place = |value: &Value| match (value.as_integer(), value.as_number()) {
            (Some(place), _) => Some(place.to_string()),
            (None, place) => place.map(|place| place.to_string()),
        };
        let bytes = |value: &Value| match value.as_string() {
            Some(text) => Some(text.as_bytes().to_vec()),
            None => place(value).map(String::into_bytes),
        };
        let all: Option<Vec<Vec<u8>>> = found.iter().map(bytes).collect();
        if matched {
            return Ok(all);
        }
        Err(String::from_utf8_lossy(&all.unwrap_or_default().concat()).into_owned())
    })
}

/// A search that is given up at its first check has not gone on.
fn given_up(pattern: &[u8], subject: &[u8]) {
    let checks = Cell::new(0);
    let is_over = || {
        assert_eq!(checks.replace(1), 0, "it was over");
        true
    };
    let found = Matcher::new(subject, pattern, &is_over).search(0, false);
    assert!(checks.get() == 0 || found == Err(Wrong::Over));
}
