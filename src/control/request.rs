//! What operators ask of the control loop, by the console and by the API.

use std::fmt;

use tokio::sync::oneshot;

use crate::lua::front_end::command::Mark;
use crate::lua::front_end::page;

/// A request for a page of the web server that a function of the configuration makes.
#[derive(Debug)]
pub struct PageRequest {
    /// The request.
    pub request: page::Request,
    /// Takes the answer; none if there is no such page any more.
    pub reply: oneshot::Sender<Option<Result<page::Response, String>>>,
}

/// A command.
#[derive(Debug)]
pub struct Request {
    /// Its Lua.
    pub text: String,
    /// Whose it is, for the log.
    pub by: String,
    /// Longest output, bytes.
    pub output_max: usize,
    /// Under which conditions it runs, and what becomes of its change.
    pub terms: Terms,
    /// Takes the reply.
    pub reply: oneshot::Sender<Reply>,
}

/// The conditions of a command.
#[derive(Debug, Default)]
pub struct Terms {
    /// It is run only while the configuration of this generation is in force.
    pub generation: Option<u64>,
    /// Its change is compiled, and forgotten.
    pub dry_run: bool,
    /// Its warnings are errors: whoever wrote it cannot read them first.
    pub strict: bool,
    /// What it changes, so that a later change of the same takes its place in `delta()`.
    pub mark: Option<Mark>,
    /// Called when its change is in force, before any other change begins.
    pub keep: Option<Keep>,
}

/// Makes a change last; returns what failed.
pub struct Keep(pub Box<dyn FnOnce() -> Result<(), String> + Send>);

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keep")
    }
}

/// Returns what a command asks for, for the log: the name that it begins with, without what it calls
/// that with, as a key.
#[must_use]
pub fn begins_with(text: &str) -> &str {
    let text = text.trim_start();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_.:".contains(c);
    &text[..text.find(|c| !is_name(c)).unwrap_or(text.len()).min(NAME_MAX)]
}

/// Longest name that a line of the log has, bytes.
const NAME_MAX: usize = 60;

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another configuration is in force than the one it was meant for.
    Stale,
    /// It was wrong, in these ways.
    Wrong(Vec<String>),
}

/// What became of a command.
#[derive(Debug)]
pub struct Reply {
    /// What it printed and returned.
    pub result: Result<Vec<u8>, Refusal>,
    /// The generation of the configuration that is in force.
    pub generation: u64,
    /// What it changed, or would change; a line each.
    pub changes: Vec<String>,
    /// Its change is in force and may not outlive the next reload, for this reason.
    pub not_kept: Option<String>,
}

impl Reply {
    /// Returns it as the console shows it.
    #[must_use]
    pub fn into_text(self) -> Vec<u8> {
        match self.result {
            Ok(output) => output,
            Err(Refusal::Stale) => b"Error: the configuration has changed\n".to_vec(),
            Err(Refusal::Wrong(errors)) => format!("Error: {}\n", errors.join("\n")).into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_has_no_key_of_a_command() {
        for (text, begins) in [
            ("setKey('secret')", "setKey"),
            (" newServer{address='x'}", "newServer"),
            ("getServer(0):setDown()", "getServer"),
            ("x.y:z 'secret'", "x.y:z"),
            ("\u{e9}\u{e9}", ""),
            ("", ""),
        ] {
            assert_eq!(begins_with(text), begins, "{text}");
        }
        assert_eq!(begins_with(&"x".repeat(1_000)).len(), NAME_MAX);
    }
}
