//! Connections of clients to two targets, where there are fewer than clients.

use std::net::{Ipv4Addr, TcpListener};

use super::tests::until;
use super::*;
use crate::compare::Aspects;
use crate::tools::load::tally::Tally;
use crate::tools::replay::batch::Kind;
use crate::tools::replay::feeder::hash;
use crate::tools::replay::ledger::Against;
use crate::wire::header;

const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

#[test]
fn clients_take_the_places_of_others_at_each_target() {
    let listeners = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener"));
    let targets =
        listeners.iter().map(|of| Target { address: of.local_addr().expect("an address"), tls: None });
    let mut waiter = Waiter::new().expect("a set of sockets");
    let timeout = TickDelta::from_ms(5_000);
    let mut sessions = Sessions::new(Plan {
        targets: targets.collect(),
        most: 1,
        idle: TickDelta::from_ms(3_600_000),
        timeout,
        spoof: false,
        hasher: RandomState::with_seeds(1, 2, 3, 4),
    });
    let (send, _intervals) = crossbeam_channel::unbounded();
    let tallies = (0..2).map(|thread| Tally::new(thread, clock::now(), true, send.clone())).collect();
    let mut ledger = Ledger::new(0, tallies, Against::Second, Aspects::default(), timeout);
    let mut batch = Batch::default();
    let message = batch.keep(QUERY);
    let [a, b] = [1, 2].map(|client| Job {
        kind: Kind::Query,
        due: TickDelta(0),
        client: ([192, 0, 2, client], 4_000).into(),
        connection: None,
        by_stream: true,
        header: 0..0,
        message: message.clone(),
        recorded: None,
        question: hash(&QUERY[header::LEN..]),
        question_bytes: (QUERY.len() - header::LEN) as u16,
    });
    let open = |sessions: &Sessions| {
        let has = |job: &Job, target: usize| sessions.by_key.contains_key(&(key(job), target));
        [has(&a, 0), has(&a, 1), has(&b, 0), has(&b, 1)]
    };
    assert_eq!(ledger.room(3, clock::now()), 3);
    assert!(sessions.have_room(&a));
    sessions.send(&mut ledger, &waiter, &batch, &a, None);
    assert_eq!(open(&sessions), [true, true, false, false], "one to each target is enough");
    until(&mut sessions, &mut waiter, &mut ledger, |_, ledger| {
        [0, 1].iter().all(|target| ledger.counts(*target).sent == 1)
    });
    // Both wait for answers: who does not wait for them loses its query.
    assert!(sessions.have_room(&a) && !sessions.have_room(&b));
    sessions.send(&mut ledger, &waiter, &batch, &b, None);
    assert_eq!((open(&sessions), sessions.evicted), ([true, true, false, false], 0));
    assert_eq!([0, 1].map(|target| ledger.counts(target).unconnected), [1, 1]);
    // Nobody waits for an answer any more when its time is over.
    let later = clock::now() + timeout + timeout;
    ledger.expire(later);
    sessions.sweep(&mut ledger, later);
    assert_eq!(open(&sessions), [true, true, false, false], "it may still come");
    assert!(sessions.have_room(&b));
    sessions.send(&mut ledger, &waiter, &batch, &b, None);
    assert_eq!((open(&sessions), sessions.evicted), ([false, false, true, true], 2));
    assert_eq!([0, 1].map(|target| ledger.counts(target).timed_out), [1, 1]);
    assert_eq!(sessions.open, [1, 1]);
}
