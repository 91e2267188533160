//! From text to a TOML document, with as many syntax errors at once as there are.
//!
//! The parser tells only the first error. When there is one, the text is cut into statements, one a header or a key
//! with all its lines, each is parsed alone, and those that fail are blanked out, so that the rest can still be read.

use std::ops::Range;

use toml_edit::{Document, Table, TomlError};

use super::{Problem, words::quoted};

/// Duplicate keys and tables show only in the whole document, one in each attempt.
const ATTEMPTS: usize = 64;

/// Where the lines of a text begin.
pub(super) struct Lines {
    ends: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        Self { ends: text.match_indices('\n').map(|(place, _)| place).collect() }
    }

    /// The line of a byte, from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.ends.partition_point(|&end| end < offset) + 1
    }
}

/// What could be read of a text, and what could not.
pub(super) struct Syntax {
    /// The statements without the wrong ones; offsets are those of the text.
    pub(super) document: Table,
    /// What is no TOML.
    pub(super) problems: Vec<Problem>,
}

pub(super) fn read(text: &str, lines: &Lines) -> Syntax {
    if let Ok(document) = Document::parse(text) {
        return Syntax { document: document.into_table(), problems: Vec::new() };
    }
    let mut statements = Statements::of(text);
    let mut problems = Vec::new();
    for number in 0..statements.ranges.len() {
        let range = statements.ranges[number].clone();
        if let Err(error) = Document::parse(&text[range.clone()]) {
            problems.push(problem(&error, text, &range, lines));
            statements.blank(number);
        }
    }
    for _ in 0..ATTEMPTS {
        let error = match Document::parse(statements.text()) {
            Ok(document) => {
                let document = document.into_table();
                return Syntax { document, problems };
            }
            Err(error) => error,
        };
        problems.push(problem(&error, text, &(0..text.len()), lines));
        let offset = error.span().map_or(text.len(), |span| span.start);
        if !statements.blank(statements.at(offset)) {
            break;
        }
    }
    Syntax { document: Table::new(), problems }
}

fn problem(error: &TomlError, text: &str, range: &Range<usize>, lines: &Lines) -> Problem {
    let span = error.span().unwrap_or(0..0);
    // What is missing at the end is missing behind the last word, not on the blank lines below it.
    let last = range.start + text[range.clone()].trim_end().len();
    let offset = (range.start + span.start).min(last);
    let message = match error.message() {
        "duplicate key" => {
            let key = text[range.clone()].get(span).unwrap_or_default();
            format!("{} is there twice", quoted(key))
        }
        message => format!("not TOML: {}", message.replace('\n', " ")),
    };
    Problem { line: lines.line_of(offset), message }
}

/// A text as statements that can be blanked out.
struct Statements {
    /// They follow each other without a gap.
    ranges: Vec<Range<usize>>,
    blank: Vec<bool>,
    bytes: Vec<u8>,
}

impl Statements {
    fn of(text: &str) -> Self {
        let mut starts = vec![0];
        let mut offset = 0;
        for line in text.split_inclusive('\n') {
            if offset > 0 && begins_statement(line) {
                starts.push(offset);
            }
            offset += line.len();
        }
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        let ranges: Vec<_> =
            starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect();
        Self { blank: vec![false; ranges.len()], ranges, bytes: text.as_bytes().to_vec() }
    }

    /// The number of the statement that holds a byte.
    fn at(&self, offset: usize) -> usize {
        self.ranges.partition_point(|range| range.end <= offset).min(self.ranges.len() - 1)
    }

    /// Blanks a statement out; a header takes what stands under it along, lest it fall to the table above. False
    /// when it was blank already.
    fn blank(&mut self, number: usize) -> bool {
        if self.blank[number] {
            return false;
        }
        let is_header = self.is_header(number);
        self.clear(number);
        let mut next = number + 1;
        while is_header && next < self.ranges.len() && !self.is_header(next) {
            self.clear(next);
            next += 1;
        }
        true
    }

    fn is_header(&self, number: usize) -> bool {
        self.bytes.get(self.ranges[number].start) == Some(&b'[')
    }

    fn clear(&mut self, number: usize) {
        self.blank[number] = true;
        for byte in &mut self.bytes[self.ranges[number].clone()] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Whether a line is the first of a statement: what is indented, or begins with what ends or continues an array, is not.
fn begins_statement(line: &str) -> bool {
    !line.starts_with(|c: char| c.is_whitespace() || "]}{\"'#,".contains(c))
}
