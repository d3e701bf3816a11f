//! The classic format of tcpdump (draft-ietf-opsawg-pcap).
//!
//! ```text
//!  file:   magic | version 2.4 | 8 unused | most bytes of a packet | link
//!  packet: seconds | micro- or nanoseconds | captured | on the wire | the captured bytes
//! ```

use crate::tools::capture::error::Fault;
use crate::tools::capture::record::{Next, Record};
use crate::tools::capture::stream::{Fill, Stream};

const MAGIC_MICRO: u32 = 0xa1b2_c3d4;
const MAGIC_NANO: u32 = 0xa1b2_3c4d;
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// No packet is longer: libpcap's MAXIMUM_SNAPLEN.
const CAPTURED_MAX: u32 = 262_144;

/// A file of this format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pcap {
    big_endian: bool,
    /// Nanoseconds in a unit.
    unit: u64,
    link: u16,
}

impl Pcap {
    /// Returns whether a file that begins so is of this format.
    pub(super) fn is(magic: [u8; 4]) -> bool {
        Self::order(magic).is_some()
    }

    fn order(magic: [u8; 4]) -> Option<(bool, u64)> {
        [(false, u32::from_le_bytes(magic)), (true, u32::from_be_bytes(magic))].into_iter().find_map(
            |(big_endian, magic)| match magic {
                MAGIC_MICRO => Some((big_endian, 1_000)),
                MAGIC_NANO => Some((big_endian, 1)),
                _ => None,
            },
        )
    }

    /// Reads the header of the file; none while it is not there.
    pub(super) fn open(stream: &mut Stream) -> Result<Option<Self>, Fault> {
        match stream.fill(FILE_HEADER).map_err(Fault::Read)? {
            Fill::Idle => return Ok(None),
            Fill::Ended => {
                let there = stream.bytes().len();
                return Err(Fault::Cut { what: "the file's header", there, whole: FILE_HEADER });
            }
            Fill::Enough => {}
        }
        let header = &stream.bytes()[..FILE_HEADER];
        let magic = [header[0], header[1], header[2], header[3]];
        let Some((big_endian, unit)) = Self::order(magic) else { return Err(Fault::Unknown(magic)) };
        let mut pcap = Self { big_endian, unit, link: 0 };
        // The upper half may say that frames end with a checksum.
        pcap.link = pcap.u32(header, 20) as u16;
        if pcap.u32(header, 4) != pcap.version() {
            return Err(Fault::Foreign("a version of pcap other than 2.4"));
        }
        stream.consume(FILE_HEADER);
        Ok(Some(pcap))
    }

    const fn version(self) -> u32 {
        if self.big_endian { 2 << 16 | 4 } else { 4 << 16 | 2 }
    }

    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    /// Finds the next packet.
    #[inline]
    pub(super) fn next(self, stream: &mut Stream) -> Result<Next, Fault> {
        match stream.fill(PACKET_HEADER).map_err(Fault::Read)? {
            Fill::Idle => return Ok(Next::Idle),
            Fill::Ended => {
                return match stream.bytes().len() {
                    0 => Ok(Next::End),
                    there => Err(Fault::Cut { what: "a packet's header", there, whole: PACKET_HEADER }),
                };
            }
            Fill::Enough => {}
        }
        let header = &stream.bytes()[..PACKET_HEADER];
        let [seconds, part, captured, length] = [0, 4, 8, 12].map(|at| self.u32(header, at));
        if captured > CAPTURED_MAX {
            return Err(Fault::Length { what: "a packet", length: captured.into() });
        }
        let whole = PACKET_HEADER + captured as usize;
        match stream.fill(whole).map_err(Fault::Read)? {
            Fill::Idle => return Ok(Next::Idle),
            Fill::Ended => {
                return Err(Fault::Cut { what: "a packet", there: stream.bytes().len(), whole });
            }
            Fill::Enough => {}
        }
        Ok(Next::Record(Record {
            at: u64::from(seconds) * 1_000_000_000 + u64::from(part) * self.unit,
            link: self.link,
            front: PACKET_HEADER,
            captured: captured as usize,
            is_cut: captured < length,
            whole,
        }))
    }
}
