//! How messages quote, list and suggest.

/// Names further away than this many edits are not what was meant.
const FARTHEST: usize = 2;

/// What somebody wrote, in backticks, with nothing in it that would break the line.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut out = String::from("`");
    for (place, character) in text.chars().enumerate() {
        if place == LONGEST {
            out.push_str("...");
            break;
        }
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out.push('`');
    out
}

/// The known name that `text` comes nearest to, if any comes near.
pub(super) fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let text = text.to_lowercase();
    let farthest = FARTHEST.min(text.chars().count() / 2);
    known
        .into_iter()
        // The distance takes time in the product of the lengths; nobody mistypes that much.
        .filter(|name| name.len().abs_diff(text.len()) <= 4 * FARTHEST)
        .map(|name| (strsim::damerau_levenshtein(&text, &name.to_lowercase()), name))
        .filter(|&(distance, _)| distance <= farthest)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// `; did you mean ...?`, or what there is instead, for a name that is not known.
pub(super) fn hint(text: &str, known: &[&str]) -> String {
    match nearest(text, known.iter().copied()) {
        Some(name) => format!("; did you mean `{name}`?"),
        None => format!("; known are {}", list(known, "and")),
    }
}

/// `a`, `b` and `c`.
pub(super) fn list(names: &[&str], last: &str) -> String {
    match names {
        [] => "none".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., end] => {
            let first: Vec<_> = first.iter().map(|name| format!("`{name}`")).collect();
            format!("{} {last} `{end}`", first.join(", "))
        }
    }
}

/// `a string`, `an integer`.
pub(super) fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_stays_on_its_line() {
        assert_eq!(quoted("wéb"), "`wéb`");
        assert_eq!(quoted("a\nb\u{1b}"), "`a\\nb\\u{1b}`");
        assert_eq!(quoted(&"x".repeat(100)), format!("`{}...`", "x".repeat(80)));
    }

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["address", "port", "protocol"];
        for (text, expected) in [
            ("adress", Some("address")),
            ("prot", Some("port")),
            ("PORT", Some("port")),
            ("weight", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, known), expected, "{text}");
        }
    }

    #[test]
    fn lists_read_well() {
        assert_eq!(list(&["a"], "or"), "`a`");
        assert_eq!(list(&["a", "b", "c"], "or"), "`a`, `b` or `c`");
    }
}
