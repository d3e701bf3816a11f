//! Packet caches as Lua objects: `newPacketCache`, and the caches of pools.

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::cache::CacheOptions;
use crate::config::caches::ENTRIES_MAX;
use crate::config::error::{Fault, Sited};
use crate::config::functions::{CACHE_METHODS, CACHE_OPTIONS};
use crate::lua::front_end::argument::{named, number, shown, switch, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::Methods;
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::nearest;

/// The longest time in seconds: the longest TTL (RFC 2181, section 8).
const SECONDS_MAX: u32 = i32::MAX as u32;
/// The least and the most memory of a table, bytes: a mebibyte and a tebibyte.
const MEMORY: (f64, f64) = (1_048_576.0, 1_099_511_627_776.0);
/// The shortest and the longest answer that may be the longest one kept, bytes.
const ENTRY_BYTES: (u16, u16) = (64, 65_535);
/// The smallest payload size that counts (RFC 6891, section 6.2.3).
const PAYLOAD_MIN: u16 = 512;
/// The most numbers in a list of options or of payload sizes.
const LIST_MAX: usize = 256;

/// The options by their places in the older form, behind the number of entries.
const OLDER: [&str; 9] = [
    "maxTTL",
    "minTTL",
    "temporaryFailureTTL",
    "staleTTL",
    "dontAge",
    "numberOfShards",
    "deferrableInsertLock",
    "maxNegativeTTL",
    "parseECS",
];

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    let own = context.clone();
    context.define(lua, "newPacketCache", move |call, a| {
        let options = new_cache(call, a);
        call.draft.caches.push(Sited { value: options, origin: call.origin.clone() });
        let at = call.draft.caches.len() - 1;
        Ok(Value::UserData(call.lua.create_userdata(Cache { context: own.clone(), at })?))
    })
}

/// Reads the arguments of `newPacketCache`. Every invalid one is recorded.
fn new_cache(call: &mut Call<'_>, a: Arguments<'_>) -> CacheOptions {
    let entries = match number(a.at(0)).filter(|n| *n >= 1.0) {
        Some(_) => nearest::whole(call, "the number of entries", a.at(0), 1, ENTRIES_MAX),
        None => whole("the number of entries", a.at(0), 1, ENTRIES_MAX),
    };
    let entries = entries.unwrap_or_else(|fault| {
        call.fail(fault);
        1
    });
    let mut cache = CacheOptions::new(entries as usize);
    let given: Vec<(String, Value)> = match a.given(1) {
        Some(table @ Value::Table(_)) => {
            let given = a.at_most(2).and_then(|()| named("the options", table));
            given.unwrap_or_else(|fault| {
                call.fail(fault);
                Vec::new()
            })
        }
        _ => {
            let older = OLDER.iter().zip(1..).map(|(name, at)| ((*name).to_owned(), a.at(at).clone()));
            older.filter(|(_, value)| !value.is_nil()).collect()
        }
    };
    for (name, value) in given {
        if let Err(fault) = option(call, &mut cache, &name, &value) {
            call.fail(fault);
        }
    }
    if cache.ttl_min > cache.ttl_max {
        call.warn(Fault::Conflict {
            wrong: format!("minTTL ({}) is above maxTTL ({}): nothing is kept", cache.ttl_min, cache.ttl_max),
            expected: "a lower minTTL".to_owned(),
        });
    }
    discard_ranks(call, &mut cache);
    cache
}

fn option(call: &mut Call<'_>, cache: &mut CacheOptions, name: &str, v: &Value) -> Result<(), Fault> {
    let seconds = |call: &mut Call<'_>| nearest::whole(call, name, v, 0, SECONDS_MAX);
    match name {
        "maxTTL" => cache.ttl_max = nearest::whole(call, name, v, 1, SECONDS_MAX)?,
        "minTTL" => cache.ttl_min = seconds(call)?,
        "maxNegativeTTL" => cache.negative_ttl_max = seconds(call)?,
        "temporaryFailureTTL" => cache.failure_ttl = seconds(call)?,
        "truncatedTTL" => cache.truncated_ttl = seconds(call)?,
        "staleTTL" => cache.stale_ttl = seconds(call)?,
        "staleOnFailure" => cache.stale_on_failure = switch(name, v)?,
        "keepStaleData" => cache.keep_stale = switch(name, v)?,
        "dontAge" => cache.dont_age = switch(name, v)?,
        "parseECS" => cache.parse_ecs = switch(name, v)?,
        "cookieHashing" => cache.hash_cookies = switch(name, v)?,
        "skipOptions" => {
            cache.skip_options.extend(words(name, v)?);
            cache.skip_options.sort_unstable();
            cache.skip_options.dedup();
        }
        "payloadRanks" => {
            cache.payload_ranks = words(name, v)?;
            cache.payload_ranks.sort_unstable();
            cache.payload_ranks.dedup();
        }
        "maximumEntrySize" => {
            let bytes = nearest::word(call, name, v, ENTRY_BYTES.0, ENTRY_BYTES.1)?;
            cache.entry_bytes_max = bytes.into();
        }
        "shuffle" => cache.shuffle = switch(name, v)?,
        "coalesce" => cache.coalesce = switch(name, v)?,
        "memoryLimit" => cache.memory_max = Some(memory(name, v)?),
        "numberOfShards" => {
            nearest::whole(call, name, v, 1, u32::MAX)?;
        }
        "deferrableInsertLock" => {
            switch(name, v)?;
        }
        _ => call.unknown("option", name, CACHE_OPTIONS.iter().map(|e| e.name)),
    }
    Ok(())
}

/// Reads a list of sixteen-bit numbers.
fn words(name: &str, v: &Value) -> Result<Vec<u16>, Fault> {
    let mut words = Vec::new();
    for item in items(v)? {
        if words.len() == LIST_MAX {
            let what = format!("a list of more than {LIST_MAX} numbers");
            return Err(Fault::Limit { what, limit: LIST_MAX.to_string() });
        }
        // The range bounds it.
        words.push(u16::try_from(whole(name, &item?, 0, u16::MAX.into())?).unwrap_or(u16::MAX));
    }
    Ok(words)
}

/// Reads a number of bytes.
fn memory(name: &str, v: &Value) -> Result<usize, Fault> {
    let (min, max) = MEMORY;
    let bytes = number(v).filter(|n| n.fract() == 0.0 && (min..=max).contains(n));
    // The filter bounds the cast.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    bytes
        .map(|n| n as usize)
        .ok_or_else(|| wrong(name, v, format!("a whole number of bytes from {min} to {max}")))
}

/// As dnsdist does, leaves out payload sizes that cannot make a difference.
fn discard_ranks(call: &mut Call<'_>, cache: &mut CacheOptions) {
    let most = cache.entry_bytes_max;
    let (kept, discarded): (Vec<u16>, Vec<u16>) =
        cache.payload_ranks.iter().partition(|rank| **rank >= PAYLOAD_MIN && usize::from(**rank) <= most);
    cache.payload_ranks = kept;
    for rank in discarded {
        let note = format!(
            "the payload size {rank} is left out: expected {PAYLOAD_MIN} to maximumEntrySize ({most})"
        );
        call.warn(Fault::Note(note));
    }
}

/// Gives a pool the packet cache of a value.
pub(crate) fn set(call: &mut Call<'_>, pool: &str, v: &Value) -> Result<(), Fault> {
    // What was wrong with it was reported where it was created.
    if is_inert(v) {
        return Ok(());
    }
    let cache = v.as_userdata().and_then(|u| u.borrow::<Cache>().ok().map(|cache| cache.at));
    let at = cache.ok_or_else(|| Fault::value("", shown(v), "a packet cache, as newPacketCache(10000)"))?;
    call.draft.pool(pool).cache = Some(at);
    Ok(())
}

/// Returns the packet cache of a pool; nil if it has none.
pub(crate) fn of_pool(call: &mut Call<'_>, context: &Context, pool: &str) -> Result<Value, Fault> {
    let at = call.draft.pools.iter().find(|p| p.name == pool).and_then(|p| p.cache);
    let object = at.map(|at| call.lua.create_userdata(Cache { context: context.clone(), at })).transpose()?;
    Ok(object.map_or(Value::Nil, Value::UserData))
}

/// A packet cache as a Lua object: its place in the draft.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    context: Context,
    at: usize,
}

impl UserData for Cache {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, CACHE_METHODS);
        all.add("toString", |_, cache, _| Ok(cache.at));
        methods.add_meta_method(MetaMethod::ToString, |_, _, ()| Ok("a packet cache"));
    }
}
