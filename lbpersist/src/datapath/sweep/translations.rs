//! Translations whose connections have ended or been silent for their limit give their ports back.

use lbpersist_common::{
    maintenance::{Operation, Request},
    net,
    tcp::State,
    translation::{Translation, TranslationKey, progress},
};

use super::{Phase, ROOM, Sweep, judge::Limits};
use crate::datapath::{Error, apply::DataPath};

impl Sweep {
    /// A portion of the translations, and before the first one all unfinished ones.
    pub(super) fn translations(
        &mut self,
        data_path: &mut DataPath,
        after: Option<u32>,
        now_ns: u64,
    ) -> Result<Phase, Error> {
        if after.is_none() {
            let unfinished = data_path.maps.half_open_translations.all()?;
            self.free(&unfinished, Operation::FreeHalfOpen, now_ns);
        }
        let batch = data_path.maps.translations.batch(after, ROOM)?;
        self.free(&batch.records, Operation::FreeTranslation, now_ns);
        self.send(data_path)?;
        Ok(batch.next.map_or(Phase::Rest, |next| Phase::Translations(Some(next))))
    }

    fn free(&mut self, found: &[(TranslationKey, Translation)], operation: Operation, now_ns: u64) {
        let over = found.iter().filter(|(key, one)| is_over(key, one, &self.limits, now_ns));
        let requests = over.map(|(key, one)| Request::about(operation, key, one.last_seen_ns));
        self.requests.extend(requests);
    }
}

/// Whether a translation's port may be given to another client.
fn is_over(key: &TranslationKey, found: &Translation, limits: &Limits, now_ns: u64) -> bool {
    let limit_ns = if key.protocol != u16::from(net::TCP) {
        limits.udp_ns
    } else if found.state == progress::ASKED {
        limits.handshake_ns
    } else {
        match State::from_number(found.state) {
            State::Established => limits.tcp_ns,
            State::ClientClosed | State::ServerClosed => limits.tcp_closing_ns,
            State::Closed => super::judge::LINGER_NS,
        }
    };
    now_ns.saturating_sub(found.last_seen_ns) > limit_ns
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use lbpersist_common::recent;

    use super::*;
    use crate::model::IdleLimits;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_port_is_kept_for_as_long_as_it_may_be_needed() {
        let limits = Limits::from(&IdleLimits::default());
        let udp = recent::idle_ns(30 * SECOND);
        for (protocol, state, limit) in [
            (net::UDP, progress::ASKED, udp),
            (net::UDP, progress::ANSWERED, udp),
            (net::TCP, progress::ASKED, 60 * SECOND),
            (net::TCP, State::Established as u32, 3600 * SECOND),
            (net::TCP, State::ClientClosed as u32, 120 * SECOND),
            (net::TCP, State::ServerClosed as u32, 120 * SECOND),
            (net::TCP, State::Closed as u32, 60 * SECOND),
        ] {
            let key = TranslationKey { protocol: protocol.into(), ..TranslationKey::zeroed() };
            let found = Translation { state, last_seen_ns: SECOND, ..Translation::zeroed() };
            let is_over = |now| is_over(&key, &found, &limits, now);
            assert!(!is_over(SECOND + limit), "{protocol} {state}");
            assert!(is_over(SECOND + limit + 1), "{protocol} {state}");
        }
    }
}
