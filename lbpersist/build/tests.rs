//! The choice, given facts. Run by `cargo test -p xtask`: a build script has no tests of its own.

use std::path::{Path, PathBuf};

use super::candidates::{parse_release, parse_version};
use super::{Compiler, Facts, Linker, Missing, choose};

fn compiler(cargo: &str, release: (u32, u32), llvm: u32, core_source: bool) -> Compiler {
    Compiler { cargo: cargo.into(), facts: Ok(Facts { release, llvm, core_source }) }
}

fn linker(path: &str, llvm: Option<u32>) -> Linker {
    Linker { path: path.into(), llvm }
}

fn any(_: &Compiler, _: &Linker) -> Result<(), String> {
    Ok(())
}

const DEBIAN: &str = "/usr/bin/cargo";
const NIGHTLY: &str = "/home/user/.rustup/toolchains/nightly/bin/cargo";

#[test]
fn first_fitting_pair_is_taken() {
    let compilers = [compiler(DEBIAN, (1, 96), 22, true), compiler(NIGHTLY, (1, 99), 23, true)];
    let linkers = [linker("/cache/21", Some(21)), linker("/cache/22", Some(22))];
    let chosen = choose(&compilers, &linkers, any).unwrap();
    assert_eq!(chosen.compiler.cargo, Path::new(DEBIAN));
    assert_eq!(chosen.linker, Path::new("/cache/22"));
}

#[test]
fn second_compiler_is_taken_when_only_it_has_a_linker() {
    let compilers = [compiler(DEBIAN, (1, 96), 22, true), compiler(NIGHTLY, (1, 99), 23, true)];
    let chosen = choose(&compilers, &[linker("/cache/23", Some(23))], any).unwrap();
    assert_eq!(chosen.compiler.cargo, Path::new(NIGHTLY));
}

#[test]
fn linker_of_unknown_llvm_is_tried() {
    let compilers = [compiler(DEBIAN, (1, 96), 22, true)];
    let linkers = [linker("/opt/old", None), linker("/opt/new", None)];
    let chosen = choose(&compilers, &linkers, |_, linker| match linker.path.ends_with("new") {
        true => Ok(()),
        false => Err("does not link".into()),
    });
    assert_eq!(chosen.unwrap().linker, Path::new("/opt/new"));
}

#[test]
fn linker_of_another_llvm_is_not_even_tried() {
    let compilers = [compiler(DEBIAN, (1, 96), 22, true)];
    let outcome = choose(&compilers, &[linker("/cache/21", Some(21))], |_, _| panic!("tried"));
    let Err(Missing::Linker { cargo, llvm: 22, seen }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(cargo, PathBuf::from(DEBIAN));
    assert_eq!(seen, ["/cache/21 has LLVM 21"]);
}

#[test]
fn unfit_compilers_are_named_with_their_reasons() {
    let compilers = [
        compiler(DEBIAN, (1, 85), 19, true),
        compiler(NIGHTLY, (1, 99), 23, false),
        Compiler { cargo: "/opt/cargo".into(), facts: Err("has no rustc that starts".into()) },
    ];
    let outcome = choose(&compilers, &[linker("/cache/22", Some(22))], any);
    let Err(Missing::Compiler { seen }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(seen.len(), 3);
    assert!(seen[0].contains("is Rust 1.85"), "{}", seen[0]);
    assert!(seen[1].contains("without the sources of core"), "{}", seen[1]);
    assert!(seen[2].contains("has no rustc that starts"), "{}", seen[2]);
}

#[test]
fn nothing_at_all_says_every_command() {
    let text = choose(&[], &[], any).unwrap_err().to_string();
    for command in [
        "apt-get install rustc-web cargo-web rust-web-src",
        "apt-get install llvm-22-dev",
        "--no-default-features --features llvm-22",
        "rustup toolchain install nightly --component rust-src",
        "cargo install bpf-linker",
    ] {
        assert!(text.contains(command), "{command} not in: {text}");
    }
}

#[test]
fn missing_linker_asks_for_the_llvm_of_the_compiler() {
    let text = choose(&[compiler(NIGHTLY, (1, 99), 23, true)], &[], any).unwrap_err().to_string();
    assert!(text.contains("--features llvm-23"), "{text}");
    assert!(!text.contains("rustup toolchain install"), "{text}");
}

#[test]
fn versions_are_read() {
    let output = "rustc 1.97.0-nightly (0 2026-05-01)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                  release: 1.97.0-nightly\nLLVM version: 22.1.8\n";
    assert_eq!(parse_version(output), Some(((1, 97), 22)));
    assert_eq!(parse_version("rustc 1.96.0"), None);
    assert_eq!(parse_release("1.95"), Some((1, 95)));
    assert_eq!(parse_release("one"), None);
}
