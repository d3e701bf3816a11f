//! Lines of names and quoted values (logfmt), as dnsdist's structured logging writes them.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format;

use crate::base::printable::{Printable, shortened};
use crate::config::log_style::LogStyle;
use crate::control::certificate_monitor::unix_time;
use crate::control::log::timestamp;

/// Writes an event: message, subsystem, level, its name and the time, then the fields.
pub(super) fn line(to: &mut format::Writer<'_>, event: &Event<'_>, style: &LogStyle) -> fmt::Result {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let level = *event.metadata().level();
    let subsystem = fields.subsystem.unwrap_or_else(|| {
        let path = event.metadata().module_path().unwrap_or_default();
        subsystem(path).to_owned()
    });
    pair(to, "msg", &fields.message)?;
    pair(to, " subsystem", &subsystem)?;
    // As dnsdist counts: 0 for everything but details.
    pair(to, " level", if level > Level::INFO { "1" } else { "0" })?;
    write!(to, " ")?;
    pair(to, &style.level_name, name(level))?;
    if style.iso_time {
        pair(to, " ts", &timestamp())?;
    } else {
        let (seconds, milliseconds) = unix_time();
        write!(to, " ts=\"{seconds}.{milliseconds:03}\"")?;
    }
    writeln!(to, "{}", fields.rest)
}

const fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "Error",
        Level::WARN => "Warning",
        Level::INFO => "Info",
        Level::DEBUG | Level::TRACE => "Debug",
    }
}

/// Returns the part of the program that a module belongs to: `health` of `dnslob::control::health`.
fn subsystem(path: &str) -> &str {
    let mut parts = path.split("::").skip(1);
    match (parts.next(), parts.next()) {
        (Some("control"), Some(part)) => part,
        (Some(part), _) => part,
        _ => "main",
    }
}

/// Writes a name and a value in quotes.
fn pair(to: &mut impl Write, name: &str, value: &str) -> fmt::Result {
    write!(to, "{name}=\"")?;
    for c in value.chars() {
        match c {
            '"' | '\\' => write!(to, "\\{c}")?,
            c if c.is_control() => write!(to, "{}", Printable(c))?,
            c => to.write_char(c)?,
        }
    }
    to.write_char('"')
}

/// The fields of an event.
#[derive(Default)]
struct Fields {
    message: String,
    subsystem: Option<String>,
    rest: String,
}

impl Fields {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "subsystem" => self.subsystem = Some(value),
            // Where a library's record comes from.
            name if name.starts_with("log.") => {}
            name => {
                self.rest.push(' ');
                // Writing into a string does not fail.
                let _ = pair(&mut self.rest, name, &shortened(&value));
            }
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_within_their_quotes_and_line() {
        let mut out = String::new();
        pair(&mut out, "msg", "a \"b\" \\ c\nd\u{1b}").expect("written");
        assert_eq!(out, "msg=\"a \\\"b\\\" \\\\ c\\nd\\u{1b}\"");
    }

    #[test]
    fn subsystems_are_parts_of_the_program() {
        for (path, part) in [
            ("dnslob::control::health", "health"),
            ("dnslob::control", "control"),
            ("dnslob::lua::state::core", "lua"),
            ("dnslob", "main"),
        ] {
            assert_eq!(subsystem(path), part);
        }
    }
}
