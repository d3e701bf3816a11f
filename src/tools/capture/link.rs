//! From a link's frame to the IP packet in it.

use crate::tools::capture::counts::Skip;

/// Links, as <https://www.tcpdump.org/linktypes.html> numbers them.
pub(super) mod number {
    /// BSD loopback: a protocol family in the order of the host.
    pub(in super::super) const NULL: u16 = 0;
    pub(in super::super) const ETHERNET: u16 = 1;
    /// IP without a frame, and what some systems write for it.
    pub(in super::super) const RAW: u16 = 101;
    pub(in super::super) const RAW_BSD: u16 = 12;
    pub(in super::super) const RAW_OPENBSD: u16 = 14;
    /// As `NULL`, in network order.
    pub(in super::super) const LOOP: u16 = 108;
    /// `tcpdump -i any` on Linux, first and second version.
    pub(in super::super) const LINUX_SLL: u16 = 113;
    pub(in super::super) const LINUX_SLL2: u16 = 276;
    pub(in super::super) const IPV4: u16 = 228;
    pub(in super::super) const IPV6: u16 = 229;
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Tags of virtual networks: IEEE 802.1Q, 802.1ad, and two that were used before it.
const ETHERTYPE_TAGS: [u16; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
/// Most tags of a frame.
const TAGS_MAX: usize = 8;
/// AF_INET everywhere, and AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS.
const FAMILIES: [u32; 5] = [2, 10, 24, 28, 30];

/// Returns the IP packet in a frame.
#[inline]
pub(super) fn packet(link: u16, frame: &[u8]) -> Result<&[u8], Skip> {
    match link {
        number::ETHERNET => of_type(frame, 12),
        number::LINUX_SLL => of_type(frame, 14),
        number::LINUX_SLL2 => {
            let kind = frame.first_chunk().ok_or(Skip::Malformed)?;
            behind_tags(u16::from_be_bytes(*kind), frame.get(20..).ok_or(Skip::Malformed)?)
        }
        number::RAW | number::RAW_BSD | number::RAW_OPENBSD | number::IPV4 | number::IPV6 => Ok(frame),
        number::NULL | number::LOOP => {
            let (family, packet) = frame.split_first_chunk().ok_or(Skip::Malformed)?;
            let known = [u32::from_le_bytes(*family), u32::from_be_bytes(*family)];
            if known.iter().any(|f| FAMILIES.contains(f)) { Ok(packet) } else { Err(Skip::NotIp) }
        }
        _ => Err(Skip::UnknownLink),
    }
}

/// Returns the packet behind a type that stands at the end of a frame's header.
#[inline]
fn of_type(frame: &[u8], at: usize) -> Result<&[u8], Skip> {
    let (kind, packet) = frame.get(at..).and_then(<[u8]>::split_first_chunk).ok_or(Skip::Malformed)?;
    behind_tags(u16::from_be_bytes(*kind), packet)
}

/// Returns the packet of a type, which may stand behind tags.
#[inline]
pub(super) fn behind_tags(mut kind: u16, mut packet: &[u8]) -> Result<&[u8], Skip> {
    for _ in 0..=TAGS_MAX {
        if kind == ETHERTYPE_IPV4 || kind == ETHERTYPE_IPV6 {
            return Ok(packet);
        }
        if !ETHERTYPE_TAGS.contains(&kind) {
            return Err(Skip::NotIp);
        }
        let &[_, _, high, low, ref rest @ ..] = packet else { return Err(Skip::Malformed) };
        (kind, packet) = (u16::from_be_bytes([high, low]), rest);
    }
    Err(Skip::Malformed)
}
