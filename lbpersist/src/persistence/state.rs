//! What must outlive the daemon: cookie keys, names that were generated, and which servers there have been.
//!
//! A [`Store`] keeps it.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::token::{Key, Keyring, Secret};

/// How long a key opens what it has sealed after it has stopped sealing, in seconds: the longest timeout of a cookie.
const RETENTION_S: u64 = 30 * 86_400;

/// Keeps state somewhere. What cannot be kept or read is told by whoever keeps it, and tried again.
pub trait Store: Send {
    /// What was kept; nothing the first time.
    fn load(&self) -> Option<State>;

    /// Keeps it. The keys in it are used whether that works or not.
    fn save(&self, state: &State);
}

/// What is kept.
#[derive(Default, PartialEq, Eq)]
pub struct State {
    /// From old to new; the last one seals.
    keys: Vec<KeyRecord>,
    /// Cookie names by profile and pool.
    names: BTreeMap<(String, String), String>,
    /// Servers by stable id.
    servers: BTreeMap<u64, ServerRecord>,
}

#[derive(PartialEq, Eq)]
struct KeyRecord {
    id: u32,
    created_s: u64,
    secret: Secret,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct ServerRecord {
    pool: u64,
    generation: u32,
    present: bool,
}

impl State {
    /// Makes a new key when the newest is older than `period_s` seconds, or none is there, and drops keys whose cookies have
    /// all expired. Says whether anything changed.
    pub fn rotate(&mut self, now_s: u64, period_s: u64) -> bool {
        let newest = self.keys.last().map(|key| key.created_s);
        let is_due = newest.is_none_or(|created| now_s >= created.saturating_add(period_s));
        if is_due {
            self.keys.push(KeyRecord { id: self.new_id(), created_s: now_s, secret: random() });
        }
        // A key stops sealing when the next one is made.
        let retired: Vec<u64> = self.keys.iter().skip(1).map(|next| next.created_s).collect();
        let before = self.keys.len();
        let mut stopped = retired.into_iter();
        self.keys.retain(|_| {
            stopped.next().is_none_or(|stopped| now_s < stopped.saturating_add(RETENTION_S))
        });
        is_due || self.keys.len() != before
    }

    /// The keys, ready for use; nothing before the first [`State::rotate`].
    pub fn keyring(&self) -> Option<Keyring> {
        let keys = self.keys.iter().map(|key| Key::new(key.id, &key.secret)).collect();
        Keyring::new(keys, self.keys.last()?.id)
    }

    /// The name of the cookie of a profile in a pool, made if there is none. True if it was.
    pub fn name(&mut self, profile: &str, pool: &str) -> (&str, bool) {
        let place = (profile.to_owned(), pool.to_owned());
        let is_new = !self.names.contains_key(&place);
        (self.names.entry(place).or_insert_with(random_name), is_new)
    }

    /// Notes which servers a pool has, and says whether that changed anything. One that comes back has another generation.
    pub fn note_servers(&mut self, pool: u64, ids: &[u64]) -> bool {
        let mut changed = false;
        for (id, record) in &mut self.servers {
            if record.pool == pool && record.present && !ids.contains(id) {
                record.present = false;
                changed = true;
            }
        }
        for &id in ids {
            let known = self.servers.get_mut(&id);
            changed |= known.as_ref().is_none_or(|record| !record.present);
            match known {
                Some(record) if record.present => {}
                Some(record) => {
                    record.present = true;
                    record.generation = record.generation.wrapping_add(1);
                }
                None => {
                    let record = ServerRecord { pool, generation: 0, present: true };
                    self.servers.insert(id, record);
                }
            }
        }
        changed
    }

    /// The generation of a server.
    pub fn generation(&self, id: u64) -> u32 {
        self.servers.get(&id).map_or(0, |record| record.generation)
    }

    fn new_id(&self) -> u32 {
        loop {
            let mut bytes = [0; 4];
            rand::fill(&mut bytes).expect("the system gives random numbers");
            let id = u32::from_be_bytes(bytes);
            if self.keys.iter().all(|key| key.id != id) {
                return id;
            }
        }
    }

    /// As text.
    pub(crate) fn write(&self) -> Zeroizing<String> {
        // Room for all of it, since a string that grows leaves copies behind.
        let names: usize =
            self.names.iter().map(|((a, b), c)| a.len() + b.len() + c.len() + 8).sum();
        let room = 64 + self.keys.len() * 128 + names + self.servers.len() * 64;
        let mut text = Zeroizing::new(String::with_capacity(room));
        text.push_str(HEADER);
        text.push('\n');
        for key in &self.keys {
            text.push_str(&format!("key\t{:08x}\t{}\t", key.id, key.created_s));
            for byte in key.secret.iter() {
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
                }
            }
            text.push('\n');
        }
        for ((profile, pool), name) in &self.names {
            text.push_str(&format!("name\t{profile}\t{pool}\t{name}\n"));
        }
        for (id, ServerRecord { pool, generation, present }) in &self.servers {
            let present = u8::from(*present);
            text.push_str(&format!("server\t{id:016x}\t{pool:016x}\t{generation}\t{present}\n"));
        }
        text
    }

    /// The state of a text, or the line that is wrong.
    pub(crate) fn read(text: &str) -> Result<Self, usize> {
        let mut lines = text.split_terminator('\n').enumerate();
        if !text.ends_with('\n') || lines.next().map(|(_, line)| line) != Some(HEADER) {
            return Err(1);
        }
        let mut state = Self::default();
        for (place, line) in lines {
            state.read_line(line).ok_or(place + 1)?;
        }
        Ok(state)
    }

    fn read_line(&mut self, line: &str) -> Option<()> {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields[..] {
            ["key", id, created, secret] => {
                let mut bytes = Zeroizing::new([0; 32]);
                if secret.len() != 64 || !secret.is_ascii() {
                    return None;
                }
                for (place, byte) in bytes.iter_mut().enumerate() {
                    *byte = u8::from_str_radix(&secret[2 * place..2 * place + 2], 16).ok()?;
                }
                let id = u32::from_str_radix(id, 16).ok()?;
                self.keys.push(KeyRecord { id, created_s: created.parse().ok()?, secret: bytes });
            }
            ["name", profile, pool, name] => {
                self.names.insert((profile.to_owned(), pool.to_owned()), name.to_owned());
            }
            ["server", id, pool, generation, present] => {
                let record = ServerRecord {
                    pool: u64::from_str_radix(pool, 16).ok()?,
                    generation: generation.parse().ok()?,
                    present: present == "1",
                };
                self.servers.insert(u64::from_str_radix(id, 16).ok()?, record);
            }
            _ => return None,
        }
        Some(())
    }
}

/// Shows no secret.
impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (keys, names, servers) = (self.keys.len(), self.names.len(), self.servers.len());
        write!(f, "State {{ {keys} keys, {names} names, {servers} servers }}")
    }
}

const HEADER: &str = "lbpersist cookies 1";

fn random() -> Secret {
    let mut secret = Zeroizing::new([0; 32]);
    rand::fill(&mut secret[..]).expect("the system gives random numbers");
    secret
}

fn random_name() -> String {
    let mut name = String::new();
    while name.len() < 8 {
        let mut byte = [0];
        rand::fill(&mut byte).expect("the system gives random numbers");
        // Above this, some letters would come more often than others.
        if byte[0] < 26 * 9 {
            name.push(char::from(b'A' + byte[0] % 26));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::{
        super::token::{Refusal, Token},
        *,
    };

    const DAY: u64 = 86_400;
    const TOKEN: Token = Token { server: 1, generation: 0, issued: 0, expires: 0 };

    #[test]
    fn keys_rotate_with_overlap() {
        let mut state = State::default();
        assert!(state.keyring().is_none());
        assert!(state.rotate(0, DAY));
        let sealed = state.keyring().unwrap().seal(&TOKEN, b"o");
        assert!(!state.rotate(DAY - 1, DAY));
        assert!(state.rotate(DAY, DAY));
        let open = |state: &State| state.keyring().unwrap().open(&sealed, b"o", 0);
        assert_eq!(open(&state), Ok((TOKEN, false)));
        state.rotate(DAY + RETENTION_S - 1, DAY);
        assert_eq!(open(&state), Ok((TOKEN, false)));
        state.rotate(DAY + RETENTION_S, DAY);
        assert_eq!(open(&state), Err(Refusal::UnknownKey));
        for day in 0..100 {
            state.rotate(DAY * (40 + day), DAY);
        }
        assert_eq!(state.keys.len(), 31, "no more than a month of them");
    }

    #[test]
    fn names_stay_and_are_of_eight_letters() {
        let mut state = State::default();
        let (name, is_new) = state.name("p", "web");
        let name = name.to_owned();
        assert!(is_new && name.len() == 8 && name.bytes().all(|byte| byte.is_ascii_uppercase()));
        assert_eq!(state.name("p", "web"), (name.as_str(), false));
        assert_ne!(state.name("p", "api").0, name);
    }

    #[test]
    fn a_server_that_comes_back_is_another_one() {
        let mut state = State::default();
        assert!(state.note_servers(1, &[10, 11]));
        assert!(!state.note_servers(1, &[11, 10]));
        assert!(state.note_servers(2, &[20]));
        assert!(state.note_servers(1, &[11]));
        assert!(state.note_servers(1, &[10, 11]));
        assert_eq!([10, 11, 20].map(|id| state.generation(id)), [1, 0, 0]);
    }

    #[test]
    fn a_text_gives_back_what_was_written_and_damage_is_told() {
        let mut state = State::default();
        state.rotate(5, DAY);
        state.rotate(5 + DAY, DAY);
        state.name("by cookie", "wéb");
        state.note_servers(1, &[10]);
        let text = state.write();
        assert_eq!(State::read(&text), Ok(state));
        for (damaged, line) in [
            (text[..text.len() - 1].to_owned(), 1),
            (text.replace("key", "kex"), 2),
            (String::new(), 1),
        ] {
            assert_eq!(State::read(&damaged), Err(line));
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut state = State::default();
        state.rotate(0, DAY);
        assert_eq!(format!("{state:?}"), "State { 1 keys, 0 names, 0 servers }");
    }
}
