//! The program on the configured interfaces: put on at the start, and again when one comes back.

use super::{Daemon, Error};
use crate::datapath::attach::{self, Attached};

impl Daemon {
    pub(super) fn attach(&mut self) -> Result<(), Error> {
        // Interfaces that were attached by hand get this program as well.
        let mut names = attach::interfaces(self.data_path.pins())?;
        names.retain(|name| !self.model.interfaces.contains(name));
        names.retain(|name| self.view.link_by_name(name).is_some());
        names.extend(self.model.interfaces.iter().cloned());
        self.attach_to(&names)
    }

    /// Puts the program on configured interfaces that have come back since it was last put on them.
    pub(super) fn follow_interfaces(&mut self) {
        let view = &self.view;
        self.attached.retain(|name, index| {
            let stays = view.links.get(index).is_some_and(|link| link.name == *name);
            if !stays {
                tracing::warn!(interface = name, "gone; its packets are not balanced");
            }
            stays
        });
        let back: Vec<String> = self
            .model
            .interfaces
            .iter()
            .filter(|name| !self.attached.contains_key(*name) && view.link_by_name(name).is_some())
            .cloned()
            .collect();
        for name in back {
            // One that refuses now is tried again when something else about the network changes.
            if let Err(error) = self.attach_to(std::slice::from_ref(&name)) {
                tracing::warn!(interface = name, %error, "cannot attach again");
            }
        }
    }

    pub(super) fn attach_to(&mut self, names: &[String]) -> Result<(), Error> {
        let pins = self.data_path.pins().clone();
        let program = self.data_path.object.program()?;
        let done = attach::attach_all(program, &pins, &self.view, names)?;
        for (name, done) in names.iter().zip(done) {
            if let Some((index, _)) = self.view.link_by_name(name)
                && self.model.interfaces.contains(name)
            {
                self.attached.insert(name.clone(), index);
            }
            match done {
                Attached::Native => tracing::info!(interface = name, "attached in the driver"),
                Attached::Generic => tracing::warn!(
                    interface = name,
                    "attached in the stack (generic XDP): the driver has no XDP or not at this MTU; this is slower"
                ),
                Attached::Replaced => {
                    tracing::info!(interface = name, "replaced the program that was attached");
                }
            }
        }
        Ok(())
    }
}
