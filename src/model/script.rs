//! Functions of a configuration, as a snapshot carries them: the source from which each shard
//! starts its script.

use std::fmt::Debug;
use std::sync::Arc;

use crate::model::Snapshot;
use crate::rules::context::Script;
use crate::stats::live::LiveState;

/// A shard's script that knows the configuration.
pub trait ConfiguredScript: Script {
    /// Adopts a configuration: what scripts can read of it, and of its servers while they run. A
    /// script may outlive its snapshot.
    fn adopt(&mut self, snapshot: &Snapshot, live_state: &Arc<LiveState>);
}

/// Starts the script of a shard; part of the snapshot.
pub trait Source: Debug + Send + Sync {
    /// Starts a script for the shard with this number. Returns none, after logging it, when the
    /// configuration's file does not evaluate there.
    fn start(&self, shard: usize) -> Option<Box<dyn ConfiguredScript>>;

    /// Returns the identity of the source: with an equal one a running script can stay.
    fn identity(&self) -> u64;
}
