//! What outlives a reboot: ids, what was said by hand, cookie keys and names, and a snapshot of the entries if that is wanted.
//!
//! Nothing here stops the daemon. What cannot be written waits, is told of once in the log and as long as it lasts in `status`, and
//! is tried again. While the maps are pinned they know better, and what is here is not looked at.

mod database;
mod kernel;
pub mod snapshot;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::kernel::Kernel;
use self::{database::Database, snapshot::Snapshot};
use crate::persistence::state::{self, State};

const KERNEL: &str = "kernel";
const COOKIES: &str = "cookies";
const SNAPSHOT: &str = "snapshot";

/// The longest file of cookies of an earlier version that is read.
const LONGEST_COOKIES: u64 = 64 << 20;

/// How long a write that failed rests before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// The state, shared by all who keep something in it.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    directory: PathBuf,
    database: Mutex<Database>,
    notes: Mutex<Notes>,
}

/// What is to be written, and how it went.
#[derive(Default)]
struct Notes {
    kernel: Option<Vec<u8>>,
    cookies: Option<Zeroizing<Vec<u8>>>,
    saved: Option<u64>,
    entries: Option<u64>,
    problem: Option<String>,
    tried: Option<Instant>,
}

/// How the store does, for `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The file.
    pub path: PathBuf,
    /// Why something could not be read or written, as long as that lasts.
    pub problem: Option<String>,
    /// When ids or cookie keys were last written by this daemon, seconds since 1970.
    pub saved: Option<u64>,
    /// The same of the snapshot of entries.
    pub snapshot: Option<u64>,
}

impl Store {
    /// The store in `directory`, which is touched when something is read or written.
    pub fn new(directory: &Path) -> Self {
        let database = Mutex::new(Database::new(directory));
        let notes = Mutex::default();
        Self(Arc::new(Shared { directory: directory.to_owned(), database, notes }))
    }

    /// What is known of the maps that a reboot took away.
    pub fn kernel(&self) -> Option<Kernel> {
        let bytes = self.read(KERNEL)?;
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|error| {
            tracing::error!(%error, "the ids in the state cannot be read; they begin anew");
        })
        .ok()
    }

    /// Has `kernel` written by the next [`Self::flush`].
    pub fn note_kernel(&self, kernel: &Kernel) {
        match serde_json::to_vec(kernel) {
            Ok(bytes) => self.notes().kernel = Some(bytes),
            Err(error) => tracing::error!(%error, "ids cannot be kept"),
        }
    }

    /// Whether something waits that may be tried now.
    pub fn is_due(&self) -> bool {
        let notes = self.notes();
        let waits = notes.kernel.is_some() || notes.cookies.is_some();
        waits && notes.tried.is_none_or(|tried| tried.elapsed() >= RETRY)
    }

    /// Writes what was noted. It takes as long as the disk takes.
    pub fn flush(&self) {
        let mut database = self.database();
        let (kernel, cookies) = {
            let mut notes = self.notes();
            notes.tried = Some(Instant::now());
            (notes.kernel.take(), notes.cookies.take())
        };
        let mut values: Vec<(&str, &[u8])> = Vec::new();
        values.extend(kernel.as_ref().map(|bytes| (KERNEL, bytes.as_slice())));
        values.extend(cookies.as_ref().map(|bytes| (COOKIES, bytes.as_slice())));
        if values.is_empty() {
            return;
        }
        let written = database.write(&values);
        let with_cookies = cookies.is_some();
        let mut notes = self.notes();
        if written.is_ok() {
            notes.saved = Some(unix_s());
            notes.tried = None;
        } else {
            // Unless something newer was noted meanwhile.
            notes.kernel = notes.kernel.take().or(kernel);
            notes.cookies = notes.cookies.take().or(cookies);
        }
        drop(notes);
        self.note(&written, "write");
        if written.is_ok() && with_cookies {
            self.drop_old_cookies();
        }
    }

    /// Keeps a snapshot instead of the last one.
    pub fn keep_snapshot(&self, snapshot: &Snapshot) {
        let (head, parts) = snapshot.write();
        let written = self.database().write_entries((SNAPSHOT, &head), &parts);
        if written.is_ok() {
            self.notes().entries = Some(unix_s());
        }
        self.note(&written, "write");
    }

    /// The snapshot that was kept last.
    pub fn snapshot(&self) -> Option<Snapshot> {
        let head = self.read(SNAPSHOT)?;
        let parts = self.database().read_entries();
        self.note(&parts, "read");
        Snapshot::read(&head, &parts.ok()?)
    }

    /// How it does.
    pub fn status(&self) -> StoreStatus {
        let notes = self.notes();
        StoreStatus {
            path: self.0.directory.join("state.redb"),
            problem: notes.problem.clone(),
            saved: notes.saved,
            snapshot: notes.entries,
        }
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let read = self.database().read(name);
        self.note(&read, "read");
        read.ok().flatten()
    }

    /// Says in the log when trouble begins and when it ends.
    fn note<T>(&self, result: &Result<T, database::Error>, action: &str) {
        let mut notes = self.notes();
        let path = self.0.directory.join("state.redb");
        let file = path.display();
        match result {
            Ok(_) if notes.kernel.is_some() || notes.cookies.is_some() => {}
            Ok(_) => {
                if notes.problem.take().is_some() {
                    tracing::info!(%file, "the state is kept again");
                }
            }
            Err(error) => {
                let problem = format!("cannot {action} {file}: {error}");
                if notes.problem.as_ref() != Some(&problem) {
                    tracing::error!("{problem}; the daemon goes on and tries again");
                }
                notes.problem = Some(problem);
            }
        }
    }

    /// The file of an earlier version, before there was a database.
    fn old_cookies(&self) -> PathBuf {
        self.0.directory.join("cookies")
    }

    fn load_old_cookies(&self) -> Option<State> {
        let path = self.old_cookies();
        let length = match fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(_) => return None,
        };
        let read = if length > LONGEST_COOKIES {
            Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too long"))
        } else {
            fs::read(&path).map(Zeroizing::new)
        };
        let state =
            read.map(|bytes| std::str::from_utf8(&bytes).ok().and_then(|t| State::read(t).ok()));
        match state {
            Ok(Some(state)) => {
                tracing::info!(file = %path.display(), "cookie keys are taken over");
                Some(state)
            }
            Ok(None) => {
                let aside = self.0.directory.join("cookies.damaged");
                let moved = fs::rename(&path, &aside);
                tracing::error!(file = %path.display(), ?moved, "damaged and set aside; cookies begin anew");
                None
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "cannot be read; cookies begin anew");
                None
            }
        }
    }

    fn drop_old_cookies(&self) {
        match fs::remove_file(self.old_cookies()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %self.old_cookies().display(), "cannot be removed");
            }
            _ => {}
        }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.0.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl state::Store for Store {
    fn load(&self) -> Option<State> {
        let Some(bytes) = self.read(COOKIES).map(Zeroizing::new) else {
            return self.load_old_cookies();
        };
        let state = std::str::from_utf8(&bytes).ok().and_then(|text| State::read(text).ok());
        if state.is_none() {
            tracing::error!("the cookie keys in the state cannot be read; cookies begin anew");
        }
        state
    }

    fn save(&self, state: &State) {
        self.notes().cookies = Some(Zeroizing::new(state.write().as_bytes().to_vec()));
        self.flush();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Store").field(&self.0.directory).finish()
    }
}

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests;
