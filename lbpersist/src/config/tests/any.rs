//! Text that nobody would write.

use proptest::prelude::*;

use super::EXAMPLE;
use crate::config::{describe, parse};

/// Pieces of the example file, so that mutations keep most of its sense.
fn pieces() -> Vec<&'static str> {
    EXAMPLE.split_inclusive(['\n', ' ', ',', '"', '=', '[', ']', '{', '}']).collect()
}

/// Whatever it says, it must say it of lines that are there.
fn parse_any(text: &str) -> Result<(), TestCaseError> {
    match parse(text) {
        Ok(model) => prop_assert!(!describe(&model).is_empty()),
        Err(problems) => {
            let last = text.matches('\n').count() + 1;
            let lines: Vec<_> = problems.iter().map(|problem| problem.line).collect();
            prop_assert!(!lines.is_empty() && lines.is_sorted());
            prop_assert!(lines.iter().all(|line| (1..=last).contains(line)), "{}", problems);
            prop_assert_eq!(problems.to_string().lines().count(), lines.len());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        parse_any(&text)?;
    }

    #[test]
    fn text_of_the_file_s_own_characters_never_panics(text in "[a-c\\[\\]{}=\"',.#0-9 \\n\\r]{0,200}") {
        parse_any(&text)?;
    }

    #[test]
    fn a_file_with_pieces_lost_doubled_or_replaced_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4), 1..8),
    ) {
        let mut text = pieces();
        for (place, other, edit) in edits {
            let place = place.index(text.len());
            let other = text[other.index(text.len())];
            match edit {
                0 => drop(text.remove(place)),
                1 => text.insert(place, text[place]),
                2 => text[place] = other,
                _ => text.insert(place, other),
            }
        }
        parse_any(&text.concat())?;
    }
}
