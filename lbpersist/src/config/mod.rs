//! The configuration file: TOML text in, a [`Model`] or every problem of the file out.
//!
//! `syntax` finds what is TOML, `read` reads each table through `reader`, `check` looks at what tables say about each
//! other, and `resolve` makes the model of what has passed. Nothing here looks at the machine: whether an interface is
//! there is for `network` to say. No input makes it panic.

mod address;
mod check;
mod describe;
mod duration;
mod field;
mod keeping;
mod monitor;
mod profile;
mod proxy;
mod raw;
mod read;
mod reader;
mod resolve;
mod syntax;
mod ways;
mod words;

#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

pub use describe::describe;
pub use duration::{format as format_duration, parse as parse_duration};

use crate::model::Model;
use field::Report;
use syntax::{Lines, Syntax};

/// Reads a configuration from its text.
pub fn parse(text: &str) -> Result<Model, Problems> {
    let lines = Lines::of(text);
    let Syntax { document, problems } = syntax::read(text, &lines);
    if !problems.is_empty() {
        // Lines that are no TOML may hold what tables now seem to lack, and what others refer to.
        let mut report = Report::of_fragments(&lines, problems);
        read::read(&document, &mut report);
        return Err(Problems::sorted(report.into_problems()));
    }
    let mut report = Report::new(&lines);
    let raw = read::read(&document, &mut report);
    let mut problems = report.into_problems();
    check::check(&raw, &mut problems);
    if problems.is_empty() { Ok(resolve::resolve(raw)) } else { Err(Problems::sorted(problems)) }
}

/// Reads a configuration file.
pub fn load(path: &Path) -> Result<Model, LoadError> {
    parse_named(path, &read(path)?)
}

/// Reads a configuration from its text; what is wrong with it is said as of the file `path`.
pub fn parse_named(path: &Path, text: &str) -> Result<Model, LoadError> {
    parse(text).map_err(|problems| LoadError::Wrong { path: path.to_owned(), problems })
}

/// The most bytes that are taken for a configuration; every server there can be fits.
const MOST_BYTES: u64 = 8 << 20;

/// The text of a configuration file.
pub fn read(path: &Path) -> Result<String, LoadError> {
    bounded(path).map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })
}

fn bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let length = fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if length as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("it has more than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(text)
}

/// Something wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line it is on, from 1.
    pub line: usize,
    /// A sentence without its full stop; never more than one line of text.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.message)
    }
}

/// Everything wrong with a configuration, in the order of the lines; at least one problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    fn sorted(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line);
        Self(problems)
    }

    /// The problems.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_lines(f, self.iter())
    }
}

impl std::error::Error for Problems {}

/// Why a configuration file gave no model.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read, or is not UTF-8.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file says what it should not. Shown as one line a problem, each with file and line.
    #[error("{}", Located { path, problems })]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problems: Problems,
    },
}

struct Located<'e> {
    path: &'e Path,
    problems: &'e Problems,
}

impl fmt::Display for Located<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write_lines(f, self.problems.iter().map(|problem| format!("{path}:{problem}")))
    }
}

fn write_lines<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    lines: impl Iterator<Item = T>,
) -> fmt::Result {
    for (place, line) in lines.enumerate() {
        if place > 0 {
            f.write_str("\n")?;
        }
        write!(f, "{line}")?;
    }
    Ok(())
}
