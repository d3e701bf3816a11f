//! Any text as the name that a health check asks for, and any bytes as its answer: a query is a
//! message that asks for that name, and a good answer is one to it.

use dnslob::config::value;
use dnslob::control::probe::message::{CD, HEADER, RD, judge, query};
use dnslob::stats::check_failure::Failure;
use dnslob::wire::header::Header;
use dnslob::wire::query::Question;

const ID: u16 = 0x1234;

/// The input is the length of the name, options, the name, and the answer, which replaces the
/// beginning of a good one or stands alone.
pub(crate) fn target(data: &[u8]) {
    let Some((&[length, options, qtype], rest)) = data.split_first_chunk() else { return };
    let (name, answer) = rest.split_at(usize::from(length).min(rest.len()));
    let name = String::from_utf8_lossy(name);
    let flags = if options & 1 != 0 { RD | CD } else { 0 };
    let asked = query(ID, flags, &name, qtype.into(), 1);
    if let Ok(configured) = value::qname(&name) {
        assert!(asked.is_ok(), "{name:?} is a name");
        check(&configured, flags, qtype);
    }
    // A name that no configuration has is not asked for.
    let Ok(asked) = asked.or_else(|_| query(ID, flags, "a.example", qtype.into(), 1)) else { return };
    let must_resolve = options & 2 != 0;
    let mut good = asked.clone();
    good[2] |= 0x80;
    assert_eq!(judge(&asked, &good, must_resolve), Ok(()));
    judged(&asked, answer, must_resolve);
    let overwritten = answer.len().min(good.len());
    good[..overwritten].copy_from_slice(&answer[..overwritten]);
    judged(&asked, &good, must_resolve);
    // Its id, and the first of its flags.
    good[..2].copy_from_slice(&asked[..2]);
    good[2] |= 0x80;
    judged(&asked, &good, must_resolve);
    good.truncate(usize::from(options));
    judged(&asked, &good, must_resolve);
}

/// A query for a name of a configuration is read as it was meant.
#[expect(clippy::expect_used)]
fn check(name: &str, flags: u16, qtype: u8) {
    let message = query(ID, flags, name, qtype.into(), 1).expect("a name of a configuration");
    let head = Header::parse(&message).expect("a header");
    assert_eq!((head.id(), head.qdcount(), head.is_response()), (ID, 1, false));
    let question = Question::parse(&message).expect("a question");
    assert_eq!((question.qtype, question.qclass, question.end), (qtype.into(), 1, message.len()));
    assert_eq!(Ok(question.qname.to_ascii_lowercase()), value::wire_name(name));
}

/// Judges an answer, and whether the judgement can be right.
fn judged(asked: &[u8], answer: &[u8], must_resolve: bool) {
    let rcode = answer.get(3).map(|flags| flags & 0x0f);
    match judge(asked, answer, must_resolve) {
        Ok(()) => {
            assert!(answer.len() >= HEADER && answer[..2] == asked[..2] && answer[2] & 0x80 != 0);
            assert!(rcode != Some(2) && !(must_resolve && matches!(rcode, Some(3 | 5))));
            let echo = answer.get(HEADER..asked.len());
            let echoed = echo.is_some_and(|echo| echo.eq_ignore_ascii_case(&asked[HEADER..]));
            assert!(echoed || (answer[4..6] == [0, 0] && !matches!(rcode, Some(0 | 3))), "no question");
        }
        Err((reason, why)) => {
            assert!(!why.is_empty());
            assert!(matches!(reason, Failure::Parsing | Failure::Mismatch | Failure::Invalid));
            // Only what is an answer is judged by its code.
            assert!(reason != Failure::Invalid || matches!(rcode, Some(2 | 3 | 5)));
        }
    }
}
