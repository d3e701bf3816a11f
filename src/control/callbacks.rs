//! Tells functions of the configuration what happened: servers that come up or go down, keys of session
//! tickets, the end of the process.

use std::sync::Arc;
use std::time::Duration;

use crate::base::printable::shortened;
use crate::control::Control;
use crate::control::monitor::Monitor;
use crate::control::plan::Source;
use crate::control::signals::Signals;
use crate::lua::front_end::notice::Notice;
use crate::model::LuaFunction;

/// How long the end of the process waits for functions that are at work when its own are to begin.
const OTHERS: Duration = Duration::from_secs(2);
/// How long it waits for its own.
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
        let asked_by = notice.asked_by();
        let told = self.source.notify(function, notice, Arc::<Monitor>::clone(&self.monitor));
        tokio::task::spawn_local(async move { complain(asked_by, told.await) });
    }

    /// Tells that the process ends; all functions together have some time, which begins when others have returned that
    /// were at work, or were ended. Returns whether a signal has come that ends it at once, as another one may have before.
    pub(super) async fn tell_exit(&mut self, signals: &mut Signals, is_urgent: bool) -> bool {
        let functions = if self.serving { self.settings.callbacks.exit.clone() } else { Vec::new() };
        let all = functions.len();
        let mut is_urgent = is_urgent;
        if all > 0 && !is_urgent {
            let rests = tokio::select! {
                rests = self.source.rest(OTHERS) => Some(rests),
                _ = signals.term.recv() => None,
                _ = signals.int.recv() => None,
            };
            if rests == Some(false) {
                tracing::warn!(
                    "functions of addExitCallback: none of {all} was called, as another function of the configuration has \
                     not returned within {} s",
                    OTHERS.as_secs()
                );
                return false;
            }
            is_urgent = rests.is_none();
        }
        let end = async {
            tokio::select! {
                _ = signals.term.recv() => Cut::Signal,
                _ = signals.int.recv() => Cut::Signal,
                () = tokio::time::sleep(EXIT) => Cut::Time,
            }
        };
        let calls = functions
            .into_iter()
            .filter(|_| !is_urgent)
            .map(|function| self.source.notify(function, Notice::Exit, Arc::<Monitor>::clone(&self.monitor)));
        let (ended, cut) = in_turn(calls, end).await;
        let cut = if is_urgent { Some(Cut::Signal) } else { cut };
        if let Some(cut) = cut.filter(|_| ended < all) {
            let when = match cut {
                Cut::Time => format!("within {} s", EXIT.as_secs()),
                Cut::Signal => "before another signal".to_owned(),
            };
            tracing::warn!("functions of addExitCallback: {ended} of {all} have returned {when}");
        }
        cut == Some(Cut::Signal)
    }
}

/// Why functions are not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Time,
    Signal,
}

/// Waits for calls, one behind the other, until an end of all. Returns how many have returned, and why no
/// more did. A call begins when the one before it has returned.
async fn in_turn<C: Future<Output = Result<(), String>>>(
    calls: impl Iterator<Item = C>,
    end: impl Future<Output = Cut>,
) -> (usize, Option<Cut>) {
    let mut end = std::pin::pin!(end);
    let mut ended = 0;
    for call in calls {
        tokio::select! {
            biased;
            told = call => complain(Notice::Exit.asked_by(), told),
            cut = &mut end => return (ended, Some(cut)),
        }
        ended += 1;
    }
    (ended, None)
}

fn complain(asked_by: &str, told: Result<(), String>) {
    if let Err(why) = told {
        tracing::warn!("a function of {asked_by}: {}", shortened(&why));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;

    use super::*;

    type Call = Pin<Box<dyn Future<Output = Result<(), String>>>>;

    #[test]
    fn one_that_hangs_ends_all_within_one_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let begun = Cell::new(0);
        let calls = |hangs: Option<usize>| {
            let begun = &begun;
            begun.set(0);
            (0..4).map(move |at| -> Call {
                begun.set(begun.get() + 1);
                match at {
                    1 => Box::pin(async { Err("it failed".to_owned()) }),
                    at if Some(at) == hangs => Box::pin(std::future::pending()),
                    _ => Box::pin(async { Ok(()) }),
                }
            })
        };
        for cut in [Cut::Time, Cut::Signal] {
            let end = async move {
                tokio::task::yield_now().await;
                cut
            };
            assert_eq!(runtime.block_on(in_turn(calls(Some(2)), end)), (2, Some(cut)));
            assert_eq!(begun.get(), 3, "the last one is not called");
        }
        assert_eq!(runtime.block_on(in_turn(calls(None), std::future::pending())), (4, None));
    }
}
