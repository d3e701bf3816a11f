//! Tests response actions, and settings that apply to every answer.

use crate::bench::{Row, play_all};

const ROWS: &[Row] = &[
    (
        "AllowResponseAction: ends the chain",
        "addResponseAction('a', AllowResponseAction()) addResponseAction(AllRule(), DropResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         < 0001 QR a/A
         q 1 b/A
         > 1 * b/A
         a * QR b/A
         ! response-rule
         hits response 1 1",
    ),
    (
        "DropResponseAction: the query is finished",
        "addResponseAction(AllRule(), DropResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         ! response-rule
         a * QR a/A
         ! response-duplicate
         wait 5000",
    ),
    (
        "TCResponseAction: TC=1, records removed, the OPT record stays",
        "addResponseAction(QTypeRule('ANY'), TCResponseAction())",
        "q 1 RD a/ANY OPT=4096
         > 1 * RD a/ANY OPT=4096
         a * QR RD RA a/ANY A=192.0.2.1 AAAA=::1 RR=2,a,NS,5,00 OPT=1232,DO
         < 0001 QR TC RD RA a/ANY OPT=1232,DO
         q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1
         < 0001 QR a/A A=192.0.2.1",
    ),
    (
        "TCResponseAction: nothing over a connection, in any chain",
        "setLocal('127.0.0.1:5300') setTCPToUDP(true) addResponseAction(AllRule(), TCResponseAction())
         addSelfAnsweredResponseAction(AllRule(), TCResponseAction()) addAction('b', SpoofAction('192.0.2.9'))",
        "stream
         q 1 RD a/A
         > 1 * RD a/A
         a * QR RD RA a/A A=192.0.2.1
         < 0001 QR RD RA a/A A=192.0.2.1
         q 2 RD b/A
         < 0002 QR RD RA b/A A=192.0.2.9",
    ),
    (
        "DNSResponseAction.Truncate: UDP only; the next rule follows over a connection",
        "setLocal('127.0.0.1:5300') setTCPToUDP(true)
         addResponseAction('a', LuaResponseAction(function(dr) return DNSResponseAction.Truncate end))
         addResponseAction(AllRule(), SetMaxTTLResponseAction(5))",
        "q 1 RD a/A
         > 1 * RD a/A
         a * QR RD RA a/A A=192.0.2.1
         < 0001 QR TC RD RA a/A
         stream
         q 1 RD a/A
         > 1 * RD a/A
         a * QR RD RA a/A A=192.0.2.1
         < 0001 QR RD RA a/A A=192.0.2.1,5",
    ),
    (
        "DelayResponseAction",
        "addResponseAction('a', DelayResponseAction(30))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1
         hold
         q 2 b/A
         > 1 * b/A
         a * QR b/A
         < 0002 QR b/A
         wait 29
         wait 1
         < 0001 QR a/A A=192.0.2.1",
    ),
    (
        "LimitTTLResponseAction: at least and at most",
        "addResponseAction(AllRule(), LimitTTLResponseAction(60, 3600))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A CNAME=b,5 RR=1,b,A,86400,c0000201 RR=2,a,NS,600,00 RR=3,x,A,0,01020304 OPT=1232
         < 0001 QR a/A CNAME=b,60 RR=1,b,A,3600,c0000201 RR=2,a,NS,600,00 RR=3,x,A,60,01020304 OPT=1232",
    ),
    (
        "LimitTTLResponseAction: only at least; only some types",
        "addResponseAction('a', LimitTTLResponseAction(60)) addResponseAction('b', LimitTTLResponseAction(60, 70, {DNSQType.AAAA, DNSQType.MX}))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1,5 A=192.0.2.1,4000000
         < 0001 QR a/A A=192.0.2.1,60 A=192.0.2.1,4000000
         q 1 b/A
         > 1 * b/A
         a * QR b/A A=192.0.2.1,5 AAAA=::1,5 AAAA=::2,500
         < 0001 QR b/A A=192.0.2.1,5 AAAA=::1,60 AAAA=::2,70",
    ),
    (
        "SetMinTTLResponseAction",
        "addResponseAction(AllRule(), SetMinTTLResponseAction(60))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1,5 A=192.0.2.2,61 OPT=1232,DO
         < 0001 QR a/A A=192.0.2.1,60 A=192.0.2.2,61 OPT=1232,DO",
    ),
    (
        "SetMaxTTLResponseAction",
        "addResponseAction(AllRule(), SetMaxTTLResponseAction(60))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1,5 A=192.0.2.2,61 OPT=1232,DO
         < 0001 QR a/A A=192.0.2.1,5 A=192.0.2.2,60 OPT=1232,DO",
    ),
    (
        "SetReducedTTLResponseAction: percent",
        "addResponseAction('a', SetReducedTTLResponseAction(50)) addResponseAction('b', SetReducedTTLResponseAction(0))
         addResponseAction('c', SetReducedTTLResponseAction(100))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1,5 A=192.0.2.2,4000000000
         < 0001 QR a/A A=192.0.2.1,2 A=192.0.2.2,2000000000
         q 1 b/A
         > 1 * b/A
         a * QR b/A A=192.0.2.1,5
         < 0001 QR b/A A=192.0.2.1,0
         q 1 c/A
         > 1 * c/A
         a * QR c/A A=192.0.2.1,5
         < 0001 QR c/A A=192.0.2.1,5",
    ),
    (
        "SetMaxReturnedTTLResponseAction",
        "addResponseAction(AllRule(), SetMaxReturnedTTLResponseAction(9))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1,5 RR=3,x,A,10,01020304
         < 0001 QR a/A A=192.0.2.1,5 RR=3,x,A,9,01020304",
    ),
    (
        "ClearRecordTypesResponseAction: of every section",
        "addResponseAction('a', ClearRecordTypesResponseAction(DNSQType.AAAA)) addResponseAction('b', ClearRecordTypesResponseAction({DNSQType.A, DNSQType.NS}))",
        "q 1 a/ANY OPT=512
         > 1 * a/ANY OPT=512
         a * QR a/ANY A=192.0.2.1 AAAA=::1 A=192.0.2.2 RR=3,x.y,AAAA,1,00000000000000000000000000000001 OPT=1232
         < 0001 QR a/ANY A=192.0.2.1 A=192.0.2.2 OPT=1232
         q 1 b/A
         > 1 * b/A
         a * QR b/A CNAME=c RR=1,c,A,1,01020304 RR=2,c,NS,1,00
         < 0001 QR b/A CNAME=c",
    ),
    (
        "SetSkipCacheResponseAction: continues with the next rule",
        "addResponseAction(AllRule(), SetSkipCacheResponseAction()) addResponseAction(AllRule(), DropResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         ! response-rule
         hits response 1 1",
    ),
    (
        "SetTagResponseAction and UnsetTagResponseAction",
        "addAction(AllRule(), SetTagAction('q', '1')) addResponseAction('a', SetTagResponseAction('r', '1'))
         addResponseAction('b', UnsetTagResponseAction('q')) addResponseAction(AndRule{TagRule('q'), TagRule('r', '1')}, DropResponseAction())
         addResponseAction(NotRule(TagRule('q')), TCResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         ! response-rule
         q 1 b/A
         > 1 * b/A
         a * QR b/A
         < 0001 QR TC b/A
         q 1 c/A
         > 1 * c/A
         a * QR c/A
         < 0001 QR c/A",
    ),
    (
        "RestartResponseAction: retried in another pool, once by default",
        "addResponseAction(RCodeRule(DNSRCode.SERVFAIL), RestartResponseAction('two'))",
        "q 1234 RD a/A OPT=512
         > 1 * RD a/A OPT=512
         a * QR RD SERVFAIL a/A
         > 2 * RD a/A OPT=512
         a * QR RD RA a/A A=192.0.2.1
         < 1234 QR RD RA a/A A=192.0.2.1
         q 1234 RD a/A
         > 1 * RD a/A
         a * QR RD SERVFAIL a/A
         > 2 * RD a/A
         a * QR RD SERVFAIL a/A
         < 1234 QR RD SERVFAIL a/A
         hits response 3",
    ),
    (
        "RestartResponseAction: twice",
        "addResponseAction(AllRule(), RestartResponseAction('two', 2)) addResponseAction(AllRule(), TCResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         > 2 * a/A
         a * QR a/A
         > 2 * a/A
         a * QR a/A
         < 0001 QR TC a/A",
    ),
    (
        "RestartResponseAction: changes to the query are kept, and undone for the client",
        "addAction(AllRule(), SetNoRecurseAction()) addAction(AllRule(), SetTagAction('t', '1'))
         addResponseAction(AndRule{TagRule('t'), RCodeRule(5)}, RestartResponseAction('two'))",
        "q 1234 RD a/A
         > 1 * a/A
         a * QR REFUSED a/A
         > 2 * a/A
         a * QR RA a/A
         < 1234 QR RD RA a/A",
    ),
    (
        "RestartResponseAction: into a pool without a server",
        "addResponseAction(AllRule(), RestartResponseAction('none'))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         ! no-server",
    ),
    (
        "RestartResponseAction: a timeout of the other server is final",
        "addResponseAction(AllRule(), RestartResponseAction('two'))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         > 2 * a/A
         wait 1000
         wait 1010
         ! timeout
         a2 * QR a/A
         ! response-late",
    ),
    (
        "LogResponseAction: continues with the next rule",
        "addResponseAction(AllRule(), LogResponseAction('')) addResponseAction(AllRule(), DropResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A
         ! response-rule",
    ),
    (
        "truncateTC: removes the records of a truncated answer except OPT",
        "truncateTC(true)",
        "q 1 a/A OPT=512
         > 1 * a/A OPT=512
         a * QR TC a/A A=192.0.2.1 RR=3,x,A,1,01020304 OPT=1232,DO
         < 0001 QR TC a/A OPT=1232,DO
         q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1
         < 0001 QR a/A A=192.0.2.1",
    ),
    (
        "fixupCase: the question in the letter case of the client",
        "fixupCase(true)",
        "q 1 wWw.A/A
         > 1 * wWw.A/A
         a * QR www.a/A A=192.0.2.1
         < 0001 QR wWw.A/A A=192.0.2.1
         q 1 a/A
         > 1 * a/A
         a * QR REFUSED
         < 0001 QR REFUSED",
    ),
    (
        "setAllowEmptyResponse: also with rules",
        "setAllowEmptyResponse(true) addAction(AllRule(), SetTagAction('a', 'b')) addResponseAction(AllRule(), SetMaxTTLResponseAction(3))",
        "q 1 a/A
         > 1 * a/A
         a * QR NXDOMAIN
         < 0001 QR NXDOMAIN",
    ),
    (
        "ClearRecordTypesResponseAction: what cannot be rewritten is dropped",
        "addResponseAction(AllRule(), ClearRecordTypesResponseAction(DNSQType.AAAA))",
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1 AAAA=::1 CUT=50
         ! answer-not-edited",
    ),
    (
        "changeName: an answer whose name cannot be restored is dropped",
        "addAction(AllRule(), LuaAction(function(dq) dq:changeName(newDNSName('inside')) return DNSAction.None end))",
        "q 1 a/A
         > 1 * inside/A
         a * QR inside/A A=192.0.2.1
         < 0001 QR a/A A=192.0.2.1
         q 1 a/A
         > 1 * inside/A
         a * QR REFUSED
         < 0001 QR REFUSED
         q 1 a/A
         > 1 * inside/A
         a * QR inside/A A=192.0.2.1 CUT=36
         ! answer-not-edited",
    ),
    (
        "changeName of an answer that cannot be renamed: it is dropped, whatever the function returns",
        r#"local long = newDNSName(("l"):rep(60)..".a")
           local function fill(dr) local n = 4096 while not dr:setTrailingData(("x"):rep(n)) do n = n - 1 end end
           addResponseAction("a", LuaResponseAction(function(dr)
             fill(dr) assert(dr:changeName(long) == false) return DNSResponseAction.Allow end))
           addResponseAction("b", LuaFFIResponseAction(function(dr)
             local raw = "\60"..("l"):rep(60).."\0"
             assert(require("ffi").C.dnsdist_ffi_dnsresponse_rebase(dr, raw, #raw) == false) return 0 end))
           addResponseAction("d", LuaResponseAction(function(dr)
             fill(dr) dr:changeName(long) dr:setTrailingData("") dr:changeName(long) return DNSResponseAction.Allow end))
           addResponseAction("e", LuaResponseAction(function(dr) fill(dr) dr:changeName(long) error("x") end))"#,
        "q 1 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1
         ! answer-not-edited
         q 1 b/A
         > 1 * b/A
         a * QR b/A A=192.0.2.1 CUT=30
         ! answer-not-edited
         q 1 d/A
         > 1 * d/A
         a * QR d/A A=192.0.2.1
         < 0001 QR llllllllllllllllllllllllllllllllllllllllllllllllllllllllllll.a/A A=192.0.2.1
         q 1 e/A
         > 1 * e/A
         a * QR e/A A=192.0.2.1
         < 0001 QR SERVFAIL e/A",
    ),
    (
        "invalid answers are dropped with rules, too",
        "addResponseAction(AllRule(), TCResponseAction())",
        "q 1 a/A
         > 1 * a/A
         a * QR
         ! response-empty
         a * QR b/A
         ! response-mismatch
         a * a/A
         ! response-not-response
         a * QR REFUSED
         < 0001 QR TC REFUSED",
    ),
];

#[test]
fn responses() {
    play_all(ROWS);
}
