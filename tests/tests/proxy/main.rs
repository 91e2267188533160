//! Services of mode `http` and `tcp`, from outside: bytes in, bytes out, and what servers see of it.

mod errors;
mod limits;
mod raw;
mod reload;
mod setup;
mod shared;
mod streams;
mod versions;
