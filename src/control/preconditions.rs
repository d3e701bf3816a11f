//! What a configuration names and the machine must have: network interfaces, programs of health
//! checks, places of logs; and what it should have: source addresses, places of snapshots. Asked by `--check-config`, at the start and by a reload; the tables of
//! the configuration know nothing of the machine.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, eaccess};

use crate::config::Draft;
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::config::ruleset::RuleAction;
use crate::engine::socket::towards;
use crate::model::Probe;

/// What a configuration names: the kind, and the name or path.
pub type Named = BTreeSet<(Kind, String)>;

/// What the machine must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A network interface.
    Interface,
    /// A program of a health check.
    Program,
    /// A file that lines are written to.
    Log,
}

/// Returns what is missing, with its place.
#[must_use]
pub fn missing(draft: &Draft) -> Vec<ConfigError> {
    let mut errors = Errors::default();
    let lacks = |kind, what: &str, name: &str| match kind {
        Kind::Interface => interface(what, name),
        Kind::Program => program(name),
        Kind::Log => directory("the path", name),
    };
    visit(draft, &mut |origin, function, kind, what, name| {
        if let Some(fault) = lacks(kind, what, name) {
            errors.push(ConfigError::new(origin, function, fault));
        }
    });
    errors.into_list()
}

/// Returns what is missing for a reload: what it adds, and what the running configuration, which
/// names what is in `before`, has as well. The latter was there once and may come back, which is no
/// reason to refuse other changes.
#[must_use]
pub fn missing_after(before: &Named, draft: &Draft) -> (Vec<ConfigError>, Vec<ConfigError>) {
    let (mut new, mut known) = (Errors::default(), Errors::default());
    visit(draft, &mut |origin, function, kind, what, name| {
        let fault = match kind {
            Kind::Interface => interface(what, name),
            Kind::Program => program(name),
            // The process is the user that will write it.
            Kind::Log => directory("the path", name).or_else(|| unwritable(name)),
        };
        if let Some(fault) = fault {
            let is_known = before.contains(&(kind, name.to_owned()));
            let errors = if is_known { &mut known } else { &mut new };
            errors.push(ConfigError::new(origin, function, fault));
        }
    });
    (new.into_list(), known.into_list())
}

/// Returns what is missing without which a part of the configuration does not work until it comes.
#[must_use]
pub fn doubtful(draft: &Draft) -> Vec<ConfigError> {
    let mut all = Errors::default();
    let servers = draft.servers.iter().filter(|s| !s.removed);
    let servers =
        servers.map(|s| (s.source, s.address, s.source_interface.as_deref(), &s.origin, "newServer"));
    let relays =
        draft.relays.iter().filter_map(|r| Some((r.source, *r.to.first()?, None, &r.origin, r.function())));
    let copies = draft.rules.iter().filter_map(|(_, rule)| {
        let tee = rule.action.traits().tee?;
        Some((tee.source, tee.address, None, &rule.origin, "TeeAction"))
    });
    for (source, to, interface, origin, function) in servers.chain(relays).chain(copies) {
        let Some(ip) = source else { continue };
        if let Some(why) = foreign(ip, to, interface) {
            let expected = "an address that this machine has";
            let fault = Fault::value("source", format!("\"{ip}\" ({why})"), expected);
            all.push_once(ConfigError::new(origin, function, fault));
        }
    }
    for cache in &draft.caches {
        if let Some(fault) = cache.value.snapshot.as_deref().and_then(|path| directory("snapshot", path)) {
            all.push(ConfigError::new(&cache.origin, "newPacketCache", fault));
        }
    }
    all.into_list()
}

/// Returns why nothing can be sent from an address to another one, on an interface if one is given.
fn foreign(ip: IpAddr, to: SocketAddr, interface: Option<&str>) -> Option<std::io::Error> {
    let mut address = towards(ip, to);
    if let SocketAddr::V6(v6) = &mut address
        && let Some(index) = interface.and_then(|name| nix::net::if_::if_nametoindex(name).ok())
    {
        // A link-local address is none without its zone.
        v6.set_scope_id(index);
    }
    // Whether another address will do is a setting of the kernel, too.
    UdpSocket::bind(address).err()
}

/// Returns what a configuration names.
#[must_use]
pub fn named(draft: &Draft) -> Named {
    let mut all = Named::new();
    visit(draft, &mut |_, _, kind, _, name| {
        all.insert((kind, name.to_owned()));
    });
    all
}

/// Passes on everything that the machine must have: its place, function, kind, option and name.
fn visit(draft: &Draft, say: &mut dyn FnMut(&Origin, &str, Kind, &str, &str)) {
    let words = |probe: &Probe| match probe {
        Probe::Script(words) => words.first().cloned(),
        Probe::Udp | Probe::Tcp | Probe::Tls | Probe::Connect | Probe::SendExpect(_) => None,
    };
    for l in &draft.listeners {
        let function = if l.service.tls().is_some() { "addTLSLocal" } else { "addLocal" };
        if let Some(name) = &l.interface {
            say(&l.origin, function, Kind::Interface, "interface", name);
        }
    }
    for s in draft.servers.iter().filter(|s| !s.removed) {
        if let Some(name) = &s.source_interface {
            say(&s.origin, "newServer", Kind::Interface, "source", name);
        }
        if let Some(path) = words(&s.health.probe) {
            say(&s.origin, "newServer", Kind::Program, "checkScript", &path);
        }
    }
    for r in &draft.relays {
        if let Some(name) = &r.interface {
            say(&r.origin, r.function(), Kind::Interface, "interface", name);
        }
        if let Some(path) = words(&r.health.probe) {
            say(&r.origin, r.function(), Kind::Program, "checkScript", &path);
        }
    }
    for (_, rule) in draft.rules.iter() {
        let function = match rule.action {
            RuleAction::Query(_) => "LogAction",
            RuleAction::Response(_) => "LogResponseAction",
        };
        if let Some(log) = rule.action.traits().log.filter(|log| !log.path.is_empty()) {
            say(&rule.origin, function, Kind::Log, "the path", &log.path);
        }
    }
}

fn interface(what: &str, name: &str) -> Option<Fault> {
    let known = nix::net::if_::if_nametoindex(name).is_ok();
    (!known).then(|| Fault::value(what, format!("\"{name}\""), "a network interface that this machine has"))
}

fn program(path: &str) -> Option<Fault> {
    let wrong = match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return None,
        Ok(_) => "no program that can be executed".to_owned(),
        Err(e) => format!("\"{path}\" ({e})"),
    };
    Some(Fault::value("checkScript", wrong, "the path of a program"))
}

fn directory(what: &str, path: &str) -> Option<Fault> {
    if std::fs::metadata(path).is_ok_and(|found| found.is_dir()) {
        return Some(Fault::value(what, format!("\"{path}\", a directory"), "a file"));
    }
    let parent = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty())?;
    let wrong = match std::fs::metadata(parent) {
        Ok(found) if found.is_dir() => return None,
        Ok(_) => "not a directory".to_owned(),
        Err(e) => e.to_string(),
    };
    let wrong = format!("\"{path}\", and \"{}\" is unusable ({wrong})", parent.display());
    Some(Fault::value(what, wrong, "a file in a directory that exists"))
}

/// Opens nothing: a file would be created, and a pipe's reader would find it closed again.
fn unwritable(path: &str) -> Option<Fault> {
    let checked = if std::fs::exists(path).unwrap_or(true) {
        eaccess(path, AccessFlags::W_OK)
    } else {
        let parent = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty());
        eaccess(parent.unwrap_or(Path::new(".")), AccessFlags::W_OK | AccessFlags::X_OK)
    };
    let why = checked.err()?.desc();
    Some(Fault::value("the path", format!("\"{path}\" ({why})"), "a file that dnslob's user can write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::good;

    #[test]
    fn a_link_local_source_is_looked_for_on_its_interface() {
        let of = |text: &str, interface| {
            let to = SocketAddr::from(([127, 0, 0, 1], 53));
            foreign(text.parse().expect("an address"), to, interface).map(|e| e.kind())
        };
        assert_eq!(of("::1", Some("lo")), None);
        assert_eq!(of("fe80::dead:beef", Some("lo")), Some(std::io::ErrorKind::AddrNotAvailable));
        assert_eq!(of("192.0.2.77", None), Some(std::io::ErrorKind::AddrNotAvailable));
    }

    #[test]
    fn what_the_machine_lacks_is_an_error_with_its_place() {
        for (text, want) in [
            (
                "newServer{address='192.0.2.1', source='nope0'}",
                ":1: newServer: source is \"nope0\"; expected a network",
            ),
            (
                "newServer{address='192.0.2.1', interface='nope0'}",
                ":1: newServer: source is \"nope0\"; expected",
            ),
            (
                "newServer{address='192.0.2.1', checkScript={'/nonexistent/x'}}",
                ":1: newServer: checkScript is \"/nonexistent/x\" (No such file or directory (os error 2)); expected",
            ),
            (
                "newServer{address='192.0.2.1', checkScript={'/etc/passwd'}}",
                ":1: newServer: checkScript is no program that can be executed; expected",
            ),
            ("addLocal('127.0.0.1', {interface='nope0'})", ":1: addLocal: interface is \"nope0\"; expected"),
            (
                "\naddUDPForward{listen='127.0.0.1:9', to='192.0.2.1:9', interface='nope0'}",
                ":2: addUDPForward: interface is \"nope0\"; expected",
            ),
            (
                "addAction(AllRule(), LogAction('/nonexistent/x.log'))",
                ":1: LogAction: the path is \"/nonexistent/x.log\", and \"/nonexistent\" is unusable",
            ),
            (
                "addResponseAction(AllRule(), LogResponseAction('/etc/passwd/x.log'))",
                ":1: LogResponseAction: the path is \"/etc/passwd/x.log\", and \"/etc/passwd\" is unusable",
            ),
        ] {
            let errors = missing(&good(text).0.draft);
            assert_eq!(errors.len(), 1, "{text}: {errors:?}");
            assert!(errors[0].to_string().contains(want), "{text}\n{}", errors[0]);
        }
        for (text, want) in [
            (
                "addAction(AllRule(), ContinueAction(LogAction('/nonexistent/x.log')))",
                ":1: LogAction: the path is \"/nonexistent/x.log\"",
            ),
            ("addAction(AllRule(), LogAction('/etc'))", ":1: LogAction: the path is \"/etc\", a directory"),
        ] {
            let errors = missing(&good(text).0.draft);
            assert!(errors.len() == 1 && errors[0].to_string().contains(want), "{text}: {errors:?}");
        }
        let fine = "newServer{address='192.0.2.1', source='lo', checkScript={'/bin/sh'}} addLocal('127.0.0.1', \
                    {interface='lo'}) addAction(AllRule(), LogAction('/tmp/x.log')) addAction(AllRule(), LogAction())";
        assert!(missing(&good(fine).0.draft).is_empty());
    }

    #[test]
    fn what_the_machine_may_get_later_is_a_warning() {
        for (text, want) in [
            (
                "newServer{address='192.0.2.1', source='192.0.2.77'}",
                ":1: newServer: source is \"192.0.2.77\" (Cannot assign requested address (os error 99)); expected an",
            ),
            (
                "\naddUDPForward{listen='127.0.0.1:9', to='192.0.2.1:9', source='192.0.2.77'}",
                ":2: addUDPForward: source is \"192.0.2.77\" (",
            ),
            (
                "addTCPForward{listen='127.0.0.1:9', to='192.0.2.1:9', source='192.0.2.77'}",
                ":1: addTCPForward: source is \"192.0.2.77\" (",
            ),
            (
                "newServer('192.0.2.1') addAction(AllRule(), TeeAction('192.0.2.2', false, '192.0.2.77'))",
                ":1: TeeAction: source is \"192.0.2.77\" (",
            ),
            (
                "getPool(''):setCache(newPacketCache(10, {snapshot='/nonexistent/x'}))",
                ":1: newPacketCache: snapshot is \"/nonexistent/x\", and \"/nonexistent\" is unusable (",
            ),
        ] {
            let draft = good(text).0.draft;
            let odd = doubtful(&draft);
            assert!(odd.len() == 1 && odd[0].to_string().contains(want), "{text}: {odd:?}");
            assert!(missing(&draft).is_empty(), "{text}");
        }
        let fine = "newServer{address='192.0.2.1', source='127.0.0.1'} newServer{address='192.0.2.2', source='lo'} \
                    getPool(''):setCache(newPacketCache(10, {snapshot='/tmp/x'}))";
        assert!(doubtful(&good(fine).0.draft).is_empty());
    }

    #[test]
    fn a_reload_must_have_what_it_adds_and_may_miss_what_was_there() {
        let draft = |text: &str| good(text).0.draft;
        let before = "newServer{address='192.0.2.1', source='nope0', checkScript={'/nonexistent/x'}} \
                      addAction(AllRule(), LogAction('/nonexistent/x.log'))";
        let before = named(&draft(before));
        let after = "newServer{address='192.0.2.2', source='nope0', checkScript={'/nonexistent/x'}}\n\
                     addAction('a.', LogAction('/nonexistent/x.log'))\n\
                     newServer{address='192.0.2.3', source='nope1', checkScript={'/nonexistent/y'}}\n\
                     addAction(AllRule(), LogAction('/nonexistent/y.log'))";
        let (new, known) = missing_after(&before, &draft(after));
        let lines =
            |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!((new.len(), known.len()), (3, 3), "{new:?} {known:?}");
        let (new, known) = (lines(new), lines(known));
        assert!(["nope1", "/nonexistent/y", "y.log"].iter().all(|n| new.contains(n)), "{new}");
        assert!(["nope0", "/nonexistent/x", "x.log"].iter().all(|n| known.contains(n)), "{known}");
    }

    #[test]
    fn a_log_that_this_user_cannot_write_is_refused() {
        // Root writes everywhere but where nobody can.
        let why = format!("{:?}", unwritable("/proc/version_x").or_else(|| unwritable("/proc/self/x")));
        assert!(why.contains("dnslob's user can write"), "{why}");
        let file = std::env::temp_dir().join(format!("dnslob-writable-{}", std::process::id()));
        assert!(unwritable(&file.display().to_string()).is_none() && !file.exists(), "nothing is created");
    }
}
