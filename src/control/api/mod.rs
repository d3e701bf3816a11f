//! The dashboard: one page that asks for nothing but itself, and the JSON that it draws.
//!
//! ```text
//!  web thread ──once a second, feed──► Dashboard ──► GET /api/v2/overview
//!                                        └ History, Events ──► GET /api/v2/history
//!  thread that counts the traffic ◄──asks── GET /api/v2/top
//! ```

#![expect(
    clippy::disallowed_types,
    reason = "the router's state must be such that threads could share it; only the web server's does"
)]

mod overview;
pub(super) mod top;

use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use crate::base::addr::BackendSlot;
use crate::control::api::overview::RuleHits;
pub(super) use crate::control::api::overview::Standing;
use crate::control::events::{Event, Events};
use crate::control::history::{History, Range, Sample};
use crate::control::notes::Note;
use crate::control::stats::figures::Figures;
use crate::control::stats::latency::RecentLatencies;

/// Servers that a history names; what the others got is the rest of `sent`.
const SERVERS_MAX: usize = 12;

/// The page: `dashboard.html` with the charts' library in it.
pub(super) static PAGE: LazyLock<String> = LazyLock::new(|| {
    let part = |page: String, place: &str, part: &str| page.replacen(place, part, 1);
    let page = include_str!("dashboard.html").to_owned();
    let page = part(page, "uPlot.LICENSE", include_str!("uplot/LICENSE").trim());
    let page = part(page, "/* uPlot.min.css */", include_str!("uplot/uPlot.min.css"));
    part(page, "/* uPlot.iife.min.js */", include_str!("uplot/uPlot.iife.min.js"))
});

/// The page's `Content-Security-Policy`: its own scripts, by their digests, and requests to its
/// server.
pub(super) static PAGE_POLICY: LazyLock<String> = LazyLock::new(|| {
    let mut policy = "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; script-src"
        .to_owned();
    for script in scripts(&PAGE) {
        policy += &format!(" 'sha256-{}'", BASE64.encode(digest(&SHA256, script.as_bytes())));
    }
    policy
});

/// What stands between the tags of each script.
fn scripts(page: &str) -> impl Iterator<Item = &str> {
    page.split("<script>").skip(1).filter_map(|rest| rest.split_once("</script>")).map(|(script, _)| script)
}

/// What the page shows beside the figures of the moment.
#[derive(Debug, Default)]
pub(super) struct Dashboard {
    history: History,
    events: Events,
    rules: RuleHits,
    latencies: RecentLatencies,
    /// CPU time of the process at the last feed, and its share of a core until then.
    cpu: Option<(u64, Option<f64>)>,
    /// When it was fed last, seconds since 1970.
    unix: u64,
}

/// The dashboard as the web server's pages have it.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedDashboard(Arc<Mutex<Dashboard>>);

impl SharedDashboard {
    /// Nobody waits: the pages are made one after the other.
    pub(super) fn lock(&self) -> MutexGuard<'_, Dashboard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dashboard {
    /// Takes what the control loop says.
    pub(super) fn note(&mut self, figures: &Figures, notes: Vec<Note>) {
        self.events.note(figures.unix, notes);
    }

    /// The number of the oldest event, and the one that the next will have.
    pub(super) fn event_numbers(&self) -> (u64, u64) {
        self.events.numbers()
    }

    /// The events from a number on, the oldest first.
    pub(super) fn events_from(&self, number: u64) -> impl Iterator<Item = &Event> {
        self.events.from(number)
    }

    /// Takes the figures; once a second.
    pub(super) fn feed(&mut self, figures: &Figures) {
        let before = self.history.at();
        self.history.feed(&figures.total, &figures.snapshot);
        if self.history.at() == before {
            return;
        }
        self.unix = figures.unix;
        self.events.feed(figures);
        self.latencies.feed(figures);
        let used = figures.process.cpu_user_ms + figures.process.cpu_system_ms;
        let percent = before.zip(self.cpu).map(|(at, (earlier, _))| {
            let elapsed = figures.total.at.since(at).0.max(1) as f64 / 1e6;
            rounded(used.saturating_sub(earlier) as f64 * 100.0 / elapsed)
        });
        self.cpu = Some((used, percent));
    }

    /// GET /api/v2/history
    pub(super) fn history(&self, range: Range, from: u64) -> Value {
        let series = self.history.series(range, from);
        let column = |of: &dyn Fn(&Sample) -> f32| -> Value {
            series.samples.iter().map(|s| rounded(of(s).into())).collect()
        };
        let quantile = |at: usize| -> Value {
            let of = |s: &Sample| s.latency_ms.map(|q| rounded(q[at].into()));
            series.samples.iter().map(of).collect()
        };
        let mut sums: Map<String, Value> = Map::new();
        for (name, of) in [
            ("queries", (|s| s.queries) as fn(&Sample) -> f32),
            ("answers", |s| s.answers),
            ("drops", |s| s.drops),
            ("errors", |s| s.errors),
            ("sent", |s| s.sent),
        ] {
            sums.insert(name.into(), column(&of));
        }
        let servers: Value = self
            .most_asked(&series.samples)
            .into_iter()
            .map(|slot| {
                let owner = self.history.owner(slot);
                let of = |s: &Sample| s.servers().find(|(of, _)| *of == slot).map_or(0.0, |(_, rate)| rate);
                json!({
                    "slot": slot.0,
                    "name": owner.map(|owner| &owner.name),
                    "address": owner.map(|owner| &owner.address),
                    "queries": column(&of),
                })
            })
            .collect();
        let mut all = json!({
            "range": range.seconds(),
            "step": series.step,
            "first": series.first,
            "first_unix": self.unix.saturating_sub(series.age),
            "latency_ms": {"p50": quantile(0), "p90": quantile(1), "p99": quantile(2), "p999": quantile(3)},
            "servers": servers,
        });
        if let Value::Object(all) = &mut all {
            all.append(&mut sums);
        }
        all
    }

    /// The servers with the most queries, by slot.
    fn most_asked(&self, samples: &[Sample]) -> Vec<BackendSlot> {
        let mut sums: Vec<(BackendSlot, f32)> = Vec::new();
        for (slot, rate) in samples.iter().flat_map(Sample::servers) {
            match sums.iter_mut().find(|(of, _)| *of == slot) {
                Some((_, sum)) => *sum += rate,
                None => sums.push((slot, rate)),
            }
        }
        sums.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut slots: Vec<_> = sums.into_iter().take(SERVERS_MAX).map(|(slot, _)| slot).collect();
        slots.sort_by_key(|slot| slot.0);
        slots
    }
}

/// With three digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::base::time::Tick;
    use crate::control::api::overview::Standing;
    use crate::control::fixture;
    use crate::control::monitor::Monitor;
    use crate::control::publisher::Feed;
    use crate::stats::drop_reason::DropReason;
    use crate::stats::live::{LiveState, State};

    const A: BackendSlot = BackendSlot(0);
    const B: BackendSlot = BackendSlot(1);
    const SERVING: Standing =
        Standing { started: 1_700_000_000, ready: true, draining: false, file_generation: 5 };

    struct Fed {
        monitor: Monitor,
        dashboard: Dashboard,
        live_state: Arc<LiveState>,
    }

    impl Fed {
        fn new() -> Self {
            let live_state = Arc::new(LiveState::new(1, 2));
            let feed = Feed::new(Arc::new(fixture::snapshot(7, &[0], &[0, 1])), Arc::clone(&live_state));
            let monitor = Monitor::new(&feed, Arc::new(AtomicU64::new(0)));
            let mut fed = Self { monitor, dashboard: Dashboard::default(), live_state };
            fed.at(100);
            fed
        }

        /// The figures, as if it were this second.
        fn at(&mut self, second: u64) -> Figures {
            let mut figures = self.monitor.figures();
            figures.total.at = Tick(second * 1_000_000_000);
            figures.unix = 1_700_000_000 + second;
            self.dashboard.feed(&figures);
            figures
        }

        fn serve_some(&self) {
            let shard = &self.live_state.shards()[0];
            shard.queries.add(100);
            shard.responses.add(50);
            shard.cache_hits.add(40);
            shard.self_answered.add(6);
            shard.dropped(DropReason::Acl).add(4);
            shard.backend(A).queries.add(75);
            shard.backend(B).queries.add(25);
            shard.backend(B).timeouts.add(10);
            for _ in 0..75 {
                shard.backend(A).latency.record(2_000_000);
                shard.servers.latency.record(2_000_000);
            }
        }
    }

    #[test]
    fn an_overview_has_rates_over_the_last_second() {
        let mut fed = Fed::new();
        fed.live_state.set_state(A, State::Up);
        fed.serve_some();
        let figures = fed.at(101);
        let all = fed.dashboard.overview(&figures, SERVING);
        assert_eq!((&all["generation"], &all["file_generation"]), (&json!(7), &json!(5)));
        assert_eq!(
            all["rates"],
            json!({"span_s": 1.0, "queries": 100.0, "answers": 96.0, "drops": 4.0, "errors": 10.0})
        );
        let [a, b] = [&all["servers"][0], &all["servers"][1]];
        assert_eq!((&a["share"], &a["state"], &a["qps"]), (&json!(0.75), &json!("up"), &json!(75.0)));
        assert_eq!((&b["share"], &b["lost_per_s"], &b["p50_ms"]), (&json!(0.25), &json!(10.0), &Value::Null));
        assert!((1.9..2.1).contains(&a["p99_ms"].as_f64().expect("a latency")), "{a}");
        assert_eq!(all["latency"]["buckets"].as_array().expect("buckets").len(), 1);
        assert_eq!(all["latency"]["buckets"][0][2], 75);
        assert_eq!((&all["pools"][0]["up"], &all["pools"][0]["servers"]), (&json!(1), &json!(2)));
        assert_eq!(all["listeners"][0]["protocol"], "UDP and TCP");
        assert_eq!((&all["drops"][0]["reason"], &all["drops"][0]["total"]), (&json!("acl"), &json!(4)));
        assert!(all["process"]["cpu_percent"].is_f64(), "{}", all["process"]);
        assert_eq!(all["events"][0]["text"], "server ns0: down → up");
        assert_eq!((&all["rules"], &all["rules_total"]), (&json!([]), &json!(0)));
    }

    #[test]
    fn before_the_second_look_there_is_no_rate() {
        let mut fed = Fed::new();
        let figures = fed.at(100);
        let all = fed.dashboard.overview(&figures, SERVING);
        assert_eq!((&all["rates"], &all["servers"][0]["share"]), (&Value::Null, &json!(0.0)));
        assert_eq!((&all["latency"]["p50_ms"], &all["latency"]["buckets"]), (&Value::Null, &json!([])));
    }

    #[test]
    fn a_history_has_columns_and_its_time() {
        let mut fed = Fed::new();
        fed.serve_some();
        fed.at(101);
        fed.at(102);
        let all = fed.dashboard.history(Range::FiveMinutes, 99);
        assert_eq!((&all["first"], &all["first_unix"]), (&json!(100), &json!(1_700_000_100_u64)));
        assert_eq!(all["queries"], json!([100.0, 0.0]));
        assert_eq!((&all["errors"], &all["sent"]), (&json!([10.0, 0.0]), &json!([100.0, 0.0])));
        let p50 = &all["latency_ms"]["p50"];
        assert!(p50[0].is_f64() && p50[1].is_null(), "{p50}");
        assert_eq!(all["servers"][1]["queries"], json!([25.0, 0.0]));
        assert_eq!((&all["servers"][0]["name"], &all["step"]), (&json!("ns0"), &json!(1)));
    }

    #[test]
    fn the_page_asks_nobody_else_and_is_small() {
        assert!(PAGE.len() < 150_000, "{}", PAGE.len());
        assert!(PAGE.contains("The MIT License") && PAGE.contains("var uPlot="));
        for place in ["uPlot.LICENSE", "/* uPlot"] {
            assert!(!PAGE.contains(place), "{place} is not filled");
        }
        for outside in ["src=\"http", "href=\"http", "@import", "url(http", "//cdn"] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        assert_eq!(PAGE_POLICY.matches("'sha256-").count(), 2);
        // A tag with attributes would have no digest.
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("<script>").count());
    }
}
