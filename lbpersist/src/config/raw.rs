//! The file as it was written.
//!
//! A value that could not be read is `None` and has been reported, so that `check` can still look at the others.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

use super::{
    field::{At, Field},
    words::quoted,
};
use crate::model::{
    Algorithm, Carried, DaemonSettings, DataPathSettings, FloodLimits, HealthMonitor, HealthRule,
    IdleLimits, Method, Mode, MonitorKind, NoServer, OnLimit, Ports, Protocol, ProxySettings,
    ServerDown, ServerState, TunnelSources,
};

/// A configuration whose tables have been read one by one.
pub(super) struct Raw {
    pub(super) interfaces: Vec<At<String>>,
    pub(super) daemon: DaemonSettings,
    pub(super) data_path: DataPathSettings,
    /// Where `ring_size` is written, if it is.
    pub(super) ring_size_line: Option<usize>,
    pub(super) flood_limits: FloodLimits,
    pub(super) idle_limits: IdleLimits,
    pub(super) proxy: ProxySettings,
    pub(super) services: Vec<Declared<RawService>>,
    pub(super) pools: Vec<Declared<RawPool>>,
    pub(super) profiles: Vec<Declared<RawProfile>>,
    pub(super) monitors: Vec<Declared<HealthMonitor>>,
}

/// A table that others may name.
pub(super) struct Declared<T> {
    /// The line of its header.
    pub(super) line: usize,
    pub(super) name: Option<At<String>>,
    pub(super) value: T,
}

impl<T> Declared<T> {
    /// The name as messages show it.
    pub(super) fn label(&self) -> String {
        self.name.as_ref().map_or_else(|| "without a name".to_owned(), |name| quoted(&name.value))
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| own.value == name)
    }
}

pub(super) struct RawService {
    pub(super) addresses: Option<IpNet>,
    pub(super) ports: Option<Ports>,
    pub(super) protocol: Option<Protocol>,
    pub(super) mode: Option<Mode>,
    /// Where the mode is written, if it is.
    pub(super) mode_line: Option<usize>,
    pub(super) carried: Option<Carried>,
    pub(super) pool: Option<At<String>>,
}

pub(super) struct RawPool {
    /// `None` when it could not be read.
    pub(super) forwarding: Option<RawForwarding>,
    pub(super) tunnel_sources: TunnelSources,
    pub(super) masquerade_sources: TunnelSources,
    pub(super) persistence_profile: Option<At<String>>,
    pub(super) health_monitors: Vec<At<String>>,
    pub(super) algorithm: Option<Algorithm>,
    pub(super) on_limit: OnLimit,
    pub(super) no_server: NoServer,
    pub(super) reset_connections: bool,
    pub(super) health_rule: HealthRule,
    pub(super) slow_start: Duration,
    /// `None` when the file has no list of them that could be read.
    pub(super) servers: Option<Vec<RawServer>>,
}

/// How packets reach servers, before it is known where a tunnel comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RawForwarding {
    Nat,
    Masquerade,
    Direct,
    Tunnel,
}

pub(super) struct RawServer {
    pub(super) line: usize,
    pub(super) address: Option<IpAddr>,
    pub(super) port: Field<u16>,
    pub(super) weight: Option<u16>,
    pub(super) max_connections: Field<u32>,
    pub(super) header_value: Option<At<String>>,
    pub(super) state: ServerState,
}

impl RawServer {
    /// The ports it is reached on through a service.
    pub(super) fn ports_behind(&self, service: Ports) -> Option<Ports> {
        self.port.and_then(|port| Some(Ports::One(port))).or_default(service)
    }
}

pub(super) struct RawProfile {
    /// `None` when its type, or something that every profile of the type needs, could not be read.
    pub(super) method: Option<Method>,
    pub(super) server_down: ServerDown,
    pub(super) fallback: Option<At<String>>,
}

/// The monitor that is there without being declared; its values are the defaults of those that are.
pub(super) fn built_in_monitor() -> HealthMonitor {
    HealthMonitor {
        name: BUILT_IN_MONITOR.to_owned(),
        interval: Duration::from_secs(5),
        fast_interval: Duration::from_secs(5),
        jitter: 10,
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
        address: None,
        port: None,
        kind: MonitorKind::Tcp,
    }
}

/// The name of the monitor that is there without being declared.
pub(super) const BUILT_IN_MONITOR: &str = "tcp";
