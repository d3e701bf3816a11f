//! Tells functions of the configuration what happened: servers that come up or go down, keys of session
//! tickets, the end of the process.

use std::sync::Arc;
use std::time::Duration;

use crate::control::Control;
use crate::control::monitor::Monitor;
use crate::control::plan::Source;
use crate::lua::front_end::notice::Notice;
use crate::model::LuaFunction;

/// How long the end of the process waits for each function.
const EXIT: Duration = Duration::from_secs(2);

impl<S: Source> Control<S> {
    /// Tells what has happened since the last call; nobody waits for the functions.
    pub(super) fn tell(&mut self) {
        let (changes, keys) = (self.backend_health.take_changes(), self.certificate_monitor.take_keys());
        let callbacks = self.settings.callbacks.clone();
        for (server, up) in changes {
            for function in &callbacks.server_state {
                self.notify(*function, Notice::ServerState { server: server.clone(), up });
            }
        }
        for (key, function) in keys.into_iter().filter_map(|key| Some((key, callbacks.tickets_key?))) {
            self.notify(function, Notice::TicketsKey(key));
        }
    }

    fn notify(&mut self, function: LuaFunction, notice: Notice) {
        let told = self.source.notify(function, notice, Arc::<Monitor>::clone(&self.monitor));
        tokio::task::spawn_local(async move { complain(told.await) });
    }

    /// Tells that the process ends; each function has some time.
    pub(super) async fn tell_exit(&mut self) {
        let functions = if self.serving { self.settings.callbacks.exit.clone() } else { Vec::new() };
        for function in functions {
            let told = self.source.notify(function, Notice::Exit, Arc::<Monitor>::clone(&self.monitor));
            let late = || Err("it did not return in time".to_owned());
            complain(tokio::time::timeout(EXIT, told).await.unwrap_or_else(|_| late()));
        }
    }
}

fn complain(told: Result<(), String>) {
    if let Err(why) = told {
        tracing::warn!("a callback of the configuration: {why}");
    }
}
