//! Signals: who handles them, and what happens before the control loop does.
//!
//! The handlers are installed before the configuration is read. Until the control loop handles
//! signals, a thread ends the process at SIGTERM and SIGINT, because nothing is served yet; SIGHUP
//! and SIGUSR1 wait for the loop. From then on, that thread only ends a process whose control loop
//! ignores a second request to stop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use crate::control::privileges;
use crate::engine::sys;
use crate::engine::sys::SignalStack;

/// How long the control loop may take after a second request to stop before the process is ended
/// without it: longer than it waits for aborted shards.
const FORCED: Duration = Duration::from_secs(4);

/// How often, and how many times, the thread looks whether files are still written: they have longer than
/// the control loop gives them.
const WRITE: Duration = Duration::from_secs(1);
const WRITES_MAX: u32 = 40;

/// The signals that the control loop waits for.
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
    writes: Arc<AtomicBool>,
    shed: Arc<Notify>,
    /// The stack of the thread that called [`Signals::start`], which gets most signals.
    _stack: SignalStack,
}

impl Signals {
    /// Installs the handlers, and starts the thread.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start() -> io::Result<Self> {
        sys::ignore_signals()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (attended, shed) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
        let writes = Arc::<AtomicBool>::default();
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
                writes: Arc::clone(&writes),
                shed: Arc::clone(&shed),
                _stack: SignalStack::enlarge(),
            };
            // It has no meaning here, and would end the process. A handler, unlike an ignored
            // signal, is not inherited by the programs of health checks.
            drop(signal(SignalKind::user_defined2())?);
            (signals, streams()?)
        };
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let _stack = SignalStack::enlarge();
            runtime.block_on(stop(first, &attended, &writes, shed));
        })?;
        Ok(signals)
    }

    /// Makes the caller responsible for SIGTERM and SIGINT from here on.
    pub fn attend(&self) {
        self.attended.store(true, Relaxed);
    }

    /// Says whether files are written before the process ends: the thread waits for them, too.
    pub fn set_writes(&self, writes: bool) {
        self.writes.store(writes, Relaxed);
    }

    /// Makes the thread drop its capabilities, as the process has.
    pub fn shed(&self) {
        self.shed.notify_one();
    }
}

/// Ensures that requests to stop are obeyed.
async fn stop(
    [mut term, mut int]: [Signal; 2],
    attended: &AtomicBool,
    writes: &AtomicBool,
    shed: Arc<Notify>,
) {
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
            tracing::info!("stopped before serving");
            std::process::exit(0);
        }
        asked += 1;
        if asked == 2 {
            tokio::time::sleep(FORCED).await;
            for _ in 0..WRITES_MAX {
                if !writes.load(Relaxed) {
                    break;
                }
                tokio::time::sleep(WRITE).await;
            }
            tracing::error!("forced to end: the control thread does not stop");
            std::process::exit(0);
        }
    }
}
