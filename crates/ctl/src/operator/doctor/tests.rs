//! Installations with one planted fault each: doctor names the fault and its remedy.

use std::collections::BTreeMap;

use domain::{
    ledger::Deployed,
    model::{
        Deployment, LifeCycle, MountTarget, MountTargetId, Service as Observed, Subnet, SubnetId, ZoneId, ZoneName,
    },
    policy::{Excluded, Observation, Policy, Published},
    published::{NotAList, PublishedList},
};

use super::{
    check,
    checks::Outcome,
    facts::{
        AccessPoint, Alarm, CallFault, Certificate, Facts, FileSystem, Function, Group, Parameter, Schedule, Service,
        Simulated, Subscription, World,
    },
    gather::ACTIONS,
};

const NOW: u64 = 1_800_000_000;

fn target(number: u8) -> MountTarget {
    MountTarget {
        id: MountTargetId::new(format!("fsmt-{number}")),
        subnet: SubnetId::new(format!("subnet-0000000{number}")),
        vpc: None,
        zone: ZoneId::new(format!("use1-az{number}")),
        zone_name: ZoneName::new(format!("us-east-1{}", char::from(b'`' + number))),
        ip: Some([10, 0, number, 5].into()),
        ipv6: None,
        state: LifeCycle::Available,
    }
}

fn healthy() -> Facts {
    let variables: BTreeMap<String, String> = [
        ("EFS_FILE_SYSTEM_ID", "fs-0123456789abcdef0"),
        ("SSM_PARAMETER_NAME", "/p"),
        ("ECS_CLUSTER_NAME", "c"),
        ("ECS_SERVICE_NAME", "s"),
        ("VPC_ID", "vpc-0123456789abcdef0"),
        ("SECURITY_GROUP_IDS", "sg-000000ef"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut functions = BTreeMap::new();
    for state in ["Count", "Evaluate", "CreateTarget", "PollAvailable", "PublishSsm", "Redeploy"] {
        let mut function = Function {
            name: state.to_lowercase(),
            variables: variables.clone(),
            role: "arn:aws:iam::1:role/r".to_owned(),
            state: "Active".to_owned(),
            version: Some("0.1.0".to_owned()),
            ..Function::default()
        };
        if state == "Count" {
            function.variables.insert("TARGET_DIRECTORY".to_owned(), "/mnt/data".to_owned());
            function.subnets = vec!["subnet-00000001".to_owned()];
            function.security_groups = vec!["sg-count".to_owned()];
        }
        functions.insert(state.to_owned(), Ok(function));
    }
    let targets = vec![target(1), target(2)];
    let list = PublishedList::of(&targets, None).unwrap();
    let subnets = [1, 2, 3].map(|number| Subnet {
        id: SubnetId::new(format!("subnet-0000000{number}")),
        zone: ZoneId::new(format!("use1-az{number}")),
        free_addresses: 200,
    });
    let deployed = Deployed { fingerprint: list.fingerprint(), started: true, version: 1, deployment_id: None };
    let group = |id: &str, ingress: &[&str], egress: &[&str]| Group {
        id: id.to_owned(),
        ingress: ingress.iter().map(|peer| (*peer).to_owned()).collect(),
        egress: egress.iter().map(|peer| (*peer).to_owned()).collect(),
    };
    Facts {
        now: NOW,
        stack: Some("efs-mount-autoscaling".to_owned()),
        functions,
        world: Ok(World {
            observation: Observation {
                now: NOW,
                count: None,
                one_zone: None,
                targets,
                subnets: subnets.into(),
                published: Some(Published { version: 1, modified_at: None, list: Ok(list) }),
                deployed: Some(deployed),
                last_created: None,
                service: Ok(Some(Observed::default())),
                refusals: vec![],
                excluded: Excluded::default(),
            },
            policy: Policy::default(),
            parameter: "/p".to_owned(),
            service: "c/s".to_owned(),
        }),
        file_system: FileSystem { id: "fs-0123456789abcdef0".to_owned(), state: "available".to_owned() },
        access_points: Ok(vec![AccessPoint { id: "fsap-1".to_owned(), state: "available".to_owned() }]),
        target_groups: Ok(["fsmt-1", "fsmt-2"].map(|id| (id.to_owned(), vec!["sg-efs".to_owned()])).into()),
        groups: Ok(vec![
            group("sg-efs", &["sg-tasks", "sg-count"], &[]),
            group("sg-tasks", &[], &["sg-efs"]),
            group("sg-count", &[], &["0.0.0.0/0"]),
        ]),
        parameter: Ok(Some(Parameter { kind: "String".to_owned(), tier: "Standard".to_owned() })),
        service: Ok(Some(Service {
            status: "ACTIVE".to_owned(),
            controller: "ECS".to_owned(),
            running: 3,
            desired: 3,
            subnets: vec!["subnet-00000001".to_owned(), "subnet-00000002".to_owned()],
            security_groups: vec!["sg-tasks".to_owned()],
            event: Some("has reached a steady state".to_owned()),
            version: Some("0.1.0".to_owned()),
        })),
        schedule: Ok(Some(Schedule {
            name: "every-five-minutes".to_owned(),
            is_enabled: true,
            target: "arn".to_owned(),
            ..Schedule::default()
        })),
        alarms: Ok(vec![Alarm {
            name: "IoLimit".to_owned(),
            is_armed: true,
            has_action: true,
            state: "OK".to_owned(),
            description: String::new(),
        }]),
        subscriptions: Ok(vec![Subscription { endpoint: "a@example.com".to_owned(), is_confirmed: true }]),
        certificates: Ok(vec![Certificate {
            arn: "arn:acm".to_owned(),
            expires_at: Some(NOW + 90 * 86_400),
            status: "ISSUED".to_owned(),
        }]),
        drift: Ok(Some("IN_SYNC".to_owned())),
        concurrency: Ok((1000, 990)),
        simulated: Ok(vec![Simulated {
            state: "Evaluate".to_owned(),
            action: "ssm:GetParameters".to_owned(),
            is_allowed: true,
        }]),
        calls: Ok(vec![CallFault { call: "Lambda count".to_owned(), throttles: 0, errors: 0 }]),
    }
}

fn function<'a>(facts: &'a mut Facts, state: &str) -> &'a mut Function {
    facts.functions.get_mut(state).unwrap().as_mut().unwrap()
}

fn observation(facts: &mut Facts) -> &mut Observation {
    &mut facts.world.as_mut().unwrap().observation
}

/// A fault: how it is planted, what is said of it, what the remedy has.
type Planted = (fn(&mut Facts), &'static str, &'static str);

const FAULTS: &[Planted] = &[
    (
        |facts| drop(facts.functions.insert("Redeploy".to_owned(), Err("ResourceNotFoundException".to_owned()))),
        "the function of the state Redeploy does not exist",
        "deploy it again",
    ),
    (
        |facts| function(facts, "Count").state = "Failed".to_owned(),
        "the function count is Failed",
        "get-function-configuration",
    ),
    (
        |facts| drop(function(facts, "Evaluate").variables.remove("VPC_ID")),
        "evaluate: VPC_ID is missing",
        "update-function-configuration",
    ),
    (
        |facts| drop(function(facts, "CreateTarget").variables.insert("SECURITY_GROUP_IDS".to_owned(), "x".to_owned())),
        "SECURITY_GROUP_IDS is \"x\"",
        "update-function-configuration",
    ),
    (
        |facts| drop(function(facts, "PublishSsm").variables.insert("SSM_PARAMETER_NAME".to_owned(), "/q".to_owned())),
        "SSM_PARAMETER_NAME differs between the functions: /p, /q",
        "deploy again",
    ),
    (
        |facts| facts.simulated.as_mut().unwrap()[0].is_allowed = false,
        "the role of Evaluate may not call ssm:GetParameters",
        "allow ssm:GetParameters",
    ),
    (|facts| facts.file_system.state = "gone".to_owned(), "does not exist", "restore.md"),
    (
        |facts| observation(facts).targets[1].state = LifeCycle::Error,
        "the mount target fsmt-2 in us-east-1b is in the state error",
        "aws efs delete-mount-target --mount-target-id fsmt-2",
    ),
    (|facts| observation(facts).targets[1].ip = None, "fsmt-2 has no address", "delete-mount-target"),
    (|facts| observation(facts).targets.clear(), "no mount target is available", "create-mount-target"),
    (
        |facts| observation(facts).published.as_mut().unwrap().list = Err(NotAList::Empty),
        "the published parameter /p is not a list",
        "efs-autoscale start",
    ),
    (
        |facts| observation(facts).targets.push(target(3)),
        "the published list is not the list of the mount targets that are available",
        "efs-autoscale start",
    ),
    (
        |facts| facts.service.as_mut().unwrap().as_mut().unwrap().subnets.push("subnet-00000003".to_owned()),
        "the file service runs in use1-az3, where there is no mount target",
        "create a mount target in that zone",
    ),
    (
        |facts| observation(facts).subnets[2].free_addresses = 0,
        "the subnet subnet-00000003 (use1-az3) has 0 free addresses",
        "release addresses",
    ),
    (
        |facts| facts.groups.as_mut().unwrap()[0].ingress.clear(),
        "the mount target fsmt-1 does not let the file service in at port 2049",
        "authorize-security-group-ingress --group-id sg-efs --protocol tcp --port 2049 --source-group sg-tasks",
    ),
    (
        |facts| facts.groups.as_mut().unwrap()[1].egress.clear(),
        "no security group of the file service (sg-tasks) lets traffic to port 2049 out",
        "allow egress",
    ),
    (
        |facts| facts.access_points.as_mut().unwrap()[0].state = "error".to_owned(),
        "the access point fsap-1 is error",
        "deploy the stack again",
    ),
    (
        |facts| drop(function(facts, "Count").variables.insert("EFS_ACCESS_POINT_ID".to_owned(), "fsap-2".to_owned())),
        "EFS_ACCESS_POINT_ID is fsap-2, which this file system does not have",
        "set it to an access point",
    ),
    (|facts| facts.parameter = Ok(None), "the published parameter does not exist", "efs-autoscale start"),
    (
        |facts| facts.parameter.as_mut().unwrap().as_mut().unwrap().kind = "SecureString".to_owned(),
        "the published parameter is a SecureString, and SSM_PARAMETER_TYPE is String",
        "delete-parameter",
    ),
    (
        |facts| facts.parameter.as_mut().unwrap().as_mut().unwrap().tier = "Advanced".to_owned(),
        "of the tier Advanced",
        "delete the parameter",
    ),
    (|facts| observation(facts).deployed = None, "the ledger has no record /p/deployed", "efs-autoscale start"),
    (|facts| facts.service = Ok(None), "ECS knows no service c/s", "ECS_SERVICE_NAME"),
    (
        |facts| facts.service.as_mut().unwrap().as_mut().unwrap().controller = "CODE_DEPLOY".to_owned(),
        "deployed by CODE_DEPLOY",
        "pipeline.redeploy=never",
    ),
    (
        |facts| facts.service.as_mut().unwrap().as_mut().unwrap().running = 1,
        "1 of 3 tasks run",
        "the newest: has reached a steady state",
    ),
    (
        |facts| {
            let failed =
                Deployment { id: "d".to_owned(), primary: true, created_at: None, in_progress: false, failed: true };
            observation(facts).service = Ok(Some(Observed { deployments: vec![failed], ..Observed::default() }));
        },
        "ECS took the last deployment back",
        "redeploy_rolled_back",
    ),
    (
        |facts| {
            let schedule = facts.schedule.as_mut().unwrap().as_mut().unwrap();
            (schedule.is_enabled, schedule.reason) = (false, Some("migration".to_owned()));
        },
        "the schedule is paused: migration",
        "efs-autoscale resume",
    ),
    (
        |facts| facts.schedule.as_mut().unwrap().as_mut().unwrap().target.clear(),
        "the schedule starts another state machine",
        "deploy the stack again",
    ),
    (
        |facts| facts.alarms.as_mut().unwrap()[0].is_armed = false,
        "the alarm IoLimit tells nobody",
        "enable-alarm-actions",
    ),
    (
        |facts| facts.alarms.as_mut().unwrap()[0].state = "ALARM".to_owned(),
        "the alarm IoLimit rings",
        "efs-autoscale help IoLimit",
    ),
    (
        |facts| facts.subscriptions.as_mut().unwrap()[0].is_confirmed = false,
        "a@example.com has not confirmed",
        "open the link",
    ),
    (|facts| facts.subscriptions = Ok(vec![]), "nobody is told when an alarm rings", "alarms.emails"),
    (
        |facts| facts.certificates.as_mut().unwrap()[0].expires_at = Some(NOW + 86_400),
        "the certificate arn:acm expires in 1d",
        "deploy the stack again",
    ),
    (
        |facts| facts.certificates.as_mut().unwrap()[0].expires_at = Some(NOW - 1),
        "the certificate arn:acm has expired",
        "deploy the stack again",
    ),
    (|facts| facts.drift = Ok(Some("DRIFTED".to_owned())), "changed outside of CloudFormation", "resource-drifts"),
    (
        |facts| function(facts, "Count").version = Some("0.0.9".to_owned()),
        "different versions: 0.0.9, 0.1.0",
        "deploy again",
    ),
    (|facts| facts.concurrency = Ok((10, 10)), "10 of 10 concurrent executions", "Service Quotas"),
    (
        |facts| facts.calls.as_mut().unwrap()[0].throttles = 7,
        "Lambda count was throttled 7 times",
        "start executions less often",
    ),
    (|facts| facts.calls.as_mut().unwrap()[0].errors = 7, "Lambda count failed 7 times", "its log says why"),
];

#[test]
fn a_healthy_installation_has_no_finding_but_ok() {
    let findings = check(&healthy());
    assert!(findings.iter().all(|finding| finding.outcome == Outcome::Ok), "{findings:#?}");
    assert_eq!(findings.len(), 20);
}

#[test]
fn each_planted_fault_is_named_with_its_remedy() {
    for (plant, what, fix) in FAULTS {
        let mut facts = healthy();
        plant(&mut facts);
        let findings = check(&facts);
        let is_found = findings.iter().any(|finding| {
            finding.outcome == Outcome::Problem && finding.what.contains(what) && finding.fix.contains(fix)
        });
        let bad: Vec<_> = findings.iter().filter(|finding| finding.outcome != Outcome::Ok).collect();
        assert!(is_found, "{what}: {bad:#?}");
        for finding in bad {
            assert!(!finding.fix.is_empty(), "{finding:?}");
        }
    }
}

#[test]
fn what_was_not_compared_is_not_called_ok() {
    let mut facts = healthy();
    facts.drift = Ok(None);
    for state in ["Count", "Evaluate", "CreateTarget", "PollAvailable", "PublishSsm", "Redeploy"] {
        function(&mut facts, state).version = None;
    }
    facts.service.as_mut().unwrap().as_mut().unwrap().version = None;
    let findings = check(&facts);
    let unknown: Vec<_> = findings.iter().filter(|finding| finding.outcome != Outcome::Ok).collect();
    let checks: Vec<_> = unknown.iter().map(|finding| (finding.check, finding.outcome)).collect();
    assert_eq!(checks, [("stack drift", Outcome::Unknown), ("versions", Outcome::Unknown)]);
    // Egress to a group that no mount target is in leads nowhere, nor to a range without the address of one.
    for (peer, is_problem) in [("sg-other", true), ("192.0.2.0/24", true), ("0.0.0.0/0", false), ("pl-1", false)] {
        facts.groups.as_mut().unwrap()[1].egress = [peer.to_owned()].into();
        let found = check(&facts).iter().any(|finding| finding.what.contains("lets traffic to port 2049 out"));
        assert_eq!(found, is_problem, "{peer}");
    }
}

#[test]
fn what_aws_does_not_answer_is_unknown_and_the_rest_is_checked() {
    let mut facts = healthy();
    facts.simulated = Err("AccessDenied".to_owned());
    facts.world = Err("no route".to_owned());
    let findings = check(&facts);
    assert!(findings.iter().all(|finding| finding.outcome != Outcome::Problem), "{findings:#?}");
    let unknown: Vec<_> = findings.iter().filter(|finding| finding.outcome == Outcome::Unknown).collect();
    assert!(unknown.iter().any(|finding| finding.check == "permissions"));
    assert!(unknown.iter().any(|finding| finding.what.contains("no route")));
}

#[test]
fn the_calls_that_are_simulated_are_those_that_a_deployment_allows() {
    let permissions = include_str!("../../../../../cdk/lib/permissions.ts");
    for (_, actions) in ACTIONS {
        for action in *actions {
            assert!(permissions.contains(action), "{action}");
        }
    }
}
