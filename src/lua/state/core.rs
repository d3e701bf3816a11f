//! The functions under `prelude.lua`: each a small step between Lua's values and the packet of the
//! running call. Every one of them fails when no call is running.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlua::{BString, Function, Lua, Table};

use crate::base::addr::mapped;
use crate::base::prefix::Prefix;
use crate::base::time::TickDelta;
use crate::engine::clock;
use crate::lua::state::current::{Current, Timed};
use crate::lua::state::{Shared, files};
use crate::rules::names::Names;
use crate::rules::networks::Networks;
use crate::rules::query_state::Protocol;
use crate::wire::query::Question;
use crate::wire::records::Records;
use crate::wire::{name, records};

/// The packet that the functions of one state work on.
pub(crate) type Place = Rc<RefCell<Current>>;

/// What `dq:getProtocol()` says.
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
    place: Place,
}

fn over() -> mlua::Error {
    mlua::Error::runtime("this query is over: it can be used only during the call that it was given to")
}

impl Functions<'_> {
    /// A function of the running call's packet.
    fn define<A, R>(
        &self,
        name: &str,
        body: impl Fn(&Lua, &mut Current, A) -> mlua::Result<R> + 'static,
    ) -> mlua::Result<()>
    where
        A: mlua::FromLuaMulti,
        R: mlua::IntoLuaMulti,
    {
        let place = Rc::clone(&self.place);
        let function = self.lua.create_function(move |lua, arguments: A| {
            let mut current = place.try_borrow_mut().map_err(|_| over())?;
            if !current.open {
                return Err(over());
            }
            body(lua, &mut current, arguments)
        })?;
        self.table.raw_set(name, function)
    }

    /// A function of nothing but its arguments.
    fn plain<A, R>(&self, name: &str, body: impl Fn(&Lua, A) -> mlua::Result<R> + 'static) -> mlua::Result<()>
    where
        A: mlua::FromLuaMulti,
        R: mlua::IntoLuaMulti,
    {
        self.table.raw_set(name, self.lua.create_function(body)?)
    }

    /// A function that calls back into Lua, and so must not hold the packet meanwhile.
    fn calling<A>(
        &self,
        name: &str,
        body: impl Fn(&Lua, &Place, A) -> mlua::Result<()> + 'static,
    ) -> mlua::Result<()>
    where
        A: mlua::FromLuaMulti,
    {
        let place = Rc::clone(&self.place);
        let function = self.lua.create_function(move |lua, arguments: A| {
            if !place.try_borrow().is_ok_and(|c| c.open) {
                return Err(over());
            }
            body(lua, &place, arguments)
        })?;
        self.table.raw_set(name, function)
    }
}

/// The table of functions for a state.
pub(crate) fn table(lua: &Lua, place: &Place, shared: &Arc<Shared>) -> mlua::Result<Table> {
    let functions = Functions { lua, table: lua.create_table()?, place: Rc::clone(place) };
    message(&functions)?;
    facts(&functions)?;
    tags(&functions)?;
    proxy_values(&functions)?;
    answers(&functions)?;
    choices(&functions)?;
    values(&functions)?;
    sets(&functions, shared)?;
    world(&functions, shared)?;
    Ok(functions.table)
}

fn message(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("qname", |lua, c, ()| lua.create_string(c.qname()))?;
    f.define("byte", |_, c, at: usize| Ok(c.byte(at)))?;
    f.define("set_byte", |_, c, (at, byte): (usize, u8)| {
        c.set_byte(at, byte);
        Ok(())
    })?;
    f.define("content", |lua, c, ()| lua.create_string(&c.message))?;
    f.define("set_content", |_, c, content: BString| Ok(c.set_content(&content)))?;
    f.define("trailing", |lua, c, ()| lua.create_string(c.trailing()))?;
    f.define("set_trailing", |_, c, bytes: BString| Ok(c.set_trailing(&bytes)))?;
    f.define("change_name", |_, c, name: BString| Ok(c.change_name(&name)))?;
    f.define("dnssec_ok", |_, c, ()| Ok(c.opt().is_some_and(|o| o.dnssec_ok)))?;
    f.calling("options", |_, place, each: Function| {
        let options: Vec<(u16, BString)> = {
            let current = place.borrow();
            current.options().map(|(code, data)| (code, data.into())).collect()
        };
        options.into_iter().try_for_each(|option| each.call::<()>(option))
    })
}

fn facts(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("number", |_, c, which: u8| {
        Ok(match which {
            0 => usize::from(c.facts.qclass),
            1 => c.message.len(),
            2 if c.client.is_ipv4() => usize::from(c.query_state.ecs.v4),
            2 => usize::from(c.query_state.ecs.v6),
            3 => usize::from(c.facts.qtype),
            _ => usize::from(c.query_state.restarts),
        })
    })?;
    f.define("flag", |_, c, which: u8| {
        Ok(match which {
            0 => c.query_state.protocol.is_stream(),
            1 => c.query_state.skip_cache,
            2 => c.query_state.ecs.wanted,
            _ => c.query_state.ecs.replace,
        })
    })?;
    f.define("set_flag", |_, c, (which, on): (u8, bool)| {
        match which {
            1 => c.query_state.skip_cache = on,
            2 => c.query_state.ecs.wanted = on,
            _ => c.query_state.ecs.replace = on,
        }
        Ok(())
    })?;
    f.define("set_ecs_prefix_length", |_, c, bits: u8| {
        c.set_ecs_prefix_length(bits);
        Ok(())
    })?;
    f.define("temporary_failure_ttl", |_, c, ()| Ok(c.query_state.temporary_failure_ttl))?;
    f.define("set_temporary_failure_ttl", |_, c, ttl: Option<u32>| {
        c.query_state.temporary_failure_ttl = ttl;
        Ok(())
    })?;
    f.define("remote", |lua, c, ()| Ok((lua.create_string(c.client.ip)?, c.client.port)))?;
    f.define("localaddr", |lua, c, ()| Ok((lua.create_string(c.local.ip)?, c.local.port)))?;
    f.define("protocol", |_, c, ()| Ok(protocol_text(c.query_state.protocol)))?;
    f.define("server_name", |lua, c, ()| lua.create_string(&c.query_state.sni))?;
    f.define("interface", |lua, c, ()| lua.create_string(c.balancer.interface(c.listener)))?;
    f.define("elapsed_us", |_, c, ()| Ok(c.elapsed().0 / 1_000))?;
    // The engine's clock has an origin of its own: what has passed since then, taken off today.
    f.define("query_time", |_, c, ()| Ok(wall_clock(c.elapsed())))
}

fn tags(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("tag", |lua, c, name: mlua::String| {
        lua.create_string(c.query_state.tags.value(&name.as_bytes()).unwrap_or_default())
    })?;
    f.define("set_tag", |_, c, (name, value): (mlua::String, mlua::String)| {
        Ok(c.query_state.tags.set(&name.as_bytes(), &value.as_bytes()))
    })?;
    f.define("unset_tag", |_, c, name: mlua::String| {
        c.query_state.tags.unset(&name.as_bytes());
        Ok(())
    })?;
    let place = Rc::clone(&f.place);
    f.plain("tags", move |lua, ()| {
        let current = place.try_borrow().map_err(|_| over())?;
        if !current.open {
            return Err(over());
        }
        let pairs = current.query_state.tags.iter().map(|(n, v)| (BString::from(n), BString::from(v)));
        lua.create_table_from(pairs)
    })
}

fn proxy_values(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("clear_proxy_values", |_, c, ()| {
        c.query_state.proxy.clear();
        Ok(())
    })?;
    f.define("add_proxy_value", |_, c, (kind, value): (u8, mlua::String)| {
        Ok(c.query_state.proxy.add(kind, &value.as_bytes()))
    })?;
    let place = Rc::clone(&f.place);
    f.plain("proxy_values", move |lua, ()| {
        let current = place.try_borrow().map_err(|_| over())?;
        if !current.open {
            return Err(over());
        }
        let pairs = current.query_state.proxy.iter().map(|(kind, value)| (kind, BString::from(value)));
        lua.create_table_from(pairs)
    })
}

fn answers(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("spoof", |_, c, (types, contents): (Vec<u16>, Vec<BString>)| {
        Ok(c.spoof(types.into_iter().zip(contents.iter().map(|o| o.as_slice()))))
    })?;
    f.define("set_ttl_max", |_, c, ttl: u32| {
        c.query_state.ttl_max = Some(ttl);
        Ok(())
    })?;
    f.define("set_error", |_, c, (code, text): (u16, String)| {
        c.query_state.set_error(code, text.as_bytes());
        Ok(())
    })?;
    f.define("set_restartable", |_, c, ()| {
        c.query_state.restartable = true;
        Ok(())
    })?;
    f.define("restart", |_, c, ()| {
        c.restart = true;
        Ok(())
    })?;
    f.calling("edit_ttls", |_, place, change: Function| {
        // The message is taken out of its place while Lua runs, and put back whatever it says.
        let mut message = std::mem::take(&mut place.borrow_mut().message);
        let mut result = Ok(());
        records::edit_ttls(&mut message, |section, class, rtype, ttl| {
            if result.is_err() {
                return ttl;
            }
            match change.call::<Option<u32>>((section as u8 + 1, class, rtype, ttl)) {
                Ok(changed) => changed.unwrap_or(ttl),
                Err(e) => {
                    result = Err(e);
                    ttl
                }
            }
        });
        let mut current = place.borrow_mut();
        current.message = message;
        current.dirty = true;
        result
    })
}

fn choices(f: &Functions<'_>) -> mlua::Result<()> {
    f.define("argue", |_, c, argument: mlua::String| {
        c.argument.clear();
        c.argument.extend_from_slice(&argument.as_bytes());
        Ok(())
    })?;
    f.define("pool", |lua, c, ()| lua.create_string(c.balancer.pool(c.query_state.pool)))?;
    f.define("set_pool", |_, c, name: BString| {
        let slot = c.balancer.pool_named(&name);
        c.query_state.pool = slot.unwrap_or(c.query_state.pool);
        Ok(slot.is_some())
    })?;
    f.define("selected", |_, c, ()| Ok(c.answered.map(|a| a.backend.0)))?;
    f.define("generation", |_, c, ()| Ok(c.balancer.generation()))?;
    f.define("server", |_, c, slot: u16| {
        let server = c.balancer.server(crate::base::addr::BackendSlot(slot));
        Ok(server.map_or((None, None, None, None), |s| {
            (Some(s.name.clone()), Some(s.address.to_string()), Some(s.order), Some(s.weight))
        }))
    })?;
    f.define("candidate", |_, c, place: usize| {
        Ok(place.checked_sub(1).and_then(|at| c.candidates.get(at)).map(|c| c.slot.0))
    })?;
    f.define("load", |_, c, slot: u16| {
        let found = c.candidates.iter().find(|c| c.slot.0 == slot);
        // Latency in milliseconds, as everywhere in dnsdist.
        Ok(found.map_or((0, 0.0), |c| (c.outstanding, f64::from(c.latency_us) / 1_000.0)))
    })
}

fn values(f: &Functions<'_>) -> mlua::Result<()> {
    f.plain("wire", |_, text: BString| {
        Ok(std::str::from_utf8(&text).ok().and_then(|t| name::from_text(t).ok()).map(BString::from))
    })?;
    f.plain("text", |_, wire: BString| Ok(name::Text(&wire).to_string()))?;
    f.plain("is_wire", |_, bytes: BString| Ok(is_wire(&bytes)))?;
    f.plain("address_text", |_, bytes: BString| Ok(address(&bytes).to_canonical().to_string()))?;
    f.plain("address", |_, text: String| {
        let parsed = text.parse::<SocketAddr>().map(|a| (a.ip(), a.port()));
        let parsed = parsed.or_else(|_| text.parse::<IpAddr>().map(|ip| (ip, 0)));
        let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
        let parsed = parsed.ok().or_else(|| bracketed().map(|ip| (ip, 0)));
        Ok(parsed.map_or((None, 0), |(ip, port)| (Some(BString::from(mapped(ip))), port)))
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

/// Whether these bytes are one plain name and nothing else.
fn is_wire(bytes: &[u8]) -> bool {
    name::end_plain(bytes, 0) == Some(bytes.len())
}

/// 16 bytes as an address; what is shorter reads as if zeros followed.
fn address(bytes: &[u8]) -> Ipv6Addr {
    let mut whole = [0; 16];
    whole.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    whole.into()
}

fn sets(f: &Functions<'_>, shared: &Arc<Shared>) -> mlua::Result<()> {
    let known = Arc::clone(shared);
    f.plain("suffix", move |_, (at, name): (usize, mlua::String)| {
        let name = name.as_bytes();
        let set = known.names.get(at).and_then(|n| n.set());
        Ok(set.filter(|_| is_wire(&name)).and_then(|s| s.suffix_of(&name)))
    })?;
    let known = Arc::clone(shared);
    f.plain("has_name", move |_, (at, name): (usize, mlua::String)| {
        let name = name.as_bytes();
        let set = known.names.get(at).and_then(|n| n.set());
        Ok(set.is_some_and(|s| is_wire(&name) && s.contains(&name)))
    })?;
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
    timed(f)
}

/// Changes of timed sets: of the limiter's number, with an address and seconds, or neither.
fn timed(f: &Functions<'_>) -> mlua::Result<()> {
    /// The longest time, seconds: as long as timers of limits go.
    const SECONDS_MAX: f64 = 1e9;
    let place = Rc::clone(&f.place);
    f.plain("timed", move |_, (state, bytes, seconds): (u32, Option<mlua::String>, Option<f64>)| {
        let mut current = place.try_borrow_mut().map_err(|_| over())?;
        if !current.open || current.choosing {
            return Ok(false);
        }
        let change = bytes.map_or(Timed::Clear(state), |bytes| {
            let nanoseconds = seconds.unwrap_or(0.0).clamp(0.0, SECONDS_MAX) * 1e9;
            // At most 1e18, and not below 0.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let span = TickDelta(nanoseconds as u64);
            Timed::Add(state, address(&bytes.as_bytes()).octets(), span)
        });
        current.timed.push(change);
        Ok(true)
    })
}

fn networks(f: &Functions<'_>, shared: &Arc<Shared>) -> mlua::Result<()> {
    let known = Arc::clone(shared);
    f.plain("network_count", move |_, at: usize| Ok(known.networks.get(at).map_or(0, Networks::len)))?;
    // Each network's first address, length and whether it is in.
    let known = Arc::clone(shared);
    f.plain("network_each", move |_, (at, each): (usize, Function)| {
        let set = known.networks.get(at).and_then(|n| n.set());
        set.into_iter().flat_map(|s| s.iter()).try_for_each(|(prefix, is_in)| {
            each.call::<()>((BString::from(prefix.bounds().0.to_be_bytes()), prefix.bits(), is_in))
        })
    })?;
    // The longest network beyond `bits` that holds an address: whether it is in; nil for none.
    let known = Arc::clone(shared);
    f.plain("network_beyond", move |_, (at, bytes, bits): (usize, mlua::String, i32)| {
        let ip = u128::from(address(&bytes.as_bytes()));
        let set = known.networks.get(at).and_then(|n| n.set());
        let holding = set.into_iter().flat_map(|s| s.iter()).filter(|(prefix, _)| {
            let (first, last) = prefix.bounds();
            let same_family = prefix.is_ipv4() == (ip >> 32 == 0xffff);
            i32::from(prefix.bits()) > bits && same_family && (first..=last).contains(&ip)
        });
        // The last word on a network counts, which is what max_by_key gives.
        Ok(holding.max_by_key(|(prefix, _)| prefix.bits()).map(|(_, is_in)| is_in))
    })?;
    let known = Arc::clone(shared);
    f.plain("network_has", move |_, (at, bytes): (usize, mlua::String)| {
        let set = known.networks.get(at).and_then(|n| n.set());
        Ok(set.is_some_and(|s| s.contains(&address(&bytes.as_bytes()).octets())))
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

/// Seconds and nanoseconds of the time `ago` before this moment.
fn wall_clock(ago: TickDelta) -> (u64, u32) {
    let at = SystemTime::now().checked_sub(Duration::from(ago)).unwrap_or(UNIX_EPOCH);
    at.duration_since(UNIX_EPOCH).map_or((0, 0), |d| (d.as_secs(), d.subsec_nanos()))
}

impl Current {
    /// From the query's arrival to now.
    pub(crate) fn elapsed(&self) -> TickDelta {
        clock::now().since(self.query_state.received)
    }

    /// The client subnet's length, for the client's family.
    pub(crate) fn set_ecs_prefix_length(&mut self, bits: u8) {
        if self.client.is_ipv4() {
            self.query_state.ecs.v4 = bits.min(32);
        } else {
            self.query_state.ecs.v6 = bits.min(128);
        }
    }
}
