//! Every signal at every moment: the program serves, reloads or exits as requested.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::backend::{Backend, Behaviour};
use crate::instance::{Instance, backend, binary, listen};
use crate::load::{Load, Plan};
use crate::place::{Directory, port, wait_for};

/// A configuration that evaluates for a while.
const SLOW: &str = "local begin = os.clock()\nwhile os.clock() - begin < 0.5 do end\n";
/// Well below the limit of an evaluation, which is 30 s.
const AT_ONCE: Duration = Duration::from_secs(10);

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Starts it without waiting.
fn start(lua: &str) -> Instance {
    let directory = Directory::new();
    let config = directory.write("dnslob.lua", lua);
    let mut command = Command::new(binary());
    command.args(["--shards", "2", "-C"]).arg(config);
    Instance::launch_unready(command, directory, Stdio::piped(), Stdio::piped())
}

/// Returns whether the signal handlers are installed: before the file is read, but not before
/// `main`.
fn handles_signals(instance: &Instance) -> bool {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", instance.program.pid())).unwrap_or_default();
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    let all = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT];
    all.iter().all(|s| caught >> (*s as u32 - 1) & 1 == 1)
}

fn wait_for_handlers(instance: &Instance) {
    wait_for(
        || format!("handlers; {}", instance.program.transcript()),
        || handles_signals(instance).then_some(()),
    );
}

#[test]
fn signals_during_the_first_evaluation_are_handled_once_serving() {
    let server = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let mut instance = start(&(SLOW.to_owned() + &listen(at) + &backend(server.address, "")));
    wait_for_handlers(&instance);
    for _ in 0..3 {
        for signal in [Signal::SIGUSR1, Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGPIPE] {
            instance.program.signal(signal);
        }
    }
    instance.wait_ready();
    // The end of the reload.
    instance.wait_ready();
    let has = |text: &str| instance.program.lines_with(0, text).len();
    wait_for(|| instance.program.transcript(), || (has("drop-timeout") > 0).then_some(()));
    wait_for(|| instance.program.transcript(), || (has("serving generation=2") == 1).then_some(()));
    let load = Load::start(Plan { target: at, rate: 200, count: 100, patience: Duration::from_secs(4) });
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_stop_ends_the_first_evaluation_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut instance = start("while true do end\n");
        wait_for_handlers(&instance);
        let begin = Instant::now();
        instance.program.signal(signal);
        assert_eq!(instance.program.wait().code(), Some(0), "{}", instance.program.transcript());
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    }
}

#[test]
fn a_stop_ends_the_evaluation_of_a_reload_at_once() {
    let slow = Backend::start(1, Behaviour::After(Duration::from_millis(200)));
    let at = local();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut instance = Instance::start(&(listen(at) + &backend(slow.address, "")));
        instance.rewrite("while true do end\n");
        instance.program.signal(Signal::SIGHUP);
        let reloading = || !instance.program.lines_with(0, "reloading the configuration").is_empty();
        wait_for(|| instance.program.transcript(), || reloading().then_some(()));
        // Meanwhile it serves, and all queries before the stop are answered.
        let before = slow.queries();
        let load =
            Load::start(Plan { target: at, rate: 1_000, count: 100, patience: Duration::from_secs(4) });
        wait_for(|| "all queries at the backend".into(), || (slow.queries() == before + 100).then_some(()));
        let begin = Instant::now();
        instance.program.signal(signal);
        load.join().assert_nothing_lost(&|| instance.program.transcript());
        assert_eq!(instance.program.wait().code(), Some(0), "{}", instance.program.transcript());
        assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
    }
}

#[test]
fn signals_end_a_configuration_check() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = Directory::new();
        // The log of a check is written at its end.
        let begun = directory.path().join("begun");
        let lua = format!("io.open('{}', 'w'):close()\nwhile true do end\n", begun.display());
        let config = directory.write("dnslob.lua", &lua);
        let mut command = Command::new(binary());
        command.args(["--check-config", "-C"]).arg(config);
        let mut instance = Instance::launch_unready(command, directory, Stdio::piped(), Stdio::piped());
        wait_for(|| instance.program.transcript(), || begun.exists().then_some(()));
        instance.program.signal(signal);
        assert_eq!(
            instance.program.wait().signal(),
            Some(signal as i32),
            "{}",
            instance.program.transcript()
        );
    }
}

/// A random number generator with a seed (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[test]
fn a_flood_of_signals_during_startup_is_survived() {
    const HARMLESS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE];
    let server = Backend::start(1, Behaviour::Prompt);
    for seed in 0..24 {
        let mut numbers = Numbers(seed);
        let slow = format!("local b = os.clock()\nwhile os.clock() - b < 0.0{} do end\n", numbers.below(10));
        let mut instance = start(&(slow + &listen(local()) + &backend(server.address, "")));
        let mut handled = false;
        for _ in 0..numbers.below(60) {
            // Signals before `main` cannot be handled.
            handled = handled || handles_signals(&instance);
            if handled {
                instance.program.signal(HARMLESS[numbers.below(4) as usize]);
            }
            std::thread::sleep(Duration::from_micros(numbers.below(6_000)));
        }
        assert!(instance.program.ended().is_none(), "seed {seed}: {}", instance.program.transcript());
        let stop = [Signal::SIGTERM, Signal::SIGINT][numbers.below(2) as usize];
        let begin = Instant::now();
        handled = handled || handles_signals(&instance);
        instance.program.signal(stop);
        if handled {
            for _ in 0..numbers.below(3) {
                // The process may have exited.
                let _ = nix::sys::signal::kill(instance.program.pid(), HARMLESS[numbers.below(4) as usize]);
            }
        }
        let status = instance.program.wait();
        let as_asked = status.code() == Some(0) || !handled && status.signal() == Some(stop as i32);
        assert!(as_asked, "seed {seed}: {status}, {}", instance.program.transcript());
        assert!(
            begin.elapsed() < AT_ONCE,
            "seed {seed}: {:?}, {}",
            begin.elapsed(),
            instance.program.transcript()
        );
    }
}

#[test]
fn a_flood_of_signals_under_load_loses_no_query() {
    let server = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let mut instance = Instance::start(&(listen(at) + &backend(server.address, ", udpTimeout=8")));
    let load =
        Load::start(Plan { target: at, rate: 200, count: u64::MAX, patience: Duration::from_secs(12) });
    let mut numbers = Numbers(9);
    for _ in 0..200 {
        let all = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGPIPE];
        instance.program.signal(all[numbers.below(4) as usize]);
        std::thread::sleep(Duration::from_micros(numbers.below(8_000)));
    }
    let report = load.finish();
    report.assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(server.queries(), report.sent);
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn no_thread_keeps_capabilities_that_serving_does_not_need() {
    let server = Backend::start(1, Behaviour::Prompt);
    let mut instance = Instance::start(&(listen(local()) + &backend(server.address, "")));
    // Also after each thread has done some work.
    instance.dump();
    let permitted = |path: &std::path::Path| {
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let mask = status.lines().find_map(|l| l.strip_prefix("CapPrm:"));
        mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0)
    };
    let process = std::path::PathBuf::from(format!("/proc/{}", instance.program.pid()));
    let control = permitted(&process);
    for thread in std::fs::read_dir(process.join("task")).expect("threads") {
        let thread = thread.expect("a thread").path();
        let name = std::fs::read_to_string(thread.join("comm")).unwrap_or_default();
        wait_for(
            || format!("{} to give up what the control thread has", name.trim()),
            || (permitted(&thread) & !control == 0).then_some(()),
        );
    }
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}

#[test]
fn a_flood_of_signals_does_not_interrupt_lua() {
    let server = Backend::start(1, Behaviour::Prompt);
    let at = local();
    let busy = "addAction(AllRule(), LuaAction(function(dq) local begin = os.clock()\n\
                while os.clock() - begin < 0.004 do end return DNSAction.None end))\n";
    let mut instance =
        Instance::start_with(&(listen(at) + &backend(server.address, "") + busy), &["--shards", "4"]);
    let load = Load::start(Plan { target: at, rate: 100, count: 100, patience: Duration::from_secs(8) });
    let pid = instance.program.pid().to_string();
    // Three senders, so that a signal arrives while another is being handled.
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let pid = nix::unistd::Pid::from_raw(pid.parse().expect("a number"));
            std::thread::spawn(move || {
                for _ in 0..1_500 {
                    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
                        nix::sys::signal::kill(pid, signal).expect("it lives");
                    }
                }
            })
        })
        .collect();
    senders.into_iter().for_each(|s| s.join().expect("a sender"));
    load.join().assert_nothing_lost(&|| instance.program.transcript());
    assert_eq!(instance.stop().code(), Some(0), "{}", instance.program.transcript());
}
