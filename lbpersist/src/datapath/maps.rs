//! The pinned maps, opened and typed.

use std::{
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray},
};
use lbpersist_common::{
    breaks::{BreakCounters, BreakRecord},
    connection::{Connection, ConnectionKey, Handshake},
    counter::{Event, ServerCounters, ServiceCounters},
    flood::FloodLimits,
    front::Front,
    layout::{self, Layout, Name, NameKey},
    net::{Address, Endpoint},
    persistence::{Entry, EntryKey},
    route::{Neighbour, NeighbourKey, Route},
    server::Server,
    service::{Pool, PrefixKey, Reverse, Service},
    translation::{Translation, TranslationKey},
};

use super::{
    Error,
    ghosts::Ghosts,
    known::KnownAddresses,
    load::Loads,
    recent::RecentFlows,
    regions::Regions,
    sys::{self, Batch},
};

/// Where things are pinned unless something else is asked for.
pub const DEFAULT_PIN_DIRECTORY: &str = "/sys/fs/bpf/lbpersist";

/// The names of all maps, as the program declares them.
pub const NAMES: [&str; 47] = [
    "layout",
    "names",
    "services",
    "carried",
    "prefix_services",
    "reverse",
    "known_addresses",
    "recent_flows",
    "pools",
    "servers",
    "rings",
    "marked_regions",
    "ring_template",
    "turns",
    "next_turn",
    "look",
    "record",
    "server_load",
    "server_limits",
    "flood_limits",
    "spent",
    "spent_by_prefix",
    "entries",
    "connections",
    "handshakes",
    "translations",
    "half_open_trans",
    "depths",
    "routes",
    "neighbours",
    "wanted",
    "peers",
    "unpacked",
    "fronts",
    "fragments",
    "fragment_client",
    "stages",
    "rare",
    "verdicts",
    "events",
    "service_stats",
    "server_stats",
    "breaks",
    "last_breaks",
    "break_state",
    "breaking",
    "ghosts",
];

/// The directory that everything is pinned under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinDirectory(PathBuf);

impl PinDirectory {
    /// A directory on a BPF file system.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    /// Where programs are pinned.
    pub fn programs(&self) -> PathBuf {
        self.0.join("programs")
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// Where the far end of tunnels is pinned, with its own links and maps.
    pub fn decapsulation(&self) -> Self {
        Self(self.0.join("decapsulation"))
    }

    /// Where one map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }
}

impl Default for PinDirectory {
    fn default() -> Self {
        Self::new(DEFAULT_PIN_DIRECTORY)
    }
}

/// Every map of the program.
pub struct Maps {
    /// The record of what was made.
    pub layout: Array<MapData, Layout>,
    /// Names of services and pools.
    pub names: HashMap<MapData, NameKey, Name>,
    /// Services by endpoint.
    pub services: HashMap<MapData, Endpoint, Service>,
    /// Services that the daemon carries, by endpoint.
    pub carried: HashMap<MapData, Endpoint, Service>,
    /// Services on prefixes.
    pub prefix_services: LpmTrie<MapData, PrefixKey, Service>,
    /// Services by the endpoints that answer for them.
    pub reverse: HashMap<MapData, Endpoint, Reverse>,
    /// The filters of addresses that services and servers have.
    pub known_addresses: KnownAddresses,
    /// UDP flows that need no look-up for a moment.
    pub recent_flows: RecentFlows,
    /// Addresses that services are on.
    pub fronts: HashMap<MapData, Address, Front>,
    /// Pools by number.
    pub pools: Array<MapData, Pool>,
    /// Servers by number.
    pub servers: Array<MapData, Server>,
    /// Rings by pool number.
    pub rings: ArrayOfMaps<MapData, MapData>,
    /// Where rings may be marked.
    pub marked_regions: Regions,
    /// Turns by pool number.
    pub turns: ArrayOfMaps<MapData, MapData>,
    /// Open connections of servers.
    pub server_load: Loads,
    /// The budget of new keys.
    pub flood_limits: Array<MapData, FloodLimits>,
    /// Limits of them, by server number.
    pub server_limits: Array<MapData, u32>,
    /// Client keys and their servers.
    pub entries: Table<EntryKey, Entry>,
    /// Connections.
    pub connections: Table<ConnectionKey, Connection>,
    /// Unfinished handshakes.
    pub handshakes: Table<ConnectionKey, Handshake>,
    /// Clients behind servers' answers, under masquerade.
    pub translations: Table<TranslationKey, Translation>,
    /// The same of clients that have not shown that they hear their servers.
    pub half_open_translations: Table<TranslationKey, Translation>,
    /// Routes by prefix.
    pub routes: LpmTrie<MapData, Address, Route>,
    /// Neighbours.
    pub neighbours: HashMap<MapData, NeighbourKey, Neighbour>,
    /// Neighbours that answers could not be sent to.
    pub wanted: Table<NeighbourKey, u64>,
    /// Packets by reason.
    pub verdicts: PerCpuArray<MapData, u64>,
    /// Events.
    pub events: PerCpuArray<MapData, u64>,
    /// Counters of services.
    pub service_stats: PerCpuArray<MapData, ServiceCounters>,
    /// Counters of servers.
    pub server_stats: PerCpuArray<MapData, ServerCounters>,
    /// Breaks of services.
    pub breaks: Array<MapData, BreakCounters>,
    /// The last breaks.
    pub last_breaks: Array<MapData, BreakRecord>,
    /// What is remembered of entries that are gone.
    pub ghosts: Ghosts,
}

impl Maps {
    /// Opens the pinned maps.
    ///
    /// # Errors
    ///
    /// When nothing is pinned, or something of another layout.
    pub fn open(pins: &PinDirectory) -> Result<Self, Error> {
        if !pins.map("layout").exists() {
            return Err(Error::NotLoaded(pins.path().to_owned()));
        }
        // The version first: of another layout, other maps may have values of other sizes.
        let layout: Array<MapData, Layout> = open(pins, "layout")?;
        let found = layout.get(&0, 0).map_err(|error| Error::map("layout", error))?.version;
        if found == 0 {
            return Err(Error::NotLoaded(pins.path().to_owned()));
        }
        if found != layout::VERSION {
            return Err(other_layout(pins, found));
        }
        Ok(Self {
            layout,
            names: open(pins, "names")?,
            services: open(pins, "services")?,
            carried: open(pins, "carried")?,
            prefix_services: open(pins, "prefix_services")?,
            reverse: open(pins, "reverse")?,
            known_addresses: KnownAddresses::open(pins)?,
            recent_flows: RecentFlows::open(pins)?,
            fronts: open(pins, "fronts")?,
            pools: open(pins, "pools")?,
            servers: open(pins, "servers")?,
            rings: open(pins, "rings")?,
            marked_regions: Regions::open(pins)?,
            turns: open(pins, "turns")?,
            server_load: Loads::open(pins)?,
            flood_limits: open(pins, "flood_limits")?,
            server_limits: open(pins, "server_limits")?,
            entries: Table::open(pins, "entries")?,
            connections: Table::open(pins, "connections")?,
            handshakes: Table::open(pins, "handshakes")?,
            translations: Table::open(pins, "translations")?,
            half_open_translations: Table::open(pins, "half_open_trans")?,
            routes: open(pins, "routes")?,
            neighbours: open(pins, "neighbours")?,
            wanted: Table::open(pins, "wanted")?,
            verdicts: open(pins, "verdicts")?,
            events: open(pins, "events")?,
            service_stats: open(pins, "service_stats")?,
            server_stats: open(pins, "server_stats")?,
            breaks: open(pins, "breaks")?,
            last_breaks: open(pins, "last_breaks")?,
            ghosts: Ghosts::open(pins)?,
        })
    }

    /// How often `event` has happened.
    pub fn event(&self, event: Event) -> Result<u64, Error> {
        let counts = self.events.get(&(event as u32), 0);
        counts.map(|counts| counts.iter().sum()).map_err(|error| Error::map("events", error))
    }

    /// The record of what was made.
    pub fn layout(&self) -> Result<Layout, Error> {
        self.layout.get(&0, 0).map_err(|error| Error::map("layout", error))
    }
}

/// A table that is read in batches.
pub struct Table<K, V> {
    name: &'static str,
    map: HashMap<MapData, K, V>,
    // The same map once more: aya's typed form does not show its descriptor.
    raw: MapData,
}

/// BPF_NOEXIST of linux/bpf.h: an update that finds the key there changes nothing.
const BPF_NOEXIST: u64 = 1;

/// Records that one system call reads.
const BATCH: u32 = 4_096;

impl<K: Pod, V: Pod> Table<K, V> {
    pub(super) fn open(pins: &PinDirectory, name: &'static str) -> Result<Self, Error> {
        Ok(Self { name, map: open(pins, name)?, raw: raw(pins, name)? })
    }

    /// Up to `room` records after `after`, and where to go on; see [`Batch::next`].
    pub(super) fn batch(&self, after: Option<u32>, room: u32) -> Result<Batch<K, V>, Error> {
        sys::lookup_batch(self.raw.fd().as_fd(), after, room)
            .map_err(|error| Error::map(self.name, error))
    }

    /// All records. One that comes or goes meanwhile may be missed or seen.
    pub fn all(&self) -> Result<Vec<(K, V)>, Error> {
        all(&self.raw, self.name)
    }

    /// The record of a key, which does not count as a use of it.
    pub fn find(&self, key: &K) -> Result<Option<V>, Error> {
        match self.map.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(Error::map(self.name, error)),
        }
    }

    /// Adds a record unless there is one of that key; says whether it did.
    pub fn insert_new(&mut self, key: &K, value: &V) -> Result<bool, Error> {
        match self.map.insert(key, value, BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(false)
            }
            Err(error) => Err(Error::map(self.name, error)),
        }
    }

    /// Writes a record, whether there is one of that key or not.
    pub fn set(&mut self, key: &K, value: &V) -> Result<(), Error> {
        self.map.insert(key, value, 0).map_err(|error| Error::map(self.name, error))
    }

    /// Removes a record, and says whether it was there.
    pub fn remove(&mut self, key: &K) -> Result<bool, Error> {
        match self.map.remove(key) {
            Ok(()) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(Error::map(self.name, error)),
        }
    }

    /// How many records there is room for.
    pub fn capacity(&self) -> Result<u32, Error> {
        let info = self.raw.info().map_err(|error| Error::map(self.name, error))?;
        Ok(info.max_entries())
    }
}

/// All records of a pinned hash or array map.
pub(super) fn scan<K: Pod, V: Pod>(
    pins: &PinDirectory,
    name: &'static str,
) -> Result<Vec<(K, V)>, Error> {
    all(&raw(pins, name)?, name)
}

pub(super) fn all<K: Pod, V: Pod>(map: &MapData, name: &'static str) -> Result<Vec<(K, V)>, Error> {
    let mut records = Vec::new();
    let mut after = None;
    loop {
        let batch = sys::lookup_batch(map.fd().as_fd(), after, BATCH)
            .map_err(|error| Error::map(name, error))?;
        records.extend(batch.records);
        after = batch.next;
        if after.is_none() {
            return Ok(records);
        }
    }
}

/// Whether an operation failed because the key is not there.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

/// The refusal of maps whose layout is `found`.
pub(super) fn other_layout(pins: &PinDirectory, found: u32) -> Error {
    Error::OtherLayout { path: pins.path().to_owned(), found, known: layout::VERSION }
}

fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &PinDirectory,
    name: &'static str,
) -> Result<T, Error> {
    let data = raw(pins, name)?;
    Map::from_map_data(data).and_then(T::try_from).map_err(|error| Error::map(name, error))
}

pub(super) fn raw(pins: &PinDirectory, name: &'static str) -> Result<MapData, Error> {
    MapData::from_pin(pins.map(name)).map_err(|error| {
        if permission(&error) {
            Error::NotPermitted("open the pinned maps")
        } else {
            Error::map(name, error)
        }
    })
}

fn permission(error: &MapError) -> bool {
    let MapError::SyscallError(error) = error else { return false };
    error.io_error.kind() == std::io::ErrorKind::PermissionDenied
}
