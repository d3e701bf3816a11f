//! Lua per shard: the functions of a configuration that are called per query, in a state of the
//! shard's own. Nothing is shared, so there is no lock: a global variable is one per shard.
//!
//! ```text
//!  control thread                             each shard
//!  file ──evaluate──► Draft.functions ─┐      Source::start
//!    └──read once──► Files ──check─────┴────►   evaluate Files, recording only
//!                    (the same evaluation)      compare with Draft.functions
//!                                               n-th function = FunctionId(n)
//! ```
//!
//! Each shard evaluates the same file, with configuration functions that do nothing but record the
//! functions they get. So the n-th function is the same one in every shard; a check compares kind,
//! file and line, and refuses a file that evaluates differently. Sets of names and networks that
//! the file makes are compiled once, and shared. What a file prints or logs while it is evaluated
//! is logged once, by the control thread.
//!
//! This module does not decide what happens to a packet (the shard does, by the
//! [`ScriptAction`](crate::rules::script::ScriptAction) of a function), and does not run functions
//! of the control thread (health checks: `lua::front_end`).

// The kinds of values and errors belong to the Lua library; a new one is handled like the others.
#![allow(clippy::wildcard_enum_match_arm)]

pub(crate) mod caches;
pub(crate) mod call_state;
pub mod calls;
mod core;
mod decision;
mod files;
pub(crate) mod metrics;
pub(crate) mod place;
mod record;
pub(crate) mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use crate::lua::state::files::{File, Files, Raised};

use crate::base::panics;
use crate::config::error::ConfigError;
use crate::config::ruleset::Recorded;
use crate::lua::code::flow::{Kind, LIBRARIES, Standing};
use crate::lua::code::shape::Shape;
use crate::lua::limits;
use crate::lua::limits::Interrupt;
use crate::lua::state::calls::State;
use crate::model::{ConfiguredScript, Source};
use crate::rules::limits::Bucket;
use crate::rules::names::Names;
use crate::rules::networks::Networks;

/// `print` and `io.write`, and where they go; called with a function that takes a line.
pub(crate) const PRINT: &str = include_str!("print.lua");

/// What the states of all shards share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The text of the configuration.
    pub(crate) files: Files,
    /// The functions that the control thread found.
    pub(crate) recorded: Vec<Recorded>,
    /// The content of the n-th `newSuffixMatchNode()` or `newDNSNameSet()` of the file.
    pub(crate) names: Vec<Names>,
    /// The content of the n-th `newNMG()` of the file.
    pub(crate) networks: Vec<Networks>,
    /// The bucket of the n-th `newQPSLimiter()` of the file.
    pub(crate) limiters: ArcSwap<Vec<Arc<Bucket>>>,
}

impl Shared {
    /// Makes the bucket of this number, unless another shard has made it; returns whether there may be
    /// so many.
    pub(crate) fn add_limiter(&self, number: usize, qps: u32, burst: u32) -> bool {
        /// More than any configuration needs.
        const LIMITERS_MAX: usize = 10_000;
        self.limiters.rcu(|all| {
            let mut all = Vec::clone(all);
            if all.len() == number && number < LIMITERS_MAX {
                all.push(Arc::new(Bucket::new(qps, burst)));
            }
            all
        });
        number < LIMITERS_MAX
    }

    /// Returns the file's name, for messages.
    fn name(&self) -> &str {
        self.files.main.as_ref().map_or("command line", |f| &f.name)
    }

    /// Returns the addresses of the shared sets: other sets are another configuration, even with
    /// equal text.
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let names = self.names.iter().map(|n| n.set().map_or(0, |s| std::ptr::from_ref(s).addr()));
        let networks = self.networks.iter().map(|n| n.set().map_or(0, |s| std::ptr::from_ref(s).addr()));
        names.chain(networks)
    }
}

/// A checked configuration, as the snapshot holds it.
#[derive(Debug)]
struct Checked {
    shared: Arc<Shared>,
    identity: u64,
    /// Limit of a shard's evaluation, ticks.
    ticks: u32,
}

/// Factor by which a shard's evaluation may be slower than the first one.
const SLOWER_MAX: u32 = 8;
/// Lower bound of that limit: clocks are coarse, and the first evaluation may have been fast by
/// chance.
const EVALUATION_MIN: Duration = Duration::from_secs(1);

/// Number of loaded configurations that read files themselves.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// Evaluates a configuration once as the shards will, and returns the source of their states.
///
/// `recorded` are the functions that the control thread found; `names` and `networks` the content
/// of the n-th `newSuffixMatchNode()` and `newNMG()` of the file, filled at the latest before a
/// shard starts.
///
/// # Errors
/// The file defines other functions the second time, or does not evaluate at all.
pub fn check(
    files: Files,
    recorded: Vec<Recorded>,
    names: Vec<Names>,
    networks: Vec<Networks>,
) -> Result<Arc<dyn Source>, ConfigError> {
    check_unless(files, recorded, names, networks, &Interrupt::default())
}

/// As [`check`], but another thread can end it.
///
/// # Errors
/// Those of [`check`], and the interruption.
pub fn check_unless(
    files: Files,
    recorded: Vec<Recorded>,
    names: Vec<Names>,
    networks: Vec<Networks>,
    interrupt: &Interrupt,
) -> Result<Arc<dyn Source>, ConfigError> {
    let shared = Arc::new(Shared { files, recorded, names, networks, limiters: ArcSwap::default() });
    let (state, taken) = State::new(&shared, interrupt, limits::ticks(limits::EVALUATION))?;
    // The content of other files is unknown: each load of a configuration that reads some counts as
    // another configuration.
    let mut identity = if state.reads_files() { LOADS.fetch_add(1, Relaxed) + 1 } else { 0 };
    for function in &shared.recorded {
        let kind = [function.kind as u8, function.interface as u8];
        identity = xxh3_64_with_seed(&kind, identity);
        identity = xxh3_64_with_seed(function.source.as_bytes(), identity);
        identity = xxh3_64_with_seed(&function.line.to_ne_bytes(), identity);
    }
    let directories = shared.files.directories.iter().flat_map(|d| &d.1);
    for file in shared.files.main.iter().chain(directories).chain(&shared.files.commands) {
        identity = xxh3_64_with_seed(file.name.as_bytes(), identity);
        identity = xxh3_64_with_seed(&file.text, identity);
    }
    for raised in &shared.files.raised {
        identity = xxh3_64_with_seed(raised.function.as_bytes(), identity ^ u64::from(raised.number));
    }
    let ticks = taken.saturating_mul(SLOWER_MAX).max(limits::ticks(EVALUATION_MIN));
    Ok(Arc::new(Checked { shared, identity, ticks }))
}

/// What is known of the state of a shard without a configuration.
#[derive(Debug)]
pub(crate) struct Known {
    /// How the names that were asked for stand there.
    pub(crate) names: Vec<Standing>,
    /// The members of its objects.
    pub(crate) members: Members,
}

/// The members of the objects that functions get.
#[derive(Debug, Default)]
pub(crate) struct Members(BTreeMap<String, BTreeSet<String>>);

impl Members {
    /// Returns the members of a table of Lua itself.
    pub(crate) fn of_table(&self, name: &str) -> Option<&BTreeSet<String>> {
        self.0.get(name).filter(|_| LIBRARIES.contains(&name))
    }

    /// Returns the members of a kind.
    pub(crate) fn of(&self, kind: Kind) -> Option<&BTreeSet<String>> {
        let name = match kind {
            Kind::Member(Shape::Query) => "query",
            Kind::Member(Shape::Response) => "response",
            Kind::Member(Shape::Header) => "header",
            Kind::Member(Shape::Name) => "name",
            Kind::Member(Shape::Address) => "address",
            Kind::Member(Shape::Server) => "server",
            Kind::Member(Shape::Pool) => "pool",
            Kind::Member(Shape::Cache) => "cache",
            Kind::Member(Shape::Names) => "names",
            Kind::Member(Shape::Networks) => "networks",
            Kind::Written(Shape::Query | Shape::Response) => "written",
            Kind::Decision => "decision",
            Kind::Call
            | Kind::Ffi
            | Kind::FfiType
            | Kind::Fixed
            | Kind::Metric
            | Kind::Declared
            | Kind::Member(Shape::Other | Shape::Table(_))
            | Kind::Written(_) => {
                return None;
            }
        };
        self.0.get(name)
    }
}

/// Returns how names stand in the state of a shard without a configuration, and the members of its
/// objects.
///
/// # Errors
/// The state cannot be made.
pub(crate) fn standing(names: &[&str], interrupt: &Interrupt) -> Result<Known, ConfigError> {
    let files = Files::default();
    let (names_of_file, networks) = (Vec::new(), Vec::new());
    let limiters = ArcSwap::default();
    let shared = Shared { files, recorded: Vec::new(), names: names_of_file, networks, limiters };
    let shared = Arc::new(shared);
    let (state, _) = State::new(&shared, interrupt, limits::ticks(limits::EVALUATION))?;
    let names = names.iter().map(|name| state.standing(name)).collect();
    Ok(Known { names, members: Members(state.members()) })
}

impl Source for Checked {
    fn start(&self, shard: usize) -> Option<Box<dyn ConfiguredScript>> {
        // The control thread has evaluated it without a panic; one here must not end the shard.
        let made = panics::caught(|| State::new(&self.shared, &Interrupt::default(), self.ticks));
        match made.and_then(|made| made.map_err(|e| e.to_string())) {
            Ok((state, _)) => Some(Box::new(state)),
            Err(e) => {
                tracing::error!(shard, "no Lua in this shard: {e}");
                None
            }
        }
    }

    fn identity(&self) -> u64 {
        self.shared
            .places()
            .fold(self.identity, |identity, place| xxh3_64_with_seed(&place.to_ne_bytes(), identity))
    }
}

#[cfg(test)]
mod tests;
