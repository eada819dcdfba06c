//! The checks: what is right, what is wrong, and how it is fixed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use domain::model::LifeCycle;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    facts::{Facts, Known, World},
    network,
};
use crate::operator::time;

/// Before its end a certificate is called old.
const CERTIFICATE_WARNING_SECONDS: u64 = 30 * 86_400;
/// The six functions need so many executions at once, `count` in parts most of them.
const MIN_CONCURRENCY: i32 = 20;

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Problem,
    /// AWS was not asked, or did not answer.
    Unknown,
}

/// What one check found.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    pub check: &'static str,
    pub outcome: Outcome,
    pub what: String,
    /// How it is fixed; empty of one that is ok.
    pub fix: String,
}

/// What a check says: nothing wrong with what was looked at, or each thing that is.
pub(super) struct Check {
    name: &'static str,
    findings: Vec<Finding>,
}

impl Check {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, findings: vec![] }
    }

    pub(super) fn problem(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        let finding = Finding { check: self.name, outcome: Outcome::Problem, what: what.into(), fix: fix.into() };
        self.findings.push(finding);
    }

    pub(super) fn unknown(&mut self, err: &str) {
        let fix = "allow the call: `efs-autoscale permissions` prints what doctor needs";
        self.not_known(format!("AWS did not answer: {err}"), fix);
    }

    pub(super) fn not_known(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        let finding = Finding { check: self.name, outcome: Outcome::Unknown, what: what.into(), fix: fix.into() };
        self.findings.push(finding);
    }

    /// The answer, if there is one; else why not, as a finding.
    pub(super) fn known<'a, T>(&mut self, answer: &'a Known<T>) -> Option<&'a T> {
        answer.as_ref().map_err(|err| self.unknown(err)).ok()
    }

    pub(super) fn done(mut self, ok: impl Into<String>) -> Vec<Finding> {
        if self.findings.is_empty() {
            self.findings.push(Finding { check: self.name, outcome: Outcome::Ok, what: ok.into(), fix: String::new() });
        }
        self.findings
    }
}

/// Every check, in the order in which an installation is built up.
pub fn check(facts: &Facts) -> Vec<Finding> {
    [
        functions,
        variables,
        permissions,
        file_system,
        targets,
        network::zones,
        network::addresses,
        network::reachability,
        access_points,
        parameter,
        ledger,
        service,
        schedule,
        alarms,
        subscriptions,
        certificates,
        drift,
        versions,
        quotas,
        calls,
    ]
    .iter()
    .flat_map(|check| check(facts))
    .collect()
}

fn functions(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("functions");
    for (state, function) in &facts.functions {
        match function {
            Err(err) if err.contains("ResourceNotFound") => check.problem(
                format!("the function of the state {state} does not exist"),
                "deploy it again: make deploy, or cargo lambda deploy",
            ),
            Err(err) => check.unknown(&format!("{state}: {err}")),
            Ok(function) if matches!(function.state.as_str(), "" | "Active" | "Inactive" | "Pending") => {}
            Ok(function) => check.problem(
                format!("the function {} is {}", function.name, function.state),
                format!(
                    "aws lambda get-function-configuration --function-name {} tells why: {}",
                    function.name,
                    function.state_reason.as_deref().unwrap_or("no reason is given")
                ),
            ),
        }
    }
    check.done(format!("{} functions are active", facts.functions.len()))
}

fn variables(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("variables");
    let known = || facts.functions.iter().filter_map(|(state, function)| Some((state, function.as_ref().ok()?)));
    for (state, function) in known() {
        let read = |name: &str| function.variables.get(name).cloned();
        let err = match state.as_str() {
            "Evaluate" => evaluate::Config::read(&read).err(),
            "CreateTarget" => domain::config::security_group_ids(&read)
                .map(|_| ())
                .and(domain::config::ip_address_type(&read).map(|_| ()))
                .err(),
            "PublishSsm" => domain::config::parameter_type(&read).err(),
            "Redeploy" => {
                domain::config::service_name(&read).map(|_| ()).and(domain::config::redeploy(&read).map(|_| ())).err()
            }
            _ => None,
        };
        let err = err.or_else(|| domain::config::file_system_id(&read).err());
        if let Some(err) = err {
            check.problem(
                format!("{}: {err}", function.name),
                format!(
                    "set it: aws lambda update-function-configuration --function-name {} --environment …, or correct the \
                     setting and deploy again",
                    function.name
                ),
            );
        }
    }
    for name in ["EFS_FILE_SYSTEM_ID", "SSM_PARAMETER_NAME", "ECS_CLUSTER_NAME", "ECS_SERVICE_NAME", "REDEPLOY"] {
        let values: BTreeSet<_> = known().filter_map(|(_, function)| function.variables.get(name)).collect();
        if values.len() > 1 {
            let values: Vec<_> = values.into_iter().map(String::as_str).collect();
            check.problem(
                format!("{name} differs between the functions: {}", values.join(", ")),
                "give all functions the same value: deploy again",
            );
        }
    }
    check.done("every variable is there and has a value that is taken")
}

fn permissions(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("permissions");
    let Some(simulated) = check.known(&facts.simulated) else { return check.done("") };
    let mut denied: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for simulated in simulated.iter().filter(|simulated| !simulated.is_allowed) {
        denied.entry(&simulated.state).or_default().push(&simulated.action);
    }
    for (state, actions) in denied {
        let actions = actions.join(", ");
        check.problem(
            format!("the role of {state} may not call {actions}"),
            format!(
                "allow {actions} in the role of {state}, or deploy the stack again; see docs/reference/operations.md, \
                 Permissions"
            ),
        );
    }
    check.done(format!("IAM allows all {} calls of the functions (simulated)", simulated.len()))
}

fn file_system(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("file system");
    let (id, state) = (facts.file_system.id.as_str(), facts.file_system.state.as_str());
    match state {
        "available" | "updating" => {}
        "" => check.unknown(&format!("nobody says in which state {id} is")),
        "gone" => check.problem(
            format!("the file system {id} does not exist"),
            "set storage.existing or EFS_FILE_SYSTEM_ID to the file system that holds the files, and deploy; after a loss: \
             docs/how-to/restore.md",
        ),
        other => check.problem(format!("the file system {id} is {other}"), "wait until it is available"),
    }
    check.done(format!("{id} is {state}"))
}

pub(super) fn world<'a>(check: &mut Check, facts: &'a Facts) -> Option<&'a World> {
    check.known(&facts.world)
}

fn targets(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("mount targets");
    let Some(world) = world(&mut check, facts) else { return check.done("") };
    let observation = &world.observation;
    for target in &observation.targets {
        match target.state {
            LifeCycle::Error => check.problem(
                format!("the mount target {} in {} is in the state error", target.id, target.zone_name),
                format!("delete it: aws efs delete-mount-target --mount-target-id {}", target.id),
            ),
            LifeCycle::Available if target.address().is_none() => check.problem(
                format!("the mount target {} has no address", target.id),
                format!("delete it: aws efs delete-mount-target --mount-target-id {}", target.id),
            ),
            _ => {}
        }
    }
    if observation.publishable().is_none() {
        check.problem(
            "no mount target is available",
            "create one: aws efs create-mount-target, or the setting network.zones; no file can be reached until then",
        );
    }
    match &observation.published {
        None => check.problem("nothing is published", "efs-autoscale start --wait publishes the list"),
        Some(published) => {
            if let Err(err) = &published.list {
                check.problem(
                    format!("the published parameter {} is not a list: {err}", world.parameter),
                    "efs-autoscale start --wait publishes it anew",
                );
            } else if observation.published_list() != observation.publishable().as_ref() {
                check.problem(
                    "the published list is not the list of the mount targets that are available",
                    "efs-autoscale start --wait publishes it; if it stays so, efs-autoscale explain latest says why",
                );
            }
        }
    }
    check.done(format!("{} mount targets, all published", observation.targets.len()))
}

fn access_points(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("access points");
    let Some(points) = check.known(&facts.access_points) else { return check.done("") };
    for point in points.iter().filter(|point| point.state != "available") {
        check.problem(
            format!("the access point {} is {}", point.id, point.state),
            "make it anew: deploy the stack again; mounts through it fail until then",
        );
    }
    let used = facts.functions.values().flatten().filter_map(|function| function.variables.get("EFS_ACCESS_POINT_ID"));
    for id in used.collect::<BTreeSet<_>>() {
        if !points.iter().any(|point| point.id == *id) {
            check.problem(
                format!("EFS_ACCESS_POINT_ID is {id}, which this file system does not have"),
                "set it to an access point of the file system, or deploy again",
            );
        }
    }
    check.done(format!("{} are available", points.len()))
}

fn parameter(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("parameter");
    let Some(found) = check.known(&facts.parameter) else { return check.done("") };
    let Some(parameter) = found else {
        check.problem("the published parameter does not exist", "efs-autoscale start --wait writes it");
        return check.done("");
    };
    let functions = facts.functions.get("PublishSsm").and_then(|function| function.as_ref().ok());
    let wanted =
        functions.and_then(|function| function.variables.get("SSM_PARAMETER_TYPE")).map_or("String", String::as_str);
    if parameter.kind != wanted {
        check.problem(
            format!("the published parameter is a {}, and SSM_PARAMETER_TYPE is {wanted}", parameter.kind),
            "delete the parameter: aws ssm delete-parameter; the next execution writes it with the right type",
        );
    }
    if parameter.tier != "Standard" && !parameter.tier.is_empty() {
        check.problem(
            format!("the published parameter is of the tier {}, which costs money and is not needed", parameter.tier),
            "delete the parameter; the next execution writes it in the tier Standard",
        );
    }
    check.done(format!("a {} of the tier Standard", parameter.kind))
}

fn ledger(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("ledger");
    let Some(world) = world(&mut check, facts) else { return check.done("") };
    let observation = &world.observation;
    if world.policy.redeploy && observation.published.is_some() && observation.deployed.is_none() {
        check.problem(
            format!("the ledger has no record {}/deployed", world.parameter),
            "efs-autoscale start --wait redeploys the service once and writes it; if it stays so, the role of redeploy may not \
             write it",
        );
    }
    check.done("it can be read, and has the record of the last deployment")
}

fn service(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("service");
    let Some(found) = check.known(&facts.service) else { return check.done("") };
    let redeploys = facts.world.as_ref().is_ok_and(|world| world.policy.redeploy);
    let name = facts.world.as_ref().map(|world| world.service.clone()).unwrap_or_default();
    let Some(service) = found else {
        check.problem(
            format!("ECS knows no service {name}"),
            "correct ECS_CLUSTER_NAME and ECS_SERVICE_NAME, or set REDEPLOY=never for a service that is not in ECS",
        );
        return check.done("");
    };
    if service.status != "ACTIVE" {
        check.problem(format!("the service {name} is {}", service.status), "create it again: deploy the stack");
    }
    if redeploys && !matches!(service.controller.as_str(), "" | "ECS") {
        check.problem(
            format!(
                "the service is deployed by {}, which refuses the redeployments of this system",
                service.controller
            ),
            "set pipeline.redeploy=never, and have that deployment read the list, or use the deployment controller ECS",
        );
    }
    if service.running < service.desired {
        check.problem(
            format!("{} of {} tasks run", service.running, service.desired),
            format!(
                "aws ecs describe-services shows its events; the newest: {}",
                service.event.as_deref().unwrap_or("there is none")
            ),
        );
    }
    if let Ok(world) = &facts.world
        && let Ok(Some(observed)) = &world.observation.service
        && observed.rolled_back()
    {
        check.problem(
            "ECS took the last deployment back",
            "find out why tasks of it did not become healthy (their logs, efs-autoscale help redeploy_rolled_back), then deploy",
        );
    }
    check.done(format!("{name}: {} of {} tasks run, deployed by ECS", service.running, service.desired))
}

fn schedule(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("schedule");
    let Some(found) = check.known(&facts.schedule) else { return check.done("") };
    let Some(schedule) = found else {
        check.problem(
            "nobody says which schedule starts executions",
            "--schedule or EFS_AUTOSCALE_SCHEDULE names it; without one executions start by hand only",
        );
        return check.done("");
    };
    let reason = schedule.reason.as_deref().unwrap_or("nobody says why");
    match &schedule.is_paused_until {
        Some(until) => check.problem(format!("the schedule is paused until {until}: {reason}"), "efs-autoscale resume"),
        None if !schedule.is_enabled => {
            check.problem(format!("the schedule is paused: {reason}"), "efs-autoscale resume");
        }
        None => {}
    }
    if schedule.target.is_empty() {
        check.problem("the schedule starts another state machine than this one", "deploy the stack again");
    }
    check.done(format!("{} starts this state machine", schedule.name))
}

fn alarms(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("alarms");
    let Some(alarms) = check.known(&facts.alarms) else { return check.done("") };
    if alarms.is_empty() && facts.stack.is_some() {
        check.problem("the stack has no alarms", "deploy the stack again: nobody learns of a failure until then");
    }
    for alarm in alarms {
        if !alarm.is_armed || !alarm.has_action {
            check.problem(
                format!("the alarm {} tells nobody", alarm.name),
                "enable its actions: aws cloudwatch enable-alarm-actions, or deploy the stack again",
            );
        }
        if alarm.state == "ALARM" {
            check.problem(
                format!("the alarm {} rings: {}", alarm.name, alarm.description),
                format!("efs-autoscale help {}", alarm.name),
            );
        }
    }
    check.done(format!("{} are armed, none rings", alarms.len()))
}

fn subscriptions(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("subscriptions");
    if facts.stack.is_none() {
        return check.done("an installation without a stack has no topic of ours");
    }
    let Some(subscriptions) = check.known(&facts.subscriptions) else { return check.done("") };
    if subscriptions.is_empty() {
        check.problem(
            "nobody is told when an alarm rings",
            "set alarms.emails and deploy, or subscribe to the topic of TopicArn",
        );
    }
    for open in subscriptions.iter().filter(|subscription| !subscription.is_confirmed) {
        check.problem(
            format!("{} has not confirmed the subscription to the alarms", open.endpoint),
            "open the link in the message of SNS; after three days it must be subscribed again",
        );
    }
    check.done(format!("{} are confirmed", subscriptions.len()))
}

fn certificates(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("certificates");
    let Some(certificates) = check.known(&facts.certificates) else { return check.done("") };
    for certificate in certificates {
        let left = certificate.expires_at.map(|at| at.saturating_sub(facts.now));
        match left {
            Some(0) => check.problem(
                format!("the certificate {} has expired", certificate.arn),
                "deploy the stack again, which renews it, or import a new one into ACM",
            ),
            Some(left) if left < CERTIFICATE_WARNING_SECONDS => check.problem(
                format!("the certificate {} expires in {}", certificate.arn, time::duration(left)),
                "deploy the stack again, which renews it, or import a new one into ACM",
            ),
            _ if !matches!(certificate.status.as_str(), "" | "ISSUED") => check.problem(
                format!("the certificate {} is {}", certificate.arn, certificate.status),
                "ACM shows what it waits for: aws acm describe-certificate",
            ),
            _ => {}
        }
    }
    check.done(format!("{} are valid for 30 days and more", certificates.len()))
}

fn drift(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("stack drift");
    let Some(drift) = check.known(&facts.drift) else { return check.done("") };
    if drift.as_deref() == Some("DRIFTED") {
        check.problem(
            "resources of the stack were changed outside of CloudFormation",
            "aws cloudformation describe-stack-resource-drifts lists them; deploying again undoes what is in the template",
        );
    }
    if drift.is_none() && facts.stack.is_some() {
        check.not_known("it was not compared", "efs-autoscale doctor --drift compares the stack with its template");
    }
    check.done(drift.clone().unwrap_or_else(|| "there is no stack".to_owned()))
}

fn versions(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("versions");
    let functions = facts.functions.values().flatten().filter_map(|function| function.version.as_deref());
    let service = facts.service.as_ref().ok().and_then(|service| service.as_ref()?.version.as_deref());
    let versions: BTreeSet<_> = functions.chain(service).collect();
    if versions.len() > 1 {
        let versions: Vec<_> = versions.iter().copied().collect();
        check.problem(
            format!("the functions and the service are of different versions: {}", versions.join(", ")),
            "deploy again, so that all are of one version",
        );
    }
    if versions.is_empty() {
        check.not_known(
            "no function and no service has the tag efs-autoscale-version",
            "deploy with CDK, which tags them; doctor also needs lambda:ListTags",
        );
    }
    check.done(versions.first().map_or(String::new(), |version| format!("all are of {version}")))
}

fn quotas(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("quotas");
    let Some((limit, free)) = check.known(&facts.concurrency).copied() else { return check.done("") };
    if free < MIN_CONCURRENCY {
        check.problem(
            format!("{free} of {limit} concurrent executions of Lambda are not reserved by functions"),
            format!(
                "ask for at least {MIN_CONCURRENCY}: Service Quotas, AWS Lambda, Concurrent executions (L-B99A9384)"
            ),
        );
    }
    check.done(format!("Lambda: {free} of {limit} concurrent executions are free for all functions"))
}

fn calls(facts: &Facts) -> Vec<Finding> {
    let mut check = Check::new("calls");
    let Some(calls) = check.known(&facts.calls) else { return check.done("") };
    for call in calls {
        if call.throttles > 0 {
            check.problem(
                format!("{} was throttled {} times within a day", call.call, call.throttles),
                "start executions less often (pipeline.schedule), or ask for a higher rate in Service Quotas",
            );
        }
        if call.errors > 0 {
            check.problem(
                format!("{} failed {} times within a day", call.call, call.errors),
                "its log says why; efs-autoscale history shows the executions that failed",
            );
        }
    }
    check.done("no call was throttled or failed within a day")
}
