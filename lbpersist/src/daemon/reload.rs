//! Another configuration for the running daemon.
//!
//! Reading, checking and computing happen in a thread of their own, while events are taken and tables swept. What comes out is
//! applied in one go by the task that owns the state; if the kernel refuses a part of it, the configuration before is put back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use tokio::sync::oneshot;

use super::{
    Daemon, Error,
    control::{answer, take_over},
    events::targets,
    notify,
};
use crate::{
    clock,
    config::{self, LoadError},
    control::Outcome,
    datapath::{
        self, attach,
        describe::describe,
        desired::{Desired, Facts, ServerKey},
        identity::Identities,
        local_ports,
        maps::{Maps, PinDirectory},
        object,
        plan::plan,
        report::Reader,
        rings::Computed,
    },
    model::Model,
    network::View,
};

/// Where the configuration comes from.
pub(super) enum Source {
    /// The file that the daemon was started with.
    OwnFile,
    /// A text, and the name that messages give it.
    Text { name: String, text: String, save: bool },
}

/// Who wants it: someone on the socket, or a signal.
pub(super) type Asker = Option<oneshot::Sender<Outcome>>;

/// A configuration that is ready to be applied.
pub(super) struct Prepared {
    model: Model,
    rings: Computed,
    changes: Vec<String>,
    warnings: Vec<String>,
    /// To be written to the daemon's file.
    save: Option<String>,
    asker: Asker,
}

/// What is known when the preparation begins.
struct Known {
    file: PathBuf,
    interfaces: Vec<String>,
    model: Model,
    identities: Identities,
    actual: Desired,
    down: BTreeSet<ServerKey>,
    shares: BTreeMap<ServerKey, u32>,
    view: View,
    pins: PinDirectory,
}

impl Daemon {
    /// Reads the daemon's own file again, because of a signal. One that comes while another configuration is prepared is
    /// heard afterwards.
    pub(super) fn hang_up(&mut self) {
        if self.preparing {
            self.reload_again = true;
        } else {
            self.prepare(Source::OwnFile, None);
        }
    }

    /// Has a configuration prepared, which then comes back to [`Self::finish`].
    pub(super) fn prepare(&mut self, source: Source, asker: Asker) {
        if self.preparing {
            let busy = Outcome::failed("another configuration is being applied; try again");
            return tell(asker, busy);
        }
        self.preparing = true;
        notify::reloading();
        let known = self.known();
        let back = self.prepared.clone();
        tokio::spawn(async move {
            let preparing = tokio::task::spawn_blocking(move || known.prepare(source, asker));
            // Without a daemon nobody waits for it.
            let _ = back.send(preparing.await.unwrap_or_default()).await;
        });
    }

    /// Answers what applying a text would do.
    pub(super) fn dry_run(&mut self, name: String, text: String, reply: oneshot::Sender<Outcome>) {
        let known = self.known();
        tokio::task::spawn_blocking(move || {
            let source = Source::Text { name, text, save: false };
            answer(reply, known.dry_run(&source).unwrap_or_else(|failed| failed));
        });
    }

    fn known(&mut self) -> Known {
        Known {
            file: self.file.clone(),
            interfaces: self.more_interfaces.clone(),
            model: self.model.clone(),
            identities: self.data_path.identities.clone(),
            actual: self.data_path.actual().clone(),
            down: self.down(),
            shares: self.shares(std::time::Instant::now()),
            view: self.view.clone(),
            pins: self.data_path.pins().clone(),
        }
    }

    /// Applies what was prepared, and tells who asked.
    pub(super) fn finish(&mut self, prepared: Option<Prepared>) {
        self.preparing = false;
        if let Some(Prepared { model, rings, mut changes, warnings, save, asker }) = prepared {
            let outcome = match self.replace_model(model, rings, &mut changes) {
                Ok(()) => match save.map_or(Ok(()), |text| write_file(&self.file, &text)) {
                    Ok(()) => Outcome::Applied { changes, warnings, moves: None },
                    Err(error) => Outcome::failed(format!(
                        "the configuration is applied but not saved: cannot write {}: {error}",
                        self.file.display()
                    )),
                },
                Err(error) => Outcome::failed(format!("nothing was changed: {error}")),
            };
            tell(asker, outcome);
        }
        notify::ready();
        if std::mem::take(&mut self.reload_again) {
            self.prepare(Source::OwnFile, None);
        }
    }

    fn replace_model(
        &mut self,
        mut model: Model,
        rings: Computed,
        changes: &mut Vec<String>,
    ) -> Result<(), Error> {
        keep_by_hand(&self.model, &mut model);
        let added = missing(&model.interfaces, &self.model.interfaces);
        let removed = missing(&self.model.interfaces, &model.interfaces);
        let before = std::mem::replace(&mut self.model, model);
        self.data_path.prepared = rings;
        let done = self.attach_to(&added).and_then(|()| self.update());
        self.data_path.prepared = Computed::default();
        if let Err(error) = done {
            self.model = before;
            added.iter().for_each(|name| self.detach(name));
            if let Err(again) = self.update() {
                tracing::error!(%again, "cannot put the configuration before back");
            }
            return Err(error);
        }
        changes.extend(added.iter().map(|name| format!("interface {name} is attached")));
        for name in &removed {
            self.detach(name);
            changes.push(format!("interface {name} is detached"));
        }
        self.sweep.set_limits(&self.model.idle_limits, self.model.data_path.sweep_interval);
        let model = &self.model;
        self.failing.retain(|key, monitors| {
            let pool = model.pools.get(&key.0).filter(|pool| {
                pool.servers.iter().any(|server| (server.address, server.port) == (key.1, key.2))
            });
            monitors.retain(|name| {
                pool.is_some_and(|pool| pool.health_monitors.iter().any(|one| one.name == *name))
            });
            !monitors.is_empty()
        });
        self.checker.set_targets(targets(&self.model, &self.failing));
        // A server may be up now because the monitor that called it down is gone.
        self.update()
    }

    fn detach(&mut self, name: &str) {
        self.attached.remove(name);
        match attach::detach(self.data_path.pins(), name) {
            Ok(()) => tracing::info!(interface = name, "detached"),
            Err(error) => tracing::warn!(interface = name, %error, "cannot detach"),
        }
    }
}

impl Known {
    fn prepare(self, source: Source, asker: Asker) -> Option<Prepared> {
        let ready = match self.ready(&source) {
            Ok(ready) => ready,
            Err(failed) => {
                tell(asker, failed);
                return None;
            }
        };
        let rings =
            Computed::of_changed(&self.actual, &ready.desired, ready.model.data_path.ring_size);
        let (text, save) = match source {
            Source::Text { text, save, .. } => (Some(text), save),
            Source::OwnFile => (None, false),
        };
        let save = text.clone().filter(|_| save);
        let Ready { model, changes, mut warnings, .. } = ready;
        if let Some(text) = &text
            && save.is_none()
            && fs::read_to_string(&self.file).ok().as_ref() != Some(text)
        {
            warnings.push(format!(
                "a restart or reload reads {}, which says something else; --save puts this one in its place",
                self.file.display()
            ));
        }
        Some(Prepared { model, rings, changes, warnings, save, asker })
    }

    fn dry_run(&self, source: &Source) -> Result<Outcome, Outcome> {
        let ready = self.ready(source)?;
        let Ready { model, desired, mut changes, warnings } = ready;
        let added = missing(&model.interfaces, &self.model.interfaces);
        let removed = missing(&self.model.interfaces, &model.interfaces);
        changes.extend(added.iter().map(|name| format!("interface {name} is attached")));
        changes.extend(removed.iter().map(|name| format!("interface {name} is detached")));
        let moves = Reader::open(&self.pins)
            .and_then(|reader| reader.moves(&self.actual, &desired, clock::now_ns()))
            .map_err(|error| Outcome::failed(error.to_string()))?;
        Ok(Outcome::Applied { changes, warnings, moves: Some(moves) })
    }

    /// The model of the text, checked against what cannot change, and what it comes to.
    fn ready(&self, source: &Source) -> Result<Ready, Outcome> {
        let mut model = match source {
            // Whoever opens a pipe may wait for ever, and no other configuration could be applied meanwhile.
            Source::OwnFile if fs::metadata(&self.file).is_ok_and(|found| !found.is_file()) => {
                let file = self.file.display();
                return Err(Outcome::failed(format!("cannot read {file}: it is no regular file")));
            }
            Source::OwnFile => config::load(&self.file),
            Source::Text { name, text, .. } => config::parse_named(Path::new(name), text),
        }
        .map_err(|error| match error {
            LoadError::Unreadable { .. } => Outcome::failed(error.to_string()),
            LoadError::Wrong { .. } => Outcome::refused(error.to_string()),
        })?;
        model.interfaces.extend(missing(&self.interfaces, &model.interfaces));
        if let Some(name) =
            model.interfaces.iter().find(|name| self.view.link_by_name(name).is_none())
            && !self.model.interfaces.contains(name)
        {
            return Err(Outcome::refused(datapath::Error::NoInterface(name.clone()).to_string()));
        }
        let pinned = self.model.data_path.ring_size;
        if model.data_path.ring_size != pinned {
            let error =
                datapath::Error::OtherRingSize { pinned, configured: model.data_path.ring_size };
            return Err(Outcome::refused(error.to_string()));
        }
        let mut warnings = Maps::open(&self.pins)
            .and_then(|maps| {
                let mut warnings = object::size_differences(&maps, &model.data_path)?;
                warnings.extend(local_ports::warning(&model, &maps)?);
                Ok(warnings)
            })
            .map_err(|error| Outcome::failed(error.to_string()))?;
        if model.daemon != self.model.daemon {
            warnings.push("what `[daemon]` says holds from the next start".to_owned());
        }
        keep_by_hand(&self.model, &mut model);
        let facts =
            Facts { model: &model, down: &self.down, shares: &self.shares, view: &self.view };
        let desired = Desired::compute(&facts, &mut self.identities.clone())
            .map_err(|error| Outcome::refused(error.to_string()))?;
        let mut changes = describe(&plan(&self.actual, &desired), &self.actual, &desired);
        changes.extend(other_changes(&self.model, &model));
        Ok(Ready { model, desired, changes, warnings })
    }
}

struct Ready {
    model: Model,
    desired: Desired,
    changes: Vec<String>,
    warnings: Vec<String>,
}

/// Changes that no map shows.
fn other_changes(was: &Model, is: &Model) -> Vec<String> {
    let mut changes = Vec::new();
    for (name, pool) in &is.pools {
        if was.pools.get(name).is_some_and(|was| was.health_monitors != pool.health_monitors) {
            changes.push(format!("pool {name}: other health monitors"));
        }
    }
    if was.idle_limits != is.idle_limits {
        changes.push("other idle limits".to_owned());
    }
    if was.data_path.sweep_interval != is.data_path.sweep_interval {
        changes.push("another sweep interval".to_owned());
    }
    changes
}

/// What was said of servers by hand goes on, unless the configuration says something else of them than it did.
fn keep_by_hand(was: &Model, is: &mut Model) {
    for (name, pool) in &mut is.pools {
        let Some(before) = was.pools.get(name) else { continue };
        let said: BTreeMap<_, _> = before
            .servers
            .iter()
            .filter_map(|server| {
                Some(((server.address, server.port), (server.by_hand?, server.configured)))
            })
            .collect();
        for server in &mut pool.servers {
            if let Some(&(said, configured)) = said.get(&(server.address, server.port)) {
                take_over(server, said, configured);
            }
        }
    }
}

/// Those of `names` that `others` lacks.
fn missing(names: &[String], others: &[String]) -> Vec<String> {
    names.iter().filter(|name| !others.contains(name)).cloned().collect()
}

/// Replaces a file as a whole: whoever reads it finds the old text or the new one, also after a crash.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = File::create(&beside)?;
        if let Ok(metadata) = fs::metadata(path) {
            file.set_permissions(metadata.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent()
            .filter(|parent| *parent != Path::new(""))
            .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Tells who asked, or the log if it was a signal.
fn tell(asker: Asker, outcome: Outcome) {
    if let Some(reply) = asker {
        return answer(reply, outcome);
    }
    match outcome {
        Outcome::Applied { changes, warnings, .. } => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            changes.iter().for_each(|change| tracing::info!("{change}"));
            tracing::info!(changes = changes.len(), "the configuration was read again");
        }
        Outcome::Failed { message, .. } => {
            for line in message.lines() {
                tracing::error!("{line}");
            }
            tracing::error!("the configuration was not applied, and nothing was changed");
        }
        _ => {}
    }
}
