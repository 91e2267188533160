//! The same service by nftables.

use std::{fmt::Write as _, net::IpAddr, process::Command};

use anyhow::Result;
use lbpersist_tests::{command, namespace::Namespace};

/// How a server is chosen, and whether the connection is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// By a hash of the client's address, for each new connection.
    Jhash,
    /// One server after the other, for each new connection.
    Numgen,
    /// By a hash of the client's address, for each packet: no connection is tracked.
    Stateless,
}

/// Has the kernel's own firewall balance a service in a namespace.
pub(crate) fn apply(
    namespace: &Namespace,
    choice: Choice,
    service: IpAddr,
    (port, server_port): (u16, u16),
    servers: &[IpAddr],
) -> Result<()> {
    let script = rules(choice, service, (port, server_port), servers)?;
    let mut nft = Command::new("nft");
    nft.args(["-f", "-"]);
    namespace.run(|| command::run_with_input(&mut nft, &script))?.success()?;
    Ok(())
}

fn rules(
    choice: Choice,
    service: IpAddr,
    (port, server_port): (u16, u16),
    servers: &[IpAddr],
) -> Result<String> {
    let count = servers.len();
    let number = match choice {
        Choice::Jhash | Choice::Stateless => format!("jhash ip saddr mod {count}"),
        Choice::Numgen => format!("numgen inc mod {count}"),
    };
    let mut map = String::new();
    let mut set = String::new();
    for (number, server) in servers.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        match choice {
            Choice::Stateless => write!(map, "{comma}{number} : {server}")?,
            _ => write!(map, "{comma}{number} : {server} . {server_port}")?,
        }
        write!(set, "{comma}{server}")?;
    }
    Ok(match choice {
        Choice::Jhash | Choice::Numgen => format!(
            "table ip balancer {{\n chain forth {{\n  type nat hook prerouting priority dstnat;\n  \
             ip daddr {service} tcp dport {port} dnat ip addr . port to {number} map {{ {map} }}\n }}\n}}\n"
        ),
        // A packet from an address of the balancer's own would not be routed: answers change behind the routing.
        Choice::Stateless => format!(
            "table ip balancer {{\n chain forth {{\n  type filter hook prerouting priority raw;\n  \
             ip daddr {service} tcp dport {port} tcp dport set {server_port} ip daddr set {number} map {{ {map} }}\n }}\n \
             chain back {{\n  type filter hook postrouting priority srcnat;\n  \
             ip saddr {{ {set} }} tcp sport {server_port} tcp sport set {port} ip saddr set {service}\n }}\n}}\n"
        ),
    })
}
