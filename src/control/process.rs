//! What the kernel knows of the process: its CPU time, its memory.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something() {
        let usage = usage();
        assert!(usage.memory > 1 << 20, "{usage:?}");
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
