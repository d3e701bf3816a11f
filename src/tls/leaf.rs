//! The parts of a certificate that are read apart from its verification: names and validity. Reads
//! no clock.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::tls::date::{DAY_SECONDS, Date};
use crate::tls::der;
use crate::tls::der::{BOOLEAN, BYTES, Elements, INTEGER, OID, SEQUENCE, SET};

/// The end-entity certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its host names and addresses, in lower case: the alternative names, or else the common name.
    /// A wildcard begins with `*.`.
    pub names: Vec<String>,
    /// Start of validity, unix seconds.
    pub not_before: u64,
    /// End of validity, unix seconds.
    pub not_after: u64,
    /// Whether subject and issuer are equal.
    pub self_signed: bool,
    /// Its serial number, as encoded.
    pub serial: Vec<u8>,
}

/// Why a certificate cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl Leaf {
    /// Parses a certificate in DER.
    ///
    /// # Errors
    ///
    /// Bytes that are no certificate.
    pub fn parse(der: &[u8]) -> Result<Self, Unreadable> {
        read(der).ok_or_else(|| Unreadable("it is not a certificate in DER".to_owned()))
    }

    /// Returns its first name, for messages.
    #[must_use]
    pub fn display_name(&self) -> &str {
        self.names.first().map_or("without a name", String::as_str)
    }

    /// Returns the whole days until it expires at this unix time; negative when it has.
    #[must_use]
    pub fn days_left(&self, now: u64) -> i64 {
        let left = self.not_after as i64 - now as i64;
        left.div_euclid(DAY_SECONDS as i64)
    }

    /// Returns a warning at this unix time if the certificate is not valid yet, has expired, or
    /// expires within `days`.
    #[must_use]
    pub fn warning(&self, now: u64, days: u32) -> Option<String> {
        let name = self.display_name();
        if now < self.not_before {
            return Some(format!("certificate {name} is not valid before {}", Date(self.not_before)));
        }
        match self.days_left(now) {
            ..0 => Some(format!("certificate {name} has expired (on {})", Date(self.not_after))),
            left if left < i64::from(days) => {
                let unit = if left == 1 { "day" } else { "days" };
                Some(format!("certificate {name} expires in {left} {unit} (on {})", Date(self.not_after)))
            }
            _ => None,
        }
    }
}

/// `[0] EXPLICIT`: the version.
const VERSION: u8 = 0xa0;
/// `[3] EXPLICIT`.
const EXTENSIONS: u8 = 0xa3;
/// RFC 5280, section 4.2.1.6: id-ce-subjectAltName, 2.5.29.17, and two kinds of names in it.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 17];
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// What a common name is written in: `UTF8String`, `PrintableString`, `IA5String`.
const TEXTS: [u8; 3] = [0x0c, 0x13, 0x16];

/// RFC 5280, section 4.1.
fn read(der: &[u8]) -> Option<Leaf> {
    let mut whole = Elements(der);
    let mut certificate = Elements(whole.expect(SEQUENCE)?);
    let mut signed = Elements(certificate.expect(SEQUENCE)?);
    let (_algorithm, _signature) = (certificate.expect(SEQUENCE)?, certificate.next()?);
    if !whole.is_empty() || !certificate.is_empty() {
        return None;
    }
    let _version = signed.optional(VERSION);
    let serial = signed.expect(INTEGER)?;
    let _algorithm = signed.expect(SEQUENCE)?;
    let issuer = signed.expect(SEQUENCE)?;
    let mut validity = Elements(signed.expect(SEQUENCE)?);
    let (not_before, not_after) = (der::time(&mut validity)?, der::time(&mut validity)?);
    let subject = signed.expect(SEQUENCE)?;
    let _key = signed.expect(SEQUENCE)?;
    let mut names = Vec::new();
    while let Some((tag, inner, _)) = signed.next() {
        if tag == EXTENSIONS {
            alternative_names(inner, &mut names)?;
        }
    }
    if !signed.is_empty() {
        return None;
    }
    if names.is_empty() {
        common_names(subject, &mut names)?;
    }
    Some(Leaf { names, not_before, not_after, self_signed: subject == issuer, serial: serial.to_vec() })
}

fn alternative_names(extensions: &[u8], names: &mut Vec<String>) -> Option<()> {
    let mut extensions = Elements(Elements(extensions).expect(SEQUENCE)?);
    while !extensions.is_empty() {
        let mut extension = Elements(extensions.expect(SEQUENCE)?);
        let id = extension.expect(OID)?;
        let _critical = extension.optional(BOOLEAN);
        let value = extension.expect(BYTES)?;
        if id != ALTERNATIVE_NAMES {
            continue;
        }
        let mut general = Elements(Elements(value).expect(SEQUENCE)?);
        while !general.is_empty() {
            let (tag, bytes, _) = general.next()?;
            names.extend(name(tag, bytes));
        }
    }
    Some(())
}

fn name(tag: u8, bytes: &[u8]) -> Option<String> {
    match tag {
        DNS_NAME if bytes.is_ascii() => Some(str::from_utf8(bytes).ok()?.to_ascii_lowercase()),
        IP_ADDRESS => match *bytes {
            [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_string()),
            _ => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

fn common_names(subject: &[u8], names: &mut Vec<String>) -> Option<()> {
    let mut sets = Elements(subject);
    while !sets.is_empty() {
        let mut attributes = Elements(sets.expect(SET)?);
        while !attributes.is_empty() {
            let mut attribute = Elements(attributes.expect(SEQUENCE)?);
            let id = attribute.expect(OID)?;
            let (tag, text, _) = attribute.next()?;
            if id == COMMON_NAME && TEXTS.contains(&tag) {
                names.extend(str::from_utf8(text).map(str::to_ascii_lowercase));
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::Authority;

    #[test]
    fn a_leaf_has_the_names_and_days_of_its_certificate() {
        let issued = Authority::new("Root").issue_until(
            &["DNS.example", "*.dns.example", "192.0.2.1", "::1"],
            2026,
            1,
            2,
        );
        let leaf = Leaf::parse(issued.der()).expect("a certificate");
        assert_eq!(leaf.names, ["dns.example", "*.dns.example", "192.0.2.1", "::1"]);
        assert_eq!(leaf.not_after, 1_767_312_000);
        assert!(!leaf.self_signed);
        assert!(Leaf::parse(b"\x30\x00").is_err());
        assert!(Leaf::parse(&[issued.der(), b"\0"].concat()).is_err());
    }

    #[test]
    fn truncated_or_modified_certificates_do_not_panic() {
        let issued = Authority::new("Root").issue_until(&["dns.example", "192.0.2.1"], 2026, 1, 2);
        for length in 0..issued.der().len() {
            assert!(Leaf::parse(&issued.der()[..length]).is_err(), "{length} bytes");
        }
        for at in 0..issued.der().len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = issued.der().to_vec();
                changed[at] ^= change;
                let _ = Leaf::parse(&changed);
            }
        }
    }

    #[test]
    fn the_common_name_is_used_without_alternative_names() {
        let root = Authority::new("Old.example");
        let leaf = Leaf::parse(root.der()).expect("a certificate");
        assert_eq!(leaf.names, ["old.example"]);
        assert!(leaf.self_signed);
    }

    #[test]
    fn warnings_begin_before_expiry() {
        let leaf = Leaf {
            names: vec!["dns.example".to_owned()],
            not_before: 1_000,
            not_after: 1_767_312_000,
            self_signed: false,
            serial: vec![1],
        };
        let end = leaf.not_after;
        assert_eq!(leaf.warning(end - 22 * DAY_SECONDS, 21), None);
        let soon = leaf.warning(end - 21 * DAY_SECONDS + 1, 21);
        assert_eq!(soon.as_deref(), Some("certificate dns.example expires in 20 days (on 2026-01-02)"));
        let last = leaf.warning(end - DAY_SECONDS, 21);
        assert_eq!(last.as_deref(), Some("certificate dns.example expires in 1 day (on 2026-01-02)"));
        let over = leaf.warning(end + 1, 21);
        assert_eq!(over.as_deref(), Some("certificate dns.example has expired (on 2026-01-02)"));
        let early = leaf.warning(999, 21);
        assert_eq!(early.as_deref(), Some("certificate dns.example is not valid before 1970-01-01"));
    }
}
