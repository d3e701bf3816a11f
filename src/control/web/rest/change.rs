//! What a request would change, as one line of Lua that means the same when it is read again: in
//! the directory of the API, after the file of the configuration.
//!
//! A line that is about something that the file no longer has says so in the log, and does nothing.

use serde_json::{Map, Value, json};

use crate::base::prefix::Prefix;
use crate::base::printable::cut;
use crate::config::functions::{CHAINS as FUNCTIONS, POLICIES};
use crate::config::ruleset::{ChainKey, parse_uuid, uuid_text};
use crate::config::value::{ADDRESS, DNS_PORT, DOT_PORT, address_of};
use crate::config::web::{ACL_FILE, CHANGES_FILE};
use crate::control::web::rest::lua::{Callee, call, quoted, server, value};
use crate::control::web::rest::operations::Id;
use crate::control::web::rest::read::{
    CHAINS, chain_key, in_group, one_rule, one_server, pool_name, rule_at, servers, users,
};
use crate::control::web::rest::{Call, Problem};
use crate::lua::front_end::command::{Act, Mark};
use crate::model::Snapshot;

/// Of what keeps a pool, so many are named.
const USERS_MAX: usize = 20;

/// A change.
#[derive(Debug)]
pub(super) struct Change {
    /// One line of Lua.
    pub(super) lua: String,
    /// What it is about.
    pub(super) mark: Mark,
    /// The file that keeps it.
    pub(super) file: &'static str,
    /// The path of what it creates or changes; none after it is removed.
    pub(super) location: Option<String>,
}

/// Returns what a request would change in the present configuration.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn of(request: &Call, snapshot: &Snapshot, body: &Value) -> Result<Change, Problem> {
    match request.operation.id {
        Id::AddServer => add_server(snapshot, body),
        Id::SetServer => set_server(snapshot, request.parameter("server"), body),
        Id::RemoveServer => {
            let id = &one_server(snapshot, request.parameter("server"))?.id;
            let lua = with_server(id, &format!("rmServer({})", quoted(id.as_bytes())));
            Ok(change(lua, Act::Remove, server_key(id), None))
        }
        Id::PutPool => put_pool(snapshot, request.parameter("pool"), body),
        Id::RemovePool => remove_pool(snapshot, request.parameter("pool")),
        Id::AddRule => add_rule(snapshot, chain_key(request.parameter("chain"))?, body),
        Id::PutRule => {
            let key = chain_key(request.parameter("chain"))?;
            one_rule(snapshot, key, request.parameter("uuid"))?;
            put_rule(snapshot, key, request.parameter("uuid"), body)
        }
        Id::RemoveRule => {
            let key = chain_key(request.parameter("chain"))?;
            one_rule(snapshot, key, request.parameter("uuid"))?;
            let uuid = canonical(request.parameter("uuid"))?;
            let lua =
                with_rule(key, &uuid, &format!("{}(\"{uuid}\")", FUNCTIONS[key as usize].entries[1].name));
            let left = leaves(snapshot, key, request.parameter("uuid"));
            Ok(change(lua, Act::Remove, rule_key(key, &uuid), None).and(left))
        }
        Id::PutGroup => {
            let key = group_chain(request.parameter("chain"))?;
            put_group(snapshot, key, request.parameter("group"), body)
        }
        Id::RemoveGroup => {
            let (key, group) = (group_chain(request.parameter("chain"))?, request.parameter("group"));
            let rules = group_rules(snapshot, key, group);
            if rules.is_empty() {
                return Err(Problem::not_found("group"));
            }
            let lua = format!("{}({})", group_functions(key)[1], quoted(group.as_bytes()));
            let gone = rules.into_iter().map(|rule| (rule, Act::Remove));
            Ok(change(lua, Act::Remove, group_key(key, group), None).and(gone))
        }
        Id::PutAcl => acl(networks(body, "networks")?),
        Id::PutAllowFrom => {
            let setting = body.as_object().ok_or_else(|| Problem::bad_request("the body is no object"))?;
            if setting.get("name").is_some_and(|name| name != "allow-from") {
                return Err(Problem::bad_request("the name is not allow-from"));
            }
            acl(list(setting.get("value"), "value").map_err(Problem::bad_request)?)
        }
        Id::AddNetwork => {
            let new = network(request.parameter("network"))?;
            let mut all = snapshot.shown.acl.clone();
            // Both would be in it, the network and the exception.
            let other = new.strip_prefix('!').map_or_else(|| format!("!{new}"), str::to_owned);
            all.retain(|listed| ![&new, &other].contains(&listed));
            all.push(new);
            acl(all)
        }
        Id::RemoveNetwork => {
            let gone = network(request.parameter("network"))?;
            let mut all = snapshot.shown.acl.clone();
            let before = all.len();
            all.retain(|listed| *listed != gone);
            if all.len() == before {
                return Err(Problem::not_found("network in the ACL"));
            }
            acl(all)
        }
        Id::Index
        | Id::OpenApi
        | Id::Overview
        | Id::History
        | Id::Top
        | Id::Events
        | Id::Servers
        | Id::Server
        | Id::Pools
        | Id::Pool
        | Id::Shadows
        | Id::Listeners
        | Id::Chains
        | Id::Rules
        | Id::Rule
        | Id::Groups
        | Id::Group
        | Id::Difference
        | Id::Acl
        | Id::Settings
        | Id::AllowFrom
        | Id::PurgeCache => Err(Problem::not_found("change")),
    }
}

fn change(lua: String, act: Act, key: String, location: Option<String>) -> Change {
    Change { lua, mark: Mark { key, act, also: Vec::new() }, file: CHANGES_FILE, location }
}

impl Change {
    /// Adds what it does to other things.
    fn and(mut self, others: impl IntoIterator<Item = (String, Act)>) -> Self {
        self.mark.also.extend(others);
        self
    }
}

/// Percent-encodes a part of a path.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Does something unless the thing is gone, which the log then says.
fn unless_gone(condition: &str, then: &str, what: &str) -> String {
    let note = quoted(format!("a change by the API has no effect: there is no {what}").as_bytes());
    format!("if {condition} then {then} else warnlog({note}) end")
}

fn with_server(id: &str, then: &str) -> String {
    unless_gone(&format!("getServer({})", quoted(id.as_bytes())), then, &format!("server {id}"))
}

/// What changes of a server are about: without a slash, which stands before parts of it.
fn server_key(id: &str) -> String {
    format!("server {}", encoded(id))
}

fn server_path(id: &str) -> Option<String> {
    Some(format!("/api/v2/servers/{}", encoded(id)))
}

fn add_server(snapshot: &Snapshot, body: &Value) -> Result<Change, Problem> {
    let members = object(body)?;
    let mut members = members.clone();
    if let Some(pools) = members.get_mut("pool") {
        plain_pools(pools);
    }
    let members = &members;
    let table = server(members).map_err(Problem::unprocessable)?;
    let text = |name: &str, expected: &str| match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(other) => Err(wrong(name, other, expected)),
    };
    let written = text("address", ADDRESS)?
        .ok_or_else(|| Problem::unprocessable(format!("address is missing; expected {ADDRESS}")))?;
    let tls = members.get("tls");
    let is_tls =
        tls.is_some_and(|tls| tls.as_bool().or(tls.as_str().map(|tls| !tls.is_empty())) == Some(true));
    let port = if is_tls { DOT_PORT } else { DNS_PORT };
    let address =
        address_of(written, port).map_err(|expected| wrong("address", &json!(written), expected))?;
    let (id, name) = (text("id", "a text")?, text("name", "a text")?);
    let id = id.filter(|id| !id.is_empty()).map_or_else(|| address.to_string(), str::to_owned);
    let name = name.filter(|name| !name.is_empty());
    let taken = |text: &str| servers(snapshot).any(|b| b.id == text || b.name == text);
    if let Some(taken) = [Some(id.as_str()), name].into_iter().flatten().find(|text| taken(text)) {
        return Err(Problem::conflict(format!("there is a server {taken:?}")));
    }
    // After a restart the file may have it.
    let note = quoted(format!("a change by the API has no effect: there is a server {id}").as_bytes());
    let quoted = quoted(id.as_bytes());
    let lua = format!("if getServer({quoted}) then warnlog({note}) else newServer({table}) end");
    let pools = match members.get("pool") {
        Some(Value::Array(pools)) => pools.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(pool)) => vec![pool.as_str()],
        _ => Vec::new(),
    };
    Ok(change(lua, Act::Create, server_key(&id), server_path(&id)).and(uses(&pools)))
}

/// The problem of a value that is not what is expected. What a client sent is cut.
fn wrong(name: &str, value: &Value, expected: &str) -> Problem {
    const SHOWN_MAX: usize = 80;
    let written = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    };
    Problem::unprocessable(format!("{name} is {}; expected {expected}", cut(&written, SHOWN_MAX)))
}

/// Puts the name of the default pool in the place of what it is called in paths and in lists.
fn plain_pools(pools: &mut Value) {
    match pools {
        Value::String(pool) => *pool = pool_name(pool).to_owned(),
        Value::Array(pools) => pools.iter_mut().for_each(plain_pools),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {}
    }
}

/// What servers need of their pools, which are made where they are not there.
fn uses(pools: &[&str]) -> Vec<(String, Act)> {
    pools.iter().filter(|pool| !pool.is_empty()).map(|pool| (pool_key(pool), Act::Use)).collect()
}

fn set_server(snapshot: &Snapshot, text: &str, body: &Value) -> Result<Change, Problem> {
    let backend = one_server(snapshot, text)?;
    let id = &backend.id;
    let members = object(body)?;
    let mut lua = format!("local s = getServer({})", quoted(id.as_bytes()));
    let (mut steps, mut used) = (Vec::new(), Vec::new());
    for (name, given) in members {
        steps.push(match name.as_str() {
            "order" | "weight" | "qps" => {
                let written = whole(given).ok_or_else(|| wrong(name, given, "a whole number"))?;
                let method = match name.as_str() {
                    "order" => "setOrder",
                    "weight" => "setWeight",
                    _ => "setQPS",
                };
                format!("s:{method}( {written})")
            }
            "mode" => {
                let method = match given.as_str() {
                    Some("auto") => "setActiveAuto",
                    Some("lazy") => "setLazyAuto",
                    Some("up") => "setUp",
                    Some("down") => "setDown",
                    Some("drain") => "drain",
                    _ => return Err(Problem::unprocessable("mode is one of auto, lazy, up, down, drain")),
                };
                format!("s:{method}()")
            }
            "pools" => {
                let pools = list(Some(given), "pools").map_err(Problem::unprocessable)?;
                let pools: Vec<&str> = pools.iter().map(|pool| pool_name(pool)).collect();
                // The pools that it leaves can be removed from then on.
                let left = snapshot.pools.iter().filter(|pool| pool.members.contains(&backend.slot));
                let left = left.map(|pool| pool.name.as_str()).filter(|pool| !pools.contains(pool));
                used = uses(&left.chain(pools.iter().copied()).collect::<Vec<_>>());
                let add = pools.iter().map(|pool| format!(" s:addPool({})", quoted(pool.as_bytes())));
                format!("for _, p in ipairs(s.pools) do s:rmPool(p) end{}", add.collect::<String>())
            }
            other => {
                return Err(Problem::unprocessable(format!(
                    "a server has no member {other:?} that can be changed"
                )));
            }
        });
    }
    if steps.is_empty() {
        return Err(Problem::unprocessable("nothing is to be changed"));
    }
    let then = unless_gone("s", &steps.join(" "), &format!("server {id}"));
    lua = format!("do {lua} {then} end");
    let names: Vec<&str> = members.keys().map(String::as_str).collect();
    let key = format!("{}/{}", server_key(id), names.join("+"));
    Ok(change(lua, Act::Set, key, server_path(id)).and(used))
}

fn pool_key(text: &str) -> String {
    format!("pool {}", encoded(pool_name(text)))
}

fn put_pool(snapshot: &Snapshot, text: &str, body: &Value) -> Result<Change, Problem> {
    let members = object(body)?;
    if let Some(odd) = members.keys().find(|name| *name != "policy") {
        return Err(Problem::unprocessable(format!("a pool has no member {odd:?} that can be changed")));
    }
    let policy = match members.get("policy") {
        Some(Value::String(name)) if POLICIES.contains(&name.as_str()) => name.clone(),
        Some(made @ Value::Object(_)) => call(Callee::Policy, made).map_err(Problem::unprocessable)?,
        _ => {
            return Err(Problem::unprocessable(format!(
                "policy is one of {}, or made of one",
                POLICIES.join(", ")
            )));
        }
    };
    let lua = format!("getPool({}):setServerPolicy({policy})", quoted(pool_name(text).as_bytes()));
    let location = Some(format!("/api/v2/pools/{}", encoded(text)));
    Ok(if snapshot.pools.iter().any(|pool| pool.name == pool_name(text)) {
        change(lua, Act::Set, format!("{}/policy", pool_key(text)), location)
    } else {
        change(lua, Act::Create, pool_key(text), location)
    })
}

fn remove_pool(snapshot: &Snapshot, text: &str) -> Result<Change, Problem> {
    let name = pool_name(text);
    if name.is_empty() {
        return Err(Problem::conflict("the default pool is always there"));
    }
    if !snapshot.pools.iter().any(|pool| pool.name == name) {
        return Err(Problem::not_found("pool"));
    }
    let mut users = users(snapshot, name);
    if !users.is_empty() {
        let more = users.len().saturating_sub(USERS_MAX);
        users.truncate(USERS_MAX);
        users.extend((more > 0).then(|| format!("and {more} more")));
        return Err(Problem::in_use("the pool is in use", users));
    }
    let name = quoted(name.as_bytes());
    let note = format!("a change by the API has no effect: the pool {name} is in use");
    let lua = format!("if not rmPool({name}) then warnlog({}) end", quoted(note.as_bytes()));
    Ok(change(lua, Act::Remove, pool_key(text), None))
}

fn canonical(uuid: &str) -> Result<String, Problem> {
    parse_uuid(uuid).map(|uuid| uuid_text(&uuid)).ok_or_else(|| Problem::unprocessable("uuid is no UUID"))
}

fn rule_key(key: ChainKey, uuid: &str) -> String {
    format!("rule {} {uuid}", CHAINS[key as usize])
}

fn rule_path(key: ChainKey, uuid: &str) -> Option<String> {
    Some(format!("/api/v2/rules/{}/{uuid}", CHAINS[key as usize]))
}

/// What finds a rule.
fn found(key: ChainKey, uuid: &str) -> String {
    format!("{}(\"{uuid}\")", FUNCTIONS[key as usize].entries[9].name)
}

fn with_rule(key: ChainKey, uuid: &str, then: &str) -> String {
    unless_gone(&found(key, uuid), then, &format!("{} rule {uuid}", CHAINS[key as usize]))
}

/// The call that adds a rule; `members` say selector, action and, with `uuid`, its options.
fn added(key: ChainKey, members: &Map<String, Value>, uuid: &str, replaces: bool) -> Result<String, Problem> {
    let functions = &FUNCTIONS[key as usize];
    let more = if replaces { format!(", replace=\"{uuid}\"") } else { String::new() };
    Ok(format!("{}{}", functions.entries[0].name, rule_arguments(key, members, uuid, &more)?))
}

/// The arguments that make a rule, in parentheses; `more` are options.
fn rule_arguments(
    key: ChainKey,
    members: &Map<String, Value>,
    uuid: &str,
    more: &str,
) -> Result<String, Problem> {
    let functions = &FUNCTIONS[key as usize];
    let part =
        |name: &str| members.get(name).ok_or_else(|| Problem::unprocessable(format!("{name} is missing")));
    let selector = part("selector")?;
    // Names or networks, as everywhere.
    let is_listed = selector.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let selector =
        if selector.is_string() || is_listed { value(selector) } else { call(Callee::Selector, selector) };
    let selector = selector.map_err(Problem::unprocessable)?;
    let callee = if functions.responses { Callee::ResponseAction } else { Callee::Action };
    let action = call(callee, part("action")?).map_err(Problem::unprocessable)?;
    let mut options = format!("uuid=\"{uuid}\"");
    for name in ["name", "group"] {
        if let Some(given) = members.get(name) {
            let text = given.as_str().ok_or_else(|| Problem::unprocessable(format!("{name} is no text")))?;
            options += &format!(", {name}={}", quoted(text.as_bytes()));
        }
    }
    Ok(format!("({selector}, {action}, {{{options}{more}}})"))
}

/// The chain whose groups can be changed; in the others a group is a word beside a rule.
fn group_chain(name: &str) -> Result<ChainKey, Problem> {
    match chain_key(name)? {
        key @ (ChainKey::Query | ChainKey::Response) => Ok(key),
        ChainKey::CacheMiss
        | ChainKey::CacheHit
        | ChainKey::CacheInserted
        | ChainKey::SelfAnswered
        | ChainKey::Timeout
        | ChainKey::Xfr => {
            Err(Problem::unprocessable("groups are changed in the chains query and response; rules in all"))
        }
    }
}

/// The functions that replace and remove the rules of a group.
const fn group_functions(key: ChainKey) -> [&'static str; 2] {
    if matches!(key, ChainKey::Response) {
        ["setResponseRuleGroup", "clearResponseRuleGroup"]
    } else {
        ["setRuleGroup", "clearRuleGroup"]
    }
}

fn group_key(key: ChainKey, group: &str) -> String {
    format!("group {} {}", CHAINS[key as usize], encoded(group))
}

fn put_group(snapshot: &Snapshot, key: ChainKey, group: &str, body: &Value) -> Result<Change, Problem> {
    let members = object(body)?;
    if let Some(odd) = members.keys().find(|name| *name != "rules") {
        return Err(Problem::unprocessable(format!("a group has no member {odd:?}")));
    }
    let rules = members.get("rules").and_then(Value::as_array);
    let rules = rules.ok_or_else(|| Problem::unprocessable("rules is no list of rules"))?;
    let (mut made, mut new) = (Vec::with_capacity(rules.len()), Vec::with_capacity(rules.len()));
    for rule in rules {
        let members = rule.as_object().ok_or_else(|| Problem::unprocessable("a rule is no object"))?;
        known(members, &["selector", "action", "name", "uuid"])?;
        let uuid = match members.get("uuid") {
            None => random_uuid()?,
            Some(given) => canonical(given.as_str().unwrap_or_default())?,
        };
        new.push(rule_key(key, &uuid));
        made.push(format!("newRuleAction{}", rule_arguments(key, members, &uuid, "")?));
    }
    let lua = format!("{}({}, {{{}}})", group_functions(key)[0], quoted(group.as_bytes()), made.join(", "));
    // Without this a group that comes and goes would leave a line each time.
    let old = group_rules(snapshot, key, group);
    let act = match (old.is_empty(), rules.is_empty()) {
        (true, false) => Act::Create,
        (false, true) => Act::Remove,
        (true, true) | (false, false) => Act::Set,
    };
    let location = format!("/api/v2/groups/{}/{}", CHAINS[key as usize], encoded(group));
    let gone: Vec<_> = old.iter().filter(|rule| !new.contains(rule)).cloned().collect();
    let act_of = |rule: &String| if old.contains(rule) { Act::Set } else { Act::Create };
    let new: Vec<_> = new.iter().map(|rule| (rule.clone(), act_of(rule))).collect();
    let gone = gone.into_iter().map(|rule| (rule, Act::Remove));
    Ok(change(lua, act, group_key(key, group), Some(location)).and(new).and(gone))
}

fn known(members: &Map<String, Value>, names: &[&str]) -> Result<(), Problem> {
    match members.keys().find(|name| !names.contains(&name.as_str())) {
        Some(odd) => Err(Problem::unprocessable(format!("a rule has no member {odd:?}"))),
        None => Ok(()),
    }
}

fn add_rule(snapshot: &Snapshot, key: ChainKey, body: &Value) -> Result<Change, Problem> {
    let members = object(body)?;
    known(members, &["selector", "action", "name", "group", "uuid", "top"])?;
    let uuid = match members.get("uuid") {
        None => random_uuid()?,
        Some(given) => canonical(given.as_str().unwrap_or_default())?,
    };
    if one_rule(snapshot, key, &uuid).is_ok() {
        return Err(Problem::conflict(format!("there is a rule {uuid}")));
    }
    let mut lua = added(key, members, &uuid, false)?;
    match members.get("top") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::Bool(true)) => lua += &format!(" {}()", FUNCTIONS[key as usize].entries[3].name),
        Some(_) => return Err(Problem::unprocessable("top is true or false")),
    }
    // After a restart the file may have it.
    let note = quoted(format!("a change by the API has no effect: there is a rule {uuid}").as_bytes());
    let found = found(key, &uuid);
    let lua = format!("if {found} then warnlog({note}) else {lua} end");
    let entered = enters(snapshot, key, group_of(members));
    Ok(change(lua, Act::Create, rule_key(key, &uuid), rule_path(key, &uuid)).and(entered))
}

/// The group that a request gives a rule; empty for none.
fn group_of(members: &Map<String, Value>) -> &str {
    members.get("group").and_then(Value::as_str).unwrap_or_default()
}

/// The keys of the rules of a group.
fn group_rules(snapshot: &Snapshot, key: ChainKey, group: &str) -> Vec<String> {
    let rules = in_group(snapshot, key, group).into_iter();
    rules.map(|at| rule_key(key, &uuid_text(&rule_at(snapshot, key, at).0))).collect()
}

/// What a rule does to the group that it enters.
fn enters(snapshot: &Snapshot, key: ChainKey, group: &str) -> Option<(String, Act)> {
    let act = if in_group(snapshot, key, group).is_empty() { Act::Create } else { Act::Set };
    (!group.is_empty()).then(|| (group_key(key, group), act))
}

/// What a rule does to its group when it leaves that.
fn leaves(snapshot: &Snapshot, key: ChainKey, uuid: &str) -> Option<(String, Act)> {
    let group = rule_at(snapshot, key, one_rule(snapshot, key, uuid).ok()?).1;
    let act = if in_group(snapshot, key, group).len() == 1 { Act::Remove } else { Act::Set };
    (!group.is_empty()).then(|| (group_key(key, group), act))
}

fn put_rule(snapshot: &Snapshot, key: ChainKey, uuid: &str, body: &Value) -> Result<Change, Problem> {
    let members = object(body)?;
    known(members, &["selector", "action", "name", "group"])?;
    let (left, entered) = (leaves(snapshot, key, uuid), enters(snapshot, key, group_of(members)));
    let stays = left.as_ref().map(|(group, _)| group) == entered.as_ref().map(|(group, _)| group);
    let moved: Vec<_> = left.into_iter().chain(entered).filter(|_| !stays).collect();
    let uuid = canonical(uuid)?;
    let lua = with_rule(key, &uuid, &added(key, members, &uuid, true)?);
    Ok(change(lua, Act::Set, rule_key(key, &uuid), rule_path(key, &uuid)).and(moved))
}

/// A random UUID, version 4 (RFC 9562, 5.4).
fn random_uuid() -> Result<String, Problem> {
    let mut uuid = [0; 16];
    let random =
        std::fs::File::open("/dev/urandom").and_then(|mut f| std::io::Read::read_exact(&mut f, &mut uuid));
    random.map_err(|e| Problem::not_kept(&e))?;
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    Ok(uuid_text(&uuid))
}

fn acl(networks: Vec<String>) -> Result<Change, Problem> {
    if networks.iter().all(|network| network.starts_with('!')) {
        return Err(Problem::unprocessable(
            "with an empty ACL, or exceptions only, nobody may query; setACL({}) says so in the file",
        ));
    }
    let mut lua = "setACL({".to_owned();
    for (at, text) in networks.iter().enumerate() {
        lua += if at > 0 { ", " } else { "" };
        lua += &quoted(text.as_bytes());
    }
    lua += "})";
    let location = Some("/api/v2/acl".to_owned());
    Ok(Change { file: ACL_FILE, ..change(lua, Act::Set, "acl".to_owned(), location) })
}

fn networks(body: &Value, name: &str) -> Result<Vec<String>, Problem> {
    let members = object(body)?;
    if let Some(odd) = members.keys().find(|of| *of != name) {
        return Err(Problem::unprocessable(format!("the ACL has no member {odd:?}")));
    }
    list(members.get(name), name).map_err(Problem::unprocessable)
}

/// Reads a network, or an exception; returns it as the ACL lists it.
fn network(text: &str) -> Result<String, Problem> {
    let (mark, plain) = text.strip_prefix('!').map_or(("", text), |plain| ("!", plain));
    let network: Result<Prefix, _> = plain.parse();
    let network = network.map_err(|_| Problem::unprocessable(format!("{text:?} is no network")))?;
    Ok(format!("{mark}{network}"))
}

fn object(body: &Value) -> Result<&Map<String, Value>, Problem> {
    body.as_object().ok_or_else(|| Problem::unprocessable("the body is no object"))
}

/// Reads a whole number; JSON knows no difference between 5 and 5.0.
fn whole(value: &Value) -> Option<i64> {
    let range = -9_007_199_254_740_991.0..=9_007_199_254_740_991.0;
    let float = value.as_f64().filter(|n| n.fract() == 0.0 && range.contains(n));
    // The range bounds the cast.
    #[allow(clippy::cast_possible_truncation)]
    value.as_i64().or_else(|| float.map(|n| n as i64))
}

/// Reads a list of texts.
fn list(value: Option<&Value>, name: &str) -> Result<Vec<String>, String> {
    let texts = value.and_then(Value::as_array).and_then(|list| {
        list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
    });
    texts.ok_or_else(|| format!("{name} is no list of texts"))
}
