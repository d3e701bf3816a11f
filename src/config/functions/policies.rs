//! The policies by name, and the options of `concentrate`.

use crate::config::functions::POLICIES;
use crate::model::policy::Kind;

/// The policy of a name of [`POLICIES`].
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

/// The name of a policy.
pub(crate) fn name(wanted: Kind) -> &'static str {
    if matches!(wanted, Kind::Lua(_)) {
        return "a Lua function";
    }
    POLICIES.iter().find(|p| kind(p) == Some(wanted)).copied().unwrap_or_default()
}

/// The options of `concentrate`.
pub(crate) const CONCENTRATE: [(&str, &str); 15] = [
    ("fullFactor", "Full: the fast answers' latency above so many times its own floor ..."),
    ("fullMargin", "... plus this, milliseconds or a string as \"50us\"."),
    ("fullTimeouts", "Full too: so many percent of time-outs in a second."),
    ("capFactor", "Cap on a full server, times its present rate."),
    ("raiseFactor", "The cap grows by this factor ..."),
    ("raiseInterval", "... so often, milliseconds, while latency is good."),
    ("goodFactor", "Good: latency below so many times its floor."),
    ("shrinkLoad", "A server is closed only if the rest stay under this part of their proven rate ..."),
    ("shrinkAfter", "... for so long, milliseconds."),
    ("joinShare", "First share of a joining server, 0 to 1."),
    ("joinDouble", "That share doubles so often, milliseconds."),
    ("standbyShare", "Random share of queries that keeps the next server warm, 0 to 1."),
    ("spreadAfterDeath", "How long the load spreads over all survivors after a death, milliseconds."),
    ("window", "Window of one latency reading, milliseconds."),
    ("floorSpan", "The floor is the lowest reading of so long, milliseconds."),
];
