//! Each planted difference is found, and no other.

use proptest::prelude::*;

use super::*;
use crate::wire::edns;
use crate::wire::records::rtype;

/// A record as it is written.
#[derive(Clone, Debug)]
struct Written {
    owner: Vec<u8>,
    rtype: u16,
    ttl: u32,
    data: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Answer {
    flags: [u8; 2],
    sections: [Vec<Written>; 3],
    opt: Option<Vec<u8>>,
}

const QNAME: &[u8] = b"\x03www\x07example\0";

impl Answer {
    /// Writes the message; with `compress`, owners and names that equal the question are pointers.
    fn wire(&self, compress: bool, upper: bool) -> Vec<u8> {
        let [answer, authority, additional] = &self.sections;
        let additional_count = additional.len() + usize::from(self.opt.is_some());
        let mut out = vec![0xab, 0xcd, self.flags[0] | 0x80, self.flags[1], 0, 1];
        for count in [answer.len(), authority.len(), additional_count] {
            out.extend((count as u16).to_be_bytes());
        }
        out.extend(QNAME);
        out.extend([0, 1, 0, 1]);
        for record in self.sections.iter().flatten() {
            let name = |out: &mut Vec<u8>, name: &[u8]| {
                if compress && name == QNAME {
                    out.extend([0xc0, 12]);
                } else if upper {
                    out.extend(name.to_ascii_uppercase());
                } else {
                    out.extend(name);
                }
            };
            name(&mut out, &record.owner);
            out.extend(record.rtype.to_be_bytes());
            out.extend([0, 1]);
            out.extend(record.ttl.to_be_bytes());
            let at = out.len();
            out.extend([0, 0]);
            match record.rtype {
                rtype::CNAME | rtype::NS => name(&mut out, &record.data),
                rtype::MX => {
                    out.extend(&record.data[..2]);
                    name(&mut out, &record.data[2..]);
                }
                _ => out.extend(&record.data),
            }
            let length = (out.len() - at - 2) as u16;
            out[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        if let Some(opt) = &self.opt {
            out.extend(opt);
        }
        out
    }
}

#[test]
fn examples_name_the_records_that_differ() {
    let record = |rtype, data: &[u8]| Written { owner: QNAME.to_vec(), rtype, ttl: 60, data: data.to_vec() };
    let answer = |records: Vec<Written>| {
        let sections = [records, Vec::new(), Vec::new()];
        Answer { flags: [0x81, 0x80], sections, opt: None }.wire(true, false)
    };
    let said = |first: &[u8], second: &[u8]| {
        describe(&Comparer::new(Aspects::all()).compare(first, second), first, second)
    };
    let ns = record(rtype::NS, b"\x02ns\0");
    let first = answer(vec![ns, record(rtype::A, &[192, 0, 2, 1])]);
    let second = answer(vec![record(rtype::A, &[192, 0, 2, 9])]);
    let text = said(&first, &second);
    assert!(text.contains("without www.example. NS ns."), "{text}");
    assert!(text.contains("www.example. A 192.0.2.1, then www.example. A 192.0.2.9"), "{text}");

    let soa = |serial: u8| {
        let names = b"\x02ns\x07example\0\x0ahostmaster\x07example\0".to_vec();
        answer(vec![record(rtype::SOA, &[&names[..], &[0; 3], &[serial], &[0; 16]].concat())])
    };
    let text = said(&soa(1), &soa(2));
    assert!(text.contains("SOA ns.example. hostmaster.example. 1 0 0 0 0, then"), "{text}");
    assert!(text.contains(" hostmaster.example. 2 0 0 0 0"), "{text}");

    let long = |last: u8| answer(vec![record(10, &[&[b'a'; 60][..], &[last]].concat())]);
    let text = said(&long(0xb1), &long(0xb2));
    assert!(text.contains("…61616161b1"), "{text}");
    assert!(text.contains("…61616161b2"), "{text}");

    let txt = |last: u8| answer(vec![record(rtype::TXT, &[2, b'a', b'"', 1, last])]);
    let text = said(&txt(b'1'), &txt(b'2'));
    assert_eq!(text, r#"www.example. TXT "a\"" "1", then www.example. TXT "a\"" "2""#);
}

#[test]
fn records_that_are_there_twice_are_one() {
    let mut twice = sample();
    let again = twice.sections[0][1].clone();
    twice.sections[0].push(again);
    let (once, twice) = (sample().wire(true, false), twice.wire(true, false));
    assert_eq!(classes_of(Aspects::default(), &once, &twice), []);
    assert_eq!(classes_of(Aspects::default(), &twice, &once), []);
}

#[test]
fn another_order_and_another_opt_record_are_described() {
    let first = sample();
    let mut second = sample();
    second.sections[0].swap(0, 1);
    second.opt = Some(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x06\0\x03\0\x02ns".to_vec());
    let (first, second) = (first.wire(true, false), second.wire(true, true));
    let found = Comparer::new(Aspects::all()).compare(&first, &second);
    assert_eq!(
        describe(&found, &first, &second),
        "in one place www.example. A 192.0.2.1, then www.example. A 192.0.2.2; OPT none, then 1232 DO with \
         options 3 of 2 bytes"
    );
}

fn classes_of(aspects: Aspects, first: &[u8], second: &[u8]) -> Vec<Class> {
    Comparer::new(aspects).compare(first, second).classes.iter().collect()
}

fn classes(first: &[u8], second: &[u8]) -> Vec<Class> {
    let found = Comparer::new(Aspects::all()).compare(first, second);
    assert!(!describe(&found, first, second).is_empty());
    found.classes.iter().collect()
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(QNAME.to_vec()),
        "[a-z]{1,8}".prop_map(|l| {
            let mut name = vec![l.len() as u8];
            name.extend(l.as_bytes());
            name.extend(QNAME);
            name
        })
    ]
}

fn record() -> impl Strategy<Value = Written> {
    let data = prop_oneof![
        any::<[u8; 4]>().prop_map(|d| (rtype::A, d.to_vec())),
        any::<[u8; 16]>().prop_map(|d| (rtype::AAAA, d.to_vec())),
        name().prop_map(|n| (rtype::CNAME, n)),
        name().prop_map(|n| (rtype::MX, [vec![0, 10], n].concat())),
        prop::collection::vec(any::<u8>(), 0..30).prop_map(|d| (99, d)),
    ];
    (name(), data, 0_u32..1_000).prop_map(|(owner, (rtype, data), ttl)| Written { owner, rtype, ttl, data })
}

/// Records without repetition, as those of a set are.
fn section() -> impl Strategy<Value = Vec<Written>> {
    prop::collection::vec(record(), 0..6).prop_map(|mut all| {
        let mut seen = Vec::new();
        all.retain(|r| {
            let key = (r.owner.clone(), r.rtype, r.data.clone());
            let new = !seen.contains(&key);
            seen.push(key);
            new
        });
        all
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let flags = prop_oneof![Just([0x01, 0x80]), Just([0x05, 0x80]), Just([0x01, 0xa3])];
    let opt = prop_oneof![Just(None), Just(Some(edns::bare(1232, false).to_vec()))];
    (flags, [section(), section(), section()], opt).prop_map(|(flags, sections, opt)| Answer {
        flags,
        sections,
        opt,
    })
}

/// A record that no generated one equals.
fn foreign() -> Written {
    Written { owner: b"\x09different\0".to_vec(), rtype: 257, ttl: 5, data: vec![1, 2, 3] }
}

proptest! {
    #[test]
    fn case_compression_and_ids_make_no_difference(answer in answer(), compress: bool, upper: bool) {
        let (first, mut second) = (answer.wire(false, false), answer.wire(compress, upper));
        second[0] ^= 0xff;
        prop_assert_eq!(classes(&first, &second), []);
    }

    #[test]
    fn a_planted_difference_is_found_and_no_other(
        answer in answer(), kind in 0..10, number in 0_usize..3, place in 0_usize..6, compress: bool,
    ) {
        let mut other = answer.clone();
        let section = &mut other.sections[number];
        let many = section.len();
        let want = match kind {
            0 => { other.flags[1] ^= 0x02; Class::Rcode }
            1 => { other.flags[0] ^= 0x04; Class::Flags }
            2 => { other.flags[1] ^= 0x20; Class::Flags }
            3 if many > 0 => { section.remove(place % many); Class::Missing }
            4 => { section.insert(place.min(many), foreign()); Class::Extra }
            5 if many > 0 => { section[place % many].ttl += 1; Class::Ttl }
            6 if many > 1 => { section.rotate_left(1 + place % (many - 1)); Class::Order }
            7 => {
                other.opt = match other.opt { Some(_) => None, None => Some(edns::bare(512, true).to_vec()) };
                Class::Edns
            }
            8 => {
                // One record of a set of two with other data.
                let mut changed = foreign();
                changed.data = vec![9];
                let mut first = answer.clone();
                first.sections[number].push(foreign());
                section.push(changed);
                prop_assert_eq!(classes(&first.wire(false, false), &other.wire(compress, true)), [Class::Data]);
                return Ok(());
            }
            _ => return Ok(()),
        };
        prop_assert_eq!(classes(&answer.wire(false, false), &other.wire(compress, false)), [want]);
    }

    #[test]
    fn no_bytes_panic(
        first in prop::collection::vec(any::<u8>(), 0..200), second in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let found = Comparer::new(Aspects::all()).compare(&first, &second);
        let _ = (describe(&found, &first, &second), judge(&found, &first, &second), question(&first));
    }

    #[test]
    fn what_is_cut_is_malformed(answer in answer(), cut in 1_usize..200) {
        let whole = answer.wire(true, false);
        let records = answer.sections.iter().flatten().count() + usize::from(answer.opt.is_some());
        if records > 0 {
            let cut = cut.min(whole.len());
            let short = &whole[..whole.len() - cut];
            prop_assert_eq!(classes(&whole, short), [Class::Malformed]);
            prop_assert_eq!(classes(short, short), [Class::Malformed]);
        }
    }
}

fn sample() -> Answer {
    let a = |last: u8| Written { owner: QNAME.to_vec(), rtype: 1, ttl: 60, data: vec![192, 0, 2, last] };
    Answer { flags: [1, 0x80], sections: [vec![a(1), a(2)], Vec::new(), Vec::new()], opt: None }
}

#[test]
fn only_what_is_asked_for_is_compared() {
    let first = sample();
    let mut second = sample();
    second.flags = [5, 0x83];
    second.sections[0].remove(0);
    second.sections[0][0].ttl = 5;
    second.sections[2].push(foreign());
    for (aspects, want) in [
        ("rcode", &[Class::Rcode][..]),
        ("flags", &[Class::Flags]),
        ("answer", &[Class::Missing]),
        ("authority", &[]),
        ("additional", &[Class::Extra]),
        ("ttl", &[]),
        ("answer,ttl", &[Class::Missing, Class::Ttl]),
        ("authority,order,edns", &[]),
    ] {
        let mut comparer = Comparer::new(Aspects::parse(aspects).expect(aspects));
        let found = comparer.compare(&first.wire(true, false), &second.wire(true, false));
        assert_eq!(found.classes.iter().collect::<Vec<_>>(), want, "{aspects}");
    }
}

#[test]
fn truncation_is_one_difference() {
    let mut second = sample();
    second.flags[0] |= TC;
    second.sections[0].clear();
    assert_eq!(classes(&sample().wire(true, false), &second.wire(true, false)), [Class::Flags]);
}

#[test]
fn differences_are_described() {
    let first = sample();
    let mut second = sample();
    second.sections[0][1].data[3] = 9;
    second.flags = [0x21, 0x82];
    let (first, second) = (first.wire(true, false), second.wire(true, true));
    let found = Comparer::new(Aspects::default()).compare(&first, &second);
    assert_eq!(found.class(), Class::Rcode);
    assert_eq!(
        describe(&found, &first, &second),
        "NOERROR, then SERVFAIL; www.example. A 192.0.2.2, then www.example. A 192.0.2.9; \
         flags RD RA, then RD RA opcode"
    );
    assert_eq!(question(&first), "www.example. A");
}

#[test]
fn better_and_worse_answers_are_told_apart() {
    let good = sample().wire(true, false);
    let with = |flags: [u8; 2], last: u8| {
        let mut answer = sample();
        answer.flags = flags;
        answer.sections[0][1].data[3] = last;
        answer.wire(true, false)
    };
    let (failed, truncated, other) = (with([1, 0x82], 2), with([3, 0x80], 2), with([1, 0x80], 7));
    let mut comparer = Comparer::new(Aspects::default());
    let mut verdict = |a: &[u8], b: &[u8]| judge(&comparer.compare(a, b), a, b);
    assert_eq!(verdict(&good, &good), Verdict::Same);
    assert_eq!(verdict(&failed, &good), Verdict::Better);
    assert_eq!(verdict(&truncated, &good), Verdict::Better);
    assert_eq!(verdict(&good, &failed), Verdict::Worse);
    assert_eq!(verdict(&good, &good[..good.len() - 1]), Verdict::Worse);
    assert_eq!(verdict(&good, &other), Verdict::Other);
}

#[test]
fn names_in_data_have_no_case_where_their_type_is_known() {
    let with = |rtype: u16, data: &[u8]| {
        let mut answer = sample();
        answer.sections[0][0] = Written { owner: QNAME.to_vec(), rtype, ttl: 60, data: data.to_vec() };
        answer.wire(true, false)
    };
    let svcb = |name: &[u8]| [&[0, 1], name].concat();
    assert_eq!(classes(&with(64, &svcb(QNAME)), &with(64, &svcb(&QNAME.to_ascii_uppercase()))), []);
    assert_eq!(classes(&with(47, QNAME), &with(47, &QNAME.to_ascii_uppercase())), []);
    let text = |case: &[u8]| [&[3], case].concat();
    assert_eq!(classes(&with(16, &text(b"abc")), &with(16, &text(b"aBc"))), [Class::Data]);
}

#[test]
fn names_beyond_their_data_are_malformed() {
    let mut wire = sample().wire(true, false);
    let at = wire.len() - 16;
    // The last record becomes an SOA of four bytes.
    wire[at + 3] = 6;
    assert_eq!(classes(&wire, &wire), [Class::Malformed]);
}
