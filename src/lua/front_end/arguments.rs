//! The arguments of one call, by their place.

use mlua::{TableSequence, Value};

use crate::config::error::Fault;
use crate::lua::front_end::argument;

/// The arguments of a call; what was not given is nil.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a>(pub(crate) &'a [Value]);

impl<'a> Arguments<'a> {
    /// An argument, from 0.
    pub(crate) fn at(&self, n: usize) -> &'a Value {
        self.0.get(n).unwrap_or(&Value::Nil)
    }

    /// An argument that need not be given.
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

    /// A whole number.
    pub(crate) fn whole(&self, n: usize, what: &str, max: u32) -> Result<u32, Fault> {
        argument::whole(what, self.at(n), 0, max)
    }

    /// A whole number that need not be given.
    pub(crate) fn whole_or(&self, n: usize, what: &str, default: u32, max: u32) -> Result<u32, Fault> {
        self.given(n).map_or(Ok(default), |v| argument::whole(what, v, 0, max))
    }

    /// A whole number of sixteen bits.
    pub(crate) fn word(&self, n: usize, what: &str) -> Result<u16, Fault> {
        // The range bounds it.
        self.whole(n, what, u16::MAX.into()).map(|n| u16::try_from(n).unwrap_or(u16::MAX))
    }

    /// A whole number of eight bits, at most `max`.
    pub(crate) fn byte_or(&self, n: usize, what: &str, default: u8, max: u8) -> Result<u8, Fault> {
        let whole = self.whole_or(n, what, default.into(), max.into());
        whole.map(|n| u8::try_from(n).unwrap_or(max))
    }

    /// A whole number of eight bits, at most `max`.
    pub(crate) fn byte(&self, n: usize, what: &str, max: u8) -> Result<u8, Fault> {
        self.whole(n, what, max.into()).map(|n| u8::try_from(n).unwrap_or(max))
    }

    /// true or false; the default when it was not given.
    pub(crate) fn switch_or(&self, n: usize, what: &str, default: bool) -> Result<bool, Fault> {
        self.given(n).map_or(Ok(default), |v| argument::switch(what, v))
    }

    /// A string of UTF-8.
    pub(crate) fn text(&self, n: usize, what: &str, expected: &str) -> Result<String, Fault> {
        argument::text(what, self.at(n), expected)
    }

    /// A string of any bytes.
    pub(crate) fn bytes(&self, n: usize, what: &str) -> Result<Vec<u8>, Fault> {
        bytes(what, self.at(n))
    }
}

/// A string of any bytes.
pub(crate) fn bytes(what: &str, value: &Value) -> Result<Vec<u8>, Fault> {
    let bytes = value.as_string().map(|s| s.as_bytes().to_vec());
    bytes.ok_or_else(|| argument::wrong(what, value, "a string of bytes"))
}

/// The items of a list, one by one; a single value is a list of itself.
///
/// Whoever reads them keeps what he makes of an item, never the item: each [`Value`] that is held
/// takes a slot of a Lua stack that has some 8,000, and the Lua library panics without one.
pub(crate) enum Items<'v> {
    /// What is no list.
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

/// Begins to read the items of a list.
pub(crate) fn items(value: &Value) -> Result<Items<'_>, Fault> {
    let Value::Table(list) = value else { return Ok(Items::One(Some(value.clone()))) };
    // A table of names and values is no list.
    if list.raw_get::<Value>(1)?.is_nil() && !list.is_empty() {
        return Err(argument::wrong("the list", value, "a list, as {a, b}"));
    }
    Ok(Items::List(list.sequence_values()))
}
