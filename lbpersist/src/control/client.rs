//! The asking end of the socket, without a runtime.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Action, LARGEST_ANSWER, Outcome};

/// How long the daemon may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody is there.
    #[error("no daemon answers on {} (start `lbpersist run`, or name its --socket)", .0.display())]
    NoDaemon(PathBuf),
    /// The caller may not.
    #[error("this needs root: the socket {} belongs to it", .0.display())]
    NotPermitted(PathBuf),
    /// The conversation broke off.
    #[error("the daemon on {} does not answer: {source}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// Another version, or no lbpersist at all.
    #[error("the daemon on {} answers what this version does not understand: {detail}", path.display())]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        detail: serde_json::Error,
    },
}

/// Asks the daemon on `socket` and waits for what comes of it.
pub fn ask(socket: &Path, action: &Action) -> Result<Outcome, Error> {
    ask_within(socket, action, PATIENCE)
}

/// The same of a daemon that is not waited for longer than `patience`.
pub fn ask_within(socket: &Path, action: &Action, patience: Duration) -> Result<Outcome, Error> {
    let broken = |source| Error::Broken { path: socket.to_owned(), source };
    let stream = UnixStream::connect(socket).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::NoDaemon(socket.to_owned())
        }
        io::ErrorKind::PermissionDenied => Error::NotPermitted(socket.to_owned()),
        _ => broken(source),
    })?;
    let strange = |detail| Error::Strange { path: socket.to_owned(), detail };
    let mut request = serde_json::to_vec(action).map_err(strange)?;
    request.push(b'\n');
    let line = converse(stream, &request, patience).map_err(broken)?;
    serde_json::from_slice(&line).map_err(strange)
}

fn converse(mut stream: UnixStream, request: &[u8], patience: Duration) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(request)?;
    let mut line = Vec::new();
    BufReader::new(stream).take(LARGEST_ANSWER).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off"));
    }
    Ok(line)
}
