//! Passes the output of a test run through and watches it: what was run, and what was skipped.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow};

/// What the output of test runs has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How many tests passed.
    pub(crate) passed: u64,
    /// Each `TEST: REASON` of those that skipped themselves.
    pub(crate) skipped: Vec<String>,
}

impl Seen {
    fn line(&mut self, line: &str) {
        if let Some(skipped) = skipped(line) {
            self.skipped.push(skipped.to_owned());
        }
        self.passed += passed(line).unwrap_or_default();
    }

    fn absorb(&mut self, other: Self) {
        self.passed += other.passed;
        self.skipped.extend(other.skipped);
    }
}

/// Runs the command with its output going where ours goes, and adds to `seen`.
pub(crate) fn watch(command: &mut Command, seen: &mut Seen) -> Result<ExitStatus> {
    follow(command, io::stdout(), io::stderr(), seen)
}

fn follow(
    command: &mut Command,
    out: impl Write,
    err: impl Write + Send + 'static,
    seen: &mut Seen,
) -> Result<ExitStatus> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().context("the child has no stdout")?;
    let stderr = child.stderr.take().context("the child has no stderr")?;
    let other = thread::spawn(move || pass_through(stderr, err));
    let first = pass_through(stdout, out);
    let status = child.wait().context("cannot wait for the tests")?;
    let second = other.join().map_err(|_| anyhow!("the reader of stderr panicked"))?;
    seen.absorb(first.context("cannot pass on the tests' output")?);
    seen.absorb(second.context("cannot pass on the tests' output")?);
    Ok(status)
}

/// Copies line by line; a line is flushed at once, so that a slow test shows where it is.
fn pass_through(from: impl Read, mut to: impl Write) -> io::Result<Seen> {
    let mut from = BufReader::new(from);
    let mut seen = Seen::default();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        seen.line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(seen)
}

/// What follows `SKIP`, at the start of a line or behind the test's name that libtest writes before it.
fn skipped(line: &str) -> Option<&str> {
    let said = match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... ")?.1,
        None => line,
    };
    said.strip_prefix("SKIP ")
}

/// The first number of `test result: ok. 3 passed; 0 failed; …`.
fn passed(line: &str) -> Option<u64> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    counts.split_once(" passed")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_passed_on_and_read() {
        let text = "running 2 tests\n\
                    SKIP ipv6: no IPv6 here\n\
                    test nat ... ok\n\
                    test vlan ... SKIP vlan: no root\n\
                    a line that says SKIP later\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored\n\
                    test result: FAILED. 40 passed; 1 failed";
        let mut copy = Vec::new();
        let seen = pass_through(text.as_bytes(), &mut copy).unwrap();
        assert_eq!(copy, text.as_bytes());
        let skipped = vec!["ipv6: no IPv6 here".to_owned(), "vlan: no root".to_owned()];
        assert_eq!(seen, Seen { passed: 42, skipped });
    }

    #[test]
    fn both_streams_and_the_exit_code_are_seen() {
        let mut seen = Seen::default();
        let script = "echo 'test result: ok. 1 passed;'; echo 'SKIP a: b' >&2; exit 3";
        // Not to our own output: the run that tests this is watched in the same way.
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let status = follow(&mut command, io::sink(), io::sink(), &mut seen).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(seen, Seen { passed: 1, skipped: vec!["a: b".to_owned()] });
    }
}
