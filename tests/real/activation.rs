//! Socket activation: queries sent while no process runs are answered by the next process, and
//! again after a restart.

use std::process::Command;

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
