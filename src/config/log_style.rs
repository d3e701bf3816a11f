//! How the log's lines look.

use crate::config::options::{Key, Settings};

/// The format of the log's lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// Pairs of names and quoted values.
    Logfmt,
    /// An object of JSON in each line.
    Json,
}

/// How logs show the addresses of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAddresses {
    /// As they are, with their ports.
    #[default]
    Whole,
    /// The network: /24 or /48.
    Network,
    /// A keyed hash.
    Pseudonym,
}

/// How the log's lines look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogStyle {
    /// Their format.
    pub format: LogFormat,
    /// The time in logfmt is that of ISO 8601 rather than seconds since 1970.
    pub iso_time: bool,
    /// What the level is called in logfmt.
    pub level_name: String,
    /// How the addresses of clients look, in query logs too.
    pub clients: ClientAddresses,
}

impl LogStyle {
    /// Returns what settings ask for.
    #[must_use]
    pub fn of(settings: &Settings) -> Self {
        Self {
            format: match settings.text(Key::LogFormat).as_deref() {
                Some("json") => LogFormat::Json,
                Some("logfmt") => LogFormat::Logfmt,
                _ => LogFormat::Text,
            },
            iso_time: settings.text(Key::LogTime).as_deref() == Some("iso8601"),
            level_name: settings.text(Key::LogLevelName).unwrap_or_default(),
            clients: match settings.text(Key::LogClients).as_deref() {
                Some("network") => ClientAddresses::Network,
                Some("pseudonym") => ClientAddresses::Pseudonym,
                _ => ClientAddresses::Whole,
            },
        }
    }
}

impl Default for LogStyle {
    /// That of no settings.
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}
