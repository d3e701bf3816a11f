//! How many queries of one client with the same question are outstanding, whatever their servers: a
//! loop over another program makes them many.
//!
//! ```text
//!  client ─► dnslob ─► forwarder ─► dnslob ─► forwarder ─► …    never answered; each turn is one more
//! ```
//!
//! Many are also a popular name behind one address while a server is slow. There answers come back,
//! which in a loop none does: each answer allows one more query above the limit.
//!
//! Different clients and questions may share a counter, so a count can be too high by what else is
//! outstanding with it: a sixteen-thousandth of all. Below 65,535, where it stays, it is never too low.

/// Bits of a counter's number: 64 KiB a shard.
const BITS: u32 = 14;

/// The limit of queries that are not from a server of ours is this many times as high, and so is what
/// answers can raise it to.
const TIMES_MAX: u16 = 10;

/// The counters: of outstanding queries, and of answers that no query above the limit has used up.
#[derive(Debug)]
pub(super) struct Repeats(Box<[(u16, u16)]>);

/// The number of a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct At(u16);

impl Default for Repeats {
    fn default() -> Self {
        Self(vec![(0, 0); 1 << BITS].into_boxed_slice())
    }
}

impl Repeats {
    /// Returns the counter of a question, by its keyed hash, and a client's address without its
    /// port: a forwarder may use a new one for each query.
    #[inline]
    pub(super) const fn at(question: u64, client: &[u8; 16]) -> At {
        let (halves, _) = client.as_chunks::<8>();
        let (low, high) = (u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1]));
        let mixed = (question ^ low ^ high.rotate_left(23)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        At((mixed >> (u64::BITS - BITS)) as u16)
    }

    /// Returns whether one more query is too many. `is_server`: the client's address is that of a server
    /// of ours, as it is in a loop over that alone.
    #[inline]
    pub(super) fn exceeds(&mut self, at: At, max: u16, is_server: impl FnOnce() -> bool) -> bool {
        self.0[usize::from(at.0)].0 >= max && self.uses_up(at, max, is_server)
    }

    #[cold]
    fn uses_up(&mut self, at: At, max: u16, is_server: impl FnOnce() -> bool) -> bool {
        let (count, answers) = &mut self.0[usize::from(at.0)];
        let most = max.saturating_mul(TIMES_MAX);
        *answers = (*answers).min(most - max);
        if *count >= most {
            return true;
        }
        if *answers > 0 {
            *answers -= 1;
            return false;
        }
        is_server()
    }

    #[inline]
    pub(super) fn begin(&mut self, at: At) {
        let (count, _) = &mut self.0[usize::from(at.0)];
        *count = count.saturating_add(1);
    }

    #[inline]
    pub(super) fn end(&mut self, at: At, is_answered: bool) {
        let (count, answers) = &mut self.0[usize::from(at.0)];
        *count = count.saturating_sub(1);
        *answers = answers.saturating_add(u16::from(is_answered));
    }

    /// Returns the sum of all counters; for tests.
    pub(super) fn total(&self) -> u64 {
        self.0.iter().map(|(count, _)| u64::from(*count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: At = At(7);

    fn after(queries: u16, answers: u16) -> Repeats {
        let mut repeats = Repeats::default();
        (0..answers).for_each(|_| {
            repeats.begin(AT);
            repeats.end(AT, true);
        });
        (0..queries).for_each(|_| repeats.begin(AT));
        repeats
    }

    #[test]
    fn a_loop_ends_and_answers_are_no_loop() {
        assert!(!after(2, 0).exceeds(AT, 3, || true));
        assert!(after(3, 0).exceeds(AT, 3, || true), "nothing is answered, and a server asks");
        assert!(!after(29, 0).exceeds(AT, 3, || false), "somebody else asks");
        assert!(after(30, 0).exceeds(AT, 3, || false) && after(30, 100).exceeds(AT, 3, || false));
        let mut answered = after(3, 2);
        assert_eq!([(); 3].map(|()| answered.exceeds(AT, 3, || true)), [false, false, true]);
        let mut answered = after(3, 100);
        let allowed = (0..100).filter(|_| !answered.exceeds(AT, 3, || true)).count();
        assert_eq!(allowed, 27, "what answers allow is bounded");
        let mut timed_out = after(3, 0);
        timed_out.end(AT, false);
        timed_out.begin(AT);
        assert!(timed_out.exceeds(AT, 3, || true));
        assert!(after(u16::MAX, 0).exceeds(AT, u16::MAX, || false));
    }
}
