//! Collectives: all ranks in one process, their rounds in any order that messages allow, against plain sums.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use selvedge_transport::collective::{Collective, Element, Plan, PlanError, Rank, Shape, Take};
use std::collections::BTreeMap;

/// All ranks' data after a collective. `order` picks who goes next among those that can.
fn run(what: Collective, element: Element, sent: &[Vec<u8>], mut order: u64) -> Vec<Vec<u8>> {
    let n = sent.len() as u32;
    let size = element.bytes();
    let elements = sent[0].len() / size;
    let plans: Vec<Plan> = (0..n).map(|r| Plan::new(what, n, Rank(r), elements).unwrap()).collect();
    let apart = what == Collective::AllToAll;
    let mut got: Vec<Vec<u8>> = sent.to_vec();
    let bytes = |r: &std::ops::Range<usize>| r.start * size..r.end * size;
    // messages on the way, by sender, receiver and round
    let mut way: BTreeMap<(u32, u32, u32), Vec<u8>> = BTreeMap::new();
    // the round of each rank, and whether it sent what the round sends
    let mut at = vec![(0u32, false); n as usize];
    let mut steps = 0u64;
    while at.iter().any(|a| a.0 < plans[0].rounds()) {
        steps += 1;
        assert!(steps < 200_000, "nobody gets any further: {at:?}");
        order = order.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let r = (order >> 33) as u32 % n;
        let (round, done) = at[r as usize];
        if round >= plans[r as usize].rounds() {
            continue;
        }
        let now = plans[r as usize].round(round);
        if !done {
            if let Some(s) = &now.send {
                let from = if apart { &sent[r as usize] } else { &got[r as usize] };
                let old = way.insert((r, s.to.0, round), from[bytes(&s.elements)].to_vec());
                assert!(old.is_none() && s.to.0 != r);
            }
            at[r as usize].1 = true;
        }
        if let Some(w) = &now.receive {
            let Some(message) = way.remove(&(w.from.0, r, round)) else { continue };
            let to = &mut got[r as usize][bytes(&w.elements)];
            assert_eq!(
                to.len(),
                message.len(),
                "{what:?}: {r} waits for another length than {:?} sends",
                w.from
            );
            match w.take {
                Take::Place => to.copy_from_slice(&message),
                Take::Sum => element.add(to, &message),
            }
        }
        at[r as usize] = (round + 1, false);
    }
    assert!(way.is_empty(), "{what:?}: sent and never waited for: {:?}", way.keys());
    if apart {
        for (r, p) in plans.iter().enumerate() {
            let own = bytes(&p.own_part());
            got[r][own.clone()].copy_from_slice(&sent[r][own]);
        }
    }
    got
}

/// Small whole numbers, so that sums are exact in any order and format.
fn data(n: u32, elements: usize, seed: u64) -> Vec<Vec<u8>> {
    (0..n)
        .map(|r| {
            (0..elements)
                .flat_map(|i| (((seed + u64::from(r) * 7 + i as u64 * 3) % 9) as f32 - 4.0).to_le_bytes())
                .collect()
        })
        .collect()
}

fn sum(sent: &[Vec<u8>]) -> Vec<u8> {
    let mut all = vec![0u8; sent[0].len()];
    sent.iter().for_each(|s| Element::F32.add(&mut all, s));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_collective_does_what_it_says(n in 1u32..20, elements in 0usize..70, seed: u64, root: u32) {
        let (sent, root) = (data(n, elements, seed % 100), Rank(root % n));
        let part = |r: u32| {
            let p = Plan::new(Collective::AllGather, n, Rank(r), elements).unwrap().part(r);
            p.start * 4..p.end * 4
        };
        let all = sum(&sent);
        for shape in [Shape::Ring, Shape::Tree] {
            for got in run(Collective::AllReduce(shape), Element::F32, &sent, seed) {
                prop_assert_eq!(&got, &all);
            }
            for got in run(Collective::Broadcast { root, shape }, Element::F32, &sent, seed) {
                prop_assert_eq!(&got, &sent[root.0 as usize]);
            }
        }
        let reduced = run(Collective::ReduceScatter, Element::F32, &sent, seed);
        let gathered = run(Collective::AllGather, Element::F32, &sent, seed);
        for r in 0..n {
            prop_assert_eq!(&reduced[r as usize][part(r)], &all[part(r)]);
            for q in 0..n {
                prop_assert_eq!(&gathered[q as usize][part(r)], &sent[r as usize][part(r)]);
            }
        }
        let even = data(n, elements / n as usize * n as usize, seed % 100);
        let swapped = run(Collective::AllToAll, Element::F32, &even, seed);
        let width = even[0].len() / n as usize;
        for p in 0..n as usize {
            for q in 0..n as usize {
                prop_assert_eq!(&swapped[p][q * width..][..width], &even[q][p * width..][..width]);
            }
        }
        run(Collective::Barrier, Element::F32, &sent, seed);
    }

    #[test]
    fn sums_have_the_same_bits_everywhere_and_every_time(n in 2u32..12, seed: u64, values: [f32; 24], tree: bool) {
        let shape = if tree { Shape::Tree } else { Shape::Ring };
        let bytes: Vec<u8> =
            values.iter().flat_map(|v| if v.is_finite() { *v } else { 1.5 }.to_le_bytes()).collect();
        let sent: Vec<Vec<u8>> = (0..n as usize)
            .map(|r| {
                let mut b = bytes.clone();
                b.rotate_left(4 * r);
                b
            })
            .collect();
        for element in [Element::F32, Element::F16, Element::Bf16] {
            let one = run(Collective::AllReduce(shape), element, &sent, seed);
            let other = run(Collective::AllReduce(shape), element, &sent, !seed);
            prop_assert!(one.iter().chain(&other).all(|b| *b == one[0]));
        }
    }
}

#[test]
fn a_barrier_holds_everybody_until_the_last_one_came() {
    // Who hears, through any chain of rounds, of whom.
    for n in 1..40u32 {
        let plan = |r| Plan::new(Collective::Barrier, n, Rank(r), 0).unwrap();
        let mut heard: Vec<u64> = (0..n).map(|r| 1 << r).collect();
        for round in 0..plan(0).rounds() {
            let before = heard.clone();
            for r in 0..n {
                if let Some(w) = plan(r).round(round).receive {
                    heard[r as usize] |= before[w.from.0 as usize];
                }
            }
        }
        assert!(heard.iter().all(|&h| h == (1u64 << n) - 1), "{n} ranks");
    }
}

#[test]
fn half_sums_round_to_nearest_even() {
    let mut to = half::f16::from_f32(2048.0).to_le_bytes().to_vec();
    Element::F16.add(&mut to, &half::f16::from_f32(1.0).to_le_bytes());
    assert_eq!(to, half::f16::from_f32(2048.0).to_le_bytes());
    let mut to = half::bf16::from_f32(256.0).to_le_bytes().to_vec();
    Element::Bf16.add(&mut to, &half::bf16::from_f32(3.0).to_le_bytes());
    assert_eq!(to, half::bf16::from_f32(260.0).to_le_bytes());
}

#[test]
fn collectives_that_cannot_be_are_refused() {
    let new = |what, n, r, elements| Plan::new(what, n, Rank(r), elements).map(|_| ());
    assert_eq!(new(Collective::Barrier, 0, 0, 8), Err(PlanError::Ranks { ranks: 0 }));
    assert_eq!(new(Collective::AllGather, 4, 4, 8), Err(PlanError::NoRank { rank: 4, ranks: 4 }));
    let what = Collective::Broadcast { root: Rank(9), shape: Shape::Tree };
    assert_eq!(new(what, 4, 1, 8), Err(PlanError::NoRank { rank: 9, ranks: 4 }));
    assert_eq!(new(Collective::AllToAll, 3, 1, 8), Err(PlanError::Uneven { elements: 8, ranks: 3 }));
    assert!(new(Collective::Barrier, Plan::RANKS_MAX + 1, 0, 8).is_err());
}
