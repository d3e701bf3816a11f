//! What a script sees and changes, one packet at a time; and its limits.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::balance::Balancer;
use crate::balance::PoolView;
use crate::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot};
use crate::base::packet::Packet;
use crate::base::rng::ShardRng;
use crate::base::time::{Tick, TickDelta};
use crate::config::error::ConfigError;
use crate::config::ruleset::{FunctionKind, Interface};
use crate::lua::state::*;
use crate::model::ConfiguredScript;
use crate::model::{Pool, Snapshot};
use crate::rules::context::{Answered, Environment, EvaluationContext, Facts, Script};
use crate::rules::limits::Limits;
use crate::rules::pattern::PatternCache;
use crate::rules::query_state::QueryState;
use crate::rules::script::{Candidate, FunctionId, ScriptAction};
use crate::stats::live::LiveState;
use crate::wire::records::Records;

/// www.Example.com A, RD, with an OPT that has DO and one option (10, "abcdefgh").
const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\x01\x03www\x07Example\x03com\0\0\x01\0\x01\
    \0\0\x29\x04\xd0\0\0\x80\0\0\x0c\0\x0a\0\x08abcdefgh";
/// Its answer: CNAME host.example.com, whose A is 192.0.2.1.
const ANSWER: &[u8] = b"\x12\x34\x81\x80\0\x01\0\x02\0\0\0\0\x03www\x07Example\x03com\0\0\x01\0\x01\
    \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x07\x04host\xc0\x10\
    \xc0\x2d\0\x01\0\x01\0\0\x01\x00\0\x04\xc0\0\x02\x01";

/// A shard's script, with the environment of a packet.
struct Fixture {
    script: Box<dyn ConfiguredScript>,
    snapshot: Snapshot,
    limits: Limits,
    rng: ShardRng,
    balancer: Balancer,
    live_state: Arc<LiveState>,
    query_state: QueryState,
    now: Tick,
    /// The last packet, after its call.
    message: Vec<u8>,
}

/// Returns what the recording evaluation of a text finds, as the control thread would pass it.
fn recorded(text: &str) -> Vec<Recorded> {
    let kinds = [
        ("LuaFFIPerThreadAction(", (FunctionKind::Action, Interface::Text)),
        ("LuaFFIResponseAction(", (FunctionKind::ResponseAction, Interface::Ffi)),
        ("LuaResponseAction(", (FunctionKind::ResponseAction, Interface::Objects)),
        ("LuaFFIAction(", (FunctionKind::Action, Interface::Ffi)),
        ("setQueryCountFilter(", (FunctionKind::Action, Interface::Objects)),
        ("LuaAction(", (FunctionKind::Action, Interface::Objects)),
        ("LuaFFIRule(", (FunctionKind::Rule, Interface::Ffi)),
        ("LuaRule(", (FunctionKind::Rule, Interface::Objects)),
        ("setServerPolicyLuaFFI(", (FunctionKind::Policy, Interface::Ffi)),
        ("setServerPolicyLua(", (FunctionKind::Policy, Interface::Objects)),
    ];
    let found = text.lines().zip(1_u32..).filter_map(|(line, number)| {
        let (_, kind) = kinds.iter().find(|(name, _)| line.contains(name))?;
        if kind.1 == Interface::Text {
            let code = line.split("[[").nth(1)?.split("]]").next()?;
            return Some(one(*kind, code, 0));
        }
        Some(one(*kind, "@test.lua", number))
    });
    found.collect()
}

fn one((kind, interface): (FunctionKind, Interface), source: &str, line: u32) -> Recorded {
    Recorded { kind, interface, source: source.to_owned(), line }
}

fn checked(text: &str) -> Result<Arc<dyn Source>, ConfigError> {
    check(Files::one("test.lua", text.as_bytes()), recorded(text), vec![Names::default()], Vec::new())
}

impl Fixture {
    fn new(text: &str) -> Self {
        let source = checked(text).unwrap_or_else(|e| panic!("{e}"));
        let live_state = Arc::new(LiveState::new(1, 4));
        let pools = vec![Pool::default(), Pool { name: "abuse".to_owned(), ..Pool::default() }];
        Self {
            script: source.start(0).expect("a state"),
            snapshot: Snapshot { generation: 1, pools, ..Snapshot::default() },
            limits: Limits::default(),
            rng: ShardRng::from_seed(1),
            balancer: Balancer::new(Arc::clone(&live_state), 0),
            live_state,
            query_state: QueryState { flags: [1, 0], ..QueryState::default() },
            now: Tick(5_000_000_000),
            message: Vec::new(),
        }
    }

    /// A shard whose only function is this one.
    fn action(body: &str) -> Self {
        Self::new(&format!("addAction(AllRule(), LuaAction(function(dq) {body} end))"))
    }

    fn response(body: &str) -> Self {
        Self::new(&format!("addResponseAction(AllRule(), LuaResponseAction(function(dr) {body} end))"))
    }

    fn context<R>(
        &mut self,
        message: &[u8],
        fixture: usize,
        body: impl FnOnce(&mut dyn Script, &mut EvaluationContext<'_, '_>, &mut Environment<'_>) -> R,
    ) -> R {
        let mut buffer = message.to_vec();
        buffer.resize(message.len() + fixture, 0);
        let mut packet = Packet::new(&mut buffer, 0, message.len());
        let peer: SocketAddr = "192.0.2.77:4242".parse().expect("an address");
        let local: SocketAddr = "[2001:db8::53]:53".parse().expect("an address");
        let mut context = EvaluationContext {
            facts: Facts::of(packet.bytes()),
            packet: &mut packet,
            query_state: &mut self.query_state,
            client: Client {
                peer: Endpoint::from(peer),
                listener: ListenerSlot(0),
                local: LocalSlot::LISTENER,
                connection: None,
            },
            local: Endpoint::from(local),
            answered: Some(Answered { backend: BackendSlot(0), latency: TickDelta::from_ms(1) }),
        };
        let mut env = Environment {
            now: self.now,
            chains: &self.snapshot.chains,
            settings: self.snapshot.rule_settings(),
            limits: &mut self.limits,
            rng: &mut self.rng,
            pools: &PoolView { snapshot: &self.snapshot, balancer: &self.balancer },
            script: None,
            patterns: &mut PatternCache::default(),
        };
        self.script.adopt(&self.snapshot, &self.live_state);
        let result = body(&mut *self.script, &mut context, &mut env);
        self.message = context.packet.bytes().to_vec();
        result
    }

    fn run(&mut self, message: &[u8]) -> Option<ScriptAction> {
        self.context(message, 500, |script, context, env| script.act(FunctionId(0), context, env))
    }

    fn number(&mut self, number: u32) -> Option<ScriptAction> {
        self.context(QUERY, 500, |script, context, env| script.act(FunctionId(number), context, env))
    }

    fn errors(&self) -> u64 {
        self.script.errors()
    }
}

/// Runs `body` on a query; it has to end with DNSAction.Allow, which it does not reach if one of
/// its `assert`s fails.
fn holds(body: &str) {
    let mut fixture = Fixture::action(&format!("{body} return DNSAction.Allow"));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow), "{body}");
}

fn holds_for_answers(body: &str) -> Fixture {
    let mut fixture = Fixture::response(&format!("{body} return DNSResponseAction.Allow"));
    assert_eq!(fixture.run(ANSWER), Some(ScriptAction::Allow), "{body}");
    fixture
}

#[test]
fn members_are_read() {
    holds(
        "assert(dq.qname:toString() == 'www.Example.com.') assert(dq.qname == newDNSName('WWW.example.com'))",
    );
    holds("assert(dq.qtype == DNSQType.A and dq.qclass == DNSClass.IN and dq.rcode == 0 and dq.opcode == 0)");
    holds("assert(dq.remoteaddr:toStringWithPort() == '192.0.2.77:4242' and dq.remoteaddr:isIPv4())");
    holds("assert(dq.localaddr:toStringWithPort() == '[2001:db8::53]:53' and dq.localaddr:isIPv6())");
    holds(&format!("assert(dq.len == {} and not dq.tcp and dq.pool == '')", QUERY.len()));
    holds("assert(not dq.skipCache and dq.useECS and not dq.ecsOverride and dq.ecsPrefixLength == 24)");
    holds(
        "assert(dq.tempFailureTTL == nil and dq.dh:getRD() and not dq.dh:getQR() and dq.dh:getID() == 0x1234)",
    );
    holds("assert(dq:getDO() and dq:getProtocol() == 'Do53 UDP' and dq:getServerNameIndication() == '')");
    holds(
        "assert(dq:getIncomingInterface() == '' and dq:getRestartCount() == 0 and dq:getTrailingData() == '')",
    );
    holds(
        "local o = dq:getEDNSOptions()[EDNSOptionCode.COOKIE] assert(o:count() == 1 and o:getValues()[1] == 'abcdefgh')",
    );
    holds("assert(dq:getQueryTime().tv_sec > 1000000000 and getCurrentTime().tv_nsec >= 0)");
    holds("assert(#dq:getContent() == dq.len)");
}

#[test]
fn members_are_written() {
    let mut fixture = Fixture::action(
        "dq.pool = 'abuse' dq.skipCache = true dq.useECS = false dq.ecsOverride = true dq.ecsPrefixLength = 32
         dq.tempFailureTTL = 7 dq.rcode = 5 dq.dh:setCD(true) dq.dh:setRD(false)
         dq:setTag('a', 'b') dq:setTag('c', 'd') dq:unsetTag('c') dq:setTagArray({x = 'y'})
         assert(dq:getTag('a') == 'b' and dq:getTag('none') == '' and dq:getTagArray().x == 'y')
         assert(dq.pool == 'abuse' and dq.rcode == 5 and dq.tempFailureTTL == 7)
         dq:setRestartable() dq:setMaxReturnedTTL(9) dq:setExtendedDNSError(15, 'blocked')
         return DNSAction.None, ''",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::None));
    let query_state = &fixture.query_state;
    assert_eq!(
        (query_state.pool.0, query_state.skip_cache, query_state.temporary_failure_ttl),
        (1, true, Some(7))
    );
    assert_eq!((query_state.ecs.wanted, query_state.ecs.replace, query_state.ecs.v4), (false, true, 32));
    assert_eq!(query_state.tags.value(b"a"), Some(&b"b"[..]));
    assert_eq!((query_state.restartable, query_state.ttl_max), (true, Some(9)));
    assert_eq!(query_state.error, Some(15));
    assert_eq!(fixture.message[2..4], [0x00, 0x15]);
}

#[test]
fn headers_can_be_copied_and_restored() {
    holds(
        "local h = dq:getHeader() h:setTC(true) assert(not dq.dh:getTC()) dq:setHeader(h)
         assert(dq.dh:getTC() and dq.dh:getRD())",
    );
    for flag in ["QR", "AA", "TC", "RD", "RA", "AD", "CD"] {
        holds(&format!(
            "dq.dh:set{flag}(true) assert(dq.dh:get{flag}()) dq.dh:set{flag}(false) assert(not dq.dh:get{flag}())"
        ));
    }
}

#[test]
fn names_can_be_split() {
    holds(
        "local n = dq.qname assert(n:countLabels() == 3 and n:wirelength() == 17 and n:toStringNoDot() == 'www.Example.com')",
    );
    holds(
        "assert(dq.qname:isPartOf(newDNSName('EXAMPLE.com')) and not dq.qname:isPartOf(newDNSName('ample.com')))",
    );
    holds("assert(dq.qname:isPartOf(newDNSName('.')) and newDNSName('a'):isPartOf(newDNSName('a')))");
    holds(
        "local n = dq.qname assert(n:chopOff()) assert(n == newDNSName('example.com')) assert(dq.qname:countLabels() == 3)",
    );
    holds(
        "assert(dq.qname:getRawLabels()[2] == 'Example' and dq.qname:toDNSString() == '\\3www\\7Example\\3com\\0')",
    );
    holds("assert(newDNSNameFromRaw('\\1a\\0'):toString() == 'a.' and not pcall(newDNSName, 'a..b'))");
    holds("assert(dq.qname:makeRelative(newDNSName('com')):toString() == 'www.Example.')");
}

#[test]
fn addresses_and_networks() {
    holds("assert(newCA('192.0.2.1'):getPort() == 0 and newCA('[::1]:5'):toStringWithPort() == '[::1]:5')");
    holds("local a = newCA('192.0.2.77') a:truncate(24) assert(a:toString() == '192.0.2.0')");
    holds(
        "local g = newNMG() g:addMask('192.0.2.0/24') g:addMask('!192.0.2.77') assert(not g:match(dq.remoteaddr) and g:match(newCA('192.0.2.1')))",
    );
    holds(
        "assert(newNetmask('192.0.0.0/16'):match(dq.remoteaddr) and tostring(newNetmask('10.1.2.3/8')) == '10.0.0.0/8')",
    );
    holds("assert(not pcall(newCA, 'nonsense') and not pcall(newNetmask, '1.2.3.4/99'))");
    holds("assert(newCAFromRaw('\\1\\2\\3\\4', 5) == newCA('1.2.3.4:5'))");
}

#[test]
fn functions_can_make_sets() {
    holds("local s = newSuffixMatchNode() s:add('example.com') s:add({'a.org', newDNSName('b.org')})
           assert(s:check(dq.qname) and s:check('x.B.org') and not s:check('org'))
           assert(s:getBestMatch(dq.qname) == newDNSName('example.com')) s:remove('b.org') assert(not s:check('b.org'))");
    holds(
        "local s = newDNSNameSet() s:add(newDNSName('A.b')) assert(s:check(newDNSName('a.B')) and s:size() == 1 and not s:check(dq.qname))",
    );
}

#[test]
fn packet_overlay_reads_a_packet() {
    holds_for_answers(
        "local o = newDNSPacketOverlay(dr:getContent())
         assert(o.qname == dr.qname and o.qtype == 1 and o:getRecordsCountInSection(DNSSection.Answer) == 2)
         local r = o:getRecord(1) assert(r.name == newDNSName('host.example.com') and r.ttl == 256 and r.place == 1)
         assert(parseARecord(dr:getContent(), r):toString() == '192.0.2.1' and parseAAAARecord(dr:getContent(), r) == nil)",
    );
}

#[test]
fn function_decides_about_the_query() {
    let action = [
        ("None", "''", ScriptAction::None, &b""[..]),
        ("Allow", "nil", ScriptAction::Allow, b""),
        ("Drop", "''", ScriptAction::Drop, b""),
        ("Nxdomain", "''", ScriptAction::RCode(3), b""),
        ("Refused", "''", ScriptAction::RCode(5), b""),
        ("ServFail", "''", ScriptAction::RCode(2), b""),
        ("Spoof", "'192.0.2.1'", ScriptAction::Spoof, b"192.0.2.1"),
        ("SpoofRaw", "'\\0\\1'", ScriptAction::SpoofRaw, b"\0\x01"),
        ("SpoofPacket", "('x'):rep(12)", ScriptAction::SpoofPacket, b"xxxxxxxxxxxx"),
        ("HeaderModify", "''", ScriptAction::HeaderModify, b""),
        ("Pool", "'abuse'", ScriptAction::Pool, b"abuse"),
        ("Delay", "'250'", ScriptAction::Delay(250), b"250"),
        ("Truncate", "''", ScriptAction::Truncate, b""),
        ("NoRecurse", "''", ScriptAction::NoRecurse, b""),
    ];
    for (name, argument, expected, bytes) in action {
        let mut fixture = Fixture::action(&format!("return DNSAction.{name}, {argument}"));
        assert_eq!(fixture.run(QUERY), Some(expected), "{name}");
        assert_eq!(fixture.script.argument(), bytes, "{name}");
    }
    for wrong in [
        "return",
        "return 'x'",
        "return 99",
        "return -1",
        "return 1.5",
        "return 0/0",
        "return 1e300",
        "return {}",
        "return DNSAction.Pool, {}",
        "return DNSAction.Delay, 'soon'",
        "return DNSAction.Spoof",
        "return DNSAction.SpoofPacket, 'short'",
        "return DNSAction.Spoof, 'b\u{fc}cher.example'",
        "return DNSAction.SpoofCNAME, 'b\u{fc}cher.example'",
        "newDNSName('b\u{fc}cher.example') return DNSAction.None",
        "dq:getTag('a', 'b') return DNSAction.None",
        "dq:setTag('a', 'b', 'c') return DNSAction.None",
        "dq:getDO(1) return DNSAction.None",
        "dq:setTagArray({}, 1) return DNSAction.None",
        "dq:addProxyProtocolValue(1, 'a', 1) return DNSAction.None",
        "dq:spoof('192.0.2.1', 1, 1, 1) return DNSAction.None",
        "error('x')",
        "error({})",
        "error()",
        "error(5)",
    ] {
        let mut fixture = Fixture::action(wrong);
        assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1), "{wrong}");
        assert_eq!(fixture.message, QUERY);
    }
}

#[test]
fn function_answers_queries() {
    let mut fixture =
        Fixture::action("dq:spoof({newCA('192.0.2.9'), newCA('2001:db8::9')}) return DNSAction.HeaderModify");
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::HeaderModify));
    let found: Vec<_> =
        Records::of(&fixture.message).map(|r| (r.section as u8 + 1, r.rtype, r.ttl)).collect();
    assert_eq!(found, [(1, 1, 60), (3, 41, 0x8000)]);
    assert_eq!(fixture.message[2..4], [0x81, 0x80], "RA is RD");
    let mut fixture =
        Fixture::action("dq:spoof({'\\1\\2\\3\\4', '\\5\\6\\7\\8'}) return DNSAction.HeaderModify");
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::HeaderModify));
    assert_eq!(Records::of(&fixture.message).count(), 3);
    for wrong in ["dq:spoof({})", "dq:spoof(5)", "dq:spoof(('x'):rep(600))", "dq:spoof(('x'):rep(70000))"] {
        let mut fixture = Fixture::action(&format!("{wrong} return DNSAction.HeaderModify"));
        assert_eq!((fixture.run(QUERY), fixture.errors(), &fixture.message[..]), (None, 1, QUERY), "{wrong}");
    }
}

#[test]
fn message_can_be_replaced_within_its_buffer() {
    let mut fixture = Fixture::action(
        "dq:setContent(dq:getContent():sub(1, 12) .. '\\1x\\0\\0\\28\\0\\1')
         assert(dq.qname:toString() == 'x.' and dq.qtype == DNSQType.AAAA) return DNSAction.Allow",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert!(fixture.message.ends_with(b"\x01x\0\0\x1c\0\x01"));
    for wrong in ["('x'):rep(5000)", "''", "('x'):rep(11)", "5"] {
        let mut fixture = Fixture::action(&format!("dq:setContent({wrong}) return DNSAction.Allow"));
        assert_eq!((fixture.run(QUERY), fixture.errors(), &fixture.message[..]), (None, 1, QUERY), "{wrong}");
    }
    let mut fixture = Fixture::action(
        "assert(dq:setTrailingData('tail') and dq:getTrailingData() == 'tail') dq:setTrailingData('end')
         assert(not dq:setTrailingData(('x'):rep(5000))) return DNSAction.Allow",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.message, [QUERY, b"end"].concat());
}

#[test]
fn name_is_changed_and_the_question_kept() {
    let mut fixture = Fixture::action(
        "assert(dq:changeName(newDNSName('other.org'))) assert(dq.qname == newDNSName('other.org')) return DNSAction.Allow",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.message[12..27], b"\x05other\x03org\0\0\x01\0\x01"[..]);
    assert_eq!(fixture.query_state.original, b"\x03www\x07Example\x03com\0\0\x01\0\x01");
    let long = format!("{0}.{0}.{0}.abc", "x".repeat(60));
    let mut fixture = Fixture::action(&format!(
        "if not dq:changeName(newDNSName('{long}')) then return DNSAction.Drop end return DNSAction.Allow"
    ));
    let fits = fixture.context(QUERY, 20, |script, context, env| script.act(FunctionId(0), context, env));
    assert_eq!((fits, &fixture.message[..]), (Some(ScriptAction::Drop), QUERY));
    let fixture = holds_for_answers("assert(dr:changeName(newDNSName('n')))");
    let owners: Vec<_> = Records::of(&fixture.message)
        .map(|r| {
            let mut owner = [0; 255];
            let (length, _) = crate::wire::name::read(&fixture.message, r.start, &mut owner)?;
            Some(owner[..length].to_vec())
        })
        .collect();
    assert_eq!(owners, [Some(b"\x01n\0".to_vec()), Some(b"\x04host\x07Example\x03com\0".to_vec())]);
}

#[test]
fn answers_are_edited_and_restarted() {
    let fixture = holds_for_answers(
        "dr:editTTLs(function(section, class, type, ttl)
           assert(section == 1 and class == 1) if type == DNSQType.A then return 9 end return 0
         end)
         assert(not dr:getStaleCacheHit() and dr:getSelectedBackend() == nil)",
    );
    let ttls: Vec<_> = Records::of(&fixture.message).map(|r| r.ttl).collect();
    assert_eq!(ttls, [60, 9], "0 leaves a TTL as it is");
    let mut fixture = Fixture::response("dr.pool = 'abuse' dr:restart() return DNSResponseAction.None");
    assert_eq!(fixture.run(ANSWER), Some(ScriptAction::Restart));
    let mut fixture =
        Fixture::response("dr:editTTLs(function() error('no') end) return DNSResponseAction.None");
    assert_eq!((fixture.run(ANSWER), &fixture.message[..]), (None, ANSWER));
    assert_eq!(fixture.run(ANSWER), None, "the next call works the same");
}

#[test]
fn unsupported_members_are_refused_by_name() {
    for name in ["setHTTPResponse", "suspend", "setMetaKey"] {
        let body = format!(
            "local ok, e = pcall(dq.{name}, dq) assert(not ok and tostring(e):find('{name} is not available'))"
        );
        holds(&body);
    }
    holds("assert(not pcall(function() return dq.banana end) and not pcall(function() dq.banana = 1 end))");
    holds("assert(not pcall(function() dq.qname = 1 end) and not pcall(function() dq.pool = 'none' end))");
    for name in ["newServer", "addAction", "setACL", "LuaAction", "rmServer"] {
        let body = format!(
            "local ok, e = pcall({name}, 1) assert(not ok and tostring(e):find('{name} works only'))"
        );
        holds(&body);
    }
}

#[test]
fn query_of_an_earlier_call_shows_no_data() {
    let mut fixture = Fixture::action(
        "if old then
           assert(not pcall(function() return old.qtype end) and not pcall(old.setTag, old, 'a', 'b'))
           assert(not pcall(function() old.pool = 'abuse' end) and not pcall(h.getID, h))
           assert(name:toString() == 'www.Example.com.' and dq.qname:toString() == '.')
           return DNSAction.Drop
         end
         old, h, name = dq, dq.dh, dq.qname return DNSAction.Allow",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.run(&QUERY[..12]), Some(ScriptAction::Drop));
    assert!(fixture.query_state.tags.is_empty() && fixture.query_state.pool.0 == 0);
    let mut fixture = Fixture::new(
        "local old\nfunction maintenance() assert(not pcall(function() return old:getTag('a') end)) ended = true end\n\
         LuaAction(function(dq) old = dq return ended and DNSAction.Drop or DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    fixture.script.maintain(Tick(1));
    assert_eq!((fixture.run(QUERY), fixture.errors()), (Some(ScriptAction::Drop), 0));
}

/// Runs each body once in a shard's state: it ends with one error, and the next function runs
/// normally.
fn end_with_an_error(bodies: &'static [&'static str]) {
    crate::lua::limits::tests::in_lua_thread(move || {
        for body in bodies {
            let mut fixture = Fixture::new(&format!(
                "LuaAction(function(dq) {body} end)\nLuaAction(function(dq) return DNSAction.Drop end)"
            ));
            assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1), "{body}");
            assert_eq!(fixture.number(1), Some(ScriptAction::Drop), "{body}");
            assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 2), "{body}");
            assert_eq!(fixture.number(1), Some(ScriptAction::Drop), "{body}");
        }
    });
}

#[test]
fn endless_functions_end() {
    end_with_an_error(&[
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "coroutine.wrap(function() while true do end end)()",
        "local function f() return f() end f()",
        "dq:editTTLs(function() while true do end end) while true do end",
        "xpcall(function() while true do end end, function() while true do end end)",
        "if jit then jit.on() end while true do end",
        "if debug.sethook then debug.sethook() end while true do end",
        "if newproxy then local p = newproxy(true) getmetatable(p).__gc = function() while true do end end
           p = nil collectgarbage() end error('no')",
        "local ffi = require('ffi') ffi.gc(ffi.new('int[1]'), function() while true do end end)",
        "local ffi = require('ffi') local call = setmetatable({}, {__call = function() while true do end end})
           ffi.gc(ffi.new('int[1]'), call)",
        "local ffi = require('ffi') local call = setmetatable({}, {__call = function() while true do end end})
           ffi.metatype('struct { int x; }', {__gc = call})",
        "local ffi = require('ffi') ffi.gc(ffi.new('int[1]'), ffi.cast('void (*)(void *)', function() end))",
        "local ffi = require('ffi') ffi.gc(ffi.new('int[1]'), ffi.cast('void (*)(void *)', function() end)[0])",
        "sorted = sorted or {} for i = 1, 1e9 do sorted[#sorted + 1] = i table.sort(sorted, rawequal) end",
        "error(setmetatable({}, {__tostring = function() while true do end end}))",
        "getmetatable('').__tostring = function() while true do end end while true do end",
        "local n = dq.qname:toString():rep(20) n:find(('.-'):rep(6) .. '%z')",
        "local n = dq.qname:toString():rep(20) n:match(('.-'):rep(6) .. '%z')",
        "local n = dq.qname:toString():rep(20) for w in n:gmatch(('.-'):rep(6) .. '%z') do end while true do end",
        "local n = dq.qname:toString():rep(20) n:gsub(('.-'):rep(6) .. '%z', '')",
        "local n = dq.qname:toString():rep(20) n:gsub(('.-'):rep(6) .. '%z', function() end)",
        "local s = ('a'):rep(1e6) s:find(s:sub(1, 5e5) .. 'b', 1, true)",
        "os.exit(1)",
        "setfenv(1, {}) while true do end",
        "local f f = function() return xpcall(f, f) end while true do f() end",
        "local c = coroutine.create(function() pcall(function() ('xx'):gsub('.', function() coroutine.yield() end) end)
           while true do end end) while true do coroutine.resume(c) end",
        "load(string.dump(function() end))()",
        "while true do collectgarbage() end",
        "local t = setmetatable({}, {__index = function(t, k) return k end}) while true do local x = t[1] end",
    ]);
}

#[test]
fn functions_that_take_all_memory_end() {
    end_with_an_error(&[
        "return ('x'):rep(1e9)",
        "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end",
        "kept = kept or {} for i = 1, 1e9 do kept[#kept + 1] = ('x'):rep(1e6) .. #kept end",
        "local s = 'x' while true do s = s .. s end",
        "local t while true do t = {t} end",
        "local t = {} for i = 1, 30 do t[i] = ('x'):rep(5e6) .. i end return table.concat(t)",
        "io.open('/dev/zero'):read('*a')",
        "return unpack({}, 1, 1e8)",
    ]);
}

#[test]
fn functions_work_while_others_have_taken_nearly_all_memory() {
    crate::lua::limits::tests::in_lua_thread(|| {
        let mut fixture = Fixture::action(
            "if dq.qtype == 28 then
                 kept = kept or {} for i = 1, 1e9 do kept[#kept + 1] = ('x'):rep(1e6) .. #kept end
             end
             if dq.qtype == 16 then kept[#kept] = nil end
             local garbage for i = 1, 20 do garbage = {('y'):rep(1000 + i)} end return DNSAction.Drop",
        );
        // Each call ends early: by its time or by the memory.
        let calls = 50;
        for n in 1..=calls {
            assert_eq!((fixture.run(&of_type(28)), fixture.errors()), (None, n));
            fixture.now = fixture.now + TickDelta::from_ms(10_000);
        }
        // At least this megabyte is left for the garbage of others.
        assert_eq!(fixture.run(&of_type(16)), Some(ScriptAction::Drop));
        for n in 0..10_000 {
            assert_eq!(fixture.run(QUERY), Some(ScriptAction::Drop), "call {n}");
        }
    });
}

#[test]
fn unbounded_recursion_ends() {
    end_with_an_error(&[
        "local function f(s) return (s:gsub('.', f)) end f('x')",
        "local f f = function() coroutine.wrap(f)() end f()",
        "local f f = function() load(f) return nil end f()",
        "f = function() loadstring('f()')() end f()",
        "local f f = function() pcall(f) error('deep') end f()",
        "local t = setmetatable({}, {__index = function(t, k) return t[k .. 'x'] .. '' end}) return t.x",
        "local f f = function(a, b) table.sort({3, 2, 1}, f) return a < b end table.sort({1, 2, 3}, f)",
        "local mt = {} mt.__tostring = function(x) return ('%s'):format(x) end tostring(setmetatable({}, mt))",
        "local content, f = dq:getContent() f = function() dq:setContent(content) dq:editTTLs(f) end f() error('ends')",
    ]);
}

/// Returns [`QUERY`] with another type.
fn of_type(qtype: u8) -> Vec<u8> {
    let mut query = QUERY.to_vec();
    let at = query.windows(4).rposition(|w| w == [0, 1, 0, 1]).expect("a type after the name");
    query[at + 1] = qtype;
    query
}

#[test]
fn function_that_took_too_long_is_suspended() {
    crate::lua::limits::tests::in_lua_thread(|| {
        let mut fixture =
            Fixture::action("if dq.qtype == 1 then while true do end end return DNSAction.Drop");
        let other = of_type(28);
        assert_eq!((fixture.run(&other), fixture.errors()), (Some(ScriptAction::Drop), 0));
        assert_eq!((fixture.run(QUERY), fixture.errors()), (None, 1));
        assert_eq!((fixture.run(&other), fixture.errors()), (None, 2), "it is suspended");
        fixture.now = fixture.now + TickDelta::from_ms(40);
        assert_eq!((fixture.run(&other), fixture.errors()), (None, 3), "it still is");
        fixture.now = fixture.now + TickDelta::from_ms(1_000);
        assert_eq!((fixture.run(&other), fixture.errors()), (Some(ScriptAction::Drop), 3));
    });
}

/// Returns what is logged meanwhile.
fn logged(run: impl FnOnce()) -> String {
    use std::io::Write;
    use std::sync::Mutex;
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("the lines").extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let to = lines.clone();
    let log = tracing_subscriber::fmt().with_writer(move || to.clone()).finish();
    // With a single subscriber, the thread that first reaches a log call decides for all whether it
    // is enabled.
    let _another = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(std::io::sink).finish());
    tracing::subscriber::with_default(log, run);
    String::from_utf8(lines.0.lock().expect("the lines").clone()).expect("text")
}

#[test]
fn print_goes_to_the_log() {
    let text = logged(|| {
        let mut fixture = Fixture::action(
            "print('one', 2, nil) io.write('th', 'ree\\nfo') io.stdout:write('ur\\n', 5, '\\n') io.stderr:write('six\\n')
             io.output():write('seven') io.output():flush()
             assert(io.output() == io.stdout and io.type(io.stderr) == 'file' and not pcall(io.write, {}))
             local name = os.tmpname()
             local file = io.output(name)
             io.write('in a file') io.close()
             assert(io.type(file) == 'closed file' and io.lines(name)() == 'in a file')
             os.remove(name)
             io.output(io.stderr) io.write('eight\\n')
             return DNSAction.Drop",
        );
        assert_eq!((fixture.run(QUERY), fixture.errors()), (Some(ScriptAction::Drop), 0));
    });
    let action: Vec<_> = text.lines().filter_map(|l| l.split("INFO").nth(1)).collect();
    let words = ["one", "three", "four", "5", "six", "seven", "eight"];
    assert_eq!(action.len(), words.len(), "{text}");
    for (line, word) in action.iter().zip(words) {
        assert!(line.contains(word) && line.contains("test.lua:"), "{word}: {line}");
    }
}

#[test]
fn long_text_is_printed_in_parts() {
    let text = logged(|| {
        let mut fixture = Fixture::action(
            "print(('y'):rep(160000)) print(('x\\n'):rep(400)) print('\\nz') print() return DNSAction.Drop",
        );
        assert_eq!((fixture.run(QUERY), fixture.errors()), (Some(ScriptAction::Drop), 0));
    });
    let lines = |what: &str| text.lines().filter(|l| l.contains("INFO") && l.contains(what)).count();
    assert_eq!((lines("yyy"), text.matches('y').count()), (3, 160_000));
    assert_eq!((lines(" x "), lines(" z ")), (400, 1));
    assert_eq!(text.lines().count(), 3 + 400 + 2 + 1, "a line for each");
}

#[test]
fn errors_are_counted_and_logged_once_a_second() {
    let text = logged(|| {
        let mut fixture = Fixture::action("error('wrong')");
        for step in 0..30 {
            fixture.now = Tick(1) + TickDelta::from_ms(step * 100);
            assert_eq!(fixture.run(QUERY), None);
        }
        assert_eq!(fixture.errors(), 30);
    });
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("test.lua:1: wrong"), "{text}");
}

#[test]
fn an_error_of_one_function_does_not_hide_that_of_another() {
    let text = logged(|| {
        let mut fixture = Fixture::new(
            "function maintenance() error('upkeep') end
             addAction(AllRule(), LuaAction(function(dq) error('rule') end))",
        );
        for step in 0..20 {
            fixture.now = Tick(1) + TickDelta::from_ms(step * 100);
            fixture.script.maintain(fixture.now);
            assert_eq!(fixture.run(QUERY), None);
        }
        assert_eq!(fixture.errors(), 40);
    });
    for what in ["test.lua:1: upkeep", "test.lua:2: rule"] {
        let lines: Vec<_> = text.lines().filter(|l| l.contains(what)).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[1].ends_with("10"), "the second stands for ten errors: {text}");
    }
}

/// The error of `maintenance` or of a callback does not keep the others from running.
#[test]
fn each_callback_of_maintenance_runs_and_fails_by_itself() {
    let text = logged(|| {
        let mut fixture = Fixture::new(
            "runs = 0
             function maintenance() error('upkeep') end
             addMaintenanceCallback(function() runs = runs + 1 end)
             addMaintenanceCallback(function() error('second') end)
             addMaintenanceCallback(function() runs = runs + 1 error(nil) end)
             addAction(AllRule(), LuaAction(function(dq) if runs == 4 then return DNSAction.Drop end end))",
        );
        fixture.script.maintain(Tick(1));
        fixture.script.maintain(Tick(1) + TickDelta::from_ms(1_000));
        assert_eq!((fixture.run(QUERY), fixture.errors()), (Some(ScriptAction::Drop), 6));
    });
    for what in ["test.lua:2: upkeep", "test.lua:4: second", "test.lua:5: nil"] {
        assert!(text.contains(what), "{text}");
    }
}

#[test]
fn file_that_evaluates_differently_is_refused() {
    let text = "counter = os.tmpname and LuaAction(function(dq) return 0 end)\n";
    assert!(checked(text).is_ok());
    let more = [one((FunctionKind::Rule, Interface::Objects), "@test.lua", 9)];
    for wrong in [&[][..], &more] {
        let error = check(Files::one("test.lua", text.as_bytes()), wrong.to_vec(), Vec::new(), Vec::new())
            .expect_err("refused")
            .to_string();
        assert!(error.contains("evaluates differently"), "{error}");
    }
    let error = checked("LuaAction(function(dq) end)\nerror('stop')").expect_err("refused").to_string();
    assert!(error.contains("test.lua:2: stop"), "{error}");
}

#[test]
fn configuration_functions_do_nothing() {
    let text = "local s = newServer{address='192.0.2.1:53', name='one', weight=3}\n\
        assert(s.weight == 3 and getServer(0) == s and getServer('one') == s and getServer(42) == nil and #getServers() == 1)\n\
        setACL({'0.0.0.0/0'}) addLocal('127.0.0.1') getPool('x'):setCache(newPacketCache(10)) setServerPolicy(wrandom)\n\
        local smn = newSuffixMatchNode() smn:add('a') addAction(SuffixMatchNodeRule(smn), DropAction())\n\
        addAction(AndRule({QTypeRule(DNSQType.A), NotRule(TCPRule(true))}), SpoofAction({'192.0.2.1'}))\n\
        addAction(AllRule(), LuaAction(function(dq) return smn:check('b') and DNSAction.Drop or DNSAction.Allow end))\n\
        errlog('silent') print('silent')\n";
    let mut fixture = Fixture::new(text);
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
}

#[test]
fn included_files_are_evaluated_too() {
    let main = "includeDirectory('conf.d')\nLuaAction(function(dq) return first end)";
    let files = Files {
        main: Some(File { name: "test.lua".to_owned(), text: main.as_bytes().to_vec() }),
        directories: vec![(
            "conf.d".to_owned(),
            vec![File {
                name: "a.conf".to_owned(),
                text: b"#!x\nfirst = DNSAction.Drop LuaRule(function() return true end)".to_vec(),
            }],
        )],
        ..Files::default()
    };
    let recorded = vec![
        one((FunctionKind::Rule, Interface::Objects), "@a.conf", 2),
        one((FunctionKind::Action, Interface::Objects), "@test.lua", 2),
    ];
    let source = check(files, recorded, Vec::new(), Vec::new()).expect("a source");
    let mut fixture = Fixture { script: source.start(1).expect("a state"), ..Fixture::action("return 0") };
    assert_eq!(fixture.number(1), Some(ScriptAction::Drop));
    assert_eq!(
        fixture.context(QUERY, 0, |s, context, env| s.matches(FunctionId(0), context, env)),
        Some(true)
    );
}

#[test]
fn rules_match() {
    let mut fixture = Fixture::new(
        "LuaRule(function(dq) return dq.qtype == DNSQType.A end)\nLuaRule(function(dq) error('x') end)",
    );
    let mut matches =
        |number| fixture.context(QUERY, 0, |s, context, env| s.matches(FunctionId(number), context, env));
    assert_eq!(matches(0), Some(true));
    assert_eq!(matches(1), None);
    assert_eq!(matches(7), None, "no such function");
    assert_eq!(fixture.run(QUERY), None, "no action");
    assert_eq!(fixture.errors(), 3);
}

fn chosen(text: &str) -> Option<usize> {
    let mut fixture = Fixture::new(text);
    let servers = [3, 1, 2].map(|n| Candidate {
        slot: BackendSlot(n),
        outstanding: u32::from(n),
        latency_us: 1500,
        within_qps: n != 1,
    });
    fixture.snapshot.backends = (0..4).map(|n| Some(Arc::new(crate::balance::tests::backend(n)))).collect();
    let chosen =
        fixture.context(QUERY, 0, |s, context, env| s.choose(FunctionId(0), &servers, context, env.now));
    chosen.and_then(|slot| servers.iter().position(|server| server.slot == slot))
}

#[test]
fn policies_choose() {
    let lua = |body: &str| chosen(&format!("setServerPolicyLua('p', function(servers, dq) {body} end)"));
    assert_eq!(lua("return 2"), Some(1));
    assert_eq!(lua("return servers[3]"), Some(2));
    assert_eq!(
        lua(
            "table.sort(servers, function(a, b) return a:getOutstanding() < b:getOutstanding() end) return servers[1]"
        ),
        Some(1)
    );
    assert_eq!(
        lua(
            "assert(#servers == 3 and servers[1]:isUp() and servers[1]:getLatency() == 1.5 and servers[1].weight > 0 and servers[1].order) assert(dq.qtype == 1) return 1"
        ),
        Some(0)
    );
    assert_eq!(
        lua("assert(#servers[1]:getName() > 0 and servers[1]:getNameWithAddr():find(':')) return 1"),
        Some(0)
    );
    for none in [
        "return 0",
        "return 4",
        "return -1",
        "return 0/0",
        "return 1e300",
        "return nil",
        "return {}",
        "error('x')",
    ] {
        assert_eq!(lua(none), None, "{none}");
    }
    // Servers 3, 1, 2: of outstanding queries, as many; 1 is above its `qps`.
    for (policy, want) in [
        ("leastOutstanding.policy(servers, dq)", Some(1)),
        ("leastOutstanding.policy({servers[3], servers[1]}, dq)", Some(2)),
        ("firstAvailable.policy(servers, dq)", Some(0)),
        ("firstAvailable.policy({servers[2]}, dq)", Some(1)),
        ("roundrobin.policy(servers, dq)", Some(1)),
        ("wrandom.policy({servers[3]}, dq)", Some(2)),
        ("orderedWrandUntag.policy({servers[3]}, dq)", Some(2)),
        ("p2c.policy({servers[2], servers[3]}, dq)", Some(1)),
        ("whashed.policy({}, dq)", None),
        ("concentrate.policy(servers, dq)", None),
        ("leastOutstanding.policy(nil, dq)", None),
    ] {
        assert_eq!(lua(&format!("return {policy}")), want, "{policy}");
    }
    for hashed in ["whashed", "chashed"] {
        // The same server for the same name; chashed, also without one of the others.
        let one = lua(&format!("return {hashed}.policy(servers, dq)")).expect("a server");
        assert_eq!(lua(&format!("return {hashed}.policy(servers, dq)")), Some(one));
        if hashed == "chashed" {
            let less =
                format!("table.remove(servers, {}) return chashed.policy(servers, dq)", (one + 1) % 3 + 1);
            assert_eq!(lua(&less), Some(one));
        }
    }
    let ffi = |body: &str| {
        chosen(&format!(
            "local C = require('ffi').C setServerPolicyLuaFFI('p', function(list, dq) {body} end)"
        ))
    };
    assert_eq!(ffi("return 2"), Some(2));
    assert_eq!(ffi("return 3"), None);
    assert_eq!(ffi("return C.dnsdist_ffi_servers_list_get_count(list) - 1"), Some(2));
    assert_eq!(
        ffi(
            "local ffi = require('ffi') local s = ffi.new('const dnsdist_ffi_server_t*[1]') C.dnsdist_ffi_servers_list_get_server(list, 1, s) \
             assert(C.dnsdist_ffi_server_get_outstanding(s[0]) == 1 and C.dnsdist_ffi_server_is_up(s[0])) \
             assert(C.dnsdist_ffi_server_get_latency(s[0]) == 1.5 and C.dnsdist_ffi_server_get_weight(s[0]) >= 1) \
             assert(#ffi.string(C.dnsdist_ffi_server_get_name(s[0])) > 0 and C.dnsdist_ffi_server_get_order(s[0]) >= 0) \
             assert(#ffi.string(C.dnsdist_ffi_server_get_name_with_addr(s[0])) > 0) \
             C.dnsdist_ffi_servers_list_get_server(list, 9, s) assert(s[0] == nil and not C.dnsdist_ffi_server_is_up(s[0])) \
             return C.dnsdist_ffi_servers_list_chash(list, dq, 5)"
        ),
        ffi("return C.dnsdist_ffi_servers_list_chash(list, dq, 5)")
    );
}

/// Runs a function through C; it has to end with DNSAction.Allow.
fn ffi_holds(body: &str) -> Fixture {
    let mut fixture = Fixture::new(&format!(
        "local ffi = require('ffi') local C, D, string = ffi.C, ffi.new, ffi.string\n\
         LuaFFIAction(function(dq) {} return DNSAction.Allow end)",
        body.replace("$", "C.dnsdist_ffi_dnsquestion_")
    ));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow), "{body}");
    fixture
}

#[test]
fn c_functions_read() {
    ffi_holds(
        "assert($get_qtype(dq) == 1 and $get_qclass(dq) == 1 and $get_id(dq) == 0x1234 and $get_rcode(dq) == 0)",
    );
    ffi_holds(
        "assert($get_do(dq) and not $get_tcp(dq) and $get_opcode(dq) == 0 and $get_edns_version(dq) == 0)",
    );
    ffi_holds("assert($get_remote_port(dq) == 4242 and $get_local_port(dq) == 53)");
    ffi_holds(
        "assert($get_len(dq) == tonumber($get_size(dq)) and $get_protocol(dq) == 0 and $get_use_ecs(dq))",
    );
    ffi_holds(
        "local p, n = D('const char*[1]'), D('size_t[1]') $get_qname_raw(dq, p, n) assert(string(p[0], n[0]) == '\\3www\\7Example\\3com\\0')",
    );
    ffi_holds(
        "local p, n = D('const void*[1]'), D('size_t[1]') $get_remoteaddr(dq, p, n) assert(string(p[0], n[0]) == '\\192\\0\\2\\77')",
    );
    ffi_holds(
        "local p, n = D('const void*[1]'), D('size_t[1]') $get_masked_remoteaddr(dq, p, n, 24) assert(string(p[0], n[0]) == '\\192\\0\\2\\0')",
    );
    ffi_holds("local p, n = D('const void*[1]'), D('size_t[1]') $get_localaddr(dq, p, n) assert(n[0] == 16)");
    ffi_holds(
        "local o = D('const dnsdist_ffi_ednsoption_t*[1]') assert($get_edns_options(dq, o) == 1) assert(o[0][0].optionCode == 10 and string(o[0][0].data, o[0][0].len) == 'abcdefgh')",
    );
    ffi_holds(
        "local b = D('char[12]') assert(not $get_header_copy(dq, b, 11) and $get_header_copy(dq, b, 12)) assert(string(b, 2) == '\\18\\52' and not $is_remote_v6(dq))",
    );
    ffi_holds("assert($get_qname_hash(dq, 1) ~= $get_qname_hash(dq, 2)) assert($get_header(dq) ~= nil)");
}

#[test]
fn c_functions_write() {
    let fixture = ffi_holds(
        "$set_tag(dq, 'a', 'b') $set_tag_raw(dq, 'c', 'd\\0e', 3) assert(string($get_tag(dq, 'a')) == 'b' and $get_tag(dq, 'x') == nil)
         local b = D('char[8]') assert($get_tag_raw(dq, 'c', b, 8) == 3 and string(b, 3) == 'd\\0e' and $get_tag_raw(dq, 'c', b, 2) == 0)
         local t = D('const dnsdist_ffi_tag_t*[1]') assert($get_tag_array(dq, t) == 2 and string(t[0][0].name) == 'a' and string(t[0][0].value) == 'b')
         $set_skip_cache(dq, true) $set_use_ecs(dq, false) $set_ecs_override(dq, true) $set_ecs_prefix_length(dq, 20)
         $set_temp_failure_ttl(dq, 4) assert($is_temp_failure_ttl_set(dq) and $get_temp_failure_ttl(dq) == 4)
         $set_max_returned_ttl(dq, 8) $set_restartable(dq) $set_rcode(dq, 5) $set_extended_dns_error(dq, 17, 'why', 3)
         assert($set_trailing_data(dq, 'tail', 4)) local p = D('const char*[1]') assert($get_trailing_data(dq, p) == 4)",
    );
    let query_state = &fixture.query_state;
    assert_eq!(
        (query_state.skip_cache, query_state.ecs.wanted, query_state.ecs.replace, query_state.ecs.v4),
        (true, false, true, 20)
    );
    assert_eq!(
        (query_state.ttl_max, query_state.restartable, query_state.tags.value(b"c")),
        (Some(8), true, Some(&b"d\0e"[..]))
    );
    assert_eq!(fixture.message[3] & 15, 5);
    assert!(fixture.message.ends_with(b"tail"));
}

#[test]
fn c_functions_replace_the_header_and_remove_tags() {
    let fixture = ffi_holds(
        "$set_tag(dq, 'a', 'b') $set_tag(dq, 'c', 'd') $unset_tag(dq, 'a') $unset_tag(dq, 'x') assert($get_tag(dq, 'a') == nil and $get_tag(dq, 'c') ~= nil)
         local h, b = $get_header(dq), D('unsigned char[12]') assert($get_header_copy(dq, ffi.cast('char*', b), 12))
         b[2] = 0 assert($set_header(dq, ffi.cast('const char*', b)) and not $set_header(dq, nil))
         assert(ffi.cast('unsigned char*', h)[2] == 0 and not $set_header(nil, ffi.cast('const char*', b)))",
    );
    assert_eq!(fixture.message[2], 0, "RD was removed");
    assert_eq!((&fixture.message[..2], fixture.query_state.tags.value(b"a")), (&QUERY[..2], None));
    let chosen = "LuaFFIAction(function() return 0 end) local C = require('ffi').C assert(C.dnsdist_ffi_servers_list_chashed)";
    let _: Fixture = Fixture::new(chosen);
}

#[test]
fn c_functions_answer() {
    let fixture = ffi_holds(
        "local v = D('dnsdist_ffi_raw_value_t[1]') local s = '\\1\\2\\3\\4' v[0].value, v[0].size = s, 4 $spoof_addrs(dq, v, 1)",
    );
    assert_eq!(Records::of(&fixture.message).map(|r| r.rtype).collect::<Vec<_>>(), [1, 41]);
    let mut fixture = Fixture::new(
        "local C = require('ffi').C\nLuaFFIAction(function(dq) C.dnsdist_ffi_dnsquestion_set_result(dq, 'abuse', 5) return DNSAction.Pool end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Pool));
    assert_eq!(fixture.script.argument(), b"abuse");
    let mut fixture = Fixture::new(
        "local C = require('ffi').C\nLuaFFIResponseAction(function(dr) C.dnsdist_ffi_dnsresponse_limit_ttl(dr, 70, 100) C.dnsdist_ffi_dnsresponse_clear_records_type(dr, 5) return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(ANSWER), Some(ScriptAction::Allow));
    assert_eq!(Records::of(&fixture.message).map(|r| (r.rtype, r.ttl)).collect::<Vec<_>>(), [(1, 100)]);
}

#[test]
fn c_functions_refuse_old_and_null_pointers() {
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local C = ffi.C local old\n\
         LuaFFIAction(function(dq)\n\
           if old then assert(C.dnsdist_ffi_dnsquestion_get_qtype(old) == 0 and C.dnsdist_ffi_dnsquestion_get_tag(old, 'a') == nil)\n\
             C.dnsdist_ffi_dnsquestion_set_tag(old, 'a', 'b') end\n\
           assert(C.dnsdist_ffi_dnsquestion_get_qtype(nil) == 0 and C.dnsdist_ffi_dnsquestion_get_header(nil) == nil)\n\
           assert(C.dnsdist_ffi_dnsquestion_get_qtype(ffi.cast('dnsdist_ffi_dnsquestion_t*', dq)) == 1)\n\
           C.dnsdist_ffi_dnsquestion_get_qname_raw(dq, nil, nil) C.dnsdist_ffi_dnsquestion_set_tag(dq, nil, nil)\n\
           C.dnsdist_ffi_dnsquestion_spoof_raw(dq, nil, 5) old = dq return DNSAction.Allow end)\n\
         LuaAction(function(dq) assert(C.dnsdist_ffi_dnsquestion_get_qtype(old) == 0) return DNSAction.Drop end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    assert_eq!(fixture.number(1), Some(ScriptAction::Drop));
    assert_eq!(fixture.query_state.tags.value(b"a"), None);
}

#[test]
fn code_of_a_thread_is_loaded() {
    let mut fixture =
        Fixture::new("LuaFFIPerThreadAction([[return function(dq) return DNSAction.Drop end]])");
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Drop));
}

#[test]
fn calls_leave_no_garbage() {
    let mut fixture = Fixture::new(
        "local s = newDNSName('example.com')\n\
         LuaAction(function(dq) if dq.qname:isPartOf(s) and dq.remoteaddr:isIPv4() then dq:setTag('a', dq.qname:toString()) end return DNSAction.None end)\n\
         LuaAction(function(dq) if collectgarbage('count') > 16 * 1024 then return DNSAction.Drop end return DNSAction.Allow end)",
    );
    let mut query = QUERY.to_vec();
    for number in 0..100_000_u32 {
        // Other names each time; otherwise they would be interned once.
        query[13..16].copy_from_slice(&[
            b'a' + (number % 26) as u8,
            b'a' + (number / 26 % 26) as u8,
            b'a' + (number / 676 % 26) as u8,
        ]);
        assert_eq!(fixture.run(&query), Some(ScriptAction::None));
    }
    assert_eq!(fixture.number(1), Some(ScriptAction::Allow));
}

mod caches;
mod compiled;
mod family;
mod objects;

/// Uses everything.
const EVERYTHING: &str = "local ffi = require('ffi') local C = ffi.C local function try(f, ...) pcall(f, ...) end\n\
    LuaAction(function(dq)\n\
      for _, k in ipairs({'qname', 'qtype', 'qclass', 'rcode', 'remoteaddr', 'localaddr', 'len', 'tcp', 'pool', 'opcode'}) do local v = tostring(dq[k]) end\n\
      try(dq.getEDNSOptions, dq) try(dq.getTrailingData, dq) try(newDNSPacketOverlay, dq:getContent()) try(dq.setTrailingData, dq, 'x')\n\
      try(dq.changeName, dq, newDNSName('x.example')) try(dq.spoof, dq, newCA('192.0.2.1')) return DNSAction.Allow\nend)\n\
    LuaResponseAction(function(dr)\n\
      try(dr.editTTLs, dr, function(s, c, t, ttl) return ttl + 1 end) try(dr.changeName, dr, newDNSName('y')) return DNSAction.None\nend)\n\
    LuaFFIResponseAction(function(dr)\n\
      local p, n, o = ffi.new('const char*[1]'), ffi.new('size_t[1]'), ffi.new('const dnsdist_ffi_ednsoption_t*[1]')\n\
      C.dnsdist_ffi_dnsquestion_get_qname_raw(dr, p, n) C.dnsdist_ffi_dnsquestion_get_edns_options(dr, o)\n\
      C.dnsdist_ffi_dnsresponse_limit_ttl(dr, 1, 2) C.dnsdist_ffi_dnsresponse_clear_records_type(dr, 1)\n\
      C.dnsdist_ffi_dnsresponse_rebase(dr, '\\1z\\0', 3) return DNSAction.None\nend)";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_packet_is_handled(tail in prop::collection::vec(any::<u8>(), 0..120), cut in 0_usize..90) {
        let mut fixture = Fixture::new(EVERYTHING);
        for base in [QUERY, ANSWER] {
            let mut message = base[..cut.min(base.len())].to_vec();
            message.extend(&tail);
            for number in 0..3 {
                fixture.context(&message, 64, |script, context, env| script.act(FunctionId(number), context, env));
                prop_assert!(fixture.message.len() <= message.len() + 64);
            }
        }
    }
}
