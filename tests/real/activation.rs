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
