//! The balancer that is measured: the real program on maps of its own, filled as the daemon fills them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use lbpersist::{
    config,
    datapath::{
        DataPath,
        desired::{Desired, Facts},
        maps::PinDirectory,
        object,
        sweep::{Progress, Sweep},
    },
    model::Model,
    network::{Link, Route, RouteKind, Table, View},
};
use lbpersist_common::{
    counter::Event,
    net::{TCP, UDP},
    reason::Reason,
};

use crate::{
    case::{Door, Way},
    frame::End,
    open,
};

/// The interface that packets of a test run come in by: loopback of any network namespace. They leave by it too, which
/// the program answers with `XDP_TX`.
const INTERFACE: u32 = 1;
/// As many servers as in the figures that others have published.
pub(crate) const SERVERS: u16 = 64;
/// Where servers listen.
const SERVER_PORT: u16 = 8_080;

/// A program and its maps, removed in the end.
pub(crate) struct Balancer {
    data_path: DataPath,
    door: Door,
    tables: u32,
}

/// What has been counted up to a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) reasons: Vec<u64>,
    pub(crate) events: Vec<u64>,
    /// New connections whose client met its server again.
    pub(crate) kept: u64,
}

impl Door {
    /// What clients connect to.
    pub(crate) fn service(self) -> End {
        let address = if self.is_ipv6() {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10))
        } else {
            IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10))
        };
        End { address, port: 80 }
    }

    /// The server of that number, from 1 on.
    pub(crate) fn server(self, number: u16) -> End {
        let address = if self.is_ipv6() {
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, number))
        } else {
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, number as u8))
        };
        let is_rewritten = matches!(self.way(), Way::Nat | Way::Masquerade);
        let port = if is_rewritten { SERVER_PORT } else { self.service().port };
        End { address, port }
    }

    /// IANA protocol number.
    pub(crate) fn protocol(self) -> u8 {
        if self == Self::UdpV4 { UDP } else { TCP }
    }

    /// Bits of an IPv4 client that make its key.
    pub(crate) fn mask(self) -> u8 {
        if self == Self::TcpV4Masked { 24 } else { 32 }
    }
}

impl Balancer {
    /// Loads the program with tables of that size and gives it a service and its servers.
    pub(crate) fn open(door: Door, tables: u32) -> Result<Self> {
        let pins = PinDirectory::new(format!("/sys/fs/bpf/lbpersist-bench-{}", process::id()));
        object::remove_all(&pins)?;
        let model = model(door, tables, &[1; SERVERS as usize])?;
        let data_path = DataPath::open(&pins, &model.data_path)?;
        let mut balancer = Self { data_path, door, tables };
        balancer.apply(&model)?;
        Ok(balancer)
    }

    /// Gives the first half of the servers one weight and the second another one.
    pub(crate) fn weigh(&mut self, first: u16, second: u16) -> Result<()> {
        let mut weights = [first; SERVERS as usize];
        weights[usize::from(SERVERS / 2)..].fill(second);
        let model = model(self.door, self.tables, &weights)?;
        self.apply(&model)
    }

    /// The program that carries packets.
    pub(crate) fn program(&mut self) -> Result<ProgramFd> {
        Ok(self.data_path.object.program()?.fd()?.try_clone()?)
    }

    /// Opens the connection of a client.
    pub(crate) fn connect(&mut self, client: End) -> Result<()> {
        open::open(self.data_path.object.program()?, client, self.door.service())
    }

    /// What has been counted.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let maps = &self.data_path.maps;
        let reasons = (0..).take(Reason::ALL.len()).map(|number| maps.verdicts.get(&number, 0));
        let events = (0..).take(Event::ALL.len()).map(|number| maps.events.get(&number, 0));
        let total = |values: aya::maps::PerCpuValues<u64>| values.iter().sum();
        let mut kept = 0;
        for service in self.data_path.actual().services.values() {
            let counters = maps.service_stats.get(&service.index, 0)?;
            kept += counters.iter().map(|counters| counters.kept).sum::<u64>();
        }
        Ok(Counts {
            reasons: reasons.map(|values| values.map(total)).collect::<Result<_, _>>()?,
            events: events.map(|values| values.map(total)).collect::<Result<_, _>>()?,
            kept,
        })
    }

    /// How many clients have an entry.
    pub(crate) fn entries(&self) -> Result<usize> {
        Ok(self.data_path.maps.entries.all()?.len())
    }

    /// How many connections are known.
    pub(crate) fn connections(&self) -> Result<usize> {
        Ok(self.data_path.maps.connections.all()?.len())
    }

    /// Sweeps once as the daemon does, so that slots whose clients are where the ring says lose their marks.
    pub(crate) fn settle(&mut self) -> Result<()> {
        // A moment at which nothing has been silent for long.
        const NOW_NS: u64 = 0;
        let mut sweep = Sweep::new(&Model::default().idle_limits, Duration::ZERO);
        sweep.handshakes(&mut self.data_path, NOW_NS)?;
        while let Progress::More = sweep.portion(&mut self.data_path, NOW_NS)? {}
        let marked = self.marked()?;
        ensure!(marked == 0, "{marked} slots are marked although every client is where it should");
        Ok(())
    }

    /// How many slots are marked.
    pub(crate) fn marked(&self) -> Result<usize> {
        let mut marked = 0;
        for &pool in self.data_path.actual().pools.keys() {
            marked += self.data_path.ring(pool).context("a pool has no ring")?.marked();
        }
        Ok(marked)
    }

    fn apply(&mut self, model: &Model) -> Result<()> {
        let (down, view) = (BTreeSet::new(), view(self.door));
        let facts = Facts { model, down: &down, shares: &BTreeMap::new(), view: &view };
        let desired = Desired::compute(&facts, &mut self.data_path.identities)
            .context("numbering what is configured")?;
        self.data_path.apply(desired)?;
        Ok(())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Err(error) = object::remove_all(self.data_path.pins()) {
            eprintln!("lbpersist-bench: {error}");
        }
    }
}

/// A service and its servers, by way of a configuration file.
fn model(door: Door, tables: u32, weights: &[u16]) -> Result<Model> {
    let service = door.service();
    let mut text = format!(
        "[flood_limits]\nnew_clients = 1000000000\nnew_clients_of_prefix = 1000000000\n\
         [data_path]\nentry_table = {tables}\nconnection_table = {tables}\ntranslation_table = {tables}\nmasquerade_ports = \"1024-65535\"\n\
         [[virtual_service]]\nname = \"service\"\naddress = \"{}\"\nport = {}\nprotocol = \"{}\"\npool = \"pool\"\n\
         [[persistence_profile]]\nname = \"client\"\ntimeout = \"1h\"\nipv4_mask = {}\n\
         [[pool]]\nname = \"pool\"\npersistence_profile = \"client\"\n{}\nservers = [\n",
        service.address,
        service.port,
        if door.protocol() == UDP { "udp" } else { "tcp" },
        door.mask(),
        match door.way() {
            Way::Nat => "forwarding = \"nat\"",
            Way::Masquerade => "forwarding = \"masquerade\"\nmasquerade_ipv4 = \"192.0.2.200\"",
            Way::Direct => "forwarding = \"direct\"",
            Way::Tunnel(_) =>
                "forwarding = \"tunnel\"\ntunnel_source_ipv4 = \"192.0.2.200\"\n\
                 tunnel_source_ipv6 = \"2001:db8:5::fffe\"",
        },
    );
    for (number, weight) in (1..).zip(weights) {
        let End { address, port } = door.server(number);
        writeln!(text, "{{ address = \"{address}\", port = {port}, weight = {weight} }},")?;
    }
    text.push_str("]\n");
    config::parse(&text).map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// A network in which all servers are neighbours and all clients behind one router.
fn view(door: Door) -> View {
    let link = Link {
        name: "bench".to_owned(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        up: true,
        mtu: 1_500,
        xdp: None,
    };
    let gateway = match door.service().address {
        IpAddr::V4(_) => IpAddr::from([192, 0, 2, 254]),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0xffff)),
    };
    let route = |prefix, gateway| Route {
        prefix,
        table: Table::Main,
        kind: RouteKind::Unicast,
        gateway,
        interface: INTERFACE,
        metric: 0,
    };
    let servers = door.server(1).address;
    let length = if servers.is_ipv4() { 24 } else { 64 };
    let net = |address, length| ipnet::IpNet::new_assert(address, length).trunc();
    let neighbours = (1..=SERVERS).map(|number| door.server(number).address).chain([gateway]);
    View::new(
        BTreeMap::from([(INTERFACE, link)]),
        vec![route(net(servers, 0), Some(gateway)), route(net(servers, length), None)],
        neighbours
            .zip(1_u8..)
            .map(|(address, number)| ((INTERFACE, address), [2, 0, 0, 0, 1, number]))
            .collect(),
    )
}
