//! Connection limits of the whole process: how many connections each listener and each client has,
//! how fast a client opens them, and who is banned.
//!
//! The kernel distributes connections to shards, but limits are the process's. They are checked
//! once per connection, never per query: hence counters shared by the shards, and a lock held for a
//! few instructions.
//!
//! ```text
//!  a connection ─► enter: a ListenerPermit ─► admit: a ClientPermit ─► ... ─► dropped: both returned
//! ```
//!
//! Clients are identified by their network, according to the configured masks. Only those with
//! state have an entry.

#![expect(clippy::disallowed_types, reason = "shared by all shards, once for each connection, in stripes")]

use std::collections::BTreeMap;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::RandomState;

use crate::base::addr::{Endpoint, LISTENERS_MAX, ListenerSlot};
use crate::base::time::{Tick, TickDelta};
use crate::stats::close_reason::ClientCloseReason;

/// Limits of client connections. 0 is no limit unless stated otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConnectionLimits {
    /// Idle time-out of a connection, and time-out of an incomplete query or handshake
    /// (`setTCPRecvTimeout`).
    pub receive_timeout: TickDelta,
    /// Time-out of writing answers (`setTCPSendTimeout`).
    pub send_timeout: TickDelta,
    /// Longest life of a connection (`setMaxTCPConnectionDuration`); zero is no limit.
    pub duration: TickDelta,
    /// Most queries of a connection (`setMaxTCPQueriesPerConnection`).
    pub queries: u32,
    /// Most concurrent connections; further ones are closed at once.
    pub connections: u32,
    /// Most concurrent connections of a client (`setMaxTCPConnectionsPerClient`).
    pub connections_per_client: u32,
    /// Most new connections of a client per second, averaged over five minutes
    /// (`setMaxTCPConnectionRatePerClient`).
    pub rate_per_client: u32,
    /// Most new TLS sessions of a client per second (`setMaxTLSNewSessionRatePerClient`).
    pub sessions_per_client: u32,
    /// Most resumed TLS sessions of a client per second (`setMaxTLSResumedSessionRatePerClient`).
    pub resumptions_per_client: u32,
    /// How long a client is banned that exceeded one of these rates
    /// (`setBanDurationForExceedingTCPTLSRate`).
    pub rate_ban: TickDelta,
    /// Most reads for one query (`setMaxTCPReadIOsPerQuery`): a client that needs more sends byte
    /// by byte.
    pub reads_per_query: u32,
    /// How long such a client is banned (`setBanDurationForExceedingMaxReadIOsPerQuery`).
    pub reads_ban: TickDelta,
    /// From this percentage of `connections` on, connections are closed after each answer, and
    /// their idle time-out is a tenth (`setTCPConnectionsOverloadThreshold`); 0 disables it.
    pub overload_percent: u8,
    /// Prefix length that identifies an IPv4 client (`setTCPConnectionsMaskV4`).
    pub mask_v4: u8,
    /// The same for IPv6 (`setTCPConnectionsMaskV6`).
    pub mask_v6: u8,
    /// Leading bits of an IPv4 client's port that identify it as well, 0 to 16
    /// (`setTCPConnectionsMaskV4Port`): for clients that share an address and have a port range
    /// each.
    pub mask_v4_port: u8,
}

impl Default for ClientConnectionLimits {
    /// dnsdist's, except `receive_timeout` (2 s there), and `duration`, `connections` and
    /// `connections_per_client`, which are unlimited there.
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

/// The span over which rates of new connections are averaged, seconds.
const RATE_SPAN_S: u64 = 300;
/// Parts of the table, each with its own lock: this many for DNS clients, and as many for those of
/// relays, whose UDP sources may be forged.
const PARTS: usize = 64;
/// Most clients per part; further ones are not limited by client.
const PART_CLIENTS_MAX: usize = 1 << 12;
/// Interval of the removal of empty entries, one part at a time.
const TIDY_INTERVAL: TickDelta = TickDelta::from_ms(80);

/// The counters of all connections of the process.
#[derive(Debug)]
pub struct ConnectionLimits {
    /// Connections of DNS clients.
    dns: AtomicU32,
    listeners: Box<[AtomicU32]>,
    /// The most that these were.
    listeners_max: Box<[AtomicU32]>,
    parts: Box<[Mutex<BTreeMap<ClientIdentity, ClientState>>]>,
    /// Chooses the part of a client, unpredictably: nobody can fill one on purpose.
    hasher: RandomState,
    /// Entries of all parts.
    entries: AtomicUsize,
    /// When a part was last cleaned, and which one is next.
    tidied: AtomicU64,
    turn: AtomicUsize,
}

/// The client that connections are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientIdentity {
    /// The relay, which counts its own clients; DNS clients are counted over all listeners.
    relay: Option<ListenerSlot>,
    /// The address without host bits.
    network: [u8; 16],
    /// The port without its low bits, for clients that share an address.
    ports: u16,
}

/// The state of a client.
#[derive(Clone, Copy, Debug, Default)]
struct ClientState {
    connections: u32,
    /// New connections, new TLS sessions and resumed ones.
    opened: LeakyBucket,
    sessions: LeakyBucket,
    resumptions: LeakyBucket,
    banned_until: Tick,
}

/// A leaky bucket: grows by one with each event, and drains at the rate.
#[derive(Clone, Copy, Debug, Default)]
struct LeakyBucket {
    count: u32,
    /// When it was last drained.
    at: Tick,
}

/// The right to one connection of a listener; returned when dropped.
#[derive(Debug)]
pub struct ListenerPermit {
    connection_limits: Arc<ConnectionLimits>,
    listener: ListenerSlot,
    dns: bool,
}

/// The right to one connection of a client; returned when dropped.
#[derive(Debug)]
pub struct ClientPermit {
    connection_limits: Arc<ConnectionLimits>,
    identity: ClientIdentity,
}

impl ClientIdentity {
    /// Returns the identity of a DNS client.
    #[must_use]
    pub fn asks(client: Endpoint, limits: &ClientConnectionLimits) -> Self {
        let is_v4 = matches!(client.ip, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]);
        let (v4, v6) = (limits.mask_v4.min(32), limits.mask_v6.min(128));
        let bits = u32::from(if is_v4 { 96 + v4 } else { v6 });
        // Only whole addresses are shared by port ranges.
        let port_bits = if is_v4 && v4 == 32 { limits.mask_v4_port.min(16) } else { 0 };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Self {
            relay: None,
            network: (u128::from_be_bytes(client.ip) & mask).to_be_bytes(),
            ports: client.port & u16::MAX.checked_shl(16 - u32::from(port_bits)).unwrap_or(0),
        }
    }

    /// Returns the identity of a relay's client.
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
            listeners_max: (0..LISTENERS_MAX).map(|_| AtomicU32::new(0)).collect(),
            parts: (0..2 * PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::with_seeds(a, b, c, d),
            entries: AtomicUsize::new(0),
            tidied: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        }
    }
}

impl ConnectionLimits {
    /// Returns the number of connections of DNS clients.
    #[must_use]
    pub fn dns(&self) -> u32 {
        self.dns.load(Relaxed)
    }

    /// Returns the number of open connections and flows of a listener.
    #[must_use]
    pub fn by_listener(&self, listener: ListenerSlot) -> u32 {
        self.listeners.get(listener.index()).map_or(0, |count| count.load(Relaxed))
    }

    /// Returns the most connections and flows that a listener has had at a time.
    #[must_use]
    pub fn most_by_listener(&self, listener: ListenerSlot) -> u32 {
        self.listeners_max.get(listener.index()).map_or(0, |count| count.load(Relaxed))
    }

    /// Counts a DNS connection of a listener, which may have `max`; 0 is no limit.
    ///
    /// # Errors
    /// The limit that is reached: the process's or the listener's.
    pub fn enter(
        self: &Arc<Self>,
        listener: ListenerSlot,
        max: u32,
        limits: &ClientConnectionLimits,
    ) -> Result<ListenerPermit, ClientCloseReason> {
        let mut listener_permit =
            self.enter_forward(listener, max).ok_or(ClientCloseReason::ListenerConnections)?;
        if !try_count(&self.dns, limits.connections) {
            return Err(ClientCloseReason::Connections);
        }
        listener_permit.dns = true;
        Ok(listener_permit)
    }

    /// Counts a connection or flow of a relay's listener, which may have `max`; 0 is no limit.
    /// `None` when that is reached.
    pub fn enter_forward(self: &Arc<Self>, listener: ListenerSlot, max: u32) -> Option<ListenerPermit> {
        let count = self.listeners.get(listener.index())?;
        if !try_count(count, max) {
            return None;
        }
        self.listeners_max[listener.index()].fetch_max(count.load(Relaxed), Relaxed);
        Some(ListenerPermit { connection_limits: Arc::clone(self), listener, dns: false })
    }

    /// Counts a new connection of a DNS client. `None` when no limit applies.
    ///
    /// # Errors
    /// Why the client is refused.
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
        let mut part = self.part_of(identity);
        let client_state =
            if limited { self.client_state(&mut part, identity) } else { part.get_mut(&identity) };
        let Some(client_state) = client_state else { return Ok(None) };
        if client_state.banned_until > now {
            return Err(ClientCloseReason::Banned);
        }
        if limits.connections_per_client > 0 && client_state.connections >= limits.connections_per_client {
            return Err(ClientCloseReason::PerClient);
        }
        if limits.rate_per_client > 0 && !client_state.opened.try_count(limits.rate_per_client, now) {
            client_state.banned_until = now + limits.rate_ban;
            return Err(ClientCloseReason::Rate);
        }
        client_state.connections += 1;
        Ok(Some(ClientPermit { connection_limits: Arc::clone(self), identity }))
    }

    /// Counts a new connection or flow of a relay's client, which may have `max`. `Ok(None)` when
    /// no limit applies.
    ///
    /// # Errors
    /// When the limit is reached.
    pub fn admit_call(
        self: &Arc<Self>,
        identity: ClientIdentity,
        max: u32,
    ) -> Result<Option<ClientPermit>, TooMany> {
        if max == 0 {
            return Ok(None);
        }
        let mut part = self.part_of(identity);
        let Some(client_state) = self.client_state(&mut part, identity) else { return Ok(None) };
        if client_state.connections >= max {
            return Err(TooMany);
        }
        client_state.connections += 1;
        Ok(Some(ClientPermit { connection_limits: Arc::clone(self), identity }))
    }

    /// Counts a new or resumed TLS session of a client.
    ///
    /// # Errors
    /// When the rate is exceeded: the client is banned for a while.
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
        let mut part = self.part_of(identity);
        let Some(client_state) = self.client_state(&mut part, identity) else { return Ok(()) };
        let burst = if resumed { &mut client_state.resumptions } else { &mut client_state.sessions };
        if burst.try_count(rate, now) {
            return Ok(());
        }
        client_state.banned_until = now + limits.rate_ban;
        Err(ClientCloseReason::SessionRate)
    }

    /// Bans a client until then.
    pub fn ban(&self, identity: ClientIdentity, until: Tick) {
        if let Some(client_state) = self.client_state(&mut self.part_of(identity), identity) {
            client_state.banned_until = client_state.banned_until.max(until);
        }
    }

    /// Removes entries without state: one part at a time, all of them in ten seconds.
    pub fn tidy(&self, limits: &ClientConnectionLimits, now: Tick) {
        // Two shards at once clean one part each, which is harmless.
        if self.entries.load(Relaxed) == 0 || now.since(Tick(self.tidied.load(Relaxed))) < TIDY_INTERVAL {
            return;
        }
        self.tidied.store(now.0, Relaxed);
        let mut part = self.part(self.turn.fetch_add(1, Relaxed) % self.parts.len());
        let before = part.len();
        part.retain(|_, client_state| {
            client_state.opened.drain(limits.rate_per_client, now);
            client_state.sessions.drain(limits.sessions_per_client, now);
            client_state.resumptions.drain(limits.resumptions_per_client, now);
            client_state.banned_until > now || !client_state.is_empty()
        });
        self.entries.fetch_sub(before - part.len(), Relaxed);
    }

    fn part(&self, at: usize) -> MutexGuard<'_, BTreeMap<ClientIdentity, ClientState>> {
        // Each change is complete before anything can panic.
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the part of a client.
    fn part_of(&self, identity: ClientIdentity) -> MutexGuard<'_, BTreeMap<ClientIdentity, ClientState>> {
        let at = self.hasher.hash_one(identity) as usize % PARTS;
        self.part(if identity.relay.is_some() { PARTS + at } else { at })
    }

    /// Returns the entry of a client, a new one if needed; `None` when there are too many.
    fn client_state<'a>(
        &self,
        part: &'a mut BTreeMap<ClientIdentity, ClientState>,
        identity: ClientIdentity,
    ) -> Option<&'a mut ClientState> {
        if !part.contains_key(&identity) {
            if part.len() >= PART_CLIENTS_MAX {
                return None;
            }
            self.entries.fetch_add(1, Relaxed);
        }
        Some(part.entry(identity).or_default())
    }

    fn on_close(&self, identity: ClientIdentity) {
        let mut part = self.part_of(identity);
        let Some(client_state) = part.get_mut(&identity) else { return };
        client_state.connections = client_state.connections.saturating_sub(1);
        if client_state.is_empty() && client_state.banned_until == Tick(0) {
            part.remove(&identity);
            self.entries.fetch_sub(1, Relaxed);
        }
    }
}

/// The client's limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Counts one more unless the limit is reached; 0 is no limit.
fn try_count(count: &AtomicU32, max: u32) -> bool {
    let takes = count.fetch_add(1, Relaxed) < max || max == 0;
    if !takes {
        count.fetch_sub(1, Relaxed);
    }
    takes
}

impl ClientPermit {
    /// Returns the client that it is counted for.
    #[must_use]
    pub const fn identity(&self) -> ClientIdentity {
        self.identity
    }
}

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.connection_limits.on_close(self.identity);
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

impl ClientState {
    /// Returns whether there is no state except a ban.
    const fn is_empty(&self) -> bool {
        self.connections + self.opened.count + self.sessions.count + self.resumptions.count == 0
    }
}

impl LeakyBucket {
    /// Counts one more unless that exceeds the rate.
    fn try_count(&mut self, rate: u32, now: Tick) -> bool {
        self.drain(rate, now);
        let takes = u64::from(self.count) < u64::from(rate) * RATE_SPAN_S;
        self.count += u32::from(takes);
        takes
    }

    fn drain(&mut self, rate: u32, now: Tick) {
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
    fn the_client_limit_applies_across_shards() {
        let limits = ClientConnectionLimits {
            connections_per_client: 2,
            mask_v4: 24,
            ..ClientConnectionLimits::default()
        };
        let connection_limits = Arc::new(ConnectionLimits::default());
        let admit = |text| connection_limits.admit(client(text), &limits, Tick(0));
        let first = admit("192.0.2.1:1").expect("taken").expect("counted");
        let second = admit("192.0.2.200:2").expect("a permit");
        assert!(matches!(admit("192.0.2.1:3"), Err(ClientCloseReason::PerClient)));
        assert!(matches!(admit("198.51.100.1:4"), Ok(Some(_))));
        drop(first);
        assert!(matches!(admit("192.0.2.1:5"), Ok(Some(_))), "one was closed");
        drop(second);
        assert_eq!(connection_limits.entries.load(Relaxed), 0, "no state is on_close");
    }

    #[test]
    fn a_permit_is_returned_to_the_client_it_was_counted_for() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let by_24 = ClientConnectionLimits {
            connections_per_client: 1,
            mask_v4: 24,
            ..ClientConnectionLimits::default()
        };
        let by_32 = ClientConnectionLimits { mask_v4: 32, ..by_24.clone() };
        let client_permit =
            connection_limits.admit(client("192.0.2.1:1"), &by_24, Tick(0)).expect("a permit");
        // A reload changes the masks meanwhile.
        let other = connection_limits.admit(client("192.0.2.1:2"), &by_32, Tick(0)).expect("a permit");
        drop(client_permit);
        assert_eq!(
            connection_limits.admit(client("192.0.2.1:3"), &by_32, Tick(0)).err(),
            Some(ClientCloseReason::PerClient)
        );
        drop(other);
        assert_eq!(connection_limits.entries.load(Relaxed), 0);
    }

    #[test]
    fn clients_that_share_an_address_are_identified_by_port_range() {
        // Six bits: ranges of 1,024 ports.
        let limits = ClientConnectionLimits { mask_v4_port: 6, ..ClientConnectionLimits::default() };
        let identity = |text| ClientIdentity::asks(client(text), &limits);
        assert_eq!(identity("192.0.2.1:1024"), identity("192.0.2.1:2047"));
        assert_ne!(identity("192.0.2.1:1023"), identity("192.0.2.1:1024"));
        assert_eq!(
            identity("[2001:db8::1]:1023"),
            identity("[2001:db8::1]:1024"),
            "only IPv4 addresses are shared"
        );
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
    fn clients_of_relays_are_identified_by_the_same_masks() {
        let limits = ClientConnectionLimits { mask_v4: 24, mask_v6: 64, ..ClientConnectionLimits::default() };
        let identity = |text, listener| ClientIdentity::calls(client(text), ListenerSlot(listener), &limits);
        assert_eq!(identity("[2001:db8::1]:1", 0), identity("[2001:db8::ffff:2]:2", 0));
        assert_ne!(identity("[2001:db8::1]:1", 0), identity("[2001:db8:0:1::1]:1", 0));
        assert_eq!(identity("192.0.2.1:1", 0), identity("192.0.2.200:2", 0));
        assert_ne!(identity("192.0.2.1:1", 0), identity("192.0.2.1:1", 1), "each relay counts separately");
        assert_ne!(identity("192.0.2.1:1", 0), ClientIdentity::asks(client("192.0.2.1:1"), &limits));
    }

    #[test]
    fn a_client_that_exceeds_the_rate_is_banned_for_a_while() {
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
        assert!(connection_limits.admit(one, &limits, now).is_ok(), "ten seconds drain ten connections");
        for step in 0..2 * PARTS as u64 {
            connection_limits
                .tidy(&limits, now + TickDelta::from_ms(400_000 + step * TIDY_INTERVAL.as_ms_ceil()));
        }
        assert_eq!(connection_limits.entries.load(Relaxed), 0, "no state is on_close");
    }

    #[test]
    fn new_and_resumed_sessions_have_separate_rates() {
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
    fn without_limits_only_bans_are_stored() {
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
    fn listener_and_process_limits_apply() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let limits = ClientConnectionLimits { connections: 3, ..ClientConnectionLimits::default() };
        let other = ListenerSlot(1);
        let mut here: Vec<ListenerPermit> =
            (0..2).map(|_| connection_limits.enter(LISTENER, 2, &limits).expect("a permit")).collect();
        assert_eq!(
            connection_limits.enter(LISTENER, 2, &limits).err(),
            Some(ClientCloseReason::ListenerConnections)
        );
        let there = connection_limits.enter(other, 0, &limits).expect("a permit");
        assert_eq!(connection_limits.enter(other, 0, &limits).err(), Some(ClientCloseReason::Connections));
        assert!(
            connection_limits.enter_forward(ListenerSlot(2), 0).is_some(),
            "relays are counted separately"
        );
        here.pop();
        assert_eq!(connection_limits.dns(), 2, "a refusal is not counted");
        here.push(connection_limits.enter(LISTENER, 2, &limits).expect("a permit"));
        drop((here, there));
        assert_eq!(connection_limits.dns(), 0);
        assert!(connection_limits.listeners.iter().all(|count| count.load(Relaxed) == 0));
    }

    #[test]
    fn the_table_is_bounded() {
        let connection_limits = Arc::new(ConnectionLimits::default());
        let mut client_permits = Vec::new();
        let mut unlimited = 0;
        for n in 0..2 * (PARTS * PART_CLIENTS_MAX) as u32 {
            let from = Endpoint::from(std::net::SocketAddr::from((n.to_be_bytes(), 53)));
            match connection_limits
                .admit_call(ClientIdentity::calls(from, LISTENER, &ClientConnectionLimits::default()), 1)
                .expect("a new client")
            {
                Some(client_permit) => client_permits.push(client_permit),
                None => unlimited += 1,
            }
        }
        assert!(client_permits.len() <= PARTS * PART_CLIENTS_MAX && unlimited > 0);
        assert_eq!(connection_limits.entries.load(Relaxed), client_permits.len());
        assert!(client_permits.len() > PARTS * PART_CLIENTS_MAX / 2, "neighbours are spread over the parts");
        // Clients of relays cannot displace DNS clients.
        let limits =
            ClientConnectionLimits { connections_per_client: 1, ..ClientConnectionLimits::default() };
        assert!(matches!(connection_limits.admit(client("192.0.2.1:1"), &limits, Tick(0)), Ok(Some(_))));
    }
}
