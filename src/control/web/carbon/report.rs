//! The text of a report: a line for each figure, with the names that dnsdist gives it.
//!
//! ```text
//!  dnsdist.HOST.main.queries 42 1764428963
//!  dnsdist.HOST.main.servers.NAME.latency 0.25 1764428963
//!  dnsdist.HOST.main.frontends.192_0_2_1:53_udp.responses 40 1764428963
//!  dnsdist.HOST.main.pools._default_.servers-up 2 1764428963
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::config::carbon::CarbonServer;
use crate::control::stats::dnsdist::{
    FRONTEND_STATISTICS, SERVER_STATISTICS, STATISTICS, Server, Summary, frontends, members,
};
use crate::control::stats::figures::Figures;
use crate::stats::custom_metrics;

/// What dnsdist calls a figure of a server here, where it is not what /metrics says.
const OTHER_NAMES: [(&str, &str); 4] = [
    ("tcpavgqueriesperconn", "tcpavgqueriesperconnection"),
    ("tcpavgconnduration", "tcpavgconnectionduration"),
    ("tcpdiedreadingresponse", "tcpdiedreaddingresponse"),
    ("tcpreadtimeouts", "tcpreadimeouts"),
];

/// Returns the report of these figures to a server.
pub(super) fn text(figures: &Figures, server: &CarbonServer) -> String {
    let host = server.host.clone().unwrap_or_else(host);
    let mut report = Report {
        out: String::new(),
        prefix: format!("{}.{host}.{}", server.namespace, server.instance),
        unix: figures.unix,
        seen: BTreeMap::new(),
    };
    let summary = Summary::new(figures);
    for statistic in STATISTICS {
        if let Some(value) = statistic.value(&summary) {
            report.line(statistic.name, value);
        }
    }
    summary.latency_sums().into_iter().for_each(|(name, value)| report.line(name, value));
    let is_new = |name: &str| STATISTICS.iter().all(|of| of.name != name) && !name.starts_with("latency-");
    for (name, value) in custom_metrics::all().plain().iter().filter(|(name, _)| is_new(name)) {
        report.line(name, *value);
    }
    for backend in figures.snapshot.backends.iter().flatten().filter(|b| !b.target && !b.tee) {
        let of = report.part("servers", &backend.name);
        let server = Server::of(figures, backend);
        for (name, _, _, value) in SERVER_STATISTICS {
            let name = OTHER_NAMES.iter().find(|(ours, _)| ours == name).map_or(*name, |(_, theirs)| theirs);
            report.line(&format!("{of}.{name}"), value(&server));
        }
    }
    for frontend in frontends(figures) {
        let protocol = if frontend.by_connection { "tcp" } else { "udp" };
        let of = report.part("frontends", &format!("{}_{protocol}", frontend.listener.address));
        for (name, _, _, _, value) in FRONTEND_STATISTICS
            .iter()
            .filter(|(_, _, _, by_connection, _)| frontend.by_connection || !by_connection)
        {
            report.line(&format!("{of}.{name}"), value(&frontend));
        }
    }
    let pools = figures.snapshot.pools.iter().enumerate();
    for (at, pool) in pools.filter(|(at, pool)| *at == 0 || !pool.name.is_empty()) {
        let of = report.part("pools", if pool.name.is_empty() { "_default_" } else { &pool.name });
        let (all, up) = members(&figures.snapshot, figures, at);
        report.line(&format!("{of}.servers"), all as f64);
        report.line(&format!("{of}.servers-up"), up as f64);
    }
    report.out
}

struct Report {
    out: String,
    prefix: String,
    unix: u64,
    /// Parts that are there already: two servers may have the same name.
    seen: BTreeMap<String, u32>,
}

impl Report {
    fn line(&mut self, name: &str, value: f64) {
        let (prefix, unix) = (&self.prefix, self.unix);
        // Writing into a string does not fail.
        let _ = writeln!(self.out, "{prefix}.{name} {value} {unix}");
    }

    /// Returns the part of names that stands for a server, a frontend or a pool.
    fn part(&mut self, kind: &str, name: &str) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-:[]%".contains(c);
        let name: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        let part = format!("{kind}.{}", if name.is_empty() { "_" } else { &name });
        let nth = self.seen.entry(part.clone()).and_modify(|n| *n += 1).or_insert(0);
        if *nth == 0 { part } else { format!("{part}_{nth}") }
    }
}

/// Returns the machine's name without dots, which separate the parts of a name.
fn host() -> String {
    let name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let name: String = name
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
        .collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::addr::{BackendSlot, ListenerSlot};
    use crate::control::fixture;
    use crate::control::monitor::Monitor;
    use crate::control::publisher::Feed;
    use crate::stats::live::LiveState;

    #[test]
    fn names_are_those_of_dnsdist_and_each_is_there_once() {
        let mut snapshot = fixture::snapshot(3, &[0], &[0, 1, 2]);
        let named = |slot: u16, name: &str| {
            let mut backend = fixture::backend(slot);
            name.clone_into(&mut backend.name);
            Some(Arc::new(backend))
        };
        snapshot.backends = vec![named(0, "a.b c\n"), named(1, "a.b c\n"), named(2, "")];
        let live_state = Arc::new(LiveState::new(1, 3));
        live_state.shards()[0].queries.add(7);
        live_state.shards()[0].backend(BackendSlot(1)).queries.add(5);
        live_state.shards()[0].listener(ListenerSlot(0), false).stats.queries.add(6);
        let mut figures = Monitor::new(&Feed::new(Arc::new(snapshot), live_state), Arc::default()).figures();
        figures.unix = 1_764_428_963;
        let mut server = CarbonServer {
            address: "192.0.2.9:2003".parse().expect("an address"),
            host: Some("here.example".to_owned()),
            interval_s: 30,
            namespace: "dnsdist".to_owned(),
            instance: "main".to_owned(),
        };
        let gauge = custom_metrics::CustomKind::Gauge;
        custom_metrics::all().declare("of-carbon", gauge, "", None, false).expect("declared");
        custom_metrics::all().set("of-carbon", &Vec::new(), 2.5).expect("set");
        custom_metrics::all().declare("of-carbon-by", gauge, "", None, true).expect("declared");
        let report = text(&figures, &server);
        assert!(!report.contains("of-carbon-by"), "dnsdist sends none with labels");
        for line in [
            "of-carbon 2.5",
            "queries 7",
            "acl-drops 0",
            "servers.a_b_c_.queries 0",
            "servers.a_b_c__1.queries 5",
            "servers._.tcpavgconnectionduration 0",
            "frontends.127_0_0_1:5300_udp.queries 6",
            "frontends.127_0_0_1:5300_tcp.tcpcurrentconnections 0",
            "pools._default_.servers 3",
            "pools._default_.servers-up 0",
        ] {
            let line = format!("dnsdist.here.example.main.{line} 1764428963");
            assert!(report.lines().any(|l| l == line), "{line}: {report}");
        }
        let mut names: Vec<&str> = report.lines().filter_map(|l| l.split(' ').next()).collect();
        assert!(report.lines().all(|l| l.split(' ').count() == 3), "{report}");
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        server.host = None;
        let report = text(&figures, &server);
        let parts =
            report.lines().find(|l| l.contains(".main.queries ")).expect("queries").split('.').count();
        assert_eq!(parts, 4, "the machine's name has no dots: {report}");
    }
}
