//! What the demo says, on a terminal or into a log: steps, tables, and claims that were seen or not.

use std::{env, fmt::Display, io::IsTerminal as _};

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[1;31m";
const BOLD: &str = "\x1b[1m";

/// A report in the making. It remembers what was claimed but not seen.
pub(crate) struct Report {
    coloured: bool,
    steps: u32,
    claims: u32,
    unseen: Vec<String>,
}

/// Whether something was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Yes,
    No,
}

impl From<bool> for Seen {
    fn from(seen: bool) -> Self {
        if seen { Self::Yes } else { Self::No }
    }
}

impl Report {
    pub(crate) fn new() -> Self {
        let coloured = std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { coloured, steps: 0, claims: 0, unseen: Vec::new() }
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: impl Display) {
        self.steps += 1;
        println!("\n{}", self.paint(BOLD, format!("{}. {title}", self.steps)));
    }

    /// Says that something was seen, or was not.
    pub(crate) fn claim(&mut self, seen: impl Into<Seen>, claim: impl Display) {
        self.claims += 1;
        if seen.into() == Seen::Yes {
            println!("   {} {claim}", self.paint(GREEN, "seen:"));
        } else {
            println!("   {} {claim}", self.paint(RED, "NOT SEEN:"));
            self.unseen.push(claim.to_string());
        }
    }

    /// Shows text as it is, set in.
    pub(crate) fn text(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("{}", format!("   {line}").trim_end());
        }
    }

    /// Shows how a long text begins.
    pub(crate) fn beginning(&self, text: &str, lines: usize) {
        let shown: Vec<_> = text.lines().take(lines).collect();
        self.text(&shown.join("\n"));
        let left = text.lines().count() - shown.len();
        if left > 0 {
            println!("   ({left} more lines)");
        }
    }

    /// Shows a table whose columns are as wide as they have to be.
    pub(crate) fn table(&self, heads: &[&str], rows: &[Vec<String>]) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(String::len);
            cells.chain(heads.get(column).map(|head| head.len())).max().unwrap_or(0)
        };
        let line = |cells: Vec<&str>| {
            let padded = cells
                .iter()
                .enumerate()
                .map(|(n, cell)| format!("{cell:<width$}", width = width(n)));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        println!("   {}", self.paint(BOLD, line(heads.to_vec())));
        for row in rows {
            println!("   {}", line(row.iter().map(String::as_str).collect()));
        }
    }

    /// Says whether all was seen.
    pub(crate) fn conclude(&self) -> Seen {
        let Self { claims, unseen, .. } = self;
        if unseen.is_empty() {
            println!("\n{}", self.paint(GREEN, format!("All {claims} claims were seen.")));
            return Seen::Yes;
        }
        let summary = format!("{} of {claims} claims were not seen:", unseen.len());
        println!("\n{}", self.paint(RED, summary));
        for claim in unseen {
            println!("   {claim}");
        }
        Seen::No
    }

    fn paint(&self, colour: &str, text: impl Display) -> String {
        if self.coloured { format!("{colour}{text}\x1b[0m") } else { text.to_string() }
    }
}
