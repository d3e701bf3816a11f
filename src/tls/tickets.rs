//! Session tickets (RFC 5077, RFC 8446 section 4.6.1): the session, encrypted, kept by the client.
//!
//! ```text
//!  ticket:  name (16) | nonce (12) | encrypted: issued (8), session | tag (16)
//! ```
//!
//! A list of keys that all shards share without a lock: the first one encrypts, all decrypt, and
//! the name in the ticket selects. Rotation puts a new key first and drops the last one, which
//! invalidates every ticket of it. Keys are random, or come from a file that several machines
//! share, so that each resumes the sessions of the others.
//!
//! It does not rotate by itself: the owner of the clock calls [`TicketKeys::rotate`]. Nothing is
//! kept per ticket.

#![expect(clippy::disallowed_methods, reason = "keys nobody can guess, and days of the calendar")]

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::UnixTime;
use rustls::server::ProducesTickets;

use crate::tls::error::{Fault, TlsError};
use crate::tls::files;

/// Bytes of a key in OpenSSL's format, as used by dnsdist: 16 name, 32 AES, 32 HMAC.
const KEY_BYTES: usize = 80;
/// Bytes of a key in OpenSSL's older format: 16 name, 16 AES, 16 HMAC.
const KEY_BYTES_OLD: usize = 48;
/// Bytes of a key's name.
const NAME_BYTES: usize = 16;
/// Bytes of the time of issue.
const TIME_BYTES: usize = 8;
/// Longest session that becomes a ticket, bytes. rustls' are below 400 for clients without a
/// certificate, and a DNS server needs no longer ones.
const SESSION_BYTES_MAX: usize = 4_096;
/// Keys used of a file; more would make unknown names more expensive.
const FILE_KEYS_MAX: usize = 64;
/// Seconds that another machine's clock may be ahead of ours.
const SKEW_SECONDS: u64 = 60;

/// A list of ticket keys.
pub struct TicketKeys {
    ring: ArcSwap<Vec<Arc<Key>>>,
    /// Keys kept.
    keys_max: usize,
    /// Seconds that a ticket can be used.
    lifetime_seconds: u32,
    file: Option<PathBuf>,
    random: SystemRandom,
}

struct Key {
    name: [u8; NAME_BYTES],
    /// What it was made of, for who shares it with other machines.
    bytes: Box<[u8]>,
    // "Less safe" in ring's terms: we choose the nonces. They are random ones of 96 bits,
    // sufficient for 2^32 tickets of one key (NIST SP 800-38D, section 8.3): twelve hours of 99,000
    // handshakes a second.
    aead: LessSafeKey,
}

impl TicketKeys {
    /// Creates random keys, of which the newest `keys_max` are kept (at least 1), for tickets that
    /// can be used for `lifetime_seconds`.
    ///
    /// # Errors
    ///
    /// No random bytes.
    pub fn random(keys_max: usize, lifetime_seconds: u32) -> Result<Self, TlsError> {
        let keys = Self::empty(keys_max, lifetime_seconds, None);
        keys.rotate()?;
        Ok(keys)
    }

    /// Loads the keys of a file: 80 bytes per key, or 48 when its length is no multiple of 80.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or has another length.
    pub fn from_file(file: PathBuf, keys_max: usize, lifetime_seconds: u32) -> Result<Self, TlsError> {
        let keys = Self::empty(keys_max, lifetime_seconds, Some(file));
        keys.rotate()?;
        Ok(keys)
    }

    /// Takes a key that somebody else has made, of 80 or 48 bytes; later ones are random.
    ///
    /// # Errors
    ///
    /// Another number of bytes.
    pub fn given(key: &[u8], keys_max: usize, lifetime_seconds: u32) -> Result<Self, TlsError> {
        let own = Self::empty(keys_max, lifetime_seconds, None);
        let is_key = [KEY_BYTES, KEY_BYTES_OLD].contains(&key.len());
        let key = Key::parse(key).filter(|_| is_key).ok_or(Fault::BadTicketKey(key.len()))?;
        own.ring.store(Arc::new(vec![Arc::new(key)]));
        Ok(own)
    }

    fn empty(keys_max: usize, lifetime_seconds: u32, file: Option<PathBuf>) -> Self {
        Self {
            ring: ArcSwap::default(),
            keys_max: keys_max.max(1),
            lifetime_seconds,
            file,
            random: SystemRandom::new(),
        }
    }

    /// Puts a new random key first, or reloads the key file if there is one; earlier keys still
    /// decrypt until there are too many.
    ///
    /// Called by one thread.
    ///
    /// # Errors
    ///
    /// As on creation; the keys stay as they are.
    pub fn rotate(&self) -> Result<(), TlsError> {
        let ring = match &self.file {
            None => vec![Arc::new(Key::random(&self.random)?)],
            Some(file) => {
                let bytes = files::bytes(file)?;
                keys(&bytes).ok_or_else(|| Fault::BadTicketKeys(bytes.len()).of(file))?
            }
        };
        let ring = self.with_older(ring, &self.ring.load());
        self.ring.store(Arc::new(ring));
        Ok(())
    }

    /// Returns these keys, followed by those that were used before: these still decrypt until there
    /// are too many.
    #[must_use]
    pub fn succeeding(&self, before: &Self) -> Self {
        let keys = Self::empty(self.keys_max, self.lifetime_seconds, self.file.clone());
        let ring = self.with_older(self.ring.load().to_vec(), &before.ring.load());
        keys.ring.store(Arc::new(ring));
        keys
    }

    fn with_older(&self, mut ring: Vec<Arc<Key>>, older: &[Arc<Key>]) -> Vec<Arc<Key>> {
        let keep = self.keys_max.max(ring.len());
        for old in older {
            if ring.len() < keep && ring.iter().all(|key| key.name != old.name) {
                ring.push(Arc::clone(old));
            }
        }
        ring
    }

    /// Returns the number of keys.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ring.load().len()
    }

    /// Returns the bytes of the key that encrypts.
    #[must_use]
    pub fn first(&self) -> Option<Vec<u8>> {
        self.ring.load().first().map(|key| key.bytes.to_vec())
    }

    fn seal(&self, session: &[u8], now: u64) -> Option<Vec<u8>> {
        if session.len() > SESSION_BYTES_MAX {
            return None;
        }
        let ring = self.ring.load();
        let key = ring.first()?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let head = NAME_BYTES + NONCE_LEN;
        let mut ticket = Vec::with_capacity(head + TIME_BYTES + session.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&now.to_be_bytes());
        ticket.extend_from_slice(session);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag =
            key.aead.seal_in_place_separate_tag(nonce, Aad::from(key.name), &mut ticket[head..]).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: u64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if sealed.len() > TIME_BYTES + SESSION_BYTES_MAX + AES_256_GCM.tag_len() {
            return None;
        }
        let ring = self.ring.load();
        // Names are no secret: they are in every ticket.
        let key = ring.iter().find(|key| key.name == *name)?;
        let mut opened = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.aead.open_in_place(nonce, Aad::from(key.name), &mut opened).ok()?.len();
        opened.truncate(length);
        let (time, _) = opened.split_first_chunk::<TIME_BYTES>()?;
        let issued = u64::from_be_bytes(*time);
        let good =
            issued <= now + SKEW_SECONDS && now.saturating_sub(issued) <= u64::from(self.lifetime_seconds);
        good.then(|| opened.split_off(TIME_BYTES))
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime_seconds
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, UnixTime::now().as_secs())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.open(cipher, UnixTime::now().as_secs())
    }
}

// Neither keys nor their names belong in a log.
impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys").field("count", &self.count()).field("file", &self.file).finish()
    }
}

impl Key {
    fn random(random: &SystemRandom) -> Result<Self, TlsError> {
        let mut bytes = [0; KEY_BYTES];
        random.fill(&mut bytes).map_err(|_| Fault::NoRandomness)?;
        Self::parse(&bytes).ok_or_else(|| Fault::NoRandomness.into())
    }

    /// Derives a key of a file. Both of its secrets go into ours, so that neither their order nor
    /// their length matters.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (name, secret) = bytes.split_first_chunk::<NAME_BYTES>()?;
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, name);
        let derived = salt.extract(secret);
        let key = derived.expand(&[b"dnslob session tickets"], &AES_256_GCM).ok()?;
        Some(Self { name: *name, bytes: bytes.into(), aead: LessSafeKey::new(UnboundKey::from(key)) })
    }
}

/// Parses the keys of a file; `None` when the length is wrong.
fn keys(bytes: &[u8]) -> Option<Vec<Arc<Key>>> {
    let size = if bytes.len().is_multiple_of(KEY_BYTES) { KEY_BYTES } else { KEY_BYTES_OLD };
    if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
        return None;
    }
    bytes.chunks_exact(size).take(FILE_KEYS_MAX).map(|key| Key::parse(key).map(Arc::new)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::Directory;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_ticket_decrypts_until_it_expires() {
        let keys = TicketKeys::random(2, 600).expect("keys");
        let ticket = keys.seal(b"session", NOW).expect("a ticket");
        assert_eq!(ticket.len(), 16 + 12 + 8 + 7 + 16);
        assert_eq!(keys.open(&ticket, NOW).as_deref(), Some(&b"session"[..]));
        assert_eq!(keys.open(&ticket, NOW + 600).as_deref(), Some(&b"session"[..]));
        assert_eq!(keys.open(&ticket, NOW + 601), None);
        // Machines' clocks differ a little, but a ticket of the future is refused.
        assert!(keys.open(&ticket, NOW - SKEW_SECONDS).is_some());
        assert_eq!(keys.open(&ticket, NOW - SKEW_SECONDS - 1), None);
    }

    #[test]
    fn two_tickets_of_one_session_differ() {
        let keys = TicketKeys::random(1, 600).expect("keys");
        assert_ne!(keys.seal(b"session", NOW), keys.seal(b"session", NOW));
    }

    #[test]
    fn recent_keys_decrypt_and_older_ones_do_not() {
        let keys = TicketKeys::random(3, 600).expect("keys");
        let ticket = keys.seal(b"session", NOW).expect("a ticket");
        for count in [2, 3] {
            keys.rotate().expect("rotation");
            assert_eq!(keys.count(), count);
            assert!(keys.open(&ticket, NOW).is_some(), "with {count} keys");
        }
        keys.rotate().expect("rotation");
        assert_eq!(keys.count(), 3);
        assert_eq!(keys.open(&ticket, NOW), None);
    }

    #[test]
    fn forged_and_truncated_tickets_are_refused() {
        let keys = TicketKeys::random(1, 600).expect("keys");
        let ticket = keys.seal(b"session", NOW).expect("a ticket");
        for length in 0..ticket.len() {
            assert_eq!(keys.open(&ticket[..length], NOW), None, "{length} bytes");
        }
        for at in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at] ^= 0x40;
            assert_eq!(keys.open(&forged, NOW), None, "byte {at} changed");
        }
        assert_eq!(keys.open(&[ticket.as_slice(), b"\0"].concat(), NOW), None);
        let other = TicketKeys::random(1, 600).expect("keys");
        assert_eq!(other.open(&ticket, NOW), None);
    }

    #[test]
    fn session_length_is_bounded() {
        let keys = TicketKeys::random(1, 600).expect("keys");
        let longest = keys.seal(&[7; SESSION_BYTES_MAX], NOW).expect("a ticket");
        assert!(keys.open(&longest, NOW).is_some());
        assert_eq!(keys.seal(&[7; SESSION_BYTES_MAX + 1], NOW), None);
    }

    #[test]
    fn machines_with_the_same_file_decrypt_each_others_tickets() {
        let directory = Directory::new();
        for size in [KEY_BYTES, KEY_BYTES_OLD] {
            let key = |fill: u8| vec![fill; size];
            let file = directory.write_bytes("keys", &[key(1), key(2)].concat());
            let here = TicketKeys::from_file(file.clone(), 1, 600).expect("keys");
            let there = TicketKeys::from_file(file.clone(), 2, 600).expect("keys");
            assert_eq!((here.count(), there.count()), (2, 2));
            let ticket = here.seal(b"session", NOW).expect("a ticket");
            assert!(there.open(&ticket, NOW).is_some());
            // The first key of the file encrypts.
            assert_eq!(ticket[..NAME_BYTES], [1; NAME_BYTES]);
            // Another file there: its new key encrypts, ours still decrypt while there is space.
            directory.write_bytes("keys", &key(3));
            there.rotate().expect("rotation");
            assert_eq!(there.count(), 2);
            assert!(there.open(&ticket, NOW).is_some());
            assert!(here.open(&there.seal(b"new", NOW).expect("a ticket"), NOW).is_none());
            here.rotate().expect("rotation");
            assert_eq!(here.count(), 1);
            assert!(here.open(&there.seal(b"new", NOW).expect("a ticket"), NOW).is_some());
        }
    }

    #[test]
    fn an_invalid_file_leaves_the_keys_unchanged() {
        let directory = Directory::new();
        let file = directory.write_bytes("keys", &[9; 160]);
        let keys = TicketKeys::from_file(file.clone(), 1, 600).expect("keys");
        let ticket = keys.seal(b"session", NOW).expect("a ticket");
        for bytes in [&[][..], &[0; 79], &[0; 81]] {
            directory.write_bytes("keys", bytes);
            let why = keys.rotate().expect_err("a bad file").to_string();
            assert!(why.contains(&format!("has {} bytes", bytes.len())), "{why}");
            assert!(keys.open(&ticket, NOW).is_some());
        }
    }
}
