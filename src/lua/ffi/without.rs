//! The C functions of the LuaFFI family about what dnslob does not have: what they read is not there,
//! and what they say is for nobody, as with the members of the same names in Lua. And further
//! Extended DNS Errors.

use std::ffi::{c_char, c_void};

use crate::lua::ffi::{Token, c_functions, give, passed, with};

c_functions! {
    "void (*)(dnsdist_ffi_dnsquestion_t*, uint16_t, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_add_extended_dns_error(dq: Token, code: u16, text: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let text = unsafe { passed(text, size) };
        with(dq, (), |c| {
            if !c.query_state_mut().add_error(code, text) {
                c.current.failure = Some("the Extended DNS Errors of an answer are limited to 1024 bytes");
            }
        });
    }
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_requestor_id(_dq: Token, _text: *const c_char, _size: usize) {}
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_device_id(_dq: Token, _text: *const c_char, _size: usize) {}
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_set_device_name(_dq: Token, _text: *const c_char, _size: usize) {}
    "void (*)(dnsdist_ffi_dnsquestion_t*, const char*, size_t)"
    fn dnsdist_ffi_dnsquestion_send_trap(_dq: Token, _text: *const c_char, _size: usize) {}
    "size_t (*)(const dnsdist_ffi_dnsquestion_t*, void*, size_t)"
    fn dnsdist_ffi_dnsquestion_get_mac_addr(_dq: Token, _buffer: *mut c_void, _size: usize) -> usize {
        0
    }
    "const char* (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_http_path(_dq: Token) -> *const c_char {
        std::ptr::null()
    }
    "const char* (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_http_query_string(_dq: Token) -> *const c_char {
        std::ptr::null()
    }
    "const char* (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_http_host(_dq: Token) -> *const c_char {
        std::ptr::null()
    }
    "const char* (*)(dnsdist_ffi_dnsquestion_t*)"
    fn dnsdist_ffi_dnsquestion_get_http_scheme(_dq: Token) -> *const c_char {
        std::ptr::null()
    }
    "size_t (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_http_header_t**)"
    fn dnsdist_ffi_dnsquestion_get_http_headers(_dq: Token, out: *mut *const c_void) -> usize {
        // SAFETY: as the macro says.
        unsafe { give(out, std::ptr::null()) };
        0
    }
}
