//! Methods of keeping clients that the daemon carries out.

pub mod table;
