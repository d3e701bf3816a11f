//! Packet caches as functions that run later use them: one table for all shards. Each call does a
//! bounded part of the work; the control thread does the rest of what is to be removed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mlua::{BString, Lua, Table, Value};

use crate::base::addr::mapped;
use crate::base::time::Tick;
use crate::cache::PacketCache;
use crate::cache::entry::Seen;
use crate::cache::removal::What;
use crate::engine::clock;
use crate::lua::ffi::running_call::RunningCall;
use crate::lua::state::call_state::CallState;
use crate::lua::state::view::WhichCache;

/// Sets of a table that a search looks at; a larger one is not searched by functions.
const SEARCHED_MAX: usize = 4_096;
/// What a search of a larger one says.
pub(crate) const TOO_LARGE: &str =
    "the packet cache has too many entries to be searched by a function; ask on the console";
/// The most names or addresses that are found.
const FOUND_MAX: usize = 1_000;

/// Adds the functions under the prelude's caches; each takes the number of a cache, or the name of a
/// pool that has it.
pub(crate) fn define(lua: &Lua, core: &Table, call: &Rc<RunningCall>) -> mlua::Result<()> {
    let state = Rc::clone(call);
    let of = move |which: &Value| cache(&state, which);
    let found = of.clone();
    let known = lua.create_function(move |_, which: Value| Ok(found(&which)?.is_some()))?;
    core.raw_set("cache_known", known)?;
    let found = of.clone();
    let by_name = move |_: &Lua, (which, qname, qtype, suffix): (Value, BString, Option<u16>, bool)| {
        let what = What::Named { qname: qname.to_vec().into(), qtype, suffix };
        removed(found(&which)?, what)
    };
    core.raw_set("cache_expunge_by_name", lua.create_function(by_name)?)?;
    let found = of.clone();
    let expunge = move |_: &Lua, (which, most): (Value, usize)| removed(found(&which)?, What::Any(most));
    core.raw_set("cache_expunge", lua.create_function(expunge)?)?;
    let found = of.clone();
    let purge = move |_: &Lua, (which, most): (Value, usize)| removed(found(&which)?, What::Expired(most));
    core.raw_set("cache_purge", lua.create_function(purge)?)?;
    let found = of.clone();
    let is_full =
        lua.create_function(move |_, which: Value| Ok(found(&which)?.is_some_and(|cache| cache.is_full())))?;
    core.raw_set("cache_is_full", is_full)?;
    let state = Rc::clone(call);
    let figures = lua.create_function(move |lua, which: Value| {
        let Some(cache) = cache(&state, &which)? else { return Ok(None) };
        let current = state.current().try_borrow().map_err(mlua::Error::external)?;
        let figures = cache.figures(&current.configuration.cache_counts(&cache));
        lua.create_table_from(figures).map(Some)
    })?;
    core.raw_set("cache_figures", figures)?;
    let found = of.clone();
    let addresses = move |_: &Lua, (which, qname): (Value, BString)| {
        let Some(cache) = found(&which)? else { return Ok(Vec::new()) };
        let all = addresses_of(&cache, &qname, clock::now()).ok_or_else(too_large)?;
        Ok(all.into_iter().map(|ip| BString::from(mapped(ip))).collect())
    };
    core.raw_set("cache_addresses", lua.create_function(addresses)?)?;
    let domains = move |_: &Lua, (which, address): (Value, BString)| {
        let (Some(cache), Ok(bytes)) = (of(&which)?, <[u8; 16]>::try_from(&address[..])) else {
            return Ok(Vec::new());
        };
        let ip = IpAddr::from(bytes).to_canonical();
        let all = domains_of(&cache, ip, clock::now()).ok_or_else(too_large)?;
        Ok(all.into_iter().map(BString::from).collect())
    };
    core.raw_set("cache_domains", lua.create_function(domains)?)
}

fn too_large() -> mlua::Error {
    mlua::Error::runtime(TOO_LARGE)
}

/// Returns the cache that a value names.
fn cache(call: &RunningCall, which: &Value) -> mlua::Result<Option<Arc<PacketCache>>> {
    let current = call.current().try_borrow().map_err(mlua::Error::external)?;
    Ok(match which {
        Value::String(name) => of_pool(&current, &name.as_bytes()),
        other => {
            let number = other.as_usize();
            number.and_then(|number| current.configuration.cache(WhichCache::Number(number)).cloned())
        }
    })
}

/// Returns the cache of a pool.
pub(crate) fn of_pool(current: &CallState, pool: &[u8]) -> Option<Arc<PacketCache>> {
    current.configuration.cache(WhichCache::OfPool(pool)).cloned()
}

fn removed(cache: Option<Arc<PacketCache>>, what: What) -> mlua::Result<usize> {
    cache.map_or(Ok(0), |cache| cache.remove_soon(what, clock::now()).map_err(mlua::Error::runtime))
}

/// Returns the addresses in the answers about a name; none if there are too many entries.
pub(crate) fn addresses_of(cache: &PacketCache, qname: &[u8], now: Tick) -> Option<BTreeSet<IpAddr>> {
    let mut found = BTreeSet::new();
    let of = |entry: &Seen<'_>| {
        if entry.asked.qname.eq_ignore_ascii_case(qname) && found.len() < FOUND_MAX {
            found.extend(entry.addresses());
        }
    };
    cache.for_some(SEARCHED_MAX, now, of).then_some(found)
}

/// Returns the names whose answers have an address, in wire format; none if there are too many
/// entries.
pub(crate) fn domains_of(cache: &PacketCache, ip: IpAddr, now: Tick) -> Option<BTreeSet<Vec<u8>>> {
    let mut found = BTreeSet::new();
    let of = |entry: &Seen<'_>| {
        if found.len() < FOUND_MAX && entry.addresses().contains(&ip) {
            found.insert(entry.asked.qname.to_vec());
        }
    };
    cache.for_some(SEARCHED_MAX, now, of).then_some(found)
}
