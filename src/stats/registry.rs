//! Every metric: its name, kind, unit and help, in one place.
//!
//! A set of metrics is declared here once, and yields
//!
//! - a struct of meters that a shard counts in (after `from`; sets without it are filled by whoever
//!   takes a reading),
//! - a struct of what is read of them over all shards, with sums and differences,
//! - descriptions, which the dump of SIGUSR1 and `docs/metrics.md` are made of.
//!
//! To add a metric, declare it here and count it. A set with labels has its values once for each
//! server, listener or rule; the labels are named in brackets behind the set's name. A metric that
//! is counted by reasons has a value for each of them.

use crate::compare::Class;
use crate::stats::carbon_failure::CarbonFailure;
use crate::stats::check_failure::Failure;
use crate::stats::close_reason::{BackendCloseReason, ClientCloseReason, RelayCloseReason};
use crate::stats::descriptors::Use;
use crate::stats::drop_reason::DropReason;
use crate::stats::histogram::Histogram;
use crate::stats::meter::{
    Counter, CounterBy, Gauge, GaugeBy, GaugeElsewhere, Kind, Meter, ShardMeter, SignedGauge, Value,
};
use crate::stats::metric_sets::{meters, reading, registry};
use crate::stats::not_cached::NotCached;
use crate::stats::query_type::QueryType;
use crate::stats::response_code::{ResponseCode, RuleAnswer};
use crate::stats::web_refusal::WebRefusal;
use crate::tls::Reason;

/// What a metric's value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Changes, as of the configuration.
    Changes,
    /// Health checks.
    Checks,
    /// Connections.
    Connections,
    /// File descriptors.
    Descriptors,
    /// Entries of a cache.
    Entries,
    /// Errors.
    Errors,
    /// TLS handshakes.
    Handshakes,
    /// Lines of a log.
    Lines,
    /// Thousandths of a second.
    Milliseconds,
    /// A number that says which.
    Number,
    /// Packets, or messages of a connection.
    Packets,
    /// Queries.
    Queries,
    /// Responses and answers.
    Responses,
    /// Reports to other programs.
    Reports,
    /// Requests to the web server.
    Requests,
    /// Restarts.
    Restarts,
    /// Seconds.
    Seconds,
    /// Sessions of relays: connections and flows.
    Sessions,
}

impl Unit {
    /// Its name in documents.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Changes => "changes",
            Self::Checks => "checks",
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
            Self::Entries => "entries",
            Self::Errors => "errors",
            Self::Handshakes => "handshakes",
            Self::Lines => "lines",
            Self::Milliseconds => "milliseconds",
            Self::Number => "number",
            Self::Packets => "packets",
            Self::Queries => "queries",
            Self::Responses => "responses",
            Self::Reports => "reports",
            Self::Requests => "requests",
            Self::Restarts => "restarts",
            Self::Seconds => "seconds",
            Self::Sessions => "sessions",
        }
    }
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    /// Lower-case words with hyphens; one by reasons is followed by the label of each.
    pub name: &'static str,
    /// What its value does over time.
    pub kind: Kind,
    /// What its value counts.
    pub unit: Unit,
    /// One sentence.
    pub help: &'static str,
    /// Label and sentence of each reason that it is counted by; none where it is one value.
    pub reasons: &'static [(&'static str, &'static str)],
    /// What those are called, as `reason` or `use`; nothing where it is one value.
    pub label: &'static str,
}

/// Metrics that are counted and shown together.
#[derive(Debug)]
pub struct Set {
    /// Where there are labels, the metrics' names begin with it.
    pub name: &'static str,
    /// What there is such a set for, each; none for sets of the whole process.
    pub labels: &'static [&'static str],
    /// The metrics, in the order in which they are shown.
    pub metrics: &'static [Metric],
}

impl Set {
    /// A metric's name without the set's, for places where that stands already.
    #[must_use]
    pub fn short<'m>(&self, metric: &'m Metric) -> &'m str {
        let rest = metric.name.strip_prefix(self.name).and_then(|rest| rest.strip_prefix('-'));
        rest.unwrap_or(metric.name)
    }
}

registry! {
    /// The process.
    ProcessReading = "process" [] {
        /// Lines of the log that were not written.
        log_lines_lost: Counter = "log-lines-lost", Lines;
        /// Lines for standard output that were not written.
        output_lines_lost: Counter = "output-lines-lost", Lines;
        /// Lines of query logs that were not written.
        query_log_lines_lost: Counter = "query-log-lines-lost", Lines;
        /// Lines of logs of TLS keys that were not written.
        key_log_lines_lost: Counter = "key-log-lines-lost", Lines;
        /// Connections to the console that were refused, or closed for others before they had proved the key.
        console_refused: Counter = "console-refused", Connections;
        /// The configuration in force; each reload adds 1.
        generation: Gauge = "generation", Number;
        /// Changes of the configuration, by a reload, on the console or by the API, that were refused.
        changes_refused: Counter = "changes-refused", Changes;
        /// Shards that do not use the configuration in force yet; for longer than a moment, they hang.
        shards_behind: Gauge = "shards-behind", Number;
        /// How long the process has run.
        uptime_s: Gauge = "uptime-s", Seconds;
        /// CPU time in user mode.
        cpu_user_ms: Counter = "cpu-user-ms", Milliseconds;
        /// CPU time in the kernel.
        cpu_system_ms: Counter = "cpu-system-ms", Milliseconds;
        /// Resident memory.
        resident_memory: Gauge = "resident-memory-bytes", Bytes;
    }

    /// The web server.
    WebReading from WebStats = "web" [] {
        /// Connections at this time.
        open: Gauge = "web-open", Connections;
        /// Connections that came, with those that were closed at once.
        opened: Counter = "web-opened", Connections;
        /// Requests that were answered, those that were refused included.
        requests: Counter = "web-requests", Requests;
        /// Connections and requests that were refused, by reason.
        refused: CounterBy<WebRefusal> = "web-refused", Requests;
    }

    /// Reports to Carbon servers.
    CarbonReading from CarbonStats = "carbon" [] {
        /// Reports that were sent.
        sent: Counter = "carbon-reports", Reports;
        /// Reports that were lost, by reason.
        failed: CounterBy<CarbonFailure> = "carbon-failed", Reports;
    }

    /// The traffic that is watched for lists of clients and names.
    TrafficReading from TrafficStats = "traffic" [] {
        /// Finished queries that were counted.
        counted: Counter = "traffic-counted", Queries;
        /// Finished queries that were left out at a high rate, or overwritten before they could be counted.
        missed: Counter = "traffic-missed", Queries;
        /// Finished queries by the requested type; at a high rate an estimate from those that were counted.
        types: CounterBy<QueryType> = "traffic-type", Queries;
        /// Queries per second of the client with the most, at least, on average over the last ten seconds.
        client_rate_max: Gauge = "traffic-client-rate-max", Queries;
        /// The same of the network with the most: /24 of IPv4, /48 of IPv6.
        network_rate_max: Gauge = "traffic-network-rate-max", Queries;
        /// Bytes of answers per second to the client that got the most, at least, on average over the last ten seconds.
        client_bandwidth_max: Gauge = "traffic-client-bandwidth-max", Bytes;
    }

    /// File descriptors.
    DescriptorReading = "descriptors" [] {
        /// Descriptors that are open, as the kernel counts them.
        open: Gauge = "descriptors-open", Descriptors;
        /// Descriptors that the process may have.
        limit: Gauge = "descriptors-limit", Descriptors;
        /// The part of the limit that is kept for what is no connection and no flow.
        reserve: Gauge = "descriptors-reserve", Descriptors;
        /// Connections and flows that made room for others.
        evicted: Counter = "descriptors-evicted", Connections;
        /// Connections and flows that were refused, with none to make room for them.
        refused: Counter = "descriptors-refused", Connections;
        /// Descriptors in use, for each use.
        used: GaugeBy<Use> = "descriptors", Descriptors;
        /// Descriptors that there may be, for each use.
        max: GaugeBy<Use> = "descriptors-max", Descriptors;
    }

    /// What the kernel counts of UDP and TCP in the process's network namespace, with that of other programs.
    NetworkReading = "network" [] {
        /// UDP datagrams over IPv4 that were not delivered, for any reason.
        udp_in_errors: Counter = "network-udp-in-errors", Errors;
        /// UDP datagrams over IPv4 to a port that nobody listens on.
        udp_noport: Counter = "network-udp-noport", Packets;
        /// UDP datagrams over IPv4 that were dropped because the receive buffer of a socket was full.
        udp_recvbuf_errors: Counter = "network-udp-recvbuf-errors", Packets;
        /// UDP datagrams over IPv4 that could not be sent because the send buffer of a socket was full.
        udp_sndbuf_errors: Counter = "network-udp-sndbuf-errors", Packets;
        /// UDP datagrams over IPv4 with a wrong checksum.
        udp_csum_errors: Counter = "network-udp-csum-errors", Packets;
        /// UDP datagrams over IPv6 that were not delivered, for any reason.
        udp6_in_errors: Counter = "network-udp6-in-errors", Errors;
        /// UDP datagrams over IPv6 to a port that nobody listens on.
        udp6_noport: Counter = "network-udp6-noport", Packets;
        /// UDP datagrams over IPv6 that were dropped because the receive buffer of a socket was full.
        udp6_recvbuf_errors: Counter = "network-udp6-recvbuf-errors", Packets;
        /// UDP datagrams over IPv6 that could not be sent because the send buffer of a socket was full.
        udp6_sndbuf_errors: Counter = "network-udp6-sndbuf-errors", Packets;
        /// UDP datagrams over IPv6 with a wrong checksum.
        udp6_csum_errors: Counter = "network-udp6-csum-errors", Packets;
        /// Connections that the kernel dropped because the queue of a listening socket was full.
        tcp_listen_overflows: Counter = "network-tcp-listen-overflows", Connections;
    }

    /// What the kernel counts of the CPU time of the whole machine.
    MachineReading = "machine" [] {
        /// CPU time in which a task waited for a disk, in hundredths of a second over all CPUs.
        cpu_iowait: Counter = "machine-cpu-iowait", Number;
        /// CPU time that the hypervisor gave to other machines, in hundredths of a second over all CPUs.
        cpu_steal: Counter = "machine-cpu-steal", Number;
    }

    /// Connections of clients.
    ClientConnectionReading from ClientConnectionStats = "client-connections" [] {
        /// Connections at this time.
        open: Gauge = "client-connections-open", Connections;
        /// Connections that came, with those that were closed at once.
        opened: Counter = "client-connections-opened", Connections;
        /// Connections that have ended, or were closed at once, by reason.
        ends: CounterBy<ClientCloseReason> = "client-connection-end", Connections;
    }

    /// Connections to a server.
    BackendConnectionReading from BackendConnectionStats = "backend-connections" ["server"] {
        /// Connections that were made.
        opened: Counter = "backend-connections-opened", Connections;
        /// Those of them that have ended.
        ended: Counter = "backend-connections-ended", Connections;
        /// Queries that were sent on those that have ended.
        ended_queries: Counter = "backend-connections-ended-queries", Queries;
        /// How long those that have ended were there, all together.
        ended_ms: Counter = "backend-connections-ended-ms", Milliseconds;
        /// Queries that were sent on a connection that had carried others before.
        reused: Counter = "backend-connections-reused", Queries;
        /// Connections that the server closed or that broke with queries outstanding.
        died: Counter = "backend-connections-died", Connections;
        /// Connections at this time.
        open: GaugeElsewhere = "backend-connections-open", Connections;
        /// The most connections that there were at a time.
        open_max: GaugeElsewhere = "backend-connections-open-max", Connections;
        /// Connections that have ended, or were not made, by reason.
        ends: CounterBy<BackendCloseReason> = "backend-connections-end", Connections;
        parts {
            /// Their TLS handshakes.
            handshakes: HandshakeStats => HandshakeReading;
        }
    }

    /// TLS handshakes with the clients of a listener, or with a server.
    HandshakeReading from HandshakeStats = "tls" ["listener or server"] {
        /// Handshakes that made a new session.
        full: Counter = "tls-full", Handshakes;
        /// Handshakes that resumed an earlier session.
        resumed: Counter = "tls-resumed", Handshakes;
        /// Handshakes that failed, by reason.
        failures: CounterBy<Reason> = "tls-failed", Handshakes;
    }

    /// What came by a listener, by UDP or over connections.
    ListenerReading from ListenerStats = "listener" ["listener", "protocol"] {
        /// Queries that were read from its clients.
        queries: Counter = "listener-queries", Queries;
        /// Queries that are none, or malformed.
        noncompliant: Counter = "listener-noncompliant-queries", Queries;
        /// Of the packets counted as queries, those of clients outside the ACL, or shorter than a header.
        refused: Counter = "listener-refused", Queries;
        /// Answers to its clients, by response code.
        answers: CounterBy<ResponseCode> = "listener-answers", Responses;
        /// The time from the arrival of a query until its answer, over all attempts.
        latency: Histogram = "listener-latency", Milliseconds;
    }

    /// Answers to the queries of a pool.
    PoolReading from PoolStats = "pool" ["pool"] {
        /// The time from the arrival of a query for the pool until its answer, over all attempts.
        latency: Histogram = "pool-latency", Milliseconds;
        /// Queries that its packet cache has answered.
        cache_hits: Counter = "pool-cache-hits", Queries;
        /// Queries that its packet cache had no answer to.
        cache_misses: Counter = "pool-cache-misses", Queries;
        /// Of the hits, those with an expired answer, as no server could answer.
        cache_stale_hits: Counter = "pool-cache-stale-hits", Queries;
        /// Of the hits, those that have waited for the answer to the same query of another client.
        cache_coalesced: Counter = "pool-cache-coalesced", Queries;
        /// Responses to queries of dnslob's own that were put into its packet cache, which prefetches or warms up.
        cache_refreshed: Counter = "pool-cache-refreshed", Responses;
        /// Responses that were put into its packet cache.
        cache_inserted: Counter = "pool-cache-inserted", Responses;
        /// Responses that were not, by reason.
        cache_not_stored: CounterBy<NotCached> = "pool-cache-not-stored", Responses;
    }

    /// Queries that a shadow pool gets too; both answers are compared.
    ShadowReading from ShadowStats = "shadow" ["pool"] {
        /// Queries that were sent to the pool as well as to their own server.
        queries: Counter = "shadow-queries", Queries;
        /// Pairs of answers, by their most important difference.
        answers: CounterBy<Class> = "shadow-answers", Number;
        /// Of the pairs that differ, those in which the shadow pool's answer is of more use.
        better: Counter = "shadow-better", Number;
        /// Of the pairs that differ, those in which the shadow pool's answer is of less use.
        worse: Counter = "shadow-worse", Number;
        /// Queries that only their own server has answered.
        only_live: Counter = "shadow-only-own", Queries;
        /// Queries that only the shadow pool has answered.
        only_shadow: Counter = "shadow-only-shadow", Queries;
        /// Queries that nobody has answered.
        no_response: Counter = "shadow-neither", Queries;
        /// Queries with an answer that is not compared: of more than 8,192 bytes, or over a client's
        /// connection and too long for the copy's datagram.
        too_long: Counter = "shadow-too-long", Queries;
        /// Queries that were not compared: too many at once, or cut off by a reload.
        incomplete: Counter = "shadow-incomplete", Queries;
        /// The latency of their own servers.
        live_latency: Histogram = "shadow-own-latency", Milliseconds;
        /// The latency of the shadow pool's servers.
        latency: Histogram = "shadow-latency", Milliseconds;
    }

    /// The packet cache of a pool; pools that share one have the same figures.
    CacheReading = "pool-cache" ["pool"] {
        /// The most entries that it may have.
        size: Gauge = "pool-cache-size", Entries;
        /// Its entries, those that have expired and are not removed yet included.
        entries: Gauge = "pool-cache-entries", Entries;
        /// Memory of its table.
        memory: Gauge = "pool-cache-memory", Bytes;
        /// Entries that have made room for others.
        evicted: Counter = "pool-cache-evicted", Entries;
        /// How often it was cleaned of expired entries.
        cleanups: Counter = "pool-cache-cleanups", Number;
    }

    /// Answers with a response code.
    AnswerReading from AnswerStats = "answer" ["rcode"] {
        /// The time from the arrival of a query until an answer with this code, over all attempts.
        latency: Histogram = "answer-latency", Milliseconds;
    }

    /// A certificate of a listener, of a server or of the web server.
    CertificateReading = "certificate" ["listener, server or webserver", "subject"] {
        /// The time until it expires; below 0 when it has expired.
        expires_in_s: SignedGauge = "certificate-expires-in-s", Seconds;
    }

    /// Queries and packets.
    ShardReading from ShardCounters = "queries" [] {
        /// Queries that were read from clients.
        queries: Counter = "queries", Queries;
        /// Queries with RD=1.
        recursive_queries: Counter = "recursive-queries", Queries;
        /// Queries that a packet cache has answered.
        cache_hits: Counter = "cache-hits", Queries;
        /// Queries that a packet cache had no answer to.
        cache_misses: Counter = "cache-misses", Queries;
        /// Queries without a question, answered or dropped.
        empty_queries: Counter = "empty-queries", Queries;
        /// Responses of servers that were delivered to clients.
        responses: Counter = "responses", Responses;
        /// Answers of dnslob itself.
        self_answered: Counter = "self-answered", Responses;
        /// Queries that rules answered, by what they answered.
        rule_answers: CounterBy<RuleAnswer> = "rule-answers", Queries;
        /// Queries that were sent again: to another server, or to the same one by a new connection.
        retries: Counter = "retries", Queries;
        /// Queries whose client waits for an answer.
        outstanding_total: Gauge = "outstanding", Queries;
        /// Shards that were restarted after a fault.
        restarts: Counter = "shard-restarts", Restarts;
        /// Calls of Lua functions that ended in an error, and changes of own metrics that were refused.
        script_errors: Counter = "script-errors", Errors;
        /// Packets that were dropped, by reason.
        drops: CounterBy<DropReason> = "drop", Packets;
        parts {
            /// Connections of clients.
            clients: ClientConnectionStats => ClientConnectionReading;
            /// Sessions of relays.
            relays: RelayStats => RelayReading;
            /// Responses of servers.
            servers: LatencyStats => LatencyReading;
        }
    }

    /// Latency over all servers.
    LatencyReading from LatencyStats = "latency" [] {
        /// Latency of the responses of servers for which clients waited: not of those to copies, nor of
        /// the targets of relays.
        latency: Histogram = "latency", Milliseconds;
    }

    /// Relays.
    RelayReading from RelayStats = "relays" [] {
        /// Sessions that were accepted.
        opened: Counter = "relay-opened", Sessions;
        /// Sessions at this time.
        open: Gauge = "relay-open", Sessions;
        /// Bytes that were sent to targets.
        bytes_out: Counter = "relay-bytes-to-targets", Bytes;
        /// Bytes that were sent back to clients.
        bytes_back: Counter = "relay-bytes-to-clients", Bytes;
        /// Sessions that have ended, or were not accepted, by reason.
        ends: CounterBy<RelayCloseReason> = "relay-end", Sessions;
    }

    /// A server, or a target of a relay.
    BackendReading from BackendStats = "backend" ["server"] {
        /// Queries that were sent to it.
        queries: Counter = "backend-queries", Queries;
        /// Copies among them: by TeeAction, or for a shadow pool.
        copies: Counter = "backend-copies", Queries;
        /// Responses that matched a query.
        responses: Counter = "backend-responses", Responses;
        /// Queries that it did not answer in time.
        timeouts: Counter = "backend-timeouts", Queries;
        /// Queries that could not be sent.
        send_errors: Counter = "backend-send-errors", Queries;
        /// Responses with SERVFAIL.
        servfails: Counter = "backend-servfails", Responses;
        /// Responses that matched no query (late, duplicate, foreign), or not its question.
        unexpected: Counter = "backend-unexpected", Responses;
        /// Those of them by UDP that neither a late nor a second answer of the server explains: an id that is
        /// not outstanding, another question, another address.
        foreign: Counter = "backend-foreign", Responses;
        /// Seconds in which a shard received more than 100 of these, so somebody may be guessing answers.
        foreign_bursts: Counter = "backend-foreign-bursts", Seconds;
        /// How often a shard has opened new UDP sockets because of that.
        redraws: Counter = "backend-redraws", Number;
        /// Latency of its responses.
        latency: Histogram = "backend-latency", Milliseconds;
        /// Queries that are sent and not answered yet.
        outstanding: GaugeElsewhere = "backend-outstanding", Queries;
        parts {
            /// Its connections.
            connections: BackendConnectionStats => BackendConnectionReading;
        }
    }

    /// Health checks of a server.
    CheckReading = "checks" ["server"] {
        /// Checks that failed, by reason.
        failed: CounterBy<Failure> = "checks-failed", Checks;
        /// Times that it came up or went down, by checks, live traffic or the configuration.
        changes: Counter = "checks-state-changes", Changes;
    }

    /// A rule.
    RuleReading from RuleStats = "rule" ["chain", "rule"] {
        /// Packets that it matched.
        hits: Counter = "rule-hits", Packets;
    }
}

impl ShardCounters {
    /// The counter of packets that were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.drops[reason]
    }
}

impl ClientConnectionStats {
    /// The counter of those that ended for a reason.
    #[must_use]
    pub fn ended(&self, why: ClientCloseReason) -> &Counter {
        &self.ends[why]
    }
}

impl BackendConnectionStats {
    /// The counter of those that ended for a reason.
    #[must_use]
    pub fn ended(&self, why: BackendCloseReason) -> &Counter {
        &self.ends[why]
    }
}

impl RelayStats {
    /// The counter of those that ended for a reason.
    #[must_use]
    pub fn ended(&self, why: RelayCloseReason) -> &Counter {
        &self.ends[why]
    }
}

impl HandshakeStats {
    /// The counter of those that failed for a reason.
    #[must_use]
    pub fn failed(&self, why: Reason) -> &Counter {
        &self.failures[why]
    }

    /// Counts one that is done.
    pub fn done(&self, resumed: bool) {
        if resumed { &self.resumed } else { &self.full }.add(1);
    }
}

impl BackendReading {
    /// Returns the queries that are part of the traffic which servers share: not copies.
    #[must_use]
    pub const fn shared(&self) -> u64 {
        self.queries.saturating_sub(self.copies)
    }

    /// Queries that never got an answer: timed out or not sent.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.timeouts + self.send_errors
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn metrics() -> impl Iterator<Item = (&'static Set, &'static Metric)> {
        METRIC_SETS.iter().flat_map(|set| set.metrics.iter().map(move |metric| (*set, metric)))
    }

    fn is_sentence(text: &str) -> bool {
        text.len() > 5 && text.starts_with(|c: char| c.is_ascii_uppercase()) && text.ends_with('.')
    }

    fn is_name(text: &str) -> bool {
        let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        text.split('-').all(word)
    }

    #[test]
    fn every_metric_has_a_name_of_its_own_and_a_help_sentence() {
        let mut names = BTreeSet::new();
        for (set, metric) in metrics() {
            assert!(is_sentence(metric.help), "{}: {:?} is no sentence", metric.name, metric.help);
            assert!(!metric.unit.label().is_empty(), "{}", metric.name);
            let name = metric.name;
            let all = match metric.reasons {
                [] => vec![name.to_owned()],
                reasons => reasons.iter().map(|(label, _)| format!("{name}-{label}")).collect(),
            };
            for name in all {
                assert!(is_name(&name), "{name} is not lower-case words with hyphens");
                assert!(names.insert(name.clone()), "{name} is there twice");
            }
            if !set.labels.is_empty() {
                let by_reasons = set.metrics.iter().filter(|m| !m.reasons.is_empty()).count();
                assert!(by_reasons <= 1, "{}: which metric a reason in its line is of", set.name);
                assert_ne!(set.short(metric), name, "its name begins with that of its set, {}", set.name);
            }
        }
        assert!(names.len() > 100, "{names:?}");
    }

    #[test]
    fn every_reason_has_a_sentence() {
        for (label, help) in metrics().flat_map(|(_, metric)| metric.reasons) {
            assert!(is_name(label) && is_sentence(help), "{label}: {help:?}");
        }
    }

    #[test]
    fn what_shards_count_is_added_up_and_spans_are_put_together() {
        let shards = [ShardCounters::default(), ShardCounters::default()];
        let read = || {
            let mut sum = ShardReading::default();
            shards.iter().for_each(|shard| shard.read(&mut sum));
            sum
        };
        shards[0].queries.add(3);
        shards[1].clients.ended(ClientCloseReason::Idle).add(2);
        shards[0].outstanding_total.set(7);
        let first = read();
        shards[1].queries.add(2);
        shards[1].outstanding_total.set(1);
        shards[0].outstanding_total.set(4);
        let second = read();
        let span = second.since(&first);
        assert_eq!((first.queries, second.queries, span.queries), (3, 5, 2));
        assert_eq!((first.outstanding_total, span.outstanding_total), (7, 5), "a level");
        assert_eq!((second.clients.ends[ClientCloseReason::Idle], &span.clients), (2, &Default::default()));
        let mut total = first.clone();
        total.grow(&span);
        assert_eq!(total, second);
        let mut both = first.clone();
        both.add(&second);
        assert_eq!((both.queries, both.outstanding_total), (8, 12));
        let shown: Vec<_> = second.values().filter(|(m, _)| m.name == "queries").map(|(_, v)| v).collect();
        assert_eq!(shown, [Value::Count(5)]);
    }
}
