//! Running other programs: bounded in time, and failing with the command and what it said.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Read as _, Seek as _, Write as _},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How long a command may take before it is killed.
const LIMIT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(2);

/// What a finished command said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command, as one line.
    pub command: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The standard output of a command that must have succeeded.
    pub fn success(self) -> Result<String> {
        match self.code {
            Some(0) => Ok(self.stdout),
            code => {
                let code = code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
                bail!("`{}` ended with {code}: {}", self.command, self.stderr.trim_end())
            }
        }
    }
}

/// Runs a command with nothing on its standard input, and waits for it.
pub fn run(command: &mut Command) -> Result<Finished> {
    run_with_input(command, "")
}

/// The same of a command that may take as long as `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<Finished> {
    finish(command, "", limit)
}

/// Runs a command with `input` on its standard input, and waits for it.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Finished> {
    finish(command, input, LIMIT)
}

fn finish(command: &mut Command, input: &str, limit: Duration) -> Result<Finished> {
    let line = line_of(command);
    // Files, not pipes: a command that writes much never waits for us.
    let mut stdin = tempfile::tempfile()?;
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let stdout = tempfile::tempfile()?;
    let stderr = tempfile::tempfile()?;
    let mut child = command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone()?))
        .stderr(Stdio::from(stderr.try_clone()?))
        .spawn()
        .with_context(|| format!("`{line}` could not be started"))?;
    let Some(status) = wait_for(&mut child, limit)? else {
        child.kill()?;
        child.wait()?;
        bail!("`{line}` did not end within {limit:?}: {}", text_of(stderr)?.trim_end());
    };
    Ok(Finished {
        command: line,
        code: status.code(),
        stdout: text_of(stdout)?,
        stderr: text_of(stderr)?,
    })
}

/// Waits for a child, `None` when it is still running after `limit`.
pub fn wait_for(child: &mut std::process::Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn line_of(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        // Writing to a string cannot fail.
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

fn text_of(mut file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let finished = run(Command::new("sh").args(["-c", "echo wrong >&2; exit 3"])).unwrap();
        assert_eq!(finished.code, Some(3));
        let error = finished.success().unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo wrong >&2; exit 3` ended with 3: wrong");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert_eq!(error, "`no-such-program` could not be started");
    }

    #[test]
    fn input_and_output_pass() {
        let finished = run_with_input(&mut Command::new("cat"), "one\ntwo\n").unwrap();
        assert_eq!(finished.success().unwrap(), "one\ntwo\n");
    }
}
