//! The arguments of one call, by position, and what the function's signature says of them.

use std::borrow::Cow;

use mlua::{TableSequence, Value};

use crate::config::error::{Fault, counted};
use crate::config::functions::signature::{Preset, Signature};
use crate::lua::front_end::argument;

/// The arguments of a call; missing ones are nil.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments<'a> {
    values: &'a [Value],
    signature: Signature,
}

impl<'a> Arguments<'a> {
    /// Creates the arguments of a function with this signature.
    pub(crate) fn new(signature: Signature, values: &'a [Value]) -> Self {
        Self { values, signature }
    }

    /// Returns the error of more arguments than the function takes, whose form is `form`. A nil at
    /// the end is no argument.
    pub(crate) fn surplus(&self, form: &str) -> Option<Fault> {
        let (count, most) = (self.count(), self.signature.most());
        if count <= most {
            return None;
        }
        let expected = if most == 0 { "none".to_owned() } else { format!("at most {most}: {form}") };
        Some(Fault::Conflict { wrong: format!("called with {}", counted(count, "argument")), expected })
    }

    /// Refuses more arguments than this: some forms of a function have fewer than others.
    pub(crate) fn at_most(&self, most: usize) -> Result<(), Fault> {
        let count = self.count();
        if count <= most {
            return Ok(());
        }
        let expected = format!("at most {most} in this form: {}", self.signature.text());
        Err(Fault::Conflict { wrong: format!("called with {}", counted(count, "argument")), expected })
    }

    /// Returns the number of arguments, without nils at the end.
    pub(crate) fn count(&self) -> usize {
        self.values.iter().rposition(|v| !v.is_nil()).map_or(0, |last| last + 1)
    }

    /// Returns an argument, from 0.
    pub(crate) fn at(&self, n: usize) -> &'a Value {
        self.values.get(n).unwrap_or(&Value::Nil)
    }

    /// Returns an argument, if it is given.
    pub(crate) fn given(&self, n: usize) -> Option<&'a Value> {
        self.values.get(n).filter(|v| !v.is_nil())
    }

    /// Returns what messages call an argument.
    pub(crate) fn what(&self, n: usize) -> &'static str {
        self.signature.what(n)
    }

    /// Returns an argument, or what the signature says that it is when it is omitted.
    pub(crate) fn value(&self, n: usize) -> Cow<'a, Value> {
        match (self.given(n), self.signature.preset(n)) {
            (Some(value), _) => Cow::Borrowed(value),
            (None, Some(Preset::Switch(on))) => Cow::Owned(Value::Boolean(on)),
            (None, Some(Preset::Number(number))) => Cow::Owned(Value::Integer(number.into())),
            (None, Some(Preset::Argument(other))) => self.value(other),
            (None, None) => Cow::Borrowed(&Value::Nil),
        }
    }

    /// Reads a whole number.
    pub(crate) fn whole(&self, n: usize, max: u32) -> Result<u32, Fault> {
        self.whole_from(n, 0, max)
    }

    /// Reads a whole number from `min` to `max`.
    pub(crate) fn whole_from(&self, n: usize, min: u32, max: u32) -> Result<u32, Fault> {
        argument::whole(self.what(n), &self.value(n), min, max)
    }

    /// Reads a sixteen-bit number.
    pub(crate) fn word(&self, n: usize) -> Result<u16, Fault> {
        // The range bounds it.
        self.whole(n, u16::MAX.into()).map(|n| u16::try_from(n).unwrap_or(u16::MAX))
    }

    /// Reads an eight-bit number, at most `max`.
    pub(crate) fn byte(&self, n: usize, max: u8) -> Result<u8, Fault> {
        self.whole(n, max.into()).map(|n| u8::try_from(n).unwrap_or(max))
    }

    /// Reads a switch.
    pub(crate) fn switch(&self, n: usize) -> Result<bool, Fault> {
        argument::switch(self.what(n), &self.value(n))
    }

    /// Reads a UTF-8 string.
    pub(crate) fn text(&self, n: usize, expected: &str) -> Result<String, Fault> {
        argument::text(self.what(n), self.at(n), expected)
    }

    /// Reads a byte string.
    pub(crate) fn bytes(&self, n: usize) -> Result<Vec<u8>, Fault> {
        bytes(self.what(n), self.at(n))
    }

    /// Creates the error of an invalid argument.
    pub(crate) fn wrong(&self, n: usize, expected: impl std::fmt::Display) -> Fault {
        argument::wrong(self.what(n), self.at(n), expected)
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
