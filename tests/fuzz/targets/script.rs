//! Arbitrary packets and Lua functions that use the whole interface: no panic, and the packet stays
//! within its buffer and consistent with what was parsed.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::balance::Balancer;
use dnslob::balance::PoolView;
use dnslob::base::addr::{BackendSlot, Client, Endpoint, ListenerSlot, LocalSlot};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::ruleset::{FunctionKind, Interface, Recorded};
use dnslob::lua::state;
use dnslob::lua::state::Files;
use dnslob::model::ConfiguredScript;
use dnslob::model::Snapshot;
use dnslob::rules::context::{Answered, Environment, EvaluationContext, Facts, Script};
use dnslob::rules::limits::Limits;
use dnslob::rules::pattern::PatternCache;
use dnslob::rules::query_state::QueryState;
use dnslob::rules::script::FunctionId;
use dnslob::stats::live::LiveState;

/// One function per line.
const TEXT: &str = "local ffi, C, D = require('ffi'), require('ffi').C, require('ffi').new local p, n, o, t = D('const char*[1]'), D('size_t[1]'), D('const dnsdist_ffi_ednsoption_t*[1]'), D('const dnsdist_ffi_tag_t*[1]')
LuaAction(function(dq) for _, k in ipairs({'qname', 'qtype', 'qclass', 'rcode', 'remoteaddr', 'localaddr', 'len', 'tcp', 'pool', 'opcode'}) do tostring(dq[k]) end dq:getEDNSOptions() dq:getDO() dq:getTrailingData() return DNSAction.None end)
LuaAction(function(dq) local name = dq.qname:toString() assert(newDNSName(name) == dq.qname) while dq.qname:countLabels() > 200 do end return DNSAction.Pool, name end)
LuaAction(function(dq) pcall(newDNSPacketOverlay, dq:getContent()) dq:setTrailingData(dq:getContent()) dq:changeName(newDNSName('x.example')) return DNSAction.Allow end)
LuaAction(function(dq) dq:spoof({newCA('192.0.2.1'), newCA('2001:db8::1')}) return DNSAction.HeaderModify end)
LuaAction(function(dq) local c = dq:getContent() dq:setContent(c:reverse()) dq:setTag(c, c) return DNSAction.SpoofRaw, c end)
LuaResponseAction(function(dr) dr:editTTLs(function(s, c, t, ttl) return ttl + 1 end) dr:changeName(newDNSName('y')) dr.dh:setTC(true) return DNSAction.None end)
LuaFFIAction(function(dq) C.dnsdist_ffi_dnsquestion_get_qname_raw(dq, p, n) C.dnsdist_ffi_dnsquestion_get_edns_options(dq, o) C.dnsdist_ffi_dnsquestion_set_tag_raw(dq, 'q', p[0], n[0]) C.dnsdist_ffi_dnsquestion_get_tag_array(dq, t) C.dnsdist_ffi_dnsquestion_set_size(dq, n[0]) return DNSAction.None end)
LuaFFIResponseAction(function(dr) C.dnsdist_ffi_dnsresponse_limit_ttl(dr, 1, 2) C.dnsdist_ffi_dnsresponse_clear_records_type(dr, 1) C.dnsdist_ffi_dnsresponse_rebase(dr, '\\1z\\0', 3) return DNSAction.None end)
";

const KINDS: [(FunctionKind, Interface); 8] = [
    (FunctionKind::Action, Interface::Objects),
    (FunctionKind::Action, Interface::Objects),
    (FunctionKind::Action, Interface::Objects),
    (FunctionKind::Action, Interface::Objects),
    (FunctionKind::Action, Interface::Objects),
    (FunctionKind::ResponseAction, Interface::Objects),
    (FunctionKind::Action, Interface::Ffi),
    (FunctionKind::ResponseAction, Interface::Ffi),
];

fn start() -> Box<dyn ConfiguredScript> {
    let source = || "@fuzz.lua".to_owned();
    let recorded = KINDS.iter().zip(2_u32..).map(|((kind, interface), line)| Recorded {
        kind: *kind,
        interface: *interface,
        source: source(),
        line,
    });
    let files = Files::one("fuzz.lua", TEXT.as_bytes());
    let source = state::check(files, recorded.collect(), Vec::new(), Vec::new()).expect("a source");
    let mut script = source.start(0).expect("a state");
    script.adopt(&Snapshot::default(), &Arc::new(LiveState::new(1, 1)));
    script
}

pub(crate) fn target(data: &[u8]) {
    thread_local!(static SCRIPT: RefCell<Box<dyn ConfiguredScript>> = RefCell::new(start()));
    SCRIPT.with(|script| {
        for number in 0..KINDS.len() as u32 {
            run(&mut **script.borrow_mut(), FunctionId(number), data);
        }
    });
}

fn run(script: &mut dyn Script, function: FunctionId, data: &[u8]) {
    const ROOM: usize = 100;
    let mut buffer = data.to_vec();
    buffer.resize(data.len() + ROOM, 0);
    let mut packet = Packet::new(&mut buffer, 0, data.len());
    let mut query_state = QueryState::default();
    let endpoint = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 4000)));
    let mut context = EvaluationContext {
        facts: Facts::of(packet.bytes()),
        packet: &mut packet,
        query_state: &mut query_state,
        client: Client {
            peer: endpoint,
            listener: ListenerSlot(0),
            local: LocalSlot::LISTENER,
            connection: None,
        },
        local: endpoint,
        answered: Some(Answered { backend: BackendSlot(0), latency: TickDelta(1) }),
    };
    let snapshot = Snapshot::default();
    let before = script.errors();
    let action = script.act(
        function,
        &mut context,
        &mut Environment {
            now: Tick(1),
            chains: &snapshot.chains,
            settings: snapshot.rule_settings(),
            limits: &mut Limits::default(),
            rng: &mut ShardRng::from_seed(1),
            pools: &PoolView {
                snapshot: &snapshot,
                balancer: &Balancer::new(Arc::new(LiveState::new(1, 1)), 0),
            },
            script: None,
            patterns: &mut PatternCache::default(),
        },
    );
    assert_eq!(
        script.errors() - before,
        u64::from(action.is_none()),
        "an error is counted, and nothing else"
    );
    if action.is_none() {
        assert_eq!(context.packet.bytes(), data, "after an error the packet is unchanged");
    }
    let facts = Facts::of(context.packet.bytes());
    assert_eq!((context.facts.qname_len, context.facts.qtype), (facts.qname_len, facts.qtype));
    if function.0 == 1 {
        assert!(action.is_some(), "a name's text is a name");
    }
}
