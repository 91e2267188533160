//! lbpersist itself, as a user meets it: the daemon from the built binary, and its commands.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

pub use crate::output::{Entry, Status, number};
use crate::{
    command::{self, Finished},
    namespace::Namespace,
    sys::{self, Signal},
};

/// What the pin directories of tests start with; the number of the process follows.
pub(crate) const PIN_PREFIX: &str = "lbpersist-test-";

const BPF_FILE_SYSTEM: &str = "/sys/fs/bpf";

/// How long the daemon may take from its start to `ready`, and from SIGTERM to its end.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running lbpersist with maps of its own. Dropping it ends the daemon and removes all it pinned.
#[derive(Debug)]
pub struct Balancer {
    namespace: Namespace,
    interfaces: Vec<String>,
    pin_directory: PathBuf,
    directory: TempDir,
    socket: Option<PathBuf>,
    binary: Option<PathBuf>,
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
    daemon: Option<Child>,
}

impl Balancer {
    /// Starts the daemon in a namespace and waits until it is ready.
    pub fn start(
        namespace: &Namespace,
        configuration: impl ToString,
        interfaces: &[String],
    ) -> Result<Self> {
        let mut balancer = Self::prepare(namespace, configuration, interfaces)?;
        balancer.restart()?;
        Ok(balancer)
    }

    /// Everything but the daemon: directories and the configuration file.
    pub fn prepare(
        namespace: &Namespace,
        configuration: impl ToString,
        interfaces: &[String],
    ) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        mount_bpf_file_system()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pins = format!("{PIN_PREFIX}{}-{number}", std::process::id());
        let balancer = Self {
            namespace: namespace.clone(),
            interfaces: interfaces.to_vec(),
            pin_directory: Path::new(BPF_FILE_SYSTEM).join(pins),
            directory: tempfile::tempdir()?,
            socket: None,
            binary: None,
            wrapper: Vec::new(),
            environment: Vec::new(),
            daemon: None,
        };
        balancer.configure(configuration)?;
        Ok(balancer)
    }

    /// Where its maps, programs and links are pinned.
    pub fn pin_directory(&self) -> &Path {
        &self.pin_directory
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.directory.path().join("lbpersist.sock"))
    }

    /// Gives the next daemon another control socket.
    pub fn use_socket(&mut self, path: &Path) {
        self.socket = Some(path.to_owned());
    }

    /// Takes this program for daemon and commands from now on, instead of [`binary`].
    pub fn use_binary(&mut self, path: &Path) {
        self.binary = Some(path.to_owned());
    }

    /// Starts daemons by this command from now on, which has to become the program that it is given behind its own words.
    pub fn use_wrapper(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|&word| word.to_owned()).collect();
    }

    /// Gives daemons a variable of the environment from now on.
    pub fn use_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Its configuration file.
    pub fn configuration_file(&self) -> PathBuf {
        self.directory.path().join("lbpersist.toml")
    }

    /// Writes another configuration file, which the next start reads.
    pub fn configure(&self, configuration: impl ToString) -> Result<()> {
        // The machine's own state is none of ours. What was read from a file that this has written has a line of it.
        let own = format!("[daemon]\nstate_dir = {:?}\n", self.state_directory());
        let text = configuration.to_string();
        let others = |line: &&str| !line.starts_with("state_dir = ");
        let mut text: String = text.split_inclusive('\n').filter(others).collect();
        if text.contains("\n[daemon]\n") {
            text = text.replacen("[daemon]\n", &own, 1);
        } else {
            text.push_str(&format!("\n{own}"));
        }
        Ok(fs::write(self.configuration_file(), text)?)
    }

    /// Writes a configuration file as it is, for a program that knows no `[daemon]` yet.
    pub fn configure_plainly(&self, configuration: impl ToString) -> Result<()> {
        Ok(fs::write(self.configuration_file(), configuration.to_string())?)
    }

    /// Where it keeps what outlives a reboot.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Starts the daemon, after ending the one that runs, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.begin()?;
        let deadline = Instant::now() + START_LIMIT;
        while !self.log().lines().any(|line| line.contains("ready")) {
            if let Some(status) = self.daemon_mut()?.try_wait()? {
                self.daemon = None;
                bail!("the daemon ended with {status}: {}", self.log());
            }
            ensure!(Instant::now() < deadline, "not ready in {START_LIMIT:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Starts the daemon and waits for nothing.
    pub fn begin(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "a daemon runs already");
        self.daemon = Some(self.spawn()?);
        Ok(())
    }

    /// Starts the daemon and ends it with SIGKILL so much later, wherever it is then.
    pub fn start_and_kill(&mut self, after: Duration) -> Result<()> {
        self.stop()?;
        self.daemon = Some(self.spawn()?);
        std::thread::sleep(after);
        self.kill_dash_nine()
    }

    /// Ends the daemon with SIGTERM. The kernel goes on forwarding.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        sys::signal(daemon.id(), Signal::Terminate)?;
        if let Some(status) = command::wait_for(&mut daemon, START_LIMIT)? {
            ensure!(status.success(), "the daemon ended with {status}: {}", self.log());
            return Ok(());
        }
        daemon.kill()?;
        daemon.wait()?;
        bail!("the daemon did not end within {START_LIMIT:?} of SIGTERM: {}", self.log())
    }

    /// Ends the daemon with SIGKILL. The kernel goes on forwarding.
    pub fn kill_dash_nine(&mut self) -> Result<()> {
        let daemon = self.daemon_mut()?;
        sys::signal(daemon.id(), Signal::Kill)?;
        daemon.wait()?;
        self.daemon = None;
        Ok(())
    }

    /// The number of the daemon's process.
    pub fn process(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the daemon is not running")?.id())
    }

    /// Sends the daemon SIGHUP.
    pub fn hang_up(&self) -> Result<()> {
        let daemon = self.daemon.as_ref().context("the daemon is not running")?;
        Ok(sys::signal(daemon.id(), Signal::HangUp)?)
    }

    /// What the daemon has logged since its last start.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs a command of the binary in the namespace.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        self.namespace.run(|| command::run(self.command()?.args(arguments)))
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.cli(&[&["-o", "json"], arguments].concat())?.success()?;
        serde_json::from_str(&output).with_context(|| format!("{arguments:?} printed {output}"))
    }

    /// `lbpersist status`.
    pub fn status(&self) -> Result<Status> {
        Ok(Status(self.json(&["status"])?))
    }

    /// `lbpersist monitor list` with filters.
    pub fn monitors(&self, filters: &[&str]) -> Result<Vec<Value>> {
        let list = self.json(&[&["monitor", "list"], filters].concat())?;
        list.as_array().cloned().with_context(|| format!("no list: {list}"))
    }

    /// `lbpersist persistence list`.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let list = self.json(&["persistence", "list"])?;
        let list = list.as_array().with_context(|| format!("no list: {list}"))?;
        Ok(list.iter().cloned().map(Entry).collect())
    }

    /// `lbpersist persistence flush` with filters: how many entries went.
    pub fn flush(&self, filters: &[&str]) -> Result<u64> {
        let outcome = self.json(&[&["persistence", "flush"], filters].concat())?;
        outcome["flushed"].as_u64().with_context(|| format!("no number: {outcome}"))
    }

    fn command(&self) -> Result<Command> {
        Ok(self.surrounded(Command::new(self.program()?)))
    }

    fn program(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(binary, Ok)
    }

    fn surrounded(&self, mut command: Command) -> Command {
        command
            .env("LBPERSIST_PIN_DIR", &self.pin_directory)
            .env("LBPERSIST_SOCKET", self.socket())
            .env("NO_COLOR", "1");
        command
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, words)) => {
                let mut command = Command::new(wrapper);
                command.args(words).arg(self.program()?);
                self.surrounded(command)
            }
            None => self.command()?,
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["run", "--config"]).arg(self.configuration_file());
        for interface in &self.interfaces {
            command.args(["--interface", interface]);
        }
        let log = File::create(self.log_file())?;
        command.stdin(Stdio::null()).stdout(Stdio::from(log.try_clone()?)).stderr(log);
        self.namespace.run(|| command.spawn()).context("the daemon could not be started")
    }

    fn daemon_mut(&mut self) -> Result<&mut Child> {
        self.daemon.as_mut().context("the daemon is not running")
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("lbpersist.log")
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // In order if it can be, and in any case to the end. There is nobody left to tell of errors.
            let _ = sys::signal(daemon.id(), Signal::Terminate);
            if !matches!(command::wait_for(&mut daemon, START_LIMIT), Ok(Some(_))) {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
        }
        if self.pin_directory.exists() {
            let _ = self.cli(&["detach", "--all"]);
            let _ = fs::remove_dir_all(&self.pin_directory);
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}

/// The built binary: `LBPERSIST_BIN`, or the one in the target directory that this program was built into.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LBPERSIST_BIN") {
        return Ok(path.into());
    }
    let this = env::current_exe()?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("lbpersist"))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("no lbpersist beside {}: build it, or set LBPERSIST_BIN", this.display())
        })
}

/// Mounts the BPF file system where it is not.
pub fn mount_bpf_file_system() -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPF_FILE_SYSTEM)) {
        return Ok(());
    }
    let mut mount = Command::new("mount");
    command::run(mount.args(["-t", "bpf", "bpf", BPF_FILE_SYSTEM]))?.success()?;
    Ok(())
}
