//! Connections of all shards together: how many each listener and each client has, how fast a
//! client opens them, and who is turned away.
//!
//! The kernel gives connections to shards as it likes, and limits are the process's. This is asked
//! once a connection, never once a query: hence counters that shards share, and a lock about a few
//! instructions.
//!
//! ```text
//!  a connection ─► enter: a Place ─► admit its client: a Visit ─► ... ─► dropped: both are given back
//! ```
//!
//! Clients are told apart by their network, as the configuration's masks have it. Only those with
//! something to remember have an entry.

#![expect(clippy::disallowed_types, reason = "shared by all shards, once for each connection, in stripes")]

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use crate::base::addr::{Endpoint, ListenerSlot};
use crate::base::time::{Tick, TickDelta};
use crate::stats::close_reason::ClientCloseReason;
use crate::stats::live::LISTENERS_MAX;

/// What clients' connections may do. A limit of 0 is no limit, where nothing else is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConnectionLimits {
    /// A connection without a query for so long is closed, and one that has begun a query or a
    /// handshake and does not finish it (`setTCPRecvTimeout`).
    pub receive_timeout: TickDelta,
    /// A connection that does not take its answers for so long is closed (`setTCPSendTimeout`).
    pub send_timeout: TickDelta,
    /// A connection's life (`setMaxTCPConnectionDuration`); zero is no limit.
    pub duration: TickDelta,
    /// Queries of a connection (`setMaxTCPQueriesPerConnection`).
    pub queries: u32,
    /// Connections at a time: those beyond are closed at once.
    pub connections: u32,
    /// Connections of a client at a time (`setMaxTCPConnectionsPerClient`).
    pub connections_per_client: u32,
    /// New connections of a client in a second, over five minutes
    /// (`setMaxTCPConnectionRatePerClient`).
    pub rate_per_client: u32,
    /// New TLS sessions of a client in a second (`setMaxTLSNewSessionRatePerClient`).
    pub sessions_per_client: u32,
    /// Resumed TLS sessions of a client in a second (`setMaxTLSResumedSessionRatePerClient`).
    pub resumptions_per_client: u32,
    /// How long a client is turned away that exceeded one of these rates
    /// (`setBanDurationForExceedingTCPTLSRate`).
    pub rate_ban: TickDelta,
    /// Reads for one query (`setMaxTCPReadIOsPerQuery`): more are a client that sends by single
    /// bytes.
    pub reads_per_query: u32,
    /// How long such a client is turned away (`setBanDurationForExceedingMaxReadIOsPerQuery`).
    pub reads_ban: TickDelta,
    /// From so many percent of `connections` on, connections are closed after each answer and
    /// wait a tenth of the time only (`setTCPConnectionsOverloadThreshold`); 0 switches it off.
    pub overload_percent: u8,
    /// Prefix length by which IPv4 clients are told apart (`setTCPConnectionsMaskV4`).
    pub mask_v4: u8,
    /// The same for IPv6 (`setTCPConnectionsMaskV6`).
    pub mask_v6: u8,
    /// The first so many bits of an IPv4 client's port tell it apart, too, 0 to 16
    /// (`setTCPConnectionsMaskV4Port`): clients behind one address that have a range of ports each.
    pub mask_v4_port: u8,
}

impl Default for ClientConnectionLimits {
    /// dnsdist's, apart from `receive_timeout` (2 s there), `duration`, `connections` and
    /// `connections_per_client`, which have no bound there.
    fn default() -> Self {
        Self {
            receive_timeout: TickDelta::from_ms(10_000),
            send_timeout: TickDelta::from_ms(10_000),
            duration: TickDelta(0),
            queries: 0,
            connections: 100_000,
            connections_per_client: 0,
            rate_per_client: 0,
            sessions_per_client: 0,
            resumptions_per_client: 0,
            rate_ban: TickDelta::from_ms(10_000),
            reads_per_query: 50,
            reads_ban: TickDelta::from_ms(60_000),
            overload_percent: 90,
            mask_v4: 32,
            mask_v6: 128,
            mask_v4_port: 0,
        }
    }
}

/// Over which time the rates of new connections are means, seconds.
const RATE_SPAN_S: u64 = 300;
/// Parts of the table, each with a lock of its own: so many for clients that ask DNS, and as many
/// for those of forwards, whose flows anybody may make up.
const STRIPES: usize = 64;
/// Clients remembered at a time in each part; connections of more are not limited by client.
const STRIPE_MAX: usize = 1 << 12;
/// Between two searches for entries that say nothing any more, each of one part.
const TIDY: TickDelta = TickDelta::from_ms(80);

/// All connections of the process, counted.
#[derive(Debug)]
pub struct ConnectionLimits {
    /// Of clients that ask DNS.
    dns: AtomicU32,
    listeners: Box<[AtomicU32]>,
    stripes: Box<[Mutex<BTreeMap<ClientIdentity, Known>>]>,
    /// Says in which part a client is remembered: nobody can fill one on purpose.
    hasher: RandomState,
    /// Entries of all stripes.
    entries: AtomicUsize,
    /// When a part was last looked through, and which one is next.
    tidied: AtomicU64,
    turn: AtomicUsize,
}

/// Which connections are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIdentity {
    /// Of a forward's own count; those of DNS are one over all listeners.
    relay: Option<ListenerSlot>,
    /// The address without its host part.
    network: [u8; 16],
    /// The port without its last bits, for clients that share an address.
    ports: u16,
}

/// What is remembered of a client.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    connections: u32,
    /// Connections opened, new TLS sessions and resumed ones.
    opened: Burst,
    sessions: Burst,
    resumptions: Burst,
    banned_until: Tick,
}

/// What has been done and is not yet forgiven: grows by one with each, shrinks by the rate.
#[derive(Clone, Copy, Debug, Default)]
struct Burst {
    count: u32,
    /// When it was last reckoned.
    at: Tick,
}

/// A connection among its listener's; dropped when that is over.
#[derive(Debug)]
pub struct ListenerPermit {
    connection_limits: Arc<ConnectionLimits>,
    listener: ListenerSlot,
    dns: bool,
}

/// A connection among its client's; dropped when that is over.
#[derive(Debug)]
pub struct ClientPermit {
    connection_limits: Arc<ConnectionLimits>,
    identity: ClientIdentity,
}

impl ClientIdentity {
    /// A client that asks DNS.
    #[must_use]
    pub fn asks(client: Endpoint, limits: &ClientConnectionLimits) -> Self {
        let is_v4 = matches!(client.ip, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]);
        let (v4, v6) = (limits.mask_v4.min(32), limits.mask_v6.min(128));
        let bits = u32::from(if is_v4 { 96 + v4 } else { v6 });
        // Only whole addresses are shared by ranges of ports.
        let port_bits = if is_v4 && v4 == 32 { limits.mask_v4_port.min(16) } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self {
            relay: None,
            network: (u128::from_be_bytes(client.ip) & mask).to_be_bytes(),
            ports: client.port & u16::MAX.checked_shl(16 - u32::from(port_bits)).unwrap_or(0),
        }
    }

    /// A client of a forward.
    #[must_use]
    pub fn calls(client: Endpoint, listener: ListenerSlot, limits: &ClientConnectionLimits) -> Self {
        Self { relay: Some(listener), ..Self::asks(client, limits) }
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        #[expect(clippy::disallowed_methods, reason = "clients must not find addresses that collide")]
        let secret = std::hash::RandomState::new();
        let [a, b, c, d] = [0_u64, 1, 2, 3].map(|n| secret.hash_one(n));
        Self {
            dns: AtomicU32::new(0),
            listeners: (0..LISTENERS_MAX).map(|_| AtomicU32::new(0)).collect(),
            stripes: (0..2 * STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::with_seeds(a, b, c, d),
            entries: AtomicUsize::new(0),
            tidied: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        }
    }
}

impl ConnectionLimits {
    /// Connections of clients that ask DNS.
    #[must_use]
    pub fn dns(&self) -> u32 {
        self.dns.load(Relaxed)
    }

    /// Connections and flows that came by a listener and are not over.
    #[must_use]
    pub fn by_listener(&self, listener: ListenerSlot) -> u32 {
        self.listeners.get(listener.index()).map_or(0, |count| count.load(Relaxed))
    }

    /// A connection that brings DNS comes by a listener, which may have `max`; 0 is no limit.
    ///
    /// # Errors
    /// Why it has no place: what all, or what this listener's may be, is reached.
    pub fn enter(
        self: &Arc<Self>,
        listener: ListenerSlot,
        max: u32,
        limits: &ClientConnectionLimits,
    ) -> Result<ListenerPermit, ClientCloseReason> {
        let mut listener_permit =
            self.enter_forward(listener, max).ok_or(ClientCloseReason::ListenerConnections)?;
        if !takes_one(&self.dns, limits.connections) {
            return Err(ClientCloseReason::Connections);
        }
        listener_permit.dns = true;
        Ok(listener_permit)
    }

    /// A connection, or flow, comes by a forward's listener, which may have `max`; 0 is no limit. None when
    /// that is reached.
    pub fn enter_forward(self: &Arc<Self>, listener: ListenerSlot, max: u32) -> Option<ListenerPermit> {
        takes_one(self.listeners.get(listener.index())?, max).then(|| ListenerPermit {
            connection_limits: Arc::clone(self),
            listener,
            dns: false,
        })
    }

    /// A new connection of a client that asks DNS. None when nothing limits it.
    ///
    /// # Errors
    /// Why the client is turned away.
    pub fn admit(
        self: &Arc<Self>,
        client: Endpoint,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> Result<Option<ClientPermit>, ClientCloseReason> {
        let sessions = limits.sessions_per_client > 0 || limits.resumptions_per_client > 0;
        let limited = limits.connections_per_client > 0 || limits.rate_per_client > 0 || sessions;
        if !limited && self.entries.load(Relaxed) == 0 {
            return Ok(None);
        }
        let identity = ClientIdentity::asks(client, limits);
        let mut stripe = self.stripe(identity);
        let known = if limited { self.known(&mut stripe, identity) } else { stripe.get_mut(&identity) };
        let Some(known) = known else { return Ok(None) };
        if known.banned_until > now {
            return Err(ClientCloseReason::Banned);
        }
        if limits.connections_per_client > 0 && known.connections >= limits.connections_per_client {
            return Err(ClientCloseReason::PerClient);
        }
        if limits.rate_per_client > 0 && !known.opened.takes_one(limits.rate_per_client, now) {
            known.banned_until = now + limits.rate_ban;
            return Err(ClientCloseReason::Rate);
        }
        known.connections += 1;
        Ok(Some(ClientPermit { connection_limits: Arc::clone(self), identity }))
    }

    /// A new connection, or flow, of a forward's client, which may have `max`.
    ///
    /// # Errors
    /// When it has as many. `Ok(None)`: nothing limits it.
    pub fn admit_call(
        self: &Arc<Self>,
        identity: ClientIdentity,
        max: u32,
    ) -> Result<Option<ClientPermit>, TooMany> {
        if max == 0 {
            return Ok(None);
        }
        let mut stripe = self.stripe(identity);
        let Some(known) = self.known(&mut stripe, identity) else { return Ok(None) };
        if known.connections >= max {
            return Err(TooMany);
        }
        known.connections += 1;
        Ok(Some(ClientPermit { connection_limits: Arc::clone(self), identity }))
    }

    /// A client has a new TLS session, or has resumed one.
    ///
    /// # Errors
    /// When it does so too fast: it is turned away for a while.
    pub fn admit_session(
        &self,
        identity: ClientIdentity,
        resumed: bool,
        limits: &ClientConnectionLimits,
        now: Tick,
    ) -> Result<(), ClientCloseReason> {
        let rate = if resumed { limits.resumptions_per_client } else { limits.sessions_per_client };
        if rate == 0 {
            return Ok(());
        }
        let mut stripe = self.stripe(identity);
        let Some(known) = self.known(&mut stripe, identity) else { return Ok(()) };
        let burst = if resumed { &mut known.resumptions } else { &mut known.sessions };
        if burst.takes_one(rate, now) {
            return Ok(());
        }
        known.banned_until = now + limits.rate_ban;
        Err(ClientCloseReason::SessionRate)
    }

    /// Turns a client away until then.
    pub fn ban(&self, identity: ClientIdentity, until: Tick) {
        if let Some(known) = self.known(&mut self.stripe(identity), identity) {
            known.banned_until = known.banned_until.max(until);
        }
    }

    /// Forgets those of whom nothing is to be remembered: a part of the table at a time, all of it
    /// in ten seconds.
    pub fn tidy(&self, limits: &ClientConnectionLimits, now: Tick) {
        // Two shards that come at a time do one part each: no harm.
        if self.entries.load(Relaxed) == 0 || now.since(Tick(self.tidied.load(Relaxed))) < TIDY {
            return;
        }
        self.tidied.store(now.0, Relaxed);
        let mut stripe = self.part(self.turn.fetch_add(1, Relaxed) % self.stripes.len());
        let before = stripe.len();
        stripe.retain(|_, known| {
            known.opened.forgive(limits.rate_per_client, now);
            known.sessions.forgive(limits.sessions_per_client, now);
            known.resumptions.forgive(limits.resumptions_per_client, now);
            known.banned_until > now || !known.says_nothing()
        });
        self.entries.fetch_sub(before - stripe.len(), Relaxed);
    }

    fn part(&self, at: usize) -> MutexGuard<'_, BTreeMap<ClientIdentity, Known>> {
        // Each change is whole before anything could panic.
        self.stripes[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a client is remembered.
    fn stripe(&self, identity: ClientIdentity) -> MutexGuard<'_, BTreeMap<ClientIdentity, Known>> {
        let at = self.hasher.hash_one(identity) as usize % STRIPES;
        self.part(if identity.relay.is_some() { STRIPES + at } else { at })
    }

    /// The entry of a client, a new one if need be; none when there are too many.
    fn known<'a>(
        &self,
        stripe: &'a mut BTreeMap<ClientIdentity, Known>,
        identity: ClientIdentity,
    ) -> Option<&'a mut Known> {
        if !stripe.contains_key(&identity) {
            if stripe.len() >= STRIPE_MAX {
                return None;
            }
            self.entries.fetch_add(1, Relaxed);
        }
        Some(stripe.entry(identity).or_default())
    }

    fn left(&self, identity: ClientIdentity) {
        let mut stripe = self.stripe(identity);
        let Some(known) = stripe.get_mut(&identity) else { return };
        known.connections = known.connections.saturating_sub(1);
        if known.says_nothing() && known.banned_until == Tick(0) {
            stripe.remove(&identity);
            self.entries.fetch_sub(1, Relaxed);
        }
    }
}

/// A client has as many connections as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Counts one more, unless that is more than may be; 0 is no limit.
fn takes_one(count: &AtomicU32, max: u32) -> bool {
    let takes = count.fetch_add(1, Relaxed) < max || max == 0;
    if !takes {
        count.fetch_sub(1, Relaxed);
    }
    takes
}

impl ClientPermit {
    /// As whose it is counted.
    #[must_use]
    pub const fn identity(&self) -> ClientIdentity {
        self.identity
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.connection_limits.left(self.identity);
    }
}

impl Drop for ListenerPermit {
    fn drop(&mut self) {
        self.connection_limits.listeners[self.listener.index()].fetch_sub(1, Relaxed);
        if self.dns {
            self.connection_limits.dns.fetch_sub(1, Relaxed);
        }
    }
}

impl Known {
    /// But for a ban.
    const fn says_nothing(&self) -> bool {
        self.connections + self.opened.count + self.sessions.count + self.resumptions.count == 0
    }
}

impl Burst {
    /// Counts one more, unless that is more than the rate allows.
    fn takes_one(&mut self, rate: u32, now: Tick) -> bool {
        self.forgive(rate, now);
        let takes = u64::from(self.count) < u64::from(rate) * RATE_SPAN_S;
        self.count += u32::from(takes);
        takes
    }

    fn forgive(&mut self, rate: u32, now: Tick) {
        let second = TickDelta::from_ms(1_000).0;
        let seconds = now.since(self.at).0 / second;
        let forgiven = seconds.saturating_mul(rate.max(1).into());
        self.count = self.count.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        self.at = self.at + TickDelta(seconds * second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTENER: ListenerSlot = ListenerSlot(0);

    fn client(text: &str) -> Endpoint {
        Endpoint::from(text.parse::<std::net::SocketAddr>().expect(text))
    }

    #[test]
    fn a_client_has_so_many_connections_and_no_more_in_whichever_shard() {
        let limits = ClientConnectionLimits {
            connections_per_client: 2,
            mask_v4: 24,
            ..ClientConnectionLimits::default()
        };
        let connection_limits = Arc::new(ConnectionLimits::default());
        let admit = |text| connection_limits.admit(client(text), &limits, Tick(0));
        let first = admit("192.0.2.1:1").expect("taken").expect("counted");
        let second = admit("192.0.2.200:2").expect("taken");
        assert!(matches!(admit("192.0.2.1:3"), Err(ClientCloseReason::PerClient)));
        assert!(matches!(admit("198.51.100.1:4"), Ok(Some(_))));
        drop(first);
        assert!(matches!(admit("192.0.2.1:5"), Ok(Some(_))), "one has left");
        drop(second);
        assert_eq!(connection_limits.entries.load(Relaxed), 0, "nothing is left to remember");
    }

    #[test]
    fn a_connection_is_given_back_to_whom_it_was_counted() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let by_24 = ClientConnectionLimits {
            connections_per_client: 1,
            mask_v4: 24,
            ..ClientConnectionLimits::default()
        };
        let by_32 = ClientConnectionLimits { mask_v4: 32, ..by_24.clone() };
        let client_permit = connection_limits.admit(client("192.0.2.1:1"), &by_24, Tick(0)).expect("taken");
        // A reload has other masks meanwhile.
        let other = connection_limits.admit(client("192.0.2.1:2"), &by_32, Tick(0)).expect("taken");
        drop(client_permit);
        assert_eq!(
            connection_limits.admit(client("192.0.2.1:3"), &by_32, Tick(0)).err(),
            Some(ClientCloseReason::PerClient)
        );
        drop(other);
        assert_eq!(connection_limits.entries.load(Relaxed), 0);
    }

    #[test]
    fn clients_that_share_an_address_are_told_apart_by_their_ports() {
        // Six bits: ranges of 1,024 ports.
        let limits = ClientConnectionLimits { mask_v4_port: 6, ..ClientConnectionLimits::default() };
        let identity = |text| ClientIdentity::asks(client(text), &limits);
        assert_eq!(identity("192.0.2.1:1024"), identity("192.0.2.1:2047"));
        assert_ne!(identity("192.0.2.1:1023"), identity("192.0.2.1:1024"));
        assert_eq!(identity("[2001:db8::1]:1023"), identity("[2001:db8::1]:1024"), "nobody shares these");
        let all = ClientConnectionLimits {
            mask_v4_port: 0,
            mask_v4: 0,
            mask_v6: 0,
            ..ClientConnectionLimits::default()
        };
        assert_eq!(
            ClientIdentity::asks(client("192.0.2.1:9"), &all).ports,
            ClientIdentity::asks(client("198.51.100.1:70"), &all).ports
        );
        assert_eq!(
            ClientIdentity::asks(client("[2001:db8::1]:1"), &all),
            ClientIdentity::asks(client("[::1]:2"), &all)
        );
    }

    #[test]
    fn clients_of_forwards_are_told_apart_by_the_same_masks() {
        let limits = ClientConnectionLimits { mask_v4: 24, mask_v6: 64, ..ClientConnectionLimits::default() };
        let identity = |text, listener| ClientIdentity::calls(client(text), ListenerSlot(listener), &limits);
        assert_eq!(identity("[2001:db8::1]:1", 0), identity("[2001:db8::ffff:2]:2", 0));
        assert_ne!(identity("[2001:db8::1]:1", 0), identity("[2001:db8:0:1::1]:1", 0));
        assert_eq!(identity("192.0.2.1:1", 0), identity("192.0.2.200:2", 0));
        assert_ne!(identity("192.0.2.1:1", 0), identity("192.0.2.1:1", 1), "each forward counts by itself");
        assert_ne!(identity("192.0.2.1:1", 0), ClientIdentity::asks(client("192.0.2.1:1"), &limits));
    }

    #[test]
    fn who_opens_too_fast_is_turned_away_for_a_while() {
        let limits = ClientConnectionLimits { rate_per_client: 1, ..ClientConnectionLimits::default() };
        let (connection_limits, one) = (Arc::new(ConnectionLimits::default()), client("192.0.2.1:1"));
        let mut now = Tick(0);
        for _ in 0..RATE_SPAN_S {
            assert!(connection_limits.admit(one, &limits, now).is_ok());
        }
        assert_eq!(connection_limits.admit(one, &limits, now).err(), Some(ClientCloseReason::Rate));
        now = now + TickDelta::from_ms(9_000);
        assert_eq!(connection_limits.admit(one, &limits, now).err(), Some(ClientCloseReason::Banned));
        now = now + TickDelta::from_ms(1_000);
        assert!(connection_limits.admit(one, &limits, now).is_ok(), "ten seconds forgive ten connections");
        for step in 0..2 * STRIPES as u64 {
            connection_limits.tidy(&limits, now + TickDelta::from_ms(400_000 + step * TIDY.as_ms_ceil()));
        }
        assert_eq!(connection_limits.entries.load(Relaxed), 0, "nothing is left to remember");
    }

    #[test]
    fn new_and_resumed_sessions_have_rates_of_their_own() {
        let limits = ClientConnectionLimits {
            sessions_per_client: 1,
            resumptions_per_client: 2,
            ..ClientConnectionLimits::default()
        };
        let (connection_limits, one, other) =
            (Arc::new(ConnectionLimits::default()), client("192.0.2.1:1"), client("192.0.2.2:1"));
        let session = |from, resumed| {
            connection_limits.admit_session(ClientIdentity::asks(from, &limits), resumed, &limits, Tick(0))
        };
        for _ in 0..RATE_SPAN_S {
            assert_eq!(session(one, false), Ok(()));
        }
        for _ in 0..2 * RATE_SPAN_S {
            assert_eq!(session(one, true), Ok(()));
        }
        assert_eq!(session(other, false), Ok(()));
        assert!(connection_limits.admit(one, &limits, Tick(0)).is_ok(), "nothing is exceeded yet");
        assert_eq!(session(one, false), Err(ClientCloseReason::SessionRate));
        assert_eq!(connection_limits.admit(one, &limits, Tick(0)).err(), Some(ClientCloseReason::Banned));
        assert!(connection_limits.admit(other, &limits, Tick(0)).is_ok());
        assert!(connection_limits.admit(one, &limits, Tick(0) + limits.rate_ban).is_ok());
    }

    #[test]
    fn without_limits_nothing_is_remembered_but_bans() {
        let (connection_limits, limits) =
            (Arc::new(ConnectionLimits::default()), ClientConnectionLimits::default());
        let one = client("[2001:db8::1]:1");
        assert!(matches!(connection_limits.admit(one, &limits, Tick(0)), Ok(None)));
        assert_eq!(connection_limits.entries.load(Relaxed), 0);
        connection_limits.ban(ClientIdentity::asks(one, &limits), Tick(10));
        assert_eq!(connection_limits.admit(one, &limits, Tick(0)).err(), Some(ClientCloseReason::Banned));
        assert!(matches!(connection_limits.admit(client("[2001:db8::2]:1"), &limits, Tick(0)), Ok(None)));
    }

    #[test]
    fn listeners_and_the_process_have_so_many_places() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let limits = ClientConnectionLimits { connections: 3, ..ClientConnectionLimits::default() };
        let other = ListenerSlot(1);
        let mut here: Vec<ListenerPermit> =
            (0..2).map(|_| connection_limits.enter(LISTENER, 2, &limits).expect("a place")).collect();
        assert_eq!(
            connection_limits.enter(LISTENER, 2, &limits).err(),
            Some(ClientCloseReason::ListenerConnections)
        );
        let there = connection_limits.enter(other, 0, &limits).expect("a place");
        assert_eq!(connection_limits.enter(other, 0, &limits).err(), Some(ClientCloseReason::Connections));
        assert!(connection_limits.enter_forward(ListenerSlot(2), 0).is_some(), "a forward's are no DNS");
        here.pop();
        assert_eq!(connection_limits.dns(), 2, "who was refused has left nothing behind");
        here.push(connection_limits.enter(LISTENER, 2, &limits).expect("a place"));
        drop((here, there));
        assert_eq!(connection_limits.dns(), 0);
        assert!(connection_limits.listeners.iter().all(|count| count.load(Relaxed) == 0));
    }

    #[test]
    fn the_table_is_bounded() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let mut client_permits = Vec::new();
        let mut unlimited = 0;
        for n in 0..2 * (STRIPES * STRIPE_MAX) as u32 {
            let from = Endpoint::from(std::net::SocketAddr::from((n.to_be_bytes(), 53)));
            match connection_limits
                .admit_call(ClientIdentity::calls(from, LISTENER, &ClientConnectionLimits::default()), 1)
                .expect("each is new")
            {
                Some(client_permit) => client_permits.push(client_permit),
                None => unlimited += 1,
            }
        }
        assert!(client_permits.len() <= STRIPES * STRIPE_MAX && unlimited > 0);
        assert_eq!(connection_limits.entries.load(Relaxed), client_permits.len());
        assert!(client_permits.len() > STRIPES * STRIPE_MAX / 2, "neighbours are spread");
        // Whatever comes to forwards, clients that ask DNS are told apart.
        let limits =
            ClientConnectionLimits { connections_per_client: 1, ..ClientConnectionLimits::default() };
        assert!(matches!(connection_limits.admit(client("192.0.2.1:1"), &limits, Tick(0)), Ok(Some(_))));
    }
}
