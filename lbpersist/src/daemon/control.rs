//! What is asked over the control socket, done between other events by the task that owns the state.
//!
//! Reading the tables takes time, so what needs that is answered by a thread of its own, from the pinned maps.

use std::{collections::BTreeMap, net::IpAddr};

use lbpersist_common::server::state;
use tokio::sync::oneshot;

use super::{Daemon, reload::Source};
use crate::{
    clock,
    control::{Action, Left, Origin, Outcome, ServerInfo, ServerName, socket::Request},
    datapath::{
        self,
        desired::{said_by_hand, server_identity},
        identity::ServerIdentity,
        report::{Reader, state_name},
    },
    health::MonitorStatus,
    model::{Model, Pool, Server, ServerState},
};

impl Daemon {
    /// Does what was asked, or has it done.
    pub(super) fn take_request(&mut self, request: Request) {
        let Request { action, reply } = request;
        match action {
            Action::ServerList { pool, search } => answer(reply, self.list_servers(pool, search)),
            Action::MonitorList { pool, search } => {
                answer(reply, self.list_monitors(pool, search));
            }
            Action::ProxiedList => {
                answer(reply, Outcome::Proxied { services: self.proxy.counts() });
            }
            Action::ServerShow(name) => match find(&self.model, &name) {
                Ok((pool, place)) => self.show(pool, place, reply),
                Err(refusal) => answer(reply, Outcome::refused(refusal)),
            },
            Action::ServerSet { server, state } => match find(&self.model, &server) {
                Ok((pool, place)) => match self.set_state(&pool, place, state) {
                    Ok(()) => self.show(pool, place, reply),
                    Err(error) => answer(reply, Outcome::failed(error.to_string())),
                },
                Err(refusal) => answer(reply, Outcome::refused(refusal)),
            },
            Action::BreakList => answer(reply, Outcome::Breaks { breaks: self.proxy.breaks() }),
            Action::PersistenceImport { entries, replace } => {
                answer(reply, self.import(&entries, replace));
            }
            Action::StoreShow => answer(reply, Outcome::Store { store: self.store.status() }),
            Action::Reload => self.prepare(Source::OwnFile, Some(reply)),
            Action::Apply { name, text, dry_run: true, .. } => self.dry_run(name, text, reply),
            Action::Apply { name, text, dry_run: false, save } => {
                self.prepare(Source::Text { name, text, save }, Some(reply));
            }
        }
    }

    fn list_servers(&self, pool: Option<String>, search: Option<String>) -> Outcome {
        if let Some(name) = pool.as_ref().filter(|name| !self.model.pools.contains_key(*name)) {
            return Outcome::refused(format!("there is no pool `{name}`"));
        }
        let pools = self.model.pools.values();
        let pools =
            pools.filter(|candidate| pool.as_ref().is_none_or(|name| candidate.name == *name));
        let servers =
            pools.flat_map(|pool| pool.servers.iter().map(|server| self.info(pool, server)));
        let search = search.unwrap_or_default().to_lowercase();
        let found = servers.filter(|server| {
            [&server.pool, &server.endpoint(), &server.state]
                .iter()
                .any(|text| text.to_lowercase().contains(&search))
        });
        Outcome::Servers { servers: found.collect() }
    }

    fn list_monitors(&self, pool: Option<String>, search: Option<String>) -> Outcome {
        if let Some(name) = pool.as_ref().filter(|name| !self.model.pools.contains_key(*name)) {
            return Outcome::refused(format!("there is no pool `{name}`"));
        }
        let search = search.unwrap_or_default().to_lowercase();
        let mut monitors = self.checker.board().snapshot().monitors;
        monitors.retain(|status| {
            let MonitorStatus { monitor, kind, state, .. } = status;
            pool.as_ref().is_none_or(|name| status.pool == *name)
                && [&status.pool, &status.endpoint(), monitor, kind, &state.to_string()]
                    .iter()
                    .any(|text| text.to_lowercase().contains(&search))
        });
        Outcome::Monitors { monitors }
    }

    /// Answers with a server and who is left on it.
    fn show(&self, pool: String, place: usize, reply: oneshot::Sender<Outcome>) {
        let Some(pool) = self.model.pools.get(&pool) else { return };
        let info = self.info(pool, &pool.servers[place]);
        let number = self.number_of(pool, &pool.servers[place]);
        let record = number.and_then(|number| self.data_path.actual().servers.get(&number));
        let serves = record.is_none_or(|record| state::serves(record.state));
        let leaving = self.proxy.leaving(pool, &pool.servers[place], serves);
        let pins = self.data_path.pins().clone();
        tokio::task::spawn_blocking(move || {
            let left = number.map_or(Ok(Left::default()), |number| {
                Reader::open(&pins)?.left(number, clock::now_ns())
            });
            answer(
                reply,
                match left {
                    Ok(mut left) => {
                        leaving.add_to(&mut left);
                        Outcome::Server { server: Box::new(info), left }
                    }
                    Err(error) => Outcome::failed(error.to_string()),
                },
            );
        });
    }

    /// Uses a server from now on as `state` says. What the configuration says anyway is not noted as said by hand.
    fn set_state(
        &mut self,
        pool: &str,
        place: usize,
        state: ServerState,
    ) -> Result<(), super::Error> {
        let Some(server) =
            self.model.pools.get_mut(pool).and_then(|pool| pool.servers.get_mut(place))
        else {
            return Ok(());
        };
        let before = server.by_hand;
        server.by_hand = (state != server.configured).then_some(state);
        let (address, port) = (server.address, server.port);
        let done = self.update();
        if done.is_err() {
            let server =
                self.model.pools.get_mut(pool).and_then(|pool| pool.servers.get_mut(place));
            server.into_iter().for_each(|server| server.by_hand = before);
        } else {
            tracing::info!(pool, server = endpoint(address, port), %state, "said by hand");
        }
        done
    }

    fn info(&self, pool: &Pool, server: &Server) -> ServerInfo {
        let key = (pool.name.clone(), server.address, server.port);
        let number = self.number_of(pool, server);
        let state = number.and_then(|number| self.data_path.actual().servers.get(&number));
        ServerInfo {
            pool: pool.name.clone(),
            address: server.address,
            port: server.port,
            weight: server.weight,
            state: state_name(state.map_or(0, |server| server.state)).to_owned(),
            used: server.state(),
            origin: if server.by_hand.is_some() { Origin::Hand } else { Origin::Configuration },
            configured: server.configured,
            failing: self.failing.get(&key).into_iter().flatten().cloned().collect(),
        }
    }

    fn number_of(&self, pool: &Pool, server: &Server) -> Option<u32> {
        let identities = &self.data_path.identities;
        let pool = identities.pools.get(&pool.name)?;
        let known = identities.servers.get(&server_identity(pool.number, server))?;
        Some(known.number.into())
    }
}

/// Takes over what was said by hand of servers before the daemon that starts, as the maps have it or, when they are new, as was
/// `kept`. It holds until the configuration says something else of the server than it did then.
pub(super) fn adopt_by_hand(
    model: &mut Model,
    data_path: &datapath::DataPath,
    kept: BTreeMap<ServerIdentity, u8>,
) {
    let identities = &data_path.identities;
    let actual = &data_path.actual().servers;
    for pool in model.pools.values_mut() {
        let Some(known) = identities.pools.get(&pool.name) else { continue };
        for server in &mut pool.servers {
            let identity = server_identity(known.number, server);
            let known = identities.servers.get(&identity);
            let record = known.and_then(|known| actual.get(&u32::from(known.number)));
            let byte = record.map(|record| record.by_hand).or_else(|| kept.get(&identity).copied());
            if let Some((said, configured)) = byte.and_then(said_by_hand) {
                take_over(server, said, configured);
            }
        }
    }
}

/// Notes what was said by hand of a server while the configuration said `configured`, unless that has changed.
pub(super) fn take_over(server: &mut Server, said: ServerState, configured: ServerState) {
    if server.configured == configured {
        server.by_hand = (said != configured).then_some(said);
    }
}

/// The pool's name and the server's place in it, or a sentence why it cannot be meant.
fn find(model: &Model, name: &ServerName) -> Result<(String, usize), String> {
    let Some(pool) = model.pools.get(&name.pool) else {
        return Err(format!("there is no pool `{}`", name.pool));
    };
    let meant = |server: &Server| {
        server.address == name.address && (name.port.is_none() || server.port == name.port)
    };
    let mut places = (0..pool.servers.len()).filter(|&place| meant(&pool.servers[place]));
    let label = endpoint(name.address, name.port);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok((pool.name.clone(), place)),
        (Some(_), Some(_)) => {
            Err(format!("pool `{}` has more than one server {label}: name its port", pool.name))
        }
        (None, _) => Err(format!("pool `{}` has no server {label}", pool.name)),
    }
}

/// An address, with its port if it has one of its own.
pub(super) fn endpoint(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => std::net::SocketAddr::new(address, port).to_string(),
        None => address.to_string(),
    }
}

/// Tells who asked, if they are still there.
pub(super) fn answer(reply: oneshot::Sender<Outcome>, outcome: Outcome) {
    let _ = reply.send(outcome);
}
