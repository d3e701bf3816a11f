//! Sessions stored for clients without tickets: bounded in number and age.

#![expect(clippy::disallowed_methods, reason = "sessions are kept until a day of the calendar")]

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, StoresServerSessions};

/// rustls' memory store, with an expiry.
#[derive(Debug)]
pub(super) struct SessionStore {
    kept: Arc<ServerSessionMemoryCache>,
    seconds_max: u64,
}

impl SessionStore {
    /// Creates a store of at most `sessions` sessions, each kept for at most `seconds_max` seconds;
    /// 0 sessions disables it.
    pub(super) fn of(sessions: usize, seconds_max: u32) -> Arc<dyn StoresServerSessions> {
        match sessions {
            0 => Arc::new(NoServerSessionStorage {}),
            _ => Arc::new(Self {
                kept: ServerSessionMemoryCache::new(sessions),
                seconds_max: u64::from(seconds_max),
            }),
        }
    }

    /// Returns the session without its time, unless it has expired.
    fn fresh(&self, stored: Option<Vec<u8>>, now: u64) -> Option<Vec<u8>> {
        let mut stored = stored?;
        let (time, _) = stored.split_first_chunk::<8>()?;
        let age = now.checked_sub(u64::from_be_bytes(*time))?;
        (age <= self.seconds_max).then(|| stored.split_off(8))
    }
}

impl StoresServerSessions for SessionStore {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let mut stored = UnixTime::now().as_secs().to_be_bytes().to_vec();
        stored.extend_from_slice(&value);
        self.kept.put(key, stored)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.kept.get(key), UnixTime::now().as_secs())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.kept.take(key), UnixTime::now().as_secs())
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_expire() {
        let store = SessionStore { kept: ServerSessionMemoryCache::new(8), seconds_max: 60 };
        assert!(store.put(b"one".to_vec(), b"secret".to_vec()));
        assert_eq!(store.get(b"one").as_deref(), Some(&b"secret"[..]));
        let kept = || store.kept.get(b"one");
        let now = UnixTime::now().as_secs();
        assert!(store.fresh(kept(), now + 59).is_some());
        assert!(store.fresh(kept(), now + 62).is_none());
        assert!(store.fresh(Some(b"short".to_vec()), now).is_none());
        assert_eq!(store.take(b"one").as_deref(), Some(&b"secret"[..]));
        assert_eq!(store.take(b"one"), None);
    }
}
