//! Numbers out of range, which dnsdist takes: the nearest in range is taken, with a warning. Those
//! below 0 are errors: dnsdist takes some of them for very large ones.
//!
//! Empty lists and texts, which it takes, too: templates leave them where they have nothing to say.

use mlua::Value;

use crate::base::time::TickDelta;
use crate::config::error::Fault;
use crate::lua::front_end::argument::{self, number, shown};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::Call;

/// Returns the number nearest to `written` from `min` to `max`, without its fraction.
pub(crate) fn within(written: f64, min: u32, max: u32) -> u32 {
    // The range bounds the cast.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let taken = written.clamp(min.into(), max.into()) as u32;
    taken
}

/// Warns that a number is taken as another one.
pub(crate) fn warn(call: &mut Call<'_>, what: &str, written: &Value, taken: impl std::fmt::Display) {
    let written = shown(written);
    call.warn(Fault::Note(match what {
        "" => format!("{written} is taken as {taken}"),
        _ => format!("{what} is {written}, which is taken as {taken}"),
    }));
}

/// Reads a number as a whole one from `min` to `max`.
pub(crate) fn whole(
    call: &mut Call<'_>,
    what: &str,
    value: &Value,
    min: u32,
    max: u32,
) -> Result<u32, Fault> {
    let Some(written) = number(value).filter(|n| *n >= 0.0) else {
        return argument::whole(what, value, min, max);
    };
    let taken = within(written, min, max);
    if f64::from(taken) != written {
        warn(call, what, value, taken);
    }
    Ok(taken)
}

/// Reads a whole number, possibly negative; a fraction is left out.
pub(crate) fn signed(call: &mut Call<'_>, what: &str, value: &Value) -> Result<i32, Fault> {
    let written = number(value).filter(|n| n.fract() != 0.0);
    let taken = written.map_or_else(|| value.clone(), |n| Value::Number(n.trunc()));
    let number = argument::signed(what, &taken)?;
    if written.is_some() {
        warn(call, what, value, number);
    }
    Ok(number)
}

/// Reads a sixteen-bit number from `min` to `max`.
pub(crate) fn word(call: &mut Call<'_>, what: &str, value: &Value, min: u16, max: u16) -> Result<u16, Fault> {
    // The range bounds it.
    whole(call, what, value, min.into(), max.into()).map(|n| u16::try_from(n).unwrap_or(max))
}

/// Reads an eight-bit number from `min` to `max`.
pub(crate) fn byte(call: &mut Call<'_>, what: &str, value: &Value, min: u8, max: u8) -> Result<u8, Fault> {
    // The range bounds it.
    whole(call, what, value, min.into(), max.into()).map(|n| u8::try_from(n).unwrap_or(max))
}

/// Reads a number from `min` to `max`, possibly with a fraction.
pub(crate) fn fraction(
    call: &mut Call<'_>,
    what: &str,
    value: &Value,
    min: f64,
    max: f64,
) -> Result<f64, Fault> {
    match number(value).filter(|n| !n.is_nan() && !(min..=max).contains(n)) {
        Some(written) => {
            let taken = written.clamp(min, max);
            warn(call, what, value, taken);
            Ok(taken)
        }
        None => argument::fraction(what, value, min, max),
    }
}

/// Reads a span of time from `min_ms` to `max_ms`: a number of `unit_ms`, or a string with a unit.
/// 0 is taken as `zero_ms` if it is out of range.
pub(crate) fn span(
    call: &mut Call<'_>,
    what: &str,
    value: &Value,
    unit_ms: u32,
    (min_ms, max_ms): (f64, f64),
    zero_ms: f64,
) -> Result<TickDelta, Fault> {
    let Some(written) = number(value).filter(|n| *n >= 0.0) else {
        return argument::span(what, value, unit_ms, min_ms, max_ms);
    };
    let unit_ms = f64::from(unit_ms);
    let ms = written * unit_ms;
    let taken = if ms == 0.0 && min_ms > 0.0 { zero_ms } else { ms.clamp(min_ms, max_ms) };
    if taken != ms {
        warn(call, what, value, taken / unit_ms);
    }
    argument::span(what, &Value::Number(taken), 1, min_ms, max_ms)
}

impl Arguments<'_> {
    /// Reads a number as the nearest whole one, at most `max`.
    pub(crate) fn nearest(&self, call: &mut Call<'_>, n: usize, max: u32) -> Result<u32, Fault> {
        whole(call, self.what(n), &self.value(n), 0, max)
    }

    /// The same of eight bits.
    pub(crate) fn nearest_byte(&self, call: &mut Call<'_>, n: usize, max: u8) -> Result<u8, Fault> {
        byte(call, self.what(n), &self.value(n), 0, max)
    }

    /// The same of sixteen bits.
    pub(crate) fn nearest_word(&self, call: &mut Call<'_>, n: usize) -> Result<u16, Fault> {
        word(call, self.what(n), &self.value(n), 0, u16::MAX)
    }
}

/// Returns whether a value is an empty text.
pub(crate) fn is_empty_text(value: &Value) -> bool {
    value.as_string().is_some_and(|text| text.as_bytes().is_empty())
}

/// Options that an empty text leaves as if they were not given, as in dnsdist: templates leave such.
const UNSET_BY_EMPTY: &[&str] = &[
    "caStore",
    "checkType",
    "ciphers",
    "ciphersTLS13",
    "interface",
    "keyLogFile",
    "minTLSVersion",
    "source",
    "subjectAddr",
    "subjectName",
    "ticketKeyFile",
    "tls",
];

impl Call<'_> {
    /// Returns whether an option is an empty text and so as if it were not given, of which it warns.
    pub(crate) fn is_unset(&mut self, name: &str, value: &Value) -> bool {
        let is_unset = UNSET_BY_EMPTY.contains(&name) && is_empty_text(value);
        if is_unset {
            self.warn_empty_text(name, "it is as if it were not given");
        }
        is_unset
    }

    /// Warns that a list is empty, and of what that means.
    pub(crate) fn warn_empty_list(&mut self, what: &str, means: &str) {
        let is = if what.is_empty() { "an empty list" } else { "is an empty list" };
        self.warn(Fault::Note(format!("{what} {is}: {means}").trim_start().to_owned()));
    }

    /// The same of a text.
    pub(crate) fn warn_empty_text(&mut self, what: &str, means: &str) {
        let is = if what.is_empty() { "an empty text" } else { "is an empty text" };
        self.warn(Fault::Note(format!("{what} {is}: {means}").trim_start().to_owned()));
    }
}
