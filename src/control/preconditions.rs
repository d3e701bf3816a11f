//! What a configuration names and the machine must have: network interfaces, programs of health
//! checks, directories of logs. Asked by `--check-config` and at the start; the tables of the
//! configuration know nothing of the machine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::config::Draft;
use crate::config::error::{ConfigError, Errors, Fault, Origin};
use crate::config::ruleset::RuleAction;
use crate::model::Probe;
use crate::rules::action::{Action, ResponseAction};

/// Returns what is missing, with its place.
#[must_use]
pub fn missing(draft: &Draft) -> Vec<ConfigError> {
    let mut errors = Errors::default();
    let mut say = |origin: &Origin, function: &str, fault: Option<Fault>| {
        if let Some(fault) = fault {
            errors.push(ConfigError::new(origin, function, fault));
        }
    };
    for l in &draft.listeners {
        let function = if l.service.tls().is_some() { "addTLSLocal" } else { "addLocal" };
        say(&l.origin, function, l.interface.as_deref().and_then(|i| interface("interface", i)));
    }
    for s in draft.servers.iter().filter(|s| !s.removed) {
        say(&s.origin, "newServer", s.source_interface.as_deref().and_then(|i| interface("source", i)));
        say(&s.origin, "newServer", program(&s.health.probe));
    }
    for r in &draft.relays {
        say(&r.origin, r.function(), r.interface.as_deref().and_then(|i| interface("interface", i)));
        say(&r.origin, r.function(), program(&r.health.probe));
    }
    for (_, rule) in draft.rules.iter() {
        if let Some((function, path)) = log(&rule.action) {
            say(&rule.origin, function, directory(path));
        }
    }
    errors.into_list()
}

fn interface(what: &str, name: &str) -> Option<Fault> {
    let known = nix::net::if_::if_nametoindex(name).is_ok();
    (!known).then(|| Fault::value(what, format!("\"{name}\""), "a network interface that this machine has"))
}

fn program(probe: &Probe) -> Option<Fault> {
    let Probe::Script(words) = probe else { return None };
    let path = words.first()?;
    let wrong = match std::fs::metadata(path) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return None,
        Ok(_) => "no program that can be executed".to_owned(),
        Err(e) => format!("\"{path}\" ({e})"),
    };
    Some(Fault::value("checkScript", wrong, "the path of a program"))
}

fn log(action: &RuleAction) -> Option<(&'static str, &str)> {
    let (function, target) = match action {
        RuleAction::Query(Action::Log(target)) => ("LogAction", target),
        RuleAction::Response(ResponseAction::Log(target)) => ("LogResponseAction", target),
        RuleAction::Query(_) | RuleAction::Response(_) => return None,
    };
    Some((function, target.path.as_str())).filter(|(_, path)| !path.is_empty())
}

fn directory(path: &str) -> Option<Fault> {
    let parent = Path::new(path).parent().filter(|p| !p.as_os_str().is_empty())?;
    let wrong = match std::fs::metadata(parent) {
        Ok(found) if found.is_dir() => return None,
        Ok(_) => "not a directory".to_owned(),
        Err(e) => e.to_string(),
    };
    let wrong = format!("\"{path}\", and \"{}\" is unusable ({wrong})", parent.display());
    Some(Fault::value("the path", wrong, "a file in a directory that exists"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::good;

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
        let fine = "newServer{address='192.0.2.1', source='lo', checkScript={'/bin/sh'}} addLocal('127.0.0.1', \
                    {interface='lo'}) addAction(AllRule(), LogAction('/tmp/x.log')) addAction(AllRule(), LogAction())";
        assert!(missing(&good(fine).0.draft).is_empty());
    }
}
