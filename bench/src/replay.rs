//! The replaying program, and how it is told what to do.
#![expect(
    unsafe_code,
    reason = "the kernel is given the plan as it lies in memory, and an interface by name"
)]

use std::ffi::CString;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerCpuValues, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
    util::nr_cpus,
};

use crate::{
    cpu,
    plan::{FRAME, Plan, Turn},
};

/// The BPF object, as the build script left it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lbpersist-bench-ebpf"));

/// The program that restores the packet and jumps on.
const REPLAY: &str = "replay";
/// The program that sends live frames, and the one that counts them.
const GENERATE: &str = "generate";
const FAR_END: &str = "far_end";

/// Live frames that are under way at a time: as many as a poll of the interface takes.
const BATCH: u32 = 64;

// SAFETY: a plain type without padding, as `bytemuck` has checked.
unsafe impl aya::Pod for Plan {}
// SAFETY: as above.
unsafe impl aya::Pod for Turn {}

/// The loaded programs of the object.
pub(crate) struct Replay {
    ebpf: Ebpf,
    programs: ProgramArray<MapData>,
    plan: Array<MapData, Plan>,
    turn: PerCpuArray<MapData, Turn>,
    arrived: PerCpuArray<MapData, u64>,
}

/// The programs to compare with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floor {
    Empty,
    HeadMove,
    LookUp,
    Put,
}

impl Floor {
    const ALL: [Self; 4] = [Self::Empty, Self::HeadMove, Self::LookUp, Self::Put];

    const fn program(self) -> &'static str {
        match self {
            Self::Empty => "transmit",
            Self::HeadMove => "move_head",
            Self::LookUp => "look_up",
            Self::Put => "put",
        }
    }
}

impl Replay {
    /// Loads the object; `clients` is the size of the table that [`Floor::LookUp`] looks into.
    pub(crate) fn load(clients: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("clients", clients)
            .load(OBJECT)
            .context("loading the measuring programs")?;
        for name in Floor::ALL.map(Floor::program).into_iter().chain([REPLAY, GENERATE, FAR_END]) {
            program(&mut ebpf, name)?.load().with_context(|| format!("loading `{name}`"))?;
        }
        let mut map = |name: &str| ebpf.take_map(name).with_context(|| format!("map `{name}`"));
        let programs = ProgramArray::try_from(map("programs")?)?;
        let plan = Array::try_from(map("plan")?)?;
        let turn = PerCpuArray::try_from(map("turn")?)?;
        let arrived = PerCpuArray::try_from(map("arrived")?)?;
        Ok(Self { ebpf, programs, plan, turn, arrived })
    }

    /// Has packets go to `program`.
    pub(crate) fn jump_to(&mut self, program: &ProgramFd) -> Result<()> {
        self.programs.set(0, program, 0).context("a jump to the program")
    }

    /// Has packets go to a floor.
    pub(crate) fn jump_to_floor(&mut self, floor: Floor) -> Result<()> {
        let fd = program(&mut self.ebpf, floor.program())?.fd()?.try_clone()?;
        self.jump_to(&fd)
    }

    /// Sets what is replayed, and starts with `client`.
    pub(crate) fn set_plan(&mut self, plan: &Plan, client: u32) -> Result<()> {
        self.plan.set(0, plan, 0).context("the plan")?;
        self.set_turn(Turn { client, ..Turn::default() })
    }

    /// Whose turn it is.
    pub(crate) fn turn(&self) -> Result<Turn> {
        let turns = self.turn.get(&0, 0)?;
        turns.get(cpu::current()?).copied().context("a CPU without a turn")
    }

    /// Sets whose turn it is.
    pub(crate) fn set_turn(&mut self, turn: Turn) -> Result<()> {
        let cpus = nr_cpus().map_err(|(file, error)| anyhow!("{file}: {error}"))?;
        let turns = PerCpuValues::try_from(vec![turn; cpus])?;
        self.turn.set(0, turns, 0).context("the turn")
    }

    /// Replays `repeat` packets and returns what one took, in nanoseconds. `verdict` is what must come out.
    pub(crate) fn run(&mut self, repeat: u32, verdict: u32) -> Result<i64> {
        let data = [0; FRAME];
        let options = TestRunOptions { data_in: Some(&data), repeat, ..TestRunOptions::default() };
        let result = program(&mut self.ebpf, REPLAY)?.test_run(options).context("a test run")?;
        ensure!(
            result.return_value == verdict,
            "the last packet's verdict is {}, {verdict} was expected",
            result.return_value
        );
        i64::try_from(result.duration.as_nanos()).context("a test run took centuries")
    }

    /// Sends `packets` live frames out of an interface of this thread's namespace.
    pub(crate) fn run_live(&mut self, interface: &str, packets: u32) -> Result<()> {
        let name = CString::new(interface)?;
        // SAFETY: reads a string that ends with a zero.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "there is no interface {interface}");
        let data = [0; FRAME];
        // struct xdp_md of linux/bpf.h: data, data_end, data_meta, the interface, its queue, the interface to leave by.
        let context = [0, FRAME as u32, 0, index, 0, 0].map(u32::to_ne_bytes).concat();
        let options = TestRunOptions {
            data_in: Some(&data),
            ctx_in: Some(&context),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf, GENERATE)?.test_run(options).context("a run of live frames")?;
        Ok(())
    }

    /// The program that counts live frames.
    pub(crate) fn far_end(&mut self) -> Result<ProgramFd> {
        Ok(program(&mut self.ebpf, FAR_END)?.fd()?.try_clone()?)
    }

    /// Live frames that it has counted.
    pub(crate) fn arrived(&self) -> Result<u64> {
        Ok(self.arrived.get(&0, 0)?.iter().sum())
    }

    /// Replays one packet and returns what comes out.
    pub(crate) fn once(&mut self) -> Result<(u32, Vec<u8>)> {
        let data = [0; FRAME];
        let mut out = [0; FRAME * 2];
        let options = TestRunOptions {
            data_in: Some(&data),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = program(&mut self.ebpf, REPLAY)?.test_run(options).context("a test run")?;
        let length = out.len().min(result.data_size_out as usize);
        Ok((result.return_value, out[..length].to_vec()))
    }
}

fn program<'ebpf>(ebpf: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("program `{name}`"))?;
    Ok(program.try_into()?)
}

/// What to replay so that the sequence visits all clients, each far from the one before it.
pub(crate) fn scattered_step(clients: u32) -> u32 {
    // The golden ratio spreads multiples of itself as evenly as can be.
    let near = (f64::from(clients) * 0.618_034) as u32;
    (near.max(1)..).find(|&step| common_divisor(step, clients) == 1).unwrap_or(1)
}

fn common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_its_turn() {
        for clients in [1, 2, 3, 10, 1_000, 10_000] {
            let step = scattered_step(clients);
            assert!(step <= clients);
            let mut seen = vec![false; clients as usize];
            let mut client = 0;
            for _ in 0..clients {
                seen[client as usize] = true;
                client = (client + step) % clients;
            }
            assert!(seen.iter().all(|&seen| seen), "{clients}");
        }
    }
}
