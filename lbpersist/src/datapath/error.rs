//! What can go wrong with the kernel's half.

use std::{io, path::PathBuf};

use super::identity::Exhausted;

/// A failure, with what was being done and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller lacks the rights.
    #[error(
        "this needs root, or the capabilities SYS_ADMIN and NET_ADMIN: the kernel refused to {0}"
    )]
    NotPermitted(&'static str),
    /// No bpffs.
    #[error("cannot use {}: it is not on a BPF file system (mount one: mount -t bpf bpf /sys/fs/bpf)", .0.display())]
    NoBpfFileSystem(PathBuf),
    /// A directory or pin.
    #[error("cannot {action} {}: {source}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Nothing is pinned.
    #[error("nothing is loaded: there are no maps under {} (start `lbpersist run`, or attach an interface)", .0.display())]
    NotLoaded(PathBuf),
    /// Maps of another version.
    #[error(
        "the maps under {} have layout {found}, and this lbpersist knows layout {known}: use the version that made them, \
         or remove them and their entries with `lbpersist detach --all`", path.display()
    )]
    OtherLayout {
        /// Where they are.
        path: PathBuf,
        /// Their version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Rings of another size.
    #[error(
        "the pinned rings have {pinned} slots and the configuration says ring_size = {configured}: keep the old size, or \
         remove the maps and their entries with `lbpersist detach --all`"
    )]
    OtherRingSize {
        /// Slots of the pinned rings.
        pinned: u32,
        /// Slots asked for.
        configured: u32,
    },
    /// The program or a map was refused.
    #[error("the kernel refused {what}: {detail}")]
    Refused {
        /// What was handed to it.
        what: String,
        /// Its answer.
        detail: String,
    },
    /// An interface that is not there.
    #[error("there is no interface `{0}`")]
    NoInterface(String),
    /// An interface that has a program already.
    #[error(
        "interface `{0}` already has an XDP program that is not ours; remove it first (ip link set dev {0} xdp off)"
    )]
    InterfaceBusy(String),
    /// An interface that we are not on.
    #[error("interface `{0}` is not attached")]
    NotAttached(String),
    /// An interface that refused.
    #[error("cannot attach to interface `{interface}`: {detail}")]
    Attach {
        /// Its name.
        interface: String,
        /// The kernel's answer.
        detail: String,
    },
    /// A map operation.
    #[error("map `{map}`: {detail}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What was wrong.
        detail: String,
    },
    /// Numbers ran out.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

impl Error {
    /// A failure of an operation on `map`.
    pub(crate) fn map(map: &'static str, error: impl std::fmt::Display) -> Self {
        Self::Map { map, detail: error.to_string() }
    }
}
