//! Tests that nothing of a signed message is edited but the id (RFC 8945, 5.5).

use crate::bench::{Bench, Row, play_all};

const TSIG: &str = "RR=3,k,250,0,6d6163";
const SIG_0: &str = "RR=3,k,24,0,000005010000";
/// A signature of records of type A, which is none of the message.
const SIG_A: &str = "RR=3,k,24,0,000105010000";

/// Everything that edits queries.
const QUERIES: &str = r#"
    addAction(AllRule(), SetNoRecurseAction()) addAction(AllRule(), SetDisableValidationAction())
    addAction(AllRule(), SetEDNSOptionAction(65001, "x")) addAction(AllRule(), SetEDNSOptionAction(8, "\000\001\008\000\010"))
    addAction(AllRule(), TeeAction("127.0.1.9", true))
    addAction(AllRule(), LuaAction(function(dq)
      dq:changeName(newDNSName("other.")) dq.dh:setAD(true) dq:setTrailingData("x") return DNSAction.None end))"#;

/// Everything that edits responses.
const RESPONSES: &str = r#"truncateTC(true) fixupCase(true)
    addAction(AllRule(), SetExtendedDNSErrorAction(15)) addAction(AllRule(), SetMaxReturnedTTLAction(5))
    addResponseAction(AllRule(), LimitTTLResponseAction(1, 7))
    addResponseAction(AllRule(), ClearRecordTypesResponseAction(DNSQType.A))
    addResponseAction(AllRule(), SetEDNSOptionResponseAction(65001, "x"))
    addResponseAction(AllRule(), LuaResponseAction(function(dr)
      dr:editTTLs(function() return 9 end) dr.dh:setAA(true) dr:setContent(dr:getContent() .. "x")
      return DNSResponseAction.None end))"#;

const SERVER: &str =
    "newServer{address='127.0.1.4', order=0, useClientSubnet=true} setServerPolicy(firstAvailable) ";

#[test]
fn only_the_id_of_a_signed_message_changes() {
    for signature in [TSIG, SIG_0] {
        for options in ["OPT=4096,DO", "OPT=4096,8:00011800cb0071", ""] {
            let mut bench = Bench::new(&format!("{SERVER} setECSOverride(true) {QUERIES} {RESPONSES}"));
            bench.play(
                signature,
                &format!(
                    "q 1234 RD a/A {options} {signature}
                     > 4 * RD a/A {options} {signature}
                     a * QR TC A/A A=192.0.2.1,60 {options} {signature}
                     < 1234 QR TC A/A A=192.0.2.1,60 {options} {signature}
                     wait 0
                     > 9 * RD a/A {options} {signature}"
                ),
            );
        }
    }
}

#[test]
fn other_messages_are_edited() {
    let mut bench = Bench::new(&format!("{SERVER} addAction(AllRule(), SetNoRecurseAction())"));
    bench.play(
        "a signature of some records",
        &format!("q 1234 RD a/A {SIG_A}\n > 4 * a/A {SIG_A} OPT=1232,8:000118007f0000\n a * QR a/A\n < 1234 QR RD a/A"),
    );
}

#[test]
fn connections_leave_signed_messages_alone_too() {
    let mut bench = Bench::new("newServer('127.0.1.1') setLocal('127.0.0.1:5300') setTCPToUDP(true)");
    let message = format!("a/A OPT=4096,11: {TSIG}");
    bench.play(
        "keepalive",
        &format!(
            "stream
             q 1234 RD {message}
             > 1 * RD {message}
             a * QR RD {message}
             < 1234 QR RD {message}
             q 1234 RD a/A OPT=4096,11:
             > 1 * RD a/A OPT=4096
             a * QR RD a/A OPT=4096
             < 1234 QR RD a/A OPT=4096,11:0064"
        ),
    );
}

const OWN: &[Row] = &[(
    "an answer of our own is not signed",
    r#"addAction("a", RCodeAction(5))
       addAction("b", LuaAction(function(dq) dq.dh:setQR(true) return DNSAction.HeaderModify end))
       addAction("c", LuaAction(function(dq) dq:spoof(newCA("192.0.2.1")) return DNSAction.HeaderModify end))"#,
    "q 1234 a/A OPT=4096,10:0011223344556677 RR=3,k,250,0,6d6163
     < 1234 QR REFUSED a/A OPT=1232
     q 1234 b/A OPT=4096,10:0011223344556677 RR=3,k,250,0,6d6163
     < 1234 QR b/A OPT=1232
     q 1234 c/A RR=3,k,250,0,6d6163
     < 1234 QR c/A A=192.0.2.1",
)];

#[test]
fn answers_of_our_own_are_not_signed() {
    play_all(OWN);
}

const BLOCKED: &[Row] = &[(
    "a response rule that blocks replaces a signed response by an answer of our own",
    r#"newServer("127.0.1.1")
       addResponseAction("a", LuaResponseAction(function(dr) return DNSResponseAction.ServFail end))
       addResponseAction("b", TCResponseAction())
       addResponseAction("c", LuaResponseAction(function(dr) return DNSResponseAction.Truncate end))"#,
    "q 1234 RD a/A RR=3,k,250,0,6d6163
     > 1 * RD a/A RR=3,k,250,0,6d6163
     a * QR RD RA a/A A=192.0.2.1 RR=3,k,250,0,6d6163
     < 1234 QR RD RA SERVFAIL a/A
     q 1234 RD b/A RR=3,k,250,0,6d6163
     > 1 * RD b/A RR=3,k,250,0,6d6163
     a * QR RD RA b/A A=192.0.2.1 RR=3,k,250,0,6d6163
     < 1234 QR TC RD RA b/A
     q 1234 RD c/A RR=3,k,250,0,6d6163
     > 1 * RD c/A RR=3,k,250,0,6d6163
     a * QR RD RA c/A A=192.0.2.1 RR=3,k,250,0,6d6163
     < 1234 QR TC RD RA c/A",
)];

#[test]
fn response_rules_block_signed_responses() {
    play_all(BLOCKED);
}
