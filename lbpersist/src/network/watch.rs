//! Keeps a view up to date with the kernel.
//!
//! Notifications are listened to before the first reading, so that nothing falls between the two. A neighbour that changed is
//! taken over from its notification; anything else makes the whole be read again. Notifications about neighbours that
//! came while a reading was under way are applied after it: they may be older than what was read, but the last one about
//! a neighbour is never older than its state, so the view ends up right.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkMessage,
    neighbour::{NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteMessage,
};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    Error,
    decode::{self, Event},
    view::View,
};

/// For how long changes are gathered before they are published.
const GATHER: Duration = Duration::from_millis(20);
/// Pause after a reading, as a multiple of the time it took: with very large tables that change all the time, reading may
/// take a fifth of this thread and no more.
const REST: u32 = 4;
/// Pause after a reading that failed.
const RETRY: Duration = Duration::from_secs(1);
/// How often a reading that changes overtook is begun again before it is taken as it is.
const ATTEMPTS: u32 = 3;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
];

/// Mirrors the kernel for as long as it lives; dropping it ends its tasks and closes its sockets.
#[derive(Debug)]
pub struct Watcher {
    requests: Handle,
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Reads everything once and starts to watch. The receiver holds that first view, and from then on a new one at most
    /// every 20 ms, and only when it differs from the last. It reports its sender gone when watching has come to an end.
    ///
    /// Must be called within a tokio runtime.
    pub async fn start() -> Result<(Self, watch::Receiver<Arc<View>>), Error> {
        let mut tasks = JoinSet::new();
        let (connection, _, events) =
            rtnetlink::new_multicast_connection(&GROUPS).map_err(Error::Open)?;
        tasks.spawn(connection);
        let mut requests = connect(&mut tasks)?;
        let view = read_settled(&mut requests).await?;
        let (publish, views) = watch::channel(Arc::new(view.clone()));
        let mirror = Mirror {
            requests: requests.clone(),
            events,
            view,
            publish,
            stale: false,
            due: None,
            rest_until: Instant::now(),
        };
        tasks.spawn(mirror.run());
        let watcher = Self { requests, _tasks: tasks };
        Ok((watcher, views))
    }

    /// Has the kernel find out a neighbour's Ethernet address by ARP or neighbour discovery, as a packet to it would; an
    /// address not confirmed of late is asked for again. The answer shows in a later view. Nothing is limited here: the
    /// caller decides how often to ask.
    pub async fn resolve(&self, interface: u32, neighbour: IpAddr) -> Result<(), Error> {
        // NTF_USE: neigh_add() of net/core/neighbour.c makes the entry if need be and calls neigh_event_send().
        self.requests
            .neighbours()
            .add(interface, neighbour)
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace()
            .execute()
            .await
            .map_err(|error| Error::Resolve {
                interface,
                neighbour,
                reason: match error {
                    rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
                    other => other.to_string(),
                },
            })
    }
}

/// What the kernel knows now. Blocks, and so must not be called within a tokio runtime.
pub fn read_once() -> Result<View, Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(Error::Open)?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        let mut requests = connect(&mut tasks)?;
        read_settled(&mut requests).await
    })
}

/// Opens a socket for requests.
fn connect(tasks: &mut JoinSet<()>) -> Result<Handle, Error> {
    let (mut connection, requests, _) = rtnetlink::new_connection().map_err(Error::Open)?;
    // Without the end mark an answer cut short would pass for a whole one.
    connection.set_forward_done(true);
    tasks.spawn(connection);
    Ok(requests)
}

/// The task that follows notifications.
struct Mirror<E> {
    requests: Handle,
    events: E,
    view: View,
    publish: watch::Sender<Arc<View>>,
    /// Everything must be read again.
    stale: bool,
    /// When to publish what has changed.
    due: Option<Instant>,
    /// Not to read again before.
    rest_until: Instant,
}

impl<E> Mirror<E>
where
    E: Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin,
{
    async fn run(mut self) {
        loop {
            tokio::select! {
                event = self.events.next() => match event {
                    Some((message, _)) => self.note(decode::event(&message)),
                    None => break,
                },
                () = until(self.due) => if self.settle().await.is_err() {
                    break;
                },
            }
        }
        tracing::error!(
            "the netlink connection has ended; routes and neighbours are no longer followed"
        );
    }

    fn note(&mut self, event: Option<Event>) {
        let neighbours = &mut self.view.neighbours;
        match event {
            None => return,
            Some(Event::Stale) => self.stale = true,
            Some(Event::Neighbour { key, mac }) => {
                let before = match mac {
                    Some(mac) => neighbours.insert(key, mac),
                    None => neighbours.remove(&key),
                };
                if before == mac {
                    return;
                }
            }
        }
        self.due.get_or_insert_with(|| Instant::now() + GATHER);
    }

    /// Reads what must be read, publishes what has changed.
    async fn settle(&mut self) -> Result<(), Error> {
        self.due = None;
        let begun = Instant::now();
        if self.stale && begun >= self.rest_until {
            match read(&mut self.requests).await {
                Ok((view, settled)) => {
                    self.view = view;
                    self.stale = !settled;
                    self.rest_until = Instant::now() + begun.elapsed() * REST;
                }
                Err(Error::Closed) => return Err(Error::Closed),
                Err(error) => {
                    tracing::warn!("{error}; trying again");
                    self.rest_until = Instant::now() + RETRY;
                }
            }
        }
        if self.stale {
            self.due = Some(self.rest_until.max(Instant::now() + GATHER));
        }
        self.publish.send_if_modified(|last| {
            let differs = **last != self.view;
            if differs {
                *last = Arc::new(self.view.clone());
            }
            differs
        });
        Ok(())
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Reads until no change has come in between, within reason.
async fn read_settled(requests: &mut Handle) -> Result<View, Error> {
    let mut attempt = 1;
    loop {
        let (view, settled) = read(requests).await?;
        if settled || attempt == ATTEMPTS {
            return Ok(view);
        }
        attempt += 1;
    }
}

/// Reads everything; says whether it did so without a change coming in between.
async fn read(requests: &mut Handle) -> Result<(View, bool), Error> {
    use RouteNetlinkMessage as M;
    let mut links = BTreeMap::new();
    let mut routes = Vec::new();
    let mut neighbours = BTreeMap::new();

    let ask = M::GetLink(LinkMessage::default());
    let mut settled = list(requests, "links", ask, |answer| {
        if let M::NewLink(message) = answer {
            links.extend([decode::link(&message)]);
        }
    })
    .await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        settled &= list(requests, "routes", M::GetRoute(message), |answer| {
            if let M::NewRoute(message) = answer {
                routes.extend(decode::route(&message));
            }
        })
        .await?;
    }
    let ask = M::GetNeighbour(NeighbourMessage::default());
    settled &= list(requests, "neighbours", ask, |answer| {
        if let M::NewNeighbour(message) = answer
            && let Some((key, Some(mac))) = decode::neighbour(&message)
        {
            neighbours.insert(key, mac);
        }
    })
    .await?;
    Ok((View::new(links, routes, neighbours), settled))
}

/// Asks for a list and hands over its members; says whether it is whole, that is, nothing was changed under the kernel's
/// hands while it made the list.
async fn list(
    requests: &mut Handle,
    what: &'static str,
    ask: RouteNetlinkMessage,
    mut take: impl FnMut(RouteNetlinkMessage),
) -> Result<bool, Error> {
    let mut message = NetlinkMessage::from(ask);
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = requests.request(message).map_err(|_| Error::Closed)?;
    let mut whole = true;
    while let Some(answer) = answers.next().await {
        whole &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(inner) => take(inner),
            NetlinkPayload::Done(_) => return Ok(whole),
            NetlinkPayload::Error(error) => {
                let source = error.to_io();
                return Err(Error::List { what, source });
            }
            _ => {}
        }
    }
    Err(Error::Closed)
}
