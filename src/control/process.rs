//! What the kernel knows of the process, its network and its machine. It is read by whoever shows it.

use std::collections::BTreeMap;
use std::{fs, io};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::base::rng::ShardRng;
use crate::stats::registry::{MachineReading, NetworkReading};

/// What the process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time in user mode, milliseconds.
    pub(super) user_ms: u64,
    /// CPU time in the kernel, milliseconds.
    pub(super) system_ms: u64,
    /// Resident memory, bytes.
    pub(super) memory: u64,
}

/// Returns randomness that starts from the kernel's.
///
/// # Errors
/// The kernel's.
pub(super) fn entropy() -> io::Result<ShardRng> {
    let mut seed = [0; 32];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut seed)?;
    Ok(ShardRng::from_entropy(seed))
}

/// Returns what the process has used so far; 0 for what the system does not say.
pub(super) fn usage() -> Usage {
    let ms =
        |time: TimeVal| u64::try_from(time.tv_sec() * 1_000 + time.tv_usec() / 1_000).unwrap_or_default();
    let used = getrusage(UsageWho::RUSAGE_SELF).ok();
    Usage {
        user_ms: used.map_or(0, |used| ms(used.user_time())),
        system_ms: used.map_or(0, |used| ms(used.system_time())),
        memory: fs::read_to_string("/proc/self/status")
            .ok()
            .and_then(|text| resident(&text))
            .unwrap_or_default(),
    }
}

/// Reads `VmRSS: 1234 kB`.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1_024)
}

/// Returns what the kernel counts of UDP and TCP; none where it does not say.
pub(super) fn network() -> Option<NetworkReading> {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/net/{name}")).ok();
    // Without IPv6 there is no such file, and nothing to count.
    let v6 = read("snmp6").unwrap_or_default();
    counted(&read("snmp")?, &v6, &read("netstat")?)
}

/// Reads these files of /proc/net.
fn counted(snmp: &str, snmp6: &str, netstat: &str) -> Option<NetworkReading> {
    let (v4, extended) = (by_title(snmp, "Udp:"), by_title(netstat, "TcpExt:"));
    let v6: BTreeMap<&str, u64> = snmp6
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.strip_prefix("Udp6")?, words.next()?.parse().ok()?))
        })
        .collect();
    if v4.is_empty() || extended.is_empty() {
        return None;
    }
    // Old kernels have fewer of them.
    let of = |table: &BTreeMap<&str, u64>, name: &str| table.get(name).copied().unwrap_or(0);
    Some(NetworkReading {
        udp_in_errors: of(&v4, "InErrors"),
        udp_noport: of(&v4, "NoPorts"),
        udp_recvbuf_errors: of(&v4, "RcvbufErrors"),
        udp_sndbuf_errors: of(&v4, "SndbufErrors"),
        udp_csum_errors: of(&v4, "InCsumErrors"),
        udp6_in_errors: of(&v6, "InErrors"),
        udp6_noport: of(&v6, "NoPorts"),
        udp6_recvbuf_errors: of(&v6, "RcvbufErrors"),
        udp6_sndbuf_errors: of(&v6, "SndbufErrors"),
        udp6_csum_errors: of(&v6, "InCsumErrors"),
        tcp_listen_overflows: of(&extended, "ListenOverflows"),
    })
}

/// Reads a line of names and one of values that begin with this title.
fn by_title<'t>(text: &'t str, title: &str) -> BTreeMap<&'t str, u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(title));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return BTreeMap::new() };
    let values = values.split_whitespace().map(|value| value.parse().unwrap_or(0));
    names.split_whitespace().zip(values).collect()
}

/// Returns what the kernel counts of the machine's CPUs; none where it does not say.
pub(super) fn machine() -> Option<MachineReading> {
    cpu(&fs::read_to_string("/proc/stat").ok()?)
}

/// Reads `cpu  user nice system idle iowait irq softirq steal ...`.
fn cpu(stat: &str) -> Option<MachineReading> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().map_while(|time| time.parse().ok()).collect();
    Some(MachineReading { cpu_iowait: *times.get(4)?, cpu_steal: *times.get(7)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_read() {
        let snmp = "Tcp: RtoAlgorithm RtoMin\nTcp: 1 200\n\
            Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\n\
            Udp: 100 2 3 90 4 5 6\nUdpLite: InDatagrams\nUdpLite: 9\n";
        let snmp6 = "Ip6InReceives 7\nUdp6InErrors 8\nUdp6RcvbufErrors   9\nUdpLite6InErrors 99\n";
        let netstat =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 10 11\nIpExt: A\nIpExt: 1\n";
        let read = counted(snmp, snmp6, netstat).expect("counters");
        assert_eq!((read.udp_noport, read.udp_in_errors, read.udp_recvbuf_errors), (2, 3, 4));
        assert_eq!((read.udp_sndbuf_errors, read.udp_csum_errors), (5, 6));
        assert_eq!((read.udp6_in_errors, read.udp6_recvbuf_errors, read.udp6_noport), (8, 9, 0));
        assert_eq!(read.tcp_listen_overflows, 10);
        assert_eq!(counted(snmp, "", netstat).expect("without IPv6").udp6_in_errors, 0);
        for (snmp, netstat) in
            [("", netstat), (snmp, ""), ("Udp: InErrors\n", netstat), ("Udp:\nUdp:\n", netstat)]
        {
            assert_eq!(counted(snmp, snmp6, netstat), None, "{snmp:?} {netstat:?}");
        }
        assert!(network().is_some(), "of this machine");
    }

    #[test]
    fn the_machines_cpu_times_are_read() {
        let read = cpu("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3\n").expect("times");
        assert_eq!((read.cpu_iowait, read.cpu_steal), (5, 8));
        for stat in ["", "cpu0 1 2 3 4 5 6 7 8\n", "cpu  1 2 x 4 5 6 7 8\n", "cpu  1 2\n"] {
            assert_eq!(cpu(stat), None, "{stat:?}");
        }
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = usage();
        assert!(usage.memory > 1 << 20, "{usage:?}");
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
