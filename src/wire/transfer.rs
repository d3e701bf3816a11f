//! The end of a zone transfer: AXFR (RFC 5936) and IXFR (RFC 1995) over many messages.
//!
//! ```text
//!  AXFR         SOA n | records ................................................. | SOA n
//!  IXFR         SOA n                                                  up to date, one message
//!               SOA n | records ................................................. | SOA n
//!               SOA n | SOA a | deleted | SOA b | added | SOA b | .... | SOA n | added | SOA n
//! ```
//!
//! Only the answer sections count, as one sequence of records; message boundaries are irrelevant. A
//! transfer is not stored, and its records are not validated beyond that.

use crate::wire::header::rcode::NOERROR;
use crate::wire::header::{self, Header};
use crate::wire::name;
use crate::wire::query::Question;
use crate::wire::records::{Record, Records, Section, rtype};

/// The question type of an incremental transfer (RFC 1995).
pub const IXFR: u16 = 251;
/// The question type of a full transfer (RFC 5936).
pub const AXFR: u16 = 252;

/// Bytes of an SOA's numbers; the serial is the first.
const NUMBERS: usize = 20;

/// Returns whether a query of this type is answered by a transfer.
#[must_use]
pub const fn is_transfer(qtype: u16) -> bool {
    matches!(qtype, IXFR | AXFR)
}

/// Returns the type of a query that requests a transfer.
#[must_use]
pub fn requested(query: &[u8]) -> Option<u16> {
    let rest = query.get(name::end_plain(query, header::LEN)?..)?;
    let &[high, low, _, _] = rest.first_chunk()?;
    Some(u16::from_be_bytes([high, low])).filter(|qtype| is_transfer(*qtype))
}

/// Returns the serial of the client's zone, from the SOA in the authority section of its IXFR
/// query. `None` when it is no such query, or has none that can be parsed.
#[must_use]
pub fn ixfr_serial(query: &[u8]) -> Option<u32> {
    Question::parse(query).filter(|question| question.qtype == IXFR && question_count(query) > 0)?;
    let soa = Records::of(query).find(|r| r.section == Section::Authority && r.rtype == rtype::SOA)?;
    serial(query, &soa)
}

fn question_count(message: &[u8]) -> u16 {
    Header::parse(message).map_or(0, |head| head.qdcount())
}

/// The state of a transfer after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More messages follow.
    More,
    /// This was the last one.
    Finished,
    /// This is no transfer: malformed, or after its end. Later messages cannot be told from other
    /// answers: the connection must not be used any more.
    Broken,
}

/// Tracks one transfer from its first message to its last.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    is_ixfr: bool,
    /// The client's serial.
    query_serial: Option<u32>,
    at: At,
}

/// The position of a transfer in its sequence of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// No record yet.
    Start,
    /// After the first SOA of an IXFR: the next record decides its style.
    Style { new: u32 },
    /// In the records of a full zone.
    Whole { new: u32 },
    /// In the records that a difference deletes.
    Deleted { new: u32 },
    /// In the records that a difference adds up to serial `to`.
    Added { new: u32, to: u32 },
    /// The records are in no sequence that a transfer has: they are for the client to judge. Only the
    /// server can end it.
    Unknown,
    /// After the last SOA.
    End,
}

impl Transfer {
    /// Creates the transfer of a query of this type. `query_serial` is that of an IXFR query
    /// ([`ixfr_serial`]). Without it, a first message with a single SOA is taken for the whole
    /// transfer.
    #[must_use]
    pub const fn new(query_type: u16, query_serial: Option<u32>) -> Self {
        Self { is_ixfr: query_type == IXFR, query_serial, at: At::Start }
    }

    /// Takes the next message of the transfer, which matches its query by id and question.
    ///
    /// A response code other than NOERROR ends the transfer, as does a first message without
    /// records: there is no transfer, but the answer is valid. Later messages need no question (RFC
    /// 5936, 2.2.1).
    pub fn on_message(&mut self, message: &[u8]) -> Progress {
        let progress = self.read(message).unwrap_or(Progress::Broken);
        if progress != Progress::More {
            self.at = At::End;
        }
        progress
    }

    /// Returns `None` when the transfer is broken.
    fn read(&mut self, message: &[u8]) -> Option<Progress> {
        let head = Header::parse(message).filter(Header::is_response)?;
        let is_first = self.at == At::Start;
        let (mut answers, mut failed) = (0_u32, head.rcode() != NOERROR);
        if self.at == At::End {
            return None;
        }
        let mut records = Records::of(message);
        for record in records.by_ref() {
            if record.section == Section::Answer && !failed {
                self.at = self.at.step(message, &record, self.is_ixfr)?;
                answers += 1;
            } else if is_opt(message, &record) {
                // The upper eight bits of the response code.
                failed |= record.ttl >> 24 != 0;
            }
        }
        if !records.whole() {
            return None;
        }
        let is_over = match self.at {
            _ if failed => true,
            At::Start | At::End => true,
            At::Style { new } if is_first && answers == 1 => {
                // The client has this serial, or a later one (RFC 1982, 3.2).
                self.query_serial.is_none_or(|has| has.wrapping_sub(new) < 1 << 31)
            }
            At::Style { .. } | At::Whole { .. } | At::Deleted { .. } | At::Added { .. } | At::Unknown => {
                false
            }
        };
        Some(if is_over { Progress::Finished } else { Progress::More })
    }
}

impl At {
    /// Returns the position after one more record; `None` when that cannot be parsed.
    fn step(self, message: &[u8], record: &Record, is_ixfr: bool) -> Option<Self> {
        if record.rtype != rtype::SOA {
            return Some(match self {
                Self::Start | Self::Unknown | Self::End => Self::Unknown,
                Self::Style { new } => Self::Whole { new },
                Self::Whole { .. } | Self::Deleted { .. } | Self::Added { .. } => self,
            });
        }
        let serial = serial(message, record)?;
        Some(match self {
            Self::Start if is_ixfr => Self::Style { new: serial },
            Self::Start => Self::Whole { new: serial },
            // A zone that consists of its SOA, in full.
            Self::Style { new } if serial == new => Self::End,
            Self::Style { new } => Self::Deleted { new },
            Self::Whole { new } if serial == new => Self::End,
            Self::Deleted { new } => Self::Added { new, to: serial },
            // The next difference begins where this one ended.
            Self::Added { new, to } if serial == to && to == new => Self::End,
            Self::Added { new, to } if serial == to => Self::Deleted { new },
            Self::Whole { .. } | Self::Added { .. } | Self::Unknown | Self::End => Self::Unknown,
        })
    }
}

fn is_opt(message: &[u8], record: &Record) -> bool {
    record.section == Section::Additional
        && record.rtype == rtype::OPT
        && message.get(record.start) == Some(&0)
}

/// Returns the serial of an SOA; `None` when its data are not two names and five numbers.
fn serial(message: &[u8], soa: &Record) -> Option<u32> {
    let numbers = name::end(message, name::end(message, soa.rdata.start)?)?;
    if numbers + NUMBERS != soa.rdata.end {
        return None;
    }
    message.get(numbers..)?.first_chunk().map(|serial| u32::from_be_bytes(*serial))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Progress::{Broken, Finished, More};
    use proptest::prelude::*;

    /// Builds a record of the question's name: an SOA with this serial, or an address.
    fn record(soa: Option<u32>) -> Vec<u8> {
        let (rtype, data) = match soa {
            Some(serial) => {
                (rtype::SOA, [&b"\xc0\x0c\x02ns\xc0\x0c"[..], &serial.to_be_bytes(), &[0; 16]].concat())
            }
            None => (rtype::A, vec![192, 0, 2, 1]),
        };
        let length = (data.len() as u16).to_be_bytes();
        [&b"\xc0\x0c"[..], &rtype.to_be_bytes(), b"\0\x01\0\0\x0e\x10", &length, &data].concat()
    }

    const TSIG: &[u8] = b"\0\0\xfa\0\xff\0\0\0\0\0\x01x";

    /// Builds a message of a transfer with these answers, followed by a TSIG.
    fn message(answers: &[Option<u32>]) -> Vec<u8> {
        let mut out = b"\0\x01\x84\0\0\x01\0\0\0\0\0\x01\x01a\0\0\xfb\0\x01".to_vec();
        out[6..8].copy_from_slice(&(answers.len() as u16).to_be_bytes());
        out.extend(answers.iter().flat_map(|soa| record(*soa)));
        out.extend(TSIG);
        out
    }

    /// Returns the state of one transfer after each of these messages.
    fn run(mut transfer: Transfer, messages: &[&[Option<u32>]]) -> Vec<Progress> {
        messages.iter().map(|answers| transfer.on_message(&message(answers))).collect()
    }

    const A: Option<u32> = None;

    const fn soa(serial: u32) -> Option<u32> {
        Some(serial)
    }

    #[test]
    fn a_full_transfer_ends_at_the_second_soa() {
        let axfr = || Transfer::new(AXFR, None);
        assert_eq!(run(axfr(), &[&[soa(7), A, A, soa(7)]]), [Finished]);
        assert_eq!(run(axfr(), &[&[soa(7), soa(7)]]), [Finished]);
        assert_eq!(
            run(axfr(), &[&[soa(7)], &[A, A], &[], &[A], &[soa(7)]]),
            [More, More, More, More, Finished]
        );
        assert_eq!(run(axfr(), &[&[soa(7), soa(7)], &[A]]), [Finished, Broken]);
        assert_eq!(run(axfr(), &[&[]]), [Finished]);
    }

    #[test]
    fn an_incremental_transfer_ends_according_to_its_style() {
        let ixfr = || Transfer::new(IXFR, Some(5));
        // Up to date, or ahead.
        assert_eq!(run(ixfr(), &[&[soa(5)]]), [Finished]);
        assert_eq!(run(ixfr(), &[&[soa(4)]]), [Finished]);
        assert_eq!(run(Transfer::new(IXFR, Some(3)), &[&[soa(u32::MAX)]]), [Finished]);
        assert_eq!(run(Transfer::new(IXFR, None), &[&[soa(7)]]), [Finished]);
        // A newer one that begins with its SOA alone.
        assert_eq!(run(ixfr(), &[&[soa(7)], &[A, soa(7)]]), [More, Finished]);
        assert_eq!(run(Transfer::new(IXFR, Some(u32::MAX)), &[&[soa(3)], &[soa(3)]]), [More, Finished]);
        // The full zone.
        assert_eq!(run(ixfr(), &[&[soa(7), A, A], &[soa(7)]]), [More, Finished]);
        assert_eq!(run(ixfr(), &[&[soa(7), soa(7)]]), [Finished]);
        // One difference, and two of which the first adds nothing and the second deletes nothing.
        assert_eq!(run(ixfr(), &[&[soa(7), soa(5), A, soa(7), A, soa(7)]]), [Finished]);
        assert_eq!(
            run(ixfr(), &[&[soa(7), soa(5), A, soa(6), soa(6), soa(7), A], &[soa(7)]]),
            [More, Finished]
        );
        assert_eq!(run(ixfr(), &[&[soa(7), soa(5), soa(7)], &[], &[soa(7)]]), [More, More, Finished]);
    }

    #[test]
    fn records_in_no_sequence_of_a_transfer_are_passed_on_until_the_server_ends_it() {
        let axfr = || Transfer::new(AXFR, None);
        let ixfr = || Transfer::new(IXFR, Some(5));
        assert_eq!(run(axfr(), &[&[A], &[soa(7), A], &[soa(7)]]), [More, More, More]);
        assert_eq!(run(axfr(), &[&[A, soa(7)]]), [More]);
        assert_eq!(run(axfr(), &[&[soa(7), A], &[A, soa(8)], &[A]]), [More, More, More]);
        assert_eq!(run(axfr(), &[&[soa(7), soa(7), A]]), [More]);
        assert_eq!(run(ixfr(), &[&[soa(7), soa(5), A, soa(6), A, soa(7)]]), [More]);
        assert_eq!(run(ixfr(), &[&[soa(7), soa(5), soa(7), soa(7), A]]), [More]);
        assert_eq!(run(ixfr(), &[&[A]]), [More]);
    }

    #[test]
    fn an_error_ends_a_transfer() {
        let mut refused = message(&[]);
        refused[3] |= 5;
        let mut late = message(&[A]);
        late[3] |= 2;
        assert_eq!(Transfer::new(AXFR, None).on_message(&refused), Finished);
        let mut transfer = Transfer::new(AXFR, None);
        assert_eq!(transfer.on_message(&message(&[soa(7), A])), More);
        assert_eq!((transfer.on_message(&late), transfer.on_message(&late)), (Finished, Broken));
        // Response code 16, which is 0 in the header.
        let mut bad_version = message(&[]);
        bad_version.truncate(bad_version.len() - TSIG.len());
        bad_version.extend(b"\0\0\x29\x04\xd0\x01\0\0\0\0\0");
        transfer = Transfer::new(AXFR, None);
        assert_eq!(transfer.on_message(&message(&[soa(7), A])), More);
        assert_eq!(transfer.on_message(&bad_version), Finished);
    }

    #[test]
    fn later_messages_need_no_question() {
        let mut transfer = Transfer::new(AXFR, None);
        assert_eq!(transfer.on_message(&message(&[soa(7), A])), More);
        let plain = b"\0\x01\x84\0\0\0\0\x01\0\0\0\0\x01a\0\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01";
        assert_eq!(transfer.on_message(plain), More);
        let data = [&b"\0\0\0\0\0\x07"[..], &[0; 16]].concat();
        let last =
            [&b"\0\x01\x84\0\0\0\0\x01\0\0\0\0\x01a\0\0\x06\0\x01\0\0\x0e\x10\0\x16"[..], &data].concat();
        assert_eq!(transfer.on_message(&last), Finished);
    }

    #[test]
    fn invalid_records_break_a_transfer() {
        let whole = message(&[soa(7), A, soa(7)]);
        for cut in 0..whole.len() {
            assert_eq!(Transfer::new(AXFR, None).on_message(&whole[..cut]), Broken, "cut at {cut}");
        }
        let mut query = whole.clone();
        query[2] &= 0x7f;
        assert_eq!(Transfer::new(AXFR, None).on_message(&query), Broken);
        // An SOA whose names and numbers do not fill its data.
        for data in [&b"\0\0\0\0\0\x07"[..], b"\0", b"\x3f", b""] {
            let mut odd = b"\0\x01\x84\0\0\0\0\x01\0\0\0\0\x01a\0\0\x06\0\x01\0\0\x0e\x10\0".to_vec();
            odd.push(data.len() as u8);
            odd.extend(data);
            assert_eq!(Transfer::new(AXFR, None).on_message(&odd), Broken, "{data:?}");
        }
    }

    #[test]
    fn the_clients_serial_is_in_its_query() {
        let soa = record(Some(41));
        let query = [b"\0\x01\0\0\0\x01\0\0\0\x01\0\0\x01a\0\0\xfb\0\x01", &soa[..]].concat();
        assert_eq!(ixfr_serial(&query), Some(41));
        let mut axfr = query.clone();
        axfr[16] = 252;
        assert_eq!((ixfr_serial(&axfr), ixfr_serial(&query[..30]), ixfr_serial(b"")), (None, None, None));
        let in_answer = [b"\0\x01\0\0\0\x01\0\x01\0\0\0\0\x01a\0\0\xfb\0\x01", &soa[..]].concat();
        assert_eq!(ixfr_serial(&in_answer), None);
        assert!(is_transfer(AXFR) && is_transfer(IXFR) && !is_transfer(rtype::SOA));
    }

    /// Generates the records of a transfer from serial 5 on, of any style.
    fn transfers() -> impl Strategy<Value = (Transfer, Vec<Option<u32>>)> {
        let whole = (any::<bool>(), 0_usize..20).prop_map(|(is_ixfr, count)| {
            let transfer = Transfer::new(if is_ixfr { IXFR } else { AXFR }, is_ixfr.then_some(5));
            let records = std::iter::once(soa(9)).chain(vec![A; count]).chain([soa(9)]);
            (transfer, records.collect())
        });
        let differences = prop::collection::vec((0_usize..4, 0_usize..4), 1..6).prop_map(|steps| {
            let last = 5 + steps.len() as u32;
            let mut records = vec![soa(last)];
            for (from, (deleted, added)) in (5..).zip(steps) {
                records.push(soa(from));
                records.extend(vec![A; deleted]);
                records.push(soa(from + 1));
                records.extend(vec![A; added]);
            }
            records.push(soa(last));
            (Transfer::new(IXFR, Some(5)), records)
        });
        prop_oneof![whole, differences]
    }

    proptest! {
        #[test]
        fn a_transfer_ends_with_its_last_message_at_any_segmentation(
            (transfer, records) in transfers(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut places: Vec<_> = cuts.iter().map(|cut| 1 + cut.index(records.len() - 1)).collect();
            places.extend([0, records.len()]);
            places.sort_unstable();
            places.dedup();
            let messages: Vec<_> = places.windows(2).map(|cut| &records[cut[0]..cut[1]]).collect();
            let mut expected = vec![More; messages.len() - 1];
            expected.push(Finished);
            prop_assert_eq!(run(transfer, &messages), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..60) {
            let mut bytes = bytes;
            let whole = message(&[soa(7), soa(5), A]);
            bytes.splice(0..0, whole[..at.min(whole.len())].iter().copied());
            let mut transfer = Transfer::new(IXFR, ixfr_serial(&bytes));
            if transfer.on_message(&bytes) != More {
                prop_assert_eq!(transfer.on_message(&bytes), Broken);
            }
        }
    }
}
