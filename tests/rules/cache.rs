//! The packet cache: what is the same query, what is stored and for how long, what clients get.

use dnslob::base::addr::PoolSlot;
use dnslob::stats::not_cached::NotCached;

use crate::bench::Bench;
use crate::support::config::client;

const SERVER: &str = "setACL('0.0.0.0/0') newServer('127.0.1.2') ";
const CACHE: &str = "getPool(''):setCache(newPacketCache(100)) ";

/// Name, configuration besides the server, transcript.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "an answer is given again, with its own case and id, and ages",
        CACHE,
        "q 1234 RD www.Example/A
         > 2 * RD www.Example/A
         a * QR RD RA www.Example/A A=192.0.2.1,60
         < 1234 QR RD RA www.Example/A A=192.0.2.1,60
         wait 10500
         q 4321 RD WWW.example/A
         < 4321 QR RD RA WWW.example/A A=192.0.2.1,50
         wait 50000
         q 4321 RD WWW.example/A
         > 2 * RD WWW.example/A
         a * QR RD WWW.example/A A=192.0.2.1,60
         < 4321 QR RD WWW.example/A A=192.0.2.1,60
         cache 1 2",
    ),
    (
        "RD, CD, AD, type, EDNS, DO and payload are parts of the key; the cookie and padding options are not",
        CACHE,
        "q 1 RD a/A OPT=1232
         > 2 * RD a/A OPT=1232
         a * QR RD a/A A=192.0.2.1 OPT=1232
         < 1 QR RD a/A A=192.0.2.1 OPT=1232
         q 2 RD a/A OPT=1232,10:0102030405060708
         < 2 QR RD a/A A=192.0.2.1 OPT=1232
         q 3 RD CD a/A OPT=1232
         > 2 * RD CD a/A OPT=1232
         q 4 a/A OPT=1232
         > 2 * a/A OPT=1232
         q 5 RD AD a/A OPT=1232
         > 2 * RD AD a/A OPT=1232
         q 6 RD a/AAAA OPT=1232
         > 2 * RD a/AAAA OPT=1232
         q 7 RD a/A
         > 2 * RD a/A
         q 8 RD a/A OPT=1232,DO
         > 2 * RD a/A OPT=1232,DO
         q 9 RD a/A OPT=4096
         > 2 * RD a/A OPT=4096
         q 10 RD a/A OPT=1232,3:
         > 2 * RD a/A OPT=1232,3:
         cache 1 1",
    ),
    (
        "payloadRanks: sizes share answers",
        "getPool(''):setCache(newPacketCache(100, {payloadRanks={1232, 4096}})) ",
        "q 1 a/A OPT=1300
         > 2 * a/A OPT=1300
         a * QR a/A A=192.0.2.1 OPT=1232
         < 1 QR a/A A=192.0.2.1 OPT=1232
         q 2 a/A OPT=4000
         < 2 QR a/A A=192.0.2.1 OPT=1232
         q 3 a/A OPT=4096
         > 2 * a/A OPT=4096",
    ),
    (
        "an answer with a client's cookie is for it alone",
        CACHE,
        "q 1 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708
         a * QR a/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         < 1 QR a/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         q 2 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708",
    ),
    (
        "cookieHashing: it is kept for that cookie",
        "getPool(''):setCache(newPacketCache(100, {cookieHashing=true})) ",
        "q 1 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708
         a * QR a/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         < 1 QR a/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         q 2 a/A OPT=1232,10:0102030405060708
         < 2 QR a/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         q 3 a/A OPT=1232,10:0102030405060709
         > 2 * a/A OPT=1232,10:0102030405060709",
    ),
    (
        "other opcodes, classes, ANY, and queries with further records have no key",
        CACHE,
        "q 1 NOTIFY a/SOA
         > 2 * NOTIFY a/SOA
         a * QR NOTIFY a/SOA
         < 1 QR NOTIFY a/SOA
         q 2 a/TXT/CH
         > 2 * a/TXT/CH
         q 3 a/ANY
         > 2 * a/ANY
         q 4 a/A RR=3,k,250,0,00
         > 2 * a/A RR=3,k,250,0,00
         q 5 a/A TAIL=00
         > 2 * a/A TAIL=00
         cache 0 0",
    ),
    (
        "TTLs age to the millisecond, and an answer is fresh for all of its time",
        CACHE,
        "wait 700
         q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 999
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,2
         wait 1
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,1
         wait 999
         q 4 a/A
         < 4 QR a/A A=192.0.2.1,1
         wait 1
         q 5 a/A
         > 2 * a/A",
    ),
    (
        "prefetch: a popular answer is asked for again in the last part of its time, once",
        "getPool(''):setCache(newPacketCache(100, {prefetch=10})) ",
        "q 1 RD www.Example/A OPT=1232
         > 2 * RD www.Example/A OPT=1232
         a * QR RD www.Example/A A=192.0.2.1,60 OPT=1232
         < 1 QR RD www.Example/A A=192.0.2.1,60 OPT=1232
         wait 53000
         q 2 RD www.example/A OPT=1232
         < 2 QR RD www.example/A A=192.0.2.1,7 OPT=1232
         q 3 RD www.example/A OPT=1232
         < 3 QR RD www.example/A A=192.0.2.1,7 OPT=1232
         wait 2000
         q 4 RD www.example/A OPT=1232
         < 4 QR RD www.example/A A=192.0.2.1,5 OPT=1232
         wait 0
         q 5 RD www.example/A OPT=1232
         < 5 QR RD www.example/A A=192.0.2.1,5 OPT=1232
         wait 0
         > 2 * RD www.example/A OPT=1232
         q 6 RD www.example/A OPT=1232
         < 6 QR RD www.example/A A=192.0.2.1,5 OPT=1232
         a * QR RD www.example/A A=192.0.2.2,60 OPT=1232
         hold
         q 7 RD www.example/A OPT=1232
         < 7 QR RD www.example/A A=192.0.2.2,60 OPT=1232
         wait 0
         cache 6 1",
    ),
    (
        "prefetch: a failure takes nothing away, and who asks when it has expired waits for the same answer",
        "getPool(''):setCache(newPacketCache(100, {prefetch=50, prefetchHits=1})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,10
         < 1 QR a/A A=192.0.2.1,10
         wait 6000
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,4
         wait 0
         > 2 * a/A
         a * QR SERVFAIL a/A
         hold
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,4
         wait 0
         wait 4000
         q 4 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,4
         < 4 QR a/A A=192.0.2.1,4
         wait 3500
         q 5 a/A
         < 5 QR a/A A=192.0.2.1,1
         wait 0
         > 2 * a/A
         wait 600
         q 6 a/A
         hold
         a * QR a/A A=192.0.2.3,4
         hold
         wait 0
         < 6 QR a/A A=192.0.2.3,4",
    ),
    (
        "prefetch: no client learns that the servers do not answer",
        "getPool(''):setCache(newPacketCache(100, {prefetch=90, prefetchHits=1})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,100
         < 1 QR a/A A=192.0.2.1,100
         wait 20000
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,80
         wait 0
         > 2 * a/A
         wait 2500
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,78",
    ),
    (
        "who waits for a query that a rule restarts in another pool gets its answer",
        "newServer{address='127.0.1.3', pool='b'}
         addResponseAction(RCodeRule(DNSRCode.SERVFAIL), LuaResponseAction(function(dr)
         dr.pool='b' dr:restart() return DNSResponseAction.None, '' end))
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         q 3 a/A
         hold
         a * QR SERVFAIL a/A
         > 3 * a/A
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         wait 0
         < 3 QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,60",
    ),
    (
        "who waits for a query that a rule of responses drops asks for itself, all at once",
        "addResponseAction(RCodeRule(DNSRCode.REFUSED), DropResponseAction())
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         q 3 a/A
         hold
         a * QR REFUSED a/A
         ! response-rule
         wait 0
         > 2 * a/A
         > 2 * a/A",
    ),
    (
        "FORMERR is for one client alone, and a malformed cookie for none of the others",
        CACHE,
        "q 1 a/A OPT=1232,65001:00
         > 2 * a/A OPT=1232,65001:00
         q 2 a/A OPT=1232,65001:00
         hold
         a * QR FORMERR a/A
         < 1 QR FORMERR a/A
         wait 0
         > 2 * a/A OPT=1232,65001:00
         q 3 b/A OPT=1232,10:010203
         > 2 * b/A OPT=1232,10:010203
         q 4 b/A OPT=1232
         > 2 * b/A OPT=1232",
    ),
    (
        "one lost datagram loses nobody who waits",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         q 3 a/A
         hold
         wait 2500
         > 2 * a/A
         ! timeout
         a * QR a/A A=192.0.2.1,60
         < 3 QR a/A A=192.0.2.1,60
         wait 0
         < 2 QR a/A A=192.0.2.1,60",
    ),
    (
        "a query that waits is a hit, not a miss; who waits in vain is a miss",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         wait 0
         < 2 QR a/A A=192.0.2.1,60
         cache 1 1",
    ),
    (
        "stale: a failing server is asked once in temporaryFailureTTL; TTLs are staleTTL",
        "setStaleCacheEntriesTTL(86400)
         getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=4, staleTTL=33})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 3000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1,33
         wait 3000
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,33
         wait 1000
         q 4 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.7,60
         < 4 QR a/A A=192.0.2.7,60",
    ),
    (
        "stale: functions are told",
        "setStaleCacheEntriesTTL(86400) getPool(''):setCache(newPacketCache(100, {staleTTL=33}))
         addCacheHitResponseAction(AllRule(), LuaResponseAction(function(dr)
         if dr:getStaleCacheHit() then dr.dh:setAA(true) end return DNSResponseAction.HeaderModify, '' end)) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,2
         wait 3000
         q 3 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 3 QR AA a/A A=192.0.2.1,33",
    ),
    (
        "a function of a rule empties the cache",
        "local cache = newPacketCache(100) getPool(''):setCache(cache)
         addAction('flush', LuaAction(function(dq)
         cache:expungeByName('a', DNSQType.ANY, true) return DNSAction.Refused, '' end)) ",
        "q 1 b.a/A
         > 2 * b.a/A
         a * QR b.a/A A=192.0.2.1,60
         < 1 QR b.a/A A=192.0.2.1,60
         q 2 b.a/A
         < 2 QR b.a/A A=192.0.2.1,60
         q 3 flush/A
         < 3 QR REFUSED flush/A
         q 4 b.a/A
         > 2 * b.a/A
         a * QR b.a/A A=192.0.2.2,60
         < 4 QR b.a/A A=192.0.2.2,60",
    ),
    (
        "stale: REFUSED and SERVFAIL are not worth keeping, and a SERVFAIL without a question counts",
        "setStaleCacheEntriesTTL(86400)
         getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=2})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR REFUSED a/A
         < 1 QR REFUSED a/A
         wait 3000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR SERVFAIL a/A
         q 3 b/A
         > 2 * b/A
         a * QR b/A A=192.0.2.1,60
         < 3 QR b/A A=192.0.2.1,60
         wait 70000
         q 4 B/A
         > 2 * B/A
         a * QR SERVFAIL
         < 4 QR B/A A=192.0.2.1,60",
    ),
    (
        "stale: a rule that asks another pool comes first",
        "newServer{address='127.0.1.3', pool='b'} setStaleCacheEntriesTTL(86400)
         addResponseAction(RCodeRule(DNSRCode.SERVFAIL), LuaResponseAction(function(dr)
         dr.pool='b' dr:restart() return DNSResponseAction.None, '' end))
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 3000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         > 3 * a/A
         a * QR a/A A=192.0.2.9,2
         < 2 QR a/A A=192.0.2.9,2",
    ),
    (
        "parseECS: an answer about another subnet is not for all",
        "newServer({address='127.0.1.3', useClientSubnet=true, pool='p'}) addAction(AllRule(), PoolAction('p'))
         getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1 OPT=1232,8:00011800090909
         < 1 QR a/A A=192.0.2.1 OPT=1232
         from 198.51.100.1:1
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c63364",
    ),
    (
        "two shards ask once",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         swap
         q 2 a/A
         hold
         wait 1
         q 3 a/A
         hold
         swap
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         swap
         wait 1
         < 2 QR a/A A=192.0.2.1,60
         < 3 QR a/A A=192.0.2.1,60
         q 4 a/A
         < 4 QR a/A A=192.0.2.1,60",
    ),
    (
        "two shards: what cannot be stored is asked for by each, once",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         swap
         q 2 a/A
         hold
         q 3 a/A
         hold
         swap
         a * QR a/A A=192.0.2.1,0
         < 1 QR a/A A=192.0.2.1,0
         swap
         wait 1
         > 2 * a/A
         a * QR a/A A=192.0.2.1,0
         < 2 QR a/A A=192.0.2.1,0
         wait 0
         < 3 QR a/A A=192.0.2.1,0",
    ),
    (
        "two shards: while it is known that an answer cannot be stored, nobody waits for another shard",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,0
         < 1 QR a/A A=192.0.2.1,0
         q 2 a/A
         > 2 * a/A
         swap
         q 3 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,0
         < 3 QR a/A A=192.0.2.1,0",
    ),
    (
        "two shards: an expired answer that is good enough for one is for the other one too, at once",
        "getPool(''):setCache(newPacketCache(100)) setStaleCacheEntriesTTL(3600) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,5
         < 1 QR a/A A=192.0.2.1,5
         wait 6000
         swap
         wait 6000
         swap
         q 2 a/A
         > 2 * a/A
         swap
         q 3 a/A
         hold
         swap
         a * QR SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1
         swap
         wait 1
         < 3 QR a/A A=192.0.2.1
         q 4 a/A
         < 4 QR a/A A=192.0.2.1",
    ),
    (
        "an expired answer stands in for every failure (RFC 8767, 5)",
        "getPool(''):setCache(newPacketCache(100)) setStaleCacheEntriesTTL(3600) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,5
         < 1 QR a/A A=192.0.2.1,5
         wait 6000
         q 2 a/A
         > 2 * a/A
         a * QR REFUSED a/A
         < 2 QR a/A A=192.0.2.1",
    ),
    (
        "two shards: who has waited for nothing is not forgotten",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         swap
         wait 500
         q 2 a/A
         hold
         swap
         wait 2000
         ! timeout
         swap
         wait 1
         > 2 * a/A
         wait 2500
         ! timeout",
    ),
    (
        "maxTTL, minTTL, maxNegativeTTL",
        "getPool(''):setCache(newPacketCache(100, {maxTTL=20, minTTL=5, maxNegativeTTL=10})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         q 2 b/A
         > 2 * b/A
         a * QR b/A A=192.0.2.1,4
         < 2 QR b/A A=192.0.2.1,4
         q 3 c/A
         > 2 * c/A
         a * QR NXDOMAIN c/A RR=2,x,SOA,900,00
         < 3 QR NXDOMAIN c/A RR=2,x,SOA,900,00
         q 4 b/A
         > 2 * b/A
         a * QR b/A A=192.0.2.1,4
         < 4 QR b/A A=192.0.2.1,4
         wait 9000
         q 5 c/A
         < 5 QR NXDOMAIN c/A RR=2,x,SOA,891,00
         wait 1000
         q 6 c/A
         > 2 * c/A
         a * QR c/A A=192.0.2.1
         < 6 QR c/A A=192.0.2.1
         q 7 a/A
         < 7 QR a/A A=192.0.2.1,50
         wait 10000
         q 8 a/A
         > 2 * a/A",
    ),
    (
        "temporaryFailureTTL, and what a rule says instead",
        "addAction('b', SetTempFailureCacheTTLAction(0)) getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=5})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 1 QR SERVFAIL a/A
         q 2 a/A
         < 2 QR SERVFAIL a/A
         wait 5000
         q 3 a/A
         > 2 * a/A
         q 4 b/A
         > 2 * b/A
         a * QR SERVFAIL b/A
         < 4 QR SERVFAIL b/A
         q 5 b/A
         > 2 * b/A",
    ),
    (
        "dontAge",
        "getPool(''):setCache(newPacketCache(100, {dontAge=true})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         wait 30000
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,60",
    ),
    (
        "truncatedTTL",
        "getPool(''):setCache(newPacketCache(100, {truncatedTTL=5})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR TC a/A
         < 1 QR TC a/A
         q 2 a/A
         < 2 QR TC a/A",
    ),
    (
        "rules keep queries and responses out",
        "addAction('q', SetSkipCacheAction()) addResponseAction('r', SetSkipCacheResponseAction()) \
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 q/A
         > 2 * q/A
         a * QR q/A A=192.0.2.1
         < 1 QR q/A A=192.0.2.1
         q 2 q/A
         > 2 * q/A
         q 3 r/A
         > 2 * r/A
         a * QR r/A A=192.0.2.1
         < 3 QR r/A A=192.0.2.1
         q 4 r/A
         > 2 * r/A
         a * QR r/A A=192.0.2.1
         < 4 QR r/A A=192.0.2.1
         cache 0 2",
    ),
    (
        "the chains run: misses, insertions, hits",
        "addCacheMissAction('m', RCodeAction(DNSRCode.REFUSED)) \
         addCacheInsertedResponseAction(AllRule(), SetMaxReturnedTTLResponseAction(30)) \
         addCacheHitResponseAction('drop', DropResponseAction()) \
         addCacheHitResponseAction(AllRule(), SetMaxReturnedTTLResponseAction(20)) \
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 m/A
         < 1 QR REFUSED m/A
         q 2 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,30
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,20
         q 4 drop/A
         > 2 * drop/A
         a * QR drop/A A=192.0.2.1,60
         < 4 QR drop/A A=192.0.2.1,30
         q 5 drop/A
         ! response-rule
         hits cache-miss 1
         hits cache-inserted 2
         hits cache-hit 1 1",
    ),
    (
        "response rules see a response once, and what they make of it is stored",
        "addResponseAction(AllRule(), SetMinTTLResponseAction(120)) getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,120
         wait 100000
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,20
         hits response 1",
    ),
    (
        "a query like an outstanding one waits for its answer",
        CACHE,
        "q 1 a.b/A
         > 2 * a.b/A
         q 2 A.b/A
         hold
         q 3 a.B/A
         hold
         wait 500
         a * QR a.b/A A=192.0.2.1,60
         < 1 QR a.b/A A=192.0.2.1,60
         wait 0
         < 3 QR a.B/A A=192.0.2.1,60
         < 2 QR A.b/A A=192.0.2.1,60
         cache 2 1",
    ),
    (
        "coalesce=false",
        "getPool(''):setCache(newPacketCache(100, {coalesce=false})) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         > 2 * a/A",
    ),
    (
        "those that wait get an answer that is not stored, without another client's cookie",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         a * QR a/A A=192.0.2.1,0
         < 1 QR a/A A=192.0.2.1,0
         wait 0
         < 2 QR a/A A=192.0.2.1,0
         q 3 b/A OPT=1232
         > 2 * b/A OPT=1232
         q 4 b/A OPT=1232,10:0102030405060708
         hold
         a * QR b/A A=192.0.2.1 OPT=1232,10:0102
         < 3 QR b/A A=192.0.2.1 OPT=1232,10:0102
         wait 0
         < 4 QR b/A A=192.0.2.1 OPT=1232
         q 5 c/A OPT=1232,10:0102030405060708
         > 2 * c/A OPT=1232,10:0102030405060708
         q 6 c/A OPT=1232
         hold
         a * QR c/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         < 5 QR c/A A=192.0.2.1 OPT=1232,10:01020304050607081122334455667788
         wait 0
         < 6 QR c/A A=192.0.2.1 OPT=1232
         q 7 d/A OPT=1232,10:0102030405060708
         > 2 * d/A OPT=1232,10:0102030405060708
         q 8 d/A OPT=1232
         hold
         a * QR d/A OPT=1232,x1,10:01020304050607081122334455667788
         < 7 QR d/A OPT=1232,x1,10:01020304050607081122334455667788
         wait 0
         > 2 * d/A OPT=1232",
    ),
    (
        "those that wait get a failure without a question, as if it had theirs",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         q 2 A/A
         hold
         q 3 a/A
         hold
         a * QR REFUSED
         < 1 QR REFUSED
         wait 0
         < 3 QR REFUSED a/A
         < 2 QR REFUSED A/A
         cache 2 1
         q 4 b/A
         > 2 * b/A
         q 5 b/A
         hold
         a * QR SERVFAIL
         < 4 QR SERVFAIL
         wait 0
         < 5 QR SERVFAIL b/A
         q 6 b/A
         > 2 * b/A",
    ),
    (
        "stale: what servers have answered since supersedes it, stored or not",
        "setStaleCacheEntriesTTL(86400) addResponseAction('skip', SetSkipCacheResponseAction())
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         a * QR NXDOMAIN a/A RR=2,x,SOA,1,00
         < 1 QR NXDOMAIN a/A RR=2,x,SOA,1,00
         wait 2000
         q 2 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.2,0
         < 2 QR a/A A=192.0.2.2,0
         q 3 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 3 QR SERVFAIL a/A
         q 4 b/A OPT=1232
         > 2 * b/A OPT=1232
         a * QR b/A A=192.0.2.1,1 OPT=1232
         < 4 QR b/A A=192.0.2.1,1 OPT=1232
         wait 2000
         q 5 b/A OPT=1232,10:0102030405060708
         > 2 * b/A OPT=1232,10:0102030405060708
         a * QR b/A A=192.0.2.2,60 OPT=1232,10:01020304050607081122334455667788
         < 5 QR b/A A=192.0.2.2,60 OPT=1232,10:01020304050607081122334455667788
         q 6 b/A OPT=1232
         > 2 * b/A OPT=1232
         wait 2500
         < 6 QR b/A A=192.0.2.2,60 OPT=1232,15:0003",
    ),
    (
        "stale: an answer that a rule keeps out supersedes it",
        "setStaleCacheEntriesTTL(86400)
         addResponseAction(AndRule{QNameRule('skip'), RCodeRule(DNSRCode.NXDOMAIN)}, SetSkipCacheResponseAction())
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 skip/A
         > 2 * skip/A
         a * QR skip/A A=192.0.2.1,1
         < 1 QR skip/A A=192.0.2.1,1
         wait 2000
         q 2 skip/A
         > 2 * skip/A
         a * QR NXDOMAIN skip/A RR=2,x,SOA,60,00
         < 2 QR NXDOMAIN skip/A RR=2,x,SOA,60,00
         q 3 skip/A
         > 2 * skip/A
         a * QR SERVFAIL skip/A
         < 3 QR SERVFAIL skip/A",
    ),
    (
        "stale: it hides neither what a policy blocks nor what DNSSEC finds forged, and no client's own fault",
        "setStaleCacheEntriesTTL(86400) getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=0})) ",
        "q 1 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR a/A A=192.0.2.1,1 OPT=1232
         < 1 QR a/A A=192.0.2.1,1 OPT=1232
         wait 2000
         q 2 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR REFUSED a/A OPT=1232,15:000f
         < 2 QR REFUSED a/A OPT=1232,15:000f
         q 3 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232,15:0016,15:0006
         < 3 QR SERVFAIL a/A OPT=1232,15:0016,15:0006
         q 4 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR FORMERR a/A OPT=1232
         < 4 QR FORMERR a/A OPT=1232
         q 5 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232,15:0016
         < 5 QR a/A A=192.0.2.1,60 OPT=1232,15:0003
         cache 1 4",
    ),
    (
        "stale: an answer counts once, as a hit",
        "setStaleCacheEntriesTTL(86400) getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=1})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,1
         < 1 QR a/A A=192.0.2.1,1
         cache 0 1
         wait 2000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1,60
         cache 1 1
         wait 2000
         q 3 a/A
         > 2 * a/A
         q 4 a/A
         hold
         wait 2500
         < 3 QR a/A A=192.0.2.1,60
         < 4 QR a/A A=192.0.2.1,60
         cache 3 1",
    ),
    (
        "when the leader times out, one that waits asks again for all",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         wait 100
         q 2 a/A
         hold
         wait 1700
         q 3 a/A
         hold
         q 4 a/A
         hold
         wait 300
         > 2 * a/A
         ! timeout
         a * QR a/A A=192.0.2.1,60
         < 4 QR a/A A=192.0.2.1,60
         wait 0
         < 2 QR a/A A=192.0.2.1,60
         < 3 QR a/A A=192.0.2.1,60",
    ),
    (
        "stale answers: when no server answers in time, when one answers SERVFAIL",
        "setStaleCacheEntriesTTL(3600) getPool(''):setCache(newPacketCache(100, {staleTTL=7})) ",
        "q 1 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR a/A A=192.0.2.1,60 OPT=1232
         < 1 QR a/A A=192.0.2.1,60 OPT=1232
         wait 61000
         q 2 A/A OPT=1232
         > 2 * A/A OPT=1232
         q 3 a/A OPT=1232
         hold
         wait 2100
         < 2 QR A/A A=192.0.2.1,7 OPT=1232,15:0003
         < 3 QR a/A A=192.0.2.1,7 OPT=1232,15:0003
         wait 5000
         q 4 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232
         < 4 QR a/A A=192.0.2.1,7 OPT=1232,15:0003
         wait 3600000
         q 5 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232
         < 5 QR SERVFAIL a/A OPT=1232",
    ),
    (
        "staleOnFailure=false: only when there is no server",
        "setStaleCacheEntriesTTL(3600) getPool(''):setCache(newPacketCache(100, {staleOnFailure=false})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         wait 61000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR SERVFAIL a/A",
    ),
    (
        "a pool without a server: a stale answer, or none",
        "setStaleCacheEntriesTTL(60) setServFailWhenNoServer(true) addAction('b.', PoolAction('none')) \
         local c = newPacketCache(100) getPool(''):setCache(c) getPool('none'):setCache(c) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,10
         < 1 QR a/A A=192.0.2.1,10
         q 2 b/A
         < 2 QR SERVFAIL b/A",
    ),
    (
        "pools that share a cache share its answers",
        "addAction(QNameRule('a'), PoolAction('p', false)) addAction(TagRule('x'), PoolAction('p')) \
         addAction(NetmaskGroupRule('192.0.2.0/24'), PoolAction('')) \
         local c = newPacketCache(100) getPool(''):setCache(c) getPool('p'):setCache(c) newServer{address='127.0.1.3', pool='p'} ",
        "q 1 a/A
         > 3 * a/A
         a * QR a/A A=192.0.2.1
         < 1 QR a/A A=192.0.2.1
         from 192.0.2.9:53
         q 2 a/A
         < 2 QR a/A A=192.0.2.1",
    ),
    (
        "client subnets have answers of their own; one that is valid for all is shared",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p')) \
         getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1 OPT=1232,8:00011818c00002
         < 1 QR a/A A=192.0.2.1
         from 192.0.2.78:1
         q 2 a/A
         < 2 QR a/A A=192.0.2.1
         from 198.51.100.1:1
         q 3 a/A
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR a/A A=192.0.2.3 OPT=1232,8:00011800c63364
         < 3 QR a/A A=192.0.2.3
         from 203.0.113.5:1
         q 4 a/A
         < 4 QR a/A A=192.0.2.3",
    ),
    (
        "a query whose name a rule has changed bypasses it",
        "addAction('x', LuaAction(function(dq) dq:changeName(newDNSName('a')) return DNSAction.None, '' end)) \
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 x/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1
         < 1 QR x/A A=192.0.2.1
         cache 0 0",
    ),
    (
        "over a connection an answer may be longer: datagrams do not share it",
        "addLocal('127.0.0.1:5300') setTCPToUDP(true) getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1
         < 1 QR a/A A=192.0.2.1
         stream
         q 2 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1
         < 2 QR a/A A=192.0.2.1
         q 3 a/A
         < 3 QR a/A A=192.0.2.1",
    ),
];

#[test]
fn transcripts() {
    let wrong: Vec<String> = ROWS
        .iter()
        .filter_map(|(name, configuration, transcript)| {
            let played = Bench::new(&format!("{SERVER}{configuration}")).try_play(transcript);
            played.err().map(|wrong| format!("{name}: {wrong}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a server answers to `1 a/A`, and why that is not stored.
const REFUSED: &[(&str, NotCached)] = &[
    ("a/A", NotCached::NoTtl),
    ("a/A A=192.0.2.1,0", NotCached::TtlTooShort),
    ("a/A A=192.0.2.1,2147483648", NotCached::TtlInvalid),
    ("TC a/A A=192.0.2.1", NotCached::Truncated),
    ("a/A A=192.0.2.1 TAIL=00", NotCached::Malformed),
    ("a/A A=192.0.2.1 CUT=30", NotCached::Malformed),
    ("a/A A=192.0.2.1 RR=3,k,250,0,00", NotCached::Signed),
    ("a/A A=192.0.2.1 OPT=1232,10:01", NotCached::Cookie),
    ("FORMERR a/A RR=2,x,SOA,900,00", NotCached::NoTtl),
];

#[test]
fn what_is_not_stored_is_counted_by_reason() {
    for (answer, reason) in REFUSED {
        let mut bench = Bench::new(&format!("{SERVER}{CACHE}"));
        bench.play(answer, &format!("q 1 a/A\n> 2 * a/A\na * QR {answer}\n< 1 QR {answer}"));
        let pool = bench.live_state.pool(PoolSlot(0));
        assert_eq!((pool.cache_inserted, pool.cache_not_stored[*reason]), (0, 1), "{answer}");
        bench.play(answer, "q 2 a/A\n> 2 * a/A");
    }
}

#[test]
fn another_answer_than_the_awaited_never_enters() {
    let mut bench = Bench::new(&format!("{SERVER}{CACHE}"));
    bench.play("another name", "q 1 a/A\n> 2 * a/A\na * QR b/A A=192.0.2.6\n! response-mismatch");
    bench.play("the answer", "a * QR a/A A=192.0.2.1\n< 1 QR a/A A=192.0.2.1\nq 2 b/A\n> 2 * b/A");
}

#[test]
fn a_reload_keeps_the_entries() {
    let mut bench = Bench::new(&format!("{SERVER}{CACHE}"));
    bench.play("before", "q 1 a/A\n> 2 * a/A\na * QR a/A A=192.0.2.1,60\n< 1 QR a/A A=192.0.2.1,60");
    bench.reload(&format!("{SERVER}{CACHE}addAction('never', DropAction())"));
    bench.play("after", "q 2 a/A\n< 2 QR a/A A=192.0.2.1,60");
    bench.reload(&format!("{SERVER}getPool(''):setCache(newPacketCache(50)) "));
    bench.play("another size", "q 3 a/A\n> 2 * a/A");
    // The answer to a query of the time before does not get into the new cache.
    bench.reload(&format!("{SERVER}{CACHE}"));
    bench.play("late", "a * QR a/A A=192.0.2.1,60\n< 3 QR a/A A=192.0.2.1,60\nq 4 a/A\n> 2 * a/A");
}

#[test]
fn queries_that_wait_are_not_lost_with_the_cache() {
    let mut bench = Bench::new(&format!("{SERVER}{CACHE}"));
    bench.play("one waits", "q 1 a/A\n> 2 * a/A\nq 2 a/A\nhold");
    bench.reload(SERVER);
    bench.play("the leader is answered", "a * QR a/A A=192.0.2.1\n< 1 QR a/A A=192.0.2.1");
    bench.play("so is the other", "wait 0\n< 2 QR a/A A=192.0.2.1");
    assert_eq!(bench.shard.outstanding(), 0);
}

#[test]
fn ten_thousand_clients_that_ask_the_same_cost_one_query() {
    let mut bench = Bench::new(&format!("{SERVER}{CACHE}"));
    bench.play("the first", "q 0 new/A\n> 2 * new/A");
    for n in 1..10_000_u32 {
        let from = client(&format!("127.{}.{}.1:1000", n >> 8, n & 255));
        let out = bench.query(from, &crate::support::message::message("7 new/A"));
        assert_eq!(out, [crate::bench::Out::Hold], "client {n}");
    }
    bench.play("its answer", "a * QR new/A A=192.0.2.1\n< 0 QR new/A A=192.0.2.1");
    let mut answered = 0;
    for _ in 0..100 {
        answered += bench.tick(0).len();
    }
    assert_eq!((answered, bench.shard.outstanding()), (9_999, 0));
}

#[test]
fn names_of_a_list_are_resolved_when_the_cache_begins() {
    let path = std::env::temp_dir().join(format!("dnslob-names-{}", std::process::id()));
    std::fs::write(&path, "a A\nb.example\n").expect("a file");
    let cache = format!("getPool(''):setCache(newPacketCache(100, {{warmUp={path:?}}})) ");
    let mut bench = Bench::new(&format!("{SERVER}{cache}"));
    let asked = ["RD a/A", "RD a/A OPT=1232", "RD b.example/A", "RD b.example/A OPT=1232"];
    let more = ["RD b.example/AAAA", "RD b.example/AAAA OPT=1232"];
    let lines = asked.iter().chain(&more).fold(String::new(), |lines, query| lines + "> 2 * " + query + "\n");
    bench.play("the names", &format!("wait 0\n{lines}"));
    // The last one that was asked for is answered first.
    bench.play("an answer", "a * QR RD b.example/AAAA AAAA=2001:db8::1,60 OPT=1232\nhold");
    bench.play(
        "a hit",
        "q 1 RD B.example/AAAA OPT=1232\n< 1 QR RD B.example/AAAA AAAA=2001:db8::1,60 OPT=1232",
    );
    let failed = lines.lines().take(5).collect::<Vec<_>>().join("\n");
    bench.play("what has failed is asked for once more", &format!("wait 3000\n{failed}"));
    bench.play("nobody gets the time-outs", "wait 3000\nq 2 RD a/A\n> 2 * RD a/A");
    bench.reload(&format!("{SERVER}{cache}addAction('never', DropAction())"));
    bench.play("once", "wait 0");
    std::fs::remove_file(path).expect("the file");
}

#[test]
fn of_a_list_only_what_is_not_there_is_asked_for() {
    let path = std::env::temp_dir().join(format!("dnslob-names-known-{}", std::process::id()));
    std::fs::write(&path, "a A\n").expect("a file");
    let cache = |options: &str| format!("{SERVER}getPool(''):setCache(newPacketCache(100, {{{options}}})) ");
    let mut bench = Bench::new(&cache(""));
    let known = "q 1 RD a/A\n> 2 * RD a/A\na * QR RD a/A A=192.0.2.1,60\n< 1 QR RD a/A A=192.0.2.1,60";
    bench.play("a client", known);
    bench.reload(&cache(&format!("warmUp={path:?}")));
    bench
        .play("the other form", "wait 0\n> 2 * RD a/A OPT=1232\na * QR RD a/A A=192.0.2.1,60 OPT=1232\nhold");
    bench.play("no more", "wait 3000");

    let mut bench = Bench::new(&cache(&format!("warmUp={path:?}, snapshot='/nowhere/to/be/read'")));
    bench.play("a snapshot is being read, and may have it", "wait 0\nwait 3000");
    bench.snapshot.pools[0].cache.as_ref().expect("a cache").end_reading();
    bench.play("it had not", "wait 1000\n> 2 * RD a/A\n> 2 * RD a/A OPT=1232");
    std::fs::remove_file(path).expect("the file");
}

#[test]
fn stale_answers_without_a_server_count_once() {
    let mut bench = Bench::new(
        "setACL('0.0.0.0/0') newServer{address='127.0.1.2', pool='p'} setStaleCacheEntriesTTL(3600)
         setServFailWhenNoServer(true) addAction(NetmaskGroupRule('192.0.2.0/24'), PoolAction('p'))
         local c = newPacketCache(100) getPool(''):setCache(c) getPool('p'):setCache(c) ",
    );
    bench.play(
        "of the pool with a server",
        "from 192.0.2.9:53\nq 1 a/A\n> 2 * a/A\na * QR a/A A=192.0.2.1,5\n< 1 QR a/A A=192.0.2.1,5",
    );
    bench.play("stale", "wait 6000\nfrom 198.51.100.1:53\nq 2 a/A\n< 2 QR a/A A=192.0.2.1,60\ncache 1 0");
    bench.play("none", "q 3 b/A\n< 3 QR SERVFAIL b/A\ncache 1 1");
}

#[test]
fn a_list_that_is_replaced_while_it_is_under_way_says_nothing_of_the_new_one() {
    let path = std::env::temp_dir().join(format!("dnslob-names-replaced-{}", std::process::id()));
    let configuration = format!("{SERVER}getPool(''):setCache(newPacketCache(100, {{warmUp={path:?}}})) ");
    std::fs::write(&path, "a A\n").expect("a file");
    let mut bench = Bench::new(&configuration);
    bench.play("the old list", "wait 0\n> 2 * RD a/A\n> 2 * RD a/A OPT=1232");
    std::fs::write(&path, "b A\n").expect("a file");
    bench.reload(&configuration);
    let asked = "> 2 * RD b/A\n> 2 * RD b/A OPT=1232";
    bench.play("the new list", &format!("wait 1000\n{asked}"));
    bench.play("the old one ends", "wait 1500");
    bench.play("what has failed of the new one is asked for once more", &format!("wait 1000\n{asked}"));
    bench.play("once", "wait 3000\nwait 3000");
    std::fs::remove_file(path).expect("the file");
}

#[test]
fn a_client_without_edns_that_waits_gets_no_more_than_512_bytes() {
    let cache = "setStaleCacheEntriesTTL(86400) addAction('a', SetEDNSOptionAction(65002, 'x')) ";
    let mut bench = Bench::new(&format!("{SERVER}{CACHE}{cache}"));
    let many: String = (0..40).map(|n| format!(" A=192.0.2.{n},60")).collect();
    bench.play("two ask", "q 1 a/A\n> 2 * a/A OPT=1232,65002:78\nq 2 a/A\nhold");
    bench.play("both", &format!("a * QR a/A{many} OPT=1232\n< 1 QR TC a/A\nwait 0\n< 2 QR TC a/A"));
    bench.play(
        "stale",
        "wait 70000\nq 3 a/A\n> 2 * a/A OPT=1232,65002:78\na * QR SERVFAIL a/A OPT=1232\n< 3 QR TC a/A",
    );
}

#[test]
fn a_pool_without_a_server_holds_up_no_other_list() {
    let path = std::env::temp_dir().join(format!("dnslob-names-of-two-{}", std::process::id()));
    std::fs::write(&path, "a A\n").expect("a file");
    let pools = format!(
        "newServer({{address='127.0.1.3', pool='b'}})
         getPool(''):setCache(newPacketCache(100, {{warmUp={path:?}}}))
         getPool('b'):setCache(newPacketCache(200, {{warmUp={path:?}}})) "
    );
    let mut bench = Bench::new(&pools);
    bench.play("the pool with a server", "wait 0\n> 3 * RD a/A\n> 3 * RD a/A OPT=1232");
    std::fs::remove_file(path).expect("the file");
}
