//! The `lbpersist` program: enters the library's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    lbpersist::cli::main(std::env::args_os())
}
