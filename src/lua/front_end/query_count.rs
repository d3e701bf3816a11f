//! Queries counted by name: `setQueryCount` and its like.

use std::fmt::Write;

use mlua::{Lua, Value};

use crate::base::printable::Printable;
use crate::config::ruleset::{FunctionKind, Interface};
use crate::lua::front_end::context::{Context, entry};
use crate::lua::front_end::functions::record;
use crate::stats::query_counts::Counted;
use crate::stats::top::QUERIES_MAX;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "setQueryCount", |call, a| {
        call.draft.query_count.0 = a.switch(0)?;
        Ok(Value::Nil)
    })?;
    context.define(lua, "setQueryCountFilter", |call, a| {
        let filter = record(call, FunctionKind::Action, Interface::Objects, a.what(0), a.at(0))?;
        call.draft.query_count.1 = Some(filter);
        Ok(Value::Nil)
    })?;
    context.define_printing(lua, entry("getQueryCounters")?, |call, a| {
        let rows = (a.whole(0, u32::MAX)? as usize).min(QUERIES_MAX);
        let counted = call.session.as_ref().map(|session| session.view.query_counts(rows));
        Ok(counted.map_or_else(String::new, |counted| shown(&counted, call.draft.query_count.0)))
    })?;
    context.define(lua, "clearQueryCounters", |call, _| {
        if let Some(session) = &call.session {
            session.view.clear_query_counts();
        }
        Ok(Value::Nil)
    })
}

fn shown(counted: &Counted, is_on: bool) -> String {
    let state = if is_on { "on" } else { "off: setQueryCount(true)" };
    let mut out = format!("# counting is {state}; {} queries, {} names\n", counted.queries, counted.names);
    let width = counted.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(40);
    for (at, (name, count)) in counted.rows.iter().enumerate() {
        // Writing into a string does not fail.
        let _ = writeln!(out, "{:>4}  {:<width$} {count:>4}", at + 1, Printable(name).to_string());
    }
    if counted.unnamed > 0 {
        let _ = writeln!(out, "# {} queries of further names: there is no room for more", counted.unnamed);
    }
    out
}
