//! What each command does.

use std::{ffi::OsString, io::Write as _, path::Path, process::ExitCode};

use clap::{Parser as _, error::ErrorKind};
use ipnet::IpNet;
use serde::Serialize;

use super::{
    apply,
    arguments::{Arguments, Command, Entries, Monitor, Output, Persistence},
    breaks, entries, explain, generate, monitor, proxied, server, store, text, top,
};
use crate::{
    clock, config, control,
    daemon::{self, Places, lock},
    datapath::{
        self, DataPath, Error,
        attach::{self, Attached},
        maps::PinDirectory,
        object,
        report::{Filter, Reader, Status},
    },
    health::MonitorStatus,
    model::{DataPathSettings, Model},
    network,
    proxy::ServiceCounts,
    store::StoreStatus,
};

/// What a failed command ends with.
pub(super) enum Failure {
    /// Exit 2: what was asked cannot be meant.
    Input(String),
    /// Exit 2: a file that speaks for itself, line by line.
    File(String),
    /// Exit 1: what was asked did not work.
    Work(String),
}

/// Runs the command line `arguments`, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A closed pipe is no reason to complain.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { 2 });
        }
    };
    let (sentence, code) = match execute(arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Input(sentence)) => (format!("lbpersist: {sentence}"), 2),
        Err(Failure::File(sentences)) => (sentences, 2),
        Err(Failure::Work(sentence)) => (format!("lbpersist: {sentence}"), 1),
    };
    let _ = writeln!(std::io::stderr(), "{sentence}");
    ExitCode::from(code)
}

fn execute(arguments: Arguments) -> Result<(), Failure> {
    let pins = PinDirectory::new(arguments.pin_dir);
    let socket = arguments.socket.unwrap_or_else(|| control::default_socket(&pins));
    let output = arguments.output;
    match arguments.command {
        Command::Run { config, interfaces, log } => {
            log.start();
            run(Places { pins, socket, file: config, interfaces })
        }
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(dir.as_deref()),
        Command::Check { config } => check(&config, output),
        Command::Attach { interfaces } => attach_interfaces(&interfaces, &pins),
        Command::Detach { all: true, .. } => detach_all(&pins),
        Command::Detach { interfaces, .. } => detach(&interfaces, &pins),
        Command::Decapsulate { interfaces, from } => decapsulate(&interfaces, &from, &pins),
        Command::Status => status(&pins, &socket, output),
        Command::Top(asked) => top::execute(&asked, &pins, &socket, output),
        Command::Explain(asked) => explain::execute(asked, &pins, output),
        Command::Apply { file, dry_run, save } => {
            apply::file(&socket, &file, dry_run, save, output)
        }
        Command::Reload => apply::reload(&socket, output),
        Command::Server(command) => server::execute(command, &socket, output),
        Command::Monitor(Monitor::List { pool, search }) => {
            monitor::list(&socket, pool, search, output)
        }
        Command::Persistence(Persistence::List(entries)) => list(entries, &pins, output),
        Command::Persistence(Persistence::Flush(entries)) => flush(entries, &pins, output),
        Command::Persistence(Persistence::Export(entries)) => {
            let reader = Reader::open(&pins)?;
            let filter = known(entries.into(), &reader)?;
            entries::export(reader.entries(&filter, clock::now_ns())?)
        }
        Command::Persistence(Persistence::Import { file, replace }) => {
            entries::import(&socket, &file, replace, output)
        }
        Command::Persistence(Persistence::Set { virtual_service, client, server, destination }) => {
            let reader = Reader::open(&pins)?;
            let Some((own, pool)) = reader.entries_belong_to(&virtual_service) else {
                return Err(no_service(&virtual_service));
            };
            let record = entries::by_hand(own, pool, client, destination, server);
            entries::set(&socket, record, output)
        }
        Command::Breaks(asked) => breaks::execute(asked, &pins, &socket, output),
    }
}

fn run(places: Places) -> Result<(), Failure> {
    let mut model = load(&places.file)?;
    for interface in &places.interfaces {
        if !model.interfaces.contains(interface) {
            model.interfaces.push(interface.clone());
        }
    }
    if model.interfaces.is_empty() {
        return Err(Failure::Input(format!(
            "there is no interface to attach to: name one in `interfaces` of {} or with --interface",
            places.file.display()
        )));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Work(format!("cannot start: {error}")))?;
    runtime.block_on(daemon::run(model, &places)).map_err(|error| match error {
        daemon::Error::DataPath(error) => error.into(),
        error => Failure::Work(error.to_string()),
    })
}

fn check(path: &Path, output: Output) -> Result<(), Failure> {
    let model = load(path)?;
    match output {
        Output::Text => print(&config::describe(&model)),
        Output::Json => print_json(&serde_json::json!({
            "file": path.display().to_string(),
            "virtual_services": model.services.len(),
            "pools": model.pools.len(),
            "servers": model.pools.values().map(|pool| pool.servers.len()).sum::<usize>(),
        })),
    }
}

fn attach_interfaces(interfaces: &[String], pins: &PinDirectory) -> Result<(), Failure> {
    let view = network::read_once().map_err(|error| Failure::Work(error.to_string()))?;
    for interface in interfaces {
        if view.link_by_name(interface).is_none() {
            return Err(Error::NoInterface(interface.clone()).into());
        }
    }
    object::mount_bpf_file_system(pins);
    let done = match attach::pinned_program(pins)? {
        Some(mut program) => attach::attach_all(&mut program, pins, &view, interfaces)?,
        None => {
            let fresh = !pins.path().exists();
            let mut data_path = DataPath::open(pins, &DataPathSettings::default())?;
            let result = data_path
                .object
                .program()
                .and_then(|program| attach::attach_all(program, pins, &view, interfaces));
            // What was there before is somebody's.
            if result.is_err() && fresh {
                object::remove_all(pins)?;
            }
            result?
        }
    };
    report_attached(interfaces, done)
}

fn report_attached(interfaces: &[String], done: Vec<Attached>) -> Result<(), Failure> {
    for (interface, done) in interfaces.iter().zip(done) {
        print(&match done {
            Attached::Native => format!("{interface}: attached, native\n"),
            Attached::Generic => {
                format!("{interface}: attached, generic (the driver has no XDP)\n")
            }
            Attached::Replaced => format!("{interface}: was attached already\n"),
        })?;
    }
    Ok(())
}

fn decapsulate(interfaces: &[String], from: &[IpNet], pins: &PinDirectory) -> Result<(), Failure> {
    let view = network::read_once().map_err(|error| Failure::Work(error.to_string()))?;
    let done = datapath::decapsulate::attach(pins, &view, interfaces, from)?;
    report_attached(interfaces, done)
}

fn detach(interfaces: &[String], pins: &PinDirectory) -> Result<(), Failure> {
    let ends = [pins.clone(), pins.decapsulation()];
    let attached = [attach::interfaces(&ends[0])?, attach::interfaces(&ends[1])?];
    for interface in interfaces {
        if !attached.iter().any(|attached| attached.contains(interface)) {
            return Err(Error::NotAttached(interface.clone()).into());
        }
    }
    for (pins, attached) in ends.iter().zip(&attached) {
        for interface in interfaces.iter().filter(|interface| attached.contains(interface)) {
            attach::detach(pins, interface)?;
            print(&format!("{interface}: detached\n"))?;
        }
    }
    Ok(())
}

fn detach_all(pins: &PinDirectory) -> Result<(), Failure> {
    let missing = || print(&format!("nothing is pinned under {}\n", pins.path().display()));
    if !pins.path().exists() {
        return missing();
    }
    let lock = lock(pins).map_err(|error| {
        Failure::Work(format!("cannot lock {}: {error}", pins.path().display()))
    })?;
    if lock.is_none() {
        return Err(Failure::Work(format!(
            "a daemon runs on {}; stop it first",
            pins.path().display()
        )));
    }
    let mut attached = attach::interfaces(pins)?;
    for interface in &attached {
        attach::detach(pins, interface)?;
    }
    let far_end = pins.decapsulation();
    for interface in attach::interfaces(&far_end)? {
        attach::detach(&far_end, &interface)?;
        attached.push(interface);
    }
    let at_far_end = object::remove_all(&far_end)?;
    if !object::remove_all(pins)? && !at_far_end {
        return missing();
    }
    for interface in attached {
        print(&format!("{interface}: detached\n"))?;
    }
    print(&format!("removed {}\n", pins.path().display()))
}

fn status(pins: &PinDirectory, socket: &Path, output: Output) -> Result<(), Failure> {
    let reader = Reader::open(pins)?;
    let view = network::read_once().map_err(|error| Failure::Work(error.to_string()))?;
    let status = reader.status(&view)?;
    match output {
        Output::Text => {
            let monitors = monitor::section(monitor::known(socket).as_deref());
            let services = proxied::known(socket).unwrap_or_default();
            let proxied = proxied::section(&services);
            let in_kernel = status.virtual_services.iter().map(|one| {
                let counts = one.breaks.iter().map(|(reason, count)| (*reason, *count));
                (one.name.as_str(), counts.collect::<Vec<_>>())
            });
            let in_proxy = services.iter().map(|one| {
                let counts = one.breaks.iter().map(|(reason, count)| (reason.as_str(), *count));
                (one.name.as_str(), counts.collect())
            });
            let breaks = breaks::section(in_kernel.chain(in_proxy));
            let store = store::section(store::known(socket).as_ref());
            print(&format!("{}\n{monitors}{proxied}{breaks}{store}", text::status(&status)))
        }
        Output::Json => {
            let monitors = monitor::known(socket);
            let proxied_services = proxied::known(socket);
            let store = store::known(socket);
            print_json(&FromDaemon { status: &status, monitors, proxied_services, store })
        }
    }
}

/// What the maps say, and what a running daemon says.
#[derive(Serialize)]
struct FromDaemon<'s> {
    #[serde(flatten)]
    status: &'s Status,
    /// `None` when no daemon answers.
    monitors: Option<Vec<MonitorStatus>>,
    /// The same.
    proxied_services: Option<Vec<ServiceCounts>>,
    /// The same.
    store: Option<StoreStatus>,
}

fn list(entries: Entries, pins: &PinDirectory, output: Output) -> Result<(), Failure> {
    let reader = Reader::open(pins)?;
    let filter = known(entries.into(), &reader)?;
    let found = reader.entries(&filter, clock::now_ns())?;
    match output {
        Output::Text => print(&text::entries(&found)),
        Output::Json => print_json(&found),
    }
}

fn flush(entries: Entries, pins: &PinDirectory, output: Output) -> Result<(), Failure> {
    let mut reader = Reader::open(pins)?;
    let filter = known(entries.into(), &reader)?;
    let flushed = reader.flush(&filter, clock::now_ns())?;
    match output {
        Output::Text if flushed == 1 => print("1 entry flushed\n"),
        Output::Text => print(&format!("{flushed} entries flushed\n")),
        Output::Json => print_json(&serde_json::json!({ "flushed": flushed })),
    }
}

fn no_service(name: &str) -> Failure {
    Failure::Input(format!("there is no virtual service `{name}`"))
}

/// The filter, if what it names is there.
fn known(filter: Filter, reader: &Reader) -> Result<Filter, Failure> {
    if let Some(name) = filter.virtual_service.as_ref().filter(|name| !reader.has_service(name)) {
        return Err(no_service(name));
    }
    if let Some(name) = filter.pool.as_ref().filter(|name| !reader.has_pool(name)) {
        return Err(Failure::Input(format!("there is no pool `{name}`")));
    }
    Ok(filter)
}

fn load(path: &Path) -> Result<Model, Failure> {
    config::load(path).map_err(|error| match error {
        config::LoadError::Unreadable { .. } => Failure::Input(error.to_string()),
        config::LoadError::Wrong { .. } => Failure::File(error.to_string()),
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoInterface(_) | Error::NotAttached(_) => Self::Input(error.to_string()),
            error => Self::Work(error.to_string()),
        }
    }
}

pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Work(format!("cannot print the result: {error}")))?;
    print(&format!("{text}\n"))
}

/// Prints to stdout; a reader that has gone away is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Work(format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}
