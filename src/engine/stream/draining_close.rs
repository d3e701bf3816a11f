//! Connections that we have closed while their clients may still be sending.
//!
//! A socket that is closed with bytes in it, or that gets some afterwards, makes the kernel send a
//! reset, and the client's kernel may then throw away answers that the client has not read. So our
//! end is closed alone, and what the client still says is read and forgotten until it closes its
//! end, too, or has had the time to notice. Nothing is watched: they are looked at whenever the
//! engine tidies up.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Arc;

use socket2::Socket;

use crate::stats::descriptors::{Descriptors, Permit, Use};

/// Sockets kept at a time; the oldest gives way to a new one.
const MOST: usize = 1_024;
/// Times that each is looked at: a second, four of them being in one, and the first at any time.
const LOOKS: u8 = 5;
/// The same when the process stops.
const LOOKS_LAST: u8 = 2;
/// Reads of a socket at a time.
const READS: usize = 4;

/// Sockets whose clients may not know yet that nobody answers any more, the oldest first.
#[derive(Debug)]
pub(crate) struct DrainingCloses {
    sockets: VecDeque<(Socket, u8, Permit)>,
    looks: u8,
    /// Sockets, from the front, that are to be looked at.
    due: usize,
    descriptors: Arc<Descriptors>,
}

impl DrainingCloses {
    /// None yet.
    pub(crate) const fn new(descriptors: Arc<Descriptors>) -> Self {
        Self { sockets: VecDeque::new(), looks: LOOKS, due: 0, descriptors }
    }

    /// Takes a socket whose writing end is closed, and that is in no epoll set. It is closed at once
    /// where no descriptor may be spent on it.
    pub(crate) fn take(&mut self, socket: Socket) {
        if self.sockets.len() == MOST {
            self.sockets.pop_front();
            self.due = self.due.saturating_sub(1);
        }
        let mut permit = self.descriptors.take(Use::DrainingCloses, 1);
        if permit.is_none() && self.sockets.pop_front().is_some() {
            self.due = self.due.saturating_sub(1);
            permit = self.descriptors.take(Use::DrainingCloses, 1);
        }
        if let Some(permit) = permit {
            self.sockets.push_back((socket, self.looks, permit));
        }
    }

    /// The process stops: from here on each is looked at twice only.
    pub(crate) fn hasten(&mut self) {
        self.looks = LOOKS_LAST;
        self.sockets.iter_mut().for_each(|(_, looks, _)| *looks = LOOKS_LAST.min(*looks));
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Closes all; whether there were any.
    pub(crate) fn close_all(&mut self) -> bool {
        let any = !self.sockets.is_empty();
        self.sockets.clear();
        self.due = 0;
        any
    }

    /// All are to be looked at; to be called four times a second.
    pub(crate) fn begin_look(&mut self) {
        self.due = self.sockets.len();
    }

    /// How many are to be looked at.
    pub(crate) const fn due(&self) -> usize {
        self.due
    }

    /// Forgets what the next one's client has said, and closes it if it is over; false when none is to
    /// be looked at.
    pub(crate) fn look(&mut self, buffer: &mut [u8]) -> bool {
        let Some(due) = self.due.checked_sub(1) else { return false };
        self.due = due;
        let Some((mut socket, looks, permit)) = self.sockets.pop_front() else { return false };
        if looks > 1 && !is_over(&mut socket, buffer) {
            self.sockets.push_back((socket, looks - 1, permit));
        }
        true
    }
}

/// Reads what is there; whether the client has closed its end, or is gone.
fn is_over(socket: &mut Socket, buffer: &mut [u8]) -> bool {
    for _ in 0..READS {
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

    /// A client, and our end of its connection, closed for writing.
    fn pair() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let (ours, _) = listener.accept().expect("accepted");
        ours.set_nonblocking(true).expect("set");
        ours.shutdown(Shutdown::Write).expect("closed");
        (client, ours.into())
    }

    #[test]
    fn a_client_that_goes_on_sending_is_not_reset_and_one_that_has_closed_is_forgotten() {
        let (mut sending, ours) = pair();
        let (closed, theirs) = pair();
        let mut lingering = DrainingCloses::new(Arc::default());
        lingering.take(ours);
        lingering.take(theirs);
        drop(closed);
        let mut buffer = [0; 4_096];
        for look in 1..LOOKS {
            sending.write_all(&[0; 5_000]).expect("nobody has reset it");
            look_at_all(&mut lingering, &mut buffer);
            assert_eq!(lingering.sockets.len(), 1, "look {look}");
        }
        assert_eq!(sending.read(&mut buffer).expect("an end without an error"), 0);
        look_at_all(&mut lingering, &mut buffer);
        assert!(lingering.is_empty(), "it has had its time");
    }

    fn look_at_all(lingering: &mut DrainingCloses, buffer: &mut [u8]) {
        lingering.begin_look();
        while lingering.look(buffer) {}
    }

    #[test]
    fn each_is_looked_at_once_and_those_that_come_meanwhile_the_next_time() {
        let pairs = [(); 3].map(|()| pair());
        let mut lingering = DrainingCloses::new(Arc::default());
        let take = |at: usize, lingering: &mut DrainingCloses| {
            lingering.take(pairs[at].1.try_clone().expect("a copy"));
        };
        take(0, &mut lingering);
        take(1, &mut lingering);
        assert!(!lingering.look(&mut [0; 64]), "not before their time");
        lingering.begin_look();
        assert!(lingering.look(&mut [0; 64]));
        take(2, &mut lingering);
        assert!(lingering.look(&mut [0; 64]) && !lingering.look(&mut [0; 64]));
        let looks: Vec<u8> = lingering.sockets.iter().map(|(_, looks, _)| *looks).collect();
        assert_eq!(looks, [LOOKS - 1, LOOKS, LOOKS - 1]);
    }

    #[test]
    fn the_oldest_gives_way_to_the_newest() {
        let (client, ours) = pair();
        let mut lingering = DrainingCloses::new(Arc::default());
        for _ in 0..MOST {
            lingering.take(ours.try_clone().expect("a copy"));
        }
        let (mut newest, theirs) = pair();
        lingering.take(theirs);
        assert_eq!(lingering.sockets.len(), MOST);
        newest.write_all(&[0; 5_000]).expect("it is kept");
        drop(client);
        assert!(lingering.close_all() && lingering.is_empty() && !lingering.close_all());
    }

    #[test]
    fn the_oldest_gives_way_when_there_are_no_descriptors_for_more() {
        let descriptors = Arc::<Descriptors>::default();
        let divide = |most| {
            let pools = [most; Use::ALL.len()];
            descriptors.divide(&crate::stats::descriptors::Division { limit: 100, reserve: 0, pools });
        };
        let mut lingering = DrainingCloses::new(Arc::clone(&descriptors));
        divide(2);
        let pairs: Vec<_> = (0..3).map(|_| pair()).collect();
        for (_, ours) in &pairs {
            lingering.take(ours.try_clone().expect("a copy"));
        }
        assert_eq!((lingering.sockets.len(), descriptors.used(Use::DrainingCloses)), (2, 2));
        lingering.close_all();
        divide(0);
        lingering.take(pairs[0].1.try_clone().expect("a copy"));
        assert!(lingering.is_empty() && descriptors.used(Use::DrainingCloses) == 0);
    }
}
