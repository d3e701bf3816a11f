//! Metrics that a configuration declares: the functions that work while it is evaluated, and from
//! the console. Those of the shards are in `lua::state`.

use std::sync::Arc;

use mlua::{Lua, Value};

use crate::config::error::Fault;
use crate::lua::front_end::anytime::define_anytime;
use crate::lua::front_end::argument::{finite, fraction, named, shown, switch, text, wrong};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::Context;
use crate::lua::front_end::declared::raised;
use crate::stats::custom_metrics::{self, BOUNDS_MAX, CustomKind, CustomMetric, Declared, Labels};

const STEP_MAX: f64 = 1e15;

/// How many metrics were declared in a state.
struct Declarations(u64);

/// Returns how many metrics were declared in this state: a command that declares one is a change.
pub(crate) fn declarations(lua: &Lua) -> u64 {
    lua.app_data_ref::<Declarations>().map_or(0, |of| of.0)
}

/// A function, and where it notes options that are not known.
type Body = fn(&Context, &Arguments<'_>, &mut Vec<Fault>) -> Result<Value, Fault>;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let function = |name: &'static str, body: Body| {
        let own = context.clone();
        define_anytime(lua, context, name, move |lua, a| {
            let mut unknown = Vec::new();
            let done = body(&own, &a, &mut unknown).map_err(|fault| raised(lua, name, &fault))?;
            if name == "declareMetric" {
                lua.set_app_data(Declarations(declarations(lua) + 1));
            }
            own.warn(lua, name, unknown);
            Ok(done)
        })
    };
    function("declareMetric", declare)?;
    function("incMetric", |context, a, unknown| change(context, a, 1.0, unknown))?;
    function("decMetric", |context, a, unknown| change(context, a, -1.0, unknown))?;
    function("setMetric", |context, a, unknown| {
        let value = finite(a.what(1), a.at(1))?;
        let (_, labels) = options(a, 2, unknown)?;
        let set = metric(context, a)?.set(&labels, value);
        if set.is_ok() && is_file(context) {
            let name = name(a)?;
            of_draft(context, |draft| draft.note_set(&name, &labels));
        }
        answered(a, set)
    })?;
    function("observeMetric", |context, a, unknown| {
        let value = finite(a.what(1), a.at(1))?;
        let (_, labels) = options(a, 2, unknown)?;
        answered(a, metric(context, a)?.observe(&labels, value))
    })?;
    function("getMetric", |context, a, unknown| {
        let (_, labels) = options(a, 1, unknown)?;
        Ok(Value::Number(metric(context, a)?.value(&labels)))
    })
}

fn declare(context: &Context, a: &Arguments<'_>, unknown: &mut Vec<Fault>) -> Result<Value, Fault> {
    const KINDS: &str = "\"counter\", \"gauge\" or \"histogram\"";
    let kind = text(a.what(1), a.at(1), KINDS)?;
    let kind = CustomKind::named(&kind).ok_or_else(|| a.wrong(1, KINDS))?;
    let description = text(a.what(2), a.at(2), "a description")?;
    let (mut prometheus_name, mut labelled, mut bounds) = (None, false, None);
    match a.given(3) {
        None => {}
        Some(Value::Table(_)) => {
            for (option, v) in named(a.what(3), a.at(3))? {
                match option.as_str() {
                    "name" => prometheus_name = Some(text(&option, &v, "a name")?),
                    "withLabels" => labelled = switch(&option, &v)?,
                    "buckets" => bounds = Some(numbers(&option, &v)?),
                    _ => {
                        let known = ["name", "withLabels", "buckets"];
                        unknown.push(Fault::unknown("option", &option, known.into_iter()));
                    }
                }
            }
        }
        Some(written) => prometheus_name = Some(text(a.what(3), written, "a name, or options")?),
    }
    // dnsdist takes an empty one for none.
    let prometheus_name = prometheus_name.as_deref().filter(|name| !name.is_empty());
    let (metrics, name, bounds) = (custom_metrics::all(), name(a)?, bounds.as_deref());
    let in_draft = of_draft(context, |draft| {
        draft.declare(metrics, bounds, &name, kind, &description, prometheus_name, labelled)
    });
    let declared = in_draft.unwrap_or_else(|| match bounds {
        Some(bounds) => metrics.declare_with(bounds, &name, kind, &description, prometheus_name, labelled),
        None => metrics.declare(&name, kind, &description, prometheus_name, labelled),
    });
    declared.map(|()| Value::Boolean(true)).map_err(|why| refused(a, why))
}

/// Reads the bounds of a histogram's ranges.
fn numbers(what: &str, v: &Value) -> Result<Vec<f64>, Fault> {
    const NUMBERS: &str = "a list of growing numbers, as {1, 10, 100}";
    let list = v.as_table().ok_or_else(|| wrong(what, v, NUMBERS))?;
    let items = list.sequence_values::<Value>().take(BOUNDS_MAX + 1);
    items.map(|item| finite(what, &item?)).collect()
}

fn change(context: &Context, a: &Arguments<'_>, sign: f64, unknown: &mut Vec<Fault>) -> Result<Value, Fault> {
    let (step, labels) = options(a, 1, unknown)?;
    answered(a, metric(context, a)?.add(&labels, step * sign))
}

/// Returns what a body does with the metrics of the draft; none where there is no draft, or another call
/// of ours has it.
fn of_draft<R>(context: &Context, body: impl FnOnce(&mut Declared) -> R) -> Option<R> {
    let mut build = context.0.build.try_borrow_mut().ok()?;
    build.as_mut().map(|build| body(&mut build.draft.metrics))
}

/// Returns the metric that is named first: of the draft, or else of the process. What a file counts counts only once
/// the file is in force; what a command does, at once.
fn metric(context: &Context, a: &Arguments<'_>) -> Result<Arc<CustomMetric>, Fault> {
    let name = name(a)?;
    let in_draft = if is_file(context) {
        of_draft(context, |draft| draft.to_change(custom_metrics::all(), &name))
    } else {
        of_draft(context, |draft| draft.metric(&name))
    };
    let in_draft = in_draft.flatten();
    in_draft.map_or_else(|| custom_metrics::all().metric(&name), Ok).map_err(|why| refused(a, why))
}

/// Returns whether a file runs, rather than a command or what is told of something.
fn is_file(context: &Context) -> bool {
    // Already borrowed: within a call of ours for a command.
    context.0.session.try_borrow().is_ok_and(|session| session.is_none())
}

fn name(a: &Arguments<'_>) -> Result<String, Fault> {
    text(a.what(0), a.at(0), "the name of a metric")
}

fn answered(a: &Arguments<'_>, value: Result<f64, &'static str>) -> Result<Value, Fault> {
    value.map(Value::Number).map_err(|why| refused(a, why))
}

fn refused(a: &Arguments<'_>, why: &str) -> Fault {
    Fault::Script(format!("metric {}: {why}", shown(a.at(0))))
}

/// Reads a step, or options with `step` and `labels`.
fn options(a: &Arguments<'_>, at: usize, unknown: &mut Vec<Fault>) -> Result<(f64, Labels), Fault> {
    let Some(given) = a.given(at) else { return Ok((1.0, Labels::new())) };
    if !given.is_table() {
        return Ok((fraction(a.what(at), given, 0.0, STEP_MAX)?, Labels::new()));
    }
    let (mut step, mut labels) = (1.0, Labels::new());
    for (option, v) in named(a.what(at), given)? {
        match option.as_str() {
            "step" => step = fraction(&option, &v, 0.0, STEP_MAX)?,
            "labels" => {
                for (label, v) in named(&option, &v)? {
                    let value = match &v {
                        Value::String(_) => text(&label, &v, "a text")?,
                        Value::Integer(_) | Value::Number(_) | Value::Boolean(_) => shown(&v),
                        _ => return Err(wrong(&label, &v, "a text")),
                    };
                    labels.push((label, value));
                }
            }
            _ => unknown.push(Fault::unknown("option", &option, ["step", "labels"].into_iter())),
        }
    }
    Ok((step, labels))
}
