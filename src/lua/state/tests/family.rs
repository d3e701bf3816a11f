//! The parts of the LuaFFI family with objects of their own: messages, SVCB records, PROXY values;
//! and that what functions cannot do is said as it is.

use crate::lua::ffi;
use crate::lua::state::tests::*;
use crate::stats::custom_metrics::{CustomKind, Declared};

/// Runs a function through C, with `answer` a message; it has to end with DNSAction.Allow.
fn family_holds(query: &[u8], body: &str) -> Fixture {
    let bytes: String = ANSWER.iter().map(|byte| format!("\\{byte}")).collect();
    let mut fixture = Fixture::new(&format!(
        "local ffi = require('ffi') local C, D, string = ffi.C, ffi.new, ffi.string local answer = '{bytes}'\n\
         LuaFFIAction(function(dq) {} return DNSAction.Allow end)",
        body.replace("$$", "C.dnsdist_ffi_").replace("$", "C.dnsdist_ffi_dnsquestion_")
    ));
    assert_eq!(fixture.run(query), Some(ScriptAction::Allow), "{body}");
    fixture
}

#[test]
fn a_message_is_read() {
    let parse = "local p, n, s = D('dnsdist_ffi_dnspacket_t*[1]'), D('const char*[1]'), D('size_t[1]')\n\
                 assert($$dnspacket_parse(answer, #answer, p)) local packet = p[0]\n";
    for body in [
        "$$dnspacket_get_qname_raw(packet, n, s) assert(string(n[0], s[0]) == '\\3www\\7Example\\3com\\0')
         assert($$dnspacket_get_qtype(packet) == 1 and $$dnspacket_get_qclass(packet) == 1)",
        "for section, count in pairs({[0] = 1, 2, 0, 0, [9] = 0}) do
           assert($$dnspacket_get_records_count_in_section(packet, section) == count) end",
        "assert($$dnspacket_get_record_type(packet, 0) == 5 and $$dnspacket_get_record_type(packet, 1) == 1)
         assert($$dnspacket_get_record_class(packet, 1) == 1 and $$dnspacket_get_record_ttl(packet, 1) == 256)
         assert($$dnspacket_get_record_content_length(packet, 1) == 4)
         local at = $$dnspacket_get_record_content_offset(packet, 1) assert(answer:sub(at + 1, at + 4) == '\\192\\0\\2\\1')",
        "$$dnspacket_get_record_name_raw(packet, 1, n, s) assert(string(n[0], s[0]) == '\\4host\\7Example\\3com\\0')",
        "local b = D('char[16]') assert($$dnspacket_parse_a_record(answer, packet, 1, b, s) and string(b, s[0]) == '\\192\\0\\2\\1')
         assert($$dnspacket_parse_address_record(answer, packet, 1, b, s) and s[0] == 4)
         assert(not $$dnspacket_parse_aaaa_record(answer, packet, 1, b, s) and s[0] == 0)
         assert(not $$dnspacket_parse_a_record(answer, packet, 0, b, s) and not $$dnspacket_parse_a_record(answer, packet, 9, b, s))",
        "local b = D('char[255]') assert($$dnspacket_parse_cname_record(answer, packet, 0, b, s))
         assert(string(b, s[0]) == '\\4host\\7Example\\3com\\0' and not $$dnspacket_parse_cname_record(answer, packet, 1, b, s))",
        "local b = D('char[255]') assert($$dnspacket_get_name_at_offset_raw(answer, #answer, 12, b, 255) == 17)
         assert($$dnspacket_get_name_at_offset_raw(answer, #answer, 12, b, 16) == 0)
         assert($$dnspacket_get_name_at_offset_raw(answer, #answer, 999, b, 255) == 0)",
        // What is freed, or was never made, is nothing.
        "$$dnspacket_free(packet) $$dnspacket_free(packet) $$dnspacket_free(nil)
         assert($$dnspacket_get_qtype(packet) == 0 and $$dnspacket_get_record_type(nil, 0) == 0)
         $$dnspacket_get_qname_raw(packet, n, s) assert(n[0] == nil and s[0] == 0)",
        "for _, cut in ipairs({0, 11, 20, 40, #answer - 1}) do assert(not $$dnspacket_parse(answer, cut, p) and p[0] == nil) end",
        // There is a limit, and what is freed makes room.
        "local last for _ = 2, 256 do assert($$dnspacket_parse(answer, #answer, p)) last = p[0] end
         assert(not $$dnspacket_parse(answer, #answer, p)) $$dnspacket_free(last)
         assert($$dnspacket_parse(answer, #answer, p))",
    ] {
        family_holds(QUERY, &format!("{parse}{body}"));
    }
}

#[test]
fn svcb_and_https_are_answered() {
    let new = "local p = D('dnsdist_ffi_svc_record_parameters*[1]')\n\
               local list = D('const dnsdist_ffi_svc_record_parameters_t*[2]')\n\
               local function new(target, priority, no) assert($$svc_record_parameters_new(target, priority, no, p)) return p[0] end\n";
    let query = of_type(65);
    let fixture = family_holds(
        &query,
        &format!(
            "{new} local a = new('svc.example', 1, true) $$svc_record_parameters_set_port(a, 853)
             $$svc_record_parameters_add_alpn(a, 'h2', 2) $$svc_record_parameters_add_mandatory_param(a, 3)
             $$svc_record_parameters_add_ipv4_hint(a, '192.0.2.9', 9) $$svc_record_parameters_add_ipv6_hint(a, '2001:db8::9', 11)
             $$svc_record_parameters_set_ech(a, 'ech', 3) $$svc_record_parameters_set_additional_param(a, 7, '/q', 2)
             list[0] = a assert($generate_svc_response(dq, list, 1, 77)) $$svc_record_parameters_free(a)
             assert(not $generate_svc_response(dq, list, 1, 77))"
        ),
    );
    let found: Vec<_> =
        Records::of(&fixture.message).map(|r| (r.section as u8 + 1, r.rtype, r.ttl)).collect();
    assert_eq!(found, [(1, 65, 77), (3, 1, 77), (3, 28, 77), (3, 41, 0x8000)]);
    let record = Records::of(&fixture.message).next().expect("a record");
    let params =
        b"\0\0\0\x02\0\x03\0\x01\0\x03\x02h2\0\x02\0\0\0\x03\0\x02\x03\x55\0\x04\0\x04\xc0\0\x02\x09";
    let wanted = [&b"\0\x01\x03svc\x07example\0"[..], params].concat();
    assert!(fixture.message[record.rdata].starts_with(&wanted));
    // What RFC 9460 forbids, what is no record, and what was not asked for.
    for wrong in [
        "list[0] = new('a', 0, false) $$svc_record_parameters_set_port(p[0], 1)",
        "list[0] = new('a', 1, true)",
        "list[0] = new('a', 1, false) $$svc_record_parameters_add_mandatory_param(p[0], 3)",
        "list[0] = new('a', 1, false) $$svc_record_parameters_set_additional_param(p[0], 3, 'xx', 2)",
        "list[0], n = new('a', 1, false), 2 list[1] = new('b', 0, false)",
        "n = 2 list[0] = new('a', 1, false)",
        "n = 0 list[0] = new('a', 1, false)",
        "assert(not $$svc_record_parameters_new('a..b', 1, false, p) and p[0] == nil)",
    ] {
        let body = format!("{new} local n = 1 {wrong} assert(not $generate_svc_response(dq, list, n, 60))");
        assert_eq!(family_holds(&query, &body).message, query, "{wrong}");
    }
    let body =
        format!("{new} list[0] = new('a', 1, false) assert(not $generate_svc_response(dq, list, 1, 60))");
    assert_eq!(family_holds(QUERY, &body).message, QUERY);
}

#[test]
fn proxy_values_and_headers() {
    let value = "local v = D('dnsdist_ffi_proxy_protocol_value_t[1]') local text = 'abc'\n\
                 v[0].value, v[0].size, v[0].type = text, 3, 0xe0\n";
    let fixture = family_holds(
        QUERY,
        &format!(
            "{value} assert($add_proxy_protocol_values(dq, 1, v) and $add_proxy_protocol_values(dq, 1, v))
             local out = D('const dnsdist_ffi_proxy_protocol_value_t*[1]') assert($get_proxy_protocol_values(dq, out) == 2)
             assert(string(out[0][1].value, out[0][1].size) == 'abc' and out[0][1].type == 0xe0)
             text = ('x'):rep(5000) v[0].value, v[0].size = text, 5000 assert(not $add_proxy_protocol_values(dq, 1, v))"
        ),
    );
    assert_eq!(fixture.query_state.proxy.iter().collect::<Vec<_>>(), [(0xe0, &b"abc"[..]); 2]);
    family_holds(
        QUERY,
        &format!(
            "{value} local b = D('char[200]') local n = tonumber($generate_proxy_protocol_payload(dq, 1, v, b, 200))
             local header = string(b, n) assert(n == 16 + 36 + 6 and header:sub(1, 12) == '\\r\\n\\r\\n\\0\\r\\nQUIT\\n')
             assert(header:sub(13, 16) == '\\33\\34\\0\\42' and header:sub(-3) == 'abc')
             assert($generate_proxy_protocol_payload(dq, 1, v, b, 57) == 0)
             local a = '\\192\\0\\2\\1' n = tonumber($$generate_proxy_protocol_payload(4, a, a, 1, 2, true, 0, nil, b, 200))
             assert(string(b, n):sub(13) == '\\33\\17\\0\\12' .. a .. a .. '\\0\\1\\0\\2')
             assert($$generate_proxy_protocol_payload(5, a, a, 1, 2, true, 0, nil, b, 200) == 0)"
        ),
    );
}

#[test]
fn an_alternate_name_is_set_with_its_tags() {
    let fixture = family_holds(
        QUERY,
        "assert($set_alternate_name(dq, '\\5other\\3org\\0', 11, 'way', 3, 'alternate', 9, 'asked', 5))
         assert(not $set_alternate_name(dq, '\\9other', 6, 'way', 3, 'x', 1, 'asked', 5))",
    );
    assert_eq!(fixture.message[12..27], b"\x05other\x03org\0\0\x01\0\x01"[..]);
    assert_eq!(fixture.query_state.original, b"\x03www\x07Example\x03com\0\0\x01\0\x01");
    let tags = &fixture.query_state.tags;
    assert_eq!(tags.value(b"way"), Some(&b"alternate"[..]));
    assert_eq!(tags.value(b"asked"), Some(&b"\x03www\x07Example\x03com\0"[..]));
    let long = "assert(not $set_alternate_name(dq, '\\1a\\0', 3, 'way', 3, ('x'):rep(5000), 5000, '', 0))";
    let fixture = family_holds(QUERY, long);
    assert!(fixture.message == QUERY && fixture.query_state.tags.is_empty(), "all of it or nothing");
}

#[test]
fn further_functions_read_the_query() {
    family_holds(
        QUERY,
        "assert(string($get_incoming_interface(dq)) == '' and $get_incoming_interface(nil) == nil)
         local n = tonumber($get_size(dq)) assert(string($get_data(dq), n):sub(13, 16) == '\\3www')
         assert($$dnsresponse_get_restart_count(dq) == 0)
         local one, two = ffi.cast('const unsigned char*', 'Abc'), ffi.cast('const unsigned char*', 'aBC')
         assert($$hash(1, one, 3, true) == $$hash(1, two, 3, true) and $$hash(1, one, 3, false) ~= $$hash(1, two, 3, false))
         assert($$hash(1, one, 3, true) ~= $$hash(2, one, 3, true))",
    );
}

#[test]
fn the_documents_list_every_function_of_the_family() {
    let text = include_str!("../../../../docs/how-to/lua.md");
    let (_, list) = text.split_once("## LuaFFI").expect("its section");
    let list = list.split("\n## ").next().unwrap_or_default();
    let mut listed = std::collections::BTreeSet::new();
    let mut prefix = "";
    let rows = list.lines().filter(|line| line.starts_with("| `"));
    for word in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        match word.strip_suffix('_') {
            Some(_) => prefix = word,
            None => drop(listed.insert(format!("{prefix}{word}"))),
        }
    }
    let there: std::collections::BTreeSet<String> = ffi::family().into_iter().map(str::to_owned).collect();
    assert_eq!(listed, there);
}

#[test]
fn what_functions_cannot_do_is_said_as_it_is() {
    // A function that is missing is nil, so that a file can ask for it.
    let mut fixture = Fixture::action("assert(not newThread) return DNSAction.Allow");
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    let mut fixture = Fixture::new(
        "local s, p, get, cache = newServer('192.0.2.1'), getPool('x'), newThread, newPacketCache(9)\n\
         local function says(text, f, ...) local ok, e = pcall(f, ...) assert(not ok and tostring(e):find(text, 1, true), e) end\n\
         LuaAction(function(dq)\n\
           says('works only while the configuration is evaluated', newServer, '192.0.2.1')\n\
           says('not in the configuration that runs', function() s:setDown() end)\n\
           says('setRetry of a pool works only while', function() p:setRetry({}) end)\n\
           says('dump of a packet cache works only while', function() cache:dump('x') end)\n\
           says('newThread is not implemented yet; use maintenance()', get, '')\n\
           getTLSContext(0):rotateTicketsKey() return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
}

#[test]
fn metrics_are_declared_and_changed() {
    family_holds(
        QUERY,
        "local function declare(name, kind, custom) return $$metric_declare(name, #name, kind, 'About it.', custom) end
         local function get(name) return $$metric_get(name, #name, true) end
         local c, g = 'family-counter', 'family-gauge'
         assert(declare(c, 'counter', nil) and declare(c, 'counter', '') and declare(g, 'gauge', 'family_level'))
         assert(not declare(c, 'gauge', nil) and not declare('Wrong', 'counter', nil) and not declare('x', 'other', nil))
         $$metric_inc(c, #c) $$metric_inc_by(c, #c, 41) $$metric_dec(c, #c) $$metric_set(c, #c, 7)
         assert(get(c) == 42)
         $$metric_set(g, #g, 2.5) $$metric_dec(g, #g) $$metric_inc(g, #g) $$metric_inc(g, #g)
         assert(get(g) == 2.5 + 1 and get('missing') == 0) $$metric_inc('missing', 7)",
    );
}

#[test]
fn what_a_query_counts_as_is_the_text_of_no_decision() {
    for (body, name) in [
        ("return true, dq.qname:toString():gsub('^www%.', '')", "Example.com."),
        ("return true, dq.qname", "www.Example.com."),
        ("return true, 5", "5"),
        ("return false, 'x'", ""),
        ("return", ""),
    ] {
        let mut fixture =
            Fixture::new(&format!("setQueryCount(true) setQueryCountFilter(function(dq) {body} end)"));
        assert_eq!(fixture.run(QUERY), Some(ScriptAction::None), "{body}");
        assert_eq!(String::from_utf8_lossy(fixture.script.argument()), name, "{body}");
    }
    let mut fixture = Fixture::new("setQueryCountFilter(function(dq) return true end)");
    assert_eq!(fixture.run(QUERY), None);
}

#[test]
fn functions_change_metrics_of_the_whole_process() {
    // What the file declares is put in force with it, and not by the state of a shard.
    let (all, mut declared) = (crate::stats::custom_metrics::all(), Declared::default());
    for (name, kind, bounds) in [
        ("shown-hits", CustomKind::Counter, None),
        ("shown-sizes", CustomKind::Histogram, Some(&[100.0, 1_000.0][..])),
    ] {
        declared.declare(all, bounds, name, kind, "", None, false).expect("declared");
    }
    all.add_all(&declared);
    let mut fixture = Fixture::new(
        "assert(declareMetric('shown-hits', 'counter', 'Hits.') and incMetric('shown-hits', 100) == 0)\n\
         assert(declareMetric('shown-never', 'counter', '') and getMetric('shown-never') == 0)\n\
         LuaAction(function(dq)\n\
           assert(declareMetric('shown-by', 'counter', 'By label.', {withLabels=true, name='shown_by_total'}))\n\
           assert(incMetric('shown-hits') == 1 and incMetric('shown-hits', 2) == 3 and incMetric('shown-hits', {step=4}) == 7)\n\
           assert(getMetric('shown-hits') == 7 and decMetric('shown-hits') == 0 and setMetric('shown-hits', 1) == 0)\n\
           local labels = {labels={type='A', n=1}}\n\
           assert(incMetric('shown-by', labels) == 1 and incMetric('shown-by', {labels={n=1, type='A'}, step=2}) == 3)\n\
           assert(getMetric('shown-by', labels) == 3 and getMetric('shown-by', {labels={type='B'}}) == 0)\n\
           assert(incMetric('nobody-knows') == 0 and not declareMetric('shown-hits', 'gauge', 'x'))\n\
           assert(incMetric('shown-by') == 0)\n\
           assert(declareMetric('shown-level', 'gauge', 'Level.') and setMetric('shown-level', -1.5) == -1.5)\n\
           assert(decMetric('shown-level', 2) == -3.5)\n\
           return DNSAction.Allow\n\
         end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    // What is refused is counted, though the call goes on.
    assert_eq!(fixture.errors(), 5);
    let mut fixture = Fixture::new(
        "assert(declareMetric('shown-sizes', 'histogram', 'Sizes.', {buckets={100, 1000}}) and observeMetric('shown-sizes', 1) == 0)\n\
         LuaAction(function(dq)\n\
           assert(observeMetric('shown-sizes', dq.len) == 1 and observeMetric('shown-sizes', 100.5) == 2)\n\
           assert(getMetric('shown-sizes') == 2 and observeMetric('shown-hits', 1) == 0 and incMetric('shown-sizes') == 0)\n\
           assert(declareMetric('shown-times', 'histogram', 'Times.') and observeMetric('shown-times', 0/0) == 0)\n\
           assert(not declareMetric('shown-other', 'histogram', '', {buckets={2, 1}})) return DNSAction.Allow end)",
    );
    assert_eq!(fixture.run(QUERY), Some(ScriptAction::Allow));
    let metrics = crate::stats::custom_metrics::all().list();
    assert!(!metrics.iter().any(|m| m.name == "shown-never"));
    let by = metrics.iter().find(|m| m.name == "shown-by").expect("declared");
    let labels = vec![("n".to_owned(), "1".to_owned()), ("type".to_owned(), "A".to_owned())];
    assert_eq!((by.values(), by.prometheus_name.as_deref()), (vec![(labels, 3.0)], Some("shown_by_total")));
}
