//! The functions under `declareMetric` and its like in the states of shards, and in C.

use mlua::{BString, Lua, Table, Value};

use crate::lua::ffi::running_call::running;
use crate::stats::custom_metrics::{self, BOUNDS_MAX, CustomKind, Labels};

/// Pairs of a table that are looked at; more labels are refused.
const PAIRS_MAX: usize = 20;

/// What a function answers: the value, or why there is none.
type Answer = (Option<f64>, Option<&'static str>);

/// Adds them to the table of functions under the prelude.
pub(crate) fn define(lua: &Lua, core: &Table) -> mlua::Result<()> {
    let refused = lua.create_function(|_, ()| {
        failed();
        Ok(())
    })?;
    core.raw_set("metric_failed", refused)?;
    let declare = lua.create_function(
        |_,
         (name, kind, description, prometheus, labelled, bounds): (
            BString,
            BString,
            BString,
            Option<BString>,
            bool,
            Option<Table>,
        )| {
            let bounds = bounds.map(|table| numbers(&table)).transpose()?;
            let prometheus = prometheus.as_deref().map(|p| &**p);
            let declared = declare(&name, &kind, &description, prometheus, labelled, bounds.as_deref());
            Ok((declared.is_ok(), declared.err()))
        },
    )?;
    core.raw_set("metric_declare", declare)?;
    let add = lua.create_function(|_, (name, step, labels): (BString, f64, Option<Table>)| {
        let labels = read(labels)?;
        Ok(answer(custom_metrics::all().add(&name.to_string(), &labels, step)))
    })?;
    core.raw_set("metric_add", add)?;
    let set = lua.create_function(|_, (name, value, labels): (BString, f64, Option<Table>)| {
        let labels = read(labels)?;
        Ok(answer(custom_metrics::all().set(&name.to_string(), &labels, value)))
    })?;
    core.raw_set("metric_set", set)?;
    let observe = lua.create_function(|_, (name, value, labels): (BString, f64, Option<Table>)| {
        let labels = read(labels)?;
        Ok(answer(custom_metrics::all().observe(&name.to_string(), &labels, value)))
    })?;
    core.raw_set("metric_observe", observe)?;
    let get = lua.create_function(|_, (name, labels): (BString, Option<Table>)| {
        let labels = read(labels)?;
        Ok(answer(custom_metrics::all().value(&name.to_string(), &labels)))
    })?;
    core.raw_set("metric_get", get)
}

/// Declares a metric, a histogram with these bounds or those that it has by default.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn declare(
    name: &[u8],
    kind: &[u8],
    description: &[u8],
    prometheus: Option<&[u8]>,
    labelled: bool,
    bounds: Option<&[f64]>,
) -> Result<(), &'static str> {
    let kind = std::str::from_utf8(kind).ok().and_then(CustomKind::named);
    let kind = kind.ok_or("the type is none of \"counter\", \"gauge\" and \"histogram\"")?;
    let text = String::from_utf8_lossy;
    let prometheus = prometheus.filter(|name| !name.is_empty()).map(text);
    let (metrics, name, description) = (custom_metrics::all(), text(name), text(description));
    match bounds {
        Some(bounds) => {
            metrics.declare_with(bounds, &name, kind, &description, prometheus.as_deref(), labelled)
        }
        None => metrics.declare(&name, kind, &description, prometheus.as_deref(), labelled),
    }
}

/// Reads the bounds of a histogram: one more than there may be, at most.
fn numbers(table: &Table) -> mlua::Result<Vec<f64>> {
    table.sequence_values::<f64>().take(BOUNDS_MAX + 1).collect()
}

/// Counts a change of a metric that is refused, as an error of the call that runs.
pub(crate) fn failed() {
    let _ = running(|call| call.failed.set(call.failed.get() + 1));
}

fn answer(value: Result<f64, &'static str>) -> Answer {
    (value.ok(), value.err())
}

/// Reads labels, sorted.
fn read(labels: Option<Table>) -> mlua::Result<Labels> {
    let mut read = Labels::new();
    for pair in labels.iter().flat_map(|labels| labels.pairs::<BString, Value>()).take(PAIRS_MAX) {
        let (label, value) = pair?;
        let value = match &value {
            Value::String(text) => text.to_string_lossy(),
            Value::Integer(number) => number.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Boolean(switch) => switch.to_string(),
            _ => return Err(mlua::Error::runtime("the value of a label is no text")),
        };
        read.push((label.to_string(), value));
    }
    read.sort();
    Ok(read)
}
