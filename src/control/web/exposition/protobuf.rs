//! Prometheus' binary format: delimited messages `MetricFamily` of `io.prometheus.client`, in which
//! latencies are native histograms beside their classic buckets.
//!
//! ```text
//!  length │ MetricFamily { 1 name, 2 help, 3 type, 4 Metric*                       }
//!                         Metric { 1 LabelPair { 1 name, 2 value }*,
//!                                  2 Gauge { 1 value } │ 3 Counter { 1 value } │ 7 Histogram }
//! ```
//!
//! Protocol Buffers: a field is `number << 3 | wire type` as a varint, then its value. Only what
//! these messages need is written here. Bucket `i` of a native histogram of schema `n` holds what is
//! above `2^((i-1)/2^n)` and at most `2^(i/2^n)`, in the unit of the family.

use std::collections::BTreeMap;

use crate::control::web::exposition::Number;
use crate::stats::histogram::Latency;

/// Native buckets double every `2^SCHEMA`: 8 for each octave, 9 % wide. Ours are 3.1 % wide at most,
/// so a count is in the native bucket of its own middle.
const SCHEMA: i32 = 3;
/// What is at most this counts as zero: client libraries' default, `2^-128`.
const ZERO_THRESHOLD: f64 = f64::from_bits((1023 - 128) << 52);
/// Empty buckets that are written rather than begin a new span, which takes more bytes.
const GAP_MAX: i32 = 2;

/// Wire types.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const DELIMITED: u64 = 2;

/// The kinds of families, as `MetricType` numbers them.
const COUNTER: u64 = 0;
const GAUGE: u64 = 1;
const HISTOGRAM: u64 = 4;

/// Finished families, and the one that was begun last.
#[derive(Debug, Default)]
pub(super) struct Families {
    out: Message,
    open: Option<(Message, u64)>,
}

impl Families {
    pub(super) fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.end();
        let kind = match kind {
            "counter" => COUNTER,
            "histogram" => HISTOGRAM,
            level => {
                debug_assert_eq!(level, "gauge");
                GAUGE
            }
        };
        let mut family = Message::default();
        family.text(1, name);
        family.text(2, help);
        family.number(3, kind);
        self.open = Some((family, kind));
    }

    pub(super) fn sample<L: AsRef<str>>(&mut self, labels: &[(L, String)], value: Number) {
        let Some((family, kind)) = &mut self.open else { return };
        debug_assert_ne!(*kind, HISTOGRAM);
        let mut level = Message::default();
        level.real(1, value.real());
        let mut metric = labelled(labels);
        metric.message(if *kind == COUNTER { 3 } else { 2 }, &level);
        family.message(4, &metric);
    }

    /// A histogram with these classic buckets, nanoseconds; `unit` is the family's.
    pub(super) fn histogram<L: AsRef<str>>(
        &mut self,
        labels: &[(L, String)],
        buckets: impl Iterator<Item = (f64, u64)>,
        latency: &Latency,
        unit: f64,
    ) {
        let Some((family, _)) = &mut self.open else { return };
        let mut histogram = classic(buckets, (latency.count(), latency.sum_ns() as f64 / unit));
        histogram.signed(5, SCHEMA.into());
        histogram.real(6, ZERO_THRESHOLD);
        native(&mut histogram, latency, unit);
        let mut metric = labelled(labels);
        metric.message(7, &histogram);
        family.message(4, &metric);
    }

    /// A histogram with these buckets only, of so many values with this sum.
    pub(super) fn classic_histogram<L: AsRef<str>>(
        &mut self,
        labels: &[(L, String)],
        buckets: impl Iterator<Item = (f64, u64)>,
        all: (u64, f64),
    ) {
        let Some((family, _)) = &mut self.open else { return };
        let mut metric = labelled(labels);
        metric.message(7, &classic(buckets, all));
        family.message(4, &metric);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.end();
        self.out.0
    }

    fn end(&mut self) {
        if let Some((family, _)) = self.open.take() {
            self.out.varint(family.0.len() as u64);
            self.out.0.extend(family.0);
        }
    }
}

fn labelled<L: AsRef<str>>(labels: &[(L, String)]) -> Message {
    let mut metric = Message::default();
    for (name, value) in labels {
        let mut pair = Message::default();
        pair.text(1, name.as_ref());
        pair.text(2, value);
        metric.message(1, &pair);
    }
    metric
}

/// Number, sum and classic buckets.
fn classic(buckets: impl Iterator<Item = (f64, u64)>, (count, sum): (u64, f64)) -> Message {
    let mut histogram = Message::default();
    histogram.number(1, count);
    histogram.real(2, sum);
    for (bound, count) in buckets {
        let mut bucket = Message::default();
        bucket.number(1, count);
        bucket.real(2, bound);
        histogram.message(3, &bucket);
    }
    histogram
}

/// The native buckets: spans of them, and by how much each count differs from the one before.
fn native(histogram: &mut Message, latency: &Latency, unit: f64) {
    let mut counts: BTreeMap<i32, u64> = BTreeMap::new();
    for (middle, count) in latency.counts() {
        *counts.entry(index(middle as f64 / unit)).or_default() += count;
    }
    // Offset from the end of the span before, and length.
    let mut spans: Vec<(i32, u32)> = Vec::new();
    let (mut filled, mut next) = (Vec::new(), 0);
    for (at, count) in counts {
        let gap = at - next;
        match spans.last_mut() {
            Some((_, length)) if gap <= GAP_MAX => {
                filled.extend((0..gap).map(|_| 0));
                *length += gap.unsigned_abs() + 1;
            }
            Some(_) | None => spans.push((gap, 1)),
        }
        filled.push(count);
        next = at + 1;
    }
    if spans.is_empty() {
        // Tells an empty native histogram from a classic one.
        spans.push((0, 0));
    }
    for (offset, length) in spans {
        let mut span = Message::default();
        span.signed(1, offset.into());
        span.number(2, length.into());
        histogram.message(12, &span);
    }
    let mut before = 0;
    for count in filled {
        histogram.signed(13, count.wrapping_sub(before).cast_signed());
        before = count;
    }
}

/// The native bucket of a value above zero.
fn index(value: f64) -> i32 {
    (value.log2() * f64::from(1 << SCHEMA)).ceil() as i32
}

/// The bytes of a message.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    /// A number that may be negative, as `sint32` and `sint64`: small ones are short.
    fn signed(&mut self, field: u64, value: i64) {
        self.number(field, ((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn real(&mut self, field: u64, value: f64) {
        self.key(field, FIXED64);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }

    fn text(&mut self, field: u64, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}

#[cfg(test)]
pub(in crate::control::web) mod tests {
    use super::*;
    use crate::stats::histogram::Histogram;

    /// A field of a message.
    #[derive(Clone, Debug, PartialEq)]
    enum Field {
        Number(u64),
        Real(f64),
        Bytes(Vec<u8>),
    }

    fn varint(bytes: &mut &[u8]) -> u64 {
        let len = bytes.iter().position(|byte| byte & 0x80 == 0).expect("an end") + 1;
        let (head, rest) = bytes.split_at(len);
        *bytes = rest;
        head.iter().rev().fold(0, |sum, byte| sum << 7 | u64::from(byte & 0x7f))
    }

    fn taken<'b>(bytes: &mut &'b [u8], len: usize) -> &'b [u8] {
        let (head, rest) = bytes.split_at(len);
        *bytes = rest;
        head
    }

    /// The fields of a message with this number.
    fn fields(mut bytes: &[u8], number: u64) -> Vec<Field> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                VARINT => Field::Number(varint(&mut bytes)),
                FIXED64 => Field::Real(f64::from_le_bytes(taken(&mut bytes, 8).try_into().expect("8"))),
                DELIMITED => {
                    let len = varint(&mut bytes) as usize;
                    Field::Bytes(taken(&mut bytes, len).to_vec())
                }
                other => panic!("wire type {other}"),
            };
            if key >> 3 == number {
                found.push(field);
            }
        }
        found
    }

    fn messages(bytes: &[u8], number: u64) -> Vec<Vec<u8>> {
        let bytes = fields(bytes, number).into_iter().map(|field| match field {
            Field::Bytes(bytes) => bytes,
            other @ (Field::Number(_) | Field::Real(_)) => panic!("{other:?}"),
        });
        bytes.collect()
    }

    fn text(bytes: &[u8], number: u64) -> String {
        String::from_utf8(messages(bytes, number).remove(0)).expect("UTF-8")
    }

    fn numbers(bytes: &[u8], number: u64) -> Vec<u64> {
        let numbers = fields(bytes, number).into_iter().map(|field| match field {
            Field::Number(number) => number,
            other @ (Field::Bytes(_) | Field::Real(_)) => panic!("{other:?}"),
        });
        numbers.collect()
    }

    fn signed(bytes: &[u8], number: u64) -> Vec<i64> {
        let signed = |n: u64| (n >> 1) as i64 ^ -((n & 1) as i64);
        numbers(bytes, number).into_iter().map(signed).collect()
    }

    fn real(bytes: &[u8], number: u64) -> f64 {
        match fields(bytes, number)[..] {
            [Field::Real(real)] => real,
            ref other => panic!("{other:?}"),
        }
    }

    /// The native buckets of a histogram: upper bound and count of each that is not empty.
    fn natives(histogram: &[u8]) -> Vec<(f64, u64)> {
        let base = 2f64.powf(2f64.powi(-(signed(histogram, 5)[0] as i32)));
        let (mut at, mut count) = (0, 0);
        let mut deltas = signed(histogram, 13).into_iter();
        let mut found = Vec::new();
        for span in messages(histogram, 12) {
            at += signed(&span, 1)[0] as i32;
            for _ in 0..numbers(&span, 2)[0] {
                count += deltas.next().expect("a count");
                found.push((base.powi(at), u64::try_from(count).expect("a count")));
                at += 1;
            }
        }
        assert_eq!(deltas.next(), None);
        found.retain(|(_, count)| *count > 0);
        found
    }

    /// The page as the text format has it, and how many native buckets have a count. The native
    /// buckets of each histogram agree with the classic ones.
    pub(in crate::control::web) fn as_text(mut page: &[u8]) -> (String, usize) {
        let (mut out, mut native_buckets) = (String::new(), 0);
        while !page.is_empty() {
            let len = varint(&mut page) as usize;
            let family = taken(&mut page, len);
            let (name, kind) = (text(family, 1), numbers(family, 3)[0]);
            let label = ["counter", "gauge", "", "", "histogram"][kind as usize];
            let escaped = |text: String| text.replace('\\', r"\\").replace('\n', r"\n");
            out += &format!("# HELP {name} {}\n# TYPE {name} {label}\n", escaped(text(family, 2)));
            for metric in messages(family, 4) {
                let pairs = messages(&metric, 1);
                let pair = |pair: &Vec<u8>| {
                    format!("{}=\"{}\"", text(pair, 1), escaped(text(pair, 2)).replace('"', "\\\""))
                };
                let pairs: Vec<String> = pairs.iter().map(pair).collect();
                let mut sample = |end: &str, le: Option<f64>, value: f64| {
                    let le = le.map(|le| {
                        format!(
                            "le=\"{}\"",
                            if le == f64::INFINITY { "+Inf".to_owned() } else { le.to_string() }
                        )
                    });
                    let pairs = pairs.iter().cloned().chain(le).collect::<Vec<_>>().join(",");
                    let pairs = if pairs.is_empty() { pairs } else { format!("{{{pairs}}}") };
                    out += &format!("{name}{end}{pairs} {value}\n");
                };
                if kind != HISTOGRAM {
                    let level = messages(&metric, if kind == COUNTER { 3 } else { 2 }).remove(0);
                    sample("", None, real(&level, 1));
                    continue;
                }
                let histogram = messages(&metric, 7).remove(0);
                // Those of the configuration have none.
                let has_natives = !fields(&histogram, 5).is_empty();
                let native = if has_natives { natives(&histogram) } else { Vec::new() };
                let count = numbers(&histogram, 1)[0];
                assert!(!has_natives || native.iter().map(|(_, n)| n).sum::<u64>() == count, "{name}");
                for bucket in messages(&histogram, 3) {
                    let (bound, below) = (real(&bucket, 2), numbers(&bucket, 1)[0]);
                    sample("_bucket", Some(bound), below as f64);
                    // A native bucket that the bound divides may be on either side.
                    let sum =
                        |high: f64| native.iter().filter(|(at, _)| *at <= high).map(|(_, c)| c).sum::<u64>();
                    let agrees = (sum(bound)..=sum(bound * 1.1)).contains(&below);
                    assert!(!has_natives || agrees, "{name} {bound}");
                }
                sample("_sum", None, real(&histogram, 2));
                sample("_count", None, count as f64);
                native_buckets += native.len();
            }
        }
        (out, native_buckets)
    }

    fn histogram(latencies: &[u64]) -> Vec<u8> {
        let histogram = Histogram::default();
        latencies.iter().for_each(|ns| histogram.record(*ns));
        let mut latency = Latency::default();
        latency.read(&histogram);
        let mut message = Message::default();
        message.signed(5, SCHEMA.into());
        native(&mut message, &latency, 1e9);
        message.0
    }

    #[test]
    fn native_buckets_are_where_the_latencies_are() {
        // The middle of a bucket is 1.6 % from what it counts at most.
        for ns in [2_000_u64, 49_000, 1_100_000, 63_000_000, 1_300_000_000, 16_000_000_000] {
            let natives = natives(&histogram(&[ns, ns, ns]));
            let [(bound, 3)] = natives[..] else { panic!("{natives:?}") };
            let seconds = ns as f64 / 1e9;
            assert!(seconds <= bound * 1.016 && seconds * 1.016 > bound / 2f64.powf(0.125), "{ns} {bound}");
        }
        // 2 ms: near and far ones, and one in the bucket of another.
        let message = histogram(&[2_000_000, 2_010_000, 2_400_000, 900_000_000]);
        let counts: Vec<u64> = natives(&message).iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 1]);
        assert_eq!(messages(&message, 12).len(), 2, "two spans");
        assert_eq!(signed(&message, 13), [2, -2, 1, 0], "the near ones with the empty bucket between");
    }

    #[test]
    fn nothing_is_still_a_native_histogram() {
        let message = histogram(&[]);
        let [span] = &messages(&message, 12)[..] else { panic!("{message:?}") };
        assert_eq!((signed(span, 1), numbers(span, 2)), (vec![0], vec![0]));
    }

    #[test]
    fn bounds_belong_to_the_bucket_below() {
        assert_eq!([1.0, 2.0, 2.000_001, 0.5, 1e-6].map(index), [0, 8, 9, -8, -159]);
    }

    #[test]
    fn numbers_are_as_protocol_buffers_have_them() {
        let mut message = Message::default();
        message.number(1, 150);
        message.signed(2, -2);
        message.signed(13, i64::MIN);
        message.text(2, "testing");
        // The first and last are examples of the format's documentation.
        let longest = [0x68, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        let text = [&[0x12, 0x07], &b"testing"[..]].concat();
        assert_eq!(message.0, [&[0x08, 0x96, 0x01, 0x10, 0x03], &longest[..], &text[..]].concat());
    }
}
