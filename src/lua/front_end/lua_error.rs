//! Errors of Lua as those of a configuration: where they are, and what may have been meant.

use std::path::Path;

use crate::config::error::{ConfigError, Fault, Origin, nearest};
use crate::config::functions::enumerations::ENUMERATIONS;
use crate::config::functions::{FOR_FUNCTIONS, FUNCTIONS_MISSING, POLICIES, WITHOUT_EFFECT};
use crate::config::options::SETTINGS;
use crate::lua::ffi::watch::Why;
use crate::lua::front_end::every_function;
use crate::lua::limits;

/// Converts an error of Lua, which puts the origin before the message.
pub(crate) fn script_error(error: &mlua::Error, files: &[&str]) -> ConfigError {
    let mut at = error;
    let mut traceback = "";
    loop {
        match at {
            mlua::Error::CallbackError { traceback: t, cause } => (at, traceback) = (cause, t),
            mlua::Error::BadArgument { cause, .. } => at = cause,
            _ => break,
        }
    }
    if let mlua::Error::ExternalError(e) = at
        && let Some(known) = e.downcast_ref::<ConfigError>()
    {
        return known.clone();
    }
    if let Some(stopped) = limits::stopped(at) {
        let place = stopped.0.place.as_ref();
        let origin = place.map_or_else(
            || Origin::file(files.first().copied().unwrap_or("command line")),
            |(file, line)| Origin::line(file, *line),
        );
        let fault = match stopped.0.why {
            Why::Exit => Fault::Exit(stopped.0.code),
            Why::TooLong | Why::Interrupted | Why::Late => Fault::Script(stopped.what()),
        };
        return ConfigError::new(&origin, "", fault);
    }
    let text = message(at);
    let (origin, message) = located(&text, files)
        .or_else(|| {
            let places = traceback.lines().chain(text.lines().skip(1)).map(str::trim_start);
            let place = places.filter_map(|l| located(l, files)).next()?;
            Some((place.0, first_line(&text).to_owned()))
        })
        .unwrap_or_else(|| {
            (Origin::file(files.first().copied().unwrap_or("command line")), first_line(&text).to_owned())
        });
    let hint = match misspelt(&message) {
        Some(near) if FOR_FUNCTIONS.contains(&near) && message.contains(&format!("'{near}'")) => {
            "; it works only in functions of rules and policies".to_owned()
        }
        Some(near) => match FUNCTIONS_MISSING.iter().find(|m| m.names.contains(&near)) {
            Some(family) if message.contains(&format!("'{near}'")) => {
                format!("; it is not implemented yet: {}", family.meanwhile)
            }
            _ => format!("; did you mean \"{near}\"?"),
        },
        // Where dnsdist's first versions had the constants of all tables.
        None if message.starts_with("attempt to index global 'dnsdist'") => {
            "; its constants are in DNSQType, DNSRCode, DNSAction and their like".to_owned()
        }
        None => String::new(),
    };
    // error("") has no text.
    let message = if message.trim().is_empty() { "an error without a message".to_owned() } else { message };
    ConfigError::new(&origin, "", Fault::Script(message + &hint))
}

/// Our own chunks, which are no origins in a configuration.
const OWN_CHUNKS: [&str; 3] = ["library", "pcall", "prelude"];

/// Removes `FILE:LINE: ` from a message. Lua truncates long names to `...` and their end.
fn located(text: &str, files: &[&str]) -> Option<(Origin, String)> {
    let text = first_line(text);
    let (at, line, message) = text.match_indices(':').find_map(|(at, _)| {
        let (number, message) = text[at + 1..].split_once(':')?;
        Some((at, number.parse::<u32>().ok()?, message))
    })?;
    let short = &text[..at];
    if short.is_empty()
        || short.starts_with('[')
        || short.starts_with("__mlua")
        || OWN_CHUNKS.contains(&short)
    {
        return None;
    }
    let file = match short.strip_prefix("...") {
        Some(end) => files.iter().find(|f| f.ends_with(end)).copied().unwrap_or(short),
        // A text that was loaded may have any name.
        None if files.contains(&short) || Path::new(short).is_file() => short,
        None => return None,
    };
    Some((Origin::line(file, line), message.trim_start().to_owned()))
}

/// Returns what was intended in "attempt to call global 'x' (a nil value)", or to index it.
fn misspelt(message: &str) -> Option<&'static str> {
    let quoted = |before: &str| message.strip_prefix(before)?.split('\'').next();
    if let Some(name) = quoted("attempt to index global '") {
        return nearest(name, ENUMERATIONS.iter().map(|(name, _)| *name).chain(POLICIES));
    }
    nearest(quoted("attempt to call global '")?, every_name())
}

/// Returns the names of all functions, those that are missing, too.
pub(crate) fn every_name() -> impl Iterator<Item = &'static str> {
    let known = every_function().map(|e| e.name);
    let known = known.chain(SETTINGS.iter().flat_map(|s| s.lua).map(|l| l.name));
    let families = FUNCTIONS_MISSING.iter().chain(WITHOUT_EFFECT);
    known.chain(families.flat_map(|m| m.names.iter().copied())).chain(FOR_FUNCTIONS.iter().copied())
}

pub(crate) fn innermost(error: &mlua::Error) -> &mlua::Error {
    match error {
        mlua::Error::CallbackError { cause, .. } | mlua::Error::BadArgument { cause, .. } => innermost(cause),
        other => other,
    }
}

/// Returns Lua's own message, without the library's additions.
pub(crate) fn message(error: &mlua::Error) -> String {
    match error {
        mlua::Error::SyntaxError { message, .. } | mlua::Error::RuntimeError(message) => message.clone(),
        other => other.to_string(),
    }
}

pub(crate) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
