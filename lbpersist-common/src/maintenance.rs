//! What the daemon asks of the tables: requests to the `maintain` program, which the daemon runs by `BPF_PROG_TEST_RUN`.
//!
//! A system call can only replace a whole value, and so would undo what a packet did to it in the meantime. The
//! program does it where the value lies: it looks the key up, compares the value with what the daemon had seen, and acts
//! only when nothing has changed since.

use bytemuck::{Pod, Zeroable};

use crate::{
    connection::ConnectionKey, persistence::EntryKey, server::Binding, translation::TranslationKey,
};

/// One request. What it means is told by its [`Operation`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Request {
    /// An [`Operation`] number.
    pub operation: u32,
    /// The count of open connections to set, for [`Operation::RepairEntry`]; how many have ended, for
    /// [`Operation::CloseEnded`]; what `suspect` is to be, for [`Operation::SuspectConnection`]. Set to 1 by the program when it acted, and to 0 when not.
    pub argument: u32,
    /// The entry: the subject, or the one that counts the connection.
    pub entry: EntryKey,
    /// The connection, for the operations on connections.
    pub connection: ConnectionKey,
    /// `created_ns` of the entry as the daemon saw it.
    pub created_ns: u64,
    /// `idle_since_ns` of the entry, or `last_seen_ns` of the connection, as the daemon saw it.
    pub seen_ns: u64,
    /// [`count_word`](crate::persistence::Entry::count_word) of the entry as the daemon saw it.
    pub count_word: u64,
}

const _: () = assert!(size_of::<Request>() == 104);

impl Request {
    /// A request about a translation, which takes the place of the connection.
    pub fn about(operation: Operation, key: &TranslationKey, seen_ns: u64) -> Self {
        let mut request = Self::zeroed();
        request.operation = operation as u32;
        request.seen_ns = seen_ns;
        request.connection.client = key.server;
        request.connection.service_port = key.server_port;
        request.connection.client_port = key.port;
        request.connection.service = key.protocol.into();
        request
    }

    /// A request to count a connection of a client that meets `binding`, a server of pool number `pool`. With `moved` its entry
    /// follows there from another server. When the program acted, `seen_ns` is when it did.
    pub fn carried(
        entry: EntryKey,
        connection: ConnectionKey,
        pool: u32,
        binding: Binding,
        moved: bool,
    ) -> Self {
        Self {
            operation: Operation::OpenCarried as u32,
            argument: u32::from(moved),
            entry,
            connection,
            created_ns: bytemuck::cast(binding),
            seen_ns: 0,
            count_word: pool.into(),
        }
    }

    /// The server and the number of its pool that [`Self::carried`] names.
    #[inline(always)]
    pub fn carried_by(&self) -> (Binding, u32) {
        (bytemuck::cast(self.created_ns), self.count_word as u32)
    }

    /// The translation that it is about.
    #[inline(always)]
    pub fn translation(&self) -> TranslationKey {
        TranslationKey {
            server: self.connection.client,
            server_port: self.connection.service_port,
            port: self.connection.client_port,
            protocol: self.connection.service as u16,
            reserved: 0,
        }
    }
}

/// What a [`Request`] asks for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Delete the entry if it is still unused and untouched.
    ReclaimEntry = 1,
    /// Set the entry's count of open connections if it is untouched.
    RepairEntry = 2,
    /// Have the connection's next packet noted, if none was noted since.
    SuspectConnection = 3,
    /// Delete the connection, which is open, if no packet was noted since. Its entry still counts it: see
    /// [`Operation::CloseEnded`].
    EndConnection = 4,
    /// Delete the connection if no packet was noted since.
    DeleteConnection = 5,
    /// Free the translation that [`Request::translation`] names if no packet was noted since.
    FreeTranslation = 6,
    /// The same of an unfinished one.
    FreeHalfOpen = 7,
    /// Count a connection that the daemon carries, and note it: see [`Request::carried`].
    OpenCarried = 8,
    /// End a connection that the daemon has carried, if it is the one that was opened at [`Request::seen_ns`].
    CloseCarried = 9,
    /// Take as many connections from the entry's count as `argument` says, if it is the same entry: they have ended.
    CloseEnded = 10,
}

/// Requests in one run: a frame of `BPF_PROG_TEST_RUN` must fit a page with its headroom.
pub const BATCH: usize = 32;

// A page less 256 bytes of headroom and 320 of the kernel's (net/bpf/test_run.c).
const _: () = assert!(BATCH * size_of::<Request>() <= 4096 - 256 - 320);
