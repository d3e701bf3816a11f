//! Lua's patterns: the matcher of LuaJIT's string library, with a time limit.
//!
//! The matcher of the library is C code, which checks no hook: `("a"):rep(300)` against a pattern
//! with four `.-` keeps it busy for minutes. This one checks every few thousand steps whether the
//! call is over. Errors, captures and limits are those of LuaJIT; the library's tests compare the
//! two.
//!
//! As in LuaJIT a pattern ends at its first zero byte, and a zero follows the end of the subject.

use std::fmt;

/// Captures of one pattern, at most.
const CAPTURES_MAX: usize = 32;
/// Nested repetitions and captures.
const DEPTH_MAX: u32 = 200;
/// Steps between two checks of the time: about 20 us.
const STEPS: u32 = 4096;

/// Errors in a pattern or its use, in the words of LuaJIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It took too long.
    Over,
    /// `%` at its end.
    EndsWithEscape,
    /// A set without its end.
    MissingBracket,
    /// `%b` without two characters.
    UnbalancedBalance,
    /// `%f` without a set.
    MissingFrontier,
    /// Repetitions and captures are nested too deep.
    TooComplex,
    /// More than 32 captures.
    TooManyCaptures,
    /// `)` without `(`.
    InvalidPattern,
    /// `%1` without a capture.
    InvalidCapture,
    /// `(` without `)`.
    UnfinishedCapture,
    /// The result of a substitution is longer than any string.
    TooLong,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Over => "the pattern took too long",
            Self::EndsWithEscape => "malformed pattern (ends with '%')",
            Self::MissingBracket => "malformed pattern (missing ']')",
            Self::UnbalancedBalance => "unbalanced pattern",
            Self::MissingFrontier => "missing '[' after '%f' in pattern",
            Self::TooComplex => "pattern too complex",
            Self::TooManyCaptures => "too many captures",
            Self::InvalidPattern => "invalid pattern capture",
            Self::InvalidCapture => "invalid capture index",
            Self::UnfinishedCapture => "unfinished capture",
            Self::TooLong => "not enough memory",
        })
    }
}

/// One capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Bytes of the subject.
    Text(usize, usize),
    /// A position in the subject, from 1.
    Position(usize),
}

#[derive(Clone, Copy)]
enum Length {
    Unfinished,
    Position,
    Bytes(usize),
}

/// A subject and a pattern.
pub struct Matcher<'a> {
    subject: &'a [u8],
    pattern: &'a [u8],
    captures: [(usize, Length); CAPTURES_MAX],
    level: usize,
    depth: u32,
    steps: u32,
    is_over: &'a dyn Fn() -> bool,
}

/// The end of a match, if there is one.
type Found = Result<Option<usize>, Wrong>;

impl<'a> Matcher<'a> {
    /// `is_over` returns whether the search is to be given up.
    #[must_use]
    pub fn new(subject: &'a [u8], pattern: &'a [u8], is_over: &'a dyn Fn() -> bool) -> Self {
        let end = pattern.iter().position(|c| *c == 0).unwrap_or(pattern.len());
        Self {
            subject,
            pattern: &pattern[..end],
            captures: [(0, Length::Unfinished); CAPTURES_MAX],
            level: 0,
            depth: 0,
            steps: STEPS,
            is_over,
        }
    }

    /// Returns start and end of the first match at or after `from`. With `anchors` a `^` in front
    /// means that it must be at `from`.
    ///
    /// # Errors
    /// What is wrong with the pattern, or that the search was given up.
    pub fn search(&mut self, from: usize, anchors: bool) -> Result<Option<(usize, usize)>, Wrong> {
        let anchored = anchors && self.pattern.first() == Some(&b'^');
        let last = if anchored { from } else { self.subject.len() };
        for start in from..=last {
            if let Some(end) = self.match_at(start, usize::from(anchored))? {
                return Ok(Some((start, end)));
            }
        }
        Ok(None)
    }

    /// Returns the end of a match that begins at `start`, by the pattern from index `p`.
    pub(crate) fn match_at(&mut self, start: usize, p: usize) -> Found {
        (self.level, self.depth) = (0, 0);
        self.matches(start, p)
    }

    /// Returns the number of captures of the last match.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.level
    }

    /// Returns a capture of the last match, which went from `start` to `end` and is the first
    /// capture of a pattern without captures.
    ///
    /// # Errors
    /// There is no such capture, or it has no end.
    pub fn capture(&self, at: usize, start: usize, end: usize) -> Result<Capture, Wrong> {
        if at >= self.level {
            return if at == 0 { Ok(Capture::Text(start, end)) } else { Err(Wrong::InvalidCapture) };
        }
        let (start, length) = self.captures[at];
        match length {
            Length::Unfinished => Err(Wrong::UnfinishedCapture),
            Length::Position => Ok(Capture::Position(start + 1)),
            Length::Bytes(length) => Ok(Capture::Text(start, start + length)),
        }
    }

    fn step(&mut self) -> Result<(), Wrong> {
        self.steps -= 1;
        if self.steps > 0 {
            return Ok(());
        }
        self.steps = STEPS;
        if (self.is_over)() { Err(Wrong::Over) } else { Ok(()) }
    }

    /// Returns a byte of the pattern; zero after its end.
    fn at(&self, p: usize) -> u8 {
        self.pattern.get(p).copied().unwrap_or(0)
    }

    /// Returns a byte of the subject; zero after its end.
    fn byte(&self, s: usize) -> u8 {
        self.subject.get(s).copied().unwrap_or(0)
    }

    fn matches(&mut self, mut s: usize, mut p: usize) -> Found {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Wrong::TooComplex);
        }
        let found = loop {
            self.step()?;
            match (self.at(p), self.at(p + 1)) {
                (b'(', b')') => break self.start_capture(s, p + 2, Length::Position)?,
                (b'(', _) => break self.start_capture(s, p + 1, Length::Unfinished)?,
                (b')', _) => break self.end_capture(s, p + 1)?,
                (b'%', b'b') => match self.balanced(s, p + 2)? {
                    Some(end) => (s, p) = (end, p + 4),
                    None => break None,
                },
                (b'%', b'f') => {
                    p += 2;
                    if self.at(p) != b'[' {
                        return Err(Wrong::MissingFrontier);
                    }
                    let end = self.class_end(p)?;
                    let before = if s == 0 { 0 } else { self.byte(s - 1) };
                    if self.in_set(before, p, end - 1) || !self.in_set(self.byte(s), p, end - 1) {
                        break None;
                    }
                    p = end;
                }
                (b'%', digit) if digit.is_ascii_digit() => match self.again(s, digit)? {
                    Some(end) => (s, p) = (end, p + 2),
                    None => break None,
                },
                (0, _) => break Some(s),
                (b'$', 0) if p + 1 >= self.pattern.len() => {
                    break (s == self.subject.len()).then_some(s);
                }
                _ => {
                    let end = self.class_end(p)?;
                    let fits = self.fits(s, p, end);
                    match self.at(end) {
                        b'?' => {
                            if fits && let Some(found) = self.matches(s + 1, end + 1)? {
                                break Some(found);
                            }
                            p = end + 1;
                        }
                        b'*' => break self.most(s, p, end)?,
                        b'+' => break if fits { self.most(s + 1, p, end)? } else { None },
                        b'-' => break self.fewest(s, p, end)?,
                        _ if fits => (s, p) = (s + 1, end),
                        _ => break None,
                    }
                }
            }
        };
        self.depth -= 1;
        Ok(found)
    }

    fn most(&mut self, s: usize, p: usize, end: usize) -> Found {
        let mut count = 0;
        while self.fits(s + count, p, end) {
            self.step()?;
            count += 1;
        }
        loop {
            if let Some(found) = self.matches(s + count, end + 1)? {
                return Ok(Some(found));
            }
            if count == 0 {
                return Ok(None);
            }
            count -= 1;
        }
    }

    fn fewest(&mut self, mut s: usize, p: usize, end: usize) -> Found {
        loop {
            if let Some(found) = self.matches(s, end + 1)? {
                return Ok(Some(found));
            }
            if !self.fits(s, p, end) {
                return Ok(None);
            }
            s += 1;
        }
    }

    fn start_capture(&mut self, s: usize, p: usize, length: Length) -> Found {
        let Some(capture) = self.captures.get_mut(self.level) else { return Err(Wrong::TooManyCaptures) };
        *capture = (s, length);
        self.level += 1;
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.level -= 1;
        }
        Ok(found)
    }

    fn end_capture(&mut self, s: usize, p: usize) -> Found {
        let open = self.captures[..self.level].iter().rposition(|c| matches!(c.1, Length::Unfinished));
        let at = open.ok_or(Wrong::InvalidPattern)?;
        self.captures[at].1 = Length::Bytes(s - self.captures[at].0);
        let found = self.matches(s, p)?;
        if found.is_none() {
            self.captures[at].1 = Length::Unfinished;
        }
        Ok(found)
    }

    /// Matches the text of an earlier capture again.
    fn again(&mut self, s: usize, digit: u8) -> Found {
        let at = usize::from(digit).checked_sub(usize::from(b'1')).ok_or(Wrong::InvalidCapture)?;
        let captured = self.captures[..self.level].get(at).copied();
        match captured {
            None | Some((_, Length::Unfinished)) => Err(Wrong::InvalidCapture),
            // A position has no bytes, and matches nothing.
            Some((_, Length::Position)) => Ok(None),
            Some((start, Length::Bytes(length))) => {
                let part = &self.subject[start..start + length];
                let found = self.subject.get(s..).is_some_and(|rest| rest.starts_with(part));
                for _ in 0..length / 64 {
                    self.step()?;
                }
                Ok(found.then_some(s + length))
            }
        }
    }

    /// Matches from an opening character to its closing one.
    fn balanced(&mut self, s: usize, p: usize) -> Found {
        let (opening, closing) = (self.at(p), self.at(p + 1));
        if opening == 0 || closing == 0 {
            return Err(Wrong::UnbalancedBalance);
        }
        if self.byte(s) != opening {
            return Ok(None);
        }
        let mut open = 1_usize;
        for at in s + 1..self.subject.len() {
            self.step()?;
            let byte = self.subject[at];
            if byte == closing {
                open -= 1;
                if open == 0 {
                    return Ok(Some(at + 1));
                }
            } else if byte == opening {
                open += 1;
            }
        }
        Ok(None)
    }

    /// Returns the index after the single character, class or set at `p`.
    fn class_end(&self, p: usize) -> Result<usize, Wrong> {
        match self.at(p) {
            b'%' if self.at(p + 1) == 0 => Err(Wrong::EndsWithEscape),
            b'%' => Ok(p + 2),
            b'[' => {
                let mut p = p + 1;
                if self.at(p) == b'^' {
                    p += 1;
                }
                loop {
                    let byte = self.at(p);
                    if byte == 0 {
                        return Err(Wrong::MissingBracket);
                    }
                    p += 1;
                    if byte == b'%' && self.at(p) != 0 {
                        p += 1;
                    }
                    if self.at(p) == b']' {
                        return Ok(p + 1);
                    }
                }
            }
            _ => Ok(p + 1),
        }
    }

    /// Returns whether the byte at `s` matches the item from `p` to `end`.
    fn fits(&self, s: usize, p: usize, end: usize) -> bool {
        let Some(byte) = self.subject.get(s).copied() else { return false };
        match self.at(p) {
            b'.' => true,
            b'%' => is_class(byte, self.at(p + 1)),
            b'[' => self.in_set(byte, p, end - 1),
            own => own == byte,
        }
    }

    /// Returns whether a byte is in the set from `[` to `]`.
    fn in_set(&self, byte: u8, mut p: usize, end: usize) -> bool {
        let mut inside = true;
        if self.at(p + 1) == b'^' {
            inside = false;
            p += 1;
        }
        loop {
            p += 1;
            if p >= end {
                return !inside;
            }
            let own = self.at(p);
            if own == b'%' {
                p += 1;
                if is_class(byte, self.at(p)) {
                    return inside;
                }
            } else if self.at(p + 1) == b'-' && p + 2 < end {
                p += 2;
                if (own..=self.at(p)).contains(&byte) {
                    return inside;
                }
            } else if own == byte {
                return inside;
            }
        }
    }
}

/// Returns whether a byte is in the class of a letter; a capital inverts it.
fn is_class(byte: u8, letter: u8) -> bool {
    let found = match letter.to_ascii_lowercase() {
        b'a' => byte.is_ascii_alphabetic(),
        b'c' => byte.is_ascii_control(),
        b'd' => byte.is_ascii_digit(),
        b'g' => byte.is_ascii_graphic(),
        b'l' => byte.is_ascii_lowercase(),
        b'p' => byte.is_ascii_punctuation(),
        // C counts vertical tabs as space.
        b's' => byte.is_ascii_whitespace() || byte == 0x0b,
        b'u' => byte.is_ascii_uppercase(),
        b'w' => byte.is_ascii_alphanumeric(),
        b'x' => byte.is_ascii_hexdigit(),
        b'z' => byte == 0,
        _ => return byte == letter,
    };
    found != letter.is_ascii_uppercase()
}

/// Returns the longest subject on which the library's own matcher takes at most some 200,000 steps
/// for this pattern, half a millisecond, whatever the subject contains.
#[must_use]
pub fn reach(pattern: &[u8], is_plain: bool) -> u32 {
    const STEPS_MAX: f64 = 200_000.0;
    let length = pattern.len().max(1);
    if is_plain {
        return (STEPS_MAX / f64::from(u32::try_from(length).unwrap_or(u32::MAX))) as u32;
    }
    // Each repetition can end at each byte; the whole can begin at each.
    let anchored = pattern.first() == Some(&b'^');
    let (mut repetitions, mut options, mut at) = (u32::from(!anchored), 0, 0);
    while let Some(byte) = pattern.get(at) {
        match byte {
            b'*' | b'+' | b'-' => repetitions += 1,
            b'?' => options += 1,
            b'%' => {
                at += 1;
                // What is balanced, or captured and matched again, may be long.
                let long = pattern.get(at).is_some_and(|c| *c == b'b' || c.is_ascii_digit());
                repetitions += u32::from(long);
            }
            // Its end; the first character never closes the set.
            b'[' => {
                at += if pattern.get(at + 1) == Some(&b'^') { 3 } else { 2 };
                while let Some(byte) = pattern.get(at).filter(|c| **c != b']') {
                    at += if *byte == b'%' { 2 } else { 1 };
                }
            }
            _ => {}
        }
        at += 1;
    }
    let length = f64::from(u32::try_from(length).unwrap_or(u32::MAX));
    let starts = STEPS_MAX / (length * f64::from(options).exp2());
    if repetitions == 0 {
        return if starts >= 1.0 { i32::MAX as u32 } else { 0 };
    }
    // Saturates: at most 200,000, and 0 for values below 1.
    starts.powf(1.0 / f64::from(repetitions)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_search_is_given_up_and_short_one_finishes() {
        let asked = std::cell::Cell::new(0);
        let over = || {
            asked.set(asked.get() + 1);
            asked.get() == 3
        };
        let pattern = [b".-".repeat(4), b"b".to_vec()].concat();
        let subject = [b'a'; 300];
        assert_eq!(Matcher::new(&subject, &pattern, &over).search(0, true), Err(Wrong::Over));
        assert_eq!(Matcher::new(b"www.example.", b"%.(%a+)%.$", &over).search(0, true), Ok(Some((3, 12))));
        assert_eq!(asked.get(), 3);
        let open = [b'('; 1 << 16];
        assert_eq!(Matcher::new(&open, b"%b()%b()%b()", &|| true).search(0, true), Err(Wrong::Over));
        let same = [b'a'; 1 << 16];
        assert_eq!(Matcher::new(&same, b"(a*)%1b", &|| true).search(0, true), Err(Wrong::Over));
    }

    #[test]
    fn librarys_matcher_gets_short_subjects() {
        for (pattern, length) in [
            ("example", 28_571),
            ("%.", 100_000),
            ("^www%.", i32::MAX as u32),
            ("^(.-)%.", 28_571),
            ("[a-z0-9-]+", 141),
            ("(.-)%.(.-)%.", 25),
            (".-.-.-.-b", 7),
            ("a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?", 0),
            ("^a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?a?", 0),
            ("%b()", 223),
            ("[", 200_000),
            ("[%", 100_000),
        ] {
            assert_eq!(reach(pattern.as_bytes(), false), length, "{pattern}");
        }
        assert_eq!((reach(b"", true), reach(&[b'a'; 1000], true)), (200_000, 200));
    }
}
