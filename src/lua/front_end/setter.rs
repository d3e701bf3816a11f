//! Commands that only say a setting: when it is so already, they are no change.

use mlua::{Lua, Value};

use crate::config::functions::{BENCH_RULE, POLICIES, functions};
use crate::config::options::SETTINGS;

/// Whether a command is the call of a setter of dnslob, not of a function of the configuration's own,
/// with literals and nothing else: it does nothing besides.
pub(super) fn is_literal(lua: &Lua, text: &str) -> bool {
    let text = text.trim();
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let (name, rest) = text.split_at(text.bytes().position(|b| !is_name(b)).unwrap_or(text.len()));
    let inner = rest.trim_start().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    name.starts_with("set") && inner.is_some_and(are_literals) && is_own(lua, name)
}

/// Whether a command measures a rule: that is made for it, and nowhere afterwards.
pub(super) fn is_measurement(lua: &Lua, text: &str) -> bool {
    let rest = text.trim().strip_prefix(BENCH_RULE.name);
    rest.is_some_and(|rest| rest.trim_start().starts_with('(')) && is_own(lua, BENCH_RULE.name)
}

/// Whether the global of this name is the function that dnslob has given it.
fn is_own(lua: &Lua, name: &str) -> bool {
    let is_known = functions().any(|entry| entry.name == name)
        || SETTINGS.iter().flat_map(|setting| setting.lua).any(|setter| setter.name == name);
    let source = match lua.globals().raw_get::<Value>(name) {
        Ok(Value::Function(function)) => function.info().source,
        _ => None,
    };
    // Chunks of a configuration are named by their files.
    is_known && source.is_some_and(|source| source.starts_with('='))
}

/// Whether a list of arguments has texts, numbers, tables of them, and names of policies only.
fn are_literals(text: &str) -> bool {
    let mut rest = text.trim_start();
    while let Some(first) = rest.bytes().next() {
        let length = match first {
            b'"' | b'\'' => match quoted(rest) {
                Some(length) => length,
                None => return false,
            },
            b'-' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => return false,
            b'-' | b'.' | b'0'..=b'9' => {
                let is_number = |b: u8| b.is_ascii_alphanumeric() || b == b'.';
                1 + rest.bytes().skip(1).take_while(|b| is_number(*b)).count()
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                let (name, behind) = (&rest[..length], rest[length..].trim_start());
                // A name in front of a table, a text or a parenthesis would be a call.
                let is_key = behind.starts_with('=') && !behind.starts_with("==");
                let ends = behind.is_empty() || behind.starts_with([',', ';', '}']);
                let is_value = ["true", "false", "nil"].contains(&name) || POLICIES.contains(&name);
                if !(is_key || ends && is_value) {
                    return false;
                }
                length
            }
            b'{' | b'}' | b',' | b';' | b'=' => 1,
            // What is computed, long texts and comments are left to the eye.
            _ => return false,
        };
        rest = rest[length..].trim_start();
    }
    true
}

/// Returns the length of a text in quotation marks; none if it does not end within its line.
fn quoted(text: &str) -> Option<usize> {
    let mark = text.bytes().next()?;
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'\n' => return None,
            _ if byte == mark => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_told_from_what_does_something() {
        for text in [
            "",
            " true ",
            "'a', \"b(\\\")\", -1, 0x1F, 2.5e3",
            "roundrobin",
            "{'192.0.2.0/24', '!192.0.2.7'}",
            "{acl='192.0.2.0/24', n=1; on=true, other={1, nil}}",
        ] {
            assert!(are_literals(text), "{text}");
        }
        for text in [
            "f()",
            "f{}",
            "f'x'",
            "roundrobin{}",
            "roundrobin 'x'",
            "roundrobin.x",
            "roundrobin == x",
            "mode",
            "{[f]=1}",
            "1 -- 2",
            "[[x]]",
            "'x",
            "'x\n'",
            "1) f(2",
            "#'x'",
        ] {
            assert!(!are_literals(text), "{text}");
        }
        // Two numbers apart are no comment.
        assert!(are_literals("1, -2"));
    }
}
