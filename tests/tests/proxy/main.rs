//! Services of mode `http` and `tcp`, from outside: bytes in, bytes out, and what servers see of it.

mod browser;
mod drain;
mod errors;
mod kept;
mod limits;
mod programs;
mod raw;
mod reload;
mod setup;
mod shared;
mod streams;
mod top;
mod versions;
