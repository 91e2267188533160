//! A connection of mode `tcp`: a server is chosen, and everything is carried to it and back.

use std::{rc::Rc, sync::Arc};

use tokio::{net::TcpStream, time::Instant};

use super::{
    access_log::{Met, Times},
    choose::{Chosen, Tried},
    keep::Kept,
    proxy_protocol::Addresses,
    reason::Reason,
    relay::{Tally, relay},
    snapshot::Service,
    upstream,
    worker::Worker,
};
use crate::{model::TcpSettings, persistence::Tenure};

/// Carries a connection to its end. `first` has been read from the client already.
pub(super) async fn carry(
    worker: Rc<Worker>,
    service: Arc<Service>,
    settings: TcpSettings,
    mut client: TcpStream,
    addresses: Addresses,
    first: Vec<u8>,
) {
    let shard = Arc::clone(service.counters.shard(worker.number));
    let mut times = Times::begin();
    let carried = Tally::default();
    let mut met = Met::default();
    // To the end of the connection, so that its entry does not expire.
    let tenure = Tenure::default();
    let mut _place = None;
    let reason = match open(&worker, &service, settings, addresses, &tenure).await {
        Ok((chosen, mut stream, kept)) => {
            met.kept = kept.outcome(chosen.server);
            drop(kept.settle(&service, chosen.server, &tenure));
            met.server = Some(service.servers[chosen.server].address);
            _place = Some(chosen.place);
            times.connected = Some(Instant::now());
            let first = [&first[..], &[]];
            let ended = relay(&mut client, &mut stream, first, settings.idle_timeout, &carried);
            ended.await.err().unwrap_or(Reason::Carried)
        }
        Err(reason) => reason,
    };
    if reason != Reason::Carried {
        // An end that nobody agreed to must not look like one that both did.
        let _ = client.set_zero_linger();
    }
    shard.outcome(reason);
    let bytes = [carried.received.get(), carried.sent.get()];
    shard.received_bytes.add(bytes[0]);
    shard.sent_bytes.add(bytes[1]);
    worker.log.connection(&service, addresses.source, met, bytes, reason, &times);
}

async fn open(
    worker: &Worker,
    service: &Service,
    settings: TcpSettings,
    addresses: Addresses,
    tenure: &Tenure,
) -> Result<(Chosen, TcpStream, Kept), Reason> {
    let shard = service.counters.shard(worker.number);
    let number = worker.next_number();
    let kept = Kept::of_connection(service, addresses.source, tenure);
    if let Some(reason) = kept.refused() {
        return Err(reason);
    }
    let mut tried = Tried::default();
    for attempt in 0..=settings.link.retries {
        let chosen = match kept.next(service, addresses.source, number, &tried) {
            Ok(chosen) => chosen,
            Err(reason) if attempt == 0 => return Err(reason),
            Err(_) => break,
        };
        if attempt > 0 {
            shard.retries.add(1);
        }
        let server = &service.servers[chosen.server];
        match upstream::connect(server.address, &settings.link, addresses).await {
            Ok(stream) => {
                shard.server_connections.add(1);
                return Ok((chosen, stream, kept));
            }
            Err(error) => tracing::debug!(server = %server.address, %error, "cannot connect"),
        }
        tried.add(chosen.server);
    }
    Err(Reason::ConnectFailed)
}
