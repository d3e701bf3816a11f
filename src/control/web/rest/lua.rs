//! JSON of clients as Lua of ours: values, quoted, and calls of the functions in our tables. No text
//! of a client becomes Lua by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value};

use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::signature::Signature;
use crate::config::functions::{Entry, FUNCTIONS, POLICIES, SERVER_ARGUMENTS, SERVER_TLS_ARGUMENTS};
use crate::lua::front_end::{answers, query_actions, response_actions, selectors};

/// Deepest nesting of what becomes one expression; Lua's own limit is 200.
const DEPTH_MAX: usize = 50;

/// Arguments of `newServer` that run programs or functions, or write files, which only the file and
/// the console may.
pub(super) const SERVER_FORBIDDEN: [&str; 5] =
    ["checkScript", "checkScriptExit", "checkFunction", "checkResponseFunction", "keyLogFile"];

/// Returns a text as a literal of Lua, on one line and of printable ASCII.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(*byte));
            }
            b' '..=b'~' => out.push(char::from(*byte)),
            // Three digits, as a digit may follow.
            other => _ = write!(out, "\\{other:03}"),
        }
    }
    out.push('"');
    out
}

/// What a call may name at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Callee {
    /// A selector.
    Selector,
    /// An action on queries.
    Action,
    /// An action on responses.
    ResponseAction,
    /// A policy that is made of another one.
    Policy,
}

/// Whether a selector or action runs code of the caller or writes files, which only the file and the
/// console may.
fn is_forbidden(name: &str) -> bool {
    name.contains("Lua") || name == "LogAction" || name == "LogResponseAction"
}

type Names = LazyLock<BTreeSet<&'static str>>;

fn allowed(entries: impl Iterator<Item = &'static Entry>) -> BTreeSet<&'static str> {
    entries.map(|entry| entry.name).filter(|name| !is_forbidden(name)).collect()
}

/// Those that make a set, of which only a function of Lua takes the selector.
const SETS: [&str; 2] = ["TimedIPSetRule", "newTimedIPSetRule"];
static SELECTORS: Names = LazyLock::new(|| allowed(selectors().filter(|entry| !SETS.contains(&entry.name))));
static ACTIONS: Names = LazyLock::new(|| allowed(query_actions().chain(answers())));
static RESPONSE_ACTIONS: Names = LazyLock::new(|| allowed(response_actions()));
/// What policies are made with.
const COMBINATORS: [&str; 4] = ["bounded", "concentrate", "hashBy", "ordered"];
/// Objects among arguments.
const OBJECTS: [&str; 4] = ["newCA", "newDNSName", "newNetmask", "newSVCRecordParameters"];

impl Callee {
    /// What may be called there, in the order of the names, with the arguments.
    pub(super) fn signatures(self) -> BTreeMap<&'static str, Signature> {
        let all: Vec<&Entry> = match self {
            Self::Selector => selectors().collect(),
            Self::Action => query_actions().chain(answers()).collect(),
            Self::ResponseAction => response_actions().collect(),
            Self::Policy => FUNCTIONS.iter().collect(),
        };
        // It is a policy and a function.
        let concentrate = Some(("concentrate", Signature::new("{...}"))).filter(|_| self == Self::Policy);
        all.into_iter()
            .filter(|entry| self.takes(entry.name))
            .map(|entry| (entry.name, entry.signature()))
            .chain(concentrate)
            .collect()
    }

    fn takes(self, name: &str) -> bool {
        match self {
            Self::Selector => SELECTORS.contains(name),
            Self::Action => ACTIONS.contains(name),
            Self::ResponseAction => RESPONSE_ACTIONS.contains(name),
            Self::Policy => COMBINATORS.contains(&name),
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Selector => "selector",
            Self::Action => "action",
            Self::ResponseAction => "response action",
            Self::Policy => "policy",
        }
    }
}

/// Writes a call, `{"name": ..., "args": [...]}`, as an expression.
///
/// # Errors
/// What is wrong with it.
pub(super) fn call(callee: Callee, value: &Value) -> Result<String, String> {
    let what = callee.what();
    let Value::Object(members) = value else {
        return Err(format!("the {what} is no object {{\"name\": ..., \"args\": [...]}}"));
    };
    if let Some(odd) = members.keys().find(|key| !["name", "args"].contains(&key.as_str())) {
        return Err(format!("the {what} has an unknown member {odd:?}; expected name and args"));
    }
    let name = name_of(members).ok_or_else(|| format!("the {what} has no name"))?;
    if !callee.takes(name) {
        return Err(if is_forbidden(name) {
            format!("{name} runs code or writes files: only the file and the console may")
        } else {
            format!("there is no {what} {name:?}")
        });
    }
    let mut out = String::new();
    write_call(&mut out, name, members.get("args"), 0)?;
    Ok(out)
}

fn name_of(members: &Map<String, Value>) -> Option<&str> {
    members.get("name").and_then(Value::as_str)
}

fn write_call(out: &mut String, name: &str, args: Option<&Value>, depth: usize) -> Result<(), String> {
    // It is one of ours, an identifier.
    out.push_str(name);
    out.push('(');
    match args {
        None => {}
        Some(Value::Array(args)) => {
            for (at, arg) in args.iter().enumerate() {
                if at > 0 {
                    out.push_str(", ");
                }
                write_value(out, arg, depth + 1)?;
            }
        }
        Some(_) => return Err(format!("the args of {name} are no list")),
    }
    out.push(')');
    Ok(())
}

/// Writes a value as an expression; calls and constants may stand in it.
///
/// # Errors
/// What is wrong with it.
pub(super) fn value(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    write_value(&mut out, value, 0)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Value, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
    }
    match value {
        Value::Null => out.push_str("nil"),
        Value::Bool(switch) => _ = write!(out, "{switch}"),
        // A minus sign could become part of a comment's beginning, were it not for the space.
        Value::Number(number) => _ = write!(out, " {number}"),
        Value::String(text) => out.push_str(&quoted(text.as_bytes())),
        Value::Array(list) => {
            out.push('{');
            for item in list {
                if item.is_null() {
                    return Err("null in a list".to_owned());
                }
                write_value(out, item, depth + 1)?;
                out.push_str(", ");
            }
            out.push('}');
        }
        Value::Object(members) => write_object(out, members, depth)?,
    }
    Ok(())
}

fn write_object(out: &mut String, members: &Map<String, Value>, depth: usize) -> Result<(), String> {
    if members.len() == 2
        && let (Some(name), Some(args)) = (name_of(members), members.get("args"))
    {
        let known = [Callee::Selector, Callee::Action, Callee::ResponseAction, Callee::Policy];
        if !known.iter().any(|callee| callee.takes(name)) && !OBJECTS.contains(&name) {
            return Err(format!("{name:?} cannot be called here"));
        }
        return write_call(out, name, Some(args), depth);
    }
    if members.len() == 1
        && let Some(name) = members.get("constant")
    {
        let name = name.as_str().filter(|name| is_constant(name));
        let name = name.ok_or("a constant is the name of a policy, or one as \"DNSRCode.REFUSED\"")?;
        out.push_str(name);
        return Ok(());
    }
    if members.len() == 1
        && let Some(text) = members.get("base64")
    {
        let bytes = text.as_str().and_then(|text| BASE64.decode(text).ok());
        out.push_str(&quoted(&bytes.ok_or("base64 is no text in base64")?));
        return Ok(());
    }
    out.push('{');
    for (name, value) in members {
        // Numbers are keys of their own in Lua.
        match name.parse::<u32>().ok().filter(|number| number.to_string() == *name) {
            Some(number) => _ = write!(out, "[{number}] = "),
            None => _ = write!(out, "[{}] = ", quoted(name.as_bytes())),
        }
        write_value(out, value, depth + 1)?;
        out.push_str(", ");
    }
    out.push('}');
    Ok(())
}

fn is_constant(name: &str) -> bool {
    let is_enumerated = |(of, member): (&str, &str)| {
        ENUMERATIONS
            .iter()
            .any(|(name, members)| *name == of && members.iter().any(|(name, _)| *name == member))
    };
    POLICIES.contains(&name) || name.split_once('.').is_some_and(is_enumerated)
}

/// Writes the table of `newServer`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn server(members: &Map<String, Value>) -> Result<String, String> {
    let known = || SERVER_ARGUMENTS.iter().chain(SERVER_TLS_ARGUMENTS).map(|entry| entry.name);
    for name in members.keys() {
        if SERVER_FORBIDDEN.contains(&name.as_str()) {
            return Err(format!("{name} runs code or writes files: only the file and the console may"));
        }
        if !known().any(|of| of == name) {
            return Err(format!("newServer has no argument {name:?}"));
        }
    }
    value(&Value::Object(members.clone()))
}

#[cfg(test)]
mod tests {
    use mlua::Lua;
    use serde_json::json;

    use super::*;

    const HOSTILE: [&str; 9] = [
        "\"",
        "\\",
        "\\\"..os.exit()..\"",
        "]]..x..[[",
        "a\nb\r\0c",
        "1\u{7f}2",
        "--[==[ \u{e9}\u{1f600}",
        "\") os.exit() --",
        "\\065",
    ];

    #[test]
    fn every_text_is_the_same_in_lua_and_stays_on_its_line() {
        let lua = Lua::new();
        for text in HOSTILE {
            let written = quoted(text.as_bytes());
            assert!(written.bytes().all(|b| (b' '..=b'~').contains(&b)), "{written}");
            let read: mlua::String = lua.load(format!("return {written}")).eval().expect("Lua");
            assert_eq!(read.as_bytes(), text.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        let read: mlua::String = lua.load(format!("return {}", quoted(&all))).eval().expect("Lua");
        assert_eq!(read.as_bytes(), all);
    }

    #[test]
    fn values_are_those_of_json() {
        let lua = Lua::new();
        let same = |json: Value, lua_test: &str| {
            let written = value(&json).expect("Lua");
            let fine: bool = lua.load(format!("local v = {written} return {lua_test}")).eval().expect("Lua");
            assert!(fine, "{json}: {written}");
        };
        same(
            json!([1, -2.5, "x", true]),
            "v[1] == 1 and v[2] == -2.5 and v[3] == 'x' and v[4] == true and #v == 4",
        );
        same(json!({"a": {"b": 1}}), "v.a.b == 1");
        same(json!({"7": "seven", "007": 1}), "v[7] == 'seven' and v['007'] == 1");
        same(json!({"base64": "AAECAw=="}), "v == '\\0\\1\\2\\3'");
        for text in HOSTILE {
            let written = value(&json!({text: text})).expect("Lua");
            let table: mlua::Table = lua.load(format!("return {written}")).eval().expect("Lua");
            assert_eq!(table.get::<mlua::String>(text).expect("a member").as_bytes(), text.as_bytes());
        }
        assert!(value(&json!([null])).is_err());
        let mut deep = json!(1);
        for _ in 0..=DEPTH_MAX {
            deep = json!([deep]);
        }
        assert!(value(&deep).expect_err("too deep").contains("deeper"));
    }

    #[test]
    fn only_our_functions_are_called() {
        let selector = |value| call(Callee::Selector, &value);
        assert_eq!(
            selector(json!({"name": "QTypeRule", "args": ["AAAA"]})).as_deref(),
            Ok("QTypeRule(\"AAAA\")")
        );
        let both = json!({"name": "AndRule", "args": [[{"name": "TCPRule", "args": [true]},
            {"name": "OpcodeRule", "args": [{"constant": "DNSOpcode.Update"}]}]]});
        assert_eq!(selector(both).as_deref(), Ok("AndRule({TCPRule(true), OpcodeRule(DNSOpcode.Update), })"));
        for (wrong, why) in [
            (json!({"name": "os.exit", "args": []}), "no selector"),
            (json!({"name": "DropAction"}), "no selector"),
            (json!({"name": "LuaFFIPerThreadRule", "args": ["return os.exit"]}), "runs code"),
            (json!({"name": "LuaRule", "args": ["x"]}), "runs code"),
            (json!({"name": "AllRule", "args": {}}), "no list"),
            (json!({"name": "AllRule", "code": "x"}), "unknown member"),
            (json!({"name": 5}), "no name"),
            (json!("AllRule()"), "no object"),
            (json!({"name": "NotRule", "args": [{"name": "os.exit", "args": []}]}), "cannot be called"),
            (json!({"name": "NotRule", "args": [{"name": "LuaRule", "args": []}]}), "cannot be called"),
            (json!({"name": "OpcodeRule", "args": [{"constant": "os.exit()"}]}), "a constant is"),
            (json!({"name": "OpcodeRule", "args": [{"constant": "DNSOpcode.x or os"}]}), "a constant is"),
        ] {
            let error = selector(wrong.clone()).expect_err("refused");
            assert!(error.contains(why), "{wrong}: {error}");
        }
        for name in ["LogAction", "LuaAction", "LuaFFIPerThreadAction"] {
            assert!(call(Callee::Action, &json!({"name": name})).is_err(), "{name}");
        }
        assert!(call(Callee::ResponseAction, &json!({"name": "DropAction"})).is_err());
        for wrong in
            [json!({"checkScript": ["/bin/sh"]}), json!({"keyLogFile": "/x"}), json!({"adress": "x"})]
        {
            assert!(server(wrong.as_object().expect("an object")).is_err(), "{wrong}");
        }
    }
}
