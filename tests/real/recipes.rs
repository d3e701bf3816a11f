//! The recipes in `examples/`: each runs unchanged except for its addresses, with real servers.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::instance::{Instance, binary};
use crate::message;
use crate::place::{Directory, port, wait_for};
use crate::process::run;
use crate::servers::{Kind, Server, ask_from};
use crate::witness::Witness;

/// A running example.
struct Recipe {
    at: SocketAddr,
    instance: Instance,
}

impl Recipe {
    /// Starts `examples/NAME.lua` with every `.0` of `changes` replaced by its `.1`. Names under
    /// `example` become names under `test`, which the servers answer.
    fn start(name: &str, changes: &[(&str, String)]) -> Self {
        let home = format!("{}/examples", env!("CARGO_MANIFEST_DIR"));
        let read = |file: &str| std::fs::read_to_string(format!("{home}/{file}")).expect("an example");
        let at = SocketAddr::from(([127, 0, 0, 1], port()));
        let mut text = read(&format!("{name}.lua"));
        let listener = ("127.0.0.1:5300", at.to_string());
        for (old, new) in changes.iter().chain([&listener]) {
            let quoted = format!("\"{old}\"");
            assert!(text.contains(&quoted), "{name}.lua has no {quoted}");
            text = text.replace(&quoted, &format!("\"{new}\""));
        }
        let text = text.replace(".example", ".test").replace("\"example\"", "\"test\"");
        let directory = Directory::new();
        let config = directory.write(&format!("{name}.lua"), &text);
        for (user, list) in [("block-list", "block-list.txt"), ("cache-stale-prefetch", "popular-names.txt")]
        {
            if name == user {
                directory.write(list, &read(list).replace(".example", ".test"));
            }
        }
        let mut command = Command::new(binary());
        // One shard: the rate of a client is then not divided among shards.
        command.args(["--shards", "1", "-C"]).arg(config);
        Self { at, instance: Instance::launch(command, directory) }
    }

    /// Returns the output of a client, and whether it got an answer.
    fn try_client(&self, program: &str, arguments: &str) -> (bool, String) {
        let (host, port) = (format!("@{}", self.at.ip()), self.at.port().to_string());
        let mut all = vec![host.as_str(), "-p", &port];
        all.extend(arguments.split_whitespace());
        let (status, text) = run(program, &all);
        (status.success(), text)
    }

    fn client(&self, program: &str, arguments: &str) -> String {
        let (answered, text) = self.try_client(program, arguments);
        assert!(answered, "{program} {arguments}: {text}\n{}", self.instance.program.transcript());
        text
    }

    fn dig(&self, arguments: &str) -> String {
        self.client("dig", &format!("+tries=3 +time=2 +ignore {arguments}"))
    }

    /// Returns only the data of the records.
    fn short(&self, arguments: &str) -> String {
        self.dig(&format!("+short {arguments}")).trim().to_owned()
    }
}

fn nsd(who: u8) -> Server {
    Server::start(Kind::Nsd, who)
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn dnssec_clients_have_their_own_pool() {
    let (plain, mut signed) = (nsd(1), nsd(2));
    let recipe = Recipe::start(
        "dnssec-pool",
        &[
            ("192.0.2.1", plain.address.to_string()),
            ("192.0.2.2", plain.address.to_string() + "\", id=\"second"),
            ("198.51.100.1", signed.address.to_string()),
            ("198.51.100.2", signed.address.to_string() + "\", id=\"fourth"),
        ],
    );
    for n in 0..4 {
        assert_eq!(recipe.short(&format!("a{n}.test +nodnssec")), "192.0.2.1");
        assert_eq!(recipe.short(&format!("a{n}.test +dnssec")), "192.0.2.2");
        assert_eq!(recipe.short(&format!("a{n}.test +noedns")), "192.0.2.1");
    }
    assert_eq!(recipe.instance.hits("dnssec"), 4);
    signed.kill();
    wait_for(
        || format!("the plain servers to take over; {}", recipe.instance.program.transcript()),
        || {
            // Until a check has failed, queries go to the dead server.
            let (answered, text) = recipe.try_client("dig", "b.test +dnssec +short +time=1 +tries=1");
            (answered && text.trim() == "192.0.2.1").then_some(())
        },
    );
}

#[test]
fn an_abusive_client_is_limited_without_affecting_others() {
    let (good, quarantine) = (nsd(1), nsd(3));
    let recipe = Recipe::start(
        "abuse-pool",
        &[
            ("192.0.2.1", good.address.to_string()),
            ("192.0.2.2", good.address.to_string() + "\", id=\"second"),
            ("198.51.100.1", quarantine.address.to_string()),
            ("203.0.113.0/24", "127.0.7.0/24".into()),
            ("!203.0.113.53/32", "!127.0.7.53/32".into()),
        ],
    );
    let who = |client: [u8; 4], name: &str| {
        let answer = ask_from(IpAddr::from(client), recipe.at, name, Duration::from_secs(2));
        let answer = answer.unwrap_or_else(|| panic!("no answer; {}", recipe.instance.program.transcript()));
        message::answered_by(&answer)
    };
    assert_eq!(who([127, 0, 0, 1], "a.test"), Some(1));
    // Blocked networks, except for the exception.
    assert_eq!(who([127, 0, 7, 1], "a.test"), Some(3));
    assert_eq!(who([127, 0, 7, 53], "a.test"), Some(1));
    // Blocked names.
    assert_eq!(who([127, 0, 0, 1], "x1.water-torture.test"), Some(3));
    assert_eq!(who([127, 0, 0, 1], "1.2.3.4.5.6.7.8.9.10.11.12.test"), Some(3));
    // A client beyond its rate; its burst is 100.
    let flood: Vec<_> = (0..300).map(|n| who([127, 0, 8, 1], &format!("f{n}.test"))).collect();
    assert!(flood[..100].iter().all(|w| *w == Some(1)), "{flood:?}");
    assert!(flood[100..].contains(&Some(3)), "{flood:?}");
    // Other clients are served meanwhile, and so is this client once it slows down.
    assert_eq!(who([127, 0, 8, 2], "a.test"), Some(1));
    wait_for(
        || "the client to be forgiven".into(),
        || (who([127, 0, 8, 1], "calm.test") == Some(1)).then_some(()),
    );
    assert_eq!(recipe.instance.hits("known"), 1);
    assert_eq!(recipe.instance.hits("deep"), 1);
}

#[test]
fn a_suffix_is_truncated() {
    let a = nsd(1);
    let recipe = Recipe::start(
        "truncate-suffix",
        &[
            ("192.0.2.1", a.address.to_string()),
            ("192.0.2.2", a.address.to_string() + "\", id=\"second"),
            ("10.0.0.0/8", "127.0.9.0/24".into()),
        ],
    );
    let is_tc = |arguments: &str| {
        let text = recipe.dig(arguments);
        let flags = text.lines().find(|l| l.starts_with(";; flags:")).expect("flags").to_owned();
        let tc = flags.split(';').nth(2).expect("flags").split_whitespace().any(|f| f == "tc");
        assert!(!tc || flags.contains("ANSWER: 0,"), "{text}");
        tc
    };
    assert!(is_tc("large.test A"));
    assert!(is_tc("a.b.large.test A +dnssec"));
    assert!(!is_tc("enlarge.test A"));
    assert!(is_tc("x.test ANY +notcp"));
    assert!(is_tc("x.test TXT"));
    assert!(!is_tc("x.test TXT -b 127.0.9.1"));
    assert!(!is_tc("x.test A"));
    assert_eq!(recipe.short("x.test A"), "192.0.2.1");
}

#[test]
fn names_from_a_file_are_blocked() {
    let a = nsd(1);
    let recipe = Recipe::start(
        "block-list",
        &[("192.0.2.1", a.address.to_string()), ("192.0.2.2", a.address.to_string() + "\", id=\"second")],
    );
    for name in ["ads.test", "x.ads.test", "WWW.Tracker.TEST", "malware.test.net"] {
        has(&recipe.dig(name), &["status: NXDOMAIN", "ANSWER: 0", " ra"]);
        let text = recipe.client("kdig", &format!("+edns {name}"));
        has(&text, &["NXDOMAIN", "EDE", "Blocked", "on our block list"]);
    }
    for name in ["test", "loads.test", "needed.tracker.test", "x.needed.tracker.test"] {
        has(&recipe.dig(name), &["status: NOERROR"]);
    }
    assert_eq!(recipe.short("x.needed.tracker.test"), "192.0.2.1");
    // A query without EDNS gets none.
    let text = recipe.dig("ads.test +noedns");
    assert!(!text.contains("OPT PSEUDOSECTION"), "{text}");
    assert_eq!(recipe.instance.hits("blocked"), 9);
}

#[test]
fn answers_in_a_cache_outlive_their_server() {
    for name in ["cache-stale", "cache-stale-prefetch"] {
        let mut a = nsd(1);
        let second = a.address.to_string() + "\", id=\"second";
        let recipe = Recipe::start(name, &[("192.0.2.1", a.address.to_string()), ("192.0.2.2", second)]);
        assert_eq!(recipe.short("www.test"), "192.0.2.1");
        a.kill();
        has(&recipe.dig("WWW.test"), &["status: NOERROR", "WWW.test.\t", "192.0.2.1"]);
        assert!(recipe.instance.figure("cache-hits") > 0, "{name}");
    }
}

#[test]
fn a_blocked_site_leads_to_an_information_page() {
    let a = nsd(1);
    let recipe = Recipe::start(
        "landing-page",
        &[("192.0.2.1", a.address.to_string()), ("192.0.2.2", a.address.to_string() + "\", id=\"second")],
    );
    let sorted = |arguments: &str| {
        let text = recipe.short(arguments);
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted("www.gambling.test A"), ["203.0.113.80", "203.0.113.81"]);
    assert_eq!(sorted("gambling.test AAAA"), ["2001:db8::80"]);
    assert_eq!(sorted("gambling.test ANY +notcp"), ["2001:db8::80", "203.0.113.80", "203.0.113.81"]);
    let text = recipe.client("kdig", "+edns gambling.test A");
    has(&text, &["EDE", "Filtered", "why.landing.test", "\t30\t"]);
    // Other types: NODATA with an SOA record.
    let text = recipe.dig("gambling.test MX");
    has(&text, &["status: NOERROR", "ANSWER: 0", "SOA", "hostmaster.landing.test. 1 3600 600 86400 30"]);
    has(&recipe.dig("x.betting.test AAAA"), &["CNAME\twhy.landing.test.", "\t60\tIN"]);
    assert_eq!(recipe.short("why.landing.test TXT"), "\"blocked\"");
    assert_eq!(recipe.short("why.landing.test A"), "192.0.2.1");
    assert_eq!(recipe.short("other.test A"), "192.0.2.1");
}

#[test]
fn a_server_receives_the_client_subnet() {
    let (ours, theirs) = (Witness::start(1), Witness::start(2));
    let recipe = Recipe::start(
        "client-subnet",
        &[
            ("192.0.2.1", ours.address.to_string()),
            ("198.51.100.1", theirs.address.to_string()),
            ("10.0.0.0/8", "127.0.6.0/24".into()),
            ("192.168.7.0/24", "127.0.7.0/24".into()),
            ("192.168.8.0/24", "127.0.8.0/24".into()),
        ],
    );
    // Returns the client subnet that a server received: family, prefix length, and address bytes.
    let subnet_at = |witness: &Witness, name: &str| {
        let queries = witness.queries(name);
        assert_eq!(queries.len(), 1, "queries for {name}");
        subnet(&queries[0])
    };
    let local = Some((1, 24, vec![127, 0, 0]));
    assert_eq!(recipe.short("a.test +nocookie -b 127.0.0.9"), "192.0.2.1");
    assert_eq!(subnet_at(&ours, "a.test"), local);
    assert_eq!(recipe.short("plain.test +noedns -b 127.0.0.9"), "192.0.2.1");
    assert_eq!(subnet_at(&ours, "plain.test"), local);
    assert_eq!(recipe.short("x.cdn.test"), "192.0.2.2");
    assert_eq!(subnet_at(&theirs, "x.cdn.test"), None);
    recipe.dig("private.test -b 127.0.6.1");
    assert_eq!(subnet_at(&ours, "private.test"), None);
    recipe.dig("tunnel.test -b 127.0.7.1");
    assert_eq!(subnet_at(&ours, "tunnel.test"), Some((1, 24, vec![203, 0, 113])));
    // A subnet in the query.
    recipe.dig("brought.test +subnet=198.51.100.0/24");
    assert_eq!(subnet_at(&ours, "brought.test"), Some((1, 24, vec![198, 51, 100])));
    recipe.dig("claim.test +subnet=198.51.100.0/24 -b 127.0.8.1");
    assert_eq!(subnet_at(&ours, "claim.test"), Some((1, 24, vec![127, 0, 8])));
}

#[test]
fn the_client_address_reaches_the_server() {
    use dnslob::wire::proxy;
    use dnslob::wire::proxy::{Parsed, Transport, write_v2};
    let (proxied, plain) = (Witness::start(1), Witness::start(2));
    let recipe = Recipe::start(
        "client-address",
        &[
            ("203.0.113.53", "127.0.9.1".into()),
            ("192.0.2.1", proxied.address.to_string() + "\", healthCheckMode=\"up"),
            ("198.51.100.1", plain.address.to_string() + "\", healthCheckMode=\"up"),
        ],
    );
    let ask = |from: &str, client: &str, name: &str| {
        let mut bytes = Vec::new();
        let [source, asked] =
            [client, "192.0.2.53:53"].map(|a| a.parse::<SocketAddr>().expect("an address").into());
        assert!(write_v2(&mut bytes, Transport::Datagram, source, asked, std::iter::empty()));
        bytes.extend(message::query(7, name));
        let socket = std::net::UdpSocket::bind((from, 0)).expect("a socket");
        socket.send_to(&bytes, recipe.at).expect("sent");
    };
    let seen = |witness: &Witness, name: &str| {
        wait_for(|| format!("{name}; {}", recipe.instance.program.transcript()), || witness.last(name))
    };
    for (client, guest) in [("192.0.2.9:4000", false), ("192.0.2.130:4000", true)] {
        let name = format!("g{guest}.test");
        ask("127.0.9.1", client, &name);
        let bytes = seen(&proxied, &name);
        let Parsed::Header { header, .. } = proxy::parse(&bytes, 512) else { panic!("{bytes:02x?}") };
        assert_eq!(header.source.map(SocketAddr::from), client.parse().ok());
        assert_eq!(header.tlvs.first(0xe0), guest.then_some(&b"guest"[..]));
    }
    ask("127.0.9.1", "192.0.2.70:4000", "subnet.test");
    assert_eq!(subnet(&seen(&plain, "subnet.test")), Some((1, 24, vec![192, 0, 2])));
    // Sources outside the PROXY ACL, and clients outside the ACL.
    ask("127.0.0.1", "192.0.2.9:4000", "stranger.test");
    ask("127.0.9.1", "198.51.100.9:4000", "outside.test");
    wait_for(
        || recipe.instance.program.transcript(),
        || {
            (recipe.instance.dropped("proxy-header") == 1 && recipe.instance.dropped("acl") == 1)
                .then_some(())
        },
    );
    // Other sources need no header; the server receives their own address.
    recipe.try_client("dig", "own.test +tries=1 +time=1 -b 127.0.0.9");
    let bytes = seen(&proxied, "own.test");
    let Parsed::Header { header, .. } = proxy::parse(&bytes, 512) else { panic!("{bytes:02x?}") };
    assert_eq!(header.source.map(|s| s.ip().to_string()), Some("127.0.0.9".to_owned()));
}

/// Returns the client subnet of a query with one question: family, prefix length, bytes (RFC 7871,
/// 6).
fn subnet(query: &[u8]) -> Option<(u16, u8, Vec<u8>)> {
    let number = |at: usize| Some(u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]));
    // Root name, OPT, payload size, TTL, then the length of the options.
    let opt = message::question_end(query)?;
    assert_eq!(number(opt + 1)?, 41, "an OPT record is all that follows");
    let (mut at, end) = (opt + 11, opt + 11 + usize::from(number(opt + 9)?));
    while at < end {
        let len = usize::from(number(at + 2)?);
        if number(at)? == 8 {
            return Some((number(at + 4)?, query[at + 6], query[at + 8..at + 4 + len].to_vec()));
        }
        at += 4 + len;
    }
    None
}

#[test]
fn lua_tests_a_name_and_sets_a_tag() {
    let (a, b) = (nsd(1), nsd(2));
    let recipe = Recipe::start(
        "lua-rules",
        &[("192.0.2.1", a.address.to_string()), ("198.51.100.1", b.address.to_string())],
    );
    assert_eq!(recipe.short("www.test"), "192.0.2.1");
    assert_eq!(recipe.short("0a1b2c3d4e5f.test"), "192.0.2.2");
    assert_eq!(recipe.short("0a1b2c3d4e5g.test"), "192.0.2.1");
    assert_eq!(recipe.short("abc.test"), "192.0.2.1");
    // The tag is still set when the answer arrives.
    has(&recipe.dig("ffffffffffffffff.test"), &["\t5\tIN"]);
    has(&recipe.dig("www.test"), &["\t60\tIN"]);
    assert_eq!(recipe.instance.hits("look"), 6);
    assert_eq!(recipe.instance.hits("generated"), 2);
}
