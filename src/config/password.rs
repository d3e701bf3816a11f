//! Passwords and API keys: as hashes of scrypt in dnsdist's form, or as they are.
//!
//! ```text
//!  $scrypt$ln=10,p=1,r=8$<salt, base64>$<hash, base64>
//! ```

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use scrypt::Params;
use subtle::ConstantTimeEq;

/// Bytes of a hash.
const HASH: usize = 32;
/// Bytes of the salts of our own hashes.
pub const SALT: usize = 16;
/// The factors of our own hashes: 1 MB and some milliseconds each.
const LOG_N: u8 = 10;
const R: u32 = 8;
const P: u32 = 1;
/// Most memory that a hash of the configuration may take, bytes: 128 N r.
const MEMORY_MAX: u64 = 64 << 20;
/// Most work, as a multiple of that of our own hashes.
const WORK_MAX: u64 = 256;

/// A password or key that is asked for.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// As it is.
    Plain(String),
    /// Its hash.
    Hashed(Hashed),
}

/// A hash of scrypt with its salt and factors.
#[derive(Clone, PartialEq, Eq)]
pub struct Hashed {
    log_n: u8,
    r: u32,
    p: u32,
    salt: Vec<u8>,
    hash: [u8; HASH],
}

/// No log shows one.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Hashed(_) => "Hashed",
        })
    }
}

impl Credential {
    /// Reads one as it is written: a hash where it has the form of one.
    ///
    /// # Errors
    /// It begins like a hash and is none.
    pub fn read(written: &str) -> Result<Self, &'static str> {
        if written.starts_with("$scrypt$") {
            return Hashed::read(written).map(Self::Hashed).ok_or(
                "a hash of hashPassword(), as \"$scrypt$ln=10,p=1,r=8$SALT$HASH\", of at most 64 MB and ln=18",
            );
        }
        Ok(Self::Plain(written.to_owned()))
    }

    /// Returns whether this is what was given. A hash takes some milliseconds.
    #[must_use]
    pub fn is(&self, given: &[u8]) -> bool {
        match self {
            Self::Plain(written) => {
                // The comparison would end early at another length.
                let digest = |bytes: &[u8]| ring::digest::digest(&ring::digest::SHA256, bytes);
                digest(written.as_bytes()).as_ref().ct_eq(digest(given).as_ref()).into()
            }
            Self::Hashed(hashed) => hashed.is(given),
        }
    }

    /// Returns its hash; what is one already stays as it is.
    #[must_use]
    pub fn hashed(self, salt: [u8; SALT]) -> Self {
        match self {
            Self::Plain(written) => Self::Hashed(Hashed::of(written.as_bytes(), salt)),
            Self::Hashed(_) => self,
        }
    }
}

impl Hashed {
    /// Hashes a password with this salt.
    #[must_use]
    pub fn of(password: &[u8], salt: [u8; SALT]) -> Self {
        Self::with_work(password, salt, LOG_N)
    }

    /// Does the same with another work factor, as its logarithm.
    #[must_use]
    pub fn with_work(password: &[u8], salt: [u8; SALT], log_n: u8) -> Self {
        let hash = derive(password, &salt, log_n, R, P).unwrap_or_default();
        Self { log_n, r: R, p: P, salt: salt.to_vec(), hash }
    }

    fn read(written: &str) -> Option<Self> {
        let mut parts = written.strip_prefix("$scrypt$")?.split('$');
        let (factors, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let (mut log_n, mut r, mut p) = (None, None, None);
        for factor in factors.split(',') {
            let (name, value) = factor.split_once('=')?;
            match name {
                "ln" => log_n = value.parse::<u8>().ok(),
                "r" => r = value.parse::<u32>().ok(),
                "p" => p = value.parse::<u32>().ok(),
                _ => return None,
            }
        }
        let (log_n, r, p) = (log_n?, r?, p?);
        let memory = 128_u64.checked_mul(r.into())?.checked_mul(1_u64.checked_shl(log_n.into())?)?;
        let own = (128 * u64::from(R)) << LOG_N;
        if log_n == 0
            || r == 0
            || p == 0
            || memory > MEMORY_MAX
            || memory.checked_mul(p.into())? > own * WORK_MAX
        {
            return None;
        }
        Params::new(log_n, r, p, HASH).ok()?;
        let salt = BASE64.decode(salt).ok().filter(|salt| (8..=64).contains(&salt.len()))?;
        let hash = BASE64.decode(hash).ok()?.try_into().ok()?;
        Some(Self { log_n, r, p, salt, hash })
    }

    fn is(&self, given: &[u8]) -> bool {
        let hash = derive(given, &self.salt, self.log_n, self.r, self.p);
        hash.is_some_and(|hash| self.hash.ct_eq(&hash).into())
    }
}

impl fmt::Display for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { log_n, r, p, .. } = self;
        write!(f, "$scrypt$ln={log_n},p={p},r={r}${}${}", BASE64.encode(&self.salt), BASE64.encode(self.hash))
    }
}

impl fmt::Debug for Hashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hashed")
    }
}

fn derive(password: &[u8], salt: &[u8], log_n: u8, r: u32, p: u32) -> Option<[u8; HASH]> {
    let mut hash = [0; HASH];
    scrypt::scrypt(password, salt, &Params::new(log_n, r, p, HASH).ok()?, &mut hash).ok()?;
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_back_and_matches_only_its_password() {
        let written = Hashed::of(b"secret", [7; SALT]).to_string();
        assert!(written.starts_with("$scrypt$ln=10,p=1,r=8$BwcHBwcHBwcHBwcHBwcHBw==$"), "{written}");
        let credential = Credential::read(&written).expect("a hash");
        assert!(credential.is(b"secret"));
        assert!(!credential.is(b"Secret") && !credential.is(b"") && !credential.is(written.as_bytes()));
    }

    /// Of the public documentation of a client of dnsdist.
    #[test]
    fn hashes_of_others_match() {
        let hash =
            "$scrypt$ln=10,p=1,r=8$SZmi+pjuZ4u7L4jhXIkLww==$VRW7BuYUjSVjkjDIK6J1VB/RWx2s4gbz+YXgflWspf8=";
        assert!(Credential::read(hash).expect("a hash").is(b"bonjour"));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_what_is_plain_compared() {
        let salt = "BwcHBwcHBwcHBwcHBwcHBw==";
        let hash = "VRW7BuYUjSVjkjDIK6J1VB/RWx2s4gbz+YXgflWspf8=";
        for wrong in [
            "$scrypt$".to_owned(),
            format!("$scrypt$ln=10,p=1,r=8${salt}"),
            format!("$scrypt$ln=10,p=1,r=8${salt}${hash}$"),
            format!("$scrypt$ln=10,p=1${salt}${hash}"),
            format!("$scrypt$ln=0,p=1,r=8${salt}${hash}"),
            format!("$scrypt$ln=30,p=1,r=8${salt}${hash}"),
            format!("$scrypt$ln=10,p=4000,r=8${salt}${hash}"),
            format!("$scrypt$ln=10,p=1,r=8$!${hash}"),
            format!("$scrypt$ln=10,p=1,r=8${salt}$BwcH"),
        ] {
            assert!(Credential::read(&wrong).is_err(), "{wrong}");
        }
        let plain = Credential::read("secret").expect("a password");
        assert!(plain.is(b"secret") && !plain.is(b"secre") && !plain.is(b"secret2"));
        assert!(plain.hashed([1; SALT]).is(b"secret"));
    }

    #[test]
    fn no_text_shows_them() {
        let plain = Credential::read("hunter2").expect("a password");
        assert_eq!(format!("{plain:?} {:?}", plain.clone().hashed([1; SALT])), "Plain Hashed");
    }
}
