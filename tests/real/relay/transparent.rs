//! Targets that see the client's own address as the source, in network namespaces.
//!
//! ```text
//!  client 198.18.1.1 ──cl── 198.18.1.2 balancer 198.18.2.1 ──be── 198.18.2.2 target
//! ```

use std::process::Command;

use crate::instance::{Instance, binary};
use crate::namespaces::Namespaces;
use crate::place::{Directory, wait_for};
use crate::process::Program;

const CLIENT: usize = 0;
const BALANCER: usize = 1;
const TARGET: usize = 2;

/// Answers every connection and datagram with its source address.
const TARGETS: &str = "
import socket, threading
def flows():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(('198.18.2.2', 2525))
    while True:
        _, who = u.recvfrom(100)
        u.sendto(('%s %d' % who).encode(), who)
threading.Thread(target=flows, daemon=True).start()
t = socket.create_server(('198.18.2.2', 2525))
while True:
    c, who = t.accept()
    c.sendall(('%s %d' % who).encode())
    c.close()
";

/// Connects over both protocols; prints the local port and the answer.
const ASK: &str = "
import socket
t = socket.create_connection(('198.18.1.2', 2525), 5)
t.settimeout(5)
answer = t.recv(100).decode()
assert answer, 'no target took the connection'
print('tcp', t.getsockname()[1], answer)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(5)
u.connect(('198.18.1.2', 2525))
u.send(b'who')
print('udp', u.getsockname()[1], u.recv(100).decode())
";

#[test]
fn targets_see_the_clients_own_address() {
    let spaces = match Namespaces::new(&["fw-client", "fw-lob", "fw-target"]) {
        Ok(spaces) => spaces,
        Err(why) => {
            eprintln!("SKIPPED: network namespaces cannot be made here: {why}");
            return;
        }
    };
    spaces.connect(CLIENT, "cl", BALANCER);
    spaces.connect(BALANCER, "be", TARGET);
    for (which, link, address) in [
        (CLIENT, "cl", "198.18.1.1/24"),
        (BALANCER, "cl", "198.18.1.2/24"),
        (BALANCER, "be", "198.18.2.1/24"),
        (TARGET, "be", "198.18.2.2/24"),
    ] {
        spaces.ip(which, &format!("address add {address} dev {link}"));
        spaces.ip(which, &format!("link set {link} up"));
        spaces.ip(which, "link set lo up");
    }
    // The target answers through the balancer, which must deliver all its packets to the program.
    spaces.ip(TARGET, "route add default via 198.18.2.1");
    spaces.ip(BALANCER, "rule add iif be lookup 100");
    spaces.ip(BALANCER, "route add local 0.0.0.0/0 dev lo table 100");

    let python = |text: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", text]);
        command
    };
    let target = Program::start(&mut spaces.command(TARGET, &python(TARGETS)));
    let config = Directory::new();
    let path = config.write(
        "dnslob.lua",
        "setACL({\"198.18.0.0/15\"})\n\
         addTCPForward{listen=\"198.18.1.2:2525\", to=\"198.18.2.2:2525\", transparent=true, check=\"none\", log=true}\n\
         addUDPForward{listen=\"198.18.1.2:2525\", to=\"198.18.2.2:2525\", transparent=true, log=true}\n",
    );
    let mut plain = Command::new(binary());
    plain.args(["--shards", "1", "-C"]).arg(path);
    let mut instance = Instance::launch(spaces.command(BALANCER, &plain), config);
    let output = wait_for(
        || format!("both answers; {}; {}", target.transcript(), instance.program.transcript()),
        || {
            let out =
                spaces.command(CLIENT, &python(ASK)).output().expect("python3; scripts/test installs it");
            out.status.success().then(|| String::from_utf8_lossy(&out.stdout).into_owned())
        },
    );
    let words: Vec<Vec<&str>> = output.lines().map(|l| l.split(' ').collect()).collect();
    let [tcp, udp] = &words[..] else { panic!("{output}") };
    assert_eq!((tcp[0], tcp[2]), ("tcp", "198.18.1.1"), "{output}");
    assert_eq!((udp[0], udp[2]), ("udp", "198.18.1.1"), "{output}");
    assert_eq!(udp[1], udp[3], "a flow keeps its port, too");
    assert!(instance.stop().success());
}
