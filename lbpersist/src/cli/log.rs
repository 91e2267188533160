//! The daemon's log, on standard error.

use std::io::IsTerminal as _;

use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Parts that would tell of every client that breaks the rules: what comes of that is counted.
const QUIET: [&str; 2] = ["h2", "hyper"];

/// What is logged, and how.
#[derive(Args, Clone, Debug)]
pub struct Log {
    /// How the log is written
    #[arg(long, value_name = "FORMAT", value_enum, env = "LBPERSIST_LOG_FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or such a level for a part, as in `info,lbpersist::health=debug`
    #[arg(long, value_name = "LEVEL", env = "LBPERSIST_LOG", default_value = "info", value_parser = parse_filter)]
    pub log_level: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line: `timestamp`, `level`, `message`, and what belongs to it.
    Json,
}

impl Log {
    /// Starts the log of this process.
    pub(super) fn start(&self) {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter(&self.log_level).unwrap_or_default())
            .with_target(false)
            .with_writer(std::io::stderr);
        match self.log_format {
            LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
            LogFormat::Json => builder.json().flatten_event(true).init(),
        }
    }
}

fn filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let mut filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse(text)?;
    for part in QUIET {
        if !text.split(',').any(|directive| names(directive, part)) {
            filter = filter.add_directive(format!("{part}=error").parse()?);
        }
    }
    Ok(filter)
}

/// Whether a directive is for that part of the program, or for everything in it at once.
fn names(directive: &str, part: &str) -> bool {
    let rest = directive.strip_prefix(part);
    directive == "off"
        || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':', '[']))
}

fn parse_filter(text: &str) -> Result<String, String> {
    match filter(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("it must be a level such as debug, or levels by part: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        for good in ["debug", "info,lbpersist::health=trace", "off", ""] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["lbpersist=loud", "info,=="] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_that_tell_of_every_client_are_quiet_unless_they_are_named() {
        for (text, named) in [
            ("", [false, false]),
            ("info", [false, false]),
            ("debug,lbpersist::health=trace", [false, false]),
            ("info,h2=debug", [true, false]),
            ("info,h2::proto=warn,hyper", [true, true]),
            ("h2x=debug", [false, false]),
            ("off", [true, true]),
        ] {
            let filter = filter(text).unwrap().to_string();
            assert_eq!(filter.contains("info"), text.is_empty() || text.contains("info"), "{text}");
            for (part, named) in QUIET.iter().zip(named) {
                let is_quiet = filter.contains(&format!("{part}=error"));
                assert_eq!(is_quiet, !named, "{text}: {filter}");
            }
        }
    }
}
