//! Our figures under the names of dnsdist: for `--metrics-prefix dnsdist`, /jsonstat and /api/v1.

use std::collections::BTreeMap;

use crate::base::addr::BackendSlot;
use crate::config::ruleset::uuid_text;
use crate::control::stats::figures::Figures;
use crate::control::stats::text::Standing;
use crate::control::web::exposition::{Labels, Page, labelled_servers};
use crate::model::{Backend, Service, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::custom_metrics;
use crate::stats::drop_reason::DropReason;
use crate::stats::live::{LiveState, State};
use crate::stats::registry::{BackendReading, HandshakeReading, LatencyReading};

/// Bounds of dnsdist's bands of latency, nanoseconds.
const BANDS: [u64; 5] = [1_000_000, 10_000_000, 50_000_000, 100_000_000, 1_000_000_000];

/// The figures, with sums that several statistics use.
pub(super) struct Summary<'f> {
    figures: &'f Figures,
    /// Over all servers that answer queries.
    servers: BackendReading,
    latency: LatencyReading,
}

impl<'f> Summary<'f> {
    pub(super) fn new(figures: &'f Figures) -> Self {
        let mut servers = BackendReading::default();
        for (slot, reading) in &figures.total.backends {
            if figures.snapshot.backend(*slot).is_none_or(|b| !b.target) {
                servers.add(reading);
            }
        }
        Self { figures, servers, latency: figures.total.latency(&figures.snapshot) }
    }

    fn drops(&self, reasons: &[DropReason]) -> f64 {
        reasons.iter().map(|reason| self.figures.total.shards.drops[*reason]).sum::<u64>() as f64
    }

    /// Answers between two bounds of dnsdist's bands, by the number of the band.
    fn band(&self, band: usize) -> f64 {
        let counts = self.latency.latency.at_most(BANDS);
        let below = band.checked_sub(1).map_or(0, |before| counts[before]);
        (counts.get(band).copied().unwrap_or_else(|| self.latency.latency.count()) - below) as f64
    }
}

/// A statistic of the process.
pub(super) struct Statistic {
    /// Its name in /jsonstat; in Prometheus' format with underscores.
    pub(super) name: &'static str,
    kind: &'static str,
    help: &'static str,
    pub(super) value: fn(&Summary<'_>) -> f64,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Summary<'_>) -> f64) -> Statistic {
    Statistic { name, kind: "counter", help, value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Summary<'_>) -> f64) -> Statistic {
    Statistic { name, kind: "gauge", help, value }
}

/// What we count of dnsdist's statistics.
pub(super) const STATISTICS: &[Statistic] = &[
    counter("responses", "Responses from servers.", |s| s.servers.responses as f64),
    counter("servfail-responses", "Responses from servers with SERVFAIL.", |s| s.servers.servfails as f64),
    counter("queries", "Queries that were read from clients.", |s| s.figures.total.shards.queries as f64),
    counter("acl-drops", "Packets of clients outside the ACL.", |s| s.drops(&[DropReason::Acl])),
    counter("rule-drop", "Queries that a rule dropped.", |s| s.drops(&[DropReason::Rule])),
    counter("self-answered", "Answers that no server gave.", |s| s.figures.total.shards.self_answered as f64),
    counter("downstream-timeouts", "Queries that a server did not answer in time.", |s| {
        s.servers.timeouts as f64
    }),
    counter("downstream-send-errors", "Queries that could not be sent.", |s| s.servers.send_errors as f64),
    counter("no-policy", "Queries for which there was no server.", |s| s.drops(&[DropReason::NoServer])),
    counter("noncompliant-queries", "Queries that are none, or malformed.", |s| {
        s.drops(&[DropReason::QueryShort, DropReason::QueryIsResponse, DropReason::QueryMalformed])
    }),
    counter("noncompliant-responses", "Responses that are none, or answer another question.", |s| {
        s.drops(&[
            DropReason::ResponseShort,
            DropReason::ResponseNotResponse,
            DropReason::ResponseMismatch,
            DropReason::ResponseEmpty,
        ])
    }),
    counter("empty-queries", "Queries without a question.", |s| s.drops(&[DropReason::QueryEmpty])),
    counter("proxy-protocol-invalid", "Wrong or missing PROXY headers.", |s| {
        s.drops(&[DropReason::ProxyHeader])
    }),
    counter("latency0-1", "Responses within 1 ms.", |s| s.band(0)),
    counter("latency1-10", "Responses within 1 to 10 ms.", |s| s.band(1)),
    counter("latency10-50", "Responses within 10 to 50 ms.", |s| s.band(2)),
    counter("latency50-100", "Responses within 50 to 100 ms.", |s| s.band(3)),
    counter("latency100-1000", "Responses within 100 to 1000 ms.", |s| s.band(4)),
    counter("latency-slow", "Responses after more than 1 s.", |s| s.band(5)),
    gauge("uptime", "Seconds since the start.", |s| s.figures.process.uptime_s as f64),
    gauge("real-memory-usage", "Resident memory, bytes.", |s| s.figures.process.resident_memory as f64),
    counter("cpu-user-msec", "CPU time in user mode, ms.", |s| s.figures.process.cpu_user_ms as f64),
    counter("cpu-sys-msec", "CPU time in the kernel, ms.", |s| s.figures.process.cpu_system_ms as f64),
    gauge("fd-usage", "Open file descriptors.", |s| s.figures.descriptors.open as f64),
];

/// A server with what is known of it.
pub(super) struct Server<'f> {
    pub(super) backend: &'f Backend,
    pub(super) reading: BackendReading,
    pub(super) standing: Standing,
    pub(super) latency_ms: f64,
    /// Queries and lost queries per second, lately.
    pub(super) qps: f64,
    pub(super) drop_rate: f64,
}

impl<'f> Server<'f> {
    pub(super) fn of(figures: &'f Figures, backend: &'f Backend) -> Self {
        let recent = figures.recent.backends.get(&backend.slot);
        let per_second =
            |count: u64| if figures.span.0 == 0 { 0.0 } else { count as f64 * 1e9 / figures.span.0 as f64 };
        Self {
            backend,
            reading: figures.total.backends.get(&backend.slot).cloned().unwrap_or_default(),
            standing: figures.standing(backend.slot),
            latency_ms: latency_ms(&figures.live_state, backend.slot),
            qps: recent.map_or(0.0, |r| per_second(r.queries)),
            drop_rate: recent.map_or(0.0, |r| per_second(r.lost())),
        }
    }

    fn failed(&self, reason: Failure) -> f64 {
        self.standing.failed[reason.index()] as f64
    }
}

/// The smoothed latency of a server, over the shards that have asked it.
fn latency_ms(live_state: &LiveState, slot: BackendSlot) -> f64 {
    let of = |shard: &crate::stats::live::ShardStats| {
        shard.latency_us.get(slot.index()).map_or(0, |us| us.load(std::sync::atomic::Ordering::Relaxed))
    };
    let known: Vec<u32> = live_state.shards().iter().map(of).filter(|us| *us > 0).collect();
    if known.is_empty() {
        0.0
    } else {
        known.iter().map(|us| f64::from(*us)).sum::<f64>() / known.len() as f64 / 1e3
    }
}

/// A statistic of a server: its name, type, help, and how it is read.
type OfServer = (&'static str, &'static str, &'static str, fn(&Server<'_>) -> f64);

/// What we count of dnsdist's statistics of servers.
const SERVER_STATISTICS: &[OfServer] = &[
    ("status", "gauge", "Whether the server gets queries.", |s| {
        f64::from(u8::from(s.standing.state == State::Up))
    }),
    ("queries", "counter", "Queries sent to it.", |s| s.reading.queries as f64),
    ("responses", "counter", "Responses from it.", |s| s.reading.responses as f64),
    ("noncompliantresponses", "counter", "Responses that fit no query.", |s| s.reading.unexpected as f64),
    ("drops", "counter", "Queries that it did not answer.", |s| s.reading.lost() as f64),
    ("latency", "gauge", "Its smoothed latency, ms.", |s| s.latency_ms),
    ("senderrors", "counter", "Queries that could not be sent.", |s| s.reading.send_errors as f64),
    ("outstanding", "gauge", "Queries that it has not answered yet.", |s| s.reading.outstanding as f64),
    ("order", "gauge", "Its order.", |s| f64::from(s.backend.order)),
    ("weight", "gauge", "Its weight.", |s| f64::from(s.backend.weight)),
    ("tcpnewconnections", "counter", "Connections to it.", |s| s.reading.connections.opened as f64),
    ("tlsresumptions", "counter", "Resumed TLS sessions.", |s| {
        s.reading.connections.handshakes.resumed as f64
    }),
    ("healthcheckfailures", "counter", "Failed health checks.", |s| {
        Failure::ALL.iter().filter(|why| **why != Failure::Local).map(|why| s.failed(*why)).sum()
    }),
    ("healthcheckfailuresparsing", "counter", "Those without a valid answer.", |s| {
        s.failed(Failure::Parsing)
    }),
    ("healthcheckfailurestimeout", "counter", "Those without an answer in time.", |s| {
        s.failed(Failure::Timeout)
    }),
    ("healthcheckfailuresnetwork", "counter", "Those of the network.", |s| s.failed(Failure::Network)),
    ("healthcheckfailuresmismatch", "counter", "Those with another answer.", |s| s.failed(Failure::Mismatch)),
    ("healthcheckfailuresinvalid", "counter", "Those with an answer that says no.", |s| {
        s.failed(Failure::Invalid)
    }),
];

/// The protocol of a listener as dnsdist's labels say it; none for relays.
pub(super) const fn protocol(service: &Service) -> Option<&'static str> {
    match service {
        Service::Dns | Service::DnsUdp => Some("UDP"),
        Service::Dot(_) => Some("TCP (DNS over TLS)"),
        Service::TcpRelay(_) | Service::UdpRelay(_) => None,
    }
}

/// The servers of a pool, and those that are up.
pub(super) fn members(snapshot: &Snapshot, figures: &Figures, pool: usize) -> (usize, usize) {
    let members = &snapshot.pools[pool].members;
    let up = members.iter().filter(|slot| figures.standing(**slot).state == State::Up).count();
    (members.len(), up)
}

/// The page of these figures, for what dnsdist has as well.
#[must_use]
pub(super) fn page(figures: &Figures) -> String {
    let mut out = Page::default();
    metrics(&mut out, figures);
    out.finish()
}

fn metrics(page: &mut Page, figures: &Figures) {
    let (summary, none) = (Summary::new(figures), Labels::new());
    for statistic in STATISTICS {
        let name = format!("dnsdist_{}", statistic.name.replace('-', "_"));
        page.family(&name, statistic.kind, statistic.help);
        page.sample(&name, &none, (statistic.value)(&summary));
    }
    page.family("dnsdist_info", "gauge", "The running version; the value is always 1.");
    page.sample("dnsdist_info", &[("version", format!("dnslob {}", env!("CARGO_PKG_VERSION")))], 1);
    latency(page, &summary);
    let servers = labelled_servers(&figures.snapshot);
    let servers: Vec<_> = servers.into_iter().filter(|(_, b)| !b.target && !b.tee).collect();
    let read: Vec<Server<'_>> = servers.iter().map(|(_, backend)| Server::of(figures, backend)).collect();
    for (name, kind, help, value) in SERVER_STATISTICS {
        let name = format!("dnsdist_server_{name}");
        for ((labels, _), server) in servers.iter().zip(&read) {
            page.family(&name, kind, help);
            page.sample(&name, labels, value(server));
        }
    }
    listeners(page, figures);
    pools(page, figures);
    rules(page, figures);
    for metric in custom_metrics::all().list() {
        page.custom(&metric, "dnsdist", false);
    }
}

fn latency(page: &mut Page, summary: &Summary<'_>) {
    let latency = &summary.latency.latency;
    page.family("dnsdist_latency", "histogram", "Responses by latency, ms.");
    for (le, count) in ["1", "10", "50", "100", "1000"].into_iter().zip(latency.at_most(BANDS)) {
        page.sample("dnsdist_latency_bucket", &[("le", le.to_owned())], count);
    }
    page.sample("dnsdist_latency_bucket", &[("le", "+Inf".to_owned())], latency.count());
    page.sample("dnsdist_latency_sum", &Labels::new(), latency.sum_ns() as f64 / 1e6);
    page.sample("dnsdist_latency_count", &Labels::new(), latency.count());
}

fn listeners(page: &mut Page, figures: &Figures) {
    let listeners = figures.snapshot.listeners.iter();
    let listeners: Vec<_> = listeners.filter_map(|l| Some((l, protocol(&l.service)?))).collect();
    let labels = |address: &std::net::SocketAddr, proto: &str| {
        vec![("frontend", address.to_string()), ("proto", proto.to_owned()), ("thread", "0".to_owned())]
    };
    let name = "dnsdist_frontend_tcpcurrentconnections";
    for (listener, proto) in &listeners {
        let proto = if listener.service.tls().is_some() { proto } else { "TCP" };
        page.family(name, "gauge", "Connections at this time.");
        let open = figures.live_state.connection_limits().by_listener(listener.slot);
        page.sample(name, &labels(&listener.address, proto), open);
    }
    for (name, help, value) in [
        (
            "dnsdist_frontend_tlsnewsessions",
            "New TLS sessions.",
            (|h| h.full) as fn(&HandshakeReading) -> u64,
        ),
        ("dnsdist_frontend_tlsresumptions", "Resumed TLS sessions.", |h| h.resumed),
    ] {
        for (listener, proto) in listeners.iter().filter(|(l, _)| l.service.tls().is_some()) {
            let sum = figures.live_state.handshakes(listener.slot);
            page.family(name, "counter", help);
            page.sample(name, &labels(&listener.address, proto), value(&sum));
        }
    }
}

/// The name of the default pool in dnsdist's labels.
const DEFAULT_POOL: &str = "_default_";

fn pools(page: &mut Page, figures: &Figures) {
    let snapshot = &figures.snapshot;
    for (name, help, up) in [
        ("dnsdist_pool_servers", "Servers of the pool.", false),
        ("dnsdist_pool_active_servers", "Servers of the pool that are up.", true),
    ] {
        for (at, pool) in snapshot.pools.iter().enumerate().filter(|(at, p)| *at == 0 || !p.name.is_empty()) {
            let label = if pool.name.is_empty() { DEFAULT_POOL } else { &pool.name };
            let (all, usable) = members(snapshot, figures, at);
            page.family(name, "gauge", help);
            page.sample(name, &[("pool", label.to_owned())], if up { usable } else { all });
        }
    }
}

/// Rules of the query chain with a value of their own.
const RULES_MAX: usize = 1_000;

fn rules(page: &mut Page, figures: &Figures) {
    let shown = || figures.snapshot.chains.query.rules().iter().take(RULES_MAX);
    let mut named: BTreeMap<&str, usize> = BTreeMap::new();
    shown().for_each(|rule| *named.entry(&rule.name).or_default() += 1);
    for rule in shown() {
        let hits = figures.live_state.rule_hits(rule.slot);
        page.family("dnsdist_rule_hits", "counter", "Queries that a rule matched.");
        // As dnsdist; rules of one name can be told apart by their UUIDs only.
        let is_alone = !rule.name.is_empty() && named.get(&*rule.name) == Some(&1);
        let id = if is_alone { rule.name.clone() } else { uuid_text(&rule.uuid) };
        page.sample("dnsdist_rule_hits", &[("id", id)], hits);
    }
}
