//! Three hosts in network namespaces: a client, the balancer, a name server.
//!
//! ```text
//!  client 198.18.1.1 ──cl── 198.18.1.2 balancer 198.18.2.1 ──be── 198.18.2.2 backend
//! ```

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::instance::{Instance, binary};
use crate::place::{Directory, wait_for};
use crate::process::{Program, run};
use crate::servers::{self, Kind};

/// The network namespaces of a test, removed with everything in them.
pub(crate) struct Namespaces(Vec<String>);

impl Namespaces {
    /// Creates the namespaces, or returns why that is not possible here.
    pub(crate) fn new(names: &[&str]) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut made = Self(Vec::new());
        // Several tests of this process have theirs at once.
        let set = NEXT.fetch_add(1, Ordering::Relaxed);
        for name in names {
            let name = format!("dnslob-{name}-{}-{set}", std::process::id());
            let (status, text) = run("ip", &["netns", "add", &name]);
            if !status.success() {
                return Err(text);
            }
            made.0.push(name);
        }
        Ok(made)
    }

    /// Runs `ip` in a namespace and panics on failure.
    pub(crate) fn ip(&self, which: usize, arguments: &str) {
        let all = ["-n", &self.0[which]].into_iter().chain(arguments.split(' ')).collect::<Vec<_>>();
        let (status, text) = run("ip", &all);
        assert!(status.success(), "ip {all:?}: {text}");
    }

    /// Connects two namespaces with a veth pair.
    pub(crate) fn connect(&self, left: usize, link: &str, right: usize) {
        self.ip(left, &format!("link add {link} type veth peer name {link} netns {}", self.0[right]));
    }

    /// Returns a command that runs in a namespace.
    pub(crate) fn command(&self, which: usize, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.0[which]]).arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            run("ip", &["netns", "delete", name]);
        }
    }
}

pub(crate) const CLIENT: usize = 0;
pub(crate) const BALANCER: usize = 1;
pub(crate) const BACKEND: usize = 2;

/// Creates the three hosts, or returns why that is not possible.
pub(crate) fn machines() -> Option<Namespaces> {
    let spaces = match Namespaces::new(&["client", "lob", "backend"]) {
        Ok(spaces) => spaces,
        Err(why) => {
            eprintln!("SKIPPED: network namespaces cannot be made here: {why}");
            return None;
        }
    };
    for (left, link, right) in [(CLIENT, "cl", BALANCER), (BALANCER, "be", BACKEND)] {
        spaces.connect(left, link, right);
    }
    for (which, link, address) in [
        (CLIENT, "cl", "198.18.1.1/24"),
        (BALANCER, "cl", "198.18.1.2/24"),
        (BALANCER, "be", "198.18.2.1/24"),
        (BACKEND, "be", "198.18.2.2/24"),
    ] {
        spaces.ip(which, &format!("address add {address} dev {link}"));
        spaces.ip(which, &format!("link set {link} up"));
    }
    Some(spaces)
}

#[test]
fn an_interface_bound_listener_serves_that_side_only() {
    let Some(spaces) = machines() else { return };
    let home = Directory::new();
    let plain = servers::command(Kind::Nsd, &home, "198.18.2.2:53".parse().expect("an address"), 41);
    let backend = Program::start(&mut spaces.command(BACKEND, &plain));
    let config = Directory::new();
    let path = config.write(
        "dnslob.lua",
        "addLocal(\"0.0.0.0:53\", {interface=\"cl\"})\nsetACL({\"0.0.0.0/0\"})\n\
         newServer {address=\"198.18.2.2\", source=\"198.18.2.1@be\", checkName=\"ready.test.\", checkInterval=0.1}\n",
    );
    let mut plain = Command::new(binary());
    plain.arg("-C").arg(path);
    let mut instance = Instance::launch(spaces.command(BALANCER, &plain), config);

    let ask = |from: usize, server: &str| {
        let mut dig = Command::new("dig");
        dig.args([&format!("@{server}"), "x.test", "A", "+short", "+tries=1", "+timeout=1"]);
        let out = spaces.command(from, &dig).output().expect("dig; scripts/test installs it");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    // The server may be ready only after the first check of the balancer.
    wait_for(
        || format!("an answer to the client; {}; {}", backend.transcript(), instance.program.transcript()),
        || (ask(CLIENT, "198.18.1.2") == "192.0.2.41").then_some(()),
    );
    let begun = Instant::now();
    assert_ne!(ask(BACKEND, "198.18.2.1"), "192.0.2.41", "the other side is not served");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(instance.stop().success());
}

/// Applies the settings that `docs/how-to/client-address.md` lists for the balancer's host, so that
/// answers to client addresses reach it: packets from the server's port on the server's interface.
const TRANSPARENT: [&str; 3] = [
    "rule add iif be ipproto udp sport 53 lookup 100",
    "rule add iif be ipproto tcp sport 53 lookup 100",
    "route add local default dev lo table 100",
];

#[test]
fn a_server_sees_the_clients_own_address() {
    let Some(spaces) = machines() else { return };
    spaces.ip(CLIENT, "address add 198.18.1.9/24 dev cl");
    spaces.ip(BALANCER, "link set lo up");
    spaces.ip(BACKEND, "route add default via 198.18.2.1");
    for command in TRANSPARENT {
        spaces.ip(BALANCER, command);
    }
    let home = Directory::new();
    let path = home.path().display();
    home.write(
        "who.zone",
        "$ORIGIN who.test.\n@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\n",
    );
    // Knot's whoami module answers with the address of the client.
    let text = format!(
        "server:\n  listen: 198.18.2.2@53\n  rundir: \"{path}\"\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\ndatabase:\n  storage: \"{path}/db\"\nlog:\n  - target: stderr\n    any: info\n\
         zone:\n  - domain: who.test.\n    storage: \"{path}\"\n    file: who.zone\n    module: mod-whoami\n"
    );
    let mut knot = Command::new("knotd");
    knot.arg("-c").arg(home.write("knot.conf", &text));
    let backend = Program::start(&mut spaces.command(BACKEND, &knot));
    let config = Directory::new();
    let file = config.write(
        "dnslob.lua",
        "addLocal(\"0.0.0.0:53\")\nsetACL({\"0.0.0.0/0\"})\n\
         newServer {address=\"198.18.2.2\", transparent=true, checkName=\"who.test.\", checkInterval=0.1}\n",
    );
    let mut plain = Command::new(binary());
    plain.arg("-C").arg(file);
    let mut instance = Instance::launch(spaces.command(BALANCER, &plain), config);
    let ask = |from: &str, way: &str| {
        let mut dig = Command::new("dig");
        dig.args(["@198.18.1.2", "who.test", "A", "+short", "+tries=1", "+timeout=1", "-b", from, way]);
        let out = spaces.command(CLIENT, &dig).output().expect("dig; scripts/test installs it");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    wait_for(
        || format!("the client's address; {}; {}", backend.transcript(), instance.program.transcript()),
        || (ask("198.18.1.1", "+notcp") == "198.18.1.1").then_some(()),
    );
    for way in ["+notcp", "+tcp"] {
        for _ in 0..3 {
            for client in ["198.18.1.1", "198.18.1.9"] {
                assert_eq!(ask(client, way), client, "{way}; {}", instance.program.transcript());
            }
        }
    }
    assert!(instance.stop().success());
}

/// Link-local addresses, which say nothing without their zone: of a listener, of the command line,
/// and of a server.
#[test]
fn addresses_with_a_zone_carry_traffic() {
    let Some(spaces) = machines() else { return };
    for (space, link, address) in [
        (CLIENT, "cl", "fe80::c1/64"),
        (BALANCER, "cl", "fe80::c2/64"),
        (BALANCER, "be", "fe80::b1/64"),
        (BACKEND, "be", "fe80::b2/64"),
    ] {
        // Only this one, so that it is the source of all packets.
        spaces.ip(space, &format!("-6 address flush dev {link}"));
        spaces.ip(space, &format!("address add {address} dev {link} nodad"));
    }
    let home = Directory::new();
    // Everywhere, since nsd knows no zones.
    let plain = servers::command(Kind::Nsd, &home, "[::]:53".parse().expect("an address"), 41);
    let backend = Program::start(&mut spaces.command(BACKEND, &plain));
    for (listener, flags) in [("addLocal(\"[fe80::c2%cl]:53\")\n", None), ("", Some("[fe80::c2%cl]:53"))] {
        let config = Directory::new();
        let server =
            "newServer {address=\"[fe80::b2%be]:53\", checkName=\"ready.test.\", checkInterval=0.1}\n";
        let path = config.write("dnslob.lua", &(listener.to_owned() + server));
        let mut plain = Command::new(binary());
        plain.arg("-C").arg(path);
        plain.args(flags.iter().flat_map(|address| ["-l", address]));
        let mut instance = Instance::launch(spaces.command(BALANCER, &plain), config);
        for way in ["+notcp", "+tcp"] {
            let ask = || {
                let mut dig = Command::new("dig");
                dig.args(["@fe80::c2%cl", "x.test", "A", "+short", "+tries=1", "+timeout=2", way]);
                let out = spaces.command(CLIENT, &dig).output().expect("dig; scripts/test installs it");
                String::from_utf8_lossy(&out.stdout).trim().to_owned()
            };
            wait_for(
                || format!("{way} {flags:?}; {}; {}", backend.transcript(), instance.program.transcript()),
                || (ask() == "192.0.2.41").then_some(()),
            );
        }
        assert!(instance.stop().success());
    }
}
