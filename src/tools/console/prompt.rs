//! The prompt: completion, history, commands of several lines, long replies page by page.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Config, Context, Editor};

use crate::lua::front_end::every_function;
use crate::tools::console::{Connection, completion, is_error, no_reply};

/// Commands that are remembered.
const HISTORY: usize = 10_000;
/// What makes a command a secret, which is not remembered.
const SECRETS: [&str; 4] = ["setKey", "hashPassword", "password", "apiKey"];
/// Lines of a terminal whose size is unknown.
const LINES: usize = 24;

/// Reads commands until the end of the input. Returns whether the last one worked.
pub(super) fn converse(connection: Connection) -> io::Result<bool> {
    let connection = Rc::new(RefCell::new(connection));
    let config = Config::builder()
        .max_history_size(HISTORY)
        .map_err(io::Error::other)?
        .history_ignore_space(true)
        .completion_type(rustyline::CompletionType::List)
        .build();
    let mut editor: Editor<Lua, FileHistory> = Editor::with_config(config).map_err(io::Error::other)?;
    editor.set_helper(Some(Lua { connection: Rc::clone(&connection) }));
    let history = history_file();
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    let mut fine = true;
    loop {
        let command = match editor.readline("> ") {
            Ok(command) => command,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(fine),
            Err(error) => return Err(io::Error::other(error)),
        };
        let command = command.trim();
        if command.is_empty() {
            continue;
        }
        if matches!(command, "quit" | "exit" | "bye") {
            return Ok(fine);
        }
        if !SECRETS.iter().any(|secret| command.contains(secret)) {
            // A history that cannot be written does not keep anyone from working.
            let _ = editor.add_history_entry(command);
            if let Some(path) = &history {
                let _ = editor.append_history(path);
            }
        }
        let reply = connection.borrow_mut().ask(command).map_err(|e| io::Error::other(no_reply(&e)))?;
        fine = !is_error(&reply);
        let height = editor.dimensions().map_or(LINES, |(_, lines)| lines.into());
        show(&reply, height)?;
    }
}

/// Returns the file of the history, in the user's home; none without a home.
fn history_file() -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("HOME")?).join(".dnslob_history"))
}

/// Prints a reply: coloured, page by page if it is longer than the terminal's `height`.
fn show(reply: &str, height: usize) -> io::Result<()> {
    let mut out = io::stdout();
    if !out.is_terminal() {
        return out.write_all(reply.as_bytes());
    }
    let plain = std::env::var_os("NO_COLOR").is_some();
    let reply = if plain { reply.to_owned() } else { coloured(reply) };
    if reply.lines().count() < height || !page(&reply) {
        out.write_all(reply.as_bytes())?;
    }
    out.flush()
}

/// Returns a reply with its errors in red, and the titles of a table in bold.
fn coloured(reply: &str) -> String {
    if is_error(reply) {
        return format!("\x1b[31m{}\x1b[0m\n", reply.trim_end());
    }
    match reply.split_once('\n') {
        Some((titles, rest)) if titles.starts_with('#') || titles.starts_with("Name ") => {
            format!("\x1b[1m{titles}\x1b[0m\n{rest}")
        }
        _ => reply.to_owned(),
    }
}

/// Shows a text by the user's pager; returns whether there is one.
fn page(text: &str) -> bool {
    let pager = std::env::var("PAGER").unwrap_or_else(|_| "less -FRX".to_owned());
    let started = Command::new("sh").arg("-c").arg(pager).stdin(Stdio::piped()).spawn();
    let Ok(mut pager) = started else { return false };
    if let Some(mut input) = pager.stdin.take() {
        // It may be closed before the end.
        let _ = input.write_all(text.as_bytes());
    }
    pager.wait().is_ok_and(|status| status.success())
}

/// Completes names of Lua functions, and names of what the server has.
struct Lua {
    connection: Rc<RefCell<Connection>>,
}

impl Completer for Lua {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let mut ask = |command: &str| -> Vec<String> {
            let reply = self.connection.borrow_mut().ask(command).ok().filter(|reply| !is_error(reply));
            reply.unwrap_or_default().lines().map(str::to_owned).collect()
        };
        let (length, names) = completion::candidates(&line[..at], &mut ask);
        let pairs = names.into_iter().map(|name| Pair { display: name.clone(), replacement: name });
        Ok((at - length, pairs.collect()))
    }
}

impl Hinter for Lua {
    type Hint = String;

    /// Shows the arguments of the function whose parenthesis was opened last.
    fn hint(&self, line: &str, at: usize, _: &Context<'_>) -> Option<String> {
        let name = line[..at].strip_suffix('(')?.rsplit(|c: char| !c.is_ascii_alphanumeric()).next()?;
        let entry = every_function().find(|e| e.name == name).filter(|_| at == line.len())?;
        Some(format!("{})", entry.arguments))
    }
}

impl Highlighter for Lua {
    fn highlight_hint<'h>(&self, hint: &'h str) -> std::borrow::Cow<'h, str> {
        format!("\x1b[2m{hint}\x1b[0m").into()
    }
}

impl Validator for Lua {
    /// Lets a command go on in the next line if Lua misses its end.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let lua = mlua::Lua::new();
        let compile = |text: String| lua.load(text).into_function().err();
        let typed = context.input();
        let ends = match (compile(format!("return {typed}")), compile(typed.to_owned())) {
            (None, _) | (_, None) => true,
            (_, Some(mlua::Error::SyntaxError { incomplete_input, .. })) => !incomplete_input,
            // The server says what is wrong.
            _ => true,
        };
        Ok(if ends { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl rustyline::Helper for Lua {}
