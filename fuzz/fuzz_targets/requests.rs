//! What clients of the proxy send, from the first byte on: request scanner, targets, header fields, PROXY protocol.
#![no_main]

#[path = "../../lbpersist/tests/random/reading.rs"]
mod reading;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Memory of exactly that size, so that the sanitizer sees a byte beyond.
    reading::request(&Box::<[u8]>::from(bytes));
});
