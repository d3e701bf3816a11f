//! Lua functions given to rules and policies: records where they are, so that shards find them
//! again.

use mlua::{ChunkMode, Value};

use crate::config::error::Fault;
use crate::config::ruleset::{FunctionKind, Interface, Recorded};
use crate::lua::code::flow::When;
use crate::lua::code::shape::Shape;
use crate::lua::front_end::argument::{text, wrong};
use crate::lua::front_end::context::Call;
use crate::lua::front_end::lookups;
use crate::rules::script::FunctionId;

/// Records a function, or a text that returns one, and returns its number.
pub(crate) fn record(
    call: &mut Call<'_>,
    kind: FunctionKind,
    interface: Interface,
    what: &str,
    value: &Value,
) -> Result<FunctionId, Fault> {
    let recorded = match interface {
        Interface::Text => {
            const TEXT: &str = "a text that returns a function";
            let source = text(what, value, TEXT)?;
            let chunk = call.lua.load(source.as_str()).set_mode(ChunkMode::Text).set_name("=text");
            match chunk.into_function() {
                Ok(chunk) => call.code.text(&chunk, &call.origin),
                Err(e) => {
                    let reason = crate::lua::front_end::first_line(&crate::lua::front_end::message(
                        crate::lua::front_end::innermost(&e),
                    ))
                    .to_owned();
                    return Err(Fault::Conflict { wrong: reason, expected: TEXT.to_owned() });
                }
            }
            Recorded { kind, interface, source, line: 0 }
        }
        Interface::Objects | Interface::Ffi => {
            let function = value.as_function().ok_or_else(|| wrong(what, value, "a function"))?;
            let info = function.info();
            let is_ours = info.source.as_ref().is_some_and(|s| s.starts_with('='));
            let line = info.line_defined.and_then(|l| u32::try_from(l).ok()).filter(|_| !is_ours);
            // A library function has no origin by which the shards could find it.
            let source = info.source.unwrap_or_default();
            // Nor has one of ours.
            let line = line.filter(|_| !source.starts_with('='));
            let line = line.ok_or_else(|| wrong(what, value, "a function written in Lua"))?;
            call.code.function(call.lua, function, When::Shard)?;
            if interface == Interface::Objects {
                let (register, shape) = match kind {
                    FunctionKind::Action | FunctionKind::Rule => (0, Shape::Query),
                    FunctionKind::ResponseAction => (0, Shape::Response),
                    // After the servers.
                    FunctionKind::Policy => (1, Shape::Query),
                };
                call.code.takes(function, register, shape);
            }
            Recorded { kind, interface, source, line }
        }
    };
    if let Some(fault) = lookups::of_shards(call.lua) {
        return Err(fault);
    }
    call.draft.functions.push(recorded);
    Ok(FunctionId(u32::try_from(call.draft.functions.len() - 1).unwrap_or(u32::MAX)))
}
