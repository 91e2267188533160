//! Network namespaces that go away with their last handle, also after a panic.
//!
//! Only the network namespace is ever entered: `ip netns exec` would mount a fresh /sys and hide the BPF file system.

use std::{
    fs::{self, File},
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

use crate::{
    command,
    sys::{self, Offload, Signal, Switch},
};

/// Where `ip netns` keeps the namespaces.
const DIRECTORY: &str = "/run/netns";

/// What every namespace of ours starts with.
const PREFIX: &str = "lbp-";

/// A network namespace. Clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Namespace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    kept: AtomicBool,
}

impl Namespace {
    /// Makes a namespace named after this process and `role`, with its loopback interface up.
    pub fn create(role: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(sweep);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::create_named(&format!("{PREFIX}{}-{number}-{role}", std::process::id()))
    }

    /// Makes a namespace of that very name.
    pub fn create_named(name: &str) -> Result<Self> {
        // `ip` prepares its directory at its first use, and two at a time get in each other's way.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        {
            let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            command::run(Command::new("ip").args(["netns", "add", name]))?.success()?;
        }
        let namespace = Self::open(name)?;
        namespace.inner.kept.store(false, Ordering::Relaxed);
        namespace.prepare()?;
        Ok(namespace)
    }

    /// Opens a namespace that somebody else made, and leaves its removal to them.
    pub fn open(name: &str) -> Result<Self> {
        let path = Path::new(DIRECTORY).join(name);
        let file = File::open(&path).with_context(|| format!("{}", path.display()))?;
        let inner = Inner { name: name.to_owned(), file, kept: AtomicBool::new(true) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Its name, as `ip -n` takes it.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its file, as `nsenter --net=` takes it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.inner.name)
    }

    /// Leaves the namespace in place when the last handle goes.
    pub fn keep(&self) {
        self.inner.kept.store(true, Ordering::Relaxed);
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets that it makes and processes that it starts stay there.
    ///
    /// # Panics
    /// When `work` does, or when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let entered = || {
            sys::enter_network_namespace(&self.inner.file)
                .unwrap_or_else(|error| panic!("namespace {}: {error}", self.inner.name));
            work()
        };
        thread::scope(|scope| match scope.spawn(entered).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs the lines of `batch` as commands of `ip`.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-n", self.name(), "-batch", "-"]);
        let finished = command::run_with_input(&mut ip, batch)?;
        finished.success().with_context(|| format!("of these lines:\n{batch}"))?;
        Ok(())
    }

    /// Sets `net.KEY`, with slashes for dots.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(key);
        self.run(|| fs::write(&path, value))
            .with_context(|| format!("{} in {}", path.display(), self.name()))
    }

    /// Makes an interface a host's end: whole checksums on the wire, packets no larger than the wire takes, and NAPI, so that
    /// XDP may send to it. Both ends must be up: only then does turning receive offload on tell the other end that it may.
    pub fn host_offloads(&self, interface: &str) -> Result<()> {
        let wanted = [
            (Offload::TransmitChecksum, Switch::Off),
            (Offload::TcpSegmentation, Switch::Off),
            (Offload::GenericSegmentation, Switch::Off),
            // It is on from the start, but veth looks only when it changes.
            (Offload::GenericReceive, Switch::Off),
            (Offload::GenericReceive, Switch::On),
        ];
        self.run(|| {
            for (offload, switch) in wanted {
                sys::set_offload(interface, offload, switch)
                    .with_context(|| format!("{offload:?} {switch:?} for {interface}"))?;
            }
            sys::pass_everything(interface)
                .with_context(|| format!("an XDP program for {interface} in {}", self.name()))
        })
    }

    /// Has an interface take packets by NAPI, so that XDP may send to it, and gives it no program.
    pub fn receive_by_napi(&self, interface: &str) -> Result<()> {
        self.run(|| {
            for switch in [Switch::Off, Switch::On] {
                sys::set_offload(interface, Offload::GenericReceive, switch)
                    .with_context(|| format!("receive offload {switch:?} for {interface}"))?;
            }
            Ok(())
        })
    }

    /// Puts an XDP program in the place of whatever the interface has, for as long as there is the interface.
    pub fn attach_xdp(&self, interface: &str, program: BorrowedFd<'_>) -> Result<()> {
        self.run(|| sys::attach_program(interface, program))
            .with_context(|| format!("an XDP program for {interface} in {}", self.name()))
    }

    /// Whether no IPv6 address is tentative any more.
    pub fn has_usable_addresses(&self) -> bool {
        const TENTATIVE: u32 = 0x40;
        // The lines of if_inet6: address, index, prefix length, scope, flags (hexadecimal), name.
        let addresses = self.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6"));
        addresses.is_ok_and(|addresses| {
            addresses.lines().all(|line| {
                let flags = line.split_whitespace().nth(4);
                let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok());
                flags.is_some_and(|flags| flags & TENTATIVE == 0)
            })
        })
    }

    fn prepare(&self) -> Result<()> {
        // Addresses must work at once, and answers may leave by another way than questions came.
        self.sysctl("ipv6/conf/all/accept_dad", "0")?;
        self.sysctl("ipv6/conf/default/accept_dad", "0")?;
        self.sysctl("ipv6/conf/default/router_solicitations", "0")?;
        self.sysctl("ipv4/conf/all/rp_filter", "0")?;
        self.sysctl("ipv4/conf/default/rp_filter", "0")?;
        self.ip("link set lo up")
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !*self.kept.get_mut() {
            remove(&self.name);
        }
    }
}

/// Removes a namespace. Errors are of no use where this is called: the next sweep tries again.
pub fn remove(name: &str) {
    let _ = command::run(Command::new("ip").args(["netns", "delete", name]));
}

/// The namespaces whose names start with `lbp-` and `owner`.
pub fn names_of(owner: &str) -> Vec<String> {
    let start = format!("{PREFIX}{owner}-");
    let mut names: Vec<String> = fs::read_dir(DIRECTORY)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&start))
        .collect();
    names.sort();
    names
}

/// Removes what processes left behind that were killed before they could: their namespaces, the daemons they had started in
/// them, and their pins.
fn sweep() {
    for name in names_of_dead(DIRECTORY, PREFIX) {
        let daemons = command::run(Command::new("ip").args(["netns", "pids", &name]));
        for process in daemons.iter().flat_map(|finished| finished.stdout.split_whitespace()) {
            if let Ok(process) = process.parse() {
                let _ = sys::signal(process, Signal::Kill);
            }
        }
        remove(&name);
    }
    for name in names_of_dead("/sys/fs/bpf", crate::balancer::PIN_PREFIX) {
        let _ = fs::remove_dir_all(Path::new("/sys/fs/bpf").join(name));
    }
}

/// Names in a directory that are `prefix`, the number of a process that is no more, and a dash.
fn names_of_dead(directory: &str, prefix: &str) -> Vec<String> {
    // One that has ended but was not waited for has no program any more.
    let owner_is_dead = |name: &String| {
        let owner = name.strip_prefix(prefix).and_then(|rest| rest.split_once('-'));
        owner.is_some_and(|(owner, _)| {
            owner.parse::<u32>().is_ok() && fs::read_link(format!("/proc/{owner}/exe")).is_err()
        })
    };
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(owner_is_dead)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    #[test]
    fn a_namespace_goes_away_after_a_panic() {
        if !wait::is_root_or_skip() {
            return;
        }
        let name = Mutex::new(String::new());
        let outcome = std::panic::catch_unwind(|| {
            let namespace = Namespace::create("panic").unwrap();
            name.lock().unwrap().push_str(namespace.name());
            assert!(namespace.path().exists());
            panic!("on purpose");
        });
        assert!(outcome.is_err());
        let name = name.into_inner().unwrap_or_else(PoisonError::into_inner);
        assert!(!name.is_empty());
        assert!(!Path::new(DIRECTORY).join(name).exists());
    }

    #[test]
    fn only_what_dead_processes_left_is_swept() {
        if !wait::is_root_or_skip() {
            return;
        }
        // Process numbers end well below this one.
        let left = format!("{PREFIX}4294967295-0-left");
        let living = Namespace::create("living").unwrap();
        Namespace::create_named(&left).unwrap().keep();
        sweep();
        assert!(!Path::new(DIRECTORY).join(left).exists());
        assert!(living.path().exists());
    }

    #[test]
    fn work_runs_inside_and_a_failed_command_is_explained() {
        if !wait::is_root_or_skip() {
            return;
        }
        let namespace = Namespace::create("inside").unwrap();
        namespace.ip("link add one type veth peer name two").unwrap();
        let interfaces = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        assert!(interfaces.contains("one:") && interfaces.contains("two:"), "{interfaces}");
        let error = format!("{:#}", namespace.ip("link set three up").unwrap_err());
        assert!(error.contains("ip -n lbp-") && error.contains("three"), "{error}");
    }
}
