//! The Rust functions under the prelude's less used members: each a small step between Lua's values
//! and the packet of the running call. All of them fail when no call is running. The members that
//! are used most are in `lua::ffi::objects`, where compiled code can call them.

#![expect(clippy::disallowed_methods, reason = "the time of day in Lua")]

use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlua::{BString, Function, Lua, Table};

use crate::base::addr::{BackendSlot, mapped};
use crate::base::prefix::Prefix;
use crate::base::time::TickDelta;
use crate::config::value;
use crate::config::value::DOT_PORT;
use crate::engine::clock;
use crate::lua::ffi::running_call::RunningCall;
use crate::lua::machine;
use crate::lua::state::call_state::{Open, SPOOF_TTL, TimedChange};
use crate::lua::state::{Shared, caches, files, metrics};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::query_state::Protocol;
use crate::wire::answer::Soa;
use crate::wire::query::Question;
use crate::wire::records::Records;
use crate::wire::{name, records};

/// Returns the text of `dq:getProtocol()`.
const fn protocol_text(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::DoUdp => "Do53 UDP",
        Protocol::DoTcp => "Do53 TCP",
        Protocol::DnsCryptUdp => "DNSCrypt UDP",
        Protocol::DnsCryptTcp => "DNSCrypt TCP",
        Protocol::DoT => "DNS over TLS",
        Protocol::DoH => "DNS over HTTPS",
        Protocol::DoQ => "DNS over QUIC",
        Protocol::DoH3 => "DNS over HTTP/3",
    }
}

/// Defines functions in a table, each of which gets the open packet.
struct Functions<'l> {
    lua: &'l Lua,
    table: Table,
    call: Rc<RunningCall>,
}

fn over() -> mlua::Error {
    mlua::Error::runtime("this query is over: it can be used only during the call that it was given to")
}

impl Functions<'_> {
    /// Defines a function of the running call's packet.
    fn define<A, R>(
        &self,
        name: &str,
        body: impl Fn(&Lua, &mut Open<'_, '_, '_>, A) -> mlua::Result<R> + 'static,
    ) -> mlua::Result<()>
    where
        A: mlua::FromLuaMulti,
        R: mlua::IntoLuaMulti,
    {
        let call = Rc::clone(&self.call);
        let function = self.lua.create_function(move |lua, arguments: A| {
            call.open(|open| body(lua, open, arguments)).unwrap_or_else(|| Err(over()))
        })?;
        self.table.raw_set(name, function)
    }

    /// Defines a function of its arguments only.
    fn plain<A, R>(&self, name: &str, body: impl Fn(&Lua, A) -> mlua::Result<R> + 'static) -> mlua::Result<()>
    where
        A: mlua::FromLuaMulti,
        R: mlua::IntoLuaMulti,
    {
        self.table.raw_set(name, self.lua.create_function(body)?)
    }

    /// Defines a function that calls back into Lua, and so must not hold the packet meanwhile.
    fn calling<A>(
        &self,
        name: &str,
        body: impl Fn(&Lua, &RunningCall, A) -> mlua::Result<()> + 'static,
    ) -> mlua::Result<()>
    where
        A: mlua::FromLuaMulti,
    {
        let call = Rc::clone(&self.call);
        let function = self.lua.create_function(move |lua, arguments: A| body(lua, &call, arguments))?;
        self.table.raw_set(name, function)
    }
}

/// Returns the table of functions for a state.
pub(crate) fn table(lua: &Lua, call: &Rc<RunningCall>, shared: &Arc<Shared>) -> mlua::Result<Table> {
    let functions = Functions { lua, table: lua.create_table()?, call: Rc::clone(call) };
    message(&functions)?;
    facts(&functions)?;
    tags(&functions)?;
    proxy_values(&functions)?;
    answers(&functions)?;
    choices(&functions)?;
    values(&functions)?;
    sets(&functions, shared)?;
    world(&functions, shared)?;
    metrics::define(lua, &functions.table)?;
    machine::define(lua, &functions.table)?;
    caches::define(lua, &functions.table, call)?;
    Ok(functions.table)
}

fn message(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("content", |lua, c, ()| lua.create_string(c.message()))?;
    f.define("set_content", |_, c, content: BString| Ok(c.set_content(&content)))?;
    f.define("trailing", |lua, c, ()| lua.create_string(c.trailing()))?;
    f.define("set_trailing", |_, c, bytes: BString| Ok(c.set_trailing(&bytes)))?;
    f.define("change_name", |_, c, name: BString| Ok(c.change_name(&name)))?;
    f.calling("options", |_, call, each: Function| {
        let options = |c: &mut Open<'_, '_, '_>| -> Vec<(u16, BString)> {
            c.options().map(|(code, data)| (code, data.into())).collect()
        };
        let options = call.open(options).ok_or_else(over)?;
        options.into_iter().try_for_each(|option| each.call::<()>(option))
    })
}

fn facts(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("temporary_failure_ttl", |_, c, ()| Ok(c.query_state().temporary_failure_ttl))?;
    f.define("set_temporary_failure_ttl", |_, c, ttl: Option<u32>| {
        c.query_state_mut().temporary_failure_ttl = ttl;
        Ok(())
    })?;
    f.define("is_stale", |_, c, ()| Ok(c.query_state().is_stale))?;
    f.define("protocol", |_, c, ()| Ok(protocol_text(c.query_state().protocol)))?;
    f.define("server_name", |lua, c, ()| lua.create_string(&c.query_state().sni))?;
    f.define("interface", |lua, c, ()| {
        lua.create_string(c.current.configuration.interface(c.context().client.listener))
    })?;
    f.define("elapsed_us", |_, c, ()| Ok(c.elapsed().0 / 1_000))?;
    // The engine's clock has an origin of its own: the elapsed time is subtracted from the wall
    // clock.
    f.define("query_time", |_, c, ()| Ok(wall_clock(c.elapsed())))
}

fn tags(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("tags", |lua, c, ()| {
        let pairs = c.query_state().tags.iter().map(|(n, v)| (BString::from(n), BString::from(v)));
        lua.create_table_from(pairs)
    })
}

fn proxy_values(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("clear_proxy_values", |_, c, ()| {
        c.query_state_mut().proxy.clear();
        Ok(())
    })?;
    f.define("add_proxy_value", |_, c, (kind, value): (u8, mlua::String)| {
        Ok(c.query_state_mut().proxy.add(kind, &value.as_bytes()))
    })?;
    f.define("proxy_values", |lua, c, ()| {
        let pairs = c.query_state().proxy.iter().map(|(kind, value)| (kind, BString::from(value)));
        lua.create_table_from(pairs)
    })
}

fn answers(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("spoof", |_, c, (types, contents, ttl): (Vec<u16>, Vec<BString>, Option<u32>)| {
        let records = types.into_iter().zip(contents.iter().map(|o| o.as_slice()));
        Ok(c.spoof(records, ttl.unwrap_or(SPOOF_TTL)))
    })?;
    f.define("set_option", |_, c, (code, data): (u16, BString)| Ok(c.set_option(code, &data)))?;
    f.define("negative", |_, c, (nxdomain, ttl, names, numbers): (bool, u32, Vec<BString>, Vec<u32>)| {
        let ([zone, mname, rname], Ok(numbers)) = (&names[..], <[u32; 5]>::try_from(numbers)) else {
            return Ok(false);
        };
        Ok(c.negative(nxdomain, ttl, &Soa { zone, mname, rname, numbers }))
    })?;
    f.define("set_ttl_max", |_, c, ttl: u32| {
        c.query_state_mut().ttl_max = Some(ttl);
        Ok(())
    })?;
    f.define("set_error", |_, c, (code, text): (u16, String)| {
        c.query_state_mut().set_error(code, text.as_bytes());
        Ok(())
    })?;
    f.define("set_restartable", |_, c, ()| {
        c.query_state_mut().restartable = true;
        Ok(())
    })?;
    f.define("restart", |_, c, ()| {
        c.current.restart = true;
        Ok(())
    })?;
    f.calling("edit_ttls", |_, call, change: Function| {
        // A copy is edited while Lua runs, and replaces the message even after an error.
        let mut message = call.open(|c| c.message().to_vec()).ok_or_else(over)?;
        let mut result = Ok(());
        records::edit_ttls(&mut message, |section, class, rtype, ttl| {
            if result.is_err() {
                return ttl;
            }
            match change.call::<Option<u32>>((section as u8 + 1, class, rtype, ttl)) {
                // As in dnsdist, 0 leaves it.
                Ok(changed) => changed.filter(|changed| *changed > 0).unwrap_or(ttl),
                Err(e) => {
                    result = Err(e);
                    ttl
                }
            }
        });
        call.open(|c| c.set_content(&message)).ok_or_else(over)?;
        result
    })
}

fn choices(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("selected", |_, c, ()| Ok(c.context().answered.map(|a| a.backend.0)))?;
    // Those of servers work between calls, too.
    let call = Rc::clone(&f.call);
    f.plain("server", move |_, slot: u16| {
        let current = call.current().try_borrow().map_err(mlua::Error::external)?;
        let server = current.configuration.server(BackendSlot(slot));
        Ok(server.map_or((None, None, None, None), |s| {
            (Some(s.name.clone()), Some(s.address.to_string()), Some(s.order), Some(s.weight))
        }))
    })?;
    let call = Rc::clone(&f.call);
    f.plain("health_mode", move |_, slot: u16| {
        let current = call.current().try_borrow().map_err(mlua::Error::external)?;
        Ok(current.configuration.server(BackendSlot(slot)).map(|s| s.mode.name()))
    })?;
    let call = Rc::clone(&f.call);
    f.plain("server_slot", move |_, id: String| {
        let current = call.current().try_borrow().map_err(mlua::Error::external)?;
        Ok(current.configuration.slot_of(&id).map(|slot| slot.0))
    })?;
    let call = Rc::clone(&f.call);
    f.plain("all_servers", move |_, ()| {
        let current = call.current().try_borrow().map_err(mlua::Error::external)?;
        Ok(current.configuration.slots().map(|slot| slot.0).collect::<Vec<_>>())
    })?;
    let call = Rc::clone(&f.call);
    f.plain("pool_servers", move |_, pool: BString| {
        let current = call.current().try_borrow().map_err(mlua::Error::external)?;
        Ok(current.configuration.members(&pool).iter().map(|slot| slot.0).collect::<Vec<_>>())
    })?;
    // The address by which a server without an id is identified.
    f.plain("server_address", |_, (text, tls): (String, bool)| {
        let address = if tls { value::address_of(&text, DOT_PORT) } else { value::address(&text) };
        Ok(address.ok().map(|address| address.to_string()))
    })
}

fn values(f: &Functions<'_>) -> mlua::Result<()> {
    f.plain("wire", |_, text: BString| {
        // In the words of the configuration: the same mistake may be made there.
        let wire = std::str::from_utf8(&text).map_err(|_| value::ASCII_NAME).and_then(value::name);
        Ok(wire.map_or_else(|expected| (None, Some(expected)), |wire| (Some(BString::from(wire)), None)))
    })?;
    f.plain("is_wire", |_, bytes: BString| Ok(is_wire(&bytes)))?;
    f.plain("address", |_, text: String| {
        Ok(match value::endpoint(&text) {
            Ok(address) => (Some(BString::from(mapped(address.ip()))), address.port()),
            Err(_) => (None, 0),
        })
    })?;
    f.plain("network", |_, text: String| {
        let prefix = text.parse::<Prefix>().ok();
        Ok(prefix.map_or((None, 0), |p| (Some(BString::from(p.bounds().0.to_be_bytes())), p.bits())))
    })?;
    f.plain("truncate", |_, (bytes, bits): (BString, u32)| {
        let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits.min(128)) };
        let first = u128::from(address(&bytes)) & mask;
        Ok(BString::from(first.to_be_bytes()))
    })?;
    f.plain("question", |_, message: BString| {
        let question = Question::parse(&message);
        Ok(question.map_or((None, 0, 0), |q| (Some(BString::from(q.qname)), q.qtype, q.qclass)))
    })?;
    f.plain("records", |_, (message, each): (BString, Function)| {
        for r in Records::of(&message) {
            let mut owner = [0; name::LEN_MAX];
            let Some((length, _)) = name::read(&message, r.start, &mut owner) else { break };
            let (owner, section) = (BString::from(&owner[..length]), r.section as u8 + 1);
            each.call::<()>((owner, r.rtype, r.class, r.ttl, section, r.rdata.len(), r.rdata.start))?;
        }
        Ok(())
    })
}

/// Returns whether these bytes are exactly one uncompressed name.
fn is_wire(bytes: &[u8]) -> bool {
    name::end_plain(bytes, 0) == Some(bytes.len())
}

/// Returns 16 bytes as an address; a shorter one is padded with zeros.
fn address(bytes: &[u8]) -> Ipv6Addr {
    let mut whole = [0; 16];
    whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    whole.into()
}

fn sets(f: &Functions<'_>, shared: &Arc<Shared>) -> mlua::Result<()> {
    let known = Arc::clone(shared);
    f.plain("name_count", move |_, at: usize| Ok(known.names.get(at).map_or(0, Names::len)))?;
    let known = Arc::clone(shared);
    f.plain("name_bytes", move |_, at: usize| Ok(known.names.get(at).map_or(0, Names::bytes)))?;
    let known = Arc::clone(shared);
    f.plain("name_list", move |_, at: usize| {
        let set = known.names.get(at).and_then(|n| n.set());
        Ok(set.map_or_else(Vec::new, |s| s.iter().map(BString::from).collect()))
    })?;
    networks(f, shared)?;
    let known = Arc::clone(shared);
    f.plain("limiter", move |_, (number, qps, burst): (usize, u32, u32)| {
        Ok(known.add_limiter(number, qps, burst))
    })?;
    let known = Arc::clone(shared);
    f.plain("within", move |_, number: usize| {
        Ok(known.limiters.load().get(number).is_some_and(|bucket| bucket.take(clock::now())))
    })?;
    timed(f)
}

/// Defines changes of timed sets: by the limiter's number, with an address and seconds, or neither.
fn timed(f: &Functions<'_>) -> mlua::Result<()> {
    /// The longest time, seconds: that of the limiters' timers.
    const SECONDS_MAX: f64 = 1e9;
    let call = Rc::clone(&f.call);
    f.plain("timed", move |_, (state, bytes, seconds): (u32, Option<mlua::String>, Option<f64>)| {
        let change = bytes.map_or(TimedChange::Clear(state), |bytes| {
            let nanoseconds = seconds.unwrap_or(0.0).clamp(0.0, SECONDS_MAX) * 1e9;
            // At most 1e18, and not below 0.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let span = TickDelta(nanoseconds as u64);
            TimedChange::Add(state, address(&bytes.as_bytes()).octets(), span)
        });
        let asked = call.open(|c| {
            if !c.current.choosing {
                c.current.timed_changes.push(change);
            }
            !c.current.choosing
        });
        Ok(asked == Some(true))
    })
}

fn networks(f: &Functions<'_>, shared: &Arc<Shared>) -> mlua::Result<()> {
    let known = Arc::clone(shared);
    f.plain("network_count", move |_, at: usize| Ok(known.networks.get(at).map_or(0, Networks::len)))?;
    // Each network's first address, length and whether it is included.
    let known = Arc::clone(shared);
    f.plain("network_each", move |_, (at, each): (usize, Function)| {
        let set = known.networks.get(at).and_then(|n| n.set());
        set.into_iter().flat_map(|s| s.iter()).try_for_each(|(prefix, is_in)| {
            each.call::<()>((BString::from(prefix.bounds().0.to_be_bytes()), prefix.bits(), is_in))
        })
    })?;
    // Whether the longest network above `bits` that contains an address includes it; nil without
    // one.
    let known = Arc::clone(shared);
    f.plain("network_beyond", move |_, (at, bytes, bits): (usize, mlua::String, i32)| {
        let ip = u128::from(address(&bytes.as_bytes()));
        let set = known.networks.get(at).and_then(|n| n.set());
        let holding = set.into_iter().flat_map(|s| s.iter()).filter(|(prefix, _)| {
            let (first, last) = prefix.bounds();
            let same_family = prefix.is_ipv4() == (ip >> 32 == 0xffff);
            i32::from(prefix.bits()) > bits && same_family && (first..=last).contains(&ip)
        });
        // The last value for a network counts; max_by_key returns the last maximum.
        Ok(holding.max_by_key(|(prefix, _)| prefix.bits()).map(|(_, is_in)| is_in))
    })
}

fn world(f: &Functions<'_>, shared: &Arc<Shared>) -> mlua::Result<()> {
    f.plain("wall_clock", |_, ()| Ok(wall_clock(TickDelta(0))))?;
    let log = |name: &str, write: fn(&str, &str)| {
        f.plain(name, move |lua, text: BString| {
            let place = crate::lua::state::record::caller(lua);
            write(&format!("{}:{}", place.0, place.1), &text.to_string());
            Ok(())
        })
    };
    log("errlog", |place, text| tracing::error!(place, "{text}"))?;
    log("warnlog", |place, text| tracing::warn!(place, "{text}"))?;
    log("infolog", |place, text| tracing::info!(place, "{text}"))?;
    log("vinfolog", |place, text| tracing::debug!(place, "{text}"))?;
    f.table.raw_set("print", f.lua.load(crate::lua::state::PRINT).set_name("=print").into_function()?)?;
    let known = Arc::clone(shared);
    f.plain("included", move |lua, path: String| {
        let list = lua.create_table()?;
        for file in known.files.directory(&path) {
            list.raw_push(lua.create_sequence_from([
                lua.create_string(&file.name)?,
                lua.create_string(files::runnable(file))?,
            ])?)?;
        }
        Ok(list)
    })
}

/// Returns seconds and nanoseconds of the time `ago` before this moment.
fn wall_clock(ago: TickDelta) -> (u64, u32) {
    let at = SystemTime::now().checked_sub(Duration::from(ago)).unwrap_or(UNIX_EPOCH);
    at.duration_since(UNIX_EPOCH).map_or((0, 0), |d| (d.as_secs(), d.subsec_nanos()))
}

impl Open<'_, '_, '_> {
    /// Returns the time since the query's arrival.
    pub(crate) fn elapsed(&self) -> TickDelta {
        clock::now().since(self.query_state().received)
    }

    /// Sets the client subnet's length, for the client's address family.
    pub(crate) fn set_ecs_prefix_length(&mut self, bits: u8) {
        if self.context().client.peer.is_ipv4() {
            self.query_state_mut().ecs.v4 = bits.min(32);
        } else {
            self.query_state_mut().ecs.v6 = bits.min(128);
        }
    }
}
