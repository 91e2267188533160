//! Breaks that the program noted.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use lbpersist_common::{
    breaks::{BreakReason, BreakRecord},
    layout::kind,
    net::Address,
    server::Binding,
};

use super::{Error, listed, maps, report::Reader, report::server_name};
use crate::breaks::{Break, Filter};

impl Reader {
    /// How many clients of the service whose counters are there lost their server, by reason.
    pub(super) fn breaks_of(&self, index: u32) -> Result<BTreeMap<&'static str, u64>, Error> {
        let counters =
            self.maps().breaks.get(&index, 0).map_err(|error| Error::map("breaks", error))?;
        let all = BreakReason::ALL.into_iter();
        Ok(all.map(|reason| (reason.name(), counters.by_reason[reason as usize])).collect())
    }

    /// The last breaks that `filter` means, oldest first. `now_ns` is the time of the tables.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn breaks(&self, filter: &Filter, now_ns: u64) -> Result<Vec<Break>, Error> {
        let mut records: Vec<BreakRecord> = maps::scan::<u32, BreakRecord>(self.pins(), "last_breaks")?
                .into_iter()
                .map(|(_, record)| record)
                // Without a number it is being written, or there never was one.
                .filter(|record| record.number != 0)
                .collect();
        records.sort_by_key(|record| record.number);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let breaks = records.iter().map(|record| self.told(record, now, now_ns));
        Ok(breaks.filter(|one| filter.means(one)).collect())
    }

    fn told(&self, record: &BreakRecord, now: f64, now_ns: u64) -> Break {
        let BreakRecord { before, after, .. } = *record;
        let ago = now_ns.saturating_sub(record.time_ns);
        let reason = BreakReason::from_number(record.reason).map(BreakReason::name);
        Break {
            // To a millisecond: finer is not what the clock of the tables knows.
            time: ((now - ago as f64 / 1e9) * 1e3).round() / 1e3,
            virtual_service: self.name(kind::SERVICE, record.service_index),
            client: self.client_prefix(&record.key),
            destination: listed::destination(&record.key, self.services()),
            before: self.name_of(before, record.before_address, record.before_port),
            after: self.name_of(after, record.after_address, record.after_port),
            reason: reason.unwrap_or("unknown").to_owned(),
        }
    }

    /// A server by the address that was noted of it, or else by its number, if that is still its own.
    fn name_of(&self, binding: Binding, address: Address, port: u16) -> Option<String> {
        if address != Address::UNSPECIFIED {
            return Some(server_name(address, port));
        }
        let server = self.server(binding.server).ok()?;
        let known =
            server.generation == binding.generation && server.address != Address::UNSPECIFIED;
        known.then(|| server_name(server.address, server.port))
    }
}
