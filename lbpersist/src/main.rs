//! The `lbpersist` program: enters the library's command line.

use std::process::ExitCode;

/// The proxy makes and frees buffers for every request, and idle connections are to give theirs back to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    lbpersist::cli::main(std::env::args_os())
}
