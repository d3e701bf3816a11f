//! What is accepted with a warning, and what `strict` makes of it.

use super::*;

/// Texts, each with its one warning.
const WARNED: &[(&str, &str)] = &[
    (
        "newServer{address='192.0.2.1', wieght=3}",
        "newServer: unknown argument \"wieght\"; did you mean \"weight\"?",
    ),
    (
        "newServer{address='192.0.2.1', banana=3}",
        "newServer: unknown argument \"banana\"; docs/reference.md lists",
    ),
    (
        "newServer{address='192.0.2.1', subjectName='a.example'}",
        "newServer: subjectName has no effect without tls: queries to it are not encrypted; expected tls",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', key='client'}",
        "addTCPForward: key is given, and the policy hashes nothing; expected policy=",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', v4=24}",
        "addTCPForward: v4 is given, and no prefix is hashed; expected policy=",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', policy='sourceHash', key='client', v6=48}",
        "addTCPForward: v6 is given, and no prefix is hashed; expected policy=",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', check='none', rise=2}",
        "addTCPForward: rise is given, and nothing is checked; expected a check too",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', check='none', closeWhenDown=true}",
        "addTCPForward: closeWhenDown is given, and nothing is checked",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', check='none', checkIntervalMs=200}",
        "addTCPForward: checkIntervalMs is given, and nothing is checked",
    ),
    (
        "addUDPForward{listen='192.0.2.55:25', to='192.0.2.1:25', maxCheckFailures=3}",
        "addUDPForward: maxCheckFailures is given, and nothing is checked; expected",
    ),
    ("declareMetric('warned-x', 'counter', 'd', {nope=1})", "declareMetric: unknown option \"nope\"; docs"),
    (
        "declareMetric('warned-y', 'gauge', 'd') incMetric('warned-y', {stop=1})",
        "incMetric: unknown option \"stop\"; did you mean \"step\"?",
    ),
    (
        "declareMetric('warned-y', 'gauge', 'd') decMetric('warned-y', {label={}})",
        "decMetric: unknown option \"label\"; did you mean \"labels\"?",
    ),
    (
        "declareMetric('warned-y', 'gauge', 'd') setMetric('warned-y', 3, {nope=1})",
        "setMetric: unknown option \"nope\"; ",
    ),
    (
        "declareMetric('warned-y', 'gauge', 'd') getMetric('warned-y', {nope=1})",
        "getMetric: unknown option \"nope\"; ",
    ),
    (
        "declareMetric('warned-z', 'histogram', 'd') observeMetric('warned-z', 3, {nope=1})",
        "observeMetric: unknown option \"nope\"; ",
    ),
    (
        "newSVCRecordParameters(1, 'a', {prot=5})",
        "newSVCRecordParameters: unknown option \"prot\"; did you mean \"port\"?",
    ),
    ("showServers({nope=1})", "showServers: unknown option \"nope\"; "),
    (
        "setACL('fe80::1%lo/64')",
        "setACL: \"fe80::1%lo/64\" is taken as \"fe80::1/64\": a network is that of every zone",
    ),
    (
        "addACL('!fe80::%lo')",
        "addACL: \"!fe80::%lo\" is taken as \"fe80::\": a network is that of every zone",
    ),
    ("newServer{address='192.0.2.1', order=2.7}", "newServer: order is 2.7, which is taken as 2"),
    ("newServer('192.0.2.1'):setOrder(-2.7)", "setOrder: -2.7 is taken as -2"),
    (
        "setRandomizedIdsOverUDP(false)",
        "setRandomizedIdsOverUDP: false has no effect: ids and sockets are always random",
    ),
    (
        "setRandomizedOutgoingSockets(false)",
        "setRandomizedOutgoingSockets: false has no effect: ids and sockets are always",
    ),
    (
        "newServer{address='192.0.2.1', tls='openssl', validateCertificates=false, minTLSVersion='tls1.0'}",
        "newServer: minTLSVersion is \"tls1.0\", which is taken as \"tls1.2\", the least",
    ),
    (
        "controlSocket('127.0.0.1:5199')",
        "controlSocket: the console refuses every connection: there is no setKey",
    ),
    (
        "addLocal('127.0.0.1', {interfase='lo'})",
        "addLocal: unknown option \"interfase\"; did you mean \"interface\"?",
    ),
    (
        "setServerPolicy(concentrate{fullFaktor=2})",
        "concentrate: unknown option \"fullFaktor\"; did you mean \"fullFactor\"?",
    ),
    ("hashBy(whashed, 'zone', {label=3})", "hashBy: unknown option \"label\"; did you mean \"labels\"?"),
    ("setRetry{after=5, bugdet=3}", "setRetry: unknown option \"bugdet\"; did you mean \"budget\"?"),
    ("getPool('p'):setEjection{exces=5}", "setEjection: unknown option \"exces\"; did you mean \"excess\"?"),
    (
        "addAction(AllRule(), DropAction(), {naem='x'})",
        "addAction: unknown option \"naem\"; did you mean \"name\"?",
    ),
    (
        "addResponseAction(AllRule(), DropResponseAction(), {grup='x'})",
        "addResponseAction: unknown option \"grup\"; did you mean \"group\"?",
    ),
    ("newRuleAction(AllRule(), DropAction(), {foo=1})", "newRuleAction: unknown option \"foo\"; docs"),
    ("RCodeAction(5, {ttl=5})", "RCodeAction: unknown option \"ttl\"; "),
    ("ERCodeAction(23, {foo=1})", "ERCodeAction: unknown option \"foo\"; "),
    ("SpoofAction('::1', {tll=5})", "SpoofAction: unknown option \"tll\"; did you mean \"ttl\"?"),
    ("SpoofAction('::1', {typeForAny=5})", "SpoofAction: unknown option \"typeForAny\"; "),
    ("SpoofCNAMEAction('a.example', {tll=5})", "SpoofCNAMEAction: unknown option \"tll\"; did"),
    ("SpoofRawAction('a', {typForAny=5})", "SpoofRawAction: unknown option \"typForAny\"; did"),
    (
        "SpoofSVCAction(newSVCRecordParameters(1, 'a'), {tll=5})",
        "SpoofSVCAction: unknown option \"tll\"; did you mean \"ttl\"?",
    ),
    (
        "NegativeAndSOAAction(true, 'a', 1, 'm', 'r', 1, 2, 3, 4, 5, {soaInAuthority=true})",
        "NegativeAndSOAAction: unknown option \"soaInAuthority\"; did you mean \"soaInAuthoritySection\"?",
    ),
    ("showRules({showUUID=true})", "showRules: unknown option \"showUUID\"; did you mean \"showUUIDs\"?"),
    (
        "newTLSCertificate('/nonexistent', {kay='x'})",
        "newTLSCertificate: unknown option \"kay\"; did you mean \"key\"?",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', maxFlows=1}",
        "addTCPForward: unknown argument \"maxFlows\"",
    ),
    (
        "addUDPForward{listen='192.0.2.55:25', to='192.0.2.1:25', listem='x'}",
        "addUDPForward: unknown argument \"listem\"; did you mean \"listen\"?",
    ),
    (
        "addLocal('127.0.0.1', {tcpFastOpenSize=10})",
        "addLocal: tcpFastOpenSize is of an older version; write",
    ),
    ("addLocal('127.0.0.1', {cpus={1}})", "addLocal: cpus has no effect: use --cpus"),
    (
        "addLocal('127.0.0.1', {reusePort=true}) addLocal('127.0.0.1', {reusePort=true, cpus=nil})",
        "addLocal: the listener 127.0.0.1:53 is the one at FILE:1: every shard has sockets for it",
    ),
    ("addACL('[::]/0')", "addACL: \"[::]/0\" is taken as \"::/0\": a network has no brackets"),
    ("addAction(MaxQPSIPRule(5, 64), DropAction())", "MaxQPSIPRule: v4 is 64, which is taken as 32"),
    ("addAction(MaxQPSIPRule(5, 32, 129), DropAction())", "MaxQPSIPRule: v6 is 129, which is taken as 128"),
    (
        "addAction(RecordsCountRule(1, 2, 1), DropAction())",
        "RecordsCountRule: min (2) is above max (1): nothing will match",
    ),
    (
        "addResponseAction(AllRule(), LimitTTLResponseAction(5, 4))",
        "LimitTTLResponseAction: min (5) is above max (4): every TTL will be 4",
    ),
    (
        "setPayloadSizeOnSelfGeneratedAnswers(100)",
        "setPayloadSizeOnSelfGeneratedAnswers: 100 is taken as 512",
    ),
    (
        "setPayloadSizeOnSelfGeneratedAnswers(65535)",
        "setPayloadSizeOnSelfGeneratedAnswers: 65535 is taken as 4096",
    ),
    (
        "addAction(AllRule(), RCodeAction(16))",
        "RCodeAction: code is 16, of which 0 is sent; ERCodeAction sends",
    ),
    ("addAction(AllRule(), RCodeAction(23))", "RCodeAction: code is 23, of which 7 is sent"),
    ("addAction(RCodeRule(23), DropAction())", "RCodeRule: 23 has more than four bits: nothing will match"),
    ("addAction(OpcodeRule(16), DropAction())", "OpcodeRule: 16 has more than four bits"),
    ("addAction(ProbaRule(2), DropAction())", "ProbaRule: 2 is taken as 1"),
    ("addAction(MaxQPSRule(0.5), DropAction())", "MaxQPSRule: qps is 0.5, which is taken as 0"),
    (
        "addAction(MaxQPSRule(5, 1e10), DropAction())",
        "MaxQPSRule: burst is 10000000000, which is taken as 4294967295",
    ),
    ("addAction(MaxQPSIPRule(5, 256), DropAction())", "MaxQPSIPRule: v4 is 256, which is taken as 32"),
    (
        "addAction(QNameWireLengthRule(0, 100000), DropAction())",
        "QNameWireLengthRule: max is 100000, which is taken as 65535",
    ),
    ("addAction(AllRule(), QPSAction(1e10))", "QPSAction: 10000000000 is taken as 4294967295"),
    ("addAction(AllRule(), DelayAction(100000))", "DelayAction: 100000 is taken as 60000"),
    ("addAction(AllRule(), DelayAction(1.5))", "DelayAction: 1.5 is taken as 1"),
    (
        "addAction(AllRule(), SetECSPrefixLengthAction(33, 128))",
        "SetECSPrefixLengthAction: v4 is 33, which is taken as 32",
    ),
    (
        "addAction(AllRule(), SpoofAction('::1', {ttl=4294967295}))",
        "SpoofAction: ttl is 4294967295, which is taken as 2147483647",
    ),
    (
        "addResponseAction(AllRule(), SetMaxTTLResponseAction(4294967295))",
        "SetMaxTTLResponseAction: 4294967295 is taken as 2147483647",
    ),
    ("newServer{address='192.0.2.1', checkInterval=0}", "newServer: checkInterval is 0, which is taken as 1"),
    (
        "newServer{address='192.0.2.1', checkInterval=100000}",
        "newServer: checkInterval is 100000, which is taken as 86400",
    ),
    (
        "newServer{address='192.0.2.1', checkTimeout=0}",
        "newServer: checkTimeout is 0, which is taken as 1000",
    ),
    (
        "newServer{address='192.0.2.1', maxCheckFailures=0}",
        "newServer: maxCheckFailures is 0, which is taken as 1",
    ),
    ("newServer{address='192.0.2.1', rise=1000}", "newServer: rise is 1000, which is taken as 255"),
    ("newServer{address='192.0.2.1', sockets=0}", "newServer: sockets is 0, which is taken as 1"),
    ("newServer{address='192.0.2.1', sockets=1000}", "newServer: sockets is 1000, which is taken as 255"),
    ("newServer{address='192.0.2.1', weight=0}", "newServer: weight is 0: the server is left out"),
    ("newServer{address='192.0.2.1', weight=1.5}", "newServer: weight is 1.5, which is taken as 1"),
    ("newServer('192.0.2.1'):setWeight(0)", "setWeight: 0 is ignored: the weight stays 1"),
    ("newServer('192.0.2.1').weight = 0", "weight: 0 is ignored: the weight stays 1"),
    ("newServer{address='192.0.2.1', qps=1.5}", "newServer: qps is 1.5, which is taken as 1"),
    ("newServer{address='192.0.2.1', udpTimeout=0}", "newServer: udpTimeout is 0, which is taken as 1"),
    (
        "newServer{address='192.0.2.1', tcpRecvTimeout=0}",
        "newServer: tcpRecvTimeout is 0, which is taken as 300",
    ),
    (
        "newServer{address='192.0.2.1', maxInFlight=100000}",
        "newServer: maxInFlight is 100000, which is taken as 65535",
    ),
    (
        "newServer{address='192.0.2.1', healthCheckMode='lazy', lazyHealthCheckThreshold=200}",
        "newServer: lazyHealthCheckThreshold is 200, which is taken as 100",
    ),
    (
        "addLocal('127.0.0.1', {tcpListenQueueSize=100000})",
        "addLocal: tcpListenQueueSize is 100000, which is taken as 65535",
    ),
    (
        "setWeightedBalancingFactor(0.5)",
        "setWeightedBalancingFactor: 0.5 is not allowed; expected 0 (off) or a number from 1 to 1000; it is ignored",
    ),
    (
        "setConsistentHashingBalancingFactor(100000)",
        "setConsistentHashingBalancingFactor: 100000 is taken as 1000",
    ),
    ("setMaxTCPConnectionDuration(86401)", "setMaxTCPConnectionDuration: 86401 is taken as 86400"),
    ("setUDPTimeout(0)", "setUDPTimeout: 0 is taken as 1"),
    ("setTCPRecvTimeout(0)", "setTCPRecvTimeout: 0 is taken as 3600"),
    ("setTCPSendTimeoutMs(0)", "setTCPSendTimeoutMs: 0 is taken as 3600000"),
    ("setMaxUDPOutstanding(0)", "setMaxUDPOutstanding: 0 is taken as 65535"),
    ("setUDPMultipleMessagesVectorSize(0)", "setUDPMultipleMessagesVectorSize: 0 is taken as 1"),
    ("setTCPConnectionsOverloadThreshold(101)", "setTCPConnectionsOverloadThreshold: 101 is taken as 100"),
    ("setECSSourcePrefixV4(33)", "setECSSourcePrefixV4: 33 is taken as 32"),
    (
        "setProxyProtocolACL({'192.0.2.1'}) setProxyProtocolMaximumPayloadSize(0)",
        "setProxyProtocolMaximumPayloadSize: 0 is taken as 16",
    ),
    ("setMaxTCPQueriesPerConnection(1.5)", "setMaxTCPQueriesPerConnection: 1.5 is taken as 1"),
    (
        "setUDPSocketBufferSizes(4294967295, 0)",
        "setUDPSocketBufferSizes: receive is 4294967295, which is taken as",
    ),
    ("rmRule(5)", "rmRule: there is no rule 5"),
    ("rmRule('nope')", "rmRule: there is no rule \"nope\""),
    ("mvRuleToTop('nope')", "mvRuleToTop: there is no rule \"nope\""),
    ("mvRule(0, 5)", "mvRule: from is 0; expected a number below that of the rules, which are 0"),
    (
        "addAction('a', DropAction()) mvRule(0, 5)",
        "mvRule: to is 5; expected a number up to that of the rules, which are 1",
    ),
    (
        "newServer{address='192.0.2.1', checkScriptExit='relayd'}",
        "newServer: checkScriptExit has no effect without checkScript; expected both or neither",
    ),
    (
        "newServer{address='192.0.2.1', checkScript='/bin/check', checkName='a'}",
        "newServer: checkName has no effect beside checkScript; expected one of them",
    ),
    (
        "newServer{address='192.0.2.1', check='connect', mustResolve=true}",
        "newServer: mustResolve has no effect beside check=\"connect\"; expected one of them",
    ),
    (
        "newServer{address='192.0.2.1', lazyHealthCheckThreshold=30}",
        "newServer: lazyHealthCheckThreshold has no effect without healthCheckMode=\"lazy\"; expected both",
    ),
    (
        "newServer{address='192.0.2.1', healthCheckMode='LAZY', lazyHealthCheckMaxBackOff=30}",
        "newServer: lazyHealthCheckMaxBackOff has no effect without lazyHealthCheckUseExponentialBackOff",
    ),
    (
        "newServer{address='192.0.2.1', healthCheckMode='up', checkInterval=5}",
        "newServer: checkInterval has no effect beside healthCheckMode=\"up\"; expected one of them",
    ),
    (
        "newServer{address='192.0.2.1', rise=5, healthCheckMode='down'}:setDown()",
        "newServer: rise has no effect beside healthCheckMode=\"down\"",
    ),
    (
        "newServer{address='192.0.2.1', proxyProtocolAdvertiseTLS=true}",
        "newServer: proxyProtocolAdvertiseTLS has no effect without useProxyProtocol; expected both or neither",
    ),
    (
        "newServer{address='192.0.2.1', tcpOnly=true, tcpWhileSpoofed=true}",
        "newServer: tcpWhileSpoofed has no effect beside tcpOnly; expected one of them",
    ),
    (
        "addLocal('127.0.0.1', {doTCP=false, maxInFlight=5})",
        "addLocal: maxInFlight has no effect beside doTCP=false; expected one of them",
    ),
    (
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', checkScriptExit='relayd'}",
        "addTCPForward: checkScriptExit has no effect without checkScript",
    ),
    ("hashBy(whashed, 'client', {labels=3})", "hashBy: labels has no effect without key=\"zone\""),
    ("hashBy(whashed, 'zone', {v6=48})", "hashBy: v6 has no effect without key=\"clientPrefix\""),
    ("setMaxTCPClientThreads(10)", "setMaxTCPClientThreads: has no effect: the shards serve"),
    (
        "setDynBlocksPurgeInterval(60)",
        "setDynBlocksPurgeInterval: has no effect: there are no dynamic blocks",
    ),
    (
        "addAction(AllRule(), NoRecurseAction())",
        "NoRecurseAction: is of an older version of dnsdist; write SetNoRecurseAction()",
    ),
    (
        "setAddEDNSToSelfGeneratedResponses(false) setPayloadSizeOnSelfGeneratedAnswers(1400)",
        "setPayloadSizeOnSelfGeneratedAnswers: has no effect beside setAddEDNSToSelfGeneratedResponses(false)",
    ),
    (
        "setBanDurationForExceedingTCPTLSRate(5)",
        "setBanDurationForExceedingTCPTLSRate: has no effect without a limit that it is for: \
         setMaxTCPConnectionRatePerClient",
    ),
    (
        "setMaxTCPReadIOsPerQuery(0) setBanDurationForExceedingMaxReadIOsPerQuery(5)",
        "setBanDurationForExceedingMaxReadIOsPerQuery: has no effect beside setMaxTCPReadIOsPerQuery(0)",
    ),
    ("setStaleCacheEntriesTTL(9)", "setStaleCacheEntriesTTL: has no effect without a packet cache"),
    ("setCacheCleaningDelay(9)", "setCacheCleaningDelay: has no effect without a packet cache"),
    (
        "setProxyProtocolApplyACLToProxiedClients(true)",
        "setProxyProtocolApplyACLToProxiedClients: has no effect without setProxyProtocolACL",
    ),
    (
        "webserver('127.0.0.1:8083', 'secret', '', {['X-A']='b'}, '192.0.2.0/24')",
        "webserver: the arguments behind the address are of older versions of dnsdist; write setWebserverConfig{",
    ),
    ("setServerID('here')", "setServerID: has no effect: the log has all lines"),
    ("addAnyTCRule()", "addAnyTCRule: is of an older version of dnsdist; write addAction(AndRule("),
];

/// Returns the warnings of a valid text, with `FILE` for the file's name.
fn warnings(text: &str) -> Vec<String> {
    let file = File::new(text);
    let flags = Flags { file: Some(file.path().to_owned()), ..Flags::default() };
    let (loaded, _) = run(&flags).unwrap_or_else(|errors| panic!("{text}\n{}", flags::lines(&errors)));
    let name = file.path().display().to_string();
    loaded.draft.warnings.into_list().iter().map(|e| e.to_string().replace(&name, "FILE")).collect()
}

#[test]
fn what_dnsdist_takes_is_taken_with_a_warning_which_strict_makes_an_error() {
    for (text, want) in WARNED {
        let want = format!("FILE:1: {want}");
        let warned = warnings(text);
        assert!(warned.len() == 1 && warned[0].starts_with(&want), "{text}\ngave {warned:#?}\nnot  {want}");
        assert_eq!(broken(&format!("setStrict(true) {text}")), warned, "{text}");
    }
}

#[test]
fn the_command_line_can_be_strict_about_the_check() {
    let file = File::new("newServer{address='192.0.2.1', banana=3}");
    let path = file.path().display().to_string();
    for (flag, refused) in [("--check-config", false), ("--check-config=strict", true), ("--strict", true)] {
        let Ok(Invocation::Serve(flags)) = flags::parse(["dnslob", "-C", &path, flag]) else {
            panic!("{flag}")
        };
        assert_eq!((flags.check, run(&flags).is_err()), (flag.starts_with("--check"), refused), "{flag}");
    }
    assert!(flags::parse(["dnslob", "-C", &path, "--check-config=loose"]).is_err());
    // What follows the flag is not its value.
    let Ok(Invocation::Serve(flags)) = flags::parse(["dnslob", "--check-config", "-C", &path]) else {
        panic!("check")
    };
    assert!(flags.check && flags.file.is_some());
}

#[test]
fn an_empty_interface_or_source_is_none() {
    let made = good(
        "addLocal('127.0.0.1', {interface=''}) newServer{address='192.0.2.1', source='', interface=''}\n\
         addUDPForward{listen='127.0.0.1:9', to='192.0.2.1:9', interface='', source=''}",
    );
    let draft = made.0.draft;
    assert_eq!(draft.listeners[0].interface, None);
    assert_eq!((draft.servers[0].source, &draft.servers[0].source_interface), (None, &None));
    assert_eq!((&draft.relays[0].interface, draft.relays[0].source), (&None, None));
}

#[test]
fn nothing_else_is_warned_of() {
    for text in [
        "addLocal('127.0.0.1', {reusePort=true, tcpFastOpenQueueSize=10})",
        "setACL({'10.0.0.0/8', '::/0'})",
        "declareMetric('fine-x', 'gauge', 'd', {withLabels=true, name='x'}) incMetric('fine-x', {step=2, labels={a='b'}})",
        "showServers({showUUIDs=true}) newSVCRecordParameters(1, 'a', {port=5, key7='x'})",
        "addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', closeWhenDown=true, rise=2}",
        "setRandomizedIdsOverUDP(true) setKey('MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=') controlSocket('127.0.0.1')",
        "addAction(MaxQPSIPRule(5, 32, 128), DropAction())",
        "setSecurityPollSuffix('')",
        "newServer{address='192.0.2.1', useClientSubnet=true}",
        "newServer{address='192.0.2.1', checkInterval=0.5, checkTimeout=100, sockets=255, weight=1, rise=255}",
        "newServer{address='192.0.2.1', lazyHealthCheckThreshold=30}:setLazyAuto()",
        "newServer{address='192.0.2.1', healthCheckMode='up', checkInterval=5}:setAuto()",
        "newServer{address='192.0.2.1', checkName='a.example', mustResolve=true} getServer(0):setUp()",
        "newServer{address='192.0.2.1', rise=5}:setDown()",
        "newServer{address='192.0.2.1', tcpOnly=false, tcpWhileSpoofed=true, proxyProtocolAdvertiseTLS=false}",
        "newServer{address='192.0.2.1', check='dns', checkName='a', checkTCP=true}",
        "addLocal('127.0.0.1', {doTCP=true, maxInFlight=5})",
        "hashBy(whashed, 'zone', {labels=3}) hashBy(chashed, 'clientPrefix', {v4=8, v6=32})",
        "setQueryCount(false) setStructuredLogging(false)",
        "setCacheCleaningDelay(60) setStaleCacheEntriesTTL(0) setProxyProtocolApplyACLToProxiedClients(false)",
        "setMaxTLSNewSessionRatePerClient(1) setBanDurationForExceedingTCPTLSRate(5)",
        "setProxyProtocolMaximumPayloadSize(99) setProxyProtocolACL({'192.0.2.1'})",
        "setStaleCacheEntriesTTL(9) getPool('x'):setCache(newPacketCache(9))",
        "setMaxTCPConnectionDuration(0) setMaxTCPConnectionDuration(86400) setUDPTimeout(0.5)",
        "if dnslob and dnslob.version then newServer('192.0.2.1') else error('dnsdist') end",
    ] {
        assert_eq!(warnings(text), [] as [String; 0], "{text}");
    }
}

#[test]
fn exceptions_of_the_acl_may_not_query() {
    let snapshot = snapshot("setACL({'10.0.0.0/8', '!10.1.0.0/16', '10.1.2.0/24'})");
    let has = |ip: &str| snapshot.acl.contains(&mapped(ip.parse().expect("an address")));
    assert!(has("10.0.0.1") && !has("10.1.0.1") && has("10.1.2.3"));
}

#[test]
fn listeners_of_one_address_are_one_where_each_may_share_it() {
    let text = "addLocal('127.0.0.1:5300', {reusePort=true})\naddLocal('127.0.0.1:5300', {reusePort=true})\n\
                addLocal('127.0.0.1:5300', true, true)\naddLocal('127.0.0.1:5301')";
    assert_eq!(snapshot(text).listeners.len(), 2);
    for text in [
        "addLocal('127.0.0.1:5300', {reusePort=true}) addLocal('127.0.0.1:5300', {reusePort=true, doTCP=false})",
        "addLocal('127.0.0.1:5300', {reusePort=true, doTCP=false}) addLocal('127.0.0.1:5300', {reusePort=true, doTCP=false}) \
         addLocal('127.0.0.1:5300', {reusePort=true, maxInFlight=9})",
    ] {
        let listeners = snapshot(text).listeners;
        assert!(listeners.len() == 1 && listeners[0].service == crate::model::Service::Dns, "{text}");
        assert_eq!(listeners[0].connection_options.in_flight == 9, text.contains("maxInFlight"), "{text}");
    }
    for text in [
        "addLocal('127.0.0.1:5300', {reusePort=true}) addLocal('127.0.0.1:5300')",
        "addLocal('127.0.0.1:5300', {reusePort=true}) addLocal('127.0.0.1:5300', {reusePort=true, doTCP=false, dscp=3})",
        "addLocal('127.0.0.1:5300', {reusePort=true}) addLocal('127.0.0.1:5300', {doTCP=false})",
        "addLocal('127.0.0.1:5300', {reusePort=true}) addLocal('127.0.0.1:5300', {reusePort=true, maxInFlight=3})",
    ] {
        assert!(broken(text)[0].contains("is already defined"), "{text}");
    }
}

#[test]
fn functions_of_older_versions_do_what_they_mean_today() {
    let block = "return DNSAction.Drop";
    for (older, today) in [
        (
            format!("addLuaAction(AllRule(), function(dq) {block} end)"),
            format!("addAction(AllRule(), LuaAction(function(dq) {block} end))"),
        ),
        ("addDomainBlock('a.example')".to_owned(), "addAction('a.example', DropAction())".to_owned()),
        ("addQPSLimit('a.example', 5)".to_owned(), "addAction('a.example', QPSAction(5))".to_owned()),
        ("addPoolRule('a.example', 'p')".to_owned(), "addAction('a.example', PoolAction('p'))".to_owned()),
        (
            "addDomainSpoof('a.example', '192.0.2.7')".to_owned(),
            "addAction('a.example', SpoofAction('192.0.2.7'))".to_owned(),
        ),
        (
            "addAnyTCRule()".to_owned(),
            "addAction(AndRule({QTypeRule(DNSQType.ANY), TCPRule(false)}), TCAction())".to_owned(),
        ),
    ] {
        let rule = |text: &str| {
            let (_, compiled) = good(text);
            let rule = &compiled.snapshot.chains.query.rules()[0];
            format!("{:?} {:?}", rule.matcher, rule.action)
        };
        assert_eq!(rule(&older), rule(&today), "{older}");
    }
}

#[test]
fn hidden_files_of_a_directory_are_not_read() {
    let directory = std::env::temp_dir().join(format!("dnslob-hidden-{}", std::process::id()));
    std::fs::create_dir_all(directory.join("sub.conf")).expect("a directory");
    std::fs::write(directory.join("a.conf"), "newServer('192.0.2.1')").expect("a file");
    std::fs::write(directory.join(".b.conf"), "newServer('192.0.2.2')").expect("a file");
    // An editor's lock is a link to nowhere.
    let _ = std::os::unix::fs::symlink("user@host.1234", directory.join(".#a.conf"));
    let snapshot = snapshot(&format!("includeDirectory('{}')", directory.display()));
    std::fs::remove_dir_all(&directory).expect("removed");
    assert_eq!(snapshot.backends.iter().flatten().count(), 1);
}

#[test]
fn a_server_that_is_a_listener_of_the_process_is_refused() {
    for (text, want) in [
        (
            "addLocal('127.0.0.1:5353')\nnewServer('127.0.0.1:5353')",
            "FILE:2: newServer: address is \"127.0.0.1:5353\"; expected another address than that of the listener \
             127.0.0.1:5353 at FILE:1, or queries would come back for ever",
        ),
        (
            "addLocal('0.0.0.0:5353')\nnewServer('127.0.0.9:5353')",
            "FILE:2: newServer: address is \"127.0.0.9:5353\"",
        ),
        ("addLocal('[::]:5353')\nnewServer('[::1]:5353')", "FILE:2: newServer: address is \"[::1]:5353\""),
        (
            "addLocal('127.0.0.1:5353')\nnewServer{address='127.0.0.1:5353', tcpOnly=true}",
            "FILE:2: newServer: address is \"127.0.0.1:5353\"",
        ),
        (
            "addLocal('127.0.0.1:5353', {doTCP=false})\nnewServer('127.0.0.1:5353')",
            "FILE:2: newServer: address is \"127.0.0.1:5353\"",
        ),
        (
            "newServer('127.0.0.1')",
            "FILE:1: newServer: address is \"127.0.0.1:53\"; expected another address",
        ),
        (
            "addLocal('127.0.0.1:5353')\nnewServer('0.0.0.0:5353')",
            "FILE:2: newServer: address is \"0.0.0.0:5353\"",
        ),
        ("addLocal('[::]:5353')\nnewServer('[::]:5353')", "FILE:2: newServer: address is \"[::]:5353\""),
        ("addLocal('[::1]:5353')\nnewServer('[::]:5353')", "FILE:2: newServer: address is \"[::]:5353\""),
        (
            "addLocal('127.0.0.1:5353')\naddAction(AllRule(), ContinueAction(TeeAction('127.0.0.1:5353')))",
            "FILE:2: TeeAction: the server is \"127.0.0.1:5353\"; expected another address than that of the listener \
             127.0.0.1:5353 at FILE:1, or queries would come back for ever",
        ),
        (
            "addLocal('127.0.0.1:5353') newServer('127.0.0.1:5354')\n\
             addUDPForward{listen='127.0.0.1:5354', to={'192.0.2.1:53', '127.0.0.1:5355'}}\n\
             addTCPForward{listen='127.0.0.1:5354', to='192.0.2.1:53'}\n\
             addUDPForward{listen='127.0.0.1:5355', to='127.0.0.1:5353'}",
            "FILE:1: newServer: address is \"127.0.0.1:5354\"; expected another address than that of the relay at \
             FILE:2, which leads to the listener 127.0.0.1:5353 at FILE:1, or queries would come back for ever",
        ),
        (
            "addLocal('127.0.0.1:5353') addUDPForward{listen='127.0.0.1:5354', to='127.0.0.1:5353'}\n\
             addAction(AllRule(), TeeAction('127.0.0.1:5354'))",
            "FILE:2: TeeAction: the server is \"127.0.0.1:5354\"; expected another address than that of the relay at \
             FILE:1",
        ),
    ] {
        let errors = broken(text);
        assert!(errors.len() == 1 && errors[0].starts_with(want), "{text}\n{errors:#?}");
    }
    for text in [
        "addLocal('127.0.0.1:5353') newServer('127.0.0.1:5354')",
        "addLocal('0.0.0.0:5353') newServer('192.0.2.1:5353')",
        "addLocal('0.0.0.0:5353', {interface='eth0'}) newServer('127.0.0.1:5353')",
        "addLocal('[::]:5353') newServer('127.0.0.1:5353')",
        "addLocal('127.0.0.1:5353') local s = newServer('127.0.0.1:5353') rmServer(s)",
        "addLocal('127.0.0.1:5353') addAction(AllRule(), TeeAction('127.0.0.1:5354'))",
        "addLocal('127.0.0.1:5353') addUDPForward{listen='127.0.0.1:5354', to='127.0.0.1:5353'} newServer('127.0.0.2')",
        "addLocal('127.0.0.1:5353', {doTCP=false}) addTCPForward{listen='127.0.0.1:5354', to='127.0.0.1:5353'} \
         newServer('127.0.0.1:5354')",
        "addLocal('127.0.0.2:5353') newServer('0.0.0.0:5353')",
        "addLocal('0.0.0.0:5353', {doTCP=false}) newServer{address='127.0.0.9:5353', tcpOnly=true}",
    ] {
        good(text);
    }
}

#[test]
fn listeners_may_precede_their_addresses() {
    let made = snapshot(
        "addLocal('192.0.2.55', {freebind=true}) addTCPForward{listen='192.0.2.55:25', to='192.0.2.1:25', freebind=true}",
    );
    assert!(made.listeners.len() == 2 && made.listeners.iter().all(|l| l.freebind));
    assert!(!snapshot("addLocal('192.0.2.55')").listeners[0].freebind);
}

#[test]
fn exit_codes_of_programs_can_be_those_of_relayd() {
    assert!(server("checkScript='/bin/check', checkScriptExit='relayd'").health.relayd_exit);
    assert!(!server("checkScript='/bin/check', checkScriptExit='monitoring'").health.relayd_exit);
    assert_eq!(
        broken("newServer{address='192.0.2.1', checkScriptExit='nagios'}"),
        ["FILE:1: newServer: checkScriptExit is \"nagios\"; expected \"monitoring\" or \"relayd\""]
    );
}

#[test]
fn a_source_with_a_zone_is_its_address_on_that_interface() {
    for source in ["fe80::3%lo", "fe80::3@lo"] {
        let made = snapshot(&format!("newServer{{address='2001:db8::1', source='{source}'}}"));
        let made = only(&made);
        assert_eq!(made.source, Some("fe80::3".parse().expect("an address")), "{source}");
        assert_eq!(made.source_interface.as_deref(), Some("lo"), "{source}");
    }
}

#[test]
fn names_that_are_no_names_are_refused_with_the_reason() {
    for (name, reason) in [
        ("a b.example", "without spaces"),
        ("b\u{fc}cher.example", "in ASCII; an international one"),
        ("b\\xfccher.example", "in ASCII; an international one"),
        ("a..example", "without an empty label"),
    ] {
        for text in [
            format!("addAction(QNameRule('{name}'), DropAction())"),
            format!("addAction('{name}', DropAction())"),
            format!("newSuffixMatchNode():add('{name}')"),
            format!("addAction(AllRule(), SpoofCNAMEAction('{name}'))"),
        ] {
            let errors = broken(&text);
            let want = format!("expected a domain name {reason}");
            assert!(errors.len() == 1 && errors[0].contains(&want), "{text}\n{errors:#?}");
        }
    }
}

#[test]
fn link_local_addresses_have_a_zone() {
    let made = snapshot("addLocal('[fe80::1%lo]:5353') newServer('fe80::2%lo')");
    let zone = |address: std::net::SocketAddr| match address {
        std::net::SocketAddr::V6(v6) => v6.scope_id(),
        std::net::SocketAddr::V4(_) => 0,
    };
    let loopback = nix::net::if_::if_nametoindex("lo").expect("the loopback interface");
    assert_eq!((zone(made.listeners[0].address), zone(only(&made).address)), (loopback, loopback));
    assert_eq!((made.listeners[0].address.port(), only(&made).address.port()), (5353, 53));
    let relay = snapshot("addTCPForward{listen='[fe80::1%lo]:25', to='[fe80::2%lo]:25'}");
    assert_eq!((zone(relay.listeners[0].address), zone(only(&relay).address)), (loopback, loopback));
    for (text, want) in [
        ("addLocal('[fe80::1]:5353')", "a zone too for a link-local address"),
        ("newServer('fe80::1')", "a zone too for a link-local address"),
        ("addTCPForward{listen='[fe80::1]:25', to='192.0.2.1:25'}", "a zone too for a link-local address"),
        ("addUDPForward{listen='127.0.0.1:25', to='[fe80::1]:25'}", "a zone too for a link-local address"),
        (
            "setWebserverConfig{password='x'} webserver('[fe80::1]:8083')",
            "a zone too for a link-local address",
        ),
        ("carbonServer('[fe80::1]:2003')", "a zone too for a link-local address"),
        ("carbonServer('fe80::1')", "a zone too for a link-local address"),
        ("carbonServer('here')", "IP or IP:PORT"),
        ("newServer('fe80::1%nope0')", "a zone that is the name or number of a network interface"),
    ] {
        let errors = broken(text);
        assert!(errors.len() == 1 && errors[0].contains(want), "{text}\n{errors:#?}");
    }
}

#[test]
fn an_exception_of_an_acl_is_what_the_documents_say() {
    for text in [
        "setACL({'127.0.0.0/8', '192.0.2.0/24', '!192.0.2.7'})",
        "addACL('!10.1.0.0/16')",
        "setProxyProtocolACL({'10.0.0.0/8', '!10.1.0.0/16'})",
        "controlSocket('127.0.0.1:5199') setKey('MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=') setConsoleACL({'127.0.0.0/8', '!127.0.0.2'})",
    ] {
        let (loaded, _) = good(&format!("setStrict(true) {text}"));
        assert!(loaded.draft.warnings.clone().into_list().is_empty(), "{text}");
    }
}
