//! DNS messages as one line of text, for tables and transcripts.
//!
//! ```text
//! 1234 RD www.example.com/A OPT=4096,DO
//!   │   │        │           └ an OPT record: payload size, DO set
//!   │   │        └ the question, class IN
//!   │   └ flags (QR AA TC RD RA AD CD), a response code, NOTIFY
//!   └ the id, four hexadecimal digits; `*` in an expectation: whatever it is
//! A=192.0.2.1   an answer record that points to the question's name, TTL 60
//! QD=2          writes another count than the true one
//! TAIL=c0ffee   octets behind the message
//! CUT=11        only so many octets of it
//! ```

use dnslob::wire::edns;
use dnslob::wire::header::{self, Header};
use dnslob::wire::query::Question;

/// Flags by name: the octet behind the id that they are in, and their bit.
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
const TYPES: [(&str, u16); 5] = [("A", 1), ("NS", 2), ("TXT", 16), ("AAAA", 28), ("ANY", 255)];

/// The message that `text` says.
///
/// # Panics
/// When it says none; texts stand in tests.
pub(crate) fn message(text: &str) -> Vec<u8> {
    let mut head = [0_u8; header::LEN];
    let (mut body, mut tail, mut cut) = (Vec::new(), Vec::new(), usize::MAX);
    for (at, word) in text.split_whitespace().enumerate() {
        let value = word.split_once('=').map(|w| w.1);
        if at == 0 {
            let id = if word == "*" { 0 } else { u16::from_str_radix(word, 16).expect("an id") };
            head[..2].copy_from_slice(&id.to_be_bytes());
        } else if let Some((_, octet, bit)) = FLAGS.iter().find(|f| f.0 == word) {
            head[*octet] |= bit;
        } else if let Some(code) = RCODES.iter().position(|r| *r == word) {
            head[3] |= code as u8;
        } else if word == "NOTIFY" {
            head[2] |= 4 << 3;
        } else if let (Some(value), true) = (value, word.starts_with("OPT=")) {
            let (payload, dnssec_ok) = value.strip_suffix(",DO").map_or((value, false), |p| (p, true));
            body.extend(edns::bare(payload.parse().expect("a size"), dnssec_ok));
            head[11] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("A=")) {
            let ip: std::net::Ipv4Addr = value.parse().expect("an address");
            body.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04");
            body.extend(ip.octets());
            head[7] += 1;
        } else if let (Some(value), true) = (value, word.starts_with("QD=")) {
            head[5] = value.parse().expect("a count");
        } else if let (Some(value), true) = (value, word.starts_with("TAIL=")) {
            tail = hex(value);
        } else if let (Some(value), true) = (value, word.starts_with("CUT=")) {
            cut = value.parse().expect("a length");
        } else {
            let (name, qtype) = word.split_once('/').unwrap_or_else(|| panic!("what is {word}?"));
            body.extend(self::name(name));
            let qtype = TYPES.iter().find(|t| t.0 == qtype).expect("a type").1;
            body.extend(qtype.to_be_bytes());
            body.extend([0, 1]);
            head[5] += 1;
        }
    }
    let mut whole = head.to_vec();
    whole.extend(body);
    whole.extend(tail);
    whole.truncate(cut);
    whole
}

/// A name in wire format.
pub(crate) fn name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|l| !l.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("a short label"));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal"))
        .collect()
}

/// Whether `octets` are what `text` says; the difference, for people, if not.
pub(crate) fn same(octets: &[u8], text: &str) -> Result<(), String> {
    let mut wanted = message(text);
    if text.trim_start().starts_with('*') && octets.len() >= 2 && wanted.len() >= 2 {
        wanted[..2].copy_from_slice(&octets[..2]);
    }
    if wanted == octets {
        return Ok(());
    }
    Err(format!(
        "wanted {text}\n       {}\n   got {}\n       {}",
        dump(&wanted),
        describe(octets),
        dump(octets)
    ))
}

fn dump(octets: &[u8]) -> String {
    octets.iter().map(|o| format!("{o:02x}")).collect()
}

/// What a message says, as far as the notation goes.
pub(crate) fn describe(octets: &[u8]) -> String {
    let Some(head) = Header::parse(octets) else { return format!("{} octets, no header", octets.len()) };
    let mut text = format!("{:04x}", head.id());
    for (flag, octet, bit) in FLAGS {
        if octets[octet] & bit != 0 {
            text += " ";
            text += flag;
        }
    }
    text += " ";
    text += RCODES.get(usize::from(head.rcode())).copied().unwrap_or("RCODE?");
    if let Some(question) = Question::parse(octets) {
        text += " ";
        text += &String::from_utf8_lossy(question.qname).escape_debug().to_string();
        text += &format!("/{} of {}", question.qtype, head.qdcount());
    }
    text + &format!(" + {} {} {} records", head.ancount(), head.nscount(), head.arcount())
}
