//! How long configurations of many services take: from the text to the maps, as the daemon does it, on maps of their own; and
//! through a running daemon, from outside.
#![expect(clippy::print_stdout, reason = "the table is what this program is run for")]

mod daemon;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
    process,
    time::Instant,
};

use anyhow::Result;
use lbpersist::{
    config,
    datapath::{
        DataPath,
        desired::{Desired, Facts},
        maps::PinDirectory,
        object,
    },
    network::View,
};

use self::daemon::Daemon;
use crate::{
    figures::Spread,
    report::{self, Record},
};

/// Options of the configuration suite.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs per case; the median of them is what counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Services, each with a pool of its own.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    services: u32,
    /// Slots of every ring: a prime.
    #[arg(long, default_value_t = lbpersist_common::ring::DEFAULT_SLOTS)]
    ring_size: u32,
    /// Writes the figures to this file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Servers of each pool.
const SERVERS: u32 = 10;

/// Measures every case and prints a line of each.
pub(crate) fn measure(options: &Options) -> Result<()> {
    let Options { runs, services, ring_size, .. } = *options;
    let size = format!("{services}x{SERVERS}");
    let mut cases: BTreeMap<(String, &'static str), Vec<i64>> = BTreeMap::new();
    println!(
        "{runs} runs, rings of {ring_size} slots; from the text to the maps, and through a daemon from outside\n"
    );
    let first = text(services, ring_size, |_| 1);
    let others = text(services, ring_size, |_| 2);
    let one_more = text(services, ring_size, |n| 2 + u32::from(n == 7));
    let one_left = text(1, ring_size, |_| 2);
    for _ in 0..runs {
        let mut note =
            |case: String, unit, value| cases.entry((case, unit)).or_default().push(value);
        let mut balancer = Balancer::new()?;
        for (case, text) in [
            (format!("start-{size}"), &first),
            (format!("reload-{size}"), &others),
            ("reload-one-weight".to_owned(), &one_more),
            (format!("remove-{size}"), &one_left),
        ] {
            let begin = Instant::now();
            balancer.apply(text)?;
            note(case, "ms", begin.elapsed().as_millis().try_into()?);
        }
        drop(balancer);
        let (daemon, took) = Daemon::start(&first)?;
        note(format!("daemon-start-{size}"), "ms", took);
        note("daemon-dry-run".to_owned(), "ms", daemon.apply(&others, &["--dry-run"])?);
        note(format!("daemon-reload-{size}"), "ms", daemon.apply(&others, &[])?);
        note("daemon-reload-one-weight".to_owned(), "ms", daemon.apply(&one_more, &[])?);
        let [now, most] = daemon.resident()?;
        note("daemon-resident".to_owned(), "kB", now);
        note("daemon-resident-most".to_owned(), "kB", most);
        note(format!("daemon-remove-{size}"), "ms", daemon.apply(&one_left, &[])?);
    }
    let mut records = Vec::new();
    for ((case, unit), values) in cases {
        let Spread { median, min, max } = Spread::of(values);
        println!("{case:<26} {median:>8} {min:>8} {max:>8}  {unit}");
        let (suite, system) = ("config", "lbpersist");
        let value = median;
        records.push(Record { suite, case, clients: 0, system, value, min, max, unit, runs });
    }
    options.json.as_ref().map_or(Ok(()), |path| report::write(path, &records))
}

/// Maps without a program on any interface, removed in the end.
struct Balancer {
    pins: PinDirectory,
    data_path: Option<DataPath>,
}

impl Balancer {
    fn new() -> Result<Self> {
        let name = format!("/sys/fs/bpf/lbpersist-bench-config-{}", process::id());
        let pins = PinDirectory::new(name);
        object::remove_all(&pins)?;
        Ok(Self { pins, data_path: None })
    }

    fn apply(&mut self, text: &str) -> Result<()> {
        let model = config::parse(text)?;
        let data_path = match self.data_path.take() {
            Some(data_path) => data_path,
            None => DataPath::open(&self.pins, &model.data_path)?,
        };
        let data_path = self.data_path.insert(data_path);
        let view = View::new(BTreeMap::new(), Vec::new(), BTreeMap::new());
        let (down, shares) = (BTreeSet::new(), BTreeMap::new());
        let facts = Facts { model: &model, down: &down, shares: &shares, view: &view };
        let desired = Desired::compute(&facts, &mut data_path.identities)?;
        data_path.apply(desired)?;
        Ok(())
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.data_path = None;
        if let Err(error) = object::remove_all(&self.pins) {
            eprintln!("lbpersist-bench: {error}");
        }
    }
}

/// So many services, each with a pool of its own; `weight` is that of a pool's first server.
fn text(services: u32, ring_size: u32, weight: impl Fn(u32) -> u32) -> String {
    let mut text = format!("[data_path]\nring_size = {ring_size}\n");
    for n in 0..services {
        let (high, low) = (n / 250, n % 250 + 1);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "[[virtual_service]]\nname = \"service-{n}\"\naddress = \"198.18.{high}.{low}\"\nport = 80\n\
             pool = \"pool-{n}\"\n[[pool]]\nname = \"pool-{n}\"\nservers = ["
        );
        for server in 1..=SERVERS {
            let weight = if server == 1 { weight(n) } else { 1 };
            let _ = writeln!(
                text,
                "  {{ address = \"10.{}.{}.{server}\", port = 8080, weight = {weight} }},",
                n / 250,
                n % 250
            );
        }
        text.push_str("]\n");
    }
    text
}
