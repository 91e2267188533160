//! What `status` says of the store.

use std::{path::Path, time::Duration};

use crate::{
    config::format_duration,
    control::{Action, Outcome, client},
    store::{StoreStatus, unix_s},
};

/// How long `status`, which needs no daemon, waits for one.
const PATIENCE: Duration = Duration::from_secs(2);

/// How the store of the daemon does, if there is one.
pub(super) fn known(socket: &Path) -> Option<StoreStatus> {
    match client::ask_within(socket, &Action::StoreShow, PATIENCE) {
        Ok(Outcome::Store { store }) => Some(store),
        Ok(_) | Err(_) => None,
    }
}

/// The line of `status` about it; nothing without a daemon.
pub(super) fn section(store: Option<&StoreStatus>) -> String {
    let Some(StoreStatus { path, problem, saved, snapshot }) = store else { return String::new() };
    let ago = |at: &u64| format_duration(Duration::from_secs(unix_s().saturating_sub(*at)));
    let mut text = format!("\nSTATE  {}", path.display());
    if let Some(saved) = saved {
        text.push_str(&format!(", written {} ago", ago(saved)));
    }
    if let Some(snapshot) = snapshot {
        text.push_str(&format!(", entries {} ago", ago(snapshot)));
    }
    if let Some(problem) = problem {
        text.push_str(&format!("; {problem}, and it is tried again"));
    }
    text.push('\n');
    text
}
