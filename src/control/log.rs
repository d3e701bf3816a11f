//! Sets up logging: to standard error, as text or as one JSON object a line.
//!
//! Nothing on the packet path writes a log; `RUST_LOG` may ask for more or less than `-v` does.

use std::io::IsTerminal;

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

/// Begins to log. A second call changes nothing.
pub fn start(format: Format, verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let filter = EnvFilter::builder().with_default_directive(level.into()).from_env_lossy();
    let to =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let begun = match format {
        Format::Text => to.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => to.json().flatten_event(true).try_init(),
    };
    if begun.is_err() {
        tracing::debug!("logging had already been set up");
    }
}
