//! Methods of keeping clients that the daemon carries out, for services of mode `http`.
//!
//! [`Keeper`] makes a [`Keeping`] for each service, which the proxy asks for every request. `token` seals what cookies say,
//! `state` keeps keys, `header` reads requests, `table` holds entries of application cookies,
//! `entries` asks for those by address, `roster` knows servers. No sockets, and no time but
//! what is given in; only guards that end with a request look at the clock.

pub mod breaks;
mod census;
pub mod entries;
pub mod header;
mod keeper;
pub mod keeping;
mod memory;
mod roster;
pub mod state;
pub mod table;
pub mod token;

#[cfg(test)]
mod tests;

pub use census::Census;
pub use entries::Tenure;
pub use keeper::Keeper;
pub use keeping::{Choice, Condition, Decision, Keeping, Now, Outcome, Request, Session};
pub use memory::Memory;
