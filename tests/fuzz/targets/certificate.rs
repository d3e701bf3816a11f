//! Any bytes as a certificate: what is parsed lies within it.

use dnslob::tls::date::Date;
use dnslob::tls::leaf::Leaf;

pub(crate) fn target(data: &[u8]) {
    let Ok(leaf) = Leaf::parse(data) else { return };
    assert!(leaf.names.iter().all(|name| name.len() <= data.len().max(39)));
    assert!(leaf.serial.len() < data.len());
    assert_eq!(Leaf::parse(data), Ok(leaf.clone()));
    let longer = [data, b"\0"].concat();
    assert!(Leaf::parse(&longer).is_err(), "trailing bytes");
    for now in [0, leaf.not_before, leaf.not_after, u64::from(u32::MAX)] {
        let _ = leaf.warning(now, 21);
    }
    assert_eq!(Date(leaf.not_after).to_string().len(), 10, "a day within four digits of years");
}
