//! The OpenAPI document, made of the table of operations and of the functions that rules may name.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::needs::{Need, SERVER_NEEDS};
use crate::config::functions::{Entry, POLICIES, SERVER_ARGUMENTS, SERVER_TLS_ARGUMENTS};
use crate::control::web::rest::lua::{Callee, SERVER_FORBIDDEN};
use crate::control::web::rest::operations::{Id, Method, OPERATIONS, Operation, Parameter, RULES_MAX};
use crate::control::web::rest::read::CHAINS;
use crate::stats::top::{LISTS, ROWS_MAX, WINDOW_MAX};

/// Largest order, weight and the like.
const WEIGHT_MAX: u32 = i32::MAX as u32;
/// A text that stays within its line.
const PRINTABLE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// A name in presentation format: at least its characters.
const NAME: &str = "^[!-~]+$";
/// A network, which may be an exception: at least its characters.
const NETWORK: &str = "^!?[0-9A-Fa-f:.]*[:.][0-9A-Fa-f:.]*(/[0-9]{1,3})?$";
/// The two ways to write a UUID.
const UUID: &str = "^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$";

/// The document.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[word(operation.method)] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "dnslob",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Reads and changes the configuration of a running dnslob. Every representation has the \
                generation of the configuration as its ETag; a change names it in If-Match. A change is compiled \
                and published as a whole, or nothing changes.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "security": [{"password": []}, {"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "password": {"type": "http", "scheme": "basic"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
            "schemas": schemas(),
        },
    })
}

const fn word(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Put => "put",
        Method::Post => "post",
        Method::Patch => "patch",
        Method::Delete => "delete",
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn described(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation.path.split('/').filter_map(in_path).collect();
    parameters.extend(operation.query.iter().map(in_query));
    let is_change = operation.changes();
    if is_change && operation.id.is_v2() {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": true, "schema": {"type": "string"},
            "description": "The ETag of what was read; * for whatever is in force.",
        }));
    }
    let mut responses = json!({});
    let etag = json!({"ETag": {"schema": {"type": "string"}, "description": "The generation of the configuration."}});
    let success = operation.status();
    if success.is_success() {
        let mut statuses = vec![success.as_str()];
        // A dry run creates nothing.
        if is_change && success.as_u16() != 200 {
            statuses.push("200");
        }
        let kind = if operation.id == Id::Events { "text/event-stream" } else { "application/json" };
        for status in statuses {
            responses[status] = json!({
                "description": operation.doc,
                "headers": etag,
                "content": {kind: {"schema": reference(operation.answer)}},
            });
        }
    }
    for (status, description) in problems(operation) {
        responses[status] = json!({
            "description": description,
            "content": {"application/problem+json": {"schema": reference("Problem")}},
        });
    }
    let mut described = json!({
        "operationId": format!("{:?}", operation.id),
        "summary": operation.doc,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = operation.body {
        described["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": reference(body)}}});
    }
    described
}

/// What a segment of a path stands for, if it is a parameter.
fn in_path(segment: &str) -> Option<Value> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let schema = match name {
        "chain" => json!({"enum": CHAINS}),
        "group" => json!({"type": "string", "minLength": 1, "maxLength": 255}),
        "uuid" => json!({"type": "string", "format": "uuid"}),
        _ => json!({"type": "string", "minLength": 1}),
    };
    Some(json!({"name": name, "in": "path", "required": true, "schema": schema}))
}

fn in_query(parameter: &Parameter) -> Value {
    let mut schema = json!({"type": parameter.kind});
    match parameter.name {
        "limit" => schema = json!({"type": "integer", "minimum": 0, "maximum": RULES_MAX}),
        "offset" => schema = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        "from" => schema = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        "what" => schema = json!({"enum": LISTS}),
        "window" => schema = json!({"type": "integer", "minimum": 1, "maximum": WINDOW_MAX}),
        "n" => schema = json!({"type": "integer", "minimum": 1, "maximum": ROWS_MAX}),
        "slower" => schema = json!({"type": "integer", "minimum": 0, "maximum": u32::MAX / 1_000}),
        "range" => schema = json!({"enum": [300, 3600, 86400]}),
        _ => {}
    }
    json!({
        "name": parameter.name, "in": "query", "required": parameter.required, "schema": schema,
        "description": parameter.doc,
    })
}

/// The errors that an operation may be answered with.
fn problems(operation: &Operation) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("400", "The request is malformed."),
        ("401", "No password and no key, or wrong ones."),
        ("404", "There is no such thing."),
        ("503", "The process ends, or there are too many streams."),
        ("408", "The request was not complete in time."),
    ];
    if operation.id == Id::Server {
        all.push(("409", "There are several."));
    }
    if operation.method != Method::Get {
        all.push(("413", "The body is longer than 256 kB."));
    }
    if operation.id == Id::Top {
        all.push(("503", "Nothing is counted: see setRingBuffersSize."));
    }
    if operation.changes() {
        all.extend([
            ("403", "The API may change nothing: see setAPIWritable."),
            ("409", "It is there, there are several, or something needs it."),
            ("422", "The configuration does not allow it."),
            ("500", "The directory of setAPIWritable cannot be written."),
            ("504", "The change takes long, and may yet come into force."),
            ("507", "The directory of setAPIWritable is full."),
        ]);
        if operation.id.is_v2() {
            all.extend([
                ("412", "Another configuration is in force than the one that was read."),
                ("415", "The body is not application/json."),
                ("428", "If-Match is missing."),
            ]);
        }
    }
    all
}

fn texts() -> Value {
    json!({"type": "array", "items": {"type": "string"}})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

/// What was compared of the queries of a shadow pool.
fn shadow() -> Value {
    let text = || json!({"type": "string"});
    whole(json!({
        "pool": text(), "queries": count(),
        "answers": {"type": "object", "additionalProperties": count()},
        "better": count(), "worse": count(), "onlyOwn": count(), "onlyShadow": count(), "neither": count(), "tooLong": count(),
        "incomplete": count(),
        "ownLatencyMs": percentiles(), "shadowLatencyMs": percentiles(),
        "examples": {"type": "array", "items": whole(json!({
            "difference": text(), "question": text(), "text": text(), "server": text(),
            "shadowServer": text(),
        }))},
    }))
}

/// Percentiles of latencies, milliseconds; null without one.
fn percentiles() -> Value {
    let times = ["p50", "p90", "p99", "p99.9"].map(|name| (name.to_owned(), json!({"type": "number"})));
    json!({"oneOf": [{"type": "null"}, whole(Value::Object(times.into_iter().collect()))]})
}

/// An object with these members, all of them.
fn whole(members: Value) -> Value {
    let required: Vec<String> =
        members.as_object().map(|members| members.keys().cloned().collect()).unwrap_or_default();
    json!({"type": "object", "properties": members, "required": required, "additionalProperties": false})
}

/// An object with some of these members, and no other.
fn some(members: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": members, "required": required, "additionalProperties": false})
}

/// A call of one of these functions, with as many arguments as it takes. Of what kind they are, each function says
/// itself.
fn called(callee: Callee) -> Value {
    let mut by_count: BTreeMap<(usize, usize), Vec<&str>> = BTreeMap::new();
    for (name, signature) in callee.signatures() {
        by_count.entry((signature.least(), signature.most())).or_default().push(name);
    }
    let forms = by_count.into_iter().map(|((least, most), names)| {
        let args = json!({"type": "array", "minItems": least, "maxItems": most});
        some(
            json!({"name": {"enum": names}, "args": args}),
            if least > 0 { &["name", "args"] } else { &["name"] },
        )
    });
    json!({"anyOf": forms.collect::<Vec<_>>()})
}

fn list(name: &str, item: &str) -> Value {
    whole(json!({name: {"type": "array", "items": reference(item)}}))
}

/// A whole number within bounds.
fn whole_number(min: i64, max: i64) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

/// A span in a unit, within bounds.
fn span(min: f64, max: f64) -> Value {
    json!({"type": "number", "minimum": min, "maximum": max})
}

fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// The name of a server or pool.
fn label() -> Value {
    json!({"type": "string", "pattern": PRINTABLE, "maxLength": 255})
}

/// A text, or a list of such.
fn one_or_list(text: &Value) -> Value {
    json!({"anyOf": [text, {"type": "array", "items": text}]})
}

/// The members of an enumeration, or a number.
fn code(enumeration: &str) -> Value {
    let members = ENUMERATIONS.iter().find(|(name, _)| *name == enumeration).map(|(_, members)| *members);
    let names: Vec<&str> = members.unwrap_or_default().iter().map(|(name, _)| *name).collect();
    json!({"anyOf": [{"enum": names}, whole_number(1, 65_535)]})
}

/// What an argument of `newServer` is.
fn server_argument(entry: &Entry) -> Value {
    const DAY_S: f64 = 86_400.0;
    const ADDRESS: &str = "^\\[?[0-9A-Fa-f:.]*[:.][0-9A-Fa-f:.]*(%[!-~]+)?\\]?(:[0-9]{1,5})?$";
    let weight = || whole_number(0, WEIGHT_MAX.into());
    let mut schema = match entry.name {
        "address" => pattern(ADDRESS),
        "id" | "name" => label(),
        "pool" => one_or_list(&label()),
        "order" => whole_number(i32::MIN.into(), i32::MAX.into()),
        "weight" => whole_number(1, WEIGHT_MAX.into()),
        "qps" | "maxOutstandingQueries" | "retries" | "maxConcurrentTCPConnections" => weight(),
        "udpTimeout" | "tcpConnectTimeout" | "tcpSendTimeout" | "tcpRecvTimeout" => span(0.001, 300.0),
        "udpTimeoutMs" | "tcpConnectTimeoutMs" | "tcpSendTimeoutMs" | "tcpRecvTimeoutMs" | "checkTimeout" => {
            span(1.0, 300_000.0)
        }
        "checkInterval" | "lazyHealthCheckFailedInterval" | "lazyHealthCheckMaxBackOff" => span(0.01, DAY_S),
        "checkIntervalMs" => span(10.0, DAY_S * 1_000.0),
        "slowStart" => span(0.0, DAY_S),
        "sockets" | "rise" | "maxCheckFailures" => whole_number(1, 255),
        "source" | "interface" => pattern("^[!-~]+$"),
        "dscp" => whole_number(0, 63),
        "maxOutstanding" | "lazyHealthCheckSampleSize" | "lazyHealthCheckMinSampleCount" => {
            whole_number(1, 65_535)
        }
        "maxInFlight" => whole_number(0, 65_535),
        "lazyHealthCheckThreshold" => whole_number(1, 100),
        "healthCheckMode" => json!({"enum": ["auto", "up", "down", "lazy"]}),
        "check" => json!({"enum": ["dns", "connect"]}),
        "checkName" => pattern(NAME),
        "checkType" => code("DNSQType"),
        "checkClass" => code("DNSClass"),
        "lazyHealthCheckMode" => json!({"enum": ["TimeoutOrServFail", "TimeoutOnly"]}),
        "useProxyProtocol" => json!({"enum": [true, false, "v1", "v2"]}),
        "tls" => json!({"enum": [true, false, "openssl", "gnutls", "rustls"]}),
        "minTLSVersion" => json!({"enum": ["tls1.2", "tls1.3"]}),
        "subjectAddr" => pattern("^[0-9A-Fa-f:.]*[:.][0-9A-Fa-f:.]*$"),
        // An empty one is as if it were not given, which is warned of.
        "caStore" | "ciphers" | "ciphersTLS13" | "keyLogFile" | "subjectName" => {
            json!({"type": "string", "minLength": 1})
        }
        "enableRenegotiation" | "ktls" => json!({"const": false}),
        _ if ["true", "false"].contains(&entry.arguments) => json!({"type": "boolean"}),
        _ => json!({"type": "string"}),
    };
    schema["description"] = json!(entry.doc);
    schema
}

/// What holds if one of these members is there and not false.
fn beside(name: &str, then: &Value) -> Value {
    let is_on = json!({"required": [name], "properties": {name: {"not": {"const": false}}}});
    json!({"if": is_on, "then": then})
}

/// What an option needs beside it.
fn needed(need: &Need) -> Vec<Value> {
    let value = |text: &str| match text {
        "true" | "false" => json!(text == "true"),
        text => json!(text),
    };
    let given = match need.value {
        Some(text) => json!({"const": value(text)}),
        None => json!({"not": {"const": false}}),
    };
    let then = if need.wanted {
        json!({"required": [need.other], "properties": {need.other: given}})
    } else {
        json!({"properties": {need.other: {"not": given}}})
    };
    let names = need.names.iter().filter(|name| !SERVER_FORBIDDEN.contains(name));
    names.map(|name| beside(name, &then)).collect()
}

/// A new server: the arguments of `newServer`, and which of them go together.
fn new_server() -> Value {
    let arguments = SERVER_ARGUMENTS.iter().chain(SERVER_TLS_ARGUMENTS);
    let arguments: Map<String, Value> = arguments
        .filter(|entry| !SERVER_FORBIDDEN.contains(&entry.name))
        .map(|entry| (entry.name.to_owned(), server_argument(entry)))
        .collect();
    let mut together: Vec<Value> =
        SERVER_NEEDS.iter().filter(|need| !SERVER_FORBIDDEN.contains(&need.other)).flat_map(needed).collect();
    let both = [
        ("udpTimeout", "udpTimeoutMs"),
        ("checkInterval", "checkIntervalMs"),
        ("tcpConnectTimeout", "tcpConnectTimeoutMs"),
        ("tcpSendTimeout", "tcpSendTimeoutMs"),
        ("tcpRecvTimeout", "tcpRecvTimeoutMs"),
        ("subjectName", "subjectAddr"),
    ];
    together.extend(both.map(|(one, other)| json!({"not": {"required": [one, other]}})));
    let off = |name: &str| json!({"properties": {name: {"enum": [false, ""]}}});
    together.push(beside("transparent", &off("useProxyProtocol")));
    together.push(beside("transparent", &off("source")));
    let unchecked = json!({"required": ["validateCertificates"],
        "properties": {"validateCertificates": {"const": false}}});
    together.push(json!({"if": unchecked, "then": {"not": {"required": ["caStore"]}}}));
    let encrypted = json!({"required": ["tls"], "properties": {"tls": {"not": {"const": false}}}});
    let needless = ["tls", "releaseBuffers", "enableRenegotiation", "ktls"];
    for entry in SERVER_TLS_ARGUMENTS.iter().filter(|entry| arguments.contains_key(entry.name)) {
        if !needless.contains(&entry.name) {
            together.push(json!({"if": {"required": [entry.name]}, "then": encrypted}));
        }
    }
    let mut schema = some(Value::Object(arguments), &["address"]);
    schema["allOf"] = Value::Array(together);
    schema
}

fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let switch = || json!({"type": "boolean"});
    let listed = json!({"type": "array", "items": pattern(NAME), "minItems": 1});
    let selector = json!({"anyOf": [pattern(NAME), listed, reference("Selector")]});
    let action = json!({"anyOf": [reference("Action"), reference("ResponseAction")]});
    let policy = json!({"anyOf": [{"enum": POLICIES}, reference("Policy")]});
    let rule = json!({"selector": selector, "action": action, "name": text(), "group": text()});
    let mut new_rule = rule.clone();
    new_rule["uuid"] = pattern(UUID);
    new_rule["top"] = json!({"type": "boolean", "description": "In front of all other rules."});
    let mut grouped = new_rule.clone();
    if let Some(members) = grouped.as_object_mut() {
        members.retain(|name, _| !["group", "top"].contains(&name.as_str()));
    }
    // With exceptions alone nobody may query.
    let networks = json!({"type": "array", "items": pattern(NETWORK), "contains": pattern("^[^!]")});
    let mut server_change = some(
        json!({
            "order": whole_number(i32::MIN.into(), i32::MAX.into()),
            "weight": whole_number(1, WEIGHT_MAX.into()),
            "qps": whole_number(0, WEIGHT_MAX.into()),
            "mode": {"enum": ["auto", "up", "down", "drain", "lazy"]},
            "pools": {"type": "array", "items": label()},
        }),
        &[],
    );
    server_change["minProperties"] = json!(1);
    let mut schemas = json!({
        "Problem": {
            "type": "object",
            "properties": {
                "type": text(), "title": text(), "status": count(), "detail": text(), "errors": texts(),
            },
            "required": ["type", "title", "status", "detail"],
        },
        "Change": whole(json!({
            "generation": count(),
            "changes": texts(),
            "warnings": texts(),
            "dry-run": switch(),
            "kept": {"type": "boolean", "description": "It survives a reload."},
            "location": {"type": ["string", "null"]},
        })),
        "Index": whole(json!({
            "version": text(), "generation": count(), "writable": switch(), "kept": switch(), "paths": texts(),
        })),
        "Document": {"type": "object"},
        "Overview": {"type": "object"},
        "History": {"type": "object"},
        "Top": whole(json!({
            "unit": {"enum": ["queries", "bytes"]}, "window_s": {"type": "number"}, "total": count(),
            "counted_share": {"type": "number"}, "is_estimate": switch(),
            "unlisted_max": {"type": ["integer", "null"]}, "unknown": count(),
            "rows": {"type": "array", "items": whole(json!({
                "label": text(), "count": count(), "error": count(), "share": {"type": "number"},
            }))},
        })),
        "Events": {"type": "string"},
        "Servers": list("servers", "Server"),
        "Server": whole(json!({
            "id": text(), "name": text(), "address": text(), "pools": texts(), "order": {"type": "integer"},
            "weight": count(), "qps": count(), "mode": {"enum": ["auto", "up", "down", "drain", "lazy"]},
            "state": text(), "tls": switch(), "tcpOnly": switch(), "sockets": count(), "maxOutstanding": count(),
            "maxOutstandingQueries": count(), "udpTimeoutMs": count(), "useClientSubnet": switch(),
            "outstanding": count(),
        })),
        "NewServer": new_server(),
        "ServerChange": server_change,
        "Pools": list("pools", "Pool"),
        "Pool": whole(json!({
            "name": text(), "policy": text(), "servers": texts(), "up": count(), "tcpToUdp": switch(),
            "cache": {"oneOf": [{"type": "null"}, whole(json!({
                "size": count(), "entries": count(), "memoryBytes": count(), "evicted": count(), "hits": count(),
                "misses": count(),
            }))]},
        })),
        "Purged": whole(json!({"status": {"const": "purged"}, "count": text()})),
        "PoolChange": some(json!({"policy": policy}), &["policy"]),
        "Policy": called(Callee::Policy),
        "Listeners": list("listeners", "Listener"),
        "Listener": whole(json!({
            "address": text(), "interface": {"type": ["string", "null"]}, "protocol": text(), "reusePort": switch(),
            "connections": count(),
        })),
        "Chains": {
            "type": "object",
            "properties": {"chains": {"type": "array", "items": whole(json!({"chain": text(), "rules": count()}))}},
            "required": ["chains"],
        },
        "Rules": whole(json!({
            "chain": text(), "total": count(), "offset": count(),
            "rules": {"type": "array", "items": reference("Rule")},
        })),
        "Rule": whole(json!({
            "number": count(), "uuid": {"type": "string", "format": "uuid"}, "name": text(), "group": text(),
            "selector": text(), "action": text(), "matches": count(),
        })),
        "NewRule": some(new_rule, &["selector", "action"]),
        "Groups": whole(json!({
            "chain": text(),
            "groups": {"type": "array", "items": whole(json!({"group": text(), "rules": count()}))},
        })),
        "Group": whole(json!({
            "chain": text(), "group": text(), "rules": {"type": "array", "items": reference("Rule")},
        })),
        "GroupedRule": some(grouped, &["selector", "action"]),
        "GroupChange": whole(json!({"rules": {"type": "array", "items": reference("GroupedRule")}})),
        "Difference": whole(json!({"generation": count(), "file_generation": count(), "changes": texts()})),
        "RuleChange": some(rule, &["selector", "action"]),
        "Selector": called(Callee::Selector),
        "Action": called(Callee::Action),
        "ResponseAction": called(Callee::ResponseAction),
        "Acl": whole(json!({"networks": texts()})),
        "AclChange": whole(json!({"networks": networks})),
        "Settings": whole(json!({"settings": {"type": "array", "items": {"type": "object"}}})),
        "AllowFrom": {
            "type": "object",
            "properties": {"name": {"const": "allow-from"}, "type": text(), "value": networks},
            "required": ["value"],
        },
    });
    // More members than the macro can take.
    schemas["Shadows"] = list("shadows", "Shadow");
    schemas["Shadow"] = shadow();
    schemas
}

/// Whether an operation is answered with the document.
pub(super) fn is_asked(operation: &Operation) -> bool {
    operation.id == Id::OpenApi
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every reference of a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_operation_is_described_once_and_every_schema_is_there_and_used() {
        let methods = DOCUMENT["paths"].as_object().expect("paths").values();
        let described: usize = methods.map(|path| path.as_object().expect("methods").len()).sum();
        assert_eq!(described, OPERATIONS.len(), "two operations are one");
        let ids: BTreeSet<String> =
            OPERATIONS.iter().map(|operation| format!("{:?}", operation.id)).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
        let mut used = BTreeSet::new();
        references(&DOCUMENT, &mut used);
        let there = DOCUMENT["components"]["schemas"].as_object().expect("schemas");
        let there: BTreeSet<String> =
            there.keys().map(|name| format!("#/components/schemas/{name}")).collect();
        assert_eq!(used, there);
    }
}
