//! Durations as the file writes them: `8s`, `1h30m`, `0`.

use std::time::Duration;

/// Unit and its length in milliseconds, from large to small.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration. The error says what is wrong with the text, to be put behind what the field must be.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut allowed = &UNITS[..];
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = split_at_non_digit(rest);
        if number.is_empty() {
            return Err("which is no number followed by a unit".to_owned());
        }
        let (unit, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        if unit.is_empty() && after.is_empty() {
            return Err(format!("which has no unit; write \"{number}s\" for seconds"));
        }
        let Some(place) = allowed.iter().position(|(name, _)| *name == unit) else {
            return Err(wrong_unit(unit));
        };
        let milliseconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(allowed[place].1));
        total = milliseconds.and_then(|ms| total.checked_add(ms)).ok_or("which is too long")?;
        allowed = &allowed[place + 1..];
        rest = after;
    }
    if text.is_empty() {
        Err("which is empty".to_owned())
    } else {
        Ok(Duration::from_millis(total))
    }
}

/// Writes a duration as the file may have it, `1h30m`; what is shorter than a millisecond is left out.
pub fn format(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (unit, milliseconds) in UNITS {
        if rest >= milliseconds {
            out.push_str(&format!("{}{unit}", rest / milliseconds));
            rest %= milliseconds;
        }
    }
    if out.is_empty() { "0".to_owned() } else { out }
}

fn split_at_non_digit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn wrong_unit(unit: &str) -> String {
    if unit.is_empty() {
        "which is no whole number followed by a unit".to_owned()
    } else if UNITS.iter().any(|(name, _)| *name == unit) {
        "whose units do not go from large to small".to_owned()
    } else {
        format!("whose unit `{unit}` is none of `d`, `h`, `m`, `s` and `ms`")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("8s", 8000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("1h30m", 5_400_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("90m", 5_400_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_explained() {
        for (text, why) in [
            ("", "which is empty"),
            ("5", "which has no unit; write \"5s\" for seconds"),
            ("1h30", "which has no unit; write \"30s\" for seconds"),
            ("-5s", "which is no number followed by a unit"),
            ("s", "which is no number followed by a unit"),
            ("1.5s", "which is no whole number followed by a unit"),
            ("5 m", "which is no whole number followed by a unit"),
            ("5w", "whose unit `w` is none of `d`, `h`, `m`, `s` and `ms`"),
            ("5M", "whose unit `M` is none of `d`, `h`, `m`, `s` and `ms`"),
            ("30m1h", "whose units do not go from large to small"),
            ("1s1s", "whose units do not go from large to small"),
            ("99999999999999999999s", "which is too long"),
            ("18446744073709551615d", "which is too long"),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(milliseconds in any::<u64>()) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
