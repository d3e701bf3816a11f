//! Configurations that dnsdist and dnslob both read, with the same effect on every query.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use crate::instance::Instance;
use crate::place::{Directory, port, wait_for};
use crate::process::{Program, run};
use crate::servers::{Kind, Server, ask, ask_from};

/// Queries for dig; `+tries=1` marks those without an answer.
const QUERIES: &[&str] = &[
    "www.test A",
    "www.test A +noedns",
    "www.test A +dnssec",
    "www.test AAAA",
    "www.test A +norecurse",
    "www.test A +adflag",
    "WwW.TeSt A",
    "nosuch.invalid A",
    "www.test A -b 127.0.7.1",
    "www.test A -b 127.0.9.1 +time=1",
    "www.test ANY +notcp",
    "www.test ANY +dnssec +notcp",
    "version.bind CH TXT",
    "www.test A +opcode=NOTIFY",
    "www.test A +opcode=UPDATE",
    "ads.test A",
    "ads.test A +noedns +norecurse",
    "x.y.ADS.test AAAA +dnssec",
    "loads.test A",
    "metrics.test A +cdflag",
    "www.test A +cdflag",
    "a.tracker.test MX",
    "exact.test A",
    "below.exact.test A",
    "evil12.test A",
    "EVIL7.x.test A",
    "notevil12.test A",
    "foo12.test A",
    "bar99.test A",
    "foo123.test A",
    "1.2.3.4.5.6.7.8.9.test A",
    "1.2.3.4.5.6.7.8.9.10.test A",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.test A",
    "big.test A",
    "x.big.test TXT +dnssec",
    "x.bigger.test A +noedns",
    "landing.test A",
    "landing.test AAAA +dnssec",
    "x.landing.test A +noedns",
    "landing.test ANY +notcp",
    "landing.test MX",
    "authoritative.test A",
    "authoritative.test A +norecurse +adflag",
    "authoritative.test AAAA",
    "alias.test A",
    "x.alias.test AAAA +dnssec",
    "alias.test CNAME",
    "raw.test TXT +noedns",
    "raw.test A",
    "gone.test A",
    "gone.test TXT +dnssec",
    "empty.test AAAA",
    "empty.test A +noedns",
    "x.tagged.test A",
    "delayed.test A",
    "x.norecurse.test A",
    "x.nocheck.test A",
    "x.dnssec.test A",
    "x.dnssec.test A +dnssec",
    "allowed.dnssec.test A +dnssec",
    "x.rd.test A",
    "x.rd.test A +norecurse",
    "x.ecs.test A +subnet=198.51.100.0/24",
    "x.ecs.test A",
    "x.always.test A",
    "quiet.invalid A",
    "x.slowanswer.test A",
    "moved.test A +dnssec",
];

/// Known differences: the query, and the parts that only the answer of dnsdist or of dnslob has.
const DIFFERENT: &[(&str, &str, &str)] = &[
    // dnsdist 1.7 answers SpoofRawAction without EDNS.
    ("raw.test TXT", "ADDITIONAL: 0", "ADDITIONAL: 1"),
    // A pool without servers: dnsdist 1.7 does not answer, although it is configured to send
    // SERVFAIL.
    ("nopool.test A +time=1", "no servers could be reached", "status: SERVFAIL"),
];

/// Queries for `dnsdist-lua.conf`.
const SCRIPTED: &[&str] = &[
    "trunc.test A",
    "trunc.test A +noedns",
    "drop.test A +time=1",
    "spoof.test A",
    "spoof6.test AAAA",
    "spoofname.test A",
    "spoofname.test AAAA +dnssec",
    "delay.test A",
    "x.pool.test A",
    "hdr.test A",
    "hdr.test A +norecurse",
    "qr.test A",
    "qrallow.test A",
    "rd.test A +norecurse",
    "qtype.test A",
    "x.name.test A",
    "len.test A",
    "A.B.labels.test A",
    "a.wirelen.test A",
    "remote.test A",
    "remote.test A -b 127.0.0.8",
    "local.test A",
    "op.test A",
    "tcp.test A",
    "do.test A",
    "do.test A +dnssec",
    "opts.test A +subnet=198.51.100.0/24",
    "part.test A",
    "trail.test A",
    "tag.test A",
    "rule.test A",
    "luarule.test A",
    "norec.test A",
    "allow.test A",
    "x.rsf.rt.test A",
    "rdrop.rt.test A +time=1",
    "rhdr.rt.test A",
    "rttl.rt.test A",
    "rttl.rt.test TXT",
    "rrc.rt.test A",
    "rdelay.rt.test A",
];

/// Known differences with that configuration.
const SCRIPTED_DIFFERENT: &[(&str, &str, &str)] = &[
    // dnsdist 1.7 keeps the AD bit of the query in such an answer.
    ("nx.test A", "qr rd ad;", "qr rd;"),
    ("refused.test A +noedns", "qr rd ad;", "qr rd;"),
    ("err.test A", "qr rd ad;", "qr rd;"),
    ("nothing.test A", "qr rd ad;", "qr rd;"),
    // And the records of a response on which a function fails.
    ("rerr.rt.test A", "ANSWER: 1", "ANSWER: 0"),
    // dnsdist 1.7 sends a query to a server whose type asks for none of the addresses that a function
    // spoofs, so that what is blocked by IPv4 is reached by IPv6; here it has no data.
    ("spoof.test AAAA", "SOA\tns.test.", "qr rd ra;"),
    ("spoof6.test A", "A\t192.0.2.1", "qr rd ra;"),
    // A function that spoofs nothing has failed.
    ("emptyspoof.test A", "status: NOERROR", "status: SERVFAIL"),
];

/// Both programs with the same configuration and the same servers.
struct Pair {
    theirs: SocketAddr,
    ours: SocketAddr,
    instance: Instance,
    _dnsdist: Program,
    _directory: Directory,
    _servers: [Server; 3],
}

impl Pair {
    fn start(text: &str) -> Self {
        let servers = [1, 2, 3].map(|who| Server::start(Kind::Nsd, who));
        let (theirs, ours) = (local(), local());
        let config = |listen: SocketAddr| {
            text.replace("LISTEN", &listen.to_string())
                .replace("PLAIN", &servers[0].address.to_string())
                .replace("SIGNED", &servers[1].address.to_string())
                .replace("QUARANTINE", &servers[2].address.to_string())
        };
        let directory = Directory::new();
        let path = directory.write("dnsdist.conf", &config(theirs));
        let path = path.to_str().expect("a path in UTF-8");
        let (status, output) = run("dnsdist", &["--check-config", "-C", path]);
        assert!(status.success(), "{output}");
        let mut command = Command::new("dnsdist");
        let dnsdist = Program::start(command.args(["--supervised", "--disable-syslog", "-C", path]));
        wait_for(|| dnsdist.transcript(), || ask(theirs, "ready.test"));
        // One shard: a limit per client is then not divided among shards.
        let instance = Instance::start_with(&config(ours), &["--shards", "1"]);
        Self { theirs, ours, instance, _dnsdist: dnsdist, _directory: directory, _servers: servers }
    }

    /// Checks that both give the same answers, except for the known differences.
    fn compare(&self, same: &[&str], different: &[(&str, &str, &str)]) {
        let mut found = Vec::new();
        for query in same {
            let (left, right) = (visible(self.theirs, query), visible(self.ours, query));
            if left != right {
                found.push(format!("{query}\n  dnsdist: {left:#?}\n  dnslob: {right:#?}"));
            }
        }
        assert!(found.is_empty(), "{}\n{}", found.join("\n"), self.instance.program.transcript());
        for (query, only_left, only_right) in different {
            let left = visible(self.theirs, query).join("\n");
            let right = visible(self.ours, query).join("\n");
            assert!(left.contains(only_left) && !right.contains(only_left), "{query}: {left}\n{right}");
            assert!(right.contains(only_right) && !left.contains(only_right), "{query}: {left}\n{right}");
        }
    }
}

#[test]
fn a_sites_configuration_has_the_same_effect_in_both() {
    let pair = Pair::start(include_str!("dnsdist-site.conf"));
    pair.compare(QUERIES, DIFFERENT);
    // A limit per client: after the burst, at most a few queries pass.
    for at in [pair.theirs, pair.ours] {
        let refused: Vec<bool> = (0..20)
            .map(|_| {
                let client = IpAddr::from([127, 0, 5, 5]);
                let answer = ask_from(client, at, "limited.test", Duration::from_secs(2)).expect("an answer");
                answer[3] & 0x0f == 5
            })
            .collect();
        assert_eq!(refused[..4], [false, false, false, true], "{at}: {refused:?}");
        assert!(refused.iter().filter(|r| !**r).count() <= 5, "{at}: {refused:?}");
    }
}

#[test]
fn functions_per_query_have_the_same_effect_in_both() {
    let pair = Pair::start(include_str!("dnsdist-lua.conf"));
    pair.compare(SCRIPTED, SCRIPTED_DIFFERENT);
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

/// Returns dig's output without ids, cookies and times, in sorted order.
fn visible(at: SocketAddr, query: &str) -> Vec<String> {
    let (host, port) = (format!("@{}", at.ip()), at.port().to_string());
    let mut arguments = vec![host.as_str(), "-p", &port];
    arguments.extend(["+nocookie", "+ignore", "+nocmd", "+nostats", "+nottlunits", "+tries=1", "+time=3"]);
    arguments.extend(query.split_whitespace());
    let (_, text) = run("dig", &arguments);
    let mut lines: Vec<String> = text
        .lines()
        .map(|l| l.split(", id: ").next().unwrap_or_default().trim().to_owned())
        .filter(|l| !l.is_empty() && !l.contains(&port) && !l.contains("global options"))
        .collect();
    lines.sort();
    lines
}
