//! TLS: certificates, keys, tickets and sessions, by rustls with ring.
//!
//! ```text
//!  ServerSpec ──load──► ServerTls ──► Session::server ─┐      bytes in ──► plaintext
//!  ClientSpec ──load──► ClientTls ──► Session::client ─┴─►    plaintext ──► bytes out
//! ```
//!
//! A specification is what a configuration asks for; loading it reads every file it names, and
//! fails with the file and the reason. What was loaded is shared by all shards; a
//! [`session::Session`] belongs to one connection, and moves bytes without knowing sockets.
//!
//! This module opens no socket, starts no thread, and knows no shard. The only locks are taken once
//! per handshake, for the session store. Established sessions share nothing. Key logs are written
//! by the caller of [`write_key_logs`].
//!
//! TLS 1.2 and 1.3 only: rustls has no older version, and RFC 8996 forbids them.

// The enums of rustls and x509-parser may grow in any release; new variants have no name here.
#![allow(clippy::wildcard_enum_match_arm)]

pub mod certificates;
pub mod ciphers;
pub mod client;
pub mod date;
mod der;
pub mod error;
pub mod failure;
mod files;
#[cfg(test)]
pub(crate) mod fixture;
mod keylog;
pub mod leaf;
mod ocsp;
pub mod server;
pub mod session;
mod store;
pub mod tickets;
mod trust;
mod verify;
mod version;

pub use crate::tls::client::{CaStores, ClientSpec, ClientTls};
pub use crate::tls::error::{Fault, TlsError};
pub use crate::tls::failure::{Failure, Reason};
pub use crate::tls::keylog::{lost as key_log_lines_lost, write as write_key_logs};
pub use crate::tls::server::{CertificateFiles, ServerSpec, ServerTls};
pub use crate::tls::session::{Session, TlsFacts};
pub use crate::tls::version::{ALPN_DOT, Version};
