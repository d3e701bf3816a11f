use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Release;

use socket2::Socket;

use crate::base::time::TickDelta;
use crate::config::log_style::LogStyle;
use crate::config::web::WebSettings;
use crate::control::fixture;
use crate::control::plan::Settings;
use crate::control::probe::{Called, Question, Script};
use crate::control::reload::*;
use crate::engine::socket::Inherited;
use crate::model::Callbacks;
use crate::model::LuaFunction;
use crate::stats::custom_metrics::Declared;
use crate::stats::live::{LiveState, State};
use std::future::ready;

struct NoScript;

impl Script for NoScript {
    fn choose(
        &self,
        _: LuaFunction,
        qname: &str,
        qtype: u16,
        qclass: u16,
        header: [u8; 12],
    ) -> Called<(Question, [u8; 12])> {
        Box::pin(ready(Ok(((qname.into(), qtype, qclass), header))))
    }

    fn judge(&self, _: LuaFunction, _: &Backend, _: &[u8]) -> Called<bool> {
        Box::pin(ready(Ok(true)))
    }
}

/// An engine that only records its calls.
#[derive(Default)]
struct Recorder {
    calls: Vec<String>,
    refused: Option<u16>,
}

impl Open for Recorder {
    fn create(&mut self, listener: &Listener) -> io::Result<Vec<(usize, ListenerSockets)>> {
        self.calls.push(format!("create {}", listener.slot.0));
        let socket = || Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
        let sockets = || {
            Ok::<_, io::Error>(ListenerSockets {
                udp: Some(socket()?),
                tcp: None,
                inherited: Inherited::default(),
            })
        };
        Ok(vec![(0, sockets()?), (1, sockets()?)])
    }

    fn bind(
        &mut self,
        listener: &Listener,
        sockets: &[(usize, ListenerSockets)],
        alone: bool,
    ) -> io::Result<()> {
        assert_eq!(sockets.len(), 2);
        let way = if alone { "alone" } else { "beside" };
        self.calls.push(format!("bind {} {way}", listener.slot.0));
        if self.refused == Some(listener.slot.0) { Err(io::ErrorKind::AddrInUse.into()) } else { Ok(()) }
    }

    fn listen(&mut self, listener: &Listener, sockets: &[(usize, ListenerSockets)]) -> io::Result<()> {
        assert_eq!(sockets.len(), 2);
        self.calls.push(format!("listen {}", listener.slot.0));
        Ok(())
    }
}

impl Edge for Recorder {
    fn send(&mut self, shard: usize, message: Message) -> io::Result<()> {
        self.calls.push(match message {
            Message::Snapshot => format!("{shard}: snapshot"),
            Message::Listen(listener, _) => format!("{shard}: listen {}", listener.slot.0),
            Message::Unlisten(slot) => format!("{shard}: unlisten {}", slot.0),
            Message::Stop => format!("{shard}: stop"),
            Message::Abort => format!("{shard}: abort"),
        });
        Ok(())
    }

    fn count(&self) -> usize {
        2
    }
}

fn plan(snapshot: Snapshot) -> Plan {
    Plan {
        snapshot: Arc::new(snapshot),
        settings: Settings {
            drain: TickDelta(0),
            stats: None,
            verbose: false,
            verbose_checks: false,
            log: LogStyle::default(),
            console: None,
            web: WebSettings::default(),
            callbacks: Callbacks::default(),
        },
        script: Rc::new(NoScript),
        metrics: Declared::default(),
        changes: Vec::new(),
    }
}

/// A process without threads.
struct Harness {
    edge: Recorder,
    feed: Feed,
    backend_health: BackendHealth,
    gatherer: Gatherer,
    tickets: u64,
}

impl Harness {
    /// Starts with this configuration, every backend healthy.
    fn started(first: Snapshot) -> Self {
        let live_state = Arc::new(LiveState::new(2, 8));
        let first = plan(first);
        let mut harness = Self {
            edge: Recorder::default(),
            feed: Feed::new(Arc::clone(&first.snapshot), Arc::clone(&live_state)),
            backend_health: BackendHealth::new(live_state, ShardRng::from_seed(1)),
            gatherer: Gatherer::default(),
            tickets: 0,
        };
        let change = Reload::begin(None, first, &[], &mut harness.edge, ShardRng::from_seed(2), Tick(0));
        let change = change.expect("sockets");
        harness.finish(change, true).expect("a start");
        harness.edge.calls.clear();
        harness
    }

    fn begin(&mut self, next: Snapshot) -> Reload {
        self.try_begin(next, &[]).expect("sockets")
    }

    fn try_begin(&mut self, next: Snapshot, ending: &[Arc<Listener>]) -> Result<Reload, Vec<String>> {
        let rng = ShardRng::from_seed(3);
        Reload::begin(Some(&self.feed.current()), plan(next), ending, &mut self.edge, rng, Tick(0))
    }

    /// Ends every first check as `healthy`, and commits.
    fn finish(&mut self, mut change: Reload, healthy: bool) -> Result<Done, Refused> {
        for due in change.probes(Tick(0), &mut self.tickets) {
            let outcome = if healthy { Ok(()) } else { Err((Failure::Timeout, "silent")) };
            change.settle(due, outcome, Tick(0));
        }
        assert!(change.is_ready());
        let (edge, feed) = (&mut self.edge, &self.feed);
        change.commit(edge, feed, &mut self.backend_health, &mut self.gatherer, Tick(0)).map(|(_, done)| done)
    }

    fn state(&self, slot: u16) -> State {
        self.feed.live_state().backend(BackendSlot(slot)).state()
    }
}

#[test]
fn a_start_checks_then_publishes_then_listens() {
    let live_state = Arc::new(LiveState::new(2, 8));
    let first = plan(fixture::snapshot(1, &[0], &[0]));
    let feed = Feed::new(Arc::clone(&first.snapshot), Arc::clone(&live_state));
    let mut backend_health = BackendHealth::new(live_state, ShardRng::from_seed(1));
    let mut edge = Recorder::default();
    let change = Reload::begin(None, first, &[], &mut edge, ShardRng::from_seed(2), Tick(0));
    let mut change = change.expect("sockets");
    assert!(!change.is_ready(), "no answer from the backend yet");
    let due = change.probes(Tick(0), &mut 0);
    assert_eq!(due.len(), 1);
    change.settle(due[0], Ok(()), Tick(0));
    assert!(change.is_ready());
    change.commit(&mut edge, &feed, &mut backend_health, &mut Gatherer::default(), Tick(0)).expect("a start");
    let opened = ["create 0", "bind 0 alone", "listen 0"];
    let messages = ["0: snapshot", "1: snapshot", "0: listen 0", "1: listen 0"];
    assert_eq!(edge.calls, [&opened[..], &messages].concat());
    assert_eq!(feed.live_state().backend(BackendSlot(0)).state(), State::Up);
}

#[test]
fn unchanged_objects_are_left_alone() {
    let mut harness = Harness::started(fixture::snapshot(1, &[0, 1], &[0, 1]));
    let change = harness.begin(fixture::snapshot(2, &[0, 1], &[0, 1]));
    assert!(change.is_ready(), "nothing new to check");
    let done = harness.finish(change, true).expect("a reload");
    assert_eq!(harness.edge.calls, ["0: snapshot", "1: snapshot"]);
    assert!(done.removed.is_empty());
    assert_eq!((harness.state(0), harness.feed.current().generation), (State::Up, 2));
}

#[test]
fn only_new_backends_are_checked_and_their_state_is_set_before_publishing() {
    let mut harness = Harness::started(fixture::snapshot(1, &[0], &[0]));
    harness.feed.live_state().set_state(BackendSlot(1), State::Up); // left by an earlier owner
    let mut change = harness.begin(fixture::snapshot(2, &[0], &[0, 1]));
    let due = change.probes(Tick(0), &mut harness.tickets);
    assert_eq!(due.iter().map(|d| d.slot.0).collect::<Vec<_>>(), [1]);
    change.settle(due[0], Err((Failure::Network, "refused")), Tick(0));
    harness.finish(change, false).expect("a reload");
    assert_eq!((harness.state(0), harness.state(1)), (State::Up, State::Down));
}

#[test]
fn a_listener_that_cannot_open_changes_nothing() {
    let mut harness = Harness::started(fixture::snapshot(1, &[0], &[0]));
    harness.edge.refused = Some(2);
    let errors = harness.try_begin(fixture::snapshot(2, &[1, 2], &[1]), &[]).err().expect("port in use");
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("cannot listen on 127.0.0.1:5302: "), "{errors:?}");
    assert!(errors[0].ends_with("by reusePort=true"), "{errors:?}");
    assert_eq!(harness.edge.calls, ["create 1", "create 2", "bind 1 alone", "bind 2 alone"]);
    assert_eq!(
        (harness.feed.current().generation, harness.state(0), harness.state(1)),
        (1, State::Up, State::Down)
    );
}

#[test]
fn the_message_about_an_address_that_is_not_there_names_the_option() {
    let listener = fixture::listener(1);
    let not_there = io::Error::from(io::ErrorKind::AddrNotAvailable);
    assert!(fault(&listener, &not_there).ends_with("; freebind=true listens on an address that comes later"));
    let other = io::Error::from(io::ErrorKind::PermissionDenied);
    assert!(!fault(&listener, &other).contains(';'));
}

/// Builds listeners with these slots and addresses.
fn listening(generation: u64, listeners: &[(u16, &str)]) -> Snapshot {
    let made = listeners.iter().map(|(slot, address)| {
        Arc::new(Listener { address: address.parse().expect("an address"), ..fixture::listener(*slot) })
    });
    Snapshot { listeners: made.collect(), ..fixture::snapshot(generation, &[], &[0]) }
}

#[test]
fn shared_addresses_are_bound_last_and_listening_follows_all_binds() {
    // The current wildcard, a specific address of it, another port, two of one port.
    let mut harness = Harness::started(listening(1, &[(0, "127.0.0.1:53"), (1, "0.0.0.0:54")]));
    let mut next = listening(
        2,
        &[
            (2, "0.0.0.0:53"),
            (3, "127.0.0.1:54"),
            (4, "[::]:53"),
            (5, "127.0.0.1:55"),
            (6, "0.0.0.0:55"),
            (7, "127.0.0.1:56"),
            (8, "127.0.0.1:57"),
        ],
    );
    let asked = Listener { reuse_port: true, ..Listener::clone(&next.listeners[5]) };
    next.listeners[5] = Arc::new(asked);
    let ending = fixture::listener(57);
    let ending = Listener { address: next.listeners[6].address, ..ending };
    let mut change = harness.try_begin(next, &[Arc::new(ending)]).expect("sockets");
    let created: Vec<String> = (2..9).map(|n| format!("create {n}")).collect();
    let alone = ["bind 4 alone", "bind 5 alone"];
    assert_eq!(harness.edge.calls[..7], created);
    assert_eq!(harness.edge.calls[7..], alone);
    harness.edge.calls.clear();
    assert!(change.probes(Tick(0), &mut 0).is_empty());
    harness.finish(change, true).expect("a reload");
    let beside = ["bind 2 beside", "bind 3 beside", "bind 6 beside", "bind 7 beside", "bind 8 beside"];
    assert_eq!(harness.edge.calls[..5], beside);
    let listened = ["listen 4", "listen 5", "listen 2", "listen 3", "listen 6", "listen 7", "listen 8"];
    assert_eq!(harness.edge.calls[5..12], listened);
}

#[test]
fn shards_end_shared_listeners_of_a_refused_change() {
    let mut harness = Harness::started(listening(1, &[(0, "0.0.0.0:53")]));
    let next =
        || listening(2, &[(0, "0.0.0.0:53"), (1, "127.0.0.1:53"), (2, "127.0.0.2:53"), (3, "127.0.0.3:53")]);
    harness.edge.refused = Some(2);
    let change = harness.begin(next());
    harness.edge.calls.clear();
    let refused = harness.finish(change, true).expect_err("in use");
    assert!(refused.error.starts_with("cannot listen on 127.0.0.2:53: "), "{refused:?}");
    // Including the one that failed: some of its shards' sockets may be bound.
    assert_eq!(refused.ending.iter().map(|l| l.slot.0).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        harness.edge.calls,
        [
            "bind 1 beside",
            "bind 2 beside",
            "0: listen 1",
            "1: listen 1",
            "0: listen 2",
            "1: listen 2",
            "0: unlisten 1",
            "1: unlisten 1",
            "0: unlisten 2",
            "1: unlisten 2"
        ]
    );
    assert_eq!(harness.feed.current().generation, 1);
}

#[test]
fn a_failed_start_answers_what_its_shared_sockets_received() {
    let live_state = Arc::new(LiveState::new(2, 8));
    let mut snapshot = fixture::snapshot(1, &[0, 1], &[0]);
    for listener in &mut snapshot.listeners {
        *listener = Arc::new(Listener { reuse_port: true, ..Listener::clone(listener) });
    }
    let first = plan(snapshot);
    let feed = Feed::new(Arc::clone(&first.snapshot), Arc::clone(&live_state));
    let mut backend_health = BackendHealth::new(live_state, ShardRng::from_seed(1));
    let mut edge = Recorder { refused: Some(1), ..Recorder::default() };
    let change = Reload::begin(None, first, &[], &mut edge, ShardRng::from_seed(2), Tick(0));
    let mut change = change.expect("sockets");
    let due = change.probes(Tick(0), &mut 0);
    change.settle(due[0], Ok(()), Tick(0));
    edge.calls.clear();
    change
        .commit(&mut edge, &feed, &mut backend_health, &mut Gatherer::default(), Tick(0))
        .err()
        .expect("in use");
    assert_eq!(feed.live_state().backend(BackendSlot(0)).state(), State::Up, "to be asked");
    let messages = ["0: listen 0", "1: listen 0", "0: listen 1", "1: listen 1"];
    assert_eq!(edge.calls[..2], ["bind 0 beside", "bind 1 beside"]);
    assert_eq!(edge.calls[4..], messages);
}

#[test]
fn new_listeners_open_first_and_removed_ones_end_last() {
    let mut harness = Harness::started(fixture::snapshot(1, &[0, 1], &[0]));
    let change = harness.begin(fixture::snapshot(2, &[1, 2], &[0]));
    let done = harness.finish(change, true).expect("a reload");
    retire(&done.removed, &mut harness.edge);
    assert_eq!(
        harness.edge.calls,
        [
            "create 2",
            "bind 2 alone",
            "listen 2",
            "0: snapshot",
            "1: snapshot",
            "0: listen 2",
            "1: listen 2",
            "0: unlisten 0",
            "1: unlisten 0"
        ]
    );
}

#[test]
fn a_moved_backend_is_checked_again_and_a_drained_one_when_it_returns() {
    let mut harness = Harness::started(fixture::snapshot(1, &[], &[0, 1]));
    let with = |generation, edit: &dyn Fn(&mut Backend)| {
        let mut next = fixture::snapshot(generation, &[], &[0, 1]);
        let mut backend = fixture::backend(1);
        edit(&mut backend);
        next.backends[1] = Some(Arc::new(backend));
        next
    };
    let change = harness.begin(with(2, &|b| b.address.set_port(5353)));
    assert!(!change.is_ready());
    drop(change);

    let change = harness.begin(with(2, &|b| b.health.mode = HealthMode::Drain));
    assert!(change.is_ready());
    harness.finish(change, true).expect("a reload");
    assert_eq!(harness.state(1), State::Draining);
    let change = harness.begin(with(3, &|_| ()));
    assert!(!change.is_ready(), "it was not checked while it drained");
    harness.finish(change, true).expect("a reload");
    assert_eq!(harness.state(1), State::Up);
}

#[test]
fn a_removed_backend_is_not_probed_and_its_slot_is_reused_late() {
    let mut harness = Harness::started(fixture::snapshot(1, &[], &[0, 1]));
    let change = harness.begin(fixture::snapshot(2, &[], &[0]));
    harness.finish(change, true).expect("a reload");
    let due = harness.backend_health.begin(Tick(u64::MAX), &mut harness.tickets);
    assert_eq!(due.iter().map(|d| d.slot.0).collect::<Vec<_>>(), [0]);
    assert!(!harness.feed.is_free(BackendSlot(1)), "no shard has begun to use the new configuration");
    for stats in harness.feed.live_state().shards() {
        stats.generation.store(2, Release);
    }
    assert!(harness.feed.is_free(BackendSlot(1)));
}
