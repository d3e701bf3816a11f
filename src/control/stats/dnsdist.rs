//! Our figures under the names of dnsdist: the statistics of the process, of servers and of listeners.
//!
//! What dnslob does not count is not here; none of these is a constant.

use std::sync::Arc;

use crate::base::addr::BackendSlot;
use crate::control::stats::figures::Figures;
use crate::control::stats::text::Standing;
use crate::model::{Backend, Listener, Snapshot};
use crate::stats::check_failure::Failure;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason};
use crate::stats::drop_reason::DropReason;
use crate::stats::histogram::Latency;
use crate::stats::latency_average::LatencyAveragesReading;
use crate::stats::live::{LiveState, ShardStats, State};
use crate::stats::registry::{BackendReading, ListenerReading, MachineReading, NetworkReading};
use crate::stats::response_code::{ResponseCode, RuleAnswer};

/// Bounds of dnsdist's bands of latency, nanoseconds.
pub(in crate::control) const BANDS: [u64; 5] =
    [1_000_000, 10_000_000, 50_000_000, 100_000_000, 1_000_000_000];
const _: () = assert!(crate::stats::histogram::are_edges(&BANDS));

/// The figures, with sums that several statistics use.
pub(in crate::control) struct Summary<'f> {
    figures: &'f Figures,
    /// Over all servers that answer queries.
    servers: BackendReading,
    /// Over all listeners.
    listeners: ListenerReading,
    /// Of the responses to queries that came by UDP, TCP and TLS.
    averages: [LatencyAveragesReading; 3],
}

impl<'f> Summary<'f> {
    pub(in crate::control) fn new(figures: &'f Figures) -> Self {
        let mut servers = BackendReading::default();
        for (slot, reading) in &figures.total.backends {
            if figures.snapshot.backend(*slot).is_none_or(|b| !b.target) {
                servers.add(reading);
            }
        }
        let (mut listeners, mut averages) =
            (ListenerReading::default(), [LatencyAveragesReading::default(); 3]);
        let live_state = &figures.live_state;
        for listener in &figures.snapshot.listeners {
            for by_connection in [false, true] {
                listeners.add(&live_state.listener(listener.slot, by_connection));
                let transport = match (by_connection, listener.service.tls()) {
                    (false, _) => 0,
                    (true, None) => 1,
                    (true, Some(_)) => 2,
                };
                live_state.latency_averages(listener.slot, by_connection, &mut averages[transport]);
            }
        }
        Self { figures, servers, listeners, averages }
    }

    fn answers(&self, code: ResponseCode) -> f64 {
        self.listeners.answers[code] as f64
    }

    fn rules(&self, answer: RuleAnswer) -> f64 {
        self.figures.total.shards.rule_answers[answer] as f64
    }

    fn network(&self, of: fn(&NetworkReading) -> u64) -> Option<f64> {
        self.figures.network.as_ref().map(|network| of(network) as f64)
    }

    fn machine(&self, of: fn(&MachineReading) -> u64) -> Option<f64> {
        self.figures.machine.as_ref().map(|machine| of(machine) as f64)
    }

    fn drops(&self, reasons: &[DropReason]) -> f64 {
        reasons.iter().map(|reason| self.figures.total.shards.drops[*reason]).sum::<u64>() as f64
    }

    /// Returns the latency of the responses for which clients waited.
    pub(in crate::control) const fn latency(&self) -> &Latency {
        self.figures.total.latency()
    }

    /// The answers with a latency, and its sum, milliseconds, by dnsdist's names.
    pub(in crate::control) fn latency_sums(&self) -> [(&'static str, f64); 2] {
        let latency = self.latency();
        let sum_ms = latency.sum_ns() / 1_000_000;
        [("latency-count", latency.count() as f64), ("latency-sum", sum_ms as f64)]
    }

    /// Answers between two bounds of dnsdist's bands, by the number of the band.
    fn band(&self, band: usize) -> f64 {
        let counts = self.latency().at_most(BANDS);
        let below = band.checked_sub(1).map_or(0, |before| counts[before]);
        (counts.get(band).copied().unwrap_or_else(|| self.latency().count()) - below) as f64
    }
}

/// How a statistic is read.
#[derive(Clone, Copy, Debug)]
enum Read {
    Sum(fn(&Summary<'_>) -> f64),
    /// What the system may not say.
    System(fn(&Summary<'_>) -> Option<f64>),
    /// Microseconds over the last latencies: of this transport, over so many.
    Average(usize, usize),
}

/// A statistic of the process.
#[derive(Debug)]
pub(in crate::control) struct Statistic {
    /// Its name in /jsonstat and on the console; in Prometheus' format with underscores.
    pub(in crate::control) name: &'static str,
    pub(in crate::control) kind: &'static str,
    pub(in crate::control) help: &'static str,
    read: Read,
}

impl Statistic {
    /// Returns its value; none where the system does not say.
    pub(in crate::control) fn value(&self, summary: &Summary<'_>) -> Option<f64> {
        match self.read {
            Read::Sum(read) => Some(read(summary)),
            Read::System(read) => read(summary),
            Read::Average(transport, depth) => Some(summary.averages[transport].us(depth)),
        }
    }
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Summary<'_>) -> f64) -> Statistic {
    Statistic { name, kind: "counter", help, read: Read::Sum(read) }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Summary<'_>) -> f64) -> Statistic {
    Statistic { name, kind: "gauge", help, read: Read::Sum(read) }
}

const fn system(name: &'static str, help: &'static str, read: fn(&Summary<'_>) -> Option<f64>) -> Statistic {
    Statistic { name, kind: "counter", help, read: Read::System(read) }
}

const fn average(name: &'static str, transport: usize, depth: usize) -> Statistic {
    const HELP: [&str; 4] = [
        "Average latency of the last 100 responses, microseconds.",
        "Average latency of the last 1000 responses, microseconds.",
        "Average latency of the last 10000 responses, microseconds.",
        "Average latency of the last 1000000 responses, microseconds.",
    ];
    Statistic { name, kind: "gauge", help: HELP[depth], read: Read::Average(transport, depth) }
}

/// What we count of dnsdist's statistics.
pub(in crate::control) const STATISTICS: &[Statistic] = &[
    counter("responses", "Answers to clients: of servers, of caches, and those that no server gave.", |s| {
        s.figures.total.answers() as f64
    }),
    counter("servfail-responses", "Responses from servers with SERVFAIL.", |s| s.servers.servfails as f64),
    counter("queries", "Queries of clients within the ACL, with a whole header.", |s| {
        s.figures.total.shards.queries as f64 - s.drops(&[DropReason::Acl, DropReason::QueryShort])
    }),
    counter("frontend-noerror", "Answers to clients with NOERROR.", |s| s.answers(ResponseCode::NoError)),
    counter("frontend-nxdomain", "Answers to clients with NXDOMAIN.", |s| s.answers(ResponseCode::NxDomain)),
    counter("frontend-servfail", "Answers to clients with SERVFAIL.", |s| s.answers(ResponseCode::ServFail)),
    counter("acl-drops", "Packets of clients outside the ACL.", |s| s.drops(&[DropReason::Acl])),
    counter("rule-drop", "Queries that a rule dropped.", |s| s.drops(&[DropReason::Rule])),
    counter("rule-nxdomain", "Queries that a rule answered with NXDOMAIN.", |s| {
        s.rules(RuleAnswer::NxDomain)
    }),
    counter("rule-refused", "Queries that a rule answered with REFUSED.", |s| s.rules(RuleAnswer::Refused)),
    counter("rule-servfail", "Queries that a rule answered with SERVFAIL.", |s| {
        s.rules(RuleAnswer::ServFail)
    }),
    counter("rule-truncated", "Queries that a rule answered with TC=1.", |s| s.rules(RuleAnswer::Truncated)),
    counter("self-answered", "Answers that no server gave.", |s| s.figures.total.shards.self_answered as f64),
    counter("downstream-timeouts", "Queries that a server did not answer in time.", |s| {
        s.servers.timeouts as f64
    }),
    counter("downstream-send-errors", "Queries that could not be sent.", |s| s.servers.send_errors as f64),
    counter("no-policy", "Queries for which there was no server.", |s| s.drops(&[DropReason::NoServer])),
    counter("noncompliant-queries", "Queries that are none, or malformed.", |s| {
        s.drops(&[
            DropReason::QueryShort,
            DropReason::QueryIsResponse,
            DropReason::QueryTruncated,
            DropReason::QueryMalformed,
        ])
    }),
    counter("noncompliant-responses", "Responses that are none, or answer another question.", |s| {
        s.drops(&[
            DropReason::ResponseShort,
            DropReason::ResponseNotResponse,
            DropReason::ResponseMismatch,
            DropReason::ResponseEmpty,
        ])
    }),
    counter("cache-hits", "Queries that a packet cache has answered.", |s| {
        s.figures.total.shards.cache_hits as f64
    }),
    counter("cache-misses", "Queries that a packet cache had no answer to.", |s| {
        s.figures.total.shards.cache_misses as f64
    }),
    counter("rdqueries", "Queries with RD=1.", |s| s.figures.total.shards.recursive_queries as f64),
    counter("empty-queries", "Queries without a question.", |s| s.figures.total.shards.empty_queries as f64),
    counter("proxy-protocol-invalid", "Wrong or missing PROXY headers.", |s| {
        let of_connections = s.figures.total.shards.clients.ends[ClientCloseReason::Proxy];
        s.drops(&[DropReason::ProxyHeader]) + of_connections as f64
    }),
    counter("latency0-1", "Responses within 1 ms.", |s| s.band(0)),
    counter("latency1-10", "Responses within 1 to 10 ms.", |s| s.band(1)),
    counter("latency10-50", "Responses within 10 to 50 ms.", |s| s.band(2)),
    counter("latency50-100", "Responses within 50 to 100 ms.", |s| s.band(3)),
    counter("latency100-1000", "Responses within 100 to 1000 ms.", |s| s.band(4)),
    counter("latency-slow", "Responses after more than 1 s.", |s| s.band(5)),
    average("latency-avg100", 0, 0),
    average("latency-avg1000", 0, 1),
    average("latency-avg10000", 0, 2),
    average("latency-avg1000000", 0, 3),
    average("latency-tcp-avg100", 1, 0),
    average("latency-tcp-avg1000", 1, 1),
    average("latency-tcp-avg10000", 1, 2),
    average("latency-tcp-avg1000000", 1, 3),
    average("latency-dot-avg100", 2, 0),
    average("latency-dot-avg1000", 2, 1),
    average("latency-dot-avg10000", 2, 2),
    average("latency-dot-avg1000000", 2, 3),
    gauge("uptime", "Seconds since the start.", |s| s.figures.process.uptime_s as f64),
    gauge("real-memory-usage", "Resident memory, bytes.", |s| s.figures.process.resident_memory as f64),
    counter("cpu-user-msec", "CPU time in user mode, ms.", |s| s.figures.process.cpu_user_ms as f64),
    counter("cpu-sys-msec", "CPU time in the kernel, ms.", |s| s.figures.process.cpu_system_ms as f64),
    system("cpu-iowait", "CPU time of the machine that waited for disks, hundredths of a second.", |s| {
        s.machine(|m| m.cpu_iowait)
    }),
    system("cpu-steal", "CPU time that the hypervisor gave to others, hundredths of a second.", |s| {
        s.machine(|m| m.cpu_steal)
    }),
    gauge("fd-usage", "Open file descriptors.", |s| s.figures.descriptors.open as f64),
    system("udp-in-errors", "UDP datagrams that the kernel did not deliver.", |s| {
        s.network(|n| n.udp_in_errors)
    }),
    system("udp-noport-errors", "UDP datagrams to a port without a listener.", |s| {
        s.network(|n| n.udp_noport)
    }),
    system("udp-recvbuf-errors", "UDP datagrams dropped for a full receive buffer.", |s| {
        s.network(|n| n.udp_recvbuf_errors)
    }),
    system("udp-sndbuf-errors", "UDP datagrams dropped for a full send buffer.", |s| {
        s.network(|n| n.udp_sndbuf_errors)
    }),
    system("udp-in-csum-errors", "UDP datagrams with a wrong checksum.", |s| {
        s.network(|n| n.udp_csum_errors)
    }),
    system("udp6-in-errors", "UDP datagrams over IPv6 that the kernel did not deliver.", |s| {
        s.network(|n| n.udp6_in_errors)
    }),
    system("udp6-noport-errors", "UDP datagrams over IPv6 to a port without a listener.", |s| {
        s.network(|n| n.udp6_noport)
    }),
    system("udp6-recvbuf-errors", "UDP datagrams over IPv6 dropped for a full receive buffer.", |s| {
        s.network(|n| n.udp6_recvbuf_errors)
    }),
    system("udp6-sndbuf-errors", "UDP datagrams over IPv6 dropped for a full send buffer.", |s| {
        s.network(|n| n.udp6_sndbuf_errors)
    }),
    system("udp6-in-csum-errors", "UDP datagrams over IPv6 with a wrong checksum.", |s| {
        s.network(|n| n.udp6_csum_errors)
    }),
    system("tcp-listen-overflows", "Connections that the kernel dropped for a full queue.", |s| {
        s.network(|n| n.tcp_listen_overflows)
    }),
];

/// A server with what is known of it.
pub(in crate::control) struct Server<'f> {
    pub(in crate::control) backend: &'f Backend,
    pub(in crate::control) reading: BackendReading,
    pub(in crate::control) standing: Standing,
    pub(in crate::control) latency_ms: f64,
    /// Of its last responses over connections.
    pub(in crate::control) tcp_latency_ms: f64,
    /// Queries and lost queries per second, lately.
    pub(in crate::control) qps: f64,
    pub(in crate::control) drop_rate: f64,
}

impl<'f> Server<'f> {
    pub(in crate::control) fn of(figures: &'f Figures, backend: &'f Backend) -> Self {
        let recent = figures.recent.backends.get(&backend.slot);
        let per_second =
            |count: u64| if figures.span.0 == 0 { 0.0 } else { count as f64 * 1e9 / figures.span.0 as f64 };
        Self {
            backend,
            reading: figures.total.backends.get(&backend.slot).cloned().unwrap_or_default(),
            standing: figures.standing(backend.slot),
            latency_ms: latency_ms(&figures.live_state, backend.slot),
            tcp_latency_ms: figures.live_state.connection_latency(backend.slot).us(0) / 1e3,
            qps: recent.map_or(0.0, |r| per_second(r.queries)),
            drop_rate: recent.map_or(0.0, |r| per_second(r.lost())),
        }
    }

    fn ended(&self, reasons: &[BackendCloseReason]) -> f64 {
        reasons.iter().map(|reason| self.reading.connections.ends[*reason]).sum::<u64>() as f64
    }

    /// The mean over the connections that have ended.
    fn mean(&self, sum: u64) -> f64 {
        sum as f64 / self.reading.connections.ended.max(1) as f64
    }

    fn failed(&self, reason: Failure) -> f64 {
        self.standing.failed[reason.index()] as f64
    }
}

/// The smoothed latency of a server, over the shards that have asked it.
fn latency_ms(live_state: &LiveState, slot: BackendSlot) -> f64 {
    let of = |shard: &Arc<ShardStats>| {
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
pub(in crate::control) type OfServer = (&'static str, &'static str, &'static str, fn(&Server<'_>) -> f64);

/// What we count of dnsdist's statistics of servers.
pub(in crate::control) const SERVER_STATISTICS: &[OfServer] = &[
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
    ("tcplatency", "gauge", "Its average latency over connections, ms.", |s| s.tcp_latency_ms),
    ("tcpdiedreadingresponse", "counter", "Connections that ended with queries outstanding.", |s| {
        s.reading.connections.died as f64
    }),
    ("tcpdiedsendingquery", "counter", "Connections that the server refused.", |s| {
        s.ended(&[BackendCloseReason::Refused])
    }),
    ("tcpconnecttimeouts", "counter", "Connections that were not made in time.", |s| {
        s.ended(&[BackendCloseReason::ConnectTimeout])
    }),
    ("tcpreadtimeouts", "counter", "Connections on which the server was silent.", |s| {
        s.ended(&[BackendCloseReason::Silent])
    }),
    ("tcpwritetimeouts", "counter", "Connections that took no queries in time.", |s| {
        s.ended(&[BackendCloseReason::WriteTimeout])
    }),
    ("tcpcurrentconnections", "gauge", "Connections at this time.", |s| s.reading.connections.open as f64),
    ("tcpmaxconcurrentconnections", "counter", "The most connections at a time.", |s| {
        s.reading.connections.open_max as f64
    }),
    ("tcpnewconnections", "counter", "Connections to it.", |s| s.reading.connections.opened as f64),
    ("tcpreusedconnections", "counter", "Queries on a connection that had carried others.", |s| {
        s.reading.connections.reused as f64
    }),
    ("tcpavgqueriesperconn", "gauge", "Queries per connection that has ended.", |s| {
        s.mean(s.reading.connections.ended_queries)
    }),
    ("tcpavgconnduration", "gauge", "How long connections that have ended lasted, ms.", |s| {
        s.mean(s.reading.connections.ended_ms)
    }),
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

/// Those of a listener that serve UDP, or connections: dnsdist has a frontend for each.
#[derive(Debug)]
pub(in crate::control) struct Frontend<'f> {
    pub(in crate::control) listener: &'f Listener,
    /// As dnsdist's labels say it.
    pub(in crate::control) protocol: &'static str,
    pub(in crate::control) by_connection: bool,
    pub(in crate::control) reading: ListenerReading,
    /// Connections at this time, and the most that there were.
    pub(in crate::control) connections: (u32, u32),
}

impl Frontend<'_> {
    /// Returns the number of queries of clients within the ACL, with a whole header.
    pub(in crate::control) const fn queries(&self) -> u64 {
        self.reading.queries.saturating_sub(self.reading.refused)
    }

    /// Returns the number of answers to its clients.
    pub(in crate::control) fn responses(&self) -> u64 {
        ResponseCode::ALL.iter().map(|code| self.reading.answers[*code]).sum()
    }
}

/// The frontends, without relays.
pub(in crate::control) fn frontends(figures: &Figures) -> Vec<Frontend<'_>> {
    let mut all = Vec::new();
    for listener in figures.snapshot.listeners.iter().filter(|l| l.service.relay().is_none()) {
        let service = &listener.service;
        let stream = if service.tls().is_some() { "TCP (DNS over TLS)" } else { "TCP" };
        for (protocol, by_connection, is_there) in
            [("UDP", false, service.takes_datagrams()), (stream, true, service.takes_connections())]
        {
            if is_there {
                let limits = figures.live_state.connection_limits();
                all.push(Frontend {
                    listener,
                    protocol,
                    by_connection,
                    reading: figures.live_state.listener(listener.slot, by_connection),
                    connections: (limits.by_listener(listener.slot), limits.most_by_listener(listener.slot)),
                });
            }
        }
    }
    all
}

/// A statistic of a frontend: its name, type, help, whether only those of connections have it, and how
/// it is read.
pub(in crate::control) type OfFrontend =
    (&'static str, &'static str, &'static str, bool, fn(&Frontend<'_>) -> f64);

/// What we count of dnsdist's statistics of frontends.
pub(in crate::control) const FRONTEND_STATISTICS: &[OfFrontend] = &[
    ("queries", "counter", "Queries of clients within the ACL, with a whole header.", false, |f| {
        f.queries() as f64
    }),
    ("noncompliantqueries", "counter", "Queries that are none, or malformed.", false, |f| {
        f.reading.noncompliant as f64
    }),
    ("responses", "counter", "Answers to its clients.", false, |f| f.responses() as f64),
    ("tcpcurrentconnections", "gauge", "Connections at this time.", true, |f| f64::from(f.connections.0)),
    ("tcpmaxconcurrentconnections", "counter", "The most connections at a time.", true, |f| {
        f64::from(f.connections.1)
    }),
];

/// The servers of a pool, and those that are up.
pub(in crate::control) fn members(snapshot: &Snapshot, figures: &Figures, pool: usize) -> (usize, usize) {
    let members = &snapshot.pools[pool].members;
    let up = members.iter().filter(|slot| figures.standing(**slot).state == State::Up).count();
    (members.len(), up)
}
