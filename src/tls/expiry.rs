//! What is read of a certificate besides what TLS itself checks: its names, and until when it is
//! good. Does not ask for the time.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Seconds of a day.
pub const DAY_SECONDS: u64 = 86_400;

/// The end of a chain: the certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The host names and addresses it is for, in lower case: the alternative names, or the
    /// common name when there are none. A wildcard begins with `*.`.
    pub names: Vec<String>,
    /// Unix time in seconds from which it is good.
    pub not_before: u64,
    /// Unix time in seconds until which it is good.
    pub not_after: u64,
    /// Whether subject and issuer are the same.
    pub self_signed: bool,
    /// Its serial number, as it stands in it.
    pub serial: Vec<u8>,
}

/// A certificate that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl Leaf {
    /// What a certificate in DER says.
    ///
    /// # Errors
    ///
    /// Bytes that are no certificate.
    pub fn parse(der: &[u8]) -> Result<Self, Unreadable> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|e| Unreadable(e.to_string()))?;
        if !rest.is_empty() {
            return Err(Unreadable(format!("{} bytes too many", rest.len())));
        }
        let mut names = Vec::new();
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            names.extend(alternative.value.general_names.iter().filter_map(name));
        }
        if names.is_empty() {
            let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            names.extend(common.map(str::to_ascii_lowercase));
        }
        let validity = certificate.validity();
        Ok(Self {
            names,
            not_before: u64::try_from(validity.not_before.timestamp()).unwrap_or(0),
            not_after: u64::try_from(validity.not_after.timestamp()).unwrap_or(0),
            self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw(),
            serial: certificate.raw_serial().to_vec(),
        })
    }

    /// What people call it: its first name.
    #[must_use]
    pub fn called(&self) -> &str {
        self.names.first().map_or("without a name", String::as_str)
    }

    /// Whole days until it has expired at this unix time; below 0 when it has.
    #[must_use]
    pub fn days_left(&self, now: u64) -> i64 {
        let left = self.not_after as i64 - now as i64;
        left.div_euclid(DAY_SECONDS as i64)
    }

    /// What is to be said about it at this unix time, if anything: it is not good yet, it has
    /// expired, or will within these days.
    #[must_use]
    pub fn complaint(&self, now: u64, days: u32) -> Option<String> {
        let name = self.called();
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

fn name(general: &GeneralName<'_>) -> Option<String> {
    match general {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

/// A unix time in seconds as its day in UTC: `2026-01-02`.
#[derive(Clone, Copy, Debug)]
pub struct Date(pub u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The proleptic Gregorian calendar in years that begin on 1 March, so that the odd day of
        // a leap year is the last one; 719,468 days from 1 March of year 0 to the unix epoch.
        let days = self.0 / DAY_SECONDS + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        write!(f, "{:04}-{month:02}-{day:02}", era * 400 + year + later)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture::Authority;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_767_312_000, "2026-01-02"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(Date(seconds).to_string(), expected);
        }
    }

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
    fn a_common_name_counts_when_there_is_no_other() {
        let root = Authority::new("Old.example");
        let leaf = Leaf::parse(root.der()).expect("a certificate");
        assert_eq!(leaf.names, ["old.example"]);
        assert!(leaf.self_signed);
    }

    #[test]
    fn complaints_begin_before_the_end() {
        let leaf = Leaf {
            names: vec!["dns.example".to_owned()],
            not_before: 1_000,
            not_after: 1_767_312_000,
            self_signed: false,
            serial: vec![1],
        };
        let end = leaf.not_after;
        assert_eq!(leaf.complaint(end - 22 * DAY_SECONDS, 21), None);
        let soon = leaf.complaint(end - 21 * DAY_SECONDS + 1, 21);
        assert_eq!(soon.as_deref(), Some("certificate dns.example expires in 20 days (on 2026-01-02)"));
        let last = leaf.complaint(end - DAY_SECONDS, 21);
        assert_eq!(last.as_deref(), Some("certificate dns.example expires in 1 day (on 2026-01-02)"));
        let over = leaf.complaint(end + 1, 21);
        assert_eq!(over.as_deref(), Some("certificate dns.example has expired (on 2026-01-02)"));
        let early = leaf.complaint(999, 21);
        assert_eq!(early.as_deref(), Some("certificate dns.example is not valid before 1970-01-01"));
    }
}
