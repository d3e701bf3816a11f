//! Tests actions that answer: the bytes that the client receives.

use crate::bench::{Row, play_all};

const ROWS: &[Row] = &[
    (
        "RCodeAction",
        "addAction(AllRule(), RCodeAction(DNSRCode.NXDOMAIN))",
        "q 1234 RD CD wWw.a/A
         < 1234 QR RD RA CD NXDOMAIN wWw.a/A
         q 1234 a/TXT OPT=4096,DO
         < 1234 QR NXDOMAIN a/TXT OPT=1232,DO",
    ),
    (
        "RCodeAction: flags",
        "addAction('a', RCodeAction(DNSRCode.REFUSED, {aa=true, ad=true, ra=true}))
         addAction('b', RCodeAction(DNSRCode.REFUSED, {ra=false}))",
        "q 1234 a/A
         < 1234 QR AA RA AD REFUSED a/A
         q 1234 RD b/A
         < 1234 QR RD REFUSED b/A",
    ),
    (
        "RCodeAction: of a longer code, four bits",
        "addAction('a', RCodeAction(19)) addAction('b', RCodeAction(16))",
        "q 1234 RD a/A OPT=4096
         < 1234 QR RD RA NXDOMAIN a/A OPT=1232
         q 1234 b/A
         < 1234 QR b/A",
    ),
    (
        "RCodeAction: the opcode is kept",
        "addAction(OpcodeRule(DNSOpcode.Notify), RCodeAction(DNSRCode.NOTIMP))",
        "q 1234 NOTIFY a/SOA
         < 1234 QR NOTIFY NOTIMP a/SOA",
    ),
    (
        "ERCodeAction: its upper bits are in the OPT record",
        "addAction('a', ERCodeAction(DNSRCode.BADVERS)) addAction('b', ERCodeAction(23, {aa=true}))
         addAction('c', ERCodeAction(5))",
        "q 1234 RD a/A OPT=512
         < 1234 QR RD RA a/A OPT=1232,x1
         q 1234 b/A OPT=512,DO
         < 1234 QR AA RCODE=7 b/A OPT=1232,x1,DO
         q 1234 c/A
         < 1234 QR REFUSED c/A",
    ),
    (
        "NegativeAndSOAAction: NXDOMAIN, the SOA among the additional records",
        "addAction(AllRule(), NegativeAndSOAAction(true, 'a', 100, 'ns.a', 'hm.a', 1, 2, 3, 4, 5))",
        "q 1234 RD b.a/A
         < 1234 QR RD RA NXDOMAIN b.a/A RR=3,a,SOA,100,026e7301610002686d0161000000000100000002000000030000000400000005
         q 1234 b.a/A OPT=4096
         < 1234 QR NXDOMAIN b.a/A RR=3,a,SOA,100,026e7301610002686d0161000000000100000002000000030000000400000005 OPT=1232",
    ),
    (
        "NegativeAndSOAAction: NODATA, the SOA in the authority section",
        "addAction(AllRule(), NegativeAndSOAAction(false, 'a.', 1, 'ns.a.', 'hm.a.', 1, 2, 3, 4, 5, {soaInAuthoritySection=true, aa=true}))",
        "q 1234 b.a/A
         < 1234 QR AA b.a/A RR=2,a,SOA,1,026e7301610002686d0161000000000100000002000000030000000400000005",
    ),
    (
        "TCAction",
        "addAction(AllRule(), TCAction())",
        "q 1234 RD a/A
         < 1234 QR TC RD RA a/A
         q 1234 a/A OPT=4096,DO
         < 1234 QR TC a/A OPT=1232,DO",
    ),
    (
        "TCAction with TCPRule: only queries over UDP",
        "addAction(AndRule{TCPRule(false), QTypeRule('ANY')}, TCAction())",
        "q 1234 a/ANY
         < 1234 QR TC a/ANY
         q 1234 a/A
         > 1 * a/A",
    ),
    (
        "SpoofAction: A, AAAA and ANY; other types continue with the next rule",
        "addAction(AllRule(), SpoofAction({'192.0.2.1', '192.0.2.2', '2001:db8::1'}))",
        "q 1234 RD a/A
         < 1234 QR RD RA a/A A=192.0.2.1 A=192.0.2.2
         q 1234 a/AAAA
         < 1234 QR a/AAAA AAAA=2001:db8::1
         q 1234 a/ANY OPT=4096,DO
         < 1234 QR a/ANY A=192.0.2.1 A=192.0.2.2 AAAA=2001:db8::1 OPT=1232,DO
         q 1234 a/TXT
         > 1 * a/TXT",
    ),
    (
        "SpoofAction: one family only; the other continues with the next rule",
        "addAction(AllRule(), SpoofAction('192.0.2.1')) addAction(AllRule(), DropAction())",
        "q 1234 a/A
         < 1234 QR a/A A=192.0.2.1
         q 1234 a/AAAA
         ! rule",
    ),
    (
        "SpoofAction: the older form, flags and TTL",
        "addAction('a', SpoofAction('192.0.2.1', '2001:db8::1', {ttl=5, aa=true, ad=true, ra=true}))
         addAction('b', SpoofAction(newCA('192.0.2.1'), {ttl=0, ra=false}))",
        "q 1234 a/A
         < 1234 QR AA RA AD a/A A=192.0.2.1,5
         q 1234 a/AAAA
         < 1234 QR AA RA AD a/AAAA AAAA=2001:db8::1,5
         q 1234 RD b/A
         < 1234 QR RD b/A A=192.0.2.1,0",
    ),
    (
        "SpoofCNAMEAction: to every type",
        "addAction('a', SpoofCNAMEAction('b.example')) addAction('c', SpoofCNAMEAction(newDNSName('b.'), {ttl=1, aa=true}))",
        "q 1234 RD a/A
         < 1234 QR RD RA a/A CNAME=b.example
         q 1234 a/MX
         < 1234 QR a/MX CNAME=b.example
         q 1234 c/AAAA
         < 1234 QR AA c/AAAA CNAME=b,1",
    ),
    (
        "SpoofRawAction: of the queried type",
        r#"addAction("a", SpoofRawAction("\003abc")) addAction("b", SpoofRawAction({"\001x", "\001y"}, {ttl=9, aa=true}))
           addAction("c", SpoofRawAction("\003abc", {typeForAny=DNSQType.TXT}))"#,
        "q 1234 RD a/TXT
         < 1234 QR RD RA a/TXT RR=1,@,TXT,60,03616263
         q 1234 b/TXT OPT=512
         < 1234 QR AA b/TXT RR=1,@,TXT,9,0178 RR=1,@,TXT,9,0179 OPT=1232
         q 1234 c/ANY
         < 1234 QR c/ANY RR=1,@,TXT,60,03616263",
    ),
    (
        "SpoofSVCAction: the hints as additional records, all A first",
        "addAction(QTypeRule('HTTPS'), SpoofSVCAction({
            newSVCRecordParameters(1, 'x.a', {port=443, ipv4hint={'192.0.2.1'}, ipv6hint={'2001:db8::1'}}),
            newSVCRecordParameters(2, 'y.a', {ipv4hint='192.0.2.2'})}))",
        "q 1234 RD a/HTTPS
         < 1234 QR RD RA a/HTTPS RR=1,@,HTTPS,60,000101780161000003000201bb00040004c00002010006001020010db8000000000000000000000001 RR=1,@,HTTPS,60,0002017901610000040004c0000202 RR=3,x.a,A,60,c0000201 RR=3,y.a,A,60,c0000202 RR=3,x.a,AAAA,60,20010db8000000000000000000000001
         q 1234 a/A
         > 1 * a/A",
    ),
    (
        "SpoofSVCAction: other types continue with the next rule; a hint of several records is added once",
        "addAction(AllRule(), SpoofSVCAction({
            newSVCRecordParameters(1, 'x.a', {alpn='h3', ipv4hint={'192.0.2.1', '192.0.2.1'}}),
            newSVCRecordParameters(2, 'X.a', {ipv4hint={'192.0.2.1', '192.0.2.2'}}),
            newSVCRecordParameters(3, '.', {ipv4hint='192.0.2.1'})}))",
        "q 1234 a/SVCB
         < 1234 QR a/SVCB RR=1,@,SVCB,60,00010178016100000100030268330004000\
          8c0000201c0000201 RR=1,@,SVCB,60,000201780161000004000\
          8c0000201c0000202 RR=1,@,SVCB,60,00030000040004c0000201 RR=3,x.a,A,60,c0000201 RR=3,x.a,A,60,c0000202 RR=3,@,A,60,c0000201
         q 1234 a/A
         > 1 * a/A
         q 1234 a/AAAA
         > 1 * a/AAAA
         q 1234 a/TXT
         > 1 * a/TXT
         q 1234 a/ANY
         > 1 * a/ANY",
    ),
    (
        "SpoofPacketAction: a complete message with the id and question of the query",
        r#"addAction("a", SpoofPacketAction("\000\000\133\005\000\001\000\001\000\000\000\000\001a\000\000\001\000\001\192\012\000\001\000\001\000\000\000\007\000\004\192\000\002\001"))
           addAction("b", SpoofPacketAction("\000\000\128\005\000\000\000\000\000\000\000\000trailing", 12))"#,
        "q 1234 RD A/A OPT=1232
         < 1234 QR RD AA REFUSED A/A A=192.0.2.1,7
         q 1234 a/A
         < 1234 QR AA REFUSED a/A A=192.0.2.1,7
         q 1234 RD b/A
         < 1234 QR RD REFUSED",
    ),
    (
        "dq:spoof: other types than those of the addresses get no records; TTL, AA, and the type for ANY",
        r#"local function spoof(name, ...)
             local arguments, n = {...}, select('#', ...)
             addAction(name, LuaAction(function(dq)
               dq:spoof(unpack(arguments, 1, n)) return DNSAction.HeaderModify end))
           end
           spoof("a", newCA("192.0.2.1"))
           spoof("b", {newCA("192.0.2.1"), newCA("2001:db8::1")}, nil, 300)
           spoof("c", "\003abc", DNSQType.TXT, 9)
           spoof("d", "\003abc")
           addAction("e", LuaAction(function(dq)
             local header = dq.dh header:setAA(true) dq:setHeader(header)
             dq:spoof(newCA("192.0.2.1")) return DNSAction.HeaderModify end))"#,
        "q 1234 RD a/A
         < 1234 QR RD RA a/A A=192.0.2.1
         q 1234 RD a/AAAA
         < 1234 QR RD RA a/AAAA
         q 1234 a/TXT OPT=4096
         < 1234 QR a/TXT OPT=1232
         q 1234 b/AAAA
         < 1234 QR b/AAAA AAAA=2001:db8::1,300
         q 1234 c/ANY
         < 1234 QR c/ANY RR=1,@,TXT,9,03616263
         q 1234 c/TXT
         < 1234 QR c/TXT RR=1,@,TXT,9,03616263
         q 1234 d/ANY
         < 1234 QR d/ANY
         q 1234 e/A
         < 1234 QR AA e/A A=192.0.2.1",
    ),
    (
        "DNSAction.Spoof, SpoofRaw and SpoofPacket of functions",
        r#"addAction("a", LuaAction(function(dq) return DNSAction.Spoof, "192.0.2.1" end))
           addAction("b", LuaAction(function(dq) dq.dh:setAA(true) return DNSAction.Spoof, "2001:db8::1" end))
           addAction("c", LuaAction(function(dq) return DNSAction.SpoofRaw, "\003abc" end))
           local message = "\000\000\133\005\000\001\000\001\000\000\000\000\001d\000\000\001\000\001\192\012\000\001\000\001\000\000\000\007\000\004\192\000\002\001"
           addAction("d", LuaAction(function(dq) return DNSAction.SpoofPacket, message end))"#,
        "q 1234 a/A
         < 1234 QR a/A A=192.0.2.1
         q 1234 a/AAAA
         < 1234 QR a/AAAA
         q 1234 a/TXT
         < 1234 QR a/TXT
         q 1234 b/AAAA
         < 1234 QR AA b/AAAA AAAA=2001:db8::1
         q 1234 c/ANY
         < 1234 QR c/ANY
         q 1234 RD D/A
         < 1234 QR RD AA REFUSED D/A A=192.0.2.1,7",
    ),
    (
        "a query that a function made an answer has an OPT record of our own",
        r#"addAction("a", LuaAction(function(dq)
             dq.dh:setQR(true) dq.rcode = DNSRCode.REFUSED return DNSAction.HeaderModify end))
           addAction("b", LuaAction(function(dq) dq.dh:setQR(true) return DNSAction.None end))
           addAction(LuaRule(function(dq) if dq.qname:toString() == "c." then dq.dh:setQR(true) end return false end),
             NoneAction())
           addAction("d", SetExtendedDNSErrorAction(15))
           addAction("d", LuaAction(function(dq) dq.dh:setQR(true) return DNSAction.Allow end))"#,
        "q 1234 RD a/A OPT=4000,DO,10:0011223344556677
         < 1234 QR RD REFUSED a/A OPT=1232,DO
         q 1234 b/A OPT=4000,10:0011223344556677
         < 1234 QR b/A OPT=1232
         q 1234 c/A OPT=512,v1,12:00
         < 1234 QR c/A OPT=1232
         q 1234 d/A OPT=4000,3:
         < 1234 QR d/A OPT=1232,15:000f
         q 1234 a/A
         < 1234 QR REFUSED a/A",
    ),
    (
        "a query that a function made an answer: without EDNS where that is set",
        r#"setAddEDNSToSelfGeneratedResponses(false)
           addAction("a", LuaAction(function(dq) dq.dh:setQR(true) return DNSAction.HeaderModify end))"#,
        "q 1234 a/A OPT=4000,10:0011223344556677
         < 1234 QR a/A",
    ),
    (
        "the queried name keeps its letter case, and the answer its class",
        "addAction('a.example', SpoofAction('192.0.2.1')) addAction('b.example', RCodeAction(5))",
        "q 1234 A.eXample/A
         < 1234 QR A.eXample/A A=192.0.2.1
         q 1234 B.example/TXT/CH
         < 1234 QR REFUSED B.example/TXT/CH",
    ),
    (
        "trailing bytes and other records of the query are not in the answer",
        "addAction(AllRule(), RCodeAction(5))",
        "q 1234 a/A TAIL=c0ffee
         < 1234 QR REFUSED a/A
         q 1234 a/A RR=3,x,A,1,01020304 OPT=512
         < 1234 QR REFUSED a/A OPT=1232",
    ),
    (
        "an answer longer than the client accepts becomes TC=1",
        "local all = {} for n = 1, 60 do all[n] = '192.0.2.' .. n end addAction(AllRule(), SpoofAction(all))",
        "q 1234 RD a/A
         < 1234 QR TC RD RA a/A
         q 1234 RD a/A OPT=600
         < 1234 QR TC RD RA a/A OPT=1232",
    ),
];

#[test]
fn self_generated_answers() {
    play_all(ROWS);
}
