//! A thread with a stack that is large enough for Lua, and a value that stays in it.
//!
//! The thread that starts it waits for its first result, up to a limit: a script that hangs in a C
//! function does not block the caller. Later calls run one by one.

#![expect(clippy::disallowed_methods, reason = "ends Lua that runs too long")]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::base::panics;
use crate::engine::sys::{STACK_BYTES, SignalStack};
use crate::lua::limits::Interrupt;

/// Wall-clock limit of one call, including those before it.
const CALL: Duration = Duration::from_secs(10);
/// Calls that may wait: more than one for each checked server.
const WAITING_MAX: usize = 65_536;
/// Time after an interruption until the thread is abandoned.
const GRACE: Duration = Duration::from_millis(500);
/// Interval of checks for an interruption.
const LOOK: Duration = Duration::from_millis(20);
/// Abandoned threads that have not ended yet, at most.
const LEFT_MAX: usize = 4;

static LEFT: AtomicUsize = AtomicUsize::new(0);

/// Why the thread gave no first result.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The thread could not be started.
    Start(io::Error),
    /// Too many abandoned threads have not ended.
    Left,
    /// It did not end when it was interrupted.
    Interrupted,
    /// It did not end in time, nor when it was interrupted.
    Late,
    /// It panicked.
    Panicked(String),
}

/// Why a call has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoResult {
    /// It did not start: an earlier call has not returned.
    Busy,
    /// It failed, with this message.
    Failed(String),
}

type Job<T> = Box<dyn FnOnce(&T) + Send>;

/// A thread that holds a `T`; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Worker<T> {
    jobs: Option<Sender<Job<T>>>,
    interrupt: Interrupt,
}

impl<T: 'static> Worker<T> {
    /// Starts a thread and waits for the result of `make`, until `interrupt` or `limit`. With a `T`
    /// the thread stays, for calls.
    pub(crate) fn start<R: Send + 'static>(
        name: &str,
        interrupt: &Interrupt,
        limit: Duration,
        make: impl FnOnce() -> (R, Option<T>) + Send + 'static,
    ) -> Result<(R, Self), Failed> {
        if LEFT.load(Relaxed) >= LEFT_MAX {
            return Err(Failed::Left);
        }
        let (jobs, inbox) = bounded::<Job<T>>(WAITING_MAX);
        let (made, result) = bounded(1);
        let left = Arc::new(AtomicBool::new(false));
        let was_left = Arc::clone(&left);
        let log = tracing::dispatcher::get_default(Clone::clone);
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES);
        let body = move || {
            let _signals = SignalStack::enlarge();
            let (first, value) = match panics::caught(make) {
                Ok((first, value)) => (Ok(first), value),
                Err(panic) => (Err(panic), None),
            };
            let stays = value.is_some();
            // Nobody waits if the thread was abandoned.
            let _ = made.send((first, stays));
            if was_left.swap(true, Relaxed) {
                LEFT.fetch_sub(1, Relaxed);
            }
            if let Some(value) = value {
                inbox.iter().for_each(|job| job(&value));
            }
        };
        thread.spawn(move || tracing::dispatcher::with_default(&log, body)).map_err(Failed::Start)?;
        let begun = Instant::now();
        let mut interrupted = None;
        loop {
            match result.recv_timeout(LOOK) {
                Ok((first, stays)) => {
                    let jobs = stays.then_some(jobs);
                    let first = first.map_err(Failed::Panicked)?;
                    return Ok((first, Self { jobs, interrupt: interrupt.clone() }));
                }
                Err(RecvTimeoutError::Timeout) => {}
                // It ended without a result: a panic while what it had made was dropped.
                Err(RecvTimeoutError::Disconnected) => return Err(Failed::Interrupted),
            }
            if begun.elapsed() >= limit {
                interrupt.time_out();
            }
            if interrupt.is_set() && *interrupted.get_or_insert_with(Instant::now) + GRACE < Instant::now() {
                // If it has ended meanwhile, it has not seen that it is abandoned.
                if !left.swap(true, Relaxed) {
                    LEFT.fetch_add(1, Relaxed);
                }
                return Err(if begun.elapsed() >= limit { Failed::Late } else { Failed::Interrupted });
            }
        }
    }

    /// Runs a call in the thread, after those before it; only the awaiting task waits.
    ///
    /// # Errors
    /// See [`NoResult`].
    pub(crate) fn call<R, F>(&self, call: F) -> impl Future<Output = Result<R, NoResult>> + use<T, R, F>
    where
        R: Send + 'static,
        F: FnOnce(&T) -> R + Send + 'static,
    {
        self.call_within(CALL, call)
    }

    /// Does the same with another wall-clock limit.
    ///
    /// # Errors
    /// See [`NoResult`].
    pub(crate) fn call_within<R, F>(
        &self,
        limit: Duration,
        call: F,
    ) -> impl Future<Output = Result<R, NoResult>> + use<T, R, F>
    where
        R: Send + 'static,
        F: FnOnce(&T) -> R + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let begun = Arc::<AtomicBool>::default();
        let begins = Arc::clone(&begun);
        let job: Job<T> = Box::new(move |value| {
            // The caller may have given up waiting.
            if !answer.is_closed() {
                begins.store(true, Relaxed);
                let _ = answer.send(panics::caught(|| call(value)));
            }
        });
        let sent = match &self.jobs {
            None => Err(NoResult::Failed("there is no thread for Lua functions".to_owned())),
            Some(jobs) => jobs.try_send(job).map_err(|_| NoResult::Busy),
        };
        async move {
            sent?;
            match timeout(limit, result).await {
                Ok(Ok(done)) => done.map_err(NoResult::Failed),
                Ok(Err(_)) => Err(NoResult::Failed("the thread for Lua functions has ended".to_owned())),
                Err(_) if begun.load(Relaxed) => {
                    Err(NoResult::Failed("the function did not return in time".to_owned()))
                }
                Err(_) => Err(NoResult::Busy),
            }
        }
    }

    /// Runs something in the thread, after the calls before it; nobody waits.
    pub(crate) fn tell(&self, work: impl FnOnce(&T) + Send + 'static) {
        let job: Job<T> = Box::new(move |value| {
            // A panic must not end the thread.
            let _ = panics::caught(|| work(value));
        });
        if let Some(jobs) = &self.jobs {
            // Full of calls that do not return: this one would not run either.
            let _ = jobs.try_send(job);
        }
    }

    /// Returns what ends a call of Lua that runs.
    pub(crate) const fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Returns whether there is a thread for calls.
    pub(crate) const fn stays(&self) -> bool {
        self.jobs.is_some()
    }
}
