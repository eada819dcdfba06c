//! Executions in a world that fails at every call, loses answers, is stopped anywhere, and runs two of
//! them at once. The handlers are the real ones; the way from one to the next is the state machine's,
//! which `contract.rs` and `cycles.rs` hold to its file.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::collections::BTreeMap;

use domain::{
    config::{IpAddressType, ParameterType, ServiceName},
    error::{Code, Coded, Kind},
    ledger::{self, Created, Deployed},
    messages::{
        CreateTargetInput, EvaluateInput, EvaluateOutput, PollAvailableInput, PublishInput, RedeployInput,
        RedeployOutcome,
    },
    model::{FileSystemId, LifeCycle, MountTargetId, ParameterName, SecurityGroupId, VpcId},
    policy::{Decision, Excluded, FileCount, Policy, Reason},
    ports::Parameter,
    published::PublishedList,
};
use proptest::prelude::*;
use serde_json::json;
use tests::fake::{FILE_SYSTEM, Fake, Fault, State, subnet, target};

const THRESHOLD: u64 = 100;

struct System {
    evaluate: evaluate::Config,
    create: create_target::Config,
    publish: publish_ssm::Config,
    redeploy: redeploy::Config,
}

impl System {
    fn new() -> Self {
        let file_system = FileSystemId::new(FILE_SYSTEM);
        let parameter = ParameterName::new("/here/mount-targets");
        let service = ServiceName { cluster: "c".into(), service: "s".into() };
        Self {
            evaluate: evaluate::Config {
                file_system: file_system.clone(),
                vpc: VpcId::new("vpc-1"),
                subnets: vec![],
                parameter: parameter.clone(),
                service: service.clone(),
                policy: Policy { threshold: THRESHOLD, ..Policy::default() },
            },
            create: create_target::Config {
                file_system: file_system.clone(),
                security_groups: vec![SecurityGroupId::new("sg-1")],
                addresses: IpAddressType::Ipv4Only,
                parameter: parameter.clone(),
            },
            publish: publish_ssm::Config {
                file_system: file_system.clone(),
                parameter: parameter.clone(),
                kind: ParameterType::String,
            },
            redeploy: redeploy::Config { file_system, parameter, service, redeploy: true },
        }
    }

    fn published(&self, state: &State) -> Option<Parameter> {
        state.parameters.get(&self.publish.parameter).cloned()
    }
}

/// Runs a state: again after what the machine tries again after, a few times.
macro_rules! state {
    ($call:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            match $call.await {
                Err(error) if error.code().kind() == Kind::Retry && tries < 4 => {}
                other => break other.map_err(|error| error.code()),
            }
        }
    }};
}

/// One execution; the decision that it ended with, or the code that it failed with.
async fn execution(system: &System, world: &Fake, files: u64) -> Result<Decision, Code> {
    let counted = FileCount { files, complete: true };
    let mut excluded = Excluded::default();
    let decision = loop {
        let input = EvaluateInput { start: json!({}), counted: Some(counted), excluded: excluded.clone() };
        let EvaluateOutput { decision, .. } = state!(evaluate::handle(world, &system.evaluate, input.clone()))?;
        let Decision::Create { subnet_id, zone_id } = &decision else { break decision };
        let input = CreateTargetInput { subnet_id: subnet_id.clone(), zone_id: zone_id.clone() };
        let created = state!(create_target::handle(world, &system.create, input.clone(), Some("execution".into())));
        match created {
            Ok(created) => {
                wait_and_publish(system, world, created.mount_target_id).await?;
                return Ok(decision);
            }
            Err(Code::SubnetRefused) => excluded.subnets.insert(subnet_id.clone()),
            Err(Code::ZoneRefused) => excluded.zones.insert(zone_id.clone()),
            Err(code) => return Err(code),
        };
    };
    match &decision {
        Decision::Publish => publish_and_redeploy(system, world, None).await?,
        Decision::Redeploy { version, fingerprint } => redeploy(system, world, *version, fingerprint.clone()).await?,
        Decision::Adopt { mount_target_id } => wait_and_publish(system, world, mount_target_id.clone()).await?,
        Decision::NoAvailableTargets => return Err(Code::NoAvailableTargets),
        Decision::Create { .. } | Decision::Nothing { .. } => {}
    }
    Ok(decision)
}

async fn wait_and_publish(system: &System, world: &Fake, id: MountTargetId) -> Result<(), Code> {
    for _ in 0..20 {
        let input = PollAvailableInput { mount_target_id: id.clone(), created_at: None };
        let polled = state!(poll_available::handle(world, &system.create.file_system, input.clone()))?;
        if polled.available {
            return publish_and_redeploy(system, world, Some(id)).await;
        }
    }
    // `TargetTimedOut` is the machine's own.
    Err(Code::TargetFailed)
}

async fn publish_and_redeploy(system: &System, world: &Fake, id: Option<MountTargetId>) -> Result<(), Code> {
    let input = PublishInput { must_include: id };
    let published = state!(publish_ssm::handle(world, &system.publish, input.clone()))?;
    redeploy(system, world, published.version, published.fingerprint).await
}

async fn redeploy(system: &System, world: &Fake, published_version: i64, fingerprint: String) -> Result<(), Code> {
    let input = RedeployInput { published_version, fingerprint: Some(fingerprint) };
    state!(redeploy::handle(world, &system.redeploy, input.clone())).map(|_| ())
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// What is true at every moment, whatever has failed.
fn always(system: &System, world: &Fake, before: Option<&Parameter>) {
    let state = world.state.borrow();
    let now = system.published(&state);
    if now.as_ref() != before {
        let list = PublishedList::parse(&now.expect("what was published is never deleted").value).unwrap();
        for entry in list.targets() {
            assert!(
                state
                    .targets
                    .iter()
                    .any(|target| target.id == entry.mount_target_id && target.state == LifeCycle::Available),
                "{entry:?} is published and not available"
            );
        }
    }
    let mut zones: Vec<_> = state.targets.iter().map(|target| &target.zone).collect();
    zones.sort();
    zones.dedup();
    assert_eq!(zones.len(), state.targets.len(), "one target in each zone");
    for (name, parameter) in &state.parameters {
        if name.as_str().contains("/created/") {
            let fact: Created = ledger::read(&parameter.value).unwrap();
            assert!(state.made.contains(&fact.mount_target_id), "{name} claims what others made");
        }
    }
    for made in state.targets.iter().filter(|target| state.made.contains(&target.id)) {
        let known = |name: ParameterName| state.parameters.contains_key(&name);
        let parameter = &system.create.parameter;
        let told =
            known(ledger::created_name(parameter, &made.zone)) || known(ledger::intended_name(parameter, &made.zone));
        assert!(told, "{} was made and the ledger has no word of it", made.id);
    }
}

/// The list is that of the targets, and the service has been redeployed for it.
fn settled(system: &System, world: &Fake) -> bool {
    let state = world.state.borrow();
    let Some(published) = system.published(&state) else { return false };
    let deployed = state.parameters.get(&ledger::deployed_name(&system.redeploy.parameter));
    let deployed: Option<Deployed> = deployed.and_then(|fact| ledger::read(&fact.value));
    let Ok(list) = PublishedList::parse(&published.value) else { return false };
    // By the ledger, or by the dates where the fact could not be written.
    let later = state.deployments[0].created_at.zip(published.modified_at).is_some_and(|(new, list)| new > list);
    Some(&list) == PublishedList::of(&state.targets, None).as_ref()
        && (later || deployed.is_some_and(|fact| fact.started && fact.fingerprint == list.fingerprint()))
}

/// Executions without faults come to rest, and soon.
async fn comes_to_rest(system: &System, world: &Fake, files: u64) -> Reason {
    world.faults.borrow_mut().clear();
    let most = world.state.borrow().subnets.len() + 4;
    for _ in 0..most {
        if let Decision::Nothing { reason } = execution(system, world, files).await.unwrap() {
            assert!(settled(system, world), "at rest, and something is left to do: {:?}", world.state.borrow());
            return reason;
        }
    }
    unreachable!("{most} executions, and not at rest: {:?}", world.state.borrow())
}

fn faults() -> impl Strategy<Value = BTreeMap<usize, Fault>> {
    let fault = prop_oneof![Just(Fault::Refused), Just(Fault::AnswerLost)];
    proptest::collection::btree_map(0..60_usize, fault, 0..30)
}

fn worlds() -> impl Strategy<Value = Fake> {
    let one_zone = proptest::bool::weighted(0.15);
    let shape = (2..6_usize, 1..4_usize, 0..4_u8, 0..4_u32, any::<bool>(), one_zone, any::<bool>());
    shape.prop_map(|(zones, targets, stuck, looks, full, one_zone, undated)| {
        let world = Fake::new(zones, if one_zone { 1 } else { targets });
        world.undated.set(undated);
        {
            let mut state = world.state.borrow_mut();
            state.creating_looks = looks;
            state.one_zone = one_zone.then(|| state.targets[0].zone.clone());
            let next = state.targets.len();
            if stuck == 1 && next < zones && !one_zone {
                state.targets.push(target("fsmt-theirs-new", next, LifeCycle::Creating));
            }
            if full && let Some(subnet) = state.subnets.last_mut() {
                subnet.free_addresses = 0;
            }
        }
        world
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails_nothing_is_lost_and_the_next_executions_repair_it(
        world in worlds(), faults in faults(), files in prop_oneof![Just(THRESHOLD), Just(THRESHOLD + 1)],
    ) {
        run(async {
            let system = System::new();
            *world.faults.borrow_mut() = faults;
            for _ in 0..3 {
                let before = system.published(&world.state.borrow());
                let _ = execution(&system, &world, files).await;
                always(&system, &world, before.as_ref());
            }
            let targets = world.state.borrow().targets.len();
            let reason = comes_to_rest(&system, &world, files).await;
            if files > THRESHOLD {
                assert!(matches!(reason, Reason::NoAvailableSubnet | Reason::AllSubnetsRefused | Reason::OneZone));
            } else {
                assert_eq!(reason, Reason::BelowThreshold);
                assert_eq!(world.state.borrow().targets.len(), targets, "nothing was asked for");
            }
        });
    }

    #[test]
    fn an_execution_that_is_stopped_at_any_call_is_made_good(world in worlds(), stop in 0..40_usize, lost in any::<bool>()) {
        run(async {
            let system = System::new();
            // From this call on nothing answers: as if the process and its retries were gone.
            *world.faults.borrow_mut() = (stop..2_000).map(|call| (call, Fault::Refused)).collect();
            if lost {
                world.faults.borrow_mut().insert(stop, Fault::AnswerLost);
            }
            let before = system.published(&world.state.borrow());
            let _ = execution(&system, &world, THRESHOLD + 1).await;
            always(&system, &world, before.as_ref());
            comes_to_rest(&system, &world, THRESHOLD + 1).await;
        });
    }

    #[test]
    fn two_executions_at_once_do_what_one_does(
        world in worlds(), yields in proptest::collection::vec(0..3_u8, 120),
    ) {
        run(async {
            let system = System::new();
            *world.yields.borrow_mut() = yields;
            world.state.borrow_mut().creating_looks = 1;
            for _ in 0..3 {
                let targets = world.state.borrow().targets.len();
                let before = system.published(&world.state.borrow());
                let (one, other) = tokio::join!(
                    execution(&system, &world, THRESHOLD + 1),
                    execution(&system, &world, THRESHOLD + 1),
                );
                always(&system, &world, before.as_ref());
                // One may end while the other has not published yet; then the later of the two goes on from there.
                assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
                assert!(world.state.borrow().targets.len() <= targets + 2);
            }
            comes_to_rest(&system, &world, THRESHOLD + 1).await;
            let state = world.state.borrow();
            for made in state.targets.iter().filter(|target| state.made.contains(&target.id)) {
                let fact = &state.parameters[&ledger::created_name(&system.create.parameter, &made.zone)];
                let fact: Created = ledger::read(&fact.value).unwrap();
                assert_eq!(fact.mount_target_id, made.id, "what is ours is known as ours");
            }
        });
    }

    #[test]
    fn every_action_twice_is_every_action_once(world in worlds()) {
        run(async {
            let system = System::new();
            let system = &system;
            world.state.borrow_mut().creating_looks = 0;
            comes_to_rest(system, &world, THRESHOLD).await;
            let free = world.state.borrow().targets.len();
            let subnet = world.state.borrow().subnets.get(free).cloned();
            if let Some(subnet) = subnet.filter(|subnet| subnet.free_addresses > 0) {
                let input = CreateTargetInput { subnet_id: subnet.id, zone_id: subnet.zone };
                let create = || create_target::handle(&world, &system.create, input.clone(), None);
                twice(&world, create).await;
            }
            let publish = || publish_ssm::handle(&world, &system.publish, PublishInput { must_include: None });
            twice(&world, publish).await;
            let published_version = system.published(&world.state.borrow()).unwrap().version;
            let redeploy = || {
                redeploy::handle(&world, &system.redeploy, RedeployInput { published_version, fingerprint: None })
            };
            twice(&world, redeploy).await;
        });
    }
}

/// The second time changes nothing more.
async fn twice<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(world: &Fake, action: impl Fn() -> F) {
    action().await.unwrap();
    let once = world.state.borrow().clone();
    action().await.unwrap();
    // Looking makes a target that is being created available; that is the world's doing.
    let settle = |state: &State| {
        let mut state = state.clone();
        for target in &mut state.targets {
            target.state = LifeCycle::Available;
        }
        state
    };
    assert_eq!(settle(&once), settle(&world.state.borrow()));
}

/// A list of one target in this zone.
fn list(zone: usize) -> PublishedList {
    PublishedList::of(&[target(&format!("fsmt-{zone}"), zone, LifeCycle::Available)], None).unwrap()
}

fn put(system: &System, world: &Fake, list: &PublishedList, version: i64) {
    let parameter = Parameter { value: list.to_json(), version, modified_at: None };
    world.state.borrow_mut().parameters.insert(system.redeploy.parameter.clone(), parameter);
}

/// A read of the parameter may lag behind its writing, or see another execution's newer one.
#[test]
fn a_redeployment_covers_the_newest_list_that_anybody_knows_of() {
    run(async {
        let (system, world) = (System::new(), Fake::new(3, 2));
        let redeployed = async |published_version, zone| {
            let input = RedeployInput { published_version, fingerprint: Some(list(zone).fingerprint()) };
            let output = redeploy::handle(&world, &system.redeploy, input).await.unwrap();
            (output.version, output.outcome)
        };
        put(&system, &world, &list(3), 3);
        assert_eq!(redeployed(4, 4).await, (4, RedeployOutcome::Started), "the read lags");
        put(&system, &world, &list(4), 4);
        assert_eq!(redeployed(4, 4).await, (4, RedeployOutcome::Covered));
        put(&system, &world, &list(5), 5);
        assert_eq!(redeployed(4, 4).await, (5, RedeployOutcome::Started), "somebody has published a newer one");
        assert_eq!(redeployed(4, 4).await, (5, RedeployOutcome::Covered));
        // Written again as it was.
        put(&system, &world, &list(5), 9);
        assert_eq!(redeployed(9, 5).await, (9, RedeployOutcome::Covered));
        // Deleted and made anew: its versions begin again, and it is another list.
        put(&system, &world, &list(1), 5);
        assert_eq!(redeployed(5, 1).await, (5, RedeployOutcome::Started));
    });
}

/// Tasks may have started with the list between, though the ledger says that the service has read this one.
#[test]
fn a_list_that_comes_back_is_redeployed_for() {
    run(async {
        let (system, world) = (System::new(), Fake::new(2, 2));
        world.undated.set(true);
        comes_to_rest(&system, &world, THRESHOLD).await;
        let redeployments = world.state.borrow().redeployments;
        // An execution publishes while a target is away, and ends there; then the target is back.
        put(&system, &world, &list(0), 7);
        assert_eq!(comes_to_rest(&system, &world, THRESHOLD).await, Reason::BelowThreshold);
        assert_eq!(world.state.borrow().redeployments, redeployments + 1);
    });
}

/// A ledger that cannot be written for good, and a service that is redeployed all the same: once, or not at all
/// where nothing would say that it has been.
#[test]
fn what_cannot_be_recorded_is_not_repeated() {
    for undated in [false, true] {
        run(async {
            let (system, world) = (System::new(), Fake::new(3, 2));
            world.undated.set(undated);
            world.state.borrow_mut().read_only.insert(ledger::deployed_name(&system.redeploy.parameter));
            let mut ends = Vec::new();
            for _ in 0..20 {
                ends.push(execution(&system, &world, THRESHOLD + 1).await);
                world.pass(300);
            }
            let state = world.state.borrow();
            assert_eq!(state.targets.len(), 3, "{ends:?}");
            // Two lists were published: the first, and that with the third target.
            assert_eq!(state.redeployments, if undated { 0 } else { 2 }, "{ends:?}");
            assert!(ends.contains(&Err(Code::AwsRefused)), "{ends:?}");
            let last = ends.last().unwrap();
            assert_eq!(matches!(last, Ok(Decision::Nothing { .. })), !undated, "{ends:?}");
        });
    }
}

/// What EFS refuses for good is left alone for an hour, and other zones get their turn at once.
#[test]
fn what_efs_has_refused_is_remembered() {
    run(async {
        let (system, world) = (System::new(), Fake::new(4, 2));
        world.state.borrow_mut().outposts.insert(subnet(2));
        for _ in 0..6 {
            let _ = execution(&system, &world, THRESHOLD + 1).await;
            world.pass(300);
        }
        assert_eq!(world.state.borrow().targets.len(), 3, "the fourth zone has its target");
        assert_eq!(world.state.borrow().refused_creations, 1);
        world.pass(ledger::REFUSAL_SECONDS);
        let end = execution(&system, &world, THRESHOLD + 1).await;
        assert_eq!(end, Ok(Decision::Nothing { reason: Reason::AllSubnetsRefused }));
        assert_eq!(world.state.borrow().refused_creations, 2, "tried again after an hour");
    });
}

/// A quota stands in the way of each new target, and the service still learns of the list.
#[test]
fn a_target_that_cannot_be_had_keeps_no_redeployment_waiting() {
    run(async {
        let (system, world) = (System::new(), Fake::new(3, 2));
        world.undated.set(true);
        comes_to_rest(&system, &world, THRESHOLD).await;
        let before = world.state.borrow().redeployments;
        world.state.borrow_mut().quota_is_reached = true;
        world.state.borrow_mut().parameters.remove(&ledger::deployed_name(&system.redeploy.parameter));
        for _ in 0..3 {
            let _ = execution(&system, &world, THRESHOLD + 1).await;
            world.pass(60);
        }
        assert_eq!(world.state.borrow().redeployments, before + 1);
    });
}

/// A target that has IPv6 only is waited for no longer than others, and published; so is one of somebody else.
#[test]
fn targets_with_ipv6_are_created_adopted_and_published() {
    for addresses in [IpAddressType::DualStack, IpAddressType::Ipv6Only] {
        run(async {
            let (mut system, world) = (System::new(), Fake::new(4, 1));
            system.create.addresses = addresses;
            let mut theirs = target("fsmt-theirs-ipv6", 1, LifeCycle::Creating);
            (theirs.ip, theirs.ipv6) = (None, Some(std::net::Ipv6Addr::LOCALHOST));
            world.state.borrow_mut().targets.push(theirs);
            assert_eq!(comes_to_rest(&system, &world, THRESHOLD + 1).await, Reason::NoAvailableSubnet);
            let published = system.published(&world.state.borrow()).unwrap();
            let list = PublishedList::parse(&published.value).unwrap();
            let of = |id: &str| list.targets().iter().find(|target| target.mount_target_id.as_str() == id).unwrap();
            assert_eq!(list.targets().len(), 4);
            assert!(of("fsmt-theirs0").ip_address.is_ipv4() && of("fsmt-theirs0").ipv6_address.is_none());
            assert!(of("fsmt-theirs-ipv6").ip_address.is_ipv6());
            assert_eq!(of("fsmt-ours0").ip_address.is_ipv6(), addresses == IpAddressType::Ipv6Only);
            assert!(of("fsmt-ours0").ipv6_address.is_some());
        });
    }
}
