//! What outlives a reboot, written while the daemon runs and taken back when the maps are gone.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use lbpersist_common::service::Pool;

use super::{Daemon, Error};
use crate::{
    clock,
    datapath::{
        self, DataPath,
        bind::{Fate, Wanted},
        identity::ServerIdentity,
        maps::{Maps, PinDirectory},
        sweep::Index,
    },
    store::{
        Kernel, Store,
        snapshot::{Snapshot, this_boot},
        unix_s,
    },
};

/// Entries that are bound at a time.
const PORTION: usize = 16_384;

/// Gives maps that have just been made what is known from before. Says what had been said of servers by hand.
pub(super) fn restore(
    data_path: &mut DataPath,
    store: &Store,
) -> Result<Option<BTreeMap<ServerIdentity, u8>>, datapath::Error> {
    if !data_path.is_new() {
        return Ok(None);
    }
    let Some(kernel) = store.kernel() else { return Ok(None) };
    let Some(identities) = kernel.identities() else {
        tracing::error!("the ids in the state contradict each other; they begin anew");
        return Ok(None);
    };
    let (pools, servers) = (identities.pools.len(), identities.servers.len());
    tracing::info!(pools, servers, "ids are taken over from the state");
    data_path.restore(identities)?;
    Ok(Some(kernel.by_hand()))
}

impl Daemon {
    /// Binds the clients of the snapshot, if it is of another start of the machine.
    pub(super) fn put_back_entries(&mut self) -> Result<(), Error> {
        if self.model.daemon.snapshot.is_none() {
            return Ok(());
        }
        let boot = this_boot();
        let Some(snapshot) = self.store.snapshot().filter(|kept| kept.boot != boot) else {
            return Ok(());
        };
        let mut bound = 0;
        let all = snapshot.entries.len();
        for wanted in snapshot.left_at(unix_s()).chunks(PORTION) {
            let fates = self.data_path.bind(wanted, false, clock::now_ns())?;
            bound += fates.into_iter().filter(|fate| *fate == Fate::Bound).count();
        }
        tracing::info!(bound, all, "entries from before the reboot");
        Ok(())
    }

    /// Has what changed written, and what could not be written tried again, by another thread.
    pub(super) fn keep(&mut self) {
        let kernel = Kernel::of(&self.data_path.identities, self.data_path.actual());
        if self.kept.as_ref() != Some(&kernel) {
            self.store.note_kernel(&kernel);
            self.kept = Some(kernel);
            self.flush();
        }
    }

    /// What is done every now and then.
    pub(super) fn maintain_store(&mut self) {
        if self.store.is_due() {
            self.flush();
        }
        let Some(interval) = self.model.daemon.snapshot else { return };
        if self.snapshot_at.elapsed() < interval || self.snapshot_runs.is_running() {
            return;
        }
        self.snapshot_at = Instant::now();
        let work = self.snapshot_work();
        self.snapshot_runs = Running(Some(tokio::task::spawn_blocking(work)));
    }

    /// Writes what there is before the daemon ends.
    pub(super) fn keep_last(&mut self) {
        self.keep();
        if self.model.daemon.snapshot.is_some() {
            self.snapshot_work()();
        }
        self.store.flush();
    }

    fn flush(&self) {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.flush());
    }

    fn snapshot_work(&self) -> impl FnOnce() + Send + use<> {
        let actual = self.data_path.actual();
        let scopes = Index::of(actual).into_scopes();
        let pools: HashMap<u32, Pool> = scopes
            .into_iter()
            .filter_map(|(scope, number)| Some((scope, *actual.pools.get(&number)?)))
            .collect();
        let (store, pins) = (self.store.clone(), self.data_path.pins().clone());
        move || match take(&pins, &pools) {
            Ok(snapshot) => store.keep_snapshot(&snapshot),
            Err(error) => tracing::error!(%error, "no snapshot of the entries"),
        }
    }
}

/// A snapshot that may be under way.
#[derive(Default)]
pub(super) struct Running(Option<tokio::task::JoinHandle<()>>);

impl Running {
    fn is_running(&self) -> bool {
        self.0.as_ref().is_some_and(|task| !task.is_finished())
    }
}

fn take(pins: &PinDirectory, pools: &HashMap<u32, Pool>) -> Result<Snapshot, datapath::Error> {
    let now_ns = clock::now_ns();
    let entries = Maps::open(pins)?.entries.all()?.into_iter().filter_map(|(key, entry)| {
        let timeout_ns = pools.get(&key.scope)?.timeout_ns;
        let left_ns = if entry.open > 0 {
            timeout_ns
        } else {
            entry.expires_ns(timeout_ns).saturating_sub(now_ns).min(timeout_ns)
        };
        let age_ns = now_ns.saturating_sub(entry.created_ns);
        (left_ns > 0).then_some(Wanted { key, binding: entry.binding, left_ns, age_ns })
    });
    Ok(Snapshot { taken: unix_s(), boot: this_boot(), entries: entries.collect() })
}
