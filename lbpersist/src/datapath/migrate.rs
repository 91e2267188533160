//! From an older layout of the maps to today's, while the old program goes on carrying packets.
//!
//! New maps are made beside the old ones and filled, and then take their place in one step. The old program keeps its maps until the
//! links are given the new one; what it wrote until then is brought over once more at the end. Whoever ends in between leaves
//! either the old maps in place or the new ones, and the next start goes on from there.

use std::collections::HashMap;

use aya::maps::MapData;
use bytemuck::{Pod, Zeroable};
use lbpersist_common::{
    connection::{Connection, ConnectionKey},
    layout::{Name, NameKey},
    net::{Address, Destination, Endpoint},
    persistence::{Entry, EntryKey},
    server::Server,
    service::{Pool, Service},
};

use super::{
    DataPath, Error,
    maps::{self, Maps, PinDirectory, Table},
    object, sys,
};
use crate::model::DataPathSettings;

/// The layout that is known beside today's: services on one address and port each, and no destination in keys.
const KNOWN: u32 = 3;

/// Its records, where they differ from today's.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OldLayout {
    version: u32,
    ring_slots: u32,
    next_id: u32,
    reserved: u32,
    clock_offset_ns: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OldService {
    id: u32,
    index: u32,
    pool: u32,
    scope: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OldEntryKey {
    client: Address,
    scope: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct OldConnectionKey {
    client: Address,
    service: u32,
    client_port: u16,
    service_port: u16,
}

/// Bytes of a pool.
const OLD_POOL: usize = 72;

const _: () = assert!(core::mem::offset_of!(Pool, forwarding) + 4 == OLD_POOL);

type OldEntries = MapData;
type OldConnections = MapData;

/// A migration that ends when the links have the new program.
pub struct Migration {
    old: (OldEntries, OldConnections),
    entries: HashMap<EntryKey, Entry>,
    connections: HashMap<ConnectionKey, Connection>,
}

impl Migration {
    /// Puts filled maps of today's layout in the place of those of an older one; `None` if there are none.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; the old maps are in place then.
    pub fn begin(pins: &PinDirectory, settings: &DataPathSettings) -> Result<Option<Self>, Error> {
        let next = PinDirectory::new(pins.path().join("next"));
        // Of one that ended before it was done.
        object::remove_all(&next)?;
        let Some(layout) = old_layout(pins)? else { return Ok(None) };
        let begun = Self {
            old: (maps::raw(pins, "entries")?, maps::raw(pins, "connections")?),
            entries: HashMap::new(),
            connections: HashMap::new(),
        };
        let migration = begun.fill(pins, &next, &layout, settings);
        if migration.is_ok() {
            sys::exchange(&pins.maps(), &next.maps()).map_err(|source| Error::Pin {
                action: "exchange the maps in",
                path: pins.path().to_owned(),
                source,
            })?;
        }
        object::remove_all(&next)?;
        migration.map(Some)
    }

    /// How many entries and connections there were.
    pub fn counts(&self) -> (usize, usize) {
        (self.entries.len(), self.connections.len())
    }

    /// Brings over what the old program wrote since [`Self::begin`]; returns how many records that were.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn finish(self, data_path: &mut DataPath) -> Result<usize, Error> {
        sys::wait_for_running_programs();
        let maps = &mut data_path.maps;
        let entries = catch_up(old_entries(&self.old.0)?, &self.entries, &mut maps.entries)?;
        let connections = old_connections(&self.old.1)?;
        Ok(entries + catch_up(connections, &self.connections, &mut maps.connections)?)
    }

    fn fill(
        mut self,
        pins: &PinDirectory,
        next: &PinDirectory,
        layout: &OldLayout,
        settings: &DataPathSettings,
    ) -> Result<Self, Error> {
        object::prepare_directories(next)?;
        object::make_maps(next, settings)?;
        let mut maps = Maps::open(next)?;
        let mut record = maps.layout()?;
        record.next_id = layout.next_id;
        maps.layout.set(0, record, 0).map_err(|error| Error::map("layout", error))?;
        for (key, name) in maps::scan::<NameKey, Name>(pins, "names")? {
            maps.names.insert(key, name, 0).map_err(|error| Error::map("names", error))?;
        }
        for (key, service) in maps::scan::<Endpoint, [u8; 16]>(pins, "services")? {
            let OldService { id, index, pool, scope } = bytemuck::pod_read_unaligned(&service);
            let service = Service { id, index, pool, scope, prefix_length: 0 };
            maps.services.insert(key, service, 0).map_err(|error| Error::map("services", error))?;
        }
        for (number, old) in maps::scan::<u32, [u8; OLD_POOL]>(pins, "pools")? {
            // What was added stands behind it, and zeros there mean what was before.
            let mut pool = [0; size_of::<Pool>()];
            pool[..OLD_POOL].copy_from_slice(&old);
            let pool: Pool = bytemuck::pod_read_unaligned(&pool);
            if pool.id != 0 {
                maps.pools.set(number, pool, 0).map_err(|error| Error::map("pools", error))?;
            }
        }
        for (number, server) in maps::scan::<u32, Server>(pins, "servers")? {
            if server.generation != 0 {
                let set = maps.servers.set(number, server, 0);
                set.map_err(|error| Error::map("servers", error))?;
            }
        }
        for (key, entry) in old_entries(&self.old.0)? {
            maps.entries.insert_new(&key, &entry)?;
            self.entries.insert(key, entry);
        }
        for (key, connection) in old_connections(&self.old.1)? {
            maps.connections.insert_new(&key, &connection)?;
            self.connections.insert(key, connection);
        }
        Ok(self)
    }
}

fn old_layout(pins: &PinDirectory) -> Result<Option<OldLayout>, Error> {
    if !pins.map("layout").exists() {
        return Ok(None);
    }
    let map = maps::raw(pins, "layout")?;
    let info = map.info().map_err(|error| Error::map("layout", error))?;
    if info.value_size() as usize != size_of::<OldLayout>() {
        return Ok(None);
    }
    let records: Vec<(u32, [u8; size_of::<OldLayout>()])> = maps::all(&map, "layout")?;
    let layout = records.first().map(|(_, bytes)| bytemuck::pod_read_unaligned(bytes));
    Ok(layout.filter(|layout: &OldLayout| layout.version == KNOWN))
}

fn old_entries(map: &OldEntries) -> Result<Vec<(EntryKey, Entry)>, Error> {
    let records = maps::all::<[u8; size_of::<OldEntryKey>()], Entry>(map, "entries")?;
    let today = |(key, entry): ([u8; size_of::<OldEntryKey>()], Entry)| {
        let OldEntryKey { client, scope, .. } = bytemuck::pod_read_unaligned(&key);
        (EntryKey { client, scope, destination: Destination::NONE }, entry)
    };
    Ok(records.into_iter().map(today).collect())
}

fn old_connections(map: &OldConnections) -> Result<Vec<(ConnectionKey, Connection)>, Error> {
    let records = maps::all::<[u8; size_of::<OldConnectionKey>()], Connection>(map, "connections")?;
    let today = |(key, connection): ([u8; size_of::<OldConnectionKey>()], Connection)| {
        let OldConnectionKey { client, service, client_port, service_port } =
            bytemuck::pod_read_unaligned(&key);
        let destination = Destination::NONE;
        let key =
            ConnectionKey { client, service, client_port, service_port, destination, reserved: 0 };
        (key, connection)
    };
    Ok(records.into_iter().map(today).collect())
}

/// Sets those records that differ from what was copied, unless the new program has written them since.
fn catch_up<K: aya::Pod + Eq + std::hash::Hash, V: aya::Pod + PartialEq>(
    old: Vec<(K, V)>,
    copied: &HashMap<K, V>,
    table: &mut Table<K, V>,
) -> Result<usize, Error> {
    let mut count = 0;
    for (key, value) in old {
        let before = copied.get(&key);
        if before != Some(&value) && table.find(&key)?.as_ref() == before {
            table.set(&key, &value)?;
            count += 1;
        }
    }
    Ok(count)
}
