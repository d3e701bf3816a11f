//! The demo's summary.

use std::fmt::Write;

use crate::base::time::{Tick, TickDelta};
use crate::control::stats::Reading;
use crate::tools::demo::account;
use crate::tools::demo::account::Account;
use crate::tools::demo::table::ms;
use crate::tools::report::text::grouped;

/// The results of the whole run.
#[derive(Debug)]
pub(crate) struct Summary {
    /// The account of every query.
    pub(crate) account: Account,
    /// How long queries were sent.
    pub(crate) span: TickDelta,
    /// Offered queries per second.
    pub(crate) offered: u32,
    /// The number of shards.
    pub(crate) shards: usize,
    /// Client sockets.
    pub(crate) sockets: usize,
    /// p50, p90, p99, p99.9 at the clients, nanoseconds.
    pub(crate) latency: Option<[u64; 4]>,
    /// Datagrams that matched no outstanding query of the clients.
    pub(crate) unexpected: u64,
    /// Part of all queries by backend.
    pub(crate) shares: Vec<(String, f64)>,
    /// Answers of the packet cache, if there is one.
    pub(crate) cached: Option<u64>,
    /// The course of the outage.
    pub(crate) outage: Outage,
}

/// The outage of one backend.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// The backend's name.
    pub(crate) backend: String,
    /// When it stopped answering.
    pub(crate) fell: Option<Tick>,
    /// When the balancer took it out.
    pub(crate) noticed: Option<Tick>,
    /// When it resumed answering.
    pub(crate) returned: Option<Tick>,
    /// When the balancer used it again.
    pub(crate) used_again: Option<Tick>,
    /// The balancer's counters when it stopped answering.
    pub(crate) before: Reading,
    /// The same when it resumed answering.
    pub(crate) after: Reading,
}

/// Below this part of the offered load, the load itself limits the measurements.
const OFFERED_PART: f64 = 0.95;
/// Width of the labels.
const LABEL: usize = 11;

impl Summary {
    /// Returns the text, with a final line feed.
    pub(crate) fn text(&self) -> String {
        let Account { sent, refused, answered, .. } = self.account;
        let lost = self.account.lost_total();
        let seconds = self.span.0.max(1) as f64 / 1e9;
        let mut out = String::from("\n");
        line(
            &mut out,
            "sent",
            &format!(
                "{} queries, {} q/s for {seconds:.1} s from {} sockets to {}",
                grouped(sent),
                grouped((sent as f64 / seconds).round() as u64),
                self.sockets,
                plural(self.shards as u64, "shard", "shards")
            ),
        );
        if (sent as f64) < f64::from(self.offered) * seconds * OFFERED_PART {
            let offered = grouped(self.offered.into());
            line(
                &mut out,
                "",
                &format!("of {offered} q/s offered: this machine is too busy to ask for more"),
            );
        }
        line(&mut out, "answered", &format!("{} ({})", grouped(answered), percent(answered, sent)));
        line(&mut out, "lost", &format!("{}{}", grouped(lost), reasons(&self.account.lost)));
        if refused > 0 {
            line(&mut out, "not sent", &format!("{} that the kernel refused", grouped(refused)));
        }
        if self.unexpected > 0 {
            line(
                &mut out,
                "unexpected",
                &format!("{} datagrams that match no query", grouped(self.unexpected)),
            );
        }
        if let Some([p50, p90, p99, p999]) = self.latency {
            let (p50, p90, p99, p999) = (ms(p50), ms(p90), ms(p99), ms(p999));
            line(
                &mut out,
                "latency",
                &format!("p50 {p50}  p90 {p90}  p99 {p99}  p99.9 {p999} ms, at the clients"),
            );
        }
        if let Some(cached) = self.cached {
            let part = format!("{} ({})", grouped(cached), percent(cached, answered));
            line(&mut out, "cache", &format!("{part} of the answers, without a backend"));
        }
        let shares: Vec<_> = self.shares.iter().map(|(n, s)| format!("{n} {:.1} %", s * 100.0)).collect();
        for (n, part) in shares.chunks(5).enumerate() {
            line(&mut out, if n == 0 { "share" } else { "" }, &part.join("  "));
        }
        for (n, words) in self.outage.lines().iter().enumerate() {
            line(&mut out, if n == 0 { "outage" } else { "" }, words);
        }
        let sum = format!("{} sent = {} answered + {} lost", grouped(sent), grouped(answered), grouped(lost));
        let verdict = if self.account.adds_up() {
            format!("adds up: {sum}")
        } else {
            let missing = i128::from(sent) - i128::from(answered) - i128::from(lost);
            format!("DOES NOT ADD UP: {sum} + {missing} unexplained")
        };
        let _ = write!(out, "\n {verdict}\n");
        out
    }
}

impl Outage {
    /// Returns what happened, a line each.
    fn lines(&self) -> Vec<String> {
        let Some(fell) = self.fell else { return vec!["none: the demo ended before it".to_owned()] };
        let after = |from: Tick, to: Tick| to.since(from).0 as f64 / 1e9;
        let name = &self.backend;
        let mut lines = vec![match self.noticed {
            Some(noticed) => {
                format!("{name} fell silent and was out of use {:.2} s later", after(fell, noticed))
            }
            None => format!("{name} fell silent and was never taken out"),
        }];
        let Some(returned) = self.returned else {
            lines.push("the demo ended before it answered again".to_owned());
            return lines;
        };
        let meanwhile = self.after.since(&self.before);
        lines.push(format!(
            "meanwhile {} sent again to another backend, {} lost",
            plural(meanwhile.shards.retries, "query was", "queries were"),
            grouped(account::lost(&meanwhile))
        ));
        lines.push(match self.used_again {
            Some(used) => format!("it answered again and was in use {:.2} s later", after(returned, used)),
            None => "it answered again, and the demo ended before it was used".to_owned(),
        });
        lines
    }
}

fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, " {label:<LABEL$}{text}");
}

fn reasons(lost: &[(&str, u64)]) -> String {
    let all: Vec<_> = lost.iter().map(|(reason, n)| format!("{reason} {}", grouped(*n))).collect();
    if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) }
}

fn percent(part: u64, whole: u64) -> String {
    // Rounded down: anything lost must not be shown as 100 %.
    let thousandths = u128::from(part) * 100_000 / u128::from(whole.max(1));
    format!("{}.{:03} %", thousandths / 1_000, thousandths % 1_000)
}

fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(n), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(answered: u64, timeouts: u64) -> Summary {
        let lost = [("timeout", timeouts)].into_iter().filter(|(_, n)| *n > 0).collect();
        Summary {
            account: Account { sent: 30_000, refused: 0, answered, lost },
            span: TickDelta::from_ms(3_000),
            offered: 10_000,
            shards: 2,
            sockets: 8,
            latency: Some([50_000, 60_000, 70_000, 80_000]),
            unexpected: 0,
            shares: vec![("b1".into(), 0.5), ("b2".into(), 0.5)],
            cached: None,
            outage: Outage::default(),
        }
    }

    #[test]
    fn the_summary_tells_whether_it_adds_up() {
        let text = summary(29_993, 7).text();
        assert!(text.contains("sent       30,000 queries, 10,000 q/s for 3.0 s"), "{text}");
        assert!(text.contains("lost       7: timeout 7\n"), "{text}");
        assert!(text.contains("29,993 (99.976 %)"), "{text}");
        assert!(text.ends_with(" adds up: 30,000 sent = 29,993 answered + 7 lost\n"), "{text}");
        assert!(!text.contains("cache"), "{text}");
        let text = Summary { cached: Some(14_995), ..summary(29_990, 7) }.text();
        assert!(text.contains(" cache      14,995 (50.000 %) of the answers, without a backend\n"), "{text}");
        let text = summary(29_990, 7).text();
        assert!(!text.contains("offered"), "{text}");
        let text = Summary { offered: 20_000, ..summary(29_990, 7) }.text();
        assert!(text.contains("of 20,000 q/s offered"), "{text}");
        assert!(text.contains("DOES NOT ADD UP") && text.contains("+ 3 unexplained"), "{text}");
    }

    #[test]
    fn an_outage_is_described_as_far_as_it_got() {
        let mut outage = Outage { backend: "b2".into(), ..Outage::default() };
        assert_eq!(outage.lines().len(), 1);
        outage.fell = Some(Tick(1_000_000_000));
        outage.noticed = Some(Tick(1_250_000_000));
        assert_eq!(outage.lines()[0], "b2 fell silent and was out of use 0.25 s later");
        outage.returned = Some(Tick(2_000_000_000));
        outage.after.shards.retries = 1;
        assert_eq!(outage.lines()[1], "meanwhile 1 query was sent again to another backend, 0 lost");
        outage.used_again = Some(Tick(2_200_000_000));
        assert_eq!(outage.lines()[2], "it answered again and was in use 0.20 s later");
    }

    #[test]
    fn a_loss_is_never_shown_as_100_percent() {
        assert_eq!(percent(999_999_999, 1_000_000_000), "99.999 %");
        assert_eq!(percent(5, 5), "100.000 %");
        assert_eq!(percent(0, 0), "0.000 %");
    }
}
