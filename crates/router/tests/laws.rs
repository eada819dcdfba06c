//! What every strategy promises, for any targets and any path. Pure: no file, no clock.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a test says what it takes for granted"
)]

use std::{collections::BTreeSet, ops::RangeInclusive, path::Path, process::Command};

use domain::model::ZoneName;
use proptest::{prelude::*, sample::Index};
use router::{
    PublishedList,
    select::{HashNode, Rendezvous, STRATEGIES, Sha256Modulo, Strategy as _, named},
    table::{Routing, Table},
};
use serde_json::json;

type Chosen = &'static dyn router::select::Strategy;

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("fsmt-0{number:x}5c3f1e2d4b6a798")).collect()
}

fn nodes(ids: &[String]) -> Vec<HashNode> {
    ids.iter().map(|id| HashNode::new(id, 1.0)).collect()
}

/// Nodes of these targets, and which they are: a place in the list says nothing.
fn weighted(targets: &[(String, f64)]) -> Vec<HashNode> {
    targets.iter().map(|(id, weight)| HashNode::new(id, *weight)).collect()
}

fn first(strategy: Chosen, path: &[u8], nodes: &[HashNode]) -> usize {
    strategy.first(path, nodes, &|_| true).unwrap()
}

fn paths(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|each| format!("user/{}/document-{}.pdf", each * 7919, each % 13).into_bytes()).collect()
}

fn a_path() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..200)
}

/// Targets as EFS names them, some of them preferred, in any order.
fn a_list() -> impl Strategy<Value = Vec<(String, f64)>> {
    let weight = prop_oneof![4 => Just(1.0), 1 => 1.0..100.0];
    let targets = proptest::collection::btree_map("fsmt-[0-9a-f]{8,17}", weight, 1..13);
    targets.prop_map(|targets| targets.into_iter().collect::<Vec<_>>()).prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_path_always_has_the_same_target(targets in a_list(), path in a_path()) {
        for strategy in STRATEGIES {
            // Nodes made twice: nothing is remembered, and nothing depends on where they are in memory.
            let (one, other) = (weighted(&targets), weighted(&targets));
            prop_assert_eq!(first(strategy, &path, &one), first(strategy, &path, &other));
            let orders = [&one, &other].map(|nodes| strategy.order(&path, nodes).iter().collect::<Vec<_>>());
            prop_assert_eq!(&orders[0], &orders[1]);
        }
    }

    #[test]
    fn the_order_has_every_target_once_and_the_first_usable_one_is_chosen(
        targets in a_list(), path in a_path(), usable in proptest::collection::vec(any::<bool>(), 13),
    ) {
        let nodes = weighted(&targets);
        for strategy in STRATEGIES {
            let order: Vec<_> = strategy.order(&path, &nodes).iter().collect();
            let each: BTreeSet<_> = order.iter().copied().collect();
            prop_assert_eq!(order.len(), nodes.len());
            prop_assert_eq!(each, (0..nodes.len()).collect());
            let expected = order.iter().copied().find(|index| usable[*index]);
            prop_assert_eq!(strategy.first(&path, &nodes, &|index| usable[index]), expected);
            prop_assert_eq!(strategy.first(&path, &nodes, &|_| false), None);
        }
    }

    #[test]
    fn the_order_of_the_list_means_nothing_to_rendezvous(
        (one, other) in a_list().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
        path in a_path(),
    ) {
        let order = |targets: &[(String, f64)]| {
            let order = Rendezvous.order(&path, &weighted(targets));
            order.iter().map(|index| targets[index].0.clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(order(&one), order(&other));
        prop_assert_eq!(&one[first(&Rendezvous, &path, &weighted(&one))].0, &order(&one)[0]);
    }

    #[test]
    fn a_new_target_takes_paths_and_moves_no_others(
        targets in a_list(), position in any::<Index>(), weight in prop_oneof![Just(1.0), 1.0..100.0],
        paths in proptest::collection::vec(a_path(), 8),
    ) {
        let mut more = targets.clone();
        more.insert(position.index(targets.len() + 1), ("fsmt-new".to_owned(), weight));
        for path in &paths {
            let before = &targets[first(&Rendezvous, path, &weighted(&targets))].0;
            let after = &more[first(&Rendezvous, path, &weighted(&more))].0;
            prop_assert!(after == before || after == "fsmt-new", "{before} gave a path to {after}");
        }
    }

    #[test]
    fn a_target_that_goes_gives_its_paths_to_their_second_choice_and_moves_no_others(
        targets in a_list().prop_filter("one is left", |targets| targets.len() > 1), gone in any::<Index>(),
        paths in proptest::collection::vec(a_path(), 8),
    ) {
        let gone = gone.index(targets.len());
        let mut fewer = targets.clone();
        fewer.remove(gone);
        for path in &paths {
            let order: Vec<_> = Rendezvous.order(path, &weighted(&targets)).iter().collect();
            let expected = if order[0] == gone { order[1] } else { order[0] };
            let after = &fewer[first(&Rendezvous, path, &weighted(&fewer))].0;
            prop_assert_eq!(after, &targets[expected].0);
        }
    }

    #[test]
    fn a_greater_weight_moves_paths_to_its_target_and_no_others(
        targets in a_list(), heavier in any::<Index>(), factor in 1.0..20.0_f64,
        paths in proptest::collection::vec(a_path(), 8),
    ) {
        let heavier = heavier.index(targets.len());
        let mut after = targets.clone();
        after[heavier].1 *= factor;
        for path in &paths {
            let (before, after) =
                (first(&Rendezvous, path, &weighted(&targets)), first(&Rendezvous, path, &weighted(&after)));
            prop_assert!(after == before || after == heavier, "{before} gave a path to {after}, not to {heavier}");
        }
    }

    #[test]
    fn modulo_ignores_weights_and_ids(targets in a_list(), path in a_path()) {
        let others = nodes(&ids(targets.len()));
        prop_assert_eq!(first(&Sha256Modulo, &path, &weighted(&targets)), first(&Sha256Modulo, &path, &others));
    }

    #[test]
    fn modulo_takes_the_next_index_of_a_target_that_fails(targets in a_list(), path in a_path()) {
        let nodes = weighted(&targets);
        let own = first(&Sha256Modulo, &path, &nodes);
        let order: Vec<_> = Sha256Modulo.order(&path, &nodes).iter().collect();
        let expected: Vec<_> = (0..nodes.len()).map(|step| (own + step) % nodes.len()).collect();
        prop_assert_eq!(order, expected);
    }
}

/// The whole way from a published list to a target, and what a preferred zone does on it.
#[test]
fn a_table_routes_as_its_strategy_does() {
    let ids = ids(5);
    let target = |index: usize| {
        json!({
            "mount_target_id": ids[index],
            "ip_address": format!("10.0.{index}.1"),
            "availability_zone": format!("zone-{}", index % 3),
            "subnet_id": "subnet-1",
        })
    };
    let list = json!({ "mount_targets": (0..5).map(target).collect::<Vec<_>>() }).to_string();
    for strategy in STRATEGIES {
        let routing = Routing { strategy, local: Some((ZoneName::new("zone-1"), 3.0)) };
        let table = Table::new(PublishedList::parse(&list).unwrap(), routing).unwrap();
        let nodes: Vec<_> =
            ids.iter().zip(0..).map(|(id, index)| HashNode::new(id, [1.0, 3.0, 1.0][index % 3])).collect();
        for path in paths(200) {
            assert_eq!(table.first(&path, &|_| true), Some(first(strategy, &path, &nodes)));
            let orders = [table.order(&path), strategy.order(&path, &nodes)].map(|order| order.iter().collect());
            let [of_table, of_strategy]: [Vec<_>; 2] = orders;
            assert_eq!(of_table, of_strategy);
        }
    }
}

#[test]
fn a_list_without_targets_has_no_target_and_every_strategy_has_its_name() {
    for strategy in STRATEGIES {
        assert_eq!(strategy.first(b"path", &[], &|_| true), None);
        assert_eq!(strategy.order(b"path", &[]).iter().count(), 0);
        assert_eq!(named(strategy.name()).unwrap().name(), strategy.name());
    }
    assert_eq!(STRATEGIES[0].name(), "rendezvous");
}

#[test]
fn a_target_gets_its_weights_share_and_the_others_share_the_rest() {
    let paths = paths(20_000);
    for count in [2, 3, 5] {
        for weight in [1.0, 1.5, 2.0, 10.0, 100.0] {
            let mut nodes = nodes(&ids(count));
            nodes[1].weight = weight;
            let mut shares = vec![0.0; count];
            for path in &paths {
                shares[first(&Rendezvous, path, &nodes)] += 1.0 / paths.len() as f64;
            }
            let all = weight + (count - 1) as f64;
            for (index, share) in shares.iter().enumerate() {
                let expected: f64 = if index == 1 { weight / all } else { 1.0 / all };
                // Four times what chance makes of it.
                let chance = 4.0 * (expected * (1.0 - expected) / paths.len() as f64).sqrt();
                assert!((share - expected).abs() < chance, "{index} of {count}, {weight}: {share}, not {expected}");
            }
        }
    }
}

/// The table in the notes of the field: of 2, 3 and 5 targets, one more.
#[test]
fn one_more_target_moves_as_many_paths_as_it_must() {
    let paths = paths(20_000);
    for (strategy, expected) in [("rendezvous", [33.1, 24.9, 16.7]), ("sha256-modulo", [66.5, 75.0, 83.4])] {
        let strategy = named(strategy).unwrap();
        for (count, expected) in [2, 3, 5].into_iter().zip(expected) {
            let (before, after) = (nodes(&ids(count)), nodes(&ids(count + 1)));
            let moves = |path: &&Vec<u8>| first(strategy, path, &before) != first(strategy, path, &after);
            let moved = paths.iter().filter(moves).count() as f64 / paths.len() as f64 * 100.0;
            assert!((moved - expected).abs() < 1.5, "{} {count}: {moved} %, not {expected}", strategy.name());
        }
    }
}

/// And what losing one of three costs the paths of the others.
#[test]
fn one_target_less_moves_what_was_not_its_own_only_with_modulo() {
    let paths = paths(20_000);
    let ids = ids(3);
    let (before, after) = (nodes(&ids), nodes(&ids[..2]));
    for (strategy, expected) in [("rendezvous", 0.0), ("sha256-modulo", 49.9)] {
        let strategy = named(strategy).unwrap();
        let stay: Vec<_> = paths.iter().filter(|path| first(strategy, path, &before) != 2).collect();
        let moved = stay.iter().filter(|path| first(strategy, path, &before) != first(strategy, path, &after)).count();
        let moved = moved as f64 / stay.len() as f64 * 100.0;
        assert!((moved - expected).abs() < 1.5, "{}: {moved} %, not {expected}", strategy.name());
    }
}

/// At 5 %, with one to nine degrees of freedom.
const CRITICAL: [f64; 9] = [3.841, 5.991, 7.815, 9.488, 11.070, 12.592, 14.067, 15.507, 16.919];
const SEEDS: usize = 1000;
/// The test wants this many expected in each class.
const EXPECTED: usize = 50;

type Counts = RangeInclusive<usize>;

/// For so many targets, the share of seeds whose paths are spread over them as chance would do it less than once in
/// twenty times. It must be about 5 %: less would be too even to be chance, more too uneven. `choose` tells of a path
/// the index that it has among each number of targets.
fn paths_are_spread_as_by_chance(counts: Counts, choose: impl Fn(&[u8], Counts, &mut dyn FnMut(usize, usize))) {
    let (least, most) = (*counts.start(), *counts.end());
    let mut rejected = [0.0; 11];
    for seed in 0..SEEDS {
        let mut snapshot = [[0_u32; 10]; 11];
        for file in 0..EXPECTED * most {
            // Few targets need few paths.
            let counts = least.max(file / EXPECTED + 1)..=most;
            choose(format!("{seed}/file-{file}").as_bytes(), counts, &mut |count, index| snapshot[count][index] += 1);
        }
        for count in counts.clone() {
            let off = |snapshot: &u32| (f64::from(*snapshot) - EXPECTED as f64).powi(2) / EXPECTED as f64;
            if snapshot[count][..count].iter().map(off).sum::<f64>() > CRITICAL[count - 2] {
                rejected[count] += 1.0 / SEEDS as f64;
            }
        }
    }
    for count in counts {
        println!("{count} targets: {:.3} of the seeds are rejected", rejected[count]);
        assert!((0.03..=0.07).contains(&rejected[count]), "{count} targets: {:.3}", rejected[count]);
    }
}

#[test]
fn rendezvous_spreads_paths_as_chance_does() {
    let nodes = nodes(&ids(10));
    paths_are_spread_as_by_chance(2..=10, |path, counts, choose| {
        // One order of ten for all numbers of targets: that a target which is not there moves no others is shown
        // above, and hashing each path nine times takes too long without optimization.
        let order = Rendezvous.order(path, &nodes);
        for count in counts {
            choose(count, order.iter().find(|index| *index < count).unwrap());
        }
    });
}

fn modulo_spreads_as_chance_does(counts: Counts) {
    let nodes = nodes(&ids(10));
    paths_are_spread_as_by_chance(counts, |path, counts, choose| {
        for count in counts {
            choose(count, first(&Sha256Modulo, path, &nodes[..count]));
        }
    });
}

// Several tests, so that several processors share the work.
#[test]
fn modulo_spreads_paths_over_few_targets_as_chance_does() {
    modulo_spreads_as_chance_does(2..=6);
}

#[test]
fn modulo_spreads_paths_over_more_targets_as_chance_does() {
    modulo_spreads_as_chance_does(7..=8);
}

#[test]
fn modulo_spreads_paths_over_many_targets_as_chance_does() {
    modulo_spreads_as_chance_does(9..=10);
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

fn unhex(digits: &str) -> Vec<u8> {
    digits.as_bytes().chunks(2).map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

#[test]
fn modulo_is_pythons_line_to_the_letter() {
    let golden = std::fs::read_to_string(format!("{GOLDEN}/sha256-modulo.txt")).unwrap();
    assert_eq!(golden.lines().count(), 1000);
    let nodes = nodes(&ids(10));
    for line in golden.lines() {
        let (indexes, path) = line.split_once(' ').unwrap();
        let path = unhex(path);
        for (count, index) in (1..=10).zip(indexes.chars()) {
            let index = index.to_digit(10).unwrap() as usize;
            assert_eq!(first(&Sha256Modulo, &path, &nodes[..count]), index, "{count} targets: {}", path.escape_ascii());
        }
    }
}

#[test]
fn the_golden_values_are_what_python_prints() {
    let Ok(printed) = Command::new("python3").arg(Path::new(GOLDEN).join("make.py")).output() else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no python3");
        println!("skipped: there is no python3");
        return;
    };
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let golden = std::fs::read(format!("{GOLDEN}/sha256-modulo.txt")).unwrap();
    assert!(printed.stdout == golden, "make it anew: python3 make.py > sha256-modulo.txt");
}
