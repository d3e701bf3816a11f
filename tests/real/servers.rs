//! Real name servers on loopback, each with its own directory. They answer every name under `test.`
//! with one A record that identifies the server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::message;
use crate::place::{Directory, port, wait_for};
use crate::process::Program;

/// The kind of name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unbound,
    Nsd,
    Knot,
}

/// A running name server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The number in its answers, see [`message::answered_by`].
    pub(crate) who: u8,
    kind: Kind,
    directory: Directory,
    program: Option<Program>,
}

impl Server {
    /// Starts it on its own port and waits for the first answer.
    pub(crate) fn start(kind: Kind, who: u8) -> Self {
        Self::start_at(kind, who, SocketAddr::from(([127, 0, 0, 1], port())))
    }

    pub(crate) fn start_at(kind: Kind, who: u8, address: SocketAddr) -> Self {
        let mut server = Self { address, who, kind, directory: Directory::new(), program: None };
        server.begin();
        server
    }

    /// Starts it again at the same address.
    pub(crate) fn begin(&mut self) {
        let mut command = command(self.kind, &self.directory, self.address, self.who);
        let program = self.program.insert(Program::start(&mut command));
        wait_for(
            || format!("{:?} to answer; {}", self.kind, program.transcript()),
            || ask(self.address, "ready.test"),
        );
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut program) = self.program.take() {
            program.kill();
        }
    }

    /// Stops or continues it and its children, to simulate a frozen host.
    pub(crate) fn freeze(&self, frozen: bool) {
        if let Some(program) = &self.program {
            let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
            nix::sys::signal::killpg(program.pid(), signal).expect("the server's process group");
        }
    }
}

/// Sends one A query and waits a tenth of a second for the answer.
pub(crate) fn ask(server: SocketAddr, name: &str) -> Option<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    ask_from(any, server, name, Duration::from_millis(100))
}

/// Does the same from the client address `client`, with a timeout of `patience`.
pub(crate) fn ask_from(
    client: IpAddr,
    server: SocketAddr,
    name: &str,
    patience: Duration,
) -> Option<Vec<u8>> {
    let socket = std::net::UdpSocket::bind((client, 0)).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(patience)).ok()?;
    let query = message::query(0x1234, name);
    socket.send(&query).ok()?;
    let mut buffer = vec![0; 4096];
    let len = socket.recv(&mut buffer).ok()?;
    buffer.truncate(len);
    buffer.starts_with(&query[..2]).then_some(buffer)
}

/// Writes the configuration of a server and returns its command line for the foreground. The server
/// makes no queries and uses no port of the tests.
pub(crate) fn command(kind: Kind, directory: &Directory, address: SocketAddr, who: u8) -> Command {
    let home = directory.path().display();
    let at = format!("{}@{}", address.ip(), address.port());
    let zone = format!(
        "@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\nns 60 IN A {}\n* 60 IN A 192.0.2.{who}\n",
        "192.0.2.53"
    );
    directory.write("test.zone", &format!("$ORIGIN test.\n{zone}"));
    let (program, arguments, text) = match kind {
        Kind::Unbound => (
            "unbound",
            vec!["-d", "-c"],
            format!(
                "server:\n interface: {at}\n do-daemonize: no\n username: \"\"\n chroot: \"\"\n directory: \"{home}\"\n \
                 pidfile: \"\"\n use-syslog: no\n num-threads: 1\n so-reuseport: no\n module-config: \"iterator\"\n \
                 access-control: 0.0.0.0/0 allow\n access-control: ::/0 allow\n minimal-responses: yes\n \
                 outgoing-interface: 127.0.0.1\n outgoing-port-avoid: 0-32767\n \
                 local-zone: \"root-servers.net.\" static\n local-zone: \"test.\" redirect\n local-data: \"test. 60 A 192.0.2.{who}\"\n\
                 remote-control:\n control-enable: no\n"
            ),
        ),
        Kind::Nsd => (
            "nsd",
            vec!["-d", "-c"],
            format!(
                "server:\n ip-address: {at}\n username: \"\"\n chroot: \"\"\n zonesdir: \"{home}\"\n database: \"\"\n \
                 pidfile: \"{home}/nsd.pid\"\n xfrdfile: \"{home}/xfrd.state\"\n zonelistfile: \"{home}/zone.list\"\n \
                 xfrdir: \"{home}\"\n server-count: 1\n minimal-responses: yes\n rrl-ratelimit: 0\n\
                 remote-control:\n control-enable: no\n\
                 zone:\n name: test.\n zonefile: test.zone\n"
            ),
        ),
        Kind::Knot => (
            "knotd",
            vec!["-c"],
            format!(
                "server:\n  listen: {at}\n  rundir: \"{home}\"\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
                 database:\n  storage: \"{home}/db\"\nlog:\n  - target: stderr\n    any: info\n\
                 zone:\n  - domain: test.\n    storage: \"{home}\"\n    file: test.zone\n"
            ),
        ),
    };
    let path = directory.write("server.conf", &text);
    let mut command = Command::new(program);
    command.args(arguments).arg(path);
    command
}
