//! Whether a command says that a server does well.
//!
//! It runs without a shell, with nothing on its standard input, in `/`, as the daemon's user, and with a small environment.
//! It is the leader of a process group of its own, which is killed when its time is over.

use std::{
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe,
    process::{Child, Command},
    sync::Semaphore,
    time::timeout,
};

use super::Fault;
use crate::{
    health::{Target, sys},
    model::ExternalCheck,
};

/// So many commands run at a time; the others wait for their turn.
pub(super) const MOST_AT_ONCE: usize = 32;

/// As much of what a command writes is kept, in bytes; the rest is read and dropped.
const MOST_OUTPUT: usize = 4096;

/// As much of it is shown, in characters.
const MOST_SHOWN: usize = 300;

/// A command for one server.
#[derive(Debug)]
pub(in crate::health) struct Task {
    program: PathBuf,
    arguments: Vec<String>,
    environment: [(&'static str, String); 6],
}

impl Task {
    pub(super) fn new(check: &ExternalCheck, target: &Target) -> Self {
        let port = Some(target.address.port()).filter(|port| *port != 0);
        let environment = [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ("LC_ALL", "C".to_owned()),
            ("LBPERSIST_POOL", target.pool.clone()),
            ("LBPERSIST_MONITOR", target.monitor.name.clone()),
            ("LBPERSIST_SERVER_ADDRESS", target.address.ip().to_string()),
            ("LBPERSIST_SERVER_PORT", port.map_or_else(String::new, |port| port.to_string())),
        ];
        Self { program: check.program.clone(), arguments: check.arguments.clone(), environment }
    }

    /// Runs the command no longer than that. It passes with exit code 0.
    pub(super) async fn run(&self, limit: Duration, processes: &Semaphore) -> Result<(), Fault> {
        // It is never closed.
        let _turn = processes.acquire().await;
        let program = self.program.display();
        let (child, output) =
            self.start().map_err(|error| Fault::Own(format!("cannot run {program}: {error}")))?;
        let mut running = Group { child: Some(child) };
        let mut said = Vec::new();
        let ended = timeout(limit, running.wait(output, &mut said)).await;
        let said = in_one_line(&said);
        match ended {
            Err(_) => Err(Fault::Server(format!("{program} took longer than {limit:?}{said}"))),
            Ok(Err(error)) => Err(Fault::Own(format!("cannot wait for {program}: {error}"))),
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Fault::Server(format!("{program} ended with {status}{said}"))),
        }
    }

    fn start(&self) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        let reader = pipe::Receiver::from_owned_fd(reader.into())?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .spawn()?;
        Ok((child, reader))
    }
}

/// A command at work: if it has not been waited for when this is dropped, it is killed with all that it started.
struct Group {
    child: Option<Child>,
}

impl Group {
    /// Reads what the command writes until it ends. What it left running may hold the pipe, and is not waited for.
    async fn wait(
        &mut self,
        mut output: pipe::Receiver,
        said: &mut Vec<u8>,
    ) -> io::Result<ExitStatus> {
        let Some(child) = &mut self.child else { return Err(io::ErrorKind::NotFound.into()) };
        let mut buffer = [0; 1024];
        let mut is_open = true;
        let status = loop {
            tokio::select! {
                biased;
                read = output.read(&mut buffer), if is_open => match read {
                    Ok(length @ 1..) => keep(said, &buffer[..length]),
                    Ok(0) | Err(_) => is_open = false,
                },
                status = child.wait() => break status?,
            }
        };
        self.child = None;
        while let Ok(length @ 1..) = output.try_read(&mut buffer) {
            keep(said, &buffer[..length]);
            if said.len() == MOST_OUTPUT {
                break;
            }
        }
        Ok(status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Until it has been waited for its number is nobody else's. The runtime waits for it in the background.
        if let Some(leader) = self.child.as_ref().and_then(Child::id) {
            sys::kill_group(leader);
        }
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    let room = MOST_OUTPUT - said.len();
    said.extend_from_slice(&more[..more.len().min(room)]);
}

/// What a command wrote, to stand behind what became of it.
fn in_one_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        return String::new();
    }
    let printable = |character: char| if character.is_control() { '?' } else { character };
    let line: String = words.join(" ").chars().map(printable).take(MOST_SHOWN).collect();
    format!(": {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_one_line_that_cannot_do_harm() {
        assert_eq!(in_one_line(b" \n"), "");
        assert_eq!(in_one_line(b"no\n answer\x1b[2J\xff\n"), ": no answer?[2J\u{fffd}");
        assert_eq!(in_one_line(&[b'x'; 4000]).len(), 2 + MOST_SHOWN);
    }
}
