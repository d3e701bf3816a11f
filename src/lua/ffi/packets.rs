//! The C functions of the LuaFFI family that read a message: question, records, addresses, names.

use std::ffi::c_char;

use crate::lua::ffi::handles::{Object, ReadPacket};
use crate::lua::ffi::{Token, c_functions, give, passed, with_handles};
use crate::wire::query::Question;
use crate::wire::records::{Record, Records, rtype};
use crate::wire::{name, records};

c_functions! {
    "bool (*)(const char*, size_t, dnsdist_ffi_dnspacket_t**)"
    fn dnsdist_ffi_dnspacket_parse(bytes: *const c_char, size: usize, out: *mut Token) -> bool {
        // SAFETY: as the macro says.
        let packet = read(unsafe { passed(bytes, size) });
        let made = packet.map_or(std::ptr::null(), |packet| with_handles(std::ptr::null(), |all| Some(all.make(Object::Packet(packet)))));
        // SAFETY: as the macro says.
        unsafe { give(out, made) };
        !made.is_null()
    }
    "void (*)(dnsdist_ffi_dnspacket_t*)"
    fn dnsdist_ffi_dnspacket_free(packet: Token) {
        with_handles((), |all| {
            all.free(packet);
            Some(())
        });
    }
    "void (*)(const dnsdist_ffi_dnspacket_t*, const char**, size_t*)"
    fn dnsdist_ffi_dnspacket_get_qname_raw(packet: Token, qname: *mut *const c_char, size: *mut usize) {
        let bytes = with(packet, (std::ptr::null(), 0), |p| Some((p.qname.as_ptr(), p.qname.len())));
        // SAFETY: as the macro says.
        unsafe {
            give(qname, bytes.0.cast());
            give(size, bytes.1);
        }
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*)"
    fn dnsdist_ffi_dnspacket_get_qtype(packet: Token) -> u16 {
        with(packet, 0, |p| Some(p.kind.0))
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*)"
    fn dnsdist_ffi_dnspacket_get_qclass(packet: Token) -> u16 {
        with(packet, 0, |p| Some(p.kind.1))
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*, uint8_t)"
    fn dnsdist_ffi_dnspacket_get_records_count_in_section(packet: Token, section: u8) -> u16 {
        with(packet, 0, |p| match section {
            0 => Some(1),
            _ => {
                let records = p.records.iter().filter(|(_, r)| r.section as u8 + 1 == section);
                u16::try_from(records.count()).ok()
            }
        })
    }
    "void (*)(const dnsdist_ffi_dnspacket_t*, size_t, const char**, size_t*)"
    fn dnsdist_ffi_dnspacket_get_record_name_raw(packet: Token, at: usize, owner: *mut *const c_char, size: *mut usize) {
        let bytes = with(packet, (std::ptr::null(), 0), |p| {
            p.records.get(at).map(|(owner, _)| (owner.as_ptr(), owner.len()))
        });
        // SAFETY: as the macro says.
        unsafe {
            give(owner, bytes.0.cast());
            give(size, bytes.1);
        }
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*, size_t)"
    fn dnsdist_ffi_dnspacket_get_record_type(packet: Token, at: usize) -> u16 {
        record(packet, at, |r| r.rtype)
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*, size_t)"
    fn dnsdist_ffi_dnspacket_get_record_class(packet: Token, at: usize) -> u16 {
        record(packet, at, |r| r.class)
    }
    "uint32_t (*)(const dnsdist_ffi_dnspacket_t*, size_t)"
    fn dnsdist_ffi_dnspacket_get_record_ttl(packet: Token, at: usize) -> u32 {
        record(packet, at, |r| r.ttl)
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*, size_t)"
    fn dnsdist_ffi_dnspacket_get_record_content_length(packet: Token, at: usize) -> u16 {
        record(packet, at, |r| u16::try_from(r.rdata.len()).unwrap_or(0))
    }
    "uint16_t (*)(const dnsdist_ffi_dnspacket_t*, size_t)"
    fn dnsdist_ffi_dnspacket_get_record_content_offset(packet: Token, at: usize) -> u16 {
        record(packet, at, |r| u16::try_from(r.rdata.start).unwrap_or(0))
    }
    "size_t (*)(const char*, size_t, size_t, char*, size_t)"
    fn dnsdist_ffi_dnspacket_get_name_at_offset_raw(bytes: *const c_char, size: usize, at: usize, out: *mut c_char, room: usize) -> usize {
        let mut found = [0; name::LEN_MAX];
        // SAFETY: as the macro says.
        let length = name::read(unsafe { passed(bytes, size) }, at, &mut found).map_or(0, |(length, _)| length);
        // SAFETY: as the macro says; the buffer holds `room` bytes.
        unsafe { copy(&found[..length], out, room) }
    }
    "bool (*)(const char*, const dnsdist_ffi_dnspacket_t*, size_t, char*, size_t*)"
    fn dnsdist_ffi_dnspacket_parse_a_record(_raw: *const c_char, packet: Token, at: usize, out: *mut c_char, size: *mut usize) -> bool {
        // SAFETY: as the macro says; the buffer holds an address.
        unsafe { answer(&address(packet, at, &[(rtype::A, 4)]), out, size) }
    }
    "bool (*)(const char*, const dnsdist_ffi_dnspacket_t*, size_t, char*, size_t*)"
    fn dnsdist_ffi_dnspacket_parse_aaaa_record(_raw: *const c_char, packet: Token, at: usize, out: *mut c_char, size: *mut usize) -> bool {
        // SAFETY: as the macro says; the buffer holds an address.
        unsafe { answer(&address(packet, at, &[(rtype::AAAA, 16)]), out, size) }
    }
    "bool (*)(const char*, const dnsdist_ffi_dnspacket_t*, size_t, char*, size_t*)"
    fn dnsdist_ffi_dnspacket_parse_address_record(_raw: *const c_char, packet: Token, at: usize, out: *mut c_char, size: *mut usize) -> bool {
        // SAFETY: as the macro says; the buffer holds an address.
        unsafe { answer(&address(packet, at, &[(rtype::A, 4), (rtype::AAAA, 16)]), out, size) }
    }
    "bool (*)(const char*, const dnsdist_ffi_dnspacket_t*, size_t, char*, size_t*)"
    fn dnsdist_ffi_dnspacket_parse_cname_record(_raw: *const c_char, packet: Token, at: usize, out: *mut c_char, size: *mut usize) -> bool {
        let target = with(packet, Vec::new(), |p| {
            let (_, record) = p.records.get(at).filter(|(_, r)| r.rtype == rtype::CNAME)?;
            let mut target = [0; name::LEN_MAX];
            let (length, _) = name::read(&p.message, record.rdata.start, &mut target)?;
            Some(target[..length].to_vec())
        });
        // SAFETY: as the macro says; the buffer holds a name.
        unsafe { answer(&target, out, size) }
    }
}

/// Reads a message; none if a part of it cannot be read.
fn read(message: &[u8]) -> Option<ReadPacket> {
    let question = Question::parse(message)?;
    records::end(message)?;
    let mut all = Records::of(message);
    let mut records = Vec::new();
    for record in all.by_ref() {
        let mut owner = [0; name::LEN_MAX];
        let (length, _) = name::read(message, record.start, &mut owner)?;
        records.push((owner[..length].into(), record));
    }
    all.whole().then(|| ReadPacket {
        message: message.into(),
        qname: question.qname.into(),
        kind: (question.qtype, question.qclass),
        records,
    })
}

fn with<R>(packet: Token, otherwise: R, body: impl FnOnce(&ReadPacket) -> Option<R>) -> R {
    with_handles(otherwise, |all| match all.object(packet)? {
        Object::Packet(packet) => body(packet),
        Object::Service(_) | Object::Ring(_) | Object::Texts(_) => None,
    })
}

/// Returns a number of a record, 0 if there is none.
fn record<R: Default>(packet: Token, at: usize, of: impl FnOnce(&Record) -> R) -> R {
    with(packet, R::default(), |p| p.records.get(at).map(|(_, record)| of(record)))
}

/// Returns the contents of a record that has one of these types with its length; empty otherwise.
fn address(packet: Token, at: usize, kinds: &[(u16, usize)]) -> Vec<u8> {
    with(packet, Vec::new(), |p| {
        let (_, record) = p.records.get(at)?;
        let rdata = p.message.get(record.rdata.clone())?;
        kinds.contains(&(record.rtype, rdata.len())).then(|| rdata.to_vec())
    })
}

/// Copies bytes to a script's buffer if there is room; returns how many.
///
/// # Safety
/// `to` is null, or valid for writing `room` bytes.
unsafe fn copy(bytes: &[u8], to: *mut c_char, room: usize) -> usize {
    if to.is_null() || bytes.len() > room {
        return 0;
    }
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.cast(), bytes.len()) };
    bytes.len()
}

/// Gives bytes to a script, with their number; false without any.
///
/// # Safety
/// `to` is null, or valid for writing that many bytes; `size` is null, or valid for writing.
unsafe fn answer(bytes: &[u8], to: *mut c_char, size: *mut usize) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let given = copy(bytes, to, bytes.len());
        give(size, given);
        given > 0
    }
}
