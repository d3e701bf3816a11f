//! What one thread counts, an interval of a second at a time.

use crate::base::time::{Tick, TickDelta};
use crate::tools::load::spans::Spans;
use crossbeam_channel::Sender;

/// An interval.
pub(crate) const INTERVAL: TickDelta = TickDelta::from_ms(1_000);
/// Response codes that are counted each by itself, up to BADCOOKIE (RFC 7873).
pub(crate) const CODES: usize = 24;

macro_rules! counts {
    ($($(#[doc = $doc:literal])* $field:ident: $label:literal,)*) => {
        /// What happened to queries, and what else came.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub(crate) struct Counts {
            $($(#[doc = $doc])* pub(crate) $field: u64,)*
            /// Answers by their response code, with its high bits from the OPT record.
            pub(crate) codes: [u64; CODES],
        }

        impl Counts {
            /// Adds those of another.
            pub(crate) fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
                for (here, there) in self.codes.iter_mut().zip(other.codes) {
                    *here += there;
                }
            }

            /// Returns each with its name.
            pub(crate) fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$(($label, self.$field),)*]
            }
        }
    };
}

counts! {
    /// Queries sent.
    sent: "sent",
    /// Answers that fit their query.
    answered: "answered",
    /// Answers with TC.
    truncated: "truncated",
    /// Queries without an answer in time.
    timed_out: "timed-out",
    /// Queries to a port that refused them.
    refused: "refused",
    /// Queries whose connection ended.
    closed: "closed",
    /// Queries that waited when the run was cut short.
    cut_short: "cut-short",
    /// Queries that were due while there was no connection, until their time was over.
    unconnected: "unconnected",
    /// Queries that were due and not sent before the end.
    not_sent: "not-sent",
    /// Queries that the kernel did not take.
    send_errors: "send-errors",
    /// Answers with the id of a query and another question.
    wrong_question: "wrong-question",
    /// Answers with the records of another query.
    wrong_records: "wrong-records",
    /// Answers without the query's cookie.
    wrong_cookie: "wrong-cookie",
    /// Messages that are no answers.
    malformed: "malformed",
    /// Answers with a response code that is not counted by itself.
    other_codes: "other-codes",
    /// Answers that nobody waits for.
    unexpected: "unexpected",
    /// Answers after their time-out.
    late: "late",
    /// Answers that came twice.
    duplicate: "duplicate",
    /// Connections made.
    connections: "connections",
    /// Connections that could not be made.
    connect_errors: "connect-errors",
}

impl Counts {
    /// Returns the queries that have ended without an answer.
    pub(crate) const fn lost(&self) -> u64 {
        self.timed_out + self.refused + self.closed + self.cut_short + self.unconnected
    }

    /// Returns the queries that a server should have answered: those that were sent, or would have been
    /// if it took connections.
    pub(crate) const fn asked(&self) -> u64 {
        self.sent + self.unconnected
    }

    /// Returns the queries that were due and did not leave this machine, for whatever reason.
    pub(crate) const fn unsent(&self) -> u64 {
        self.unconnected + self.not_sent + self.send_errors
    }

    /// Returns the queries that were due.
    pub(crate) const fn due(&self) -> u64 {
        self.sent + self.unsent()
    }

    /// Returns the queries that were sent and are neither answered nor lost, of all counts since the
    /// begin.
    pub(crate) const fn outstanding(&self) -> u64 {
        self.sent.saturating_sub(self.answered + self.lost() - self.unconnected)
    }

    /// Counts the response code of an answer.
    pub(crate) fn code(&mut self, code: u16) {
        match self.codes.get_mut(usize::from(code)) {
            Some(count) => *count += 1,
            None => self.other_codes += 1,
        }
    }

    /// Returns the answers that are wrong.
    pub(crate) const fn wrong(&self) -> u64 {
        self.wrong_question + self.wrong_records + self.wrong_cookie + self.malformed + self.unexpected
    }
}

/// What a thread measured in an interval.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    /// The thread's number, from 0.
    pub(crate) thread: usize,
    /// Its number, from 0.
    pub(crate) number: u64,
    /// Whether it is the thread's last, or that of one of several.
    pub(crate) last: bool,
    /// What was counted.
    pub(crate) counts: Counts,
    /// From the begin of the run to the last answer.
    pub(crate) answered_until: TickDelta,
    /// From the intended time of sending to the answer, nanoseconds.
    pub(crate) latency: Spans,
    /// From the true time of sending to the answer, nanoseconds.
    pub(crate) naive: Spans,
    /// From the intended to the true time of sending, nanoseconds.
    pub(crate) lag: Spans,
}

impl Interval {
    /// Creates an empty one.
    pub(crate) fn new(number: u64) -> Self {
        let (latency, naive, lag) = (Spans::new(), Spans::new(), Spans::new());
        let (counts, answered_until) = (Counts::default(), TickDelta(0));
        Self { thread: 0, number, last: false, counts, answered_until, latency, naive, lag }
    }

    /// Adds what another thread measured in the same interval.
    pub(crate) fn add(&mut self, other: &Self) {
        self.last |= other.last;
        self.counts.add(&other.counts);
        self.answered_until = self.answered_until.max(other.answered_until);
        for (here, there) in [
            (&mut self.latency, &other.latency),
            (&mut self.naive, &other.naive),
            (&mut self.lag, &other.lag),
        ] {
            here.add(there);
        }
    }
}

/// The tally of one thread.
#[derive(Debug)]
pub(crate) struct Tally {
    thread: usize,
    begin: Tick,
    /// Whether queries have a time to be sent at, so that they can be late.
    is_timed: bool,
    current: Interval,
    send: Sender<Interval>,
}

impl Tally {
    /// Starts counting; intervals count from `begin`, and go to `send`.
    pub(crate) fn new(thread: usize, begin: Tick, is_timed: bool, send: Sender<Interval>) -> Self {
        Self { thread, begin, is_timed, current: Interval::new(0), send }
    }

    /// Counts intervals from another time, before the first is over.
    pub(crate) const fn begin_at(&mut self, begin: Tick) {
        self.begin = begin;
    }

    /// Returns what is counted in this interval.
    pub(crate) const fn counts(&mut self) -> &mut Counts {
        &mut self.current.counts
    }

    /// Returns whether queries have a time to be sent at.
    pub(crate) const fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// Counts a query that was sent.
    #[inline]
    pub(crate) fn sent(&mut self, intended: Tick, sent: Tick) {
        self.current.counts.sent += 1;
        if self.is_timed {
            self.current.lag.record(sent.since(intended).0);
        }
    }

    /// Counts an answer.
    #[inline]
    pub(crate) fn answered(&mut self, intended: Tick, sent: Tick, now: Tick) {
        self.current.counts.answered += 1;
        self.current.answered_until = now.since(self.begin);
        self.current.latency.record(now.since(intended).0);
        self.current.naive.record(now.since(sent).0);
    }

    /// Hands over the interval if it is over.
    pub(crate) fn on_time(&mut self, now: Tick) {
        let number = now.since(self.begin).0 / INTERVAL.0;
        if number > self.current.number {
            self.hand_over(number);
        }
    }

    /// Returns when the interval is over.
    pub(crate) fn over_at(&self) -> Tick {
        self.begin + TickDelta((self.current.number + 1) * INTERVAL.0)
    }

    /// Hands over the last interval.
    pub(crate) fn end(&mut self) {
        self.current.last = true;
        self.hand_over(self.current.number + 1);
    }

    fn hand_over(&mut self, next: u64) {
        let mut done = std::mem::replace(&mut self.current, Interval::new(next));
        done.thread = self.thread;
        // The receiver goes only when the process ends.
        let _ = self.send.send(done);
    }
}
