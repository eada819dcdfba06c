//! The laws of the decision, over worlds of every kind.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::net::Ipv4Addr;

use domain::{
    model::{Deployment, LifeCycle, MountTarget, MountTargetId, Service, Subnet, SubnetId, ZoneId, ZoneName},
    policy::{Decision, Excluded, FileCount, Observation, Policy, Published, Reason, ScalingRule, decide, warnings},
    published::PublishedList,
};
use proptest::prelude::*;

const STATES: [LifeCycle; 7] = [
    LifeCycle::Creating,
    LifeCycle::Available,
    LifeCycle::Updating,
    LifeCycle::Deleting,
    LifeCycle::Deleted,
    LifeCycle::Error,
    LifeCycle::Unknown,
];

fn zone(number: u8) -> ZoneId {
    ZoneId::new(format!("az{number}"))
}

fn target(number: u8, zone_number: u8, state: LifeCycle, has_ip: bool) -> MountTarget {
    MountTarget {
        id: MountTargetId::new(format!("fsmt-{number}")),
        subnet: SubnetId::new(format!("subnet-{zone_number}")),
        vpc: None,
        zone: zone(zone_number),
        // Zone names do not follow zone ids.
        zone_name: ZoneName::new(format!("region-{}", 9 - zone_number)),
        ip: has_ip.then_some(Ipv4Addr::new(10, 0, zone_number, number)),
        state,
    }
}

prop_compose! {
    /// Up to one target in each zone, as EFS has it, in any state.
    fn targets()(picked in proptest::collection::vec(proptest::option::weighted(0.6, (0..7_usize, proptest::bool::weighted(0.8))), 6))
    -> Vec<MountTarget> {
        let targets = picked.into_iter().zip(0_u8..);
        targets.filter_map(|(picked, number)| picked.map(|(state, ip)| target(number, number, STATES[state], ip))).collect()
    }
}

prop_compose! {
    fn subnets()(picked in proptest::collection::vec((0..6_u8, 0..3_u32), 0..9)) -> Vec<Subnet> {
        let named = picked.into_iter().enumerate();
        named.map(|(number, (zone_number, free_addresses))| Subnet { id: SubnetId::new(format!("subnet-{number}")), zone: zone(zone_number), free_addresses }).collect()
    }
}

prop_compose! {
    fn worlds()(
        targets in targets(),
        subnets in subnets(),
        count in proptest::option::weighted(0.9, (0..40_u64, proptest::bool::weighted(0.8))),
        one_zone in proptest::option::weighted(0.2, 0..6_u8),
        up_to_date in proptest::bool::weighted(0.7),
        damaged in proptest::bool::weighted(0.1),
        deployed in proptest::option::weighted(0.9, 3..5_i64),
        last_created in proptest::option::of(0..100_u64),
        refused in proptest::collection::btree_set(0..9_u8, 0..3),
    ) -> Observation {
        let published = if damaged {
            Some("{".to_owned())
        } else if up_to_date {
            PublishedList::of(&targets, None).map(|list| list.to_json())
        } else {
            Some(PublishedList::of(&[target(9, 5, LifeCycle::Available, true)], None).unwrap().to_json())
        };
        Observation {
            now: 100,
            count: count.map(|(files, complete)| FileCount { files, complete }),
            one_zone: one_zone.map(zone),
            targets,
            subnets,
            published: published.map(|text| Published { version: 4, list: PublishedList::parse(&text) }),
            deployed,
            last_created,
            service: Ok(Some(Service::default())),
            excluded: Excluded {
                subnets: refused.into_iter().map(|number| SubnetId::new(format!("subnet-{number}"))).collect(),
                zones: Default::default(),
            },
        }
    }
}

prop_compose! {
    fn policies()(
        threshold in 0..20_u64,
        per_target in any::<bool>(),
        initial_mount_targets in 0..4_u32,
        cooldown_seconds in prop_oneof![Just(0), 0..50_u64],
        max_mount_targets in proptest::option::of(1..5_u32),
    ) -> Policy {
        let rule = if per_target { ScalingRule::PerTarget } else { ScalingRule::Threshold };
        Policy { threshold, rule, initial_mount_targets, cooldown_seconds, max_mount_targets }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_the_lists_does_not_matter(world in worlds(), policy in policies(), turn in 0..9_usize) {
        let mut other = world.clone();
        other.targets.reverse();
        let turn = turn.min(other.subnets.len());
        other.subnets.rotate_left(turn);
        prop_assert_eq!(decide(&world, &policy), decide(&other, &policy));
        prop_assert_eq!(warnings(&world, &decide(&world, &policy)), warnings(&other, &decide(&other, &policy)));
    }

    #[test]
    fn a_target_is_created_only_where_and_when_it_may_be(world in worlds(), policy in policies()) {
        let occupied = world.occupied_zones();
        if let Decision::Create { subnet_id, zone_id } = decide(&world, &policy) {
            let subnet = world.subnets.iter().find(|subnet| subnet.id == subnet_id).unwrap();
            prop_assert_eq!(&subnet.zone, &zone_id);
            prop_assert!(!occupied.contains(&zone_id), "the zone has one");
            prop_assert!(!world.excluded.subnets.contains(&subnet_id), "EFS refused it");
            prop_assert!(world.targets.iter().all(|target| target.state != LifeCycle::Creating), "one is on its way");
            prop_assert!(policy.max_mount_targets.is_none_or(|max| occupied.len() < max as usize), "the maximum");
            prop_assert!(world.one_zone.as_ref().is_none_or(|only| *only == zone_id), "a One Zone file system");
            prop_assert!(world.count.unwrap().files > policy.limit(occupied.len()), "over the limit");
            let since = world.last_created.map(|at| world.now - at);
            prop_assert!(policy.cooldown_seconds == 0 || since.is_none_or(|since| since >= policy.cooldown_seconds));
            let best = world.subnets.iter().filter(|other| other.zone == zone_id && !world.excluded.subnets.contains(&other.id));
            prop_assert!(best.clone().all(|other| other.free_addresses <= subnet.free_addresses));
        }
    }

    /// Over the limit, with nothing in the way: exactly then is a target created.
    #[test]
    fn over_the_threshold_is_more_than_the_threshold(files in 0..300_u64, threshold in 0..300_u64, complete in any::<bool>()) {
        let targets = vec![target(0, 0, LifeCycle::Available, true)];
        let list = PublishedList::of(&targets, None).unwrap();
        let world = Observation {
            now: 0,
            count: Some(FileCount { files, complete }),
            one_zone: None,
            targets,
            subnets: vec![Subnet { id: SubnetId::new("subnet-1"), zone: zone(1), free_addresses: 1 }],
            published: Some(Published { version: 1, list: Ok(list) }),
            deployed: Some(1),
            last_created: None,
            service: Ok(Some(Service::default())),
            excluded: Excluded::default(),
        };
        let policy = Policy { threshold, ..Policy::default() };
        let expected = if files > threshold {
            Decision::Create { subnet_id: SubnetId::new("subnet-1"), zone_id: zone(1) }
        } else if complete {
            Decision::Nothing { reason: Reason::BelowThreshold }
        } else {
            Decision::Nothing { reason: Reason::CountUnknown }
        };
        prop_assert_eq!(decide(&world, &policy), expected);
    }

    #[test]
    fn repairs_come_first_and_never_publish_nothing(world in worlds(), policy in policies()) {
        let publishable = world.publishable();
        let drift = publishable.is_some() && publishable.as_ref() != world.published_list();
        let decision = decide(&world, &policy);
        prop_assert_eq!(decision == Decision::Publish, drift);
        let damaged = world.published.as_ref().is_some_and(|published| published.list.is_err());
        if !drift && !damaged && let Some(published) = &world.published {
            let undeployed = world.deployed != Some(published.version);
            prop_assert_eq!(decision == Decision::Redeploy { version: published.version }, undeployed);
        }
    }

    /// Carrying a decision out changes the world so that the next decision is another.
    #[test]
    fn every_decision_makes_progress(world in worlds(), policy in policies()) {
        let mut world = world;
        let mut seen = 0;
        loop {
            let decision = decide(&world, &policy);
            carry_out(&mut world, &decision);
            if matches!(decision, Decision::Nothing { .. } | Decision::NoAvailableTargets) {
                prop_assert_eq!(decide(&world, &policy), decision);
                break;
            }
            prop_assert_ne!(&decide(&world, &policy), &decision, "the same again");
            seen += 1;
            prop_assert!(seen < 40, "no end");
        }
    }

    #[test]
    fn what_is_published_is_read_again(targets in targets()) {
        if let Some(list) = PublishedList::of(&targets, None) {
            prop_assert_eq!(PublishedList::parse(&list.to_json()), Ok(list.clone()));
            let order: Vec<_> = list.targets().iter().map(|t| (t.availability_zone.clone(), t.mount_target_id.clone())).collect();
            prop_assert!(order.is_sorted());
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = PublishedList::parse(&text);
        let _ = PublishedList::parse(&format!("{{\"mount_targets\":[{text}]}}"));
    }
}

/// What the functions do about a decision, all of it done well.
fn carry_out(world: &mut Observation, decision: &Decision) {
    let publish = |world: &mut Observation| {
        let list = world.publishable().unwrap();
        let version = world.published.as_ref().map_or(1, |published| published.version + 1);
        world.published = Some(Published { version, list: Ok(list) });
        world.deployed = Some(version);
    };
    match decision {
        Decision::Publish => publish(world),
        Decision::Redeploy { version } => world.deployed = Some(*version),
        Decision::Adopt { mount_target_id } => {
            let target = world.targets.iter_mut().find(|target| target.id == *mount_target_id).unwrap();
            target.state = LifeCycle::Available;
            target.ip = target.ip.or(Some(Ipv4Addr::new(10, 0, 0, 99)));
            publish(world);
        }
        Decision::Create { zone_id, .. } => {
            let number: u8 = zone_id.as_str()[2..].parse().unwrap();
            // A target that is `deleted` leaves its zone to another.
            world.targets.retain(|target| target.zone != *zone_id);
            world.targets.push(target(number + 10, number, LifeCycle::Available, true));
            world.last_created = Some(world.now);
            publish(world);
        }
        Decision::Nothing { .. } | Decision::NoAvailableTargets => {}
    }
}

/// `updating` is published only by those who published it before: an update takes nothing away.
#[test]
fn a_target_that_is_updating_stays_published_and_is_not_added() {
    let mut there = target(0, 0, LifeCycle::Available, true);
    let published = PublishedList::of(std::slice::from_ref(&there), None).unwrap();
    there.state = LifeCycle::Updating;
    let other = target(1, 1, LifeCycle::Updating, true);
    assert_eq!(PublishedList::of(&[there, other], Some(&published)), Some(published));
}

#[test]
fn per_target_asks_for_a_thresholds_worth_of_files_for_each() {
    let policy = Policy { threshold: 100, rule: ScalingRule::PerTarget, initial_mount_targets: 2, ..Policy::default() };
    let limits: Vec<u64> = (0..6).map(|occupied| policy.limit(occupied)).collect();
    assert_eq!(limits, [100, 100, 100, 200, 300, 400]);
    assert_eq!(Policy { threshold: u64::MAX, ..policy }.limit(9), u64::MAX);
}

/// A world at rest: two targets, published and deployed; too many files; a third zone to go to.
fn at_rest() -> Observation {
    let targets = vec![target(0, 0, LifeCycle::Available, true), target(1, 1, LifeCycle::Available, true)];
    let subnet = |number: u8, free_addresses| Subnet {
        id: SubnetId::new(format!("subnet-{number}")),
        zone: zone(number % 4),
        free_addresses,
    };
    Observation {
        now: 1000,
        count: Some(FileCount { files: 11, complete: true }),
        one_zone: None,
        published: Some(Published { version: 4, list: Ok(PublishedList::of(&targets, None).unwrap()) }),
        targets,
        // Zones 0 to 3; of zone 2 three subnets: 2 and 6 with as many addresses, 10 with fewer.
        subnets: vec![subnet(0, 9), subnet(1, 9), subnet(3, 9), subnet(10, 4), subnet(6, 5), subnet(2, 5)],
        deployed: Some(4),
        last_created: Some(900),
        service: Ok(Some(Service::default())),
        excluded: Excluded::default(),
    }
}

/// Each row adds one thing to the world of the rows before it, and the decision follows the newest: this is
/// the precedence, from the least to the most.
#[test]
fn the_precedence_of_decisions() {
    let mut world = at_rest();
    let mut policy = Policy { threshold: 10, ..Policy::default() };
    let create = |subnet: &str, number| Decision::Create { subnet_id: SubnetId::new(subnet), zone_id: zone(number) };
    let nothing = |reason| Decision::Nothing { reason };

    // Zones in order; in a zone the most addresses, then the smallest id.
    assert_eq!(decide(&world, &policy), create("subnet-2", 2));
    world.excluded.subnets.insert(SubnetId::new("subnet-2"));
    assert_eq!(decide(&world, &policy), create("subnet-6", 2));
    world.excluded.zones.insert(zone(2));
    assert_eq!(decide(&world, &policy), create("subnet-3", 3));

    policy.cooldown_seconds = 100;
    assert_eq!(decide(&world, &policy), create("subnet-3", 3), "just over");
    policy.cooldown_seconds = 101;
    assert_eq!(decide(&world, &policy), nothing(Reason::CoolingDown));
    world.subnets[2].free_addresses = 0;
    assert_eq!(decide(&world, &policy), nothing(Reason::AllSubnetsRefused));
    world.subnets.truncate(2);
    assert_eq!(decide(&world, &policy), nothing(Reason::NoAvailableSubnet));
    policy.max_mount_targets = Some(2);
    assert_eq!(decide(&world, &policy), nothing(Reason::AtMaximum));
    world.one_zone = Some(zone(1));
    assert_eq!(decide(&world, &policy), nothing(Reason::OneZone));
    world.count = Some(FileCount { files: 10, complete: true });
    assert_eq!(decide(&world, &policy), nothing(Reason::BelowThreshold));
    world.count = Some(FileCount { files: 10, complete: false });
    assert_eq!(decide(&world, &policy), nothing(Reason::CountUnknown));
    world.count = None;
    assert_eq!(decide(&world, &policy), nothing(Reason::CountUnknown));

    for target in &mut world.targets {
        target.state = LifeCycle::Error;
    }
    assert_eq!(decide(&world, &policy), Decision::NoAvailableTargets);
    world.targets.push(target(3, 3, LifeCycle::Creating, false));
    world.targets.push(target(2, 2, LifeCycle::Creating, false));
    assert_eq!(decide(&world, &policy), Decision::Adopt { mount_target_id: MountTargetId::new("fsmt-2") });
    world.deployed = None;
    assert_eq!(decide(&world, &policy), Decision::Redeploy { version: 4 });
    world.targets[0].state = LifeCycle::Available;
    assert_eq!(decide(&world, &policy), Decision::Publish);
}

/// What cannot be redeployed now must not keep targets from being added.
#[test]
fn a_redeployment_that_cannot_be_had_is_left_out() {
    let mut world = at_rest();
    let policy = Policy { threshold: 10, ..Policy::default() };
    world.deployed = Some(3);
    assert_eq!(decide(&world, &policy), Decision::Redeploy { version: 4 });
    world.service = Err("throttled".to_owned());
    assert_eq!(decide(&world, &policy), Decision::Redeploy { version: 4 }, "nobody knows that it cannot be had");
    let busy = Deployment { id: "ecs-svc/1".to_owned(), failed: false };
    for service in [None, Some(Service { deployments: vec![busy; 5] })] {
        world.service = Ok(service);
        assert!(matches!(decide(&world, &policy), Decision::Create { .. }));
        assert_eq!(warnings(&world, &decide(&world, &policy)).len(), 1);
    }
}
