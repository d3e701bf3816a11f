//! The supported ciphers, by the OpenSSL names that configurations use.
//!
//! OpenSSL's expressions (`HIGH:!aNULL`) are not supported: every cipher here is strong, so a list
//! is enough.

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
    let mut suites = chosen(tls13, TLS13)?;
    if lowest == Version::Tls12 {
        suites.extend(chosen(tls12, TLS12)?);
    }
    if suites.is_empty() {
        return Err(Fault::NoCipherLeft.into());
    }
    Ok(Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() }))
}

fn chosen(list: &str, known: &[NamedCipher]) -> Result<Vec<SupportedCipherSuite>, TlsError> {
    let mut names = list.split([':', ',', ' ']).filter(|name| !name.is_empty()).peekable();
    if names.peek().is_none() {
        return Ok(known.iter().map(|cipher| cipher.1).collect());
    }
    names
        .map(|name| {
            let found = known.iter().find(|cipher| cipher.0.eq_ignore_ascii_case(name));
            found.map(|cipher| cipher.1).ok_or_else(|| {
                let names = known.iter().map(|cipher| cipher.0).collect();
                Fault::UnknownCipher(name.to_owned(), names).into()
            })
        })
        .collect()
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
