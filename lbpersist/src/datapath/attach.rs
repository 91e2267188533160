//! The program on interfaces: links, pinned so that they outlive whoever made them.

use std::{fs, io};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use aya_obj::programs::XdpAttachType;

use super::{
    Error,
    maps::PinDirectory,
    object::{self, PROGRAM},
    sys,
};
use crate::network::View;

/// What attaching to an interface did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// The program was put on it, in the driver.
    Native,
    /// The program was put on it, in the stack: the driver has no XDP, or not with these settings.
    Generic,
    /// An older program was on it and was replaced between two packets.
    Replaced,
}

/// The program as it is pinned, for whoever has not loaded it.
pub fn pinned_program(pins: &PinDirectory) -> Result<Option<Xdp>, Error> {
    let path = pins.programs().join(PROGRAM);
    if !path.exists() {
        return Ok(None);
    }
    Xdp::from_pin(&path, XdpAttachType::Interface).map(Some).map_err(|error| Error::Refused {
        what: format!("the pinned program {}", path.display()),
        detail: error.to_string(),
    })
}

/// Attaches the program to all of `interfaces` or, when one refuses, to none that it was not on before.
pub fn attach_all(
    program: &mut Xdp,
    pins: &PinDirectory,
    view: &View,
    interfaces: &[String],
) -> Result<Vec<Attached>, Error> {
    for interface in interfaces {
        if view.link_by_name(interface).is_none() {
            return Err(Error::NoInterface(interface.clone()));
        }
    }
    let mut done = Vec::new();
    for interface in interfaces {
        match attach(program, pins, view, interface) {
            Ok(attached) => done.push(attached),
            Err(error) => {
                let new = interfaces.iter().zip(&done);
                for (interface, _) in new.filter(|(_, done)| **done != Attached::Replaced) {
                    let _ = detach(pins, interface);
                }
                return Err(error);
            }
        }
    }
    Ok(done)
}

/// Takes the program off an interface.
pub fn detach(pins: &PinDirectory, interface: &str) -> Result<(), Error> {
    let path = pins.links().join(interface);
    if !path.exists() {
        return Err(Error::NotAttached(interface.to_owned()));
    }
    // A link whose interface has gone cannot be detached, and need not be.
    if let Err(error) = sys::detach_link(&path) {
        tracing::debug!(interface, %error, "cannot detach");
    }
    object::remove_file(&path)
}

/// The interfaces that links are pinned for.
pub fn interfaces(pins: &PinDirectory) -> Result<Vec<String>, Error> {
    let failed = |source| Error::Pin { action: "read directory", path: pins.links(), source };
    let entries = match fs::read_dir(pins.links()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn attach(
    program: &mut Xdp,
    pins: &PinDirectory,
    view: &View,
    interface: &str,
) -> Result<Attached, Error> {
    let path = pins.links().join(interface);
    if path.exists() {
        if replace(program, &path).is_ok() {
            return Ok(Attached::Replaced);
        }
        // The interface the link was for is gone; the one of that name now is another.
        object::remove_file(&path)?;
    }
    let index = view
        .link_by_name(interface)
        .map(|(index, _)| index)
        .ok_or_else(|| Error::NoInterface(interface.to_owned()))?;
    let (link, attached) = put_on(program, index, interface)?;
    let failed = |detail: String| Error::Attach { interface: interface.to_owned(), detail };
    let link: FdLink = link.try_into().map_err(|error| failed(format!("{error}")))?;
    link.pin(&path).map_err(|error| failed(error.to_string()))?;
    Ok(attached)
}

/// Gives a pinned link the new program.
fn replace(program: &mut Xdp, path: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let link: FdLink = PinnedLink::from_pin(path)?.into();
    let id = program.attach_to_link(XdpLink::try_from(link)?)?;
    // The pin keeps the link; a descriptor of ours would keep it attached after the pin is removed.
    drop(program.take_link(id)?);
    Ok(())
}

fn put_on(program: &mut Xdp, index: u32, interface: &str) -> Result<(XdpLink, Attached), Error> {
    let native = program.attach_to_if_index(index, XdpMode::Driver);
    let (id, attached) = match native {
        Ok(id) => (id, Attached::Native),
        Err(error) if is_busy(&error) => return Err(Error::InterfaceBusy(interface.to_owned())),
        Err(error) => {
            tracing::debug!(interface, %error, "no native XDP");
            let id = program
                .attach_to_if_index(index, XdpMode::Skb)
                .map_err(|error| refusal(interface, &error))?;
            (id, Attached::Generic)
        }
    };
    let link = program.take_link(id).map_err(|error| refusal(interface, &error))?;
    Ok((link, attached))
}

fn refusal(interface: &str, error: &ProgramError) -> Error {
    if is_busy(error) {
        return Error::InterfaceBusy(interface.to_owned());
    }
    if let ProgramError::SyscallError(syscall) = error
        && syscall.io_error.kind() == io::ErrorKind::PermissionDenied
    {
        return Error::NotPermitted("attach a program");
    }
    let detail = std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    Error::Attach { interface: interface.to_owned(), detail }
}

fn is_busy(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    error.io_error.raw_os_error() == Some(libc::EBUSY)
}
