//! TCP Fast Open (RFC 7413) of listeners: the queue, and the key of its cookies.

use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use socket2::Socket;

use crate::engine::sys;
use crate::model::ConnectionOptions;

/// Sets the queue of TCP Fast Open and the key of its cookies.
pub(super) fn set_fast_open(socket: &Socket, options: ConnectionOptions) -> io::Result<()> {
    let backlog = i32::try_from(options.fast_open).unwrap_or(i32::MAX);
    sys::set_option(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, backlog)?;
    let set = |key: &[u8]| sys::set_bytes(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, key);
    if let Some(key) = options.key_in_use() {
        return set(&key);
    }
    // An earlier configuration, or whoever opened the socket, may have set a key that is to be used no
    // more. The kernel's own key cannot be chosen again.
    if options.fast_open > 0 && !fast_open_key(socket)?.is_empty() {
        return own_fast_open_key().map_or(Ok(()), set);
    }
    Ok(())
}

/// Returns the key of this process, one for all shards: a client may reach another one next time. None
/// without randomness.
#[expect(clippy::disallowed_methods, reason = "a secret of the process, as the kernel's own key")]
pub(super) fn own_fast_open_key() -> Option<&'static [u8]> {
    static KEY: OnceLock<Option<[u8; 16]>> = OnceLock::new();
    let random = || {
        let mut key = [0; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key).ok().map(|()| key)
    };
    KEY.get_or_init(random).as_ref().map(<[u8; 16]>::as_slice)
}

/// Returns the key of a socket's cookies, and a second one that is accepted too, if there is one; nothing
/// for a socket that has the kernel's.
pub(super) fn fast_open_key(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut keys = [0; 32];
    let length = sys::bytes_of(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &mut keys)?;
    Ok(keys[..length.min(keys.len())].to_vec())
}
