//! A path that swallows every packet, without an error of any kind, under a connection that is kept
//! open to a server.
//!
//! ```text
//!  client and second server 198.18.1.1 ──cl── 198.18.1.2 balancer 198.18.2.1 ──be── 198.18.2.2 first server
//! ```

use std::process::Command;
use std::time::{Duration, Instant};

use crate::instance::{Instance, binary};
use crate::namespaces::{BACKEND, BALANCER, CLIENT, Namespaces, machines};
use crate::place::{Directory, wait_for};
use crate::process::Program;
use crate::servers::{self, Kind};

/// The hardware address of the first server: the balancer need not ask for it.
const HARDWARE: &str = "02:00:00:00:00:02";

struct Setting {
    spaces: Namespaces,
    instance: Instance,
    _servers: [Program; 2],
    _homes: [Directory; 2],
}

impl Setting {
    /// Starts both servers and the balancer with `config`; returns none where namespaces cannot be
    /// made.
    fn new(config: &str) -> Option<Self> {
        let spaces = machines()?;
        spaces.ip(BACKEND, &format!("link set be address {HARDWARE}"));
        spaces.ip(BALANCER, &format!("neighbor replace 198.18.2.2 lladdr {HARDWARE} dev be nud permanent"));
        let homes = [Directory::new(), Directory::new()];
        let places = [(BACKEND, "198.18.2.2:53", 41), (CLIENT, "198.18.1.1:53", 42)];
        let start = |at: usize| {
            let (space, address, who) = places[at];
            let address = address.parse().expect("an address");
            Program::start(&mut spaces.command(space, &servers::command(Kind::Nsd, &homes[at], address, who)))
        };
        let servers = [start(0), start(1)];
        let directory = Directory::new();
        let text = format!(
            "addLocal(\"0.0.0.0:53\") setACL({{\"0.0.0.0/0\"}}) setServerPolicy(firstAvailable)\n\
             newServer {{address=\"198.18.2.2\", order=1, healthCheckMode=\"up\", tcpConnectTimeout=2}}\n{config}"
        );
        let mut plain = Command::new(binary());
        plain.arg("-C").arg(directory.write("dnslob.lua", &text)).args(["--shards", "1"]);
        let instance = Instance::launch(spaces.command(BALANCER, &plain), directory);
        let setting = Self { spaces, instance, _servers: servers, _homes: homes };
        let is_answered = || (setting.ask() == "192.0.2.41").then_some(());
        wait_for(|| format!("the first server; {}", setting.instance.program.transcript()), is_answered);
        Some(setting)
    }

    /// Asks over a new TCP connection; returns the address that is answered, or dig's words.
    fn ask(&self) -> String {
        let mut dig = Command::new("dig");
        dig.args([
            "@198.18.1.2",
            "x.test",
            "A",
            "+tcp",
            "+tries=1",
            "+timeout=20",
            "+noall",
            "+answer",
            "+comments",
        ]);
        let out = self.spaces.command(CLIENT, &dig).output().expect("dig; scripts/test installs it");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let address =
            text.lines().find(|line| line.starts_with("x.test")).and_then(|l| l.split_whitespace().last());
        address.map_or_else(|| text.clone(), str::to_owned)
    }

    /// Swallows what the first server sends, and so what it would have received.
    fn swallow(&self, is_dead: bool) {
        let verb = if is_dead { "add" } else { "del" };
        self.spaces.ip(BACKEND, &format!("route {verb} blackhole 198.18.2.1/32"));
    }

    /// Returns the line of the dump about the connections to the first server.
    fn connections(&self) -> String {
        let dump = self.instance.dump();
        let line = dump.iter().find(|l| l.starts_with("backend-connections \"198.18.2.2:53\""));
        line.unwrap_or_else(|| panic!("no connections: {dump:#?}")).clone()
    }
}

#[test]
fn queries_leave_a_kept_connection_that_went_silent_for_another_server() {
    let second = "newServer {address=\"198.18.1.1\", order=2, healthCheckMode=\"up\"}\n";
    let Some(mut setting) = Setting::new(second) else { return };
    assert_eq!(setting.ask(), "192.0.2.41");
    assert!(!setting.connections().contains("silent"), "kept: {}", setting.connections());
    setting.swallow(true);
    let begun = Instant::now();
    assert_eq!(setting.ask(), "192.0.2.42", "{}", setting.instance.program.transcript());
    // Two seconds, and the time of a busy machine.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for _ in 0..3 {
        assert_eq!(setting.ask(), "192.0.2.42");
    }
    let line = setting.connections();
    assert!(line.contains("silent 1"), "the kernel or the missed answer ended it: {line}");
    setting.swallow(false);
    wait_for(
        || format!("the first server again; {}", setting.connections()),
        || (setting.ask() == "192.0.2.41").then_some(()),
    );
    assert!(setting.instance.stop().success());
}

/// With no other server a query waits for one new connection to the same one, then fails.
#[test]
fn queries_of_a_single_server_that_went_silent_fail_in_time() {
    let Some(mut setting) = Setting::new("setServFailWhenNoServer(true)\n") else { return };
    setting.swallow(true);
    for _ in 0..2 {
        let begun = Instant::now();
        let got = setting.ask();
        assert!(got.contains("SERVFAIL"), "{got}; {}", setting.instance.program.transcript());
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    }
    setting.swallow(false);
    wait_for(
        || format!("the server again; {}", setting.connections()),
        || (setting.ask() == "192.0.2.41").then_some(()),
    );
    assert!(setting.instance.stop().success());
}
