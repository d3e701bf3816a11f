//! Connections of one client to two targets, where there are fewer than are wanted.

use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::compare::Aspects;
use crate::tools::load::tally::Tally;
use crate::tools::replay::batch::Kind;
use crate::tools::replay::feeder::hash;
use crate::tools::replay::ledger::Against;
use crate::wire::header;

const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

#[test]
fn a_connection_that_is_taken_makes_no_room_for_its_pair() {
    let listeners = [0, 1].map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener"));
    let targets =
        listeners.iter().map(|of| Target { address: of.local_addr().expect("an address"), tls: None });
    let waiter = Waiter::new().expect("a set of sockets");
    let timeout = TickDelta::from_ms(5_000);
    let mut sessions = Sessions::new(Plan {
        targets: targets.collect(),
        most: 3,
        idle: TickDelta::from_ms(10_000),
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
    sessions.open(&mut ledger, &waiter, &batch, &a);
    sessions.open(&mut ledger, &waiter, &batch, &b);
    assert_eq!(open(&sessions), [true, true, true, false], "there is room for three");
    assert_eq!(ledger.room(2, clock::now()), 2);
    sessions.send(&mut ledger, &waiter, &batch, &a, None);
    // Those of the first client wait for answers: the only idle one is that which the query takes.
    sessions.send(&mut ledger, &waiter, &batch, &b, None);
    assert_eq!((open(&sessions), sessions.evicted), ([true, true, true, false], 0));
    let first = sessions.by_key[&(key(&b), 0)] as usize;
    let connection = sessions.connections[first].as_ref().expect("it is there");
    assert_eq!((connection.target, connection.owed), (0, 1));
    assert_eq!(ledger.counts(1).lost(), 1, "for want of a connection");
    // It can be taken later, when it is idle.
    assert_eq!(sessions.idle.iter().filter(|(_, at)| *at as usize == first).count(), 1);
}
