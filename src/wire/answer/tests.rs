use crate::wire::answer::*;
use crate::wire::header::rcode::{NOTIMP, REFUSED, SERVFAIL};
use crate::wire::tests::{edited, read};

const OWN: AnswerEdns = AnswerEdns { wanted: true, payload: 1232 };
const PLAIN: Flags = Flags { aa: false, ad: false, ra: None, ttl: 60 };
const ROOM: usize = 600;

/// Builds a query of `www.Test` with RD, CD and trailing data.
fn query(qtype: u16) -> Vec<u8> {
    let [t0, t1] = qtype.to_be_bytes();
    [&b"\xab\xcd\x01\x30\0\x01\0\0\0\0\0\0\x03www\x04Test\0"[..], &[t0, t1, 0, 1], b"tail"].concat()
}

/// Builds the same with EDNS: payload 1400, DO, an option.
fn query_edns(qtype: u16) -> Vec<u8> {
    let mut query = query(qtype);
    query.truncate(query.len() - 4);
    query[11] = 1;
    query.extend(b"\0\0\x29\x05\x78\0\0\x80\0\0\x05\0\x0a\0\x01x");
    query
}

/// Builds the answer to `query` with these counts, and these bytes after its question.
fn expected(flags: u16, qtype: u16, counts: [u8; 3], records: &[u8]) -> Vec<u8> {
    let ([f0, f1], [t0, t1], [an, ns, ar]) = (flags.to_be_bytes(), qtype.to_be_bytes(), counts);
    let head = [0xab, 0xcd, f0, f1, 0, 1, 0, an, 0, ns, 0, ar];
    [&head[..], b"\x03www\x04Test\0", &[t0, t1, 0, 1], records].concat()
}

const OPT_DO: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";

fn built(query: &[u8], build: impl FnOnce(&mut Packet<'_>) -> bool) -> Vec<u8> {
    let (answer, done) = edited(query, ROOM, build);
    assert!(done);
    assert!(read(&answer).is_some_and(|whole| whole.tail.is_empty()), "parsed by the test's parser");
    answer
}

#[test]
fn an_answer_keeps_id_opcode_question_rd_and_cd_only() {
    let mut query = query(1);
    query[2..4].copy_from_slice(&[0x2f, 0xf7]);
    let answer = built(&query, |p| rcode(p, u16::from(SERVFAIL), PLAIN, OWN));
    assert_eq!(answer, expected(0xa992, 1, [0; 3], b""));
    query[2..4].copy_from_slice(&[0x26, 0xe0]);
    let answer = built(&query, |p| rcode(p, u16::from(REFUSED), PLAIN, OWN));
    assert_eq!(answer, expected(0xa005, 1, [0; 3], b""));
}

#[test]
fn aa_ad_and_ra_are_set_as_configured() {
    for (flags, bits) in [
        (PLAIN, 0x8190),
        (Flags { aa: true, ..PLAIN }, 0x8590),
        (Flags { ad: true, ..PLAIN }, 0x81b0),
        (Flags { ra: Some(false), ..PLAIN }, 0x8110),
    ] {
        assert_eq!(built(&query(1), |p| rcode(p, 0, flags, OWN)), expected(bits, 1, [0; 3], b""));
    }
    let mut not_recursive = query(1);
    not_recursive[2] = 0;
    let flags = Flags { ra: Some(true), ..PLAIN };
    assert_eq!(built(&not_recursive, |p| rcode(p, 0, flags, OWN)), expected(0x8090, 1, [0; 3], b""));
}

#[test]
fn an_answer_has_edns_if_the_query_had() {
    // BADVERS is 16: its fifth bit is in the OPT record.
    let opt = b"\0\0\x29\x04\xd0\x01\0\x80\0\0\0";
    let answer = built(&query_edns(1), |p| rcode(p, 16, PLAIN, OWN));
    assert_eq!(answer, expected(0x8190, 1, [0, 0, 1], opt));
    assert_eq!(edns::rcode(&answer), 16);
    assert_eq!(built(&query(1), |p| rcode(p, 19, PLAIN, OWN)), expected(0x8193, 1, [0; 3], b""));
    let unwanted = AnswerEdns { wanted: false, ..OWN };
    assert_eq!(built(&query_edns(1), |p| rcode(p, 3, PLAIN, unwanted)), expected(0x8193, 1, [0; 3], b""));
}

#[test]
fn a_query_without_question_is_answered_with_its_header() {
    let empty = [0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = built(&empty, |p| rcode(p, u16::from(NOTIMP), PLAIN, OWN));
    assert_eq!(answer, [0, 7, 0x80, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
    let truncated = [0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'w'];
    let answer = built(&truncated, |p| rcode(p, u16::from(REFUSED), PLAIN, OWN));
    assert_eq!(answer, [0, 7, 0x80, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(!edited(&empty, ROOM, |p| addresses(p, &[[1; 4]], &[], PLAIN, OWN)).1);
    assert!(!edited(&empty, ROOM, |p| cname(p, &[0], PLAIN, OWN)).1);
    assert!(!edited(&empty[..11], ROOM, |p| rcode(p, 0, PLAIN, OWN)).1);
}

#[test]
fn a_truncated_answer_has_no_records() {
    assert_eq!(built(&query(1), |p| truncated(p, PLAIN, OWN)), expected(0x8390, 1, [0; 3], b""));
    let answer = built(&query_edns(1), |p| truncated(p, PLAIN, OWN));
    assert_eq!(answer, expected(0x8390, 1, [0, 0, 1], OPT_DO));
}

#[test]
fn addresses_answer_the_queried_type() {
    let v4 = [[192, 0, 2, 1], [192, 0, 2, 2]];
    let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]];
    let a = [
        &b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01"[..],
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x02",
    ]
    .concat();
    let aaaa = [&b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10"[..], &v6[0]].concat();
    let answer = |query: &[u8]| built(query, |p| addresses(p, &v4, &v6, PLAIN, OWN));
    assert_eq!(answer(&query(1)), expected(0x8190, 1, [2, 0, 0], &a));
    assert_eq!(answer(&query_edns(1)), expected(0x8190, 1, [2, 0, 1], &[&a, OPT_DO].concat()));
    assert_eq!(answer(&query(28)), expected(0x8190, 28, [1, 0, 0], &aaaa));
    assert_eq!(answer(&query(255)), expected(0x8190, 255, [3, 0, 0], &[a, aaaa].concat()));
    assert_eq!(answer(&query(16)), expected(0x8190, 16, [0; 3], b""));
    let mut chaos = query(28);
    chaos[25] = 3;
    assert_eq!(read(&answer(&chaos)).unwrap().records[0].class, 3, "the queried class");
}

#[test]
fn addresses_match_by_family() {
    for (qtype, matches) in
        [(1, [false, true, false]), (28, [false, false, true]), (255, [false, true, true])]
    {
        let families = [(false, false), (true, false), (false, true)];
        assert_eq!(families.map(|(v4, v6)| addresses_match(qtype, v4, v6)), matches);
    }
    assert!(!addresses_match(16, true, true) && !addresses_match(64, true, true));
}

#[test]
fn a_cname_is_written_uncompressed() {
    let flags = Flags { aa: true, ttl: 33, ..PLAIN };
    let answer = built(&query_edns(1), |p| cname(p, b"\x06target\x07Example\0", flags, OWN));
    let record = b"\xc0\x0c\0\x05\0\x01\0\0\0\x21\0\x10\x06target\x07Example\0";
    assert_eq!(answer, expected(0x8590, 1, [1, 0, 1], &[record, OPT_DO].concat()));
}

#[test]
fn raw_data_have_the_queried_type() {
    let flags = Flags { ad: true, ra: Some(false), ttl: 7, ..PLAIN };
    let answer = |qtype| built(&query(qtype), |p| raw(p, &[b"\x01a", b"\x01b"], 99, flags, OWN));
    let txt = b"\xc0\x0c\0\x10\0\x01\0\0\0\x07\0\x02\x01a\xc0\x0c\0\x10\0\x01\0\0\0\x07\0\x02\x01b";
    assert_eq!(answer(16), expected(0x8130, 16, [2, 0, 0], txt));
    let spf = b"\xc0\x0c\0\x63\0\x01\0\0\0\x07\0\x02\x01a\xc0\x0c\0\x63\0\x01\0\0\0\x07\0\x02\x01b";
    assert_eq!(answer(255), expected(0x8130, 255, [2, 0, 0], spf));
}

#[test]
fn service_bindings_add_their_hints() {
    let (v4, v6) = ([[192, 0, 2, 9], [192, 0, 2, 10]], [[6; 16]]);
    let params = SvcParams { port: Some(853), v4: v4.to_vec(), v6: v6.to_vec(), ..SvcParams::default() };
    let second = SvcParams { v4: vec![[192, 0, 2, 8]], ..SvcParams::default() };
    let bindings = [
        SvcRecord::new(1, b"\x03dot\x04test\0".to_vec(), &params).unwrap(),
        SvcRecord::new(2, vec![0], &second).unwrap(),
    ];
    let answer = built(&query_edns(65), |p| svc(p, &bindings, PLAIN, OWN));
    let hints = b"\0\x03\0\x02\x03\x55\0\x04\0\x08\xc0\0\x02\x09\xc0\0\x02\x0a\0\x06\0\x10";
    let records = [
        &b"\xc0\x0c\0\x41\0\x01\0\0\0\x3c\0\x32\0\x01\x03dot\x04test\0"[..],
        hints,
        &v6[0],
        b"\xc0\x0c\0\x41\0\x01\0\0\0\x3c\0\x0b\0\x02\0\0\x04\0\x04\xc0\0\x02\x08",
        b"\x03dot\x04test\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x09",
        b"\x03dot\x04test\0\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x0a",
        b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x08",
        b"\x03dot\x04test\0\0\x1c\0\x01\0\0\0\x3c\0\x10",
        &v6[0],
        OPT_DO,
    ];
    assert_eq!(answer, expected(0x8190, 65, [2, 0, 5], &records.concat()));
}

#[test]
fn negative_answers_have_an_soa() {
    let soa = Soa {
        zone: b"\x04test\0",
        mname: b"\x01m\x04test\0",
        rname: b"\x01r\x04test\0",
        numbers: [1, 2, 3, 4, 5],
    };
    let flags = Flags { ttl: 100, ..PLAIN };
    let record = b"\x04test\0\0\x06\0\x01\0\0\0\x64\0\x24\x01m\x04test\0\x01r\x04test\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";
    let answer = built(&query(1), |p| negative_soa(p, true, &soa, false, flags, OWN));
    assert_eq!(answer, expected(0x8193, 1, [0, 0, 1], record));
    let answer = built(&query_edns(1), |p| negative_soa(p, false, &soa, true, flags, OWN));
    assert_eq!(answer, expected(0x8190, 1, [0, 1, 1], &[&record[..], OPT_DO].concat()));
}

#[test]
fn a_template_answers_with_the_querys_id_rd_and_question() {
    let record = b"\xc0\x0c\0\x10\0\x01\0\0\0\x05\0\x02\x01x";
    let template =
        [&b"\x11\x11\x04\x05\0\x01\0\x01\0\0\0\0\x03WWW\x04tesT\0\0\xff\0\x01"[..], record].concat();
    let answer = built(&query(16), |p| message(p, &template));
    assert_eq!(answer, expected(0x8505, 16, [1, 0, 0], record), "case and type of the query");
    let other = [&b"\x11\x11\x05\x05\0\x01\0\x01\0\0\0\0\x07another\0\0\x10\0\x01"[..], record].concat();
    assert_eq!(built(&query(16), |p| message(p, &other)), expected(0x8505, 16, [1, 0, 0], record));
    let head = *b"\x11\x11\x80\x04\0\0\0\0\0\0\0\0";
    let answer = built(&query(16), |p| message(p, &head));
    assert_eq!(answer, b"\xab\xcd\x81\x04\0\0\0\0\0\0\0\0");
    assert!(!edited(&query(16), ROOM, |p| message(p, b"short")).1);
    // A record named by a pointer into a name that is not the query's.
    let inside =
        [&b"\x11\x11\x84\0\0\x01\0\x01\0\0\0\0\x01a\x01b\0\0\x10\0\x01\xc0\x0e"[..], &record[2..]].concat();
    assert!(!edited(&query(16), ROOM, |p| message(p, &inside)).1);
}

#[test]
fn an_extended_error_needs_edns() {
    let answer =
        built(&query_edns(1), |p| rcode(p, 5, PLAIN, OWN) && ede(p, 15, b"no") && ede(p, 16, b"never"));
    let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x0b\0\x0f\0\x07\0\x10never";
    assert_eq!(answer, expected(0x8195, 1, [0, 0, 1], opt));
    let mut further = Vec::new();
    assert!(ede_option(&mut further, 17, b"two") && !ede_option(&mut further, 18, &[0; 65_534]));
    let answer = built(&query_edns(1), |p| {
        rcode(p, 5, PLAIN, OWN) && ede(p, 15, b"no") && edes(p, 16, b"one", &further)
    });
    let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x12\0\x0f\0\x05\0\x10one\0\x0f\0\x05\0\x11two";
    assert_eq!(answer, expected(0x8195, 1, [0, 0, 1], opt), "two errors, and not the one before");
    let (answer, done) = edited(&query(1), ROOM, |p| rcode(p, 5, PLAIN, OWN) && ede(p, 15, b"no"));
    assert_eq!((answer, done), (expected(0x8195, 1, [0; 3], b""), false));
}

#[test]
fn an_answer_that_does_not_fit_is_truncated() {
    assert_eq!((udp_limit(&query(1)), udp_limit(&query_edns(1)), udp_limit(b"")), (512, 1400, 512));
    let mut small = query_edns(1);
    small[28..30].copy_from_slice(&[0, 100]);
    assert_eq!(udp_limit(&small), 512);
    let many = [[192, 0, 2, 1]; 31];
    let whole = built(&query(1), |p| addresses(p, &many, &[], PLAIN, OWN) && fit(p, 522));
    assert_eq!(whole.len(), 26 + 31 * 16);
    let cut = built(&query_edns(1), |p| addresses(p, &many, &[], PLAIN, OWN) && fit(p, 521));
    assert_eq!(cut, expected(0x8390, 1, [0, 0, 1], OPT_DO));
}

#[test]
fn a_truncated_response_loses_its_records_but_not_its_opt() {
    let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
    let opt = b"\0\0\x29\x10\0\0\0\0\0\0\x05\0\x0a\0\x01x";
    let tsig = b"\0\0\xfa\0\xff\0\0\0\0\0\0";
    let records = [&record[..], record, record, opt, tsig, b"tail"].concat();
    let untouched = expected(0x8180, 1, [1, 1, 3], &records);
    assert_eq!(edited(&untouched, 0, truncate_tc), (untouched.clone(), true));
    let tc = expected(0x8380, 1, [1, 1, 3], &records);
    let cut = expected(0x8380, 1, [0, 0, 1], opt);
    assert_eq!(edited(&tc, 0, truncate_tc), (cut.clone(), true));
    assert_eq!(edited(&untouched, 0, to_tc), (cut, true));
    assert_eq!(edited(&tc[..20], 0, to_tc), (tc[..20].to_vec(), false));
    assert!(!edited(&tc[..5], 0, truncate_tc).1);
}

#[test]
fn the_case_of_the_query_is_restored() {
    let mut response = expected(0x8180, 1, [0; 3], b"");
    assert!(fixup_case(&mut response, b"\x03wWw\x04tEST\0"));
    assert_eq!(&response[12..22], b"\x03wWw\x04tEST\0");
    let before = response.clone();
    for other in [&b"\x03wWx\x04tEST\0"[..], b"\x03wWw\0", b""] {
        assert!(!fixup_case(&mut response, other));
    }
    assert!(!fixup_case(&mut response[..15], b"\x03wWw\x04tEST\0"));
    assert_eq!(response, before);
}
