//! Methods of keeping clients that the daemon carries out.

pub mod header;
pub mod table;
pub mod token;
