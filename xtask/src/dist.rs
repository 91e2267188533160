//! `cargo xtask dist`: a Debian package of the optimized daemon, made by dpkg-deb from a staged tree, and tried in a clean system.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};

use crate::host::{self, Profile};
use crate::needs;
use crate::provision::{Provision, is_root};
use crate::run;

/// Debian wants a person or a group whom mail reaches. There is no address yet, and `.invalid` (RFC 6761) says so.
const MAINTAINER: &str = "lbpersist developers <maintainers@lbpersist.invalid>";

/// Debian's revision of a version.
const REVISION: u32 = 1;

/// Where the package's parts come from, its place, and its mode.
const FILES: [(&str, &str); 5] = [
    ("packaging/lbpersist.service", "lib/systemd/system/lbpersist.service"),
    ("packaging/copyright", "usr/share/doc/lbpersist/copyright"),
    ("packaging/lintian-overrides", "usr/share/lintian/overrides/lbpersist"),
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
pub(crate) fn package() -> Result<PathBuf> {
    for program in ["dpkg-deb", "dpkg-shlibdeps", "strip", "gzip", "md5sum"] {
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
    let sums = output(Command::new("sh").args(["-c", SUMS]).current_dir(&root))?;
    let version = format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"));
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?;
    let architecture = architecture.trim();
    let size = output(
        Command::new("du").args(["--summarize", "--block-size=1K", "."]).current_dir(&root),
    )?;
    let size = size.split_whitespace().next().context("du says nothing")?;
    let meta = root.join("DEBIAN");
    let depends = dependencies(&work)?;
    write(&meta.join("control"), &control(&version, architecture, &depends, size))?;
    write(&meta.join("conffiles"), "/etc/lbpersist/lbpersist.toml\n")?;
    write(&meta.join("md5sums"), &sums)?;
    for script in SCRIPTS {
        let from = host::workspace()?.join("packaging").join(script);
        install(&from, &meta.join(script), "755")?;
    }
    let package = work.join(format!("lbpersist_{version}_{architecture}.deb"));
    let mut pack = Command::new("dpkg-deb");
    host::succeed(pack.args(["--root-owner-group", "--build"]).arg(&root).arg(&package))?;
    eprintln!("xtask: packed {}", package.display());
    Ok(package)
}

/// The sums of all files but those of `DEBIAN`, which is not there yet, and of the configuration.
const SUMS: &str = "find usr lib -type f -print0 | sort -z | xargs -0 md5sum";

/// Packs it, has lintian look at it, and tries it in a clean system.
pub(crate) fn check() -> Result<ExitCode> {
    let provision = Provision::new();
    provision.lab_programs()?;
    provision.programs(&needs::PACKAGE)?;
    let package = package()?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--tag-display-limit", "0", "--fail-on", "error,warning"]).arg(&package);
    if is_root() {
        lintian.arg("--allow-root");
    }
    host::succeed(&mut lintian)?;
    eprintln!("xtask: lintian has nothing to say against it");
    run::lab(&["package".into(), package.into()])
}

/// Lays everything out as it will lie on the target.
fn stage(binary: &Path, root: &Path) -> Result<()> {
    let workspace = host::workspace()?;
    let installed = root.join("usr/bin/lbpersist");
    install(binary, &installed, "755")?;
    let sections = ["--remove-section=.comment", "--remove-section=.note"];
    host::succeed(Command::new("strip").args(sections).arg(&installed))?;
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
    let documents = root.join("usr/share/doc/lbpersist");
    let changes = documents.join("changelog");
    install(&workspace.join("CHANGELOG.md"), &changes, "644")?;
    compress(&changes)?;
    let packaging = documents.join("changelog.Debian");
    write(&packaging, &debian_changelog(&made_at()?))?;
    compress(&packaging)?;
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

fn control(version: &str, architecture: &str, depends: &str, kilobytes: &str) -> String {
    format!(
        "Package: lbpersist\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {kilobytes}\nSection: net\nPriority: optional\n\
         Pre-Depends: init-system-helpers (>= 1.54~)\nDepends: {depends}\n\
         Homepage: {}\n\
         Description: load balancer on eBPF/XDP whose job is persistence\n \
         A client comes back to the same server for as long as its profile says.\n \
         Packets are balanced in the kernel, before its network stack; a daemon\n \
         beside it watches servers and routes and keeps the tables true.\n",
        env!("CARGO_PKG_REPOSITORY")
    )
}

/// The history of the packaging, which is one with that of the program.
fn debian_changelog(date: &str) -> String {
    format!(
        "lbpersist ({}-{REVISION}) unstable; urgency=medium\n\n  \
         * What has changed is in changelog.gz: the program brings its packaging.\n\n \
         -- {MAINTAINER}  {date}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// When what is packed was last changed, as a changelog has it: the same input makes the same package.
fn made_at() -> Result<String> {
    let seconds = match env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => seconds,
        Err(_) => {
            let mut log = Command::new("git");
            log.args(["log", "-1", "--format=%ct"]).current_dir(host::workspace()?);
            output(&mut log).context("without a history, set SOURCE_DATE_EPOCH")?
        }
    };
    let at = format!("--date=@{}", seconds.trim());
    let date = output(Command::new("date").args(["--utc", "--rfc-email", &at]))?;
    Ok(date.trim().to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_is_paragraphs_that_dpkg_reads() {
        let control = control("1.2.3-1", "amd64", "libc6 (>= 2.34)", "4096");
        for line in control.lines() {
            let is_field = line.split_once(": ").is_some_and(|(name, _)| !name.contains(' '));
            assert!(is_field || line.starts_with(' '), "{line}");
            assert!(line.len() <= 80 || is_field, "{line}");
        }
        assert!(control.contains("\nVersion: 1.2.3-1\n") && control.ends_with('\n'), "{control}");
    }

    #[test]
    fn the_changelog_has_the_lines_that_debian_asks_for() {
        let text = debian_changelog("Sun, 22 Nov 2026 05:58:35 +0000");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("lbpersist (") && lines[0].contains(") unstable; urgency="));
        assert!(lines[2].starts_with("  * "), "{text}");
        assert!(
            lines[4].starts_with(" -- lbpersist ")
                && lines[4].ends_with(">  Sun, 22 Nov 2026 05:58:35 +0000")
        );
    }

    #[test]
    fn the_unit_leaves_the_pins_writable() {
        let unit = host::workspace().unwrap().join("packaging/lbpersist.service");
        let unit = fs::read_to_string(unit).unwrap();
        let settings: Vec<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
        let writable = settings.iter().find_map(|line| line.strip_prefix("ReadWritePaths="));
        assert!(writable.unwrap().split(' ').any(|path| path == "/sys/fs/bpf"), "{unit}");
        // With it systemd makes the place read-only all the same.
        assert!(!settings.iter().any(|line| line.starts_with("ProtectKernelTunables=")), "{unit}");
    }

    #[test]
    fn files_of_the_package_are_there() {
        let workspace = host::workspace().unwrap();
        let scripts = SCRIPTS.map(|script| format!("packaging/{script}"));
        let files = FILES.iter().map(|(from, _)| *from);
        for from in files.chain(scripts.iter().map(String::as_str)) {
            assert!(workspace.join(from).is_file(), "{from}");
        }
    }
}
