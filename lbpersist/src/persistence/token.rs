//! What our cookies say, sealed: which server, since when, until when.
//!
//! A value is `version, key id, nonce, sealed {server, generation, issued, expires}, tag` in base64url without padding, always
//! [`LENGTH`] characters. The seal is AES-256-GCM-SIV (RFC 8452), which forgives a nonce that comes twice; the associated data
//! binds it to one profile and pool, so that a value is worth nothing elsewhere.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    rand,
};
use zeroize::Zeroizing;

/// Characters of a value.
pub const LENGTH: usize = (BYTES * 4).div_ceil(3);

const BYTES: usize = 1 + 4 + NONCE + PLAIN + TAG;
const NONCE: usize = 12;
const TAG: usize = 16;
const PLAIN: usize = 20;
const VERSION: u8 = 1;

/// How far in the future a value may have been made, in seconds: clocks of nodes differ.
const SKEW_S: u32 = 300;

/// What a cookie says. Times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The server's stable id.
    pub server: u64,
    /// Its generation.
    pub generation: u32,
    /// When the client was bound.
    pub issued: u32,
    /// When that ends; 0 for never.
    pub expires: u32,
}

/// A sealed token as text.
pub type Sealed = [u8; LENGTH];

/// Why a cookie's value is not taken. Numbers are places in counters; append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It is not what a value of ours looks like.
    Malformed = 0,
    /// It is longer than any value of ours.
    Oversized = 1,
    /// It is of another version.
    Version = 2,
    /// Its key is not known: it has been retired, or never was one.
    UnknownKey = 3,
    /// The seal does not fit: changed, made up, or made for another profile or pool.
    Forged = 4,
    /// Its time is over.
    Expired = 5,
    /// It was made in the future.
    Future = 6,
}

/// The secret of a key.
pub type Secret = Zeroizing<[u8; 32]>;

/// A key, ready for use. The secret cannot be read back from it, and goes with it.
pub struct Key {
    id: u32,
    aead: LessSafeKey,
}

impl Key {
    /// The key of a secret.
    pub fn new(id: u32, secret: &Secret) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM_SIV, &secret[..])
            .expect("a key of this algorithm has the length of a secret");
        Self { id, aead: LessSafeKey::new(unbound) }
    }

    /// The number that values carry.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The keys at one time: the newest seals, all of them open.
#[derive(Debug)]
pub struct Keyring {
    /// By id.
    keys: Vec<Key>,
    sealing: usize,
}

impl Keyring {
    /// A ring of keys, of which `sealing` is the id of the one that seals. Nothing when that is not among them.
    pub fn new(mut keys: Vec<Key>, sealing: u32) -> Option<Self> {
        keys.sort_by_key(Key::id);
        keys.dedup_by_key(|key| key.id);
        let sealing = keys.iter().position(|key| key.id == sealing)?;
        Some(Self { keys, sealing })
    }

    /// Seals a token for `owner`, which binds it.
    pub fn seal(&self, token: &Token, owner: &[u8]) -> Sealed {
        let key = &self.keys[self.sealing];
        let mut bytes = [0; BYTES];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&key.id.to_be_bytes());
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).expect("the system gives random numbers");
        bytes[5..5 + NONCE].copy_from_slice(&nonce);
        let (plain, place) = bytes[5 + NONCE..].split_at_mut(PLAIN);
        plain.copy_from_slice(&token.to_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key
            .aead
            .seal_in_place_separate_tag(nonce, Aad::from(owner), plain)
            .expect("a token is shorter than what can be sealed");
        place.copy_from_slice(tag.as_ref());
        encode(&bytes)
    }

    /// Opens a value that was sealed for `owner`, and says whether its key is the one that seals now.
    ///
    /// # Errors
    ///
    /// The reason why the value is worth nothing.
    pub fn open(&self, value: &[u8], owner: &[u8], now_s: u32) -> Result<(Token, bool), Refusal> {
        if value.len() > LENGTH {
            return Err(Refusal::Oversized);
        }
        let mut bytes = decode(value).ok_or(Refusal::Malformed)?;
        if bytes[0] != VERSION {
            return Err(Refusal::Version);
        }
        let id = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        let place =
            self.keys.binary_search_by_key(&id, Key::id).map_err(|_| Refusal::UnknownKey)?;
        let nonce = Nonce::try_assume_unique_for_key(&bytes[5..5 + NONCE])
            .map_err(|_| Refusal::Malformed)?;
        let opened = self.keys[place]
            .aead
            .open_in_place(nonce, Aad::from(owner), &mut bytes[5 + NONCE..])
            .map_err(|_| Refusal::Forged)?;
        let token = Token::from_bytes(opened).ok_or(Refusal::Forged)?;
        token.check(now_s)?;
        Ok((token, place == self.sealing))
    }
}

impl Token {
    /// Whether it holds at this time.
    ///
    /// # Errors
    ///
    /// Why it does not.
    pub(super) fn check(&self, now_s: u32) -> Result<(), Refusal> {
        if self.expires != 0 && now_s >= self.expires {
            return Err(Refusal::Expired);
        }
        if self.issued > now_s.saturating_add(SKEW_S) {
            return Err(Refusal::Future);
        }
        Ok(())
    }

    fn to_bytes(self) -> [u8; PLAIN] {
        let mut bytes = [0; PLAIN];
        bytes[..8].copy_from_slice(&self.server.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.generation.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.issued.to_be_bytes());
        bytes[16..].copy_from_slice(&self.expires.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |place: usize| {
            let bytes: [u8; 4] = bytes.get(place..place + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let server = u64::from(word(0)?) << 32 | u64::from(word(4)?);
        Some(Self { server, generation: word(8)?, issued: word(12)?, expires: word(16)? })
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url without padding (RFC 4648, section 5).
fn encode(bytes: &[u8; BYTES]) -> Sealed {
    let mut text = [0; LENGTH];
    for (chunk, out) in bytes.chunks(3).zip(text.chunks_mut(4)) {
        let word = chunk.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - chunk.len()));
        for (place, character) in out.iter_mut().enumerate() {
            *character = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
        }
    }
    text
}

/// The bytes of a text, if it is one that [`encode`] makes.
fn decode(text: &[u8]) -> Option<[u8; BYTES]> {
    let text: &Sealed = text.try_into().ok()?;
    let mut bytes = [0; BYTES];
    for (chunk, out) in text.chunks(4).zip(bytes.chunks_mut(3)) {
        let mut word = 0_u32;
        for &character in chunk {
            word = word << 6 | u32::from(digit(character)?);
        }
        let word = word << (6 * (4 - chunk.len()));
        let [_, all @ ..] = word.to_be_bytes();
        // Bits beyond the last byte would be a second way to write the same value.
        if all[out.len()..].iter().any(|&byte| byte != 0) {
            return None;
        }
        out.copy_from_slice(&all[..out.len()]);
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'A'..=b'Z' => Some(character - b'A'),
        b'a'..=b'z' => Some(character - b'a' + 26),
        b'0'..=b'9' => Some(character - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(id: u32) -> Key {
        Key::new(id, &Zeroizing::new([id as u8; 32]))
    }

    fn ring(ids: &[u32], sealing: u32) -> Keyring {
        Keyring::new(ids.iter().copied().map(key).collect(), sealing).unwrap()
    }

    const TOKEN: Token = Token { server: 7, generation: 1, issued: 1_000, expires: 2_000 };

    #[test]
    fn a_token_comes_back_until_it_expires() {
        let ring = ring(&[1], 1);
        let sealed = ring.seal(&TOKEN, b"web");
        assert_eq!((sealed.len(), LENGTH), (71, 71));
        assert_eq!(ring.open(&sealed, b"web", 1_999), Ok((TOKEN, true)));
        assert_eq!(ring.open(&sealed, b"web", 2_000), Err(Refusal::Expired));
        assert_eq!(ring.open(&sealed, b"web", 700), Ok((TOKEN, true)));
        assert_eq!(ring.open(&sealed, b"web", 699), Err(Refusal::Future));
        let for_ever = ring.seal(&Token { expires: 0, ..TOKEN }, b"web");
        assert!(ring.open(&for_ever, b"web", u32::MAX).is_ok());
        assert_ne!(sealed, ring.seal(&TOKEN, b"web"), "two values of a token do not look alike");
    }

    #[test]
    fn a_value_is_worth_nothing_elsewhere() {
        let ring = ring(&[1], 1);
        let sealed = ring.seal(&TOKEN, b"web");
        assert_eq!(ring.open(&sealed, b"api", 1_000), Err(Refusal::Forged));
        let other = Keyring::new(vec![Key::new(1, &Zeroizing::new([9; 32]))], 1).unwrap();
        assert_eq!(other.open(&sealed, b"web", 1_000), Err(Refusal::Forged));
    }

    #[test]
    fn an_old_key_opens_and_a_retired_one_does_not() {
        let sealed = ring(&[1], 1).seal(&TOKEN, b"web");
        assert_eq!(ring(&[2, 1], 2).open(&sealed, b"web", 1_000), Ok((TOKEN, false)));
        assert_eq!(ring(&[2, 3], 3).open(&sealed, b"web", 1_000), Err(Refusal::UnknownKey));
        assert!(Keyring::new(vec![key(1)], 2).is_none());
    }

    #[test]
    fn every_changed_character_is_noticed() {
        let ring = ring(&[1], 1);
        let sealed = ring.seal(&TOKEN, b"web");
        for place in 0..LENGTH {
            for &character in ALPHABET.iter().chain(b"=+/ \x00\xff") {
                let mut changed = sealed;
                changed[place] = character;
                assert_eq!(
                    ring.open(&changed, b"web", 1_000).is_ok(),
                    changed == sealed,
                    "{place}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_value_says_why() {
        let ring = ring(&[1], 1);
        let sealed = ring.seal(&TOKEN, b"web");
        let mut version = sealed;
        version[..2].copy_from_slice(b"Ag");
        let rows: [(&[u8], Refusal); 5] = [
            (b"", Refusal::Malformed),
            (&sealed[1..], Refusal::Malformed),
            (&[b'A'; LENGTH + 1], Refusal::Oversized),
            (&[b'!'; LENGTH], Refusal::Malformed),
            (&version, Refusal::Version),
        ];
        for (value, refusal) in rows {
            assert_eq!(ring.open(value, b"web", 1_000), Err(refusal));
        }
    }

    #[test]
    fn keys_do_not_show_their_secrets() {
        let shown = format!("{:?}", ring(&[1], 1));
        assert_eq!(shown, "Keyring { keys: [Key { id: 1, .. }], sealing: 0 }");
    }

    proptest! {
        #[test]
        fn any_token_comes_back(server: u64, generation: u32, issued in 0..1_000_u32, owner: Vec<u8>) {
            let ring = ring(&[5], 5);
            let token = Token { server, generation, issued, expires: 0 };
            prop_assert_eq!(ring.open(&ring.seal(&token, &owner), &owner, 1_000), Ok((token, true)));
        }

        #[test]
        fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(ring(&[5], 5).open(&bytes, b"web", 0).is_err());
        }
    }
}
