//! The operator's configuration as a [`Source`]: flags and the Lua file that they name.
//!
//! Keeps what a reload is compared with: the start-up settings, the slots, the current snapshot. A
//! refused reload leaves nothing behind.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};

use crate::base::addr::ListenerSlot;
use crate::base::panics;
use crate::config;
use crate::config::draft::Draft;
use crate::config::error::{ConfigError, Fault};
use crate::config::log_style::LogStyle;
use crate::config::options::Key;
use crate::config::{Boot, Compiled, Flags, Slots};
use crate::control::log;
use crate::control::plan::{Answer, Fixed, Origin, Plan, Settings, Source, Vacancies};
use crate::control::preconditions;
use crate::control::privileges::Identity;
use crate::control::probe::{Called, Failed, Question, Script};
use crate::engine::clock;
use crate::engine::sys::SignalStack;
use crate::lua::front_end;
use crate::lua::front_end::Interrupt;
use crate::lua::front_end::Loaded;
use crate::lua::front_end::LuaHost;
use crate::lua::front_end::NoResult;
use crate::lua::front_end::command::Command;
use crate::lua::front_end::notice::Notice;
use crate::lua::front_end::page;
use crate::lua::front_end::view::View;
use crate::model::{Backend, LuaFunction, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::custom_metrics::Declared;

/// Flags and file, and their last result.
#[derive(Debug)]
pub struct Configured {
    flags: Flags,
    running: Running,
    /// The result of the last load; current once it is accepted.
    next: Option<Running>,
    evaluation: Option<Evaluation>,
    /// The Lua of the current configuration.
    host: Rc<LuaHost>,
    /// That of the result of the last load.
    next_host: Option<Rc<LuaHost>>,
    /// The configuration as the last command would have it.
    draft: Rc<RefCell<Option<Box<Draft>>>>,
    /// The last load is of a command.
    of_command: bool,
}

/// An evaluation on its own thread.
#[derive(Debug)]
struct Evaluation {
    interrupt: Interrupt,
    prepared: Receiver<Result<Prepared, Vec<String>>>,
}

/// The result of an evaluation, with everything slow done.
#[derive(Debug)]
struct Prepared {
    next: Running,
    /// None if the configuration comes of a command: the Lua is that of its predecessor.
    lua: Option<LuaHost>,
    changes: Vec<String>,
}

#[derive(Clone, Debug)]
struct Running {
    boot: Boot,
    slots: Slots,
    snapshot: Arc<Snapshot>,
    /// Its file was empty.
    is_blank: bool,
    /// What it needs of the machine.
    named: preconditions::Named,
    metrics: Declared,
}

impl Configured {
    /// Returns the start-up configuration as a source and as its first plan.
    #[must_use]
    pub fn new(flags: Flags, loaded: Loaded, compiled: Compiled) -> (Self, Plan) {
        let Compiled { boot, snapshot, slots } = compiled;
        let snapshot = Arc::new(snapshot);
        let host = Rc::new(loaded.lua);
        let metrics = loaded.draft.metrics.clone();
        let plan = plan(&boot, &snapshot, &host, &metrics, Vec::new());
        let running = Running {
            boot,
            slots,
            snapshot,
            is_blank: loaded.draft.is_blank,
            named: preconditions::named(&loaded.draft),
            metrics,
        };
        let own = Self {
            flags,
            running,
            next: None,
            evaluation: None,
            host,
            next_host: None,
            draft: Rc::default(),
            of_command: false,
        };
        (own, plan)
    }

    /// Tells the Lua of the current configuration what became of its command's change.
    fn settle(&mut self, accepted: bool) {
        if std::mem::take(&mut self.of_command) {
            self.host.settle(accepted);
        }
    }

    /// Returns the settings that only a restart can change.
    #[must_use]
    pub fn fixed(&self) -> Fixed {
        fixed(&self.running.boot, &allowed_cpus())
    }
}

/// Starts logging as the command line asks; messages of the file come first of all.
pub fn start_log(flags: &Flags) {
    log::start(&LogStyle::of(&flags.settings), flags.settings.switch(Key::Verbose));
}

/// Calls a function when dropped.
struct OnDrop(Option<Box<dyn FnOnce() + Send>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call();
        }
    }
}

impl Source for Configured {
    fn begin(&mut self, origin: Origin, vacancies: &dyn Vacancies, ended: Box<dyn FnOnce() + Send>) {
        self.interrupt();
        self.of_command = origin == Origin::Command;
        let changed = self.draft.borrow_mut().take();
        self.running.slots.reclaim(|slot| vacancies.backend(slot));
        self.running.slots.reclaim_listeners(|slot| vacancies.listener(slot));
        self.running.slots.reclaim_rules(|_| vacancies.rules());
        self.running.slots.reclaim_pools(vacancies.rules(), clock::now());
        let (flags, running, interrupt) = (self.flags.clone(), self.running.clone(), Interrupt::default());
        let (done, prepared) = bounded(1);
        let own = interrupt.clone();
        // Also without a thread, so that nothing waits forever.
        let ended = OnDrop(Some(ended));
        let body = move || {
            let _signals = SignalStack::enlarge();
            let made = panics::caught(|| match (origin, changed) {
                (Origin::File, _) => prepare(&flags, &running, &own),
                (Origin::Command, Some(draft)) => recompile(*draft, &flags, &running),
                (Origin::Command, None) => Err(vec!["the command changed nothing".to_owned()]),
            });
            // The receiver may be gone.
            let _ = done.send(made.unwrap_or_else(|panic| Err(vec![panic])));
            drop(ended);
        };
        // Without a thread the channel is closed, which reports it.
        if let Err(e) = std::thread::Builder::new().name("reload".into()).spawn(body) {
            tracing::error!("cannot start a thread to evaluate the configuration: {e}");
        }
        self.evaluation = Some(Evaluation { interrupt, prepared });
    }

    fn interrupt(&mut self) {
        if let Some(evaluation) = self.evaluation.take() {
            evaluation.interrupt.interrupt();
        }
    }

    fn run(&mut self, mut command: Command) -> Pin<Box<dyn Future<Output = Answer>>> {
        command.strict |= self.flags.settings.switch(Key::Strict);
        let (ran, draft) = (self.host.run(command), Rc::clone(&self.draft));
        Box::pin(async move {
            let failed = |error| Answer { reply: Err(error), changes: false, wish: None, is_refused: false };
            match ran.await {
                Ok(evaluated) => {
                    let changes = evaluated.draft.is_some();
                    *draft.borrow_mut() = evaluated.draft;
                    let (wish, is_refused) = (evaluated.wish, evaluated.is_refused);
                    Answer { reply: evaluated.reply, changes, wish, is_refused }
                }
                Err(NoResult::Busy) => failed("an earlier function is still running".to_owned()),
                Err(NoResult::Failed(why)) => failed(why),
            }
        })
    }

    fn serve(
        &mut self,
        function: LuaFunction,
        request: page::Request,
        view: Arc<dyn View>,
    ) -> Pin<Box<dyn Future<Output = Result<page::Response, String>>>> {
        called(self.host.serve(function, request, view))
    }

    fn notify(
        &mut self,
        function: LuaFunction,
        notice: Notice,
        view: Arc<dyn View>,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>>>> {
        called(self.host.notify(function, notice, view))
    }

    fn rest(&mut self, limit: Duration) -> Pin<Box<dyn Future<Output = bool>>> {
        Box::pin(self.host.rest(limit))
    }

    fn load(&mut self) -> Result<Plan, Vec<String>> {
        let prepared = self.evaluation.take().and_then(|e| e.prepared.recv().ok());
        let prepared =
            prepared.unwrap_or_else(|| Err(vec!["the configuration was not evaluated".to_owned()]));
        let Prepared { next, lua, changes } = prepared.inspect_err(|_| self.settle(false))?;
        let host = lua.map_or_else(|| Rc::clone(&self.host), Rc::new);
        let plan = plan(&next.boot, &next.snapshot, &host, &next.metrics, changes);
        (self.next, self.next_host) = (Some(next), Some(host));
        Ok(plan)
    }

    fn accept(&mut self) {
        self.settle(true);
        if let (Some(next), Some(host)) = (self.next.take(), self.next_host.take()) {
            (self.running, self.host) = (next, host);
        }
    }

    fn refuse(&mut self, slots: &[ListenerSlot]) {
        self.settle(false);
        (self.next, self.next_host) = (None, None);
        self.running.slots.retire_listeners(slots);
    }
}

/// Returns what a function returned, or why it did not.
fn called<R: 'static>(
    call: impl Future<Output = Result<Result<R, String>, NoResult>> + 'static,
) -> Pin<Box<dyn Future<Output = Result<R, String>>>> {
    Box::pin(async move {
        match call.await {
            Ok(returned) => returned,
            Err(NoResult::Busy) => Err("an earlier function is still running".to_owned()),
            Err(NoResult::Failed(why)) => Err(why),
        }
    })
}

/// Converts errors to lines.
fn lines(errors: Vec<ConfigError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// Evaluates the configuration and compiles it as the successor of the current one.
fn prepare(flags: &Flags, running: &Running, interrupt: &Interrupt) -> Result<Prepared, Vec<String>> {
    let Loaded { draft, lua } = front_end::load_unless(flags, interrupt).map_err(lines)?;
    compile(draft, Some(lua), flags, running)
}

/// Applies the command line to what a command left, and compiles that.
fn recompile(mut draft: Draft, flags: &Flags, running: &Running) -> Result<Prepared, Vec<String>> {
    front_end::complete(&mut draft, flags);
    compile(draft, None, flags, running)
}

/// Compiles a draft as the successor of the current configuration.
fn compile(
    mut draft: Draft,
    lua: Option<LuaHost>,
    flags: &Flags,
    running: &Running,
) -> Result<Prepared, Vec<String>> {
    let is_blank = draft.is_blank;
    if is_blank && !running.is_blank {
        // Most often it is being written. Whoever means it can say so in a comment.
        let file = flags.file.as_deref().map(|f| f.display().to_string()).unwrap_or_default();
        let fault = Fault::Conflict {
            wrong: "is empty".to_owned(),
            expected: "a configuration, or a comment if there is to be none".to_owned(),
        };
        return Err(lines(vec![ConfigError::new(&config::error::Origin::file(&file), "", fault)]));
    }
    for address in draft.keep_tls(&running.snapshot) {
        tracing::warn!(%address, "the listener keeps its present certificates and keys");
    }
    let (missing, mut gone) = preconditions::missing_after(&running.named, &draft);
    gone.extend(preconditions::doubtful(&draft));
    gone.iter().for_each(|gone| tracing::warn!("{gone}"));
    if !missing.is_empty() {
        return Err(lines(missing));
    }
    let generation = running.snapshot.generation + 1;
    let compiled = config::compile(&draft, &running.slots, generation).map_err(lines)?;
    let restarts = running.boot.differences(&compiled.boot);
    if !restarts.is_empty() {
        return Err(restarts.into_iter().map(|d| format!("needs a restart: {d}")).collect());
    }
    let Compiled { boot, mut snapshot, slots } = compiled;
    snapshot.inherit(&running.snapshot);
    let changes = config::diff(&running.snapshot, &snapshot);
    let named = preconditions::named(&draft);
    let metrics = draft.metrics;
    let next = Running { boot, slots, snapshot: Arc::new(snapshot), is_blank, named, metrics };
    Ok(Prepared { next, lua, changes })
}

impl Script for LuaHost {
    fn choose(
        &self,
        function: LuaFunction,
        qname: &str,
        qtype: u16,
        qclass: u16,
        header: [u8; 12],
    ) -> Called<(Question, [u8; 12])> {
        let chosen = Self::choose(self, function, qname, qtype, qclass, header);
        Box::pin(async { Ok(chosen.await?) })
    }

    fn judge(&self, function: LuaFunction, server: &Backend, response: &[u8]) -> Called<bool> {
        let judged = Self::judge(self, function, &server.name, response);
        Box::pin(async { Ok(judged.await?) })
    }

    fn within(&self, work: Box<dyn FnOnce() + Send>) -> Called<()> {
        let done = Self::within(self, work);
        Box::pin(async { Ok(done.await?) })
    }
}

impl From<NoResult> for Failed {
    fn from(why: NoResult) -> Self {
        match why {
            // This says nothing about the server.
            NoResult::Busy => Self::new(Failure::Local, "an earlier function is still running"),
            NoResult::Failed(why) => Self::new(Failure::Invalid, why),
        }
    }
}

fn plan(
    boot: &Boot,
    snapshot: &Arc<Snapshot>,
    host: &Rc<LuaHost>,
    metrics: &Declared,
    changes: Vec<String>,
) -> Plan {
    Plan {
        snapshot: Arc::clone(snapshot),
        settings: Settings {
            drain: boot.drain,
            stats: boot.stats,
            verbose: boot.verbose,
            verbose_checks: boot.verbose_health,
            log: boot.log.clone(),
            console: boot.console.clone(),
            web: boot.web.clone(),
            callbacks: boot.callbacks.clone(),
        },
        script: Rc::<LuaHost>::clone(host),
        metrics: metrics.clone(),
        changes,
    }
}

/// Returns the shards and their CPUs: those of `boot` in turn, or those `allowed`.
fn fixed(boot: &Boot, allowed: &[usize]) -> Fixed {
    let cpus: Vec<usize> = if boot.cpus.is_empty() {
        allowed.to_vec()
    } else {
        boot.cpus.iter().map(|c| usize::from(*c)).collect()
    };
    let count = boot.shards.map_or(cpus.len(), usize::from).max(1);
    Fixed {
        shards: (0..count).map(|n| cpus.get(n % cpus.len().max(1)).copied()).collect(),
        steer: boot.steer,
        busy_poll_us: boot.busy_poll_us,
        batch_packets: boot.batch_packets,
        backends_max: boot.backends_max,
        traffic_ring: boot.traffic_ring,
        identity: Identity { user: boot.user.clone(), group: boot.group.clone() },
    }
}

/// Returns the CPUs that the process may run on; empty where the system does not report them.
fn allowed_cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|c| c.id).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::base::addr::BackendSlot;

    struct All(bool);

    impl Vacancies for All {
        fn backend(&self, _: BackendSlot) -> bool {
            self.0
        }

        fn listener(&self, _: ListenerSlot) -> bool {
            self.0
        }

        fn rules(&self) -> bool {
            self.0
        }
    }

    /// A configuration file that is removed with its test.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dnslob-{name}-{}.lua", std::process::id()));
            std::fs::write(&path, text).expect("written");
            Self(path)
        }

        fn rewrite(&self, text: &str) {
            std::fs::write(&self.0, text).expect("written");
        }

        fn start(&self) -> (Configured, Plan) {
            let flags = Flags { file: Some(self.0.clone()), ..Flags::default() };
            let loaded = front_end::load(&flags).expect("a configuration");
            let compiled = config::compile(&loaded.draft, &Slots::default(), 1).expect("a good one");
            Configured::new(flags, loaded, compiled)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Evaluates again and makes a plan.
    fn load(source: &mut Configured, vacancies: &dyn Vacancies) -> Result<Plan, Vec<String>> {
        source.begin(Origin::File, vacancies, Box::new(|| {}));
        source.load()
    }

    fn slot(plan: &Plan, address: &str) -> Option<u16> {
        let mut all = plan.snapshot.backends.iter().flatten();
        all.find(|b| b.address.to_string() == address).map(|b| b.slot.0)
    }

    #[test]
    fn a_server_keeps_its_slot_and_a_removed_slot_is_reused_when_free() {
        let file = File::new("slots", "newServer('192.0.2.1')\nnewServer('192.0.2.2')");
        let (mut source, first) = file.start();
        assert_eq!((slot(&first, "192.0.2.1:53"), slot(&first, "192.0.2.2:53")), (Some(0), Some(1)));
        file.rewrite("newServer('192.0.2.2')");
        let second = load(&mut source, &All(false)).expect("a reload");
        assert_eq!((second.snapshot.generation, slot(&second, "192.0.2.2:53")), (2, Some(1)));
        assert!(!second.changes.is_empty());
        source.accept();
        file.rewrite("newServer('192.0.2.2')\nnewServer('192.0.2.3')");
        let held = load(&mut source, &All(false)).expect("a reload");
        assert_eq!(slot(&held, "192.0.2.3:53"), Some(2));
        let freed = load(&mut source, &All(true)).expect("a reload");
        assert_eq!(slot(&freed, "192.0.2.3:53"), Some(0));
    }

    #[test]
    fn a_refused_load_does_not_affect_the_next_one() {
        let file = File::new("refused", "newServer('192.0.2.1')");
        let (mut source, _) = file.start();
        file.rewrite(
            "newServer('192.0.2.1')\nnewServer('nonsense')\nnewServer({address='192.0.2.3', qps=-1})",
        );
        let errors = load(&mut source, &All(true)).err().expect("errors");
        assert_eq!(errors.len(), 2, "{errors:?}");
        file.rewrite("newServer('192.0.2.1')\nnewServer('192.0.2.4')");
        let plan = load(&mut source, &All(true)).expect("a reload");
        assert_eq!((plan.snapshot.generation, slot(&plan, "192.0.2.4:53")), (2, Some(1)));
    }

    #[test]
    fn listener_slots_of_a_refused_plan_are_kept_while_in_use() {
        let file = File::new("kept", "addLocal('127.0.0.1:1')\nnewServer('192.0.2.1')");
        let (mut source, _) = file.start();
        let more = "addLocal('127.0.0.1:1')\naddLocal('127.0.0.1:2')\nnewServer('192.0.2.1')";
        file.rewrite(more);
        let slots = |plan: Plan| plan.snapshot.listeners.iter().map(|l| l.slot.0).collect::<Vec<_>>();
        assert_eq!(slots(load(&mut source, &All(false)).expect("a plan")), [0, 1]);
        source.refuse(&[ListenerSlot(1)]);
        assert_eq!(
            slots(load(&mut source, &All(false)).expect("a plan")),
            [0, 2],
            "its sockets are not closed"
        );
        assert_eq!(slots(load(&mut source, &All(true)).expect("a plan")), [0, 1]);
    }

    #[test]
    fn an_emptied_file_is_refused_unless_it_was_empty() {
        let file = File::new("emptied", "newServer('192.0.2.1')");
        let (mut source, _) = file.start();
        for text in ["", " \n\t\n"] {
            file.rewrite(text);
            let errors = load(&mut source, &All(true)).err().expect("a refusal");
            let expected = "is empty; expected a configuration, or a comment if there is to be none";
            assert_eq!(errors, [format!("{}: {expected}", file.0.display())]);
        }
        file.rewrite("-- on purpose\n");
        load(&mut source, &All(true)).expect("a plan");
        source.accept();
        file.rewrite("");
        load(&mut source, &All(true)).err().expect("a refusal");
        let (mut source, _) = file.start();
        load(&mut source, &All(true)).expect("a plan");
    }

    #[test]
    fn a_reload_that_adds_what_the_machine_lacks_is_refused() {
        let file = File::new("lacks", "newServer('192.0.2.1')");
        let (mut source, _) = file.start();
        for (text, lacks) in [
            ("newServer{address='192.0.2.1', source='nope0'}", "source is \"nope0\""),
            (
                "newServer{address='192.0.2.1', checkScript={'/nonexistent/x'}}",
                "checkScript is \"/nonexistent/x\"",
            ),
            ("addLocal('127.0.0.1:1', {interface='nope0'})", "interface is \"nope0\""),
            ("addAction(AllRule(), LogAction('/nonexistent/x.log'))", "the path is \"/nonexistent/x.log\""),
        ] {
            file.rewrite(text);
            let errors = load(&mut source, &All(true)).err().expect("a refusal");
            assert!(errors.len() == 1 && errors[0].contains(lacks), "{errors:?}");
        }
    }

    #[test]
    fn a_change_that_needs_a_restart_is_refused_with_its_name() {
        let file = File::new("restart", "setShards(2)\nnewServer('192.0.2.1')");
        let (mut source, _) = file.start();
        file.rewrite("setShards(3)\nnewServer('192.0.2.9')");
        let errors = load(&mut source, &All(true)).err().expect("a refusal");
        assert_eq!(errors, ["needs a restart: shards: 2 -> 3"]);
    }

    #[test]
    fn shards_take_their_cpus_in_turn() {
        let file = File::new("cpus", "setShards(3)\nnewServer('192.0.2.1')");
        let (source, _) = file.start();
        let mut boot = source.running.boot.clone();
        assert_eq!(fixed(&boot, &[4, 7]).shards, [Some(4), Some(7), Some(4)]);
        assert_eq!(fixed(&boot, &[]).shards, [None; 3]);
        boot.cpus = vec![1];
        assert_eq!(fixed(&boot, &[4, 7]).shards, [Some(1); 3]);
        boot.shards = None;
        boot.cpus.clear();
        assert_eq!(fixed(&boot, &[4, 7]).shards, [Some(4), Some(7)]);
    }
}
