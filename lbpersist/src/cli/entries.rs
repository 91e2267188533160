//! `lbpersist persistence export` and `import`: entries as lines of JSON.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use ipnet::IpNet;

use super::{
    arguments::Output,
    commands::{Failure, print, print_json},
    server::{ask, unexpected},
};
use crate::{
    breaks::client_text,
    control::{
        Action, Outcome, ServerInfo,
        entries::{EntryRecord, Imported},
    },
    daemon::ENTRIES_AT_ONCE,
    datapath::report::EntryStatus,
    model::ServerState,
    store::unix_s,
};

/// The longest line that is read. Names have at most 64 bytes, addresses less.
const LONGEST_LINE: u64 = 4_096;

/// Messages about lines before the rest is only counted.
const MESSAGES: u64 = 1_000;

pub(super) fn export(entries: Vec<EntryStatus>) -> Result<(), Failure> {
    let now = unix_s();
    let mut out = BufWriter::new(io::stdout().lock());
    let write = || -> io::Result<()> {
        for entry in entries {
            let record = EntryRecord {
                virtual_service: entry.virtual_service,
                pool: entry.pool,
                client: entry.client,
                destination: entry.destination,
                server: entry.server,
                remaining_seconds: entry.expires_in_seconds,
                open: entry.open,
                created: Some(now.saturating_sub(entry.age_seconds as u64)),
            };
            serde_json::to_writer(&mut out, &record)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    match write() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Work(format!("cannot write the result: {error}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn import(
    socket: &Path,
    file: &Path,
    replace: bool,
    output: Output,
) -> Result<(), Failure> {
    let name = file.display();
    let failed = |error: io::Error| Failure::Input(format!("cannot read {name}: {error}"));
    let input: Box<dyn io::Read> = match file {
        file if file == Path::new("-") => Box::new(io::stdin().lock()),
        file => Box::new(File::open(file).map_err(failed)?),
    };
    let mut import =
        Import { socket, replace, sum: Imported::default(), waiting: Vec::new(), wrong: 0 };
    let mut input = BufReader::new(input);
    let mut number = 0;
    while let Some(line) = next_line(&mut input).map_err(failed)? {
        number += 1;
        import.line(number, line)?;
    }
    import.send()?;
    import.end(output)
}

/// The entry of a client that an operator binds; of `virtual_service`, or of all services of the pool.
pub(super) fn by_hand(
    virtual_service: Option<String>,
    pool: String,
    client: IpNet,
    destination: Option<IpAddr>,
    (address, port): (IpAddr, Option<u16>),
) -> EntryRecord {
    EntryRecord {
        virtual_service,
        pool,
        client: client_text(&client),
        destination,
        server: port
            .map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string()),
        remaining_seconds: None,
        open: 0,
        created: None,
    }
}

pub(super) fn set(socket: &Path, record: EntryRecord, output: Output) -> Result<(), Failure> {
    let (client, server, pool) =
        (record.client.clone(), record.server.clone(), record.pool.clone());
    refuse_disabled(socket, &pool, &server)?;
    let action = Action::PersistenceImport { entries: vec![record], replace: true };
    let Outcome::Imported(done) = ask(socket, &action)? else {
        return Err(Failure::Work("the daemon answered something else than was asked".to_owned()));
    };
    if let Some((_, why)) = done.wrong.first() {
        return Err(Failure::Input(why.clone()));
    }
    if done.unknown_servers > 0 {
        return Err(Failure::Input(format!("pool `{pool}` has no server {server}")));
    }
    match output {
        Output::Json => print_json(&serde_json::json!({ "moved": done.moved > 0 })),
        Output::Text if done.moved > 0 => print(&format!("{client} is moved to {server}\n")),
        Output::Text => print(&format!("{client} is bound to {server}\n")),
    }
}

/// Who is bound to a disabled server would be sent elsewhere, or nowhere, at once. What is wrong with the names is found later.
fn refuse_disabled(socket: &Path, pool: &str, server: &str) -> Result<(), Failure> {
    let question = Action::ServerList { pool: Some(pool.to_owned()), search: None };
    let Outcome::Servers { servers } = ask(socket, &question)? else { return Ok(()) };
    let is_meant =
        |one: &&ServerInfo| one.endpoint() == server || one.address.to_string() == server;
    match servers.iter().find(is_meant) {
        Some(one) if one.used == ServerState::Disabled => Err(Failure::Input(format!(
            "server {} of pool `{pool}` is disabled and takes nobody: enable it first",
            one.endpoint()
        ))),
        _ => Ok(()),
    }
}

/// A line without its end; `Err` if it is too long. `None` at the end.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>, ()>>> {
    let mut line = Vec::new();
    input.by_ref().take(LONGEST_LINE + 1).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 > LONGEST_LINE {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(())));
    } else if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(Ok(line)))
}

/// An import under way.
struct Import<'a> {
    socket: &'a Path,
    replace: bool,
    sum: Imported,
    waiting: Vec<(u64, EntryRecord)>,
    wrong: u64,
}

impl Import<'_> {
    fn line(&mut self, number: u64, line: Result<Vec<u8>, ()>) -> Result<(), Failure> {
        let Ok(line) = line else {
            self.complain(number, &format!("it has more than {LONGEST_LINE} bytes"));
            return Ok(());
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        match serde_json::from_slice(&line) {
            Ok(record) => self.waiting.push((number, record)),
            Err(error) => self.complain(number, &format!("this is no entry: {error}")),
        }
        if self.waiting.len() == ENTRIES_AT_ONCE { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let (numbers, entries): (Vec<u64>, Vec<EntryRecord>) = self.waiting.drain(..).unzip();
        match ask(self.socket, &Action::PersistenceImport { entries, replace: self.replace })? {
            Outcome::Imported(part) => {
                self.sum.bound += part.bound;
                self.sum.moved += part.moved;
                self.sum.kept += part.kept;
                self.sum.expired += part.expired;
                self.sum.unknown_servers += part.unknown_servers;
                for (place, why) in part.wrong {
                    self.complain(numbers.get(place).copied().unwrap_or_default(), &why);
                }
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    fn complain(&mut self, number: u64, why: &str) {
        self.wrong += 1;
        if self.wrong <= MESSAGES {
            let _ = writeln!(io::stderr(), "line {number}: {why}");
        }
    }

    fn end(self, output: Output) -> Result<(), Failure> {
        let Imported { bound, moved, kept, expired, unknown_servers, .. } = self.sum;
        let wrong = self.wrong;
        match output {
            Output::Text => print(&format!(
                "{bound} bound, {moved} moved, {kept} had an entry and keep it, {expired} over, {unknown_servers} of unknown servers\n"
            ))?,
            Output::Json => print_json(&serde_json::json!({
                "bound": bound,
                "moved": moved,
                "kept": kept,
                "expired": expired,
                "unknown_servers": unknown_servers,
                "wrong": wrong,
            }))?,
        }
        match wrong {
            0 => Ok(()),
            1 => Err(Failure::Input("1 line is wrong and was left out".to_owned())),
            wrong => Err(Failure::Input(format!("{wrong} lines are wrong and were left out"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_those_after_a_long_one_are_read() {
        let long = "x".repeat(usize::try_from(LONGEST_LINE).unwrap());
        let text = format!("a\n\n{long}\n{long}y\nb");
        let mut input = text.as_bytes();
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut input).unwrap() {
            lines.push(line.map(|line| line.len()));
        }
        assert_eq!(lines, [Ok(1), Ok(0), Ok(long.len()), Err(()), Ok(1)]);
    }
}
