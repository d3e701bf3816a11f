//! Accounts for every query, from the counters of clients, balancer and kernel.
//!
//! ```text
//!  sent ──kernel──► queries read ──balancer──► answers sent ──kernel──► answered
//!          └ listener's buffer      └ drops by reason            └ clients' buffers
//! ```
//! Each of the three counts independently, so that the sum is a real check.

use crate::control::stats::Reading;
use crate::stats::drop_reason::DropReason;

/// The reasons that end a query, each counted once per query. Other reasons concern answers that no
/// client waits for.
const QUERY_ENDS: [DropReason; 26] = [
    DropReason::Acl,
    DropReason::QueryShort,
    DropReason::QueryIsResponse,
    DropReason::QueryTruncated,
    DropReason::QueryMalformed,
    DropReason::QueryEmpty,
    DropReason::Rule,
    DropReason::ResponseRule,
    DropReason::AnswerTooLong,
    DropReason::AnswerNotEdited,
    DropReason::QueryTableFull,
    DropReason::QueryNotKept,
    DropReason::DelayFull,
    DropReason::NoServer,
    DropReason::OutstandingFull,
    DropReason::QueryRepeated,
    DropReason::Descriptors,
    DropReason::QuerySendError,
    DropReason::AnswerSendError,
    DropReason::Timeout,
    DropReason::BackendConnectionFailed,
    DropReason::ClientGone,
    DropReason::ProxyHeader,
    DropReason::ListenerGone,
    DropReason::LocalTableFull,
    DropReason::ShardRestart,
];

/// The counters of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Queries that the clients sent.
    pub(crate) sent: u64,
    /// Queries that the kernel refused to send.
    pub(crate) refused: u64,
    /// Queries with an answer.
    pub(crate) answered: u64,
    /// Lost queries by reason, without zeros.
    pub(crate) lost: Vec<(&'static str, u64)>,
}

/// Datagrams that the kernel dropped because a socket's buffer was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelDrops {
    /// At the balancer's listeners.
    pub(crate) listeners: u64,
    /// At the clients.
    pub(crate) clients: u64,
}

impl KernelDrops {
    /// Returns the sum of both.
    pub(crate) const fn total(self) -> u64 {
        self.listeners + self.clients
    }
}

impl Account {
    /// Combines the counters.
    pub(crate) fn new(
        sent: u64,
        refused: u64,
        answered: u64,
        balancer: &Reading,
        kernel: KernelDrops,
    ) -> Self {
        let drops = QUERY_ENDS.map(|r| (r.label(), balancer.shards.drops[r]));
        let kernel = [("listener-buffer-full", kernel.listeners), ("client-buffer-full", kernel.clients)];
        let lost = kernel.into_iter().chain(drops).filter(|(_, n)| *n > 0).collect();
        Self { sent, refused, answered, lost }
    }

    /// Returns all lost queries with a reason.
    pub(crate) fn lost_total(&self) -> u64 {
        self.lost.iter().map(|(_, n)| n).sum()
    }

    /// Returns whether every query sent was answered or lost for a reason.
    pub(crate) fn adds_up(&self) -> bool {
        self.sent == self.answered + self.lost_total()
    }
}

/// Queries that the balancer lost, for whatever reason.
pub(crate) fn lost(reading: &Reading) -> u64 {
    QUERY_ENDS.iter().map(|r| reading.shards.drops[*r]).sum()
}

/// Returns the datagrams that the kernel dropped at the sockets bound to these ports.
///
/// `table` is the text of `/proc/net/udp`: a header, then a line per socket, whose second field is
/// `ADDRESS:PORT` in hexadecimal and whose last field is the count.
pub(crate) fn kernel_drops(table: &str, ports: &[u16]) -> u64 {
    let drops = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports.contains(&port).then(|| fields.last()?.parse::<u64>().ok())?
    };
    table.lines().skip(1).filter_map(drops).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_shows() {
        let mut balancer = Reading::default();
        (balancer.shards.queries, balancer.shards.responses) = (97, 90);
        balancer.shards.drops[DropReason::Timeout] = 7;
        balancer.shards.drops[DropReason::ResponseLate] = 3;
        let kernel = KernelDrops { listeners: 3, clients: 1 };
        let account = Account::new(100, 0, 89, &balancer, kernel);
        assert_eq!(account.lost, [("listener-buffer-full", 3), ("client-buffer-full", 1), ("timeout", 7)]);
        assert!(account.adds_up());
        assert!(!Account { answered: 88, ..account }.adds_up());
    }

    #[test]
    fn every_reason_ends_a_query_or_concerns_an_answer() {
        for reason in DropReason::ALL {
            // A copy, a log line and an unexpected answer end no query.
            let other = ["response-", "tee-", "shadow-", "log-", "oversized"]
                .iter()
                .any(|p| reason.label().starts_with(p))
                && reason != DropReason::ResponseRule;
            assert_ne!(QUERY_ENDS.contains(&reason), other, "{reason:?}");
        }
    }

    #[test]
    fn the_kernel_table_is_parsed() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 17: 0100007F:14B4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 12\n\
            \x20 18: 0100007F:14B4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 30\n\
            \x20 19: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 5\n";
        assert_eq!(kernel_drops(table, &[5300]), 42);
        assert_eq!(kernel_drops(table, &[53, 5300]), 47);
        assert_eq!(kernel_drops(table, &[1]), 0);
        assert_eq!(kernel_drops("", &[53]), 0);
    }
}
