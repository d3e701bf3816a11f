//! DNS messages as one line of text, for tables and transcripts.
//!
//! ```text
//! 1234 RD www.example.com/A OPT=4096,DO
//!   │   │        │           └ an OPT record: payload size, DO set
//!   │   │        └ the question, class IN
//!   │   └ flags (QR AA TC RD RA AD CD), a response code, an opcode
//!   └ the id, four hexadecimal digits; `*` in an expectation: whatever it is
//! name/A/CH     a question of another class; types and classes may be numbers
//! OPT=1232,v1,x1,8:00011800c00002   version 1, upper bits of the response code, an option
//! A=192.0.2.1   an answer record that points to the question's name, TTL 60
//! AAAA=2001:db8::1,30   the same of another type and with another TTL; CNAME= has a name
//! RR=3,ns.example,A,60,c0000201   a record of a section (1 to 3); owner `@` is a pointer to the
//!               question's name, the data hexadecimal
//! QD=2          writes another count than the true one
//! TAIL=c0ffee   bytes behind the message
//! CUT=11        only the first bytes of the message
//! ```

use dnslob::wire::header::Header;
use dnslob::wire::query::Question;
use dnslob::wire::{edns, header};

/// Flags by name: the index of their byte after the id, and their bit.
const FLAGS: [(&str, usize, u8); 7] = [
    ("QR", 2, header::QR),
    ("AA", 2, header::AA),
    ("TC", 2, header::TC),
    ("RD", 2, header::RD),
    ("RA", 3, header::RA),
    ("AD", 3, header::AD),
    ("CD", 3, header::CD),
];
const RCODES: [&str; 6] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
const OPCODES: [(&str, u8); 4] = [("IQUERY", 1), ("STATUS", 2), ("NOTIFY", 4), ("UPDATE", 5)];
const TYPES: [(&str, u16); 12] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("HINFO", 13),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
    ("SVCB", 64),
    ("HTTPS", 65),
    ("ANY", 255),
];
const CLASSES: [(&str, u16); 3] = [("IN", 1), ("CH", 3), ("ANY", 255)];

/// Encodes the message that `text` describes.
///
/// # Panics
/// Panics if the text is invalid.
pub(crate) fn message(text: &str) -> Vec<u8> {
    let mut head = [0_u8; header::LEN];
    let (mut body, mut tail, mut cut) = (Vec::new(), Vec::new(), usize::MAX);
    for (at, word) in text.split_whitespace().enumerate() {
        let value = word.split_once('=').map(|w| w.1);
        if at == 0 {
            let id = if word == "*" { 0 } else { u16::from_str_radix(word, 16).expect("an id") };
            head[..2].copy_from_slice(&id.to_be_bytes());
        } else if let Some((_, byte, bit)) = FLAGS.iter().find(|f| f.0 == word) {
            head[*byte] |= bit;
        } else if let Some(code) = RCODES.iter().position(|r| *r == word) {
            head[3] |= code as u8;
        } else if let Some((_, opcode)) = OPCODES.iter().find(|o| o.0 == word) {
            head[2] |= opcode << 3;
        } else if let (Some(value), true) = (value, word.starts_with("RCODE=")) {
            head[3] |= value.parse::<u8>().expect("a code");
        } else if let (Some(value), true) = (value, word.starts_with("OPT=")) {
            body.extend(opt(value));
            head[11] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("A=")) {
            let (ip, ttl) = with_ttl(value);
            let ip: std::net::Ipv4Addr = ip.parse().expect("an address");
            body.extend(record("@", 1, ttl, &ip.octets()));
            head[7] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("AAAA=")) {
            let (ip, ttl) = with_ttl(value);
            let ip: std::net::Ipv6Addr = ip.parse().expect("an address");
            body.extend(record("@", 28, ttl, &ip.octets()));
            head[7] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("CNAME=")) {
            let (target, ttl) = with_ttl(value);
            body.extend(record("@", 5, ttl, &name(target)));
            head[7] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("RR=")) {
            let parts: Vec<&str> = value.split(',').collect();
            let [section, owner, rtype, ttl, data] = parts[..] else { panic!("unknown word {word}") };
            body.extend(record(owner, number(rtype, &TYPES), ttl.parse().expect("a TTL"), &hex(data)));
            head[5 + 2 * section.parse::<usize>().expect("a section")] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("QD=")) {
            head[5] = value.parse().expect("a count");
        } else if let (Some(value), true) = (value, word.starts_with("TAIL=")) {
            tail = hex(value);
        } else if let (Some(value), true) = (value, word.starts_with("CUT=")) {
            cut = value.parse().expect("a length");
        } else {
            let (name, qtype) = word.split_once('/').unwrap_or_else(|| panic!("unknown word {word}"));
            let (qtype, qclass) = qtype.split_once('/').unwrap_or((qtype, "IN"));
            body.extend(self::name(name));
            body.extend(number(qtype, &TYPES).to_be_bytes());
            body.extend(number(qclass, &CLASSES).to_be_bytes());
            head[5] += 1;
        }
    }
    let mut whole = head.to_vec();
    whole.extend(body);
    whole.extend(tail);
    whole.truncate(cut);
    whole
}

/// Encodes an OPT record: payload size, then DO, vN (version), xN (upper bits of the code),
/// code:data.
fn opt(text: &str) -> Vec<u8> {
    let mut parts = text.split(',');
    let payload = parts.next().and_then(|p| p.parse().ok()).expect("a size");
    let mut record = edns::bare(payload, false).to_vec();
    for part in parts {
        if part == "DO" {
            record[7] |= 0x80;
        } else if let Some(version) = part.strip_prefix('v') {
            record[6] = version.parse().expect("a version");
        } else if let Some(code) = part.strip_prefix('x') {
            record[5] = code.parse().expect("a code");
        } else {
            let (code, data) = part.split_once(':').unwrap_or_else(|| panic!("unknown part {part}"));
            let data = hex(data);
            record.extend(code.parse::<u16>().expect("a code").to_be_bytes());
            record.extend(u16::try_from(data.len()).expect("a short option").to_be_bytes());
            record.extend(data);
        }
    }
    let length = u16::try_from(record.len() - 11).expect("few options");
    record[9..11].copy_from_slice(&length.to_be_bytes());
    record
}

/// Splits a value from the TTL behind its comma; the default is 60.
fn with_ttl(text: &str) -> (&str, u32) {
    text.split_once(',').map_or((text, 60), |(what, ttl)| (what, ttl.parse().expect("a TTL")))
}

/// Encodes a record of class IN.
fn record(owner: &str, rtype: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = if owner == "@" { vec![0xc0, 0x0c] } else { name(owner) };
    record.extend(rtype.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
    record.extend(data);
    record
}

/// Returns the number of a name in `known`, or parses a number.
fn number(text: &str, known: &[(&str, u16)]) -> u16 {
    let named = known.iter().find(|k| k.0 == text).map(|k| k.1);
    named.or_else(|| text.parse().ok()).unwrap_or_else(|| panic!("unknown value {text}"))
}

/// Encodes a name in wire format.
pub(crate) fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|l| !l.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("a short label"));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// Compares `bytes` with `text`; the error describes the difference.
pub(crate) fn same(bytes: &[u8], text: &str) -> Result<(), String> {
    let mut wanted = message(text);
    if text.trim_start().starts_with('*') && bytes.len() >= 2 && wanted.len() >= 2 {
        wanted[..2].copy_from_slice(&bytes[..2]);
    }
    if wanted == bytes {
        return Ok(());
    }
    Err(format!(
        "wanted {text}\n       {}\n   got {}\n       {}",
        dump(&wanted),
        describe(bytes),
        dump(bytes)
    ))
}

fn dump(bytes: &[u8]) -> String {
    bytes.iter().map(|o| format!("{o:02x}")).collect()
}

/// Decodes a message into the notation above, as far as it goes.
pub(crate) fn describe(bytes: &[u8]) -> String {
    let Some(head) = Header::parse(bytes) else { return format!("{} bytes, no header", bytes.len()) };
    let mut text = format!("{:04x}", head.id());
    for (flag, byte, bit) in FLAGS {
        if bytes[byte] & bit != 0 {
            text += " ";
            text += flag;
        }
    }
    text += " ";
    text += RCODES.get(usize::from(head.rcode())).copied().unwrap_or("RCODE?");
    if let Some(question) = Question::parse(bytes) {
        text += " ";
        text += &String::from_utf8_lossy(question.qname).escape_debug().to_string();
        text += &format!("/{} of {}", question.qtype, head.qdcount());
    }
    text + &format!(" + {} {} {} records", head.ancount(), head.nscount(), head.arcount())
}
