//! Commands of the console and of the API: one after the other, each as a change of configuration
//! like a reload.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::base::time::Tick;
use crate::control::Control;
use crate::control::console::ConsoleServer;
use crate::control::log;
use crate::control::monitor::Monitor;
use crate::control::plan::{Answer, Evaluation, Origin, Settings, Source};
use crate::control::request::{Keep, PageRequest, Refusal, Reply, Request, begins_with};
use crate::lua::front_end::command::{Command, Wish};
use crate::model::console::Console;

/// Commands that wait for the control loop; further ones wait where they come from.
const WAITING: usize = 16;

/// The console, and the commands of console and API.
#[derive(Debug)]
pub(super) struct Commands {
    server: ConsoleServer,
    /// The listener that the pending change needs.
    listener: Option<TcpListener>,
    /// The command that is being carried out.
    running: Option<Running>,
    /// Takes the results of commands.
    answers: mpsc::UnboundedSender<Answer>,
    /// Takes commands.
    requests: mpsc::Sender<Request>,
    /// Takes requests for pages.
    pages: mpsc::Sender<PageRequest>,
    /// Where commands and results arrive, until the control loop takes them.
    receivers: Option<Receivers>,
    /// The last one asked for the end of the process.
    pub(super) stop: bool,
}

type Receivers = (mpsc::Receiver<Request>, mpsc::Receiver<PageRequest>, mpsc::UnboundedReceiver<Answer>);

/// A command whose client waits.
#[derive(Debug)]
struct Running {
    reply: oneshot::Sender<Reply>,
    /// Whose it is, and what it is about, for the log.
    by: String,
    what: String,
    /// What it printed and returned; none while it runs.
    output: Option<Vec<u8>>,
    dry_run: bool,
    keep: Option<Keep>,
}

impl Commands {
    /// Starts the console of the first configuration.
    ///
    /// # Errors
    /// It cannot listen, and the configuration needs it.
    pub(super) fn start(console: Option<&Console>) -> Result<Self, String> {
        let (requests, received) = mpsc::channel(WAITING);
        let (pages, asked) = mpsc::channel(WAITING);
        let started =
            ConsoleServer::start(requests.clone()).map_err(|e| format!("the thread of the console: {e}"));
        let server = started?;
        let (answers, answered) = mpsc::unbounded_channel();
        let receivers = Some((received, asked, answered));
        let mut own =
            Self { server, listener: None, running: None, answers, requests, pages, receivers, stop: false };
        match own.prepare(console) {
            Ok(()) => own.adopt(console),
            Err(error) if console.is_some_and(|c| c.bind_fatal) => return Err(error),
            Err(error) => tracing::warn!("there is no console: {error}"),
        }
        Ok(own)
    }

    /// Returns where commands and results arrive; the first time only.
    ///
    /// # Panics
    /// The second time.
    pub(super) fn receivers(&mut self) -> Receivers {
        let Some(receivers) = self.receivers.take() else { unreachable!("taken by the control loop") };
        receivers
    }

    /// Returns where commands go.
    pub(super) fn requests(&self) -> mpsc::Sender<Request> {
        self.requests.clone()
    }

    /// Returns where requests for pages go.
    pub(super) fn pages(&self) -> mpsc::Sender<PageRequest> {
        self.pages.clone()
    }

    /// Opens what a new configuration needs.
    ///
    /// # Errors
    /// It cannot listen on its address.
    pub(super) fn prepare(&mut self, console: Option<&Console>) -> Result<(), String> {
        self.listener = self.server.open(console)?;
        Ok(())
    }

    /// Serves as the new configuration asks for.
    pub(super) fn adopt(&mut self, console: Option<&Console>) {
        self.server.serve(console, self.listener.take());
    }

    /// Returns whether a command is being carried out.
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns whether its Lua is still running, so that no other change may begin.
    pub(super) fn is_evaluating(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.output.is_none())
    }

    /// Returns whether the change of the running command is only tried.
    pub(super) fn is_dry_run(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.dry_run)
    }

    /// Returns whose the running command is, and what it is about; none if it is only tried.
    pub(super) fn author(&self) -> Option<(&str, &str)> {
        let running = self.running.as_ref().filter(|running| !running.dry_run);
        running.map(|running| (running.by.as_str(), running.what.as_str()))
    }

    /// Nobody carries out commands any more: whoever waits for one, or asks for one, is told that the
    /// process ends.
    pub(super) fn give_up(&mut self, receivers: Receivers) {
        drop(receivers);
        self.running = None;
    }

    /// Ends the running command, with its own reply or a refusal; `generation` is in force. Returns
    /// whether there was one.
    pub(super) fn end(&mut self, ended: Result<Vec<String>, Refusal>, generation: u64) -> bool {
        let Some(Running { reply, output, dry_run, keep, .. }) = self.running.take() else { return false };
        let reply_of = |result, changes, not_kept| Reply { result, generation, changes, not_kept };
        let outcome = match ended {
            Ok(changes) => {
                let kept = keep.filter(|_| !dry_run).map(|Keep(keep)| keep());
                let not_kept = kept.and_then(Result::err);
                if let Some(error) = &not_kept {
                    tracing::error!("a change by the API is in force, but will not outlive it: {error}");
                }
                reply_of(Ok(output.unwrap_or_default()), changes, not_kept)
            }
            Err(refusal) => {
                // What it has written is gone before its client goes on, which may write the same.
                drop(keep);
                reply_of(Err(refusal), Vec::new(), None)
            }
        };
        // The client may have gone.
        let _ = reply.send(outcome);
        true
    }

    /// Closes what a refused configuration needed, and tells the client of a running command why.
    /// Returns whether there was one.
    pub(super) fn refuse(&mut self, errors: &[String], generation: u64, monitor: &Monitor) -> bool {
        self.listener = None;
        if let Some((by, what)) = self.author() {
            monitor.refused(by, what, errors);
        }
        self.end(Err(Refusal::Wrong(errors.to_vec())), generation)
    }
}

impl<S: Source> Control<S> {
    /// Returns whether a command can be taken: nothing else changes the configuration.
    pub(super) fn takes_commands(&self) -> bool {
        let changing = self.reload.is_some() || self.reload_wanted || self.evaluation != Evaluation::None;
        self.serving && !changing && !self.commands.is_running()
    }

    /// Runs a client's command.
    pub(super) fn run_command(&mut self, request: Request) {
        let Request { text, by, output_max, terms, reply } = request;
        if reply.is_closed() {
            tracing::info!("a command was not run: its client has gone");
            return;
        }
        // A change by the API says what it is about; its Lua begins alike each time.
        let what = if terms.mark.is_some() { "" } else { begins_with(&text) }.to_owned();
        let (dry_run, keep) = (terms.dry_run, terms.keep);
        self.commands.running = Some(Running { reply, by, what, output: None, dry_run, keep });
        if terms.generation.is_some_and(|meant| meant != self.generation()) {
            self.commands.end(Err(Refusal::Stale), self.generation());
            return;
        }
        let at = log::timestamp();
        let view = Arc::<Monitor>::clone(&self.monitor);
        let command = Command { text, at, view, output_max, mark: terms.mark, strict: terms.strict };
        let (ran, answers) = (self.source.run(command), self.commands.answers.clone());
        tokio::task::spawn_local(async move {
            // The control loop may have ended.
            let _ = answers.send(ran.await);
        });
    }

    /// Lets a function of the configuration make a page.
    pub(super) fn make_page(&mut self, asked: PageRequest) {
        let PageRequest { request, reply } = asked;
        let handlers = &self.settings.web.handlers;
        let Some((_, function)) = handlers.iter().find(|(path, _)| *path == request.path) else {
            // A reload has removed it.
            let _ = reply.send(None);
            return;
        };
        let made = self.source.serve(*function, request, Arc::<Monitor>::clone(&self.monitor));
        tokio::task::spawn_local(async move {
            // The client may have gone.
            let _ = reply.send(Some(made.await));
        });
    }

    /// Goes on with a command that ran: replies, or carries out its change first.
    pub(super) fn answered(&mut self, answer: Answer, now: Tick) {
        let generation = self.generation();
        let output = match answer.reply {
            Ok(output) => output,
            Err(error) => {
                let errors = vec![error];
                if let Some((by, what)) = self.commands.author().filter(|_| answer.is_refused) {
                    self.monitor.refused(by, what, &errors);
                }
                self.commands.end(Err(Refusal::Wrong(errors)), generation);
                return;
            }
        };
        if let Some(running) = &mut self.commands.running {
            running.output = Some(output);
        }
        match answer.wish {
            Some(Wish::Stop) => {
                self.commands.stop = true;
                self.commands.end(Ok(Vec::new()), generation);
            }
            // It is answered when that has ended.
            Some(Wish::Reload) => self.reload_wanted = true,
            None if answer.changes => self.evaluate(Origin::Command, now),
            None => {
                self.commands.end(Ok(Vec::new()), generation);
            }
        }
    }

    /// Returns whether the pending change is a command's that gives the web server another address.
    pub(super) fn asks_for_web(&self, settings: &Settings) -> bool {
        self.origin == Origin::Command && settings.web.address != self.settings.web.address
    }

    /// Returns the generation of the configuration in force.
    pub(super) fn generation(&self) -> u64 {
        self.feed.current().generation
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;
    use crate::control::request::Terms;

    /// What a change has written aside: whether it is gone before the reply.
    struct Written {
        answered: oneshot::Receiver<Reply>,
        was_first: Arc<AtomicBool>,
    }

    impl Drop for Written {
        fn drop(&mut self) {
            self.was_first.store(self.answered.try_recv().is_err(), Relaxed);
        }
    }

    #[tokio::test]
    async fn who_asks_while_the_process_ends_is_told() {
        let mut commands = Commands::start(None).expect("started");
        let request = || {
            let (reply, answered) = oneshot::channel();
            let (text, by, terms) = (String::new(), String::new(), Terms::default());
            (Request { text, by, output_max: 0, terms, reply }, answered)
        };
        let (requests, receivers) = (commands.requests(), commands.receivers());
        let ((waits, waiting), (late, _)) = (request(), request());
        requests.send(waits).await.expect("room");
        let (reply, running) = oneshot::channel();
        let (by, what) = (String::new(), String::new());
        commands.running = Some(Running { reply, by, what, output: None, dry_run: false, keep: None });
        commands.give_up(receivers);
        assert!(waiting.await.is_err() && running.await.is_err() && requests.send(late).await.is_err());
    }

    #[test]
    fn what_a_refused_change_has_written_is_gone_before_its_client_goes_on() {
        let mut commands = Commands::start(None).expect("started");
        for ended in [Err(Refusal::Stale), Err(Refusal::Wrong(Vec::new()))] {
            let (reply, answered) = oneshot::channel();
            let was_first = Arc::<AtomicBool>::default();
            let written = Written { answered, was_first: Arc::clone(&was_first) };
            let keep = Keep(Box::new(move || {
                drop(written);
                Ok(())
            }));
            let (by, what, output) = (String::new(), String::new(), Some(Vec::new()));
            commands.running = Some(Running { reply, by, what, output, dry_run: false, keep: Some(keep) });
            assert!(commands.end(ended, 1));
            assert!(was_first.load(Relaxed));
        }
    }
}
