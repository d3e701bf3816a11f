//! Threads of a tool, each on a CPU of its own where there are enough.

use std::io;
use std::thread::JoinHandle;

use core_affinity::CoreId;

/// From which end CPUs are taken, so that a generator and a server on one machine do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    First,
    Last,
}

/// Returns a CPU for each thread; `None` where there are more threads than CPUs.
pub(crate) fn cpus(threads: usize, wanted: &[u16], from: From) -> Vec<Option<usize>> {
    let all: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    place(threads, wanted, &all, from)
}

fn place(threads: usize, wanted: &[u16], all: &[usize], from: From) -> Vec<Option<usize>> {
    if !wanted.is_empty() {
        return (0..threads).map(|n| Some(usize::from(wanted[n % wanted.len()]))).collect();
    }
    if threads > all.len() {
        return vec![None; threads];
    }
    let at = |n: usize| if from == From::First { all[n] } else { all[all.len() - 1 - n] };
    (0..threads).map(|n| Some(at(n))).collect()
}

/// Starts a thread on a CPU.
///
/// # Errors
/// The operating system's.
pub(crate) fn start<T: Send + 'static>(
    name: String,
    cpu: Option<usize>,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name).spawn(move || {
        // A CPU that is not ours makes the tool slower, not wrong.
        let _ = cpu.is_none_or(|id| core_affinity::set_for_current(CoreId { id }));
        run()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generator_and_server_take_cpus_from_both_ends() {
        let all = [0, 1, 2, 5];
        assert_eq!(place(2, &[], &all, From::First), [Some(0), Some(1)]);
        assert_eq!(place(2, &[], &all, From::Last), [Some(5), Some(2)]);
        assert_eq!(place(5, &[], &all, From::Last), [None; 5]);
        assert_eq!(place(3, &[7, 8], &all, From::First), [Some(7), Some(8), Some(7)]);
    }
}
