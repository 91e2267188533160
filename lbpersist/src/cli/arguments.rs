//! The command line's words.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use lbpersist_common::breaks::BreakReason;

use super::log::Log;
use crate::datapath::{maps::DEFAULT_PIN_DIRECTORY, report::Filter};

/// A load balancer on eBPF/XDP whose job is persistence: clients come back to their server.
#[derive(Debug, Parser)]
#[command(name = "lbpersist", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// Directory on a BPF file system that maps, programs and links are pinned in
    #[arg(long, global = true, value_name = "DIR", env = "LBPERSIST_PIN_DIR",
          default_value = DEFAULT_PIN_DIRECTORY)]
    pub pin_dir: PathBuf,
    /// Control socket of the daemon [default: /run/lbpersist/ and the name of the pin directory, `lbpersist.sock`]
    #[arg(long, global = true, value_name = "PATH", env = "LBPERSIST_SOCKET")]
    pub socket: Option<PathBuf>,
    /// How results are printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  lbpersist check --config /etc/lbpersist.toml
  lbpersist run --config /etc/lbpersist.toml --interface eth0
  lbpersist status
  lbpersist top
  lbpersist explain --virtual-service web --client 203.0.113.7:40001
  lbpersist server drain web 10.0.0.11 --wait --deadline 2h
  lbpersist persistence list --client 203.0.113.0/24 -o json
  lbpersist breaks --last 20
  lbpersist persistence flush --virtual-service web --server 10.0.0.11
  lbpersist detach --all

Exit codes: 0 done, 1 failure, 2 bad input.";

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs; the shape is stable.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    ///
    /// Loads the program, attaches it to the interfaces of the configuration, watches servers and network, and keeps the tables
    /// true. When it ends, on SIGTERM or SIGINT or otherwise, the kernel goes on forwarding with what it has, and the next run
    /// takes that over.
    #[command(
        after_help = "Example:\n  lbpersist run --config /etc/lbpersist.toml --interface eth0"
    )]
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// An interface to attach to beside those of the configuration; may be repeated
        #[arg(short, long = "interface", value_name = "IF")]
        interfaces: Vec<String>,
        /// What is logged, and how
        #[command(flatten)]
        log: Log,
    },
    /// Give the running daemon a configuration, or say what it would change
    ///
    /// Only what differs is touched, and a file with a mistake changes nothing. A restart reads the file of `run --config`; if this
    /// is another one, --save puts it in that place.
    #[command(
        after_help = "Examples:\n  lbpersist apply --file /etc/lbpersist.toml --dry-run\n  lbpersist apply --file new.toml --save"
    )]
    Apply {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Say what would change and how many living clients would lose their server, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Replace the file of `run --config` by this one, once it is applied
        #[arg(long, conflicts_with = "dry_run")]
        save: bool,
    },
    /// Have the running daemon read its configuration file again, as SIGHUP does
    #[command(after_help = "Example:\n  lbpersist reload")]
    Reload,
    /// Check a configuration file and say what it means
    #[command(after_help = "Example:\n  lbpersist check --config /etc/lbpersist.toml")]
    Check {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Attach the program to interfaces
    ///
    /// Loads it first if nothing is loaded; without a daemon it then passes every packet to the stack.
    #[command(after_help = "Example:\n  lbpersist attach eth0 eth1")]
    Attach {
        /// Interfaces
        #[arg(value_name = "IF", required = true)]
        interfaces: Vec<String>,
    },
    /// Detach the program from interfaces
    #[command(after_help = "Examples:\n  lbpersist detach eth1\n  lbpersist detach --all")]
    Detach {
        /// Interfaces
        #[arg(value_name = "IF", required_unless_present = "all", conflicts_with = "all")]
        interfaces: Vec<String>,
        /// From all, and remove the program and the maps with every entry
        #[arg(long)]
        all: bool,
    },
    /// Unpack, on a server, what comes through a tunnel
    ///
    /// For pools with `forwarding = "tunnel"`: takes the outer header off packets that come from the given addresses, and leaves the
    /// rest to the stack. Run again, it replaces who is allowed. `lbpersist detach` ends it.
    #[command(
        after_help = "Example:\n  lbpersist decapsulate eth0 --from 10.2.0.1 --from 2001:db8:2::/64"
    )]
    Decapsulate {
        /// Interfaces
        #[arg(value_name = "IF", required = true)]
        interfaces: Vec<String>,
        /// Addresses that tunnels come from: the balancers' `tunnel_source_ipv4` and `tunnel_source_ipv6`; may be repeated
        #[arg(long, value_name = "PREFIX", required = true, value_parser = parse_prefix)]
        from: Vec<IpNet>,
    },
    /// Show interfaces, services, pools, servers, counters, and what a running daemon's monitors say
    Status,
    /// Watch services and servers in the terminal: packets, bits and connections a second, open connections, breaks
    ///
    /// Reads the pinned maps and needs no daemon; what services of mode `tcp` and `http` do, a running one says. Keys: q quits,
    /// p pauses, s sorts by name, packets/s or connections/s, up and down scroll, ? shows these. With --once it prints one frame as text
    /// and needs no terminal.
    #[command(
        after_help = "Examples:\n  lbpersist top\n  lbpersist top --interval 500ms\n  lbpersist top --once --interval 10s > rates.txt"
    )]
    Top(Top),
    /// Say which server a client meets and why, and why not the others
    ///
    /// Follows the program's rules on the pinned maps and changes nothing; needs no daemon. With the client's port it also says what
    /// is known of that connection.
    #[command(
        after_help = "Examples:\n  lbpersist explain --virtual-service web --client 203.0.113.7\n  lbpersist explain --virtual-service web --client 203.0.113.7:40001 -o json\n  lbpersist explain --virtual-service all --client 203.0.113.7 --destination 198.51.100.9:443"
    )]
    Explain(Explain),
    /// Look at servers, take them out gently or at once, and put them back; asks the running daemon
    #[command(subcommand)]
    Server(Server),
    /// Look at what the health monitors know of servers; asks the running daemon
    #[command(subcommand)]
    Monitor(Monitor),
    /// List the last clients that met another server than the one they were bound to, and why
    ///
    /// Counts by reason are in `status`. Remembered are the last 1,024, and of each service of mode `tcp` or `http` the last 256 since
    /// the daemon started.
    #[command(
        after_help = "Examples:\n  lbpersist breaks --last 20\n  lbpersist breaks --virtual-service web --client 203.0.113.0/24\n  lbpersist breaks --reason evicted -o json"
    )]
    Breaks(Breaks),
    /// Look into the persistence entries, flush them, or bind clients by hand
    #[command(subcommand)]
    Persistence(Persistence),
    /// Print what makes a shell complete this program's words
    #[command(
        after_help = "Example:\n  lbpersist completions bash > /usr/share/bash-completion/completions/lbpersist"
    )]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL", value_enum)]
        shell: Shell,
    },
    /// Print the man page, or write one for each command
    #[command(after_help = "Examples:\n  lbpersist man | man -l -\n  lbpersist man --dir man1")]
    Man {
        /// Directory for a page for each command; it is made if it is missing
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// How a view of the traffic goes on.
#[derive(Args, Debug)]
pub struct Top {
    /// Time between two readings, such as 500ms or 2s; at least 100ms
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_interval)]
    pub interval: Duration,
    /// Print one frame as text, after two readings one interval apart
    #[arg(long)]
    pub once: bool,
}

/// A client at the door of a service.
#[derive(Args, Debug)]
pub struct Explain {
    /// The service
    #[arg(long, value_name = "NAME")]
    pub virtual_service: String,
    /// The client; without a port, a connection from one that nothing is known of
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    pub client: (IpAddr, Option<u16>),
    /// What the client comes for, if the service is on a prefix or on all ports
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    pub destination: Option<(IpAddr, Option<u16>)>,
}

/// Which breaks are meant; without any of these, all that are remembered.
#[derive(Args, Debug)]
pub struct Breaks {
    /// Those of this virtual service
    #[arg(long, value_name = "NAME", visible_alias = "service")]
    pub virtual_service: Option<String>,
    /// Those of clients in this prefix, and of prefixes that contain it
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub client: Option<IpNet>,
    /// Those for this reason
    #[arg(long, value_name = "REASON", value_parser = parse_reason)]
    pub reason: Option<BreakReason>,
    /// No more than so many, the last ones
    #[arg(long, value_name = "COUNT")]
    pub last: Option<usize>,
}

/// What to do with monitors.
#[derive(Debug, Subcommand)]
pub enum Monitor {
    /// List each server as each of its monitors sees it: state, last check and last error
    #[command(
        after_help = "Examples:\n  lbpersist monitor list\n  lbpersist monitor list --pool web --search down"
    )]
    List {
        /// Those of this pool
        #[arg(long, value_name = "NAME")]
        pool: Option<String>,
        /// Those of which pool, server, name, type or state contain this text
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
}

/// What to do with servers.
#[derive(Debug, Subcommand)]
pub enum Server {
    /// List servers, what they are used for, and who says so
    #[command(
        after_help = "Examples:\n  lbpersist server list\n  lbpersist server list --pool web --search draining"
    )]
    List {
        /// Those of this pool
        #[arg(long, value_name = "NAME")]
        pool: Option<String>,
        /// Those of which pool, address or state contain this text
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// Show a server and how many clients are left on it
    #[command(after_help = "Example:\n  lbpersist server show web 10.0.0.11:8080")]
    Show(ServerOf),
    /// Send a server no new clients; those it has stay until their entries and connections end
    ///
    /// Says how many are left and when the last entry could end. With --wait it returns when nobody is left, exit code 0, or at the
    /// deadline, exit code 1: a gate before the server is stopped. Requests and connections that the daemon carries count; clients
    /// with sealed cookies cannot be counted, and it says until when they may come back.
    #[command(
        after_help = "Examples:\n  lbpersist server drain web 10.0.0.11:8080\n  lbpersist server drain web 10.0.0.11:8080 --wait --deadline 2h"
    )]
    Drain {
        /// Which
        #[command(flatten)]
        server: ServerOf,
        /// Return when nobody is left on it
        #[arg(long)]
        wait: bool,
        /// How long to wait at most, such as 90s or 2h; without it as long as it takes
        #[arg(long, value_name = "DURATION", requires = "wait", value_parser = parse_duration)]
        deadline: Option<Duration>,
    },
    /// Send a server nobody, as if it were down: the profile's `server_down` says what becomes of its clients
    #[command(after_help = "Example:\n  lbpersist server disable web 10.0.0.11:8080")]
    Disable(ServerOf),
    /// Send a server new clients again
    #[command(after_help = "Example:\n  lbpersist server enable web 10.0.0.11:8080")]
    Enable(ServerOf),
}

/// A server of a pool.
#[derive(Args, Debug)]
pub struct ServerOf {
    /// The pool's name
    #[arg(value_name = "POOL")]
    pub pool: String,
    /// The server; its port may be left out when the pool has one server of that address
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    pub server: (IpAddr, Option<u16>),
}

/// What to do with entries.
#[derive(Debug, Subcommand)]
pub enum Persistence {
    /// List the live entries
    #[command(after_help = "Example:\n  lbpersist persistence list --server 10.0.0.11:8080")]
    List(Entries),
    /// Remove entries; open connections keep their server
    #[command(
        after_help = "Examples:\n  lbpersist persistence flush\n  lbpersist persistence flush --client 203.0.113.0/24"
    )]
    Flush(Entries),
    /// Bind a client to a server, also one that is bound to another; asks the running daemon
    ///
    /// Its open connections keep their server. A client that had another one is counted as moved when it comes.
    #[command(
        after_help = "Example:\n  lbpersist persistence set --virtual-service web --client 203.0.113.7 --server 10.0.0.11:8080"
    )]
    Set {
        /// The service where the client comes; all services of its pool if they share their entries
        #[arg(long, value_name = "NAME")]
        virtual_service: String,
        /// The client, or its prefix under the profile's mask
        #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
        client: IpNet,
        /// The server
        #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
        server: (IpAddr, Option<u16>),
        /// The address that the client comes for, if the service is on a prefix
        #[arg(long, value_name = "ADDRESS")]
        destination: Option<IpAddr>,
    },
    /// Write the live entries as lines of JSON
    #[command(
        after_help = "Example:\n  lbpersist persistence export --virtual-service web > web.jsonl"
    )]
    Export(Entries),
    /// Bind clients as lines of JSON say, which `export` wrote; asks the running daemon
    ///
    /// A client that has a live entry keeps it, so nobody is moved without --replace. What is wrong with a line is said, and the others are bound.
    #[command(
        after_help = "Examples:\n  lbpersist persistence import web.jsonl\n  ssh other lbpersist persistence export | lbpersist persistence import -"
    )]
    Import {
        /// The file, or `-` for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Move clients that have a live entry with another server, too
        #[arg(long)]
        replace: bool,
    },
}

/// Which entries are meant; without any of these, all.
#[derive(Args, Debug)]
pub struct Entries {
    /// Those of this virtual service
    #[arg(long, value_name = "NAME")]
    pub virtual_service: Option<String>,
    /// Those of this pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Those of clients in this prefix, and of prefixes that contain it
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub client: Option<IpNet>,
    /// Those bound to this server
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = parse_server)]
    pub server: Option<(IpAddr, Option<u16>)>,
}

impl From<Entries> for Filter {
    fn from(entries: Entries) -> Self {
        Self {
            virtual_service: entries.virtual_service,
            pool: entries.pool,
            client: entries.client,
            server: entries.server,
        }
    }
}

fn parse_reason(text: &str) -> Result<BreakReason, String> {
    let names = BreakReason::ALL.map(BreakReason::name);
    let found = BreakReason::ALL.into_iter().find(|reason| reason.name() == text);
    found.ok_or_else(|| format!("it must be one of {}", names.join(", ")))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    crate::config::parse_duration(text)
        .map_err(|why| format!("it must be a duration such as 90s or 2h, {why}"))
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    if (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval) {
        Ok(interval)
    } else {
        Err("it must be from 100ms to 1h".to_owned())
    }
}

fn parse_prefix(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let prefix: IpNet = text.parse().map_err(|_| {
        "it is neither an address nor a prefix such as 203.0.113.0/24 or 2001:db8::/64".to_owned()
    })?;
    Ok(prefix.trunc())
}

fn parse_server(text: &str) -> Result<(IpAddr, Option<u16>), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    let server: std::net::SocketAddr = text.parse().map_err(|_| {
        "it is neither an address nor one with a port such as 10.0.0.11:8080 or [2001:db8::1]:8080"
            .to_owned()
    })?;
    Ok((server.ip(), Some(server.port())))
}
