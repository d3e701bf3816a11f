//! Values that several selectors and actions take: types, tags, pools, limits.

use mlua::Value;

use crate::base::addr::PoolRef;
use crate::config::error::Fault;
use crate::config::functions::enumerations;
use crate::config::ruleset::DraftState;
use crate::lua::front_end::argument::{number, shown, text, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::Call;
use crate::rules::limits::Limit;

/// The name of a pool.
pub(crate) const POOL: &str = "the name of a pool";

/// Bytes of the longest name that a server or pool may have.
const LABEL_BYTES: usize = 255;

/// Reads a name that lines of logs and tables have.
pub(crate) fn label(what: &str, v: &Value, expected: &str) -> Result<String, Fault> {
    let label = text(what, v, expected)?;
    if label.len() > LABEL_BYTES {
        return Err(Fault::value(what, shown(v), format!("{expected}, of at most {LABEL_BYTES} bytes")));
    }
    if label.chars().any(char::is_control) {
        return Err(Fault::value(what, shown(v), format!("{expected}, without control characters")));
    }
    Ok(label)
}

/// Reads the names of one pool or several.
pub(crate) fn pools(what: &str, v: &Value) -> Result<Vec<String>, Fault> {
    const POOLS: &str = "the name of a pool, or a list of them";
    let Value::Table(list) = v else { return Ok(vec![label(what, v, POOLS)?]) };
    list.sequence_values::<Value>().map(|item| label(what, &item?, POOLS)).collect()
}

/// Reads a number from 0, or a name of one.
pub(crate) fn code(
    what: &str,
    v: &Value,
    expected: &str,
    by_name: fn(&str) -> Option<u16>,
) -> Result<u16, Fault> {
    let number = number(v).map(|_| whole(what, v, 0, u16::MAX.into()));
    match number {
        Some(number) => number.map(low),
        None => {
            v.as_string().and_then(|s| by_name(&s.to_string_lossy())).ok_or_else(|| wrong(what, v, expected))
        }
    }
}

/// Reads one type or a list.
pub(crate) fn types(what: &str, v: &Value) -> Result<Vec<u16>, Fault> {
    const TYPES: &str = "a type, as DNSQType.AAAA, or a list of them";
    items(v)?.map(|item| code(what, &item?, TYPES, enumerations::qtype)).collect()
}

/// The caller bounds it to sixteen bits.
pub(crate) fn low(n: u32) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

/// Reads the name of a tag, the first argument.
pub(crate) fn tag_name(a: Arguments<'_>) -> Result<String, Fault> {
    let name = tag_part(a.what(0), a.at(0))?;
    if name.is_empty() { Err(a.wrong(0, "the name of a tag, not empty")) } else { Ok(name) }
}

/// Reads the name or value of a tag.
pub(crate) fn tag_part(what: &str, v: &Value) -> Result<String, Fault> {
    /// Fewer than a query's tags may have in total.
    const TAG_BYTES: usize = 1024;
    let part = match v {
        Value::Integer(_) | Value::Number(_) => shown(v),
        _ => text(what, v, "a text")?,
    };
    if part.len() > TAG_BYTES { Err(wrong(what, v, "at most 1024 bytes")) } else { Ok(part) }
}

/// Reads a pool name; `compile` resolves its slot.
pub(crate) fn pool(a: Arguments<'_>, n: usize) -> Result<PoolRef, Fault> {
    let name = match a.at(n) {
        v @ (Value::Integer(_) | Value::Number(_)) => shown(v),
        v => label(a.what(n), v, POOL)?,
    };
    Ok(PoolRef { name: name.into(), slot: Default::default() })
}

/// Records the state of a limiting rule, and returns its number.
pub(crate) fn state(call: &mut Call<'_>, state: DraftState) -> u32 {
    call.draft.states.push(state);
    u32::try_from(call.draft.states.len() - 1).unwrap_or(u32::MAX)
}

/// Records a bucket.
pub(crate) fn bucket(call: &mut Call<'_>, qps: u32, burst: u32) -> Limit {
    Limit { state: state(call, DraftState::Bucket(qps, burst)), qps, burst }
}
