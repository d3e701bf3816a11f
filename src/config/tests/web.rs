//! The web server and metrics of a configuration: from a line to the settings, or to the message.

use crate::base::addr::mapped;
use crate::config::Compiled;
use crate::config::tests::{broken, good};
use crate::config::web::{MetricNames, WebSettings};
use crate::lua::front_end::Loaded;
use crate::stats::custom_metrics;

fn web(text: &str) -> WebSettings {
    good(text).1.boot.web
}

#[test]
fn every_option_of_the_web_server_is_read() {
    assert_eq!(web(""), WebSettings::default());
    let web = web("webserver('127.0.0.1:8083')\n\
         setWebserverConfig({password='secret', apiKey=hashPassword('key'), acl='192.0.2.0/24, !192.0.2.1',\n\
           customHeaders={['X-Custom']='yes', ['X-Frame-Options']=''}, statsRequireAuthentication=false,\n\
           apiRequiresAuthentication=false, dashboardRequiresAuthentication=false, maxConcurrentConnections=7,\n\
           hashPlaintextCredentials=true})\n\
         setWebserverBindFatal(true) setMetricsPrefix('dnsdist') showWebserverConfig()");
    assert_eq!(web.address.expect("an address").to_string(), "127.0.0.1:8083");
    let (password, key) = (web.password.as_ref().expect("one"), web.api_key.as_ref().expect("one"));
    assert!(password.is(b"secret") && key.is(b"key") && !password.is(b"key"));
    assert_eq!(format!("{password:?} {key:?}"), "Hashed Hashed");
    let allows = |ip: [u8; 4]| web.acl.contains(&mapped(ip.into()));
    assert_eq!(
        (allows([192, 0, 2, 2]), allows([192, 0, 2, 1]), allows([127, 0, 0, 1])),
        (true, false, false)
    );
    let headers = [("X-Custom", "yes"), ("X-Frame-Options", "")];
    assert_eq!(web.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(!web.stats_protected && !web.api_protected && !web.dashboard_protected && web.bind_fatal);
    assert_eq!((web.connections_max, web.names, web.descriptors()), (7, MetricNames::Dnsdist, 11));
    let text = web.text();
    assert!(
        text.contains("127.0.0.1:8083") && !text.contains("secret") && !text.contains("scrypt"),
        "{text}"
    );
}

#[test]
fn what_replaces_or_shuts_out_somebody_is_a_warning() {
    let page = "registerWebHandler('/mine', function() end)";
    let key = format!("setKey('{}=')", "A".repeat(43));
    for (text, want) in [
        ("setWebserverConfig({acl=''})", "setWebserverConfig: acl lets nobody use the web server"),
        ("setWebserverConfig({acl={}})", "acl lets nobody"),
        ("setWebserverConfig({acl='!192.0.2.1'})", "acl lets nobody"),
        ("setWebserverConfig({acl='192.0.2.0/24, !192.0.2.1'})", ""),
        (page, ""),
        (&format!("{page} {page}"), "registerWebHandler: replaces another function of /mine"),
        ("registerWebHandler('/metrics', function() end)", "/metrics is a path of dnslob's own"),
        ("registerWebHandler('/api/mine', function() end)", "/api/mine is a path of dnslob's own"),
        (&format!("{key} controlSocket('127.0.0.1:5199')"), ""),
        (
            &format!("{key} controlSocket('127.0.0.1:5199') controlSocket('127.0.0.1:5200')"),
            "controlSocket: replaces 127.0.0.1:5199: there is one console",
        ),
    ] {
        let warnings = good(text).0.draft.warnings.into_list();
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        let is_said = warnings.len() == 1 && warnings[0].contains(want);
        assert!(if want.is_empty() { warnings.is_empty() } else { is_said }, "{text}: {warnings:?}");
    }
}

/// The form of the oldest guides.
#[test]
fn a_password_may_follow_the_address() {
    let web = web("webserver('127.0.0.1:8083', 'secret', 'key', {['X-Custom']='yes'}, '192.0.2.0/24')");
    let (password, key) = (web.password.as_ref().expect("one"), web.api_key.as_ref().expect("one"));
    assert!(password.is(b"secret") && key.is(b"key"));
    assert_eq!(web.headers, [("X-Custom".to_owned(), "yes".to_owned())]);
    let allows = |ip: [u8; 4]| web.acl.contains(&mapped(ip.into()));
    assert!(allows([192, 0, 2, 2]) && !allows([127, 0, 0, 1]));
    let messages = broken("webserver('127.0.0.1:8083', 5)");
    assert!(messages.len() == 1 && messages[0].contains("password"), "{messages:?}");
}

#[test]
fn what_is_wrong_with_it_is_said_without_the_password() {
    for (text, want) in [
        ("webserver('127.0.0.1')", "FILE:1: webserver: \"127.0.0.1\" is not allowed; expected IP:PORT"),
        ("setWebserverConfig({password=5})", "FILE:1: setWebserverConfig: password"),
        ("setWebserverConfig({apiKey='$scrypt$secret'})", "FILE:1: setWebserverConfig: apiKey"),
        ("setWebserverConfig({tlsKey='/x'})", "FILE:1: setWebserverConfig: tlsCertificate is missing"),
        ("setWebserverConfig({tlsCertificate='/x'})", "FILE:1: setWebserverConfig: tlsKey is missing"),
        ("setWebserverConfig({tlsCertificate='/nonexistent/x', tlsKey='/x'})", "FILE:1: setWebserverConfig:"),
        ("setWebserverConfig({acl='nonsense'})", "FILE:1: setWebserverConfig: \"nonsense\" is not allowed"),
        (
            "setWebserverConfig({maxConcurrentConnections=-1})",
            "FILE:1: setWebserverConfig: maxConcurrentConnections",
        ),
        ("setWebserverConfig({customHeaders={['a b']='c'}})", "FILE:1: setWebserverConfig: customHeaders"),
        ("setWebserverConfig({customHeaders={a='b\\nc'}})", "FILE:1: setWebserverConfig: customHeaders"),
        (
            "setMetricsPrefix('mine')",
            "FILE:1: setMetricsPrefix: \"mine\" is not allowed; expected one of dnslob",
        ),
        ("hashPassword('')", "FILE:1: hashPassword:"),
        (
            "declareMetric('Wrong Name', 'counter', 'x')",
            "FILE:1: declareMetric: metric \"Wrong Name\": a name is",
        ),
        ("declareMetric('name', 'summary', 'x')", "FILE:1: declareMetric: type is \"summary\"; expected"),
        (
            "incMetric('never-declared')",
            "FILE:1: incMetric: metric \"never-declared\": the metric is not declared",
        ),
    ] {
        let messages = broken(text);
        assert!(
            messages.len() == 1 && messages[0].starts_with(want),
            "{text}\n  gave {messages:#?}\n  not  {want}"
        );
        assert!(!messages[0].contains("secret"), "{messages:?}");
    }
}

#[test]
fn carbon_servers_have_defaults_and_each_call_adds_one() {
    let carbon = |text: &str| good(text).1.boot.web.carbon;
    assert_eq!(carbon(""), []);
    let servers = carbon(
        "carbonServer('192.0.2.1') carbonServer('[2001:db8::1]:2103', 'lb.example', 10, 'dns', 'west')\n\
         carbonServer('2001:db8::2', '', 1)",
    );
    let shown: Vec<_> = servers
        .iter()
        .map(|s| (s.address.to_string(), s.host.as_deref(), s.interval_s, &*s.namespace, &*s.instance))
        .collect();
    assert_eq!(
        shown,
        [
            ("192.0.2.1:2003".to_owned(), None, 30, "dnsdist", "main"),
            ("[2001:db8::1]:2103".to_owned(), Some("lb.example"), 10, "dns", "west"),
            ("[2001:db8::2]:2003".to_owned(), None, 1, "dnsdist", "main"),
        ]
    );
    for (text, want) in [
        (
            "carbonServer('nonsense')",
            "FILE:1: carbonServer: \"nonsense\" is not allowed; expected IP or IP:PORT",
        ),
        ("carbonServer('192.0.2.1', 'a b')", "FILE:1: carbonServer: ourname"),
        ("carbonServer('192.0.2.1', 'a\\nb')", "FILE:1: carbonServer: ourname"),
        ("carbonServer('192.0.2.1', 'a', 1, 'x y')", "FILE:1: carbonServer: namespace"),
        ("for n = 1, 17 do carbonServer('192.0.2.1') end", "FILE:1: carbonServer: there are 16 already"),
    ] {
        let messages = broken(text);
        assert!(messages.len() == 1 && messages[0].starts_with(want), "{text}\n  gave {messages:#?}");
    }
}

#[test]
fn the_file_declares_and_changes_metrics() {
    let hits = good(
        "assert(declareMetric('file-hits', 'counter', 'Hits.', 'file_hits_total'))\n\
         assert(declareMetric('file-by', 'gauge', 'By.', {name='file_by', withLabels=true}))\n\
         assert(incMetric('file-hits') == 1 and incMetric('file-hits', 4) == 5 and getMetric('file-hits') == 5)\n\
         assert(setMetric('file-by', 2.5, {labels={pool='x'}}) == 2.5)\n\
         assert(decMetric('file-by', {step=0.5, labels={pool='x'}}) == 2)\n\
         assert(incMetric('file-by', {labels={pool='y'}}) == 1 and getMetric('file-by', {labels={pool='x'}}) == 2)",
    );
    let once = good(
        "declareMetric('file-once', 'counter', 'Hits.') incMetric('file-once', 3)\n\
         addAction(AllRule(), LuaAction(function(dq) incMetric('file-once') return DNSAction.None end))",
    );
    let histograms = good(
        "assert(declareMetric('file-sizes', 'histogram', 'Sizes.', {buckets={1, 10.5}, withLabels=true}))\n\
         assert(observeMetric('file-sizes', 10.5, {labels={pool='x'}}) == 1)\n\
         assert(observeMetric('file-sizes', 11, {labels={pool='x'}}) == 2 and getMetric('file-sizes', {labels={pool='x'}}) == 2)\n\
         assert(declareMetric('file-times', 'histogram', 'Times.') and observeMetric('file-times', 0.2) == 1)",
    );
    for (text, want) in [
        ("declareMetric('a', 'summary', '')", "\"counter\", \"gauge\" or \"histogram\""),
        ("declareMetric('a', 'histogram', '', {buckets={2, 1}})", "1 to 50 growing numbers"),
        ("declareMetric('a', 'histogram', '', {buckets={}})", "1 to 50 growing numbers"),
        ("declareMetric('a', 'histogram', '', {buckets={'x'}})", "buckets is \"x\""),
        ("declareMetric('a', 'histogram', '', {buckets={1/0}})", "a finite number"),
        ("declareMetric('a', 'gauge', '', {buckets={1}})", "only a histogram has buckets"),
        ("incMetric('a')", "the metric is not declared"),
        ("declareMetric('a', 'gauge', '') declareMetric('a', 'counter', '')", "was declared otherwise"),
        ("declareMetric('queries', 'gauge', '')", "there is a metric of this name already"),
        (
            "declareMetric('h', 'histogram', '') declareMetric('h-sum', 'gauge', '')",
            "another metric has this name",
        ),
        ("declareMetric('a', 'gauge', '') observeMetric('a', 1)", "it is no histogram"),
        ("declareMetric('h', 'histogram', '') incMetric('h')", "whose values come by observeMetric"),
        ("declareMetric('h', 'histogram', '') observeMetric('h', 'x')", "a finite number"),
        ("declareMetric('h', 'histogram', '') observeMetric('h', 0/0)", "a finite number"),
        (
            "declareMetric('h', 'histogram', '', {withLabels=true}) observeMetric('h', 1, {labels={le='1'}})",
            "the label \"le\" is that of histograms' ranges",
        ),
        (
            "declareMetric('c', 'counter', '', {withLabels=true}) incMetric('c', {labels={le='1'}})",
            "the label \"le\" is that of histograms' ranges",
        ),
        ("declareMetric('c', 'counter', '', {withLabels=true}) incMetric('c')", "it is counted by labels"),
    ] {
        let messages = broken(text);
        assert!(messages.len() == 1 && messages[0].contains(want), "{text}\n  gave {messages:#?}");
    }
    let of = |draft: &(Loaded, Compiled), name: &str| draft.0.draft.metrics.metric(name).expect("declared");
    assert_eq!(of(&hits, "file-hits").values(), [(Vec::new(), 5.0)]);
    assert_eq!(of(&once, "file-once").values(), [(Vec::new(), 3.0)], "not in each shard again");
    assert_eq!(of(&hits, "file-by").values().len(), 2);
    let sizes = of(&histograms, "file-sizes");
    let shown = custom_metrics::all().list();
    assert!(!shown.iter().any(|metric| metric.name.starts_with("file-")), "none of them is in force");
    assert_eq!(
        (sizes.bounds.clone(), sizes.observed()[0].1.at_most.clone()),
        (vec![1.0, 10.5], vec![0, 1, 2])
    );
}

#[test]
fn the_directory_of_the_api_is_read_after_the_file_unless_it_was_included() {
    let directory = std::env::temp_dir().join(format!("dnslob-api-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let shown = directory.display();
    let text = format!("setACL('192.0.2.1')\nsetAPIWritable(true, '{shown}')\n");
    let acl = |text: &str| good(text).1.snapshot.acl.texts();
    assert_eq!(acl(&text), ["192.0.2.1/32"], "nothing is written yet");
    std::fs::write(directory.join("acl.conf"), "setACL({\"192.0.2.2\"})\n").expect("written");
    std::fs::write(directory.join("api.conf"), "newServer({address=\"192.0.2.77\"})\n").expect("written");
    std::fs::write(directory.join("other.conf"), "setACL({\"192.0.2.3\"})\n").expect("written");
    assert_eq!(acl(&text), ["192.0.2.2/32"]);
    let servers = |text: &str| good(text).1.snapshot.backends.iter().flatten().count();
    assert_eq!((servers(&text), servers(&format!("includeDirectory('{shown}/.')\n{text}"))), (1, 1));
    assert_eq!(acl(&text.replace("true", "false")), ["192.0.2.1/32"]);
    let web = web(&text);
    assert!(
        web.writable && web.text().contains(&format!("API writable: yes, kept in {shown}")),
        "{}",
        web.text()
    );
    std::fs::write(directory.join("api.conf"), "newServer({address=\"nonsense\"})\n").expect("written");
    let errors = broken(&text);
    assert!(errors.iter().any(|e| e.contains("api.conf:1: newServer: address")), "{errors:?}");
    std::fs::remove_dir_all(&directory).expect("removed");
    let errors = broken(&text);
    assert!(errors[0].contains("FILE:2: setAPIWritable: cannot read"), "{errors:?}");
}

#[test]
fn a_web_server_without_a_password_that_others_reach_is_warned_of() {
    let warnings = |text: &str| {
        let warnings = good(text).0.draft.warnings.into_list();
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let open = "setWebserverConfig({statsRequireAuthentication=false})";
    for (text, wanted) in [
        (format!("webserver('0.0.0.0:8083') {open}"), Some("no password: whoever may connect reads it")),
        ("webserver('[::]:8083')".to_owned(), Some("no password: it shows next to nothing")),
        (format!("webserver('127.0.0.1:8083') {open}"), None),
        (format!("webserver('[::ffff:127.0.0.1]:8083') {open}"), None),
        (format!("webserver('0.0.0.0:8083') {open} setWebserverConfig({{apiKey='key'}})"), None),
    ] {
        let warnings = warnings(&text);
        let is_there = warnings.iter().any(|w| wanted.is_some_and(|wanted| w.contains(wanted)));
        assert_eq!(
            (is_there, warnings.len()),
            (wanted.is_some(), usize::from(wanted.is_some())),
            "{warnings:?}"
        );
    }
}
