//! `carbonServer`.

use std::net::SocketAddr;

use mlua::{Lua, Value};

use crate::config::carbon::{CarbonServer, PORT, SERVERS_MAX, is_name};
use crate::config::error::Fault;
use crate::config::value;
use crate::lua::front_end::argument::{parsed, text, whole};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::Context;

const ADDRESS: &str = "IP or IP:PORT, as \"192.0.2.1\" or \"[2001:db8::1]:2003\"";
const NAME: &str = "a text of 1 to 200 printable characters without spaces";
/// Longest interval, seconds: a day.
const INTERVAL_MAX: u32 = 86_400;

pub(super) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, "carbonServer", |call, a| {
        let server = CarbonServer {
            address: parsed("", a.at(0), ADDRESS, address)?,
            host: name(a, 1)?,
            interval_s: a.given(2).map_or(Ok(30), |v| whole(a.what(2), v, 1, INTERVAL_MAX))?,
            namespace: name(a, 3)?.unwrap_or_else(|| "dnsdist".to_owned()),
            instance: name(a, 4)?.unwrap_or_else(|| "main".to_owned()),
        };
        if call.draft.web.carbon.len() >= SERVERS_MAX {
            return Err(Fault::Conflict {
                wrong: format!("there are {SERVERS_MAX} already"),
                expected: "no more Carbon servers".to_owned(),
            });
        }
        call.draft.web.carbon.push(server);
        Ok(Value::Nil)
    })
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    let default_port = |wrong| if wrong == value::ADDRESS { ADDRESS } else { wrong };
    value::address_of(text, PORT).map_err(default_port)
}

/// Reads a part of a name; an empty one is as if it were not given, as in dnsdist.
fn name(a: Arguments<'_>, at: usize) -> Result<Option<String>, Fault> {
    let Some(value) = a.given(at) else { return Ok(None) };
    let written = text(a.what(at), value, NAME)?;
    match written.as_str() {
        "" => Ok(None),
        written if is_name(written) => Ok(Some(written.to_owned())),
        _ => Err(a.wrong(at, NAME)),
    }
}
