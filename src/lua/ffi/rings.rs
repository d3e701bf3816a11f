//! The C functions of the LuaFFI family about the last queries: they read the rings of all shards,
//! which hold some thousand queries each, without waiting for anybody. There is one entry for a query
//! with its answer; one that is no response was not answered.

use std::ffi::c_char;
use std::net::IpAddr;

use crate::base::time::Tick;
use crate::engine::clock;
use crate::lua::ffi::handles::{Object, RingEntries, RingEntry};
use crate::lua::ffi::running_call::running;
use crate::lua::ffi::{Token, c_functions, give, string, with_handles};
use crate::stats::traffic_ring::{End, Record};
use crate::wire::header;

/// Most entries of a list.
const ENTRIES_MAX: usize = 10_000;
/// `protocol_type`.
const DO_UDP: u8 = 0;
const DO_TCP: u8 = 1;
const DOT: u8 = 4;

c_functions! {
    "size_t (*)(dnsdist_ffi_ring_entry_list_t**)"
    fn dnsdist_ffi_ring_get_entries(out: *mut Token) -> usize {
        let (list, count) = listed(|_| true);
        // SAFETY: as the macro says.
        unsafe { give(out, list) };
        count
    }
    "size_t (*)(const char*, dnsdist_ffi_ring_entry_list_t**)"
    fn dnsdist_ffi_ring_get_entries_by_addr(address: *const c_char, out: *mut Token) -> usize {
        // SAFETY: as the macro says.
        let address = std::str::from_utf8(unsafe { string(address) }).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let (list, count) = match address.map(|ip| ip.to_canonical()) {
            Some(ip) => listed(|record| IpAddr::from(record.finished.ip).to_canonical() == ip),
            None => (std::ptr::null(), 0),
        };
        // SAFETY: as the macro says.
        unsafe { give(out, list) };
        count
    }
    "size_t (*)(const char*, dnsdist_ffi_ring_entry_list_t**)"
    fn dnsdist_ffi_ring_get_entries_by_mac(_address: *const c_char, out: *mut Token) -> usize {
        // No hardware address is known.
        // SAFETY: as the macro says.
        unsafe { give(out, std::ptr::null()) };
        0
    }
    "void (*)(dnsdist_ffi_ring_entry_list_t*)"
    fn dnsdist_ffi_ring_entry_list_free(list: Token) {
        with_handles((), |all| {
            all.free(list);
            Some(())
        });
    }
    "bool (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_is_response(list: Token, at: usize) -> bool {
        entry(list, at, |e, _| !matches!(e.record.finished.end, End::Dropped(_)))
    }
    "double (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_age(list: Token, at: usize) -> f64 {
        entry(list, at, |e, now| now.since(e.record.finished.at).0 as f64 / 1e9)
    }
    "const char* (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_name(list: Token, at: usize) -> *const c_char {
        text(list, at, 0, |e| e.record.qname.dotted())
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_type(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| e.record.finished.qtype)
    }
    "const char* (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_requestor(list: Token, at: usize) -> *const c_char {
        text(list, at, 1, |e| IpAddr::from(e.record.finished.ip).to_canonical().to_string())
    }
    "const char* (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_backend(list: Token, at: usize) -> *const c_char {
        text(list, at, 2, |e| e.server.map(|address| address.to_string()).unwrap_or_default())
    }
    "uint8_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_protocol(list: Token, at: usize) -> u8 {
        entry(list, at, |e, _| match e.record.finished.by_connection {
            true if e.has_tls => DOT,
            true => DO_TCP,
            false => DO_UDP,
        })
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_size(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| e.record.finished.answer_bytes)
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_latency(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| u16::try_from(e.record.finished.latency_us).unwrap_or(u16::MAX))
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_id(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| e.record.finished.id)
    }
    "uint8_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_rcode(list: Token, at: usize) -> u8 {
        entry(list, at, |e, _| e.record.finished.rcode().unwrap_or_default())
    }
    "bool (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_aa(list: Token, at: usize) -> bool {
        entry(list, at, |e, _| e.record.finished.flags[0] & header::AA != 0)
    }
    "bool (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_rd(list: Token, at: usize) -> bool {
        entry(list, at, |e, _| e.record.finished.flags[0] & header::RD != 0)
    }
    "bool (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_tc(list: Token, at: usize) -> bool {
        entry(list, at, |e, _| e.record.finished.flags[0] & header::TC != 0)
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_ancount(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| e.counts[0])
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_nscount(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| e.counts[1])
    }
    "uint16_t (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_arcount(list: Token, at: usize) -> u16 {
        entry(list, at, |e, _| e.counts[2])
    }
    "bool (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_has_mac_address(_list: Token, _at: usize) -> bool {
        false
    }
    "const char* (*)(const dnsdist_ffi_ring_entry_list_t*, size_t)"
    fn dnsdist_ffi_ring_entry_get_mac_address(_list: Token, _at: usize) -> *const c_char {
        std::ptr::null()
    }
}

/// Makes a list of the last queries that `wanted` takes, youngest of each shard first; returns it with
/// their number. Without any there is none.
fn listed(wanted: impl Fn(&Record) -> bool) -> (Token, usize) {
    let entries = running(|call| {
        let current = call.current().try_borrow().ok()?;
        let configuration = &current.configuration;
        let shards = configuration.shards();
        let mut entries = Vec::new();
        for (at, shard) in shards.iter().enumerate() {
            // An equal part for each shard; what one leaves is for those behind.
            let room = (ENTRIES_MAX - entries.len()) / (shards.len() - at);
            let mut taken = 0;
            shard.traffic.last(|record, counts| {
                if wanted(&record) && taken < room {
                    let has_tls = configuration.has_tls(record.finished.listener);
                    let server = record.finished.backend.and_then(|slot| configuration.server(slot));
                    entries.push(RingEntry { record, counts, has_tls, server: server.map(|s| s.address) });
                    taken += 1;
                }
                taken < room
            });
        }
        Some(entries)
    });
    let entries = entries.flatten().unwrap_or_default();
    let count = entries.len();
    if count == 0 {
        return (std::ptr::null(), 0);
    }
    let list = with_handles(std::ptr::null(), |all| {
        Some(all.make(Object::Ring(RingEntries { entries, texts: Default::default() })))
    });
    (list, if list.is_null() { 0 } else { count })
}

/// Returns what `of` an entry is; nothing if there is none.
fn entry<R: Default>(list: Token, at: usize, of: impl FnOnce(&RingEntry, Tick) -> R) -> R {
    with_handles(R::default(), |all| match all.object(list)? {
        Object::Ring(ring) => ring.entries.get(at).map(|entry| of(entry, clock::now())),
        Object::Packet(_) | Object::Service(_) | Object::Texts(_) => None,
    })
}

/// Returns a text about an entry, which lives as long as the list: the one of this number.
fn text(list: Token, at: usize, number: usize, of: impl FnOnce(&RingEntry) -> String) -> *const c_char {
    with_handles(std::ptr::null(), |all| match all.object_mut(list)? {
        Object::Ring(ring) => {
            let entry = ring.entries.get(at)?;
            let text =
                ring.texts.entry((at, number)).or_insert_with(|| (of(entry) + "\0").into_bytes().into());
            Some(text.as_ptr().cast())
        }
        Object::Packet(_) | Object::Service(_) | Object::Texts(_) => None,
    })
}
