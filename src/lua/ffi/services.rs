//! The C functions of the LuaFFI family that make answers of SVCB and HTTPS records.

use std::ffi::c_char;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::lua::ffi::handles::{Object, Service};
use crate::lua::ffi::{Token, c_functions, give, passed, string, with_call, with_handles};
use crate::wire::records::rtype;
use crate::wire::svc::SvcRecord;
use crate::wire::{answer, name};

/// Most bytes of the values of a record, each counted with its key and length: more do not fit into
/// an answer.
const BYTES_MAX: usize = 3_500;
/// Most records of an answer.
const RECORDS_MAX: usize = 64;

c_functions! {
    "bool (*)(const char*, uint16_t, bool, dnsdist_ffi_svc_record_parameters_t**)"
    fn dnsdist_ffi_svc_record_parameters_new(target: *const c_char, priority: u16, no_default_alpn: bool, out: *mut Token) -> bool {
        // SAFETY: as the macro says.
        let target = std::str::from_utf8(unsafe { string(target) }).ok().filter(|t| t.is_ascii()).and_then(|t| name::from_text(t).ok());
        let made = target.map_or(std::ptr::null(), |target| {
            let mut service = Service { priority, target, ..Service::default() };
            service.params.no_default_alpn = no_default_alpn;
            with_handles(std::ptr::null(), |all| Some(all.make(Object::Service(service))))
        });
        // SAFETY: as the macro says.
        unsafe { give(out, made) };
        !made.is_null()
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*)"
    fn dnsdist_ffi_svc_record_parameters_free(service: Token) {
        with_handles((), |all| {
            all.free(service);
            Some(())
        });
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, uint16_t)"
    fn dnsdist_ffi_svc_record_parameters_set_port(service: Token, port: u16) {
        add(service, 2, |s| s.params.port = Some(port));
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, const char*, size_t)"
    fn dnsdist_ffi_svc_record_parameters_set_ech(service: Token, bytes: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(bytes, size) };
        add(service, bytes.len(), |s| s.params.ech = bytes.to_vec());
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, uint16_t, const char*, size_t)"
    fn dnsdist_ffi_svc_record_parameters_set_additional_param(service: Token, key: u16, bytes: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(bytes, size) };
        add(service, bytes.len(), |s| {
            s.params.others.retain(|(other, _)| *other != key);
            s.params.others.push((key, bytes.to_vec()));
        });
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, uint16_t)"
    fn dnsdist_ffi_svc_record_parameters_add_mandatory_param(service: Token, key: u16) {
        add(service, 2, |s| s.params.mandatory.push(key));
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, const char*, size_t)"
    fn dnsdist_ffi_svc_record_parameters_add_alpn(service: Token, id: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let id = unsafe { passed(id, size) };
        add(service, id.len(), |s| s.params.alpn.push(id.to_vec()));
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, const char*, size_t)"
    fn dnsdist_ffi_svc_record_parameters_add_ipv4_hint(service: Token, address: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(address, size) };
        if let Some(ip) = read(bytes, |ip: Ipv4Addr| ip.octets()) {
            add(service, ip.len(), |s| s.params.v4.push(ip));
        }
    }
    "void (*)(dnsdist_ffi_svc_record_parameters_t*, const char*, size_t)"
    fn dnsdist_ffi_svc_record_parameters_add_ipv6_hint(service: Token, address: *const c_char, size: usize) {
        // SAFETY: as the macro says.
        let bytes = unsafe { passed(address, size) };
        if let Some(ip) = read(bytes, |ip: Ipv6Addr| ip.octets()) {
            add(service, ip.len(), |s| s.params.v6.push(ip));
        }
    }
    "bool (*)(dnsdist_ffi_dnsquestion_t*, const dnsdist_ffi_svc_record_parameters_t**, size_t, uint32_t)"
    fn dnsdist_ffi_dnsquestion_generate_svc_response(dq: Token, services: *const Token, count: usize, ttl: u32) -> bool {
        if services.is_null() || count == 0 || count > RECORDS_MAX {
            return false;
        }
        // SAFETY: the script's list has `count` entries.
        let tokens: Vec<Token> = (0..count).map(|at| unsafe { services.add(at).read_unaligned() }).collect();
        with_call(dq, false, |call| {
            let made = |token: &Token| {
                let handles = call.handles.try_borrow().ok()?;
                match handles.object(*token)? {
                    Object::Service(s) if s.params.lacks().is_none() => {
                        SvcRecord::new(s.priority, s.target.clone(), &s.params).ok()
                    }
                    Object::Service(_) | Object::Packet(_) | Object::Ring(_) | Object::Texts(_) => None,
                }
            };
            let Some(records) = tokens.iter().map(made).collect::<Option<Vec<_>>>() else { return false };
            // Aliases and services do not mix (RFC 9460, 2.4.1).
            let aliases = records.iter().filter(|r| r.priority == 0).count();
            if aliases != 0 && aliases != records.len() {
                return false;
            }
            let answered = call.open(|c| {
                matches!(c.facts().qtype, rtype::SVCB | rtype::HTTPS)
                    && c.answer(ttl, |packet, flags, own| answer::svc(packet, &records, flags, own))
            });
            answered == Some(true)
        })
    }
}

/// Changes a record by a value of this many bytes, unless it has become too long.
fn add(service: Token, bytes: usize, change: impl FnOnce(&mut Service)) {
    with_handles((), |all| {
        if let Object::Service(service) = all.object_mut(service)?
            && service.bytes + bytes + 4 <= BYTES_MAX
        {
            service.bytes += bytes + 4;
            change(service);
        }
        Some(())
    });
}

/// Reads an address, as text or as its bytes.
fn read<A: std::str::FromStr, const N: usize>(bytes: &[u8], octets: fn(A) -> [u8; N]) -> Option<[u8; N]> {
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    parsed.map(octets).or_else(|| bytes.try_into().ok())
}
