//! Arbitrary bytes as a configuration file: no panic, no hang, every error has a location, and a
//! compiled configuration is valid. Text with access to the host (files, commands, foreign code) is
//! skipped. Only one input at a time per process.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use dnslob::config::error::Fault;
use dnslob::config::flags::Flags;
use dnslob::config::{ConfigError, Invocation, Slots, compile, flags};
use dnslob::lua::front_end::Interrupt;
use dnslob::lua::front_end::load_unless;
use dnslob::model::Snapshot;
use dnslob::model::policy::Kind;

/// The time limit of an evaluation.
const EVALUATION_MAX: Duration = Duration::from_millis(200);

/// Texts with these words are not evaluated: library functions that reach the host, load other
/// code, or avoid the hook that ends an evaluation.
const OUTSIDE: &[&str] = &[
    "os",
    "io",
    "ffi",
    "require",
    "package",
    "debug",
    "jit",
    "load",
    "loadstring",
    "loadfile",
    "dofile",
    "module",
    "_G",
    "getfenv",
    "setfenv",
    "setACLFromFile",
    "addFile",
];

pub(crate) fn target(data: &[u8]) {
    if reaches_outside(data) {
        return;
    }
    let file = File::new(data);
    let flags = file.flags();
    let loaded = {
        let evaluation = Evaluation::begin();
        load_unless(&flags, &evaluation.interrupt)
    };
    match loaded.and_then(|l| compile(&l.draft, &Slots::default(), 1)) {
        Ok(compiled) => sound(&compiled.snapshot),
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without an error");
            errors.iter().for_each(|e| explained(e, &file.name()));
        }
    }
}

fn reaches_outside(data: &[u8]) -> bool {
    let mut words = data.split(|o| !o.is_ascii_alphanumeric() && *o != b'_');
    words.any(|word| word.starts_with(b"include") || OUTSIDE.iter().any(|o| o.as_bytes() == word))
}

fn explained(error: &ConfigError, file: &str) {
    assert!(!error.fault.to_string().trim().is_empty(), "an error without a message: {error:?}");
    if error.origin.file_name() == file {
        let place = error.origin.to_string();
        let line = place.strip_prefix(file).and_then(|rest| rest.strip_prefix(':')?.parse::<u32>().ok());
        assert!(line.is_some_and(|n| n > 0), "an error of the file without its line: {error}");
    } else {
        // Only this file was given: only errors about limits have no line in it.
        assert!(matches!(error.fault, Fault::Limit { .. }), "an error of {file} placed elsewhere: {error}");
    }
}

fn sound(snapshot: &Snapshot) {
    assert_eq!(snapshot.generation, 1);
    assert!(!snapshot.listeners.is_empty(), "nothing to listen on");
    let slots: HashSet<_> = snapshot.listeners.iter().map(|l| l.slot.index()).collect();
    assert_eq!(slots.len(), snapshot.listeners.len(), "two listeners in one slot");
    let mut ids = HashSet::new();
    for (at, backend) in snapshot.backends.iter().enumerate() {
        let Some(backend) = backend else { continue };
        assert_eq!(backend.slot.index(), at, "a backend in another's slot");
        assert!(ids.insert(&backend.id), "two backends called {}", backend.id);
    }
    assert_eq!(snapshot.pools[0].name, "", "the default pool is the first");
    let mut names = HashSet::new();
    let mut concentrated = HashSet::new();
    for pool in &snapshot.pools {
        assert!(names.insert(&pool.name), "two pools called \"{}\"", pool.name);
        let members: HashSet<_> = pool.members.iter().map(|s| s.index()).collect();
        assert_eq!(members.len(), pool.members.len(), "a member twice in \"{}\"", pool.name);
        assert!(pool.members.iter().all(|s| snapshot.backend(*s).is_some()), "a member that is not there");
        assert_eq!(pool.ring.is_some(), pool.policy.kind == Kind::CHashed);
        if pool.policy.kind == Kind::Concentrate {
            assert!(members.into_iter().all(|s| concentrated.insert(s)), "two shares for one server");
        }
    }
}

/// The file of the current input in this process, removed when dropped.
struct File(PathBuf);

impl File {
    fn new(data: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("dnslob-fuzz-{}.lua", std::process::id()));
        std::fs::write(&path, data).expect("a temporary file");
        Self(path)
    }

    fn name(&self) -> String {
        self.0.display().to_string()
    }

    fn flags(&self) -> Flags {
        match flags::parse(["dnslob", "-C", &self.name()]) {
            Ok(Invocation::Serve(flags)) => *flags,
            other => panic!("-C is to serve, not {other:?}"),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An evaluation that the watchdog of the process supervises until this is dropped.
struct Evaluation {
    interrupt: Interrupt,
}

impl Evaluation {
    fn begin() -> Self {
        let interrupt = Interrupt::default();
        watchdog().send(Some(interrupt.clone())).expect("the watchdog lives as long as the process");
        Self { interrupt }
    }
}

impl Drop for Evaluation {
    fn drop(&mut self) {
        let _ = watchdog().send(None);
    }
}

/// The watchdog thread: it learns of the start and end of each evaluation, and interrupts long
/// ones.
fn watchdog() -> &'static Sender<Option<Interrupt>> {
    static WATCHDOG: OnceLock<Sender<Option<Interrupt>>> = OnceLock::new();
    WATCHDOG.get_or_init(|| {
        let (sender, receiver) = channel::<Option<Interrupt>>();
        std::thread::spawn(move || {
            while let Ok(begun) = receiver.recv() {
                let Some(interrupt) = begun else { continue };
                if matches!(receiver.recv_timeout(EVALUATION_MAX), Err(RecvTimeoutError::Timeout)) {
                    interrupt.interrupt();
                }
            }
        });
        sender
    })
}
