//! `lbpersist apply` and `lbpersist reload`: hand a configuration to the daemon, and print what comes of it.

use std::path::Path;

use super::{
    arguments::Output,
    commands::{Failure, print, print_json},
    server::{ask, unexpected},
};
use crate::{
    config,
    control::{Action, Moves, Outcome},
};

pub(super) fn file(
    socket: &Path,
    path: &Path,
    dry_run: bool,
    save: bool,
    output: Output,
) -> Result<(), Failure> {
    let text = config::read(path).map_err(|error| Failure::Input(error.to_string()))?;
    let name = path.display().to_string();
    show(ask(socket, &Action::Apply { name, text, dry_run, save })?, output)
}

pub(super) fn reload(socket: &Path, output: Output) -> Result<(), Failure> {
    show(ask(socket, &Action::Reload)?, output)
}

fn show(outcome: Outcome, output: Output) -> Result<(), Failure> {
    let Outcome::Applied { changes, warnings, moves } = outcome else {
        return Err(unexpected(&outcome));
    };
    if output == Output::Json {
        return print_json(&serde_json::json!({
            "dry_run": moves.is_some(),
            "changes": changes,
            "warnings": warnings,
            "moves": moves,
        }));
    }
    print(&text(&changes, &warnings, moves))
}

fn text(changes: &[String], warnings: &[String], moves: Option<Moves>) -> String {
    let mut text = String::new();
    for change in changes {
        text.push_str(&format!("{change}\n"));
    }
    for warning in warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    match moves {
        _ if changes.is_empty() => text.push_str("nothing changes\n"),
        Some(moves) => text.push_str(&format!("{moves}\n")),
        None => text.push_str("applied\n"),
    }
    text
}
