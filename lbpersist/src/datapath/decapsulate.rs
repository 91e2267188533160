//! The far end of tunnels, on a server: the program `decapsulate` on interfaces, and whom it listens to.

use aya::{
    EbpfLoader,
    maps::{LpmTrie, Map, MapData, lpm_trie::Key},
    programs::Xdp,
};
use ipnet::IpNet;
use lbpersist_common::net::Address;

use super::{
    Error,
    address::to_map,
    attach::{self, Attached},
    maps::{self, PinDirectory},
    object,
};
use crate::network::View;

const PROGRAM: &str = "decapsulate";

/// The maps of this end; the others of the object are not used, and made as small as they may be.
const MAPS: [&str; 2] = ["peers", "unpacked"];
const TABLES: [&str; 5] = ["entries", "connections", "handshakes", "wanted", "servers"];

/// Attaches the program to `interfaces` and lets only `peers` send through tunnels to this machine; those that were allowed before
/// no longer are.
///
/// # Errors
///
/// When an interface is not there or refuses, or the kernel refuses the program. Nothing is left half attached.
pub fn attach(
    pins: &PinDirectory,
    view: &View,
    interfaces: &[String],
    peers: &[IpNet],
) -> Result<Vec<Attached>, Error> {
    object::mount_bpf_file_system(pins);
    let pins = pins.decapsulation();
    let fresh = !pins.path().exists();
    let result = load_and_attach(&pins, view, interfaces, peers);
    if result.is_err() && fresh {
        object::remove_all(&pins)?;
    }
    result
}

fn load_and_attach(
    pins: &PinDirectory,
    view: &View,
    interfaces: &[String],
    peers: &[IpNet],
) -> Result<Vec<Attached>, Error> {
    object::prepare_directories(pins)?;
    let paths = MAPS.map(|name| pins.map(name));
    let mut loader = EbpfLoader::new();
    for (name, path) in MAPS.iter().zip(&paths) {
        loader.map_pin_path(name, path.as_path());
    }
    for table in TABLES {
        loader.map_max_entries(table, 1);
    }
    let mut ebpf = loader.load(object::OBJECT).map_err(object::loading)?;
    allow(pins, peers)?;
    let program: &mut Xdp = object::program_in(&mut ebpf, PROGRAM)?;
    program.load().map_err(|error| object::program_error(PROGRAM, &error))?;
    attach::attach_all(program, pins, view, interfaces)
}

/// Makes `peers` the ones that are allowed.
fn allow(pins: &PinDirectory, peers: &[IpNet]) -> Result<(), Error> {
    let failed = |error| Error::map("peers", error);
    let data: MapData = maps::raw(pins, "peers")?;
    let map = Map::from_map_data(data).map_err(failed)?;
    let mut map: LpmTrie<_, Address, u32> = map.try_into().map_err(failed)?;
    let wanted: Vec<Key<Address>> = peers.iter().map(key).collect();
    for peer in &wanted {
        map.insert(peer, 1, 0).map_err(failed)?;
    }
    let known: Vec<Key<Address>> = map.keys().collect::<Result<_, _>>().map_err(failed)?;
    let is_wanted = |key: &Key<Address>| {
        wanted.iter().any(|w| (w.prefix_len(), w.data()) == (key.prefix_len(), key.data()))
    };
    for peer in known.iter().filter(|key| !is_wanted(key)) {
        map.remove(peer).map_err(failed)?;
    }
    Ok(())
}

fn key(prefix: &IpNet) -> Key<Address> {
    let length = match prefix {
        IpNet::V4(net) => 96 + u32::from(net.prefix_len()),
        IpNet::V6(net) => u32::from(net.prefix_len()),
    };
    Key::new(length, to_map(prefix.network()))
}
