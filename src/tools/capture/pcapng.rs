//! The format of Wireshark (draft-ietf-opsawg-pcapng): sections of blocks, each with its interfaces.
//!
//! ```text
//!  block: type | length of the block | content, padded to 4 bytes | length of the block
//! ```

use crate::tools::capture::error::Fault;
use crate::tools::capture::record::{Next, Record};
use crate::tools::capture::stream::{Fill, Stream};

/// Block types.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
/// An older form of `ENHANCED_PACKET`.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Tells a section's byte order.
const ORDER: u32 = 0x1a2b_3c4d;
/// Bytes around a block's content.
const AROUND: usize = 12;
/// Options of an interface.
const END_OF_OPTIONS: u16 = 0;
const RESOLUTION: u16 = 9;
const OFFSET: u16 = 14;
/// Longest block: as Wireshark has it.
const BLOCK_MAX: u32 = 16 << 20;
/// Most interfaces of a section: older packet blocks cannot name more.
const INTERFACES_MAX: usize = 65_536;

/// A file of this format.
#[derive(Debug, Default)]
pub(super) struct Pcapng {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// The time of the last packet, for those without one.
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    /// Most bytes of a packet; 0 without a limit.
    captured_max: u32,
    unit: Unit,
    /// Seconds that are added to each time.
    offset: i64,
}

/// Units of time in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Decimal(u8),
    Binary(u8),
}

impl Unit {
    /// Returns nanoseconds.
    fn nanoseconds(self, time: u64) -> u64 {
        let ns = match self {
            Self::Decimal(digits @ 0..=9) => u128::from(time) * 10_u128.pow(9 - u32::from(digits)),
            Self::Decimal(digits) => {
                10_u128.checked_pow(u32::from(digits) - 9).map_or(0, |d| u128::from(time) / d)
            }
            Self::Binary(bits) => (u128::from(time) * 1_000_000_000).checked_shr(bits.into()).unwrap_or(0),
        };
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

impl Pcapng {
    /// Returns whether a file that begins so is of this format.
    pub(super) fn is(magic: [u8; 4]) -> bool {
        u32::from_le_bytes(magic) == SECTION
    }

    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    fn u16(&self, bytes: &[u8], at: usize) -> u16 {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        if self.big_endian { u16::from_be_bytes(word) } else { u16::from_le_bytes(word) }
    }

    /// Finds the next block.
    pub(super) fn next(&mut self, stream: &mut Stream) -> Result<Next, Fault> {
        match stream.fill(AROUND).map_err(Fault::Read)? {
            Fill::Idle => return Ok(Next::Idle),
            Fill::Ended => {
                return match stream.bytes().len() {
                    0 => Ok(Next::End),
                    there => Err(Fault::Cut { what: "a block", there, whole: AROUND }),
                };
            }
            Fill::Enough => {}
        }
        let bytes = stream.bytes();
        let mut big_endian = self.big_endian;
        let kind = self.u32(bytes, 0);
        if kind == SECTION {
            // Its type reads the same in both orders; the order stands behind the length.
            let order = [bytes[8], bytes[9], bytes[10], bytes[11]];
            big_endian = match (u32::from_le_bytes(order), u32::from_be_bytes(order)) {
                (ORDER, _) => false,
                (_, ORDER) => true,
                _ => return Err(Fault::Format("a section without its byte order")),
            };
        }
        self.big_endian = big_endian;
        let length = self.u32(bytes, 4);
        if length > BLOCK_MAX || (length as usize) < AROUND || !length.is_multiple_of(4) {
            return Err(Fault::Length { what: "a block", length: length.into() });
        }
        let whole = length as usize;
        match stream.fill(whole).map_err(Fault::Read)? {
            Fill::Idle => return Ok(Next::Idle),
            Fill::Ended => return Err(Fault::Cut { what: "a block", there: stream.bytes().len(), whole }),
            Fill::Enough => {}
        }
        let block = &stream.bytes()[..whole];
        if self.u32(block, whole - 4) != length {
            return Err(Fault::Format("a block whose two lengths differ"));
        }
        let content = &block[8..whole - 4];
        match kind {
            SECTION => {
                if self.u16(content, 4) != 1 {
                    return Err(Fault::Foreign("a version of pcapng other than 1"));
                }
                self.interfaces.clear();
                Ok(Next::Other(whole))
            }
            INTERFACE => {
                if self.interfaces.len() == INTERFACES_MAX {
                    return Err(Fault::Foreign("too many interfaces"));
                }
                let interface = self.interface(content)?;
                self.interfaces.push(interface);
                Ok(Next::Other(whole))
            }
            ENHANCED_PACKET => self.packet(self.u32(content, 0) as usize, content, whole),
            PACKET => self.packet(usize::from(self.u16(content, 0)), content, whole),
            SIMPLE_PACKET => self.simple_packet(content, whole),
            _ => Ok(Next::Other(whole)),
        }
    }

    fn interface(&self, content: &[u8]) -> Result<Interface, Fault> {
        let Some(mut options) = content.get(8..) else {
            return Err(Fault::Format("an interface without its link"));
        };
        let mut interface = Interface {
            link: self.u16(content, 0),
            captured_max: self.u32(content, 4),
            unit: Unit::Decimal(6),
            offset: 0,
        };
        while let Some(head) = options.get(..4) {
            let (code, length) = (self.u16(head, 0), usize::from(self.u16(head, 2)));
            let Some(value) = options.get(4..4 + length) else { break };
            match (code, value) {
                (END_OF_OPTIONS, _) => break,
                (RESOLUTION, [bits @ 0x80..=0xff, ..]) => interface.unit = Unit::Binary(bits & 0x7f),
                (RESOLUTION, [digits, ..]) => interface.unit = Unit::Decimal(*digits),
                (OFFSET, &[a, b, c, d, e, f, g, h]) => {
                    let bytes = [a, b, c, d, e, f, g, h];
                    interface.offset =
                        if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
                }
                _ => {}
            }
            let Some(rest) = options.get(4 + length.next_multiple_of(4)..) else { break };
            options = rest;
        }
        Ok(interface)
    }

    /// A packet with its time; `content` is that of its block.
    fn packet(&mut self, interface: usize, content: &[u8], whole: usize) -> Result<Next, Fault> {
        let Some(interface) = self.interfaces.get(interface) else {
            return Err(Fault::Format("a packet of an interface that the section does not have"));
        };
        let (high, low) = (self.u32(content, 4), self.u32(content, 8));
        let (captured, length) = (self.u32(content, 12), self.u32(content, 16));
        if content.len() < 20 || captured as usize > content.len() - 20 {
            return Err(Fault::Length { what: "a packet", length: captured.into() });
        }
        let ns = interface.unit.nanoseconds(u64::from(high) << 32 | u64::from(low));
        let at = ns.saturating_add_signed(interface.offset.saturating_mul(1_000_000_000));
        self.last = at;
        let (link, front) = (interface.link, 28);
        Ok(Next::Record(Record {
            at,
            link,
            front,
            captured: captured as usize,
            is_cut: captured < length,
            whole,
        }))
    }

    /// A packet without a time, of the first interface: it gets that of the packet before it.
    fn simple_packet(&self, content: &[u8], whole: usize) -> Result<Next, Fault> {
        let Some(interface) = self.interfaces.first() else {
            return Err(Fault::Format("a packet of an interface that the section does not have"));
        };
        let (Some(bytes), length) = (content.get(4..), self.u32(content, 0)) else {
            return Err(Fault::Format("a packet without its length"));
        };
        let limit = if interface.captured_max == 0 { u32::MAX } else { interface.captured_max };
        let captured = (length.min(limit) as usize).min(bytes.len());
        let is_cut = captured < length as usize;
        Ok(Next::Record(Record { at: self.last, link: interface.link, front: 12, captured, is_cut, whole }))
    }
}
