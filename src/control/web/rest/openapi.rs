//! The OpenAPI document, made of the table of operations and of the functions that rules may name.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::config::functions::{POLICIES, SERVER_ARGUMENTS, SERVER_TLS_ARGUMENTS};
use crate::control::web::rest::lua::{Callee, SERVER_FORBIDDEN};
use crate::control::web::rest::operations::{Id, Method, OPERATIONS, Operation, Parameter, RULES_MAX};
use crate::control::web::rest::read::CHAINS;
use crate::stats::top::{LISTS, ROWS_MAX, WINDOW_MAX};

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
    if operation.id == Id::Top {
        all.push(("503", "Nothing is counted: see setRingBuffersSize."));
    }
    if operation.changes() {
        all.extend([
            ("403", "The API may change nothing: see setAPIWritable."),
            ("409", "It is there, there are several, or something needs it."),
            ("413", "The body is longer than 256 kB."),
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

/// A call of one of these functions.
fn called(callee: Callee) -> Value {
    some(json!({"name": {"enum": callee.names()}, "args": {"type": "array", "items": true}}), &["name"])
}

fn list(name: &str, item: &str) -> Value {
    whole(json!({name: {"type": "array", "items": reference(item)}}))
}

fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let switch = || json!({"type": "boolean"});
    let selector = json!({"anyOf": [text(), texts(), reference("Selector")]});
    let action = json!({"anyOf": [reference("Action"), reference("ResponseAction")]});
    let policy = json!({"anyOf": [{"enum": POLICIES}, reference("Policy")]});
    let arguments = SERVER_ARGUMENTS.iter().chain(SERVER_TLS_ARGUMENTS);
    let arguments: Map<String, Value> = arguments
        .filter(|entry| !SERVER_FORBIDDEN.contains(&entry.name))
        .map(|entry| (entry.name.to_owned(), json!({"description": entry.doc})))
        .collect();
    let rule = json!({"selector": selector, "action": action, "name": text(), "group": text()});
    let mut new_rule = rule.clone();
    new_rule["uuid"] = json!({"type": "string", "format": "uuid"});
    new_rule["top"] = json!({"type": "boolean", "description": "In front of all other rules."});
    let mut grouped = new_rule.clone();
    if let Some(members) = grouped.as_object_mut() {
        members.retain(|name, _| !["group", "top"].contains(&name.as_str()));
    }
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
        "NewServer": {
            "type": "object", "properties": arguments, "required": ["address"], "additionalProperties": false,
        },
        "ServerChange": some(json!({
            "order": {"type": "integer"}, "weight": {"type": "integer"}, "qps": {"type": "integer"},
            "mode": {"enum": ["auto", "up", "down", "drain", "lazy"]}, "pools": texts(),
        }), &[]),
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
        "AclChange": whole(json!({"networks": texts()})),
        "Settings": whole(json!({"settings": {"type": "array", "items": {"type": "object"}}})),
        "AllowFrom": {
            "type": "object",
            "properties": {"name": {"const": "allow-from"}, "type": text(), "value": texts()},
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
