//! What is made from the command line's definition: completions and man pages.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{
    arguments::Arguments,
    commands::{Failure, print},
};

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "lbpersist", &mut text);
    print(&String::from_utf8_lossy(&text))
}

/// Prints the man page, or writes one for each command into a directory.
pub(super) fn man(directory: Option<&Path>) -> Result<(), Failure> {
    let failed = |what: String| move |error| Failure::Work(format!("cannot write {what}: {error}"));
    let Some(directory) = directory else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Arguments::command())
            .render(&mut text)
            .map_err(failed("the man page".to_owned()))?;
        return print(&String::from_utf8_lossy(&text));
    };
    std::fs::create_dir_all(directory).map_err(failed(directory.display().to_string()))?;
    clap_mangen::generate_to(Arguments::command(), directory)
        .map_err(failed(format!("man pages into {}", directory.display())))
}
