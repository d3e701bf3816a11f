//! How the load of a run is divided among threads, and these among sockets or connections.

use std::net::IpAddr;

use anyhow::{Context, ensure};

use crate::base::time::Tick;
use crate::config::bench::{BenchOptions, Load, Transport};
use crate::config::error::counted;
use crate::tools::bench::asker::Plan;
use crate::tools::bench::ramp;
use crate::tools::load::outstanding::SPAN_MAX;
use crate::tools::load::pace::Pace;
use crate::tools::load::sockets::{self, Addresses};
use crate::tools::report::text::grouped;

/// UDP sockets of a thread: as many as perf/src/load.c has, so that what balances by ports has some.
const SOCKETS: usize = 16;
/// Most UDP sockets of a thread.
const SOCKETS_MAX: usize = 1_024;
/// Queries that one socket may have outstanding without a delay, by its ids.
const PER_SOCKET: u64 = 16_384;

/// The sockets or connections of each thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shares {
    /// By thread: the address that each comes from; `None` leaves it to the kernel.
    pub(crate) from: Vec<Vec<Option<IpAddr>>>,
    /// What is not as the command line says.
    pub(crate) notes: Vec<String>,
}

impl Shares {
    /// Divides the load.
    ///
    /// # Errors
    /// When it cannot be divided so.
    pub(crate) fn of(options: &BenchOptions) -> anyhow::Result<Self> {
        let is_udp = options.transport == Transport::Udp;
        let connections = options.connections as usize;
        let mut threads = usize::from(options.threads);
        if !is_udp {
            threads = threads.min(connections);
        }
        if let Load::Outstanding(count) = options.load {
            threads = threads.min(count as usize);
            let most = connections.saturating_mul(SPAN_MAX);
            ensure!(
                is_udp || count as usize <= most,
                "a connection has at most {} queries outstanding: use --connections {} or more",
                grouped(SPAN_MAX as u64),
                (count as usize).div_ceil(SPAN_MAX)
            );
        }
        let mut notes = Vec::new();
        let asked = usize::from(options.threads);
        if threads < asked {
            notes.push(format!("{} of {asked}: there is nothing to do for more", counted(threads, "thread")));
        }
        notes.extend(options.without_effect.iter().map(|what| format!("{what} has no effect here")));

        let clients = options.clients.as_ref().map(Addresses::of);
        let numbers: Vec<usize> = if is_udp {
            vec![udp_sockets(options, clients, threads); threads]
        } else {
            (0..threads).map(|n| connections / threads + usize::from(n < connections % threads)).collect()
        };
        let all: usize = numbers.iter().sum();
        if let Some(clients) = clients.filter(|clients| clients.count() > all as u128) {
            let what = if is_udp { "socket" } else { "connection" };
            notes.push(format!(
                "--clients has {} addresses: queries come from {}, one for each {what}",
                clients.count(),
                grouped(all as u64)
            ));
        }
        let at = |thread: usize, number: usize| clients.map(|clients| clients.at(number * threads + thread));
        let from = numbers
            .iter()
            .enumerate()
            .map(|(thread, count)| (0..*count).map(|number| at(thread, number)).collect());
        Ok(Self { from: from.collect(), notes })
    }

    /// Returns the number of threads.
    pub(crate) const fn threads(&self) -> usize {
        self.from.len()
    }

    /// Returns the number of sockets or connections.
    pub(crate) fn sockets(&self) -> usize {
        self.from.iter().map(Vec::len).sum()
    }

    /// Makes sure that queries can come from the addresses of `--clients`.
    ///
    /// # Errors
    /// When they cannot.
    pub(crate) fn check_clients(&self, options: &BenchOptions) -> anyhow::Result<()> {
        let Some(clients) = &options.clients else { return Ok(()) };
        ensure!(
            clients.is_ipv4() == options.target.is_ipv4(),
            "--clients {clients}: {} is of the other address family",
            options.target.ip()
        );
        let distinct = usize::try_from(Addresses::of(clients).count()).unwrap_or(usize::MAX);
        let all = (0..self.threads()).flat_map(|thread| self.from[thread].iter().flatten());
        for ip in all.take(distinct) {
            sockets::own(*ip)
                .with_context(|| format!("--clients {clients}: {ip} is no address of this machine"))?;
        }
        Ok(())
    }
}

fn udp_sockets(options: &BenchOptions, clients: Option<Addresses>, threads: usize) -> usize {
    // Lost queries keep their ids until their time-out.
    let waiting = match options.load {
        Load::Rate(rate) => u64::from(rate) * options.timeout.0.div_ceil(1_000_000) / 1_000,
        Load::Outstanding(count) => count.into(),
        Load::Ramp(_) => 0,
    };
    let by_ids = waiting.div_ceil(PER_SOCKET) as usize / threads + 1;
    let by_clients =
        clients.map_or(0, |clients| usize::try_from(clients.count()).unwrap_or(usize::MAX).div_ceil(threads));
    by_ids.max(by_clients).clamp(SOCKETS, SOCKETS_MAX)
}

/// Returns when a thread asks. What has times gets its begin later.
pub(crate) fn of_thread(load: &Load, thread: usize, threads: usize) -> Plan {
    match load {
        Load::Rate(rate) => Plan::Open(Pace::new(Tick(0), *rate, thread, threads)),
        Load::Ramp(_) => Plan::Open(Pace::new(Tick(0), ramp::FIRST, thread, threads)),
        Load::Outstanding(count) => {
            let (each, rest) = (*count as usize / threads, *count as usize % threads);
            Plan::Closed(each + usize::from(thread < rest))
        }
    }
}

/// Writes the load for people. The latencies of a ramp are those of its best rate, if there is one.
pub(crate) fn in_words(load: &Load, has_best: bool) -> String {
    match load {
        Load::Rate(rate) => format!("{} queries per second, open loop", grouped((*rate).into())),
        Load::Outstanding(1) => "1 query outstanding, closed loop".to_owned(),
        Load::Outstanding(count) => format!("{} queries outstanding, closed loop", grouped((*count).into())),
        Load::Ramp(limits) => {
            let latencies = if has_best { "; latencies are those of the best rate" } else { "" };
            format!("rising rates until {limits}, open loop{latencies}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bench as arguments;

    fn options(arguments: &[&str]) -> BenchOptions {
        let all = ["bench", "127.0.0.1"].iter().chain(arguments);
        arguments::options(&arguments::command().try_get_matches_from(all).expect("options"))
    }

    fn closed(options: &BenchOptions, threads: usize) -> Vec<usize> {
        let plans = (0..threads).map(|thread| of_thread(&options.load, thread, threads));
        plans.map(|plan| if let Plan::Closed(count) = plan { count } else { 0 }).collect()
    }

    #[test]
    fn what_is_outstanding_is_what_was_asked_for() {
        for (threads, count) in [("1", "1"), ("4", "1"), ("4", "2"), ("4", "10"), ("3", "100")] {
            let options = options(&["--threads", threads, "--outstanding", count]);
            let shares = Shares::of(&options).expect("shares");
            let each = closed(&options, shares.threads());
            assert_eq!(each.iter().sum::<usize>().to_string(), count, "{each:?}");
            assert!(each.iter().all(|n| *n > 0), "{each:?}");
            assert_eq!(shares.notes.len(), usize::from(shares.threads().to_string() != threads));
        }
    }

    #[test]
    fn connections_are_as_many_as_asked_for() {
        for (threads, count, want) in
            [("4", "1", &[1][..]), ("4", "10", &[3, 3, 2, 2]), ("1", "16", &[16]), ("3", "2", &[1, 1])]
        {
            let shares =
                Shares::of(&options(&["--transport", "tcp", "--threads", threads, "--connections", count]));
            let each: Vec<usize> = shares.expect("shares").from.iter().map(Vec::len).collect();
            assert_eq!(each, want);
        }
        let many = ["--transport", "tcp", "--connections", "3", "--outstanding", "100000"];
        let error = Shares::of(&options(&many)).expect_err("more than the ids").to_string();
        assert!(error.contains("--connections 4"), "{error}");
    }

    #[test]
    fn clients_come_in_turn_and_what_is_left_out_is_said() {
        let shares = Shares::of(&options(&["--clients", "127.1.0.0/28", "--threads", "2"])).expect("shares");
        let first = |thread: usize| shares.from[thread][0].map(|ip| ip.to_string());
        assert_eq!([first(0), first(1)], [Some("127.1.0.1".to_owned()), Some("127.1.0.2".to_owned())]);
        assert_eq!(shares.notes, [""; 0]);
        let over_tcp = options(&["--transport", "tcp", "--clients", "127.0.0.0/8"]);
        let notes = Shares::of(&over_tcp).expect("shares").notes;
        assert_eq!(
            notes,
            ["--clients has 16777214 addresses: queries come from 16, one for each connection"]
        );
    }

    #[test]
    fn clients_must_be_of_this_machine() {
        for (network, want) in
            [("127.1.0.0/29", None), ("::1", Some("family")), ("198.51.100.0/24", Some("198.51.100.1"))]
        {
            let options = options(&["--clients", network]);
            let error = Shares::of(&options).expect("shares").check_clients(&options).err();
            let said = error.map(|e| e.to_string());
            assert_eq!(said.is_some(), want.is_some(), "{network}: {said:?}");
            assert!(want.is_none_or(|want| said.is_some_and(|said| said.contains(want))), "{network}");
        }
    }

    #[test]
    fn options_without_effect_are_said() {
        for (arguments, want) in [
            (&["--connections", "5", "--ca", "x.pem"][..], &["--connections", "--ca"][..]),
            (&["--transport", "tcp", "--connections", "5", "--tls-name", "x"], &["--tls-name"]),
            (&["--names", "x", "--zone", "a"], &["--zone"]),
            (&["--names", "x", "--zone", "a", "--hit-rate", "0.5"], &[]),
            (&["--random", "--hit-rate", "0.5"], &["--hit-rate"]),
        ] {
            let notes = Shares::of(&options(arguments)).expect("shares").notes;
            let want: Vec<String> = want.iter().map(|what| format!("{what} has no effect here")).collect();
            assert_eq!(notes, want, "{arguments:?}");
        }
    }
}
