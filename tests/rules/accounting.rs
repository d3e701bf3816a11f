//! Checks that every query has exactly one outcome, whatever the rules and the servers do.

use proptest::prelude::*;

use crate::bench::{Bench, Out};
use crate::support::config::client;
use crate::support::message::message;
use dnslob::stats::drop_reason::DropReason;

/// Rules to choose from.
const RULES: &[&str] = &[
    "addAction(QTypeRule('A'), PoolAction('two'))",
    "addAction('b', PoolAction('two', false))",
    "addAction('c', DropAction())",
    "addAction(AndRule{RDRule(), QTypeRule('AAAA')}, RCodeAction(5))",
    "addAction(OrRule{QTypeRule('TXT'), DNSSECRule()}, SetNoRecurseAction())",
    "addAction(NotRule(QNameSuffixRule('a')), SetDisableValidationAction())",
    "addAction('a', SpoofAction{'192.0.2.1', '2001:db8::1'})",
    "addAction('b', SpoofCNAMEAction('x.y'))",
    "addAction(QTypeRule('ANY'), TCAction())",
    "addAction(RegexRule('^b'), DelayAction(50))",
    "addAction(ProbaRule(0.5), DelayAction(700))",
    "addAction(AllRule(), TeeAction('127.0.1.9'))",
    "addAction('c', TeeAction('127.0.1.9', true))",
    "addAction(AllRule(), SetTagAction('t', 'x'))",
    "addAction(TagRule('t'), PoolAction('three'))",
    "addAction(AllRule(), SetEDNSOptionAction(10, 'abcdefgh'))",
    "addAction('a', SetExtendedDNSErrorAction(15, 'no'))",
    "addAction(NotRule(MaxQPSRule(20)), DropAction())",
    "addAction(MaxQPSIPRule(10), PoolAction('none'))",
    "addAction(AllRule(), QPSAction(30))",
    "addAction(AllRule(), SetMaxReturnedTTLAction(9))",
    "addAction(AllRule(), ContinueAction(RCodeAction(3)))",
    "addAction(QNameRule('c'), LogAction('', false))",
    "addAction('a', NegativeAndSOAAction(true, 'a', 1, 'n', 'm', 1, 2, 3, 4, 5))",
    "addResponseAction(RCodeRule(2), RestartResponseAction('two'))",
    "addResponseAction(RCodeRule(5), RestartResponseAction('none', 3))",
    "addResponseAction(QTypeRule('TXT'), DropResponseAction())",
    "addResponseAction('b', DelayResponseAction(80))",
    "addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(3))",
    "addResponseAction(AllRule(), SetReducedTTLResponseAction(50))",
    "addResponseAction('c', ClearRecordTypesResponseAction(DNSQType.A))",
    "addSelfAnsweredResponseAction('b', DropResponseAction())",
    "addSelfAnsweredResponseAction(AllRule(), DelayResponseAction(5))",
    "addTimeoutResponseAction(AllRule(), RestartResponseAction('three'))",
    "addTimeoutResponseAction('a', RestartResponseAction('none', 2))",
    "setServFailWhenNoServer(true)",
    "setRetry{after=300, budget=50}",
    "truncateTC(true)",
    "fixupCase(true)",
    "setDropEmptyQueries(true)",
];

const SERVERS: &str = r#"newServer("127.0.1.1") newServer{address="127.0.1.4", maxOutstanding=3}
    newServer{address="127.0.1.2", pool="two", useClientSubnet=true}
    newServer{address="127.0.1.3", pool={"three"}, udpTimeout=1} "#;

/// A random event.
#[derive(Clone, Debug)]
enum Event {
    /// A query: name, type, and other properties.
    Query(u8, u8, u8),
    /// An answer to one of the outstanding queries, and its defect.
    Response(u16, u8),
    /// Milliseconds pass.
    Pass(u16),
    /// Another configuration.
    Reload(u8),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => (0..6_u8, 0..6_u8, 0..10_u8).prop_map(|(n, t, e)| Event::Query(n, t, e)),
        4 => (any::<u16>(), 0..14_u8).prop_map(|(w, o)| Event::Response(w, o)),
        2 => (0..900_u16).prop_map(Event::Pass),
        1 => any::<u8>().prop_map(Event::Reload),
    ];
    prop::collection::vec(event, 1..120)
}

/// Drop reasons that are not the outcome of a query.
fn is_about_something_else(reason: DropReason) -> bool {
    let label = reason.label();
    reason != DropReason::ResponseRule
        && ["response-", "tee-", "log-", "oversized"].iter().any(|p| label.starts_with(p))
}

/// A run: the shard, and the queries at its servers.
struct Run {
    bench: Bench,
    asked: Vec<(dnslob::base::addr::Route, Vec<u8>)>,
    to_clients: u64,
    /// Whether some configuration allows retries.
    second_tries: bool,
}

impl Run {
    fn took(&mut self, out: Vec<Out>) {
        for what in out {
            match what {
                Out::Forward(route, bytes) => self.asked.push((route, bytes)),
                Out::ToClient(_, bytes) => {
                    assert!(bytes.len() >= 12 && bytes[2] & 0x80 != 0, "an answer");
                    assert_eq!(bytes[..2], [0x12, 0x34], "under the client's id");
                    self.to_clients += 1;
                }
                // It counts as answered when it is sent, and is outstanding until then.
                Out::Hold | Out::Drop(_) => {}
            }
        }
        self.balance();
    }

    /// Checks that every query is answered, dropped for a reason, or still outstanding.
    fn balance(&self) {
        let stats = self.bench.stats();
        let ended = DropReason::ALL.into_iter().filter(|r| !is_about_something_else(*r));
        let dropped: u64 = ended.map(|r| stats.dropped(r).get()).sum();
        let answered = stats.responses.get() + stats.self_answered.get();
        let outstanding = u64::from(self.bench.shard.outstanding());
        assert_eq!(answered, self.to_clients, "answers");
        let accounted = answered + dropped + outstanding;
        if self.second_tries && outstanding > 0 {
            // A retried query is outstanding twice.
            assert!(stats.queries.get() <= accounted, "queries");
        } else {
            assert_eq!(stats.queries.get(), accounted, "queries");
        }
    }

    fn query(&mut self, name: u8, qtype: u8, extra: u8) {
        let name = ["a", "b", "c", "x.A", "x.y.b", "d"][usize::from(name)];
        let qtype = ["A", "AAAA", "TXT", "ANY", "HTTPS", "SOA"][usize::from(qtype)];
        let extra = [
            "",
            "RD",
            "RD CD",
            "OPT=1232",
            "RD OPT=4096,DO",
            "OPT=512,8:00011800c00002",
            "TAIL=0102",
            "TC",
            "NOTIFY",
            "CUT=14",
        ][usize::from(extra)];
        let from = client(&format!("127.0.0.{}:4000", 1 + name.len()));
        let mut bytes = message(&format!("1234 {name}/{qtype} {extra}"));
        // Flags may stand anywhere in a text, so an empty question is built by hand.
        if qtype == "SOA" && extra.is_empty() {
            bytes.truncate(12);
            bytes[5] = 0;
        }
        let out = self.bench.query(from, &bytes);
        self.took(out);
    }

    fn response(&mut self, which: u16, odd: u8) {
        if self.asked.is_empty() {
            return;
        }
        let (route, mut bytes) = self.asked[usize::from(which) % self.asked.len()].clone();
        bytes[2] |= 0x80;
        match odd {
            0 => bytes.truncate(12),
            1 => bytes[0] ^= 1,
            2 => bytes[3] |= 2,
            3 => bytes[3] |= 5,
            4 => bytes[12] ^= 1,
            5 => bytes[2] |= 2,
            6 => bytes.truncate(bytes.len() - 3),
            7 => bytes[7] = 1,
            8 => bytes[2] &= 0x7f,
            _ => {}
        }
        let out = self.bench.response(route, &bytes);
        self.took(out);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_query_has_exactly_one_outcome(
        rules in prop::collection::vec(prop::sample::subsequence(RULES, 0..12).prop_shuffle(), 3),
        events in events(),
    ) {
        let texts: Vec<String> = rules.iter().map(|r| format!("{SERVERS}{}", r.join("\n"))).collect();
        let mut run = Run { bench: Bench::new(&texts[0]), asked: Vec::new(), to_clients: 0, second_tries: texts.iter().any(|t| t.contains("setRetry")) };
        for event in events {
            match event {
                Event::Query(name, qtype, extra) => run.query(name, qtype, extra),
                Event::Response(which, odd) => run.response(which, odd),
                Event::Pass(ms) => {
                    let out = run.bench.tick(ms.into());
                    run.took(out);
                }
                Event::Reload(which) => {
                    run.bench.reload(&texts[usize::from(which) % texts.len()]);
                    run.balance();
                }
            }
        }
        // All outstanding queries time out, are retried a few times at most, and end.
        for _ in 0..40 {
            let out = run.bench.tick(1_000);
            run.took(out);
        }
        prop_assert_eq!(run.bench.shard.outstanding(), 0);
        prop_assert_eq!(run.bench.shard.next_deadline(), None);
        let [claimed, settled, expired, released] = run.bench.shard.totals();
        prop_assert_eq!(claimed, settled + expired + released);
    }
}
