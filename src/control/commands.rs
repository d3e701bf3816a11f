//! Commands of the console: one after the other, each as a change of configuration like a reload.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::base::time::Tick;
use crate::control::Control;
use crate::control::console::{ConsoleServer, Request};
use crate::control::log;
use crate::control::monitor::Monitor;
use crate::control::plan::{Answer, Evaluation, Origin, Source};
use crate::lua::front_end::command::{Command, Wish};
use crate::model::console::Console;

/// The console and its commands.
#[derive(Debug)]
pub(super) struct Commands {
    server: ConsoleServer,
    /// The listener that the pending change needs.
    listener: Option<TcpListener>,
    /// The command that is being carried out.
    running: Option<Running>,
    /// Takes the results of commands.
    answers: mpsc::UnboundedSender<Answer>,
    /// Where commands and results arrive, until the control loop takes them.
    receivers: Option<Receivers>,
    /// The last one asked for the end of the process.
    pub(super) stop: bool,
}

type Receivers = (mpsc::Receiver<Request>, mpsc::UnboundedReceiver<Answer>);

/// A command whose client waits.
#[derive(Debug)]
struct Running {
    reply: oneshot::Sender<Vec<u8>>,
    /// What it printed and returned; none while it runs.
    output: Option<Vec<u8>>,
}

impl Commands {
    /// Starts the console of the first configuration.
    ///
    /// # Errors
    /// It cannot listen, and the configuration needs it.
    pub(super) fn start(console: Option<&Console>) -> Result<Self, String> {
        let started = ConsoleServer::start().map_err(|e| format!("the thread of the console: {e}"));
        let (server, requests) = started?;
        let (answers, answered) = mpsc::unbounded_channel();
        let receivers = Some((requests, answered));
        let mut own = Self { server, listener: None, running: None, answers, receivers, stop: false };
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

    /// Ends the running command, with errors or its own reply. Returns whether there was one.
    pub(super) fn end(&mut self, errors: &[String]) -> bool {
        let Some(Running { reply, output }) = self.running.take() else { return false };
        let text = match errors {
            [] => output.unwrap_or_default(),
            errors => format!("Error: {}\n", errors.join("\n")).into_bytes(),
        };
        // The client may have gone.
        let _ = reply.send(text);
        true
    }

    /// Closes what a refused configuration needed, and tells the client of a running command why.
    /// Returns whether there was one.
    pub(super) fn refuse(&mut self, errors: &[String]) -> bool {
        self.listener = None;
        self.end(errors)
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
        let Request { text, output_max, reply } = request;
        if reply.is_closed() {
            tracing::info!("a command of the console was not run: its client has gone");
            return;
        }
        self.commands.running = Some(Running { reply, output: None });
        let at = log::timestamp();
        let command = Command { text, at, view: Arc::<Monitor>::clone(&self.monitor), output_max };
        let (ran, answers) = (self.source.run(command), self.commands.answers.clone());
        tokio::task::spawn_local(async move {
            // The control loop may have ended.
            let _ = answers.send(ran.await);
        });
    }

    /// Goes on with a command that ran: replies, or carries out its change first.
    pub(super) fn answered(&mut self, answer: Answer, now: Tick) {
        let output = match answer.reply {
            Ok(output) => output,
            Err(error) => {
                self.commands.end(&[error]);
                return;
            }
        };
        if let Some(running) = &mut self.commands.running {
            running.output = Some(output);
        }
        match answer.wish {
            Some(Wish::Stop) => {
                self.commands.stop = true;
                self.commands.end(&[]);
            }
            // It is answered when that has ended.
            Some(Wish::Reload) => self.reload_wanted = true,
            None if answer.changes => self.evaluate(Origin::Command, now),
            None => {
                self.commands.end(&[]);
            }
        }
    }
}
