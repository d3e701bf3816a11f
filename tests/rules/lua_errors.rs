//! Tests what becomes of messages on which a Lua function fails.

use crate::bench::{Row, play_all};

const ROWS: &[Row] = &[
    (
        "an action fails: SERVFAIL, of either interface, inside ContinueAction, and after a wrong decision",
        r#"addAction("a", LuaAction(function(dq) error("x") end))
           addAction("b", LuaFFIAction(function(dq) error("x") end))
           addAction("c", ContinueAction(LuaAction(function(dq) return dq["none"..""] end)))
           addAction("d", LuaAction(function(dq) return "no decision" end))
           addAction("e", SetNoRecurseAction()) addAction("e", LuaAction(function(dq) error({}) end))"#,
        "q 1234 RD a/A OPT=4096,DO,10:0011223344556677
         < 1234 QR RD SERVFAIL a/A OPT=1232,DO
         q 1234 b/A
         < 1234 QR SERVFAIL b/A
         q 1234 c/A
         < 1234 QR SERVFAIL c/A
         q 1234 d/A
         < 1234 QR SERVFAIL d/A
         q 1234 RD e/A
         < 1234 QR RD SERVFAIL e/A
         q 1234 f/A
         > 1 * f/A
         hits query 1 1 1 1 1 1",
    ),
    (
        "an answer of a function's own content: with our OPT record where the query has one",
        r#"local function answer(dq)
             local asked = dq:getContent()
             dq:setContent(asked:sub(1, 2) .. "\129\128\0\1\0\0\0\0\0\0" .. asked:sub(13, #dq.qname:toDNSString() + 16))
             return DNSAction.HeaderModify
           end
           addAction("a", LuaAction(answer)) addCacheMissAction("b", LuaAction(answer))
           getPool(""):setCache(newPacketCache(10))"#,
        "q 1234 RD a/A OPT=4096,DO
         < 1234 QR RD RA a/A OPT=1232,DO
         q 1234 RD a/A OPT=512,10:0011223344556677
         < 1234 QR RD RA a/A OPT=1232
         q 1234 RD a/A
         < 1234 QR RD RA a/A
         q 1234 RD b/A OPT=4096,DO
         < 1234 QR RD RA b/A OPT=1232,DO",
    ),
    (
        "and without one where answers of our own have none",
        r#"setAddEDNSToSelfGeneratedResponses(false)
           addAction("a", LuaAction(function(dq)
             local asked = dq:getContent()
             dq:setContent(asked:sub(1, 2) .. "\129\128\0\1\0\0\0\0\0\0" .. asked:sub(13, #dq.qname:toDNSString() + 16))
             return DNSAction.HeaderModify
           end))"#,
        "q 1234 RD a/A OPT=4096,DO
         < 1234 QR RD RA a/A",
    ),
    (
        "DNSAction.SpoofRaw and Spoof without an argument: the answer of dq:spoof, or an error",
        r#"local function spoofs(name, decision, ...)
             local made = {...}
             addAction(name, LuaAction(function(dq) if #made > 0 then dq:spoof(made) end return decision end))
           end
           spoofs("a", DNSAction.SpoofRaw, newCA("192.0.2.1"), newCA("192.0.2.2")) spoofs("b", DNSAction.SpoofRaw)
           spoofs("c", DNSAction.Spoof, newCA("192.0.2.1")) spoofs("d", DNSAction.Spoof)
           addAction("e", LuaAction(function(dq) return DNSAction.Spoof, "[2001:db8::1]:53" end))
           addAction("f", LuaAction(function(dq) return DNSAction.Spoof, "192.0.2.1:x" end))
           addAction("g", LuaAction(function(dq) return DNSAction.Spoof, "3221225985" end))"#,
        "q 1234 RD a/A
         < 1234 QR RD RA a/A A=192.0.2.1 A=192.0.2.2
         q 1234 RD b/A
         < 1234 QR RD SERVFAIL b/A
         q 1234 RD c/A
         < 1234 QR RD RA c/A A=192.0.2.1
         q 1234 RD d/A
         < 1234 QR RD SERVFAIL d/A
         q 1234 RD e/AAAA
         < 1234 QR RD RA e/AAAA AAAA=2001:db8::1
         q 1234 RD f/A
         < 1234 QR RD SERVFAIL f/A
         q 1234 RD g/A
         < 1234 QR RD RA g/A A=192.0.2.1",
    ),
    (
        "DNSAction.Spoof with a text that is neither addresses nor one name: an error, not a CNAME",
        r#"local function spoofs(name, text) addAction(name, LuaAction(function(dq) return DNSAction.Spoof, text end)) end
           spoofs("a", "192.0.2.1,192.0.2.2") spoofs("b", "192.0.2.1,x.example") spoofs("c", "two.example,one.example")
           spoofs("d", "a b") spoofs("e", "t\9ab.example") spoofs("f", "x.example") spoofs("g", "x.example ")
           setLuaErrorAction("servfail")"#,
        "q 1234 RD a/A
         < 1234 QR RD RA a/A A=192.0.2.1 A=192.0.2.2
         q 1234 RD b/A
         < 1234 QR RD SERVFAIL b/A
         q 1234 RD c/A
         < 1234 QR RD SERVFAIL c/A
         q 1234 RD d/A
         < 1234 QR RD SERVFAIL d/A
         q 1234 RD e/A
         < 1234 QR RD SERVFAIL e/A
         q 1234 RD f/A
         < 1234 QR RD RA f/A CNAME=x.example
         q 1234 RD g/A
         < 1234 QR RD SERVFAIL g/A",
    ),
    (
        "DNSAction.Refused and Nxdomain keep AA and AD that the function sets, not the client's AD",
        r#"addAction("a", LuaAction(function(dq) dq.dh:setAA(true) dq.dh:setAD(true) return DNSAction.Refused end))
           addAction("b", LuaAction(function(dq) dq.dh:setAD(true) return DNSAction.ServFail end))
           addAction("c", LuaAction(function(dq) return DNSAction.Nxdomain end))"#,
        "q 1234 a/A
         < 1234 QR AA AD REFUSED a/A
         q 1234 b/A
         < 1234 QR AD SERVFAIL b/A
         q 1234 AD c/A
         < 1234 QR NXDOMAIN c/A",
    ),
    (
        "tags and PROXY values that do not fit: SERVFAIL, since a later rule may block by them",
        r#"for n = 1, 65 do addAction("a", SetTagAction("t"..n, "1")) end
           addAction(TagRule("t65"), DropAction())
           for n = 1, 5 do addAction("b", SetTagAction("v"..n, ("x"):rep(1000))) end
           for n = 1, 64 do addAction("c", SetTagAction("t"..n, "1")) end
           addResponseAction("c", SetTagResponseAction("t65", "1"))
           for n = 1, 65 do addAction("d", SetAdditionalProxyProtocolValueAction(n, "1")) end"#,
        "q 1234 RD a/A
         < 1234 QR RD SERVFAIL a/A
         q 1234 RD b/A
         < 1234 QR RD SERVFAIL b/A
         q 1234 c/A
         > 1 * c/A
         a * QR c/A A=192.0.2.1
         < 1234 QR SERVFAIL c/A
         q 1234 RD d/A
         < 1234 QR RD SERVFAIL d/A",
    ),
    (
        "a selector fails: SERVFAIL, wherever it stands",
        r#"local function fails() error("x") end
           addAction(AndRule{QNameRule("a"), LuaRule(fails)}, DropAction())
           addAction(AndRule{QNameRule("b"), NotRule(LuaRule(fails))}, AllowAction())
           addAction(AndRule{QNameRule("c"), OrRule{LuaFFIRule(fails), AllRule()}}, AllowAction())
           addAction(AllRule(), NoneAction())"#,
        "q 1234 a/A
         < 1234 QR SERVFAIL a/A
         q 1234 b/A
         < 1234 QR SERVFAIL b/A
         q 1234 c/A
         < 1234 QR SERVFAIL c/A
         q 1234 d/A
         > 1 * d/A",
    ),
    (
        "functions of responses and of answers of dnslob fail: SERVFAIL without records",
        r#"local function fails() error("x") end
           addResponseAction("a", LuaResponseAction(fails)) addResponseAction("b", LuaFFIResponseAction(fails))
           addResponseAction(AndRule{QNameRule("c"), LuaRule(fails)}, DropResponseAction())
           addAction("d", SpoofAction("192.0.2.1")) addSelfAnsweredResponseAction("d", LuaResponseAction(fails))"#,
        "q 1234 RD a/A OPT=4096
         > 1 * RD a/A OPT=4096
         a * QR AA RD RA a/A A=192.0.2.1 OPT=1400
         < 1234 QR RD RA SERVFAIL a/A OPT=1232
         q 1234 b/A
         > 1 * b/A
         a * QR b/A A=192.0.2.1
         < 1234 QR SERVFAIL b/A
         q 1234 c/A
         > 1 * c/A
         a * QR NXDOMAIN c/A
         < 1234 QR SERVFAIL c/A
         q 1234 d/A
         < 1234 QR SERVFAIL d/A
         q 1234 e/A
         > 1 * e/A
         a * QR e/A A=192.0.2.1
         < 1234 QR e/A A=192.0.2.1",
    ),
    (
        "a function of a query without a response fails: SERVFAIL, in answer to what the client has asked",
        r#"addAction("b", LuaAction(function(dq) dq:changeName(newDNSName("c")) return DNSAction.None end))
           addAction("d", SetNoRecurseAction())
           addTimeoutResponseAction(AllRule(), LuaResponseAction(function() error("x") end))
           addSelfAnsweredResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(22))"#,
        "q 1234 RD a/A
         > 1 * RD a/A
         wait 2010
         < 1234 QR RD SERVFAIL a/A
         q 1234 RD b/A OPT=4096,DO
         > 1 * RD c/A OPT=4096,DO
         wait 2010
         < 1234 QR RD SERVFAIL b/A OPT=1232,DO,15:0016
         q 1234 RD CD d/A
         > 1 * CD d/A
         wait 2010
         < 1234 QR RD CD SERVFAIL d/A",
    ),
    (
        "a selector of a query without a response fails: SERVFAIL",
        r#"addTimeoutResponseAction(LuaRule(function() error("x") end), RestartResponseAction("two"))"#,
        "q 1234 a/A
         > 1 * a/A
         wait 2010
         < 1234 QR SERVFAIL a/A",
    ),
    (
        r#"setLuaErrorAction("ignore"): the rule has not matched"#,
        r#"setLuaErrorAction("ignore")
           local function fails() error("x") end
           addAction("a", LuaAction(fails)) addAction(LuaRule(fails), DropAction())
           addResponseAction(AllRule(), LuaResponseAction(fails))"#,
        "q 1234 a/A
         > 1 * a/A
         a * QR a/A A=192.0.2.1
         < 1234 QR a/A A=192.0.2.1",
    ),
    (
        r#"setLuaErrorAction("ignore"): nor where the failing selector is negated or beside another"#,
        r#"setLuaErrorAction("ignore")
           local fails = LuaRule(function() error("x") end)
           addAction(NotRule(fails), DropAction())
           addAction(OrRule{fails, QNameRule("b")}, DropAction())
           addAction(AndRule{QNameRule("c"), NotRule(fails)}, RCodeAction(5))
           addResponseAction(NotRule(fails), DropResponseAction())"#,
        "q 1234 c/A
         > 1 * c/A
         a * QR c/A A=192.0.2.1
         < 1234 QR c/A A=192.0.2.1",
    ),
];

#[test]
fn failing_functions() {
    play_all(ROWS);
}
