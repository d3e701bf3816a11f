//! What the control plane needs of a configuration, whoever reads it.
//!
//! The edge towards [`config`](crate::config): the loop knows [`Source`] and [`Plan`] only, so its
//! tests hand in configurations that were never written down.

use std::rc::Rc;
use std::sync::Arc;

use crate::base::addr::{BackendSlot, ListenerSlot};
use crate::base::panics;
use crate::base::time::TickDelta;
use crate::control::privileges::Identity;
use crate::control::probe::Script;
use crate::model::Snapshot;
use crate::model::Steer;

/// One evaluated configuration, not in force yet.
pub struct Plan {
    /// What the shards shall obey.
    pub snapshot: Arc<Snapshot>,
    /// What the control thread shall obey.
    pub settings: Settings,
    /// The functions of its health checks.
    pub script: Rc<dyn Script>,
    /// How it differs from the one before, a line each.
    pub changes: Vec<String>,
}

/// Settings of the control thread that a reload can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a stop waits for outstanding queries.
    pub drain: TickDelta,
    /// Between two lines of figures; none prints none.
    pub stats: Option<TickDelta>,
    /// Log more.
    pub verbose: bool,
    /// Log each failed probe, not only changes of state.
    pub verbose_checks: bool,
}

/// Settings that only a restart can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The CPU of each shard, none for one that is not pinned; as many as there are shards.
    pub shards: Vec<Option<usize>>,
    /// How packets are steered to shards.
    pub steer: Steer,
    /// How long a shard spins for packets, microseconds.
    pub busy_poll_us: u32,
    /// Packets of one system call.
    pub batch_packets: usize,
    /// Backends at a time, those counted that finish their queries.
    pub backends_max: usize,
    /// Who to be once the sockets are open.
    pub identity: Identity,
}

/// Says which slots of what was removed may be given away.
pub trait Vacancies {
    /// Whether no shard holds anything of a backend any more.
    fn backend(&self, slot: BackendSlot) -> bool;

    /// The same for a listener.
    fn listener(&self, slot: ListenerSlot) -> bool;

    /// Whether every shard uses the configuration in force, and so counts for no other's rules.
    fn rules(&self) -> bool;
}

/// The evaluation that a reload begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// There is none.
    None,
    /// It runs, in another thread.
    Running,
    /// [`Source::load`] has nothing to wait for.
    Ended,
}

/// Where configurations come from.
pub trait Source {
    /// Begins to evaluate and compile the same sources anew, as successor of the configuration in force; `ended` is called, by another thread, as soon as
    /// [`Source::load`] has nothing to wait for.
    fn begin(&mut self, vacancies: &dyn Vacancies, ended: Box<dyn FnOnce() + Send>);

    /// Ends an evaluation that has begun; nobody waits for what it gives.
    fn interrupt(&mut self);

    /// The plan that [`Source::begin`] has made.
    ///
    /// # Errors
    /// Everything that is wrong, a line each; also what only a restart could change.
    fn load(&mut self) -> Result<Plan, Vec<String>>;

    /// The plan of the last [`Source::load`] is in force: the next one succeeds it.
    fn accept(&mut self);

    /// That plan is refused; these listener slots of it are in use still, and so can be given away
    /// only when [`Vacancies`] says so.
    fn refuse(&mut self, slots: &[ListenerSlot]);
}

/// [`Source::load`] with a panic as an error: a fault in what reads configurations refuses the
/// reload, and the process serves on. A source holds what is in force apart from what it loads, so
/// that the next load finds it as it was.
///
/// # Errors
/// Those of the source, or the panic.
pub fn load_contained(source: &mut impl Source) -> Result<Plan, Vec<String>> {
    panics::caught(|| source.load()).unwrap_or_else(|panic| Err(vec![panic]))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Source for Broken {
        fn refuse(&mut self, _: &[ListenerSlot]) {}

        fn begin(&mut self, _: &dyn Vacancies, _: Box<dyn FnOnce() + Send>) {}

        fn interrupt(&mut self) {}

        fn load(&mut self) -> Result<Plan, Vec<String>> {
            panic!("out of references");
        }

        fn accept(&mut self) {}
    }

    #[test]
    fn a_source_that_panics_refuses_its_load() {
        let errors = load_contained(&mut Broken).err().expect("a refusal");
        assert_eq!(errors, ["internal error: out of references"]);
    }
}
