//! What the API shows of the configuration.

use std::collections::BTreeMap;

use axum::http::{StatusCode, Uri};
use serde_json::{Value, json};

use crate::base::addr::{BackendSlot, PoolRef};
use crate::config::diff::diff;
use crate::config::functions::enumerations::qtype as qtype_of;
use crate::config::functions::policies::name as policy_name;
use crate::config::ruleset::{ChainKey, uuid_text};
use crate::config::value::wire_name;
use crate::control::api::{self, Standing};
use crate::control::history::Range;
use crate::control::stats::caches::{self, CacheOfPool};
use crate::control::stats::rules::matches;
use crate::control::stats::text::state_name;
use crate::control::web::json::settings;
use crate::control::web::rest::operations::{Id, OPERATIONS, RULES_MAX};
use crate::control::web::rest::{Call, Problem};
use crate::control::web::site::{Site, argument, is_repeated};
use crate::model::{Backend, HealthMode, Listener, Pool, Service, Snapshot};
use crate::rules::{Chain, Rule, text};
use crate::stats::live::{LiveState, State};

/// The name of the default pool in paths.
const DEFAULT_POOL: &str = "_default_";
/// Rules that are listed unless the client says otherwise.
const RULES: usize = 1_000;

/// The names of the chains, in the order of [`ChainKey::ALL`].
pub(super) const CHAINS: [&str; ChainKey::ALL.len()] =
    ["query", "cache-miss", "response", "cache-hit", "cache-inserted", "self-answered", "timeout", "xfr"];

/// Returns what an operation that reads is answered with.
///
/// # Errors
/// There is no such thing, or the request asks for nothing that there could be.
pub(super) fn body(id: Id, site: &Site, snapshot: &Snapshot, call: &Call) -> Result<Value, Problem> {
    let live = site.monitor.live_state();
    let shown = |backend: &Backend| server(site, snapshot, backend);
    Ok(match id {
        Id::Index => index(site, snapshot),
        Id::Overview => {
            let monitor = &site.monitor;
            let (started, ready, draining) =
                (monitor.started_unix(), monitor.is_ready(), monitor.is_draining());
            let figures = monitor.figures();
            let file_generation = monitor.as_read().generation;
            site.dashboard.lock().overview(&figures, Standing { started, ready, draining, file_generation })
        }
        Id::History => history(site, call)?,
        Id::Top => top(site, call)?,
        Id::Servers => json!({"servers": servers(snapshot).map(shown).collect::<Vec<_>>()}),
        Id::Server => shown(one_server(snapshot, call.parameter("server"))?),
        Id::Pools => {
            let pools =
                snapshot.pools.iter().enumerate().filter(|(at, pool)| *at == 0 || !pool.name.is_empty());
            let caches = caches::of_pools(snapshot, live);
            json!({"pools": pools.map(|(_, one)| pool(site, snapshot, &caches, one)).collect::<Vec<_>>()})
        }
        Id::Pool => {
            let name = pool_name(call.parameter("pool"));
            let found = snapshot.pools.iter().find(|pool| pool.name == name);
            let found = found.ok_or_else(|| Problem::not_found("pool"))?;
            pool(site, snapshot, &caches::of_pools(snapshot, live), found)
        }
        Id::Shadows => site.monitor.shadows().json(),
        Id::Listeners => {
            let listed = snapshot.listeners.iter().map(|one| listener(one, live));
            json!({"listeners": listed.collect::<Vec<_>>()})
        }
        Id::Chains => {
            let chain =
                |key: ChainKey| json!({"chain": CHAINS[key as usize], "rules": length(snapshot, key)});
            json!({"chains": ChainKey::ALL.map(chain)})
        }
        Id::Rules => {
            let key = chain_key(call.parameter("chain"))?;
            let (offset, limit) =
                (call.number("offset", 0, u32::MAX as usize)?, call.number("limit", RULES, RULES_MAX)?);
            let numbers = offset..offset.saturating_add(limit).min(length(snapshot, key));
            let listed: Vec<Value> = numbers.filter_map(|at| rule(snapshot, live, key, at)).collect();
            json!({"chain": CHAINS[key as usize], "total": length(snapshot, key), "offset": offset, "rules": listed})
        }
        Id::Rule => {
            let key = chain_key(call.parameter("chain"))?;
            let at = one_rule(snapshot, key, call.parameter("uuid"))?;
            rule(snapshot, live, key, at).ok_or_else(|| Problem::not_found("rule"))?
        }
        Id::Groups => groups(snapshot, chain_key(call.parameter("chain"))?),
        Id::Group => {
            let (key, group) = (chain_key(call.parameter("chain"))?, call.parameter("group"));
            let at = in_group(snapshot, key, group);
            let listed: Vec<Value> = at.into_iter().filter_map(|at| rule(snapshot, live, key, at)).collect();
            if listed.is_empty() {
                return Err(Problem::not_found("group"));
            }
            json!({"chain": CHAINS[key as usize], "group": group, "rules": listed})
        }
        Id::Difference => {
            let read = site.monitor.as_read();
            json!({
                "generation": snapshot.generation,
                "file_generation": read.generation,
                "changes": diff(&read, snapshot),
            })
        }
        Id::Acl => json!({"networks": snapshot.shown.acl}),
        Id::AllowFrom => allow_from(snapshot),
        Id::Settings => json!({"settings": settings(&site.monitor.figures())}),
        Id::PurgeCache => purge(snapshot, &call.uri)?,
        Id::OpenApi
        | Id::Events
        | Id::AddServer
        | Id::SetServer
        | Id::RemoveServer
        | Id::PutPool
        | Id::RemovePool
        | Id::AddRule
        | Id::PutRule
        | Id::RemoveRule
        | Id::PutGroup
        | Id::RemoveGroup
        | Id::PutAcl
        | Id::AddNetwork
        | Id::RemoveNetwork
        | Id::PutAllowFrom => return Err(Problem::not_found("document")),
    })
}

fn index(site: &Site, snapshot: &Snapshot) -> Value {
    let mut paths: Vec<&str> = OPERATIONS.iter().map(|operation| operation.path).collect();
    paths.dedup();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "generation": snapshot.generation,
        "writable": site.settings.writable,
        "kept": site.settings.writable && site.settings.directory.is_some(),
        "paths": paths,
    })
}

/// Removes the entries of a name from the packet cache of a pool, as dnsdist's clients ask for it.
fn purge(snapshot: &Snapshot, uri: &Uri) -> Result<Value, Problem> {
    // Who names two names would believe that both are gone.
    for one in ["pool", "name", "type", "suffix"] {
        if is_repeated(uri, one) {
            return Err(Problem::bad_request(format!("{one}= is there more than once")));
        }
    }
    let pool = argument(uri, "pool").unwrap_or_default();
    let name = argument(uri, "name").ok_or_else(|| Problem::bad_request("name= is missing"))?;
    let wire = wire_name(&name).map_err(|expected| Problem::bad_request(format!("name is {expected}")))?;
    let qtype = argument(uri, "type").filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("ANY"));
    let qtype =
        qtype.map(|text| qtype_of(&text).ok_or_else(|| Problem::bad_request("type is a type, as AAAA")));
    // As dnsdist documents it, any value will do; ours has a way to say no.
    let suffix = argument(uri, "suffix").is_some_and(|value| value != "false");
    let found = snapshot
        .pools
        .iter()
        .enumerate()
        .find(|(at, one)| one.name == pool && (*at == 0 || !pool.is_empty()));
    let (_, found) = found.ok_or_else(|| Problem::not_found("pool"))?;
    let cache = found.cache.as_ref().ok_or_else(|| Problem::not_found("packet cache of this pool"))?;
    let count = cache.expunge_by_name(&wire, qtype.transpose()?, suffix);
    // A text, as dnsdist's clients read it.
    Ok(json!({"status": "purged", "count": count.to_string()}))
}

fn history(site: &Site, call: &Call) -> Result<Value, Problem> {
    let number = |name| argument(&call.uri, name).map(|text| text.parse::<u64>());
    let range = number("range").and_then(Result::ok).and_then(Range::of_seconds);
    let range = range.ok_or_else(|| Problem::bad_request("range is one of 300, 3600, 86400"))?;
    let from =
        number("from").transpose().map_err(|_| Problem::bad_request("from is the number of a sample"))?;
    Ok(site.dashboard.lock().history(range, from.unwrap_or_default()))
}

fn top(site: &Site, call: &Call) -> Result<Value, Problem> {
    let request = api::top::request(|name| argument(&call.uri, name)).map_err(Problem::bad_request)?;
    let list = site.monitor.traffic().and_then(|traffic| traffic.top(request.clone()));
    let list = list.map_err(|why| {
        // A server or a pool, or else nobody counts.
        let is_named = why.starts_with("there is no ");
        Problem::new(if is_named { StatusCode::NOT_FOUND } else { StatusCode::SERVICE_UNAVAILABLE }, why)
    })?;
    Ok(api::top::answer(&request, &list))
}

/// The ACL as dnsdist's clients read it.
pub(super) fn allow_from(snapshot: &Snapshot) -> Value {
    json!({"name": "allow-from", "type": "ConfigSetting", "value": snapshot.shown.acl})
}

/// The servers that a configuration names as such.
pub(super) fn servers(snapshot: &Snapshot) -> impl Iterator<Item = &Backend> {
    snapshot.listed().filter(|b| !b.target && !b.tee)
}

/// Finds a server by id or name, as `getServer` does.
///
/// # Errors
/// There is none, or several.
pub(super) fn one_server<'s>(snapshot: &'s Snapshot, text: &str) -> Result<&'s Backend, Problem> {
    // A server without a name has its address for one, which may be the id of another.
    if let Some(server) = servers(snapshot).find(|b| b.id == text) {
        return Ok(server);
    }
    let mut found = servers(snapshot).filter(|b| b.name == text);
    match (found.next(), found.next()) {
        (Some(server), None) => Ok(server),
        (None, _) => Err(Problem::not_found("server")),
        (Some(_), Some(_)) => Err(Problem::conflict("several servers have this name")),
    }
}

fn server(site: &Site, snapshot: &Snapshot, backend: &Backend) -> Value {
    let standing = site.monitor.standing(backend.slot);
    let pools = snapshot.pools.iter().filter(|p| p.members.contains(&backend.slot));
    json!({
        "id": backend.id,
        "name": backend.name,
        "address": backend.address.to_string(),
        "pools": pools.map(|p| p.name.as_str()).collect::<Vec<_>>(),
        "order": backend.order,
        "weight": backend.weight,
        "qps": backend.qps,
        "mode": mode(backend.health.mode),
        "state": state_name(standing.state, backend.health.mode),
        "tls": backend.connections.tls.is_some(),
        "tcpOnly": backend.connections.only,
        "sockets": backend.sockets,
        "maxOutstanding": backend.outstanding_max,
        "maxOutstandingQueries": backend.outstanding_soft_max,
        "udpTimeoutMs": backend.timeout.0 / 1_000_000,
        "useClientSubnet": backend.use_client_subnet,
        "outstanding": site.monitor.live_state().outstanding(backend.slot),
    })
}

const fn mode(mode: HealthMode) -> &'static str {
    match mode {
        HealthMode::Auto => "auto",
        HealthMode::Up => "up",
        HealthMode::Down => "down",
        HealthMode::Drain => "drain",
        HealthMode::Lazy => "lazy",
    }
}

/// The name of a pool as it stands in a path.
pub(super) fn pool_name(text: &str) -> &str {
    if text == DEFAULT_POOL { "" } else { text }
}

fn pool(site: &Site, snapshot: &Snapshot, caches: &[CacheOfPool<'_>], pool: &Pool) -> Value {
    let id = |slot: &BackendSlot| snapshot.backend(*slot).map(|b| b.id.as_str());
    let is_up = |slot: &&BackendSlot| site.monitor.standing(**slot).state == State::Up;
    json!({
        "name": if pool.name.is_empty() { DEFAULT_POOL } else { &pool.name },
        "policy": policy_name(pool.policy.kind),
        "servers": pool.members.iter().filter_map(id).collect::<Vec<_>>(),
        "up": pool.members.iter().filter(is_up).count(),
        "tcpToUdp": pool.tcp_to_udp,
        "cache": caches
            .iter()
            .find(|cache| cache.pool.name == pool.name)
            .map(|cache| json!({
                "size": cache.reading.size,
                "entries": cache.reading.entries,
                "memoryBytes": cache.reading.memory,
                "evicted": cache.reading.evicted,
                "hits": cache.counts.hits,
                "misses": cache.counts.misses,
            })),
    })
}

fn listener(listener: &Listener, live: &LiveState) -> Value {
    let protocol = match &listener.service {
        Service::Dns => "dns",
        Service::DnsUdp => "dns-udp",
        Service::Dot(_) => "dot",
        Service::TcpRelay(_) => "tcp-relay",
        Service::UdpRelay(_) => "udp-relay",
    };
    json!({
        "address": listener.address.to_string(),
        "interface": listener.interface,
        "protocol": protocol,
        "reusePort": listener.reuse_port,
        "connections": live.connection_limits().by_listener(listener.slot),
    })
}

/// Finds a chain by its name.
///
/// # Errors
/// There is none.
pub(super) fn chain_key(name: &str) -> Result<ChainKey, Problem> {
    let at = CHAINS.iter().position(|of| *of == name).ok_or_else(|| Problem::not_found("chain"))?;
    Ok(ChainKey::ALL[at])
}

/// Calls one of two functions with a chain, by the kind of its rules.
macro_rules! with_chain {
    ($snapshot:expr, $key:expr, $chain:ident, $act:ident => $body:expr) => {{
        let chains = &$snapshot.chains;
        match $key {
            ChainKey::Query | ChainKey::CacheMiss => {
                let $chain = if $key == ChainKey::Query { &chains.query } else { &chains.cache_miss };
                let $act = text::action;
                $body
            }
            other => {
                let $chain = match other {
                    ChainKey::CacheHit => &chains.cache_hit,
                    ChainKey::CacheInserted => &chains.cache_inserted,
                    ChainKey::SelfAnswered => &chains.self_answered,
                    ChainKey::Timeout => &chains.timeout,
                    ChainKey::Xfr => &chains.xfr,
                    ChainKey::Response | ChainKey::Query | ChainKey::CacheMiss => &chains.response,
                };
                let $act = text::response_action;
                $body
            }
        }
    }};
}

fn length(snapshot: &Snapshot, key: ChainKey) -> usize {
    with_chain!(snapshot, key, chain, _act => chain.rules().len())
}

fn rule(snapshot: &Snapshot, live: &LiveState, key: ChainKey, at: usize) -> Option<Value> {
    with_chain!(snapshot, key, chain, act => chain.rules().get(at).map(|rule| shown(at, rule, act, live)))
}

fn shown<A>(at: usize, rule: &Rule<A>, act: fn(&A) -> String, live: &LiveState) -> Value {
    json!({
        "number": at,
        "uuid": uuid_text(&rule.uuid),
        "name": rule.name,
        "group": rule.group,
        "selector": matches(rule),
        "action": act(&rule.action),
        "matches": live.rule_hits(rule.slot),
    })
}

fn groups(snapshot: &Snapshot, key: ChainKey) -> Value {
    fn counted<A>(chain: &Chain<A>) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        let named = chain.rules().iter().filter(|rule| !rule.group.is_empty());
        named.for_each(|rule| *counts.entry(rule.group.as_str()).or_default() += 1);
        counts
    }
    let counts = with_chain!(snapshot, key, chain, _act => counted(chain));
    let groups: Vec<Value> =
        counts.into_iter().map(|(group, rules)| json!({"group": group, "rules": rules})).collect();
    json!({"chain": CHAINS[key as usize], "groups": groups})
}

/// The numbers of the rules of a group.
pub(super) fn in_group(snapshot: &Snapshot, key: ChainKey, group: &str) -> Vec<usize> {
    fn numbers<A>(chain: &Chain<A>, group: &str) -> Vec<usize> {
        let all = chain.rules().iter().enumerate();
        all.filter(|(_, rule)| !rule.group.is_empty() && rule.group == group).map(|(at, _)| at).collect()
    }
    with_chain!(snapshot, key, chain, _act => numbers(chain, group))
}

/// The UUID of a rule, and its group, which is empty for none.
pub(super) fn rule_at(snapshot: &Snapshot, key: ChainKey, at: usize) -> ([u8; 16], &str) {
    with_chain!(snapshot, key, chain, _act => {
        chain.rules().get(at).map_or(([0; 16], ""), |rule| (rule.uuid, &*rule.group))
    })
}

/// What keeps a pool: its servers, and the rules that name it.
pub(super) fn users(snapshot: &Snapshot, pool: &str) -> Vec<String> {
    fn named<'c, A>(
        chain: &'c Chain<A>,
        pool: &'c str,
        of: impl Fn(&'c A) -> Option<&'c PoolRef> + 'c,
    ) -> impl Iterator<Item = [u8; 16]> + 'c {
        let names = move |rule: &&'c Rule<A>| {
            let mut found = of(&rule.action).is_some_and(|named| *named.name == *pool);
            rule.matcher.pools(&mut |named| found |= *named.name == *pool);
            found
        };
        chain.rules().iter().filter(names).map(|rule| rule.uuid)
    }
    let members = snapshot.pools.iter().filter(|p| p.name == pool).flat_map(|p| &p.members);
    let servers = members.filter_map(|slot| snapshot.backend(*slot)).map(|b| format!("server {}", b.id));
    let mut all: Vec<String> = servers.collect();
    let chains = &snapshot.chains;
    for key in ChainKey::ALL {
        let uuids: Vec<_> = match key {
            ChainKey::Query => named(&chains.query, pool, |a| a.traits().pool).collect(),
            ChainKey::CacheMiss => named(&chains.cache_miss, pool, |a| a.traits().pool).collect(),
            ChainKey::Response => named(&chains.response, pool, |a| a.traits().pool).collect(),
            ChainKey::CacheHit => named(&chains.cache_hit, pool, |a| a.traits().pool).collect(),
            ChainKey::CacheInserted => named(&chains.cache_inserted, pool, |a| a.traits().pool).collect(),
            ChainKey::SelfAnswered => named(&chains.self_answered, pool, |a| a.traits().pool).collect(),
            ChainKey::Timeout => named(&chains.timeout, pool, |a| a.traits().pool).collect(),
            ChainKey::Xfr => named(&chains.xfr, pool, |a| a.traits().pool).collect(),
        };
        all.extend(uuids.iter().map(|uuid| format!("{} rule {}", CHAINS[key as usize], uuid_text(uuid))));
    }
    all
}

/// Finds a rule by its UUID; returns its number.
///
/// # Errors
/// There is none.
pub(super) fn one_rule(snapshot: &Snapshot, key: ChainKey, text: &str) -> Result<usize, Problem> {
    fn number<A>(chain: &Chain<A>, uuid: &[u8; 16]) -> Option<usize> {
        chain.rules().iter().position(|rule| rule.uuid == *uuid)
    }
    let uuid = crate::config::ruleset::parse_uuid(text);
    let at = uuid.and_then(|uuid| with_chain!(snapshot, key, chain, _act => number(chain, &uuid)));
    at.ok_or_else(|| Problem::not_found("rule"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::response::IntoResponse;

    use super::*;
    use crate::base::time::Tick;
    use crate::cache::{CacheOptions, PacketCache};
    use crate::control::fixture;
    use crate::model::Pool;

    #[test]
    fn entries_of_a_name_are_purged() {
        let mut snapshot = fixture::snapshot(1, &[], &[0]);
        let cache = PacketCache::new(CacheOptions::new(10), [1, 2, 3, 4]);
        (1..6).for_each(|n| fixture::store(&cache, n, 60, Tick(0)));
        snapshot.pools[0].cache = Some(Arc::new(cache));
        snapshot.pools.push(Pool { name: "bare".to_owned(), ..Pool::default() });
        let ask = |query: &str| {
            let uri = format!("/api/v1/cache?{query}").parse().expect("a URI");
            purge(&snapshot, &uri).map_err(|problem| problem.into_response().status().as_u16())
        };
        for (query, count) in [
            ("name=N1.example", "1"),
            ("name=n1.example.&pool=", "0"),
            ("name=n2.example&type=AAAA", "0"),
            ("name=n2.example&type=a&suffix=false", "1"),
            ("name=example", "0"),
            ("name=example&suffix=", "3"),
        ] {
            assert_eq!(ask(query), Ok(json!({"status": "purged", "count": count})), "{query}");
        }
        for (query, status) in [
            ("", 400),
            ("name=a..b", 400),
            ("name=a&type=WHAT", 400),
            ("name=n3.example&name=n4.example", 400),
            ("name=n3.example&type=A&type=AAAA", 400),
            ("name=a&pool=none", 404),
            ("name=a&pool=bare", 404),
        ] {
            assert_eq!(ask(query), Err(status), "{query}");
        }
    }
}
