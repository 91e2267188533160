//! The daemon's end: a Unix socket that only root may open, one JSON object a line in both directions.
//!
//! A request is bounded in size, a connection in the time it may say nothing, and their number too. What is no action is answered
//! with why, and the connection goes on; what is too long ends it.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::{Action, LARGEST_REQUEST, Outcome};

/// Connections at a time; others wait to be accepted.
const CONNECTIONS: usize = 16;

/// How long a connection may say nothing, and how long it may take to read an answer.
const SILENCE: Duration = Duration::from_secs(60);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody answers there.
    #[error(
        "another lbpersist listens on {}; give this one a --socket of its own", .0.display()
    )]
    InUse(PathBuf),
    /// The file system is against it.
    #[error("cannot make the socket {}: {source}{}", path.display(), remedy(source))]
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What helps, where that is known.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; this needs root, or --socket in a directory of this user's"
        }
        _ => "",
    }
}

/// An action, and where its outcome goes.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub action: Action,
    /// Who asked; gone when it did not wait.
    pub reply: oneshot::Sender<Outcome>,
}

/// The socket, served until this is dropped, which also removes it.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    inode: u64,
    task: JoinHandle<()>,
}

impl Listener {
    /// Makes the socket and hands what comes over it to `requests`. A socket that nobody listens on any more is replaced.
    pub fn start(path: &Path, requests: mpsc::Sender<Request>) -> Result<Self, Error> {
        let failed = |source| Error::Failed { path: path.to_owned(), source };
        let listener = bind(path)?;
        let inode = fs::metadata(path).map_err(failed)?.ino();
        let task = tokio::spawn(serve(listener, requests));
        Ok(Self { path: path.to_owned(), inode, task })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
        // Not one that somebody has put there since.
        if fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Failed { path: path.to_owned(), source };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(directory).map_err(failed)?;
    // Between looking whether somebody listens and taking the place, nobody else may do the same.
    let turn = File::open(directory).map_err(failed)?;
    turn.lock().map_err(failed)?;
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(Error::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => refuse_others(path)?,
        Err(source) => return Err(failed(source)),
    }
    // Nobody finds it before its mode is right.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let _ = fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    fs::set_permissions(&hidden, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&hidden, path))
        .map_err(|source| {
            let _ = fs::remove_file(&hidden);
            failed(source)
        })?;
    Ok(listener)
}

/// Only a socket is replaced; connecting to any other file is refused as well.
fn refuse_others(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt as _;
    let failed = |source| Error::Failed { path: path.to_owned(), source };
    if fs::symlink_metadata(path).map_err(failed)?.file_type().is_socket() {
        return Ok(());
    }
    Err(failed(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket")))
}

async fn serve(listener: UnixListener, requests: mpsc::Sender<Request>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, requests).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                // Out of descriptors: they do not come back at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers one connection's requests, one after the other.
async fn converse(stream: UnixStream, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(LARGEST_REQUEST + 1);
        timeout(SILENCE, bounded.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        let too_long = line.len() as u64 > LARGEST_REQUEST;
        let outcome = if too_long {
            Outcome::refused(format!("a request may have {LARGEST_REQUEST} bytes and no more"))
        } else {
            match serde_json::from_slice(&line) {
                Ok(action) => ask(action, &requests).await,
                Err(error) => Outcome::refused(format!("this is no action: {error}")),
            }
        };
        let mut answer = serde_json::to_vec(&outcome)?;
        answer.push(b'\n');
        timeout(SILENCE, write.write_all(&answer)).await??;
        if too_long {
            return Ok(());
        }
    }
}

async fn ask(action: Action, requests: &mpsc::Sender<Request>) -> Outcome {
    let (reply, outcome) = oneshot::channel();
    if requests.send(Request { action, reply }).await.is_err() {
        return Outcome::failed("the daemon is stopping");
    }
    outcome.await.unwrap_or_else(|_| Outcome::failed("the daemon is stopping"))
}
