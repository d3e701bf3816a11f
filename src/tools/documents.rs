//! The documents made from the tables and declarations: man page, shell completions, reference,
//! statistics.

use std::fmt::Write;

use crate::config::flags::{Document, command};
use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::older::OLDER;
use crate::config::functions::policies::CONCENTRATE;
use crate::config::functions::{
    ABSENT, ACTION_METHODS, ADDRESS_METHODS, BIND_METHODS, CACHE_FUNCTIONS, CACHE_METHODS, CACHE_OPTIONS,
    CALLBACKS, CHAIN_EXTRAS, CHAINS, CONSOLE, Entry, FOR_FUNCTIONS, FUNCTIONS, FUNCTIONS_MISSING,
    HEADER_METHODS, INSPECTION, LIMITER_METHODS, LOCAL_OPTIONS, LUA_POLICIES, MACHINE, METRIC_FUNCTIONS,
    Missing, NAME_METHODS, NAME_SET_METHODS, NETMASK_METHODS, NETWORK_SET_METHODS, POLICIES, POLICY_DOCS,
    POOL_METHODS, RELAY_ARGUMENTS, RELAY_POLICIES, RULE_METHODS, SELECTOR_METHODS, SERVER_ARGUMENTS,
    SERVER_ARGUMENTS_MISSING, SERVER_METHODS, SERVER_TLS_ARGUMENTS, SETS, TCP_RELAY_ARGUMENTS,
    TIMED_SET_METHODS, TLS_LOCAL_OPTIONS, TLS_METHODS, TRAFFIC_FUNCTIONS, UDP_RELAY_ARGUMENTS, WEB_FUNCTIONS,
    WEB_OPTIONS, WITHOUT_EFFECT,
};
use crate::config::options::SETTINGS;
use crate::lua::front_end::{answers, query_actions, response_actions, selectors};
use crate::stats::registry::METRIC_SETS;

/// Generates a document.
#[must_use]
pub fn document(which: Document) -> Vec<u8> {
    match which {
        Document::Man => {
            let mut page = Vec::new();
            // Writing into memory does not fail.
            let _ = clap_mangen::Man::new(command()).render(&mut page);
            page
        }
        Document::Completions(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "dnslob", &mut script);
            script
        }
        Document::Reference => reference().into_bytes(),
        Document::Metrics => metrics().into_bytes(),
    }
}

/// What is said of the statistics by hand. A line `{metrics SET}` stands for the table of a set of
/// metrics, a line `{reasons METRIC}` for the reasons that one is counted by.
const METRICS: &str = include_str!("metrics.md.in");

/// The statistics, Markdown.
fn metrics() -> String {
    let mut out = String::new();
    for text in METRICS.lines() {
        let place = |what| text.strip_prefix(what)?.strip_suffix('}');
        let all = || METRIC_SETS.iter().flat_map(|set| set.metrics);
        if let Some(set) = place("{metrics ").and_then(|name| METRIC_SETS.iter().find(|set| set.name == name))
        {
            out += "| Name | Kind | Unit | Meaning |\n|---|---|---|---|\n";
            for m in set.metrics {
                let by =
                    if m.label.is_empty() { String::new() } else { format!("-{}", m.label.to_uppercase()) };
                line(&mut out, &[&format!("`{}{by}`", m.name), m.kind.label(), m.unit.label(), m.help]);
            }
        } else if let Some(metric) = place("{reasons ").and_then(|name| all().find(|m| m.name == name)) {
            let (first, rest) = metric.label.split_at(1);
            let _ = write!(out, "| {}{rest} | Meaning |\n|---|---|\n", first.to_uppercase());
            for (label, doc) in metric.reasons {
                line(&mut out, &[&format!("`{label}`"), doc]);
            }
        } else {
            out += text;
            out.push('\n');
        }
    }
    out
}

/// The reference of the configuration, Markdown.
fn reference() -> String {
    let mut out = String::from(
        "# Reference of the configuration\n\n\
         Made by `dnslob generate reference` from the tables of the program; do not edit.\n\n\
         A configuration is a Lua file (LuaJIT, whole standard library, `ffi` and `bit` too). Functions and units \
         are dnsdist's. Where a function or argument is dnslob's own, numbers for times are milliseconds; a string \
         with a unit, as \"200ms\", \"2s\" or \"1m\", is understood for every time. Wrong arguments are reported all \
         at once, with file and line, and so are more arguments than a function takes.\n\n\
         Arguments within brackets may be omitted; behind `=` is what they are then. `|` separates forms of one \
         argument, `or` forms of all of them.\n",
    );
    settings(&mut out);
    entries(&mut out, "Functions", "Function", FUNCTIONS, true);
    entries(&mut out, "Arguments of newServer", "Argument", SERVER_ARGUMENTS, false);
    entries(&mut out, "Arguments of newServer on TLS", "Argument", SERVER_TLS_ARGUMENTS, false);
    entries(&mut out, "Options of addLocal and setLocal", "Option", LOCAL_OPTIONS, false);
    entries(
        &mut out,
        "Options of addTLSLocal, besides those (without doTCP)",
        "Option",
        TLS_LOCAL_OPTIONS,
        false,
    );
    entries(&mut out, "Methods of a listener with TLS", "Method", TLS_METHODS, true);
    relays(&mut out);
    entries(&mut out, "Methods of a server", "Method", SERVER_METHODS, true);
    out += "\nFields of a server: `order`, `weight`, `qps` (these can be set), `name`, `id`, `pools`, `upStatus`.\n";
    entries(&mut out, "Methods of a pool", "Method", POOL_METHODS, true);
    entries(&mut out, "Packet caches", "Function", CACHE_FUNCTIONS, true);
    entries(&mut out, "Options of newPacketCache", "Option", CACHE_OPTIONS, false);
    entries(&mut out, "Methods of a packet cache", "Method", CACHE_METHODS, true);
    out += "\n## Policies\n\n| Policy | It chooses |\n|---|---|\n";
    for (name, doc) in POLICIES.iter().zip(POLICY_DOCS) {
        line(&mut out, &[&format!("`{name}`"), doc]);
    }
    out += "\nOptions of `concentrate{...}`:\n\n| Option | Meaning |\n|---|---|\n";
    for (name, doc) in CONCENTRATE {
        line(&mut out, &[&format!("`{name}`"), doc]);
    }
    entries(&mut out, "Policies written in Lua", "Function", LUA_POLICIES, true);
    entries(&mut out, "Callbacks", "Function", CALLBACKS, true);
    entries(&mut out, "Selectors", "Selector", selectors(), true);
    entries(&mut out, "Actions on queries", "Action", query_actions(), true);
    entries(&mut out, "Actions that answer queries", "Action", answers(), true);
    entries(&mut out, "Actions on answers", "Action", response_actions(), true);
    entries(&mut out, "Sets and parameters", "Function", SETS, true);
    entries(&mut out, "The console", "Function", CONSOLE, true);
    entries(&mut out, "The running process", "Function", INSPECTION, true);
    entries(&mut out, "Methods of a listener", "Method", BIND_METHODS, true);
    entries(&mut out, "The traffic", "Function", TRAFFIC_FUNCTIONS, true);
    entries(&mut out, "The machine", "Function", MACHINE, true);
    entries(&mut out, "What dnslob does not have", "Function", ABSENT, true);
    for (title, methods) in OBJECTS {
        entries(&mut out, title, "Method", *methods, true);
    }
    chains(&mut out);
    out +=
        "\n## Constants\n\nTables of numbers by name, as `DNSQType.AAAA`.\n\n| Table | Names |\n|---|---|\n";
    for (name, numbers) in ENUMERATIONS {
        let names: Vec<&str> = numbers.iter().map(|(name, _)| *name).collect();
        line(&mut out, &[&format!("`{name}`"), &names.join(", ")]);
    }
    entries(&mut out, "Web server", "Function", WEB_FUNCTIONS, true);
    entries(&mut out, "Options of setWebserverConfig", "Option", WEB_OPTIONS, false);
    entries(&mut out, "Metrics", "Function", METRIC_FUNCTIONS, true);
    out += "\n## Not implemented yet\n\nEach of these is reported with its file and line; meanwhile:\n";
    missing(&mut out, "Functions", FUNCTIONS_MISSING);
    missing(&mut out, "Arguments of newServer", SERVER_ARGUMENTS_MISSING);
    out += "\n## For functions of rules and policies only\n\n";
    let names: Vec<String> = FOR_FUNCTIONS.iter().map(|name| format!("`{name}`")).collect();
    let _ = writeln!(out, "{}.", names.join(", "));
    out += "\n## Without effect\n\nEach of these is accepted with a warning:\n";
    missing(&mut out, "Functions without effect", WITHOUT_EFFECT);
    out += "\n## Names of older versions of dnsdist\n\nEach of these is accepted with a warning.\n\n\
            | Function | The same today |\n|---|---|\n";
    for older in OLDER {
        line(&mut out, &[&format!("`{}`", older.name), &format!("`{}`", older.today)]);
    }
    out
}

fn settings(out: &mut String) {
    *out += "\n## Settings of the process\n\nA flag overrides the file. Those marked *restart* are refused by a \
             reload.\n\n| Flag | Lua | Value | Default | A change takes | What it does |\n|---|---|---|---|---|---|\n";
    for s in &SETTINGS {
        let short = s.short.map(|c| format!("`-{c}`, ")).unwrap_or_default();
        let flag = if s.flag { format!("{short}`--{}`", s.name) } else { String::new() };
        let setter = |l: &crate::config::options::Setter| match l.unit {
            "" => format!("`{}`", l.name),
            unit => format!("`{}` ({unit})", l.name),
        };
        let setters: Vec<String> = s.lua.iter().map(setter).collect();
        let default = if s.default.is_empty() { String::new() } else { format!("`{}`", s.default) };
        let takes = if s.reload { "reload" } else { "*restart*" };
        line(out, &[&flag, &setters.join(", "), &s.kind.to_string(), &default, takes, s.doc]);
    }
}

/// The methods of what rules and functions are made of.
const OBJECTS: &[(&str, &[Entry])] = &[
    ("Methods of a set of names", NAME_SET_METHODS),
    ("Methods of a set of networks", NETWORK_SET_METHODS),
    ("Methods of a TimedIPSetRule", TIMED_SET_METHODS),
    ("Methods of a newQPSLimiter", LIMITER_METHODS),
    ("Methods of a selector", SELECTOR_METHODS),
    ("Methods of an action", ACTION_METHODS),
    ("Methods of a network", NETMASK_METHODS),
    ("Methods of an address", ADDRESS_METHODS),
    ("Methods of a domain name", NAME_METHODS),
    ("Methods of the header of a health check", HEADER_METHODS),
];

fn entries<'e>(
    out: &mut String,
    title: &str,
    head: &str,
    entries: impl IntoIterator<Item = &'e Entry>,
    called: bool,
) {
    let second = if called { "Arguments" } else { "Value" };
    let _ = write!(out, "\n## {title}\n\n| {head} | {second} | What it does |\n|---|---|---|\n");
    for e in entries {
        let arguments = if e.arguments.is_empty() { String::new() } else { format!("`{}`", e.arguments) };
        line(out, &[&format!("`{}`", e.name), &arguments, e.doc]);
    }
}

fn relays(out: &mut String) {
    entries(out, "Arguments of addTCPForward and addUDPForward", "Argument", RELAY_ARGUMENTS, false);
    *out += "\nA target is chosen by `policy`:\n\n| Policy | It chooses |\n|---|---|\n";
    for (name, doc) in RELAY_POLICIES {
        line(out, &[&format!("`{name}`"), doc]);
    }
    entries(out, "Arguments of addTCPForward alone", "Argument", TCP_RELAY_ARGUMENTS, false);
    entries(out, "Arguments of addUDPForward alone", "Argument", UDP_RELAY_ARGUMENTS, false);
}

fn chains(out: &mut String) {
    *out += "\n## Rule chains\n\nRules are asked in order; the first one that matches and whose action decides ends \
             the walk. `group` in the options of a rule names the rules that are replaced as one.\n\n\
             | Function | Arguments | What it does |\n|---|---|---|\n";
    for e in CHAINS.iter().flat_map(|c| &c.entries).chain(CHAIN_EXTRAS) {
        let arguments = if e.arguments.is_empty() { String::new() } else { format!("`{}`", e.arguments) };
        line(out, &[&format!("`{}`", e.name), &arguments, e.doc]);
    }
    entries(out, "Methods of a rule", "Method", RULE_METHODS, true);
}

fn missing(out: &mut String, title: &str, families: &[Missing]) {
    let _ = write!(out, "\n### {title}\n");
    for m in families {
        let names: Vec<String> = m.names.iter().map(|n| format!("`{n}`")).collect();
        let _ = write!(out, "\n**{}**: {}.\n{}\n", m.family, m.meanwhile, names.join(", "));
    }
}

fn line(out: &mut String, cells: &[&str]) {
    for cell in cells {
        let _ = write!(out, "| {} ", cell.replace('|', "\\|"));
    }
    *out += "|\n";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lua::front_end::every_function;
    use clap_complete::Shell;
    use std::path::Path;

    /// The committed documents, each with the command that makes it.
    const COMMITTED: [(&str, Document, &str); 6] = [
        ("docs/reference.md", Document::Reference, "reference"),
        ("docs/metrics.md", Document::Metrics, "metrics"),
        ("docs/dnslob.1", Document::Man, "man"),
        ("docs/completions/dnslob.bash", Document::Completions(Shell::Bash), "completions bash"),
        ("docs/completions/dnslob.fish", Document::Completions(Shell::Fish), "completions fish"),
        ("docs/completions/_dnslob", Document::Completions(Shell::Zsh), "completions zsh"),
    ];

    #[test]
    fn committed_documents_are_up_to_date() {
        for (path, which, command) in COMMITTED {
            let committed =
                std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default();
            assert!(
                committed == document(which),
                "{path} is out of date: cargo run -- generate {command} > {path}"
            );
        }
    }

    #[test]
    fn the_statistics_have_every_set_and_every_reason() {
        let document = metrics();
        assert!(!document.contains("{metrics") && !document.contains("{reasons"), "no such set or metric");
        for set in METRIC_SETS {
            assert!(METRICS.contains(&format!("\n{{metrics {}}}\n", set.name)), "{}", set.name);
            for metric in set.metrics.iter().filter(|m| !m.reasons.is_empty()) {
                let shown =
                    |(label, doc): &(&str, &str)| document.contains(&format!("| `{label}` | {doc} |"));
                assert!(metric.reasons.iter().all(shown), "{}", metric.name);
            }
        }
    }

    #[test]
    fn the_reference_names_everything() {
        let reference = reference();
        let settings =
            SETTINGS.iter().map(|s| s.name).chain(SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name));
        let methods = [SERVER_METHODS, POOL_METHODS, CACHE_METHODS, RULE_METHODS].into_iter();
        let methods = methods.chain(OBJECTS.iter().map(|(_, methods)| *methods));
        let entries = every_function()
            .chain(SERVER_ARGUMENTS)
            .chain(LOCAL_OPTIONS)
            .chain(RELAY_ARGUMENTS)
            .chain(SERVER_TLS_ARGUMENTS)
            .chain(TLS_LOCAL_OPTIONS)
            .chain(TLS_METHODS)
            .chain(BIND_METHODS)
            .chain(methods.flatten());
        let missing = FUNCTIONS_MISSING.iter().chain(WITHOUT_EFFECT).chain(SERVER_ARGUMENTS_MISSING);
        let missing = missing.flat_map(|m| m.names).copied().chain(OLDER.iter().map(|o| o.name));
        let shown = SETTINGS.iter().filter(|s| s.flag || !s.lua.is_empty()).count();
        assert_eq!(shown, SETTINGS.len(), "a setting without flag or function");
        for name in settings.chain(entries.map(|e| e.name)).chain(missing).chain(POLICIES) {
            let flag_only = SETTINGS.iter().any(|s| s.name == name && !s.flag);
            assert!(
                flag_only
                    || reference.contains(&format!("`{name}`"))
                    || reference.contains(&format!("`--{name}`")),
                "{name}"
            );
        }
    }
}
