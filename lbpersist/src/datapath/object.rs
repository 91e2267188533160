//! The program and its maps: loaded from the object that is part of this binary, and pinned.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, MapError, ProgramArray},
    programs::{ProgramError, TestRun, TestRunOptions, Xdp},
};
use lbpersist_common::{
    layout::{self, Layout},
    maintenance::Request,
    stage::Stage,
};

use super::{
    Error, ghosts,
    maps::{self, Maps, NAMES, PinDirectory},
    rare::Ear,
};
use crate::model::{DataPathSettings, PortRange};

#[cfg(test)]
mod stack;

/// The BPF object, as the build script left it.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lbpersist-ebpf"));

/// Name of the program that carries packets, in the object and under the pin directory.
pub const PROGRAM: &str = "lbpersist";
const MAINTAIN: &str = "maintain";
const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// The loaded program.
pub struct Object {
    ebpf: Ebpf,
    ear: Option<Ear>,
}

impl Object {
    /// Loads the program, on the maps that are pinned already or on new ones, which it pins. Programs that were pinned before
    /// go on running on their interfaces until their links are given the new one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, when there is no BPF file system, or when what is pinned does not fit.
    pub fn load(pins: &PinDirectory, settings: &DataPathSettings) -> Result<Self, Error> {
        prepare_directories(pins)?;
        refuse_other_layout(pins, settings)?;
        let fresh = !pins.map("layout").exists();
        let result = Self::load_programs(pins, settings);
        if result.is_err() && fresh {
            // Nothing was there before, so nothing half made may stay.
            let _ = remove_all(pins);
        }
        result
    }

    /// The program that carries packets.
    pub fn program(&mut self) -> Result<&mut Xdp, Error> {
        self.named(PROGRAM)
    }

    /// Has the kernel answer `requests`; afterwards `argument` of each says whether it acted. At most
    /// [`lbpersist_common::maintenance::BATCH`] of them.
    pub fn maintain(&mut self, requests: &mut [Request]) -> Result<(), Error> {
        if requests.is_empty() {
            return Ok(());
        }
        let input = bytemuck::cast_slice::<_, u8>(requests).to_vec();
        let program: &mut Xdp = self.named(MAINTAIN)?;
        program
            .test_run(TestRunOptions {
                data_in: Some(&input),
                data_out: Some(bytemuck::cast_slice_mut(requests)),
                ..TestRunOptions::default()
            })
            .map_err(|error| refused("a run of program `maintain`", &error))?;
        Ok(())
    }

    /// The program that answers requests, for whoever runs it from another thread.
    pub(super) fn maintain_program(&mut self) -> Result<OwnedFd, Error> {
        let failed = |error: &dyn std::error::Error| refused("to share program `maintain`", error);
        let program = self.named(MAINTAIN)?.fd().map_err(|error| failed(&error))?;
        program.as_fd().try_clone_to_owned().map_err(|error| failed(&error))
    }

    /// What the programs have told in words since the last call.
    pub fn told(&mut self) -> Vec<String> {
        self.ear.as_mut().map(Ear::listen).unwrap_or_default()
    }

    fn load_programs(pins: &PinDirectory, settings: &DataPathSettings) -> Result<Self, Error> {
        let mut object = Self { ebpf: make_maps(pins, settings)?, ear: None };
        // The stages first: the program that jumps to them must find them there.
        object.load_stages(pins)?;
        for name in [PROGRAM, MAINTAIN] {
            object.named(name)?.load().map_err(|error| program_error(name, &error))?;
            object.pin(name, &pins.programs().join(name))?;
        }
        object.ear = Some(Ear::of(&mut object.ebpf)?);
        Ok(object)
    }

    fn load_stages(&mut self, pins: &PinDirectory) -> Result<(), Error> {
        let failed = |error| Error::map("stages", error);
        let map = Map::from_map_data(maps::raw(pins, "stages")?).map_err(failed)?;
        let mut stages: ProgramArray<MapData> = map.try_into().map_err(failed)?;
        for stage in Stage::ALL {
            let name = stage.program();
            let program = self.named(name)?;
            program.load().map_err(|error| program_error(name, &error))?;
            let descriptor = program.fd().map_err(|error| program_error(name, &error))?;
            // The map keeps the program, and its pin the map, so that both outlive this process.
            stages.set(stage as u32, descriptor, 0).map_err(failed)?;
        }
        Ok(())
    }

    fn pin(&mut self, name: &'static str, path: &Path) -> Result<(), Error> {
        remove_file(path)?;
        self.named(name)?
            .pin(path)
            .map_err(|error| refused(&format!("to pin program `{name}`"), &error))
    }

    fn named(&mut self, name: &'static str) -> Result<&mut Xdp, Error> {
        program_in(&mut self.ebpf, name)
    }
}

/// Opens the pinned maps for the program, makes those that are missing, and pins them.
pub(super) fn make_maps(pins: &PinDirectory, settings: &DataPathSettings) -> Result<Ebpf, Error> {
    let paths: Vec<PathBuf> = NAMES.iter().map(|name| pins.map(name)).collect();
    let mut loader = EbpfLoader::new();
    for (name, path) in NAMES.iter().zip(&paths) {
        loader.map_pin_path(name, path.as_path());
    }
    loader
        .map_max_entries("entries", settings.entry_table)
        .map_max_entries("ghosts", ghosts::sets_for(settings.entry_table))
        .map_max_entries("connections", settings.connection_table)
        .map_max_entries("handshakes", settings.handshake_table)
        .map_max_entries("translations", settings.translation_table)
        .map_max_entries("half_open_trans", settings.handshake_table);
    let ebpf = loader.load(OBJECT).map_err(loading)?;
    write_layout(pins, settings)?;
    Ok(ebpf)
}

/// The XDP program called `name`.
pub(super) fn program_in<'ebpf>(
    ebpf: &'ebpf mut Ebpf,
    name: &'static str,
) -> Result<&'ebpf mut Xdp, Error> {
    let missing = || Error::Refused {
        what: format!("program `{name}`"),
        detail: "it is not in the object".to_owned(),
    };
    ebpf.program_mut(name)
        .ok_or_else(missing)?
        .try_into()
        .map_err(|error: ProgramError| program_error(name, &error))
}

/// Removes every pin of ours, and with the last of them the maps and programs themselves; what others have put beside them stays.
/// Says whether there was anything.
///
/// # Errors
///
/// When the directory is not on a BPF file system, where nothing is touched, or the kernel refuses.
pub fn remove_all(pins: &PinDirectory) -> Result<bool, Error> {
    if !pins.path().exists() {
        return Ok(false);
    }
    require_bpf_file_system(pins)?;
    let mut found = false;
    for directory in [pins.maps(), pins.programs(), pins.links()] {
        found |= remove_directory(&directory)?;
    }
    match fs::remove_dir(pins.path()) {
        Ok(()) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::DirectoryNotEmpty
                    | io::ErrorKind::ResourceBusy
            ) =>
        {
            Ok(found)
        }
        Err(source) => Err(Error::Pin { action: "remove", path: pins.path().to_owned(), source }),
    }
}

/// Where no BPF file system is, there is nothing of ours, and nothing may be made or removed.
fn require_bpf_file_system(pins: &PinDirectory) -> Result<(), Error> {
    if on_bpf_file_system(pins.path()) {
        return Ok(());
    }
    Err(Error::NoBpfFileSystem(pins.path().to_owned()))
}

fn remove_directory(path: &Path) -> Result<bool, Error> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Pin { action: "remove", path: path.to_owned(), source }),
    }
}

/// Removes a pin if it is there.
pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { action: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Makes the directories that things are pinned in.
pub fn prepare_directories(pins: &PinDirectory) -> Result<(), Error> {
    require_bpf_file_system(pins)?;
    for directory in [pins.maps(), pins.programs(), pins.links()] {
        fs::create_dir_all(&directory).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied if !is_root() => {
                Error::NotPermitted("make the pin directory")
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
                Error::NoBpfFileSystem(pins.path().to_owned())
            }
            _ => Error::Pin { action: "make directory", path: directory.clone(), source },
        })?;
    }
    Ok(())
}

/// Mounts the BPF file system at its usual place if `pins` are to be there and it is missing.
pub fn mount_bpf_file_system(pins: &PinDirectory) {
    let usual = Path::new(BPF_FILE_SYSTEM);
    if pins.path().starts_with(usual) && !on_bpf_file_system(usual) && is_root() {
        // What follows says what is wrong if this fails.
        let _ = std::process::Command::new("mount")
            .args(["-t", "bpf", "bpf", BPF_FILE_SYSTEM])
            .stderr(std::process::Stdio::null())
            .status();
    }
}

fn refuse_other_layout(pins: &PinDirectory, settings: &DataPathSettings) -> Result<(), Error> {
    if !pins.map("layout").exists() {
        return Ok(());
    }
    let layout: Vec<(u32, Layout)> = maps::scan(pins, "layout")?;
    let Some((_, layout)) = layout.first() else { return Ok(()) };
    if layout.version == 0 {
        // Whoever made these maps ended before it had finished: no program has run on them, and nothing is lost.
        return remove_directory(&pins.maps()).and_then(|_| prepare_directories(pins));
    }
    if layout.version != layout::VERSION {
        return Err(maps::other_layout(pins, layout.version));
    }
    if layout.ring_slots != settings.ring_size {
        return Err(Error::OtherRingSize {
            pinned: layout.ring_slots,
            configured: settings.ring_size,
        });
    }
    Ok(())
}

/// Writes the record of what was made, the first time.
fn write_layout(pins: &PinDirectory, settings: &DataPathSettings) -> Result<(), Error> {
    let raw = maps::raw(pins, "layout")?;
    let map = Map::from_map_data(raw).map_err(|error| Error::map("layout", error))?;
    let mut map: aya::maps::Array<_, Layout> =
        map.try_into().map_err(|error: MapError| Error::map("layout", error))?;
    let found = map.get(&0, 0).map_err(|error| Error::map("layout", error))?;
    if found.version == layout::VERSION {
        return Ok(());
    }
    let record = Layout {
        version: layout::VERSION,
        ring_slots: settings.ring_size,
        next_id: 0,
        features: 0,
        first_port: settings.masquerade_ports.first,
        ports: settings.masquerade_ports.count(),
        reserved: 0,
        clock_offset_ns: 0,
    };
    map.set(0, record, 0).map_err(|error| Error::map("layout", error))
}

/// Warns of tables whose size differs from what the configuration says: a size is fixed when the maps are made.
pub fn size_differences(maps: &Maps, settings: &DataPathSettings) -> Result<Vec<String>, Error> {
    let sizes = [
        ("entry_table", maps.entries.capacity()?, settings.entry_table),
        ("connection_table", maps.connections.capacity()?, settings.connection_table),
        ("handshake_table", maps.handshakes.capacity()?, settings.handshake_table),
        ("translation_table", maps.translations.capacity()?, settings.translation_table),
    ];
    let differing = sizes.into_iter().filter(|(_, pinned, configured)| pinned != configured);
    let mut warnings: Vec<String> = differing
        .map(|(name, pinned, configured)| {
            format!(
                "{name} is {configured} in the configuration, but the pinned table keeps its size of {pinned} until \
                 `lbpersist detach --all` removes it with its entries"
            )
        })
        .collect();
    let layout = maps.layout()?;
    let pinned = PortRange::counted(layout.first_port, layout.ports);
    if pinned != settings.masquerade_ports {
        let configured = settings.masquerade_ports;
        warnings.push(format!(
            "masquerade_ports is {configured} in the configuration, but connections are found by their ports, so it stays {pinned} \
             until `lbpersist detach --all` removes the tables"
        ));
    }
    Ok(warnings)
}

fn is_root() -> bool {
    // Files under /proc/self belong to the effective user.
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Whether `path` is there, or would be made there. Links and `..` are followed: where a path seems to lead says nothing.
fn on_bpf_file_system(path: &Path) -> bool {
    let found = path.ancestors().find_map(|place| {
        let place = if place == Path::new("") { Path::new(".") } else { place };
        fs::canonicalize(place).ok()
    });
    let (Some(found), Ok(mounts)) = (found, fs::read_to_string("/proc/self/mounts")) else {
        return false;
    };
    let longest = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (_, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
            found.starts_with(point).then_some((point.len(), kind))
        })
        .max_by_key(|(length, _)| *length);
    longest.is_some_and(|(_, kind)| kind == "bpf")
}

pub(super) fn loading(error: EbpfError) -> Error {
    if let EbpfError::MapError(MapError::CreateError { name, io_error }) = &error {
        if io_error.kind() == io::ErrorKind::PermissionDenied {
            return Error::NotPermitted("make a map");
        }
        return Error::Refused { what: format!("map `{name}`"), detail: io_error.to_string() };
    }
    refused("the BPF object", &error)
}

pub(super) fn program_error(name: &str, error: &ProgramError) -> Error {
    if let ProgramError::LoadError { io_error, .. } = error
        && io_error.kind() == io::ErrorKind::PermissionDenied
        && !is_root()
    {
        return Error::NotPermitted("load a program");
    }
    refused(&format!("program `{name}`"), error)
}

fn refused(what: &str, error: &dyn std::error::Error) -> Error {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        detail = format!("{detail}: {cause}");
        source = cause.source();
    }
    Error::Refused { what: what.to_owned(), detail }
}
