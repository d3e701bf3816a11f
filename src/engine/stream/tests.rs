//! Events that the kernel reports late: of a socket that is closed here, but that another process
//! still holds.

use std::net::{SocketAddr, TcpListener};

use nix::sys::epoll::EpollCreateFlags;

use super::*;
use crate::base::addr::{BackendSlot, Client};
use crate::base::packet::Packet;
use crate::base::prefix::Prefix;
use crate::base::rng::ShardRng;
use crate::model::policy::{Kind, Policy};
use crate::model::{Backend, Pool, Snapshot};
use crate::stats::descriptors::{Division, Use};
use crate::stats::live::{LiveState, State};

const QUERY: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";

/// Returns a shard with one server that is queried over connections.
fn shard(server: SocketAddr) -> Shard {
    let slot = BackendSlot(0);
    let mut backend = Backend { outstanding_max: 10, ..Backend::new(slot, server) };
    backend.connections.only = true;
    let pool = Pool {
        name: String::new(),
        members: vec![slot],
        policy: Policy::new(Kind::RoundRobin),
        ring: None,
        retry: None,
        panic_ppm: 0,
        eject: None,
        tcp_to_udp: false,
        ..Pool::default()
    };
    let snapshot = Arc::new(Snapshot {
        generation: 1,
        backends: vec![Some(Arc::new(backend))],
        pools: vec![pool],
        acl: ["127.0.0.0/8".parse::<Prefix>().expect("a network")].into_iter().collect(),
        ..Snapshot::default()
    });
    let live_state = Arc::new(LiveState::new(1, 1));
    live_state.set_state(slot, State::Up);
    let mut pools = [0; Use::ALL.len()];
    pools[Use::Servers.index()] = 10;
    live_state.descriptors().divide(&Division { limit: 100, reserve: 0, pools });
    let mut shard = Shard::new(0, live_state, snapshot.clone(), ShardRng::from_seed(1));
    shard.begin_batch(Tick(1), &snapshot);
    shard
}

#[test]
fn an_event_of_a_closed_backend_connection_is_not_one_of_its_successor() {
    let server = TcpListener::bind("127.0.0.1:0").expect("a server");
    let mut shard = shard(server.local_addr().expect("its address"));
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a set");
    let mut connections = Connections::new(&Arc::default());
    let peer = Endpoint::from(SocketAddr::from(([127, 0, 0, 1], 4000)));
    let client = Client { peer, listener: ListenerSlot(0), local: LocalSlot::LISTENER, connection: None };
    let mut ready = Vec::new();
    for _ in 0..2 {
        let mut buffer = QUERY.to_vec();
        buffer.resize(100, 0);
        let verdict = shard.on_query(client, &mut Packet::new(&mut buffer, 0, QUERY.len()));
        assert_eq!(verdict, Verdict::Hold);
        let Some(PendingWork::Backend(route)) = shard.next_pending() else { panic!("no connection") };
        connections.do_pending(&epoll, PendingWork::Backend(route), &mut shard, &mut |_, _| {});
        let opened = entry(&mut connections.backends, route).and_then(Option::as_mut);
        ready.push((route, opened.expect("it is open").0));
        if ready.len() == 1 {
            connections.drop_backend(route, Some(BackendCloseReason::Done), &mut shard, &mut |_, _| {});
            while shard.next_pending().is_some() {}
        }
    }
    let [before, after] = ready[..] else { panic!("two connections") };
    assert!(before.0 == after.0 && before.1 != after.1, "one place, two generations: {ready:?}");
    let is_connecting = |connections: &mut Connections| {
        let opened = entry(&mut connections.backends, after.0).and_then(Option::as_mut);
        opened.expect("it is open").1.is_connecting()
    };
    for (event, still) in [(before, true), (after, false)] {
        let over = &mut || false;
        connections.on_backend(&epoll, event, EpollFlags::EPOLLOUT, &mut shard, over, &mut |_, _| {});
        assert_eq!(is_connecting(&mut connections), still, "{event:?}");
    }
}
