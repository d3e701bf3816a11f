//! Packet caches as Lua objects: `newPacketCache`, and the caches of pools.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use mlua::{Lua, MetaMethod, UserData, UserDataMethods, Value};

use crate::base::files::UNFINISHED;
use crate::cache::CacheOptions;
use crate::cache::warm_up::WarmUpList;
use crate::config::caches::ENTRIES_MAX;
use crate::config::error::{Fault, Sited};
use crate::config::functions::{CACHE_METHODS, CACHE_OPTIONS};
use crate::lua::front_end::argument::{named, number, shown, switch, text, whole, wrong};
use crate::lua::front_end::arguments::{Arguments, items};
use crate::lua::front_end::context::{Call, Context};
use crate::lua::front_end::declared::Methods;
use crate::lua::front_end::missing::is_inert;
use crate::lua::front_end::view::RunningCache;
use crate::lua::front_end::{nearest, networks, packet, printing};
use crate::wire::codes::type_name;
use crate::wire::name::Text;

/// The longest time in seconds: the longest TTL (RFC 2181, section 8).
const SECONDS_MAX: u32 = i32::MAX as u32;
/// The least and the most memory of a table, bytes: a mebibyte and a tebibyte.
const MEMORY: (f64, f64) = (1_048_576.0, 1_099_511_627_776.0);
/// The shortest and the longest answer that may be the longest one kept, bytes.
const ENTRY_BYTES: (u16, u16) = (64, 65_535);
/// The longest path, bytes; the kernel's limit is one more with its end.
const PATH_MAX: usize = 4_095;
/// The smallest payload size that counts (RFC 6891, section 6.2.3).
const PAYLOAD_MIN: u16 = 512;
/// The largest share of an entry's time in which it is prefetched, percent.
const PREFETCH_MAX: u8 = 90;
/// The largest file of names, bytes.
const NAMES_BYTES_MAX: u64 = 64 << 20;
/// The EDNS option of a client subnet (RFC 7871).
const CLIENT_SUBNET: u16 = 8;
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
    let entries = match number(a.at(0)).filter(|n| *n >= 0.0) {
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
    } else if cache.ttl_min > cache.negative_ttl_max && cache.negative_ttl_max > 0 {
        call.warn(Fault::Conflict {
            wrong: format!(
                "minTTL ({}) is above maxNegativeTTL ({}): no negative answer is kept",
                cache.ttl_min, cache.negative_ttl_max
            ),
            expected: "a lower minTTL, or maxNegativeTTL=0".to_owned(),
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
            let given = words(name, v)?;
            if given.contains(&CLIENT_SUBNET) {
                call.warn(Fault::Note(
                    "8 in skipOptions has no effect: subnets get answers of their own".to_owned(),
                ));
            }
            cache.skip_options.extend(given);
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
        "prefetch" => {
            let percent = nearest::whole(call, name, v, 0, PREFETCH_MAX.into())?;
            cache.prefetch_percent = u8::try_from(percent).unwrap_or(PREFETCH_MAX);
        }
        "prefetchHits" => cache.prefetch_hits = nearest::whole(call, name, v, 1, u32::MAX)?,
        "warmUp" => cache.warm_up = Some(Arc::new(names(name, v)?)),
        "snapshot" => cache.snapshot = Some(path(name, v)?),
        "memoryLimit" => cache.memory_max = Some(memory(name, v)?),
        "numberOfShards" => {
            nearest::whole(call, name, v, 1, u32::MAX)?;
        }
        "deferrableInsertLock" => {
            switch(name, v)?;
        }
        // As several public configurations have it.
        "temporaryTTL" => call.warn(Fault::Unknown {
            what: "option",
            name: name.to_owned(),
            hint: "did you mean \"temporaryFailureTTL\"?".to_owned(),
        }),
        _ => call.unknown("option", name, CACHE_OPTIONS.iter().map(|e| e.name)),
    }
    Ok(())
}

/// Reads the file of names that a cache begins with.
fn names(name: &str, v: &Value) -> Result<WarmUpList, Fault> {
    let path = text(name, v, "a path")?;
    let no_list = |wrong: String| Fault::Conflict {
        wrong: format!("{name} \"{path}\": {wrong}"),
        expected: "the path of a file with a name in each line".to_owned(),
    };
    let unread = |reason| Fault::Unreadable { path: path.clone(), reason };
    // Opening a pipe would wait for who writes to it.
    let about = std::fs::metadata(&path).map_err(|e| no_list(e.to_string()))?;
    if !about.is_file() {
        return Err(no_list("not a regular file".to_owned()));
    }
    if about.len() > NAMES_BYTES_MAX {
        return Err(unread(format!("larger than {NAMES_BYTES_MAX} bytes")));
    }
    let mut text = Vec::new();
    let file = File::open(&path).map_err(|e| unread(e.to_string()))?;
    file.take(NAMES_BYTES_MAX).read_to_end(&mut text).map_err(|e| unread(e.to_string()))?;
    WarmUpList::parse(&path, &text).map_err(|(line, why)| unread(format!("line {line}: {why}")))
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

/// Reads the path of a file.
fn path(name: &str, v: &Value) -> Result<String, Fault> {
    let expected = format!("the path of a file, of 1 to {PATH_MAX} bytes");
    let path = text(name, v, &expected)?;
    let end = path.rsplit('/').next().unwrap_or_default();
    let is_one =
        (1..=PATH_MAX).contains(&path.len()) && !path.contains('\0') && !["", ".", ".."].contains(&end);
    if !is_one {
        return Err(wrong(name, v, expected));
    }
    // Those that were refused later have a digit.
    let bare = end.strip_suffix(|c: char| c.is_ascii_digit()).and_then(|rest| rest.strip_suffix('.'));
    let is_refused = [Some(end), bare].into_iter().flatten().any(|end| end.ends_with(".refused"));
    if is_refused || end.ends_with(UNFINISHED) {
        return Err(wrong(name, v, "a name that no other snapshot is kept by meanwhile".to_owned()));
    }
    Ok(path)
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

impl Cache {
    /// Returns the running cache: that of a pool which has this one in the draft. None while the file
    /// is evaluated, and before a change is in force.
    fn running(&self, call: &Call<'_>) -> Option<RunningCache> {
        let session = call.session.as_ref()?;
        let mut pools = call.draft.pools.iter().filter(|pool| pool.cache == Some(self.at));
        pools.find_map(|pool| session.view.cache(&pool.name))
    }

    /// Returns its figures; those of an empty one while there is none.
    fn figures(&self, call: &Call<'_>) -> Vec<(&'static str, u64)> {
        self.running(call).map(|running| running.figures).unwrap_or_else(|| {
            let most = call.draft.caches.get(self.at).map_or(0, |written| written.value.entries_max);
            let most = u64::try_from(most).unwrap_or(u64::MAX);
            FIGURES.iter().map(|(name, _)| (*name, if *name == "maxEntries" { most } else { 0 })).collect()
        })
    }

    fn shown(&self, call: &Call<'_>) -> String {
        let figures = self.figures(call);
        let of = |name: &str| figures.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
        format!("{}/{}", of("entries"), of("maxEntries"))
    }
}

/// The figures by their names, with what `printStats` calls them.
const FIGURES: [(&str, &str); 10] = [
    ("entries", "Entries"),
    ("maxEntries", "Max Entries"),
    ("hits", "Hits"),
    ("misses", "Misses"),
    ("deferredInserts", "Deferred inserts"),
    ("deferredLookups", "Deferred lookups"),
    ("lookupCollisions", "Lookup Collisions"),
    ("insertCollisions", "Insert Collisions"),
    ("ttlTooShorts", "TTL Too Shorts"),
    ("cleanupCount", "Cleanup Count"),
];

/// What a method does to the running cache, or returns of it.
type Method = fn(&mut Call<'_>, &RunningCache, Arguments<'_>) -> Result<Value, Fault>;

/// The methods that are about entries, each with what it returns while there is no running cache.
const METHODS: [(&str, Value, Method); 6] = [
    ("expunge", Value::Integer(0), |_, running, a| {
        let most = a.whole(0, ENTRIES_MAX)? as usize;
        Ok(count(running.cache.expunge(most)))
    }),
    ("purgeExpired", Value::Integer(0), |_, running, a| {
        let most = a.whole(0, ENTRIES_MAX)? as usize;
        Ok(count(running.cache.purge_expired(most, true, running.now)))
    }),
    ("expungeByName", Value::Integer(0), |_, running, a| {
        let name = packet::wire(a.what(0), a.at(0))?;
        let qtype = a.word(1)?;
        let qtype = Some(qtype).filter(|qtype| *qtype != ANY);
        Ok(count(running.cache.expunge_by_name(&name, qtype, a.switch(2)?)))
    }),
    ("isFull", Value::Boolean(false), |_, running, _| Ok(Value::Boolean(running.cache.is_full()))),
    ("getAddressListByDomain", Value::Nil, |call, running, a| {
        let name = packet::wire("", a.at(0))?;
        let mut found = BTreeSet::new();
        running.cache.for_each(running.now, |entry| {
            if entry.asked.qname == name {
                found.extend(entry.addresses());
            }
        });
        let list = call.lua.create_table()?;
        for address in found.into_iter().take(FOUND_MAX) {
            list.raw_push(networks::address_object(call.lua, address)?)?;
        }
        Ok(Value::Table(list))
    }),
    ("getDomainListByAddress", Value::Nil, |call, running, a| {
        let address = networks::address("", a.at(0), networks::ADDRESS)?.ip().to_canonical();
        let mut found = BTreeSet::new();
        running.cache.for_each(running.now, |entry| {
            if found.len() < FOUND_MAX && entry.addresses().contains(&address) {
                found.insert(Text(entry.asked.qname).to_string());
            }
        });
        let list = call.lua.create_table()?;
        for name in found {
            list.raw_push(call.lua.create_userdata(packet::Name::new(&name))?)?;
        }
        Ok(Value::Table(list))
    }),
];

/// The type that stands for all types.
const ANY: u16 = 255;
/// The most names or addresses of a list.
const FOUND_MAX: usize = 100_000;

fn count(number: usize) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Writes the entries of a cache, one per line.
fn dump(cache: &RunningCache, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "; packet cache: {} of {} entries", cache.cache.len(), cache.cache.capacity())?;
    let mut ended = Ok(());
    cache.cache.for_each(cache.now, |entry| {
        if ended.is_err() {
            return;
        }
        let (name, qtype) = (Text(entry.asked.qname), type_name(entry.asked.qtype));
        let (way, rcode) = (if entry.asked.by_stream { "TCP" } else { "UDP" }, entry.rcode);
        ended = writeln!(
            out,
            "{name} {} {qtype} ; rcode {rcode}, age {}, size {}, over {way}",
            entry.remaining, entry.age, entry.size
        );
    });
    ended
}

impl UserData for Cache {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        let mut all = Methods::new(methods, CACHE_METHODS);
        let context: fn(&Self) -> &Context = |cache| &cache.context;
        for (name, nothing, method) in METHODS {
            all.add_recorded(name, context, move |call, cache, a| match (cache.running(call), &nothing) {
                (Some(running), _) => method(call, &running, a),
                (None, Value::Nil) => Ok(Value::Table(call.lua.create_table()?)),
                (None, nothing) => Ok(nothing.clone()),
            });
        }
        all.add_recorded("getStats", context, |call, cache, _| {
            let figures = cache.figures(call);
            Ok(Value::Table(call.lua.create_table_from(figures)?))
        });
        all.add_recorded("toString", context, |call, cache, _| {
            Ok(Value::String(call.lua.create_string(cache.shown(call))?))
        });
        all.add("printStats", |lua, cache, _| {
            let text = cache.context.look(lua, "printStats", |call| {
                let figures = cache.figures(call);
                let label =
                    |name: &str| FIGURES.iter().find(|(known, _)| *known == name).map_or("", |(_, l)| *l);
                // The number of entries, and the most of them, are one line.
                let mut text = String::new();
                for (name, value) in &figures {
                    match *name {
                        "maxEntries" => _ = write!(text, "/{value}"),
                        "entries" => _ = write!(text, "{}: {value}", label(name)),
                        _ => _ = write!(text, "\n{}: {value}", label(name)),
                    }
                }
                Ok(Value::String(call.lua.create_string(text)?))
            })?;
            printing::print(&cache.context, lua, text)
        });
        all.add("dump", |lua, cache, a| {
            let text = cache.context.look(lua, "dump", |call| {
                let path = a.text(0, "the path of a new file, or \"-\"")?;
                let Some(running) = cache.running(call) else {
                    call.warn(Fault::Note("has no effect: the cache is not running yet".to_owned()));
                    return Ok(Value::Nil);
                };
                if path == "-" {
                    let mut text = Bounded(Vec::new());
                    // It ends where the output of a command ends.
                    let _ = dump(&running, &mut text);
                    return Ok(Value::String(call.lua.create_string(text.0.trim_ascii_end())?));
                }
                let unwritten = |e: io::Error| Fault::Conflict {
                    wrong: format!("cannot write \"{path}\": {e}"),
                    expected: "the path of a new file".to_owned(),
                };
                let file = File::create_new(&path).map_err(unwritten)?;
                let mut file = BufWriter::new(file);
                dump(&running, &mut file).and_then(|()| file.flush()).map_err(unwritten)?;
                Ok(Value::Nil)
            })?;
            printing::print(&cache.context, lua, text)
        });
        methods.add_meta_method(MetaMethod::ToString, |lua, cache, ()| {
            cache
                .context
                .look(lua, "toString", |call| Ok(Value::String(call.lua.create_string(cache.shown(call))?)))
        });
    }
}

/// The most bytes of a dump that the console shows.
const SHOWN_MAX: usize = 16 << 20;

/// Text up to a length.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > SHOWN_MAX {
            return Err(io::Error::other("too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
