//! Every map: what its keys and values are, who writes it, who reads it.
//!
//! `packet` is the program `lbpersist`; `daemon` writes by system call, by `maintain`, or through shared memory (rings).
//! Sizes of the tables are those of the configuration; the numbers here are placeholders that the loader replaces.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray},
    macros::btf_map,
};
use lbpersist_common::{
    breaks::{BreakCounters, BreakRecord, BreakState, GhostSet, REMEMBERED},
    connection::{Connection, ConnectionKey, Handshake},
    counter::{Event, ServerCounters, ServiceCounters},
    filter::{self, Filter},
    flood::{FloodLimits, Spent},
    fragment::{FragmentKey, FragmentWay},
    front::Front,
    layout::{Layout, Name, NameKey},
    net::Address,
    persistence::{Entry, EntryKey},
    rare::Pending,
    reason::Reason,
    recent::{self, Line},
    ring::{DEFAULT_SLOTS, MarkedRegions, Slot},
    route::{Neighbour, NeighbourKey, Route},
    server::{Load, Server},
    service::{Pool, PrefixKey, Reverse, ReverseKey, Service, ServiceKey},
    stage::Stage,
    translation::{Translation, TranslationKey},
    tunnel::Outcome,
};

use crate::{algorithm::Look, record::Record};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;
const SHARED_INNER: usize = (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize;

/// One record: the version of all this, and an offset of the clock. Written by the daemon at start; read by whoever opens the
/// maps, and where a packet needs the time.
#[btf_map(name = "layout")]
pub(crate) static LAYOUT: Array<Layout, 1> = Array::new();

/// Names of services and pools. Written by the daemon; read by the daemon that follows it and by the CLI.
#[btf_map(name = "names")]
pub(crate) static NAMES: HashMap<NameKey, Name, 32_768, ON_DEMAND> = HashMap::new();

/// Virtual services by address, port or 0 for all, and protocol. Written by the daemon; read per packet.
#[btf_map(name = "services")]
pub(crate) static SERVICES: HashMap<ServiceKey, Service, 16_384, ON_DEMAND> = HashMap::new();

/// Services that the daemon carries, by where they listen. Written by the daemon; read by the daemon that follows it and by the
/// CLI, which find entries and connections of their clients by it. No packet is looked up here.
#[btf_map(name = "carried")]
pub(crate) static CARRIED: HashMap<ServiceKey, Service, 16_384, ON_DEMAND> = HashMap::new();

/// Services on prefixes, by protocol, port or 0 for all, and prefix. Written by the daemon; read for packets that neither
/// `services` nor `reverse` knows, while there is such a service.
#[btf_map(name = "prefix_services")]
pub(crate) static PREFIX_SERVICES: LpmTrie<PrefixKey, Service, 65_536> = LpmTrie::new();

/// Services by the address and port their answers come from. Written by the daemon; read per packet of a server.
#[btf_map(name = "reverse")]
pub(crate) static REVERSE: HashMap<ReverseKey, Reverse, 131_072, ON_DEMAND> = HashMap::new();

/// The [`Filter`]s, one after the other. Written by the daemon before it writes a service or server, and after it has removed one;
/// read per packet.
#[btf_map(name = "known_addresses")]
pub(crate) static KNOWN_ADDRESSES: Array<
    u64,
    { (Filter::COUNT * filter::WORDS) as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// UDP flows that were looked up a moment ago. Written by packets that look; read per packet of a slot without marks; old ones are
/// cleared by the daemon, and all by whoever takes entries out by hand.
#[btf_map(name = "recent_flows")]
pub(crate) static RECENT_FLOWS: Array<
    Line,
    { recent::LINES as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// Pools by number. Written by the daemon; read per packet.
#[btf_map(name = "pools")]
pub(crate) static POOLS: Array<Pool, 4_096> = Array::new();

/// Servers by number. Written by the daemon; read per packet.
#[btf_map(name = "servers")]
pub(crate) static SERVERS: Array<Server, 65_536> = Array::new();

/// Rings by pool number. Server numbers are written by the daemon, marks by both; read per packet.
#[btf_map(name = "rings")]
pub(crate) static RINGS: ArrayOfMaps<Array<Slot, { DEFAULT_SLOTS as usize }, SHARED_INNER>, 4_096> =
    ArrayOfMaps::new();

/// Where rings may be marked, by pool number. Written by packets that mark a slot; taken by the daemon's sweep.
#[btf_map(name = "marked_regions")]
pub(crate) static MARKED_REGIONS: Array<MarkedRegions, 4_096, { BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Never looked at: the rings that the daemon makes take their type information from it.
#[btf_map(name = "ring_template")]
pub(crate) static RING_TEMPLATE: Array<Slot, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Rings that are gone through in order, by pool number, for the pools that need one: each server as often as its weight says for
/// `round-robin`, once for the others. Written by the daemon as a whole; read when a client is new.
#[btf_map(name = "turns")]
pub(crate) static TURNS: ArrayOfMaps<Array<Slot, { DEFAULT_SLOTS as usize }, SHARED_INNER>, 4_096> =
    ArrayOfMaps::new();

/// Whose turn it is, by pool number. Written when a client is new.
#[btf_map(name = "next_turn")]
pub(crate) static NEXT_TURN: Array<u64, 4_096> = Array::new();

/// A look through turns that is under way. Written and read by it.
#[btf_map(name = "look")]
pub(crate) static LOOK: PerCpuArray<Look, 1> = PerCpuArray::new();

/// A record on its way into a table. Written and read by whoever makes it.
#[btf_map(name = "record")]
pub(crate) static RECORD: PerCpuArray<Record, 1> = PerCpuArray::new();

/// The budget of new keys. Written by the daemon; read when a client is new.
#[btf_map(name = "flood_limits")]
pub(crate) static FLOOD_LIMITS: Array<FloodLimits, 1> = Array::new();

/// What is spent of it in all. Written when a client is new.
#[btf_map(name = "spent")]
pub(crate) static SPENT: Array<Spent, 1> = Array::new();

/// What is spent of it by prefix. Written when a client is new.
#[btf_map(name = "spent_by_prefix")]
pub(crate) static SPENT_BY_PREFIX: LruHashMap<Address, Spent, 16_384> = LruHashMap::new();

/// Open connections of servers by number. Written when connections open and close; put right by the daemon; read when a client
/// is new.
#[btf_map(name = "server_load")]
pub(crate) static SERVER_LOAD: Array<Load, 65_536, { BPF_F_MMAPABLE as usize }> = Array::new();

/// How many connections a server may have open, by number; 0 for any number. Written by the daemon; read when a connection
/// opens.
#[btf_map(name = "server_limits")]
pub(crate) static SERVER_LIMITS: Array<u32, 65_536> = Array::new();

/// Client keys and their servers. Written by packets that open or close a connection, and by `maintain`.
#[btf_map(name = "entries")]
pub(crate) static ENTRIES: LruHashMap<EntryKey, Entry, 65_536> = LruHashMap::new();

/// Open and just closed connections. Written as the entries are.
#[btf_map(name = "connections")]
pub(crate) static CONNECTIONS: LruHashMap<ConnectionKey, Connection, 65_536> = LruHashMap::new();

/// Handshakes that wait for the client. Written by SYNs and what follows them; old ones are deleted by the daemon.
#[btf_map(name = "handshakes")]
pub(crate) static HANDSHAKES: LruHashMap<ConnectionKey, Handshake, 4_096> = LruHashMap::new();

/// Clients behind servers' answers, under masquerade. Written by packets; freed by `maintain`. Evicts nothing.
#[btf_map(name = "translations")]
pub(crate) static TRANSLATIONS: HashMap<TranslationKey, Translation, 65_536, ON_DEMAND> =
    HashMap::new();

/// The same of clients that have not shown that they hear their servers. Written by packets; old ones are freed by `maintain`.
#[btf_map(name = "half_open_trans")]
pub(crate) static HALF_OPEN_TRANSLATIONS: LruHashMap<TranslationKey, Translation, 4_096> =
    LruHashMap::new();

/// One word: a bit for each candidate that a translation ever had. Written by packets; read under masquerade.
#[btf_map(name = "depths")]
pub(crate) static DEPTHS: Array<u64, 1> = Array::new();

/// The way to clients: prefix to next hop. Written by the daemon from netlink; read per packet of a server.
#[btf_map(name = "routes")]
pub(crate) static ROUTES: LpmTrie<Address, Route, 65_536> = LpmTrie::new();

/// Ethernet addresses of neighbours. Written by the daemon from netlink; read per packet to a client on a link of ours.
#[btf_map(name = "neighbours")]
pub(crate) static NEIGHBOURS: HashMap<NeighbourKey, Neighbour, 65_536, ON_DEMAND> = HashMap::new();

/// Neighbours that answers could not be sent to, and when. Written per such packet; the daemon has them resolved and deletes
/// them here.
#[btf_map(name = "wanted")]
pub(crate) static WANTED: LruHashMap<NeighbourKey, u64, 4_096> = LruHashMap::new();

/// Who may send through a tunnel to this machine. Written by `lbpersist decapsulate`; read per packet of a tunnel.
#[btf_map(name = "peers")]
pub(crate) static PEERS: LpmTrie<Address, u32, 1_024> = LpmTrie::new();

/// Packets at the far end of tunnels, by [`Outcome`]. Written per packet.
#[btf_map(name = "unpacked")]
pub(crate) static UNPACKED: PerCpuArray<u64, { Outcome::CAPACITY as usize }> = PerCpuArray::new();

/// Addresses that services are on. Written by the daemon; read per ping, ICMP error and fragment.
#[btf_map(name = "fronts")]
pub(crate) static FRONTS: HashMap<Address, Front, 16_384, ON_DEMAND> = HashMap::new();

/// Where the fragments of a packet go. Written per first fragment; read per later one.
#[btf_map(name = "fragments")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentWay, 4_096> = LruHashMap::new();

/// The clients of answers under masquerade that come in fragments. Written and read with `fragments`.
#[btf_map(name = "fragment_client")]
pub(crate) static FRAGMENT_CLIENTS: LruHashMap<FragmentKey, Address, 4_096> = LruHashMap::new();

/// Programs that packets are handed on to, by [`Stage`]. Written by the daemon at start.
#[btf_map(name = "stages")]
pub(crate) static STAGES: ProgramArray<{ Stage::CAPACITY as usize }> = ProgramArray::new();

/// Where the headers of the packet in work stand, and those of the packet it quotes: a scratch pad, of no meaning between two packets.
#[btf_map(name = "shape")]
pub(crate) static SHAPE: PerCpuArray<u64, 2> = PerCpuArray::new();

/// Rare events that are still to be told. Written by the packets that meet them; read by those that have been to the tables.
#[btf_map(name = "rare")]
pub(crate) static RARE: PerCpuArray<Pending, 1> = PerCpuArray::new();

/// Packets by [`Reason`]. Written per packet; read by the CLI.
#[btf_map(name = "verdicts")]
pub(crate) static VERDICTS: PerCpuArray<u64, { Reason::CAPACITY as usize }> = PerCpuArray::new();

/// What happened to the tables, by [`Event`]. Written by packets and `maintain`; read by the CLI.
#[btf_map(name = "events")]
pub(crate) static EVENTS: PerCpuArray<u64, { Event::CAPACITY as usize }> = PerCpuArray::new();

/// Breaks by the index of the service and [`lbpersist_common::breaks::BreakReason`]. Written per break; read by the CLI.
#[btf_map(name = "breaks")]
pub(crate) static BREAKS: Array<BreakCounters, 16_384> = Array::new();

/// The last breaks. Written per break; read by the CLI.
#[btf_map(name = "last_breaks")]
pub(crate) static LAST_BREAKS: Array<BreakRecord, { REMEMBERED as usize }> = Array::new();

/// How many breaks there were, and how long there is a reason to look for ghosts. Written by packets, and by whoever takes entries
/// away; read when a client is bound or opens a connection.
#[btf_map(name = "break_state")]
pub(crate) static BREAK_STATE: Array<BreakState, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

/// A break that is being noted. Written and read by whoever notes it.
#[btf_map(name = "breaking")]
pub(crate) static BREAKING: PerCpuArray<BreakRecord, 1> = PerCpuArray::new();

/// What is remembered of entries that are gone or may be evicted. Written by the daemon's sweep, by flushes and by imports; taken by
/// the packet that binds the client anew.
#[btf_map(name = "ghosts")]
pub(crate) static GHOSTS: Array<GhostSet, 32_768, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Counters of services by their index. Written per packet; read by the CLI.
#[btf_map(name = "service_stats")]
pub(crate) static SERVICE_STATS: PerCpuArray<ServiceCounters, 16_384> = PerCpuArray::new();

/// Counters of servers by number. Written per packet; read by the CLI.
#[btf_map(name = "server_stats")]
pub(crate) static SERVER_STATS: PerCpuArray<ServerCounters, 65_536> = PerCpuArray::new();

/// The optional lookups that services ask for: bits of [`lbpersist_common::layout::feature`].
#[inline(always)]
pub(crate) fn features() -> u32 {
    LAYOUT.get(0).map_or(0, |layout| layout.features)
}
