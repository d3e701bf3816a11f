//! The arguments of one call, by position.

use mlua::{TableSequence, Value};

use crate::config::error::Fault;
use crate::lua::front_end::argument;

/// The arguments of a call; missing ones are nil.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a>(pub(crate) &'a [Value]);

impl<'a> Arguments<'a> {
    /// Returns an argument, from 0.
    pub(crate) fn at(&self, n: usize) -> &'a Value {
        self.0.get(n).unwrap_or(&Value::Nil)
    }

    /// Returns an optional argument.
    pub(crate) fn given(&self, n: usize) -> Option<&'a Value> {
        self.0.get(n).filter(|v| !v.is_nil())
    }

    /// Refuses more arguments than this.
    pub(crate) fn at_most(&self, max: usize) -> Result<(), Fault> {
        if self.0.len() <= max {
            return Ok(());
        }
        let expected = if max == 0 { "none".to_owned() } else { format!("at most {max}") };
        Err(Fault::Conflict { wrong: format!("called with {} arguments", self.0.len()), expected })
    }

    /// Reads a whole number.
    pub(crate) fn whole(&self, n: usize, what: &str, max: u32) -> Result<u32, Fault> {
        argument::whole(what, self.at(n), 0, max)
    }

    /// Reads an optional whole number.
    pub(crate) fn whole_or(&self, n: usize, what: &str, default: u32, max: u32) -> Result<u32, Fault> {
        self.given(n).map_or(Ok(default), |v| argument::whole(what, v, 0, max))
    }

    /// Reads a sixteen-bit number.
    pub(crate) fn word(&self, n: usize, what: &str) -> Result<u16, Fault> {
        // The range bounds it.
        self.whole(n, what, u16::MAX.into()).map(|n| u16::try_from(n).unwrap_or(u16::MAX))
    }

    /// Reads an optional eight-bit number, at most `max`.
    pub(crate) fn byte_or(&self, n: usize, what: &str, default: u8, max: u8) -> Result<u8, Fault> {
        let whole = self.whole_or(n, what, default.into(), max.into());
        whole.map(|n| u8::try_from(n).unwrap_or(max))
    }

    /// Reads an eight-bit number, at most `max`.
    pub(crate) fn byte(&self, n: usize, what: &str, max: u8) -> Result<u8, Fault> {
        self.whole(n, what, max.into()).map(|n| u8::try_from(n).unwrap_or(max))
    }

    /// Reads an optional switch.
    pub(crate) fn switch_or(&self, n: usize, what: &str, default: bool) -> Result<bool, Fault> {
        self.given(n).map_or(Ok(default), |v| argument::switch(what, v))
    }

    /// Reads a UTF-8 string.
    pub(crate) fn text(&self, n: usize, what: &str, expected: &str) -> Result<String, Fault> {
        argument::text(what, self.at(n), expected)
    }

    /// Reads a byte string.
    pub(crate) fn bytes(&self, n: usize, what: &str) -> Result<Vec<u8>, Fault> {
        bytes(what, self.at(n))
    }
}

/// Reads a byte string.
pub(crate) fn bytes(what: &str, value: &Value) -> Result<Vec<u8>, Fault> {
    let bytes = value.as_string().map(|s| s.as_bytes().to_vec());
    bytes.ok_or_else(|| argument::wrong(what, value, "a string of bytes"))
}

/// The items of a list, one by one; a single value counts as a list of one.
///
/// Callers must not keep the items: each [`Value`] held by Rust takes a slot of a Lua stack of some
/// 8,000, and the Lua library panics when it is full.
pub(crate) enum Items<'v> {
    /// A single value.
    One(Option<Value>),
    /// A list.
    List(TableSequence<'v, Value>),
}

impl Iterator for Items<'_> {
    type Item = Result<Value, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(value) => value.take().map(Ok),
            Self::List(list) => list.next().map(|item| item.map_err(Fault::from)),
        }
    }
}

/// Reads the items of a list.
pub(crate) fn items(value: &Value) -> Result<Items<'_>, Fault> {
    let Value::Table(list) = value else { return Ok(Items::One(Some(value.clone()))) };
    // A table of names and values is no list.
    if list.raw_get::<Value>(1)?.is_nil() && !list.is_empty() {
        return Err(argument::wrong("the list", value, "a list, as {a, b}"));
    }
    Ok(Items::List(list.sequence_values()))
}
