//! Arbitrary bytes as a PROXY header: a parsed header lies within them, does not depend on the
//! bytes behind it, and parses again after it was written.

use dnslob::wire::proxy;
use dnslob::wire::proxy::{Command, Header, Parsed, ProxyError, Ssl, Transport};

pub(crate) fn target(data: &[u8]) {
    for max in [proxy::PAYLOAD_MAX, 65_535] {
        match proxy::parse(data, max) {
            Parsed::Header { header, len } => {
                assert!(len <= data.len() && len <= (16 + max).max(107));
                assert_eq!(proxy::parse(&data[..len], max), Parsed::Header { header, len });
                assert_eq!(proxy::parse(&data[..len - 1], max), Parsed::Incomplete);
                whole(&header);
            }
            Parsed::Incomplete => assert!(data.len() < (16 + max).max(107)),
            Parsed::Invalid(ProxyError::TooLong(length)) => assert!(length > max),
            Parsed::Invalid(_) => {}
        }
    }
}

fn whole(header: &Header<'_>) {
    let bytes: usize = header.tlvs.map(|(_, value)| value.len() + 3).sum();
    assert_eq!(bytes, header.tlvs.bytes().len());
    for (_, value) in header.tlvs {
        // Whatever the result is.
        let _ = Ssl::parse(value);
    }
    assert_eq!(header.source.is_some(), header.destination.is_some());
    let (Some(source), Some(destination)) = (header.source, header.destination) else { return };
    assert!(header.command == Command::Proxy && header.transport != Transport::Unspec);
    let mut out = Vec::new();
    // Two checksums become one, and a mixed address pair becomes longer: it may not fit any more.
    if proxy::write_v2(&mut out, header.transport, source, destination, header.tlvs) {
        let Parsed::Header { header: again, len } = proxy::parse(&out, 65_535) else {
            panic!("the written header does not parse")
        };
        assert_eq!(len, out.len());
        assert_eq!((again.command, again.transport), (header.command, header.transport));
        assert_eq!((again.source, again.destination), (header.source, header.destination));
        assert!(again.tlvs.count() <= header.tlvs.count());
    } else {
        assert!(out.is_empty());
    }
}
