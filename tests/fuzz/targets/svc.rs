//! Any parameters of an SVCB record: the encoded record has exactly them, keys ascending, and answers
//! a query; those that are refused are invalid.

use dnslob::base::packet::Packet;
use dnslob::wire::answer::{AnswerEdns, Flags, svc};
use dnslob::wire::records::Records;
use dnslob::wire::svc::{SvcParams, SvcRecord};

/// Bytes of the buffer of an answer.
const BUFFER: usize = 4_096;
/// A query for `a`, type HTTPS.
const QUERY: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x41\0\x01";

/// The input is a list of parameters, each its kind, the length of its value, and the value.
pub(crate) fn target(data: &[u8]) {
    let params = parameters(data);
    let Ok(record) = SvcRecord::new(1, b"\x01t\0".to_vec(), &params) else {
        assert!(!is_valid(&params), "refused: {params:?}");
        return;
    };
    assert!(is_valid(&params), "accepted: {params:?}");
    assert_eq!(encoded(&record.params), expected(&params));
    answers(&record);
}

fn parameters(mut data: &[u8]) -> SvcParams {
    let mut params = SvcParams::default();
    while let Some((&[kind, length], rest)) = data.split_first_chunk() {
        let (value, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        let word = value.first_chunk().map_or(u16::from(length), |word| u16::from_be_bytes(*word));
        match kind % 10 {
            0 => params.mandatory.push(word),
            1 => params.alpn.push(value.to_vec()),
            2 => params.no_default_alpn = true,
            3 => params.port = Some(word),
            4 => params.v4.extend(value.as_chunks().0),
            5 => params.ech = value.to_vec(),
            6 => params.v6.extend(value.as_chunks().0),
            // Longer values than any parameter has room for.
            7 => params.ech = vec![length; usize::from(word)],
            8 => params.alpn.push(vec![kind; 2 * usize::from(length)]),
            _ => params.others.push((word, value.to_vec())),
        }
    }
    params
}

/// The rules of RFC 9460, 2.2, 7.1.1, 8 and 14.3, without the order of the keys.
fn is_valid(params: &SvcParams) -> bool {
    let keys: Vec<u16> = expected(params).into_iter().map(|(key, _)| key).collect();
    let mandatory: std::collections::BTreeSet<u16> = params.mandatory.iter().copied().collect();
    !mandatory.contains(&0)
        && mandatory.len() == params.mandatory.len()
        && (!params.no_default_alpn || !params.alpn.is_empty())
        && params.others.iter().all(|(key, _)| (7..65_535).contains(key))
        && params.alpn.iter().all(|id| (1..=255).contains(&id.len()))
        && keys.windows(2).all(|pair| pair[0] != pair[1])
        && expected(params).iter().all(|(_, value)| value.len() <= usize::from(u16::MAX))
}

/// Returns keys and values in the order of the keys.
fn expected(params: &SvcParams) -> Vec<(u16, Vec<u8>)> {
    let mut mandatory = params.mandatory.clone();
    mandatory.sort_unstable();
    let ids = params.alpn.iter().map(|id| [&[id.len() as u8][..], id].concat());
    let known = [
        (0, mandatory.iter().flat_map(|key| key.to_be_bytes()).collect()),
        (1, ids.collect::<Vec<_>>().concat()),
        (3, params.port.map_or(Vec::new(), |port| port.to_be_bytes().to_vec())),
        (4, params.v4.concat()),
        (5, params.ech.clone()),
        (6, params.v6.concat()),
    ];
    let mut all: Vec<(u16, Vec<u8>)> = known.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    all.extend(params.no_default_alpn.then(|| (2, Vec::new())));
    all.extend(params.others.iter().cloned());
    all.sort_unstable();
    all
}

/// Reads parameters in wire format.
fn encoded(mut wire: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while let [k0, k1, l0, l1, rest @ ..] = wire {
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        all.push((u16::from_be_bytes([*k0, *k1]), rest[..length].to_vec()));
        wire = &rest[length..];
    }
    assert!(wire.is_empty(), "bytes behind the parameters");
    all
}

/// Answers a query with a record: one record of it, and one for each different hint, or no change.
fn answers(record: &SvcRecord) {
    let mut buffer = [0; BUFFER];
    buffer[..QUERY.len()].copy_from_slice(QUERY);
    let mut packet = Packet::new(&mut buffer, 0, QUERY.len());
    let own = AnswerEdns { wanted: false, payload: 1232 };
    if !svc(&mut packet, std::slice::from_ref(record), Flags::default(), own) {
        let bytes = record.params.len() + 28 * (record.v4.len() + record.v6.len());
        assert!(bytes > BUFFER / 2, "no answer of {bytes} bytes");
        return;
    }
    let message = packet.bytes();
    let mut records = Records::of(message);
    let first = records.next().map(|r| message[r.rdata].to_vec());
    let rdata = [&record.priority.to_be_bytes()[..], &record.target, &record.params].concat();
    assert_eq!(first, Some(rdata));
    let mut hints: Vec<Vec<u8>> = Vec::new();
    for hint in record.v4.iter().map(|a| a.to_vec()).chain(record.v6.iter().map(|a| a.to_vec())) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    let additional: Vec<Vec<u8>> = records.by_ref().map(|r| message[r.rdata].to_vec()).collect();
    assert_eq!(additional, hints);
    assert!(records.whole());
}
