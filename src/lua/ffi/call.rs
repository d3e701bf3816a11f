//! Direct calls of a state's functions: no argument, at most two results, no allocation.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;

use mlua::ffi::{
    LUA_ERRMEM, LUA_OK, LUA_REGISTRYINDEX, LUA_TNUMBER, LUA_TSTRING, lua_State, lua_error, lua_gettop,
    lua_isnil, lua_pcall, lua_pushboolean, lua_rawgeti, lua_rawseti, lua_settop, lua_toboolean,
    lua_tolstring, lua_tonumber, lua_type, luaL_ref,
};
use mlua::{Function, Lua};

/// A function that can be called; it is kept as long as its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(c_int);

/// Calls functions of one state.
#[derive(Debug)]
pub(crate) struct Caller {
    lua: Lua,
    state: *mut lua_State,
    /// The registry slot that an error passes through.
    error: c_int,
}

/// The results of a function, numbered from 1.
#[derive(Debug)]
pub(crate) struct Results<'c>(&'c Caller, c_int);

impl Caller {
    /// Creates a caller for the state's main thread, in which no function runs yet.
    pub(crate) fn new(lua: &Lua) -> mlua::Result<Self> {
        let (state, error) = (Cell::new(ptr::null_mut()), Cell::new(0));
        // SAFETY: takes its one argument from the stack, as `exec_raw` requires; the state that is
        // kept is the main one, because nothing runs yet.
        unsafe {
            lua.exec_raw::<()>(true, |l| {
                error.set(luaL_ref(l, LUA_REGISTRYINDEX));
                state.set(l);
            })?;
        }
        Ok(Self { lua: lua.clone(), state: state.get(), error: error.get() })
    }

    /// Registers a function so that it can be called.
    pub(crate) fn entry(&self, function: &Function) -> mlua::Result<Entry> {
        let place = Cell::new(0);
        // SAFETY: takes its one argument from the stack.
        unsafe { self.lua.exec_raw::<()>(function, |l| place.set(luaL_ref(l, LUA_REGISTRYINDEX)))? };
        Ok(Entry(place.get()))
    }

    /// Calls a function, and passes its results to `read`.
    pub(crate) fn call<R>(&self, entry: Entry, read: impl FnOnce(&Results<'_>) -> R) -> mlua::Result<R> {
        // SAFETY: the state lives as long as `lua`, and runs in this thread only, because neither
        // is `Send`. No function is running: `exec_raw` and calls of the library restore its stack,
        // so there is space for a few values (LUA_MINSTACK). Only the function raises errors,
        // within `lua_pcall`.
        unsafe {
            let top = lua_gettop(self.state);
            lua_rawgeti(self.state, LUA_REGISTRYINDEX, entry.0.into());
            let code = lua_pcall(self.state, 0, 2, 0);
            if code != LUA_OK {
                let error = self.failed(code);
                lua_settop(self.state, top);
                return Err(error);
            }
            let result = read(&Results(self, top));
            lua_settop(self.state, top);
            Ok(result)
        }
    }

    /// Returns the error on top of the stack, as an error of the library.
    ///
    /// # Safety
    /// `lua_pcall` returned this code and left an error there.
    #[cold]
    unsafe fn failed(&self, code: c_int) -> mlua::Error {
        // SAFETY: the caller's promise. A registry slot that has a value can be overwritten without
        // an allocation, so without an error.
        unsafe {
            if code == LUA_ERRMEM {
                return mlua::Error::MemoryError("not enough memory".to_owned());
            }
            if lua_isnil(self.state, -1) != 0 {
                return mlua::Error::runtime("nil");
            }
            lua_rawseti(self.state, LUA_REGISTRYINDEX, self.error.into());
            let place = self.error;
            let raised = self.lua.exec_raw::<()>((), |l| {
                lua_rawgeti(l, LUA_REGISTRYINDEX, place.into());
                lua_error(l);
            });
            lua_pushboolean(self.state, 1);
            lua_rawseti(self.state, LUA_REGISTRYINDEX, place.into());
            raised.err().unwrap_or_else(|| mlua::Error::runtime("an error without a value"))
        }
    }
}

impl Results<'_> {
    /// Returns a number; none for a text.
    pub(crate) fn number(&self, place: c_int) -> Option<f64> {
        // SAFETY: see `Caller::call`; two results are there.
        unsafe {
            (lua_type(self.0.state, self.1 + place) == LUA_TNUMBER)
                .then(|| lua_tonumber(self.0.state, self.1 + place))
        }
    }

    /// Returns whether it counts as true.
    pub(crate) fn truth(&self, place: c_int) -> bool {
        // SAFETY: see `Caller::call`; two results are there.
        unsafe { lua_toboolean(self.0.state, self.1 + place) != 0 }
    }

    /// Returns a text; empty when it is none.
    pub(crate) fn text(&self, place: c_int) -> &[u8] {
        // SAFETY: see `Caller::call`; two results are there. The string stays on the stack as long
        // as this value lives.
        unsafe {
            if lua_type(self.0.state, self.1 + place) != LUA_TSTRING {
                return &[];
            }
            let mut length = 0;
            let bytes = lua_tolstring(self.0.state, self.1 + place, &raw mut length);
            std::slice::from_raw_parts(bytes.cast(), length)
        }
    }
}
