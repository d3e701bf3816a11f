//! Conditions on the figures of a run, as `--fail-if` and `--ramp` take them: `p99>20ms,loss>0.1%`.
//!
//! They know nothing of how a run is measured: whoever has its figures answers by [`Figures`].

use std::borrow::Cow;
use std::fmt;

use crate::base::time::TickDelta;
use crate::config::value;
use crate::wire::codes;

/// Most conditions in one text.
const CRITERIA_MAX: usize = 32;

/// Says what is expected of a tool's conditions: its name, and what it measures besides the others' figures.
macro_rules! expected {
    ($tool:literal, $more:literal) => {
        concat!(
            "conditions on what ",
            $tool,
            " measures, such as p99>20ms,loss>0.1%,rate<50000: a measure (p50, p99.9 or another percentile, mean, \
             max, loss, errors, a response code, rate",
            $more,
            "), one of > >= < <=, and a time, a percentage or a number"
        )
    };
}

/// A tool whose figures conditions are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// `dnslob bench`.
    Bench,
    /// `dnslob replay`.
    Replay,
    /// `dnslob scope`.
    Scope,
}

impl Tool {
    /// Returns whether it has a figure. A condition on another one would never hold, and guard nothing.
    const fn has(self, measure: Measure) -> bool {
        match measure {
            Measure::Percentile(_)
            | Measure::Mean
            | Measure::Max
            | Measure::Loss
            | Measure::Errors
            | Measure::Code(_)
            | Measure::Rate => true,
            // Who only looks on does not know what should have been sent.
            Measure::Lag(_) | Measure::Unsent => matches!(self, Self::Bench | Self::Replay),
            Measure::Differences | Measure::Worse => matches!(self, Self::Replay),
        }
    }

    /// Returns what is expected of its conditions.
    const fn expected(self) -> &'static str {
        match self {
            Self::Bench => expected!("bench", ", unsent, lag99 or another percentile of the lag"),
            Self::Replay => {
                expected!("replay", ", unsent, lag99 or another percentile of the lag, diff, worse")
            }
            Self::Scope => expected!("scope", ""),
        }
    }
}

/// Conditions, of which one that holds is enough.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Criteria(pub Vec<Criterion>);

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Criterion {
    /// The measure.
    pub measure: Measure,
    /// The comparison.
    pub order: Order,
    /// What it is compared with.
    pub bound: Bound,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// A percentile of the latency, 0 to 100.
    Percentile(f64),
    /// A percentile of the time between the intended and the true time of sending, 0 to 100.
    Lag(f64),
    /// The mean latency.
    Mean,
    /// The highest latency.
    Max,
    /// Queries without an answer.
    Loss,
    /// Queries without an answer, and answers that are wrong.
    Errors,
    /// Queries that were due and not sent.
    Unsent,
    /// Answers with this response code.
    Code(u16),
    /// Answers per second.
    Rate,
    /// Answers that differ from those they are compared with.
    Differences,
    /// Answers that are worse than those they are compared with.
    Worse,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// More than the bound.
    Above,
    /// The bound or more.
    AtLeast,
    /// Less than the bound.
    Below,
    /// The bound or less.
    AtMost,
}

/// The bound of a condition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// A time.
    Span(TickDelta),
    /// A part of the whole, 0 to 1.
    Share(f64),
    /// A number, or a number per second.
    Number(f64),
}

/// The bounds of a span of time that a histogram knows within a range only, nanoseconds; both may be it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    /// The least that it can be.
    pub least: u64,
    /// The most that it can be.
    pub most: u64,
}

/// Who knows the figures of a run.
pub trait Figures {
    /// Returns a percentile of the latency, 0 to 100; `None` if nothing was answered.
    fn percentile_ns(&self, percentile: f64) -> Option<Within>;
    /// Returns a percentile of the time by which queries were sent late, 0 to 100; `None` if
    /// nothing was sent or queries have no time to be sent at.
    fn lag_ns(&self, percentile: f64) -> Option<Within>;
    /// Returns the mean latency, nanoseconds; `None` if nothing was answered.
    fn mean_ns(&self) -> Option<f64>;
    /// Returns the highest latency, nanoseconds; `None` if nothing was answered.
    fn max_ns(&self) -> Option<u64>;
    /// Returns the number of queries sent.
    fn sent(&self) -> u64;
    /// Returns the number of queries that were due and not sent.
    fn unsent(&self) -> u64 {
        0
    }
    /// Returns the number of queries that were due.
    fn due(&self) -> u64 {
        self.sent()
    }
    /// Returns the number of queries without an answer.
    fn lost(&self) -> u64;
    /// Returns the number of answers that are wrong.
    fn wrong(&self) -> u64;
    /// Returns the number of answers with this response code.
    fn with_code(&self, code: u16) -> u64;
    /// Returns the number of answers per second.
    fn rate(&self) -> f64;
    /// Returns the number of answers that differ from those they are compared with; `None` if none was
    /// compared.
    fn different(&self) -> Option<u64> {
        None
    }
    /// Returns the number of answers that are worse than those they are compared with; `None` if none was
    /// compared.
    fn worse(&self) -> Option<u64> {
        None
    }
}

impl Criteria {
    /// Parses conditions on the figures of a tool, separated by commas.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str, tool: Tool) -> Result<Self, Cow<'static, str>> {
        if let Some((digits, minutes)) = text.split(',').find_map(in_minutes) {
            let seconds = minutes * 60.0;
            return Err(format!(
                "milliseconds, written {digits}ms, or minutes in seconds, as {seconds}s: \"{digits}m\" may mean both"
            )
            .into());
        }
        let of = |text| criterion(text).filter(|criterion| tool.has(criterion.measure));
        let all: Option<Vec<Criterion>> = text.split(',').take(CRITERIA_MAX + 1).map(of).collect();
        all.filter(|all| all.len() <= CRITERIA_MAX).map(Self).ok_or(Cow::Borrowed(tool.expected()))
    }

    /// Returns whether one of them is on the times at which queries had to be sent.
    #[must_use]
    pub fn need_times(&self) -> bool {
        self.0.iter().any(|c| matches!(c.measure, Measure::Lag(_)))
    }

    /// Returns those that hold, with the figure as people read it.
    pub fn that_hold<'c>(&'c self, figures: &dyn Figures) -> Vec<(&'c Criterion, String)> {
        self.0.iter().filter_map(|c| c.value(figures).map(|text| (c, text))).collect()
    }

    /// Returns whether one of them holds.
    #[must_use]
    pub fn any_holds(&self, figures: &dyn Figures) -> bool {
        self.0.iter().any(|c| c.value(figures).is_some())
    }
}

impl Criterion {
    /// Returns the figure if the condition holds. One on a comparison does, whatever its bound, where nothing
    /// was compared.
    fn value(&self, figures: &dyn Figures) -> Option<String> {
        let comparison = match self.measure {
            Measure::Differences => Some(figures.different()),
            Measure::Worse => Some(figures.worse()),
            Measure::Percentile(_)
            | Measure::Lag(_)
            | Measure::Mean
            | Measure::Max
            | Measure::Loss
            | Measure::Errors
            | Measure::Unsent
            | Measure::Code(_)
            | Measure::Rate => None,
        };
        if comparison == Some(None) {
            return Some("nothing compared".to_owned());
        }
        let whole = if self.measure == Measure::Unsent { figures.due() } else { figures.sent() };
        let whole = whole.max(1) as f64;
        let (value, most) = self.figure(figures);
        let (value, bound, text) = match (value, self.bound) {
            (value, Bound::Span(span)) if value.is_infinite() => {
                (value, span.0 as f64, "no answers".to_owned())
            }
            (value, Bound::Span(span)) => (value, span.0 as f64, milliseconds(value)),
            (value, Bound::Share(share)) => (value / whole, share, format!("{:.4}%", value / whole * 100.0)),
            (value, Bound::Number(number)) => (value, number, format!("{value:.0}")),
        };
        let holds = match self.order {
            Order::Above => value > bound,
            Order::AtLeast => most.unwrap_or(value) >= bound,
            Order::Below => most.unwrap_or(value) < bound,
            Order::AtMost => value <= bound,
        };
        holds.then_some(text)
    }

    /// Returns the figure, and the most that it can be where it is known within bounds only. Where nothing was
    /// answered, latencies are above any bound; where queries have no times, no condition on these holds.
    fn figure(&self, figures: &dyn Figures) -> (f64, Option<f64>) {
        let within = |figure: Option<Within>, unknown: f64| {
            figure.map_or((unknown, None), |within| (within.least as f64, Some(within.most as f64)))
        };
        let known = |figure: Option<u64>| figure.map_or(f64::INFINITY, |figure| figure as f64);
        let exact = match self.measure {
            Measure::Percentile(p) => return within(figures.percentile_ns(p), f64::INFINITY),
            Measure::Lag(p) => return within(figures.lag_ns(p), f64::NAN),
            Measure::Mean => figures.mean_ns().unwrap_or(f64::INFINITY),
            Measure::Max => known(figures.max_ns()),
            Measure::Unsent => figures.unsent() as f64,
            Measure::Loss => figures.lost() as f64,
            Measure::Errors => (figures.lost() + figures.wrong()) as f64,
            Measure::Code(code) => figures.with_code(code) as f64,
            Measure::Rate => figures.rate(),
            Measure::Differences => known(figures.different()),
            Measure::Worse => known(figures.worse()),
        };
        (exact, None)
    }
}

/// Writes nanoseconds as milliseconds.
fn milliseconds(ns: f64) -> String {
    format!("{:.3}ms", ns / 1e6)
}

fn criterion(text: &str) -> Option<Criterion> {
    let text = text.trim();
    let at = text.find(['<', '>'])?;
    let (measure, rest) = text.split_at(at);
    let (order, bound) = if let Some(bound) = rest.strip_prefix(">=") {
        (Order::AtLeast, bound)
    } else if let Some(bound) = rest.strip_prefix("<=") {
        (Order::AtMost, bound)
    } else if let Some(bound) = rest.strip_prefix('>') {
        (Order::Above, bound)
    } else {
        (Order::Below, rest.strip_prefix('<')?)
    };
    let measure = measure_of(measure.trim())?;
    let bound = bound_of(bound.trim())?;
    let fits = match measure {
        Measure::Percentile(_) | Measure::Lag(_) | Measure::Mean | Measure::Max => {
            matches!(bound, Bound::Span(_))
        }
        Measure::Loss
        | Measure::Errors
        | Measure::Unsent
        | Measure::Code(_)
        | Measure::Differences
        | Measure::Worse => !matches!(bound, Bound::Span(_)),
        Measure::Rate => matches!(bound, Bound::Number(_)),
    };
    fits.then_some(Criterion { measure, order, bound })
}

fn measure_of(text: &str) -> Option<Measure> {
    let percentile = |digits: &str| {
        let number: f64 = digits.parse().ok()?;
        (0.0..=100.0).contains(&number).then_some(number)
    };
    Some(match text {
        "mean" => Measure::Mean,
        "max" => Measure::Max,
        "loss" => Measure::Loss,
        "errors" => Measure::Errors,
        "unsent" => Measure::Unsent,
        "rate" => Measure::Rate,
        "diff" => Measure::Differences,
        "worse" => Measure::Worse,
        _ => {
            if let Some(number) = text.strip_prefix('p').and_then(percentile) {
                Measure::Percentile(number)
            } else if let Some(number) = text.strip_prefix("lag").and_then(percentile) {
                Measure::Lag(number)
            } else {
                Measure::Code(code(text)?)
            }
        }
    })
}

/// Returns the number of a response code by its name in any case.
#[must_use]
pub fn code(name: &str) -> Option<u16> {
    let known = codes::RCODES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    known.map(|(_, number)| *number)
}

fn bound_of(text: &str) -> Option<Bound> {
    if let Some(share) = text.strip_suffix('%') {
        return number(share).map(|n| Bound::Share(n / 100.0));
    }
    match number(text) {
        Some(number) => Some(Bound::Number(number)),
        None => value::span(text).ok().map(Bound::Span),
    }
}

/// Returns the bound of a condition, as written and as a number, if it is in minutes: whoever writes these means
/// milliseconds.
fn in_minutes(condition: &str) -> Option<(&str, f64)> {
    let bound = condition.rsplit(['<', '>', '=']).next()?.trim();
    let digits = bound.strip_suffix('m')?;
    number(digits).map(|minutes| (digits, minutes))
}

fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|_| plain)
}

impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.measure {
            Measure::Percentile(p) => write!(f, "p{p}")?,
            Measure::Lag(p) => write!(f, "lag{p}")?,
            Measure::Mean => f.write_str("mean")?,
            Measure::Max => f.write_str("max")?,
            Measure::Loss => f.write_str("loss")?,
            Measure::Errors => f.write_str("errors")?,
            Measure::Unsent => f.write_str("unsent")?,
            Measure::Code(code) => f.write_str(&codes::rcode_name(code).to_ascii_lowercase())?,
            Measure::Rate => f.write_str("rate")?,
            Measure::Differences => f.write_str("diff")?,
            Measure::Worse => f.write_str("worse")?,
        }
        f.write_str(match self.order {
            Order::Above => ">",
            Order::AtLeast => ">=",
            Order::Below => "<",
            Order::AtMost => "<=",
        })?;
        match self.bound {
            Bound::Span(span) => f.write_str(&value::span_text(span)),
            Bound::Share(share) => write!(f, "{}%", (share * 1e8).round() / 1e6),
            Bound::Number(number) => write!(f, "{number}"),
        }
    }
}

impl fmt::Display for Criteria {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, criterion) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{criterion}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run;

    impl Figures for Run {
        fn percentile_ns(&self, percentile: f64) -> Option<Within> {
            let ns = (percentile * 1e6) as u64;
            Some(Within { least: ns, most: ns + 900 })
        }
        fn lag_ns(&self, _: f64) -> Option<Within> {
            Some(Within { least: 50_000, most: 50_000 })
        }
        fn mean_ns(&self) -> Option<f64> {
            Some(5e6)
        }
        fn max_ns(&self) -> Option<u64> {
            Some(200_000_000)
        }
        fn sent(&self) -> u64 {
            10_000
        }
        fn unsent(&self) -> u64 {
            30_000
        }
        fn due(&self) -> u64 {
            40_000
        }
        fn lost(&self) -> u64 {
            10
        }
        fn wrong(&self) -> u64 {
            1
        }
        fn with_code(&self, code: u16) -> u64 {
            if code == 2 || code == 23 { 100 } else { 0 }
        }
        fn rate(&self) -> f64 {
            49_000.0
        }
        fn different(&self) -> Option<u64> {
            Some(3)
        }
        fn worse(&self) -> Option<u64> {
            Some(2)
        }
    }

    /// A run at a dead server.
    struct Nothing;

    impl Figures for Nothing {
        fn percentile_ns(&self, _: f64) -> Option<Within> {
            None
        }
        fn lag_ns(&self, _: f64) -> Option<Within> {
            None
        }
        fn mean_ns(&self) -> Option<f64> {
            None
        }
        fn max_ns(&self) -> Option<u64> {
            None
        }
        fn sent(&self) -> u64 {
            5
        }
        fn lost(&self) -> u64 {
            5
        }
        fn wrong(&self) -> u64 {
            0
        }
        fn with_code(&self, _: u16) -> u64 {
            0
        }
        fn rate(&self) -> f64 {
            0.0
        }
    }

    #[test]
    fn a_dead_server_is_not_a_fast_one() {
        for (text, holds) in [
            ("p99<1ms", false),
            ("max<=60s", false),
            ("mean<1s", false),
            ("p50>1ms", true),
            ("p99>=168h", true),
            ("max>1ms", true),
            ("mean>1ms", true),
            ("lag99>1us", false),
            ("lag99<1ms", false),
            ("loss>=100%", true),
            ("unsent>0", false),
            ("diff>0", true),
            ("worse>1%", true),
            ("diff<10", true),
            ("worse<=0", true),
        ] {
            let criteria = Criteria::parse(text, Tool::Replay).expect(text);
            assert_eq!(criteria.any_holds(&Nothing), holds, "{text}");
        }
        let criteria = Criteria::parse("p99>20ms", Tool::Replay).expect("a condition");
        assert_eq!(criteria.that_hold(&Nothing)[0].1, "no answers");
        let criteria = Criteria::parse("diff>0,worse>0.1%", Tool::Replay).expect("conditions");
        assert!(criteria.that_hold(&Nothing).iter().all(|(_, why)| why == "nothing compared"));
    }

    #[test]
    fn what_a_tool_does_not_measure_is_refused() {
        let all = [
            "p99>1ms",
            "loss>0",
            "servfail>1%",
            "rate<5",
            "errors>0",
            "unsent>0",
            "lag99>1ms",
            "diff>0",
            "worse>0",
        ];
        for (tool, known) in [(Tool::Scope, 5), (Tool::Bench, 7), (Tool::Replay, 9)] {
            for (number, text) in all.iter().enumerate() {
                let read = Criteria::parse(text, tool);
                assert_eq!(read.is_ok(), number < known, "{tool:?}: {text}");
                assert!(read.is_ok() || Criteria::parse(&format!("p50>1s,{text}"), tool).is_err());
            }
        }
        let said = Criteria::parse("diff>0", Tool::Bench).expect_err("nothing is compared");
        assert!(
            said.contains("bench measures") && said.contains("unsent, lag99") && !said.contains("diff"),
            "{said}"
        );
        let said = Criteria::parse("lag99>1s", Tool::Scope).expect_err("it sends nothing");
        assert!(said.contains("scope measures") && said.contains("rate), one of"), "{said}");
    }

    #[test]
    fn conditions_are_read_and_written() {
        for text in [
            "p99>20ms,loss>0.1%",
            "p99.99>=1s",
            "mean<5ms,max<=2s",
            "servfail>1%,rate<50000",
            "errors>0",
            "unsent>1%",
            "badvers>0,badcookie>=5%",
        ] {
            assert_eq!(Criteria::parse(text, Tool::Replay).expect(text).to_string(), text);
        }
        assert_eq!(Criteria::parse(" p50 > 1.5ms ", Tool::Replay).expect("spaces").to_string(), "p50>1500us");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "", "p99", "p99>", "p101>1ms", "p>1ms", "p99>5", "p99>1%", "loss>1ms", "rate>5%", "ttl>5",
            "p99=5ms", "p99>20m", "lag99>1m",
        ] {
            assert!(Criteria::parse(text, Tool::Replay).is_err(), "{text}");
        }
        let said = Criteria::parse("loss>1%, p99 >= 20m", Tool::Scope).expect_err("minutes");
        assert_eq!(
            said,
            "milliseconds, written 20ms, or minutes in seconds, as 1200s: \"20m\" may mean both"
        );
        assert!(Criteria::parse("p99>1200s", Tool::Scope).is_ok(), "as it says");
        assert!(Criteria::parse(&vec!["loss>1"; 33].join(","), Tool::Replay).is_err(), "too many");
    }

    #[test]
    fn conditions_are_held_against_the_figures() {
        for (text, holds) in [
            ("p99>20ms", true),
            ("p99>99ms", false),
            ("p99>=99ms", true),
            ("p99<=99ms", true),
            ("p99<99001us", true),
            ("p99>=99001us", false),
            ("max<200ms", false),
            ("max>=200ms", true),
            ("max>200ms", false),
            ("loss>0.1%", false),
            ("loss>=0.1%", true),
            ("loss>9", true),
            ("errors>10", true),
            ("servfail>=1%", true),
            ("nxdomain>0", false),
            ("rate<50000", true),
            ("lag99>50us", false),
            ("mean<5ms", false),
            ("max<=200ms", true),
            ("diff>2", true),
            ("diff>=0.1%", false),
            ("worse>2", false),
            ("unsent>=75%", true),
            ("unsent>75%", false),
            ("unsent>29999", true),
            ("badcookie>=1%", true),
            ("badvers>0", false),
        ] {
            let criteria = Criteria::parse(text, Tool::Replay).expect(text);
            assert_eq!(criteria.any_holds(&Run), holds, "{text}");
        }
        let criteria = Criteria::parse("p99>20ms,max>1s,loss>0", Tool::Replay).expect("conditions");
        let said: Vec<String> =
            criteria.that_hold(&Run).iter().map(|(c, value)| format!("{c}: {value}")).collect();
        assert_eq!(said, ["p99>20ms: 99.000ms", "loss>0: 10"]);
    }
}
