//! The program under test: started with a configuration, reloaded, counted, ended.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;

use crate::place::{Directory, wait_for};
use crate::process::{self, Program};

/// A running `dnslob`. It tells when it is ready the way it tells systemd: by `sd_notify`.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) program: Program,
    directory: Directory,
    notices: UnixDatagram,
}

impl Instance {
    /// Starts it with a configuration in Lua and waits until it is ready.
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

    /// The same with outputs of another kind.
    pub(crate) fn launch_to(command: Command, directory: Directory, stdout: Stdio, stderr: Stdio) -> Self {
        let mut instance = Self::launch_unready(command, directory, stdout, stderr);
        instance.wait_ready();
        instance
    }

    /// The same, not ready yet.
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

    /// Waits until it says that it is ready.
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

    /// Writes another configuration, sends SIGHUP and waits until it says that it is done.
    pub(crate) fn reload(&mut self, lua: &str) {
        self.begin_reload(lua);
        self.wait_ready();
    }

    /// The same without waiting.
    pub(crate) fn begin_reload(&self, lua: &str) {
        self.directory.write("dnslob.lua", lua);
        self.program.signal(Signal::SIGHUP);
    }

    /// Writes another configuration, and says nothing of it.
    pub(crate) fn rewrite(&self, lua: &str) {
        self.directory.write("dnslob.lua", lua);
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.program.signal(Signal::SIGTERM);
        self.program.wait()
    }

    /// A figure by its name, out of a dump made now.
    pub(crate) fn figure(&self, name: &str) -> u64 {
        let dump = self.dump();
        let found = dump.iter().find_map(|l| number_after(l, name));
        found.unwrap_or_else(|| panic!("no {name} in the dump {dump:#?}"))
    }

    /// How many packets have been dropped for that reason, out of a dump made now (SIGUSR1).
    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.counted(&format!("drop-{reason}"))
    }

    /// A figure of the process, out of a dump made now.
    pub(crate) fn counted(&self, label: &str) -> u64 {
        let dump = self.dump();
        dump.iter()
            .find_map(|l| number_after(l, label))
            .unwrap_or_else(|| panic!("no {label} in the dump {dump:#?}"))
    }

    /// How many packets the rule called `name` matched, out of a dump made now.
    pub(crate) fn hits(&self, name: &str) -> u64 {
        let from = self.program.output().len();
        self.program.signal(Signal::SIGUSR1);
        wait_for(
            || format!("rule {name} in a dump; {}", self.program.transcript()),
            || {
                let lines = self.program.output().split_off(from);
                // Number, hits, name, and what it says.
                lines.iter().find_map(|l| {
                    let mut words = l.split_whitespace();
                    let hits = words.nth(1)?.parse().ok()?;
                    (words.next()?.strip_suffix(':')? == name).then_some(hits)
                })
            },
        )
    }

    /// A dump of all statistics, made now; the rules' table follows it.
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

/// How the last line of a dump begins: the sums of all servers.
const DUMP_END: &str = "All";

/// The number behind the word `label` in a line of a dump.
fn number_after(line: &str, label: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find(|w| *w == label)?;
    words.next()?.parse().ok()
}

/// Runs `dnslob` with arguments to its end.
pub(crate) fn run(arguments: &[&str]) -> (ExitStatus, String) {
    process::run(binary().to_str().expect("a path in UTF-8"), arguments)
}

/// The binary that cargo built for these tests.
pub(crate) fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_dnslob"))
}

/// Lua for a listener at `address`.
pub(crate) fn listen(address: SocketAddr) -> String {
    format!("addLocal(\"{address}\")\n")
}

/// Lua for a backend that counts as up without being asked; `more` are further arguments.
pub(crate) fn backend(address: SocketAddr, more: &str) -> String {
    format!("newServer {{address=\"{address}\", healthCheckMode=\"up\"{more}}}\n")
}
