//! `lbpersist server`: asks the daemon, and for `drain --wait` again and again.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{
    arguments::{Output, Server, ServerOf},
    commands::{Failure, print, print_json},
    text::Table,
};
use crate::{
    control::{
        Action, Fault, Left, Origin, Outcome, ServerInfo, ServerName,
        client::{self, Error},
    },
    model::ServerState,
};

/// Pause between two questions how many are left.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Counting costs the machine something, so the pause is at least so many times what the answer took.
const SPARING: u32 = 20;

/// How long a daemon that does not answer is waited for: it may be starting again.
const RESTART: Duration = Duration::from_secs(60);

pub(super) fn execute(command: Server, socket: &Path, output: Output) -> Result<(), Failure> {
    let set = |server: ServerOf, state| Action::ServerSet { server: server.into(), state };
    match command {
        Server::List { pool, search } => match ask(socket, &Action::ServerList { pool, search })? {
            Outcome::Servers { servers } => show_list(&servers, output),
            other => Err(unexpected(&other)),
        },
        Server::Show(server) => show_answer(socket, &Action::ServerShow(server.into()), output),
        Server::Disable(server) => show_answer(socket, &set(server, ServerState::Disabled), output),
        Server::Enable(server) => show_answer(socket, &set(server, ServerState::Enabled), output),
        Server::Drain { server, wait: false, .. } => {
            show_answer(socket, &set(server, ServerState::Draining), output)
        }
        Server::Drain { server, wait: true, deadline } => {
            let name = ServerName::from(server);
            let drain = Action::ServerSet { server: name.clone(), state: ServerState::Draining };
            let (info, left) = server_of(ask(socket, &drain)?)?;
            if output == Output::Text {
                print(&format!("{} of pool {}: {left}\n", info.endpoint(), info.pool))?;
            }
            wait(socket, &name, (info, left), deadline, output)
        }
    }
}

/// Asks until nobody is left, or fails at the deadline.
fn wait(
    socket: &Path,
    name: &ServerName,
    first: (ServerInfo, Left),
    deadline: Option<Duration>,
    output: Output,
) -> Result<(), Failure> {
    let begin = Instant::now();
    let (mut info, mut left) = first;
    let mut took = Duration::ZERO;
    let mut silent_since = None;
    // Workers hear a moment later that a server takes nobody new, so it has to be found empty twice.
    let mut was_empty = false;
    loop {
        if info.used != ServerState::Draining {
            let (server, used) = (info.endpoint(), info.used);
            return Err(Failure::Work(format!("{server} is {used} again: nobody waits for it")));
        }
        let is_empty = left.is_empty();
        if is_empty && was_empty {
            return match output {
                Output::Text => {
                    print(&format!("{} is empty{}\n", info.endpoint(), left.by_cookie()))
                }
                Output::Json => show_server(&info, &left, output),
            };
        }
        let passed = begin.elapsed();
        if !is_empty && deadline.is_some_and(|deadline| passed >= deadline) {
            if output == Output::Json {
                show_server(&info, &left, output)?;
            }
            return Err(Failure::Work(format!(
                "{} is not empty at the deadline: {left}",
                info.endpoint()
            )));
        }
        let rest = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_sub(passed));
        was_empty = is_empty;
        thread::sleep(ASK_EVERY.max(took * SPARING).min(rest));
        let asked = Instant::now();
        match client::ask(socket, &Action::ServerShow(name.clone())) {
            Ok(outcome) => {
                (info, left) = server_of(checked(outcome)?)?;
                took = asked.elapsed();
                silent_since = None;
            }
            Err(error @ (Error::NoDaemon(_) | Error::Broken { .. })) => {
                let since = *silent_since.get_or_insert(asked);
                if since.elapsed() > RESTART {
                    return Err(Failure::Work(error.to_string()));
                }
            }
            Err(error) => return Err(Failure::Work(error.to_string())),
        }
    }
}

/// Asks once; what the daemon refuses or cannot do is a failure.
pub(super) fn ask(socket: &Path, action: &Action) -> Result<Outcome, Failure> {
    checked(client::ask(socket, action).map_err(|error| Failure::Work(error.to_string()))?)
}

fn checked(outcome: Outcome) -> Result<Outcome, Failure> {
    match outcome {
        Outcome::Failed { fault: Fault::Input, message } => Err(Failure::Input(message)),
        Outcome::Failed { fault: Fault::Work, message } => Err(Failure::Work(message)),
        outcome => Ok(outcome),
    }
}

/// The failure of an answer that does not fit its question.
pub(super) fn unexpected(outcome: &Outcome) -> Failure {
    Failure::Work(format!("the daemon answered something else than was asked: {outcome:?}"))
}

fn server_of(outcome: Outcome) -> Result<(ServerInfo, Left), Failure> {
    match outcome {
        Outcome::Server { server, left } => Ok((*server, left)),
        other => Err(unexpected(&other)),
    }
}

fn show_answer(socket: &Path, action: &Action, output: Output) -> Result<(), Failure> {
    let (info, left) = server_of(ask(socket, action)?)?;
    show_server(&info, &left, output)
}

fn show_server(info: &ServerInfo, left: &Left, output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return print_json(&serde_json::json!({ "server": info, "left": left }));
    }
    let mut text = format!("{} of pool {}: {}", info.endpoint(), info.pool, info.state);
    text.push_str(&match info.origin {
        Origin::Hand => format!(", {} by hand", info.used),
        Origin::Configuration => format!(", {} by configuration", info.used),
    });
    if info.origin == Origin::Hand {
        text.push_str(&format!(" (the configuration says {})", info.configured));
    }
    if !info.failing.is_empty() {
        text.push_str(&format!("; failing: {}", info.failing.join(", ")));
    }
    print(&format!("{text}\n{left}\n"))
}

fn show_list(servers: &[ServerInfo], output: Output) -> Result<(), Failure> {
    if output == Output::Json {
        return print_json(&servers);
    }
    let mut table = Table::new(["POOL", "SERVER", "WEIGHT", "STATE", "USED", "ORIGIN", "FAILING"]);
    for server in servers {
        let origin = match server.origin {
            Origin::Hand => "by hand",
            Origin::Configuration => "configuration",
        };
        let failing = if server.failing.is_empty() { "-" } else { &server.failing.join(", ") };
        table.row([
            server.pool.clone(),
            server.endpoint(),
            server.weight.to_string(),
            server.state.clone(),
            server.used.to_string(),
            origin.to_owned(),
            failing.to_owned(),
        ]);
    }
    print(&table.text("no servers"))
}

impl From<ServerOf> for ServerName {
    fn from(server: ServerOf) -> Self {
        let (address, port) = server.server;
        Self { pool: server.pool, address, port }
    }
}
