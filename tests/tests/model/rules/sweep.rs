//! What time and the sweep do to the tables, and what the tables are asked where the rules leave a range.

use std::collections::BTreeSet;

use super::{
    CLOSING_IDLE, Connection, Entry, HANDSHAKE_IDLE, LINGER, Rules, SECOND, TCP_IDLE, TICKS,
    UDP_IDLE, UDP_LASTS,
};
use crate::world::{Flow, Key, State};

impl Rules {
    /// Handshakes that are too old go.
    pub(crate) fn sweep_handshakes(&mut self, now: u64) {
        self.handshakes.retain(|_, handshake| now - handshake.started <= HANDSHAKE_IDLE);
    }

    /// What a pass of the sweep does. `left` are the connections that it left, which have to be those that may be left.
    pub(crate) fn sweep(&mut self, left: &BTreeSet<Flow>, now: u64) -> Result<(), String> {
        let flows: Vec<Flow> = self.connections.keys().copied().collect();
        for flow in flows {
            let (may, must) = self.may_and_must_end(&flow, now);
            let is_left = left.contains(&flow);
            let connection = self.connections[&flow];
            if (is_left && must) || (!is_left && !may) {
                return Err(format!("after the sweep, left is {is_left}: {flow:?} {connection:?}"));
            }
            if !is_left {
                self.end(&flow, &connection, now);
            }
        }
        let pools = &self.pools;
        self.entries.retain(|key, entry| entry.binds(pools[key.pool].timeout, now) != Some(false));
        Ok(())
    }

    /// The entries of which the rules do not say whether they bind their clients now.
    pub(crate) fn unsettled(&self, now: u64) -> Vec<Key> {
        let open =
            |key: &Key, entry: &Entry| entry.binds(self.pools[key.pool].timeout, now).is_none();
        self.entries.iter().filter(|(key, entry)| open(key, entry)).map(|(key, _)| *key).collect()
    }

    /// The UDP flows of which the rules do not say whether they go on.
    pub(crate) fn unsettled_flows(&self, now: u64) -> Vec<Flow> {
        let open = |known: &Connection| known.state == State::Flow && known.lasts(now).is_none();
        self.connections.iter().filter(|(_, known)| open(known)).map(|(flow, _)| *flow).collect()
    }

    /// Settles when a packet of a flow was noted, by what the table says.
    pub(crate) fn settle_flow(&mut self, flow: &Flow, noted: u64) -> Result<(), String> {
        let known = self.connections.get_mut(flow).expect("it is unsettled");
        let [from, to] = known.noted;
        if !(from.saturating_sub(TICKS)..=to + TICKS).contains(&noted) {
            return Err(format!("{flow:?} was noted at {noted}: {known:?}"));
        }
        known.noted = [noted; 2];
        Ok(())
    }

    /// Settles when the timer of an entry began, by what the table says.
    pub(crate) fn settle(&mut self, key: &Key, idle: u64) -> Result<(), String> {
        let entry = self.entries.get_mut(key).expect("it is unsettled");
        let [from, to] = entry.idle;
        if !(from..=to + TICKS).contains(&idle) {
            return Err(format!("{key:?} is idle since {idle}: {entry:?}"));
        }
        entry.idle = [idle; 2];
        Ok(())
    }

    /// Whether a pass of the sweep may end, and must end, a connection.
    fn may_and_must_end(&mut self, flow: &Flow, now: u64) -> (bool, bool) {
        let pick = self.pool(flow).pick(flow);
        let connection = self.connections.get_mut(flow).expect("it was listed");
        let (silent, since) = (now - connection.heard, now - connection.changed);
        let limit = match connection.state {
            State::Flow => return (silent > UDP_IDLE, silent > UDP_LASTS),
            State::Closed => {
                let linger = LINGER[usize::from(pick == Some(connection.server))];
                return (since + TICKS > linger, silent > linger + TICKS);
            }
            State::Established => TCP_IDLE,
            State::ClientClosed | State::ServerClosed => CLOSING_IDLE,
        };
        // The tables count the second sweep's N in whole seconds.
        let again = limit + SECOND + TICKS;
        let must = connection.suspected.is_some_and(|first| now - first > again);
        if silent > limit {
            connection.suspected.get_or_insert(now);
        }
        (silent > limit, must)
    }
}
