//! Functions that work at any time: while the file is evaluated, on the console, and in functions that
//! the control thread calls.

use mlua::{Lua, Value};

use crate::config::error::{ConfigError, Fault};
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::context::{Build, Context, bounded, entry};
use crate::lua::front_end::declared::raised;
use crate::lua::front_end::stack::caller;
use crate::lua::limits::is_caught;

/// Defines a global function of the tables that works at any time. Its errors, surplus arguments
/// too, are errors that Lua sees.
pub(crate) fn define_anytime<F>(lua: &Lua, context: &Context, name: &'static str, body: F) -> mlua::Result<()>
where
    F: Fn(&Lua, Arguments<'_>) -> mlua::Result<Value> + 'static,
{
    let (entry, own) = (entry(name)?, context.clone());
    let function = bounded(lua, name, move |lua, values| {
        let number = own.called(name);
        let arguments = Arguments::new(entry.signature(), values);
        let done = match arguments.surplus(entry.arguments) {
            Some(fault) => Err(raised(lua, name, &fault)),
            None => body(lua, arguments),
        };
        if let (Err(error), Some(number)) = (&done, number) {
            own.has_raised(lua, name, number, error);
        }
        done
    })?;
    lua.globals().raw_set(name, function)
}

impl Context {
    /// Counts a call of a function that works at any time; `None` outside of an evaluation.
    pub(super) fn called(&self, function: &str) -> Option<u32> {
        Some(self.0.build.try_borrow_mut().ok()?.as_mut()?.calls.number(function))
    }

    /// Notes for the shards an error of such a call that the script gets.
    pub(super) fn has_raised(&self, lua: &Lua, function: &str, number: u32, error: &mlua::Error) {
        let mlua::Error::ExternalError(error) = error else { return };
        let Some(error) = error.downcast_ref::<ConfigError>().filter(|_| is_caught(lua)) else { return };
        if let Some(Build { texts, calls, .. }) = self.0.build.borrow_mut().as_mut() {
            texts.raised.push(calls.raised(function, number, error));
        }
    }

    /// Records warnings of a call that works at any time; after the evaluation nobody reads them.
    pub(super) fn warn(&self, lua: &Lua, function: &str, faults: Vec<Fault>) {
        let Ok(mut build) = self.0.build.try_borrow_mut() else { return };
        let Some(build) = build.as_mut() else { return };
        let origin = caller(lua);
        let warnings = faults.into_iter().map(|fault| ConfigError::new(&origin, function, fault));
        warnings.for_each(|warning| build.draft.warnings.push(warning));
    }
}
