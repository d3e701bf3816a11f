//! Signals, from the first moment on: who waits for them, and what is done before anybody does.
//!
//! Handlers stand before the configuration is read. Until the control loop attends, a thread of their
//! own ends the process at SIGTERM and SIGINT, for nothing is served yet; SIGHUP and SIGUSR1 wait for
//! the loop. Once it attends, that thread only ends a process whose control loop does not stop when it
//! is asked for the second time.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::control::privileges;
use crate::engine::sys;
use crate::engine::sys::SignalStack;

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
    /// Of the thread that called [`Signals::start`], which most signals are given to.
    _stack: SignalStack,
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
                _stack: SignalStack::enlarge(),
            };
            // Has no meaning here, and would end the process; a handler, unlike a signal that is
            // ignored, is not inherited by the programs of health checks.
            drop(signal(SignalKind::user_defined2())?);
            (signals, streams()?)
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let _stack = SignalStack::enlarge();
            runtime.block_on(stop(first, attended, shed));
        })?;
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
        asked += 1;
        if asked == 2 {
            tokio::time::sleep(FORCED).await;
            tracing::error!("ended by force: the control thread does not stop");
            std::process::exit(0);
        }
    }
}
