//! A frame of dnstap: a message as a name server saw it.
//!
//! ```text
//!  dnstap:  type = 1, message       (protobuf, https://dnstap.info/)
//!  message: type, family, protocol, addresses and ports, times, query or response
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::tools::capture::counts::Skip;
use crate::tools::capture::message::{Message, Protocol};
use crate::wire::header::Header;

/// A field's value.
#[derive(Clone, Copy, Debug)]
enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// Takes a number of at most ten bytes, seven bits in each.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..10 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// Takes a field of a protobuf message: its number and value.
fn field<'b>(bytes: &mut &'b [u8]) -> Option<(u64, Value<'b>)> {
    let key = varint(bytes)?;
    let length = match key & 7 {
        0 => return Some((key >> 3, Value::Number(varint(bytes)?))),
        1 => 8,
        2 => usize::try_from(varint(bytes)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let (value, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    match value {
        [a, b, c, d] if key & 7 == 5 => {
            Some((key >> 3, Value::Number(u32::from_le_bytes([*a, *b, *c, *d]).into())))
        }
        _ => Some((key >> 3, Value::Bytes(value))),
    }
}

/// What one side of a message says.
#[derive(Clone, Copy, Debug, Default)]
struct Half<'b> {
    seconds: u64,
    nanoseconds: u64,
    message: Option<&'b [u8]>,
}

impl Half<'_> {
    /// Returns its time, nanoseconds since 1970.
    const fn at(&self) -> u64 {
        self.seconds.saturating_mul(1_000_000_000).saturating_add(self.nanoseconds)
    }
}

/// Reads a frame.
pub(super) fn message(mut bytes: &[u8]) -> Result<Message<'_>, Skip> {
    let mut inner = None;
    while !bytes.is_empty() {
        if let (14, Value::Bytes(message)) = field(&mut bytes).ok_or(Skip::BadFrame)? {
            inner = Some(message);
        }
    }
    let mut bytes = inner.ok_or(Skip::BadFrame)?;
    let (mut kind, mut protocol) = (0, 1);
    let (mut addresses, mut ports) = ([None; 2], [0; 2]);
    let mut halves = [Half::default(); 2];
    while !bytes.is_empty() {
        match field(&mut bytes).ok_or(Skip::BadFrame)? {
            (1, Value::Number(n)) => kind = n,
            (3, Value::Number(n)) => protocol = n,
            (4, Value::Bytes(address)) => addresses[0] = ip(address),
            (5, Value::Bytes(address)) => addresses[1] = ip(address),
            (6, Value::Number(port)) => ports[0] = port as u16,
            (7, Value::Number(port)) => ports[1] = port as u16,
            (8, Value::Number(seconds)) => halves[0].seconds = seconds,
            (9, Value::Number(ns)) => halves[0].nanoseconds = ns,
            (10, Value::Bytes(message)) => halves[0].message = Some(message),
            (12, Value::Number(seconds)) => halves[1].seconds = seconds,
            (13, Value::Number(ns)) => halves[1].nanoseconds = ns,
            (14, Value::Bytes(message)) => halves[1].message = Some(message),
            _ => {}
        }
    }
    let is_response = match kind {
        // AUTH, CLIENT, STUB, TOOL, UPDATE: each has a query and a response.
        1 | 5 | 9 | 11 | 13 => false,
        2 | 6 | 10 | 12 | 14 => true,
        // RESOLVER, FORWARDER.
        3 | 4 | 7 | 8 => return Err(Skip::ResolverSide),
        _ => return Err(Skip::BadFrame),
    };
    let protocol = match protocol {
        1 => Protocol::Udp,
        2 => Protocol::Tcp,
        3 => Protocol::Tls,
        4 => Protocol::Https,
        5 | 6 => Protocol::DnsCrypt,
        7 => Protocol::Quic,
        _ => return Err(Skip::BadFrame),
    };
    let half = halves[usize::from(is_response)];
    let payload = half.message.ok_or(Skip::BadFrame)?;
    let header = Header::parse(payload).ok_or(Skip::NotDns)?;
    if header.is_response() != is_response {
        return Err(Skip::Direction);
    }
    if half.seconds == 0 {
        return Err(Skip::BadFrame);
    }
    let at = half.at();
    let asked = (is_response && halves[0].seconds > 0).then(|| halves[0].at());
    let known = addresses[0].or(addresses[1]);
    let unspecified: IpAddr = match known {
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Some(IpAddr::V4(_)) | None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let address = |side: usize| SocketAddr::new(addresses[side].unwrap_or(unspecified), ports[side]);
    let (client, server) = (address(0), address(1));
    Ok(Message { at, asked, client, server, protocol, connection: None, is_response, payload })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}
