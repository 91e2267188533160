//! The configuration that the laboratory's lbpersist runs with.

use std::{fmt::Write as _, path::Path};

use lbpersist_tests::topology::{Family, Topology};

use crate::laboratory::SERVER_PORT;

/// One web service for each family, on all interfaces and servers of the topology. What outlives a reboot is kept in `state`: the
/// machine's own is none of ours.
pub(crate) fn configuration(topology: &Topology, state: &Path) -> String {
    let interfaces: Vec<_> = topology.interfaces.iter().map(|name| format!("{name:?}")).collect();
    let mut text = format!("interfaces = [{}]\n", interfaces.join(", "));
    let _ = writeln!(text, "[daemon]\nstate_dir = {state:?}");
    for (name, family) in [("web", Family::V4), ("web6", Family::V6)] {
        let address = family.service_address();
        let mut servers = String::new();
        for host in &topology.servers {
            let address = host.address(family);
            // Writing to a string cannot fail.
            let _ = writeln!(servers, "  {{ address = \"{address}\", port = {SERVER_PORT} }},");
        }
        let _ = write!(
            text,
            "
[[virtual_service]]
name = \"{name}\"
address = \"{address}\"
port = 80
pool = \"{name}\"

[[pool]]
name = \"{name}\"
persistence_profile = \"per-client\"
health_monitors = [\"quick\"]
servers = [
{servers}]
"
        );
    }
    text.push_str(
        "
[[persistence_profile]]
name = \"per-client\"
type = \"client-ip\"
timeout = \"5m\"
server_down = \"immediate\"

[[health_monitor]]
name = \"quick\"
type = \"tcp\"
interval = \"500ms\"
timeout = \"500ms\"
rise = 1
fall = 2
",
    );
    text
}
