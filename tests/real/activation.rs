//! Socket activation: queries sent while no process runs are answered by the next process, and
//! again after a restart.

use std::process::Command;

use crate::place::Directory;

/// Acts as the service manager and as the client: binds the socket, passes it as descriptor 3
/// (sd_listen_fds(3)), and sends queries before each of two starts.
const MANAGER: &str = r#"
import os, socket, subprocess, sys, threading

def bound():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    return s

passed, backend, client = bound(), bound(), bound()
listen, server = ("127.0.0.1:%d" % s.getsockname()[1] for s in (passed, backend))
client.connect(passed.getsockname())
client.settimeout(10)

def answer():
    while True:
        query, peer = backend.recvfrom(4096)
        backend.sendto(query[:2] + bytes([query[2] | 0x80]) + query[3:], peer)
threading.Thread(target=answer, daemon=True).start()

def ask(number):
    client.send(bytes([number, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 0, 0, 1, 0, 1]))

def hear(number):
    assert client.recv(4096)[0] == number, "the answer to another query"

START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
for generation in range(2):
    ask(generation)
    command = [sys.executable, "-c", START, str(passed.fileno()), sys.argv[1], "--shards", "2", listen, server]
    dnslob = subprocess.Popen(command, pass_fds=[passed.fileno()])
    hear(generation)
    for number in range(10, 60):
        ask(number)
        hear(number)
    dnslob.terminate()
    assert dnslob.wait(10) == 0, "an orderly end"
"#;

#[test]
fn queries_wait_in_an_inherited_socket_during_a_restart() {
    let done = Command::new("python3")
        .args(["-c", MANAGER, env!("CARGO_BIN_EXE_dnslob")])
        .output()
        .expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Passes the datagram socket of the listener alone, and a listening socket of no listener. dnslob
/// listens for connections itself.
const INCOMPLETE: &str = r#"
import os, socket, subprocess, sys

datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 0))
stray = socket.create_server(("127.0.0.1", 0))
address = "127.0.0.1:%d" % datagrams.getsockname()[1]
elsewhere = stray.getsockname()

START = """
import os, sys
given = [int(sys.argv[1]), int(sys.argv[2])]
one, other = map(os.dup, given)
for descriptor in given:
    os.set_inheritable(descriptor, False)
os.dup2(one, 3)
os.dup2(other, 4)
os.set_inheritable(3, True)
os.set_inheritable(4, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
os.execv(sys.argv[3], sys.argv[3:])
"""
command = [sys.executable, "-c", START, str(datagrams.fileno()), str(stray.fileno()), sys.argv[1], "--shards", "2",
           "-C", sys.argv[2], "-l", address]
dnslob = subprocess.Popen(command, pass_fds=[datagrams.fileno(), stray.fileno()], stderr=subprocess.PIPE, text=True)
stray.close()
said = ""
while "serving" not in said:
    line = dnslob.stderr.readline()
    assert line, said
    said += line
stray_is_closed, opened = "fits no listener", "passed no TCP socket, which dnslob opens itself; with ListenStream="
if not 0 < said.find(stray_is_closed) < said.find(opened):
    dnslob.kill()
    raise AssertionError(said)
query = bytes([1, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 0, 0, 1, 0, 1])
datagrams_client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams_client.settimeout(10)
datagrams_client.sendto(query, datagrams.getsockname())
assert datagrams_client.recv(512)[3] & 15 == 5, "REFUSED over UDP"
# More than one shard's socket listens.
for _ in range(16):
    with socket.create_connection(datagrams.getsockname(), 10) as connection:
        connection.sendall(bytes([0, len(query)]) + query)
        assert connection.recv(512)[5] & 15 == 5, "REFUSED over TCP"
try:
    socket.create_connection(elsewhere, 5).close()
    raise AssertionError("the stray socket is open")
except ConnectionRefusedError:
    pass
dnslob.terminate()
assert dnslob.wait(10) == 0, "an orderly end"
"#;

#[test]
fn a_missing_kind_is_opened_and_a_stray_socket_closed() {
    let directory = Directory::new();
    let config = directory.write("dnslob.lua", "addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n");
    let done = Command::new("python3")
        .args(["-c", INCOMPLETE, env!("CARGO_BIN_EXE_dnslob")])
        .arg(config)
        .output()
        .expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Passes a listening socket, takes its listener away by a reload, and brings it back: who has connected
/// meanwhile waits, no shard is woken for that, and then is answered.
const REMOVED: &str = r#"
import os, signal, socket, subprocess, sys, time

program, config = sys.argv[1:]
passed = socket.create_server(("127.0.0.1", 0))
at = "127.0.0.1:%d" % passed.getsockname()[1]
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""
rules = "addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n"
there = 'addLocal("%s")\n' % at + rules
away = 'addLocal("127.0.0.2:%d")\n' % passed.getsockname()[1] + rules
open(config, "w").write(there)
command = [sys.executable, "-c", START, str(passed.fileno()), program, "--shards", "2", "-C", config]
dnslob = subprocess.Popen(command, pass_fds=[passed.fileno()], stderr=subprocess.PIPE, text=True)
said = ""

def serving():
    global said
    line = ""
    while "serving" not in line:
        line = dnslob.stderr.readline()
        assert line, said
        said += line

def reload(text):
    open(config, "w").write(text)
    dnslob.send_signal(signal.SIGHUP)
    serving()

def busy():
    fields = open("/proc/%d/stat" % dnslob.pid).read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

query = bytes([1, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 0, 0, 1, 0, 1])
try:
    serving()
    for _ in range(3):
        reload(away)
        with socket.create_connection(passed.getsockname(), 10) as connection:
            connection.sendall(bytes([0, len(query)]) + query)
            before = busy()
            time.sleep(0.5)
            assert busy() - before < 0.2, "shards turn: %.2f s in half a second" % (busy() - before)
            reload(there)
            assert connection.recv(512)[5] & 15 == 5, "REFUSED"
    assert "cannot watch" not in said, said
finally:
    dnslob.terminate()
assert dnslob.wait(10) == 0, "an orderly end"
"#;

#[test]
fn a_passed_socket_whose_listener_is_removed_wakes_nobody_and_serves_the_next_one() {
    let directory = Directory::new();
    let config = directory.write("dnslob.lua", "");
    let done = Command::new("python3")
        .args(["-c", REMOVED, env!("CARGO_BIN_EXE_dnslob")])
        .arg(config)
        .output()
        .expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Opens the sockets of a unit as the service manager does, on loopback and another port, sends a query by
/// each of them before the start, and passes them in the unit's order.
const UNIT: &str = r#"
import os, re, socket, subprocess, sys

program, config, unit = sys.argv[1:]
wanted = re.findall(r"^Listen(Datagram|Stream)=(\S+):53$", open(unit).read(), re.M)
loopback = {"0.0.0.0": (socket.AF_INET, "127.0.0.1"), "[::]": (socket.AF_INET6, "::1")}

def opened(port):
    sockets = []
    try:
        for kind, address in wanted:
            family, ip = loopback[address]
            is_stream = kind == "Stream"
            passed = socket.socket(family, socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
            sockets.append((passed, is_stream))
            passed.bind((ip, port))
            port = passed.getsockname()[1]
            if is_stream:
                passed.listen(16)
    except OSError:
        return []
    return sockets

sockets = []
while not sockets:
    sockets = opened(0)
addresses = sorted({passed.getsockname()[:2] for passed, _ in sockets})
listen = [("[%s]:%d" if ":" in ip else "%s:%d") % (ip, port) for ip, port in addresses]

query = bytes([1, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 97, 0, 0, 1, 0, 1])
clients = []
for passed, is_stream in sockets:
    client = socket.socket(passed.family, passed.type)
    client.settimeout(10)
    client.connect(passed.getsockname())
    client.sendall(bytes([0, len(query)]) + query if is_stream else query)
    clients.append((client, is_stream))

START = """
import os, sys
given = [int(number) for number in sys.argv[1].split(",")]
far = [os.dup2(descriptor, 100 + at) for at, descriptor in enumerate(given)]
for descriptor in given:
    os.set_inheritable(descriptor, False)
for at, descriptor in enumerate(far):
    os.dup2(descriptor, 3 + at)
    os.close(descriptor)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)))
os.execv(sys.argv[2], sys.argv[2:])
"""
numbers = ",".join(str(passed.fileno()) for passed, _ in sockets)
command = [sys.executable, "-c", START, numbers, program, "--shards", "2", "-C", config]
for address in listen:
    command += ["-l", address]
dnslob = subprocess.Popen(command, pass_fds=[passed.fileno() for passed, _ in sockets], stderr=subprocess.PIPE,
                          text=True)
said = ""
while "serving" not in said:
    line = dnslob.stderr.readline()
    assert line, said
    said += line
try:
    assert "fits no listener" not in said and "opens itself" not in said, said
    for client, is_stream in clients:
        assert client.recv(512)[5 if is_stream else 3] & 15 == 5, "REFUSED"
finally:
    dnslob.terminate()
assert dnslob.wait(10) == 0, "an orderly end"
"#;

/// Returns the addresses that a unit has sockets of a kind for.
fn addresses_of<'u>(unit: &'u str, kind: &str) -> Vec<&'u str> {
    let mut all: Vec<&str> = unit.lines().filter_map(|l| l.strip_prefix(kind)?.strip_prefix('=')).collect();
    all.sort_unstable();
    all
}

#[test]
fn the_unit_that_is_shipped_has_both_kinds_of_sockets_and_both_are_served() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/dnslob.socket");
    let text = std::fs::read_to_string(unit).expect("the unit");
    let datagrams = addresses_of(&text, "ListenDatagram");
    assert_eq!(datagrams, ["0.0.0.0:53", "[::]:53"]);
    assert_eq!(addresses_of(&text, "ListenStream"), datagrams);
    // Without it a wildcard of IPv6 takes those of IPv4, and the second bind fails.
    assert!(text.lines().any(|line| line == "BindIPv6Only=ipv6-only"), "{text}");
    let directory = Directory::new();
    let config = directory.write("dnslob.lua", "addAction(AllRule(), RCodeAction(DNSRCode.REFUSED))\n");
    let done = Command::new("python3")
        .args(["-c", UNIT, env!("CARGO_BIN_EXE_dnslob")])
        .arg(config)
        .arg(unit)
        .output()
        .expect("python3 runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
