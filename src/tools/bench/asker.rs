//! Makes the queries of one thread and judges their answers, whatever they travel by.
//!
//! ```text
//!  header | question | OPT: cookie, padding          made in `message`, with the id of its lane
//! ```

use xxhash_rust::xxh3::xxh3_64;

use crate::base::time::{Tick, TickDelta};
use crate::tools::bench::names::Picker;
use crate::tools::load::outstanding::{Outstanding, Query, Settled};
use crate::tools::load::pace::Pace;
use crate::tools::load::tally::{Counts, Tally};
use crate::tools::reflect::answer::{self, CLIENT_COOKIE, COOKIE};
use crate::wire::edns;
use crate::wire::header::{self, Header};
use crate::wire::records;

/// Option code of padding (RFC 7830, 3).
const PADDING: u16 = 12;
/// Queries are padded to a multiple of this, bytes (RFC 8467, 4.1).
const BLOCK: usize = 128;
/// The payload size where only something else needs an OPT record, bytes.
const PAYLOAD: u16 = 1232;
/// Bytes of a server's cookie at most (RFC 7873, 4).
const SERVER_COOKIE_MAX: usize = 32;

/// What queries have besides a question.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// The payload size of an OPT record, bytes.
    pub(crate) edns: Option<u16>,
    pub(crate) dnssec: bool,
    pub(crate) cookie: bool,
    pub(crate) padding: bool,
    /// Whether records must be those of `dnslob reflect`.
    pub(crate) verify: bool,
}

/// When to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plan {
    /// At these times.
    Open(Pace),
    /// While fewer than so many wait.
    Closed(usize),
}

/// A socket or connection, as far as queries are concerned.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) outstanding: Outstanding,
    client_cookie: [u8; CLIENT_COOKIE],
    server_cookie: Vec<u8>,
}

/// Queries and answers of a thread.
#[derive(Debug)]
pub(crate) struct Asker {
    picker: Picker,
    extras: Extras,
    pub(crate) plan: Plan,
    pub(crate) tally: Tally,
    /// Queries of all lanes that wait.
    pub(crate) waiting: usize,
    /// The query made last.
    pub(crate) message: Vec<u8>,
    /// How long an answer may take.
    pub(crate) timeout: TickDelta,
}

impl Asker {
    /// Prepares a thread.
    pub(crate) const fn new(picker: Picker, extras: Extras, plan: Plan, tally: Tally) -> Self {
        Self { picker, extras, plan, tally, waiting: 0, message: Vec::new(), timeout: TickDelta(u64::MAX) }
    }

    /// Makes a lane, with ids that begin anywhere and room for so many queries at first.
    pub(crate) fn lane(&mut self, slots: usize) -> Lane {
        Lane {
            outstanding: Outstanding::new(self.picker.random() as u16, slots),
            client_cookie: self.picker.random().to_be_bytes(),
            server_cookie: Vec::new(),
        }
    }

    /// Begins the run.
    pub(crate) const fn begin_at(&mut self, begin: Tick) {
        self.tally.begin_at(begin);
        if let Plan::Open(pace) = &mut self.plan {
            pace.begin_at(begin);
        }
    }

    /// Returns how many queries may be sent.
    pub(crate) fn room(&self, now: Tick) -> usize {
        match &self.plan {
            Plan::Open(pace) => usize::try_from(pace.due(now)).unwrap_or(usize::MAX),
            Plan::Closed(most) => most.saturating_sub(self.waiting),
        }
    }

    /// Makes a query for a lane in [`message`](Self::message), and returns it with the id; `None` if the
    /// lane has no id left.
    pub(crate) fn ask(&mut self, lane: &mut Lane, now: Tick) -> Option<(u16, Query)> {
        let id = lane.outstanding.next_id(now)?;
        let intended = match &mut self.plan {
            Plan::Open(pace) => pace.take(),
            Plan::Closed(_) => now,
        };
        self.message.clear();
        self.message.extend_from_slice(&id.to_be_bytes());
        // RD, one question.
        self.message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        self.picker.write(&mut self.message);
        let question = &self.message[header::LEN..];
        let query = Query {
            intended,
            sent: now,
            question: xxh3_64(question),
            // A name has at most 255 bytes.
            question_bytes: question.len() as u16,
        };
        self.write_opt(lane);
        lane.outstanding.claim(query);
        self.waiting += 1;
        Some((id, query))
    }

    /// Notes that a query was not sent in the end.
    pub(crate) fn unsent(&mut self, lane: &mut Lane, id: u16) {
        lane.outstanding.release(id);
        self.waiting -= 1;
        self.tally.counts().send_errors += 1;
    }

    /// Takes a message that came by a lane.
    pub(crate) fn take(&mut self, lane: &mut Lane, message: &[u8], now: Tick) {
        let Some(header) = Header::parse(message).filter(Header::is_response) else {
            self.tally.counts().malformed += 1;
            return;
        };
        let mut end = header::LEN;
        // A server that does not understand a query need not repeat its question.
        let has_question = header.qdcount() != 0 || edns::rcode(message) == 0;
        let settled = lane.outstanding.settle(header.id(), |query| {
            if has_question {
                end += usize::from(query.question_bytes);
            }
            !has_question || header.qdcount() == 1 && is_question(message, end, query.question)
        });
        match settled {
            // The sweep that gives queries up has not come by yet.
            Settled::Answered(query) if now.since(query.sent) > self.timeout => {
                self.waiting -= 1;
                let counts = self.tally.counts();
                counts.timed_out += 1;
                counts.late += 1;
            }
            Settled::Answered(query) => {
                self.waiting -= 1;
                self.tally.answered(query.intended, query.sent, now);
                let wrong_records = self.extras.verify && has_question && !answer::is_ours(message);
                let wrong_cookie = self.extras.cookie && has_question && !lane.learn_cookie(message, end);
                let counts = self.tally.counts();
                counts.code(edns::rcode(message));
                counts.truncated += u64::from(header.is_truncated());
                counts.malformed += u64::from(!records::is_answer(message));
                counts.wrong_records += u64::from(wrong_records);
                counts.wrong_cookie += u64::from(wrong_cookie);
            }
            Settled::OtherQuestion => self.tally.counts().wrong_question += 1,
            Settled::Late => self.tally.counts().late += 1,
            Settled::Duplicate => self.tally.counts().duplicate += 1,
            Settled::Unexpected => self.tally.counts().unexpected += 1,
        }
    }

    /// Leaves out the queries that are due at a time and not sent; returns how many.
    pub(crate) fn skip_due(&mut self, until: Tick) -> u64 {
        let Plan::Open(pace) = &mut self.plan else { return 0 };
        let missed = pace.due(until);
        pace.skip(missed);
        missed
    }

    /// Gives up the queries that were due at a time and not sent, for want of a connection.
    pub(crate) fn give_up_due(&mut self, until: Tick) {
        let missed = self.skip_due(until);
        self.tally.counts().unconnected += missed;
    }

    /// Gives up what a lane has waited for too long.
    pub(crate) fn expire(&mut self, lane: &mut Lane, now: Tick, timeout: TickDelta) {
        let lost = lane.outstanding.expire(now - timeout);
        self.waiting -= lost as usize;
        self.tally.counts().timed_out += lost;
    }

    /// Gives up all that a lane waits for; `kind` is what it counts as.
    pub(crate) fn lose_all(&mut self, lane: &mut Lane, kind: fn(&mut Counts) -> &mut u64) {
        let lost = lane.outstanding.lose_all();
        self.waiting -= lost as usize;
        *kind(self.tally.counts()) += lost;
    }

    /// Gives up what a lane has sent until then, since its port has refused a query: the kernel tells of
    /// one refusal only, whatever came before it.
    pub(crate) fn refused(&mut self, lane: &mut Lane, sent_until: Tick) {
        let lost = lane.outstanding.expire(sent_until);
        self.waiting -= lost as usize;
        self.tally.counts().refused += lost;
    }

    fn write_opt(&mut self, lane: &Lane) {
        let Extras { edns, dnssec, cookie, padding, .. } = self.extras;
        if edns.is_none() && !dnssec && !cookie && !padding {
            return;
        }
        let begin = self.message.len();
        self.message[header::LEN - 1] = 1;
        self.message.extend_from_slice(&edns::bare(edns.unwrap_or(PAYLOAD), dnssec));
        let options = self.message.len();
        if cookie {
            option(&mut self.message, COOKIE, CLIENT_COOKIE + lane.server_cookie.len());
            self.message.extend_from_slice(&lane.client_cookie);
            self.message.extend_from_slice(&lane.server_cookie);
        }
        if padding {
            let head = self.message.len() + 4;
            let zeros = head.next_multiple_of(BLOCK) - head;
            option(&mut self.message, PADDING, zeros);
            self.message.resize(head + zeros, 0);
        }
        // Cookie and padding are under 300 bytes.
        let length = (self.message.len() - options) as u16;
        self.message[begin + 9..begin + 11].copy_from_slice(&length.to_be_bytes());
    }
}

impl Lane {
    /// Keeps the server's cookie of an answer; returns whether ours came back with it.
    fn learn_cookie(&mut self, message: &[u8], question_end: usize) -> bool {
        let Some(opt) = edns::find(message, question_end) else { return false };
        let Some((_, at)) = edns::options(message, &opt).find(|(code, _)| *code == COOKIE) else {
            return false;
        };
        let Some((ours, theirs)) = message[at].split_first_chunk::<CLIENT_COOKIE>() else { return false };
        if theirs.len() > SERVER_COOKIE_MAX || *ours != self.client_cookie {
            return false;
        }
        if self.server_cookie != theirs {
            self.server_cookie = theirs.to_vec();
        }
        true
    }
}

/// Returns whether a message has this question, also in another case.
fn is_question(message: &[u8], end: usize, hash: u64) -> bool {
    let Some(question) = message.get(header::LEN..end) else { return false };
    if xxh3_64(question) == hash {
        return true;
    }
    // Queries are in lower case; type and class are no text.
    let mut lower = question.to_vec();
    let name = lower.len().saturating_sub(4);
    lower[..name].make_ascii_lowercase();
    xxh3_64(&lower) == hash
}

fn option(out: &mut Vec<u8>, code: u16, length: usize) {
    out.extend_from_slice(&code.to_be_bytes());
    // Under 300 bytes.
    out.extend_from_slice(&(length as u16).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::packet::Packet;
    use crate::base::rng::ShardRng;
    use crate::config::bench as options;
    use crate::tools::bench::names::Names;
    use crate::tools::load::outstanding::OF_SOCKET;
    use crate::tools::load::tally::Interval;
    use crate::tools::reflect::answer::{Shape, Wanted};
    use crossbeam_channel::{Receiver, unbounded};
    use std::sync::Arc;

    fn asker(extras: Extras, plan: Plan) -> (Asker, Receiver<Interval>) {
        let matches = options::command().try_get_matches_from(["bench", "127.0.0.1"]).expect("options");
        let names = Arc::new(Names::load(&options::options(&matches)).expect("names"));
        let picker = Picker::new(names, ShardRng::from_seed(1), 0, 1);
        let (send, receive) = unbounded();
        let is_timed = matches!(plan, Plan::Open(_));
        (Asker::new(picker, extras, plan, Tally::new(0, Tick(0), is_timed, send)), receive)
    }

    fn answered(query: &[u8]) -> Vec<u8> {
        let mut buffer = query.to_vec();
        buffer.resize(2_048, 0);
        let mut packet = Packet::new(&mut buffer, 0, query.len());
        let shape = Shape { ttl: 1..=1, records: 1..=2 };
        answer::make(&mut packet, &shape, Wanted::default()).expect("an answer");
        packet.bytes().to_vec()
    }

    /// How many malformed answers one is, and how it is made of a good one and the length of its query.
    type Change<'c> = (u64, &'c dyn Fn(&mut Vec<u8>, usize));

    #[test]
    fn answers_that_cannot_be_read_are_wrong() {
        let (mut asker, _receive) = asker(Extras::default(), Plan::Closed(9));
        let mut lane = asker.lane(OF_SOCKET);
        let changes: [Change<'_>; 6] = [
            (0, &|_, _| {}),
            (1, &|m, _| m.truncate(m.len() - 1)),
            // Its owner points to itself.
            (1, &|m, end| m[end..end + 2].copy_from_slice(&(0xc000 | end as u16).to_be_bytes())),
            (1, &|m, _| m[2] |= 0x20),
            // One record more than there is.
            (1, &|m, _| m[7] += 1),
            // A truncated one ends anywhere.
            (0, &|m, _| {
                m[2] |= 2;
                m.truncate(m.len() - 1);
            }),
        ];
        for (number, (malformed, change)) in changes.iter().enumerate() {
            asker.ask(&mut lane, Tick(0)).expect("an id");
            let query = asker.message.clone();
            let mut answer = answered(&query);
            change(&mut answer, query.len());
            let before = asker.tally.counts().clone();
            asker.take(&mut lane, &answer, Tick(5_000));
            let after = asker.tally.counts();
            assert_eq!(after.answered, before.answered + 1, "{number}");
            assert_eq!(after.malformed, before.malformed + malformed, "{number}");
        }
    }

    #[test]
    fn good_answers_are_counted_and_others_by_their_kind() {
        let (mut asker, _receive) = asker(Extras { verify: true, ..Extras::default() }, Plan::Closed(9));
        let mut lane = asker.lane(OF_SOCKET);
        let ask = |asker: &mut Asker, lane: &mut Lane| {
            asker.ask(lane, Tick(0)).expect("an id");
            asker.message.clone()
        };
        let [a, b, c, d] = [(); 4].map(|()| ask(&mut asker, &mut lane));
        assert_eq!((asker.waiting, asker.room(Tick(0))), (4, 5));
        let good = answered(&a);
        asker.take(&mut lane, &good, Tick(5_000));
        asker.take(&mut lane, &good, Tick(6_000));
        let mut other = answered(&b);
        *other.last_mut().expect("data") ^= 1;
        other[20] = other[20].to_ascii_uppercase();
        asker.take(&mut lane, &other, Tick(7_000));
        let mut question = answered(&c);
        question[14] ^= 1;
        asker.take(&mut lane, &question, Tick(8_000));
        let mut id = answered(&c);
        id[0] ^= 0x55;
        asker.take(&mut lane, &id, Tick(8_000));
        asker.take(&mut lane, &c, Tick(8_000));
        asker.take(&mut lane, b"", Tick(8_000));
        asker.expire(&mut lane, Tick(9_000), TickDelta(9_000));
        asker.take(&mut lane, &answered(&d), Tick(9_000));
        let counts = asker.tally.counts().clone();
        assert_eq!((counts.answered, counts.duplicate, counts.wrong_records), (2, 1, 1));
        assert_eq!((counts.wrong_question, counts.unexpected, counts.malformed), (1, 1, 2));
        assert_eq!((counts.timed_out, counts.late, asker.waiting), (2, 1, 0));
    }

    #[test]
    fn an_error_without_a_question_is_the_answer() {
        let (mut asker, _receive) = asker(Extras { verify: true, ..Extras::default() }, Plan::Closed(9));
        let mut lane = asker.lane(OF_SOCKET);
        for (code, answers) in [(1, 1), (4, 2), (0, 2)] {
            asker.ask(&mut lane, Tick(0)).expect("an id");
            let mut answer = asker.message[..header::LEN].to_vec();
            (answer[2], answer[3], answer[5]) = (0x80, code, 0);
            asker.take(&mut lane, &answer, Tick(1));
            assert_eq!(asker.tally.counts().answered, answers, "{code}");
        }
        let counts = asker.tally.counts().clone();
        assert_eq!((counts.codes[1], counts.codes[4], counts.wrong_question), (1, 1, 1));
        assert_eq!((counts.wrong(), asker.waiting), (1, 1), "without a code it is no answer");
    }

    #[test]
    fn a_refusal_is_of_all_that_was_sent() {
        let (mut asker, _receive) = asker(Extras::default(), Plan::Closed(9));
        let (mut lane, mut other) = (asker.lane(OF_SOCKET), asker.lane(OF_SOCKET));
        for at in 0..3 {
            asker.ask(&mut lane, Tick(at)).expect("an id");
            asker.ask(&mut other, Tick(at)).expect("an id");
        }
        asker.refused(&mut lane, Tick(1));
        assert_eq!((asker.tally.counts().refused, asker.waiting), (2, 4), "one was sent behind it");
        asker.refused(&mut lane, Tick(9));
        asker.refused(&mut lane, Tick(9));
        assert_eq!((asker.tally.counts().refused, asker.waiting), (3, 3));
    }

    #[test]
    fn queries_have_their_extras() {
        let extras = Extras { edns: Some(4_096), dnssec: true, cookie: true, padding: true, verify: false };
        let (mut asker, _receive) = asker(extras, Plan::Closed(9));
        let mut lane = asker.lane(OF_SOCKET);
        for server_cookie in [0, 8] {
            let (_, query) = asker.ask(&mut lane, Tick(0)).expect("an id");
            let message = asker.message.clone();
            assert_eq!(message.len() % BLOCK, 0);
            let opt = edns::find(&message, header::LEN + usize::from(query.question_bytes)).expect("OPT");
            assert_eq!((opt.payload, opt.dnssec_ok, opt.end), (4_096, true, message.len()));
            let options: Vec<_> = edns::options(&message, &opt).map(|(code, at)| (code, at.len())).collect();
            assert_eq!(options[0], (COOKIE, 8 + server_cookie));
            assert_eq!(options[1].0, PADDING);
            asker.take(&mut lane, &answered(&message), Tick(1));
        }
        assert_eq!((asker.tally.counts().answered, asker.tally.counts().wrong_cookie), (2, 0));
        asker.ask(&mut lane, Tick(0)).expect("an id");
        let mut stolen = answered(&asker.message);
        let at = stolen.len() - 12;
        stolen[at] ^= 1;
        asker.take(&mut lane, &stolen, Tick(1));
        assert_eq!(asker.tally.counts().wrong_cookie, 1);
    }

    /// A server that answers each query after 100 us, and once does nothing for a second. The
    /// generator is stopped by it as a closed loop would be: it has one thread for both.
    #[test]
    fn a_stall_is_seen_from_the_intended_times() {
        const STALL: u64 = 1_000_000_000;
        let (mut asker, receive) = asker(Extras::default(), Plan::Open(Pace::new(Tick(0), 1_000, 0, 1)));
        let (mut lane, mut now, mut stalled) = (asker.lane(OF_SOCKET), Tick(0), false);
        while now < Tick(10_000_000_000) {
            for _ in 0..asker.room(now) {
                asker.ask(&mut lane, now).expect("an id");
                if now >= Tick(5_000_000_000) && !stalled {
                    stalled = true;
                    now = now + TickDelta(STALL);
                }
                now = now + TickDelta(100_000);
                let answer = answered(&asker.message);
                asker.take(&mut lane, &answer, now);
            }
            if let Plan::Open(pace) = &asker.plan {
                now = now.max(pace.next());
            }
        }
        asker.tally.end();
        let interval = receive.try_recv().expect("an interval");
        assert_eq!(interval.counts.answered, 10_000);
        let [latency, naive] =
            [&interval.latency, &interval.naive].map(|h| h.value_at_quantile(0.99) as f64 / 1e6);
        // A second of 10 was lost: a hundredth of the queries waited most of it.
        assert!(naive < 1.0, "one query of 10,000 was slow: {naive} ms");
        assert!(latency > 800.0, "but a tenth of them had to wait: {latency} ms");
    }
}
