use crate::wire::records::*;
use crate::wire::tests::edited;

/// Builds a question, an answer, a name server, its address, an OPT, and trailing data.
fn message() -> Vec<u8> {
    let records = [
        &b"\0\x01\x81\x80\0\x01\0\x01\0\x01\0\x02\x01a\0\0\x01\0\x01"[..],
        b"\xc0\x0c\0\x01\0\x01\0\0\x01\0\0\x04\xc0\0\x02\x01",
        b"\0\0\x02\0\x01\0\0\0\x3c\0\x05\x02ns\xc0\x0c",
        b"\0\0\x29\x10\0\0\0\0\0\0\0",
        b"\xc0\x2e\0\x01\0\x03\xff\0\0\0\0\x04\xc0\0\x02\x02",
        b"tail",
    ];
    records.concat()
}

#[test]
fn records_are_walked_in_order() {
    let message = message();
    let mut records = Records::of(&message);
    let first = Record {
        section: Section::Answer,
        start: 19,
        rtype: 1,
        class: 1,
        ttl_at: 25,
        ttl: 256,
        rdata: 31..35,
        end: 35,
    };
    assert_eq!(records.next(), Some(first));
    let rest: Vec<_> = records.by_ref().map(|r| (r.section, r.rtype, r.class, r.start)).collect();
    let expected = [
        (Section::Authority, 2, 1, 35),
        (Section::Additional, 41, 4096, 51),
        (Section::Additional, 1, 3, 62),
    ];
    assert_eq!(rest, expected);
    assert!(records.whole());
    assert_eq!((start(&message), end(&message)), (Some(19), Some(message.len() - 4)));
}

#[test]
fn a_walk_ends_at_a_malformed_record() {
    let message = message();
    let cut = &message[..70];
    let mut records = Records::of(cut);
    assert_eq!(records.by_ref().count(), 3);
    assert!(!records.whole() && records.next().is_none());
    assert_eq!((end(cut), start(cut)), (None, Some(19)));
    for broken in [&message[..11], &message[..15]] {
        assert_eq!((start(broken), end(broken), Records::of(broken).count()), (None, None, 0));
    }
}

#[test]
fn ttls_are_edited_where_they_stand() {
    let mut message = message();
    let mut seen = Vec::new();
    assert!(edit_ttls(&mut message, |section, class, rtype, ttl| {
        seen.push((section, class, rtype, ttl));
        ttl.min(100)
    }));
    let expected = [
        (Section::Answer, 1, 1, 256),
        (Section::Authority, 1, 2, 60),
        (Section::Additional, 3, 1, 0xff00_0000),
    ];
    assert_eq!(seen, expected, "not the OPT");
    assert_eq!(Records::of(&message).map(|r| r.ttl).collect::<Vec<_>>(), [100, 60, 0, 100]);
    let before = message.clone();
    assert!(!edit_ttls(&mut message[..70], |_, _, _, _| 0));
    assert_eq!(message, before);
}

#[test]
fn a_message_without_records_but_an_opt_ends_behind_it() {
    let query = b"\0\x01\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x10\0\0\0\0\0\0\0";
    assert_eq!(end(query), Some(query.len()));
}

#[test]
fn types_are_counted_by_section() {
    let message = message();
    let counts = |rtype| [0, 1, 2, 3, 4].map(|section| count_types(&message, section, rtype));
    assert_eq!(counts(1), [1, 1, 0, 1, 0]);
    assert_eq!(counts(2), [0, 0, 1, 0, 0]);
    assert_eq!(counts(41), [0, 0, 0, 1, 0]);
    let two = b"\0\x01\x01\0\0\x02\0\0\0\0\0\0\x01a\0\0\x01\0\x01\xc0\x0c\0\x1c\0\x01";
    assert_eq!([1, 28, 2].map(|t| count_types(two, 0, t)), [1, 1, 0]);
}

#[test]
fn a_splice_mends_the_pointers_behind_it() {
    // The last record's owner points to the name of the one behind the OPT.
    let mut whole = message();
    whole.truncate(whole.len() - 4);
    whole[11] = 3;
    whole.extend(b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x0e\0\x05\x01m\x07example\xc0\x0c");
    whole.extend(b"\xc0\x60\0\x01\0\x01\0\0\0\x3c\0\x00");
    whole[11] = 4;
    // The address of the mail host: `example` in the data above stands at 94.
    let pointer_at = whole.len() - 12;
    whole[pointer_at..pointer_at + 2].copy_from_slice(&[0xc0, 94]);
    assert_eq!(&whole[94..102], b"\x07example");
    let (after, done) = edited(&whole, 0, |p| splice(p, 51..62, &[], false));
    assert!(done);
    assert_eq!(after[pointer_at - 11..pointer_at - 9], [0xc0, 94 - 11]);
    let (after, done) = edited(&whole, 5, |p| splice(p, 62..62, &[b"ab", b"cde"], false));
    assert!(done);
    assert_eq!(after[62..67], *b"abcde");
    assert_eq!(after[pointer_at + 5..pointer_at + 7], [0xc0, 94 + 5]);
    assert!(!edited(&whole, 4, |p| splice(p, 62..62, &[b"ab", b"cde"], false)).1, "no space");
    assert!(!edited(&whole, 0, |p| splice(p, 35..51, &[], false)).1, "a pointer would lose its target");
}
