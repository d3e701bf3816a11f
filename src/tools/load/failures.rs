//! Why connections could not be made, each reason with its number.

use std::io::{self, ErrorKind};

/// Reasons that are told apart.
const REASONS_MAX: usize = 16;
/// The reason of all others.
const OTHERS: &str = "other reasons";
/// What reasons begin with where the connection is there, and TLS is not.
const HANDSHAKE: &str = "TLS handshake: ";

/// Errors of the operating system that have a word of ours.
const WORDS: [(ErrorKind, &str); 6] = [
    (ErrorKind::ConnectionRefused, "refused"),
    (ErrorKind::ConnectionReset, "reset"),
    (ErrorKind::TimedOut, "timed out"),
    (ErrorKind::HostUnreachable, "host unreachable"),
    (ErrorKind::NetworkUnreachable, "network unreachable"),
    (ErrorKind::AddrNotAvailable, "no local address or port"),
];

/// Reasons with their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures(Vec<(String, u64)>);

impl Failures {
    /// Adds a failure.
    pub(crate) fn add(&mut self, why: &str) {
        self.add_many(why, 1);
    }

    fn add_many(&mut self, why: &str, count: u64) {
        let why = if self.0.len() < REASONS_MAX || self.0.iter().any(|(known, _)| known == why) {
            why
        } else {
            OTHERS
        };
        match self.0.iter_mut().find(|(known, _)| known == why) {
            Some((_, n)) => *n += count,
            None => self.0.push((why.to_owned(), count)),
        }
    }

    /// Adds those of another.
    pub(crate) fn join(&mut self, other: &Self) {
        other.0.iter().for_each(|(why, count)| self.add_many(why, *count));
        self.0.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    }

    /// Returns the reasons, the most frequent first once they are joined.
    pub(crate) fn all(&self) -> &[(String, u64)] {
        &self.0
    }
}

/// Writes the reason of a failure that is known by these words.
pub(crate) fn at_handshake(is_handshake: bool, why: &str) -> String {
    format!("{}{why}", if is_handshake { HANDSHAKE } else { "" })
}

/// Writes the reason of an error.
pub(crate) fn reason(error: &io::Error) -> String {
    let word = WORDS.iter().find(|(kind, _)| *kind == error.kind());
    word.map_or_else(
        || {
            let text = error.to_string();
            // The number says nothing more.
            let mut chars = text.split(" (os error").next().unwrap_or(&text).chars();
            chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
        },
        |(_, word)| (*word).to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_words() {
        let of = |code| reason(&io::Error::from_raw_os_error(code));
        assert_eq!([of(libc::ECONNREFUSED), of(libc::ETIMEDOUT)], ["refused", "timed out"]);
        assert_eq!(of(libc::EACCES), "permission denied");
        assert_eq!(at_handshake(true, &of(libc::ECONNRESET)), "TLS handshake: reset");
        assert_eq!(reason(&io::Error::other("certificate expired")), "certificate expired");
    }

    #[test]
    fn the_most_frequent_is_first_and_there_are_not_too_many() {
        let (mut a, mut b) = (Failures::default(), Failures::default());
        (0..100).for_each(|n| a.add(&format!("reason {n}")));
        ["refused", "refused", "reason 3"].iter().for_each(|why| b.add(why));
        let mut all = Failures::default();
        all.join(&a);
        all.join(&b);
        assert_eq!(all.all()[0], (OTHERS.to_owned(), 86));
        assert_eq!((all.all()[1].clone(), all.all().len()), (("reason 3".to_owned(), 2), REASONS_MAX + 1));
        assert_eq!(all.all().iter().map(|(_, n)| n).sum::<u64>(), 103);
    }
}
