//! The laws of the decision, over worlds of every kind.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::net::Ipv4Addr;

use domain::{
    explain::Explanation,
    ledger::{Deployed, Refusal, Scope},
    model::{
        Controller, Deployment, FileSystemId, LifeCycle, MountTarget, MountTargetId, Service, Subnet, SubnetId, ZoneId,
        ZoneName,
    },
    policy::{Decision, Excluded, FileCount, Observation, Policy, Published, Reason, Warning, decide, warnings},
    published::PublishedList,
    record::DecisionRecord,
    redeployment::Deferral,
    rules::{Load, PerTarget, RULES, ScalingRule, Threshold, named},
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
        ipv6: None,
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

fn deployed_for(list: &PublishedList) -> Deployed {
    Deployed { fingerprint: list.fingerprint(), started: true, version: 4, deployment_id: None }
}

/// Not by the dates, and with nothing under way.
fn service(created_at: u64) -> Service {
    let deployment = Deployment {
        id: "ecs-svc/1".to_owned(),
        primary: true,
        created_at: Some(created_at),
        in_progress: false,
        failed: false,
    };
    Service { deployments: vec![deployment], ..Service::default() }
}

fn refusal(number: u8, scope: Scope, refused_at: u64) -> Refusal {
    Refusal {
        file_system_id: FileSystemId::new("fs-1"),
        subnet_id: SubnetId::new(format!("subnet-{number}")),
        zone_id: zone(number % 4),
        scope,
        code: "BadRequest".to_owned(),
        message: String::new(),
        refused_at,
    }
}

prop_compose! {
    fn refusals()(picked in proptest::collection::vec((0..9_u8, 0..3_usize, 0..5000_u64), 0..3)) -> Vec<Refusal> {
        let scopes = [Scope::Subnet, Scope::Zone, Scope::FileSystem];
        picked.into_iter().map(|(number, scope, at)| refusal(number, scopes[scope], at)).collect()
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
        deployed in 0..10_u8,
        deployed_at in proptest::option::of(9..12_u64),
        refusals in refusals(),
        last_created in proptest::option::of(0..5000_u64),
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
            now: 5000,
            count: count.map(|(files, complete)| FileCount { files, complete }),
            one_zone: one_zone.map(zone),
            targets,
            subnets,
            deployed: published.as_ref().and_then(|text| {
                let fact = deployed_for(&PublishedList::parse(text).ok()?);
                match deployed {
                    0 => None,
                    1 => Some(Deployed { started: false, ..fact }),
                    2 => Some(Deployed { fingerprint: "another".to_owned(), ..fact }),
                    _ => Some(fact),
                }
            }),
            published: published
                .map(|text| Published { version: 4, modified_at: Some(10), list: PublishedList::parse(&text) }),
            last_created,
            service: Ok(Some(deployed_at.map_or_else(Service::default, service))),
            refusals,
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
        cooldown_seconds in prop_oneof![Just(0), 0..5000_u64],
        min_mount_targets in prop_oneof![Just(0), 0..5_u32],
        redeploy in proptest::bool::weighted(0.8),
        max_mount_targets in proptest::option::of(1..5_u32),
    ) -> Policy {
        let rule: &dyn ScalingRule = if per_target { &PerTarget } else { &Threshold };
        Policy { threshold, rule, initial_mount_targets, cooldown_seconds, min_mount_targets, max_mount_targets, redeploy }
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
        prop_assert_eq!(
            warnings(&world, &policy, &decide(&world, &policy)),
            warnings(&other, &policy, &decide(&other, &policy))
        );
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
            let too_few = occupied.len() < policy.min_mount_targets as usize;
            prop_assert!(too_few || world.count.unwrap().files > policy.rule.limit(&world, &policy), "over the limit");
            let refused = world.refusals.iter().any(|refusal| {
                world.now - refusal.refused_at < 3600
                    && (refusal.scope == Scope::Subnet && refusal.subnet_id == subnet_id
                        || refusal.scope == Scope::Zone && refusal.zone_id == zone_id)
            });
            prop_assert!(!refused, "EFS refused it not long ago");
            let since = world.last_created.map(|at| world.now - at);
            prop_assert!(policy.cooldown_seconds == 0 || since.is_none_or(|since| since >= policy.cooldown_seconds));
            let is_fresh = |other: &&Subnet| !world.refusals.iter().any(|refusal| {
                refusal.scope == Scope::Subnet && refusal.subnet_id == other.id && world.now - refusal.refused_at < 3600
            });
            let best = world.subnets.iter().filter(|other| other.zone == zone_id && !world.excluded.subnets.contains(&other.id));
            let best = best.filter(is_fresh);
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
            deployed: Some(deployed_for(&list)),
            published: Some(Published { version: 1, modified_at: None, list: Ok(list) }),
            last_created: None,
            service: Ok(Some(Service::default())),
            refusals: vec![],
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
        if !drift && let Some(list) = world.published_list() {
            let recorded = world.deployed == Some(deployed_for(list));
            let service = world.service.as_ref().unwrap().as_ref().unwrap();
            let dated = service.deployments.iter().any(|deployment| deployment.created_at > Some(10));
            let due = policy.redeploy && !recorded && !dated;
            let tries = world.refusals.iter().map(|refusal| refusal.refused_at).chain(world.last_created);
            match decision {
                Decision::Redeploy { version, fingerprint } => {
                    prop_assert!(due && version == 4 && fingerprint == list.fingerprint());
                }
                Decision::Create { .. } if due => prop_assert!(tries.max().is_none_or(|at| at + 600 <= world.now)),
                _ => prop_assert!(!due),
            }
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
    fn a_recorded_decision_is_repeated_and_explained(world in worlds(), policy in policies()) {
        let record = DecisionRecord { decision: decide(&world, &policy), observation: world, policy };
        let read: DecisionRecord = serde_json::from_str(&record.to_json()).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert_eq!(read.replay(), record.decision.clone());
        let explanation = Explanation::of_decision(&read.output());
        prop_assert_eq!(&explanation.reason, record.decision.word());
        prop_assert_eq!(explanation.decided.len(), 1);
        for warning in &read.output().warnings {
            prop_assert!(explanation.codes.iter().any(|code| code == warning.code()));
            prop_assert_eq!(&serde_json::to_value(warning).unwrap()["warning"], warning.code());
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
        world.deployed = Some(deployed_for(&list));
        world.published = Some(Published { version, modified_at: None, list: Ok(list) });
    };
    match decision {
        Decision::Publish => publish(world),
        Decision::Redeploy { .. } => world.deployed = world.published_list().map(deployed_for),
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
    let policy = Policy { threshold: 100, rule: &PerTarget, initial_mount_targets: 2, ..Policy::default() };
    let occupied = |zones: u8| Observation {
        targets: (0..zones).map(|number| target(number, number, LifeCycle::Available, true)).collect(),
        ..at_rest()
    };
    let limits: Vec<u64> = (0..6).map(|zones| PerTarget.limit(&occupied(zones), &policy)).collect();
    assert_eq!(limits, [100, 100, 100, 200, 300, 400]);
    assert_eq!(PerTarget.limit(&occupied(9), &Policy { threshold: u64::MAX, ..policy }), u64::MAX);
}

#[test]
fn every_rule_has_a_name_of_its_own_and_tells_a_lower_bound_from_a_count() {
    for rule in RULES.iter().copied() {
        assert_eq!(named(rule.name()), Some(rule));
        let policy = Policy { threshold: 100, rule, initial_mount_targets: 2, ..Policy::default() };
        let load = |files, complete| {
            let count = Some(FileCount { files, complete });
            rule.load(&Observation { count, ..at_rest() }, &policy)
        };
        assert_eq!([load(101, true), load(101, false)], [Load::Over; 2], "{rule:?}");
        assert_eq!([load(100, true), load(100, false)], [Load::Within, Load::Unknown], "{rule:?}");
        assert_eq!(rule.load(&Observation { count: None, ..at_rest() }, &policy), Load::Unknown, "{rule:?}");
    }
    assert_eq!(named("always"), None);
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
        deployed: Some(deployed_for(&PublishedList::of(&targets, None).unwrap())),
        published: Some(Published {
            version: 4,
            modified_at: Some(10),
            list: Ok(PublishedList::of(&targets, None).unwrap()),
        }),
        targets,
        // Zones 0 to 3; of zone 2 three subnets: 2 and 6 with as many addresses, 10 with fewer.
        subnets: vec![subnet(0, 9), subnet(1, 9), subnet(3, 9), subnet(10, 4), subnet(6, 5), subnet(2, 5)],
        last_created: Some(900),
        service: Ok(Some(service(5))),
        refusals: vec![],
        excluded: Excluded::default(),
    }
}

fn redeploy(world: &Observation) -> Decision {
    Decision::Redeploy { version: 4, fingerprint: world.published_list().unwrap().fingerprint() }
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
    assert_eq!(decide(&world, &policy), redeploy(&world));
    world.targets[0].state = LifeCycle::Available;
    assert_eq!(decide(&world, &policy), Decision::Publish);
}

/// A new target brings a redeployment along. Only one that has just been tried waits for it.
#[test]
fn neither_a_target_nor_a_redeployment_waits_for_the_other_for_good() {
    let mut world = at_rest();
    let mut policy = Policy { threshold: 10, ..Policy::default() };
    let is_create = |world: &Observation, policy: &Policy| matches!(decide(world, policy), Decision::Create { .. });
    world.deployed = None;
    world.last_created = Some(400);
    assert!(is_create(&world, &policy), "ten minutes ago");
    world.last_created = Some(401);
    assert_eq!(decide(&world, &policy), redeploy(&world));
    world.last_created = None;
    assert!(is_create(&world, &policy));
    world.refusals = vec![refusal(9, Scope::FileSystem, 999)];
    assert_eq!(decide(&world, &policy), redeploy(&world), "EFS has just refused one");
    policy.redeploy = false;
    assert!(is_create(&world, &policy));
    assert_eq!(warnings(&world, &policy, &decide(&world, &policy)).len(), 1, "the refusal");
    // Nothing to create.
    policy = Policy { threshold: 100, ..Policy::default() };
    assert_eq!(decide(&world, &policy), redeploy(&world));
}

/// What cannot be redeployed now must not keep targets from being added.
#[test]
fn a_redeployment_that_cannot_be_had_is_left_out() {
    let mut world = at_rest();
    let policy = Policy { threshold: 10, ..Policy::default() };
    world.deployed = None;
    assert_eq!(decide(&world, &policy), redeploy(&world));
    world.service = Err("throttled".to_owned());
    assert_eq!(decide(&world, &policy), redeploy(&world), "nobody knows that it cannot be had");
    let deferred = |reason| Warning::RedeployDeferred { reason };
    let busy = Service { deployments: vec![service(5).deployments[0].clone(); 5], ..Service::default() };
    for (service, expected) in [
        (None, Warning::ServiceNotFound),
        (Some(busy), deferred(Deferral::TooManyDeployments)),
        (Some(Service { active: false, ..service(5) }), deferred(Deferral::ServiceNotActive)),
        (Some(Service { controller: Controller::Other, ..service(5) }), deferred(Deferral::DeploymentController)),
    ] {
        world.service = Ok(service);
        let decision = decide(&world, &policy);
        assert!(matches!(decision, Decision::Create { .. }));
        assert_eq!(warnings(&world, &policy, &decision), [expected]);
    }
    // Its primary deployment is younger than the list.
    world.service = Ok(Some(service(11)));
    assert!(matches!(decide(&world, &policy), Decision::Create { .. }));
    assert_eq!(warnings(&world, &policy, &decide(&world, &policy)), []);
}

/// Whatever the count says, and when there is none.
#[test]
fn fewer_targets_than_the_minimum_are_too_few() {
    let mut world = at_rest();
    world.count = None;
    let policy = |min_mount_targets, max_mount_targets| Policy {
        threshold: 10,
        min_mount_targets,
        max_mount_targets,
        ..Policy::default()
    };
    assert_eq!(decide(&world, &policy(2, None)), Decision::Nothing { reason: Reason::CountUnknown });
    assert!(matches!(decide(&world, &policy(3, None)), Decision::Create { .. }));
    assert_eq!(decide(&world, &policy(3, Some(2))), Decision::Nothing { reason: Reason::AtMaximum });
}
