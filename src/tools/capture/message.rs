//! What a capture consists of: messages, and connections that open and close.

use std::net::SocketAddr;

/// How a message was carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A datagram.
    Udp,
    /// A connection (RFC 7766).
    Tcp,
    /// TLS (RFC 7858); only dnstap sees what is in it, as for those below.
    Tls,
    /// HTTPS (RFC 8484).
    Https,
    /// QUIC (RFC 9250).
    Quic,
    /// DNSCrypt.
    DnsCrypt,
}

impl Protocol {
    /// Returns the word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
            Self::DnsCrypt => "dnscrypt",
        }
    }
}

/// A DNS message. It has a whole header; nothing else of it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'p> {
    /// When it was captured, nanoseconds since 1970; over TCP, when its last byte was.
    pub at: u64,
    /// When its query was, of an answer in dnstap that says so.
    pub asked: Option<u64>,
    /// Who asked; unspecified if a dnstap file does not say it.
    pub client: SocketAddr,
    /// Who was asked; unspecified if a dnstap file does not say it.
    pub server: SocketAddr,
    /// How it was carried.
    pub protocol: Protocol,
    /// The connection over TCP; none for datagrams, and in dnstap, which does not tell connections.
    pub connection: Option<u64>,
    /// Whether it goes from the server to the client, as its header says too.
    pub is_response: bool,
    /// The message, without the length that stands in front of it in a stream.
    pub payload: &'p [u8],
}

/// A TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its number, from 0; no two connections of a capture have the same.
    pub id: u64,
    /// When that happened, nanoseconds since 1970.
    pub at: u64,
    /// Who opened it.
    pub client: SocketAddr,
    /// Who accepted it.
    pub server: SocketAddr,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides have finished.
    Finished,
    /// One side has reset it.
    Reset,
    /// The same addresses opened another one, so the end was not captured.
    Replaced,
    /// There are too many connections at once; this one had been idle for longest. If it goes on, it
    /// is another one.
    Forgotten,
    /// The capture ended before.
    CaptureEnd,
}

/// What a capture tells, in the order in which it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'p> {
    /// A message.
    Message(Message<'p>),
    /// A connection was opened, or its first packet was captured.
    Opened(Connection),
    /// A connection was closed. Each that was opened is closed once.
    Closed(Connection, End),
}
