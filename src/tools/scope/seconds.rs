//! What happened over time: a row for each second, and for several where there are too many of them.

use std::io;
use std::path::PathBuf;

use crate::tools::load::spans::Spans;
use crate::tools::load::totals::Row;
use crate::tools::report::hdr::HdrLog;

const SECOND: u64 = 1_000_000_000;
/// Most rows: two hours of seconds.
const ROWS_MAX: usize = 7_200;
/// A clock that goes back by more has been set, or an older file follows, nanoseconds: time goes on.
const SET_BACK: u64 = SECOND;

/// The seconds of a capture.
pub(super) struct Seconds {
    /// When the first began, nanoseconds since 1970.
    begin: Option<u64>,
    end: u64,
    /// What is added to times, so that they go on where a clock was set back.
    offset: u64,
    current: Row,
    /// Latencies of this second.
    latency: Spans,
    /// All latencies of the seconds before.
    all: Spans,
    rows: Vec<Row>,
    /// Seconds of a row.
    width: u64,
    hdr: Option<PathBuf>,
    log: Option<HdrLog>,
    failure: Option<io::Error>,
}

impl Seconds {
    /// Begins; a log of histograms goes to this file.
    pub(super) fn new(hdr: Option<PathBuf>) -> Self {
        Self {
            begin: None,
            end: 0,
            offset: 0,
            current: Row::default(),
            latency: Spans::new(),
            all: Spans::new(),
            rows: Vec::new(),
            width: 1,
            hdr,
            log: None,
            failure: None,
        }
    }

    /// Returns whether there was any time to go to.
    pub(super) const fn have_begun(&self) -> bool {
        self.begin.is_some()
    }

    /// Goes to this time, nanoseconds since 1970. What is from before belongs to the second that is.
    #[inline]
    pub(super) fn advance(&mut self, at: u64) {
        let begin = *self.begin.get_or_insert(at);
        let mut at = at.saturating_add(self.offset);
        if at.saturating_add(SET_BACK) < self.end {
            self.offset = self.offset.saturating_add(self.end - at);
            at = self.end;
        }
        self.end = self.end.max(at);
        let second = at.saturating_sub(begin) / SECOND;
        if second > self.current.second {
            self.close(second);
        }
    }

    /// Returns the counts of this second.
    pub(super) const fn row(&mut self) -> &mut Row {
        &mut self.current
    }

    /// Notes a latency.
    #[inline]
    pub(super) fn latency(&mut self, ns: u64) {
        self.latency.record(ns);
    }

    fn close(&mut self, next: u64) {
        let mut row = std::mem::replace(&mut self.current, Row { second: next, ..Row::default() });
        if row.queries + row.answered + row.lost == 0 {
            return;
        }
        if !self.latency.is_empty() {
            row.p50_ns = self.latency.at(50.0).unwrap_or(0);
            row.p99_ns = self.latency.at(99.0).unwrap_or(0);
            row.max_ns = self.latency.most().unwrap_or(0);
            self.all.add(&self.latency);
        }
        if let Err(error) = self.write(row.second) {
            self.failure.get_or_insert(error);
        }
        self.latency.reset();
        let number = row.second / self.width;
        match self.rows.last_mut().filter(|last| last.second / self.width == number) {
            Some(last) => join(last, &row),
            None => self.rows.push(Row { second: number * self.width, ..row }),
        }
        if self.rows.len() > ROWS_MAX {
            self.width *= 2;
            let mut wider: Vec<Row> = Vec::with_capacity(ROWS_MAX);
            for row in &self.rows {
                let second = row.second / self.width * self.width;
                match wider.last_mut().filter(|last| last.second == second) {
                    Some(last) => join(last, row),
                    None => wider.push(Row { second, ..row.clone() }),
                }
            }
            self.rows = wider;
        }
    }

    fn write(&mut self, second: u64) -> io::Result<()> {
        if let Some(path) = self.hdr.take() {
            self.log = Some(HdrLog::create(&path, self.begin.unwrap_or(0) / SECOND, &[])?);
        }
        if let Some(log) = &mut self.log {
            log.add(None, second, &self.latency);
        }
        Ok(())
    }

    /// Ends the last second; returns what has become of the log of histograms, too.
    pub(super) fn end(mut self) -> (Ended, io::Result<()>) {
        self.close(self.current.second + 1);
        let ended = self.log.take().map_or(Ok(()), HdrLog::end);
        let logged = self.failure.map_or(ended, Err);
        let begin = self.begin.unwrap_or(0);
        let ended = Ended {
            begin,
            span: self.end.saturating_sub(begin),
            latency: self.all,
            rows: self.rows,
            width: self.width,
        };
        (ended, logged)
    }
}

/// The seconds that were.
pub(super) struct Ended {
    /// When they began, nanoseconds since 1970.
    pub(super) begin: u64,
    /// From the first to the last message, nanoseconds.
    pub(super) span: u64,
    pub(super) latency: Spans,
    pub(super) rows: Vec<Row>,
    /// Seconds of a row.
    pub(super) width: u64,
}

/// Adds a row to an earlier one. Percentiles do not add up: the higher one stays.
fn join(into: &mut Row, row: &Row) {
    into.queries += row.queries;
    into.sent += row.sent;
    into.answered += row.answered;
    into.lost += row.lost;
    into.wrong += row.wrong;
    into.p50_ns = into.p50_ns.max(row.p50_ns);
    into.p99_ns = into.p99_ns.max(row.p99_ns);
    into.max_ns = into.max_ns.max(row.max_ns);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_wider_when_there_are_too_many() {
        let mut seconds = Seconds::new(None);
        let (begin, count) = (7_000_000_000_000, 2 * ROWS_MAX as u64 + 10);
        for second in 0..count {
            seconds.advance(begin + second * SECOND + 5);
            seconds.row().queries += 1;
            seconds.latency(1_000_000 * (1 + second % 2));
        }
        let ended = seconds.end().0;
        assert_eq!((ended.begin, ended.span), (begin + 5, (count - 1) * SECOND));
        assert_eq!(ended.width, 4);
        assert!(ended.rows.len() <= ROWS_MAX && ended.rows.windows(2).all(|w| w[0].second < w[1].second));
        assert_eq!(ended.rows.iter().map(|row| row.queries).sum::<u64>(), count);
        assert_eq!((ended.rows[1].second, ended.rows[1].queries, ended.latency.len()), (4, 4, count));
        assert!(ended.rows[1].p50_ns >= 1_999_000, "the higher one");
    }

    #[test]
    fn time_goes_on_behind_a_step_back() {
        let mut seconds = Seconds::new(None);
        // Ten seconds, and then ten earlier ones.
        for at in (100..110).chain(50..60) {
            seconds.advance(at * SECOND);
            seconds.row().queries += 1;
        }
        let ended = seconds.end().0;
        assert_eq!((ended.begin, ended.span), (100 * SECOND, 18 * SECOND));
        assert_eq!((ended.rows.len(), ended.rows[9].queries, ended.rows[18].queries), (19, 2, 1));
    }

    #[test]
    fn a_time_before_the_begin_belongs_to_the_second_that_is() {
        let mut seconds = Seconds::new(None);
        for at in [5 * SECOND, 7 * SECOND, 2 * SECOND] {
            seconds.advance(at);
            seconds.row().queries += 1;
        }
        let ended = seconds.end().0;
        let rows: Vec<_> = ended.rows.iter().map(|row| (row.second, row.queries)).collect();
        assert_eq!((rows, ended.span), (vec![(0, 1), (2, 2)], 2 * SECOND));
    }

    #[test]
    fn a_log_that_cannot_be_written_takes_nothing_away() {
        for path in ["/nonexistent/x", "/dev/full"] {
            let mut seconds = Seconds::new(Some(path.into()));
            for n in 0..2_000 {
                seconds.advance(7 * SECOND + n * SECOND);
                seconds.row().answered += 1;
                seconds.latency(1_000_000 + n * 1_000);
            }
            let (ended, logged) = seconds.end();
            assert!(logged.is_err(), "{path}");
            assert_eq!((ended.rows.len(), ended.latency.len()), (2_000, 2_000), "{path}");
        }
    }
}
