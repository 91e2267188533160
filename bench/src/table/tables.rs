//! The tables of a daemon that does not run yet, filled and swept by this process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapData;
use lbpersist::{
    clock, config,
    datapath::{
        DataPath,
        desired::{Desired, Facts},
        maps::PinDirectory,
        ring::Ring,
        sweep::{Progress, Sweep},
    },
    model::Model,
    network::View,
};
use lbpersist_common::{
    connection::{Connection, ConnectionKey},
    net::{Address, Destination},
    persistence::{Entry, EntryKey},
    ring::slot_of,
    server::Binding,
    service::{Pool, Service},
    tcp::State,
};
use lbpersist_tests::balancer::Balancer;

use crate::{cpu, veth::site};

/// Tables of a service with one pool.
pub(super) struct Tables {
    data_path: DataPath,
    model: Model,
    entries: u32,
}

/// What a pass took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// CPU time of the whole.
    pub(super) cpu: Duration,
    /// The longest time for which the daemon's task would not have looked at anything else.
    pub(super) longest_portion: Duration,
}

impl Tables {
    /// Makes the maps that the daemon will find.
    pub(super) fn open(balancer: &Balancer, entries: u32) -> Result<Self> {
        let text = fs::read_to_string(balancer.configuration_file())?;
        let model = config::parse(&text).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        let pins = PinDirectory::new(balancer.pin_directory());
        let mut data_path = DataPath::open(&pins, &model.data_path)?;
        let view = View::new(BTreeMap::new(), Vec::new(), BTreeMap::new());
        let (down, shares) = (BTreeSet::new(), BTreeMap::new());
        let facts = Facts { model: &model, down: &down, shares: &shares, view: &view };
        let desired = Desired::compute(&facts, &mut data_path.identities)?;
        data_path.apply(desired)?;
        Ok(Self { data_path, model, entries })
    }

    /// Gives every client an entry and a connection in that state.
    pub(super) fn fill(&mut self, state: State) -> Result<()> {
        let open = u32::from(state != State::Closed);
        let now = clock::now_ns();
        let place = Place::of(&self.data_path)?;
        for client in 0..self.entries {
            let (key, connection_key) = place.keys(client);
            let server = place.server(&key.client);
            let known = self.data_path.actual().servers.get(&server).context("an empty slot")?;
            let binding = Binding { server, generation: known.generation };
            let entry = Entry { binding, open, changes: 1, idle_since_ns: now, created_ns: now };
            self.data_path.maps.entries.set(&key, &entry)?;
            let state = state as u32;
            let connection =
                Connection { binding, state, suspect: 0, last_seen_ns: now, entry_created_ns: now };
            self.data_path.maps.connections.set(&connection_key, &connection)?;
        }
        let wanted = self.entries as usize;
        ensure!(self.counts()? == (wanted, wanted), "the tables hold {:?}", self.counts()?);
        Ok(())
    }

    /// Entries and connections.
    pub(super) fn counts(&self) -> Result<(usize, usize)> {
        let maps = &self.data_path.maps;
        Ok((maps.entries.all()?.len(), maps.connections.all()?.len()))
    }

    /// One pass, as if it were so much later.
    pub(super) fn sweep(&mut self, later: Duration) -> Result<Pass> {
        let now = clock::now_ns() + u64::try_from(later.as_nanos())?;
        let mut sweep = Sweep::new(&self.model.idle_limits, Duration::ZERO);
        let (cpu, mut longest_portion) = (cpu::spent_by_thread()?, Duration::ZERO);
        loop {
            let begin = Instant::now();
            let progress = sweep.portion(&mut self.data_path, now)?;
            longest_portion = longest_portion.max(begin.elapsed());
            if progress == Progress::Rest {
                return Ok(Pass { cpu: cpu::spent_by_thread()? - cpu, longest_portion });
            }
        }
    }

    /// What the kernel says a place in each table takes, with what the table has besides.
    pub(super) fn bytes_of_a_record(&self) -> Result<[(&'static str, i64); 2]> {
        let bytes = |name: &str, places: u32| -> Result<i64> {
            let map = MapData::from_pin(self.data_path.pins().map(name))?;
            let file = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
            let text = fs::read_to_string(&file)?;
            let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
            let all: i64 = line.context("no memlock in fdinfo")?.trim().parse()?;
            // To the nearest: what a table has once is no byte of each.
            Ok((all + i64::from(places) / 2) / i64::from(places))
        };
        let maps = &self.data_path.maps;
        Ok([
            ("entry", bytes("entries", maps.entries.capacity()?)?),
            ("connection", bytes("connections", maps.connections.capacity()?)?),
        ])
    }
}

/// The service and its pool.
struct Place {
    service: Service,
    port: u16,
    pool: Pool,
    ring: Rc<Ring>,
    side: u32,
}

impl Place {
    fn of(data_path: &DataPath) -> Result<Self> {
        let actual = data_path.actual();
        let (endpoint, &service) = actual.services.first_key_value().context("no service")?;
        let &pool = actual.pools.get(&service.pool).context("no pool")?;
        let ring = data_path.ring(service.pool).context("no ring")?;
        Ok(Self { service, port: endpoint.port, pool, ring, side: data_path.side(service.pool)? })
    }

    /// The keys of a client, which are those of the frames that it sends.
    fn keys(&self, number: u32) -> (EntryKey, ConnectionKey) {
        let client = Address::from_ipv4((site::FIRST_CLIENT + number).to_be_bytes());
        let destination = Destination::NONE;
        let connection = ConnectionKey {
            client,
            service: self.service.id,
            client_port: site::FIRST_PORT,
            service_port: self.port,
            destination,
            reserved: 0,
        };
        (EntryKey { client, scope: self.service.scope, destination }, connection)
    }

    /// The server that the ring says.
    fn server(&self, client: &Address) -> u32 {
        let slot = slot_of(self.pool.slot_hash(client, 0, &Destination::NONE), self.pool.slots);
        self.ring.server(slot, self.side).into()
    }
}
