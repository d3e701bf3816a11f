//! A shard with a configuration, and transcripts of packets in and expected results.
//!
//! ```text
//! q 1234 RD a.example/A       a query comes from the client
//! > 2 * RD a.example/A        it goes to the server 127.0.1.2, saying this
//! a * QR a.example/A A=1.2.3.4    the server that was asked last answers (its id is put in place)
//! a2 * QR a.example/A         the server 127.0.1.2, to what it was asked last
//! < 1234 QR a.example/A       the client gets this
//! ! rule                      something is dropped, and counted under this reason
//! hold                        it is held back
//! wait 100                    milliseconds pass, then the shard does what is due
//! from 192.0.2.1:53           the client, from now on
//! stream                      the client opens a connection and sends its queries over it from now
//!                             on; the configuration has a listener and `setTCPToUDP(true)`
//! via 192.0.2.1:1 192.0.2.2:53 e0=616263    queries come with a PROXY header that says this, from
//!                             now on; `via local`, `via 0d0a` (these bytes), `via nothing`
//! header udp 192.0.2.1:1 192.0.2.2:53 e0=616263    the next packet to a server begins with this
//!                             PROXY header
//! cache 2 1                   how many queries the default pool's packet cache has answered, and how
//!                             many it could not
//! swap                        what follows is about the other shard, which has the same configuration
//!                             and packet cache
//! hits query 1 0              how often the rules of a chain have been hit
//! counted a.x. 2 b.x. 1       what queries were counted as, most first
//! ```
//!
//! Between two packets in, the transcript must contain every result, in order.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use dnslob::base::addr::{Client, ConnectionSlot, LocalSlot, PoolSlot, Route, RuleSlot};
use dnslob::base::packet::Packet;
use dnslob::base::rng::ShardRng;
use dnslob::base::time::{Tick, TickDelta};
use dnslob::config::Slots;
use dnslob::control::stats::{Gatherer, Reading};
use dnslob::model::Snapshot;
use dnslob::shard::Shard;
use dnslob::shard::verdict::Verdict;
use dnslob::stats::drop_reason::DropReason;
use dnslob::stats::live::{LiveState, ShardStats, State};
use dnslob::wire::proxy;
use dnslob::wire::proxy::{Parsed, Transport};

use crate::support::config::{client, configured};
use crate::support::message::{describe, hex, message, same};

/// The size of a packet buffer, as in the engines.
const ROOM: usize = 4096;
/// The mark of copies: `OPT=1232,65353:6d61726b6d61726b`.
const MARK: [u8; 8] = *b"markmark";
const CLIENT: &str = "127.0.0.1:4000";

/// A result of the shard.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Out {
    Forward(Route, Vec<u8>),
    ToClient(Client, Vec<u8>),
    Drop(DropReason),
    Hold,
}

/// A shard and its surroundings.
pub(crate) struct Bench {
    pub(crate) shard: Shard,
    pub(crate) live_state: Arc<LiveState>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) now: Tick,
    slots: Slots,
    from: Client,
    /// The client's connection.
    stream: Option<ConnectionSlot>,
    /// Bytes that queries start with.
    via: Vec<u8>,
    /// The queries that were sent to servers, in order.
    asked: Vec<(Route, Vec<u8>)>,
    out: VecDeque<Out>,
    drops: [u64; DropReason::ALL.len()],
    /// The number of the shard, and the other one with what was counted of it.
    index: usize,
    other: (Shard, [u64; DropReason::ALL.len()]),
}

impl Bench {
    /// Creates a shard from a configuration, with all servers up.
    pub(crate) fn new(text: &str) -> Self {
        let compiled = configured(text, &Slots::default(), 1);
        let (snapshot, slots) = (Arc::new(compiled.snapshot), compiled.slots);
        let live_state = Arc::new(LiveState::new(2, 16));
        live_state.mark(|| MARK);
        snapshot.backends.iter().flatten().for_each(|b| live_state.set_state(b.slot, State::Up));
        let new = |at, seed| Shard::new(at, live_state.clone(), snapshot.clone(), ShardRng::from_seed(seed));
        let (shard, other) = (new(0, 7), new(1, 8));
        let mut bench = Self {
            shard,
            live_state,
            snapshot,
            now: Tick(1_000_000_000),
            slots,
            from: client(CLIENT),
            stream: None,
            via: Vec::new(),
            asked: Vec::new(),
            out: VecDeque::new(),
            drops: [0; DropReason::ALL.len()],
            index: 0,
            other: (other, [0; DropReason::ALL.len()]),
        };
        bench.pass(0);
        bench
    }

    /// Replaces the configuration.
    pub(crate) fn reload(&mut self, text: &str) {
        let compiled = configured(text, &self.slots, self.snapshot.generation + 1);
        let mut snapshot = compiled.snapshot;
        snapshot.inherit(&self.snapshot);
        (self.snapshot, self.slots) = (Arc::new(snapshot), compiled.slots);
        self.snapshot.backends.iter().flatten().for_each(|b| self.live_state.set_state(b.slot, State::Up));
        self.pass(0);
    }

    pub(crate) fn stats(&self) -> &ShardStats {
        &self.live_state.shards()[self.index]
    }

    /// Reads the counters of the shards and servers.
    pub(crate) fn reading(&self) -> Reading {
        let slots = self.snapshot.backends.iter().flatten().map(|backend| backend.slot);
        Gatherer::default().gather(&self.live_state, slots, self.now)
    }

    /// Advances the time without a tick.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now = self.now + TickDelta::from_ms(ms);
        self.shard.begin_batch(self.now, &self.snapshot);
    }

    /// Receives a query and records its outcome.
    pub(crate) fn query(&mut self, from: Client, bytes: &[u8]) -> Vec<Out> {
        self.packet(bytes, |shard, packet| shard.on_query(from, packet))
    }

    /// Receives a query over the client's connection.
    fn query_over(&mut self, stream: ConnectionSlot, bytes: &[u8]) -> Vec<Out> {
        let length = u16::try_from(bytes.len()).expect("a message").to_be_bytes();
        let framed = [&length[..], bytes].concat();
        let mut seen = Vec::new();
        self.shard.on_client_bytes(stream, &framed, &mut || true, &mut |verdict, bytes| {
            seen.push((verdict, bytes.to_vec()));
        });
        self.happened(seen)
    }

    /// Takes what the client's connection got.
    fn read_stream(&mut self) -> Vec<Out> {
        let Some(stream) = self.stream else { return Vec::new() };
        let mut output = self.shard.client_output(stream).to_vec();
        self.shard.client_written(stream, output.len());
        let mut read = Vec::new();
        while let Some(&[high, low]) = output.first_chunk() {
            let end = 2 + usize::from(u16::from_be_bytes([high, low]));
            read.push(Out::ToClient(self.from, output[2..end].to_vec()));
            output.drain(..end);
        }
        read
    }

    /// Receives an answer.
    pub(crate) fn response(&mut self, from: Route, bytes: &[u8]) -> Vec<Out> {
        self.packet(bytes, |shard, packet| shard.on_response(from, packet))
    }

    fn packet(&mut self, bytes: &[u8], call: impl Fn(&mut Shard, &mut Packet<'_>) -> Verdict) -> Vec<Out> {
        let mut buffer = bytes.to_vec();
        buffer.resize(bytes.len().max(ROOM), 0xee);
        let mut packet = Packet::new(&mut buffer, 0, bytes.len());
        let verdict = call(&mut self.shard, &mut packet);
        let bytes = packet.bytes().to_vec();
        self.happened(vec![(verdict, bytes)])
    }

    /// Advances the time and lets the shard do what is due.
    pub(crate) fn tick(&mut self, ms: u64) -> Vec<Out> {
        self.pass(ms);
        let mut seen = Vec::new();
        self.shard.on_tick(&mut |verdict, bytes| seen.push((verdict, bytes.to_vec())));
        self.happened(seen)
    }

    /// Records a result; a drop must have been counted once.
    fn happened(&mut self, seen: Vec<(Verdict, Vec<u8>)>) -> Vec<Out> {
        let mut out = Vec::new();
        let mut reasons = Vec::new();
        for (verdict, bytes) in seen {
            match verdict {
                Verdict::Forward(route) => {
                    self.asked.push((route, bytes[header_len(&bytes)..].to_vec()));
                    out.push(Out::Forward(route, bytes));
                }
                Verdict::Answer(to) | Verdict::Deliver(to) => out.push(Out::ToClient(to, bytes)),
                Verdict::Drop(reason) => reasons.push(reason),
                Verdict::Hold => out.push(Out::Hold),
            }
        }
        for reason in DropReason::ALL {
            let count = self.stats().dropped(reason).get();
            let before = std::mem::replace(&mut self.drops[reason.index()], count);
            let mut counted = count - before;
            reasons.retain(|r| {
                *r != reason || {
                    counted = counted.checked_sub(1).expect("counted");
                    out.push(Out::Drop(reason));
                    false
                }
            });
            out.extend((0..counted).map(|_| Out::Drop(reason)));
        }
        assert!(reasons.is_empty());
        if self.stream.is_some() {
            // An answer that is written to the connection is held back from the engine.
            out.retain(|out| *out != Out::Hold);
            out.extend(self.read_stream());
        }
        self.shard.check_invariants();
        out
    }

    /// Returns the number N of the server 127.0.1.N.
    pub(crate) fn number(&self, route: Route) -> u16 {
        let backend = self.snapshot.backend(route.backend).expect("a server");
        match backend.address.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3].into(),
            std::net::IpAddr::V6(_) => panic!("{} has no number", backend.address),
        }
    }

    /// Plays a transcript and panics at the first difference.
    pub(crate) fn play(&mut self, name: &str, transcript: &str) {
        if let Err(wrong) = self.try_play(transcript) {
            panic!("{name}: {wrong}");
        }
    }

    /// Plays a transcript and returns the first difference as an error.
    pub(crate) fn try_play(&mut self, transcript: &str) -> Result<(), String> {
        for line in transcript.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            self.line(word, rest).map_err(|wrong| format!("{line}\n{wrong}\n{}", self.left()))?;
        }
        if self.out.is_empty() { Ok(()) } else { Err(format!("at the end\n{}", self.left())) }
    }

    fn line(&mut self, word: &str, rest: &str) -> Result<(), String> {
        let comes_in = word == "q" || word == "wait" || word.starts_with('a');
        if comes_in && !self.out.is_empty() {
            return Err("this has not been expected:".to_owned());
        }
        match word {
            "stream" => {
                let listener = self.snapshot.listeners[0].clone();
                self.stream = self.shard.on_accept(self.from.peer, &listener, LocalSlot::LISTENER);
                assert!(self.stream.is_some(), "accepted");
            }
            "q" => {
                let query = [&self.via[..], &message(rest)].concat();
                let out = match self.stream {
                    Some(stream) => self.query_over(stream, &query),
                    None => self.query(self.from, &query),
                };
                self.out.extend(out);
            }
            "wait" => {
                let out = self.tick(rest.parse().expect("milliseconds"));
                self.out.extend(out);
            }
            "from" => self.from = client(rest),
            "swap" => {
                std::mem::swap(&mut self.shard, &mut self.other.0);
                std::mem::swap(&mut self.drops, &mut self.other.1);
                self.index = 1 - self.index;
                self.pass(0);
            }
            "via" => self.via = header(rest),
            "header" => {
                let Some(Out::Forward(_, bytes)) = self.out.front_mut() else {
                    return Err(self.odd(self.out.front().cloned()));
                };
                let len = header_len(bytes);
                let is: Vec<u8> = bytes.drain(..len).collect();
                // Parsed headers are compared, since checksums may differ.
                if is.len() != header(rest).len()
                    || proxy::parse(&is, 65_535) != proxy::parse(&header(rest), 65_535)
                {
                    return Err(format!("but: {is:02x?}"));
                }
            }
            ">" => {
                let (number, text) = rest.split_once(' ').expect("a server and a message");
                match self.out.pop_front() {
                    Some(Out::Forward(route, bytes)) if self.number(route).to_string() == number => {
                        same(&bytes, text)?;
                    }
                    other => return Err(self.odd(other)),
                }
            }
            "<" => match self.out.pop_front() {
                Some(Out::ToClient(to, bytes)) if to == self.from => same(&bytes, rest)?,
                other => return Err(self.odd(other)),
            },
            "!" => match self.out.pop_front() {
                Some(Out::Drop(reason)) if reason.label() == rest => {}
                other => return Err(self.odd(other)),
            },
            "hold" => match self.out.pop_front() {
                Some(Out::Hold) => {}
                other => return Err(self.odd(other)),
            },
            "cache" => {
                let pool = self.live_state.pool(PoolSlot(0));
                let is = format!("{} {}", pool.cache_hits, pool.cache_misses);
                if is != rest {
                    return Err(format!("it is {is}"));
                }
            }
            "hits" => {
                let (chain, counts) = rest.split_once(' ').expect("a chain and numbers");
                let wanted: Vec<u64> = counts.split(' ').map(|n| n.parse().expect("a number")).collect();
                let hits = self.hits(chain);
                if hits != wanted {
                    return Err(format!("hits are {hits:?}"));
                }
            }
            "counted" => {
                let counted = self.live_state.query_counts(9).rows;
                let is: Vec<String> = counted.iter().map(|(name, count)| format!("{name} {count}")).collect();
                if is.join(" ") != rest {
                    return Err(format!("it is {is:?}"));
                }
            }
            _ if word.starts_with('a') => {
                let number = word[1..].parse::<u16>().ok();
                let asked = self.asked.iter().rev();
                let last = asked.clone().find(|(route, _)| number.is_none_or(|n| n == self.number(*route)));
                let (route, query) = last.expect("a server was asked").clone();
                let mut bytes = message(rest);
                if rest.starts_with('*') {
                    bytes[..2].copy_from_slice(&query[..2]);
                }
                let out = self.response(route, &bytes);
                self.out.extend(out);
            }
            _ => panic!("unknown word {word}"),
        }
        Ok(())
    }

    /// Returns the hit counters of the rules of a chain.
    pub(crate) fn hits(&self, chain: &str) -> Vec<u64> {
        let chains = &self.snapshot.chains;
        let slots: Vec<RuleSlot> = match chain {
            "query" => chains.query.rules().iter().map(|r| r.slot).collect(),
            "response" => chains.response.rules().iter().map(|r| r.slot).collect(),
            "self-answered" => chains.self_answered.rules().iter().map(|r| r.slot).collect(),
            "cache-hit" => chains.cache_hit.rules().iter().map(|r| r.slot).collect(),
            "cache-inserted" => chains.cache_inserted.rules().iter().map(|r| r.slot).collect(),
            "cache-miss" => chains.cache_miss.rules().iter().map(|r| r.slot).collect(),
            "timeout" => chains.timeout.rules().iter().map(|r| r.slot).collect(),
            _ => panic!("what chain is {chain}?"),
        };
        slots
            .into_iter()
            .map(|slot| self.stats().rule_if_any(slot).map_or(0, |rule| rule.hits.get()))
            .collect()
    }

    fn odd(&self, out: Option<Out>) -> String {
        out.map_or_else(|| "nothing came".to_owned(), |out| format!("but: {}", self.text(&out)))
    }

    fn left(&self) -> String {
        let mut text = String::new();
        for out in &self.out {
            let _ = writeln!(text, "also: {}", self.text(out));
        }
        text
    }

    fn text(&self, out: &Out) -> String {
        match out {
            Out::Forward(route, bytes) => format!("> {} {}", self.number(*route), describe(bytes)),
            Out::ToClient(to, bytes) => format!("< {} (to {})", describe(bytes), to.peer.port),
            Out::Drop(reason) => format!("! {}", reason.label()),
            Out::Hold => "hold".to_owned(),
        }
    }
}

/// Returns the length of the PROXY header before a message.
fn header_len(bytes: &[u8]) -> usize {
    match proxy::parse(bytes, 65_535) {
        Parsed::Header { len, .. } => len,
        Parsed::Incomplete | Parsed::Invalid(_) => 0,
    }
}

/// Builds a PROXY header from its notation; for datagrams unless it starts with another word.
pub(crate) fn header(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut words = text.split(' ').peekable();
    match words.peek().copied() {
        Some("nothing") => return out,
        Some("local") => {
            proxy::write_v2_local(&mut out);
            return out;
        }
        Some(word) if !word.contains([':', 'p']) => return hex(word),
        _ => {}
    }
    let transport = match words.next_if(|w| matches!(*w, "udp" | "tcp")) {
        Some("tcp") => Transport::Stream,
        _ => Transport::Datagram,
    };
    let mut endpoint = || words.next().expect("an address").parse::<SocketAddr>().expect("an address");
    let (source, destination) = (endpoint().into(), endpoint().into());
    let values: Vec<(u8, Vec<u8>)> = words
        .map(|word| {
            let (kind, value) = word.split_once('=').expect("type=bytes");
            let kind = u8::from_str_radix(kind, 16).expect("a type");
            (kind, hex(value))
        })
        .collect();
    let tlvs = values.iter().map(|(kind, value)| (*kind, &value[..]));
    assert!(proxy::write_v2(&mut out, transport, source, destination, tlvs), "it fits");
    out
}

/// Name, configuration, transcript.
pub(crate) type Row = (&'static str, &'static str, &'static str);

/// Two servers, the second one in its own pool.
pub(crate) const SERVERS: &str = r#"newServer("127.0.1.1") newServer{address="127.0.1.2", pool="two"} "#;

/// Plays every row on its own shard and reports all failures together.
pub(crate) fn play_all(rows: &[Row]) {
    let mut wrong = Vec::new();
    for (name, config, transcript) in rows {
        let mut bench = Bench::new(&format!("{SERVERS}{config}"));
        if let Err(what) = bench.try_play(transcript) {
            wrong.push(format!("== {name}\n{config}\n{what}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}
