//! Who may see what: passwords and keys of requests.
//!
//! A hash takes milliseconds, so one is verified at a time, and after a wrong one the next waits: a
//! flood of wrong passwords takes a twentieth of a CPU. What was right once is remembered by its
//! digest, so who knows the password does not wait for those who guess.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::digest::{Digest, SHA256, digest};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::base::time::{Tick, TickDelta};
use crate::config::password::Credential;
use crate::config::web::WebSettings;
use crate::engine::clock;

/// The pause after a wrong password, as a multiple of the time that it took.
const PAUSE: u64 = 19;
/// Right ones that are remembered: the password and the key.
const KNOWN_MAX: usize = 2;

/// What a path shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// Whether the process lives and is ready.
    Health,
    /// Metrics and statistics.
    Statistics,
    /// The API.
    Api,
    /// Changes by the API, which always ask for password or key.
    Changes,
    /// The rest.
    Dashboard,
}

impl Area {
    /// Returns the area of a path.
    pub(super) fn of(path: &str) -> Self {
        match path {
            "/livez" | "/readyz" => Self::Health,
            "/metrics" | "/jsonstat" => Self::Statistics,
            _ if path == "/api" || path.starts_with("/api/") => Self::Api,
            _ => Self::Dashboard,
        }
    }

    /// Returns whether the settings ask for a password or key.
    const fn is_protected(self, settings: &WebSettings) -> bool {
        match self {
            Self::Health => false,
            Self::Statistics => settings.stats_protected,
            Self::Api => settings.api_protected,
            Self::Changes => true,
            Self::Dashboard => settings.dashboard_protected,
        }
    }
}

/// The passwords and keys that were right, and whose turn it is to be verified.
#[derive(Debug)]
pub(super) struct Access {
    /// Of the password, of the key.
    known: RefCell<[Option<Digest>; KNOWN_MAX]>,
    turn: Semaphore,
    /// When the next may be verified. Kept here, as who guessed may be gone by then.
    not_before: Cell<Tick>,
}

impl Default for Access {
    fn default() -> Self {
        Self { known: RefCell::default(), turn: Semaphore::new(1), not_before: Cell::new(Tick(0)) }
    }
}

impl Access {
    /// Returns whether a request may see an area.
    pub(super) async fn is_granted(&self, settings: &WebSettings, area: Area, headers: &HeaderMap) -> bool {
        if !area.is_protected(settings) {
            return true;
        }
        if let (Some(expected), Some(given)) = (&settings.api_key, headers.get("x-api-key"))
            && self.is_right(1, expected, given.as_bytes()).await
        {
            return true;
        }
        match (&settings.password, password(headers)) {
            (Some(expected), Some(given)) => self.is_right(0, expected, &given).await,
            _ => false,
        }
    }

    async fn is_right(&self, which: usize, expected: &Credential, given: &[u8]) -> bool {
        if matches!(expected, Credential::Plain(_)) {
            return expected.is(given);
        }
        let hash = digest(&SHA256, given);
        let is_known =
            || self.known.borrow()[which].is_some_and(|known| known.as_ref().ct_eq(hash.as_ref()).into());
        if is_known() {
            return true;
        }
        let Ok(_turn) = self.turn.acquire().await else { return false };
        // The one before may have been the same.
        if is_known() {
            return true;
        }
        tokio::time::sleep(Duration::from(self.not_before.get().since(clock::now()))).await;
        let begun = clock::now();
        let is_right = expected.is(given);
        if is_right {
            self.known.borrow_mut()[which] = Some(hash);
        } else {
            let now = clock::now();
            self.not_before.set(now + TickDelta(now.since(begun).0.saturating_mul(PAUSE)));
        }
        is_right
    }
}

/// Reads the password of basic authentication, whoever the user is.
fn password(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64.decode(credentials.trim()).ok()?;
    let colon = decoded.iter().position(|b| *b == b':')?;
    Some(decoded[colon + 1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::password::SALT;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    fn basic(credentials: &str) -> HeaderMap {
        headers(&[("authorization", &format!("Basic {}", BASE64.encode(credentials)))])
    }

    fn settings(hashed: bool) -> WebSettings {
        let read = |text| {
            let plain = Credential::read(text).expect("a credential");
            Some(if hashed { plain.hashed([3; SALT]) } else { plain })
        };
        WebSettings { password: read("secret"), api_key: read("key"), ..WebSettings::default() }
    }

    #[tokio::test]
    async fn only_the_password_and_the_key_open() {
        for hashed in [false, true] {
            let (access, settings) = (Access::default(), settings(hashed));
            for _ in 0..2 {
                for area in [Area::Statistics, Area::Api, Area::Dashboard] {
                    assert!(access.is_granted(&settings, area, &basic("admin:secret")).await);
                    assert!(access.is_granted(&settings, area, &basic(":secret")).await);
                    assert!(access.is_granted(&settings, area, &headers(&[("x-api-key", "key")])).await);
                }
            }
            for wrong in [
                basic("admin:wrong"),
                basic("secret"),
                headers(&[("x-api-key", "secret")]),
                headers(&[("authorization", "Basic !")]),
                headers(&[("authorization", "Bearer secret")]),
                headers(&[]),
            ] {
                assert!(!access.is_granted(&settings, Area::Api, &wrong).await, "{wrong:?}");
                assert!(access.is_granted(&settings, Area::Health, &wrong).await);
            }
        }
    }

    #[tokio::test]
    async fn who_guesses_and_goes_does_not_shorten_the_pause() {
        let (access, settings) = (Access::default(), settings(true));
        assert!(!access.is_granted(&settings, Area::Api, &basic("x:wrong")).await);
        let after = access.not_before.get();
        let other = basic("x:other");
        let guess = access.is_granted(&settings, Area::Api, &other);
        let gone = tokio::time::timeout(Duration::ZERO, guess).await;
        // Either it had not begun, or the next one waits for longer.
        assert!(gone.is_ok() == (access.not_before.get() > after));
        assert!(after > Tick(0));
    }

    #[tokio::test]
    async fn without_a_password_nothing_that_asks_for_one_is_shown() {
        let (access, open) = (Access::default(), WebSettings::default());
        assert!(!access.is_granted(&open, Area::Statistics, &basic("admin:")).await);
        let open = WebSettings { stats_protected: false, ..open };
        assert!(access.is_granted(&open, Area::Statistics, &headers(&[])).await);
        assert!(!access.is_granted(&open, Area::Api, &headers(&[])).await);
    }

    #[test]
    fn every_path_has_its_area() {
        for (path, area) in [
            ("/livez", Area::Health),
            ("/readyz", Area::Health),
            ("/metrics", Area::Statistics),
            ("/jsonstat", Area::Statistics),
            ("/api/v1/servers/localhost", Area::Api),
            ("/", Area::Dashboard),
            ("/apiary", Area::Dashboard),
            ("/metrics/", Area::Dashboard),
        ] {
            assert_eq!(Area::of(path), area, "{path}");
        }
    }
}
