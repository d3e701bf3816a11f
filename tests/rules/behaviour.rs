//! Tests the behaviour of rules that users of dnsdist rely on, one test per item.

use crate::bench::{Bench, SERVERS, play_all};

/// Plays one transcript on one shard with one configuration and two servers.
fn play(config: &str, transcript: &str) {
    Bench::new(&format!("{SERVERS}{config}")).play(config, transcript);
}

#[test]
fn ra_is_rd_for_rcode_tc_and_every_spoof() {
    let actions = [
        ("RCodeAction(5)", "REFUSED", ""),
        ("ERCodeAction(5)", "REFUSED", ""),
        ("TCAction()", "TC", ""),
        ("SpoofAction('192.0.2.1')", "", "A=192.0.2.1"),
        ("SpoofCNAMEAction('b')", "", "CNAME=b"),
        (r"SpoofRawAction('\001\002\003\004')", "", "A=1.2.3.4"),
    ];
    for (action, head, records) in actions {
        let config = format!("addAction(AllRule(), {action})");
        play(&config, &format!("q 1234 RD a/A\n < 1234 QR RD RA {head} a/A {records}"));
        play(&config, &format!("q 1234 a/A\n < 1234 QR {head} a/A {records}"));
    }
    let config = "addAction(AllRule(), SpoofSVCAction{newSVCRecordParameters(0, 'b')})";
    play(config, "q 1234 RD a/SVCB\n < 1234 QR RD RA a/SVCB RR=1,@,SVCB,60,0000016200");
    play(config, "q 1234 a/SVCB\n < 1234 QR a/SVCB RR=1,@,SVCB,60,0000016200");
}

#[test]
fn ra_is_left_alone_for_servfail_when_no_server() {
    let config = "setServFailWhenNoServer(true) addAction(AllRule(), PoolAction('none'))";
    play(config, "q 1234 RD a/A\n < 1234 QR RD SERVFAIL a/A\n q 1234 a/A\n < 1234 QR SERVFAIL a/A");
}

#[test]
fn aa_and_ad_are_0_unless_asked_for() {
    play("addAction(AllRule(), RCodeAction(5))", "q 1234 AA AD a/A\n < 1234 QR REFUSED a/A");
    play("addAction(AllRule(), RCodeAction(5, {aa=true}))", "q 1234 a/A\n < 1234 QR AA REFUSED a/A");
    play("addAction(AllRule(), RCodeAction(5, {ad=true}))", "q 1234 a/A\n < 1234 QR AD REFUSED a/A");
}

#[test]
fn the_rd_and_cd_bits_of_the_client_are_restored_after_actions() {
    let changed =
        "addAction(AllRule(), SetNoRecurseAction()) addAction(AllRule(), SetDisableValidationAction()) ";
    for (bits, ra) in [("", ""), ("RD", "RA"), ("CD", ""), ("RD CD", "RA")] {
        play(
            changed,
            &format!("q 1234 {bits} a/A\n > 1 * CD a/A\n a * QR RA CD a/A\n < 1234 QR RA {bits} a/A"),
        );
        let own = format!("{changed} addAction(AllRule(), RCodeAction(5))");
        play(&own, &format!("q 1234 {bits} a/A\n < 1234 QR {ra} {bits} REFUSED a/A"));
        let none =
            format!("{changed} setServFailWhenNoServer(true) addAction(AllRule(), PoolAction('none'))");
        play(&none, &format!("q 1234 {bits} a/A\n < 1234 QR {bits} SERVFAIL a/A"));
    }
}

#[test]
fn spoofed_ttl_is_60_and_the_options_are_aa_ad_ra_ttl() {
    play("addAction(AllRule(), SpoofAction('192.0.2.1'))", "q 1 a/A\n < 0001 QR a/A A=192.0.2.1,60");
    let all = "{aa=true, ad=true, ra=true, ttl=3600}";
    for action in ["SpoofAction('192.0.2.1', OPTIONS)", r"SpoofRawAction('\192\000\002\001', OPTIONS)"] {
        let config = format!("addAction(AllRule(), {})", action.replace("OPTIONS", all));
        play(&config, "q 1 a/A\n < 0001 QR AA RA AD a/A A=192.0.2.1,3600");
    }
    play(
        &format!("addAction(AllRule(), SpoofCNAMEAction('b', {all}))"),
        "q 1 a/A\n < 0001 QR AA RA AD a/A CNAME=b,3600",
    );
}

#[test]
fn spoof_action_answers_any_with_a_and_aaaa() {
    let config = "addAction(AllRule(), SpoofAction({'2001:db8::1', '192.0.2.1'}))";
    play(config, "q 1 a/ANY\n < 0001 QR a/ANY A=192.0.2.1 AAAA=2001:db8::1");
}

#[test]
fn raw_spoofing_needs_type_for_any() {
    let config = r"addAction('a', SpoofRawAction('\001x', {typeForAny=DNSQType.TXT}))";
    play(config, "q 1 a/ANY\n < 0001 QR a/ANY RR=1,@,TXT,60,0178");
}

#[test]
fn a_self_generated_answer_has_edns_only_if_the_query_had_it() {
    let config = "addAction(AllRule(), RCodeAction(5))";
    play(config, "q 1 a/A\n < 0001 QR REFUSED a/A");
    play(config, "q 1 a/A OPT=4096\n < 0001 QR REFUSED a/A OPT=1232");
    play(config, "q 1 a/A OPT=512,DO,3:,10:0102030405060708\n < 0001 QR REFUSED a/A OPT=1232,DO");
    play(
        &format!("setPayloadSizeOnSelfGeneratedAnswers(1400) {config}"),
        "q 1 a/A OPT=4096\n < 0001 QR REFUSED a/A OPT=1400",
    );
    play(
        &format!("setAddEDNSToSelfGeneratedResponses(false) {config}"),
        "q 1 a/A OPT=4096,DO\n < 0001 QR REFUSED a/A",
    );
}

#[test]
fn tc_action_truncates_over_udp() {
    play("addAction(AllRule(), TCAction())", "q 1 RD a/A OPT=1232,DO\n < 0001 QR TC RD RA a/A OPT=1232,DO");
}

#[test]
fn truncate_tc_drops_the_records_of_a_truncated_answer_and_keeps_its_opt() {
    let exchange = "q 1 a/A\n > 1 * a/A\n a * QR TC a/A A=192.0.2.1 RR=2,a,NS,1,00 OPT=1232,DO,3:00";
    play("truncateTC(true)", &format!("{exchange}\n < 0001 QR TC a/A OPT=1232,DO,3:00"));
    play("", &format!("{exchange}\n < 0001 QR TC a/A A=192.0.2.1 RR=2,a,NS,1,00 OPT=1232,DO,3:00"));
}

#[test]
fn invalid_queries_do_not_reach_the_rules() {
    let config = "addAction(AllRule(), PoolAction('two'))";
    let transcript = "q 1 QR a/A
         ! query-is-response
         q 1 TC a/A
         ! query-truncated
         q 1 RD CD
         < 0001 QR RD CD NOTIMP
         hits query 0";
    play(config, transcript);
}

#[test]
fn a_header_only_answer_is_passed_on_if_refused_and_dropped_if_noerror_or_nxdomain() {
    for rules in [
        "",
        "addResponseAction(AllRule(), SetMaxTTLResponseAction(5))",
        "addAction(AllRule(), SetNoRecurseAction())",
    ] {
        let asked = "q 1 a/A\n > 1 * a/A";
        play(rules, &format!("{asked}\n a * QR REFUSED\n < 0001 QR REFUSED"));
        play(rules, &format!("{asked}\n a * QR\n ! response-empty"));
        play(rules, &format!("{asked}\n a * QR NXDOMAIN\n ! response-empty"));
        let allowed = format!("setAllowEmptyResponse(true) {rules}");
        play(&allowed, &format!("{asked}\n a * QR\n < 0001 QR"));
        play(&allowed, &format!("{asked}\n a * QR NXDOMAIN\n < 0001 QR NXDOMAIN"));
    }
}

#[test]
fn an_answer_with_another_question_is_dropped() {
    let config =
        "addAction(AllRule(), SetTagAction('a', 'b')) addResponseAction(AllRule(), TCResponseAction())";
    let transcript = "q 1 a/A
         > 1 * a/A
         a * QR b/A
         ! response-mismatch
         a * QR a/AAAA
         ! response-mismatch
         a * QR a/A/CH
         ! response-mismatch
         a * QR A/A
         < 0001 QR TC A/A";
    play(config, transcript);
}

#[test]
fn an_unknown_or_empty_pool_gives_no_answer_unless_servfail_is_wanted() {
    for pools in [
        "addAction(AllRule(), PoolAction('unknown'))",
        "getPool('empty') addAction(AllRule(), PoolAction('empty'))",
    ] {
        play(pools, "q 1 a/A\n ! no-server");
        play(&format!("setServFailWhenNoServer(true) {pools}"), "q 1 RD a/A\n < 0001 QR RD SERVFAIL a/A");
    }
}

#[test]
fn spoof_svc_action_adds_hints_as_additional_records_all_a_first() {
    play_all(&[(
        "two bindings, one for the name itself",
        "addAction(AllRule(), SpoofSVCAction({
            newSVCRecordParameters(1, '.', {ipv6hint={'2001:db8::1'}, ipv4hint={'192.0.2.1', '192.0.2.2'}}),
            newSVCRecordParameters(2, 'b', {ipv4hint='192.0.2.3'})}))",
        "q 1 a/SVCB
         < 0001 QR a/SVCB RR=1,@,SVCB,60,00010000040008c0000201c00002020006001020010db8000000000000000000000001 RR=1,@,SVCB,60,000201620000040004c0000203 RR=3,@,A,60,c0000201 RR=3,@,A,60,c0000202 RR=3,b,A,60,c0000203 RR=3,@,AAAA,60,20010db8000000000000000000000001",
    )]);
}

/// Messages of up to 4,096 bytes in both directions; rules need not read all of them.
#[test]
fn messages_of_4096_bytes_go_both_ways() {
    let config = "addAction(AllRule(), SetTagAction('a', 'b')) addResponseAction(AllRule(), SetMaxTTLResponseAction(5))";
    let (long, longest) = ("ab".repeat(4096 - 30), "ab".repeat(4096 - 19));
    let transcript = format!(
        "q 1 a/A OPT=4096 TAIL={long}
         > 1 * a/A OPT=4096 TAIL={long}
         a * QR a/A TAIL={longest}
         < 0001 QR a/A TAIL={longest}"
    );
    play(config, &transcript);
}

#[test]
fn trailing_data_of_a_function_is_limited_by_what_can_be_sent() {
    let function = |bytes: usize| {
        format!(
            "addAction(AllRule(), LuaAction(function(dq)
               if not dq:setTrailingData(('x'):rep({bytes} - 19)) then return DNSAction.Refused end
               return DNSAction.None end)) "
        )
    };
    let sent = |bytes: usize| format!("> 1 * a/A TAIL={}", "78".repeat(bytes - 19));
    play(&function(4096), &format!("q 1 a/A\n {}", sent(4096)));
    play(&function(4097), "q 1 a/A\n < 0001 QR REFUSED a/A");
    let stream = "newServer{address='127.0.1.3', order=0, useClientSubnet=true} setServerPolicy(firstAvailable) \
                  setLocal('127.0.0.1:5300') setTCPToUDP(true) ";
    play(&format!("{stream} {}", function(65_536)), "stream\n q 1 a/A\n < 0001 QR REFUSED a/A");
}

#[test]
fn trailing_data_is_forwarded_unchanged() {
    let config = "addAction(TrailingDataRule(), PoolAction('two'))";
    play(
        config,
        "q 1 a/A OPT=512 TAIL=c0ffee\n > 2 * a/A OPT=512 TAIL=c0ffee\n q 1 a/A OPT=512\n > 1 * a/A OPT=512",
    );
    play(
        "addAction(AllRule(), DropAction()) rmRule(0) addAction(PayloadSizeRule('equal', 22), PoolAction('two'))",
        "q 1 a/A TAIL=c0ffee\n > 2 * a/A TAIL=c0ffee",
    );
}

#[test]
fn add_action_takes_a_name_or_names_as_suffixes() {
    play(
        "addAction('example', DropAction())",
        "q 1 x.example/A\n ! rule\n q 1 example/A\n ! rule\n q 1 ample/A\n > 1 * ample/A",
    );
    play(
        "addAction({'a', 'b'}, DropAction())",
        "q 1 x.a/A\n ! rule\n q 1 b/A\n ! rule\n q 1 c/A\n > 1 * c/A",
    );
    play("addAction(makeRule('a'), DropAction())", "q 1 x.a/A\n ! rule\n q 1 b/A\n > 1 * b/A");
    play("addAction(makeRule{'127.0.0.0/8'}, DropAction())", "q 1 a/A\n ! rule");
}
