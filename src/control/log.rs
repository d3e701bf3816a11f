//! Logging to standard error, as text or as one JSON object per line; and standard output.
//!
//! Nothing on the packet path logs. No thread waits for the log either: every line goes to the
//! [`Writer`] of its target. When the process ends, by whatever path, pending lines are written
//! within [`FLUSH`]. `RUST_LOG`, if set, takes precedence over `-v`.

#![expect(clippy::disallowed_methods, reason = "a flush at the end has a deadline")]
#![expect(clippy::disallowed_types, reason = "lines of several threads that wait for the end of a check")]

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::field::Field;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, format};
use tracing_subscriber::registry::LookupSpan;

use crate::base::printable::{Printable, shortened};
use crate::config::log_style::{ClientAddresses, LogFormat, LogStyle};
use crate::control::writer::{Notice, Writer};
use crate::engine::sys;

mod logfmt;
pub(super) mod privacy;

/// How long the process waits at its end for unwritten lines.
pub const FLUSH: Duration = Duration::from_secs(1);
/// Longest line, bytes; longer ones are dropped, since one per thread may be in memory.
const LINE_MAX: usize = 1 << 20;

/// How a terminal shows the names of fields, and the sign behind them.
const ITALIC: &str = "\x1b[3m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// Changes the filter of the active log, whatever its format's type is.
type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

/// Most lines that are kept.
const HELD_MAX: usize = 8_192;

static STYLE: LazyLock<ArcSwap<LogStyle>> = LazyLock::new(ArcSwap::default);
/// Lines are kept rather than written.
static HOLDS: AtomicBool = AtomicBool::new(false);
static HELD: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
/// The line that is being written goes to standard output.
static CONFIRMS: AtomicBool = AtomicBool::new(false);
static CHANGE: OnceLock<Change> = OnceLock::new();
static ERROR: OnceLock<Writer> = OnceLock::new();
static OUTPUT: OnceLock<Writer> = OnceLock::new();
/// The process waits at its end until all lines are written.
static PATIENT: AtomicBool = AtomicBool::new(false);

/// Returns the writer of standard error, the target of the log.
pub fn error() -> &'static Writer {
    ERROR.get_or_init(|| {
        flush_at_exit();
        // A failure of the log itself cannot be reported anywhere.
        Writer::start("log", io::stderr(), |notice| {
            if let Notice::Lost(lines) = notice {
                tracing::warn!(lines, "lines of the log were lost");
            }
        })
    })
}

/// Returns the writer of standard output, the target of statistics.
pub fn output() -> &'static Writer {
    OUTPUT.get_or_init(|| {
        flush_at_exit();
        Writer::start("output", io::stdout(), |notice| match notice {
            Notice::Failed(e) => tracing::error!("standard output: {e}"),
            Notice::Lost(lines) => tracing::warn!(lines, "lines of standard output were lost"),
        })
    })
}

/// Makes the process wait at its end until its lines are read, however long that takes: for a
/// program that only prints.
pub fn wait_for_readers() {
    PATIENT.store(true, Relaxed);
}

/// Returns the time as the log writes it.
#[must_use]
pub fn timestamp() -> String {
    let mut text = String::new();
    // Writing into a string does not fail.
    let _ = FormatTime::format_time(&SystemTime, &mut format::Writer::new(&mut text));
    text
}

fn flush_at_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| sys::at_exit(at_exit));
}

extern "C" fn at_exit() {
    let deadline = (!PATIENT.load(Relaxed)).then(|| Instant::now() + FLUSH);
    for writer in [ERROR.get(), OUTPUT.get()].into_iter().flatten() {
        writer.flush(deadline);
    }
}

/// Starts logging, panics included. Later calls have no effect.
pub fn start(style: &LogStyle, verbose: bool) {
    set_style(style);
    let to = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose))
        .with_writer(|| Line)
        .with_ansi(io::stderr().is_terminal())
        .fmt_fields(debug_fn(field))
        .event_format(Events)
        .with_filter_reloading();
    let handle = to.reload_handle();
    let change: Change = Box::new(move |filter| drop(handle.reload(filter)));
    if to.try_init().is_ok() {
        // Only the first start has effect.
        let _ = CHANGE.set(change);
        std::panic::set_hook(Box::new(panicked));
    }
}

/// Sets how lines look from here on.
pub fn set_style(style: &LogStyle) {
    STYLE.store(Arc::new(style.clone()));
}

/// Returns how logs show the addresses of clients.
#[must_use]
pub(super) fn client_addresses() -> ClientAddresses {
    STYLE.load().clients
}

/// Returns whether lines are for programs, errors of the configuration included.
#[must_use]
pub fn is_structured() -> bool {
    STYLE.load().format != LogFormat::Text
}

/// Keeps the lines of the log until [`release`], as far as there is room for them.
pub fn hold() {
    HOLDS.store(true, Relaxed);
}

/// Keeps a line; returns whether there is room.
fn keep(line: &[u8]) -> bool {
    let mut held = held();
    let has_room = held.len() < HELD_MAX;
    if has_room {
        held.push(line.into());
    }
    has_room
}

/// Writes the lines that were kept; from here on they are written at once.
pub fn release() {
    HOLDS.store(false, Relaxed);
    for line in std::mem::take(&mut *held()) {
        error().push(&line);
    }
}

fn held() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says on standard output that the configuration of a file is good, and waits until it is written.
pub fn confirm(file: &str) {
    if STYLE.load().format == LogFormat::Text {
        output().push(format!("Configuration '{file}' OK!\n").as_bytes());
    } else {
        CONFIRMS.store(true, Relaxed);
        tracing::info!(subsystem = "setup", path = file, "Configuration OK");
        CONFIRMS.store(false, Relaxed);
    }
    output().flush(None);
}

/// Formats events in the present style.
struct Events;

impl<S, N> FormatEvent<S, N> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut to: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let style = STYLE.load();
        match style.format {
            LogFormat::Text => format::format().with_target(false).format_event(context, to, event),
            LogFormat::Json => {
                let json = format::format().with_target(false).json().flatten_event(true);
                json.format_event(context, to, event)
            }
            LogFormat::Logfmt => logfmt::line(&mut to, event, &style),
        }
    }
}

/// Writes one field of an event in the text format, which does not leave its line. JSON escapes by
/// itself.
fn field(to: &mut format::Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = format!("{value:?}");
    let value = match field.name() {
        // It comes first. A text that a function of the configuration prints is as long as it wants.
        "message" => return write!(to, "{}", Printable(value)),
        _ => Printable(shortened(&value)),
    };
    match field.name() {
        // Where a library's record comes from, which the line says already.
        name if name.starts_with("log.") => Ok(()),
        name if to.has_ansi_escapes() => write!(to, " {ITALIC}{name}{PLAIN}{DIM}={PLAIN}{value}"),
        name => write!(to, " {name}={value}"),
    }
}

/// Sets whether to log verbosely.
pub fn set_verbose(verbose: bool) {
    if let Some(change) = CHANGE.get() {
        change(filter(verbose));
    }
}

fn filter(verbose: bool) -> EnvFilter {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    EnvFilter::builder().with_default_directive(level.into()).from_env_lossy()
}

/// Logs what the standard library would write to standard error, where it could block.
fn panicked(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text");
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(thread = thread.name().unwrap_or("-"), place, "panicked: {text}");
    // Only if RUST_BACKTRACE asks for one.
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        for line in backtrace.to_string().lines() {
            tracing::error!("{line}");
        }
    }
}

/// Writes one event, whose lines arrive in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if CONFIRMS.load(Relaxed) {
            output().push(line);
        } else if line.len() > LINE_MAX {
            error().count_lost(line);
        } else if !HOLDS.load(Relaxed) || !keep(line) {
            error().push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
