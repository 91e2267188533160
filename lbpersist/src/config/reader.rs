//! Typed reading of TOML tables: every getter gives a value or reports, at its line, why there is none.

use std::{fmt, net::IpAddr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;
use toml_edit::{Item, Value};

use super::{
    address, duration,
    field::{At, Choices, Field, Found, Report, Shape},
    words::{hint, list, nearest, quoted, with_article},
};
use crate::model::{PortRange, Ports};

/// Fields that there were, by the kind of their table, and what is to be said instead.
const GONE: &[(&str, &str, &str)] = &[(
    "persistence_profile",
    "limit_counts_as_down",
    "`on_limit` of the pool tells what becomes of clients whose server is full: `spill` gives them another one, as `true` did, \
     `exceed` lets them through, as `false` did, and `reject` refuses them",
)];

/// A table being read.
pub(super) struct Table<'r, 't, 'd> {
    pub(super) report: &'r mut Report<'t>,
    found: Found<'d>,
}

impl<'r, 't, 'd> Table<'r, 't, 'd> {
    /// Begins to read a table: unknown and missing fields are reported here. `owner` is what the messages say the table
    /// belongs to, such as " of pool `web`".
    pub(super) fn open(
        report: &'r mut Report<'t>,
        found: Found<'d>,
        shape: &Shape,
        owner: &str,
    ) -> Self {
        let mut table = Self { report, found };
        let place = table.place(shape, owner);
        table.report_unknown(shape, &place);
        for &field in shape.required {
            if !found.items.contains_key(field) && !table.report.fragments {
                table.report.add(found.line, format!("missing field `{field}`{place}"));
            }
        }
        table
    }

    fn report_unknown(&mut self, shape: &Shape, place: &str) {
        let known: Vec<_> = shape.required.iter().chain(shape.optional).copied().collect();
        for (name, item) in self.found.items.iter() {
            if known.contains(&name) {
                continue;
            }
            let line = self.key_line(name, item);
            let field = quoted(name);
            let gone = GONE.iter().find(|(kind, gone, _)| *kind == shape.kind && *gone == name);
            let message = if let Some((_, _, instead)) = gone {
                format!("field {field}{place} is no longer a setting; {instead}")
            } else if shape.later.contains(&name) {
                format!("field {field}{place} is not available yet")
            } else {
                format!("unknown field {field}{place}{}", hint(name, &known))
            };
            self.report.add(line, message);
        }
    }

    fn place(&self, shape: &Shape, owner: &str) -> String {
        let label = self.found.items.get(shape.label).and_then(Item::as_str);
        match (shape.kind, label) {
            ("", _) => String::new(),
            (kind, Some(label)) => format!(" in {kind} {}{owner}", quoted(label)),
            (kind, None) => format!(" in {kind}{owner}"),
        }
    }

    fn key_line(&self, name: &str, item: &Item) -> usize {
        let key = self.found.items.key(name).and_then(toml_edit::Key::span);
        let key_line = key.map(|span| self.report.lines.line_of(span.start));
        key_line.or_else(|| self.report.line_of(item)).unwrap_or(self.found.line)
    }

    /// The line of a field, or of the table when it is absent.
    pub(super) fn line_of(&self, field: &'static str) -> usize {
        self.item(field).map_or(self.found.line, |item| item.line)
    }

    fn item(&self, field: &'static str) -> Option<At<&'d Item>> {
        let items = self.found.items;
        let item = items.get(field).filter(|item| !item.is_none())?;
        Some(At { line: self.key_line(field, item), value: item })
    }

    /// Reads a field by `take`; when that gives nothing, says what the field must be.
    pub(super) fn typed<T>(
        &mut self,
        field: &'static str,
        wanted: &str,
        take: impl FnOnce(&'d Item) -> Option<T>,
    ) -> Field<T> {
        let Some(At { line, value: item }) = self.item(field) else {
            return Field::Absent;
        };
        if let Some(value) = take(item) {
            return Field::Is(At { line, value });
        }
        let found = with_article(item.type_name());
        self.report.add(line, format!("`{field}` must be {wanted}, not {found}"));
        Field::Wrong
    }

    pub(super) fn text(&mut self, field: &'static str) -> Field<&'d str> {
        self.typed(field, "a string", Item::as_str)
    }

    /// A name that others may refer to.
    pub(super) fn name(&mut self, field: &'static str) -> Field<String> {
        let field_text = self.text(field);
        self.refine(field_text, |text| match check_name(text) {
            Ok(()) => Ok(text.to_owned()),
            Err(why) => Err(format!("`{field}` {why}")),
        })
    }

    pub(super) fn address(&mut self, field: &'static str) -> Field<IpAddr> {
        let text = self.text(field);
        self.refine(text, |text| address::parse(text).map_err(|why| format!("`{field}` {why}")))
    }

    /// An address or a prefix.
    pub(super) fn addresses(&mut self, field: &'static str) -> Field<IpNet> {
        let text = self.text(field);
        self.refine(text, |text| {
            address::parse_prefix(text).map_err(|why| format!("`{field}` {why}"))
        })
    }

    /// A port, or `"all"`.
    pub(super) fn ports(&mut self, field: &'static str) -> Field<Ports> {
        const WANTED: &str = "an integer from 1 to 65535 or \"all\"";
        let found = self.typed(field, WANTED, |item| {
            item.as_integer().map(Ok).or_else(|| item.as_str().map(Err))
        });
        self.refine(found, |found| match found {
            Ok(number) => {
                let port = u16::try_from(number).ok().filter(|&port| port != 0);
                port.map(Ports::One)
                    .ok_or_else(|| format!("`{field}` must be {WANTED}, not {number}"))
            }
            Err("all") => Ok(Ports::All),
            Err(text) => Err(format!("`{field}` must be {WANTED}, not {}", quoted(text))),
        })
    }

    /// Ports from one to another, written `"first-last"`.
    pub(super) fn port_range(&mut self, field: &'static str) -> Field<PortRange> {
        let text = self.text(field);
        self.refine(text, |text| {
            let ports = text.split_once('-').and_then(|(first, last)| {
                let [first, last] = [first, last].map(|port| port.trim().parse::<u16>().ok());
                Some(PortRange { first: first?, last: last? })
            });
            ports.filter(|ports| 0 < ports.first && ports.first <= ports.last).ok_or_else(|| {
                let found = quoted(text);
                format!("`{field}` must be two ports from 1 to 65535 with a `-` between, the lower first, not {found}")
            })
        })
    }

    pub(super) fn integer<T>(&mut self, field: &'static str, range: RangeInclusive<T>) -> Field<T>
    where
        T: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        let wanted = format!("an integer from {} to {}", range.start(), range.end());
        let integer = self.typed(field, &wanted, Item::as_integer);
        self.refine(integer, |number| {
            let fitting = T::try_from(number).ok().filter(|number| range.contains(number));
            fitting.ok_or_else(|| format!("`{field}` must be {wanted}, not {number}"))
        })
    }

    pub(super) fn boolean(&mut self, field: &'static str) -> Field<bool> {
        self.typed(field, "true or false", Item::as_bool)
    }

    pub(super) fn duration(
        &mut self,
        field: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Field<Duration> {
        let [from, to] = [*range.start(), *range.end()].map(duration::format);
        let wanted = match from.as_str() {
            "0" => format!("\"0\" or a duration up to {to}"),
            _ => format!("a duration from {from} to {to}"),
        };
        let item = self.typed(field, &wanted, |item| {
            item.as_str().map(Ok).or_else(|| item.as_integer().map(Err))
        });
        self.refine(item, |item| {
            let text = item.map_err(|number| {
                let example = number.unsigned_abs().max(1);
                format!("`{field}` must be {wanted}, not the number {number}; write a unit, as in \"{example}s\"")
            })?;
            let read = duration::parse(text)
                .map_err(|why| format!("`{field}` must be {wanted}, not {}, {why}", quoted(text)))?;
            let fitting = Some(read).filter(|read| range.contains(read));
            fitting.ok_or_else(|| format!("`{field}` must be {wanted}, not {text}"))
        })
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        field: &'static str,
        choices: &Choices<T>,
    ) -> Field<T> {
        let text = self.text(field);
        self.refine(text, |text| {
            if let Some((_, value)) = choices.allowed.iter().find(|(name, _)| *name == text) {
                return Ok(*value);
            }
            let names: Vec<_> = choices.allowed.iter().map(|(name, _)| *name).collect();
            if choices.later.contains(&text) {
                let names = list(&names, "and");
                return Err(format!(
                    "{field} `{text}` is not available yet; this version has {names}"
                ));
            }
            let every = names.iter().chain(choices.later).copied();
            let hint = nearest(text, every).map(|name| format!("; did you mean `{name}`?"));
            let (names, hint) = (list(&names, "or"), hint.unwrap_or_default());
            Err(format!("`{field}` must be {names}, not {}{hint}", quoted(text)))
        })
    }

    /// An array of strings; those elements that are none are reported and left out.
    pub(super) fn texts(&mut self, field: &'static str) -> Vec<At<String>> {
        let array = self.typed(field, "an array of strings", Item::as_array);
        let Some(At { line, value: array }) = array.known() else {
            return Vec::new();
        };
        let mut texts = Vec::new();
        for element in array {
            let line = self.value_line(element).unwrap_or(line);
            match element.as_str() {
                Some(text) => texts.push(At { line, value: text.to_owned() }),
                None => {
                    let found = with_article(element.type_name());
                    self.report.add(line, format!("`{field}` must hold strings only, not {found}"));
                }
            }
        }
        texts
    }

    /// A table that stands once.
    pub(super) fn table(&mut self, field: &'static str) -> Option<Found<'d>> {
        let wanted = format!("one table, written `[{field}]`");
        let table = self.typed(field, &wanted, Item::as_table_like).known()?;
        Some(Found { line: table.line, items: table.value })
    }

    /// Tables that stand any number of times, as `[[field]]` or in an array; nothing when the field is absent or wrong.
    pub(super) fn tables(&mut self, field: &'static str) -> Option<Vec<Found<'d>>> {
        let At { line, value: item } = self.item(field)?;
        match item {
            Item::ArrayOfTables(array) => {
                let lines = self.report.lines;
                let found = array.iter().map(|table| {
                    let line = table.span().map_or(line, |span| lines.line_of(span.start));
                    Found { line, items: table }
                });
                Some(found.collect())
            }
            Item::Value(Value::Array(array)) => {
                let mut found = Vec::new();
                for element in array {
                    let line = self.value_line(element).unwrap_or(line);
                    match element.as_inline_table() {
                        Some(table) => found.push(Found { line, items: table }),
                        None => {
                            let found = with_article(element.type_name());
                            let message = format!("`{field}` must hold tables only, not {found}");
                            self.report.add(line, message);
                        }
                    }
                }
                Some(found)
            }
            other => {
                let found = match other.as_table_like() {
                    Some(_) => format!("one table, `[{field}]`"),
                    None => with_article(other.type_name()),
                };
                let wanted = format!("tables, each written `[[{field}]]` or in an array");
                self.report.add(line, format!("`{field}` must be {wanted}, not {found}"));
                // What one table says is worth reading all the same.
                Some(vec![Found { line, items: other.as_table_like()? }])
            }
        }
    }

    /// Converts what was read, or reports why it cannot be.
    pub(super) fn refine<T, U>(
        &mut self,
        field: Field<T>,
        convert: impl FnOnce(T) -> Result<U, String>,
    ) -> Field<U> {
        let line = if let Field::Is(found) = &field { found.line } else { self.found.line };
        field.and_then(|value| match convert(value) {
            Ok(value) => Some(value),
            Err(message) => {
                self.report.add(line, message);
                None
            }
        })
    }

    fn value_line(&self, value: &Value) -> Option<usize> {
        value.span().map(|span| self.report.lines.line_of(span.start))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    const LONGEST: usize = lbpersist_common::layout::NAME_LENGTH;
    if name.is_empty() {
        Err("must not be empty".to_owned())
    } else if name.len() > LONGEST {
        Err(format!("must be at most {LONGEST} bytes long, not {}", name.len()))
    } else if name.chars().any(char::is_control) {
        Err(format!("must have no control characters, as {} has", quoted(name)))
    } else {
        Ok(())
    }
}
