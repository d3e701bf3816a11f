//! Warns of options that have no effect without, or beside, another one.

use mlua::Value;

use crate::config::functions::needs::Need;
use crate::lua::front_end::context::Call;

/// Returns a value as the table of needs has it.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Boolean(on) => Some(on.to_string()),
        Value::String(s) => Some(s.to_string_lossy()),
        Value::Nil => None,
        // Any other is neither false nor empty.
        _ => Some(value.type_name().to_owned()),
    }
}

/// Returns the options that a need is about. Those that are off were meant to have no effect.
pub(crate) fn concerned<'e>(entries: &'e [(String, Value)], need: &Need) -> impl Iterator<Item = &'e str> {
    let names = need.names;
    let is_on = |v: &Value| v.as_boolean() != Some(false);
    entries
        .iter()
        .filter(move |(name, v)| names.contains(&name.as_str()) && is_on(v))
        .map(|(n, _)| n.as_str())
}

/// Warns of the options that have no effect.
pub(crate) fn check(
    call: &mut Call<'_>,
    entries: &[(String, Value)],
    needs: impl Iterator<Item = &'static Need>,
) {
    for need in needs {
        let other = entries.iter().find(|(name, _)| name == need.other).and_then(|(_, v)| text(v));
        if !need.is_met(other.as_deref()) {
            concerned(entries, need).for_each(|name| call.warn(need.fault(name)));
        }
    }
}
