//! Functions that show what dnslob does not have, or does by itself: each says so, and shows none.

use mlua::{Lua, Value};

use crate::config::functions::ABSENT;
use crate::lua::front_end::context::{Context, entry};

/// What functions print: the titles of a table, and why it is empty.
const TABLES: [(&str, &str); 7] = [
    (
        "showDynBlocks",
        "What                     Seconds    Blocks     Reason\n\
         # there are no dynamic blocks: MaxQPSIPRule and TimedIPSetRule limit and block clients",
    ),
    ("showDOHFrontends", "#   Address\n# there are none: this version has no DNS over HTTPS"),
    ("showDOH3Frontends", "#   Address\n# there are none: this version has no DNS over HTTP/3"),
    ("showDOQFrontends", "#   Address\n# there are none: this version has no DNS over QUIC"),
    ("showDOHResponseCodes", "#   Address\n# there are none: this version has no DNS over HTTPS"),
    ("showDNSCryptBinds", "#   Address\n# there are none: this version has no DNSCrypt"),
    (
        "showSecurityStatus",
        "security-status 0: not known, because dnslob does not poll for advisories; its changelog names them",
    ),
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, text) in TABLES {
        context.define_printing(lua, entry(name)?, move |_, _| Ok(text.to_owned()))?;
    }
    for name in ABSENT.iter().map(|e| e.name).filter(|name| name.ends_with("Count")) {
        context.define(lua, name, |_, _| Ok(Value::Integer(0)))?;
    }
    for name in ["getDynamicBlocks", "getDynamicBlocksSMT"] {
        context.define(lua, name, |call, _| Ok(Value::Table(call.lua.create_table()?)))?;
    }
    Ok(())
}
