//! Signals, from the first moment on: who waits for them, and what is done before anybody does.
//!
//! Handlers stand before the configuration is read. Until the control loop attends, a thread of their
//! own ends the process at SIGTERM and SIGINT, for nothing is served yet; SIGHUP and SIGUSR1 wait for
//! the loop. Once it attends, that thread ends an evaluation of the configuration that is under way,
//! which would keep the loop from stopping.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::config::Interrupt;
use crate::control::privileges;
use crate::engine::sys;

/// How long the control loop may take after a second request to stop before the process ends without
/// it: more than it gives shards that it has aborted.
const FORCED: Duration = Duration::from_secs(4);

/// What the control loop waits for.
#[derive(Debug)]
pub struct Signals {
    /// SIGHUP.
    pub hup: Signal,
    /// SIGUSR1.
    pub usr1: Signal,
    /// SIGTERM.
    pub term: Signal,
    /// SIGINT.
    pub int: Signal,
    attended: Arc<AtomicBool>,
    shed: Arc<Notify>,
}

impl Signals {
    /// Installs the handlers, and starts the thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn start() -> io::Result<Self> {
        sys::ignore_signals()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (attended, shed) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let (signals, first) = {
            let _entered = runtime.enter();
            let streams =
                || Ok::<_, io::Error>([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]);
            let [term, int] = streams()?;
            let signals = Self {
                hup: signal(SignalKind::hangup())?,
                usr1: signal(SignalKind::user_defined1())?,
                term,
                int,
                attended: Arc::clone(&attended),
                shed: Arc::clone(&shed),
            };
            // Has no meaning here, and would end the process; a handler, unlike a signal that is
            // ignored, is not inherited by the programs of health checks.
            drop(signal(SignalKind::user_defined2())?);
            (signals, streams()?)
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(stop(first, attended, shed)))?;
        Ok(signals)
    }

    /// From here on SIGTERM and SIGINT are the caller's.
    pub fn attend(&self) {
        self.attended.store(true, Relaxed);
    }

    /// The process has given up its rights: the thread gives up its own.
    pub fn shed(&self) {
        self.shed.notify_one();
    }
}

/// Sees to it that requests to stop are heard.
async fn stop([mut term, mut int]: [Signal; 2], attended: Arc<AtomicBool>, shed: Arc<Notify>) {
    let mut asked = 0;
    loop {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = shed.notified() => {
                let _ = privileges::follow();
                continue;
            }
        }
        if !attended.load(Relaxed) {
            tracing::info!("stopped before it served");
            std::process::exit(0);
        }
        Evaluations::stop();
        asked += 1;
        if asked == 2 {
            tokio::time::sleep(FORCED).await;
            tracing::error!("ended by force: the control thread does not stop");
            std::process::exit(0);
        }
    }
}

/// The evaluations of a configuration that are under way.
struct Evaluations {
    stopping: bool,
    running: Vec<(u64, Interrupt)>,
    next: u64,
}

static EVALUATIONS: Mutex<Evaluations> =
    Mutex::new(Evaluations { stopping: false, running: Vec::new(), next: 0 });

impl Evaluations {
    fn with<R>(f: impl FnOnce(&mut Self) -> R) -> R {
        f(&mut EVALUATIONS.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop() {
        Self::with(|all| {
            all.stopping = true;
            all.running.iter().for_each(|(_, interrupt)| interrupt.interrupt());
        });
    }
}

/// While this lives, SIGTERM and SIGINT interrupt an evaluation; at once if one of them came before.
#[derive(Debug)]
pub struct EndedByStop(u64);

impl EndedByStop {
    /// Has the evaluation that looks at `interrupt` end with the process.
    #[must_use]
    pub fn new(interrupt: &Interrupt) -> Self {
        Evaluations::with(|all| {
            if all.stopping {
                interrupt.interrupt();
            }
            all.next += 1;
            all.running.push((all.next, interrupt.clone()));
            Self(all.next)
        })
    }
}

impl Drop for EndedByStop {
    fn drop(&mut self) {
        Evaluations::with(|all| all.running.retain(|(id, _)| *id != self.0));
    }
}
