//! The table of rule chains: each has the same functions under its own names.

use crate::config::functions::{Entry, entry};

/// The functions of one chain.
#[derive(Debug)]
pub struct ChainFunctions {
    /// Whether its rules are for responses, and take response actions.
    pub responses: bool,
    /// What its rules are called.
    pub what: &'static str,
    /// In this order: add, rm, mv, mv to top, clear, set, show, top, get top, get.
    pub entries: [Entry; 10],
}

macro_rules! chain {
    ($responses:literal, $add:literal, $stem:literal, $what:literal) => {
        ChainFunctions {
            responses: $responses,
            what: $what,
            entries: [
                entry(
                    $add,
                    "rule, action [, {name=, uuid=, group=, replace=}]",
                    concat!(
                        "Adds a ",
                        $what,
                        ", or puts it in the place of one (`replace`, by number, name or UUID; not in dnsdist). \
                         Instead of a rule: a name or a list of names (they and all below them), or networks."
                    ),
                ),
                entry(concat!("rm", $stem, "Rule"), "number | name | uuid", concat!("Removes a ", $what, ".")),
                entry(
                    concat!("mv", $stem, "Rule"),
                    "from, to",
                    concat!("Moves a ", $what, " in front of another; to one more than the last: to the end."),
                ),
                entry(
                    concat!("mv", $stem, "RuleToTop"),
                    "[number]",
                    concat!("Moves the last ", $what, ", or this one, to the front."),
                ),
                entry(concat!("clear", $stem, "Rules"), "", concat!("Removes every ", $what, ".")),
                entry(
                    concat!("set", $stem, "Rules"),
                    "{newRuleAction(...), ...}",
                    concat!("Replaces every ", $what, "."),
                ),
                entry(
                    concat!("show", $stem, "Rules"),
                    "[{showUUIDs=false, truncateRuleWidth=-1}]",
                    concat!("Prints every ", $what, "; while the file is evaluated each has 0 matches."),
                ),
                entry(
                    concat!("top", $stem, "Rules"),
                    "[number=10]",
                    concat!("Prints each ", $what, " with the most matches, most first; among equals in order."),
                ),
                entry(
                    concat!("getTop", $stem, "Rules"),
                    "[number=10]",
                    concat!("Returns a list of each ", $what, " with the most matches."),
                ),
                entry(
                    concat!("get", $stem, "Rule"),
                    "number | name | uuid",
                    concat!("A ", $what, "; nil if there is none."),
                ),
            ],
        }
    };
}

/// The chains, in the order of [`ChainKey`](crate::config::ruleset::ChainKey).
pub static CHAINS: [ChainFunctions; 8] = [
    chain!(false, "addAction", "", "rule"),
    chain!(false, "addCacheMissAction", "CacheMiss", "cache-miss rule"),
    chain!(true, "addResponseAction", "Response", "response rule"),
    chain!(true, "addCacheHitResponseAction", "CacheHitResponse", "cache-hit rule"),
    chain!(true, "addCacheInsertedResponseAction", "CacheInsertedResponse", "cache-inserted rule"),
    chain!(true, "addSelfAnsweredResponseAction", "SelfAnsweredResponse", "self-answered rule"),
    chain!(true, "addTimeoutResponseAction", "TimeoutResponse", "time-out rule"),
    chain!(true, "addXFRResponseAction", "XFRResponse", "zone transfer rule"),
];

/// The function that measures a rule.
pub const BENCH_RULE: Entry = entry(
    "benchRule",
    "rule [, iterations=100000 [, suffix]]",
    "Measures how often a second a rule can be evaluated, on queries for names below `suffix` (powerdns.com), for two \
     seconds at most, and prints how many of them it matches. Rules that count, as MaxQPSRule, that name pools, or that \
     call Lua depend on more than the query, and are not measured. For the console: what evaluates the configuration \
     waits for it.",
);

/// Functions on rules that belong to no single chain.
pub static CHAIN_EXTRAS: &[Entry] = &[
    entry("getAction", "number", "Returns a query rule by its number; nil if there is none."),
    entry("getCacheMissAction", "number", "Returns a cache-miss rule by its number; nil if there is none."),
    BENCH_RULE,
    entry(
        "newRuleAction",
        "rule, action [, {name=, uuid=, group=}]",
        "Returns a rule that is in no chain yet.",
    ),
    entry(
        "setRuleGroup",
        "group, {newRuleAction(...), ...}",
        "Replaces all query rules of a group, at the place of its first one, or at the end. Not in \
         dnsdist.",
    ),
    entry("clearRuleGroup", "group", "Removes all query rules of a group. Not in dnsdist."),
    entry(
        "setResponseRuleGroup",
        "group, {newRuleAction(...), ...}",
        "Like setRuleGroup, for response rules.",
    ),
    entry("clearResponseRuleGroup", "group", "Like clearRuleGroup, for response rules."),
];

/// The methods of a rule in a chain.
pub static RULE_METHODS: &[Entry] = &[
    entry("getAction", "", "Returns its action."),
    entry("getSelector", "", "Returns its selector, whose `getMatches()` is 0 while the file is evaluated."),
    entry("getName", "", "Returns its name; empty when it has none."),
    entry("getUUID", "", "Returns its UUID; empty until the end of the file when none was given."),
    entry("getGroup", "", "Returns its group; empty when it is in none."),
];
