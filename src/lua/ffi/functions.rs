//! The C functions of the LuaFFI family: each its C type, and a body that works on the running
//! call's packet.
//!
//! No pointer that they return is into the packet: what a script reads or writes through it after
//! its call has no effect. `get_header` returns a pointer to a copy, which is written back before
//! anything else reads the message.

use std::ffi::{c_char, c_int, c_void};

use crate::lua::ffi::running_call::RunningCall;
use crate::lua::ffi::{
    RawValue, Token, c_functions, give, keep_aligned, keep_text, passed, raw_values, rendezvous,
    server_pointer, string, with, with_call, with_server,
};
use crate::lua::state::call_state::{Open, SPOOF_TTL};
use crate::lua::state::view::Server;
use crate::rules::query_state::Tags;
use crate::wire::header;

/// Sets a tag, or fails the call: the caller gets no result.
fn set_tag(c: &mut Open<'_, '_, '_>, name: &[u8], value: &[u8]) {
    if !c.tags_mut().set(name, value) {
        c.current.failure = Some("the tags of a query are limited to 64 with 4096 bytes in all");
    }
}

c_functions! {
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const void**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_localaddr(dq: Token, address: *mut *const c_void, size: *mut usize) {
        let bytes = with_call(dq, (std::ptr::null(), 0), RunningCall::local);
        // SAFETY: as the macro says.
        unsafe {
            give(address, bytes.0.cast());
            give(size, bytes.1);
        }
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const void**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_remoteaddr(dq: Token, address: *mut *const c_void, size: *mut usize) {
        let bytes = with_call(dq, (std::ptr::null(), 0), RunningCall::remote);
        // SAFETY: as the macro says.
        unsafe {
            give(address, bytes.0.cast());
            give(size, bytes.1);
        }
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const void**, size_t*, uint8_t)"
    fn dnsdist_ffi_dnsquestion_get_masked_remoteaddr(dq: Token, address: *mut *const c_void, size: *mut usize, bits: u8) {
        let bytes = with(dq, (std::ptr::null(), 0), |c| {
            let from = if c.context().client.peer.is_ipv4() { 12 } else { 0 };
            let bits = (u32::from(bits) + u32::try_from(from * 8).unwrap_or(0)).min(128);
            let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
            let masked = (u128::from_be_bytes(c.context().client.peer.ip) & mask).to_be_bytes();
            let kept = c.current.keep(&masked[from..]);
            (kept.as_ptr(), kept.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(address, bytes.0.cast());
            give(size, bytes.1);
        }
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_local_port(dq: Token) -> u16 {
        with(dq, 0, |c| c.context().local.port)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_remote_port(dq: Token) -> u16 {
        with(dq, 0, |c| c.context().client.peer.port)
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const char**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_qname_raw(dq: Token, qname: *mut *const c_char, size: *mut usize) {
        let bytes = with(dq, (std::ptr::null(), 0), |c| {
            let name = c.keep_name();
            (name.as_ptr(), name.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(qname, bytes.0.cast());
            give(size, bytes.1);
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
        with(dq, 0, |c| c.facts().qtype)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_qclass(dq: Token) -> u16 {
        with(dq, 0, |c| c.facts().qclass)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_id(dq: Token) -> u16 {
        with(dq, 0, |c| u16::from_be_bytes([c.byte(0), c.byte(1)]))
    }
    "int (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_rcode(dq: Token) -> c_int {
        with(dq, 0, |c| c_int::from(c.byte(3) & 0x0f))
    }
    "const char* (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_incoming_interface(dq: Token) -> *const c_char {
        with(dq, std::ptr::null(), |c| {
            let name = c.current.configuration.interface(c.context().client.listener).to_owned();
            keep_text(c.current, name.as_bytes())
        })
    }
    "const unsigned char* (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_data(dq: Token) -> *const u8 {
        with(dq, std::ptr::null(), |c| {
            let message = c.message().to_vec();
            c.current.keep(&message).as_ptr()
        })
    }
    "uint8_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_opcode(dq: Token) -> u8 {
        with(dq, 0, |c| (c.byte(2) >> 3) & 0x0f)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_len(dq: Token) -> u16 {
        with(dq, 0, |c| u16::try_from(c.message().len()).unwrap_or(u16::MAX))
    }
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_size(dq: Token) -> usize {
        with(dq, 0, |c| c.message().len())
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_tcp(dq: Token) -> bool {
        with(dq, false, |c| c.query_state().protocol.is_stream())
    }
    "uint8_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_protocol(dq: Token) -> u8 {
        with(dq, 0, |c| c.query_state().protocol as u8)
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_skip_cache(dq: Token) -> bool {
        with(dq, false, |c| c.query_state().skip_cache)
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_use_ecs(dq: Token) -> bool {
        with(dq, false, |c| c.query_state().ecs.wanted)
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_ecs_override(dq: Token) -> bool {
        with(dq, false, |c| c.query_state().ecs.replace)
    }
    "uint16_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_ecs_prefix_length(dq: Token) -> u16 {
        with(dq, 0, |c| u16::from(if c.context().client.peer.is_ipv4() { c.query_state().ecs.v4 } else { c.query_state().ecs.v6 }))
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_is_temp_failure_ttl_set(dq: Token) -> bool {
        with(dq, false, |c| c.query_state().temporary_failure_ttl.is_some())
    }
    "uint32_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_temp_failure_ttl(dq: Token) -> u32 {
        with(dq, 0, |c| c.query_state().temporary_failure_ttl.unwrap_or(0))
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
        with(dq, 0, |c| c.opt().map_or(0, |o| c.byte(o.start + 5)))
    }
    "uint64_t (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_elapsed_us(dq: Token) -> u64 {
        with(dq, 0, |c| c.elapsed().0 / 1_000)
    }
    "void* (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_header(dq: Token) -> *mut c_void {
        with_call(dq, std::ptr::null_mut(), |call| call.header_pointer().cast())
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*, char*, size_t)"
    fn dnsdist_ffi_dnsquestion_get_header_copy(dq: Token, buffer: *mut c_char, size: usize) -> bool {
        let header = with(dq, None, |c| c.message().first_chunk::<{ header::LEN }>().copied());
        let Some(header) = header.filter(|_| size >= header::LEN) else { return false };
        // SAFETY: as the macro says; the buffer holds `size` bytes.
        unsafe { give(buffer.cast(), header) };
        !buffer.is_null()
    }
    "bool (*)(dnsdist_ffi_dnsquestion_t*, const char*)"
    fn dnsdist_ffi_dnsquestion_set_header(dq: Token, bytes: *const c_char) -> bool {
        // SAFETY: as the macro says; it points to a whole header.
        let bytes = unsafe { passed(bytes, header::LEN) };
        with(dq, false, |c| match c.packet_mut().bytes_mut().get_mut(..bytes.len()) {
            Some(header) if !bytes.is_empty() => {
                header.copy_from_slice(bytes);
                true
            }
            _ => false,
        })
    }
    "bool (*)(const dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_is_remote_v6(dq: Token) -> bool {
        with(dq, false, |c| !c.context().client.peer.is_ipv4())
    }
    "void (*)(const dnsdist_ffi_dnsquestion_t*, const char**, size_t*)"
    fn dnsdist_ffi_dnsquestion_get_sni(dq: Token, sni: *mut *const c_char, size: *mut usize) {
        let (text, length) = with(dq, (std::ptr::null(), 0), |c| {
            let name = c.query_state().sni.clone();
            (keep_text(c.current, &name), name.len())
        });
        // SAFETY: as the macro says.
        unsafe {
            give(sni, text);
            give(size, length);
        }
    }
    "const char* (*)(const dnsdist_ffi_dnsquestion_t*, const char*)"
    fn dnsdist_ffi_dnsquestion_get_tag(dq: Token, name: *const c_char) -> *const c_char {
        // SAFETY: as the macro says.
        let name = unsafe { string(name) };
        with(dq, std::ptr::null(), |c| {
            let value = c.query_state().tags.value(name).map(<[u8]>::to_vec);
            value.map_or(std::ptr::null(), |v| keep_text(c.current, &v))
        })
    }
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*, const char*, char*, size_t)"
    fn dnsdist_ffi_dnsquestion_get_tag_raw(dq: Token, name: *const c_char, buffer: *mut c_char, size: usize) -> usize {
        // SAFETY: as the macro says.
        let name = unsafe { string(name) };
        with(dq, 0, |c| {
            let value = c.query_state().tags.value(name).unwrap_or_default();
            if buffer.is_null() || value.len() > size {
                return 0;
            }
            // SAFETY: the script's buffer has `size` bytes, at least as many as the value.
            unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), buffer.cast(), value.len()) };
            value.len()
        })
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_tag_t**)"
    fn dnsdist_ffi_dnsquestion_get_tag_array(dq: Token, out: *mut *const c_void) -> usize {
        let found = with(dq, (std::ptr::null(), 0), |c| {
            let tags: Vec<(Vec<u8>, Vec<u8>)> =
                c.query_state().tags.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            let pointers: Vec<u8> = tags
                .iter()
                .flat_map(|(n, v)| [keep_text(c.current, n).expose_provenance(), keep_text(c.current, v).expose_provenance()])
                .flat_map(usize::to_ne_bytes)
                .collect();
            (keep_aligned(c.current, &pointers), tags.len())
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
                // uint16_t, uint16_t, four bytes of padding, a pointer.
                records.extend(code.to_ne_bytes());
                records.extend(length.to_ne_bytes());
                records.extend([0; 4]);
                records.extend(c.current.keep(data).as_ptr().expose_provenance().to_ne_bytes());
            }
            (keep_aligned(c.current, &records), options.len())
        });
        // SAFETY: as the macro says.
        unsafe { give(out, found.0) };
        found.1
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const char**)"
    fn dnsdist_ffi_dnsquestion_get_trailing_data(dq: Token, out: *mut *const c_char) -> usize {
        let bytes = with(dq, (std::ptr::null(), 0), |c| {
            let trailing = c.trailing().to_vec();
            let kept = c.current.keep(&trailing);
            (kept.as_ptr(), kept.len())
        });
        // SAFETY: as the macro says.
        unsafe { give(out, bytes.0.cast()) };
        bytes.1
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_result(dq: Token, text: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let text = unsafe { passed(text, size) };
        with(dq, (), |c| {
            c.current.argument.clear();
            c.current.argument.extend_from_slice(text);
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, int)"
    fn dnsdist_ffi_dnsquestion_set_rcode(dq: Token, value: c_int) {
        with(dq, (), |c| {
            let code = u8::try_from(value & 0x0f).unwrap_or(0);
            c.set_byte(3, (c.byte(3) & 0xf0) | code);
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, bool)"
    fn dnsdist_ffi_dnsquestion_set_skip_cache(dq: Token, value: bool) {
        with(dq, (), |c| c.query_state_mut().skip_cache = value);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, bool)"
    fn dnsdist_ffi_dnsquestion_set_use_ecs(dq: Token, value: bool) {
        with(dq, (), |c| c.query_state_mut().ecs.wanted = value);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, bool)"
    fn dnsdist_ffi_dnsquestion_set_ecs_override(dq: Token, value: bool) {
        with(dq, (), |c| c.query_state_mut().ecs.replace = value);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint16_t)"
    fn dnsdist_ffi_dnsquestion_set_ecs_prefix_length(dq: Token, value: u16) {
        with(dq, (), |c| c.set_ecs_prefix_length(u8::try_from(value).unwrap_or(128)));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint32_t)"
    fn dnsdist_ffi_dnsquestion_set_temp_failure_ttl(dq: Token, value: u32) {
        with(dq, (), |c| c.query_state_mut().temporary_failure_ttl = Some(value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_unset_temp_failure_ttl(dq: Token) {
        with(dq, (), |c| c.query_state_mut().temporary_failure_ttl = None);
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint32_t)"
    fn dnsdist_ffi_dnsquestion_set_max_returned_ttl(dq: Token, value: u32) {
        with(dq, (), |c| c.query_state_mut().ttl_max = Some(value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_set_restartable(dq: Token) {
        with(dq, (), |c| c.query_state_mut().restartable = true);
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
        with(dq, (), |c| set_tag(c, name, value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*)"
    fn dnsdist_ffi_dnsquestion_unset_tag(dq: Token, name: *const c_char) {
        // SAFETY: as the macro says.
        let name = unsafe { string(name) };
        with(dq, (), |c| c.tags_mut().unset(name));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_tag_raw(dq: Token, name: *const c_char, value: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let (name, value) = unsafe { (string(name), passed(value, size)) };
        with(dq, (), |c| set_tag(c, name, value));
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint16_t, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_extended_dns_error(dq: Token, code: u16, text: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let text = unsafe { passed(text, size) };
        with(dq, (), |c| c.query_state_mut().set_error(code, text));
    }
    "bool (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_trailing_data(dq: Token, bytes: *const c_char, size: usize) -> bool {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(bytes, size) };
        with(dq, false, |c| c.set_trailing(bytes))
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_raw_value_t*, size_t)"
    fn dnsdist_ffi_dnsquestion_spoof_raw(dq: Token, values: *const RawValue, count: usize) {
        // SAFETY: as the macro says.
        let values = unsafe { raw_values(values, count) };
        with(dq, (), |c| {
            let qtype = c.facts().qtype;
            c.spoof(values.iter().map(|v| (qtype, *v)), SPOOF_TTL);
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_raw_value_t*, size_t)"
    fn dnsdist_ffi_dnsquestion_spoof_addrs(dq: Token, values: *const RawValue, count: usize) {
        // SAFETY: as the macro says.
        let values = unsafe { raw_values(values, count) };
        with(dq, (), |c| {
            let kind = |v: &[u8]| match v.len() {
                4 => Some(1),
                16 => Some(28),
                _ => None,
            };
            c.spoof(values.iter().filter_map(|v| Some((kind(v)?, *v))), SPOOF_TTL);
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_spoof_packet(dq: Token, bytes: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(bytes, size) };
        with(dq, (), |c| {
            c.spoof_message(bytes);
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
        with(dr, (), |c| c.query_state_mut().ttl_max = Some(max));
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
    "bool (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t, const char*, size_t, const char*, size_t, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_alternate_name(dq: Token, name: *const c_char, size: usize, tag: *const c_char, tag_size: usize, value: *const c_char, value_size: usize, former: *const c_char, former_size: usize) -> bool {
        // SAFETY: as the macro says.
        let (name, tag, value, former) = unsafe {
            (passed(name, size), passed(tag, tag_size), passed(value, value_size), passed(former, former_size))
        };
        with(dq, false, |c| {
            let asked = c.qname().to_vec();
            let mut tags = c.query_state().tags.clone();
            let is_set = |name: &[u8], value: &[u8], tags: &mut Tags| name.is_empty() || tags.set(name, value);
            let fits = is_set(tag, value, &mut tags) && is_set(former, &asked, &mut tags);
            let done = fits && c.change_name(name);
            if done {
                *c.tags_mut() = tags;
            }
            done
        })
    }
    "uint8_t (*)(const dnsdist_ffi_dnsresponse_t*)"
    fn dnsdist_ffi_dnsresponse_get_restart_count(dr: Token) -> u8 {
        with(dr, 0, |c| c.query_state().restarts)
    }
    "uint32_t (*)(uint32_t, const unsigned char*, size_t, bool)"
    fn dnsdist_ffi_hash(seed: u32, bytes: *const c_char, size: usize, fold: bool) -> u32 {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(bytes, size) };
        let folded = if fold { bytes.to_ascii_lowercase() } else { bytes.to_vec() };
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&folded, seed.into());
        // The lower half is as good.
        #[allow(clippy::cast_possible_truncation)]
        let half = hash as u32;
        half
    }
    "bool (*)(dnsdist_ffi_dnsresponse_t*)"
    fn dnsdist_ffi_dnsresponse_get_stale_cache_hit(dr: Token) -> bool {
        with(dr, false, |c| c.query_state().is_stale)
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*)"
    fn dnsdist_ffi_servers_list_get_count(list: Token) -> usize {
        with(list, 0, |c| c.current.candidates.len())
    }
    "void (*)(const dnsdist_ffi_servers_list_t*, size_t, const dnsdist_ffi_server_t**)"
    fn dnsdist_ffi_servers_list_get_server(list: Token, at: usize, out: *mut Token) {
        let server = with(list, std::ptr::null(), |c| {
            if at < c.current.candidates.len() { server_pointer(c.current, at) } else { std::ptr::null() }
        });
        // SAFETY: as the macro says.
        unsafe { give(out, server) };
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*, const dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_servers_list_chash(list: Token, _dq: Token, hash: usize) -> usize {
        with(list, 0, |c| rendezvous(c.current, hash))
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*, const dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_servers_list_chashed(list: Token, _dq: Token, hash: usize) -> usize {
        with(list, 0, |c| rendezvous(c.current, hash))
    }
    "size_t (*)(const dnsdist_ffi_servers_list_t*, const dnsdist_ffi_dnsquestion_t*, size_t)"
    fn dnsdist_ffi_servers_list_whashed(list: Token, _dq: Token, hash: usize) -> usize {
        with(list, 0, |c| rendezvous(c.current, hash))
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
            c.current.configuration.server(s.slot).map_or(0, |s| c_int::try_from(s.weight).unwrap_or(c_int::MAX))
        })
    }
    "int (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_order(server: Token) -> c_int {
        with_server(server, 0, |c, s| c.current.configuration.server(s.slot).map_or(0, |s| s.order))
    }
    "const char* (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_name(server: Token) -> *const c_char {
        with_server(server, std::ptr::null(), |c, s| {
            let name = c.current.configuration.server(s.slot).map(|s| s.name.clone()).unwrap_or_default();
            keep_text(c.current, name.as_bytes())
        })
    }
    "const char* (*)(const dnsdist_ffi_server_t*)"
    fn dnsdist_ffi_server_get_name_with_addr(server: Token) -> *const c_char {
        with_server(server, std::ptr::null(), |c, s| {
            let text = c.current.configuration.server(s.slot).map(Server::name_with_address);
            keep_text(c.current, text.unwrap_or_default().as_bytes())
        })
    }
}
