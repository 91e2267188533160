//! The demo: clients that are kept on their servers, told as it happens.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::Result;
use lbpersist_tests::{
    command,
    topology::{Family, Host},
};

use crate::{
    files::wait_until,
    laboratory::Laboratory,
    report::{Report, Seen},
    visit::{CONNECTIONS, Visitor},
};

/// Lines of the kernel's view that are shown.
const DUMP_LINES: usize = 45;

/// What becomes of the laboratory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    Keep,
    Remove,
}

/// Shows it all, and says with the exit code whether it was seen.
pub(crate) fn run(name: &str, after: After) -> Result<ExitCode> {
    println!("lbpersist: clients come back to their server");
    let laboratory = Laboratory::up(name)?;
    let mut report = Report::new();
    let shown = Demo { laboratory: &laboratory, report: &mut report }.show();
    if shown.is_err() {
        eprintln!("the daemon's log:\n{}", laboratory.log());
    }
    if after == After::Keep {
        laboratory.keep()?;
        println!("\n{}", laboratory.how_to_play());
    } else {
        Laboratory::down(name)?;
    }
    shown?;
    Ok(match report.conclude() {
        Seen::Yes => ExitCode::SUCCESS,
        Seen::No => ExitCode::FAILURE,
    })
}

struct Demo<'a> {
    laboratory: &'a Laboratory,
    report: &'a mut Report,
}

impl<'a> Demo<'a> {
    fn show(&mut self) -> Result<()> {
        self.introduce()?;
        let mut before = self.visit(Family::V4, 5);
        before.extend(self.visit(Family::V6, 2));
        let Some(victim) = self.victim(&before) else {
            return Ok(());
        };
        self.server_goes(&victim)?;
        let during = self.visit_again(&before);
        self.compare(&before, &during, &victim.name());
        self.server_comes_back(&victim, &during)?;
        self.what_is_kept()
    }

    fn introduce(&mut self) -> Result<()> {
        let topology = &self.laboratory.topology;
        self.report.step(
            "Two clients, three servers, and lbpersist between them, each in a network namespace",
        );
        let mut rows = Vec::new();
        let mut row = |who: &str, name: &str, addresses: [IpAddr; 2]| {
            let [v4, v6] = addresses.map(|address| address.to_string());
            rows.push(vec![who.to_owned(), name.to_owned(), v4, v6]);
        };
        for client in &topology.clients {
            row(
                "client",
                client.namespace.name(),
                Family::BOTH.map(|family| client.address(family)),
            );
        }
        row("service", topology.balancer.name(), Family::BOTH.map(Family::service_address));
        for host in &topology.servers {
            let who = format!("server {}", host.name());
            row(&who, host.namespace.name(), Family::BOTH.map(|family| host.address(family)));
        }
        self.report.table(&["who", "namespace", "IPv4", "IPv6"], &rows);

        let file = self.laboratory.configuration_file();
        self.report.step(format!("lbpersist runs with {}", file.display()));
        self.report.text(&fs::read_to_string(&file)?);
        wait_until("every server is up", || Ok(self.states()?.iter().all(|state| state == "up")))?;
        self.report.claim(true, "lbpersist is ready, and its monitor finds every server up");
        Ok(())
    }

    /// Lets addresses of both clients connect, and shows whom they met.
    fn visit(&mut self, family: Family, addresses: u32) -> Vec<Visitor<'a>> {
        let count = addresses as usize * self.laboratory.topology.clients.len();
        self.report.step(format!(
            "{count} {} addresses connect {CONNECTIONS} times each, with curl",
            match family {
                Family::V4 => "IPv4",
                Family::V6 => "IPv6",
            }
        ));
        let mut visitors = Vec::new();
        for client in &self.laboratory.topology.clients {
            let others = (1..addresses).map(|subnet| client.address_in(family, subnet, 7));
            for address in std::iter::once(client.address(family)).chain(others) {
                visitors.push(Visitor::connect(self.laboratory, client, address));
            }
        }
        let rows: Vec<_> = visitors
            .iter()
            .map(|visitor| {
                let answered = visitor.answered();
                vec![visitor.address.to_string(), answered, visitor.servers()]
            })
            .collect();
        self.report.table(&["client", "answered", "by"], &rows);
        let answered = visitors.iter().all(Visitor::is_complete);
        self.report.claim(answered, "every connection was answered");
        let kept = visitors.iter().all(|visitor| visitor.server().is_some());
        self.report.claim(kept, "each client met one server, every time");
        if family == Family::V4 {
            let servers: BTreeSet<_> = visitors.iter().filter_map(Visitor::server).collect();
            let several = servers.len() > 1;
            self.report.claim(
                several,
                format!("different clients met different servers ({})", servers.len()),
            );
        }
        visitors
    }

    fn visit_again(&self, visitors: &[Visitor<'a>]) -> Vec<Visitor<'a>> {
        visitors
            .iter()
            .map(|visitor| Visitor::connect(self.laboratory, visitor.client, visitor.address))
            .collect()
    }

    /// The server that will be taken down: one that somebody met.
    fn victim(&self, visitors: &[Visitor<'_>]) -> Option<Host> {
        let name = visitors.iter().find_map(Visitor::server)?;
        self.laboratory.topology.servers.iter().find(|host| host.name() == name).cloned()
    }

    fn server_goes(&mut self, victim: &Host) -> Result<()> {
        let name = victim.name();
        self.report.step(format!("Server {name} is killed"));
        self.laboratory.stop_server(victim)?;
        let killed = Instant::now();
        let noticed = self.wait_for_state(victim, "down");
        let seconds = killed.elapsed().as_secs_f32();
        self.report.claim(noticed, format!("the monitor noticed after {seconds:.1} seconds"));
        Ok(())
    }

    fn compare(&mut self, before: &[Visitor<'_>], during: &[Visitor<'_>], victim: &str) {
        let rows: Vec<_> = before
            .iter()
            .zip(during)
            .map(|(before, during)| {
                let switched =
                    if before.servers() == during.servers() { "stayed" } else { "switched" };
                let answered = during.answered();
                let client = before.address.to_string();
                vec![client, before.servers(), during.servers(), answered, switched.to_owned()]
            })
            .collect();
        self.report.table(&["client", "before", "now", "answered", ""], &rows);
        let (mut clients_of_victim, mut others) = (0, 0);
        let (mut switched, mut stayed) = (true, true);
        for (before, during) in before.iter().zip(during) {
            let complete = during.is_complete();
            if before.server() == Some(victim) {
                clients_of_victim += 1;
                switched &= complete && during.server().is_some_and(|server| server != victim);
            } else {
                others += 1;
                stayed &= complete && during.server() == before.server();
            }
        }
        self.report.claim(
            switched && clients_of_victim > 0,
            format!(
                "the {clients_of_victim} clients of {victim} switched to one other server each"
            ),
        );
        self.report
            .claim(stayed && others > 0, format!("the {others} others stayed where they were"));
    }

    fn server_comes_back(&mut self, victim: &Host, during: &[Visitor<'a>]) -> Result<()> {
        let name = victim.name();
        self.report.step(format!("Server {name} is started again"));
        self.laboratory.start_server(victim)?;
        let noticed = self.wait_for_state(victim, "up");
        self.report.claim(noticed, format!("the monitor finds {name} up"));
        let after = self.visit_again(during);
        let stayed = during.iter().zip(&after).all(|(during, after)| {
            after.is_complete() && during.server().is_some() && during.server() == after.server()
        });
        self.report
            .claim(stayed, "nobody was moved by that: every client met the server it had last");
        Ok(())
    }

    fn what_is_kept(&mut self) -> Result<()> {
        let entries = self.lbpersist_json(&["persistence", "list"])?.as_array().map_or(0, Vec::len);
        for (arguments, words) in [
            (["persistence", "list"].as_slice(), "persistence list"),
            (["status"].as_slice(), "status"),
        ] {
            self.report.step(format!("lbpersist {words}"));
            let shown = self.laboratory.lbpersist(arguments)?.success()?;
            self.report.text(&shown);
        }
        let clients = self.laboratory.topology.clients.len() * 7;
        self.report.claim(
            entries == clients,
            format!("there is one entry for each of the {clients} clients"),
        );

        let pin = self.laboratory.entries_pin();
        self.report.step(format!("bpftool map dump pinned {}", pin.display()));
        let dumped =
            command::run(Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&pin))?
                .success()?;
        self.report.beginning(&dumped, DUMP_LINES);
        let named =
            ["\"client\"", "\"server\"", "\"open\""].iter().all(|field| dumped.contains(field));
        self.report.claim(named, "the kernel's map shows the same entries, with named fields");
        Ok(())
    }

    fn wait_for_state(&self, host: &Host, wanted: &str) -> bool {
        let addresses = Family::BOTH.map(|family| host.address(family).to_string());
        let arrived = || {
            let status = self.lbpersist_json(&["status"])?;
            Ok(servers(&status)
                .filter(|server| addresses.iter().any(|address| server["address"] == **address))
                .all(|server| server["state"] == wanted))
        };
        wait_until(&format!("{} is {wanted}", host.name()), arrived).is_ok()
    }

    fn states(&self) -> Result<Vec<String>> {
        let status = self.lbpersist_json(&["status"])?;
        let state =
            |server: &serde_json::Value| server["state"].as_str().unwrap_or_default().to_owned();
        Ok(servers(&status).map(state).collect())
    }

    fn lbpersist_json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let arguments = [&["-o", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.laboratory.lbpersist(&arguments)?.success()?)?)
    }
}

/// Every server of every pool in `lbpersist status -o json`.
fn servers(status: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    let pools = status["pools"].as_array().into_iter().flatten();
    pools.flat_map(|pool| pool["servers"].as_array().into_iter().flatten())
}
