//! The one place where the map types are given to aya.
#![expect(
    unsafe_code,
    reason = "aya reads and writes map values as bytes and asks for this promise"
)]

use crate::{
    breaks::{BreakCounters, BreakRecord},
    connection::{Connection, ConnectionKey, Handshake},
    counter::{ServerCounters, ServiceCounters},
    flood::FloodLimits,
    fragment::{FragmentKey, FragmentWay},
    front::Front,
    layout::{Layout, Name, NameKey},
    net::{Address, Endpoint},
    persistence::{Entry, EntryKey},
    rare::Pending,
    ring::Slot,
    route::{Neighbour, NeighbourKey, Route},
    server::Server,
    service::{Pool, PrefixKey, Reverse, Service},
    translation::{Translation, TranslationKey},
};

macro_rules! pod {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: the type derives `bytemuck::Pod`: `repr(C)`, integers only, no padding, any bits are valid.
            unsafe impl aya::Pod for $type {}
        )+
    };
}

pod!(
    Pending,
    Address,
    BreakCounters,
    BreakRecord,
    Connection,
    ConnectionKey,
    Endpoint,
    Entry,
    EntryKey,
    FragmentKey,
    FloodLimits,
    FragmentWay,
    Front,
    Handshake,
    Layout,
    Name,
    NameKey,
    Neighbour,
    NeighbourKey,
    Pool,
    PrefixKey,
    Reverse,
    Route,
    Server,
    ServerCounters,
    Service,
    ServiceCounters,
    Slot,
    Translation,
    TranslationKey,
);
