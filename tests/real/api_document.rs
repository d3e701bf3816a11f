//! The OpenAPI document of the API holds what the server does: bodies made of each schema, and spoilt, are sent to each
//! operation, and both judge them.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use regex_automata::meta::Regex;
use serde_json::{Map, Value, json};

use crate::instance::{Instance, backend, listen};
use crate::web::{fetch_with, local};

/// What no schema can say, by the words of the refusal: how two numbers relate, which actions belong to which chain, files
/// and rights of the machine, and how the parts of a name or a network are made.
const UNSAID: [&str; 6] = [
    "is above lazyHealthCheckSampleSize",
    "there is no action",
    "No such file or directory",
    "Operation not permitted",
    "domain name",
    "network",
];
/// Where the server takes more than the document says: nothing for a default, and what it does not look at.
const TAKEN: [&str; 2] = ["NewServer", "AllowFrom"];

/// A body of each schema that is taken.
fn good(schema: &str) -> Value {
    let rule = json!({"selector": "a.test", "action": {"name": "DropAction"}});
    match schema {
        "NewServer" => json!({"address": "127.0.0.1:5399"}),
        "ServerChange" => json!({"weight": 3}),
        "PoolChange" => json!({"policy": "wrandom"}),
        "NewRule" | "RuleChange" => rule,
        "GroupChange" => json!({"rules": [rule]}),
        "AclChange" => json!({"networks": ["127.0.0.0/8"]}),
        "AllowFrom" => json!({"name": "allow-from", "type": "ConfigSetting", "value": ["127.0.0.0/8"]}),
        other => panic!("no body of {other}"),
    }
}

struct Document(Value);

impl Document {
    /// Follows a reference.
    fn resolved<'d>(&'d self, schema: &'d Value) -> &'d Value {
        match schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
            Some(path) => self.0.pointer(path).expect("a schema"),
            None => schema,
        }
    }

    /// Whether a value is as its schema says (JSON Schema 2020-12, as far as the document uses it).
    fn admits(&self, schema: &Value, value: &Value) -> bool {
        let schema = self.resolved(schema);
        let Value::Object(words) = schema else { return schema != &json!(false) };
        words.iter().all(|(word, of)| self.holds(word, of, words, value))
    }

    fn holds(&self, word: &str, of: &Value, words: &Map<String, Value>, value: &Value) -> bool {
        let all = |of: &Value| of.as_array().expect("a list").clone();
        let (text, list, members) = (value.as_str(), value.as_array(), value.as_object());
        match word {
            "type" => match of.as_array() {
                Some(types) => types.iter().any(|of| is(of.as_str().expect("a type"), value)),
                None => is(of.as_str().expect("a type"), value),
            },
            "enum" => all(of).contains(value),
            "const" => of == value,
            "minimum" => value.as_f64().is_none_or(|n| n >= of.as_f64().expect("a number")),
            "maximum" => value.as_f64().is_none_or(|n| n <= of.as_f64().expect("a number")),
            "pattern" => text
                .is_none_or(|text| Regex::new(of.as_str().expect("a pattern")).expect("one").is_match(text)),
            "items" => list.is_none_or(|list| list.iter().all(|item| self.admits(of, item))),
            "minItems" => list.is_none_or(|list| list.len() as u64 >= of.as_u64().expect("a number")),
            "maxItems" => list.is_none_or(|list| list.len() as u64 <= of.as_u64().expect("a number")),
            "maxLength" => {
                text.is_none_or(|text| text.chars().count() as u64 <= of.as_u64().expect("a number"))
            }
            "contains" => list.is_none_or(|list| list.iter().any(|item| self.admits(of, item))),
            "minProperties" => members.is_none_or(|m| m.len() as u64 >= of.as_u64().expect("a number")),
            "required" => members
                .is_none_or(|m| all(of).iter().all(|name| m.contains_key(name.as_str().expect("a name")))),
            "properties" => members.is_none_or(|m| {
                let known = of.as_object().expect("members");
                known.iter().all(|(name, of)| m.get(name).is_none_or(|value| self.admits(of, value)))
            }),
            "additionalProperties" => members.is_none_or(|m| {
                m.iter()
                    .filter(|(name, _)| words["properties"].get(name).is_none())
                    .all(|(_, value)| self.admits(of, value))
            }),
            "anyOf" => all(of).iter().any(|of| self.admits(of, value)),
            "oneOf" => all(of).iter().filter(|of| self.admits(of, value)).count() == 1,
            "allOf" => all(of).iter().all(|of| self.admits(of, value)),
            "not" => !self.admits(of, value),
            "if" => !self.admits(of, value) || self.admits(&words["then"], value),
            "then" | "description" | "format" => true,
            other => panic!("the test does not know {other}"),
        }
    }

    /// Values near what a schema says, some of them wrong; `value` is a good one.
    fn tried(&self, schema: &Value, value: &Value, into: &mut Vec<Value>) {
        let schema = self.resolved(schema);
        into.extend([
            json!(null),
            json!(true),
            json!(false),
            json!(0),
            json!(5),
            json!(5.0),
            json!(-1),
            json!(1.5),
            json!(1e23),
            json!(""),
            json!("x"),
            json!("a\nb"),
            json!("a b"),
            json!([]),
            json!(["x"]),
            json!([""]),
            json!([5]),
            json!([null]),
            json!({}),
            json!({"x": 1}),
        ]);
        for (bound, step) in [("minimum", -1_i64), ("maximum", 1)] {
            if let Some(bound) = schema[bound].as_i64() {
                into.extend([json!(bound), json!(bound + step), json!(bound - step)]);
            } else if let Some(bound) = schema[bound].as_f64() {
                into.extend([json!(bound), json!(bound * if step < 0 { 0.5 } else { 2.0 })]);
            }
        }
        if let Some(most) = schema["maxLength"].as_u64() {
            into.extend([json!("n".repeat(most as usize)), json!("n".repeat(most as usize + 1))]);
        }
        into.extend(schema["enum"].as_array().into_iter().flatten().take(400).cloned());
        for name in schema["properties"]["name"]["enum"].as_array().into_iter().flatten() {
            into.extend([
                json!({"name": name}),
                json!({"name": name, "args": []}),
                json!({"name": name, "args": 5}),
            ]);
            into.push(json!({"name": name, "args": vec![json!("x"); 20]}));
        }
        for of in schema["anyOf"].as_array().into_iter().flatten() {
            self.tried(of, value, into);
        }
        if let Some(members) = value.as_object() {
            for name in members.keys() {
                let mut without = members.clone();
                without.remove(name);
                into.push(Value::Object(without));
            }
            let with = |name: &str, value: Value| {
                let mut with = members.clone();
                with.insert(name.to_owned(), value);
                Value::Object(with)
            };
            into.push(with("colour", json!(1)));
            for (name, of) in schema["properties"].as_object().into_iter().flatten() {
                let mut values = Vec::new();
                self.tried(of, members.get(name).unwrap_or(&Value::Null), &mut values);
                into.extend(values.into_iter().map(|value| with(name, value)));
            }
        }
        if let Some(first) = value.as_array().and_then(|list| list.first()) {
            let mut items = Vec::new();
            self.tried(&schema["items"], first, &mut items);
            into.extend(items.into_iter().map(|item| json!([first, item])));
        }
    }
}

fn is(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}

/// A connection to the server that is kept, with its answers.
fn verdict(
    stream: &mut Option<TcpStream>,
    web: SocketAddr,
    (method, path): (&str, &str),
    body: &str,
) -> (u16, String) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: key\r\nIf-Match: *\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for _ in 0..2 {
        let open = stream.get_or_insert_with(|| TcpStream::connect(web).expect("a connection"));
        if let Some(answer) = exchange(open, &head) {
            return answer;
        }
        // Connections end after a minute.
        *stream = None;
    }
    panic!("{method} {path} {body}: no answer");
}

fn exchange(stream: &mut TcpStream, request: &str) -> Option<(u16, String)> {
    stream.write_all(request.as_bytes()).ok()?;
    let (mut answer, mut bytes) = (Vec::new(), [0; 65_536]);
    loop {
        let read = stream.read(&mut bytes).ok().filter(|read| *read > 0)?;
        answer.extend_from_slice(&bytes[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0) {
            return Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()));
        }
    }
}

#[test]
fn the_document_admits_what_the_server_takes_and_lists_what_it_answers() {
    let (at, web) = (local(), local());
    const UUID: &str = "0a4bfe80-922e-4e2c-accb-ca92a4021f06";
    let lua = listen(at)
        + &backend(local(), ", id='one', healthCheckMode='down'")
        + &format!(
            "addAction('b.test', RCodeAction(3), {{uuid='{UUID}'}})\n\
             newServer{{address='127.0.0.1:5398', id='x', name='twice', healthCheckMode='up'}}\n\
             newServer{{address='127.0.0.1:5397', id='y', name='twice', healthCheckMode='up'}}\n\
             webserver('{web}') setWebserverConfig({{apiKey='key'}}) setAPIWritable(true)\n"
        );
    let mut instance = Instance::start(&lua);
    let (_, text) = fetch_with(web, "/api/v2/openapi.json", &["-H", "X-API-Key: key"]);
    let document: Value = serde_json::from_str(text.split_once("\r\n\r\n").expect("a body").1).expect("JSON");
    let document = Document(document);
    let (mut stream, mut wrong, mut operations) = (None, BTreeMap::<String, Vec<String>>::new(), 0);
    for (path, methods) in document.0["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let plain = path
                .replace("{server}", "one")
                .replace("{pool}", "p")
                .replace("{chain}", "query")
                .replace("{uuid}", UUID)
                .replace("{group}", "g");
            let method = method.to_uppercase();
            let has_dry_run =
                operation["parameters"].as_array().expect("a list").iter().any(|p| p["name"] == "dry-run");
            let target = if has_dry_run { format!("{plain}?dry-run=true") } else { plain.clone() };
            let mut note = |what: &str, of: String| {
                wrong.entry(format!("{method} {path}: {what}")).or_default().push(of);
            };
            if path.ends_with("/{server}") {
                let (status, text) =
                    verdict(&mut stream, web, (&method, &target.replace("one", "twice")), "{\"weight\": 3}");
                if operation["responses"].get(status.to_string()).is_none() {
                    note("an answer that is not listed", format!("{status} {text}"));
                }
            }
            if method != "GET" {
                let (status, text) = verdict(&mut stream, web, (&method, &target), &"x".repeat(300_000));
                stream = None;
                if operation["responses"].get(status.to_string()).is_none() {
                    note("an answer that is not listed", format!("{status} {text}"));
                }
            }
            let Some(schema) = operation["requestBody"]["content"]["application/json"].get("schema") else {
                continue;
            };
            operations += 1;
            let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()).expect("a name");
            let good = good(name);
            let mut tried = vec![good.clone()];
            document.tried(schema, &good, &mut tried);
            let mut seen = std::collections::BTreeSet::new();
            for body in tried {
                let text = body.to_string();
                if !seen.insert(text.clone()) {
                    continue;
                }
                let (status, answer) = verdict(&mut stream, web, (&method, &target), &text);
                let is_taken = matches!(status, 200 | 201);
                let is_admitted = document.admits(schema, &body);
                if operation["responses"].get(status.to_string()).is_none() {
                    note("an answer that is not listed", format!("{text}: {status} {answer}"));
                } else if is_admitted
                    && !is_taken
                    && status != 409
                    && !UNSAID.iter().any(|why| answer.contains(why))
                {
                    note("admitted and refused", format!("{text}: {answer}"));
                } else if is_taken && !is_admitted && !TAKEN.contains(&name) && !text.contains("null") {
                    note("taken and not admitted", text);
                }
            }
        }
    }
    assert!(operations >= 8, "{operations}");
    let shown: Vec<String> = wrong
        .iter()
        .map(|(what, of)| format!("{what}: {}\n  {}", of.len(), of[..of.len().min(60)].join("\n  ")))
        .collect();
    assert!(wrong.is_empty(), "{}", shown.join("\n"));
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}
