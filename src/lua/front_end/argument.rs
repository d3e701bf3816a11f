//! Converts Lua values to Rust; each error says what was given and what was expected.

use mlua::{Function, Table, Value};

use crate::base::time::TickDelta;
use crate::config::error::Fault;
use crate::config::value;

/// Formats a value for messages; long strings are truncated.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Boolean(b) => b.to_string(),
        Value::Integer(n) => n.to_string(),
        Value::Number(x) => x.to_string(),
        Value::String(s) => {
            let text = s.to_string_lossy();
            let cut: String = text.chars().take(80).collect();
            let more = if cut.len() < text.len() { "..." } else { "" };
            format!("\"{}{more}\"", cut.escape_debug())
        }
        other => format!("a {}", other.type_name()),
    }
}

/// Creates the error of an invalid value of `what`.
pub(crate) fn wrong(what: &str, value: &Value, expected: impl std::fmt::Display) -> Fault {
    Fault::value(what, shown(value), expected)
}

/// Reads a number; like Lua, accepts a numeric string.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        // Configuration numbers beyond 2^53 are meaningless.
        #[allow(clippy::cast_precision_loss)]
        Value::Integer(n) => Some(*n as f64),
        Value::Number(x) => Some(*x),
        Value::String(s) => s.to_string_lossy().trim().parse().ok(),
        _ => None,
    }
}

/// Reads a whole number from `min` to `max`.
pub(crate) fn whole(what: &str, value: &Value, min: u32, max: u32) -> Result<u32, Fault> {
    let n = number(value).filter(|x| x.fract() == 0.0 && (f64::from(min)..=f64::from(max)).contains(x));
    // The filter bounds the cast.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    n.map(|x| x as u32).ok_or_else(|| wrong(what, value, format!("a whole number from {min} to {max}")))
}

/// Reads a whole number, possibly negative.
pub(crate) fn signed(what: &str, value: &Value) -> Result<i32, Fault> {
    let range = f64::from(i32::MIN)..=f64::from(i32::MAX);
    let n = number(value).filter(|x| x.fract() == 0.0 && range.contains(x));
    // The filter bounds the cast.
    #[allow(clippy::cast_possible_truncation)]
    n.map(|x| x as i32)
        .ok_or_else(|| wrong(what, value, format!("a whole number from {} to {}", i32::MIN, i32::MAX)))
}

/// Reads a number from `min` to `max`, possibly with a fraction.
pub(crate) fn fraction(what: &str, value: &Value, min: f64, max: f64) -> Result<f64, Fault> {
    let n = number(value).filter(|x| (min..=max).contains(x));
    n.ok_or_else(|| wrong(what, value, format!("a number from {min} to {max}")))
}

/// Reads any number, but for infinity and what is none.
pub(crate) fn finite(what: &str, value: &Value) -> Result<f64, Fault> {
    number(value).filter(|x| x.is_finite()).ok_or_else(|| wrong(what, value, "a finite number"))
}

/// Reads percent, as parts per million.
pub(crate) fn percent(what: &str, value: &Value) -> Result<u32, Fault> {
    let n = number(value).filter(|x| (0.0..=100.0).contains(x));
    // The filter bounds the cast.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    n.map(|x| (x * 10_000.0).round() as u32)
        .ok_or_else(|| wrong(what, value, "a number of percent from 0 to 100"))
}

/// Reads a span of time from `min_ms` to `max_ms`: a number of `unit_ms`, or a string with a unit.
pub(crate) fn span(
    what: &str,
    value: &Value,
    unit_ms: u32,
    min_ms: f64,
    max_ms: f64,
) -> Result<TickDelta, Fault> {
    let written = match value {
        Value::String(s) => value::span(&s.to_string_lossy()).ok(),
        _ => None,
    };
    let written =
        written.or_else(|| number(value).and_then(|x| value::nanoseconds(x * f64::from(unit_ms) * 1e6)));
    let bounds = value::nanoseconds(min_ms * 1e6).unwrap_or_default()
        ..=value::nanoseconds(max_ms * 1e6).unwrap_or_default();
    let unit = if unit_ms == 1000 { "seconds" } else { "milliseconds" };
    let unit_ms = f64::from(unit_ms);
    let expected = || {
        format!(
            "a number of {unit} from {} to {}, or a string as \"200ms\" or \"2s\"",
            min_ms / unit_ms,
            max_ms / unit_ms
        )
    };
    written.filter(|s| bounds.contains(s)).ok_or_else(|| wrong(what, value, expected()))
}

/// Reads true or false.
pub(crate) fn switch(what: &str, value: &Value) -> Result<bool, Fault> {
    value.as_boolean().ok_or_else(|| wrong(what, value, "true or false"))
}

/// Reads a UTF-8 string.
pub(crate) fn text(what: &str, value: &Value, expected: &str) -> Result<String, Fault> {
    let Some(string) = value.as_string() else { return Err(wrong(what, value, expected)) };
    let text = string.to_str().map(|s| s.to_owned());
    text.map_err(|_| wrong(what, value, format!("{expected}; these bytes are not UTF-8")))
}

/// Reads a string with a parser.
pub(crate) fn parsed<T>(
    what: &str,
    value: &Value,
    expected: &str,
    read: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<T, Fault> {
    read(&text(what, value, expected)?).map_err(|e| wrong(what, value, e))
}

/// Reads a string or a list of strings.
pub(crate) fn texts(what: &str, value: &Value, expected: &str) -> Result<Vec<String>, Fault> {
    let Value::Table(list) = value else {
        return Ok(vec![text(what, value, expected)?]);
    };
    list.sequence_values::<Value>().map(|item| text(what, &item?, expected)).collect()
}

/// Reads a function.
pub(crate) fn function(what: &str, value: &Value) -> Result<Function, Fault> {
    value.as_function().cloned().ok_or_else(|| wrong(what, value, "a function"))
}

/// Reads the named entries of a table, sorted by name, so that errors come in a stable order; an
/// entry without a name is an error. All values are held at once, so their number is bounded.
pub(crate) fn named(what: &str, value: &Value) -> Result<Vec<(String, Value)>, Fault> {
    /// More than any function has.
    const ENTRIES_MAX: usize = 256;
    let table: &Table = value.as_table().ok_or_else(|| wrong(what, value, "a table, as {name=value}"))?;
    let mut entries = Vec::new();
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        let Some(name) = key.as_string().map(|s| s.to_string_lossy()) else {
            return Err(Fault::Conflict {
                wrong: format!("the table holds {} without a name", shown(&value)),
                expected: "name=value".to_owned(),
            });
        };
        if entries.len() == ENTRIES_MAX {
            let what = format!("a table of more than {ENTRIES_MAX} names and values");
            return Err(Fault::Limit { what, limit: ENTRIES_MAX.to_string() });
        }
        entries.push((name, value));
    }
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

impl From<mlua::Error> for Fault {
    fn from(e: mlua::Error) -> Self {
        Self::Script(e.to_string())
    }
}
