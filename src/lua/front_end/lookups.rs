//! `getAddressInfo`: looks names up, and calls functions of the configuration with their addresses.
//!
//! ```text
//!  file or command ─► its names ─► looked up at a time, within 5 s ─► its functions, in their order
//! ```
//! The functions run before the draft is done, so that what they add is in force with the rest or not at
//! all, and `--check-config` sees it, too.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, bounded, select_biased};
use mlua::{Function, Lua, Value};

use crate::config::error::{ConfigError, Fault, Origin};
use crate::lua::front_end::argument::function;
use crate::lua::front_end::context::Context;
use crate::lua::front_end::networks::address_object;

const NAME: &str = "getAddressInfo";
/// Names that a file or command looks up.
const NAMES_MAX: usize = 100;
/// How often functions may ask for further names.
const ROUNDS_MAX: usize = 4;
/// How long names are waited for.
const WAIT: Duration = Duration::from_secs(5);

/// How a name is resolved.
type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// A name to be looked up.
struct Lookup {
    /// Where it was asked for.
    origin: Origin,
    name: String,
    /// What gets its addresses.
    function: Function,
}

/// The names to be looked up.
#[derive(Default)]
struct Lookups(Vec<Lookup>);

/// A function that got its addresses is running.
struct Answers;

/// Returns the fault of a function for the shards that is given while the addresses of a name are told. Each shard reads
/// the file once more to find its functions, without looking a name up.
pub(crate) fn of_shards(lua: &Lua) -> Option<Fault> {
    lua.app_data_ref::<Answers>().map(|_| Fault::Conflict {
        wrong: format!("a function of {NAME} gives away a function that shards run"),
        expected: format!("that in the file itself, outside of {NAME}: shards look no names up"),
    })
}

pub(crate) fn define(lua: &Lua, context: &Context) -> mlua::Result<()> {
    context.define(lua, NAME, |call, a| {
        let name = a.text(0, "a name")?;
        let function = function(a.what(1), a.at(1))?;
        let mut lookups = call.lua.remove_app_data::<Lookups>().unwrap_or_default();
        let is_full = lookups.0.len() >= NAMES_MAX;
        if !is_full {
            lookups.0.push(Lookup { origin: call.origin.clone(), name, function });
        }
        call.lua.set_app_data(lookups);
        if is_full {
            let what = "the names that are looked up".to_owned();
            return Err(Fault::Limit { what, limit: NAMES_MAX.to_string() });
        }
        Ok(Value::Nil)
    })
}

/// Forgets what was asked for; returns whether there was something.
pub(crate) fn forget(lua: &Lua) -> bool {
    lua.remove_app_data::<Lookups>().is_some_and(|lookups| !lookups.0.is_empty())
}

/// Looks up what was asked for, and calls the functions.
///
/// # Errors
/// That of a function, or that they ask for names without end.
pub(crate) fn finish(lua: &Lua, context: &Context) -> mlua::Result<()> {
    for _ in 0..ROUNDS_MAX {
        let lookups = lua.remove_app_data::<Lookups>().unwrap_or_default().0;
        if lookups.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = lookups.iter().map(|lookup| lookup.name.clone()).collect();
        let found = look_up(&names, system, &after(WAIT));
        for (Lookup { origin, name, function }, addresses) in lookups.into_iter().zip(found) {
            let list = lua.create_table()?;
            match addresses {
                Ok(addresses) => {
                    for ip in addresses {
                        list.raw_push(address_object(lua, ip)?)?;
                    }
                }
                Err(why) => {
                    let fault = Fault::Note(format!("\"{name}\" has no addresses: {why}"));
                    context.look(lua, NAME, |call| {
                        call.draft.warnings.push(ConfigError::new(&origin, NAME, fault));
                        Ok(Value::Nil)
                    })?;
                }
            }
            lua.set_app_data(Answers);
            let called = function.call::<()>((name, list));
            lua.remove_app_data::<Answers>();
            called?;
        }
    }
    if forget(lua) {
        return Err(mlua::Error::runtime(format!("{NAME}: its functions ask for further names without end")));
    }
    Ok(())
}

fn system(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// Looks names up, all at a time, until an end. Returns the addresses of each, or why there are none. Who
/// resolves without end is left behind.
fn look_up(names: &[String], resolve: Resolve, end: &Receiver<Instant>) -> Vec<Result<Vec<IpAddr>, String>> {
    let mut found = vec![Err("no answer in time".to_owned()); names.len()];
    let (send, results) = bounded(names.len());
    for (at, name) in names.iter().enumerate() {
        let (name, own) = (name.clone(), send.clone());
        let started = std::thread::Builder::new().name("resolve".to_owned()).spawn(move || {
            // Nobody may wait any more.
            let _ = own.send((at, resolve(&name)));
        });
        if let Err(error) = started {
            found[at] = Err(error.to_string());
        }
    }
    drop(send);
    loop {
        select_biased! {
            recv(results) -> result => match result {
                Ok((at, addresses)) => {
                    found[at] = addresses.map_err(|error| error.to_string()).map(|mut all| {
                        let mut seen = std::collections::BTreeSet::new();
                        all.retain(|ip| seen.insert(*ip));
                        all
                    });
                }
                // Each has answered.
                Err(_) => return found,
            },
            recv(end) -> _ => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::never;

    use super::*;
    use crate::config::tests::File;
    use crate::lua::front_end::evaluate;
    use crate::lua::limits::Interrupt;

    fn made_up(name: &str) -> io::Result<Vec<IpAddr>> {
        match name {
            "two" => Ok([2, 1, 2].map(|n| IpAddr::from([192, 0, 2, n])).to_vec()),
            "hangs" => loop {
                std::thread::park();
            },
            _ => Err(io::Error::other("unknown")),
        }
    }

    #[test]
    fn names_are_looked_up_at_a_time() {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = look_up(&names(&["none", "two"]), made_up, &never());
        let two = [2, 1].map(|n| IpAddr::from([192, 0, 2, n])).to_vec();
        assert_eq!(found, [Err("unknown".to_owned()), Ok(two)]);
        let (send, end) = bounded(1);
        send.send(Instant::now()).expect("room");
        assert_eq!(look_up(&names(&["hangs"]), made_up, &end), [Err("no answer in time".to_owned())]);
        assert_eq!(look_up(&[], made_up, &never()), []);
    }

    /// Evaluates a file; returns its servers' addresses and its warnings, or its errors.
    fn evaluated(text: &str) -> Result<(Vec<String>, Vec<String>), String> {
        let file = File::new(text);
        let evaluated = evaluate(Some(file.path()), &Interrupt::default());
        let (draft, _) = evaluated.map_err(|errors| errors[0].to_string())?;
        if let Some(error) = draft.errors.into_list().first() {
            return Err(error.to_string());
        }
        let servers = draft.servers.iter().map(|server| server.address.to_string()).collect();
        Ok((servers, draft.warnings.into_list().iter().map(ToString::to_string).collect()))
    }

    #[test]
    fn functions_add_servers_with_the_file() {
        let add =
            "local function add(name, ips) for _, ip in ipairs(ips) do newServer(ip:toString()) end end\n";
        let (servers, warnings) = evaluated(&format!(
            "{add} getAddressInfo('192.0.2.7', add) getAddressInfo('2001:db8::1', add) newServer('192.0.2.1')"
        ))
        .expect("a configuration");
        assert_eq!(servers, ["192.0.2.1:53", "192.0.2.7:53", "[2001:db8::1]:53"], "behind the file's own");
        assert_eq!(warnings, [""; 0]);
        // What is no name of the system's, nor an address.
        let (servers, warnings) = evaluated(
            "newServer('192.0.2.1') getAddressInfo('no name', function(name, ips) assert(name == 'no name' and #ips == 0) end)",
        )
        .expect("a configuration");
        assert_eq!((servers.len(), warnings.len()), (1, 1));
        assert!(warnings[0].contains(":1: getAddressInfo: \"no name\" has no addresses: "), "{warnings:?}");
        // A function may ask for another name.
        let (servers, _) = evaluated(&format!(
            "{add} getAddressInfo('192.0.2.7', function() getAddressInfo('192.0.2.8', add) end)"
        ))
        .expect("a configuration");
        assert_eq!(servers, ["192.0.2.8:53"]);
    }

    #[test]
    fn what_shards_run_is_not_given_by_them() {
        let rule = |action: &str| {
            format!("newServer('192.0.2.1')\ngetAddressInfo('192.0.2.7', function()\n{action} end)")
        };
        evaluated(&rule("addAction('a.test', DropAction())")).expect("a rule without a function");
        for action in [
            "addAction('a.test', LuaAction(function() return DNSAction.Drop end))",
            "addAction(LuaRule(function() return true end), DropAction())",
            "addAction('a.test', LuaFFIPerThreadAction('return function() return 0 end'))",
            "setServerPolicyLua('x', function() return 1 end)",
        ] {
            let error = evaluated(&rule(action)).expect_err(action);
            assert!(error.contains(":3: ") && error.contains("shards look no names up"), "{error}");
        }
    }

    #[test]
    fn functions_that_fail_or_never_end_refuse_the_file() {
        for (text, want) in [
            ("getAddressInfo('192.0.2.7', function() error('no') end)", "no"),
            ("getAddressInfo('192.0.2.7', 'x')", "a function"),
            ("getAddressInfo({}, print)", "a name"),
            (
                "local function again() getAddressInfo('192.0.2.7', again) end again()",
                "ask for further names without end",
            ),
            ("for n = 1, 101 do getAddressInfo('192.0.2.7', function() end) end", "100"),
        ] {
            let error = evaluated(text).expect_err(text);
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
