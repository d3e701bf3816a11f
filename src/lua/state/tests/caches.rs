//! Packet caches and the last queries in functions that run later.

use crate::base::addr::PoolSlot;
use crate::cache::{CacheOptions, PacketCache};
use crate::control::fixture::store_name;
use crate::engine::clock;
use crate::lua::state::tests::*;
use crate::stats::drop_reason::DropReason;
use crate::stats::traffic_ring::{End, Finished};

/// A shard's function, with a packet cache that the default pool has, the first one of the file.
fn with_cache(text: &str) -> (Fixture, Arc<PacketCache>) {
    let mut fixture = Fixture::new(text);
    let cache = PacketCache::new(CacheOptions::new(100), [1, 2, 3, 4]);
    for name in ["www.example.com", "example.com", "other.test"] {
        store_name(&cache, name, 500, clock::now());
    }
    let cache = Arc::new(cache);
    fixture.snapshot.pools[0].cache = Some(Arc::clone(&cache));
    fixture.snapshot.pools[0].cache_number = Some(0);
    (fixture, cache)
}

#[test]
fn a_function_empties_the_cache_of_all_shards() {
    for (made, cache) in [
        ("local pc = newPacketCache(100, {maxTTL=9}) getPool(''):setCache(pc)", "pc"),
        ("pc = newPacketCache(100) getPool(''):setCache(pc)", "pc"),
        ("getPool(''):setCache(newPacketCache(100))", "getPool(''):getCache()"),
        ("local pool = getPool('') pool:setCache(newPacketCache(100))", "pool:getCache()"),
    ] {
        for (call, removed, left) in [
            ("expungeByName(dq.qname)", 1, 2),
            ("expungeByName(dq.qname, DNSQType.ANY, true)", 1, 2),
            ("expungeByName('EXAMPLE.com', 1, true)", 2, 1),
            ("expungeByName(newDNSName('example.com'), DNSQType.AAAA, true)", 0, 3),
            ("expunge(1)", 2, 1),
            ("purgeExpired(0)", 0, 3),
        ] {
            let (mut fixture, cached) = with_cache(&format!(
                "{made}\nLuaAction(function(dq) assert({cache}:{call} == {removed}) return DNSAction.Drop end)"
            ));
            assert_eq!(fixture.run(QUERY), Some(ScriptAction::Drop), "{made} {call}");
            assert_eq!(cached.len(), left, "{made} {call}");
        }
        let (mut fixture, _) = with_cache(&format!(
            "{made}\nLuaAction(function(dq) local c = {cache} local s = c:getStats()
             assert(s.entries == 3 and s.maxEntries == 100 and s.hits == 0 and s.cleanupCount == 0)
             assert(tostring(c) == '3/100' and c:toString() == '3/100' and not c:isFull()) c:printStats()
             local found = c:getAddressListByDomain('www.example.com')
             assert(#found == 1 and found[1]:toString() == '192.0.2.1')
             local names = c:getDomainListByAddress(newCA('192.0.2.1'))
             assert(#names == 3 and names[1]:toString() == 'www.example.com.', tostring(names[1]))
             return DNSAction.Drop end)"
        ));
        assert_eq!(fixture.run(QUERY), Some(ScriptAction::Drop), "{made}");
    }
}

#[test]
fn a_cache_that_no_pool_has_is_empty() {
    let mut fixture = Fixture::new(
        "local pc = newPacketCache(100) assert(pc:expunge(0) == 0 and pc:isFull() == false and getPool('x'):getCache() == nil)\n\
         LuaAction(function(dq) assert(pc:expungeByName(dq.qname) == 0 and tostring(pc) == '0/100')
         assert(getPool('abuse'):getCache() == nil and getPool('abuse'):getName() == 'abuse') return DNSAction.Drop end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Drop));
}

#[test]
fn maintenance_uses_caches() {
    let (mut fixture, cache) = with_cache(
        "local pc = newPacketCache(100) getPool(''):setCache(pc)\nfunction maintenance() pc:expunge(0) end",
    );
    fixture.script.adopt(&fixture.snapshot, &fixture.live_state);
    fixture.script.maintain(Tick(0));
    assert_eq!((fixture.errors(), cache.len()), (0, 0));
}

#[test]
fn caches_are_searched_through_c() {
    let (mut fixture, _) = with_cache(
        "local ffi = require('ffi') local C = ffi.C\n\
         LuaFFIAction(function(dq)
         local a, d = ffi.new('dnsdist_ffi_address_list_t*[1]'), ffi.new('dnsdist_ffi_domain_list_t*[1]')
         assert(C.dnsdist_ffi_packetcache_get_address_list_by_domain('', 'www.example.com', a) == 1)
         assert(ffi.string(C.dnsdist_ffi_address_list_get(a[0], 0)) == '192.0.2.1')
         assert(C.dnsdist_ffi_address_list_get(a[0], 1) == nil) C.dnsdist_ffi_address_list_free(a[0])
         assert(C.dnsdist_ffi_address_list_get(a[0], 0) == nil)
         assert(C.dnsdist_ffi_packetcache_get_domain_list_by_addr('', '192.0.2.1', d) == 3)
         assert(ffi.string(C.dnsdist_ffi_domain_list_get(d[0], 2)) == 'example.com.') C.dnsdist_ffi_domain_list_free(d[0])
         assert(C.dnsdist_ffi_packetcache_get_domain_list_by_addr('', '192.0.2.9', d) == 0 and d[0] == nil)
         assert(C.dnsdist_ffi_packetcache_get_domain_list_by_addr('none', '192.0.2.1', d) == 0)
         assert(C.dnsdist_ffi_packetcache_get_domain_list_by_addr('', 'x', d) == 0)
         return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
}

#[test]
fn the_last_queries_are_read_through_c() {
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local C = ffi.C\n\
         LuaFFIAction(function(dq)
         local list = ffi.new('dnsdist_ffi_ring_entry_list_t*[1]')
         local function ring(name, ...) return C['dnsdist_ffi_ring_entry_' .. name](list[0], ...) end
         assert(C.dnsdist_ffi_ring_get_entries(list) == 2)
         assert(ring('is_response', 0) and not ring('is_response', 1) and not ring('is_response', 2))
         assert(ffi.string(ring('get_name', 0)) == 'b.test.' and ffi.string(ring('get_name', 1)) == 'a.test.')
         assert(ring('get_type', 0) == 28 and ring('get_id', 0) == 7 and ring('get_size', 0) == 99)
         assert(ffi.string(ring('get_requestor', 0)) == '192.0.2.8' and ffi.string(ring('get_backend', 0)) == '')
         assert(ring('get_protocol', 0) == 0 and ring('get_protocol', 1) == 1)
         assert(ring('get_latency', 0) == 1500 and ring('get_rcode', 0) == 3)
         assert(ring('get_aa', 0) and ring('get_rd', 0) and not ring('get_tc', 0))
         assert(ring('get_ancount', 0) == 1 and ring('get_nscount', 0) == 2 and ring('get_arcount', 0) == 3)
         assert(ring('get_age', 0) >= 0 and not ring('has_mac_address', 0) and ring('get_mac_address', 0) == nil)
         ring('list_free') assert(ring('get_type', 0) == 0 and ring('get_name', 0) == nil)
         assert(C.dnsdist_ffi_ring_get_entries_by_addr('192.0.2.9', list) == 1 and ring('get_type', 0) == 1)
         assert(C.dnsdist_ffi_ring_get_entries_by_addr('192.0.2.1', list) == 0 and list[0] == nil)
         assert(C.dnsdist_ffi_ring_get_entries_by_addr('x', list) == 0)
         assert(C.dnsdist_ffi_ring_get_entries_by_mac('x', list) == 0)
         for _ = 2, 8 do assert(C.dnsdist_ffi_ring_get_entries(list) == 2) end
         assert(C.dnsdist_ffi_ring_get_entries(list) == 0 and list[0] == nil, 'there is a limit')
         return DNSAction.Allow end)",
    );
    let ring = &fixture.live_state.shards()[0].traffic;
    ring.open(16);
    let finished = |last: u8, end| Finished {
        at: Tick(0),
        ip: crate::base::addr::mapped(std::net::IpAddr::from([192, 0, 2, last])),
        port: 5353,
        id: 7,
        by_connection: last == 9,
        listener: ListenerSlot(0),
        backend: None,
        pool: PoolSlot(0),
        end,
        qtype: if last == 9 { 1 } else { 28 },
        flags: [0x85, 0x83],
        latency_us: 1_500,
        answer_bytes: 99,
    };
    ring.write(&finished(9, End::Dropped(DropReason::Timeout)), b"\x01a\x04test\0");
    ring.write_counted(&finished(8, End::Response), b"\x01b\x04test\0", [1, 2, 3]);
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
}

#[test]
fn what_is_not_there_is_null_and_further_errors_are_added() {
    let mut fixture = Fixture::new(
        "local ffi = require('ffi') local C = ffi.C\n\
         LuaFFIAction(function(dq)
         for _, name in ipairs({'path', 'query_string', 'host', 'scheme'}) do
           assert(C['dnsdist_ffi_dnsquestion_get_http_' .. name](dq) == nil)
         end
         local headers = ffi.new('const dnsdist_ffi_http_header_t*[1]')
         assert(C.dnsdist_ffi_dnsquestion_get_http_headers(dq, headers) == 0 and headers[0] == nil)
         assert(C.dnsdist_ffi_dnsquestion_get_mac_addr(dq, ffi.new('char[6]'), 6) == 0)
         for _, name in ipairs({'set_requestor_id', 'set_device_id', 'set_device_name', 'send_trap'}) do
           C['dnsdist_ffi_dnsquestion_' .. name](dq, 'x', 1)
         end
         C.dnsdist_ffi_dnsquestion_add_extended_dns_error(dq, 1, 'one', 3)
         C.dnsdist_ffi_dnsquestion_add_extended_dns_error(dq, 2, 'two', 3)
         return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    let state = &fixture.query_state;
    assert_eq!((state.error, state.error_text.as_slice()), (Some(1), &b"one"[..]));
    assert_eq!(state.errors_more, b"\0\x0f\0\x05\0\x02two");
    fixture.query_state.set_error(3, b"");
    assert!(fixture.query_state.errors_more.is_empty(), "a set one replaces all");
}
