//! Methods of keeping clients that the daemon carries out, for services of mode `http`.
//!
//! [`Keeper`] makes a [`Keeping`] for each service, which the proxy asks for every request; a [`Session`] sees its answer.
//! `cookie` is what a client carries and `token` seals what it says, `state` keeps keys, `header` reads requests, `table`
//! holds entries of application cookies, `entries` asks for those by address, `roster` knows servers. No sockets, and no
//! time but what is given in; only guards that end with a request look at the clock.

pub mod breaks;
mod census;
mod cookie;
pub mod count;
pub mod entries;
pub mod header;
mod keeper;
mod keeping;
mod memory;
mod request;
mod roster;
mod session;
pub mod state;
pub mod table;
pub mod token;

#[cfg(test)]
mod tests;

pub use census::Census;
pub use entries::Tenure;
pub use keeper::Keeper;
pub use keeping::{Decision, Keeping};
pub use memory::Memory;
pub use request::{Choice, Condition, Now, Outcome, Request};
pub use session::Session;
