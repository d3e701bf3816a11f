//! The few DNS messages that the load client and the counting backend exchange.
//!
//! The name of a query contains its number, `q123.TAG.test.`, which identifies it at both ends
//! whatever its id is. The A record of the answer identifies the backend.

/// Bytes of a DNS header.
pub(crate) const HEADER: usize = 12;

/// Encodes a query for the A records of `name` (presentation format, letters without escapes).
pub(crate) fn query(id: u16, name: &str) -> Vec<u8> {
    let mut m = vec![0; HEADER];
    m[..2].copy_from_slice(&id.to_be_bytes());
    m[2] = 1; // RD
    m[5] = 1; // one question
    for label in name.split('.').filter(|l| !l.is_empty()) {
        m.push(u8::try_from(label.len()).expect("a short label"));
        m.extend(label.as_bytes());
    }
    m.extend([0, 0, 1, 0, 1]); // root, A, IN
    m
}

/// Returns the name of query number `n`.
pub(crate) fn numbered(n: u64, tag: &str) -> String {
    format!("q{n}.{tag}.test")
}

/// Returns the number in a question made by [`numbered`].
pub(crate) fn number_of(message: &[u8]) -> Option<u64> {
    let len = usize::from(*message.get(HEADER)?);
    let label = message.get(HEADER + 1..HEADER + 1 + len)?;
    std::str::from_utf8(label.strip_prefix(b"q")?).ok()?.parse().ok()
}

/// Returns the length of header and question.
pub(crate) fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    while *message.get(at)? != 0 {
        at += 1 + usize::from(message[at]);
    }
    (at + 5 <= message.len()).then_some(at + 5)
}

/// Encodes the answer to `query` with one A record, 192.0.2.`who`.
pub(crate) fn answer(query: &[u8], who: u8) -> Option<Vec<u8>> {
    let mut m = query[..question_end(query)?].to_vec();
    m[2] |= 0x80; // QR
    m[3] = 0x80; // RA, NOERROR
    m[6..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    m.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, who]);
    Some(m)
}

/// Returns the backend that sent this answer: the last byte of the first record.
pub(crate) fn answered_by(answer: &[u8]) -> Option<u8> {
    let record = answer.get(question_end(answer)?..)?;
    (record.len() >= 16 && record[12..15] == [192, 0, 2]).then(|| record[15])
}
