//! The real program, run on single packets by BPF_PROG_TEST_RUN, with maps of its own and a network made by hand.
//!
//! No interface is touched and no namespace is needed. Every packet comes in by interface 1, which the kernel takes when it is
//! told nothing else, and a redirect only says that it would be one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use lbpersist::{
    clock, config,
    datapath::{
        DataPath, Error,
        desired::{Desired, Facts, ServerKey},
        maps::PinDirectory,
        sweep::{Progress, Sweep},
    },
    model::Model,
    network::View,
};
use lbpersist_common::{
    breaks::BreakReason,
    connection::{Connection, ConnectionKey, Handshake},
    counter::Event,
    persistence::{Entry, EntryKey},
    reason::Reason,
    translation::{Translation, TranslationKey},
};

use crate::{balancer, wait};

/// The interface that packets come in by.
pub const INGRESS: u32 = 1;

/// The longest frame that comes back.
const ROOM: usize = 16_384;

/// How late the program may run.
const LATE_NS: u64 = 20_000_000;

/// The program with its maps. Dropping it removes all it pinned.
pub struct Rig {
    data_path: Option<DataPath>,
    pins: Pins,
    model: Model,
    sweep: Sweep,
    // What the program's clock says when it runs next; `None` leaves it alone.
    clock: Option<u64>,
    was_late: bool,
    /// The servers that are down.
    pub down: BTreeSet<ServerKey>,
    /// The network.
    pub view: View,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub action: Action,
    /// What it was counted under, and only under this.
    pub reason: Reason,
    /// The packet afterwards.
    pub packet: Vec<u8>,
}

/// A verdict, by its number in `linux/bpf.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// XDP_ABORTED: the program failed.
    Aborted,
    /// XDP_DROP.
    Drop,
    /// XDP_PASS.
    Pass,
    /// XDP_TX.
    Transmit,
    /// XDP_REDIRECT.
    Redirect,
}

impl Rig {
    /// Loads the program and fills its maps; `None`, after saying so, on a machine where that cannot be.
    ///
    /// # Panics
    /// When the text or the kernel is against it.
    pub fn new(configuration: &str, view: View) -> Option<Self> {
        wait::is_root_or_skip().then(|| Self::load(configuration, view).expect("a rig"))
    }

    /// Takes another configuration.
    pub fn configure(&mut self, configuration: &str) -> Result<usize> {
        self.model = config::parse(configuration)?;
        self.apply()
    }

    /// Fills the maps by configuration, view and who is down; returns how many steps that took.
    pub fn apply(&mut self) -> Result<usize> {
        let data_path = self.data_path.as_mut().context("the data path is open")?;
        let facts = Facts {
            model: &self.model,
            down: &self.down,
            shares: &BTreeMap::new(),
            view: &self.view,
        };
        let desired = Desired::compute(&facts, &mut data_path.identities)?;
        Ok(data_path.apply(desired)?)
    }

    /// Opens everything anew from the pins, as a daemon does that starts again. Maps are not filled.
    pub fn reopen(&mut self) -> Result<()> {
        self.data_path = None;
        self.data_path = Some(DataPath::open(&self.pins.directory(), &self.model.data_path)?);
        self.sweep = sweep(&self.model);
        Ok(())
    }

    /// Sets the program's clock, which then stands still but for what a single run takes. The same time is to be passed to
    /// the sweep.
    pub fn set_clock(&mut self, now_ns: u64) {
        self.clock = Some(now_ns);
    }

    /// Whether the program has run much later than its clock was to say, since the last call: on a busy machine it may have to
    /// wait for its turn between the two, and then what it decided by its clock is no evidence.
    pub fn take_late(&mut self) -> bool {
        std::mem::take(&mut self.was_late)
    }

    /// Begins anew with another configuration: empty tables, new rings without marks, every server up.
    pub fn reset(&mut self, configuration: &str) -> Result<()> {
        self.model.services.clear();
        self.model.pools.clear();
        self.down.clear();
        self.apply()?;
        let maps = &mut self.data_path().maps;
        for (key, _) in maps.entries.all()? {
            maps.entries.remove(&key)?;
        }
        for (key, _) in maps.connections.all()? {
            maps.connections.remove(&key)?;
        }
        for (key, _) in maps.handshakes.all()? {
            maps.handshakes.remove(&key)?;
        }
        maps.recent_flows.forget_all();
        self.configure(configuration)?;
        self.sweep = sweep(&self.model);
        Ok(())
    }

    /// The data path.
    ///
    /// # Panics
    /// After a failed [`reopen`](Self::reopen).
    pub fn data_path(&mut self) -> &mut DataPath {
        self.data_path.as_mut().expect("it is open")
    }

    /// Runs the program on a frame, which must count under exactly one reason.
    pub fn send(&mut self, frame: &[u8]) -> Result<Outcome> {
        let before = self.verdicts()?;
        self.turn_clock()?;
        let mut packet = vec![0; ROOM];
        let result = self.data_path().object.program()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut packet),
            ..TestRunOptions::default()
        })?;
        self.note_delay()?;
        packet.truncate(result.data_size_out as usize);
        let after = self.verdicts()?;
        let counted: Vec<(usize, u64)> = before
            .iter()
            .zip(&after)
            .map(|(before, after)| after - before)
            .enumerate()
            .filter(|(_, rise)| *rise != 0)
            .collect();
        ensure!(matches!(counted[..], [(_, 1)]), "a packet was counted as {counted:?}");
        let reason = *Reason::ALL.get(counted[0].0).context("a reason has a name")?;
        Ok(Outcome { action: Action::of(result.return_value)?, reason, packet })
    }

    /// How often an event was counted.
    pub fn event(&mut self, event: Event) -> Result<u64> {
        Ok(self.data_path().maps.events.get(&(event as u32), 0)?.iter().sum())
    }

    /// Breaks of all services by reason, those that there were.
    pub fn breaks(&mut self) -> Result<BTreeMap<BreakReason, u64>> {
        let data_path = self.data_path();
        let services = &data_path.actual().services;
        let mut sum = BTreeMap::new();
        for service in services.values() {
            let counts = data_path.maps.breaks.get(&service.index, 0)?.by_reason;
            for reason in BreakReason::ALL {
                let count = counts[reason as usize];
                if count > 0 {
                    *sum.entry(reason).or_default() += count;
                }
            }
        }
        Ok(sum)
    }

    /// The entries, by key.
    pub fn entries(&mut self) -> Result<Vec<(EntryKey, Entry)>, Error> {
        sorted(self.data_path().maps.entries.all())
    }

    /// The connections, by key.
    pub fn connections(&mut self) -> Result<Vec<(ConnectionKey, Connection)>, Error> {
        sorted(self.data_path().maps.connections.all())
    }

    /// The handshakes, by key.
    pub fn handshakes(&mut self) -> Result<Vec<(ConnectionKey, Handshake)>, Error> {
        sorted(self.data_path().maps.handshakes.all())
    }

    /// The translations, by key: those of connections, and those that are unfinished.
    pub fn translations(&mut self) -> Result<[Vec<(TranslationKey, Translation)>; 2], Error> {
        let maps = &self.data_path().maps;
        Ok([sorted(maps.translations.all())?, sorted(maps.half_open_translations.all())?])
    }

    /// How many slots of the pool's ring are marked.
    pub fn marked(&mut self, pool: u32) -> Result<usize> {
        Ok(self.data_path().ring(pool).context("the pool has a ring")?.marked())
    }

    /// Sweeps the handshakes at that time; says how many slots were gone through.
    pub fn sweep_handshakes(&mut self, now_ns: u64) -> Result<usize> {
        self.turn_clock()?;
        let Self { data_path, sweep, .. } = self;
        Ok(sweep.handshakes(data_path.as_mut().expect("it is open"), now_ns)?)
    }

    /// Makes one whole pass of the sweep at that time.
    pub fn sweep_pass(&mut self, now_ns: u64) -> Result<()> {
        let start = Instant::now();
        let mut begun = false;
        loop {
            self.turn_clock()?;
            let Self { data_path, sweep, .. } = self;
            match sweep.portion(data_path.as_mut().expect("it is open"), now_ns)? {
                Progress::Rest if begun => return Ok(()),
                Progress::Rest => thread::sleep(Duration::from_millis(1)),
                Progress::More => begun = true,
            }
            ensure!(start.elapsed() < wait::SOON, "a pass of the sweep does not end");
        }
    }

    fn load(configuration: &str, view: View) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        balancer::mount_bpf_file_system()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A name that the harness knows, so that it removes what a killed process leaves behind.
        let (prefix, process) = (balancer::PIN_PREFIX, std::process::id());
        let pins = Pins(format!("/sys/fs/bpf/{prefix}{process}-rows-{number}").into());
        let model = config::parse(configuration)?;
        let data_path = Some(DataPath::open(&pins.directory(), &model.data_path)?);
        let sweep = sweep(&model);
        let mut rig = Self {
            data_path,
            pins,
            model,
            sweep,
            clock: None,
            was_late: false,
            down: BTreeSet::new(),
            view,
        };
        rig.apply()?;
        Ok(rig)
    }

    fn turn_clock(&mut self) -> Result<()> {
        let Some(now_ns) = self.clock else { return Ok(()) };
        let map = &mut self.data_path().maps.layout;
        let mut layout = map.get(&0, 0)?;
        layout.clock_offset_ns = now_ns.wrapping_sub(clock::now_ns());
        Ok(map.set(0, layout, 0)?)
    }

    /// Notes it when the program may have run long after its clock was set.
    fn note_delay(&mut self) -> Result<()> {
        let Some(now_ns) = self.clock else { return Ok(()) };
        let offset = self.data_path().maps.layout()?.clock_offset_ns;
        self.was_late |= clock::now_ns().wrapping_add(offset).wrapping_sub(now_ns) > LATE_NS;
        Ok(())
    }

    fn verdicts(&mut self) -> Result<Vec<u64>> {
        let map = &self.data_path().maps.verdicts;
        (0..Reason::CAPACITY).map(|number| Ok(map.get(&number, 0)?.iter().sum())).collect()
    }
}

impl Action {
    fn of(number: u32) -> Result<Self> {
        let all = [Self::Aborted, Self::Drop, Self::Pass, Self::Transmit, Self::Redirect];
        all.get(number as usize).copied().with_context(|| format!("no verdict is {number}"))
    }
}

/// A pin directory that goes away with its owner.
struct Pins(PathBuf);

impl Pins {
    fn directory(&self) -> PinDirectory {
        PinDirectory::new(&self.0)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // There is nobody left to tell of errors.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A sweep that hardly rests.
fn sweep(model: &Model) -> Sweep {
    Sweep::new(&model.idle_limits, Duration::ZERO)
}

fn sorted<K: Ord, V>(records: Result<Vec<(K, V)>, Error>) -> Result<Vec<(K, V)>, Error> {
    records.map(|mut records| {
        records.sort_by(|(one, _), (other, _)| one.cmp(other));
        records
    })
}
