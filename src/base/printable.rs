//! Text for people that others have supplied: it stays within its line.
//!
//! Names, regular expressions and paths of a configuration, and texts of packets, may contain line
//! ends and the escape sequences of terminals. Written as they are, they could add lines to a log or
//! a table, or change what a terminal shows. Whatever writes such lines wraps them.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};

/// Most characters of a line that quotes others: of an error with a hint, of a change with its values. Who sends a
/// request of megabytes must not fill the log with it.
pub const LINE_CHARS: usize = 2_000;

/// Formats a value with its control characters escaped as in Rust: `\n`, `\u{1b}`.
///
/// Backslashes stay: the text is not parsed again, and regular expressions and names are full of
/// them.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T>(pub T);

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

/// Returns a text, or its beginning and `...`.
#[must_use]
pub fn cut(text: &str, chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}...", &text[..at]).into(),
        None => text.into(),
    }
}

/// Returns a line, or its beginning, if it is longer than [`LINE_CHARS`].
#[must_use]
pub fn shortened(text: &str) -> Cow<'_, str> {
    cut(text, LINE_CHARS)
}

/// Writes text on, escaped.
struct Escaping<W>(W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(breaks_lines) {
            self.0.write_str(&rest[..at])?;
            let mut behind = rest[at..].chars();
            for character in behind.next().into_iter().flat_map(char::escape_debug) {
                self.0.write_char(character)?;
            }
            rest = behind.as_str();
        }
        self.0.write_str(rest)
    }
}

/// Control characters, the line ends of Unicode, which some viewers follow, and its marks of writing
/// direction, which show a line in another order (Unicode Standard Annex 9).
fn breaks_lines(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters() {
        for (text, expected) in
            [("", ""), ("abc", "abc"), ("abcd", "abc..."), ("é世界", "é世界"), ("é世界x", "é世界...")]
        {
            assert_eq!(cut(text, 3), expected);
        }
        assert_eq!(shortened(&"x".repeat(200_000)).len(), LINE_CHARS + 3);
    }

    #[test]
    fn control_characters_are_escaped_and_all_others_stay() {
        for (text, expected) in [
            ("", ""),
            (r"^a\.b$ 'x' é 世界", r"^a\.b$ 'x' é 世界"),
            ("a\nb\r\n", r"a\nb\r\n"),
            ("\t\0\u{7f}", r"\t\0\u{7f}"),
            ("\u{1b}[31mred", r"\u{1b}[31mred"),
            ("\u{9b}2J\u{85}", r"\u{9b}2J\u{85}"),
            ("a\u{2028}b\u{2029}", r"a\u{2028}b\u{2029}"),
            ("a\u{202e}b\u{2066}", r"a\u{202e}b\u{2066}"),
        ] {
            assert_eq!(Printable(text).to_string(), expected);
        }
    }
}
