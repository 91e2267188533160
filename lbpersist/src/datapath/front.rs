//! The addresses that services are on, and what a packet without a port may know of them.

use std::collections::BTreeMap;

use lbpersist_common::{
    front::{Front, front_flag},
    net::{Address, Endpoint, TCP},
    service::Service,
};

use crate::model::Model;

/// The addresses of `services`. Prefixes are left out: who pings one of their addresses pings whoever has it.
pub(super) fn fronts(
    model: &Model,
    services: &BTreeMap<Endpoint, Service>,
) -> BTreeMap<Address, Front> {
    let echo = if model.data_path.answer_echo { front_flag::ECHO } else { 0 };
    let on_addresses = services.iter().filter(|(_, service)| service.prefix_length == 0);
    let mut ends: BTreeMap<Address, [Vec<u16>; 2]> = BTreeMap::new();
    for (endpoint, _) in on_addresses {
        let ports = ends.entry(endpoint.address).or_default();
        ports[usize::from(endpoint.protocol != u16::from(TCP))].push(endpoint.port);
    }
    let front = |[tcp, udp]: [Vec<u16>; 2]| {
        let sole = |ports: &[u16], flag| match ports {
            [port] => (*port, flag),
            _ => (0, 0),
        };
        let (tcp_port, sole_tcp) = sole(&tcp, front_flag::SOLE_TCP);
        let (udp_port, sole_udp) = sole(&udp, front_flag::SOLE_UDP);
        Front { flags: echo | sole_tcp | sole_udp, tcp_port, udp_port }
    };
    ends.into_iter().map(|(address, ports)| (address, front(ports))).collect()
}
