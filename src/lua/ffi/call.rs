//! Calls of a state's functions without a detour: no argument, two results at most, nothing that is
//! allocated on the way.

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr;

use mlua::ffi::{
    LUA_ERRMEM, LUA_OK, LUA_REGISTRYINDEX, LUA_TNUMBER, LUA_TSTRING, lua_State, lua_error, lua_gettop,
    lua_isnil, lua_pcall, lua_pushboolean, lua_rawgeti, lua_rawseti, lua_settop, lua_toboolean,
    lua_tolstring, lua_tonumber, lua_type, luaL_ref,
};
use mlua::{Function, Lua};

/// A function that can be called; it stays as long as its state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(c_int);

/// Calls functions of one state.
#[derive(Debug)]
pub(crate) struct Caller {
    lua: Lua,
    state: *mut lua_State,
    /// The place in the registry that an error passes through.
    error: c_int,
}

/// What a function has returned, place by place from 1.
#[derive(Debug)]
pub(crate) struct Results<'c>(&'c Caller, c_int);

impl Caller {
    /// For the state's main thread, in which no function runs yet.
    pub(crate) fn new(lua: &Lua) -> mlua::Result<Self> {
        let (state, error) = (Cell::new(ptr::null_mut()), Cell::new(0));
        // SAFETY: takes its one argument from the stack, as `exec_raw` wants it; the state that is
        // kept is the main one, since nothing runs yet.
        unsafe {
            lua.exec_raw::<()>(true, |l| {
                error.set(luaL_ref(l, LUA_REGISTRYINDEX));
                state.set(l);
            })?;
        }
        Ok(Self { lua: lua.clone(), state: state.get(), error: error.get() })
    }

    /// Gives a function a place from which it can be called.
    pub(crate) fn entry(&self, function: &Function) -> mlua::Result<Entry> {
        let place = Cell::new(0);
        // SAFETY: takes its one argument from the stack.
        unsafe { self.lua.exec_raw::<()>(function, |l| place.set(luaL_ref(l, LUA_REGISTRYINDEX)))? };
        Ok(Entry(place.get()))
    }

    /// Calls a function, and hands over what it has returned.
    pub(crate) fn call<R>(&self, entry: Entry, read: impl FnOnce(&Results<'_>) -> R) -> mlua::Result<R> {
        // SAFETY: the state lives as long as `lua`, and runs in this thread only, since neither can
        // be sent. It runs nothing now: `exec_raw` and calls of the library put its stack in order,
        // so there is room for a few values (LUA_MINSTACK). Nothing here raises an error but the
        // function, within `lua_pcall`.
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

    /// The error on top of the stack, as the library has it.
    ///
    /// # Safety
    /// There is one, from `lua_pcall` with this code.
    #[cold]
    unsafe fn failed(&self, code: c_int) -> mlua::Error {
        // SAFETY: the caller's promise. To a place of the registry that has a value another one is
        // written without an allocation, so without an error.
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
    /// A number; a text is none.
    pub(crate) fn number(&self, place: c_int) -> Option<f64> {
        // SAFETY: see `Caller::call`; two results are there.
        unsafe {
            (lua_type(self.0.state, self.1 + place) == LUA_TNUMBER)
                .then(|| lua_tonumber(self.0.state, self.1 + place))
        }
    }

    /// Whether it counts as true.
    pub(crate) fn truth(&self, place: c_int) -> bool {
        // SAFETY: see `Caller::call`; two results are there.
        unsafe { lua_toboolean(self.0.state, self.1 + place) != 0 }
    }

    /// A text; empty when it is none.
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
