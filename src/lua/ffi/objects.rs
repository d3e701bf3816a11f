//! The C functions under the prelude's objects (`dq`, `dr`, names, addresses, sets), which compiled
//! Lua calls directly.
//!
//! The prelude has checked the types of all arguments, and that the object belongs to the running
//! call. Lengths are passed beside their bytes. Bytes that a function returns are valid until the
//! next one is called; their number is `size` of [`Live`](crate::lua::ffi::running_call::Live).

use std::ffi::{c_char, c_int};
use std::io::Write;
use std::net::Ipv6Addr;

use crate::base::addr::BackendSlot;
use crate::lua::ffi::c_functions;
use crate::lua::ffi::running_call::RunningCall;
use crate::lua::state::call_state::{CallState, Open};
use crate::rules::names::NameSet;
use crate::rules::script::Candidate;
use crate::wire::name;

/// The pointer that the prelude was given.
type At = *const RunningCall;

/// Dereferences that pointer.
///
/// # Safety
/// `place` is the pointer that the prelude of a state was given; the state's owner keeps its target
/// as long as the state.
unsafe fn at<'a>(call: At) -> &'a RunningCall {
    // SAFETY: the caller's promise.
    unsafe { &*call }
}

/// Calls `body` with the packet of the running call.
///
/// # Safety
/// As [`at`].
unsafe fn open<R>(call: At, otherwise: R, body: impl FnOnce(&mut Open<'_, '_, '_>) -> R) -> R {
    // SAFETY: the caller's promise.
    unsafe { at(call) }.open(body).unwrap_or(otherwise)
}

/// Calls `body` with a server, and what a running policy was given of it.
///
/// # Safety
/// As [`at`].
unsafe fn of_server<R>(
    call: At,
    slot: c_int,
    otherwise: R,
    body: impl FnOnce(&CallState, BackendSlot, Option<&Candidate>) -> R,
) -> R {
    // SAFETY: the caller's promise.
    let call = unsafe { at(call) };
    let (Ok(current), Ok(slot)) = (call.current().try_borrow(), u16::try_from(slot)) else {
        return otherwise;
    };
    let candidate = current.candidates.iter().find(|c| c.slot.0 == slot);
    body(&current, BackendSlot(slot), candidate)
}

/// Returns the bytes of a Lua string.
///
/// # Safety
/// `text` points to `length` bytes that live as long as the call.
unsafe fn bytes<'a>(text: *const c_char, length: c_int) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(text.cast(), usize::try_from(length).unwrap_or(0)) }
}

/// Returns bytes to Lua.
fn answer(call: &RunningCall, bytes: &[u8]) -> *const u8 {
    call.write(|live| live.size = u32::try_from(bytes.len()).unwrap_or(0));
    bytes.as_ptr()
}

/// Returns to Lua what `write` writes.
fn written(call: &RunningCall, write: impl FnOnce(&mut Vec<u8>)) -> *const u8 {
    let Ok(mut current) = call.current().try_borrow_mut() else { return answer(call, &[]) };
    current.answer.clear();
    write(&mut current.answer);
    answer(call, &current.answer)
}

/// Appends the text of a name, with a dot at its end.
fn text_of(wire: &[u8], out: &mut Vec<u8>) {
    let mut rest = wire;
    while let Some((&length @ 1.., behind)) = rest.split_first() {
        let Some((label, behind)) = behind.split_at_checked(usize::from(length)) else { break };
        if !label.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_')) {
            out.clear();
            break;
        }
        out.extend_from_slice(label);
        out.push(b'.');
        rest = behind;
    }
    if out.is_empty() {
        // Writing to a Vec cannot fail.
        let _ = write!(out, "{}", name::Text(wire));
    }
}

fn flag(on: bool) -> c_int {
    c_int::from(on)
}

c_functions! {
    "void (*)(void *, int, int)"
    fn set_byte(call: At, at: c_int, byte: c_int) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        // SAFETY: as the macro says.
        unsafe { open(call, (), |c| c.set_byte(at, byte.to_le_bytes()[0])) }
    }
    "const uint8_t *(*)(void *, const char *, int)"
    fn tag(call: At, name: *const c_char, length: c_int) -> *const u8 {
        // SAFETY: as the macro says.
        let (call, name) = unsafe { (at(call), bytes(name, length)) };
        call.open(|c| answer(call, c.query_state().tags.value(name).unwrap_or_default())).unwrap_or_else(|| answer(call, &[]))
    }
    "int (*)(void *, const char *, int, const char *, int)"
    fn set_tag(call: At, name: *const c_char, length: c_int, value: *const c_char, value_length: c_int) -> c_int {
        // SAFETY: as the macro says.
        unsafe {
            let (name, value) = (bytes(name, length), bytes(value, value_length));
            open(call, 0, |c| flag(c.tags_mut().set(name, value)))
        }
    }
    "void (*)(void *, const char *, int)"
    fn unset_tag(call: At, name: *const c_char, length: c_int) {
        // SAFETY: as the macro says.
        unsafe {
            let name = bytes(name, length);
            open(call, (), |c| c.tags_mut().unset(name));
        }
    }
    "const uint8_t *(*)(void *)"
    fn pool(call: At) -> *const u8 {
        // SAFETY: as the macro says.
        let call = unsafe { at(call) };
        call.open(|c| answer(call, c.current.configuration.pool(c.query_state().pool).as_bytes())).unwrap_or_else(|| answer(call, &[]))
    }
    "int (*)(void *, const char *, int)"
    fn set_pool(call: At, name: *const c_char, length: c_int) -> c_int {
        // SAFETY: as the macro says.
        unsafe {
            let name = bytes(name, length);
            open(call, 0, |c| {
                let slot = c.current.configuration.pool_named(name);
                if let Some(slot) = slot {
                    c.query_state_mut().pool = slot;
                }
                flag(slot.is_some())
            })
        }
    }
    "int (*)(void *, int)"
    fn number(call: At, which: c_int) -> c_int {
        // SAFETY: as the macro says.
        unsafe {
            open(call, 0, |c| match which {
                0 if c.context().client.peer.is_ipv4() => c.query_state().ecs.v4.into(),
                0 => c.query_state().ecs.v6.into(),
                1 => c.query_state().restarts.into(),
                2 => flag(c.query_state().protocol.is_stream()),
                3 => flag(c.query_state().skip_cache),
                4 => flag(c.query_state().ecs.wanted),
                5 => flag(c.query_state().ecs.replace),
                _ => flag(c.opt().is_some_and(|o| o.dnssec_ok)),
            })
        }
    }
    "void (*)(void *, int, int)"
    fn set_number(call: At, which: c_int, value: c_int) {
        // SAFETY: as the macro says.
        unsafe {
            open(call, (), |c| match which {
                0 => c.set_ecs_prefix_length(u8::try_from(value).unwrap_or(u8::MAX)),
                3 => c.query_state_mut().skip_cache = value != 0,
                4 => c.query_state_mut().ecs.wanted = value != 0,
                _ => c.query_state_mut().ecs.replace = value != 0,
            });
        }
    }
    "int (*)(void *, int)"
    fn candidate(call: At, number: c_int) -> c_int {
        // SAFETY: as the macro says.
        unsafe {
            open(call, -1, |c| {
                let number = usize::try_from(number).ok().and_then(|n| n.checked_sub(1));
                number.and_then(|n| c.current.candidates.get(n)).map_or(-1, |c| c.slot.0.into())
            })
        }
    }
    "double (*)(void *, int)"
    fn outstanding(call: At, slot: c_int) -> f64 {
        // SAFETY: as the macro says.
        unsafe {
            of_server(call, slot, 0.0, |current, slot, candidate| {
                candidate.map_or_else(|| current.configuration.outstanding(slot), |c| c.outstanding).into()
            })
        }
    }
    "int (*)(void *, int)"
    fn within_qps(call: At, slot: c_int) -> c_int {
        // SAFETY: as the macro says.
        unsafe { of_server(call, slot, 0, |_, _, candidate| flag(candidate.is_none_or(|c| c.within_qps))) }
    }
    "int (*)(void *, int)"
    fn is_up(call: At, slot: c_int) -> c_int {
        // SAFETY: as the macro says.
        unsafe {
            of_server(call, slot, 0, |current, slot, candidate| {
                flag(candidate.is_some() || current.configuration.is_up(slot))
            })
        }
    }
    "double (*)(void *, int)"
    fn latency(call: At, slot: c_int) -> f64 {
        // SAFETY: as the macro says.
        unsafe {
            of_server(call, slot, 0.0, |current, slot, candidate| {
                let us = candidate.map_or_else(|| current.configuration.latency_us(slot), |c| c.latency_us);
                // In milliseconds, as everywhere in dnsdist.
                f64::from(us) / 1_000.0
            })
        }
    }
    "int (*)(const char *, int, const char *, int)"
    fn part_of(name: *const c_char, length: c_int, suffix: *const c_char, suffix_length: c_int) -> c_int {
        // SAFETY: as the macro says.
        let (name, suffix) = unsafe { (bytes(name, length), bytes(suffix, suffix_length)) };
        flag(is_part_of(name, suffix))
    }
    "const uint8_t *(*)(void *, const char *, int)"
    fn text(call: At, wire: *const c_char, length: c_int) -> *const u8 {
        // SAFETY: as the macro says.
        let (call, wire) = unsafe { (at(call), bytes(wire, length)) };
        written(call, |out| text_of(wire, out))
    }
    "const uint8_t *(*)(void *, const char *, int)"
    fn address_text(call: At, address: *const c_char, length: c_int) -> *const u8 {
        // SAFETY: as the macro says.
        let (call, address) = unsafe { (at(call), bytes(address, length)) };
        written(call, |out| {
            // Writing to a Vec cannot fail.
            let _ = write!(out, "{}", mapped(address).to_canonical());
        })
    }
    "int (*)(void *, int, const char *, int)"
    fn suffix(call: At, set: c_int, wire: *const c_char, length: c_int) -> c_int {
        // SAFETY: as the macro says.
        let (call, wire) = unsafe { (at(call), bytes(wire, length)) };
        let found = names(call, set, wire).and_then(|s| s.suffix_of(wire));
        found.and_then(|at| c_int::try_from(at).ok()).unwrap_or(-1)
    }
    "int (*)(void *, int, const char *, int)"
    fn has_name(call: At, set: c_int, wire: *const c_char, length: c_int) -> c_int {
        // SAFETY: as the macro says.
        let (call, wire) = unsafe { (at(call), bytes(wire, length)) };
        flag(names(call, set, wire).is_some_and(|s| s.contains(wire)))
    }
    "int (*)(void *, int, const char *, int)"
    fn network_has(call: At, set: c_int, address: *const c_char, length: c_int) -> c_int {
        // SAFETY: as the macro says.
        let (call, address) = unsafe { (at(call), bytes(address, length)) };
        let networks = usize::try_from(set).ok().and_then(|n| call.shared.networks.get(n));
        let set = networks.and_then(|n| n.set());
        flag(set.is_some_and(|s| s.contains(&mapped(address).octets())))
    }
}

/// Returns a set of names, if `wire` is a name.
fn names<'p>(call: &'p RunningCall, set: c_int, wire: &[u8]) -> Option<&'p NameSet> {
    let names = usize::try_from(set).ok().and_then(|n| call.shared.names.get(n))?;
    names.set().filter(|_| name::end_plain(wire, 0) == Some(wire.len()))
}

/// Returns 16 bytes as an address; a shorter one is padded with zeros.
fn mapped(bytes: &[u8]) -> Ipv6Addr {
    let mut whole = [0; 16];
    whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    whole.into()
}

/// Returns whether a name is equal to or below another one, both in wire format.
fn is_part_of(name: &[u8], suffix: &[u8]) -> bool {
    let Some(surplus) = name.len().checked_sub(suffix.len()) else { return false };
    let mut at = 0;
    while at < surplus {
        at += usize::from(name[at]) + 1;
    }
    // Length bytes are below 'A', so a whole wire name may be compared as text.
    at == surplus && name[at..].eq_ignore_ascii_case(suffix)
}
