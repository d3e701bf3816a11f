//! The C functions of the LuaFFI family that search packet caches, and the lists that they make.

use std::ffi::c_char;
use std::net::IpAddr;

use crate::engine::clock;
use crate::lua::ffi::handles::Object;
use crate::lua::ffi::running_call::running;
use crate::lua::ffi::{Token, c_functions, give, string, with_handles};
use crate::lua::state::caches;
use crate::wire::name;
use crate::wire::name::Text;

c_functions! {
    "size_t (*)(const char*, const char*, dnsdist_ffi_domain_list_t**)"
    fn dnsdist_ffi_packetcache_get_domain_list_by_addr(pool: *const c_char, address: *const c_char, out: *mut Token) -> usize {
        // SAFETY: as the macro says.
        let (pool, address) = unsafe { (string(pool), string(address)) };
        let address = std::str::from_utf8(address).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let found = address.map(|ip| searched(|current| {
            let Some(cache) = caches::of_pool(current, pool) else { return Some(Vec::new()) };
            let names = caches::domains_of(&cache, ip.to_canonical(), clock::now())?;
            Some(names.iter().map(|name| Text(name).to_string()).collect())
        }));
        // SAFETY: as the macro says.
        unsafe { listed(found.unwrap_or_default(), out) }
    }
    "size_t (*)(const char*, const char*, dnsdist_ffi_address_list_t**)"
    fn dnsdist_ffi_packetcache_get_address_list_by_domain(pool: *const c_char, domain: *const c_char, out: *mut Token) -> usize {
        // SAFETY: as the macro says.
        let (pool, domain) = unsafe { (string(pool), string(domain)) };
        let wire = std::str::from_utf8(domain).ok().filter(|text| text.is_ascii()).and_then(|text| name::from_text(text).ok());
        let found = wire.map(|wire| searched(|current| {
            let Some(cache) = caches::of_pool(current, pool) else { return Some(Vec::new()) };
            let addresses = caches::addresses_of(&cache, &wire, clock::now())?;
            Some(addresses.iter().map(ToString::to_string).collect())
        }));
        // SAFETY: as the macro says.
        unsafe { listed(found.unwrap_or_default(), out) }
    }
    "const char* (*)(const dnsdist_ffi_domain_list_t*, size_t)"
    fn dnsdist_ffi_domain_list_get(list: Token, at: usize) -> *const c_char {
        text(list, at)
    }
    "void (*)(dnsdist_ffi_domain_list_t*)"
    fn dnsdist_ffi_domain_list_free(list: Token) {
        free(list);
    }
    "const char* (*)(const dnsdist_ffi_address_list_t*, size_t)"
    fn dnsdist_ffi_address_list_get(list: Token, at: usize) -> *const c_char {
        text(list, at)
    }
    "void (*)(dnsdist_ffi_address_list_t*)"
    fn dnsdist_ffi_address_list_free(list: Token) {
        free(list);
    }
}

/// Returns what `search` finds. A cache that is too large for it fails the call.
fn searched(
    search: impl FnOnce(&crate::lua::state::call_state::CallState) -> Option<Vec<String>>,
) -> Vec<String> {
    let found = running(|call| {
        let mut current = call.current().try_borrow_mut().ok()?;
        let found = search(&current);
        if found.is_none() {
            current.failure = Some(caches::TOO_LARGE);
        }
        found
    });
    found.flatten().unwrap_or_default()
}

/// Gives a list to a script, null without anything in it; returns how much that is.
///
/// # Safety
/// `out` is null, or valid for writing.
unsafe fn listed(found: Vec<String>, out: *mut Token) -> usize {
    let count = found.len();
    let texts = found.into_iter().map(|text| (text + "\0").into_bytes().into()).collect();
    let make = || with_handles(std::ptr::null(), |all| Some(all.make(Object::Texts(texts))));
    let list = if count == 0 { std::ptr::null() } else { make() };
    // SAFETY: the caller's promise.
    unsafe { give(out, list) };
    if list.is_null() { 0 } else { count }
}

/// Returns a text of a list, which lives as long as that.
fn text(list: Token, at: usize) -> *const c_char {
    with_handles(std::ptr::null(), |all| match all.object(list)? {
        Object::Texts(texts) => texts.get(at).map(|text| text.as_ptr().cast()),
        Object::Packet(_) | Object::Service(_) | Object::Ring(_) => None,
    })
}

fn free(list: Token) {
    with_handles((), |all| {
        all.free(list);
        Some(())
    });
}
