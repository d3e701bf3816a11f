//! The C functions of the LuaFFI family (`dnsdist_ffi_dnsquestion_*` and friends), which scripts
//! call through LuaJIT's `ffi`: names and arguments as dnsdist documents them.
//!
//! The pointer that a script gets is not dereferenced: it is a number that identifies the running
//! call. So an old, null or invented one returns 0 or null. Only the output arguments and strings
//! that a script passes are accessed: invalid ones are the script's fault, as with every C function
//! that `ffi` can call.
//!
//! ```text
//!  script ── ffi.C.dnsdist_ffi_x(dq, ..) ──► extern "C" fn ──► with(dq) ──► packet, if dq is its handle
//! ```
//!
//! `ffi.C` is a table in front of the real one, with function pointers: no symbol has to be visible
//! to the dynamic linker.

#![allow(unsafe_code)]

mod caches;
pub(crate) mod call;
mod functions;
pub(crate) mod handles;
mod metrics;
mod objects;
mod packets;
mod proxy;
mod rings;
pub(crate) mod running_call;
mod services;
pub mod watch;
mod without;

use std::ffi::{CStr, c_char, c_void};

use mlua::{LightUserData, Lua, Table};

use crate::lua::ffi::handles::Handles;
use crate::lua::ffi::running_call::RunningCall;
use crate::lua::state::call_state::{CallState, Open};
use crate::rules::script::Candidate;

/// Defines C functions and the table of them: name, C type, body. Each argument is `x: T`.
macro_rules! c_functions {
    ($($(#[$doc:meta])* $kind:literal fn $name:ident($($arg:ident: $t:ty),*) $(-> $r:ty)? $body:block)*) => {
        $(
            $(#[$doc])*
            // SAFETY: called by scripts, or the prelude, with the type beside it; pointers satisfy
            // `passed`, `string`, `give` and `at`, or are the script's own fault. Nothing unwinds:
            // bodies do not panic.
            unsafe extern "C" fn $name($($arg: $t),*) $(-> $r)? $body
        )*

        /// Returns every function: its name, its C type as a pointer, and its address.
        pub(crate) fn table() -> Vec<crate::lua::ffi::Function> {
            vec![$((stringify!($name), $kind, $name as *mut std::ffi::c_void)),*]
        }
    };
}
use c_functions;

/// A function's name, its C type as a pointer, and its address.
type Function = (&'static str, &'static str, *mut c_void);

/// C types of the functions' arguments: the names of their structures, which users write without `_t`, too.
const TYPES: &str = "
typedef struct dnsdist_ffi_dnsquestion dnsdist_ffi_dnsquestion_t, dnsdist_ffi_dnsquestion;
typedef struct dnsdist_ffi_dnsresponse dnsdist_ffi_dnsresponse_t, dnsdist_ffi_dnsresponse;
typedef struct dnsdist_ffi_servers_list dnsdist_ffi_servers_list_t, dnsdist_ffi_servers_list;
typedef struct dnsdist_ffi_server dnsdist_ffi_server_t, dnsdist_ffi_server;
typedef struct dnsdist_ffi_dnspacket dnsdist_ffi_dnspacket_t, dnsdist_ffi_dnspacket;
typedef struct dnsdist_ffi_ring_entry_list dnsdist_ffi_ring_entry_list_t, dnsdist_ffi_ring_entry_list;
typedef struct dnsdist_ffi_address_list dnsdist_ffi_address_list_t, dnsdist_ffi_address_list;
typedef struct dnsdist_ffi_domain_list dnsdist_ffi_domain_list_t, dnsdist_ffi_domain_list;
typedef struct dnsdist_ffi_http_header { const char* name; const char* value; } dnsdist_ffi_http_header_t, dnsdist_ffi_http_header;
typedef struct dnsdist_ffi_svc_record_parameters dnsdist_ffi_svc_record_parameters_t, dnsdist_ffi_svc_record_parameters;
typedef struct dnsdist_ffi_ednsoption { uint16_t optionCode; uint16_t len; const void* data; } dnsdist_ffi_ednsoption_t, dnsdist_ffi_ednsoption;
typedef struct dnsdist_ffi_tag { const char* name; const char* value; } dnsdist_ffi_tag_t, dnsdist_ffi_tag;
typedef struct dnsdist_ffi_raw_value { const char* value; uint16_t size; } dnsdist_ffi_raw_value_t, dnsdist_ffi_raw_value;
typedef struct dnsdist_ffi_proxy_protocol_value { const char* value; uint16_t size; uint8_t type; } dnsdist_ffi_proxy_protocol_value_t, dnsdist_ffi_proxy_protocol_value;
";

/// Installs the functions behind `ffi.C`: takes the types, and the functions as names with types and
/// pointers.
const FAMILY: &str = r#"
local types, functions = ...
local ffi = require("ffi")
ffi.cdef(types)
local all = {}
for name, entry in pairs(functions) do all[name] = ffi.cast(entry[1], entry[2]) end
ffi.C = setmetatable(all, { __index = ffi.C })
"#;

/// Returns whether there is a C type.
const IS_TYPE: &str = r#"return (pcall(require("ffi").typeof, ...))"#;

/// Returns the functions of objects with what they read: takes a type, the functions and two pointers.
const OBJECTS: &str = r#"
local types, objects, live, running = ...
local ffi = require("ffi")
ffi.cdef(types)
local all = { live = ffi.cast("dnslob_live *", live), running = ffi.cast("void *", running) }
for name, entry in pairs(objects) do all[name] = ffi.cast(entry[1], entry[2]) end
return all
"#;

/// Returns whether a text reads as a C type, with names of the LuaFFI family, that is not there.
pub(crate) fn is_unknown_type(lua: &Lua, text: &str) -> bool {
    let is_type = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_ *&[]?()".contains(&byte));
    is_type && lua.load(IS_TYPE).set_name("=ffi").call(text).is_ok_and(|is_known: bool| !is_known)
}

/// Defines the types and functions of the LuaFFI family in a state. Where no call of a rule's function
/// runs, as while a file is evaluated, they return 0 or null.
///
/// # Errors
/// When the state has no `ffi`.
pub(crate) fn define_family(lua: &Lua) -> mlua::Result<()> {
    lua.load(FAMILY).set_name("=ffi").call((TYPES, list(lua, functions().collect())?))
}

/// Defines the family in the state of a shard; returns the functions that the prelude's objects use.
///
/// # Errors
/// When the state has no `ffi`.
pub(crate) fn define(lua: &Lua, call: &RunningCall) -> mlua::Result<Table> {
    define_family(lua)?;
    let (live, own) = (LightUserData(call.live()), LightUserData(std::ptr::from_ref(call).cast_mut().cast()));
    let objects = (running_call::LIVE_TYPE, list(lua, objects::table())?, live, own);
    lua.load(OBJECTS).set_name("=ffi").call(objects)
}

/// Returns functions as a table for Lua: by name, type and pointer.
fn list(lua: &Lua, functions: Vec<Function>) -> mlua::Result<Table> {
    let list = lua.create_table()?;
    for (name, kind, pointer) in functions {
        let entry = lua.create_table()?;
        entry.raw_push(kind)?;
        entry.raw_push(LightUserData(pointer))?;
        list.raw_set(name, entry)?;
    }
    Ok(list)
}

/// Returns the functions of the LuaFFI family.
fn functions() -> impl Iterator<Item = Function> {
    let of_messages = [functions::table(), packets::table(), services::table(), proxy::table()];
    let others = [metrics::table(), rings::table(), caches::table(), without::table()];
    of_messages.into_iter().chain(others).flatten()
}

/// Returns the names of the functions of the LuaFFI family.
pub(crate) fn family() -> Vec<&'static str> {
    functions().map(|(name, ..)| name).collect()
}

/// Calls `body` with the packet of the running call, if `token` is its number; otherwise returns
/// `otherwise`.
fn with<R>(token: Token, otherwise: R, body: impl FnOnce(&mut Open<'_, '_, '_>) -> R) -> R {
    let mut body = Some(body);
    let of = |call: &RunningCall| {
        call.open(|open| {
            let body = body.take().filter(|_| token.addr() == open.current.token)?;
            Some(body(open))
        })
    };
    running_call::running(of).flatten().flatten().unwrap_or(otherwise)
}

/// Calls `body` with the state of the running call, if `token` is its number; otherwise returns
/// `otherwise`.
fn with_call<R>(token: Token, otherwise: R, body: impl FnOnce(&RunningCall) -> R) -> R {
    let is_it = |call: &RunningCall| call.open(|open| token.addr() == open.current.token) == Some(true);
    running_call::running(|call| is_it(call).then(|| body(call))).flatten().unwrap_or(otherwise)
}

/// Calls `body` with what scripts made in this state, while a call runs; otherwise returns
/// `otherwise`.
fn with_handles<R>(otherwise: R, body: impl FnOnce(&mut Handles) -> Option<R>) -> R {
    let found = running_call::running(|call| body(&mut *call.handles.try_borrow_mut().ok()?));
    found.flatten().unwrap_or(otherwise)
}

/// The handle of a query, an answer or a list of servers in a script.
type Token = *const c_void;

/// Returns the bytes that a script passes; of more than a message can have, one more than that, so that
/// whoever takes them refuses them.
///
/// # Safety
/// `bytes` is null, or points to `length` bytes that live as long as the call.
unsafe fn passed<'a>(bytes: *const c_char, length: usize) -> &'a [u8] {
    if bytes.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise; fewer bytes live as long.
    unsafe { std::slice::from_raw_parts(bytes.cast(), length.min(MESSAGE_MAX + 1)) }
}

/// Returns the string that a script passes.
///
/// # Safety
/// `text` is null, or points to bytes that live as long as the call and end with a zero.
unsafe fn string<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// Writes a result to an output argument.
///
/// # Safety
/// `to` is null, or valid for writing a `T`.
unsafe fn give<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's promise; a script's output argument need not be aligned.
        unsafe { to.write_unaligned(value) }
    }
}

/// Longest string that a script may pass, bytes: a whole message.
const MESSAGE_MAX: usize = 65_535;

/// Returns a C string that is valid until the next call begins.
fn keep_text(current: &mut CallState, bytes: &[u8]) -> *const c_char {
    let mut text = bytes.to_vec();
    text.push(0);
    current.keep(&text).as_ptr().cast()
}

/// One value that a script passes.
#[repr(C)]
struct RawValue {
    value: *const c_char,
    size: u16,
}

/// Returns the values that a script passes; at most as many as a message can hold.
///
/// # Safety
/// `values` is null, or points to `count` values that live as long as the call.
unsafe fn raw_values<'a>(values: *const RawValue, count: usize) -> Vec<&'a [u8]> {
    if values.is_null() || count > MESSAGE_MAX {
        return Vec::new();
    }
    // SAFETY: the caller's promise, for the list and for each value.
    unsafe {
        let values = std::slice::from_raw_parts(values, count);
        values.iter().map(|v| passed(v.value, usize::from(v.size))).collect()
    }
}

/// Returns a list for C that is aligned to eight bytes and valid until the next call begins.
fn keep_aligned(current: &mut CallState, bytes: &[u8]) -> *const c_void {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len() + 8, 0);
    let kept = current.keep(&padded).as_ptr();
    let off = kept.align_offset(8);
    if off > 0 {
        // The space behind the list is for this: the same list, moved to an aligned address.
        let mut moved = vec![0; off];
        moved.extend_from_slice(bytes);
        moved.resize(padded.len(), 0);
        return current.replace_kept(&moved, off).cast();
    }
    kept.cast()
}

/// Returns the handle of a server: its number and that of the running call.
fn server_pointer(current: &CallState, at: usize) -> Token {
    // Above every call number.
    std::ptr::without_provenance(((at + 1) << 44) | current.token)
}

/// The part of a server's handle that is the call's number.
const TOKEN_MASK: usize = (1 << 44) - 1;

/// Calls `body` with the server of a handle of the running call.
fn with_server<R>(
    server: Token,
    otherwise: R,
    body: impl FnOnce(&mut Open<'_, '_, '_>, Candidate) -> R,
) -> R {
    let found = |open: &mut Open<'_, '_, '_>| {
        if server.addr() & TOKEN_MASK != open.current.token {
            return None;
        }
        let at = (server.addr() >> 44).checked_sub(1)?;
        let candidate = open.current.candidates.get(at).copied()?;
        Some(body(open, candidate))
    };
    running_call::running(|call| call.open(found)).flatten().flatten().unwrap_or(otherwise)
}

/// Returns the index of the server that a hash selects, by weight: always the same one while it
/// exists, so that the loss of a server moves only its own share (rendezvous hashing).
fn rendezvous(current: &CallState, hash: usize) -> usize {
    let score = |candidate: &Candidate| {
        let server = current.configuration.server(candidate.slot);
        let weight = server.map_or(1, |s| s.weight.max(1));
        let name = server.map_or(0, |s| xxhash_rust::xxh3::xxh3_64(s.address.to_string().as_bytes()));
        let mixed = xxhash_rust::xxh3::xxh3_64_with_seed(&name.to_ne_bytes(), hash as u64);
        // In (0, 1): its logarithm divided by the weight is the usual weighted score.
        #[allow(clippy::cast_precision_loss)]
        let fraction = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -fraction.ln() / f64::from(weight)
    };
    let scores = current.candidates.iter().map(score).enumerate();
    scores.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at)
}
