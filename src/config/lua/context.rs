//! What the Lua functions share while a file is evaluated: the draft they fill, and where the
//! running call stands.

use std::cell::RefCell;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};

use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault, Origin};
use crate::config::snapshot::LuaFunction;

/// The draft under construction, shared by all functions; gone when the evaluation is over.
#[derive(Clone, Debug)]
pub(super) struct Context(Rc<RefCell<Option<Build>>>);

#[derive(Debug, Default)]
struct Build {
    draft: Draft,
    functions: Vec<Function>,
    files: Vec<String>,
}

impl Default for Context {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Some(Build::default()))))
    }
}

/// One running call of one of our functions.
pub(super) struct Call<'a> {
    /// The Lua state.
    pub(super) lua: &'a Lua,
    /// The draft.
    pub(super) draft: &'a mut Draft,
    /// Where the call stands.
    pub(super) origin: Origin,
    /// The function called.
    pub(super) function: &'a str,
    functions: &'a mut Vec<Function>,
}

impl Call<'_> {
    /// Records an error of this call; the call goes on.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.draft.errors.push(ConfigError::new(&self.origin, self.function, fault));
    }

    /// Keeps a Lua function for the time after evaluation.
    pub(super) fn keep(&mut self, function: Function) -> LuaFunction {
        self.functions.push(function);
        LuaFunction(u32::try_from(self.functions.len() - 1).unwrap_or(u32::MAX))
    }
}

impl Context {
    /// Defines a global function. An error that `body` returns is recorded, and nil returned.
    pub(super) fn define<F>(&self, lua: &Lua, name: &'static str, body: F) -> mlua::Result<()>
    where
        F: Fn(&mut Call<'_>, &[Value]) -> Result<Value, Fault> + 'static,
    {
        let context = self.clone();
        let function = lua.create_function(move |lua, arguments: MultiValue| {
            let arguments: Vec<Value> = arguments.into_iter().collect();
            context.call(lua, name, |call| body(call, &arguments))
        })?;
        lua.globals().raw_set(name, function)
    }

    /// Runs the body of a function or method within the context.
    ///
    /// # Errors
    /// Once the evaluation is over.
    pub(super) fn call<F>(&self, lua: &Lua, function: &str, body: F) -> mlua::Result<Value>
    where
        F: FnOnce(&mut Call<'_>) -> Result<Value, Fault>,
    {
        let mut build = self.0.borrow_mut();
        let Some(Build { draft, functions, .. }) = build.as_mut() else {
            let message = format!("{function} can be called only while the configuration is evaluated");
            return Err(mlua::Error::runtime(message));
        };
        let mut call = Call { lua, draft, origin: caller(lua), function, functions };
        Ok(body(&mut call).unwrap_or_else(|fault| {
            call.fail(fault);
            Value::Nil
        }))
    }

    /// Records an error.
    pub(super) fn record(&self, error: ConfigError) {
        if let Some(build) = self.0.borrow_mut().as_mut() {
            build.draft.errors.push(error);
        }
    }

    /// Notes a file that is evaluated.
    pub(super) fn reads(&self, file: &str) {
        if let Some(build) = self.0.borrow_mut().as_mut() {
            build.files.push(file.to_owned());
        }
    }

    /// Ends the evaluation: the draft, the functions kept, the files read.
    pub(super) fn finish(&self) -> (Draft, Vec<Function>, Vec<String>) {
        let build = self.0.borrow_mut().take().unwrap_or_default();
        (build.draft, build.functions, build.files)
    }
}

/// The place of the nearest Lua code on the stack: where the running function was called.
pub(super) fn caller(lua: &Lua) -> Origin {
    /// Deeper than any configuration nests its own functions.
    const LEVELS: usize = 64;
    for level in 1..LEVELS {
        let place = lua.inspect_stack(level, |debug| {
            let line = debug.current_line().and_then(|l| u32::try_from(l).ok())?;
            let source = debug.source().source?.into_owned();
            Some(Origin::line(source.strip_prefix('@').unwrap_or("(a string)"), line))
        });
        match place {
            Some(Some(origin)) => return origin,
            Some(None) => {}
            None => break,
        }
    }
    Origin::file("(unknown place)")
}
