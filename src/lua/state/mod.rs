//! Lua per shard: the functions of a configuration that are run per query, in a state of the
//! shard's own. No lock is shared, and nothing else either: a global variable is one per shard.
//!
//! ```text
//!  control thread                             each shard
//!  file ──evaluate──► Draft.functions ─┐      Source::start
//!    └──read once──► Files ──check─────┴────►   evaluate Files, recording only
//!                    (the same evaluation)      compare with Draft.functions
//!                                               n-th function = FunctionId(n)
//! ```
//!
//! The same file is evaluated in each shard with the configuration's functions standing still: they
//! only note the functions that they are given. So the n-th function is the same one everywhere; a
//! guard compares kind, file and line, and refuses a file that evaluates differently. Name lists and
//! networks that the file makes are compiled once, and shared. What a file prints or logs while it
//! is evaluated is said once, by the control thread.
//!
//! What this room does not do: decide what becomes of a packet (the shard does, by what a function
//! [said](crate::rules::script::ScriptAction)); serve functions that the control thread runs (health
//! checks: `config::lua`).

// The kinds of values and errors are the Lua library's; a new one is as wrong as the rest.
#![allow(clippy::wildcard_enum_match_arm)]

pub mod calls;
mod core;
pub(crate) mod current;
mod files;
mod record;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use crate::lua::state::files::{File, Files};

use crate::base::panics;
use crate::config::error::ConfigError;
use crate::config::ruleset::Recorded;
use crate::lua::limits;
use crate::lua::limits::Interrupt;
use crate::lua::state::calls::State;
use crate::model::{ConfiguredScript, Source};
use crate::rules::names::Names;
use crate::rules::networks::Networks;

/// `print` and `io.write`, and where they go; called with a function that takes a line.
pub(crate) const PRINT: &str = include_str!("print.lua");

/// What all shards' states are made of.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The configuration's text.
    pub(crate) files: Files,
    /// The functions that the control thread found.
    pub(crate) recorded: Vec<Recorded>,
    /// What the n-th `newSuffixMatchNode()` or `newDNSNameSet()` of the file was filled with.
    pub(crate) names: Vec<Names>,
    /// What the n-th `newNMG()` of the file was filled with.
    pub(crate) networks: Vec<Networks>,
}

impl Shared {
    /// The file's name, for messages.
    fn name(&self) -> &str {
        self.files.main.as_ref().map_or("command line", |f| &f.name)
    }

    /// Where the shared sets are: other sets are another configuration, whatever the text says.
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
    /// What a shard's evaluation may take.
    ticks: u32,
}

/// A shard's evaluation may take as much longer than the first one did.
const SLOWER_MAX: u32 = 8;
/// And at least this: clocks are coarse, and the first one may have been lucky.
const EVALUATION_MIN: Duration = Duration::from_secs(1);

/// Loads of configurations that read files of their own.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// Evaluates a configuration once as the shards will, and gives the source of their states.
///
/// `recorded` are the functions that the control thread found; `names` and `networks` what the n-th
/// `newSuffixMatchNode()` and `newNMG()` of the file were filled with, or will be before a shard
/// starts.
///
/// # Errors
/// When the file gives other functions the second time, or does not evaluate at all.
pub fn check(
    files: Files,
    recorded: Vec<Recorded>,
    names: Vec<Names>,
    networks: Vec<Networks>,
) -> Result<Arc<dyn Source>, ConfigError> {
    check_unless(files, recorded, names, networks, &Interrupt::default())
}

/// Like [`check`]; another thread can end it.
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
    let shared = Arc::new(Shared { files, recorded, names, networks });
    let (state, taken) = State::new(&shared, interrupt, limits::ticks(limits::EVALUATION))?;
    // What other files held is not known: of a configuration that reads some, each load is another.
    let mut identity = if state.reads_files() { LOADS.fetch_add(1, Relaxed) + 1 } else { 0 };
    for function in &shared.recorded {
        let kind = [function.kind as u8, function.interface as u8];
        identity = xxh3_64_with_seed(&kind, identity);
        identity = xxh3_64_with_seed(function.source.as_bytes(), identity);
        identity = xxh3_64_with_seed(&function.line.to_ne_bytes(), identity);
    }
    let directories = shared.files.directories.iter().flat_map(|d| &d.1);
    for file in shared.files.main.iter().chain(directories) {
        identity = xxh3_64_with_seed(file.name.as_bytes(), identity);
        identity = xxh3_64_with_seed(&file.text, identity);
    }
    let ticks = taken.saturating_mul(SLOWER_MAX).max(limits::ticks(EVALUATION_MIN));
    Ok(Arc::new(Checked { shared, identity, ticks }))
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
