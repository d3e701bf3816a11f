//! The encrypted channel of the console, as dnsdist's console clients and servers speak it.
//!
//! Both ends send 24 random bytes. Each direction has a nonce that is half of either end's, and is
//! counted up with each message. A message is its length (4 bytes, network order) and a
//! `crypto_secretbox` of NaCl (XSalsa20-Poly1305, with the tag in front) under the shared key.

#![expect(clippy::disallowed_methods, reason = "both ends begin with random bytes")]

use crypto_secretbox::aead::{Aead, AeadInPlace, KeyInit};
use crypto_secretbox::{Key, Nonce, XSalsa20Poly1305};
use ring::rand::{SecureRandom, SystemRandom};

use crate::model::console::ConsoleKey;

/// Bytes that each end sends first.
pub const NONCE_BYTES: usize = 24;
/// Bytes that encryption adds to a message.
pub const TAG_BYTES: usize = 16;
/// Bytes of a message's length.
pub const LENGTH_BYTES: usize = 4;
/// Half of a nonce.
const HALF: usize = NONCE_BYTES / 2;

/// One end of a connection after both nonces were exchanged.
pub struct Channel {
    cipher: XSalsa20Poly1305,
    reads: [u8; NONCE_BYTES],
    writes: [u8; NONCE_BYTES],
}

/// Returns random bytes to send first.
///
/// # Errors
/// The system has none.
pub fn nonce() -> Result<[u8; NONCE_BYTES], &'static str> {
    let mut bytes = [0; NONCE_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system has no random bytes")?;
    Ok(bytes)
}

impl Channel {
    /// Creates an end of a connection from the bytes that it and its peer sent first.
    #[must_use]
    pub fn new(key: &ConsoleKey, own: &[u8; NONCE_BYTES], peer: &[u8; NONCE_BYTES]) -> Self {
        let join = |first: &[u8; NONCE_BYTES], last: &[u8; NONCE_BYTES]| {
            let mut nonce = *last;
            nonce[..HALF].copy_from_slice(&first[..HALF]);
            nonce
        };
        let cipher = XSalsa20Poly1305::new(Key::from_slice(&key.0));
        // What an end writes begins with its peer's bytes.
        Self { cipher, reads: join(own, peer), writes: join(peer, own) }
    }

    /// Encrypts a message; its length stands in front.
    ///
    /// # Errors
    /// It is too long.
    pub fn seal(&mut self, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        const LONG: &str = "the message is too long";
        let length = u32::try_from(message.len() + TAG_BYTES).map_err(|_| LONG)?;
        // In place: replies are long, and one copy of them is enough.
        let mut sealed = Vec::with_capacity(LENGTH_BYTES + TAG_BYTES + message.len());
        sealed.extend_from_slice(&length.to_be_bytes());
        sealed.extend_from_slice(&[0; TAG_BYTES]);
        sealed.extend_from_slice(message);
        let (front, text) = sealed.split_at_mut(LENGTH_BYTES + TAG_BYTES);
        let nonce = Nonce::from_slice(&self.writes);
        let tag = self.cipher.encrypt_in_place_detached(nonce, b"", text).map_err(|_| LONG)?;
        front[LENGTH_BYTES..].copy_from_slice(&tag);
        count_up(&mut self.writes);
        Ok(sealed)
    }

    /// Decrypts a message, without its length.
    ///
    /// # Errors
    /// It was not made with our key, or is not the next one.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, &'static str> {
        let opened = self.cipher.decrypt(Nonce::from_slice(&self.reads), sealed);
        count_up(&mut self.reads);
        opened.map_err(|_| "the peer has another key")
    }
}

/// Counts a nonce up: its first 4 bytes are a number in network order.
fn count_up(nonce: &mut [u8; NONCE_BYTES]) {
    if let Some(counter) = nonce.first_chunk_mut::<4>() {
        *counter = u32::from_be_bytes(*counter).wrapping_add(1).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ConsoleKey = ConsoleKey([7; 32]);

    fn ends(client_key: &ConsoleKey) -> (Channel, Channel) {
        let (client, server) = (nonce().expect("random bytes"), nonce().expect("random bytes"));
        (Channel::new(client_key, &client, &server), Channel::new(&KEY, &server, &client))
    }

    #[test]
    fn messages_pass_both_ways_in_their_order() {
        let (mut client, mut server) = ends(&KEY);
        for text in ["", "showServers()", "x"] {
            let sealed = client.seal(text.as_bytes()).expect("sealed");
            assert_eq!(sealed.len(), LENGTH_BYTES + TAG_BYTES + text.len());
            assert_eq!(server.open(&sealed[LENGTH_BYTES..]).expect("opened"), text.as_bytes());
            let reply = server.seal(text.as_bytes()).expect("sealed");
            assert_eq!(client.open(&reply[LENGTH_BYTES..]).expect("opened"), text.as_bytes());
        }
        let first = client.seal(b"1").expect("sealed");
        let second = client.seal(b"2").expect("sealed");
        assert!(server.open(&second[LENGTH_BYTES..]).is_err(), "out of order");
        assert!(server.open(&first[LENGTH_BYTES..]).is_err(), "not the next one");
    }

    #[test]
    fn another_key_and_changed_messages_are_refused() {
        let (mut client, mut server) = ends(&ConsoleKey([8; 32]));
        let sealed = client.seal(b"shutdown()").expect("sealed");
        assert!(server.open(&sealed[LENGTH_BYTES..]).is_err());
        let (mut client, mut server) = ends(&KEY);
        let mut sealed = client.seal(b"shutdown()").expect("sealed");
        sealed[LENGTH_BYTES + TAG_BYTES] ^= 1;
        assert!(server.open(&sealed[LENGTH_BYTES..]).is_err());
        assert!(server.open(b"short").is_err());
    }

    #[test]
    fn nonces_are_counted_up_in_network_order() {
        let mut nonce = [0xff; NONCE_BYTES];
        nonce[0] = 0;
        count_up(&mut nonce);
        assert_eq!(nonce[..5], [1, 0, 0, 0, 0xff]);
    }
}
