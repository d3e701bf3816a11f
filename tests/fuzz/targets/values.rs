//! Any text as a value of configurations and command lines: a parsed value is formatted so that it
//! can be parsed again, and evaluation of expressions ends.

use std::cell::RefCell;

use dnslob::config::{flags, value};
use dnslob::rules::pattern::{Pattern, PatternCache};
use dnslob::wire::name;

/// Longest expression, bytes: expressions that take long to compile have a test of their own.
const PATTERN_MAX: usize = 64;

pub(crate) fn target(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = &*text;
    if let Ok(address) = value::address(text) {
        assert_eq!(value::address(&address.to_string()), Ok(address));
        assert_eq!(value::service_address(&address.to_string()), Ok(address));
    }
    if let Ok(span) = value::span(text)
        && span.0.is_multiple_of(1_000)
    {
        assert_eq!(value::span(&value::span_text(span)), Ok(span), "{}", value::span_text(span));
    }
    if let Ok(cpus) = value::cpus(text) {
        assert_eq!(value::cpus(&value::cpus_text(&cpus)), Ok(cpus));
    }
    let _ = (value::fast_open_key(text), value::source(text), value::interface(text));
    names(text);
    patterns(text);
    // Options that only print something about the program have no configuration.
    let words = text.split_whitespace().take(16);
    let _ = flags::parse(std::iter::once("dnslob").chain(words));
}

fn names(text: &str) {
    if let Ok(wire) = name::from_text(text) {
        assert!(wire.len() <= name::LEN_MAX);
        assert_eq!(name::end_plain(&wire, 0), Some(wire.len()));
        assert_eq!(name::from_text(&name::Text(&wire).to_string()), Ok(wire));
    }
    if let Ok(qname) = value::qname(text) {
        assert_eq!(value::qname(&qname), Ok(qname.clone()));
        assert!(value::wire_name(&qname).is_ok(), "{qname:?} can be queried");
    }
}

thread_local! {
    static CACHE: RefCell<PatternCache> = RefCell::default();
}

fn patterns(text: &str) {
    if text.len() > PATTERN_MAX {
        return;
    }
    for whole in [false, true] {
        let Ok(pattern) = Pattern::new(text, whole) else { continue };
        assert_eq!(pattern.text(), text);
        CACHE.with_borrow_mut(|cache| {
            for qname in [&b"\0"[..], b"\x03www\x07example\x03com\0", b"\x02\0\xff\x01.\0"] {
                let first = pattern.matches(qname, cache);
                assert_eq!(pattern.matches(qname, cache), first);
            }
            cache.clear();
        });
    }
}
