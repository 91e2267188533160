//! What a connection remembers of its client's cookie: opening one costs far more than seeing that it is the same as before.

use std::cell::RefCell;

use super::token::{Sealed, Token};

/// The last value that was opened on a connection, and what it said.
#[derive(Debug, Default)]
pub struct Memory(RefCell<Option<Opened>>);

#[derive(Debug)]
struct Opened {
    stamp: Stamp,
    value: Sealed,
    token: Token,
    fresh: bool,
}

/// What a value was opened with: which cookie, and the how-manieth keys. Never two things have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) cookie: u64,
    pub(super) keys: u64,
}

impl Memory {
    /// What the very same bytes said when the same keys opened them. Whether its time is over has to be looked at again.
    pub(super) fn recall(&self, stamp: Stamp, value: &[u8]) -> Option<(Token, bool)> {
        let opened = self.0.borrow();
        let opened = opened.as_ref().filter(|one| one.stamp == stamp && one.value == value)?;
        Some((opened.token, opened.fresh))
    }

    /// Remembers a value instead of the last one.
    pub(super) fn note(&self, stamp: Stamp, value: &[u8], (token, fresh): (Token, bool)) {
        if let Ok(value) = value.try_into() {
            self.0.replace(Some(Opened { stamp, value, token, fresh }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::token::LENGTH, *};

    #[test]
    fn only_the_same_bytes_under_the_same_keys_are_recalled() {
        let memory = Memory::default();
        let stamp = Stamp { cookie: 1, keys: 1 };
        let said = (Token { server: 7, generation: 1, issued: 5, expires: 0 }, true);
        let value = [b'A'; LENGTH];
        assert_eq!(memory.recall(stamp, &value), None);
        memory.note(stamp, &value, said);
        assert_eq!(memory.recall(stamp, &value), Some(said));
        let mut other = value;
        other[LENGTH - 1] = b'B';
        assert_eq!(memory.recall(stamp, &other), None);
        assert_eq!(memory.recall(stamp, &value[1..]), None);
        assert_eq!(memory.recall(Stamp { cookie: 2, ..stamp }, &value), None);
        assert_eq!(memory.recall(Stamp { keys: 2, ..stamp }, &value), None);
    }
}
