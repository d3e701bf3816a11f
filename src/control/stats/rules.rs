//! The rules with their hits, the most hit first.

use std::fmt::Write;

use crate::base::printable::Printable;
use crate::config::error::counted;
use crate::model::Snapshot;
use crate::rules::names::Names;
use crate::rules::networks::{NetworkSet, Networks};
use crate::rules::text::Sets;
use crate::rules::{Chain, Rule, text};
use crate::stats::live::LiveState;
use crate::wire::name;

/// Rules of a chain that are listed; a block list may have a hundred thousand.
const LISTED_MAX: usize = 100;

/// Characters of a selector that are shown: it may be a list of any length.
const MATCHER_CHARS: usize = 500;

/// Names or networks of a set that are listed.
const LISTED_NAMES_MAX: usize = 3;

/// A table of every chain's rules with their hits since they are there; empty without rules.
pub(super) fn table(snapshot: &Snapshot, live_state: &LiveState) -> String {
    let mut out = String::new();
    let chains = &snapshot.chains;
    list(&mut out, "query", &chains.query, text::action, live_state);
    list(&mut out, "cache-miss", &chains.cache_miss, text::action, live_state);
    for (name, chain) in [
        ("response", &chains.response),
        ("cache-hit", &chains.cache_hit),
        ("cache-inserted", &chains.cache_inserted),
        ("self-answered", &chains.self_answered),
        ("timeout", &chains.timeout),
        ("xfr", &chains.xfr),
    ] {
        list(&mut out, name, chain, text::response_action, live_state);
    }
    out
}

fn list<A>(out: &mut String, name: &str, chain: &Chain<A>, act: fn(&A) -> String, live_state: &LiveState) {
    if chain.is_empty() {
        return;
    }
    let hits = |rule: &Rule<A>| live_state.rule_hits(rule.slot);
    let mut rules: Vec<(usize, u64, &Rule<A>)> =
        chain.rules().iter().enumerate().map(|(at, rule)| (at, hits(rule), rule)).collect();
    // Stable: rules with as many hits stay in their order.
    rules.sort_by_key(|(_, hits, _)| std::cmp::Reverse(*hits));
    let more = rules.len().saturating_sub(LISTED_MAX);
    rules.truncate(LISTED_MAX);
    let _ = writeln!(out, "{name} rules: {}", chain.rules().len());
    for (at, hits, rule) in rules {
        let name = if rule.name.is_empty() { String::new() } else { format!("{}: ", rule.name) };
        let group = if rule.group.is_empty() { String::new() } else { format!(" [{}]", rule.group) };
        let text = format!("{name}{} -> {}{group}", matches(rule), act(&rule.action));
        let _ = writeln!(out, "  {at:>6} {hits:>12}  {}", Printable(text));
    }
    if more > 0 {
        let _ = writeln!(out, "  and {more} more");
    }
}

/// What a rule matches, in a length that can be shown.
pub(in crate::control) fn matches<A>(rule: &Rule<A>) -> String {
    let mut matches = text::matcher(&rule.matcher, &Sizes);
    if let Some((at, _)) = matches.char_indices().nth(MATCHER_CHARS) {
        matches.truncate(at);
        matches.push_str("...");
    }
    matches
}

/// What sets are called here: a block list would fill the page.
struct Sizes;

impl Sets for Sizes {
    fn names(&self, names: &Names) -> String {
        let listed = || names.set().into_iter().flat_map(|set| set.iter()).map(|n| name::Text(n).to_string());
        match names.len() {
            0..=LISTED_NAMES_MAX if !names.is_hidden() => listed().collect::<Vec<_>>().join(", "),
            more => counted(more, "name"),
        }
    }

    fn networks(&self, networks: &Networks) -> String {
        let listed = || {
            networks
                .set()
                .into_iter()
                .flat_map(NetworkSet::iter)
                .map(|(prefix, is_in)| format!("{}{prefix}", if is_in { "" } else { "!" }))
        };
        match networks.len() {
            0..=LISTED_NAMES_MAX if !networks.is_hidden() => listed().collect::<Vec<_>>().join(", "),
            more => counted(more, "network"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::addr::RuleSlot;
    use crate::config::tests::good;
    use crate::rules::action::Action;
    use crate::rules::matcher::Matcher;

    #[test]
    fn the_most_hit_rule_stands_first() {
        let rule = |slot: u32, name: &str| Rule {
            slot: RuleSlot(slot),
            name: name.to_owned(),
            uuid: [0xab; 16],
            group: if slot == 1 { "abuse".to_owned() } else { String::new() },
            matcher: Matcher::All,
            action: Action::Drop,
        };
        let mut snapshot = Snapshot::default();
        snapshot.chains.query = Chain::new(vec![rule(0, "first"), rule(1, "second"), rule(5000, "")]);
        let live_state = LiveState::new(2, 1);
        live_state.shards()[0].rule_hits(RuleSlot(1)).add(3);
        live_state.shards()[1].rule_hits(RuleSlot(1)).add(4);
        live_state.shards()[1].rule_hits(RuleSlot(5000)).add(1);
        assert_eq!(
            table(&snapshot, &live_state),
            "query rules: 3\n\
             \x20      1            7  second: All -> drop [abuse]\n\
             \x20      2            1  All -> drop\n\
             \x20      0            0  first: All -> drop\n"
        );
        assert_eq!(table(&Snapshot::default(), &live_state), "");
    }

    #[test]
    fn what_is_quiet_is_counted() {
        let text = "local set = newSuffixMatchNode() set:add('c.example') local nets = newNMG() \
                    nets:addMask('198.51.100.0/24')\n\
                    addAction(QNameSuffixRule({'a.example', 'b.example'}, true), DropAction())\n\
                    addAction(QNameSuffixRule(set, true), DropAction())\n\
                    addAction(NetmaskGroupRule('192.0.2.0/24', true, true), DropAction())\n\
                    addAction(NetmaskGroupRule(nets, true, true), DropAction())\n\
                    addAction(QNameSuffixRule({'d.example', 'e.example'}), DropAction())";
        let snapshot = good(text).1.snapshot;
        let shown = table(&snapshot, &LiveState::new(1, 1));
        for hidden in ["a.example", "b.example", "c.example", "192.0.2.0", "198.51.100.0"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        for counted in ["2 names", "1 name", "1 network", "d.example., e.example."] {
            assert!(shown.contains(counted), "{shown}");
        }
    }

    #[test]
    fn few_networks_are_listed_and_many_counted() {
        let set = |texts: &[&str]| {
            let network =
                |t: &&str| (t.trim_start_matches('!').parse().expect("a network"), !t.starts_with('!'));
            Networks::from(texts.iter().map(network).collect::<NetworkSet>())
        };
        let few = ["198.51.100.0/24", "!198.51.100.7", "2001:db8::/32"];
        assert_eq!(Sizes.networks(&set(&few)), "198.51.100.0/24, !198.51.100.7/32, 2001:db8::/32");
        assert_eq!(Sizes.networks(&set(&["::/0", "0.0.0.0/0"])), "::/0, 0.0.0.0/0");
        assert_eq!(Sizes.networks(&set(&["10.0.0.0/8"; 4])), "4 networks");
    }
}
