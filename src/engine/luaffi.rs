//! The C functions of the LuaFFI family (`dnsdist_ffi_dnsquestion_*` and friends), which scripts
//! call through LuaJIT's `ffi`: names and arguments as dnsdist documents them.
//!
//! The pointer that a script is given is none: it is a number that tells the running call from all
//! others, and nothing reads what it points to. So an old one, a null one or an invented one is
//! answered with 0 or null. What *is* read and written are the places that a script hands over for
//! results, and the strings that it passes: a wrong one of those is the script's fault, as with
//! every C function that `ffi` can call.
//!
//! ```text
//!  script ── ffi.C.dnsdist_ffi_x(dq, ..) ──► extern "C" fn ──► with(dq) ──► Current, if dq is it
//! ```
//!
//! `ffi.C` is a table in front of the real one, with function pointers: no symbol has to be visible
//! to the dynamic linker.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::rc::Rc;
use std::sync::Arc;

use mlua::{LightUserData, Lua, Table};

use crate::script::current::Current;
use crate::shard::rules::action::ExtendedError;
use crate::shard::script::Candidate;

/// The types that the functions' arguments have.
const TYPES: &str = "
typedef struct dnsdist_ffi_dnsquestion_t dnsdist_ffi_dnsquestion_t;
typedef struct dnsdist_ffi_dnsresponse_t dnsdist_ffi_dnsresponse_t;
typedef struct dnsdist_ffi_servers_list_t dnsdist_ffi_servers_list_t;
typedef struct dnsdist_ffi_server_t dnsdist_ffi_server_t;
typedef struct dnsdist_ffi_ednsoption { uint16_t optionCode; uint16_t len; const void* data; } dnsdist_ffi_ednsoption_t;
typedef struct dnsdist_ffi_tag { const char* name; const char* value; } dnsdist_ffi_tag_t;
typedef struct dnsdist_ffi_raw_value { const char* value; uint16_t size; } dnsdist_ffi_raw_value_t;
";

/// Puts the functions behind `ffi.C`: gets the module, the types, and names with types and pointers.
const INSTALL: &str = r#"
local types, functions = ...
local ffi = require("ffi")
ffi.cdef(types)
local own = {}
for name, entry in pairs(functions) do own[name] = ffi.cast(entry[1], entry[2]) end
ffi.C = setmetatable(own, { __index = ffi.C })
"#;

/// Defines the functions in a state.
///
/// # Errors
/// When the state has no `ffi`.
pub fn define(lua: &Lua) -> mlua::Result<()> {
    let functions: Table = lua.create_table()?;
    for (name, kind, pointer) in table() {
        let entry = lua.create_table()?;
        entry.raw_push(kind)?;
        entry.raw_push(LightUserData(pointer))?;
        functions.raw_set(name, entry)?;
    }
    lua.load(INSTALL).set_name("=ffi").call((TYPES, functions))
}

/// What a script gets for a query: the number of the call, as a pointer to nothing.
#[must_use]
pub fn pointer(token: usize) -> LightUserData {
    LightUserData(std::ptr::without_provenance_mut(token))
}

thread_local! {
    /// The packet of the call that runs in this thread.
    static RUNNING: RefCell<Option<Rc<RefCell<Current>>>> = const { RefCell::new(None) };
}

/// Runs `call` with the C functions working on this packet.
pub(crate) fn during<R>(place: &Rc<RefCell<Current>>, call: impl FnOnce() -> R) -> R {
    /// Takes it away again, also when `call` panics.
    struct Ended;
    impl Drop for Ended {
        fn drop(&mut self) {
            RUNNING.with(|r| r.borrow_mut().take());
        }
    }
    RUNNING.with(|r| *r.borrow_mut() = Some(Rc::clone(place)));
    let _ended = Ended;
    call()
}

/// The packet of the running call, if `token` is its number; else `otherwise`.
fn with<R>(token: Token, otherwise: R, body: impl FnOnce(&mut Current) -> R) -> R {
    RUNNING.with(|running| {
        let Ok(running) = running.try_borrow() else { return otherwise };
        let Some(Ok(mut current)) = running.as_ref().map(|r| r.try_borrow_mut()) else { return otherwise };
        if current.open && token.addr() == current.token { body(&mut current) } else { otherwise }
    })
}

/// What a script holds instead of a query, an answer or a list of servers.
type Token = *const c_void;

/// The octets that a script passes.
///
/// # Safety
/// `octets` is null, or points to `length` octets that live as long as the call.
unsafe fn passed<'a>(octets: *const c_char, length: usize) -> &'a [u8] {
    if octets.is_null() || length > MESSAGE_MAX {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(octets.cast(), length) }
}

/// The string that a script passes.
///
/// # Safety
/// `text` is null, or points to octets that live as long as the call and end with a zero.
unsafe fn string<'a>(text: *const c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// Writes a result where a script wants it.
///
/// # Safety
/// `to` is null, or a place for a `T`.
unsafe fn give<T>(to: *mut T, value: T) {
    if !to.is_null() {
        // SAFETY: the caller's promise; a script's place need not be aligned.
        unsafe { to.write_unaligned(value) }
    }
}

/// Longest string that a script may pass, octets: a whole message.
const MESSAGE_MAX: usize = 65_535;

/// A string for C, until the next call begins.
fn lent_text(current: &mut Current, octets: &[u8]) -> *const c_char {
    let mut text = octets.to_vec();
    text.push(0);
    current.lend(&text).as_ptr().cast()
}

/// Defines C functions and the table of them: name, C type, body. Each argument `x: T`.
macro_rules! functions {
    ($($(#[$doc:meta])* $kind:literal fn $name:ident($($arg:ident: $t:ty),*) $(-> $r:ty)? $body:block)*) => {
        $(
            $(#[$doc])*
            // SAFETY: called by scripts with the type beside it; pointers are what `passed`,
            // `string` and `give` ask for, or the script's own fault. Nothing unwinds: bodies
            // have no panic.
            unsafe extern "C" fn $name($($arg: $t),*) $(-> $r)? $body
        )*

        /// Every function: its name, its C type as a pointer, and itself.
        fn table() -> Vec<(&'static str, &'static str, *mut c_void)> {
            vec![$((stringify!($name), $kind, $name as *mut c_void)),*]
        }
    };
}

/// One value that a script passes.
#[repr(C)]
struct RawValue {
    value: *const c_char,
    size: u16,
}

/// The values that a script passes; at most as many as a message can hold.
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

/// A list for C that begins at a multiple of eight, until the next call begins.
fn lend_aligned(current: &mut Current, octets: &[u8]) -> *const c_void {
    let mut padded = octets.to_vec();
    padded.resize(octets.len() + 8, 0);
    let lent = current.lend(&padded).as_ptr();
    let off = lent.align_offset(8);
    if off > 0 {
        // The room behind is for this: the same list, moved up to where C may read it.
        let mut moved = vec![0; off];
        moved.extend_from_slice(octets);
        moved.resize(padded.len(), 0);
        return current.replace_lent(&moved, off).cast();
    }
    lent.cast()
}

/// A server's number in the running call, told from other calls' as the query is.
fn server_pointer(current: &Current, at: usize) -> Token {
    // Behind every number of a call: light user data and pointers have room for both.
    std::ptr::without_provenance(((at + 1) << 44) | (current.token & TOKEN_MASK))
}

/// The part of a call's number that a server's pointer holds.
const TOKEN_MASK: usize = (1 << 44) - 1;

/// The server of a pointer of the running call.
fn with_server<R>(server: Token, otherwise: R, body: impl FnOnce(&mut Current, Candidate) -> R) -> R {
    RUNNING.with(|running| {
        let Ok(running) = running.try_borrow() else { return otherwise };
        let Some(Ok(mut current)) = running.as_ref().map(|r| r.try_borrow_mut()) else { return otherwise };
        if !current.open || server.addr() & TOKEN_MASK != current.token & TOKEN_MASK {
            return otherwise;
        }
        let found = (server.addr() >> 44).checked_sub(1).and_then(|at| current.candidates.get(at)).copied();
        found.map_or(otherwise, |s| body(&mut current, s))
    })
}

/// The place of the server that a hash falls to, by weight: the same one as long as it is there, so
/// that the loss of a server moves only its own share (rendezvous hashing).
fn rendezvous(current: &Current, hash: usize) -> usize {
    let score = |candidate: &Candidate| {
        let server = current.farm.server(candidate.slot);
        let weight = server.map_or(1, |s| s.weight.max(1));
        let name = server.map_or(0, |s| xxhash_rust::xxh3::xxh3_64(s.address.to_string().as_bytes()));
        let mixed = xxhash_rust::xxh3::xxh3_64_with_seed(&name.to_ne_bytes(), hash as u64);
        // In (0, 1): its logarithm over the weight is the known way to weigh this hash.
        #[allow(clippy::cast_precision_loss)]
        let fraction = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        -fraction.ln() / f64::from(weight)
    };
    let scores = current.candidates.iter().map(score).enumerate();
    scores.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(at, _)| at)
}

functions! {
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const void**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_localaddr(dq: Token, address: *mut *const c_void, size: *mut usize) {
        let octets = with(dq, (std::ptr::null(), 0), |c| {
            let endpoint = c.local;
            let from = if endpoint.is_ipv4() { 12 } else { 0 };
            let lent = c.lend(&endpoint.ip[from..]);
            (lent.as_ptr(), lent.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(address, octets.0.cast());
            give(size, octets.1);
        }
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const void**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_remoteaddr(dq: Token, address: *mut *const c_void, size: *mut usize) {
        let octets = with(dq, (std::ptr::null(), 0), |c| {
            let endpoint = c.client;
            let from = if endpoint.is_ipv4() { 12 } else { 0 };
            let lent = c.lend(&endpoint.ip[from..]);
            (lent.as_ptr(), lent.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(address, octets.0.cast());
            give(size, octets.1);
        }
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const void**, size_t*, uint8_t)"
    fn dnsdist_ffi_dnsquestion_get_masked_remoteaddr(dq: Token, address: *mut *const c_void, size: *mut usize, bits: u8) {
        let octets = with(dq, (std::ptr::null(), 0), |c| {
            let from = if c.client.is_ipv4() { 12 } else { 0 };
            let bits = (u32::from(bits) + u32::try_from(from * 8).unwrap_or(0)).min(128);
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
            let masked = (u128::from_be_bytes(c.client.ip) & mask).to_be_bytes();
            let lent = c.lend(&masked[from..]);
            (lent.as_ptr(), lent.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(address, octets.0.cast());
            give(size, octets.1);
        }
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_local_port(dq: Token) -> u16 {
        with(dq, 0, |c| c.local.port)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_remote_port(dq: Token) -> u16 {
        with(dq, 0, |c| c.client.port)
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const char**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_qname_raw(dq: Token, qname: *mut *const c_char, size: *mut usize) {
        let octets = with(dq, (std::ptr::null(), 0), |c| {
            let name = c.qname().to_vec();
            let lent = c.lend(&name);
            (lent.as_ptr(), lent.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(qname, octets.0.cast());
            give(size, octets.1);
        }
    }
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_dnsquestion_get_qname_hash(dq: Token, start: usize) -> usize {
        with(dq, 0, |c| {
            let folded = c.qname().to_ascii_lowercase();
            xxhash_rust::xxh3::xxh3_64_with_seed(&folded, start as u64) as usize
        })
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_qtype(dq: Token) -> u16 {
        with(dq, 0, |c| c.facts.qtype)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_qclass(dq: Token) -> u16 {
        with(dq, 0, |c| c.facts.qclass)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_id(dq: Token) -> u16 {
        with(dq, 0, |c| u16::from_be_bytes([c.octet(0), c.octet(1)]))
    }
    "int (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_rcode(dq: Token) -> c_int {
        with(dq, 0, |c| c_int::from(c.octet(3) & 0x0f))
    }
    "uint8_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_opcode(dq: Token) -> u8 {
        with(dq, 0, |c| (c.octet(2) >> 3) & 0x0f)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_len(dq: Token) -> u16 {
        with(dq, 0, |c| u16::try_from(c.message.len()).unwrap_or(u16::MAX))
    }
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_size(dq: Token) -> usize {
        with(dq, 0, |c| c.message.len())
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_tcp(dq: Token) -> bool {
        with(dq, false, |c| c.case.protocol.is_stream())
    }
    "uint8_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_protocol(dq: Token) -> u8 {
        with(dq, 0, |c| c.case.protocol as u8)
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_skip_cache(dq: Token) -> bool {
        with(dq, false, |c| c.case.skip_cache)
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_use_ecs(dq: Token) -> bool {
        with(dq, false, |c| c.case.ecs.wanted)
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_ecs_override(dq: Token) -> bool {
        with(dq, false, |c| c.case.ecs.replace)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_ecs_prefix_length(dq: Token) -> u16 {
        with(dq, 0, |c| u16::from(if c.client.is_ipv4() { c.case.ecs.v4 } else { c.case.ecs.v6 }))
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_is_temp_failure_ttl_set(dq: Token) -> bool {
        with(dq, false, |c| c.case.temporary_failure_ttl.is_some())
    }
    "uint32_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_temp_failure_ttl(dq: Token) -> u32 {
        with(dq, 0, |c| c.case.temporary_failure_ttl.unwrap_or(0))
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_do(dq: Token) -> bool {
        with(dq, false, |c| c.opt().is_some_and(|o| o.dnssec_ok))
    }
    "uint8_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_edns_version(dq: Token) -> u8 {
        with(dq, 0, |c| c.opt().map_or(0, |o| o.version))
    }
    "uint8_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_edns_extended_rcode(dq: Token) -> u8 {
        with(dq, 0, |c| c.opt().map_or(0, |o| c.octet(o.start + 5)))
    }
    "uint64_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_elapsed_us(dq: Token) -> u64 {
        with(dq, 0, |c| c.elapsed().0 / 1_000)
    }
    "void* (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_header(dq: Token) -> *mut c_void {
        with(dq, std::ptr::null_mut(), |c| {
            // What is written there is the message's; nobody can see that it was.
            c.dirty = true;
            c.message.as_mut_ptr().cast()
        })
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const char**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_sni(dq: Token, sni: *mut *const c_char, size: *mut usize) {
        let text = with(dq, std::ptr::null(), |c| lent_text(c, b""));
        // SAFETY: as the macro says. No listener speaks TLS: the name is empty.
        unsafe {
            give(sni, text);
            give(size, 0);
        }
    }
    "const char* (*)(const dnsdist_ffi_dnsquestion_t*, const char*)"
    fn dnsdist_ffi_dnsquestion_get_tag(dq: Token, name: *const c_char) -> *const c_char {
        // SAFETY: as the macro says.
        let name = unsafe { string(name) };
        with(dq, std::ptr::null(), |c| {
            let value = c.case.tags.value(name).map(<[u8]>::to_vec);
            value.map_or(std::ptr::null(), |v| lent_text(c, &v))
        })
    }
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*, const char*, char*, size_t)"
    fn dnsdist_ffi_dnsquestion_get_tag_raw(dq: Token, name: *const c_char, buffer: *mut c_char, size: usize) -> usize {
        // SAFETY: as the macro says.
        let name = unsafe { string(name) };
        with(dq, 0, |c| {
            let value = c.case.tags.value(name).unwrap_or_default();
            if buffer.is_null() || value.len() > size {
                return 0;
            }
            // SAFETY: the script's buffer has `size` octets, at least as many as the value.
            unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len()) };
            value.len()
        })
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_tag_t**)"
    fn dnsdist_ffi_dnsquestion_get_tag_array(dq: Token, out: *mut *const c_void) -> usize {
        let found = with(dq, (std::ptr::null(), 0), |c| {
            let tags: Vec<(Vec<u8>, Vec<u8>)> =
                c.case.tags.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            let pointers: Vec<u8> = tags
                .iter()
                .flat_map(|(n, v)| [lent_text(c, n).expose_provenance(), lent_text(c, v).expose_provenance()])
                .flat_map(usize::to_ne_bytes)
                .collect();
            (lend_aligned(c, &pointers), tags.len())
        });
        // SAFETY: as the macro says.
        unsafe { give(out, found.0) };
        found.1
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_ednsoption_t**)"
    fn dnsdist_ffi_dnsquestion_get_edns_options(dq: Token, out: *mut *const c_void) -> usize {
        let found = with(dq, (std::ptr::null(), 0), |c| {
            let options: Vec<(u16, Vec<u8>)> = c.options().map(|(n, v)| (n, v.to_vec())).collect();
            let mut records = Vec::with_capacity(options.len() * 16);
            for (code, data) in &options {
                let length = u16::try_from(data.len()).unwrap_or(0);
                // uint16_t, uint16_t, four octets of padding, a pointer.
                records.extend(code.to_ne_bytes());
                records.extend(length.to_ne_bytes());
                records.extend([0; 4]);
                records.extend(c.lend(data).as_ptr().expose_provenance().to_ne_bytes());
            }
            (lend_aligned(c, &records), options.len())
        });
        // SAFETY: as the macro says.
        unsafe { give(out, found.0) };
        found.1
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const char**)"
    fn dnsdist_ffi_dnsquestion_get_trailing_data(dq: Token, out: *mut *const c_char) -> usize {
        let octets = with(dq, (std::ptr::null(), 0), |c| {
            let trailing = c.trailing().to_vec();
            let lent = c.lend(&trailing);
            (lent.as_ptr(), lent.len())
        });
        // SAFETY: as the macro says.
        unsafe { give(out, octets.0.cast()) };
        octets.1
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_result(dq: Token, text: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let text = unsafe { passed(text, size) };
        with(dq, (), |c| {
            c.argument.clear();
            c.argument.extend_from_slice(text);
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, int)"
    fn dnsdist_ffi_dnsquestion_set_rcode(dq: Token, value: c_int) {
        with(dq, (), |c| {
            let code = u8::try_from(value & 0x0f).unwrap_or(0);
            c.set_octet(3, (c.octet(3) & 0xf0) | code);
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, bool)"
    fn dnsdist_ffi_dnsquestion_set_skip_cache(dq: Token, value: bool) {
        with(dq, (), |c| c.case.skip_cache = value);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, bool)"
    fn dnsdist_ffi_dnsquestion_set_use_ecs(dq: Token, value: bool) {
        with(dq, (), |c| c.case.ecs.wanted = value);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, bool)"
    fn dnsdist_ffi_dnsquestion_set_ecs_override(dq: Token, value: bool) {
        with(dq, (), |c| c.case.ecs.replace = value);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint16_t)"
    fn dnsdist_ffi_dnsquestion_set_ecs_prefix_length(dq: Token, value: u16) {
        with(dq, (), |c| c.set_ecs_prefix_length(u8::try_from(value).unwrap_or(128)));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint32_t)"
    fn dnsdist_ffi_dnsquestion_set_temp_failure_ttl(dq: Token, value: u32) {
        with(dq, (), |c| c.case.temporary_failure_ttl = Some(value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_unset_temp_failure_ttl(dq: Token) {
        with(dq, (), |c| c.case.temporary_failure_ttl = None);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint32_t)"
    fn dnsdist_ffi_dnsquestion_set_max_returned_ttl(dq: Token, value: u32) {
        with(dq, (), |c| c.case.ttl_max = Some(value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_set_restartable(dq: Token) {
        with(dq, (), |c| c.case.restartable = true);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint16_t)"
    fn dnsdist_ffi_dnsquestion_set_len(dq: Token, value: u16) {
        with(dq, (), |c| { c.resize(usize::from(value)); });
    }
    "bool (*)(dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_size(dq: Token, size: usize) -> bool {
        with(dq, false, |c| c.resize(size))
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, const char*)"
    fn dnsdist_ffi_dnsquestion_set_tag(dq: Token, name: *const c_char, value: *const c_char) {
        // SAFETY: as the macro says.
        let (name, value) = unsafe { (string(name), string(value)) };
        // One more than a query may have is left out.
        let _ = with(dq, false, |c| c.case.tags.set(name, value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_tag_raw(dq: Token, name: *const c_char, value: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let (name, value) = unsafe { (string(name), passed(value, size)) };
        let _ = with(dq, false, |c| c.case.tags.set(name, value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint16_t, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_extended_dns_error(dq: Token, code: u16, text: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let text = String::from_utf8_lossy(unsafe { passed(text, size) }).into_owned();
        with(dq, (), |c| c.case.error = Some(Arc::new(ExtendedError { code, text })));
    }
    "bool (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_trailing_data(dq: Token, octets: *const c_char, size: usize) -> bool {
        // SAFETY: as the macro says.
        let octets = unsafe { passed(octets, size) };
        with(dq, false, |c| c.set_trailing(octets))
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_raw_value_t*, size_t)"
    fn dnsdist_ffi_dnsquestion_spoof_raw(dq: Token, values: *const RawValue, count: usize) {
        // SAFETY: as the macro says.
        let values = unsafe { raw_values(values, count) };
        with(dq, (), |c| {
            let kind = |c: &Current, _: &[u8]| c.facts.qtype;
            let answers: Vec<(u16, &[u8])> = values.iter().map(|v| (kind(c, v), *v)).collect();
            c.spoof(answers.into_iter());
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_raw_value_t*, size_t)"
    fn dnsdist_ffi_dnsquestion_spoof_addrs(dq: Token, values: *const RawValue, count: usize) {
        // SAFETY: as the macro says.
        let values = unsafe { raw_values(values, count) };
        with(dq, (), |c| {
            let kind = |_: &Current, v: &[u8]| if v.len() == 4 { 1 } else { 28 };
            let answers: Vec<(u16, &[u8])> = values.iter().map(|v| (kind(c, v), *v)).collect();
            c.spoof(answers.into_iter());
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_spoof_packet(dq: Token, octets: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let octets = unsafe { passed(octets, size) };
        with(dq, (), |c| {
            let id = [c.octet(0), c.octet(1)];
            if c.set_content(octets) {
                c.set_octet(0, id[0]);
                c.set_octet(1, id[1]);
            }
        });
    }
    "void (*)(dnsdist_ffi_dnsresponse_t*, uint32_t)"
    fn dnsdist_ffi_dnsresponse_set_min_ttl(dr: Token, min: u32) {
        with(dr, (), |c| c.edit_ttls(|_, _, _, ttl| ttl.max(min)));
    }
    "void (*)(dnsdist_ffi_dnsresponse_t*, uint32_t)"
    fn dnsdist_ffi_dnsresponse_set_max_ttl(dr: Token, max: u32) {
        with(dr, (), |c| c.edit_ttls(|_, _, _, ttl| ttl.min(max)));
    }
    "void (*)(dnsdist_ffi_dnsresponse_t*, uint32_t, uint32_t)"
    fn dnsdist_ffi_dnsresponse_limit_ttl(dr: Token, min: u32, max: u32) {
        with(dr, (), |c| c.edit_ttls(|_, _, _, ttl| ttl.max(min).min(max)));
    }
    "void (*)(dnsdist_ffi_dnsresponse_t*, uint32_t)"
    fn dnsdist_ffi_dnsresponse_set_max_returned_ttl(dr: Token, max: u32) {
        with(dr, (), |c| c.case.ttl_max = Some(max));
    }
    "void (*)(dnsdist_ffi_dnsresponse_t*, uint16_t)"
    fn dnsdist_ffi_dnsresponse_clear_records_type(dr: Token, rtype: u16) {
        let _ = with(dr, false, |c| c.clear_records(rtype));
    }
    "bool (*)(dnsdist_ffi_dnsresponse_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsresponse_rebase(dr: Token, name: *const c_char, size: usize) -> bool {
        // SAFETY: as the macro says.
        let name = unsafe { passed(name, size) };
        with(dr, false, |c| c.change_name(name))
    }
    "bool (*)(dnsdist_ffi_dnsresponse_t*)"
    fn dnsdist_ffi_dnsresponse_get_stale_cache_hit(dr: Token) -> bool {
        // There is no cache yet: no answer is a stale one of it.
        with(dr, false, |_| false)
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*)"
    fn dnsdist_ffi_servers_list_get_count(list: Token) -> usize {
        with(list, 0, |c| c.candidates.len())
    }
    "void (*)(const dnsdist_ffi_servers_list_t*, size_t, const dnsdist_ffi_server_t**)"
    fn dnsdist_ffi_servers_list_get_server(list: Token, at: usize, out: *mut Token) {
        let server = with(list, std::ptr::null(), |c| {
            if at < c.candidates.len() { server_pointer(c, at) } else { std::ptr::null() }
        });
        // SAFETY: as the macro says.
        unsafe { give(out, server) };
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*, const dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_servers_list_chash(list: Token, _dq: Token, hash: usize) -> usize {
        with(list, 0, |c| rendezvous(c, hash))
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*, const dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_servers_list_whashed(list: Token, _dq: Token, hash: usize) -> usize {
        with(list, 0, |c| rendezvous(c, hash))
    }
    "uint64_t (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_outstanding(server: Token) -> u64 {
        with_server(server, 0, |_, s| u64::from(s.outstanding))
    }
    "bool (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_is_up(server: Token) -> bool {
        with_server(server, false, |_, _| true)
    }
    "double (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_latency(server: Token) -> f64 {
        with_server(server, 0.0, |_, s| f64::from(s.latency_us) / 1_000.0)
    }
    "int (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_weight(server: Token) -> c_int {
        with_server(server, 0, |c, s| {
            c.farm.server(s.slot).map_or(0, |s| c_int::try_from(s.weight).unwrap_or(c_int::MAX))
        })
    }
    "int (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_order(server: Token) -> c_int {
        with_server(server, 0, |c, s| c.farm.server(s.slot).map_or(0, |s| s.order))
    }
    "const char* (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_name(server: Token) -> *const c_char {
        with_server(server, std::ptr::null(), |c, s| {
            let name = c.farm.server(s.slot).map(|s| s.name.clone()).unwrap_or_default();
            lent_text(c, name.as_bytes())
        })
    }
    "const char* (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_name_with_addr(server: Token) -> *const c_char {
        with_server(server, std::ptr::null(), |c, s| {
            let text = c.farm.server(s.slot).map(crate::script::current::Server::name_with_address);
            lent_text(c, text.unwrap_or_default().as_bytes())
        })
    }
}
