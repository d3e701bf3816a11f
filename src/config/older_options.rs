//! Options of dnsdist that dnslob does not have: what to do instead.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Options, and what takes their place.
const INSTEAD: [(&[&str], &str); 4] = [
    (
        &["-d", "--daemon"],
        "dnslob stays in the foreground: start it by its systemd unit, or by another supervisor",
    ),
    (
        &["-p", "--pidfile"],
        "dnslob writes no such file: its systemd unit, or another supervisor, knows its process",
    ),
    (
        &["--log-timestamps"],
        "the journal and other readers of the log know when its lines came: leave it out",
    ),
    (
        &["--no-config"],
        "without -C, name the address to listen on and then the servers: dnslob LISTEN BACKEND...",
    ),
];

/// Returns what to do instead of an option.
fn instead(option: &str) -> Option<&'static str> {
    let name = option.split('=').next().unwrap_or_default();
    INSTEAD.iter().find(|(names, _)| names.contains(&name)).map(|(_, instead)| *instead)
}

/// Puts what to do instead in the place of what clap says of an option that it does not know.
pub(super) fn explained(error: clap::Error) -> clap::Error {
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) if error.kind() == ErrorKind::UnknownArgument => option.clone(),
        _ => return error,
    };
    match instead(&option) {
        Some(instead) => {
            clap::Error::raw(ErrorKind::UnknownArgument, format!("{option} of dnsdist: {instead}\n"))
        }
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::flags::parse;

    #[test]
    fn options_of_dnsdist_say_what_to_do_instead() {
        for (option, word) in [
            ("-d", "foreground"),
            ("--daemon", "foreground"),
            ("--pidfile=/run/x", "supervisor"),
            ("-p", "supervisor"),
            ("--log-timestamps", "leave it out"),
            ("--no-config", "LISTEN BACKEND"),
        ] {
            let error = parse(["dnslob", option, "-C", "x"]).expect_err("an error").to_string();
            assert!(
                error.contains(word) && error.contains("dnsdist") && !error.contains("similar"),
                "{error}"
            );
        }
        let error = parse(["dnslob", "--drian", "-C", "x"]).expect_err("an error").to_string();
        assert!(error.contains("--drain"), "{error}");
    }

    #[test]
    fn a_command_may_begin_with_a_hyphen() {
        for command in ["-1", "-- x"] {
            assert!(parse(["dnslob", "console", "-e", command]).is_ok(), "{command}");
        }
    }
}
