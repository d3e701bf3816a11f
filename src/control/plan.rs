//! What the control plane needs of a configuration, whatever its source.
//!
//! The border to [`config`](crate::config): the loop only knows [`Source`] and [`Plan`], so its
//! tests can build configurations directly.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::addr::{BackendSlot, ListenerSlot};
use crate::base::panics;
use crate::base::time::TickDelta;
use crate::config::log_style::LogStyle;
use crate::config::web::WebSettings;
use crate::control::privileges::Identity;
use crate::control::probe::Script;
use crate::lua::front_end::command::{Command, Wish};
use crate::lua::front_end::notice::Notice;
use crate::lua::front_end::page;
use crate::lua::front_end::view::View;
use crate::model::Callbacks;
use crate::model::LuaFunction;
use crate::model::Snapshot;
use crate::model::Steer;
use crate::model::console::Console;
use crate::model::policy::Kind;
use crate::stats::custom_metrics::Declared;

/// Interval of reading live traffic, unless a pool under `concentrate` has a shorter window.
pub(super) const WATCH: TickDelta = TickDelta::from_ms(200);
/// The shortest interval, whatever the window.
const WATCH_MIN: TickDelta = TickDelta::from_ms(20);
/// An evaluated configuration that is not current yet.
pub struct Plan {
    /// The configuration of the shards.
    pub snapshot: Arc<Snapshot>,
    /// The settings of the control thread.
    pub settings: Settings,
    /// The Lua functions of its health checks.
    pub script: Rc<dyn Script>,
    /// The metrics that it declares.
    pub metrics: Declared,
    /// The differences from its predecessor, a line each.
    pub changes: Vec<String>,
}

/// Settings of the control thread that a reload can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a stop waits for outstanding queries.
    pub drain: TickDelta,
    /// Interval of the statistics line; `None` prints none.
    pub stats: Option<TickDelta>,
    /// Whether to log verbosely.
    pub verbose: bool,
    /// Whether to log each failed probe rather than only changes of state.
    pub verbose_checks: bool,
    /// How the log's lines look.
    pub log: LogStyle,
    /// The console.
    pub console: Option<Console>,
    /// The web server.
    pub web: WebSettings,
    /// The functions that are told of something.
    pub callbacks: Callbacks,
}

impl Settings {
    /// Returns the file descriptors that operators' connections may take.
    #[must_use]
    pub fn descriptors(&self) -> u32 {
        self.web.descriptors() + self.console.as_ref().map_or(0, Console::descriptors)
    }
}

impl Plan {
    /// Returns whether the configuration is as good as empty: nothing could answer.
    #[must_use]
    pub fn serves_nothing(&self) -> bool {
        self.snapshot.backends.iter().flatten().all(|b| b.tee) && self.snapshot.chains.query.is_empty()
    }
}

/// What a configuration is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The source, read again.
    File,
    /// The current configuration, and what the last command changed.
    Command,
}

/// The result of a command of the console.
#[derive(Debug)]
pub struct Answer {
    /// What it printed and returned; or its error.
    pub reply: Result<Vec<u8>, String>,
    /// It may have changed the configuration: [`Source::begin`] compiles it.
    pub changes: bool,
    /// What it asks of the process.
    pub wish: Option<Wish>,
    /// It has failed after it had begun to change the configuration.
    pub is_refused: bool,
}

/// Settings that only a restart can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The CPU of each shard, `None` for an unpinned one.
    pub shards: Vec<Option<usize>>,
    /// How packets are steered to shards.
    pub steer: Steer,
    /// How long a shard polls for packets before sleeping, microseconds.
    pub busy_poll_us: u32,
    /// Packets per system call.
    pub batch_packets: usize,
    /// Backends at a time, including removed ones that finish their queries.
    pub backends_max: usize,
    /// Finished queries that are kept; 0 for none.
    pub traffic_ring: usize,
    /// The user and group after the sockets are open.
    pub identity: Identity,
}

/// Tells which slots of removed objects can be reused.
pub trait Vacancies {
    /// Returns whether no shard holds anything of a backend any more.
    fn backend(&self, slot: BackendSlot) -> bool;

    /// Returns the same for a listener.
    fn listener(&self, slot: ListenerSlot) -> bool;

    /// Returns whether every shard uses the current configuration, so that none counts hits of
    /// older rules.
    fn rules(&self) -> bool;
}

/// The state of a reload's evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evaluation {
    /// None is in progress.
    None,
    /// Running on another thread.
    Running,
    /// Finished: [`Source::load`] does not block.
    Ended,
}

/// A source of configurations.
pub trait Source {
    /// Starts evaluating and compiling the source as successor of the current configuration.
    /// `ended` is called from another thread as soon as [`Source::load`] does not block.
    fn begin(&mut self, origin: Origin, vacancies: &dyn Vacancies, ended: Box<dyn FnOnce() + Send>);

    /// Runs a command of the console, with the globals of the current configuration.
    fn run(&mut self, _: Command) -> Pin<Box<dyn Future<Output = Answer>>> {
        let reply = Err("this configuration has no Lua".to_owned());
        Box::pin(std::future::ready(Answer { reply, changes: false, wish: None, is_refused: false }))
    }

    /// Lets a function of the current configuration answer a request to the web server.
    fn serve(
        &mut self,
        _: LuaFunction,
        _: page::Request,
        _: Arc<dyn View>,
    ) -> Pin<Box<dyn Future<Output = Result<page::Response, String>>>> {
        Box::pin(std::future::ready(Err("this configuration has no Lua".to_owned())))
    }

    /// Tells a function of the current configuration of something.
    fn notify(
        &mut self,
        _: LuaFunction,
        _: Notice,
        _: Arc<dyn View>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>>>> {
        Box::pin(std::future::ready(Err("this configuration has no Lua".to_owned())))
    }

    /// Waits until the functions of the current configuration that are at work have returned, and ends them after this
    /// time. Returns whether another one can begin.
    fn rest(&mut self, _: Duration) -> Pin<Box<dyn Future<Output = bool>>> {
        Box::pin(std::future::ready(true))
    }

    /// Interrupts a running evaluation, whose result is dropped.
    fn interrupt(&mut self);

    /// Returns the plan that [`Source::begin`] has made.
    ///
    /// # Errors
    /// All errors, a line each, including settings that only a restart can change.
    fn load(&mut self) -> Result<Plan, Vec<String>>;

    /// Makes the plan of the last [`Source::load`] current: the next one succeeds it.
    fn accept(&mut self);

    /// Drops that plan. `slots` are its listener slots that are still in use and can be reused only
    /// when [`Vacancies`] says so.
    fn refuse(&mut self, slots: &[ListenerSlot]);
}

/// [`Source::load`] with a panic as an error: a bug in a configuration reader refuses the reload,
/// and the process serves on. A source keeps its current state apart from what it loads, so the
/// next load finds it intact.
///
/// # Errors
/// Those of the source, or the panic.
pub fn load_contained(source: &mut impl Source) -> Result<Plan, Vec<String>> {
    panics::caught(|| source.load()).unwrap_or_else(|panic| Err(vec![panic]))
}

/// Returns how often live traffic is read.
pub(super) fn watch_period(snapshot: &Snapshot) -> TickDelta {
    let concentrating = snapshot.pools.iter().filter(|p| p.policy.kind == Kind::Concentrate);
    concentrating.map(|p| p.policy.concentrate.window).fold(WATCH, TickDelta::min).max(WATCH_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken;

    impl Source for Broken {
        fn refuse(&mut self, _: &[ListenerSlot]) {}

        fn begin(&mut self, _: Origin, _: &dyn Vacancies, _: Box<dyn FnOnce() + Send>) {}

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
