//! The supported ciphers, by the OpenSSL names that configurations use.
//!
//! Words of OpenSSL's expressions (`HIGH:!aNULL`) select among them; every cipher here is strong.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite as suite};
use rustls::{CipherSuite, SupportedCipherSuite};

use crate::tls::error::{Fault, TlsError};
use crate::tls::version::Version;

/// A cipher with its name.
pub type NamedCipher = (&'static str, SupportedCipherSuite);

/// Ciphers of TLS 1.2, best first.
pub const TLS12: &[NamedCipher] = &[
    ("ECDHE-ECDSA-AES256-GCM-SHA384", suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Ciphers of TLS 1.3, best first.
pub const TLS13: &[NamedCipher] = &[
    ("TLS_AES_256_GCM_SHA384", suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", suite::TLS13_AES_128_GCM_SHA256),
    ("TLS_CHACHA20_POLY1305_SHA256", suite::TLS13_CHACHA20_POLY1305_SHA256),
];

/// Builds ring's provider with the configured ciphers, in their order; an empty list means all.
///
/// # Errors
///
/// Unknown names, and lists that leave no cipher from this version on.
pub(super) fn provider(tls12: &str, tls13: &str, lowest: Version) -> Result<Arc<CryptoProvider>, TlsError> {
    let mut suites = chosen(tls13, TLS13, false)?;
    if lowest == Version::Tls12 {
        suites.extend(chosen(tls12, TLS12, true)?);
    }
    if suites.is_empty() {
        return Err(Fault::NoCipherLeft.into());
    }
    Ok(Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() }))
}

/// Returns the ciphers of a list, or of an expression of OpenSSL.
fn chosen(
    list: &str,
    known: &[NamedCipher],
    takes_words: bool,
) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    if parts(list).next().is_none() {
        return Ok(known.iter().map(|cipher| cipher.1).collect());
    }
    let mut selected: Vec<&NamedCipher> = Vec::new();
    for part in parts(list) {
        let (removes, moves) = (part.starts_with(['!', '-']), part.starts_with('+'));
        let words = if takes_words { part.trim_start_matches(['!', '-', '+']) } else { part };
        let is_meant =
            |name: &str| words.split('+').all(|word| selects(word, name, takes_words) == Some(true));
        if removes {
            selected.retain(|cipher| !is_meant(cipher.0));
        } else if moves {
            // Those that it means are last from here on.
            selected.sort_by_key(|cipher| is_meant(cipher.0));
        } else {
            let new = known.iter().filter(|cipher| is_meant(cipher.0));
            let new: Vec<_> = new.filter(|cipher| !selected.iter().any(|had| had.0 == cipher.0)).collect();
            selected.extend(new);
        }
    }
    if selected.is_empty() {
        let names = known.iter().map(|cipher| cipher.0).collect();
        return Err(Fault::UnknownCipher(list.to_owned(), names).into());
    }
    Ok(selected.into_iter().map(|cipher| cipher.1).collect())
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split([':', ',', ' ', ';']).filter(|part| !part.is_empty())
}

/// Returns whether a word of OpenSSL's expressions, or a name, means a cipher; none if the word is not
/// known.
fn selects(word: &str, name: &str, takes_words: bool) -> Option<bool> {
    /// Words that mean none of the supported ciphers.
    const NONE: &[&str] = &[
        "MEDIUM",
        "LOW",
        "EXP",
        "EXPORT",
        "eNULL",
        "NULL",
        "aNULL",
        "ADH",
        "AECDH",
        "MD5",
        "RC2",
        "RC4",
        "DES",
        "3DES",
        "IDEA",
        "SEED",
        "CAMELLIA",
        "CAMELLIA128",
        "CAMELLIA256",
        "ARIA",
        "ARIA128",
        "ARIA256",
        "ARIAGCM",
        "GOST",
        "PSK",
        "kPSK",
        "aPSK",
        "kECDHEPSK",
        "kDHEPSK",
        "kRSAPSK",
        "SRP",
        "DSS",
        "aDSS",
        "kRSA",
        "DHE",
        "EDH",
        "kDHE",
        "kEDH",
        "DH",
        "kDH",
        "kDHr",
        "kDHd",
        "aDH",
        "ECDH",
        "kECDH",
        "aECDH",
        "SHA",
        "SHA1",
        "SHA256",
        "SHA384",
        "TLSv1",
        "TLSv1.0",
        "TLSv1.1",
        "SSLv2",
        "SSLv3",
        "AESCCM",
        "AESCCM8",
        "CBC",
    ];
    if name.eq_ignore_ascii_case(word) {
        return Some(true);
    }
    if !takes_words {
        return None;
    }
    match word {
        "HIGH" | "DEFAULT" | "ALL" | "ECDHE" | "EECDH" | "kECDHE" | "kEECDH" | "TLSv1.2" | "AEAD" => {
            Some(true)
        }
        "AES" => Some(name.contains("AES")),
        "AESGCM" => Some(name.contains("GCM")),
        "AES128" | "AES256" | "CHACHA20" => Some(name.contains(word)),
        "ECDSA" | "aECDSA" => Some(name.contains("-ECDSA-")),
        "RSA" | "aRSA" => Some(name.contains("-RSA-")),
        // They are in the order of their strength.
        _ if word.starts_with('@') || NONE.contains(&word) => Some(false),
        _ => None,
    }
}

/// Returns the names in a list of ciphers, of TLS 1.2 or 1.3, that no supported cipher has.
#[must_use]
pub fn unsupported(list: &str, is_tls13: bool) -> Vec<&str> {
    let known = if is_tls13 { TLS13 } else { TLS12 };
    let words = parts(list).filter(|part| is_tls13 || !part.starts_with(['!', '-'])).flat_map(|part| {
        let rest = if is_tls13 { part } else { part.trim_start_matches('+') };
        rest.split('+')
    });
    words.filter(|word| known.iter().all(|cipher| selects(word, cipher.0, !is_tls13).is_none())).collect()
}

/// Returns the OpenSSL name of a cipher.
pub(super) fn name(cipher: CipherSuite) -> &'static str {
    let known = TLS13.iter().chain(TLS12).find(|known| known.1.suite() == cipher);
    known.map_or("unknown", |known| known.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_openssl_select_ciphers() {
        let of = |list: &str| -> Vec<&'static str> {
            let suites = chosen(list, TLS12, true).unwrap_or_default();
            suites.iter().map(|suite| name(suite.suite())).collect()
        };
        let all: Vec<&str> = TLS12.iter().map(|cipher| cipher.0).collect();
        let of_rsa = |name: &&&str| name.contains("-RSA-");
        for list in
            ["HIGH:!aNULL:!MD5", "DEFAULT:!RC4:@STRENGTH", "ALL:!LOW:!EXP", "EECDH+AESGCM:EECDH+CHACHA20"]
        {
            let mut selected = of(list);
            selected.sort_unstable();
            let mut expected = all.clone();
            expected.sort_unstable();
            assert_eq!(selected, expected, "{list}");
        }
        let rsa: Vec<&str> = all.iter().filter(of_rsa).copied().collect();
        assert_eq!(of("ECDHE+aRSA"), rsa);
        assert_eq!(of("HIGH:!ECDSA"), rsa);
        assert_eq!(of("CHACHA20+RSA:AES128+RSA"), [rsa[2], rsa[1]]);
        assert_eq!(of("AES128+RSA:AES128-SHA:DHE-RSA-AES256-GCM-SHA384"), [rsa[1]], "others are left out");
        assert_eq!(of("aRSA:+AES256").last(), Some(&rsa[0]));
        assert!(of("NULL").is_empty() && of("HIGH:!ALL").is_empty() && of("!HIGH").is_empty());
        assert_eq!(unsupported("HIGH:AES128-SHA:!FOO:kRSA", false), ["AES128-SHA"]);
        assert_eq!(
            unsupported("TLS_AES_128_CCM_SHA256:TLS_AES_128_GCM_SHA256", true),
            ["TLS_AES_128_CCM_SHA256"]
        );
    }

    #[test]
    fn lists_select_and_order_ciphers() {
        let all = provider("", "", Version::Tls12).expect("all");
        assert_eq!(all.cipher_suites.len(), TLS12.len() + TLS13.len());
        let few = provider(
            "ECDHE-RSA-AES128-GCM-SHA256:ecdhe-ecdsa-aes128-gcm-sha256",
            "TLS_AES_128_GCM_SHA256",
            Version::Tls12,
        )
        .expect("a few");
        let names: Vec<_> = few.cipher_suites.iter().map(|cipher| name(cipher.suite())).collect();
        assert_eq!(
            names,
            ["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"]
        );
        let new = provider("", "", Version::Tls13).expect("those of 1.3");
        assert_eq!(new.cipher_suites.len(), TLS13.len());
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let wrong = provider("AES128-SHA", "", Version::Tls12).expect_err("no such cipher").to_string();
        assert!(wrong.starts_with("AES128-SHA is not a supported cipher: ECDHE-ECDSA-"), "{wrong}");
        let wrong = provider("", "HIGH", Version::Tls12).expect_err("no such cipher").to_string();
        assert!(wrong.contains("TLS_CHACHA20_POLY1305_SHA256"), "{wrong}");
    }
}
