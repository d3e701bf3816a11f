//! What a configuration asks of the machine. The functions work at any time, in the shards' states too.

use mlua::{Lua, Value};

use crate::config::error::Fault;
use crate::lua::front_end::anytime::define_anytime;
use crate::lua::front_end::context::Context;
use crate::lua::front_end::declared::raised;
use crate::lua::machine::FUNCTIONS;

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for (name, asks) in FUNCTIONS {
        define_anytime(lua, context, name, move |lua, a| {
            let about = match name {
                "getListOfNetworkInterfaces" => Ok(String::new()),
                "getResolvers" => a.text(0, "the path of a file as /etc/resolv.conf"),
                _ => a.text(0, "the name of a network interface"),
            };
            let asked = about.and_then(|about| asks(&about).map_err(Fault::Script));
            let list = asked.map_err(|fault| raised(lua, name, &fault))?;
            Ok(Value::Table(lua.create_sequence_from(list)?))
        })?;
    }
    Ok(())
}
