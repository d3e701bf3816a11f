//! Tests EDNS in both directions: client subnets, options and Extended DNS Errors.

use crate::bench::{Bench, Row, play_all};

/// The server of the second pool requests the client subnet.
const ECS: &str = r#"newServer{address="127.0.1.3", pool="three", useClientSubnet=true}
    setACL("0.0.0.0/0") addACL("::/0") "#;

const SUBNETS: &[Row] = &[
    (
        "useClientSubnet: a client without EDNS gets an answer without EDNS",
        "addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 RD a/A
         > 3 * RD a/A OPT=1232,8:00011800c00002
         a * QR RD RA a/A A=192.0.2.1 OPT=1232,8:00011810c00002
         < 1234 QR RD RA a/A A=192.0.2.1
         q 1234 RD a/A
         > 3 * RD a/A OPT=1232,8:00011800c00002
         a * QR RD RA a/A
         < 1234 QR RD RA a/A",
    ),
    (
        "useClientSubnet: a client with EDNS gets an OPT record without the subnet",
        "addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,DO,10:0102030405060708
         > 3 * a/A OPT=4096,DO,10:0102030405060708,8:00011800c00002
         a * QR a/A A=192.0.2.1 OPT=1232,DO,10:0102030405060708,8:00011810c00002
         < 1234 QR a/A A=192.0.2.1 OPT=1232,DO,10:0102030405060708",
    ),
    (
        "useClientSubnet: IPv6",
        "addAction(AllRule(), PoolAction('three'))",
        "from [2001:db8:1:2ff::9]:1
         q 1234 a/A
         > 3 * a/A OPT=1232,8:0002380020010db8000102",
    ),
    (
        "useClientSubnet: a subnet in the query is kept, and so is the one in the answer",
        "addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:00011000c633
         > 3 * a/A OPT=4096,8:00011000c633
         a * QR a/A OPT=1232,8:00011010c633
         < 1234 QR a/A OPT=1232,8:00011010c633",
    ),
    (
        "without rules: only servers configured for it get a subnet",
        "newServer('127.0.1.4') getServer(0):rmPool('')",
        "from 192.0.2.77:1
         q 1234 a/A
         > 4 * a/A
         a * QR a/A OPT=1232
         < 1234 QR a/A OPT=1232",
    ),
    (
        "setECSOverride: replaced",
        "setECSOverride(true) setECSSourcePrefixV4(16) addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:00011000c633
         > 3 * a/A OPT=4096,8:00011000c000",
    ),
    (
        "the answer has the client's own subnet, whatever the server got; an answer without one has none",
        "setECSOverride(true) addAction('b', SetECSAction('198.51.100.0/24'))
         addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:00011800cb0071
         > 3 * a/A OPT=4096,8:00011800c00002
         a * QR a/A A=192.0.2.1 OPT=1232,8:00011818c00002
         < 1234 QR a/A A=192.0.2.1 OPT=1232,8:00011800cb0071
         q 1234 b/A OPT=4096,8:00011800cb0071
         > 3 * b/A OPT=4096,8:00011800c63364
         a * QR b/A OPT=1232,8:00011810c63364,3:
         < 1234 QR b/A OPT=1232,3:,8:00011800cb0071
         q 1234 b/A OPT=4096,8:00011800cb0071
         > 3 * b/A OPT=4096,8:00011800c63364
         a * QR b/A OPT=1232
         < 1234 QR b/A OPT=1232
         q 1234 b/A OPT=4096,8:00011800cb0071
         > 3 * b/A OPT=4096,8:00011800c63364
         a * QR SERVFAIL b/A
         < 1234 QR SERVFAIL b/A",
    ),
    (
        "SetEDNSOptionAction of a subnet: the answer has the client's own, or none",
        "addAction(AllRule(), SetEDNSOptionAction(8, '\\000\\001\\008\\000\\010'))",
        "q 1234 a/A OPT=4096,8:00011800cb0071
         > 1 * a/A OPT=4096,8:000108000a
         a * QR a/A OPT=1232,8:000108080a
         < 1234 QR a/A OPT=1232,8:00011800cb0071
         q 1234 a/A OPT=4096
         > 1 * a/A OPT=4096,8:000108000a
         a * QR a/A OPT=1232,8:000108080a
         < 1234 QR a/A OPT=1232",
    ),
    (
        "a query that asks for no subnet is passed on as it is, unless that is overridden; its answer says the same",
        "addAction('b', SetECSOverrideAction(true)) addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:00000000
         > 3 * a/A OPT=4096,8:00000000
         a * QR a/A OPT=1232,8:00000000
         < 1234 QR a/A OPT=1232,8:00000000
         q 1234 a/A OPT=4096,8:00020000
         > 3 * a/A OPT=4096,8:00020000
         a * QR a/A OPT=1232
         < 1234 QR a/A OPT=1232
         q 1234 b/A OPT=4096,8:00000000
         > 3 * b/A OPT=4096,8:00011800c00002
         a * QR b/A OPT=1232,8:00011818c00002
         < 1234 QR b/A OPT=1232,8:00000000
         q 1234 b/A OPT=4096,8:00020000
         > 3 * b/A OPT=4096,8:00011800c00002
         a * QR b/A OPT=1232,8:00011818c00002
         < 1234 QR b/A OPT=1232,8:00020000",
    ),
    (
        "an option without its fixed part: the answer has the client's own",
        "addAction('b', SetEDNSOptionAction(8, '\\000\\001\\008\\000\\010')) setECSOverride(true)
         addAction(AllRule(), PoolAction('three')) addResponseAction(RCodeRule(2), RestartResponseAction('two'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:
         > 3 * a/A OPT=4096,8:00011800c00002
         a * QR a/A OPT=1232,8:00011818c00002
         < 1234 QR a/A OPT=1232,8:
         q 1234 b/A OPT=4096,8:000118
         > 3 * b/A OPT=4096,8:00011800c00002
         a * QR b/A OPT=1232,8:00011818c00002,3:
         < 1234 QR b/A OPT=1232,3:,8:000118
         q 1234 a/A OPT=4096,8:
         > 3 * a/A OPT=4096,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232
         > 2 * a/A OPT=4096,8:
         a * QR FORMERR a/A OPT=1232
         < 1234 QR FORMERR a/A OPT=1232",
    ),
    (
        "a restart at a server without subnets repeats the client's own one",
        "setECSOverride(true) addAction(AllRule(), PoolAction('three'))
         addResponseAction(RCodeRule(2), RestartResponseAction('two'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:00011800cb0071
         > 3 * a/A OPT=4096,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232
         > 2 * a/A OPT=4096,8:00011800cb0071
         a * QR a/A OPT=1232,8:00011818cb0071
         < 1234 QR a/A OPT=1232,8:00011818cb0071",
    ),
    (
        "SetECSOverrideAction: on and off",
        "addAction('a', SetECSOverrideAction(true)) addAction('b', SetECSOverrideAction(false)) addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A OPT=4096,8:00011000c633
         > 3 * a/A OPT=4096,8:00011800c00002
         q 1234 b/A OPT=4096,8:00011000c633
         > 3 * b/A OPT=4096,8:00011000c633",
    ),
    (
        "setECSSourcePrefixV4 and V6",
        "setECSSourcePrefixV4(32) setECSSourcePrefixV6(128) addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A
         > 3 * a/A OPT=1232,8:00012000c000024d
         from [2001:db8::9]:1
         q 1234 a/A
         > 3 * a/A OPT=1232,8:0002800020010db8000000000000000000000009",
    ),
    (
        "SetECSPrefixLengthAction",
        "addAction(AllRule(), SetECSPrefixLengthAction(8, 33)) addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A
         > 3 * a/A OPT=1232,8:00010800c0
         from [2001:db8:ffff::9]:1
         q 1234 a/A
         > 3 * a/A OPT=1232,8:0002210020010db880",
    ),
    (
        "SetDisableECSAction",
        "addAction(AllRule(), SetDisableECSAction()) addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A
         > 3 * a/A
         q 1234 a/A OPT=512,8:00011000c633
         > 3 * a/A OPT=512,8:00011000c633",
    ),
    (
        "SetECSAction: a given subnet in place of the client subnet",
        "addAction('a', SetECSAction('203.0.113.0/25')) addAction('b', SetECSAction('203.0.113.0/24', '2001:db8:f::/48'))
         addAction('c', SetECSAction('2001:db8::/32'))
         addAction(AllRule(), PoolAction('three'))",
        "from 192.0.2.77:1
         q 1234 a/A
         > 3 * a/A OPT=1232,8:00011900cb007100
         q 1234 b/A
         > 3 * b/A OPT=1232,8:00011800cb0071
         q 1234 c/A
         > 3 * c/A OPT=1232,8:0002200020010db8
         from [2001:db8:1::9]:1
         q 1234 b/A
         > 3 * b/A OPT=1232,8:0002300020010db8000f
         q 1234 a/A
         > 3 * a/A OPT=1232,8:00011900cb007100
         q 1234 c/A
         > 3 * c/A OPT=1232,8:0002200020010db8",
    ),
    (
        "a query that is not sent adds no subnet to its answer",
        "addAction('own', PoolAction('three', false)) addAction('own', RCodeAction(5))",
        "from 192.0.2.77:1
         q 1234 own/A
         < 1234 QR REFUSED own/A",
    ),
];

#[test]
fn client_subnets() {
    let rows: Vec<(String, &Row)> = SUBNETS.iter().map(|row| (format!("{ECS}{}", row.1), row)).collect();
    for (config, (name, _, transcript)) in rows {
        crate::bench::Bench::new(&format!("{}{config}", crate::bench::SERVERS)).play(name, transcript);
    }
}

const OPTIONS: &[Row] = &[
    (
        "SetEDNSOptionAction: a client without EDNS gets an answer without EDNS",
        r#"addAction(AllRule(), SetEDNSOptionAction(10, "abcd"))"#,
        "q 1234 RD a/A
         > 1 * RD a/A OPT=1232,10:61626364
         a * QR RD RA a/A A=192.0.2.1 OPT=1232
         < 1234 QR RD RA a/A A=192.0.2.1",
    ),
    (
        "SetEDNSOptionAction: adds an option, or replaces one of the client",
        r#"addAction(AllRule(), SetEDNSOptionAction(EDNSOptionCode.COOKIE, "abcd"))"#,
        "q 1234 a/A OPT=4096,DO
         > 1 * a/A OPT=4096,DO,10:61626364
         a * QR a/A OPT=1232,DO
         < 1234 QR a/A OPT=1232,DO
         q 1234 a/A OPT=4096,10:00ff,3:
         > 1 * a/A OPT=4096,3:,10:61626364",
    ),
    (
        "SetEDNSOptionAction: later rules see the option",
        r#"addAction(AllRule(), SetEDNSOptionAction(65001, "")) addAction(EDNSOptionRule(65001), PoolAction("two"))"#,
        "q 1234 a/A
         > 2 * a/A OPT=1232,65001:",
    ),
    (
        "SetEDNSOptionAction: a self-generated answer has EDNS only if the query has",
        r#"setServFailWhenNoServer(true) addAction(AllRule(), SetEDNSOptionAction(10, "abcd"))
           addAction("a", RCodeAction(5)) addAction("b", PoolAction("none"))"#,
        "q 1234 a/A
         < 1234 QR REFUSED a/A
         q 1234 a/A OPT=4096
         < 1234 QR REFUSED a/A OPT=1232
         q 1234 b/A
         < 1234 QR SERVFAIL b/A",
    ),
    (
        "SetEDNSOptionResponseAction",
        r#"addResponseAction(AllRule(), SetEDNSOptionResponseAction(10, "abcd"))"#,
        "q 1234 a/A OPT=4096
         > 1 * a/A OPT=4096
         a * QR a/A A=192.0.2.1 OPT=1232,3:00
         < 1234 QR a/A A=192.0.2.1 OPT=1232,3:00,10:61626364
         q 1234 a/A
         > 1 * a/A
         a * QR a/A
         < 1234 QR a/A",
    ),
    (
        "SetExtendedDNSErrorAction: in the answer of a server, if the client uses EDNS",
        r#"addAction(AllRule(), SetExtendedDNSErrorAction(15, "no"))"#,
        "q 1234 a/A OPT=4096
         > 1 * a/A OPT=4096
         a * QR NXDOMAIN a/A OPT=1232
         < 1234 QR NXDOMAIN a/A OPT=1232,15:000f6e6f
         q 1234 a/A
         > 1 * a/A
         a * QR NXDOMAIN a/A
         < 1234 QR NXDOMAIN a/A",
    ),
    (
        "SetExtendedDNSErrorAction: in a self-generated answer",
        "addAction(AllRule(), SetExtendedDNSErrorAction(17)) addAction(AllRule(), RCodeAction(5))",
        "q 1234 a/A OPT=4096,DO
         < 1234 QR REFUSED a/A OPT=1232,DO,15:0011
         q 1234 a/A
         < 1234 QR REFUSED a/A",
    ),
    (
        "SetExtendedDNSErrorResponseAction: replaces that of the server",
        r#"addResponseAction(RCodeRule(DNSRCode.SERVFAIL), SetExtendedDNSErrorResponseAction(22, "x"))"#,
        "q 1234 a/A OPT=4096
         > 1 * a/A OPT=4096
         a * QR SERVFAIL a/A OPT=1232,15:0000
         < 1234 QR SERVFAIL a/A OPT=1232,15:001678
         q 1234 a/A OPT=4096,DO
         > 1 * a/A OPT=4096,DO
         a * QR SERVFAIL a/A
         < 1234 QR SERVFAIL a/A OPT=1232,DO,15:001678
         q 1234 a/A
         > 1 * a/A
         a * QR SERVFAIL a/A
         < 1234 QR SERVFAIL a/A
         q 1234 a/A OPT=4096
         > 1 * a/A OPT=4096
         a * QR a/A OPT=1232
         < 1234 QR a/A OPT=1232",
    ),
];

#[test]
fn options_and_errors() {
    play_all(OPTIONS);
}

/// A server without EDNS, and whatever wants to tell a client with EDNS something.
#[test]
fn an_option_for_an_answer_without_an_opt_record_gets_one() {
    for (rule, option) in [
        ("addAction(AllRule(), SetExtendedDNSErrorAction(15, 'no'))", ",15:000f6e6f"),
        ("addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no'))", ",15:000f6e6f"),
        ("addResponseAction(AllRule(), SetEDNSOptionResponseAction(10, 'no'))", ",10:6e6f"),
        (
            "addResponseAction(AllRule(), LuaResponseAction(function(dr) \
             dr:setExtendedDNSError(15, 'no') return DNSResponseAction.Allow end))",
            ",15:000f6e6f",
        ),
        (
            "addAction(AllRule(), SetExtendedDNSErrorAction(1)) setTCPToUDP(true) \
             addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no'))",
            ",15:000f6e6f",
        ),
        (
            "getPool(''):setCache(newPacketCache(10)) \
             addCacheInsertedResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no')) \
             addCacheHitResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no'))",
            ",15:000f6e6f",
        ),
    ] {
        let config = format!("newServer('127.0.1.1') setLocal('127.0.0.1:5300') {rule}");
        let mut transcript = format!(
            "q 1234 a/A OPT=4096,DO
             > 1 * a/A OPT=4096,DO
             a * QR a/A A=192.0.2.1,60
             < 1234 QR a/A A=192.0.2.1,60 OPT=1232,DO{option}
             q 1234 b/A
             > 1 * b/A
             a * QR b/A A=192.0.2.1,60
             < 1234 QR b/A A=192.0.2.1,60
             q 1234 c/A OPT=4096
             > 1 * c/A OPT=4096
             a * QR FORMERR c/A
             < 1234 QR FORMERR c/A\n"
        );
        if rule.contains("newPacketCache") {
            transcript +=
                &format!("q 1234 a/A OPT=4096,DO\n < 1234 QR a/A A=192.0.2.1,60 OPT=1232,DO{option}\n");
        }
        if rule.contains("setTCPToUDP") {
            transcript += &format!(
                "stream
                 q 1234 a/A OPT=4096,DO
                 > 1 * a/A OPT=4096,DO
                 a * QR a/A A=192.0.2.1,60
                 < 1234 QR a/A A=192.0.2.1,60 OPT=1232,DO{option}"
            );
        }
        Bench::new(&config).play(&config, &transcript);
    }
    let config = "newServer('127.0.1.1') setAddEDNSToSelfGeneratedResponses(false) \
                  addAction(AllRule(), SetExtendedDNSErrorAction(15))";
    Bench::new(config).play(config, "q 1 a/A OPT=512\n > 1 * a/A OPT=512\n a * QR a/A\n < 0001 QR a/A");
}

/// What answers a query without a server.
const OWN: &[(&str, &str)] = &[
    ("RCodeAction(3)", "QR NXDOMAIN a/A"),
    ("SpoofAction('192.0.2.1')", "QR a/A A=192.0.2.1"),
    ("SpoofRawAction('\\192\\000\\002\\001')", "QR a/A A=192.0.2.1"),
    ("TCAction()", "QR TC a/A"),
    ("PoolAction('none')", "QR SERVFAIL a/A"),
    ("LuaAction(function(dq) dq.dh:setQR(true) return DNSAction.HeaderModify end)", "QR a/A"),
    ("LuaAction(function(dq) return DNSAction.Nxdomain, '' end)", "QR NXDOMAIN a/A"),
    // Without an OPT record.
    ("SpoofPacketAction('\\0\\0\\128\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1', 30)", "QR a/A"),
];

/// What rules say of the EDNS of answers is true of those that dnslob makes itself, too.
#[test]
fn actions_on_answers_edit_the_edns_of_our_own() {
    for (rule, option) in [
        (
            "addSelfAnsweredResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no'))",
            ",15:000f6e6f",
        ),
        ("addSelfAnsweredResponseAction(AllRule(), SetEDNSOptionResponseAction(10, 'no'))", ",10:6e6f"),
        (
            "addSelfAnsweredResponseAction(AllRule(), LuaResponseAction(function(dr) \
             dr:setExtendedDNSError(15, 'no') return DNSResponseAction.Allow end))",
            ",15:000f6e6f",
        ),
        ("addAction(AllRule(), SetExtendedDNSErrorAction(15, 'no'))", ",15:000f6e6f"),
        (
            "addAction(AllRule(), SetExtendedDNSErrorAction(1)) \
             addSelfAnsweredResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no'))",
            ",15:000f6e6f",
        ),
    ] {
        for (action, answer) in OWN {
            let config = format!("setServFailWhenNoServer(true) {rule} addAction('a', {action})");
            Bench::new(&config).play(
                &config,
                &format!(
                    "q 1234 a/A OPT=4096,DO
                     < 1234 {answer} OPT=1232,DO{option}
                     q 1234 a/A
                     < 1234 {answer}"
                ),
            );
        }
        let config =
            format!("setAddEDNSToSelfGeneratedResponses(false) {rule} addAction('a', RCodeAction(5))");
        Bench::new(&config).play(&config, "q 1234 a/A OPT=4096\n < 1234 QR REFUSED a/A");
    }
}

/// Whatever has made a server's response longer: its client gets TC=1 if it cannot take it.
#[test]
fn an_edited_answer_fits_what_its_client_can_take() {
    let (text, hex) = ("x".repeat(200), "78".repeat(200));
    let record = format!("RR=1,@,TXT,60,{}", "00".repeat(400));
    for config in [
        format!("addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, '{text}'))"),
        format!("addResponseAction(AllRule(), SetEDNSOptionResponseAction(15, '\\0\\15{text}'))"),
        format!("addAction(AllRule(), SetExtendedDNSErrorAction(15, '{text}'))"),
    ] {
        let mut bench = Bench::new(&format!("newServer('127.0.1.1') {config}"));
        for (size, cut) in [(512, true), (651, true), (660, false), (1232, false), (4096, false)] {
            let (flag, data) = if cut { ("TC", "") } else { ("", record.as_str()) };
            bench.play(
                &format!("{size} bytes: {config}"),
                &format!(
                    "q 1 a/TXT OPT={size}
                     > 1 * a/TXT OPT={size}
                     a * QR a/TXT {record} OPT=1232,12:0000
                     < 0001 QR {flag} a/TXT {data} OPT=1232,12:0000,15:000f{hex}"
                ),
            );
        }
    }
}

/// A text that does not even fit an answer without records goes; padding stays while it fits.
#[test]
fn an_error_whose_text_is_too_long_is_left_out() {
    let config = format!(
        "newServer('127.0.1.1') addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, '{}'))",
        "x".repeat(200)
    );
    for (padding, stays) in [(300, true), (490, false)] {
        let padding = format!("12:{}", "00".repeat(padding));
        let options = if stays { format!(",{padding}") } else { String::new() };
        let transcript = format!(
            "q 1 a/A OPT=512
             > 1 * a/A OPT=512
             a * QR a/A A=192.0.2.1 OPT=1232,{padding}
             < 0001 QR TC a/A OPT=1232{options}"
        );
        Bench::new(&config).play(&padding, &transcript);
    }
}

/// Padding that ends a message at `block` bytes, behind these bytes of other options and records.
fn padding(block: usize, others: usize) -> String {
    // Header and question, OPT record, head of the option.
    format!("12:{}", "00".repeat(block - 19 - 11 - 4 - others))
}

/// The length of a padded answer says nothing of what rules have done to it.
#[test]
fn an_edited_answer_ends_at_the_block_of_its_padding() {
    const RECORD: usize = 16;
    let long = "x".repeat(200);
    for (block, config, answer, options, others) in [
        (
            468,
            "addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, 'no'))",
            "QR a/A A=192.0.2.1",
            "15:000f6e6f,",
            RECORD + 8,
        ),
        (
            128,
            "addResponseAction(AllRule(), SetEDNSOptionResponseAction(10, 'no'))",
            "QR a/A A=192.0.2.1",
            "10:6e6f,",
            RECORD + 6,
        ),
        (936, "addResponseAction(AllRule(), ClearRecordTypesResponseAction(1))", "QR a/A", "", 0),
        (468, "addResponseAction(AllRule(), TCResponseAction())", "QR TC a/A", "", 0),
        (
            468,
            "addResponseAction(AllRule(), LuaResponseAction(function() error('x') end))",
            "QR SERVFAIL a/A",
            "",
            0,
        ),
        (468, "addAction(AllRule(), SetMaxReturnedTTLAction(1))", "QR a/A A=192.0.2.1,1", "", RECORD),
        (
            128,
            &format!("addResponseAction(AllRule(), SetExtendedDNSErrorResponseAction(15, '{long}'))"),
            "QR a/A A=192.0.2.1",
            &format!("15:000f{},", "78".repeat(200)),
            RECORD + 206,
        ),
    ] {
        let server = format!("newServer('127.0.1.1') setLocal('127.0.0.1:5300') setTCPToUDP(true) {config}");
        let (sent, end) = (padding(block, RECORD), (19 + 11 + 4 + others).next_multiple_of(block.min(468)));
        let got = padding(end, others);
        for size in [1232, 936] {
            Bench::new(&server).play(
                config,
                &format!(
                    "q 1 a/A OPT={size},12:
                     > 1 * a/A OPT={size},12:
                     a * QR a/A A=192.0.2.1 OPT=1232,{sent}
                     < 0001 {answer} OPT=1232,{options}{got}"
                ),
            );
        }
    }
    let keepalive = padding(468, RECORD + 6);
    Bench::new("newServer('127.0.1.1') setLocal('127.0.0.1:5300') setTCPToUDP(true)").play(
        "keepalive",
        &format!(
            "stream
             q 1 a/A OPT=4096,11:,12:
             > 1 * a/A OPT=4096,12:
             a * QR a/A A=192.0.2.1 OPT=1232,{}
             < 0001 QR a/A A=192.0.2.1 OPT=1232,11:0064,{keepalive}",
            padding(468, RECORD)
        ),
    );
    let subnet = padding(468, RECORD);
    Bench::new(&format!("{ECS} addAction(AllRule(), PoolAction('three'))")).play(
        "an option that is removed",
        &format!(
            "from 192.0.2.77:1
             q 1 a/A OPT=4096,12:
             > 3 * a/A OPT=4096,12:,8:00011800c00002
             a * QR a/A A=192.0.2.1 OPT=1232,8:00011800c00002,{}
             < 0001 QR a/A A=192.0.2.1 OPT=1232,{subnet}",
            padding(468, RECORD + 11)
        ),
    );
    // No more than the client can take.
    Bench::new(&format!(
        "newServer('127.0.1.1') addResponseAction(AllRule(), SetEDNSOptionResponseAction(10, '{}'))",
        "x".repeat(430)
    ))
    .play(
        "limit",
        &format!(
            "q 1 a/A OPT=512,12:
             > 1 * a/A OPT=512,12:
             a * QR a/A A=192.0.2.1 OPT=1232,{}
             < 0001 QR a/A A=192.0.2.1 OPT=1232,10:{},{}",
            padding(468, RECORD),
            "78".repeat(430),
            padding(512, RECORD + 434)
        ),
    );
}

/// Our own record offered a server more than a client without one can take.
#[test]
fn an_answer_for_a_client_without_edns_fits_512_bytes() {
    let record = format!("RR=1,@,TXT,60,{}", "00".repeat(500));
    Bench::new(&format!("{ECS} addAction(AllRule(), PoolAction('three'))")).play(
        "without EDNS",
        &format!(
            "from 192.0.2.77:1
             q 1 a/TXT
             > 3 * a/TXT OPT=1232,8:00011800c00002
             a * QR a/TXT {record} OPT=1232
             < 0001 QR TC a/TXT"
        ),
    );
    // What the server was told by its client is between them.
    Bench::new("newServer('127.0.1.1')").play(
        "unedited",
        &format!("q 1 a/TXT\n > 1 * a/TXT\n a * QR a/TXT {record}\n < 0001 QR a/TXT {record}"),
    );
    // The client's own offer stands beside an option of ours.
    for option in ["", "addAction(AllRule(), SetEDNSOptionAction(8, '\\0\\1\\8\\0\\10'))"] {
        let subnet = if option.is_empty() { "00011800c00002" } else { "000108000a" };
        Bench::new(&format!("{ECS} {option} addAction(AllRule(), PoolAction('three'))")).play(
            "with EDNS",
            &format!(
                "from 192.0.2.77:1
                 q 1 a/TXT OPT=520
                 > 3 * a/TXT OPT=520,8:{subnet}
                 a * QR a/TXT {record} OPT=1232
                 < 0001 QR TC a/TXT OPT=1232"
            ),
        );
    }
    // Also if only the second server gets the subnet.
    Bench::new(&format!(
        "{ECS} newServer('127.0.1.1') addResponseAction(RCodeRule(2), RestartResponseAction('three'))"
    ))
    .play(
        "restarted",
        &format!(
            "from 192.0.2.77:1
             q 1 a/TXT
             > 1 * a/TXT
             a * QR SERVFAIL a/TXT
             > 3 * a/TXT OPT=1232,8:00011800c00002
             a * QR a/TXT {record} OPT=1232
             < 0001 QR TC a/TXT"
        ),
    );
}
