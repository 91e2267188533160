//! Cookies of ours: what one says, and the line that sets it. `token` is what is in them.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use super::{
    memory::{Memory, Stamp},
    table::Bound,
    token::{Keyring, LENGTH, Refusal, Token},
};
use crate::model::HttpCookie;

/// The keys that are in use, exchanged when they rotate.
#[derive(Debug)]
pub(super) struct Keys {
    ring: RwLock<Keyring>,
    /// How many there have been.
    number: AtomicU64,
}

impl Keys {
    /// These keys.
    pub(super) fn new(keyring: Keyring) -> Self {
        Self { ring: RwLock::new(keyring), number: AtomicU64::new(0) }
    }

    /// Other keys from now on.
    pub(super) fn set(&self, keyring: Keyring) {
        *self.ring.write().unwrap_or_else(PoisonError::into_inner) = keyring;
        self.number.fetch_add(1, Release);
    }

    fn with<T>(&self, act: impl FnOnce(&Keyring) -> T) -> T {
        act(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A cookie of ours, with all of its line that is always the same.
#[derive(Debug)]
pub(super) struct Cookie {
    /// No other has it.
    id: u64,
    pub(super) name: String,
    /// Profile and pool, which values are bound to.
    owner: Vec<u8>,
    attributes: String,
    timeout_s: u32,
    persistent: bool,
    pub(super) always_send: bool,
    pub(super) strip: bool,
    keys: Arc<Keys>,
}

impl Cookie {
    pub(super) fn new(
        name: &str,
        profile: &str,
        pool: &str,
        settings: &HttpCookie,
        keys: Arc<Keys>,
    ) -> Self {
        let mut attributes = format!("; Path={}", settings.path);
        if let Some(domain) = &settings.domain {
            attributes += &format!("; Domain={domain}");
        }
        if settings.secure {
            attributes += "; Secure";
        }
        if settings.http_only {
            attributes += "; HttpOnly";
        }
        if let Some(same_site) = settings.same_site {
            attributes += &format!("; SameSite={}", same_site.attribute());
        }
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            id: NEXT.fetch_add(1, Relaxed),
            name: name.to_owned(),
            owner: [profile.as_bytes(), b"\0", pool.as_bytes()].concat(),
            attributes,
            timeout_s: u32::try_from(settings.timeout.as_secs()).unwrap_or(u32::MAX),
            persistent: settings.persistent,
            always_send: settings.always_send,
            strip: settings.strip_from_request,
            keys,
        }
    }

    /// What a value says, and whether its key is the one that seals now.
    pub(super) fn open(
        &self,
        value: &[u8],
        memory: Option<&Memory>,
        now_s: u32,
    ) -> Result<(Token, bool), Refusal> {
        let Some(memory) = memory else {
            return self.keys.with(|keys| keys.open(value, &self.owner, now_s));
        };
        // The number before the keys: what other keys have opened meanwhile is not found again.
        let stamp = Stamp { cookie: self.id, keys: self.keys.number.load(Acquire) };
        if let Some((token, fresh)) = memory.recall(stamp, value) {
            return token.check(now_s).map(|()| (token, fresh));
        }
        let opened = self.keys.with(|keys| keys.open(value, &self.owner, now_s))?;
        memory.note(stamp, value, opened);
        Ok(opened)
    }

    /// What a cookie says that binds a client now.
    pub(super) fn token(&self, bound: Bound, now_s: u32) -> Token {
        let expires = match self.timeout_s {
            0 => 0,
            timeout => now_s.saturating_add(timeout),
        };
        let Bound { server, generation } = bound;
        Token { server, generation, issued: now_s, expires }
    }

    /// The line that sets it.
    pub(super) fn line(&self, token: &Token, now_s: u32) -> Vec<u8> {
        let sealed = self.keys.with(|keys| keys.seal(token, &self.owner));
        let mut line = Vec::with_capacity(self.name.len() + LENGTH + self.attributes.len() + 24);
        line.extend_from_slice(self.name.as_bytes());
        line.push(b'=');
        line.extend_from_slice(&sealed);
        line.extend_from_slice(self.attributes.as_bytes());
        if self.persistent {
            let left = token.expires.saturating_sub(now_s);
            line.extend_from_slice(format!("; Max-Age={left}").as_bytes());
        }
        line
    }
}
