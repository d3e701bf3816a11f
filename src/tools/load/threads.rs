//! Threads of a tool, each on a CPU of its own where there are enough.

use std::io;
use std::thread::JoinHandle;

use anyhow::bail;
use core_affinity::CoreId;

use crate::config::value::cpus_text;

/// From which end CPUs are taken, so that a generator and a server on one machine do not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    First,
    Last,
}

/// Returns a CPU for each thread; `None` where there are more threads than CPUs.
///
/// # Errors
/// When a CPU is wanted that the process may not use.
pub(crate) fn cpus(threads: usize, wanted: &[u16], from: From) -> anyhow::Result<Vec<Option<usize>>> {
    let all: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|c| c.id).collect();
    place(threads, wanted, &all, from)
}

fn place(threads: usize, wanted: &[u16], all: &[usize], from: From) -> anyhow::Result<Vec<Option<usize>>> {
    // Where the kernel does not say what there is, all is tried.
    if let Some(missing) = wanted.iter().find(|cpu| !all.is_empty() && !all.contains(&usize::from(**cpu))) {
        let all: Vec<u16> = all.iter().filter_map(|cpu| u16::try_from(*cpu).ok()).collect();
        bail!("--cpus: CPU {missing} is not one of those that this process may use: {}", cpus_text(&all));
    }
    if !wanted.is_empty() {
        return Ok((0..threads).map(|n| Some(usize::from(wanted[n % wanted.len()]))).collect());
    }
    if threads > all.len() {
        return Ok(vec![None; threads]);
    }
    let at = |n: usize| if from == From::First { all[n] } else { all[all.len() - 1 - n] };
    Ok((0..threads).map(|n| Some(at(n))).collect())
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
        let placed = |threads, wanted: &[u16], from| place(threads, wanted, &all, from).expect("CPUs");
        assert_eq!(placed(2, &[], From::First), [Some(0), Some(1)]);
        assert_eq!(placed(2, &[], From::Last), [Some(5), Some(2)]);
        assert_eq!(placed(5, &[], From::Last), [None; 5]);
        assert_eq!(placed(3, &[2, 5], From::First), [Some(2), Some(5), Some(2)]);
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let error = place(1, &[1, 99], &[0, 1, 2, 5], From::First).expect_err("no CPU 99").to_string();
        assert!(error.contains("CPU 99") && error.contains("0-2,5"), "{error}");
    }
}
