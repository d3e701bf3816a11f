//! A child process: its output, its signals, its exit.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::place::wait_for;

/// A program started by this test, in its own process group (nsd forks). The group is killed when
/// this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    output: Arc<Mutex<Vec<String>>>,
    /// End at the end of their output, which is after the exit.
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts a program and collects the lines of both outputs.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_to(command, Stdio::piped(), Stdio::piped())
    }

    /// Starts it with other outputs; the lines of piped ones are collected.
    pub(crate) fn start_to(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} cannot be started ({e}); scripts/test installs it"));
        let output = Arc::default();
        let readers = [gather(child.stdout.take(), &output), gather(child.stderr.take(), &output)];
        Self { name, child, output, readers: readers.into_iter().flatten().collect() }
    }

    /// Returns the lines written so far.
    pub(crate) fn output(&self) -> Vec<String> {
        self.output.lock().expect("the output").clone()
    }

    /// Returns them as one text, for messages.
    pub(crate) fn transcript(&self) -> String {
        format!("{} wrote:\n{}", self.name, self.output().join("\n"))
    }

    /// Returns the lines that contain `text`, starting at line number `from`.
    pub(crate) fn lines_with(&self, from: usize, text: &str) -> Vec<String> {
        let output = self.output.lock().expect("the output");
        output.iter().skip(from).filter(|l| l.contains(text)).cloned().collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap_or_else(|e| panic!("{signal} to {}: {e}", self.name));
    }

    /// Kills the process group and waits for the exit.
    pub(crate) fn kill(&mut self) {
        // The group exists until its leader is reaped.
        let _ = killpg(self.pid(), Signal::SIGKILL);
        let _ = self.child.wait();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Returns the exit status if it has exited.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child's state")
    }

    /// Waits for the exit, and for all that it wrote.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        let output = Arc::clone(&self.output);
        wait_for(
            || format!("{name} to end; it wrote {:#?}", output.lock().expect("the output")),
            || {
                let status = self.child.try_wait().expect("the child's state");
                status.filter(|_| self.readers.iter().all(JoinHandle::is_finished))
            },
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

fn gather(
    stream: Option<impl Read + Send + 'static>,
    output: &Arc<Mutex<Vec<String>>>,
) -> Option<JoinHandle<()>> {
    let stream = stream?;
    let output = Arc::clone(output);
    Some(std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            output.lock().expect("the output").push(text);
            line.clear();
        }
    }))
}

/// Runs a program until it exits; returns its exit status and both outputs.
pub(crate) fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> (ExitStatus, String) {
    let out = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be started ({e}); scripts/test installs it"));
    let text = [out.stdout, out.stderr].concat();
    (out.status, String::from_utf8_lossy(&text).into_owned())
}
