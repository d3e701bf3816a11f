//! Rules through the whole front end: each constructor, each chain, each error.

use crate::config::functions::{CHAINS, FUNCTIONS_MISSING};
use crate::config::ruleset::{ChainKey, FunctionKind, Interface, RuleAction, uuid_text};
use crate::config::tests::{File, broken, good, snapshot};
use crate::config::{Slots, compile, diff};
use crate::lua::front_end::{answers, every_function, query_actions, response_actions, selectors};
use crate::model::HealthMode;
use crate::model::policy::Kind;
use crate::rules::script::FunctionId;
use crate::rules::text;

/// Each selector as written, and its compiled form.
const GOOD_RULES: &[(&str, &str)] = &[
    ("AllRule()", "All"),
    ("AndRule{TCPRule(true), RDRule()}", "And([Tcp(true), Rd])"),
    ("AndRule{}", "And([])"),
    ("OrRule({DNSSECRule(), TrailingDataRule()})", "Or([Dnssec, TrailingData])"),
    ("NotRule(AllRule())", "Not(All)"),
    ("QNameRule('A.b')", "QName([1, 97, 1, 98, 0])"),
    ("QNameRule(newDNSName('.'))", "QName([0])"),
    ("QTypeRule('aaaa')", "QType(28)"),
    ("QTypeRule('TYPE65280')", "QType(65280)"),
    ("QTypeRule(DNSQType.ANY)", "QType(255)"),
    ("QClassRule(DNSClass.CHAOS)", "QClass(3)"),
    ("QClassRule('IN')", "QClass(1)"),
    ("OpcodeRule(DNSOpcode.Update)", "Opcode(5)"),
    ("RCodeRule(DNSRCode.NXDOMAIN)", "RCode(3)"),
    ("ERCodeRule(DNSRCode.BADVERS)", "ERCode(16)"),
    ("RDRule()", "Rd"),
    ("DNSSECRule()", "Dnssec"),
    ("EDNSOptionRule(EDNSOptionCode.ECS)", "EdnsOption(8)"),
    ("EDNSVersionRule(0)", "EdnsVersion(0)"),
    ("RecordsCountRule(DNSSection.Additional, 1, 2)", "RecordsCount { section: 3, min: 1, max: 2 }"),
    (
        "RecordsTypeCountRule(DNSSection.Answer, DNSQType.A, 0, 5)",
        "RecordsTypeCount { section: 1, rtype: 1, min: 0, max: 5 }",
    ),
    ("TrailingDataRule()", "TrailingData"),
    ("QNameLabelsCountRule(1, 5)", "QNameLabels(1, 5)"),
    ("QNameWireLengthRule(1, 100)", "QNameWireLength(1, 100)"),
    ("PayloadSizeRule('greaterOrEqual', 512)", "PayloadSize(GreaterOrEqual, 512)"),
    ("DSTPortRule(5353)", "DstPort(5353)"),
    ("IncomingProtocolRule('DoT')", "Protocol(DoT)"),
    ("TCPRule(false)", "Tcp(false)"),
    ("TagRule('a')", "Tag(\"a\", None)"),
    ("TagRule('a', 5)", "Tag(\"a\", Some(\"5\"))"),
    ("MaxQPSRule(50)", "MaxQps(Limit { state: 0, qps: 50, burst: 50 })"),
    ("MaxQPSRule(50, 100)", "MaxQps(Limit { state: 0, qps: 50, burst: 100 })"),
    (
        "MaxQPSIPRule(5)",
        "MaxQpsIp(ClientLimit { state: 0, qps: 5, burst: 5, v4: 32, v6: 64, expiration_s: 300 })",
    ),
    (
        "MaxQPSIPRule(5, 24, 48, 10, 60, 60, 10, 10)",
        "MaxQpsIp(ClientLimit { state: 0, qps: 5, burst: 10, v4: 24, v6: 48, expiration_s: 60 })",
    ),
    ("ProbaRule(1)", "Probability(None)"),
    ("ProbaRule(0.25)", "Probability(Some(1073741824))"),
    ("PoolAvailableRule('p')", "PoolAvailable(PoolRef { name: \"p\", slot: PoolSlot(1) })"),
    ("PoolOutstandingRule('', 9)", "PoolOutstanding(PoolRef { name: \"\", slot: PoolSlot(0) }, 9)"),
    ("TimedIPSetRule():slice()", "TimedSet(TimedSet { state: 0 })"),
    ("ProxyProtocolValueRule(42)", "ProxyValue { kind: 42, value: None }"),
    ("ProxyProtocolValueRule(255, 'ab')", "ProxyValue { kind: 255, value: Some([97, 98]) }"),
    ("SNIRule('dns')", "Sni([100, 110, 115])"),
    ("LuaRule(function() return true end)", "Lua(FunctionId(0))"),
    ("LuaFFIRule(function() return true end)", "Lua(FunctionId(0))"),
    ("LuaFFIPerThreadRule('return function() return true end')", "Lua(FunctionId(0))"),
];

/// Selectors with sets, and their text form.
const GOOD_SETS: &[(&str, &str)] = &[
    ("QNameSuffixRule('Example.com')", "qname in example.com."),
    ("SuffixMatchNodeRule({'b', 'a.'}, true)", "qname in 2 names"),
    ("(function() local s = newSuffixMatchNode() s:add('x') return QNameSuffixRule(s) end)()", "qname in x."),
    (
        "(function() local s = newDNSNameSet() s:add(newDNSName('x')) return QNameSetRule(s) end)()",
        "qname is in x.",
    ),
    ("NetmaskGroupRule('192.0.2.0/24')", "Src: 192.0.2.0/24"),
    ("NetmaskGroupRule({'::/0', '!192.0.2.1'}, false)", "Dst: ::/0, !192.0.2.1/32"),
    (
        "(function() local n = newNMG() n:addMask('10.0.0.0/8') return NetmaskGroupRule(n) end)()",
        "Src: 10.0.0.0/8",
    ),
    ("'192.0.2.1'", "Src: 192.0.2.1/32"),
    ("{'192.0.2.0/24', '2001:db8::/32'}", "Src: 192.0.2.0/24, 2001:db8::/32"),
    ("'300.1.1.1'", "qname in 300.1.1.1."),
    ("{'be', 'nl', 'lu'}", "qname in be., lu., nl."),
    ("newDNSName('a.b')", "qname in a.b."),
    ("{newDNSName('a.b'), newDNSName('c')}", "qname in a.b., c."),
    ("makeRule('a.b')", "qname in a.b."),
    ("makeRule(AllRule())", "All"),
    ("RegexRule('[0-9]{5,}')", "Regex: [0-9]{5,}"),
    ("RE2Rule('a+')", "Regex: a+"),
];

/// Each action as written, and its compiled form.
const GOOD_ACTIONS: &[(&str, &str)] = &[
    ("AllowAction()", "Allow"),
    ("DropAction()", "Drop"),
    ("PoolAction('p')", "Pool(PoolRef { name: \"p\", slot: PoolSlot(1) }, false)"),
    ("PoolAction('p', false)", "Pool(PoolRef { name: \"p\", slot: PoolSlot(1) }, true)"),
    ("QPSAction(7)", "Qps(Limit { state: 0, qps: 7, burst: 7 })"),
    (
        "QPSPoolAction(7, 'p', false)",
        "QpsPool(Limit { state: 0, qps: 7, burst: 7 }, PoolRef { name: \"p\", slot: PoolSlot(1) }, true)",
    ),
    ("RCodeAction(DNSRCode.REFUSED)", "RCode(5, Flags { aa: false, ad: false, ra: None, ttl: 60 })"),
    (
        "RCodeAction(3, {aa=true, ad=true, ra=false})",
        "RCode(3, Flags { aa: true, ad: true, ra: Some(false), ttl: 60 })",
    ),
    ("ERCodeAction(DNSRCode.BADVERS)", "RCode(16, Flags { aa: false, ad: false, ra: None, ttl: 60 })"),
    (
        "NegativeAndSOAAction(true, 'a', 30, 'm', 'r', 1, 2, 3, 4, 5, {aa=true, soaInAuthoritySection=true})",
        "NegativeAndSoa(NegativeSoa { nxdomain: true, zone: [1, 97, 0], mname: [1, 109, 0], rname: [1, 114, 0], \
         numbers: [1, 2, 3, 4, 5], in_authority: true, flags: Flags { aa: true, ad: false, ra: None, ttl: 30 } })",
    ),
    ("TCAction()", "Tc(Flags { aa: false, ad: false, ra: None, ttl: 60 })"),
    (
        "SpoofAction('192.0.2.1')",
        "Spoof(Addresses { v4: [[192, 0, 2, 1]], v6: [] }, Flags { aa: false, ad: false, ra: None, ttl: 60 })",
    ),
    (
        "SpoofAction({'192.0.2.1', newCA('::1')}, {ttl=5, ra=true})",
        "Spoof(Addresses { v4: [[192, 0, 2, 1]], v6: [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] }, \
         Flags { aa: false, ad: false, ra: Some(true), ttl: 5 })",
    ),
    (
        "SpoofAction('192.0.2.1', '::', {aa=true})",
        "Spoof(Addresses { v4: [[192, 0, 2, 1]], v6: [[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] }, \
         Flags { aa: true, ad: false, ra: None, ttl: 60 })",
    ),
    ("SpoofCNAMEAction('x')", "SpoofCname([1, 120, 0], Flags { aa: false, ad: false, ra: None, ttl: 60 })"),
    (
        "SpoofRawAction({'\\3abc', 'd'}, {typeForAny=DNSQType.HINFO})",
        "SpoofRaw(RawRecords { rdata: [[3, 97, 98, 99], [100]], type_for_any: Some(13) }, \
         Flags { aa: false, ad: false, ra: None, ttl: 60 })",
    ),
    (
        "SpoofSVCAction({newSVCRecordParameters(1, 'x', {port=853, mandatory={3}, key42='z'})})",
        "SpoofSvc([SvcRecord { priority: 1, target: [1, 120, 0], params: [0, 0, 0, 2, 0, 3, 0, 3, 0, 2, 3, 85, \
         0, 42, 0, 1, 122], v4: [], v6: [] }], Flags { aa: false, ad: false, ra: None, ttl: 60 })",
    ),
    (
        "SpoofSVCAction({newSVCRecordParameters(2, '.', {}, {'h2'}, false, 0, '', {'192.0.2.1'}, {}, {[42]='z'})})",
        "SpoofSvc([SvcRecord { priority: 2, target: [0], params: [0, 1, 0, 3, 2, 104, 50, 0, 4, 0, 4, 192, 0, 2, \
         1, 0, 42, 0, 1, 122], v4: [[192, 0, 2, 1]], v6: [] }], Flags { aa: false, ad: false, ra: None, ttl: 60 })",
    ),
    (
        "SpoofPacketAction('\\1\\2\\129\\128\\0\\1\\0\\0\\0\\0\\0\\0x', 12)",
        "SpoofPacket([1, 2, 129, 128, 0, 1, 0, 0, 0, 0, 0, 0])",
    ),
    ("DelayAction(100)", "Delay(TickDelta(100000000))"),
    ("ShadowAction('two')", "Shadow(PoolRef { name: \"two\", slot: PoolSlot(1) })"),
    (
        "TeeAction('192.0.2.9')",
        "Tee(Tee { address: 192.0.2.9:53, add_ecs: false, source: None }, BackendSlot(0))",
    ),
    (
        "TeeAction('192.0.2.9:5300', true, '127.0.0.1')",
        "Tee(Tee { address: 192.0.2.9:5300, add_ecs: true, source: Some(127.0.0.1) }, BackendSlot(0))",
    ),
    (
        "LogAction()",
        "Log(LogTarget { path: \"\", binary: false, append: false, buffered: true, verbose_only: true, \
         timestamp: false, one_in: 1 })",
    ),
    (
        "LogAction('/tmp/x', false, true, false, false, true)",
        "Log(LogTarget { path: \"/tmp/x\", binary: false, append: true, buffered: false, verbose_only: false, \
         timestamp: true, one_in: 1 })",
    ),
    (
        "LogAction('/tmp/x', true, false, true, true, false, 100)",
        "Log(LogTarget { path: \"/tmp/x\", binary: true, append: false, buffered: true, verbose_only: true, \
         timestamp: false, one_in: 100 })",
    ),
    ("NoneAction()", "None"),
    ("ContinueAction(DropAction())", "Continue(Drop)"),
    ("ContinueAction(PoolAction('p'))", "Continue(Pool(PoolRef { name: \"p\", slot: PoolSlot(1) }, false))"),
    ("SetProxyProtocolValuesAction({[42]='a', [1]='bc'})", "SetProxyValues([(1, [98, 99]), (42, [97])])"),
    ("SetAdditionalProxyProtocolValueAction(7, 'a')", "AddProxyValue(7, [97])"),
    ("SetTagAction('a', 'b')", "SetTag(\"a\", \"b\")"),
    ("UnsetTagAction('a')", "UnsetTag(\"a\")"),
    ("SetNoRecurseAction()", "SetNoRecurse"),
    ("SetDisableValidationAction()", "SetDisableValidation"),
    ("SetDisableECSAction()", "SetEcs(false)"),
    ("SetECSOverrideAction(true)", "SetEcsOverride(true)"),
    ("SetECSPrefixLengthAction(20, 40)", "SetEcsPrefixLength(20, 40)"),
    ("SetECSAction('192.0.2.0/24')", "SetEcsTo(Some((192.0.2.0, 24)), None)"),
    ("SetECSAction('2001:db8::/32', '192.0.2.1')", "SetEcsTo(Some((192.0.2.1, 32)), Some((2001:db8::, 32)))"),
    ("SetEDNSOptionAction(EDNSOptionCode.COOKIE, 'ab')", "SetEdnsOption(10, [97, 98])"),
    ("SetExtendedDNSErrorAction(15)", "SetExtendedDnsError(ExtendedError { code: 15, text: \"\" })"),
    (
        "SetExtendedDNSErrorAction(15, 'no', true)",
        "SetExtendedDnsError(ExtendedError { code: 15, text: \"no\" })",
    ),
    ("SetMaxReturnedTTLAction(60)", "SetMaxReturnedTtl(60)"),
    ("SetSkipCacheAction()", "SetSkipCache"),
    ("SetTempFailureCacheTTLAction(5)", "SetTempFailureCacheTtl(5)"),
    ("LuaAction(function() end)", "Lua(FunctionId(0))"),
    ("LuaFFIAction(function() end)", "Lua(FunctionId(0))"),
    ("LuaFFIPerThreadAction('return function() end')", "Lua(FunctionId(0))"),
];

/// Each response action as written, and its compiled form.
const GOOD_RESPONSE_ACTIONS: &[(&str, &str)] = &[
    ("AllowResponseAction()", "Allow"),
    ("DropResponseAction()", "Drop"),
    ("TCResponseAction()", "Tc"),
    ("DelayResponseAction(5)", "Delay(TickDelta(5000000))"),
    (
        "LogResponseAction('/tmp/x', true)",
        "Log(LogTarget { path: \"/tmp/x\", binary: false, append: true, buffered: true, verbose_only: true, \
         timestamp: false, one_in: 1 })",
    ),
    ("LimitTTLResponseAction(5)", "LimitTtl(5, 4294967295, [])"),
    ("LimitTTLResponseAction(5, 50, {DNSQType.A, 'AAAA'})", "LimitTtl(5, 50, [1, 28])"),
    ("SetMinTTLResponseAction(5)", "SetMinTtl(5)"),
    ("SetMaxTTLResponseAction(5)", "SetMaxTtl(5)"),
    ("SetReducedTTLResponseAction(50)", "SetReducedTtl(50)"),
    ("SetMaxReturnedTTLResponseAction(5)", "SetMaxReturnedTtl(5)"),
    ("ClearRecordTypesResponseAction(DNSQType.HTTPS)", "ClearRecordTypes([65])"),
    ("ClearRecordTypesResponseAction({1, 28})", "ClearRecordTypes([1, 28])"),
    ("SetSkipCacheResponseAction()", "SetSkipCache"),
    ("SetTagResponseAction('a', '')", "SetTag(\"a\", \"\")"),
    ("UnsetTagResponseAction('a')", "UnsetTag(\"a\")"),
    ("SetEDNSOptionResponseAction(10, 'ab')", "SetEdnsOption(10, [97, 98])"),
    (
        "SetExtendedDNSErrorResponseAction(15, 'no')",
        "SetExtendedDnsError(ExtendedError { code: 15, text: \"no\" })",
    ),
    ("RestartResponseAction('p')", "Restart(PoolRef { name: \"p\", slot: PoolSlot(1) }, 1)"),
    ("RestartResponseAction('p', 3)", "Restart(PoolRef { name: \"p\", slot: PoolSlot(1) }, 3)"),
    ("LuaResponseAction(function() end)", "Lua(FunctionId(0))"),
    ("LuaFFIResponseAction(function() end)", "Lua(FunctionId(0))"),
    ("LuaFFIPerThreadResponseAction('return function() end')", "Lua(FunctionId(0))"),
];

#[test]
fn every_selector_compiles_as_written() {
    let mut wrong = String::new();
    for (written, want) in GOOD_RULES {
        let (_, compiled) = good(&format!("addAction({written}, NoneAction())"));
        let got = format!("{:?}", compiled.snapshot.chains.query.rules()[0].matcher);
        if got != *want {
            wrong += &format!("{written}\n  is  {got}\n  not {want}\n");
        }
    }
    for (written, want) in GOOD_SETS {
        let (loaded, _) = good(&format!("addAction({written}, NoneAction())"));
        let rules = &loaded.draft.rules;
        let got = text::matcher(&rules.chain(ChainKey::Query)[0].matcher, &rules.texts.shown());
        if got != *want {
            wrong += &format!("{written}\n  is  {got}\n  not {want}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    for e in selectors() {
        let named = GOOD_RULES.iter().chain(GOOD_SETS).any(|(text, _)| text.contains(e.name));
        assert!(named || e.name == "newTimedIPSetRule", "{} is in no row", e.name);
    }
}

#[test]
fn every_action_compiles_as_written() {
    let mut wrong = String::new();
    for (written, want) in GOOD_ACTIONS {
        let (_, compiled) = good(&format!("addAction(AllRule(), {written})"));
        let got = format!("{:?}", compiled.snapshot.chains.query.rules()[0].action);
        if got != *want {
            wrong += &format!("{written}\n  is  {got}\n  not {want}\n");
        }
    }
    for (written, want) in GOOD_RESPONSE_ACTIONS {
        let (_, compiled) = good(&format!("addResponseAction(AllRule(), {written})"));
        let got = format!("{:?}", compiled.snapshot.chains.response.rules()[0].action);
        if got != *want {
            wrong += &format!("{written}\n  is  {got}\n  not {want}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let rows = || GOOD_ACTIONS.iter().chain(GOOD_RESPONSE_ACTIONS);
    for e in query_actions().chain(answers()).chain(response_actions()) {
        assert!(rows().any(|(text, _)| text.starts_with(e.name)), "{} is in no row", e.name);
    }
}

/// Invalid texts, each with its one message.
const BROKEN: &[(&str, &str)] = &[
    ("addAction()", "FILE:1: addAction: the rule is nil; expected a rule, a name or a network, or a list"),
    ("addAction(AllRule())", "FILE:1: addAction: the action is nil; expected an action, as DropAction()"),
    (
        "addAction(AllRule(), DropResponseAction())",
        "FILE:1: addAction: DropResponseAction() is an action for answers; expected DropAction()",
    ),
    (
        "addResponseAction(AllRule(), DropAction())",
        "FILE:1: addResponseAction: DropAction() is an action for queries; expected DropResponseAction()",
    ),
    (
        "addResponseAction(AllRule(), SpoofAction('::1'))",
        "FILE:1: addResponseAction: SpoofAction() is an action for queries; expected a response action",
    ),
    (
        "addAction(AllRule(), DropAction)",
        "FILE:1: addAction: the action is a function; expected an action, as DropAction()",
    ),
    ("addAction('a..b', DropAction())", "FILE:1: addAction: the rule is \"a..b\"; expected a domain name"),
    (
        "addAction({'a', 5}, DropAction())",
        "FILE:1: addAction: the rule is 5; expected a rule, a name or a network",
    ),
    (
        "addAction({'192.0.2.1', 'example.com'}, DropAction())",
        "FILE:1: addAction: the list holds both names and networks; expected two rules, in an OrRule",
    ),
    (
        "addAction(newNMG(), DropAction())",
        "FILE:1: addAction: the rule is a userdata; expected NetmaskGroupRule(networks)",
    ),
    (
        "addAction(TimedIPSetRule(), DropAction())",
        "FILE:1: addAction: the rule is a userdata; expected its slice(), as set:slice()",
    ),
    (
        "addAction(AllRule(), DropAction(), {uuid='zzz'})",
        "FILE:1: addAction: uuid is \"zzz\"; expected a UUID, as \"123e4567",
    ),
    (
        "addAction(AllRule(), DropAction(), 1)",
        "FILE:1: addAction: the table of options is 1; expected a table",
    ),
    (
        "addAction(AllRule(), DropAction(), {}, 1)",
        "FILE:1: addAction: called with 4 arguments; expected at most 3",
    ),
    (
        "local o = {uuid='123e4567-e89b-12d3-a456-426655440000'}\naddAction(AllRule(), DropAction(), o)\naddAction(RDRule(), DropAction(), o)",
        "FILE:3: addAction: a rule with the UUID 123e4567-e89b-12d3-a456-426655440000 is already defined at FILE:2",
    ),
    // An invalid constructor is reported where it stands, and only there.
    (
        "\naddAction(QTypeRule('nope'), DropAction())",
        "FILE:2: QTypeRule: \"nope\" is not allowed; expected a type",
    ),
    ("AllRule(1)", "FILE:1: AllRule: called with 1 argument; expected none"),
    ("AndRule(AllRule())", "FILE:1: AndRule: a userdata is not allowed; expected a list of rules"),
    ("AndRule{AllRule(), 5}", "FILE:1: AndRule: rule 2 is 5; expected a rule, a name or a network"),
    ("NotRule()", "FILE:1: NotRule: nil is not allowed; expected a rule"),
    ("QNameRule('a b')", "FILE:1: QNameRule: \"a b\" is not allowed; expected a domain name"),
    (
        "QNameSetRule(newSuffixMatchNode())",
        "FILE:1: QNameSetRule: a userdata is not allowed; expected a set of newDNSNameSet",
    ),
    (
        "SuffixMatchNodeRule(newDNSNameSet())",
        "FILE:1: SuffixMatchNodeRule: the first argument is a newDNSNameSet; expected its rule, QNameSetRule",
    ),
    ("QNameSuffixRule('a', 1)", "FILE:1: QNameSuffixRule: quiet is 1; expected true or false"),
    ("RegexRule(5)", "FILE:1: RegexRule: 5 is not allowed; expected a regular expression"),
    ("QTypeRule(65536)", "FILE:1: QTypeRule: 65536 is not allowed; expected a whole number from 0 to 65535"),
    ("QClassRule('XX')", "FILE:1: QClassRule: \"XX\" is not allowed; expected a class"),
    ("ERCodeRule(4096)", "FILE:1: ERCodeRule: 4096 is not allowed; expected a whole number from 0 to 4095"),
    (
        "EDNSVersionRule(256)",
        "FILE:1: EDNSVersionRule: 256 is not allowed; expected a whole number from 0 to 255",
    ),
    (
        "RecordsCountRule(4, 0, 1)",
        "FILE:1: RecordsCountRule: section is 4; expected a whole number from 0 to 3",
    ),
    (
        "PayloadSizeRule('more', 1)",
        "FILE:1: PayloadSizeRule: comparison is \"more\"; expected \"equal\", \"greater\"",
    ),
    ("NetmaskGroupRule('x')", "FILE:1: NetmaskGroupRule: the first argument is \"x\"; expected a network"),
    ("NetmaskGroupRule('10.0.0.0/8', 'src')", "FILE:1: NetmaskGroupRule: source is \"src\"; expected true"),
    (
        "DSTPortRule(70000)",
        "FILE:1: DSTPortRule: 70000 is not allowed; expected a whole number from 0 to 65535",
    ),
    (
        "IncomingProtocolRule('UDP')",
        "FILE:1: IncomingProtocolRule: \"UDP\" is not allowed; expected \"DoUDP\"",
    ),
    ("TCPRule()", "FILE:1: TCPRule: nil is not allowed; expected true or false"),
    ("TagRule('')", "FILE:1: TagRule: name is \"\"; expected the name of a tag, not empty"),
    ("MaxQPSRule(-1)", "FILE:1: MaxQPSRule: qps is -1; expected a whole number from 0"),
    ("PoolAvailableRule()", "FILE:1: PoolAvailableRule: nil is not allowed; expected the name of a pool"),
    ("LuaRule('f')", "FILE:1: LuaRule: \"f\" is not allowed; expected a function"),
    ("LuaRule(print)", "FILE:1: LuaRule: a function is not allowed; expected a function written in Lua"),
    ("LuaFFIPerThreadRule('return (')", "FILE:1: LuaFFIPerThreadRule: text:1: unexpected symbol"),
    ("makeRule()", "FILE:1: makeRule: nil is not allowed; expected a rule, a name or a network"),
    ("PoolAction()", "FILE:1: PoolAction: pool is nil; expected the name of a pool"),
    ("PoolAction('p', 1)", "FILE:1: PoolAction: stop is 1; expected true or false"),
    ("QPSAction('x')", "FILE:1: QPSAction: \"x\" is not allowed; expected a whole number"),
    ("RCodeAction(5, {aa=1})", "FILE:1: RCodeAction: aa is 1; expected true or false"),
    (
        "NegativeAndSOAAction(true, 'a', 1, 'm', 'r', 1, 2, 3, 4)",
        "FILE:1: NegativeAndSOAAction: minimum is nil; expected a whole number",
    ),
    (
        "NegativeAndSOAAction('no', 'a', 1, 'm', 'r', 1, 2, 3, 4, 5)",
        "FILE:1: NegativeAndSOAAction: nxd is \"no\"; expected true or false",
    ),
    ("SpoofAction('x')", "FILE:1: SpoofAction: the address is \"x\"; expected an address, as"),
    (
        "SpoofAction('::1', {ttl=-5})",
        "FILE:1: SpoofAction: ttl is -5; expected a whole number from 0 to 2147483647",
    ),
    ("SpoofCNAMEAction('..')", "FILE:1: SpoofCNAMEAction: name is \"..\"; expected a domain name"),
    ("SpoofRawAction(5)", "FILE:1: SpoofRawAction: the data is 5; expected a string of bytes"),
    (
        "SpoofRawAction('a', {typeForAny='NO'})",
        "FILE:1: SpoofRawAction: typeForAny is \"NO\"; expected a type",
    ),
    (
        "SpoofRawAction(string.rep('a', 4000))",
        "FILE:1: SpoofRawAction: 4012 bytes of records; expected at most 3500",
    ),
    (
        "SpoofSVCAction({'x'})",
        "FILE:1: SpoofSVCAction: the record is \"x\"; expected a list of newSVCRecordParameters",
    ),
    ("SpoofPacketAction('short')", "FILE:1: SpoofPacketAction: message is 5 bytes; expected a DNS message"),
    (
        "newSVCRecordParameters(1, 'a', {mandatory={3}})",
        "FILE:1: newSVCRecordParameters: key 3 is mandatory and not given",
    ),
    (
        "newSVCRecordParameters(1, 'a', {alpn='h2', key1='h3'})",
        "FILE:1: newSVCRecordParameters: alpn and key1 are the same key; expected it once",
    ),
    (
        "SNIRule('b\u{fc}cher.example')",
        "FILE:1: SNIRule: \"b\u{fc}cher.example\" is not allowed; expected a domain name in ASCII; an international",
    ),
    (
        "RegexRule('^b\u{fc}cher')",
        "FILE:1: RegexRule: \"^b\u{fc}cher\" is not allowed; expected an expression for a domain name in ASCII",
    ),
    ("RE2Rule('b\u{fc}cher.*')", "FILE:1: RE2Rule: \"b\u{fc}cher.*\" is not allowed; expected an expression"),
    ("newSVCRecordParameters(1, 'a', {ech=''})", "FILE:1: newSVCRecordParameters: ech is empty"),
    (
        "newSVCRecordParameters(1, 'a', {noDefaultAlpn=true})",
        "FILE:1: newSVCRecordParameters: noDefaultAlpn needs alpn; expected parameters as in RFC 9460",
    ),
    (
        "newSVCRecordParameters(1, 'a', {port=1, mandatory={3, 'port'}})",
        "FILE:1: newSVCRecordParameters: a key is mandatory twice",
    ),
    (
        "newSVCRecordParameters(0, 'a', {alpn='h2'})",
        "FILE:1: newSVCRecordParameters: a record of priority 0 is an alias",
    ),
    (
        "newSVCRecordParameters(1, 'a', {}, {}, false, 0, '', {}, {}, {[4]='x'})",
        "FILE:1: newSVCRecordParameters: a further key is from 7 to 65534",
    ),
    (
        "SpoofSVCAction({newSVCRecordParameters(0, 'a'), newSVCRecordParameters(1, 'a')})",
        "FILE:1: SpoofSVCAction: records of priority 0 and of another one; expected either aliases or services",
    ),
    (
        "newSVCRecordParameters(1, 'a', {ipv4hint='::1'})",
        "FILE:1: newSVCRecordParameters: ipv4hint is \"::1\"; expected an IPv4",
    ),
    ("DelayAction(-1)", "FILE:1: DelayAction: -1 is not allowed; expected a whole number from 0 to 60000"),
    ("TeeAction('nope')", "FILE:1: TeeAction: the server is \"nope\"; expected IP[:PORT]"),
    (
        "TeeAction('192.0.2.1', false, '::1')",
        "FILE:1: TeeAction: source is \"::1\"; expected an address to send from",
    ),
    (
        "TeeAction('192.0.2.1', false, nil, true)",
        "FILE:1: TeeAction: the PROXY protocol towards a server is not implemented",
    ),
    ("LogAction('/x', 1)", "FILE:1: LogAction: binary is 1; expected true or false"),
    ("ContinueAction(AllRule())", "FILE:1: ContinueAction: a userdata is not allowed; expected an action"),
    (
        "ContinueAction(TCResponseAction())",
        "FILE:1: ContinueAction: TCResponseAction() is an action for answers; expected TCAction()",
    ),
    (
        "SetProxyProtocolValuesAction({[256]='a'})",
        "FILE:1: SetProxyProtocolValuesAction: the type is 256; expected a whole number from 0 to 255",
    ),
    (
        "SetProxyProtocolValuesAction('a')",
        "FILE:1: SetProxyProtocolValuesAction: \"a\" is not allowed; expected a table of values by type",
    ),
    (
        "SetAdditionalProxyProtocolValueAction(1, string.rep('x', 1025))",
        "FILE:1: SetAdditionalProxyProtocolValueAction: value is \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...\"; expected at most 1024 bytes in all",
    ),
    (
        "SetAdditionalProxyProtocolValueAction(1)",
        "FILE:1: SetAdditionalProxyProtocolValueAction: value is nil; expected a string of bytes",
    ),
    (
        "ProxyProtocolValueRule('x')",
        "FILE:1: ProxyProtocolValueRule: type is \"x\"; expected a whole number from 0 to 255",
    ),
    ("SNIRule()", "FILE:1: SNIRule: nil is not allowed; expected a string of bytes"),
    ("SetTagAction('a')", "FILE:1: SetTagAction: value is nil; expected a text"),
    (
        "SetECSAction('192.0.2.0/24', '192.0.2.1')",
        "FILE:1: SetECSAction: the second network is of the same family as the first",
    ),
    ("SetECSAction('x')", "FILE:1: SetECSAction: the first network is \"x\"; expected a network"),
    (
        "SetEDNSOptionAction(10, string.rep('a', 1025))",
        "FILE:1: SetEDNSOptionAction: data is 1025 bytes; expected at most 1024",
    ),
    (
        "SetExtendedDNSErrorAction(1, 'x', false)",
        "FILE:1: SetExtendedDNSErrorAction: keeping other Extended DNS Errors is not",
    ),
    ("LuaAction()", "FILE:1: LuaAction: nil is not allowed; expected a function"),
    (
        "SetReducedTTLResponseAction(101)",
        "FILE:1: SetReducedTTLResponseAction: 101 is not allowed; expected a whole number from 0 to 100",
    ),
    (
        "RestartResponseAction('p', 0)",
        "FILE:1: RestartResponseAction: times is 0; expected a whole number from 1 to 10",
    ),
    ("setRules(5)", "FILE:1: setRules: the list is 5; expected a list of newRuleAction(...)"),
    (
        "setRules({newRuleAction(AllRule(), DropResponseAction())})",
        "FILE:1: setRules: rule 1 is of the other kind; expected an action on queries",
    ),
    ("setRuleGroup('', {})", "FILE:1: setRuleGroup: the group is \"\"; expected a name, not empty"),
    ("topRules('x')", "FILE:1: topRules: \"x\" is not allowed; expected a whole number"),
    ("newSuffixMatchNode():add(5)", "FILE:1: add: 5 is not allowed; expected a domain name"),
    (
        "newSuffixMatchNode():addFile('/nonexistent')",
        "FILE:1: addFile: cannot read \"/nonexistent\": No such file",
    ),
    (
        "setACLFromFile('/dev/null')",
        "FILE:1: setACLFromFile: cannot read \"/dev/null\": it is empty; expected a list, or a comment if there is to be none",
    ),
    ("newNMG():addMask('x')", "FILE:1: addMask: \"x\" is not allowed; expected a network"),
    ("newNMG():match('x')", "FILE:1: match: \"x\" is not allowed; expected an address"),
    ("newNMG():addNMG('x')", "FILE:1: addNMG: \"x\" is not allowed; expected a set of newNMG"),
    ("newNetmask('x')", "FILE:1: newNetmask: \"x\" is not allowed; expected a network"),
    ("newCA('x')", "FILE:1: newCA: \"x\" is not allowed; expected IP[:PORT]"),
    (
        "newDNSName('a..b')",
        "FILE:1: newDNSName: \"a..b\" is not allowed; expected a domain name without an empty label",
    ),
    ("newDNSName(5)", "FILE:1: newDNSName: 5 is not allowed; expected a domain name of at most 255 bytes"),
    ("newServerPolicy('x', 5)", "FILE:1: newServerPolicy: the second argument is 5; expected a function"),
    (
        "setPoolServerPolicyLua('x', function() end)",
        "FILE:1: setPoolServerPolicyLua: pool is nil; expected the name",
    ),
    (
        "addAction(HTTPPathRule('x'), DropAction())",
        "FILE:1: HTTPPathRule: the function (rules on DNS over HTTPS)",
    ),
];

#[test]
fn every_invalid_rule_gets_one_message_with_its_place() {
    let mut wrong = String::new();
    for (text, want) in BROKEN {
        let messages = broken(text);
        if messages.len() != 1 || !messages[0].starts_with(want) {
            wrong += &format!("{text}\n  gave {messages:#?}\n  not  {want}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn chains_are_changed_by_number_name_and_uuid() {
    let uuid = "123e4567-e89b-12d3-a456-426655440000";
    let names = |text: &str, key: ChainKey| -> Vec<String> {
        good(text).0.draft.rules.chain(key).iter().map(|r| r.name.clone()).collect()
    };
    for (key, functions) in ChainKey::ALL.into_iter().zip(&CHAINS) {
        let [add, rm, mv, to_top, clear, set, show, top, top_list, one] =
            functions.entries.each_ref().map(|e| e.name);
        let action = if functions.responses { "DropResponseAction()" } else { "DropAction()" };
        let begin = format!(
            "for _, n in ipairs{{'a', 'b', 'c', 'd'}} do {add}(AllRule(), {action}, {{name=n}}) end\n\
             {add}('example.com', {action}, {{name='e', uuid='{uuid}'}})\n"
        );
        let after = |text: &str| names(&format!("{begin}{text}"), key).concat();
        assert_eq!(after(""), "abcde");
        assert_eq!(after(&format!("{rm}(1) {rm}('d') {rm}('{uuid}')")), "ac");
        assert_eq!(after(&format!("{mv}(0, 2)")), "bacde", "in front of what was number 2");
        assert_eq!(after(&format!("{mv}(0, 5)")), "bcdea");
        assert_eq!(after(&format!("{mv}(3, 1)")), "adbce");
        assert_eq!(after(&format!("{to_top}()")), "eabcd");
        assert_eq!(after(&format!("{to_top}(2)")), "cabde");
        assert_eq!(after(&format!("{to_top}('d')")), "dabce");
        assert_eq!(after(&format!("{clear}() {to_top}()")), "");
        assert_eq!(after(&format!("{set}{{newRuleAction(RDRule(), {action}, {{name='x'}})}}")), "x");
        let printed = format!(
            "local out = {{}}; local real = print; print = function(t) out[#out + 1] = t end\n\
             {show}(); {show}{{showUUIDs=true, truncateRuleWidth=5}}; {top}(2); print = real\n\
             local _, lines = out[1]:gsub('\\n', '')\n\
             assert(#out == 3 and lines == 5, out[1])\n\
             assert(out[1]:find('qname in example.com.', 1, true) and out[1]:sub(1, 1) == '#')\n\
             assert(out[2]:find('{uuid}', 1, true) and out[2]:find('qname ', 1, true) and not out[2]:find('example'))\n\
             assert(select(2, out[3]:gsub('\\n', '')) == 2)\n\
             local e = {one}('e')\n\
             assert(e:getName() == 'e' and e:getUUID() == '{uuid}' and e:getGroup() == '')\n\
             assert(tostring(e:getSelector()) == 'qname in example.com.' and e:getSelector():getMatches() == 0)\n\
             assert(tostring(e:getAction()) == 'drop' and {one}('{uuid}'):getName() == 'e')\n\
             assert({one}(0):getName() == 'a' and {one}(9) == nil and {one}('z') == nil)\n\
             assert(#{top_list}() == 5 and #{top_list}(2) == 2 and {top_list}(1)[1]:getName() == 'a')\n"
        );
        assert_eq!(after(&printed), "abcde");
    }
    good(
        "addAction('a', DropAction()) assert(tostring(getAction(0):getAction()) == 'drop' and getAction(1) == nil)",
    );
}

#[test]
fn a_group_is_replaced_at_its_place() {
    let rules = |text: &str| -> Vec<String> {
        let begin = "addAction('a', DropAction(), {name='a'})\n\
                     addAction('b', DropAction(), {name='b', group='g'})\n\
                     addAction('c', DropAction(), {name='c'})\n\
                     addAction('d', DropAction(), {name='d', group='g'})\n\
                     local function r(n) return newRuleAction(n, DropAction(), {name=n}) end\n";
        let (_, compiled) = good(&format!("{begin}{text}"));
        let rules = compiled.snapshot.chains.query.rules();
        rules.iter().map(|r| format!("{}{}", r.name, r.group)).collect()
    };
    assert_eq!(rules(""), ["a", "bg", "c", "dg"]);
    assert_eq!(rules("setRuleGroup('g', {r'x', r'y', r'z'})"), ["a", "xg", "yg", "zg", "c"]);
    assert_eq!(rules("setRuleGroup('h', {r'x'})"), ["a", "bg", "c", "dg", "xh"]);
    assert_eq!(rules("clearRuleGroup('g')"), ["a", "c"]);
    assert_eq!(rules("setRuleGroup('g', {}) setRuleGroup('g', {r'x'})"), ["a", "c", "xg"]);
    let text = "addResponseAction('a', DropResponseAction(), {group='g'})\n\
                setResponseRuleGroup('g', {newRuleAction('b', TCResponseAction())})\n\
                addResponseAction('c', TCResponseAction(), {group='h'}) clearResponseRuleGroup('h')";
    let rules = snapshot(text).chains.response;
    assert_eq!((rules.rules().len(), rules.rules()[0].group.as_str()), (1, "g"));
}

#[test]
fn sets_can_be_queried_while_the_file_runs() {
    let list = File::new("# block list\nexample.com\n  WWW.Example.net.  # with a comment\n\nexample.com.\n");
    let text = format!(
        "local s = newSuffixMatchNode()\n\
         s:add('a.b') s:add{{'c', newDNSName('d.e')}} s:add(newDNSName('f'))\n\
         assert(s:check('x.a.b') and s:check(newDNSName('A.B')) and not s:check('b') and s:len() == 4)\n\
         assert(tostring(s:getBestMatch('x.y.d.e')) == 'd.e.' and s:getBestMatch('e') == nil)\n\
         assert(s:remove('c') == 1 and s:remove{{'c', 'f'}} == 1 and s:size() == 2 and not s:check('c'))\n\
         assert(s:memory() == 5 + 5 and not s:empty())\n\
         s:addFile('{path}')\n\
         assert(s:len() == 4 and s:check('a.example.com') and s:check('www.example.net') and not s:check('example.net'))\n\
         local d = newDNSNameSet()\n\
         d:add('a.b') assert(d:check('a.b') and not d:check('x.a.b') and d:size() == 1 and d:delete('a.b') == 1)\n\
         assert(d:empty() and d:toString() == '')\n\
         local r = newSuffixMatchNode() r:add('.') assert(r:check('any.thing') and r:check('.'))\n\
         r:clear() assert(r:empty())\n\
         local n = newNMG()\n\
         n:addMask('10.0.0.0/8') n:addMask('!10.1.0.0/16') n:addMasks{{'2001:db8::/32', newNetmask('192.0.2.0/24')}}\n\
         n:addMasks{{['198.51.100.7']=1}}\n\
         assert(n:match('10.2.0.1') and not n:match('10.1.0.1') and n:match(newCA('2001:db8::1')) and n:size() == 5)\n\
         local m = newNMG() m:addNMG(n) m:addMask('10.0.0.0/8') assert(m:size() == 5 and m:match('198.51.100.7'))\n\
         m:clear() assert(m:size() == 0 and not m:match('10.2.0.1'))\n\
         local k = newNetmask('192.0.2.9/24')\n\
         assert(k:getBits() == 24 and tostring(k:getMaskedNetwork()) == '192.0.2.0' and k:isIPv4() and not k:isIPv6())\n\
         assert(k:match('192.0.2.200') and not k:match('192.0.3.1') and tostring(k) == '192.0.2.9/24')\n\
         assert(tostring(newNetmask(newCA('::1'), 64)) == '::1/64' and not k:empty())\n\
         local c = newCA('192.0.2.1:5300')\n\
         assert(tostring(c) == '192.0.2.1' and c:toStringWithPort() == '192.0.2.1:5300' and c:getPort() == 5300)\n\
         assert(c:isIPv4() and #c:getRaw() == 4 and c == newCA('192.0.2.1:5300') and c ~= newCA('192.0.2.1'))\n\
         c:truncate(24) assert(c:toString() == '192.0.2.0')\n\
         assert(newCA('::ffff:192.0.2.1'):isMappedIPv4() and tostring(newCA('::ffff:192.0.2.1'):mapToIPv4()) == '192.0.2.1')\n\
         local q = newDNSName('www.example.com')\n\
         assert(q:wirelength() == 17 and q:toDNSString() == '\\3www\\7example\\3com\\0' and q:chopOff())\n\
         assert(q:tostring() == 'example.com.' and not newDNSName('.'):chopOff())",
        path = list.path().display()
    );
    let (loaded, _) = good(&text);
    assert_eq!((loaded.draft.name_sets.len(), loaded.draft.networks.len()), (3, 2));
    assert!(loaded.draft.name_sets.iter().all(|s| s.set().is_some()), "filled at the end");
    assert!(loaded.draft.networks.iter().all(|s| s.set().is_some()), "filled at the end");
}

#[test]
fn a_rule_sees_later_additions_to_its_set() {
    let (loaded, _) =
        good("s = newSuffixMatchNode() addAction(QNameSuffixRule(s), DropAction()) s:add('late')");
    let rules = &loaded.draft.rules;
    let shown = text::matcher(&rules.chain(ChainKey::Query)[0].matcher, &rules.texts.shown());
    assert_eq!(shown, "qname in late.");
}

#[test]
fn up_to_ten_invalid_lines_of_a_list_are_reported() {
    let lines: String = (0..14).map(|n| format!("good{n}\nbad..{n}\n")).collect();
    let list = File::new(&lines);
    let path = list.path().display().to_string();
    let messages: Vec<String> = broken(&format!("newSuffixMatchNode():addFile('{path}')"))
        .iter()
        .map(|m| m.replace(&path, "LIST"))
        .collect();
    assert_eq!(messages.len(), 11, "{messages:#?}");
    assert!(messages[0].starts_with(
        "LIST:2: addFile: \"bad..0\" is not allowed; expected a domain name without an empty label"
    ));
    assert!(messages[9].starts_with("LIST:20: addFile: \"bad..9\""), "{}", messages[9]);
    assert_eq!(
        messages[10],
        "FILE:1: addFile: LIST has 4 further invalid lines; expected a domain name per line"
    );
}

#[test]
fn functions_are_numbered_in_order_of_use() {
    let text = "local f = function() end\n\
                addAction(LuaRule(f), LuaAction(function()\n end))\n\
                addResponseAction(AllRule(), LuaFFIResponseAction(f))\n\
                setServerPolicyLua('mine', f)\n\
                setPoolServerPolicyLuaFFIPerThread('other', 'return function() end', 'p')\n\
                setPoolServerPolicy(newServerPolicy('x', f), 'q')\n\
                function maintenance() end";
    let (loaded, compiled) = good(text);
    let draft = &loaded.draft;
    let got: Vec<_> = draft.functions.iter().map(|f| (f.kind, f.interface, f.line)).collect();
    use {FunctionKind as F, Interface as I};
    assert_eq!(
        got,
        [
            (F::Rule, I::Objects, 1),
            (F::Action, I::Objects, 2),
            (F::ResponseAction, I::Ffi, 1),
            (F::Policy, I::Objects, 1),
            (F::Policy, I::Text, 0),
            (F::Policy, I::Objects, 1),
        ]
    );
    assert!(
        draft.functions[0].source.starts_with('@') && draft.functions[4].source == "return function() end"
    );
    assert!(draft.maintenance && !good("").0.draft.maintenance);
    let kind =
        |pool: &str| compiled.snapshot.pool(compiled.snapshot.pool_named(pool).expect(pool)).policy.kind;
    assert_eq!(kind(""), Kind::Lua(FunctionId(3)));
    assert_eq!([kind("p"), kind("q")], [Kind::Lua(FunctionId(4)), Kind::Lua(FunctionId(5))]);
}

#[test]
fn a_pool_named_only_by_a_rule_is_empty() {
    let s = snapshot(
        "newServer{address='192.0.2.1', pool='x'} addAction('a', PoolAction('y')) addAction('b', PoolAction('x'))\n\
         addResponseAction('c', RestartResponseAction('z')) addAction(NotRule(PoolAvailableRule('w')), DropAction())",
    );
    let pools: Vec<(&str, usize)> = s.pools.iter().map(|p| (p.name.as_str(), p.members.len())).collect();
    assert_eq!(pools, [("", 0), ("x", 1), ("y", 0), ("w", 0), ("z", 0)]);
}

#[test]
fn copies_go_to_a_server_in_no_pool() {
    let s = snapshot(
        "newServer('192.0.2.1') addAction('a', TeeAction('192.0.2.9'))\n\
         addAction('b', ContinueAction(TeeAction('192.0.2.9'))) addAction('c', TeeAction('192.0.2.9', true))",
    );
    let hidden: Vec<_> = s.backends.iter().flatten().filter(|b| b.tee).collect();
    let ids: Vec<(&str, u16)> = hidden.iter().map(|b| (b.id.as_str(), b.slot.0)).collect();
    assert_eq!(ids, [("tee 192.0.2.9:53", 1), ("tee 192.0.2.9:53 with ECS", 2)]);
    assert!(hidden.iter().all(|b| b.health.mode == HealthMode::Up));
    assert_eq!((hidden[0].use_client_subnet, hidden[1].use_client_subnet), (false, true));
    assert_eq!((s.pools.len(), s.pools[0].members.len()), (1, 1));
    let slots: Vec<String> = s.chains.query.rules().iter().map(|r| format!("{:?}", r.action)).collect();
    assert!(slots[0].contains("BackendSlot(1)") && slots[1].contains("BackendSlot(1)"), "{slots:?}");
    assert!(slots[2].contains("BackendSlot(2)"), "{slots:?}");
}

#[test]
fn rules_keep_identity_and_slot_across_a_reload() {
    let text = "addAction('a', DropAction()) addAction('b', DropAction()) addAction('b', DropAction())\n\
                addResponseAction('a', DropResponseAction())";
    let (_, first) = good(text);
    let moved = format!("addAction('new', DropAction(), {{name='n'}})\n{text}");
    let loaded = good(&moved).0;
    let second = compile(&loaded.draft, &first.slots, 2).expect("again");
    let ids = |s: &crate::model::Snapshot| -> Vec<(String, u32)> {
        s.chains.query.rules().iter().map(|r| (uuid_text(&r.uuid), r.slot.0)).collect()
    };
    let (a, b) = (ids(&first.snapshot), ids(&second.snapshot));
    assert_eq!(a, b[1..], "the old rules, after the new one");
    assert_ne!(a[1].0, a[2].0, "the same rule twice is two rules");
    assert_eq!(second.snapshot.rules_fresh.iter().map(|s| s.0).collect::<Vec<_>>(), [4]);
    assert_eq!(first.snapshot.rules_fresh.len(), 4);
    assert_eq!(second.snapshot.chains.response.rules()[0].slot.0, 3);
    assert_eq!(diff(&first.snapshot, &second.snapshot), ["rule \"n\" added"]);
    let changed = good(&moved.replace("'new', DropAction()", "'new', TCAction()")).0;
    let third = compile(&changed.draft, &second.slots, 3).expect("again");
    assert_eq!(diff(&second.snapshot, &third.snapshot), ["rule \"n\" changed"]);
}

#[test]
fn a_reload_lists_twenty_rules_and_counts_the_rest() {
    let lines = diff(&snapshot(""), &snapshot("for n = 1, 50 do addAction('n' .. n, DropAction()) end"));
    assert_eq!(lines.len(), 21);
    assert_eq!(lines[20], "30 more rules added, removed or changed");
    let uuid = "{uuid='123e4567-e89b-12d3-a456-426655440000'}";
    let old =
        snapshot(&format!("addAction('a', DropAction(), {uuid}) addAction('b', DropAction(), {{name='b'}})"));
    let new =
        snapshot(&format!("addAction('b', DropAction(), {{name='b'}}) addAction('a', TCAction(), {uuid})"));
    assert_eq!(
        diff(&old, &new),
        ["rule 123e4567-e89b-12d3-a456-426655440000 changed", "order of rules changed"]
    );
}

#[test]
fn limits_keep_their_identity_across_reloads() {
    let text = "addAction(MaxQPSRule(5), QPSAction(5)) addAction(MaxQPSIPRule(7), QPSPoolAction(9, 'x'))\n\
                addAction(TimedIPSetRule():slice(), DropAction())";
    let (first, second) = (snapshot(text).limits, snapshot(&format!("QPSAction(1)\n{text}")).limits);
    assert_eq!((first.len(), second.len()), (5, 6));
    let ids =
        |specs: &[crate::rules::limits::StateSpec]| specs.iter().map(|s| s.identity).collect::<Vec<_>>();
    assert_eq!(ids(&first), ids(&second[1..]), "by kind and parameters, not by number");
    assert_ne!(first[0].identity, first[1].identity, "equal buckets are distinct");
}

#[test]
fn settings_of_rules_and_client_subnet_reach_the_snapshot() {
    let s = snapshot(
        "truncateTC(true) fixupCase(true) setLuaErrorAction('ignore') setECSOverride(true) setECSSourcePrefixV4(20) setECSSourcePrefixV6(48)\n\
         newServer{address='192.0.2.1', useClientSubnet=true, disableZeroScope=true}",
    );
    let g = &s.globals;
    assert!(g.truncate_tc && g.fixup_case && g.ecs_override && !g.lua_errors_fail);
    assert_eq!((g.ecs_v4, g.ecs_v6), (20, 48));
    assert!(s.backends[0].as_ref().expect("a server").use_client_subnet);
    let g = snapshot("").globals;
    assert!(!g.truncate_tc && !g.fixup_case && !g.ecs_override && g.lua_errors_fail);
    assert_eq!((g.ecs_v4, g.ecs_v6), (24, 56));
}

#[test]
fn constants_have_dnsdists_numbers() {
    good(
        "assert(DNSAction.Drop == 0 and DNSAction.Spoof == 3 and DNSAction.None == 10 and DNSAction.SpoofRaw == 13)\n\
         assert(DNSResponseAction.Allow == 0 and DNSResponseAction.ServFail == 4 and DNSResponseAction.None == 5)\n\
         assert(DNSSection.Question == 0 and DNSSection.Additional == 3 and EDNSOptionCode.PADDING == 12)",
    );
}

#[test]
fn ten_thousand_rules_have_distinct_identities() {
    let (loaded, compiled) = good(
        "for n = 1, 10000 do\n\
         local m = n % 4\n\
         if m == 0 then addAction('d' .. n .. '.example', PoolAction('p'))\n\
         elseif m == 1 then addAction(AndRule{QTypeRule(n % 300), TCPRule(false)}, DropAction())\n\
         elseif m == 2 then addAction('10.' .. n % 256 .. '.0.0/16', RCodeAction(5))\n\
         else addAction(MaxQPSIPRule(n), DelayAction(1)) end end",
    );
    let rules = compiled.snapshot.chains.query.rules();
    let ids: std::collections::HashSet<_> = rules.iter().map(|r| r.uuid).collect();
    assert_eq!((rules.len(), ids.len()), (10_000, 10_000));
    let again = compile(&loaded.draft, &compiled.slots, 2).expect("again");
    assert!(again.snapshot.rules_fresh.is_empty());
    assert!(compile(&loaded.draft, &Slots::default(), 1).is_ok());
    assert!(loaded.draft.rules.iter().all(|(_, r)| matches!(r.action, RuleAction::Query(_))));
}

/// Names of the functions that rules are made of, as configurations use them.
const EXPECTED: &str = "addAction SpoofAction RCodeAction SuffixMatchNodeRule DropAction AndRule QTypeRule \
    newSuffixMatchNode newDNSName truncateTC RegexRule TCAction TCPRule makeRule LuaAction AllRule addResponseAction \
    LuaResponseAction QNameRule setECSSourcePrefixV4 QNameSuffixRule SpoofCNAMEAction setAllowEmptyResponse \
    PayloadSizeRule IncomingProtocolRule TCResponseAction fixupCase PoolAction LuaFFIAction RCodeRule QPSPoolAction \
    newServerPolicy setServerPolicyLuaFFI setServerPolicyLuaFFIPerThread DropResponseAction TagRule NotRule QClassRule \
    SetTagAction SetNoRecurseAction RecordsCountRule SetTagResponseAction AllowAction RDRule \
    SetDisableValidationAction TrailingDataRule NegativeAndSOAAction NetmaskGroupRule AllowResponseAction \
    EDNSVersionRule ERCodeAction RecordsTypeCountRule SetEDNSOptionAction TeeAction newNMG ContinueAction \
    EDNSOptionRule NoneAction OpcodeRule OrRule QPSAction RE2Rule DNSSECRule DSTPortRule DelayAction LogAction LuaRule \
    QNameLabelsCountRule QNameWireLengthRule TimedIPSetRule UnsetTagAction LuaFFIResponseAction \
    addSelfAnsweredResponseAction SetEDNSOptionResponseAction addTimeoutResponseAction ClearRecordTypesResponseAction \
    DelayResponseAction MaxQPSRule SetMaxTTLResponseAction SetMinTTLResponseAction ERCodeRule \
    SetReducedTTLResponseAction newCA SpoofRawAction SpoofSVCAction newSVCRecordParameters SpoofPacketAction \
    SetSkipCacheAction addCacheHitResponseAction SetSkipCacheResponseAction SetECSAction addCacheMissAction \
    LimitTTLResponseAction addCacheInsertedResponseAction SetTempFailureCacheTTLAction setECSOverride \
    setECSSourcePrefixV6 SetExtendedDNSErrorAction SetExtendedDNSErrorResponseAction SetDisableECSAction \
    SetECSOverrideAction SetECSPrefixLengthAction LuaFFIPerThreadAction LuaFFIPerThreadResponseAction \
    LuaFFIPerThreadRule LuaFFIRule MaxQPSIPRule ProbaRule PoolAvailableRule PoolOutstandingRule QNameSetRule \
    newDNSNameSet newNetmask SetMaxReturnedTTLAction SetMaxReturnedTTLResponseAction UnsetTagResponseAction \
    LogResponseAction setServerPolicyLua setPoolServerPolicyLua newRuleAction rmRule mvRule mvRuleToTop clearRules \
    setRules showRules topRules getTopRules getRule getAction showResponseRules getTopSelfAnsweredResponseRules";

#[test]
fn every_expected_rule_function_exists() {
    for name in EXPECTED.split_whitespace() {
        let setter = crate::config::options::SETTINGS.iter().flat_map(|s| s.lua).any(|l| l.name == name);
        assert!(setter || every_function().any(|e| e.name == name), "{name}");
        assert!(!FUNCTIONS_MISSING.iter().any(|m| m.names.contains(&name)), "{name}");
    }
}
