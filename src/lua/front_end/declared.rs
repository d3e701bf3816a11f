//! What the configuration can call, as it is declared: selectors and actions with how they are made,
//! and the methods of objects.
//!
//! A selector or action is one [`declared`] in a table. The reference shows its name, arguments and
//! documentation; its signature says how many arguments there may be, what messages call them, and
//! what they are when they are omitted.

use std::marker::PhantomData;

use mlua::{IntoLua, Lua, UserData, UserDataMethods, Value};

use crate::config::error::{ConfigError, Fault};
use crate::config::functions::Entry;
use crate::lua::front_end::arguments::Arguments;
use crate::lua::front_end::caller;
use crate::lua::front_end::context::{Call, Context};

/// Makes something of the arguments of a call.
pub(crate) type Make<T> = fn(&mut Call<'_>, Arguments<'_>) -> Result<T, Fault>;

/// A selector or an action.
pub(crate) struct Declared<T> {
    /// Its name, arguments and documentation.
    pub(crate) entry: Entry,
    /// How it is made of its arguments.
    pub(crate) make: Make<T>,
}

/// Declares a selector or an action: its name, its arguments as a
/// [`Signature`](crate::config::functions::signature::Signature), what it does, and how it is made.
pub(crate) const fn declared<T>(
    name: &'static str,
    arguments: &'static str,
    doc: &'static str,
    make: Make<T>,
) -> Declared<T> {
    Declared { entry: Entry { name, arguments, doc }, make }
}

/// The methods of an object, which are those of a table.
pub(crate) struct Methods<'m, T, M> {
    methods: &'m mut M,
    table: &'static [Entry],
    object: PhantomData<fn(T)>,
}

/// The arguments of a method, more than any has; further ones are not looked at. Any number would
/// be values that Rust holds: see [`Items`](crate::lua::front_end::arguments::Items).
type Several = (Value, Value, Value, Value);

impl<'m, T: UserData + 'static, M: UserDataMethods<T>> Methods<'m, T, M> {
    /// Creates them, without any method yet.
    pub(crate) fn new(methods: &'m mut M, table: &'static [Entry]) -> Self {
        Self { methods, table, object: PhantomData }
    }

    /// Adds a method of the table. Surplus arguments are an error that Lua sees.
    pub(crate) fn add<R: IntoLua>(
        &mut self,
        name: &'static str,
        body: impl Fn(&Lua, &T, Arguments<'_>) -> mlua::Result<R> + 'static,
    ) {
        let entry = self.entry(name);
        self.methods.add_method(name, move |lua, object, (a, b, c, d): Several| {
            let values = [a, b, c, d];
            let arguments = Arguments::new(entry.signature(), &values);
            match arguments.surplus(entry.arguments) {
                Some(fault) => Err(raised(lua, name, &fault)),
                None => body(lua, object, arguments),
            }
        });
    }

    /// Adds such a method that changes its object.
    pub(crate) fn add_mut<R: IntoLua>(
        &mut self,
        name: &'static str,
        body: impl Fn(&Lua, &mut T, Arguments<'_>) -> mlua::Result<R> + 'static,
    ) {
        let entry = self.entry(name);
        self.methods.add_method_mut(name, move |lua, object, (a, b, c, d): Several| {
            let values = [a, b, c, d];
            let arguments = Arguments::new(entry.signature(), &values);
            match arguments.surplus(entry.arguments) {
                Some(fault) => Err(raised(lua, name, &fault)),
                None => body(lua, object, arguments),
            }
        });
    }

    /// Adds a method of the table that works while the file is evaluated. Its errors are recorded,
    /// surplus arguments too.
    pub(crate) fn add_recorded(
        &mut self,
        name: &'static str,
        context: fn(&T) -> &Context,
        body: impl Fn(&mut Call<'_>, &T, Arguments<'_>) -> Result<Value, Fault> + 'static,
    ) {
        let entry = self.entry(name);
        self.methods.add_method(name, move |lua, object, (a, b, c, d): Several| {
            let values = [a, b, c, d];
            let arguments = Arguments::new(entry.signature(), &values);
            context(object).call(lua, name, |call| match arguments.surplus(entry.arguments) {
                Some(fault) => Err(fault),
                None => body(call, object, arguments),
            })
        });
    }

    /// Returns the entry of a method.
    ///
    /// # Panics
    /// If the table has no such method: its reference would not be there.
    fn entry(&self, name: &str) -> &'static Entry {
        let entry = self.table.iter().find(|e| e.name == name);
        let Some(entry) = entry else { unreachable!("the method {name} is in no table") };
        entry
    }
}

/// Creates an error that Lua sees, with the origin of the call.
pub(crate) fn raised(lua: &Lua, function: &str, fault: &Fault) -> mlua::Error {
    mlua::Error::external(ConfigError::new(&caller(lua), function, fault.clone()))
}
