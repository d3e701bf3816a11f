//! The packet cache: what is kept for whom when rules change queries, servers fail or an entry is renewed,
//! and what those get who wait.

use dnslob::base::addr::PoolSlot;

use crate::bench::Bench;

const SERVER: &str = "setACL('0.0.0.0/0') newServer('127.0.1.2') ";
const CACHE: &str = "getPool(''):setCache(newPacketCache(100)) ";
const PREFETCH: &str = "getPool(''):setCache(newPacketCache(100, {prefetch=50, prefetchHits=1, minTTL=5})) ";

/// Name, configuration besides the server, transcript.
const ROWS: &[(&str, &str, &str)] = &[
    (
        "a miss rule that changes a query changes its key: RD",
        "addCacheMissAction(NetmaskGroupRule('192.0.2.0/24'), SetNoRecurseAction())
         getPool(''):setCache(newPacketCache(100)) ",
        "from 192.0.2.9:53
         q 1 RD a/A
         > 2 * a/A
         a * QR REFUSED a/A
         < 1 QR RD REFUSED a/A
         from 198.51.100.1:53
         q 2 RD a/A
         > 2 * RD a/A
         a * QR RD a/A A=192.0.2.1,60
         < 2 QR RD a/A A=192.0.2.1,60
         from 192.0.2.9:53
         q 3 RD a/A
         < 3 QR RD a/A A=192.0.2.1,60
         q 4 RD b/A
         > 2 * b/A
         a * QR b/A A=192.0.2.2,60
         < 4 QR RD b/A A=192.0.2.2,60
         q 5 RD b/A
         < 5 QR RD b/A A=192.0.2.2,60
         cache 2 3",
    ),
    (
        "a miss rule that changes a query changes its key: CD",
        "addCacheMissAction(NetmaskGroupRule('192.0.2.0/24'), SetDisableValidationAction())
         getPool(''):setCache(newPacketCache(100)) ",
        "from 192.0.2.9:53
         q 1 a/A
         > 2 * CD a/A
         a * QR CD a/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         from 198.51.100.1:53
         q 2 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.2,60
         < 2 QR a/A A=192.0.2.2,60
         q 3 CD a/A
         < 3 QR CD a/A A=192.0.2.1,60",
    ),
    (
        "a miss rule that changes a query, and a server that fails: asked once",
        "setStaleCacheEntriesTTL(3600) addCacheMissAction(AllRule(), SetDisableValidationAction())
         getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=25})) ",
        "q 1 a/A
         > 2 * CD a/A
         a * QR CD a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 3000
         q 2 a/A
         > 2 * CD a/A
         a * QR CD SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1,60
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,60",
    ),
    (
        "a response with another opcode is none",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         a * QR UPDATE a/A A=192.0.2.1,60
         ! response-mismatch
         a * QR a/A A=192.0.2.2,60
         < 1 QR a/A A=192.0.2.2,60
         q 2 NOTIFY a/SOA
         > 2 * NOTIFY a/SOA
         a * QR a/SOA
         ! response-mismatch
         a * QR NOTIFY NOTIMP a/SOA
         < 2 QR NOTIFY NOTIMP a/SOA",
    ),
    (
        "a miss rule that changes the name keeps the answer out",
        "addCacheMissAction(NetmaskGroupRule('192.0.2.0/24'), LuaAction(function(dq)
         dq:changeName(newDNSName('x')) return DNSAction.None, '' end))
         getPool(''):setCache(newPacketCache(100)) ",
        "from 192.0.2.9:53
         q 1 a/A
         > 2 * x/A
         a * QR x/A A=192.0.2.1,60
         < 1 QR a/A A=192.0.2.1,60
         from 198.51.100.1:53
         q 2 a/A
         > 2 * a/A",
    ),
    (
        "a miss rule that adds an option changes the key, and the query waits for no other one",
        "addCacheMissAction(NetmaskGroupRule('192.0.2.0/24'), SetEDNSOptionAction(65002, 'x'))
         getPool(''):setCache(newPacketCache(100)) ",
        "from 198.51.100.1:53
         q 1 a/A OPT=1232
         > 2 * a/A OPT=1232
         from 192.0.2.9:53
         q 2 a/A OPT=1232
         > 2 * a/A OPT=1232,65002:78
         a * QR a/A A=192.0.2.2,60 OPT=1232
         < 2 QR a/A A=192.0.2.2,60 OPT=1232
         from 198.51.100.1:53
         q 3 a/A OPT=1232
         hold
         from 192.0.2.9:53
         q 4 a/A OPT=1232
         < 4 QR a/A A=192.0.2.2,60 OPT=1232",
    ),
    (
        "a miss rule that changes the subnet changes the key",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         addCacheMissAction(QNameRule('a'), SetECSAction('203.0.113.0/24'))
         addCacheMissAction(QNameRule('b'), SetDisableECSAction())
         getPool('p'):setCache(newPacketCache(100)) ",
        "from 192.0.2.9:53
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800cb0071
         a * QR a/A A=192.0.2.1,60 OPT=1232
         < 1 QR a/A A=192.0.2.1,60 OPT=1232
         from 198.51.100.1:53
         q 2 a/A OPT=1232
         < 2 QR a/A A=192.0.2.1,60 OPT=1232
         q 3 b/A OPT=1232
         > 3 * b/A OPT=1232
         a * QR b/A A=192.0.2.1,60 OPT=1232
         < 3 QR b/A A=192.0.2.1,60 OPT=1232
         from 192.0.2.9:53
         q 4 b/A OPT=1232
         < 4 QR b/A A=192.0.2.1,60 OPT=1232",
    ),
    (
        "who waits for a second query that fails waits for the third, and is not dropped beside it",
        CACHE,
        "q 1 a/A
         > 2 * a/A
         wait 500
         q 2 a/A
         hold
         wait 1000
         q 3 a/A
         hold
         wait 600
         > 2 * a/A
         ! timeout
         wait 1000
         q 4 a/A
         hold
         wait 1200
         > 2 * a/A
         ! timeout
         a * QR a/A A=192.0.2.1,60
         < 4 QR a/A A=192.0.2.1,60
         wait 0
         < 2 QR a/A A=192.0.2.1,60",
    ),
    (
        "whom no server answers gets what another one has got meanwhile",
        "getPool(''):setCache(newPacketCache(100, {coalesce=false})) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,60
         wait 2500
         < 1 QR a/A A=192.0.2.1,58
         cache 1 1",
    ),
    (
        "two shards: those who wait get what the other shard has got, though their own query is outstanding",
        "newServer('127.0.1.3') setServerPolicy(roundrobin) getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         swap
         q 3 x/A
         > 3 * x/A
         a * QR x/A A=192.0.2.9,60
         < 3 QR x/A A=192.0.2.9,60
         q 4 a/A
         hold
         q 5 a/A
         hold
         q 6 a/A
         hold
         swap
         wait 2500
         > 3 * a/A
         ! timeout
         swap
         wait 1
         > 2 * a/A
         swap
         a3 * QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,60
         swap
         wait 1
         < 5 QR a/A A=192.0.2.1,60
         < 6 QR a/A A=192.0.2.1,60
         wait 2500
         < 4 QR a/A A=192.0.2.1,58",
    ),
    (
        "who waits for a query that a server has not answered is helped by another server",
        "newServer('127.0.1.3') setServerPolicy(firstAvailable) getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         wait 2500
         > 3 * a/A
         ! timeout
         a3 * QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,60",
    ),
    (
        "what a server of last resort says, because a datagram was lost, is for those who wait only",
        "newServer{address='127.0.1.3', order=2} setServerPolicy(firstAvailable)
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         q 3 a/A
         hold
         wait 2500
         > 3 * a/A
         ! timeout
         a3 * QR a/A A=192.0.2.1,60
         < 3 QR a/A A=192.0.2.1,60
         wait 1
         < 2 QR a/A A=192.0.2.1,60
         q 4 a/A
         < 4 QR a/A A=192.0.2.1,60
         wait 5000
         q 5 a/A
         > 2 * a/A",
    ),
    (
        "the same where other servers are of the same order",
        "newServer{address='127.0.1.3', order=2} newServer('127.0.1.4') setServerPolicy(ordered(firstAvailable))
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         wait 2500
         > 4 * a/A
         ! timeout
         a4 * QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,60
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,60",
    ),
    (
        "the same where all servers are equal",
        "newServer{address='127.0.1.3', order=2} setServerPolicy(concentrate)
         getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A
         > 2 * a/A
         q 2 a/A
         hold
         wait 2500
         > 3 * a/A
         ! timeout
         a3 * QR a/A A=192.0.2.1,60
         < 2 QR a/A A=192.0.2.1,60
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,60",
    ),
    (
        "a failure for every subnet hides no answer for one",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,60 OPT=1232,8:00011818c00002
         < 1 QR a/A A=192.0.2.1,60 OPT=1232
         from 198.51.100.1:1
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR SERVFAIL a/A OPT=1232,8:00011800c63364
         < 2 QR SERVFAIL a/A OPT=1232
         q 3 a/A OPT=1232
         < 3 QR SERVFAIL a/A OPT=1232
         from 192.0.2.77:1
         q 4 a/A OPT=1232
         < 4 QR a/A A=192.0.2.1,60 OPT=1232",
    ),
    (
        "a failure for a subnet is over with a newer answer for every subnet, though that has expired",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232,8:00011818c00002
         < 1 QR SERVFAIL a/A OPT=1232
         wait 1000
         q 2 a/A OPT=1232
         < 2 QR SERVFAIL a/A OPT=1232
         from 198.51.100.1:1
         q 3 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR a/A A=192.0.2.1,3 OPT=1232,8:00011800c63364
         < 3 QR a/A A=192.0.2.1,3 OPT=1232
         from 192.0.2.77:1
         q 4 a/A OPT=1232
         < 4 QR a/A A=192.0.2.1,3 OPT=1232
         wait 4000
         q 5 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002",
    ),
    (
        "stale: a failure for one subnet says nothing of another one's own answer",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         setStaleCacheEntriesTTL(3600) getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,2 OPT=1232,8:00011818c00002
         < 1 QR a/A A=192.0.2.1,2 OPT=1232
         from 198.51.100.1:1
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR a/A A=192.0.2.2,2 OPT=1232,8:00011818c63364
         < 2 QR a/A A=192.0.2.2,2 OPT=1232
         wait 3000
         from 192.0.2.77:1
         q 3 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232
         < 3 QR a/A A=192.0.2.1,60 OPT=1232,15:0003
         from 198.51.100.1:1
         q 4 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR a/A A=192.0.2.4,2 OPT=1232,8:00011818c63364
         < 4 QR a/A A=192.0.2.4,2 OPT=1232
         from 192.0.2.77:1
         q 5 a/A OPT=1232
         < 5 QR a/A A=192.0.2.1,60 OPT=1232,15:0003",
    ),
    (
        "prefetch: a renewal that cannot be kept leaves the answer for every subnet",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         getPool('p'):setCache(newPacketCache(100, {parseECS=true, prefetch=50, prefetchHits=1})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,10 OPT=1232,8:00011800c00002
         < 1 QR a/A A=192.0.2.1,10 OPT=1232
         wait 6000
         from 198.51.100.1:1
         q 2 a/A OPT=1232
         < 2 QR a/A A=192.0.2.1,4 OPT=1232
         wait 0
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR a/A A=192.0.2.2,0 OPT=1232,8:00011818c63364
         hold
         q 3 a/A OPT=1232
         < 3 QR a/A A=192.0.2.1,4 OPT=1232",
    ),
    (
        "prefetch: a renewal that fails in any way leaves the answer",
        PREFETCH,
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,10
         < 1 QR a/A A=192.0.2.1,10
         wait 6000
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,4
         wait 0
         > 2 * a/A
         a * QR NOTIMP a/A A=192.0.2.2,3600
         hold
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,4",
    ),
    (
        "prefetch: an answer for every subnet is renewed, whoever's it was",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         getPool('p'):setCache(newPacketCache(100, {parseECS=true, prefetch=50, prefetchHits=2})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,10 OPT=1232,8:00011800c00002
         < 1 QR a/A A=192.0.2.1,10 OPT=1232
         wait 6000
         q 2 a/A OPT=1232
         < 2 QR a/A A=192.0.2.1,4 OPT=1232
         from 198.51.100.1:1
         q 3 a/A OPT=1232
         < 3 QR a/A A=192.0.2.1,4 OPT=1232
         wait 0
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR SERVFAIL a/A OPT=1232
         hold
         wait 2000
         q 4 a/A OPT=1232
         < 4 QR a/A A=192.0.2.1,2 OPT=1232
         q 5 a/A OPT=1232
         < 5 QR a/A A=192.0.2.1,2 OPT=1232
         wait 0
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR a/A A=192.0.2.2,10 OPT=1232,8:00011800c63364
         hold
         from 192.0.2.77:1
         q 6 a/A OPT=1232
         < 6 QR a/A A=192.0.2.2,10 OPT=1232",
    ),
    (
        "stale: who fails for one subnet has failed for all that get the same answer",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         setStaleCacheEntriesTTL(3600) getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,2 OPT=1232,8:00011800c00002
         < 1 QR a/A A=192.0.2.1,2 OPT=1232
         wait 3000
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232
         < 2 QR a/A A=192.0.2.1,60 OPT=1232,15:0003
         from 198.51.100.1:1
         q 3 a/A OPT=1232
         < 3 QR a/A A=192.0.2.1,60 OPT=1232,15:0003",
    ),
    (
        "prefetch: a renewal that clients have waited for takes the place of what has expired",
        "setStaleCacheEntriesTTL(3600)
         getPool(''):setCache(newPacketCache(100, {prefetch=50, prefetchHits=1})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,4
         < 1 QR a/A A=192.0.2.1,4
         wait 3000
         q 2 a/A
         < 2 QR a/A A=192.0.2.1,1
         wait 0
         > 2 * a/A
         wait 1500
         q 3 a/A
         hold
         a * QR a/A A=192.0.2.2,0
         hold
         wait 0
         < 3 QR a/A A=192.0.2.2,0
         q 4 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 4 QR SERVFAIL a/A",
    ),
    (
        "prefetch: a renewal carries no client's cookie, and takes nothing away when it is not stored",
        PREFETCH,
        "q 1 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR a/A A=192.0.2.1,10 OPT=1232
         < 1 QR a/A A=192.0.2.1,10 OPT=1232
         wait 6000
         q 2 a/A OPT=1232,10:0102030405060708
         < 2 QR a/A A=192.0.2.1,4 OPT=1232
         wait 0
         > 2 * a/A OPT=1232
         a * QR a/A A=192.0.2.2,10 OPT=1232,10:0102030405060708aabbccddeeff0011
         hold
         q 3 a/A OPT=1232
         < 3 QR a/A A=192.0.2.1,4 OPT=1232",
    ),
    (
        "prefetch: a renewal with a TTL that is too short takes nothing away, nor one that a rule keeps out",
        "addResponseAction(AndRule{QNameRule('skip'), NetmaskGroupRule('192.0.2.0/24')}, SetSkipCacheResponseAction())
         getPool(''):setCache(newPacketCache(100, {prefetch=50, prefetchHits=1, minTTL=5})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,10
         < 1 QR a/A A=192.0.2.1,10
         q 2 skip/A
         > 2 * skip/A
         a * QR skip/A A=192.0.2.1,10
         < 2 QR skip/A A=192.0.2.1,10
         wait 6000
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,4
         wait 0
         > 2 * a/A
         a * QR a/A A=192.0.2.2,4
         hold
         q 4 a/A
         < 4 QR a/A A=192.0.2.1,4
         from 192.0.2.9:53
         q 5 skip/A
         < 5 QR skip/A A=192.0.2.1,4
         wait 0
         > 2 * skip/A
         a * QR skip/A A=192.0.2.2,10
         hold
         q 6 skip/A
         < 6 QR skip/A A=192.0.2.1,4",
    ),
    (
        "cookieHashing: a renewal is asked for with the cookie that it is kept for",
        "getPool(''):setCache(newPacketCache(100, {prefetch=50, prefetchHits=1, cookieHashing=true})) ",
        "q 1 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708
         a * QR a/A A=192.0.2.1,10 OPT=1232
         < 1 QR a/A A=192.0.2.1,10 OPT=1232
         wait 6000
         q 2 a/A OPT=1232,10:0102030405060708
         < 2 QR a/A A=192.0.2.1,4 OPT=1232
         wait 0
         > 2 * a/A OPT=1232,10:0102030405060708",
    ),
    (
        "stale: of the answer for every subnet and that for the client's, the newer",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         setStaleCacheEntriesTTL(3600) getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,2 OPT=1232,8:00011800c00002
         < 1 QR a/A A=192.0.2.1,2 OPT=1232
         wait 3000
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.2,2 OPT=1232,8:00011818c00002
         < 2 QR a/A A=192.0.2.2,2 OPT=1232
         wait 3000
         q 3 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232
         < 3 QR a/A A=192.0.2.2,60 OPT=1232,15:0003
         from 198.51.100.1:1
         q 4 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c63364
         a * QR SERVFAIL a/A OPT=1232
         < 4 QR a/A A=192.0.2.1,60 OPT=1232,15:0003
         q 5 a/A OPT=1232
         < 5 QR a/A A=192.0.2.1,60 OPT=1232,15:0003
         from 192.0.2.77:1
         q 6 a/A OPT=1232
         < 6 QR a/A A=192.0.2.2,60 OPT=1232,15:0003",
    ),
    (
        "stale: an answer for the client's subnet that is not kept supersedes that for every subnet",
        "newServer{address='127.0.1.3', useClientSubnet=true, pool='p'} addAction(AllRule(), PoolAction('p'))
         setStaleCacheEntriesTTL(3600) getPool('p'):setCache(newPacketCache(100, {parseECS=true})) ",
        "from 192.0.2.77:1
         q 1 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.1,2 OPT=1232,8:00011800c00002
         < 1 QR a/A A=192.0.2.1,2 OPT=1232
         wait 3000
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR a/A A=192.0.2.2,0 OPT=1232,8:00011818c00002
         < 2 QR a/A A=192.0.2.2,0 OPT=1232
         q 3 a/A OPT=1232
         > 3 * a/A OPT=1232,8:00011800c00002
         a * QR SERVFAIL a/A OPT=1232
         < 3 QR SERVFAIL a/A OPT=1232",
    ),
    (
        "stale: an answer with a client's cookie stands in for failures without it, and for nothing else",
        "setStaleCacheEntriesTTL(3600) getPool(''):setCache(newPacketCache(100)) ",
        "q 1 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708
         a * QR a/A A=192.0.2.1,30 OPT=1232,10:01020304050607081122334455667788
         < 1 QR a/A A=192.0.2.1,30 OPT=1232,10:01020304050607081122334455667788
         q 2 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232
         < 2 QR a/A A=192.0.2.1,60 OPT=1232,15:0003
         wait 3700000
         q 3 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232
         < 3 QR SERVFAIL a/A OPT=1232",
    ),
    (
        "an answer with a client's cookie leaves what is fresh for the others",
        "newServer('127.0.1.3') setServerPolicy(roundrobin) setStaleCacheEntriesTTL(3600)
         getPool(''):setCache(newPacketCache(100, {coalesce=false})) ",
        "q 1 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708
         q 2 a/A OPT=1232
         > 3 * a/A OPT=1232
         a3 * QR a/A A=192.0.2.1,30 OPT=1232
         < 2 QR a/A A=192.0.2.1,30 OPT=1232
         a2 * QR a/A A=192.0.2.2,30 OPT=1232,10:01020304050607081122334455667788
         < 1 QR a/A A=192.0.2.2,30 OPT=1232,10:01020304050607081122334455667788
         q 3 a/A OPT=1232
         < 3 QR a/A A=192.0.2.1,30 OPT=1232",
    ),
    (
        "stale: a failure is over with the next answer",
        "setStaleCacheEntriesTTL(3600)
         local cache = newPacketCache(100, {temporaryFailureTTL=25}) getPool(''):setCache(cache)
         addAction('flush', LuaAction(function(dq)
         cache:expungeByName('a', DNSQType.ANY, true) return DNSAction.Refused, '' end)) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 3000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1,60
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,60
         q 4 flush/A
         < 4 QR REFUSED flush/A
         q 5 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.2,2
         < 5 QR a/A A=192.0.2.2,2
         wait 3000
         q 6 a/A
         > 2 * a/A",
    ),
    (
        "stale, two shards: a failure is over with the next answer, whichever shard has got it",
        "setStaleCacheEntriesTTL(3600)
         getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=25})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 3000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1,60
         wait 6000
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,60
         swap
         q 4 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.2,2
         < 4 QR a/A A=192.0.2.2,2
         wait 3000
         swap
         wait 0
         q 5 a/A
         > 2 * a/A",
    ),
    (
        "stale: a rule says how long a failure is remembered",
        "setStaleCacheEntriesTTL(3600) addAction('a', SetTempFailureCacheTTLAction(2)) 
         getPool(''):setCache(newPacketCache(100, {temporaryFailureTTL=25})) ",
        "q 1 a/A
         > 2 * a/A
         a * QR a/A A=192.0.2.1,2
         < 1 QR a/A A=192.0.2.1,2
         wait 3000
         q 2 a/A
         > 2 * a/A
         a * QR SERVFAIL a/A
         < 2 QR a/A A=192.0.2.1,60
         wait 1000
         q 3 a/A
         < 3 QR a/A A=192.0.2.1,60
         wait 6000
         q 4 a/A
         > 2 * a/A",
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

#[test]
fn a_failure_says_nothing_of_the_servers_of_the_next_configuration() {
    let cache = "setStaleCacheEntriesTTL(3600) getPool(''):setCache(newPacketCache(100)) ";
    let mut bench = Bench::new(&format!("{SERVER}{cache}"));
    bench.play("stored", "q 1 a/A\n> 2 * a/A\na * QR a/A A=192.0.2.1,2\n< 1 QR a/A A=192.0.2.1,2\nwait 3000");
    bench.play("stale", "q 2 a/A\n> 2 * a/A\na * QR SERVFAIL a/A\n< 2 QR a/A A=192.0.2.1,60");
    bench.play("remembered", "wait 1000\nq 3 a/A\n< 3 QR a/A A=192.0.2.1,60");
    bench.reload(&format!("setACL('0.0.0.0/0') newServer('127.0.1.3') {cache}"));
    bench.play("the new server", "q 4 a/A\n> 3 * a/A");
}

#[test]
fn a_raised_stale_time_is_that_of_answers_without_their_cookie_too() {
    let cache = "getPool(''):setCache(newPacketCache(100)) ";
    let mut bench = Bench::new(&format!("{SERVER}{cache} setStaleCacheEntriesTTL(3)"));
    bench.play(
        "kept without its cookie",
        "q 1 a/A OPT=1232,10:0102030405060708
         > 2 * a/A OPT=1232,10:0102030405060708
         a * QR a/A A=192.0.2.1,30 OPT=1232,10:01020304050607081122334455667788
         < 1 QR a/A A=192.0.2.1,30 OPT=1232,10:01020304050607081122334455667788",
    );
    bench.reload(&format!("{SERVER}{cache} setStaleCacheEntriesTTL(3600)"));
    bench.play(
        "stale",
        "wait 6500
         q 2 a/A OPT=1232
         > 2 * a/A OPT=1232
         a * QR SERVFAIL a/A OPT=1232
         < 2 QR a/A A=192.0.2.1,60 OPT=1232,15:0003",
    );
}

#[test]
fn hits_that_a_rule_drops_are_no_hits_of_the_pool_nor_of_the_whole() {
    let rule = "addCacheHitResponseAction('drop', DropResponseAction()) ";
    let mut bench = Bench::new(&format!("{SERVER}{CACHE}{rule}"));
    for name in ["drop", "a"] {
        let answer = format!("QR {name}/A A=192.0.2.1,60");
        bench.play(name, &format!("q 1 {name}/A\n> 2 * {name}/A\na * {answer}\n< 1 {answer}"));
    }
    bench.play("dropped", "q 2 drop/A\n! response-rule\nq 3 drop/A\n! response-rule\ncache 0 2");
    bench.play("given", "q 4 a/A\n< 4 QR a/A A=192.0.2.1,60\ncache 1 2");
    assert_eq!(bench.stats().cache_hits.get(), bench.live_state.pool(PoolSlot(0)).cache_hits);
}
