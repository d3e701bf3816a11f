//! What the operating system lets one process have: open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the number of files that may be open from the usual (soft) limit to the highest allowed
/// (hard) one: each server and listener has sockets in every shard. A refusal changes nothing but
/// the log.
pub fn raise_files() {
    match raise(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => tracing::debug!(from = soft, to = hard, "files that may be open"),
        Err(e) => tracing::debug!(error = %e, "the limit of open files stays"),
    }
}

/// Gives the limit before and the one now.
fn raise(which: Resource) -> nix::Result<(u64, u64)> {
    let (soft, hard) = getrlimit(which)?;
    if soft != hard {
        setrlimit(which, hard, hard)?;
    }
    Ok((soft, hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        // A core's size: nothing in these tests depends on it.
        let which = Resource::RLIMIT_CORE;
        let (_, hard) = getrlimit(which).expect("limits");
        setrlimit(which, 0, hard).expect("less is always allowed");
        assert_eq!(raise(which), Ok((0, hard)));
        assert_eq!(getrlimit(which), Ok((hard, hard)));
    }
}
