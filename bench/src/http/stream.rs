//! A gibibyte through a service of mode `tcp`: curl fetches it on one connection.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Result, ensure};
use lbpersist_tests::namespace::Namespace;

use super::process::{Running, pinned};

/// What is fetched at a time, in bytes.
const PART: u64 = 64 << 20;
/// How often.
const PARTS: u64 = 16;
/// What is fetched in all.
pub(crate) const TOTAL: u64 = 1 << 30;
const _: () = assert!(PART * PARTS == TOTAL);

const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the file that the servers give, below the directory of their nginx.
pub(crate) fn prepare(servers: &Path) -> Result<()> {
    let files = servers.join("files");
    fs::create_dir_all(&files)?;
    Ok(fs::File::create(files.join("bulk"))?.set_len(PART)?)
}

/// Fetches all of it; nothing of it may be missing.
pub(crate) fn fetch(
    namespace: &Namespace,
    cpu: usize,
    directory: &Path,
    at: SocketAddr,
) -> Result<()> {
    let mut curl = pinned(cpu, "curl");
    curl.args(["--silent", "--show-error", "--fail", "--output", "/dev/null"])
        .args(["--write-out", "%{size_download} %{num_connects}\\n"])
        .arg(format!("http://{at}/bulk?[1-{PARTS}]"));
    let log = directory.join("curl.log");
    judge(&Running::start(namespace, &mut curl, log)?.output(PATIENCE)?)
}

/// Whether curl says that it has all, by one connection.
fn judge(said: &str) -> Result<()> {
    let mut expected = vec![format!("{PART} 0"); PARTS as usize];
    expected[0] = format!("{PART} 1");
    ensure!(said.lines().eq(expected), "not all came, or not by one connection: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_short_or_missing_is_noticed() {
        let rest = format!("{PART} 0\n").repeat(PARTS as usize - 1);
        assert!(judge(&format!("{PART} 1\n{rest}")).is_ok());
        assert!(judge(&format!("{} 1\n{rest}", PART - 1)).is_err());
        assert!(judge(&format!("{PART} 0\n{rest}")).is_err());
        assert!(judge(&rest).is_err());
    }
}
