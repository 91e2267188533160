//! What a command needs from the machine beyond cargo, and how it is called in Debian.

use crate::host;

/// A program that is looked for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
    /// What it is wanted for.
    pub(crate) purpose: &'static str,
}

/// What the lab and the topology tests call.
pub(crate) const LAB: [Program; 4] = [
    Program { name: "ip", package: "iproute2", purpose: "looks into network namespaces" },
    Program { name: "ethtool", package: "ethtool", purpose: "turns checksum offload off" },
    Program { name: "curl", package: "curl", purpose: "is the client" },
    Program { name: "bpftool", package: "bpftool", purpose: "shows the maps" },
];

/// What the tests of the proxy call beside that: servers and clients that others have made.
pub(crate) const PROXY: [Program; 5] = [
    Program { name: "nginx", package: "nginx-light", purpose: "is a server behind the proxy" },
    Program { name: "h2load", package: "nghttp2-client", purpose: "is a client of many streams" },
    Program { name: "wrk", package: "wrk", purpose: "is a client of many connections" },
    Program { name: "chromium", package: "chromium", purpose: "is the browser" },
    Program { name: "chromedriver", package: "chromium-driver", purpose: "drives the browser" },
];

/// What the measurement between namespaces calls.
pub(crate) const VETH: [Program; 2] = [
    Program { name: "ip", package: "iproute2", purpose: "makes network namespaces" },
    Program { name: "nft", package: "nftables", purpose: "is what lbpersist is compared with" },
];

/// What trying a package in a clean system calls, beside what the lab does.
pub(crate) const PACKAGE: [Program; 2] = [
    Program { name: "debootstrap", package: "debootstrap", purpose: "makes the clean system" },
    Program { name: "lintian", package: "lintian", purpose: "knows Debian's rules" },
];

/// What the measurement of the HTTP proxy calls.
pub(crate) const HTTP: [Program; 6] = [
    Program { name: "ip", package: "iproute2", purpose: "makes a network namespace" },
    Program { name: "haproxy", package: "haproxy", purpose: "is what lbpersist is compared with" },
    Program { name: "nginx", package: "nginx", purpose: "is another, and the servers" },
    Program { name: "wrk", package: "wrk", purpose: "is the clients" },
    Program { name: "h2load", package: "nghttp2-client", purpose: "is the clients of HTTP/2" },
    Program { name: "curl", package: "curl", purpose: "is the client of streams" },
];

/// Debian's compiler for the BPF target, its cargo, and the sources of `core`.
pub(crate) const BPF_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

/// Debian's linter that goes with it; the tests do without where it is not to be had.
pub(crate) const BPF_CLIPPY: &str = "rust-web-clippy";

/// Debian's LLVM to build bpf-linker against.
pub(crate) fn llvm_package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

/// Those of `programs` that `has` does not find.
pub(crate) fn absent(programs: &[Program], has: impl Fn(&str) -> bool) -> Vec<Program> {
    programs.iter().filter(|program| !has(program.name)).copied().collect()
}

/// Which of cargo's own companions are not beside the cargo that runs us.
pub(crate) fn absent_companions() -> Vec<&'static str> {
    let cargo = host::cargo_path();
    let beside = |file: &str| cargo.with_file_name(file).is_file();
    [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")]
        .into_iter()
        .filter(|(_, file)| !beside(file))
        .map(|(component, _)| component)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absent_programs_are_named() {
        let names = |list: Vec<Program>| list.iter().map(|it| it.name).collect::<Vec<_>>();
        assert_eq!(names(absent(&LAB, |name| name == "curl")), ["ip", "ethtool", "bpftool"]);
        assert_eq!(absent(&LAB, |_| true), []);
    }
}
