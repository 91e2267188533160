//! `explain`: which server a client meets, and why.

use std::time::Duration;

use super::{
    arguments::{Explain, Output},
    commands::{Failure, print, print_json},
    text::Table,
};
use crate::{
    clock,
    config::format_duration,
    datapath::{
        explain::{Decision, Explanation, Question, Rule, Unanswered, Worth},
        maps::PinDirectory,
        report::Reader,
    },
    model::Protocol,
};

/// Answers the question from the pinned maps.
pub(super) fn execute(asked: Explain, pins: &PinDirectory, output: Output) -> Result<(), Failure> {
    let (address, port) =
        asked.destination.map_or((None, None), |(address, port)| (Some(address), port));
    let question = Question {
        virtual_service: asked.virtual_service,
        client: asked.client.0,
        client_port: asked.client.1,
        address,
        port,
    };
    let reader = Reader::open(pins)?;
    let explanation = reader.explain(&question, clock::now_ns()).map_err(|error| match error {
        Unanswered::Question(what) => Failure::Input(what),
        Unanswered::Maps(error) => error.into(),
    })?;
    match output {
        Output::Text => print(&text(&explanation)),
        Output::Json => print_json(&explanation),
    }
}

fn text(explanation: &Explanation) -> String {
    let Explanation { virtual_service, listens, protocol, pool, client, .. } = explanation;
    let opening = match protocol {
        Protocol::Tcp => "a new connection",
        Protocol::Udp => "a datagram",
    };
    let mut lines = vec![
        format!("{client} to {virtual_service} ({listens}/{protocol}), pool {pool}"),
        format!("{opening} {}", decision(&explanation.opening, explanation)),
    ];
    if let Some(segment) = &explanation.segment {
        lines.push(format!("a packet of an open one {}", decision(segment, explanation)));
    }
    if explanation.carried {
        let note = "the daemon carries it: a cookie or header that the profile asks for first goes before this, and servers may be full";
        lines.push(note.to_owned());
    }
    lines.push(String::new());
    lines.extend(details(explanation));
    lines.push(String::new());
    let mut table =
        Table::new(["SERVER", "STATE", "WEIGHT", "SLOTS", "OPEN", "REACHABLE", "WHY NOT"]);
    for server in &explanation.servers {
        table.row([
            server.server.clone(),
            server.state.to_owned(),
            server.weight.to_string(),
            server.slots.to_string(),
            match server.max_connections {
                Some(limit) => format!("{} of {limit}", server.open),
                None => server.open.to_string(),
            },
            if server.reachable { "yes" } else { "no" }.to_owned(),
            server.why_not.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    format!("{}\n{}", lines.join("\n"), table.text("the pool has no servers"))
}

/// What becomes of a packet, and what decides, as the end of a sentence.
fn decision(decision: &Decision, explanation: &Explanation) -> String {
    let fate = match (&decision.server, decision.refused) {
        (Some(server), _) => format!("goes to {server}"),
        (None, Some(reason)) => format!("goes nowhere ({reason})"),
        (None, None) => format!("goes to one of {}", decision.one_of.join(", ")),
    };
    let why = match decision.decided_by {
        Rule::Source => "its source is none that a client may have".to_owned(),
        Rule::Connection => "its connection is known".to_owned(),
        Rule::Handshake => "it has begun there".to_owned(),
        Rule::Entry => "the client's entry says so".to_owned(),
        Rule::Algorithm if explanation.algorithm == "maglev" => {
            "its slot's server may take no more, so the least busy one takes it".to_owned()
        }
        Rule::Algorithm => format!("a new client, placed by {}", explanation.algorithm),
        Rule::Ring => match &explanation.slot {
            Some(_) => "its slot of the ring says so".to_owned(),
            None => "each connection is placed by itself: give the client's port".to_owned(),
        },
    };
    let spilled = if decision.spilled { " (the server it is bound to is full)" } else { "" };
    format!("{fate}: {why}{spilled}")
}

fn details(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(format!("{name:<12}{text}"));
    let to = explanation.destination.map_or(String::new(), |address| format!(" to {address}"));
    if explanation.persistent {
        line("key", format!("{}{to}", explanation.key));
    } else {
        line("key", "none: the pool keeps no entries".to_owned());
    }
    if let Some(slot) = &explanation.slot {
        let pick = slot.pick.as_deref().unwrap_or("no server");
        let marks = if slot.marks.is_empty() { "none".to_owned() } else { slot.marks.join(", ") };
        line("slot", format!("{} of {}, picks {pick}, marks: {marks}", slot.number, slot.of));
    }
    match &explanation.connection {
        Some(known) => {
            let suspect = if known.suspect { ", suspected to be gone" } else { "" };
            let silent = duration(known.silent_seconds);
            let worth = worth(known.binding);
            line(
                "connection",
                format!(
                    "{}, {}, last noted {silent} ago{suspect}{worth}",
                    known.server, known.state
                ),
            );
        }
        None => line("connection", "none known".to_owned()),
    }
    if let Some(known) = &explanation.handshake {
        let answered = if known.answered { "answered" } else { "not answered yet" };
        let (age, worth) = (duration(known.age_seconds), worth(known.binding));
        line("handshake", format!("{}, begun {age} ago, {answered}{worth}", known.server));
    }
    match &explanation.entry {
        Some(known) => {
            let timer = match known.expires_in_seconds {
                _ if !known.live => "expired".to_owned(),
                Some(left) => format!("expires in {}", duration(left)),
                None => {
                    format!("expires {} after the last closes", duration(known.timeout_seconds))
                }
            };
            let (age, worth) = (duration(known.age_seconds), worth(known.binding));
            line(
                "entry",
                format!("{}, {} open, bound {age} ago, {timer}{worth}", known.server, known.open),
            );
        }
        None => line("entry", "none".to_owned()),
    }
    lines
}

fn worth(worth: Worth) -> &'static str {
    match worth {
        Worth::Holds => "",
        Worth::Refused => "; its server is down and it may have no other",
        Worth::Replaced => "; its server is down, so it gets another",
        Worth::Removed => "; its server is removed, so it gets another",
    }
}

fn duration(seconds: f64) -> String {
    format_duration(Duration::from_secs(seconds.round().max(0.0) as u64))
}
