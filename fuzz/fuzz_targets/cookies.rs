//! Cookie and Set-Cookie headers of any bytes, and values that pretend to be sealed.
#![no_main]

#[path = "../../lbpersist/tests/random/reading.rs"]
mod reading;

use std::sync::LazyLock;

use lbpersist::persistence::token::Keyring;

static KEYS: LazyLock<Keyring> = LazyLock::new(reading::keyring);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Memory of exactly that size, so that the sanitizer sees a byte beyond.
    reading::cookie(&KEYS, &Box::<[u8]>::from(bytes));
});
