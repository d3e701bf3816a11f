//! Files of dnstap: messages as a name server saw them, in frames of Frame Streams.
//!
//! ```text
//!  frame:   length | bytes          control frame: 0 | length | type | fields
//!  dnstap:  type = 1, message       (protobuf, https://dnstap.info/)
//!  message: type, family, protocol, addresses and ports, times, query or response
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::tools::capture::Step;
use crate::tools::capture::counts::Skip;
use crate::tools::capture::decode::Decoder;
use crate::tools::capture::error::Fault;
use crate::tools::capture::message::{Event, Message, Protocol};
use crate::tools::capture::stream::{Fill, Stream};
use crate::wire::header::Header;

/// Longest frame.
const FRAME_MAX: u32 = 1 << 20;
/// Longest control frame: libfstrm's FSTRM_CONTROL_FRAME_LENGTH_MAX.
const CONTROL_MAX: u32 = 512;
/// Types of control frames.
const START: u32 = 2;
const STOP: u32 = 3;
/// The field of a control frame that says what the frames contain.
const CONTENT_TYPE: u32 = 1;
const DNSTAP: &[u8] = b"protobuf:dnstap.Dnstap";

/// A file of this format.
#[derive(Debug, Default)]
pub(super) struct Dnstap {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    New,
    Started,
    Stopped,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default())
}

impl Dnstap {
    /// Returns whether a file that begins so is of this format: with a control frame.
    pub(super) fn is(magic: [u8; 4]) -> bool {
        magic == [0; 4]
    }

    /// Reads the next frame.
    pub(super) fn step(
        &mut self,
        stream: &mut Stream,
        decoder: &mut Decoder,
        visit: &mut impl FnMut(Event<'_>),
    ) -> Result<Step, Fault> {
        let fill = |stream: &mut Stream, what: &'static str, whole: usize| match stream.fill(whole) {
            Ok(Fill::Enough) => Ok(true),
            Ok(Fill::Idle) => Ok(false),
            Ok(Fill::Ended) => Err(Fault::Cut { what, there: stream.bytes().len(), whole }),
            Err(error) => Err(Fault::Read(error)),
        };
        if matches!(stream.fill(1), Ok(Fill::Ended)) {
            return Ok(Step::End);
        }
        if !fill(stream, "a frame's length", 4)? {
            return Ok(Step::Idle);
        }
        let length = word(stream.bytes(), 0);
        if length > 0 {
            match self.state {
                State::New => return Err(Fault::Format("a frame before the start")),
                State::Stopped => return Err(Fault::Format("a frame behind the stop")),
                State::Started => {}
            }
            if length > FRAME_MAX {
                return Err(Fault::Length { what: "a frame", length: length.into() });
            }
            let whole = 4 + length as usize;
            if !fill(stream, "a frame", whole)? {
                return Ok(Step::Idle);
            }
            decoder.frame(&stream.bytes()[4..whole], visit);
            stream.consume(whole);
            return Ok(Step::More);
        }
        if !fill(stream, "a control frame", 8)? {
            return Ok(Step::Idle);
        }
        let length = word(stream.bytes(), 4);
        if !(4..=CONTROL_MAX).contains(&length) {
            return Err(Fault::Length { what: "a control frame", length: length.into() });
        }
        let whole = 8 + length as usize;
        if !fill(stream, "a control frame", whole)? {
            return Ok(Step::Idle);
        }
        let control = &stream.bytes()[8..whole];
        match word(control, 0) {
            START => {
                if !is_dnstap(&control[4..]) {
                    return Err(Fault::Format("frames of something else than dnstap"));
                }
                // Another stream may follow the stop of the first, where files were joined.
                self.state = State::Started;
            }
            STOP => self.state = State::Stopped,
            _ => return Err(Fault::Format("a control frame that a file cannot have")),
        }
        stream.consume(whole);
        Ok(Step::More)
    }
}

/// Returns whether the fields of a start say dnstap, or nothing.
fn is_dnstap(mut fields: &[u8]) -> bool {
    while let Some((head, rest)) = fields.split_at_checked(8) {
        let (kind, length) = (word(head, 0), word(head, 4) as usize);
        let Some((value, rest)) = rest.split_at_checked(length) else { return false };
        if kind == CONTENT_TYPE && value != DNSTAP {
            return false;
        }
        fields = rest;
    }
    true
}

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
    let at = half.seconds.saturating_mul(1_000_000_000).saturating_add(half.nanoseconds);
    let known = addresses[0].or(addresses[1]);
    let unspecified: IpAddr = match known {
        Some(IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
        Some(IpAddr::V4(_)) | None => Ipv4Addr::UNSPECIFIED.into(),
    };
    let address = |side: usize| SocketAddr::new(addresses[side].unwrap_or(unspecified), ports[side]);
    let (client, server) = (address(0), address(1));
    Ok(Message { at, client, server, protocol, connection: None, is_response, payload })
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}
