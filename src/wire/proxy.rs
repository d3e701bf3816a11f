//! The PROXY protocol (haproxy's proxy-protocol.txt): a header in front of a connection's bytes,
//! or of a datagram, that says between whom they were sent at first.
//!
//! ```text
//!  v1  | PROXY TCP4 192.0.2.1 192.0.2.53 4711 53 CR LF |
//!  v2  | signature (12) | 2, command | family, transport | length (2) | addresses | TLVs ... |
//!                         '-- 1 ----'  '------ 1 ------'                12, 36, 216   type (1), length (2), value
//! ```
//!
//! Who may send one is not decided here.

use std::fmt::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::base::addr::{Endpoint, mapped};
use crate::wire::proxy::crc::crc32c;

mod crc;

/// What a version 2 header begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a version 2 header in front of its payload.
pub const FIXED: usize = 16;
/// What a version 1 header begins with.
const LINE_START: &[u8] = b"PROXY ";
/// Bytes of the longest version 1 header, CR LF included.
pub const LINE_MAX: usize = 107;
/// Bytes of a TLV's type and length.
const TLV_HEAD: usize = 3;
/// Bytes of two UNIX addresses.
const UNIX: usize = 216;

/// Bytes behind the fixed part of a version 2 header that are taken unless the operator says
/// otherwise (`setProxyProtocolMaximumPayloadSize`).
pub const PAYLOAD_MAX: usize = 512;

/// Types of TLVs.
pub mod tlv {
    /// The protocol above TLS, as ALPN names it.
    pub const ALPN: u8 = 0x01;
    /// The host name that the client wanted (SNI).
    pub const AUTHORITY: u8 = 0x02;
    /// A checksum over the whole header.
    pub const CRC32C: u8 = 0x03;
    /// Nothing.
    pub const NOOP: u8 = 0x04;
    /// What tells the connection from others, at most 128 bytes.
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

/// Whether a header speaks of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// The sender speaks for itself: a health check. It has no addresses and no TLVs.
    Local,
    /// The sender passes on what somebody sent.
    Proxy,
}

/// How the client sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// By a connection.
    Stream,
    /// As a datagram.
    Datagram,
    /// The header does not say.
    Unspec,
}

/// A header of either version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'o> {
    /// Whether it speaks of a client.
    pub command: Command,
    /// How that client sent it.
    pub transport: Transport,
    /// The client; none when it is not said, or is no IP address.
    pub source: Option<Endpoint>,
    /// What the client asked; there whenever `source` is.
    pub destination: Option<Endpoint>,
    /// What else is said. Empty without a family of addresses, where nothing says what the bytes
    /// are.
    pub tlvs: Tlvs<'o>,
}

/// What bytes are that should begin with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'o> {
    /// All of them can belong to a header that goes on. In a datagram: no header.
    Incomplete,
    /// A whole header.
    Header {
        /// What it says.
        header: Header<'o>,
        /// Its bytes; what was proxied is behind them.
        len: usize,
    },
    /// No header: the connection is to be closed.
    Invalid(ProxyError),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyError {
    /// They begin with neither version's signature.
    NoSignature,
    /// The version is not 2, or the command is unknown.
    Version(u8),
    /// Family and transport are none that the protocol knows.
    Family(u8),
    /// This many bytes of payload are more than allowed.
    TooLong(usize),
    /// The payload is too short for the addresses.
    Addresses,
    /// The TLVs do not fill the payload.
    Tlvs,
    /// The checksum is wrong.
    Checksum,
    /// A line of version 1 is not as it must be, or too long.
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

/// TLVs that follow one another: types and values. A header's are known to be whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tlvs<'o>(&'o [u8]);

impl<'o> Tlvs<'o> {
    /// The TLVs that fill `bytes`; None when they do not.
    #[must_use]
    pub fn parse(bytes: &'o [u8]) -> Option<Self> {
        let mut rest = Self(bytes);
        while rest.next().is_some() {}
        rest.0.is_empty().then_some(Self(bytes))
    }

    /// Their bytes, as they came.
    #[must_use]
    pub const fn bytes(&self) -> &'o [u8] {
        self.0
    }

    /// The value of the first one of a type.
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

/// Reads the header that `bytes` begin with, of either version. `max`: bytes of payload that a
/// version 2 header may have behind its 16; a line of version 1 has at most 107 anyway.
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

/// Whether `bytes` begin as a header does: of version 2, or where a line can be, of version 1.
#[must_use]
pub fn is_header(bytes: &[u8], line_too: bool) -> bool {
    bytes.starts_with(SIGNATURE) || line_too && bytes.starts_with(LINE_START)
}

/// Whether `bytes` begin with `start`, as far as there are any.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, wanted)| byte == wanted)
}

/// A header and its bytes; none of it yet; or why there will be none.
type Reading<'o> = Result<Option<(Header<'o>, usize)>, ProxyError>;

fn parse_v2(bytes: &[u8], max: usize) -> Reading<'_> {
    // Each byte is judged as soon as it is there: a stranger is not waited for.
    let command = match bytes.get(SIGNATURE.len()) {
        None => return Ok(None),
        Some(0x20) => Command::Local,
        Some(0x21) => Command::Proxy,
        Some(other) => return Err(ProxyError::Version(*other)),
    };
    let Some(&family) = bytes.get(SIGNATURE.len() + 1) else { return Ok(None) };
    let (transport, addresses) = match (command, family) {
        // The family of a local one is to be ignored.
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

/// The two endpoints of a version 2 header; none of UNIX addresses.
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

/// Checks the checksums of a header whose TLVs begin at `at`: made with zeros in their place.
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

fn parse_v1(bytes: &[u8]) -> Reading<'_> {
    let most = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(end) = most.windows(2).position(|two| two == b"\r\n") else {
        return if most.len() < LINE_MAX { Ok(None) } else { Err(ProxyError::Line) };
    };
    let header = line(&most[LINE_START.len()..end]).ok_or(ProxyError::Line)?;
    Ok(Some((header, end + 2)))
}

/// What a line of version 1 says, without its beginning and its end.
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
        // Whatever else it says is to be ignored.
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

/// A port in digits, without a sign or zeros in front.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|b| b.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    plain.then(|| word.parse().ok())?
}

/// Appends a version 2 header. When one endpoint is IPv6 both are written as that. With
/// [`Transport::Unspec`] there are no addresses, and the TLVs will not be read by everybody.
///
/// A TLV of type CRC32C stands for the checksum, whatever its value: that of this header is
/// written, once. False, and nothing appended, when the TLVs do not fit in 65,535 bytes.
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

/// Appends the version 2 header of a health check: we speak for ourselves.
pub fn write_v2_local(out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[0x20, 0, 0, 0]);
}

/// Appends a version 1 header for a client that came by TCP. When one endpoint is IPv6 both are
/// written as that.
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
            // In groups of hexadecimal digits throughout, which mapped addresses would not be.
            let [a, b, c, d, e, f, g, h] = Ipv6Addr::from(ip).segments();
            write!(text, " {a:x}:{b:x}:{c:x}:{d:x}:{e:x}:{f:x}:{g:x}:{h:x}")
        };
    }
    let _ = write!(text, " {} {}\r\n", source.port, destination.port);
}

/// Appends a version 1 header that says nothing: that of a health check, or of a client that
/// has no TCP addresses.
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

/// The value of an SSL TLV: what is said of the client's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ssl<'o> {
    /// Bits: 1, the client came by TLS; 2, with a certificate on this connection; 4, with one in
    /// this session.
    pub client: u8,
    /// Whether it showed a certificate that was verified.
    pub verified: bool,
    /// What else is said: version, cipher, names.
    pub tlvs: Tlvs<'o>,
}

/// The value of an SSL TLV that says no more than that the client came by TLS. Its last four
/// bytes are not 0: that would be a certificate that was verified.
pub const SSL_PLAIN: [u8; 5] = [CLIENT_SSL, 0, 0, 0, 1];

/// The bit of [`Ssl::client`] for a client that came by TLS.
pub const CLIENT_SSL: u8 = 0x01;

impl<'o> Ssl<'o> {
    /// Reads the value of an SSL TLV; None when it is malformed.
    #[must_use]
    pub fn parse(value: &'o [u8]) -> Option<Self> {
        let (&[client, verify @ ..], rest) = value.split_first_chunk::<5>()?;
        Some(Self { client, verified: verify == [0; 4], tlvs: Tlvs::parse(rest)? })
    }
}

/// Appends the value of an SSL TLV for a client that came by TLS and showed no certificate
/// (`proxyProtocolAdvertiseTLS`); `version` as in "TLSv1.3". What is not known is left empty, and
/// then not said. False, and nothing appended, when a text is longer than 65,535 bytes.
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
