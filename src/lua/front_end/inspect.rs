//! The functions that show the running process, and direct it. While the file is evaluated there is
//! no running process: they show the configuration alone, or nothing.

use std::fmt::Write;

use mlua::{Lua, Value};

use crate::base::prefix::listed;
use crate::config::error::Fault;
use crate::config::functions::policies::name as policy_name;
use crate::config::options::{Key, SETTINGS};
use crate::lua::front_end::argument::{named, text};
use crate::lua::front_end::command::Wish;
use crate::lua::front_end::context::{Context, entry};
use crate::lua::front_end::settings::{NETWORK, network};
use crate::lua::front_end::values::POOL;
use crate::lua::front_end::view::Table;
use crate::lua::front_end::{every_function, server, server_object};

/// Functions that print a table of the running process.
const TABLES: [(&str, Table); 11] = [
    ("showServers", Table::Servers),
    ("showPools", Table::Pools),
    ("showBinds", Table::Listeners),
    ("showTCPStats", Table::Connections),
    ("showTLSErrorCounters", Table::TlsErrors),
    ("showTLSFrontends", Table::TlsListeners),
    ("showTLSContexts", Table::TlsListeners),
    ("showTLSCertificates", Table::Certificates),
    ("showResponseLatency", Table::Latency),
    ("showShadows", Table::Shadows),
    ("dumpStats", Table::Metrics),
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, table) in TABLES {
        context.define_printing(lua, entry(name)?, move |call, a| {
            if let (Table::Servers, Some(options)) = (table, a.given(0)) {
                // The table has the identifiers of servers in any case.
                let given = named("the table of options", options)?;
                let unknown = given.iter().filter(|(option, _)| option != "showUUIDs");
                unknown.for_each(|(option, _)| call.unknown("option", option, ["showUUIDs"]));
            }
            Ok(call.session.as_ref().map(|s| s.view.table(table)).unwrap_or_default())
        })?;
    }
    context.define_printing(lua, entry("showVersion")?, |_, _| {
        Ok(concat!("dnslob ", env!("CARGO_PKG_VERSION")).to_owned())
    })?;
    context.define_printing(lua, entry("delta")?, |call, _| {
        Ok(call.session.as_ref().map(|s| s.delta.clone()).unwrap_or_default())
    })?;
    context.define_printing(lua, entry("help")?, |_, a| {
        let wanted = a.given(0).map(|v| text("the text", v, "a part of a name")).transpose()?;
        Ok(help(wanted.as_deref().unwrap_or_default()))
    })?;
    for (name, wish) in [("reload", Wish::Reload), ("shutdown", Wish::Stop)] {
        context.define(lua, name, move |call, _| match &mut call.session {
            Some(session) => {
                session.wish = Some(wish);
                Ok(Value::Nil)
            }
            None => Err(Fault::Conflict {
                wrong: "called by the configuration itself".to_owned(),
                expected: "a command of the console".to_owned(),
            }),
        })?;
    }
    context.define(lua, "requestTCPStatesDump", |call, _| {
        let text = call.session.as_ref().map(|session| session.view.table(Table::Connections));
        for line in text.iter().flat_map(|text| text.lines()).filter(|line| !line.is_empty()) {
            tracing::info!("connections: {}", line.trim_end());
        }
        Ok(Value::Nil)
    })?;
    context.define(lua, "getStatisticsCounters", |call, _| {
        let counters = call.session.as_ref().map(|s| s.view.counters()).unwrap_or_default();
        Ok(Value::Table(call.lua.create_table_from(counters)?))
    })?;
    context.define(lua, "getOutgoingTLSSessionCacheSize", |call, _| {
        let sessions = call.session.as_ref().map_or(0, |session| session.view.tls_sessions());
        Ok(Value::Number(sessions as f64))
    })?;
    context
        .define(lua, "getVerbose", |call, _| Ok(Value::Boolean(call.draft.settings.switch(Key::Verbose))))?;
    define_acl(lua, context)?;
    define_pools(lua, context)
}

fn define_acl(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context
        .define_printing(lua, entry("showACL")?, |call, _| Ok(listed(&call.draft.acl_listed()).join("\n")))?;
    context.define(lua, "getACL", |call, _| {
        Ok(Value::Table(call.lua.create_sequence_from(listed(&call.draft.acl_listed()))?))
    })?;
    context.define(lua, "rmACL", |call, a| {
        const LISTED: &str = "a network of those that may query";
        let (net, _) = network(call, &text("", a.at(0), NETWORK)?)?;
        let mut kept = call.draft.acl_listed();
        let before = kept.len();
        kept.retain(|(listed, _)| *listed != net);
        if kept.len() == before {
            return Err(a.wrong(0, LISTED));
        }
        call.draft.set_acl(kept);
        Ok(Value::Nil)
    })
}

fn define_pools(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define_printing(lua, entry("showServerPolicy")?, |call, _| {
        Ok(policy_name(call.draft.default_policy().kind).to_owned())
    })?;
    context.define_printing(lua, entry("showPoolServerPolicy")?, |call, a| {
        let pool = a.text(0, POOL)?;
        let own = call.draft.pools.iter().find(|p| p.name == pool).and_then(|p| p.policy.as_ref());
        let kind = own.map_or_else(|| call.draft.default_policy().kind, |policy| policy.value.kind);
        Ok(policy_name(kind).to_owned())
    })?;
    let own = context.clone();
    context.define(lua, "getPoolServers", move |call, a| {
        let pool = a.text(0, POOL)?;
        let list = call.lua.create_table()?;
        for at in
            server::standing(call.draft).filter(|at| call.draft.servers[*at].pools.iter().any(|p| p == pool))
        {
            list.raw_push(server_object::object(call, &own, at)?)?;
        }
        Ok(Value::Table(list))
    })?;
    context.define(lua, "getPoolNames", |call, _| {
        let servers = server::standing(call.draft).flat_map(|at| call.draft.servers[at].pools.iter());
        let mut names: Vec<&str> = servers.chain(call.draft.pools.iter().map(|p| p.name.as_str())).collect();
        names.sort();
        names.dedup();
        Ok(Value::Table(call.lua.create_sequence_from(names)?))
    })
}

/// Lists the functions whose names contain a text.
fn help(wanted: &str) -> String {
    let settings = SETTINGS.iter().flat_map(|s| s.lua).map(|l| (l.name, "value", ""));
    let mut all: Vec<_> = every_function()
        .map(|e| (e.name, e.arguments, e.doc))
        .chain(settings)
        .filter(|(name, ..)| name.to_lowercase().contains(&wanted.to_lowercase()))
        .collect();
    all.sort_unstable();
    let mut out = String::new();
    for (name, arguments, doc) in all {
        // Writing into a string does not fail.
        let _ = writeln!(out, "{name}({arguments})");
        if !wanted.is_empty() && !doc.is_empty() {
            let _ = writeln!(out, "    {doc}");
        }
    }
    out
}
