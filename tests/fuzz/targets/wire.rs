//! Arbitrary bytes as a message: parsers read no byte beyond the end, and our answer to it is
//! valid.

use dnslob::base::packet::Packet;
use dnslob::wire::answer::{AnswerEdns, Flags};
use dnslob::wire::header::Header;
use dnslob::wire::query::Question;
use dnslob::wire::{answer, edns, header, name};

/// The longest UDP payload over IPv4, bytes.
const DATAGRAM_MAX: usize = 65_507;

pub(crate) fn target(data: &[u8]) {
    let data = &data[..data.len().min(DATAGRAM_MAX)];
    names(data);
    let question = Question::parse(data);
    if let Some(q) = question {
        assert!(q.end <= data.len() && q.qname.len() <= name::LEN_MAX);
        assert_eq!(q.qname.last(), Some(&0), "a name ends with the root");
        assert!(q.matches(&q));
        if let Some(opt) = edns::find(data, q.end) {
            assert!(q.end <= opt.start && opt.start + 11 <= opt.end && opt.end <= data.len());
        }
    }
    answer(data, question.as_ref());
}

fn names(data: &[u8]) {
    for at in [0, header::LEN, data.len().saturating_sub(1), data.len()] {
        let Some(end) = name::end_plain(data, at) else { continue };
        assert_eq!(name::end(data, at), Some(end), "a plain name ends where any reading of it does");
        let whole = &data[at..end];
        let labels = name::labels_of(whole).count();
        assert_eq!(name::labels_of(whole).map(|l| l.len() + 1).sum::<usize>() + 1, whole.len());
        for wanted in [0, 1, 2, 255] {
            let zone = name::zone(whole, wanted);
            assert!(whole.ends_with(zone));
            assert_eq!(name::labels_of(zone).count(), labels.min(usize::from(wanted)));
        }
    }
}

fn answer(data: &[u8], question: Option<&Question<'_>>) {
    // Each edit with no free bytes behind the message, and with many.
    for room in [0, 64] {
        let mut buffer = data.to_vec();
        buffer.resize(data.len() + room, 0xee);
        let mut packet = Packet::new(&mut buffer, 0, data.len());
        let own = AnswerEdns { wanted: true, payload: 1232 };
        let whole = answer::rcode(&mut packet, u16::from(header::rcode::SERVFAIL), Flags::default(), own);
        let Some(before) = Header::parse(data) else {
            assert!(!whole);
            continue;
        };
        assert!(whole);
        let answer = packet.bytes();
        let after = Header::parse(answer).expect("an answer has a header");
        assert_eq!(after.id(), before.id());
        assert!(after.is_response() && !after.is_truncated());
        assert_eq!(after.rcode(), header::rcode::SERVFAIL);
        assert_eq!((after.ancount(), after.nscount()), (0, 0));
        let asked = question.filter(|_| before.qdcount() > 0);
        assert_eq!(usize::from(after.qdcount()), usize::from(asked.is_some()));
        if let Some(asked) = asked {
            let echoed = Question::parse(answer).expect("the answer repeats the question");
            assert_eq!((echoed.qname, echoed.qtype, echoed.qclass), (asked.qname, asked.qtype, asked.qclass));
        }
    }
}
