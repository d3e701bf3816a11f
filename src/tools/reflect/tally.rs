//! What a name server for measurements has done.

use crate::tools::load::tally::CODES;
use crate::tools::reflect::answer::Made;
use crate::tools::report::text::grouped;
use crate::wire::codes;

/// The figures of a thread, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Datagrams.
    pub(crate) udp: u64,
    /// Messages of connections.
    pub(crate) tcp: u64,
    /// Connections accepted.
    pub(crate) connections: u64,
    /// Connections above the limit.
    pub(crate) refused: u64,
    /// Queries that were to be lost.
    pub(crate) dropped: u64,
    /// Messages that are no queries.
    pub(crate) ignored: u64,
    /// Answers with TC.
    pub(crate) truncated: u64,
    /// Answers by response code.
    pub(crate) codes: [u64; CODES],
    /// Answers that did not fit the limit of those that wait.
    pub(crate) not_held: u64,
    /// Answers that the kernel or a connection did not take.
    pub(crate) send_errors: u64,
}

impl Tally {
    /// Counts an answer.
    pub(crate) fn count(&mut self, made: Made) {
        if let Some(count) = self.codes.get_mut(usize::from(made.code)) {
            *count += 1;
        }
        self.truncated += u64::from(made.truncated);
    }

    /// Adds those of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        self.udp += other.udp;
        self.tcp += other.tcp;
        self.connections += other.connections;
        self.refused += other.refused;
        self.dropped += other.dropped;
        self.ignored += other.ignored;
        self.truncated += other.truncated;
        self.not_held += other.not_held;
        self.send_errors += other.send_errors;
        for (here, there) in self.codes.iter_mut().zip(other.codes) {
            *here += there;
        }
    }

    /// Writes them for people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, n: u64| {
            if n > 0 {
                out += &format!("  {name:<22}{:>16}\n", grouped(n));
            }
        };
        line("queries by UDP", self.udp);
        line("queries by connection", self.tcp);
        line("connections", self.connections);
        for (code, n) in self.codes.iter().enumerate() {
            line(&format!("answers {}", codes::rcode_name(code as u16)), *n);
        }
        line("truncated", self.truncated);
        line("left unanswered", self.dropped);
        line("no queries", self.ignored);
        line("connections refused", self.refused);
        line("too many held back", self.not_held);
        line("not sent", self.send_errors);
        if out.is_empty() { "  no queries\n".to_owned() } else { out }
    }
}
