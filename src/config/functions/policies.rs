//! The policies by name, and the options of `concentrate`.

use crate::config::functions::POLICIES;
use crate::model::policy::Kind;

/// Returns the policy of a name of [`POLICIES`].
pub(crate) fn kind(name: &str) -> Option<Kind> {
    const KINDS: [Kind; POLICIES.len()] = [
        Kind::LeastOutstanding,
        Kind::FirstAvailable,
        Kind::RoundRobin,
        Kind::WRandom,
        Kind::WHashed,
        Kind::CHashed,
        Kind::OrderedWRandUntag,
        Kind::P2c,
        Kind::Concentrate,
    ];
    POLICIES.iter().position(|p| *p == name).map(|at| KINDS[at])
}

/// Returns the name of a policy.
pub(crate) fn name(wanted: Kind) -> &'static str {
    if matches!(wanted, Kind::Lua(_)) {
        return "a Lua function";
    }
    POLICIES.iter().find(|p| kind(p) == Some(wanted)).copied().unwrap_or_default()
}

/// The options of `concentrate`.
pub(crate) const CONCENTRATE: [(&str, &str); 15] = [
    ("fullFactor", "Full: latency of fast answers above this multiple of its floor ..."),
    ("fullMargin", "... plus this, milliseconds or a string as \"50us\"."),
    ("fullTimeouts", "Also full: this percentage of time-outs in a second."),
    ("capFactor", "Cap of a full server, as a multiple of its present rate."),
    ("raiseFactor", "The cap grows by this factor ..."),
    ("raiseInterval", "... at this interval, milliseconds, while latency is good."),
    ("goodFactor", "Good: latency below this multiple of its floor."),
    ("shrinkLoad", "A server is closed only if the others stay below this part of their proven rate ..."),
    ("shrinkAfter", "... for this time, milliseconds."),
    ("joinShare", "First share of a joining server, 0 to 1."),
    ("joinDouble", "That share doubles at this interval, milliseconds."),
    ("standbyShare", "Random share of queries that keeps the next server warm, 0 to 1."),
    (
        "spreadAfterDeath",
        "How long the load is spread over all others after the loss of a server, milliseconds.",
    ),
    ("window", "Window of one latency sample, milliseconds."),
    ("floorSpan", "The floor is the lowest sample of this span, milliseconds."),
];
