//! Connections that are opened before they are measured, for clients of whom only the program knows where its answers come from:
//! each SYN is answered by the very end that the program sent it to.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use lbpersist_common::{net::TCP, tcp::flag};

use crate::{
    frame::{self, End, Headers},
    plan::FRAME,
};

/// `XDP_TX` and `XDP_REDIRECT` of linux/bpf.h.
const SENT: [u32; 2] = [3, 4];

/// Has `program` carry the handshake between `client` and whatever server it gives it at `service`.
///
/// # Errors
/// When a packet of it is not carried: the way back to the client may not be known yet.
pub(crate) fn open(program: &Xdp, client: End, service: End) -> Result<()> {
    let segment = |from, to, flags| Headers { from, to, protocol: TCP, flags };
    let syn = segment(client, service, flag::SYN);
    let (seen, server) = frame::carried(&carry(program, &syn)?, &syn).context("a SYN")?;
    carry(program, &segment(server, seen, flag::SYN | flag::ACK)).context("its answer")?;
    carry(program, &segment(client, service, flag::ACK)).context("the answer to that")?;
    Ok(())
}

fn carry(program: &Xdp, headers: &Headers) -> Result<[u8; FRAME]> {
    let mut carried = [0; FRAME];
    let result = program.test_run(TestRunOptions {
        data_in: Some(&frame::build(headers)),
        data_out: Some(&mut carried),
        ..TestRunOptions::default()
    })?;
    ensure!(SENT.contains(&result.return_value), "the verdict is {}", result.return_value);
    Ok(carried)
}
