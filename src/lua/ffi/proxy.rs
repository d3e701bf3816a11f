//! The C functions of the LuaFFI family about the PROXY protocol: the values of a query, and headers
//! as bytes.

use std::ffi::{c_char, c_void};

use crate::base::addr::Endpoint;
use crate::lua::ffi::{MESSAGE_MAX, Token, c_functions, give, keep_aligned, passed, with};
use crate::wire::proxy::{Transport, write_v2};

/// One value that a script passes or gets.
#[repr(C)]
struct ProxyValue {
    value: *const c_char,
    size: u16,
    kind: u8,
}

c_functions! {
    "bool (*)(dnsdist_ffi_dnsquestion_t*, size_t, const dnsdist_ffi_proxy_protocol_value_t*)"
    fn dnsdist_ffi_dnsquestion_add_proxy_protocol_values(dq: Token, count: usize, values: *const ProxyValue) -> bool {
        // SAFETY: as the macro says.
        let values = unsafe { proxy_values(values, count) };
        with(dq, false, |c| {
            let mut changed = c.query_state().proxy.clone();
            let done = values.iter().all(|(kind, value)| changed.add(*kind, value));
            if done {
                c.query_state_mut().proxy = changed;
            }
            done
        })
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_proxy_protocol_value_t**)"
    fn dnsdist_ffi_dnsquestion_get_proxy_protocol_values(dq: Token, out: *mut *const c_void) -> usize {
        let found = with(dq, (std::ptr::null(), 0), |c| {
            let values: Vec<(u8, Vec<u8>)> = c.query_state().proxy.iter().map(|(k, v)| (k, v.to_vec())).collect();
            let mut list = Vec::with_capacity(values.len() * 16);
            for (kind, value) in &values {
                // A pointer, uint16_t, uint8_t, five bytes of padding.
                list.extend(c.current.keep(value).as_ptr().expose_provenance().to_ne_bytes());
                list.extend(u16::try_from(value.len()).unwrap_or(0).to_ne_bytes());
                list.extend([*kind, 0, 0, 0, 0, 0]);
            }
            (keep_aligned(c.current, &list), values.len())
        });
        // SAFETY: as the macro says.
        unsafe { give(out, found.0) };
        found.1
    }
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*, size_t, const dnsdist_ffi_proxy_protocol_value_t*, void*, size_t)"
    fn dnsdist_ffi_dnsquestion_generate_proxy_protocol_payload(dq: Token, count: usize, values: *const ProxyValue, out: *mut c_void, room: usize) -> usize {
        // SAFETY: as the macro says.
        let values = unsafe { proxy_values(values, count) };
        let header = with(dq, Vec::new(), |c| {
            let (client, local) = (c.context().client.peer, c.context().local);
            header(c.query_state().protocol.is_stream(), client, local, &values)
        });
        // SAFETY: as the macro says; the buffer holds `room` bytes.
        unsafe { copy(&header, out, room) }
    }
    "size_t (*)(size_t, const void*, const void*, uint16_t, uint16_t, bool, size_t, const dnsdist_ffi_proxy_protocol_value_t*, void*, size_t)"
    fn dnsdist_ffi_generate_proxy_protocol_payload(size: usize, source: *const c_void, destination: *const c_void, source_port: u16, destination_port: u16, tcp: bool, count: usize, values: *const ProxyValue, out: *mut c_void, room: usize) -> usize {
        // SAFETY: as the macro says; both addresses have this size.
        let (source, destination, values) = unsafe {
            (passed(source.cast(), size), passed(destination.cast(), size), proxy_values(values, count))
        };
        let ends = endpoint(source, source_port).zip(endpoint(destination, destination_port));
        let header = ends.map(|(source, destination)| header(tcp, source, destination, &values));
        // SAFETY: as the macro says; the buffer holds `room` bytes.
        unsafe { copy(&header.unwrap_or_default(), out, room) }
    }
}

/// Returns the values that a script passes, with their types.
///
/// # Safety
/// `values` is null, or points to `count` values that live as long as the call.
unsafe fn proxy_values<'a>(values: *const ProxyValue, count: usize) -> Vec<(u8, &'a [u8])> {
    if values.is_null() || count > MESSAGE_MAX {
        return Vec::new();
    }
    // SAFETY: the caller's promise, for the list and for each value.
    unsafe {
        let values = std::slice::from_raw_parts(values, count);
        values.iter().map(|v| (v.kind, passed(v.value, usize::from(v.size)))).collect()
    }
}

/// Returns an address of 4 or 16 bytes with its port.
fn endpoint(bytes: &[u8], port: u16) -> Option<Endpoint> {
    let ip = match bytes.len() {
        4 => [&b"\0\0\0\0\0\0\0\0\0\0\xff\xff"[..], bytes].concat().try_into().ok()?,
        _ => bytes.try_into().ok()?,
    };
    Some(Endpoint { ip, scope: 0, port })
}

/// Returns a header of version 2; empty when the values are too long.
fn header(is_stream: bool, source: Endpoint, destination: Endpoint, values: &[(u8, &[u8])]) -> Vec<u8> {
    let transport = if is_stream { Transport::Stream } else { Transport::Datagram };
    let mut header = Vec::new();
    // Without space nothing was appended.
    let _ = write_v2(&mut header, transport, source, destination, values.iter().copied());
    header
}

/// Copies bytes to a script's buffer if there is room; returns how many.
///
/// # Safety
/// `to` is null, or valid for writing `room` bytes.
unsafe fn copy(bytes: &[u8], to: *mut c_void, room: usize) -> usize {
    if to.is_null() || bytes.len() > room {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len()) };
    bytes.len()
}
