//! Whether the ports that masquerade uses are also given to connections of this machine: an answer to one of these could then be
//! taken for the answer to a client.

use std::fs;

use super::{Error, maps::Maps};
use crate::model::{Model, PortRange};

const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The warning of ports of which both make use, if a pool of the model is reached by masquerade.
///
/// # Errors
///
/// When the layout of the tables, which has the ports, cannot be read.
pub fn warning(model: &Model, maps: &Maps) -> Result<Option<String>, Error> {
    if !model.masquerades() {
        return Ok(None);
    }
    let layout = maps.layout()?;
    let ports = PortRange::counted(layout.first_port, layout.ports);
    // Where there is no such file, nothing is known of which to warn.
    let [local, reserved] =
        [LOCAL_PORTS, RESERVED_PORTS].map(|path| fs::read_to_string(path).unwrap_or_default());
    Ok(warning_of(ports, &local, &reserved))
}

/// The same, from what the kernel's two files say: two numbers, and ports and ranges between commas.
fn warning_of(ports: PortRange, local: &str, reserved: &str) -> Option<String> {
    let (first, last) = local.split_once(char::is_whitespace)?;
    let local = range(first, last)?;
    let reserved: Vec<PortRange> = reserved
        .split(',')
        .filter_map(|part| {
            part.split_once('-').map_or_else(|| range(part, part), |(a, b)| range(a, b))
        })
        .collect();
    let is_reserved = |port| reserved.iter().any(|range| range.contains(port));
    let shared = ports.first.max(local.first)..=ports.last.min(local.last);
    if shared.into_iter().all(is_reserved) {
        return None;
    }
    Some(format!(
        "masquerade_ports {ports} overlap with {local}, the ports of this machine's own connections: answers to these may be taken \
         for answers to clients; set the sysctl net.ipv4.ip_local_port_range apart from them, or name them in \
         net.ipv4.ip_local_reserved_ports"
    ))
}

fn range(first: &str, last: &str) -> Option<PortRange> {
    let [first, last] = [first, last].map(|port| port.trim().parse().ok());
    Some(PortRange { first: first?, last: last? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_both_use_are_warned_of() {
        let ports = PortRange { first: 1024, last: 32_767 };
        for (local, reserved, warns) in [
            ("32768\t60999\n", "\n", false),
            ("32767\t60999\n", "\n", true),
            ("32767\t60999\n", "32767\n", false),
            ("30000\t60999\n", "80,30000-31000,31001-32766\n", true),
            ("30000\t60999\n", "80,30000-31000,31001-32767\n", false),
            ("1\t1023\n", "\n", false),
            ("1\t65535\n", "\n", true),
            ("", "", false),
        ] {
            assert_eq!(
                warning_of(ports, local, reserved).is_some(),
                warns,
                "{local:?} {reserved:?}"
            );
        }
    }
}
