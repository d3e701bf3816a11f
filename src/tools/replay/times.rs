//! Whether the times of a replay were kept, and whose doing it is where they were not.
//!
//! ```text
//!  due ──(own lag)──► handed over ──(waits for a connection)──► sent ──► answered
//!  └───────────── sent late by ────────────────────────────────┘
//! ```

use crate::base::time::TickDelta;
use crate::config::replay::{ReplayOptions, Timing};
use crate::tools::load::spans::Spans;
use crate::tools::load::totals::Totals;
use crate::tools::replay::reader::Read;
use crate::tools::report::text::{grouped, milliseconds};

/// A run whose last queries are later than this, nanoseconds, has not kept its times.
const LATE_NS: u64 = 10_000_000;

/// Returns for how long queries were sent, seconds: from the first to the last, and the mean time between two
/// behind that, since each has its time.
pub(super) fn lasting(from_first_to_last: TickDelta, sent: u64) -> f64 {
    let seconds = from_first_to_last.0 as f64 / 1e9;
    if sent > 1 { seconds * sent as f64 / (sent - 1) as f64 } else { seconds }
}

/// Returns the mean rate that was asked for.
pub(super) fn wanted(options: &ReplayOptions, read: &Read) -> Option<u32> {
    match options.timing {
        Timing::Rate(rate) => Some(rate),
        // A capture of an instant has no rate.
        Timing::Speed(_) if read.fed.last_due > TickDelta::from_ms(1) => {
            let seconds = read.fed.last_due.0 as f64 / 1e9;
            Some((read.fed.queries.saturating_sub(1) as f64 / seconds).round().min(f64::from(u32::MAX)) as u32)
        }
        Timing::Speed(_) | Timing::Max => None,
    }
}

/// Says whether this machine has kept the times. That there was no connection yet is not its doing.
pub(super) fn lateness(own_lag: &Spans, wanted: Option<u32>, seconds: f64) -> Option<String> {
    let (late_ns, wanted) = (own_lag.at(99.0)?, wanted?);
    if late_ns <= LATE_NS {
        return None;
    }
    let sent = if seconds > 0.0 { own_lag.len() as f64 / seconds } else { 0.0 };
    Some(format!(
        "this machine could not keep the times: 1 % of the queries were late by {} ms or more; {} per second were \
         sent, {} wanted",
        milliseconds(late_ns),
        grouped(sent.round() as u64),
        grouped(wanted.into())
    ))
}

/// Says whether queries have left late because they waited for connections to a target.
pub(super) fn waits(own_lag: &Spans, totals: &Totals, of_target: &str) -> Option<String> {
    let late_ns = totals.lag.at(99.0)?;
    let own_ns = own_lag.at(99.0)?;
    let is_told = late_ns > LATE_NS && late_ns / 2 > own_ns;
    is_told.then(|| {
        format!(
            "queries waited for connections{of_target} to be made: 1 % of them were sent late by {} ms or more",
            milliseconds(late_ns)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_queries_have_the_rate_that_was_asked_for() {
        let second = TickDelta::from_ms(1_000);
        // Three queries a second from each other.
        assert_eq!(3.0 / lasting(TickDelta(2 * second.0), 3), 1.0);
        assert_eq!([lasting(TickDelta(0), 0), lasting(second, 1)], [0.0, 1.0]);
        let matches = crate::config::replay::command().try_get_matches_from(["replay", "x", "127.0.0.1"]);
        let options = crate::config::replay::options(&matches.expect("options"));
        let mut read = Read::default();
        (read.fed.queries, read.fed.last_due) = (100, TickDelta(990_000_000));
        assert_eq!(wanted(&options, &read), Some(100));
    }

    #[test]
    fn only_this_machine_is_told_to_be_late_that_is() {
        const MS: u64 = 1_000_000;
        let lag = |all: &[(u64, u64)]| {
            let mut lag = Spans::new();
            all.iter().for_each(|(ms, n)| lag.record_n(ms * MS, *n));
            lag
        };
        let mut totals = Totals::new();
        // It was ready at once, and a twentieth had to wait for connections.
        let own = lag(&[(0, 1_000)]);
        totals.lag.record_n(0, 950);
        totals.lag.record_n(500 * MS, 50);
        assert_eq!(lateness(&own, Some(1_000), 1.0), None);
        let waited = waits(&own, &totals, " to the second").expect("a note");
        assert!(
            waited.starts_with("queries waited for connections to the second to be made: 1 % "),
            "{waited}"
        );
        assert!(waited.contains(" 499.") || waited.contains(" 500."), "{waited}");
        // It was late itself, which all of them were then.
        let own = lag(&[(450, 1_000)]);
        let late = lateness(&own, Some(1_500), 2.0).expect("a note");
        assert!(late.ends_with("; 500 per second were sent, 1,500 wanted"), "{late}");
        assert_eq!(waits(&own, &totals, ""), None);
        // Neither: 9 ms are nothing, and neither is the last thousandth.
        let mut totals = Totals::new();
        totals.lag.record_n(9 * MS, 999);
        totals.lag.record_n(9_000 * MS, 1);
        assert_eq!(waits(&lag(&[(0, 1_000)]), &totals, ""), None);
        assert_eq!(lateness(&lag(&[(9, 999), (9_000, 1)]), Some(1_000), 1.0), None);
        assert_eq!(lateness(&lag(&[(90, 9)]), None, 1.0), None, "--max has no times");
    }
}
