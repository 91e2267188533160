//! The order in which servers take turns.
//!
//! Smooth weighted round robin, as nginx has it: each turn every server gains its weight, the one with the most is next and
//! pays the sum of all. A server's turns are spread evenly instead of following one another.

use super::maglev::Member;

/// Turns that a pool has at most, unless it has more servers. Weights are scaled down to that.
const MOST_TURNS: u64 = 4_096;

/// The server numbers of one round; each as often as its weight says.
pub fn round_robin(members: &[Member]) -> Vec<u16> {
    let weights = scaled(members);
    let sum: i64 = weights.iter().sum();
    let mut credits = vec![0_i64; members.len()];
    let mut turns = Vec::new();
    for _ in 0..sum {
        for (credit, weight) in credits.iter_mut().zip(&weights) {
            *credit += weight;
        }
        // Of equals the first, so that the order is that of the configuration.
        let next = (0..members.len()).rev().max_by_key(|&place| credits[place]);
        let Some(next) = next else { break };
        credits[next] -= sum;
        turns.push(members[next].number);
    }
    turns
}

/// Each server number once.
pub fn each_once(members: &[Member]) -> Vec<u16> {
    members.iter().map(|member| member.number).collect()
}

fn scaled(members: &[Member]) -> Vec<i64> {
    let divisor = members.iter().map(|member| u64::from(member.weight)).fold(0, gcd).max(1);
    let sum: u64 = members.iter().map(|member| u64::from(member.weight) / divisor).sum();
    let scale = |weight: u32| {
        let weight = u64::from(weight) / divisor;
        if sum <= MOST_TURNS { weight } else { (weight * MOST_TURNS / sum).max(1) }
    };
    members.iter().map(|member| i64::try_from(scale(member.weight)).unwrap_or(1)).collect()
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use lbpersist_common::net::Address;

    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        let member =
            |(number, &weight)| Member { address: Address::UNSPECIFIED, port: 0, weight, number };
        (1..).zip(weights).map(member).collect()
    }

    #[test]
    fn turns_are_spread_evenly() {
        for (weights, turns) in [
            (&[][..], &[][..]),
            (&[7], &[1]),
            (&[1, 1, 1], &[1, 2, 3]),
            (&[10, 20], &[2, 1, 2]),
            (&[5, 1, 1], &[1, 1, 2, 1, 3, 1, 1]),
        ] {
            assert_eq!(round_robin(&members(weights)), turns, "{weights:?}");
        }
    }

    #[test]
    fn large_weights_are_scaled_and_nobody_is_left_out() {
        let mut weights = vec![1000; 999];
        weights.push(1);
        let turns = round_robin(&members(&weights));
        assert!((1_000..=5_000).contains(&turns.len()), "{}", turns.len());
        for number in 1..=1_000 {
            assert!(turns.contains(&number), "{number}");
        }
    }
}
