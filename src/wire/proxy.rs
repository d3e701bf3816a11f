//! The PROXY protocol (haproxy's proxy-protocol.txt): a header before a connection's bytes, or
//! before a datagram, with the original source and destination.
//!
//! ```text
//!  v1  | PROXY TCP4 192.0.2.1 192.0.2.53 4711 53 CR LF |
//!  v2  | signature (12) | 2, command | family, transport | length (2) | addresses | TLVs ... |
//!                         '-- 1 ----'  '------ 1 ------'                12, 36, 216   type (1), length (2), value
//! ```
//!
//! The caller decides who may send one.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::addr::{Endpoint, mapped};
use crate::wire::proxy::crc::crc32c;

mod crc;

/// The signature of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header before its payload.
pub const FIXED: usize = 16;
/// The signature of a version 1 header.
const LINE_START: &[u8] = b"PROXY ";
/// Longest version 1 header, bytes, including CR LF.
pub const LINE_MAX: usize = 107;
/// Bytes of a TLV's type and length.
const TLV_HEAD: usize = 3;
/// Bytes of two UNIX addresses.
const UNIX: usize = 216;

/// Default limit of the payload of a version 2 header, bytes
/// (`setProxyProtocolMaximumPayloadSize`).
pub const PAYLOAD_MAX: usize = 512;

/// Types of TLVs.
pub mod tlv {
    /// The protocol over TLS, as in ALPN.
    pub const ALPN: u8 = 0x01;
    /// The host name that the client requested (SNI).
    pub const AUTHORITY: u8 = 0x02;
    /// A checksum over the whole header.
    pub const CRC32C: u8 = 0x03;
    /// Padding.
    pub const NOOP: u8 = 0x04;
    /// A unique id of the connection, at most 128 bytes.
    pub const UNIQUE_ID: u8 = 0x05;
    /// The client's TLS: [`Ssl`](super::Ssl).
    pub const SSL: u8 = 0x20;
    /// Within SSL: the version, as text.
    pub const SSL_VERSION: u8 = 0x21;
    /// Within SSL: the common name of the client's certificate.
    pub const SSL_CN: u8 = 0x22;
    /// Within SSL: the cipher, as text.
    pub const SSL_CIPHER: u8 = 0x23;
    /// Within SSL: the algorithm that signed the server's certificate.
    pub const SSL_SIG_ALG: u8 = 0x24;
    /// Within SSL: the algorithm of the server's key.
    pub const SSL_KEY_ALG: u8 = 0x25;
    /// The name of the network namespace.
    pub const NETNS: u8 = 0x30;
}

/// Whether a header is about a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The sender's own connection: a health check. It has no addresses and no TLVs.
    Local,
    /// A proxied connection or datagram.
    Proxy,
}

/// The transport of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A connection.
    Stream,
    /// A datagram.
    Datagram,
    /// Unspecified.
    Unspec,
}

/// A header of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'o> {
    /// Whether it is about a client.
    pub command: Command,
    /// The client's transport.
    pub transport: Transport,
    /// The client; `None` when unspecified, or no IP address.
    pub source: Option<Endpoint>,
    /// The destination of the client; present whenever `source` is.
    pub destination: Option<Endpoint>,
    /// The TLVs. Empty without an address family, where the meaning of the bytes is undefined.
    pub tlvs: Tlvs<'o>,
}

/// The result of parsing bytes that should begin with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'o> {
    /// The bytes may be the beginning of a header. In a datagram: no header.
    Incomplete,
    /// A complete header.
    Header {
        /// The header.
        header: Header<'o>,
        /// Its length; the proxied bytes follow.
        len: usize,
    },
    /// No header: the connection must be closed.
    Invalid(ProxyError),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// They begin with neither version's signature.
    NoSignature,
    /// The version is not 2, or the command is unknown.
    Version(u8),
    /// Unknown family or transport.
    Family(u8),
    /// The payload has more than the allowed bytes; its length.
    TooLong(usize),
    /// The payload is too short for the addresses.
    Addresses,
    /// The TLVs do not fill the payload.
    Tlvs,
    /// The checksum is wrong.
    Checksum,
    /// A version 1 line is malformed or too long.
    Line,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSignature => f.write_str("no PROXY header"),
            Self::Version(byte) => write!(f, "unknown version or command {byte:#04x}"),
            Self::Family(byte) => write!(f, "unknown family or transport {byte:#04x}"),
            Self::TooLong(length) => write!(f, "a payload of {length} bytes is too long"),
            Self::Addresses => f.write_str("too short for its addresses"),
            Self::Tlvs => f.write_str("TLVs that do not fit"),
            Self::Checksum => f.write_str("a wrong checksum"),
            Self::Line => f.write_str("a malformed line"),
        }
    }
}

/// A sequence of TLVs: types and values. A header's are known to be complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs<'o>(&'o [u8]);

impl<'o> Tlvs<'o> {
    /// Parses TLVs that fill `bytes`; `None` when they do not.
    #[must_use]
    pub fn parse(bytes: &'o [u8]) -> Option<Self> {
        let mut rest = Self(bytes);
        while rest.next().is_some() {}
        rest.0.is_empty().then_some(Self(bytes))
    }

    /// Returns the encoded TLVs.
    #[must_use]
    pub const fn bytes(&self) -> &'o [u8] {
        self.0
    }

    /// Returns the value of the first one of a type.
    #[must_use]
    pub fn first(&self, wanted: u8) -> Option<&'o [u8]> {
        let mut all = *self;
        all.find(|(found, _)| *found == wanted).map(|(_, value)| value)
    }
}

impl<'o> Iterator for Tlvs<'o> {
    type Item = (u8, &'o [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&[found, l0, l1], rest) = self.0.split_first_chunk::<TLV_HEAD>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
        self.0 = rest;
        Some((found, value))
    }
}

/// Parses the header at the beginning of `bytes`, of either version. `max` limits the payload of a
/// version 2 header after its 16 bytes; a version 1 line has at most 107 in any case.
#[must_use]
pub fn parse(bytes: &[u8], max: usize) -> Parsed<'_> {
    let parsed = if begins(bytes, SIGNATURE) {
        parse_v2(bytes, max)
    } else if begins(bytes, LINE_START) {
        parse_v1(bytes)
    } else {
        Err(ProxyError::NoSignature)
    };
    match parsed {
        Ok(Some((header, len))) => Parsed::Header { header, len },
        Ok(None) => Parsed::Incomplete,
        Err(error) => Parsed::Invalid(error),
    }
}

/// Returns whether `bytes` begin with a signature: of version 2, or with `line_too`, of version 1.
#[must_use]
pub fn is_header(bytes: &[u8], line_too: bool) -> bool {
    bytes.starts_with(SIGNATURE) || line_too && bytes.starts_with(LINE_START)
}

/// Returns whether `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted)
}

/// A header and its length; `None` while incomplete; or an error.
type ParseResult<'o> = Result<Option<(Header<'o>, usize)>, ProxyError>;

fn parse_v2(bytes: &[u8], max: usize) -> ParseResult<'_> {
    // Each byte is checked as soon as it arrives: other protocols are refused at once.
    let command = match bytes.get(SIGNATURE.len()) {
        None => return Ok(None),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(other) => return Err(ProxyError::Version(*other)),
    };
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let (transport, addresses) = match (command, family) {
        // The family of a local one is ignored.
        (Command::Local, _) | (_, 0x00) => (Transport::Unspec, 0),
        (_, 0x11) => (Transport::Stream, 12),
        (_, 0x12) => (Transport::Datagram, 12),
        (_, 0x21) => (Transport::Stream, 36),
        (_, 0x22) => (Transport::Datagram, 36),
        (_, 0x31) => (Transport::Stream, UNIX),
        (_, 0x32) => (Transport::Datagram, UNIX),
        _ => return Err(ProxyError::Family(family)),
    };
    let Some(&[l0, l1]) = bytes.get(FIXED - 2..).and_then(<[u8]>::first_chunk) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    if length > max {
        return Err(ProxyError::TooLong(length));
    }
    if length < addresses {
        return Err(ProxyError::Addresses);
    }
    let len = FIXED + length;
    let Some(payload) = bytes.get(FIXED..len) else { return Ok(None) };
    let mut header = Header { command, transport, source: None, destination: None, tlvs: Tlvs::default() };
    if addresses > 0 {
        let (between, rest) = payload.split_at_checked(addresses).ok_or(ProxyError::Addresses)?;
        header.tlvs = Tlvs::parse(rest).ok_or(ProxyError::Tlvs)?;
        verify(&bytes[..len], FIXED + addresses, header.tlvs)?;
        (header.source, header.destination) = endpoints(between).unzip();
    }
    Ok(Some((header, len)))
}

/// Returns the endpoints of a version 2 header; `None` for UNIX addresses.
fn endpoints(bytes: &[u8]) -> Option<(Endpoint, Endpoint)> {
    let family = match bytes.len() {
        12 => 4,
        36 => 16,
        _ => return None,
    };
    let (addresses, ports) = bytes.split_at_checked(2 * family)?;
    let (source, destination) = addresses.split_at_checked(family)?;
    let &[s0, s1, d0, d1] = ports.first_chunk()?;
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Some(mapped(Ipv4Addr::from(v4).into())),
        Err(_) => bytes.try_into().ok(),
    };
    Some((
        Endpoint { ip: ip(source)?, scope: 0, port: u16::from_be_bytes([s0, s1]) },
        Endpoint { ip: ip(destination)?, scope: 0, port: u16::from_be_bytes([d0, d1]) },
    ))
}

/// Verifies the checksums of a header whose TLVs begin at `at`: computed with zeros in their place.
fn verify(header: &[u8], mut at: usize, tlvs: Tlvs<'_>) -> Result<(), ProxyError> {
    for (found, value) in tlvs {
        let start = at + TLV_HEAD;
        at = start + value.len();
        if found == tlv::CRC32C && crc32c(&[&header[..start], &[0; 4], &header[at..]]).to_be_bytes() != value
        {
            return Err(ProxyError::Checksum);
        }
    }
    Ok(())
}

fn parse_v1(bytes: &[u8]) -> ParseResult<'_> {
    let most = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = most.windows(2).position(|two| two == b"\r\n") else {
        return if most.len() < LINE_MAX { Ok(None) } else { Err(ProxyError::Line) };
    };
    let header = line(&most[LINE_START.len()..end]).ok_or(ProxyError::Line)?;
    Ok(Some((header, end + 2)))
}

/// Parses a version 1 line without its signature and CR LF.
fn line<'o>(line: &[u8]) -> Option<Header<'o>> {
    let mut words = line.split(|byte| *byte == b' ');
    let mut header = Header {
        command: Command::Proxy,
        transport: Transport::Unspec,
        source: None,
        destination: None,
        tlvs: Tlvs::default(),
    };
    let is_v4 = match words.next()? {
        b"TCP4" => true,
        b"TCP6" => false,
        // The rest of the line is ignored.
        b"UNKNOWN" => return Some(header),
        _ => return None,
    };
    let mut word = || std::str::from_utf8(words.next()?).ok();
    let ips = [ip(word()?, is_v4)?, ip(word()?, is_v4)?];
    let ports = [port(word()?)?, port(word()?)?];
    if words.next().is_some() {
        return None;
    }
    let [source, destination] = [0, 1].map(|n: usize| Endpoint { ip: ips[n], scope: 0, port: ports[n] });
    header.transport = Transport::Stream;
    (header.source, header.destination) = (Some(source), Some(destination));
    Some(header)
}

fn ip(word: &str, is_v4: bool) -> Option<[u8; 16]> {
    let ip: IpAddr =
        if is_v4 { word.parse::<Ipv4Addr>().ok()?.into() } else { word.parse::<Ipv6Addr>().ok()?.into() };
    Some(mapped(ip))
}

/// Parses a port in digits, without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok())?
}

/// Appends a version 2 header. When one endpoint is IPv6 both are written as IPv6. With
/// [`Transport::Unspec`] there are no addresses, and not every receiver reads the TLVs.
///
/// A TLV of type CRC32C stands for the checksum, whatever its value: the checksum of this header is
/// written, once. False, and nothing appended, when the TLVs exceed 65,535 bytes.
#[must_use]
pub fn write_v2<'t>(
    out: &mut Vec<u8>,
    transport: Transport,
    source: Endpoint,
    destination: Endpoint,
    tlvs: impl Iterator<Item = (u8, &'t [u8])>,
) -> bool {
    let start = out.len();
    let is_v4 = source.is_ipv4() && destination.is_ipv4();
    let family = match (transport, is_v4) {
        (Transport::Unspec, _) => 0x00,
        (Transport::Stream, true) => 0x11,
        (Transport::Datagram, true) => 0x12,
        (Transport::Stream, false) => 0x21,
        (Transport::Datagram, false) => 0x22,
    };
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x21, family, 0, 0]);
    if transport != Transport::Unspec {
        let from = if is_v4 { 12 } else { 0 };
        out.extend_from_slice(&source.ip[from..]);
        out.extend_from_slice(&destination.ip[from..]);
        out.extend_from_slice(&source.port.to_be_bytes());
        out.extend_from_slice(&destination.port.to_be_bytes());
    }
    let mut checksum_at = None;
    let mut fits = true;
    for (kind, value) in tlvs {
        let is_checksum = kind == tlv::CRC32C;
        if is_checksum && checksum_at.is_some() {
            continue;
        }
        fits = put_tlv(out, kind, if is_checksum { &[0; 4] } else { value });
        if is_checksum {
            checksum_at = Some(out.len() - 4);
        }
        if !fits || out.len() - start - FIXED > usize::from(u16::MAX) {
            break;
        }
    }
    let length = u16::try_from(out.len() - start - FIXED).ok().filter(|_| fits);
    let Some(length) = length else {
        out.truncate(start);
        return false;
    };
    out[start + FIXED - 2..start + FIXED].copy_from_slice(&length.to_be_bytes());
    if let Some(at) = checksum_at {
        let checksum = crc32c(&[&out[start..]]);
        out[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
    }
    true
}

/// Appends the version 2 header of a health check: the balancer's own connection.
pub fn write_v2_local(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x20, 0, 0, 0]);
}

/// Appends a version 1 header for a TCP client. When one endpoint is IPv6 both are written as IPv6.
pub fn write_v1(out: &mut Vec<u8>, source: Endpoint, destination: Endpoint) {
    let mut text = Text(out);
    let is_v4 = source.is_ipv4() && destination.is_ipv4();
    // Writing into memory does not fail.
    let _ = text.write_str(if is_v4 { "PROXY TCP4" } else { "PROXY TCP6" });
    for ip in [source.ip, destination.ip] {
        let _ = if let [.., a, b, c, d] = ip
            && is_v4
        {
            write!(text, " {}", Ipv4Addr::new(a, b, c, d))
        } else {
            // Always in hexadecimal groups, which `Display` does not use for mapped addresses.
            let [a, b, c, d, e, f, g, h] = Ipv6Addr::from(ip).segments();
            write!(text, " {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{g:x}:{h:x}")
        };
    }
    let _ = write!(text, " {} {}\r\n", source.port, destination.port);
}

/// Appends a version 1 header without addresses: for a health check, or a client without TCP
/// addresses.
pub fn write_v1_unknown(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PROXY UNKNOWN\r\n");
}

struct Text<'o>(&'o mut Vec<u8>);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Appends a TLV; false, and nothing appended, when its value is longer than 65,535 bytes.
fn put_tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> bool {
    let Ok(length) = u16::try_from(value.len()) else { return false };
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    true
}

/// The value of an SSL TLV: the client's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'o> {
    /// Bits: 1, the client used TLS; 2, with a certificate on this connection; 4, with one in this
    /// session.
    pub client: u8,
    /// Whether its certificate was verified.
    pub verified: bool,
    /// Further TLVs: version, cipher, names.
    pub tlvs: Tlvs<'o>,
}

/// The value of an SSL TLV that only says that the client used TLS. Its last four bytes are not 0:
/// that would mean a verified certificate.
pub const SSL_PLAIN: [u8; 5] = [CLIENT_SSL, 0, 0, 0, 1];

/// The bit of [`Ssl::client`] for a client with TLS.
pub const CLIENT_SSL: u8 = 0x01;

impl<'o> Ssl<'o> {
    /// Parses the value of an SSL TLV; `None` when it is malformed.
    #[must_use]
    pub fn parse(value: &'o [u8]) -> Option<Self> {
        let (&[client, verify @ ..], rest) = value.split_first_chunk::<5>()?;
        Some(Self { client, verified: verify == [0; 4], tlvs: Tlvs::parse(rest)? })
    }
}

/// Appends the value of an SSL TLV for a client with TLS and without a certificate
/// (`proxyProtocolAdvertiseTLS`); `version` as in "TLSv1.3". Empty texts are omitted. False, and
/// nothing appended, when a text is longer than 65,535 bytes.
#[must_use]
pub fn ssl_tlv(out: &mut Vec<u8>, version: &str, cipher: &str) -> bool {
    let start = out.len();
    out.extend_from_slice(&SSL_PLAIN);
    let fits = [(tlv::SSL_VERSION, version), (tlv::SSL_CIPHER, cipher)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .all(|(kind, text)| put_tlv(out, kind, text.as_bytes()));
    if !fits {
        out.truncate(start);
    }
    fits
}

#[cfg(test)]
mod tests;
