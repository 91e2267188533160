//! `cargo xtask dist`: a Debian package of the optimized daemon, made by dpkg-deb from a staged tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::host::{self, Profile};
use crate::provision::Provision;

/// Where the package's parts come from, its place, and its mode.
const FILES: [(&str, &str); 4] = [
    ("packaging/lbpersist.service", "lib/systemd/system/lbpersist.service"),
    ("packaging/copyright", "usr/share/doc/lbpersist/copyright"),
    ("docs/operating.md", "usr/share/doc/lbpersist/operating.md"),
    ("docs/lbpersist.example.toml", "usr/share/doc/lbpersist/examples/lbpersist.toml"),
];

/// Shells, and where Debian's look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/lbpersist"),
    ("zsh", "usr/share/zsh/vendor-completions/_lbpersist"),
    ("fish", "usr/share/fish/vendor_completions.d/lbpersist.fish"),
];

/// Scripts of the package's own that dpkg runs.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Builds the daemon and packs it; says where the package is.
pub(crate) fn package() -> Result<ExitCode> {
    for program in ["dpkg-deb", "dpkg-shlibdeps", "strip", "gzip"] {
        ensure!(
            host::has_program(program),
            "{program} is missing: apt-get install dpkg-dev binutils gzip"
        );
    }
    Provision::new().bpf_toolchain()?;
    host::succeed(host::cargo()?.args(["build", "--release", "--package", "lbpersist"]))?;
    let binaries = host::binaries(Profile::Release)?;
    let work = binaries.join("dist");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    let root = work.join("root");
    stage(&binaries.join("lbpersist"), &root)?;
    let depends = dependencies(&work)?;
    let version = env!("CARGO_PKG_VERSION");
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    write(&root.join("DEBIAN/control"), &control(version, architecture.trim(), &depends))?;
    write(&root.join("DEBIAN/conffiles"), "/etc/lbpersist/lbpersist.toml\n")?;
    for script in SCRIPTS {
        install(
            &host::workspace()?.join("packaging").join(script),
            &root.join("DEBIAN").join(script),
            "755",
        )?;
    }
    let package = work.join(format!("lbpersist_{version}_{}.deb", architecture.trim()));
    let mut pack = Command::new("dpkg-deb");
    host::succeed(pack.args(["--root-owner-group", "--build"]).arg(&root).arg(&package))?;
    eprintln!("xtask: packed {}", package.display());
    Ok(ExitCode::SUCCESS)
}

/// Lays everything out as it will lie on the target.
fn stage(binary: &Path, root: &Path) -> Result<()> {
    let workspace = host::workspace()?;
    let installed = root.join("usr/bin/lbpersist");
    install(binary, &installed, "755")?;
    host::succeed(Command::new("strip").arg(&installed))?;
    for (from, to) in FILES {
        install(&workspace.join(from), &root.join(to), "644")?;
    }
    install(
        &workspace.join("packaging/lbpersist.toml"),
        &root.join("etc/lbpersist/lbpersist.toml"),
        "600",
    )?;
    let pages = root.join("usr/share/man/man1");
    host::succeed(Command::new(binary).args(["man", "--dir"]).arg(&pages))?;
    for page in fs::read_dir(&pages)? {
        compress(&page?.path())?;
    }
    let changes = root.join("usr/share/doc/lbpersist/changelog");
    install(&workspace.join("CHANGELOG.md"), &changes, "644")?;
    compress(&changes)?;
    for (shell, to) in COMPLETIONS {
        let text = output(Command::new(binary).args(["completions", shell]))?;
        write(&root.join(to), &text)?;
    }
    Ok(())
}

/// What the binary's libraries are in, as dpkg-shlibdeps finds it.
fn dependencies(work: &Path) -> Result<String> {
    // It wants to stand in a source package.
    write(
        &work.join("debian/control"),
        "Source: lbpersist\n\nPackage: lbpersist\nArchitecture: any\n",
    )?;
    let mut find = Command::new("dpkg-shlibdeps");
    find.args(["-O", "root/usr/bin/lbpersist"]).current_dir(work);
    let found = output(&mut find)?;
    let list = found.trim().strip_prefix("shlibs:Depends=");
    list.map(str::to_owned).with_context(|| format!("dpkg-shlibdeps said {found}"))
}

fn control(version: &str, architecture: &str, depends: &str) -> String {
    format!(
        "Package: lbpersist\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: lbpersist <lbpersist@users.noreply.github.com>\n\
         Section: net\nPriority: optional\nDepends: {depends}\n\
         Homepage: {}\n\
         Description: load balancer on eBPF/XDP whose job is persistence\n \
         A client comes back to the same server for as long as its profile says.\n \
         Packets are balanced in the kernel, before its network stack; a daemon\n \
         beside it watches servers and routes and keeps the tables true.\n",
        env!("CARGO_PKG_REPOSITORY")
    )
}

fn install(from: &Path, to: &Path, mode: &str) -> Result<()> {
    let mut install = Command::new("install");
    host::succeed(install.args(["-D", "-m", mode]).arg(from).arg(to))
}

/// Leaves no time of its own inside, so that the same input makes the same package.
fn compress(path: &PathBuf) -> Result<()> {
    host::succeed(Command::new("gzip").args(["-9n"]).arg(path))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(path.parent().with_context(failed)?).with_context(failed)?;
    fs::write(path, text).with_context(failed)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| host::described(command))?;
    if !output.status.success() {
        bail!("{}: {}", host::described(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
