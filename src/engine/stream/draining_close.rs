//! Connections that we have closed while their clients may still be sending.
//!
//! The kernel resets a connection that is closed with unread bytes, or that gets some afterwards,
//! and the client's kernel may then discard answers that the client has not read. So only our
//! writing end is shut down, and what the client sends is discarded until it closes too, or has had
//! time to notice. These sockets are not watched: they are checked whenever the engine tidies up.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use socket2::Socket;

use crate::stats::descriptors::{Descriptors, Permit, Use};

/// Sockets kept at a time; the oldest is closed for a new one.
const SOCKETS_MAX: usize = 1_024;
/// Checks of each socket: with four per second, and the first at any time, about a second.
const CHECKS: u8 = 5;
/// The same while the process stops.
const CHECKS_LAST: u8 = 2;
/// Reads of a socket per check.
const READS_PER_CHECK: usize = 4;

/// Sockets whose clients may not have noticed the close yet, the oldest first.
#[derive(Debug)]
pub(crate) struct DrainingCloses {
    sockets: VecDeque<(Socket, u8, Permit)>,
    checks_left: u8,
    /// Sockets, from the front, that are due for a check.
    due: usize,
    descriptors: Arc<Descriptors>,
}

impl DrainingCloses {
    /// Creates an empty set.
    pub(crate) const fn new(descriptors: Arc<Descriptors>) -> Self {
        Self { sockets: VecDeque::new(), checks_left: CHECKS, due: 0, descriptors }
    }

    /// Takes a socket that is shut down for writing and in no epoll set. It is closed at once when
    /// no descriptor may be spent on it.
    pub(crate) fn take(&mut self, socket: Socket) {
        if self.sockets.len() == SOCKETS_MAX {
            self.sockets.pop_front();
            self.due = self.due.saturating_sub(1);
        }
        let mut permit = self.descriptors.take(Use::DrainingCloses, 1);
        if permit.is_none() && self.sockets.pop_front().is_some() {
            self.due = self.due.saturating_sub(1);
            permit = self.descriptors.take(Use::DrainingCloses, 1);
        }
        if let Some(permit) = permit {
            self.sockets.push_back((socket, self.checks_left, permit));
        }
    }

    /// Reduces the checks of each socket to two, because the process stops.
    pub(crate) fn shorten(&mut self) {
        self.checks_left = CHECKS_LAST;
        self.sockets.iter_mut().for_each(|(_, checks_left, _)| *checks_left = CHECKS_LAST.min(*checks_left));
    }

    /// Returns whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Closes all; returns whether there were any.
    pub(crate) fn close_all(&mut self) -> bool {
        let any = !self.sockets.is_empty();
        self.sockets.clear();
        self.due = 0;
        any
    }

    /// Makes all due for a check; called four times a second.
    pub(crate) fn begin_checks(&mut self) {
        self.due = self.sockets.len();
    }

    /// Returns how many are due.
    pub(crate) const fn due(&self) -> usize {
        self.due
    }

    /// Discards what the next one's client has sent, and closes it if it is done; false when none
    /// is due.
    pub(crate) fn check(&mut self, buffer: &mut [u8]) -> bool {
        let Some(due) = self.due.checked_sub(1) else { return false };
        self.due = due;
        let Some((mut socket, checks_left, permit)) = self.sockets.pop_front() else { return false };
        if checks_left > 1 && !is_over(&mut socket, buffer) {
            self.sockets.push_back((socket, checks_left - 1, permit));
        }
        true
    }
}

/// Reads what is there; returns whether the client has closed its end, or is gone.
fn is_over(socket: &mut Socket, buffer: &mut [u8]) -> bool {
    for _ in 0..READS_PER_CHECK {
        match socket.read(buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    /// Returns a client, and our end of its connection, shut down for writing.
    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let (ours, _) = listener.accept().expect("accepted");
        ours.set_nonblocking(true).expect("set");
        ours.shutdown(Shutdown::Write).expect("closed");
        (client, ours.into())
    }

    #[test]
    fn a_sending_client_is_not_reset_and_a_closed_one_is_dropped() {
        let (mut sending, ours) = pair();
        let (closed, theirs) = pair();
        let mut draining = DrainingCloses::new(Arc::default());
        draining.take(ours);
        draining.take(theirs);
        drop(closed);
        let mut buffer = [0; 4_096];
        for check in 1..CHECKS {
            sending.write_all(&[0; 5_000]).expect("nobody has reset it");
            check_all(&mut draining, &mut buffer);
            assert_eq!(draining.sockets.len(), 1, "check {check}");
        }
        assert_eq!(sending.read(&mut buffer).expect("an end without an error"), 0);
        check_all(&mut draining, &mut buffer);
        assert!(draining.is_empty(), "it had enough checks");
    }

    fn check_all(draining: &mut DrainingCloses, buffer: &mut [u8]) {
        draining.begin_checks();
        while draining.check(buffer) {}
    }

    #[test]
    fn each_is_checked_once_per_pass() {
        let pairs = [(); 3].map(|()| pair());
        let mut draining = DrainingCloses::new(Arc::default());
        let take = |at: usize, draining: &mut DrainingCloses| {
            draining.take(pairs[at].1.try_clone().expect("a copy"));
        };
        take(0, &mut draining);
        take(1, &mut draining);
        assert!(!draining.check(&mut [0; 64]), "none is due");
        draining.begin_checks();
        assert!(draining.check(&mut [0; 64]));
        take(2, &mut draining);
        assert!(draining.check(&mut [0; 64]) && !draining.check(&mut [0; 64]));
        let checks_left: Vec<u8> = draining.sockets.iter().map(|(_, checks_left, _)| *checks_left).collect();
        assert_eq!(checks_left, [CHECKS - 1, CHECKS, CHECKS - 1]);
    }

    #[test]
    fn the_oldest_is_closed_for_a_new_one() {
        let (client, ours) = pair();
        let mut draining = DrainingCloses::new(Arc::default());
        for _ in 0..SOCKETS_MAX {
            draining.take(ours.try_clone().expect("a copy"));
        }
        let (mut newest, theirs) = pair();
        draining.take(theirs);
        assert_eq!(draining.sockets.len(), SOCKETS_MAX);
        newest.write_all(&[0; 5_000]).expect("it is kept");
        drop(client);
        assert!(draining.close_all() && draining.is_empty() && !draining.close_all());
    }

    #[test]
    fn the_oldest_is_closed_when_descriptors_run_out() {
        let descriptors = Arc::<Descriptors>::default();
        let divide = |most| {
            let pools = [most; Use::ALL.len()];
            descriptors.divide(&crate::stats::descriptors::Division { limit: 100, reserve: 0, pools });
        };
        let mut draining = DrainingCloses::new(Arc::clone(&descriptors));
        divide(2);
        let pairs: Vec<_> = (0..3).map(|_| pair()).collect();
        for (_, ours) in &pairs {
            draining.take(ours.try_clone().expect("a copy"));
        }
        assert_eq!((draining.sockets.len(), descriptors.used(Use::DrainingCloses)), (2, 2));
        draining.close_all();
        divide(0);
        draining.take(pairs[0].1.try_clone().expect("a copy"));
        assert!(draining.is_empty() && descriptors.used(Use::DrainingCloses) == 0);
    }
}
