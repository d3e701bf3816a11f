//! Starts the programs of health checks, from a thread without the sockets of the process.
//!
//! Until a new process has loaded its program it holds copies of all descriptors of the thread that
//! started it. A socket that is closed meanwhile stays open: its peer sees no end, and its epoll set
//! still reports it. The threads here have a table of descriptors of their own, with the standard
//! streams only.

use std::io;
use std::process::{Command, ExitStatus};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::unistd::{Pid, close};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::control::privileges;
use crate::engine::sys;

/// The stack of a thread that waits for a program, bytes.
const STACK: usize = 128 << 10;

/// The thread that starts programs.
#[derive(Clone, Debug)]
pub struct Launcher {
    work: mpsc::Sender<Work>,
    reports: mpsc::Sender<Report>,
}

/// What the thread is asked for.
enum Work {
    Run(Box<Job>),
    /// To drop the capabilities that starting programs does not need.
    Shed,
}

/// A program to be run.
struct Job {
    command: Command,
    started: Reply<io::Result<u32>>,
    ended: Reply<io::Result<ExitStatus>>,
}

/// What an ordinary thread of the process does for one without its descriptors.
type Report = Box<dyn FnOnce() + Send>;

/// The sender of a result from a thread without the descriptors of the process. A runtime is woken
/// by one of them, so another thread has to do it.
struct Reply<T: Send + 'static> {
    sender: Option<oneshot::Sender<T>>,
    reports: mpsc::Sender<Report>,
}

impl Launcher {
    /// Starts the thread; it has a table of descriptors of its own when this returns, where the system
    /// lets it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start() -> io::Result<Self> {
        Self::start_with(own_descriptors)
    }

    /// Starts the thread; `separate` gives it a table of descriptors of its own.
    fn start_with(separate: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<Self> {
        let (work, queue) = mpsc::channel::<Work>();
        let (reports, reported) = mpsc::channel::<Report>();
        let (ready, is_ready) = mpsc::channel();
        let reporter = std::thread::Builder::new().name("reporter".into()).stack_size(STACK);
        reporter.spawn(move || reported.into_iter().for_each(|report| report()))?;
        std::thread::Builder::new().name("programs".into()).stack_size(STACK).spawn(move || {
            let mut shared = separate().err();
            // The caller waits.
            let _ = ready.send(());
            for work in queue {
                if matches!(work, Work::Run(_))
                    && let Some(error) = shared.take()
                {
                    // Containers may forbid it.
                    tracing::warn!(%error, "programs of health checks start with copies of all sockets");
                }
                work.perform();
            }
        })?;
        is_ready.recv().map_err(io::Error::other)?;
        Ok(Self { work, reports })
    }

    /// Makes both threads drop their capabilities, as the process has.
    pub fn shed(&self) {
        // The threads live as long as this does.
        let _ = self.work.send(Work::Shed);
        let _ = self.reports.send(Box::new(|| {
            let _ = privileges::follow();
        }));
    }

    /// Runs a program in its own process group, which is killed after `limit`, or when the caller
    /// stops waiting. Returns none when it did not end in time.
    ///
    /// # Errors
    /// Why it could not be started.
    pub async fn run(&self, command: Command, limit: Duration) -> io::Result<Option<ExitStatus>> {
        // Threads are counted as processes are.
        let gone = || io::Error::from(Errno::EAGAIN);
        let (started, has_started) = self.reply();
        let (ended, has_ended) = self.reply();
        self.work.send(Work::Run(Box::new(Job { command, started, ended }))).map_err(|_| gone())?;
        let mut group = Group(Some(has_started.await.map_err(|_| gone())??));
        let Ok(status) = timeout(limit, has_ended).await else { return Ok(None) };
        group.0 = None;
        status.map_err(|_| gone())?.map(Some)
    }

    fn reply<T: Send>(&self) -> (Reply<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Reply { sender: Some(sender), reports: self.reports.clone() }, receiver)
    }
}

impl<T: Send> Reply<T> {
    fn send(mut self, value: T) {
        let sender = self.sender.take();
        // Who asked may have stopped waiting.
        self.report(move || drop(sender.map(|sender| sender.send(value))));
    }

    fn report(&self, report: impl FnOnce() + Send + 'static) {
        // The reporter ends after the last of its senders.
        let _ = self.reports.send(Box::new(report));
    }
}

impl<T: Send> Drop for Reply<T> {
    /// Without a result who asked learns that there is none.
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.report(move || drop(sender));
        }
    }
}

impl Work {
    fn perform(self) {
        match self {
            Self::Run(job) => job.begin(),
            Self::Shed => privileges::follow_to_start_programs(),
        }
    }
}

impl Job {
    /// Runs it in a thread of its own, which has the same descriptors. One that cannot be killed
    /// delays nobody.
    fn begin(self) {
        let Self { mut command, started, ended } = self;
        sys::unblock_signals(&mut command);
        let thread = std::thread::Builder::new().name("program".into()).stack_size(STACK);
        // Without a thread the replies are dropped.
        let _ = thread.spawn(move || match command.spawn() {
            Ok(mut child) => {
                started.send(Ok(child.id()));
                // A program is waited for even if nobody asks any more.
                ended.send(child.wait());
            }
            Err(e) => started.send(Err(e)),
        });
    }
}

/// Gives the calling thread a table of descriptors of its own, with the standard streams.
fn own_descriptors() -> io::Result<()> {
    // A handler of signals wakes its runtime by a descriptor that this thread does not have: a
    // request to stop that the system delivered here would be lost.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    if let Err(error) = unshare(CloneFlags::CLONE_FILES) {
        before.thread_set_mask()?;
        return Err(error.into());
    }
    let open = std::fs::read_dir("/proc/thread-self/fd")?;
    let open: Vec<i32> = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // That of the directory is closed already.
        let _ = close(descriptor);
    }
    Ok(())
}

/// Kills a process group when dropped, also when the check is cancelled.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) else { return };
        // It may have ended in between, which is fine.
        let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work)
    }

    #[test]
    fn programs_hold_no_socket_of_the_process_while_they_start() {
        let launcher = Launcher::start().expect("a thread");
        // The thread's own table cannot be seen from outside; a program that is not closed on exec
        // can: it lists what it was given.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty());
        nix::fcntl::fcntl(&listener, flags).expect("inherited by programs");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for f in /proc/self/fd/*; do readlink $f; done | grep -q socket && exit 1; exit 0",
        ]);
        let status = block_on(launcher.run(command, Duration::from_secs(10)));
        assert!(status.expect("a run").expect("an end").success());
        // Started by this thread, it has the socket.
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "for f in /proc/self/fd/*; do readlink $f; done | grep -q socket && exit 1; exit 0",
        ]);
        assert_eq!(command.status().expect("a run").code(), Some(1));
    }

    /// As in a container that forbids unshare(2).
    #[test]
    fn programs_start_where_the_system_refuses_a_table_of_descriptors() {
        let launcher = Launcher::start_with(|| Err(Errno::EPERM.into())).expect("a thread");
        for (program, succeeds) in [("true", true), ("false", false), ("true", true)] {
            let status = block_on(launcher.run(Command::new(program), Duration::from_secs(10)));
            assert_eq!(status.expect("a run").expect("an end").success(), succeeds, "{program}");
        }
    }

    #[test]
    fn signals_go_to_threads_with_the_descriptors_of_the_process_and_to_programs() {
        let mask = std::thread::spawn(|| own_descriptors().and_then(|()| Ok(SigSet::thread_get_mask()?)));
        let mask = mask.join().expect("a thread").expect("a table of its own");
        for signal in [Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1] {
            assert!(mask.contains(signal), "{signal}");
        }
        let launcher = Launcher::start().expect("a thread");
        let mut command = Command::new("sh");
        command.args(["-c", "kill -TERM $$; exit 3"]);
        let status = block_on(launcher.run(command, Duration::from_secs(10))).expect("a run");
        let signal = status.and_then(|s| std::os::unix::process::ExitStatusExt::signal(&s));
        assert_eq!(signal, Some(Signal::SIGTERM as i32));
    }

    #[test]
    fn program_that_cannot_be_started_is_an_error_and_a_slow_one_is_killed() {
        let launcher = Launcher::start().expect("a thread");
        let missing = block_on(launcher.run(Command::new("/nonexistent"), Duration::from_secs(10)));
        assert_eq!(missing.expect_err("no such program").kind(), io::ErrorKind::NotFound);
        let mut command = Command::new("sleep");
        std::os::unix::process::CommandExt::process_group(command.arg("600"), 0);
        let slow = block_on(launcher.run(command, Duration::from_millis(50)));
        assert!(slow.expect("a run").is_none());
    }
}
