//! Where an error of a function is: in Lua's own words if they name a line of the configuration,
//! else where the function begins.

use mlua::Function;

use crate::config::ruleset::Recorded;

/// Our own chunks, which are no places in a configuration.
const OWN_CHUNKS: [&str; 8] = ["call", "prelude", "library", "pcall", "ffi", "older", "print", "bound"];

/// Returns the file and line where a function begins; none for a text.
pub(crate) fn of(recorded: &Recorded) -> Option<String> {
    at(&recorded.source, recorded.line as usize)
}

/// The same of a function itself.
pub(crate) fn of_function(function: &Function) -> Option<String> {
    let info = function.info();
    at(&info.source?, info.line_defined?)
}

fn at(source: &str, line: usize) -> Option<String> {
    (line > 0).then(|| format!("{}:{line}", source.strip_prefix('@').unwrap_or("(a string)")))
}

/// Returns a message with a place in front: its own, or that of the function. A function that ends
/// with the call of another one is not on the stack any more when that one fails.
pub(crate) fn placed(message: &str, function: Option<&str>) -> String {
    let own = message.match_indices(':').find_map(|(at, _)| {
        let (line, rest) = message[at + 1..].split_once(": ")?;
        line.parse::<u32>().ok()?;
        Some((&message[..at], rest))
    });
    let rest = match own {
        Some((chunk, rest)) if OWN_CHUNKS.contains(&chunk) => rest,
        Some(_) => return message.to_owned(),
        None => message,
    };
    function.map_or_else(|| rest.to_owned(), |place| format!("{place}: {rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_names_a_line_of_the_configuration() {
        let function = Some("/etc/a.conf:7");
        for (message, want) in [
            ("/etc/a.conf:9: attempt to index", "/etc/a.conf:9: attempt to index"),
            ("...long/a.conf:9: attempt to index", "...long/a.conf:9: attempt to index"),
            ("call:3: bad argument #1 to '?'", "/etc/a.conf:7: bad argument #1 to '?'"),
            ("prelude:70: no", "/etc/a.conf:7: no"),
            ("DNSAction.Spoof needs addresses", "/etc/a.conf:7: DNSAction.Spoof needs addresses"),
        ] {
            assert_eq!(placed(message, function), want);
        }
        assert_eq!(placed("call:3: no", None), "no");
    }
}
