//! Choosing servers for new clients: pure arithmetic on members and weights.

pub mod maglev;
pub mod slow_start;
pub mod turns;
