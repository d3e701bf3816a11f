//! From an IP packet to what it carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::tools::capture::counts::Skip;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Headers of IPv6 that another one follows (RFC 8200, 4; RFC 4302; RFC 6275).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
/// Most such headers of a packet.
const HEADERS_MAX: usize = 16;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'p> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What follows: UDP, TCP, or something else.
    pub(super) protocol: u8,
    pub(super) payload: &'p [u8],
    /// Whether the end of the payload was not captured.
    pub(super) is_cut: bool,
    /// None if the packet is whole.
    pub(super) fragment: Option<Fragment>,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub(super) id: u32,
    /// Bytes before it.
    pub(super) offset: usize,
    /// Whether others follow.
    pub(super) more: bool,
}

/// Reads the headers of a packet. What is behind it, as the padding of short frames, does not belong to
/// it.
#[inline]
pub(super) fn parse(bytes: &[u8], is_cut: bool) -> Result<Packet<'_>, Skip> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => v4(bytes, is_cut),
        Some(6) => v6(bytes, is_cut),
        Some(_) => Err(Skip::NotIp),
        None => Err(short(is_cut)),
    }
}

/// Returns why a header is incomplete.
const fn short(is_cut: bool) -> Skip {
    if is_cut { Skip::Cut } else { Skip::Malformed }
}

#[inline]
fn v4(bytes: &[u8], is_cut: bool) -> Result<Packet<'_>, Skip> {
    let header: &[u8; 20] = bytes.first_chunk().ok_or(short(is_cut))?;
    let header_len = usize::from(header[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // A sender whose network card makes segments leaves the length to it.
    let total = if total == 0 { bytes.len().max(header_len) } else { total };
    if header_len < 20 || total < header_len {
        return Err(Skip::Malformed);
    }
    let payload = bytes.get(header_len..total.min(bytes.len())).ok_or(short(is_cut))?;
    let is_cut = total > bytes.len();
    let part = u16::from_be_bytes([header[6], header[7]]);
    let fragment = (part & 0x3fff != 0).then(|| Fragment {
        id: u16::from_be_bytes([header[4], header[5]]).into(),
        offset: usize::from(part & 0x1fff) * 8,
        more: part & 0x2000 != 0,
    });
    let address =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into();
    Ok(Packet {
        source: address(12),
        destination: address(16),
        protocol: header[9],
        payload,
        is_cut,
        fragment,
    })
}

#[inline]
fn v6(bytes: &[u8], is_cut: bool) -> Result<Packet<'_>, Skip> {
    let (header, rest) = bytes.split_first_chunk::<40>().ok_or(short(is_cut))?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let length = if length == 0 { rest.len() } else { length };
    let payload = &rest[..length.min(rest.len())];
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets).into()
    };
    let mut packet = Packet {
        source: address(8),
        destination: address(24),
        protocol: header[6],
        payload,
        is_cut: length > rest.len(),
        fragment: None,
    };
    (packet.protocol, packet.payload, packet.fragment) = behind_headers(header[6], payload, packet.is_cut)?;
    Ok(packet)
}

/// Walks to what carries the payload, or to the fragment header: what is behind that is known when all
/// fragments are there.
pub(super) fn behind_headers(
    mut protocol: u8,
    mut payload: &[u8],
    is_cut: bool,
) -> Result<(u8, &[u8], Option<Fragment>), Skip> {
    for _ in 0..HEADERS_MAX {
        let length =
            |units: usize| move |&[next, length, ..]: &[u8; 8]| (next, 8 + usize::from(length) * units);
        let (next, length) = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => payload.first_chunk().map(length(8)),
            // Its length counts in words, and two of them less.
            AUTHENTICATION => payload.first_chunk().map(length(4)),
            FRAGMENT => {
                let (&[next, _, high, low, a, b, c, d], rest) =
                    payload.split_first_chunk().ok_or(short(is_cut))?;
                let part = u16::from_be_bytes([high, low]);
                let fragment = Fragment {
                    id: u32::from_be_bytes([a, b, c, d]),
                    offset: usize::from(part & 0xfff8),
                    more: part & 1 != 0,
                };
                if fragment.offset == 0 && !fragment.more {
                    // A fragment that is all of it (RFC 6946).
                    (protocol, payload) = (next, rest);
                    continue;
                }
                return Ok((next, rest, Some(fragment)));
            }
            _ => return Ok((protocol, payload, None)),
        }
        .ok_or(short(is_cut))?;
        (protocol, payload) = (next, payload.get(length..).ok_or(short(is_cut))?);
    }
    Err(Skip::Malformed)
}
