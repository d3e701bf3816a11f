//! The names under which figures are shown, which metrics of a configuration must not have, and what names are.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::stats::meter::Kind;
use crate::stats::registry::{METRIC_SETS, Metric};

/// What the names of a histogram's values end with in Prometheus' format.
pub const HISTOGRAM_ENDS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// Longest name.
const NAME_CHARS_MAX: usize = 100;

/// Families of Prometheus that are of no set, without their prefix.
const OTHERS: [&str; 2] = ["build_info", "backend_up"];

/// What is shown under dnsdist's names: without the prefix, and with underscores.
pub const DNSDIST: [&str; 111] = [
    "acl_drops",
    "cache_hits",
    "cache_misses",
    "cpu_iowait",
    "cpu_steal",
    "cpu_sys_msec",
    "cpu_user_msec",
    "downstream_send_errors",
    "downstream_timeouts",
    "empty_queries",
    "fd_usage",
    "frontend_noerror",
    "frontend_noncompliantqueries",
    "frontend_nxdomain",
    "frontend_queries",
    "frontend_responses",
    "frontend_servfail",
    "frontend_tcpcurrentconnections",
    "frontend_tcpmaxconcurrentconnections",
    "frontend_tlsnewsessions",
    "frontend_tlsresumptions",
    "info",
    "latency",
    "latency0_1",
    "latency100_1000",
    "latency10_50",
    "latency1_10",
    "latency50_100",
    "latency_avg100",
    "latency_avg1000",
    "latency_avg10000",
    "latency_avg1000000",
    "latency_dot_avg100",
    "latency_dot_avg1000",
    "latency_dot_avg10000",
    "latency_dot_avg1000000",
    "latency_slow",
    "latency_tcp_avg100",
    "latency_tcp_avg1000",
    "latency_tcp_avg10000",
    "latency_tcp_avg1000000",
    "no_policy",
    "noncompliant_queries",
    "noncompliant_responses",
    "pool_active_servers",
    "pool_cache_cleanup_count_total",
    "pool_cache_deferred_inserts",
    "pool_cache_deferred_lookups",
    "pool_cache_entries",
    "pool_cache_hits",
    "pool_cache_insert_collisions",
    "pool_cache_lookup_collisions",
    "pool_cache_misses",
    "pool_cache_size",
    "pool_cache_ttl_too_shorts",
    "pool_servers",
    "proxy_protocol_invalid",
    "queries",
    "rdqueries",
    "real_memory_usage",
    "responses",
    "rule_drop",
    "rule_hits",
    "rule_nxdomain",
    "rule_refused",
    "rule_servfail",
    "rule_truncated",
    "self_answered",
    "server_drops",
    "server_healthcheckfailures",
    "server_healthcheckfailuresinvalid",
    "server_healthcheckfailuresmismatch",
    "server_healthcheckfailuresnetwork",
    "server_healthcheckfailuresparsing",
    "server_healthcheckfailurestimeout",
    "server_latency",
    "server_noncompliantresponses",
    "server_order",
    "server_outstanding",
    "server_policy",
    "server_queries",
    "server_responses",
    "server_senderrors",
    "server_status",
    "server_tcpavgconnduration",
    "server_tcpavgqueriesperconn",
    "server_tcpconnecttimeouts",
    "server_tcpcurrentconnections",
    "server_tcpdiedreadingresponse",
    "server_tcpdiedsendingquery",
    "server_tcplatency",
    "server_tcpmaxconcurrentconnections",
    "server_tcpnewconnections",
    "server_tcpreadtimeouts",
    "server_tcpreusedconnections",
    "server_tcpwritetimeouts",
    "server_tlsresumptions",
    "server_weight",
    "servfail_responses",
    "tcp_listen_overflows",
    "udp6_in_csum_errors",
    "udp6_in_errors",
    "udp6_noport_errors",
    "udp6_recvbuf_errors",
    "udp6_sndbuf_errors",
    "udp_in_csum_errors",
    "udp_in_errors",
    "udp_noport_errors",
    "udp_recvbuf_errors",
    "udp_sndbuf_errors",
    "uptime",
];

/// Returns a metric's name in Prometheus' format, without the prefix, and by what its value is divided.
#[must_use]
pub fn of_prometheus(metric: &Metric) -> (String, f64) {
    let base = metric.name.replace('-', "_");
    let (base, per) = match metric.kind {
        Kind::Histogram => (base + "_seconds", 1.0),
        Kind::Counter | Kind::Gauge => match (base.strip_suffix("_ms"), base.strip_suffix("_s")) {
            (Some(base), _) => (format!("{base}_seconds"), 1_000.0),
            (None, Some(base)) => (format!("{base}_seconds"), 1.0),
            (None, None) => (base, 1.0),
        },
    };
    (if metric.kind == Kind::Counter { base + "_total" } else { base }, per)
}

/// Returns whether something is shown under a name, which is without a prefix and with underscores.
pub(crate) fn is_taken(name: &str) -> bool {
    static NAMES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
        let metrics = || METRIC_SETS.iter().flat_map(|set| set.metrics);
        let histograms = metrics().filter(|metric| metric.kind == Kind::Histogram);
        let histograms = histograms.map(|metric| of_prometheus(metric).0).chain(["latency".to_owned()]);
        let parts = histograms.flat_map(|name| HISTOGRAM_ENDS.map(|end| format!("{name}{end}")));
        let own = metrics().flat_map(|metric| [metric.name.replace('-', "_"), of_prometheus(metric).0]);
        let others = OTHERS.into_iter().chain(DNSDIST).map(str::to_owned);
        own.chain(parts).chain(others).collect()
    });
    NAMES.contains(name)
}

/// Returns whether a metric can have this name in a configuration.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.bytes().all(allowed)
}

/// Returns whether Prometheus takes this name.
pub(crate) fn is_prometheus_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b':';
    name.len() <= NAME_CHARS_MAX
        && name.bytes().all(allowed)
        && name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
}

/// Returns whether Prometheus takes this name of a label.
pub(crate) fn is_label(name: &str) -> bool {
    is_prometheus_name(name) && !name.contains(':') && !name.starts_with("__")
}
