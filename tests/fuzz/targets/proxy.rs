//! Any bytes as a PROXY header: what is read lies within them, does not depend on what is behind
//! it, and is read again when it is written.

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
        // Whatever it is.
        let _ = Ssl::parse(value);
    }
    assert_eq!(header.source.is_some(), header.destination.is_some());
    let (Some(source), Some(destination)) = (header.source, header.destination) else { return };
    assert!(header.command == Command::Proxy && header.transport != Transport::Unspec);
    let mut out = Vec::new();
    // Two checksums become one, a mixed pair longer: it may not fit any more.
    if proxy::write_v2(&mut out, header.transport, source, destination, header.tlvs) {
        let Parsed::Header { header: again, len } = proxy::parse(&out, 65_535) else {
            panic!("what was written is no header")
        };
        assert_eq!(len, out.len());
        assert_eq!((again.command, again.transport), (header.command, header.transport));
        assert_eq!((again.source, again.destination), (header.source, header.destination));
        assert!(again.tlvs.count() <= header.tlvs.count());
    } else {
        assert!(out.is_empty());
    }
}
