//! When a connection counts as closed.

use lbpersist_common::tcp::flag::*;
use lbpersist_tests::topology::Family;

use crate::{
    persistence::open,
    setup::{Text, Visits as _, client},
};

#[derive(Clone, Copy)]
enum Segment {
    Client(u8),
    Server(u8),
}
use Segment::{Client, Server};

/// What it shows, the segments after the handshake, and how many connections are open then.
const ROWS: [(&str, &[Segment], u32); 10] = [
    ("data both ways", &[Client(ACK), Server(ACK)], 1),
    ("only the client has closed", &[Client(FIN | ACK), Server(ACK)], 1),
    ("only the server has closed", &[Server(FIN | ACK), Client(ACK)], 1),
    ("the client closes, then the server", &[Client(FIN | ACK), Server(FIN | ACK)], 0),
    ("the server closes, then the client", &[Server(FIN | ACK), Client(FIN | ACK)], 0),
    ("a FIN that is sent again", &[Client(FIN | ACK), Client(FIN | ACK)], 1),
    ("the client breaks off", &[Client(RST)], 0),
    ("the server breaks off", &[Server(RST | ACK)], 0),
    ("nothing closes twice", &[Client(RST), Server(RST), Client(FIN), Server(FIN | ACK)], 0),
    ("broken off half closed", &[Server(FIN | ACK), Client(RST | ACK)], 0),
];

#[test]
fn connections_close_as_tcp_has_it() {
    let Some(mut rig) = Text::servers(&[11, 12, 13]).rig() else { return };
    for family in Family::BOTH {
        for (shows, segments, open_then) in ROWS {
            let from = client(family, 1);
            let host = rig.open(from);
            for segment in segments {
                match *segment {
                    Client(flags) => assert_eq!(rig.segment(from, flags), host, "{shows}"),
                    Server(flags) => rig.answer(host, from, flags),
                }
            }
            assert_eq!(open(&mut rig), open_then, "{shows}");
            rig.segment(from, RST);
            assert_eq!(open(&mut rig), 0, "{shows}");
            let keys: Vec<_> = rig.entries().unwrap().into_iter().map(|(key, _)| key).collect();
            for key in keys {
                rig.data_path().maps.entries.remove(&key).unwrap();
            }
        }
    }
}
