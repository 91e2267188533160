//! What reading works on and gives: reports, shapes of tables, values with their lines.

use toml_edit::{Item, Table, TableLike};

use super::{Problem, syntax::Lines};

/// The problems found so far.
pub(super) struct Report<'t> {
    pub(super) lines: &'t Lines,
    problems: Vec<Problem>,
    /// Parts of the text were left out, so what is missing may have been among them.
    pub(super) fragments: bool,
}

impl<'t> Report<'t> {
    pub(super) fn new(lines: &'t Lines) -> Self {
        Self { lines, problems: Vec::new(), fragments: false }
    }

    /// A report on what is left of a text with syntax errors: missing fields are not reported.
    pub(super) fn of_fragments(lines: &'t Lines, problems: Vec<Problem>) -> Self {
        Self { lines, problems, fragments: true }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) fn add(&mut self, line: usize, message: impl Into<String>) {
        self.problems.push(Problem { line, message: message.into() });
    }

    pub(super) fn line_of(&self, item: &Item) -> Option<usize> {
        item.span().map(|span| self.lines.line_of(span.start))
    }
}

/// What a kind of table may hold.
pub(super) struct Shape {
    /// As it is written in the file.
    pub(super) kind: &'static str,
    /// The field that tells one table of the kind from another in messages.
    pub(super) label: &'static str,
    pub(super) required: &'static [&'static str],
    pub(super) optional: &'static [&'static str],
    /// Fields that are refused as not available yet.
    pub(super) later: &'static [&'static str],
}

/// What a field may say.
pub(super) struct Choices<T: 'static> {
    pub(super) allowed: &'static [(&'static str, T)],
    /// Refused as not available yet.
    pub(super) later: &'static [&'static str],
}

/// A value and the line it is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// What a getter found.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<T> {
    Absent,
    /// It is there but wrong, and has been reported.
    Wrong,
    Is(At<T>),
}

impl<T> Field<T> {
    /// The value, if there is a good one.
    pub(super) fn known(self) -> Option<At<T>> {
        match self {
            Self::Is(found) => Some(found),
            Self::Absent | Self::Wrong => None,
        }
    }

    /// The value, or the default when the file is silent; nothing when it is wrong.
    pub(super) fn or_default(self, default: T) -> Option<T> {
        match self {
            Self::Is(found) => Some(found.value),
            Self::Absent => Some(default),
            Self::Wrong => None,
        }
    }

    /// The value, or else the default: for what nothing is checked against.
    pub(super) fn or(self, default: T) -> T {
        self.known().map_or(default, |found| found.value)
    }

    pub(super) fn and_then<U>(self, convert: impl FnOnce(T) -> Option<U>) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Wrong => Field::Wrong,
            Self::Is(At { line, value }) => {
                convert(value).map_or(Field::Wrong, |value| Field::Is(At { line, value }))
            }
        }
    }
}

/// A table of the document.
#[derive(Clone, Copy)]
pub(super) struct Found<'d> {
    pub(super) line: usize,
    pub(super) items: &'d dyn TableLike,
}

impl<'d> Found<'d> {
    pub(super) fn root(table: &'d Table) -> Self {
        Self { line: 1, items: table }
    }
}
