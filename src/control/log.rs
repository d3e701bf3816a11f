//! Sets up logging: to standard error, as text or as one JSON object a line.
//!
//! Nothing on the packet path writes a log. `RUST_LOG`, where it is set, wins over `-v`.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Changes the filter of the running log, whatever its format's type is.
type Change = Box<dyn Fn(EnvFilter) + Send + Sync>;

static CHANGE: OnceLock<Change> = OnceLock::new();

/// Begins to log. A second call changes nothing.
pub fn start(format: Format, verbose: bool) {
    let to = tracing_subscriber::fmt()
        .with_env_filter(filter(verbose))
        .with_writer(std::io::stderr)
        .with_target(false);
    let (begun, change): (_, Change) = match format {
        Format::Text => {
            let to = to.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = to.reload_handle();
            (to.try_init(), Box::new(move |filter| drop(handle.reload(filter))))
        }
        Format::Json => {
            let to = to.json().flatten_event(true).with_filter_reloading();
            let handle = to.reload_handle();
            (to.try_init(), Box::new(move |filter| drop(handle.reload(filter))))
        }
    };
    if begun.is_ok() {
        // The first that began is the only one.
        let _ = CHANGE.set(change);
    }
}

/// Logs more, or no longer.
pub fn set_verbose(verbose: bool) {
    if let Some(change) = CHANGE.get() {
        change(filter(verbose));
    }
}

fn filter(verbose: bool) -> EnvFilter {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    EnvFilter::builder().with_default_directive(level.into()).from_env_lossy()
}
