//! The headers of any frame: the parser half of the XDP programs, as it reads them in the kernel.
#![no_main]

#[path = "../../lbpersist-packet/tests/random/reading.rs"]
mod reading;

libfuzzer_sys::fuzz_target!(|frame: &[u8]| {
    // Memory of exactly that size, so that the sanitizer sees a byte beyond.
    let mut frame: Box<[u8]> = frame.into();
    reading::everything(&mut frame);
});
