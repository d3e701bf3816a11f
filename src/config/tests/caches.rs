//! Packet caches: options, pools, settings.

use crate::cache::CacheOptions;
use crate::config::diff;
use crate::config::tests::{broken, good, snapshot};
use crate::model::{CacheCleaning, Snapshot};

/// Returns the options of a pool's cache.
fn of_pool(made: &Snapshot, name: &str) -> Option<CacheOptions> {
    let pool = made.pools.iter().find(|p| p.name == name).expect("the pool");
    pool.cache.as_ref().map(|cache| cache.options().clone())
}

/// Returns the options of a cache with these arguments, and the warnings.
fn cache(arguments: &str) -> (CacheOptions, Vec<String>) {
    let (loaded, compiled) = good(&format!("getPool(''):setCache(newPacketCache({arguments}))"));
    let warnings = loaded.draft.warnings.clone().into_list().iter().map(|w| w.fault.to_string()).collect();
    (of_pool(&compiled.snapshot, "").expect("a cache"), warnings)
}

#[test]
fn a_cache_has_dnsdists_defaults() {
    assert_eq!(cache("10000"), (CacheOptions::new(10_000), Vec::new()));
    assert_eq!(cache("10000, {}"), (CacheOptions::new(10_000), Vec::new()));
}

#[test]
fn every_option_reaches_the_cache() {
    let (made, warnings) = cache(
        "5, {maxTTL=1, minTTL=1, maxNegativeTTL=3, temporaryFailureTTL=4, truncatedTTL=5, staleTTL=6, staleOnFailure=false, \
         keepStaleData=false, dontAge=true, parseECS=true, cookieHashing=true, skipOptions={8, 65001, 12}, \
         payloadRanks={4096, 512, 1232}, maximumEntrySize=4096, shuffle=true, coalesce=false, prefetch=7, prefetchHits=3, memoryLimit=1048576, snapshot='/tmp/x', \
         numberOfShards=10, deferrableInsertLock=false}",
    );
    assert_eq!(
        warnings,
        [
            "8 in skipOptions has no effect: subnets get answers of their own",
            "staleTTL has no effect without setStaleCacheEntriesTTL; expected both or neither",
        ]
    );
    let expected = CacheOptions {
        memory_max: Some(1_048_576),
        ttl_max: 1,
        ttl_min: 1,
        negative_ttl_max: 3,
        failure_ttl: 4,
        truncated_ttl: 5,
        stale_ttl: 6,
        keep_stale: false,
        dont_age: true,
        parse_ecs: true,
        hash_cookies: true,
        skip_options: vec![8, 10, 12, 65_001],
        payload_ranks: vec![512, 1232, 4096],
        entry_bytes_max: 4096,
        shuffle: true,
        stale_on_failure: false,
        prefetch_percent: 7,
        prefetch_hits: 3,
        coalesce: false,
        snapshot: Some("/tmp/x".to_owned()),
        ..CacheOptions::new(5)
    };
    assert_eq!(made, expected);
}

#[test]
fn the_older_form_has_the_same_options() {
    let older = cache("7, 11, 2, 3, 4, true, 5, false, 6, true").0;
    let named = "7, {maxTTL=11, minTTL=2, temporaryFailureTTL=3, staleTTL=4, dontAge=true, maxNegativeTTL=6, parseECS=true}";
    assert_eq!(older, cache(named).0);
    assert_eq!(cache("7, nil, nil, nil, nil, true").0, cache("7, {dontAge=true}").0);
}

#[test]
fn what_is_wrong_is_said() {
    for (text, expected) in [
        ("newPacketCache()", "the number of entries is nil; expected a whole number from 1 to 100000000"),
        ("newPacketCache(-1)", "the number of entries is -1; expected a whole number from 1 to 100000000"),
        ("newPacketCache('many')", "the number of entries is \"many\"; expected a whole number"),
        ("newPacketCache(5, {maxTTL='x'})", "maxTTL is \"x\"; expected a whole number from 1 to"),
        ("newPacketCache(5, {dontAge=1})", "dontAge is 1; expected true or false"),
        (
            "newPacketCache(5, {memoryLimit=5})",
            "memoryLimit is 5; expected a whole number of bytes from 1048576",
        ),
        (
            "newPacketCache(5, {skipOptions={70000}})",
            "skipOptions is 70000; expected a whole number from 0 to 65535",
        ),
        ("newPacketCache(5, {maxTTL=5}, 3)", "called with 3 arguments; expected at most 2 in this form"),
        (
            "newPacketCache(5, {snapshot=''})",
            "snapshot is \"\"; expected the path of a file, of 1 to 4095 bytes",
        ),
        ("newPacketCache(5, {snapshot='/tmp/'})", "snapshot is \"/tmp/\"; expected the path of a file"),
        ("newPacketCache(5, {snapshot='/tmp/\\0'})", "expected the path of a file"),
        ("newPacketCache(5, {snapshot='/tmp/.'})", "snapshot is \"/tmp/.\"; expected the path of a file"),
        ("newPacketCache(5, {snapshot='..'})", "snapshot is \"..\"; expected the path of a file"),
        (
            "newPacketCache(5, {snapshot='/tmp/x.unfinished'})",
            "expected a name that no other snapshot is kept by",
        ),
        (
            "newPacketCache(5, {snapshot='/tmp/x.refused'})",
            "expected a name that no other snapshot is kept by",
        ),
        (
            "newPacketCache(5, {snapshot='/tmp/x.refused.3'})",
            "expected a name that no other snapshot is kept by",
        ),
        ("newPacketCache(5, {snapshot=true})", "snapshot is true; expected the path of a file"),
        ("newPacketCache(5, 'x')", "maxTTL is \"x\"; expected"),
        ("getPool(''):setCache(5)", "5 is not allowed; expected a packet cache, as newPacketCache(10000)"),
        ("getPool(''):setCache()", "nil is not allowed; expected a packet cache"),
        ("getPool(''):setDisableZeroScope('on')", "\"on\" is not allowed; expected true or false"),
        ("setCacheCleaningPercentage('x')", "expected a whole number of percent from 0 to 100"),
    ] {
        let messages = broken(text);
        assert!(messages.len() == 1 && messages[0].contains(expected), "{text}: {messages:?}");
    }
}

#[test]
fn all_caches_together_have_a_limit() {
    let text =
        "getPool('a'):setCache(newPacketCache(60000000))\ngetPool('b'):setCache(newPacketCache(60000000))";
    assert_eq!(
        broken(text),
        ["FILE:2: newPacketCache: packet caches with 120000000 entries in all; expected at most 100000000"]
    );
    // Those of pools that share one count once.
    snapshot("local c = newPacketCache(60000000) getPool('a'):setCache(c) getPool('b'):setCache(c)");
}

#[test]
fn each_cache_has_a_snapshot_of_its_own() {
    let text = "getPool('a'):setCache(newPacketCache(5, {snapshot='/tmp/a'}))\n\
                getPool('b'):setCache(newPacketCache(5, {snapshot='/tmp//./a'}))";
    assert_eq!(
        broken(text),
        [
            "FILE:2: newPacketCache: the snapshot \"/tmp//./a\" is that of the cache at FILE:1 too; expected a file \
          for each cache"
        ]
    );
    // The same file by other paths.
    let place = std::env::temp_dir().join(format!("dnslob-one-snapshot-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(place.join("disk")).expect("directories");
    std::os::unix::fs::symlink("disk", place.join("link")).expect("a link");
    std::os::unix::fs::symlink("disk/a", place.join("b")).expect("a link");
    let root = place.canonicalize().expect("the directory");
    let text = |first: &str, second: &str| {
        format!(
            "getPool('a'):setCache(newPacketCache(5, {{snapshot='{0}/{first}'}}))\n\
             getPool('b'):setCache(newPacketCache(5, {{snapshot='{0}/{second}'}}))",
            root.display()
        )
    };
    for (first, second) in
        [("disk/a", "disk/../disk/a"), ("disk/a", "link/a"), ("b", "link/a"), ("disk/a", "b")]
    {
        let messages = broken(&text(first, second));
        let is_said = |message: &String| message.contains("is that of the cache at FILE:1 too");
        assert!(messages.len() == 1 && messages.iter().all(is_said), "{first} {second} {messages:?}");
    }
    let also = format!("{:?}, which is {:?}, is that of", root.join("b"), root.join("disk/a"));
    assert!(broken(&text("disk/a", "b"))[0].contains(&also), "{also}");
    snapshot(&text("disk/a", "a"));
    std::fs::remove_dir_all(&place).expect("removed");
    // One that pools share is one; and what no pool uses is never written.
    snapshot(
        "local c = newPacketCache(5, {snapshot='/tmp/a'}) getPool('a'):setCache(c) getPool('b'):setCache(c)\n\
         newPacketCache(5, {snapshot='/tmp/a'})",
    );
}

#[test]
fn a_list_of_names_is_refused_with_its_line() {
    let path = std::env::temp_dir().join(format!("dnslob-warm-up-{}", std::process::id()));
    let text = format!("getPool(''):setCache(newPacketCache(5, {{warmUp={path:?}}}))");
    let refusal = || broken(&text).concat().replace(&path.display().to_string(), "LIST");
    let _ = std::fs::remove_file(&path);
    assert_eq!(
        refusal(),
        "FILE:1: newPacketCache: warmUp \"LIST\": No such file or directory (os error 2); expected the path of a \
         file with a name in each line"
    );
    for (list, why) in [
        (&b"a\nb..c\n"[..], "line 2: b..c: has an empty label"),
        (b"a\nb\nm\xfcnchen\n", "line 3: \"m\u{fffd}nchen\" is no name in ASCII"),
    ] {
        std::fs::write(&path, list).expect("a file");
        let said = refusal();
        assert!(said.starts_with(&format!("FILE:1: newPacketCache: cannot read \"LIST\": {why}")), "{said}");
        assert!(!said.contains("expected the path"), "{said}");
    }
    std::fs::remove_file(&path).expect("the file");
}

#[test]
fn what_is_odd_is_a_warning() {
    for (arguments, expected) in [
        ("200000000", "the number of entries is 200000000, which is taken as 100000000"),
        ("5, {maxTTL=0}", "maxTTL is 0, which is taken as 1"),
        (
            "5, {maxTTL=5, minTTL=6}",
            "minTTL (6) is above maxTTL (5): nothing is kept; expected a lower minTTL",
        ),
        (
            "5, {maxNegativeTTL=5, minTTL=6}",
            "minTTL (6) is above maxNegativeTTL (5): no negative answer is kept; expected a lower minTTL, or",
        ),
        (
            "5, {payloadRanks={100, 512}}",
            "the payload size 100 is left out: expected 512 to maximumEntrySize (4096)",
        ),
        ("5, {maximumEntrySize=70000}", "maximumEntrySize is 70000, which is taken as 65535"),
        ("5, {maxTll=5}", "unknown option \"maxTll\"; did you mean \"maxTTL\"?"),
        ("5, {temporaryTTL=5}", "unknown option \"temporaryTTL\"; did you mean \"temporaryFailureTTL\"?"),
        ("5, {keepStaleData=true}", "keepStaleData has no effect without setStaleCacheEntriesTTL"),
        ("5, {staleTTL=3600}", "staleTTL has no effect without setStaleCacheEntriesTTL"),
        ("5, {staleOnFailure=false}", "staleOnFailure has no effect without setStaleCacheEntriesTTL"),
        ("5, {prefetchHits=9}", "prefetchHits has no effect without prefetch"),
    ] {
        let warnings = cache(arguments).1;
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{arguments}: {warnings:?}");
    }
    let (loaded, _) = good("newPacketCache(5)");
    let warnings = loaded.draft.warnings.clone().into_list();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0]
            .to_string()
            .ends_with(":1: newPacketCache: no pool uses it: getPool(name):setCache(cache)")
    );
    let (loaded, _) =
        good("getPool(''):setCache(newPacketCache(5, {keepStaleData=true})) setStaleCacheEntriesTTL(9)");
    assert!(loaded.draft.warnings.is_empty());
}

#[test]
fn names_that_no_client_would_find_are_warned_of() {
    let path = std::env::temp_dir().join(format!("dnslob-warm-up-subnet-{}", std::process::id()));
    std::fs::write(&path, "a\n").unwrap();
    let made = |server: &str, pool: &str| {
        let (loaded, _) = good(&format!(
            "newServer{{address='192.0.2.1', {server}}}
             getPool('{pool}'):setCache(newPacketCache(5, {{warmUp={path:?}}}))"
        ));
        loaded.draft.warnings.clone().into_list().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let warnings = made("useClientSubnet=true", "");
    assert!(warnings.len() == 1 && warnings[0].contains("warmUp has no effect beside useClientSubnet"));
    assert!(made("useClientSubnet=true", "other").is_empty(), "the servers of another pool");
    assert!(made("order=1", "").is_empty());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn pools_share_a_cache_or_have_none() {
    let made = snapshot(
        "local c = newPacketCache(5)\n\
         getPool('a'):setCache(c) getPool('b'):setCache(getPool('a'):getCache()) getPool('c'):setCache(c)\n\
         getPool('c'):unsetCache() getPool('d'):setCache(newPacketCache(5))\n\
         assert(getPool('c'):getCache() == nil and getPool('e'):getCache() == nil)",
    );
    let caches: Vec<_> = ["a", "b", "c", "d"]
        .map(|name| made.pools.iter().find(|p| p.name == name).unwrap().cache.clone())
        .into();
    let [Some(a), Some(b), None, Some(d)] = &caches[..] else { panic!("{caches:?}") };
    assert!(a.shares_entries(b) && !a.shares_entries(d));
}

#[test]
fn settings_of_caches_reach_the_snapshot() {
    let globals = snapshot("").globals;
    assert_eq!((globals.stale_cache_seconds, globals.cache_cleaning), (0, CacheCleaning::default()));
    let globals =
        snapshot("setStaleCacheEntriesTTL(86400) setCacheCleaningDelay(10) setCacheCleaningPercentage(50)")
            .globals;
    assert_eq!(globals.stale_cache_seconds, 86_400);
    assert_eq!(globals.cache_cleaning, CacheCleaning { every_seconds: 10, percent: 50 });
}

#[test]
fn answers_for_every_subnet_can_be_refused_by_server_or_pool() {
    let made = snapshot(
        "newServer{address='192.0.2.1', pool={'a', 'b'}} newServer{address='192.0.2.2', pool='b', disableZeroScope=true}\n\
         newServer{address='192.0.2.3', pool='c'} getPool('c'):setDisableZeroScope(true)",
    );
    let zero = |name: &str| made.pools.iter().find(|p| p.name == name).unwrap().zero_scope;
    assert_eq!(["a", "b", "c"].map(zero), [true, false, false]);
}

#[test]
fn a_reload_says_what_it_changed() {
    let text =
        |options: &str| format!("newServer('192.0.2.1') getPool(''):setCache(newPacketCache(5{options}))");
    let (before, same) = (snapshot(&text("")), snapshot(&text(", {}")));
    assert_eq!(diff(&before, &same), [""; 0]);
    let changes = diff(&before, &snapshot(&text(", {maxTTL=9}")));
    assert!(
        changes.len() == 1 && changes[0].contains("packet cache: maxEntries=5 -> maxEntries=5, maxTTL=9"),
        "{changes:?}"
    );
    let changes = diff(&before, &snapshot(&text(", {snapshot='/tmp/x'}")));
    assert!(changes.len() == 1 && changes[0].ends_with("maxEntries=5, snapshot=\"/tmp/x\""), "{changes:?}");
    let text = |settings: &str| snapshot(&format!("newServer('192.0.2.1') {settings}"));
    let settings = "setStaleCacheEntriesTTL(9) setCacheCleaningDelay(10) setCacheCleaningPercentage(50)";
    assert_eq!(
        diff(&text(""), &text(settings)),
        [
            "setting setStaleCacheEntriesTTL: 0 -> 9",
            "setting setCacheCleaningDelay: 60 -> 10",
            "setting setCacheCleaningPercentage: 100 -> 50"
        ]
    );
}
