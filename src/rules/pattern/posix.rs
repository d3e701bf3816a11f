//! Translates POSIX extended expressions to the syntax of the regex engine.
//!
//! They differ within brackets: POSIX has no escapes, no nested sets and no set operations there,
//! so `[\d]` is a backslash or a `d`. Outside of brackets the engine's own escapes (`\d`, `\w`,
//! `\b` and so on) work too.

/// Returns the same expression for the regex engine. Errors stay in it, and its parser reports
/// them.
pub(crate) fn translate(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        out.push(c);
        match c {
            '\\' => out.extend(rest.next()),
            '[' => bracket(&mut rest, &mut out),
            _ => {}
        }
    }
    out
}

/// Translates the inside of a bracket expression, up to its closing bracket.
fn bracket(rest: &mut std::str::Chars<'_>, out: &mut String) {
    if rest.as_str().starts_with('^') {
        out.extend(rest.next());
    }
    if rest.as_str().starts_with(']') {
        rest.next();
        out.push_str(r"\]");
    }
    while let Some(c) = rest.next() {
        match c {
            ']' => {
                out.push(c);
                return;
            }
            '[' => match rest.as_str().split_once(":]").filter(|(class, _)| class.starts_with(':')) {
                Some((class, behind)) => {
                    out.push('[');
                    out.push_str(class);
                    out.push_str(":]");
                    *rest = behind.chars();
                }
                None => out.push_str(r"\["),
            },
            '\\' | '&' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '-' if rest.as_str().starts_with('-') => out.push_str(r"\-"),
            _ => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_are_read_as_posix_does() {
        for (text, expected) in [
            ("^a[bc]d$", "^a[bc]d$"),
            (r"[\d]\d", r"[\\d]\d"),
            ("[]a]", r"[\]a]"),
            ("[^]a]", r"[^\]a]"),
            ("[[:alpha:]_]", "[[:alpha:]_]"),
            ("[[a]", r"[\[a]"),
            ("[a&&b]", r"[a\&\&b]"),
            ("[--/]", r"[\--/]"),
            (r"\[a]", r"\[a]"),
            ("[a", "[a"),
        ] {
            assert_eq!(translate(text), expected, "{text}");
        }
    }
}
