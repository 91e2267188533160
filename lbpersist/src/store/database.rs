//! The file: one redb database, opened when it is needed, and anew after every failure.
//!
//! redb writes whole transactions or nothing, so whatever ends in the middle of a write leaves the state before. What it cannot
//! read any more is set aside, never deleted.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{
    ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError, backends::FileBackend,
};

/// Small things by name.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");

/// The parts of a snapshot of entries, in order.
const ENTRIES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("entries");

/// Bytes of the file that are kept in memory; what is kept is small, or read once.
const CACHE: usize = 4 << 20;

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another process has it.
    #[error("another process uses it")]
    InUse,
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The file, wherever it is.
pub(super) struct Database {
    path: PathBuf,
    open: Option<redb::Database>,
    /// There was something in the file that could not be read: it must not be replaced by what begins anew without it.
    unread: bool,
}

impl Database {
    /// The file `state.redb` in `directory`; nothing is touched yet.
    pub(super) fn new(directory: &Path) -> Self {
        Self { path: directory.join("state.redb"), open: None, unread: false }
    }

    /// What is kept under `name`. Makes no file.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        if self.open.is_none() && !self.path.exists() {
            return Ok(None);
        }
        self.reading(|database| {
            let read = database.begin_read().map_err(other)?;
            let table = match read.open_table(STATE) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                table => table.map_err(other)?,
            };
            let found = table.get(name).map_err(other)?;
            Ok(found.map(|value| value.value().to_vec()))
        })
    }

    /// Keeps values under their names: all of them or, when that fails, none.
    pub(super) fn write(&mut self, values: &[(&str, &[u8])]) -> Result<(), Error> {
        self.writing(|database| {
            let write = database.begin_write().map_err(other)?;
            {
                let mut table = write.open_table(STATE).map_err(other)?;
                for (name, value) in values {
                    table.insert(*name, *value).map_err(other)?;
                }
            }
            write.commit().map_err(other)
        })
    }

    /// Replaces the entries, and one value with them.
    pub(super) fn write_entries(
        &mut self,
        (name, value): (&str, &[u8]),
        parts: &[Vec<u8>],
    ) -> Result<(), Error> {
        self.writing(|database| {
            let write = database.begin_write().map_err(other)?;
            write.delete_table(ENTRIES).map_err(other)?;
            {
                let mut table = write.open_table(ENTRIES).map_err(other)?;
                for (number, part) in (0..).zip(parts) {
                    table.insert(number, part.as_slice()).map_err(other)?;
                }
                let mut table = write.open_table(STATE).map_err(other)?;
                table.insert(name, value).map_err(other)?;
            }
            write.commit().map_err(other)
        })
    }

    /// The parts of the entries.
    pub(super) fn read_entries(&mut self) -> Result<Vec<Vec<u8>>, Error> {
        if self.open.is_none() && !self.path.exists() {
            return Ok(Vec::new());
        }
        self.reading(|database| {
            let read = database.begin_read().map_err(other)?;
            let table = match read.open_table(ENTRIES) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table.map_err(other)?,
            };
            let parts = table.iter().map_err(other)?;
            parts.map(|part| part.map(|(_, part)| part.value().to_vec()).map_err(other)).collect()
        })
    }

    /// As [`with`](Self::with), noting when the file has something that stays unknown.
    fn reading<T>(
        &mut self,
        act: impl FnOnce(&redb::Database) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let has_something = fs::metadata(&self.path).is_ok_and(|file| file.len() > 0);
        let result = self.with(act);
        self.unread |= result.is_err() && has_something;
        result
    }

    /// As [`with`](Self::with), if nothing is lost by it.
    fn writing<T>(
        &mut self,
        act: impl FnOnce(&redb::Database) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if self.unread && self.path.exists() {
            return Err(Error::Other(
                "what is in it could not be read at the start and is not overwritten; restart the daemon when it can be"
                    .to_owned(),
            ));
        }
        self.with(act)
    }

    /// Does something with the open file. After a failure the file is closed, since redb refuses everything from then on.
    fn with<T>(
        &mut self,
        act: impl FnOnce(&redb::Database) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let database = match self.open.take() {
            Some(database) => database,
            None => self.open_or_set_aside()?,
        };
        let result = guarded(|| act(&database));
        if result.is_ok() {
            self.open = Some(database);
        } else {
            // Closing it may meet the same trouble.
            let _ = guarded(|| {
                drop(database);
                Ok(())
            });
        }
        result
    }

    fn open_or_set_aside(&self) -> Result<redb::Database, Error> {
        let Err(Error::Damaged(why)) = self.try_open() else { return self.try_open() };
        let aside = self.path.with_extension("redb.damaged");
        fs::rename(&self.path, &aside)?;
        tracing::error!(
            file = %self.path.display(),
            why,
            "the state is damaged and was set aside as {}; ids, cookie keys and what was said of servers by hand begin anew",
            aside.display()
        );
        self.try_open()
    }

    fn try_open(&self) -> Result<redb::Database, Error> {
        if let Some(directory) = self.path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = file.open(&self.path)?;
        // Whoever made it may have thought otherwise, and there are keys in it.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        guarded(|| {
            let backend = FileBackend::new(file).map_err(opening)?;
            let mut database = redb::Builder::new()
                .set_cache_size(CACHE)
                .create_with_backend(backend)
                .map_err(opening)?;
            database.check_integrity().map_err(opening)?;
            Ok(database)
        })
    }
}

/// A library that meets what it did not expect in a file may panic, and that must not end the daemon.
fn guarded<T>(act: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(act))
        .unwrap_or_else(|_| Err(Error::Damaged("it cannot be read".to_owned())))
}

fn opening(error: redb::DatabaseError) -> Error {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse,
        redb::DatabaseError::UpgradeRequired(version) => {
            Error::Damaged(format!("it has version {version} of its format"))
        }
        error => other(error),
    }
}

fn other(error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Corrupted(why) => Error::Damaged(why),
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Error::Damaged(error.to_string())
        }
        redb::Error::Io(error) => Error::Io(error),
        error => Error::Other(error.to_string()),
    }
}
