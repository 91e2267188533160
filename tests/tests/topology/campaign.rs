//! The campaign of change, in small; `cargo xtask campaign change` is the large one.

use lbpersist_tests::{
    campaign::{self, Plan},
    wait,
};

#[test]
fn no_client_notices_kills_reloads_a_drain_and_an_upgrade() {
    if !wait::is_root_or_skip() {
        return;
    }
    let plan = Plan { clients: 100, kills: 3, reloads: 10, seed: 4, from: None };
    let outcome = campaign::run(&plan, &mut |line| eprintln!("{line}")).unwrap();
    assert!(outcome.is_kept(), "{outcome}: {:#?}", outcome.complaints);
}
