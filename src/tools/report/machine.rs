//! The machine, the command line and the version, for reports.

#![expect(clippy::disallowed_methods, reason = "a report has its date")]

use std::ffi::OsString;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::printable::Printable;

/// Where and how something was measured.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The model of its CPUs.
    pub(crate) cpu: String,
    /// The CPUs that the process may use.
    pub(crate) cpus: usize,
    /// The kernel's version.
    pub(crate) kernel: String,
    /// Memory, megabytes.
    pub(crate) memory_mb: u64,
    /// The command line.
    pub(crate) command: String,
    /// The version of dnslob.
    pub(crate) version: &'static str,
}

impl Machine {
    /// Reads what the kernel says.
    pub(crate) fn read() -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = value(&file("/proc/meminfo"), "MemTotal");
        let memory_kb = memory.and_then(|text| text.split(' ').next().and_then(|n| n.parse::<u64>().ok()));
        let unknown = || format!("unknown, {}", std::env::consts::ARCH);
        Self {
            cpu: value(&file("/proc/cpuinfo"), "model name").unwrap_or_else(unknown),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mb: memory_kb.unwrap_or(0) / 1024,
            command: command_line(std::env::args_os()),
            version: env!("CARGO_PKG_VERSION"),
        }
    }

    /// Writes the hardware and its kernel in a line.
    pub(crate) fn hardware(&self) -> String {
        let Self { cpu, cpus, kernel, memory_mb, .. } = self;
        format!("{cpus} CPUs, {cpu}, {memory_mb} MB, Linux {kernel}")
    }
}

/// Returns the time since 1970.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Writes arguments as a shell would read them.
fn command_line(arguments: impl Iterator<Item = OsString>) -> String {
    let quoted = arguments.enumerate().map(|(number, argument)| {
        // The path of the program is of no interest.
        let argument =
            if number == 0 { "dnslob".to_owned() } else { Printable(argument.to_string_lossy()).to_string() };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', r"'\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_can_be_typed_again() {
        let line = |arguments: &[&str]| command_line(arguments.iter().map(OsString::from));
        assert_eq!(
            line(&["/usr/bin/dnslob", "bench", "127.0.0.1:53", "--fail-if", "p99>20ms", "it's", ""]),
            r"dnslob bench 127.0.0.1:53 --fail-if 'p99>20ms' 'it'\''s' ''"
        );
    }

    #[test]
    fn arguments_are_bytes() {
        use std::os::unix::ffi::OsStringExt;
        let arguments = [b"dnslob".to_vec(), b"scope".to_vec(), b"bad\xff.pcap".to_vec()];
        assert_eq!(
            command_line(arguments.into_iter().map(OsString::from_vec)),
            "dnslob scope 'bad\u{fffd}.pcap'"
        );
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && machine.memory_mb > 0 && !machine.kernel.is_empty());
    }
}
