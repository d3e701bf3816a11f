use crate::wire::proxy::*;
use proptest::prelude::*;

fn endpoint(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an address").into()
}

/// Builds a version 2 header with this command, family and payload.
fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, payload].concat()
}

const V4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 53, 0x12, 0x67, 0, 53];

fn header(bytes: &[u8]) -> (Header<'_>, usize) {
    let parsed = parse(bytes, PAYLOAD_MAX);
    let Parsed::Header { header, len } = parsed else { panic!("{parsed:?} of {bytes:?}") };
    (header, len)
}

#[test]
fn a_header_of_dnsdist_is_read_and_written() {
    // As sent by dnsdist 1.7.3 before a UDP query, with a value that a rule added.
    let sent = b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x14\x7f\0\0\x01\x7f\0\0\x01\xb3\x91\x62\xd4\xe0\0\x05hello";
    let (h, len) = header(sent);
    assert_eq!((h.transport, len), (Transport::Datagram, sent.len()));
    assert_eq!(h.source, Some(endpoint("127.0.0.1:45969")));
    assert_eq!(h.destination, Some(endpoint("127.0.0.1:25300")));
    assert_eq!(h.tlvs.first(0xe0), Some(&b"hello"[..]));
    let mut out = Vec::new();
    let [source, destination] = [h.source, h.destination].map(|e| e.expect("an endpoint"));
    assert!(write_v2(&mut out, h.transport, source, destination, h.tlvs));
    assert_eq!(out, sent);
}

#[test]
fn lines_are_read() {
    let text = b"PROXY TCP4 192.0.2.1 192.0.2.53 4711 53\r\nmore";
    let (h, len) = header(text);
    assert_eq!((h.command, h.transport, len), (Command::Proxy, Transport::Stream, text.len() - 4));
    assert_eq!(h.source, Some(endpoint("192.0.2.1:4711")));
    assert_eq!(h.destination, Some(endpoint("192.0.2.53:53")));
    assert_eq!(h.tlvs.bytes(), b"");
    let (h, _) = header(b"PROXY TCP6 2001:DB8::1 ::1 65535 0\r\n");
    assert_eq!(h.source, Some(endpoint("[2001:db8::1]:65535")));
    assert_eq!(h.destination, Some(endpoint("[::1]:0")));
    for text in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN whatever it\xff says\r\n"] {
        let (h, len) = header(text);
        assert_eq!((h.transport, h.source, h.destination), (Transport::Unspec, None, None));
        assert_eq!(len, text.len());
    }
    let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
        ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(header(longest).1, LINE_MAX);
}

#[test]
fn malformed_lines_are_refused() {
    for text in [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY tcp4 192.0.2.1 192.0.2.53 4711 53\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.53 4711 53\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.53 4711 53\r\n",
        "PROXY TCP4 192.0.2.1  192.0.2.53 4711 53\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711 53 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711 053\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711 +53\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711 65536\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.53 4711 53\r\n",
        "PROXY TCP4 192.0.2.256 192.0.2.53 4711 53\r\n",
        "PROXY TCP4 ::1 ::2 4711 53\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.53 4711 53\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 4711 53\r\n",
        &format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)),
        &"PROXY ".repeat(20),
    ] {
        assert_eq!(parse(text.as_bytes(), 512), Parsed::Invalid(ProxyError::Line), "{text}");
    }
}

#[test]
fn binary_headers_are_read() {
    let bytes = [v2(0x21, 0x12, &[V4, &[tlv::ALPN, 0, 3], b"dot", &[0xe0, 0, 0]].concat()), b"x".to_vec()];
    let bytes = bytes.concat();
    let (h, len) = header(&bytes);
    assert_eq!((h.command, h.transport, len), (Command::Proxy, Transport::Datagram, bytes.len() - 1));
    assert_eq!(h.source, Some(endpoint("192.0.2.1:4711")));
    assert_eq!(h.destination, Some(endpoint("192.0.2.53:53")));
    assert_eq!(h.tlvs.collect::<Vec<_>>(), [(tlv::ALPN, &b"dot"[..]), (0xe0, b"")]);
    assert_eq!((h.tlvs.first(0xe0), h.tlvs.first(2)), (Some(&b""[..]), None));

    let addresses = [&[0x20, 1, 0xd, 0xb8], &[0; 11][..], &[1], &[0; 15], &[1], &[0, 7, 0, 8]].concat();
    let bytes = v2(0x21, 0x21, &addresses);
    let (h, _) = header(&bytes);
    assert_eq!(h.transport, Transport::Stream);
    assert_eq!((h.source, h.destination), (Some(endpoint("[2001:db8::1]:7")), Some(endpoint("[::1]:8"))));

    let bytes = v2(0x21, 0x31, &[&[b'/'; UNIX][..], &[tlv::NOOP, 0, 1, 0]].concat());
    let (h, _) = header(&bytes);
    assert_eq!((h.transport, h.source, h.destination), (Transport::Stream, None, None));
    assert_eq!(h.tlvs.first(tlv::NOOP), Some(&b"\0"[..]));
}

#[test]
fn headers_without_a_client_have_no_addresses() {
    for (bytes, command) in [
        (v2(0x20, 0, b""), Command::Local),
        (v2(0x20, 0x11, V4), Command::Local),
        (v2(0x20, 0xff, b"anything"), Command::Local),
        (v2(0x21, 0, b""), Command::Proxy),
        (v2(0x21, 0, b"anything"), Command::Proxy),
    ] {
        let (h, len) = header(&bytes);
        assert_eq!((h.command, h.transport, len), (command, Transport::Unspec, bytes.len()));
        assert_eq!((h.source, h.destination, h.tlvs.bytes()), (None, None, &b""[..]));
    }
}

#[test]
fn malformed_headers_are_refused() {
    use ProxyError::{Addresses, Checksum, Family, NoSignature, Tlvs, TooLong, Version};
    let tail = |tail: &[u8]| v2(0x21, 0x11, &[V4, tail].concat());
    for (bytes, error) in [
        (b"\0\x1d\x12\x34".to_vec(), NoSignature),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), NoSignature),
        (b"PROXX".to_vec(), NoSignature),
        (v2(0x11, 0x11, V4), Version(0x11)),
        (v2(0x22, 0x11, V4), Version(0x22)),
        (v2(0x21, 0x10, V4), Family(0x10)),
        (v2(0x21, 0x01, V4), Family(0x01)),
        (v2(0x21, 0x13, V4), Family(0x13)),
        (v2(0x21, 0x41, V4), Family(0x41)),
        (v2(0x21, 0x11, &V4[..11]), Addresses),
        (v2(0x21, 0x21, &[0; 35]), Addresses),
        (v2(0x21, 0x31, &[0; 215]), Addresses),
        (tail(&[1]), Tlvs),
        (tail(&[1, 0]), Tlvs),
        (tail(&[1, 0, 2, 0]), Tlvs),
        (tail(&[1, 0, 0, 1, 0xff, 0xff]), Tlvs),
        (tail(&[tlv::CRC32C, 0, 4, 0, 0, 0, 0]), Checksum),
        (tail(&[tlv::CRC32C, 0, 0]), Checksum),
        (tail(&[0; 501]), TooLong(513)),
        // Bytes are checked before the header is complete.
        ([&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), TooLong(65_535)),
        ([&SIGNATURE[..], &[0x31]].concat(), Version(0x31)),
        ([&SIGNATURE[..], &[0x21, 0x33]].concat(), Family(0x33)),
    ] {
        assert_eq!(parse(&bytes, PAYLOAD_MAX), Parsed::Invalid(error), "{bytes:?}");
    }
    assert!(matches!(parse(&tail(&[0; 501]), 513), Parsed::Header { .. }), "the limit is configurable");
}

#[test]
fn headers_can_arrive_byte_by_byte() {
    for bytes in [
        v2(0x21, 0x11, &[V4, &[tlv::UNIQUE_ID, 0, 1, 7]].concat()),
        v2(0x20, 0, b""),
        b"PROXY TCP4 192.0.2.1 192.0.2.53 4711 53\r\n".to_vec(),
    ] {
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut], PAYLOAD_MAX), Parsed::Incomplete, "{cut} of {bytes:?}");
        }
        assert_eq!(header(&bytes).1, bytes.len());
    }
}

#[test]
fn written_headers_have_the_expected_bytes() {
    let (source, destination) = (endpoint("192.0.2.1:4711"), endpoint("192.0.2.53:53"));
    let mut out = b"x".to_vec();
    assert!(write_v2(&mut out, Transport::Stream, source, destination, [(1, &b"dot"[..])].into_iter()));
    assert_eq!(out[1..], v2(0x21, 0x11, &[V4, b"\x01\0\x03dot"].concat()));

    out.clear();
    write_v2_local(&mut out);
    assert_eq!(out, v2(0x20, 0, b""));

    out.clear();
    write_v1(&mut out, source, destination);
    write_v1(&mut out, source, endpoint("[2001:db8::53]:53"));
    write_v1_unknown(&mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "PROXY TCP4 192.0.2.1 192.0.2.53 4711 53\r\n\
         PROXY TCP6 0:0:0:0:0:ffff:c000:201 2001:db8:0:0:0:0:0:53 4711 53\r\n\
         PROXY UNKNOWN\r\n"
    );
}

#[test]
fn mixed_families_are_written_as_ipv6() {
    let (source, destination) = (endpoint("192.0.2.1:4711"), endpoint("[2001:db8::53]:53"));
    let mut out = Vec::new();
    assert!(write_v2(&mut out, Transport::Datagram, source, destination, std::iter::empty()));
    assert_eq!((out[13], out.len()), (0x22, FIXED + 36));
    let (h, _) = header(&out);
    assert_eq!((h.source, h.destination), (Some(source), Some(destination)));
}

#[test]
fn a_checksum_covers_its_header() {
    let at = endpoint("192.0.2.1:4711");
    let mut out = b"in front".to_vec();
    let tlvs = [(1, &b"dot"[..]), (tlv::CRC32C, b"of another"), (tlv::CRC32C, b""), (0xe0, b"x")];
    assert!(write_v2(&mut out, Transport::Stream, at, at, tlvs.into_iter()));
    let written = &out[8..];
    let (h, _) = header(written);
    assert_eq!(h.tlvs.map(|(kind, _)| kind).collect::<Vec<_>>(), [1, tlv::CRC32C, 0xe0]);
    // Each bit counts, wherever it is still a header.
    for at in FIXED..written.len() {
        let mut other = written.to_vec();
        other[at] ^= 4;
        assert!(!matches!(parse(&other, PAYLOAD_MAX), Parsed::Header { header, .. }
            if header.tlvs.first(tlv::CRC32C).is_some()));
    }
}

#[test]
fn oversized_values_are_not_written() {
    let at = endpoint("192.0.2.1:4711");
    let long = vec![0; 65_536];
    let mut out = b"x".to_vec();
    for tlvs in [vec![&long[..]], vec![&long[..40_000]; 2], vec![&long[..65_535]]] {
        let tlvs = tlvs.into_iter().map(|value| (tlv::NOOP, value));
        assert!(!write_v2(&mut out, Transport::Stream, at, at, tlvs));
        assert_eq!(out, b"x");
    }
    let most = &long[..65_535 - 12 - 3];
    assert!(write_v2(&mut out, Transport::Stream, at, at, [(tlv::NOOP, most)].into_iter()));
    assert!(matches!(parse(&out[1..], 65_535), Parsed::Header { len: 65_551, .. }));
    out.truncate(1);
    assert!(!ssl_tlv(&mut out, "TLSv1.3", &"x".repeat(65_536)));
    assert_eq!(out, b"x");
}

#[test]
fn tls_is_advertised() {
    let mut value = Vec::new();
    assert!(ssl_tlv(&mut value, "TLSv1.3", "TLS_AES_128_GCM_SHA256"));
    let ssl = Ssl::parse(&value).expect("a complete value");
    assert_eq!((ssl.client, ssl.verified), (CLIENT_SSL, false));
    assert_eq!(ssl.tlvs.first(tlv::SSL_VERSION), Some(&b"TLSv1.3"[..]));
    assert_eq!(ssl.tlvs.first(tlv::SSL_CIPHER), Some(&b"TLS_AES_128_GCM_SHA256"[..]));
    value.clear();
    assert!(ssl_tlv(&mut value, "", ""));
    assert_eq!(value, [1, 0, 0, 0, 1]);
    assert_eq!(Ssl::parse(&[7, 0, 0, 0, 0]).map(|ssl| ssl.verified), Some(true));
    assert_eq!((Ssl::parse(&[1, 0, 0, 0]), Ssl::parse(&[1, 0, 0, 0, 0, 0x21, 0])), (None, None));
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let ip =
        prop_oneof![any::<[u8; 4]>().prop_map(|ip| mapped(Ipv4Addr::from(ip).into())), any::<[u8; 16]>()];
    (ip, any::<u16>()).prop_map(|(ip, port)| Endpoint { ip, scope: 0, port })
}

proptest! {
    #[test]
    fn headers_round_trip(
        source in endpoints(),
        destination in endpoints(),
        datagram in any::<bool>(),
        tlvs in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..5),
        behind in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let transport = if datagram { Transport::Datagram } else { Transport::Stream };
        let mut out = Vec::new();
        prop_assert!(write_v2(&mut out, transport, source, destination, tlvs.iter().map(|(k, v)| (*k, &v[..]))));
        let whole = out.len();
        out.extend(&behind);
        let (h, len) = header(&out);
        prop_assert_eq!((h.command, h.transport, len), (Command::Proxy, transport, whole));
        prop_assert_eq!((h.source, h.destination), (Some(source), Some(destination)));
        let not_checksums = |kind: u8| kind != tlv::CRC32C;
        let read: Vec<_> = h.tlvs.filter(|t| not_checksums(t.0)).map(|(k, v)| (k, v.to_vec())).collect();
        let wanted: Vec<_> = tlvs.iter().filter(|t| not_checksums(t.0)).cloned().collect();
        prop_assert_eq!(read, wanted);

        out.clear();
        write_v1(&mut out, source, destination);
        prop_assert!(out.len() <= LINE_MAX);
        let (h, len) = header(&out);
        prop_assert_eq!((h.source, h.destination, len), (Some(source), Some(destination), out.len()));
    }

    #[test]
    fn a_truncated_header_is_incomplete_or_invalid(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        family in 0_u8..0x34,
    ) {
        let bytes = v2(0x21, family, &bytes);
        for cut in 0..bytes.len() {
            let is_header = matches!(parse(&bytes[..cut], PAYLOAD_MAX), Parsed::Header { .. });
            prop_assert!(!is_header);
        }
    }
}
