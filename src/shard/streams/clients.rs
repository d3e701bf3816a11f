//! Connections by client: how many each has, how fast it opens them, and who is turned away.
//!
//! Asked once a connection, never once a query. Clients are told apart by their network, as the
//! configuration's masks have it. Only clients with something to remember have an entry.

use std::collections::HashMap;

use ahash::RandomState;

use super::StreamEnd;
use crate::config::snapshot::StreamLimits;
use crate::time::{Tick, TickDelta};

/// Over which time the rates of new connections are means, seconds.
const RATE_SPAN_S: u64 = 300;
/// Clients remembered at a time; connections of more are not limited by client.
const CLIENTS_MAX: usize = 1 << 18;
/// Between two searches for entries that say nothing any more.
const TIDY: TickDelta = TickDelta::from_ms(10_000);

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

/// Clients by network.
#[derive(Debug)]
pub(super) struct Clients {
    known: HashMap<[u8; 16], Known, RandomState>,
    /// The masks that the entries were made with.
    masks: (u8, u8),
    tidied: Tick,
}

impl Clients {
    /// Nobody is known yet.
    pub(super) fn new(hasher: RandomState) -> Self {
        Self { known: HashMap::with_hasher(hasher), masks: (32, 128), tidied: Tick(0) }
    }

    /// A new connection of a client: true when it was counted among that client's.
    pub(super) fn admit(
        &mut self,
        ip: &[u8; 16],
        limits: &StreamLimits,
        now: Tick,
    ) -> Result<bool, StreamEnd> {
        let limited = limits.connections_per_client > 0 || limits.rate_per_client > 0;
        if !limited && self.known.is_empty() {
            return Ok(false);
        }
        self.masks = (limits.mask_v4, limits.mask_v6);
        let key = masked(ip, self.masks);
        if self.known.len() >= CLIENTS_MAX && !self.known.contains_key(&key) {
            return Ok(false);
        }
        if !limited && !self.known.contains_key(&key) {
            return Ok(false);
        }
        let known = self.known.entry(key).or_default();
        if known.banned_until > now {
            return Err(StreamEnd::Banned);
        }
        if limits.connections_per_client > 0 && known.connections >= limits.connections_per_client {
            return Err(StreamEnd::PerClient);
        }
        if limits.rate_per_client > 0 && !known.opened.takes_one(limits.rate_per_client, now) {
            known.banned_until = now + limits.rate_ban;
            return Err(StreamEnd::Rate);
        }
        known.connections += 1;
        Ok(true)
    }

    /// A client has a new TLS session, or has resumed one.
    pub(super) fn admit_session(
        &mut self,
        ip: &[u8; 16],
        resumed: bool,
        limits: &StreamLimits,
        now: Tick,
    ) -> Result<(), StreamEnd> {
        let rate = if resumed { limits.resumptions_per_client } else { limits.sessions_per_client };
        if rate == 0 {
            return Ok(());
        }
        self.masks = (limits.mask_v4, limits.mask_v6);
        let key = masked(ip, self.masks);
        if self.known.len() >= CLIENTS_MAX && !self.known.contains_key(&key) {
            return Ok(());
        }
        let known = self.known.entry(key).or_default();
        let burst = if resumed { &mut known.resumptions } else { &mut known.sessions };
        if burst.takes_one(rate, now) {
            return Ok(());
        }
        known.banned_until = now + limits.rate_ban;
        Err(StreamEnd::SessionRate)
    }

    /// A counted connection has ended.
    pub(super) fn left(&mut self, ip: &[u8; 16]) {
        if let Some(known) = self.known.get_mut(&masked(ip, self.masks)) {
            known.connections = known.connections.saturating_sub(1);
        }
    }

    /// Turns a client away until then.
    pub(super) fn ban(&mut self, ip: &[u8; 16], limits: &StreamLimits, until: Tick) {
        self.masks = (limits.mask_v4, limits.mask_v6);
        if self.known.len() < CLIENTS_MAX {
            self.known.entry(masked(ip, self.masks)).or_default().banned_until = until;
        }
    }

    /// Forgets those of whom nothing is to be remembered.
    pub(super) fn tidy(&mut self, limits: &StreamLimits, now: Tick) {
        if now.since(self.tidied) < TIDY {
            return;
        }
        self.tidied = now;
        self.known.retain(|_, known| {
            known.opened.forgive(limits.rate_per_client, now);
            known.sessions.forgive(limits.sessions_per_client, now);
            known.resumptions.forgive(limits.resumptions_per_client, now);
            let bursts = [known.opened, known.sessions, known.resumptions];
            known.connections > 0 || bursts.iter().any(|b| b.count > 0) || known.banned_until > now
        });
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

/// An address without its host part; IPv4 is held as mapped IPv6.
fn masked(ip: &[u8; 16], (v4, v6): (u8, u8)) -> [u8; 16] {
    let is_v4 = matches!(ip, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ..]);
    let bits = u32::from(if is_v4 { 96 + v4.min(32) } else { v6.min(128) });
    let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
    (u128::from_be_bytes(*ip) & mask).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::mapped;

    fn nobody() -> Clients {
        Clients::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn ip(text: &str) -> [u8; 16] {
        mapped(text.parse().expect("an address"))
    }

    #[test]
    fn a_client_has_so_many_connections_and_no_more() {
        let limits = StreamLimits { connections_per_client: 2, mask_v4: 24, ..StreamLimits::default() };
        let mut clients = nobody();
        let (one, same, other) = (ip("192.0.2.1"), ip("192.0.2.200"), ip("198.51.100.1"));
        assert_eq!(clients.admit(&one, &limits, Tick(0)), Ok(true));
        assert_eq!(clients.admit(&same, &limits, Tick(0)), Ok(true));
        assert_eq!(clients.admit(&one, &limits, Tick(0)), Err(StreamEnd::PerClient));
        assert_eq!(clients.admit(&other, &limits, Tick(0)), Ok(true));
        clients.left(&same);
        assert_eq!(clients.admit(&one, &limits, Tick(0)), Ok(true));
    }

    #[test]
    fn who_opens_too_fast_is_turned_away_for_a_while() {
        let limits = StreamLimits { rate_per_client: 1, ..StreamLimits::default() };
        let (mut clients, one) = (nobody(), ip("192.0.2.1"));
        let mut now = Tick(0);
        for _ in 0..RATE_SPAN_S {
            assert_eq!(clients.admit(&one, &limits, now), Ok(true));
            clients.left(&one);
        }
        assert_eq!(clients.admit(&one, &limits, now), Err(StreamEnd::Rate));
        now = now + TickDelta::from_ms(9_000);
        assert_eq!(clients.admit(&one, &limits, now), Err(StreamEnd::Banned));
        now = now + TickDelta::from_ms(1_000);
        assert_eq!(clients.admit(&one, &limits, now), Ok(true), "ten seconds forgive ten connections");
        clients.left(&one);
        clients.tidy(&limits, now + TickDelta::from_ms(400_000));
        assert!(clients.known.is_empty(), "nothing is left to remember");
    }

    #[test]
    fn new_and_resumed_sessions_have_rates_of_their_own() {
        let limits =
            StreamLimits { sessions_per_client: 1, resumptions_per_client: 2, ..StreamLimits::default() };
        let (mut clients, one, other) = (nobody(), ip("192.0.2.1"), ip("192.0.2.2"));
        for _ in 0..RATE_SPAN_S {
            assert_eq!(clients.admit_session(&one, false, &limits, Tick(0)), Ok(()));
        }
        for _ in 0..2 * RATE_SPAN_S {
            assert_eq!(clients.admit_session(&one, true, &limits, Tick(0)), Ok(()));
        }
        assert_eq!(clients.admit_session(&other, false, &limits, Tick(0)), Ok(()));
        assert_eq!(clients.admit(&one, &limits, Tick(0)), Ok(true), "nothing is exceeded yet");
        assert_eq!(clients.admit_session(&one, false, &limits, Tick(0)), Err(StreamEnd::SessionRate));
        assert_eq!(clients.admit(&one, &limits, Tick(0)), Err(StreamEnd::Banned));
        assert_eq!(clients.admit(&other, &limits, Tick(0)), Ok(true));
        let later = Tick(0) + limits.rate_ban;
        assert_eq!(clients.admit(&one, &limits, later), Ok(true));
    }

    #[test]
    fn without_limits_nothing_is_remembered() {
        let (mut clients, limits) = (nobody(), StreamLimits::default());
        assert_eq!(clients.admit(&ip("2001:db8::1"), &limits, Tick(0)), Ok(false));
        assert!(clients.known.is_empty());
        clients.ban(&ip("2001:db8::1"), &limits, Tick(10));
        assert_eq!(clients.admit(&ip("2001:db8::1"), &limits, Tick(0)), Err(StreamEnd::Banned));
        assert_eq!(clients.admit(&ip("2001:db8::2"), &limits, Tick(0)), Ok(false));
    }
}
