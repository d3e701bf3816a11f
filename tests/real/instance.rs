//! The program under test: start, reload, statistics, stop.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use crate::place::{Directory, wait_for};
use crate::process::{self, Program};

/// A running `dnslob`. It reports readiness as it does to systemd, with `sd_notify`.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) program: Program,
    directory: Directory,
    notices: UnixDatagram,
}

impl Instance {
    /// Starts it with a Lua configuration and waits until it is ready.
    pub(crate) fn start(lua: &str) -> Self {
        Self::start_with(lua, &["--shards", "2"])
    }

    pub(crate) fn start_with(lua: &str, flags: &[&str]) -> Self {
        let directory = Directory::new();
        let config = directory.write("dnslob.lua", lua);
        let mut command = Command::new(binary());
        command.args(flags).arg("-C").arg(config);
        Self::launch(command, directory)
    }

    /// Starts it without a configuration file.
    pub(crate) fn start_plain(arguments: &[String]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments);
        Self::launch(command, Directory::new())
    }

    /// Runs a prepared command line, with a notification socket in `directory`.
    pub(crate) fn launch(command: Command, directory: Directory) -> Self {
        Self::launch_to(command, directory, Stdio::piped(), Stdio::piped())
    }

    /// Does the same with other outputs.
    pub(crate) fn launch_to(command: Command, directory: Directory, stdout: Stdio, stderr: Stdio) -> Self {
        let mut instance = Self::launch_unready(command, directory, stdout, stderr);
        instance.wait_ready();
        instance
    }

    /// Does the same without waiting for readiness.
    pub(crate) fn launch_unready(
        mut command: Command,
        directory: Directory,
        stdout: Stdio,
        stderr: Stdio,
    ) -> Self {
        let path = directory.path().join("notify");
        let notices = UnixDatagram::bind(&path).expect("the notification socket");
        notices.set_nonblocking(true).expect("a socket that does not block");
        command.env("NOTIFY_SOCKET", path);
        Self { program: Program::start_to(&mut command, stdout, stderr), directory, notices }
    }

    /// Waits until it reports readiness.
    pub(crate) fn wait_ready(&mut self) {
        let (notices, program) = (&self.notices, std::cell::RefCell::new(&mut self.program));
        wait_for(
            || format!("READY=1; {}", program.borrow().transcript()),
            || {
                let ended = program.borrow_mut().ended();
                if let Some(status) = ended {
                    panic!("ended with {status} before it was ready; {}", program.borrow().transcript());
                }
                let mut buffer = [0; 4096];
                match notices.recv(&mut buffer) {
                    Ok(len) => {
                        String::from_utf8_lossy(&buffer[..len]).lines().any(|l| l == "READY=1").then_some(())
                    }
                    Err(e) if e.kind() == ErrorKind::WouldBlock => None,
                    Err(e) => panic!("the notification socket: {e}"),
                }
            },
        );
    }

    /// Writes another configuration, sends SIGHUP and waits for the end of the reload.
    pub(crate) fn reload(&mut self, lua: &str) {
        self.begin_reload(lua);
        self.wait_ready();
    }

    /// Forgets notices that nobody has waited for: changes by the API send them too.
    pub(crate) fn forget_notices(&self) {
        while self.notices.recv(&mut [0; 4096]).is_ok() {}
    }

    /// Does the same without waiting.
    pub(crate) fn begin_reload(&self, lua: &str) {
        self.directory.write("dnslob.lua", lua);
        self.program.signal(Signal::SIGHUP);
    }

    /// Writes another configuration without a signal.
    pub(crate) fn rewrite(&self, lua: &str) {
        self.directory.write("dnslob.lua", lua);
    }

    /// Sends SIGTERM and waits for the exit.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.program.signal(Signal::SIGTERM);
        self.program.wait()
    }

    /// Returns a named statistic from a new dump.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let dump = self.dump();
        let found = dump.iter().find_map(|l| number_after(l, name));
        found.unwrap_or_else(|| panic!("no {name} in the dump {dump:#?}"))
    }

    /// Returns the number of packets dropped for a reason, from a new dump (SIGUSR1).
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.counted(&format!("drop-{reason}"))
    }

    /// Returns a statistic of the process from a new dump.
    pub(crate) fn counted(&self, label: &str) -> u64 {
        let dump = self.dump();
        dump.iter()
            .find_map(|l| number_after(l, label))
            .unwrap_or_else(|| panic!("no {label} in the dump {dump:#?}"))
    }

    /// Returns the hits of the rule `name` from a new dump.
    pub(crate) fn hits(&self, name: &str) -> u64 {
        let from = self.program.output().len();
        self.program.signal(Signal::SIGUSR1);
        wait_for(
            || format!("rule {name} in a dump; {}", self.program.transcript()),
            || {
                let lines = self.program.output().split_off(from);
                // Number, hits, name, and description.
                lines.iter().find_map(|l| {
                    let mut words = l.split_whitespace();
                    let hits = words.nth(1)?.parse().ok()?;
                    (words.next()?.strip_suffix(':')? == name).then_some(hits)
                })
            },
        )
    }

    /// Dumps all statistics, followed by the table of rules.
    pub(crate) fn dump(&self) -> Vec<String> {
        let from = self.program.output().len();
        self.program.signal(Signal::SIGUSR1);
        wait_for(
            || format!("a dump of the statistics; {}", self.program.transcript()),
            || {
                let lines: Vec<String> = self.program.output().split_off(from);
                lines.iter().any(|l| l.split_whitespace().next() == Some(DUMP_END)).then_some(lines)
            },
        )
    }
}

/// The start of the last line of a dump: the totals of all servers.
const DUMP_END: &str = "All";

/// Returns the number after the word `label` in a line of a dump.
fn number_after(line: &str, label: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|w| *w == label)?;
    words.next()?.parse().ok()
}

/// Runs `dnslob` with arguments until it exits.
pub(crate) fn run(arguments: &[&str]) -> (ExitStatus, String) {
    process::run(binary().to_str().expect("a path in UTF-8"), arguments)
}

/// Returns the path of the binary that cargo built for these tests.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_dnslob"))
}

/// Returns Lua for a listener at `address`.
pub(crate) fn listen(address: SocketAddr) -> String {
    format!("addLocal(\"{address}\")\n")
}

/// Returns Lua for a backend that is up without checks; `more` are further arguments.
pub(crate) fn backend(address: SocketAddr, more: &str) -> String {
    format!("newServer {{address=\"{address}\", healthCheckMode=\"up\"{more}}}\n")
}
