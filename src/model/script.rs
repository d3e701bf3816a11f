//! Functions of a configuration, as a snapshot carries them: what each shard starts for itself.

use std::fmt::Debug;

use crate::model::Snapshot;
use crate::rules::script::Script;

/// A shard's script that knows the configuration.
pub trait ConfiguredScript: Script {
    /// Takes a configuration up: what scripts can ask of it. A script may outlive its snapshot.
    fn adopt(&mut self, snapshot: &Snapshot);
}

/// Starts a state for one shard; part of the snapshot.
pub trait Source: Debug + Send + Sync {
    /// A state of its own, for the shard with this number. None, with a line in the log, when the
    /// configuration's file does not evaluate there.
    fn start(&self, shard: usize) -> Option<Box<dyn ConfiguredScript>>;

    /// What tells sources apart: with the same one a running state can stay.
    fn identity(&self) -> u64;
}
