//! Sequences that once showed a disagreement, as short as they could be made.

use crate::events::Case;

/// What each shows, and what happens.
pub(crate) fn cases() -> Vec<(&'static str, Case)> {
    Vec::new()
}
