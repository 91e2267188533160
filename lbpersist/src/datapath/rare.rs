//! What the programs tell in words, by aya-log: rare events, each at most once a second and CPU.
//!
//! The buffer belongs to the programs that were loaded with it and ends with them. While no daemon reads it, it fills up, and what
//! does not fit is dropped; the counters have it all the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::Error;

/// The reading end.
pub(super) struct Ear {
    logger: EbpfLogger<Heard>,
    heard: Heard,
}

impl Ear {
    /// Takes the buffer of programs that are loaded.
    pub(super) fn of(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let heard = Heard::default();
        let logger = EbpfLogger::init_with_logger(ebpf, heard.clone()).map_err(|error| {
            Error::Refused { what: "the programs' log".to_owned(), detail: error.to_string() }
        })?;
        Ok(Self { logger, heard })
    }

    /// What was told since the last call.
    pub(super) fn listen(&mut self) -> Vec<String> {
        self.logger.flush();
        std::mem::take(&mut *self.heard.lines())
    }
}

/// Lines on their way from the buffer.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl log::Log for Heard {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.lines().push(record.args().to_string());
    }

    fn flush(&self) {}
}
