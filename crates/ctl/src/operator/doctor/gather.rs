//! Asks AWS for what the checks look at. What cannot be asked is an error in its place.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aws_sdk_cloudformation::types::{StackDriftDetectionStatus, StackDriftStatus};
use aws_sdk_cloudwatch::types::{Dimension, Metric, MetricDataQuery, MetricStat};
use aws_sdk_ec2::types::{IpPermission, SecurityGroup};
use aws_sdk_ecs::types::ServiceField;
use aws_sdk_efs::error::ProvideErrorMetadata as _;
use aws_sdk_elasticloadbalancingv2::types::Listener;
use aws_sdk_iam::types::PolicyEvaluationDecisionType;
use aws_smithy_types::DateTime;
use domain::config::ServiceName;

use super::facts::{
    AccessPoint, Alarm, CallFault, Certificate, Facts, FileSystem, Function, Group, Known, Parameter, Schedule,
    Service, Simulated, Subscription, World,
};
use crate::operator::{Installation, alarms, schedule, time};

const NFS_PORT: i32 = 2049;
const DAY_SECONDS: u64 = 86_400;
/// CloudFormation takes about a minute for the drift of a stack.
const MAX_DRIFT_POLLS: usize = 60;
/// The tag that a deployment gives to functions and service.
const VERSION_TAG: &str = "efs-autoscale-version";

/// The calls of each function, besides those that Lambda makes for it. A test compares them with cdk/lib/permissions.ts.
pub const ACTIONS: &[(&str, &[&str])] = &[
    (
        "Evaluate",
        &[
            "elasticfilesystem:DescribeFileSystems",
            "elasticfilesystem:DescribeMountTargets",
            "ec2:DescribeSubnets",
            "ecs:DescribeServices",
            "ssm:GetParameters",
        ],
    ),
    (
        "CreateTarget",
        &[
            "elasticfilesystem:CreateMountTarget",
            "elasticfilesystem:DescribeMountTargets",
            "ssm:GetParameters",
            "ssm:PutParameter",
            "ssm:DeleteParameter",
        ],
    ),
    ("PollAvailable", &["elasticfilesystem:DescribeMountTargets"]),
    (
        "PublishSsm",
        &["elasticfilesystem:DescribeMountTargets", "ssm:GetParameters", "ssm:PutParameter", "ssm:DeleteParameter"],
    ),
    ("Redeploy", &["ecs:DescribeServices", "ecs:UpdateService", "ssm:GetParameters", "ssm:PutParameter"]),
];

fn known<T>(answer: Result<T>) -> Known<T> {
    answer.map_err(|err| format!("{err:#}"))
}

pub async fn gather(installation: &Installation, with_drift: bool) -> Facts {
    let now = time::now();
    let functions = functions(installation).await;
    let variables = functions.values().flatten().find_map(|function| function.variables.get("EFS_FILE_SYSTEM_ID"));
    let file_system =
        variables.cloned().or_else(|| installation.output("FileSystemId").map(str::to_owned)).unwrap_or_default();
    let config = functions.get("Evaluate").and_then(|function| function.as_ref().ok());
    let config =
        config.and_then(|function| evaluate::Config::read(&|name: &str| function.variables.get(name).cloned()).ok());
    let world = async {
        let config = config.as_ref().context("the variables of evaluate are not as they should be")?;
        let (observation, unseen) = evaluate::observe(&installation.clients.aws, config, None).await?;
        if let Some(err) = unseen {
            return Err(err.into());
        }
        let (parameter, service) = (config.parameter.to_string(), config.service.to_string());
        Ok(World { observation, policy: config.policy.clone(), parameter, service })
    };
    let (world, state, access_points, parameter, service, schedule) = tokio::join!(
        world,
        file_system_state(installation, &file_system),
        access_points(installation, &file_system),
        parameter(installation, config.as_ref().map(|config| config.parameter.as_str())),
        service(installation, config.as_ref().map(|config| &config.service)),
        schedule(installation, now),
    );
    let world = known(world);
    let targets: Vec<String> = world.as_ref().map_or_else(
        |_| vec![],
        |world| world.observation.targets.iter().map(|target| target.id.to_string()).collect(),
    );
    let service = known(service);
    let (target_groups, alarms, subscriptions, certificates, concurrency, simulated, calls) = tokio::join!(
        target_groups(installation, &targets),
        alarms(installation),
        subscriptions(installation),
        certificates(installation),
        concurrency(installation),
        simulated(installation, &functions),
        calls(installation, &functions, now),
    );
    let target_groups = known(target_groups);
    let mut ids: BTreeSet<String> =
        target_groups.iter().flat_map(|groups| groups.values().flatten().cloned()).collect();
    ids.extend(service.iter().flatten().flat_map(|service| service.security_groups.iter().cloned()));
    ids.extend(functions.values().flatten().flat_map(|function| function.security_groups.iter().cloned()));
    let groups = groups(installation, ids).await;
    let drift = if with_drift { drift(installation).await } else { Ok(None) };
    Facts {
        now,
        stack: installation.stack.as_ref().map(|stack| stack.name.clone()),
        functions,
        world,
        file_system: FileSystem { id: file_system, state: state.unwrap_or_default() },
        access_points: known(access_points),
        target_groups,
        groups: known(groups),
        parameter: known(parameter),
        service,
        schedule: known(schedule),
        alarms: known(alarms),
        subscriptions: known(subscriptions),
        certificates: known(certificates),
        drift: known(drift),
        concurrency: known(concurrency),
        simulated: known(simulated),
        calls: known(calls),
    }
}

async fn functions(installation: &Installation) -> BTreeMap<String, Known<Function>> {
    let mut functions = BTreeMap::new();
    // The function of a Map's state is that of another state.
    for (state, arn) in installation.functions.iter().filter(|(state, _)| *state != "CountPartition") {
        functions.insert(state.clone(), known(function(installation, arn).await));
    }
    functions
}

async fn function(installation: &Installation, arn: &str) -> Result<Function> {
    let lambda = &installation.clients.lambda;
    let found = lambda.get_function_configuration().function_name(arn).send().await?;
    let network = found.vpc_config();
    let tags = lambda.list_tags().resource(found.function_arn().unwrap_or(arn)).send().await;
    Ok(Function {
        name: found.function_name().unwrap_or(arn).to_owned(),
        variables: found
            .environment()
            .and_then(|environment| environment.variables())
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .collect(),
        role: found.role().unwrap_or_default().to_owned(),
        state: found.state().map(|state| state.as_str().to_owned()).unwrap_or_default(),
        state_reason: found.state_reason().map(str::to_owned),
        subnets: network.map(|network| network.subnet_ids().to_vec()).unwrap_or_default(),
        security_groups: network.map(|network| network.security_group_ids().to_vec()).unwrap_or_default(),
        version: tags.ok().and_then(|tags| tags.tags().and_then(|tags| tags.get(VERSION_TAG).cloned())),
    })
}

async fn file_system_state(installation: &Installation, id: &str) -> Result<String> {
    match installation.clients.aws.efs.describe_file_systems().file_system_id(id).send().await {
        Err(err) if err.code() == Some("FileSystemNotFound") => Ok("gone".to_owned()),
        found => {
            let found = found?;
            // Other implementations give nothing where AWS gives an error.
            let state = found.file_systems().first().map(|found| found.life_cycle_state().as_str().to_owned());
            Ok(state.unwrap_or_else(|| "gone".to_owned()))
        }
    }
}

async fn access_points(installation: &Installation, id: &str) -> Result<Vec<AccessPoint>> {
    let request = installation.clients.aws.efs.describe_access_points().file_system_id(id);
    let found = request.into_paginator().items().send().collect::<Result<Vec<_>, _>>().await?;
    let state = |point: &aws_sdk_efs::types::AccessPointDescription| {
        point.life_cycle_state().map_or_else(|| "available".to_owned(), |state| state.as_str().to_owned())
    };
    Ok(found
        .iter()
        .map(|point| AccessPoint { id: point.access_point_id().unwrap_or_default().to_owned(), state: state(point) })
        .collect())
}

async fn parameter(installation: &Installation, name: Option<&str>) -> Result<Option<Parameter>> {
    let name = name.context("nobody says which parameter")?;
    let filter =
        aws_sdk_ssm::types::ParameterStringFilter::builder().key("Name").option("Equals").values(name).build()?;
    let found = installation.clients.aws.ssm.describe_parameters().parameter_filters(filter).send().await?;
    Ok(found.parameters().iter().find(|parameter| parameter.name() == Some(name)).map(|parameter| Parameter {
        kind: parameter.r#type().map(|kind| kind.as_str().to_owned()).unwrap_or_default(),
        tier: parameter.tier().map(|tier| tier.as_str().to_owned()).unwrap_or_default(),
    }))
}

async fn service(installation: &Installation, name: Option<&ServiceName>) -> Result<Option<Service>> {
    let name = name.context("nobody says which service")?;
    let request = installation.clients.aws.ecs.describe_services().cluster(&name.cluster).services(&name.service);
    let found = match request.include(ServiceField::Tags).send().await {
        Err(err) if err.code() == Some("ClusterNotFoundException") => return Ok(None),
        found => found?,
    };
    Ok(found.services().iter().find(|service| service.status() != Some("INACTIVE")).map(|service| {
        let network = service.network_configuration().and_then(|network| network.awsvpc_configuration());
        let tag = service.tags().iter().find(|tag| tag.key() == Some(VERSION_TAG));
        Service {
            status: service.status().unwrap_or_default().to_owned(),
            controller: service.deployment_controller().map(|one| one.r#type().as_str().to_owned()).unwrap_or_default(),
            running: service.running_count(),
            desired: service.desired_count(),
            subnets: network.map(|network| network.subnets().to_vec()).unwrap_or_default(),
            security_groups: network.map(|network| network.security_groups().to_vec()).unwrap_or_default(),
            event: service.events().first().and_then(|event| event.message()).map(str::to_owned),
            version: tag.and_then(|tag| tag.value()).map(str::to_owned),
        }
    }))
}

async fn schedule(installation: &Installation, now: u64) -> Result<Option<Schedule>> {
    let Some(name) = &installation.schedule else { return Ok(None) };
    let found = schedule::Schedule::read(&installation.clients.scheduler, name).await?;
    let pause = found.pause(now);
    Ok(Some(Schedule {
        name: name.clone(),
        is_enabled: pause.is_none(),
        target: found.target().filter(|target| *target == installation.state_machine).unwrap_or_default().to_owned(),
        reason: pause.as_ref().and_then(|pause| pause.reason.clone()),
        is_paused_until: pause.and_then(|pause| pause.until),
    }))
}

async fn target_groups(installation: &Installation, targets: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    let mut groups = BTreeMap::new();
    for id in targets {
        let request = installation.clients.aws.efs.describe_mount_target_security_groups().mount_target_id(id);
        groups.insert(id.clone(), request.send().await?.security_groups().to_vec());
    }
    Ok(groups)
}

async fn groups(installation: &Installation, ids: BTreeSet<String>) -> Result<Vec<Group>> {
    if ids.is_empty() {
        return Ok(vec![]);
    }
    let request =
        installation.clients.aws.ec2.describe_security_groups().set_group_ids(Some(ids.into_iter().collect()));
    Ok(request.send().await?.security_groups().iter().map(group).collect())
}

fn group(found: &SecurityGroup) -> Group {
    let peers = |permissions: &[IpPermission]| {
        let nfs = permissions.iter().filter(|permission| includes_nfs(permission));
        nfs.flat_map(|permission| {
            let groups = permission.user_id_group_pairs().iter().filter_map(|pair| pair.group_id());
            let ranges = permission.ip_ranges().iter().filter_map(|range| range.cidr_ip());
            let ranges6 = permission.ipv6_ranges().iter().filter_map(|range| range.cidr_ipv6());
            let lists = permission.prefix_list_ids().iter().filter_map(|list| list.prefix_list_id());
            groups.chain(ranges).chain(ranges6).chain(lists).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    };
    Group {
        id: found.group_id().unwrap_or_default().to_owned(),
        ingress: peers(found.ip_permissions()),
        egress: peers(found.ip_permissions_egress()),
    }
}

fn includes_nfs(permission: &IpPermission) -> bool {
    match permission.ip_protocol() {
        Some("-1") => true,
        Some("tcp" | "6") => {
            permission.from_port().is_none_or(|from| from <= NFS_PORT)
                && permission.to_port().is_none_or(|to| to >= NFS_PORT)
        }
        _ => false,
    }
}

async fn alarms(installation: &Installation) -> Result<Vec<Alarm>> {
    let alarms = alarms::of_stack(installation).await?;
    Ok(alarms
        .into_iter()
        .map(|(name, alarm)| Alarm {
            name,
            is_armed: alarm.actions_enabled().unwrap_or(true),
            has_action: !alarm.alarm_actions().is_empty(),
            state: alarm.state_value().map(|state| state.as_str().to_owned()).unwrap_or_default(),
            description: alarm.alarm_description().unwrap_or_default().to_owned(),
        })
        .collect())
}

async fn subscriptions(installation: &Installation) -> Result<Vec<Subscription>> {
    let Some(topic) = installation.output("TopicArn") else { return Ok(vec![]) };
    let client = aws_sdk_sns::Client::new(&installation.config);
    let found = client.list_subscriptions_by_topic().topic_arn(topic).into_paginator().items().send();
    let found = found.collect::<Result<Vec<_>, _>>().await?;
    Ok(found
        .iter()
        .map(|subscription| Subscription {
            endpoint: subscription.endpoint().unwrap_or_default().to_owned(),
            is_confirmed: subscription.subscription_arn().is_some_and(|arn| arn.starts_with("arn:")),
        })
        .collect())
}

async fn certificates(installation: &Installation) -> Result<Vec<Certificate>> {
    let Some(balancer) = installation.output("BalancerName") else { return Ok(vec![]) };
    let elb = aws_sdk_elasticloadbalancingv2::Client::new(&installation.config);
    let acm = aws_sdk_acm::Client::new(&installation.config);
    let balancers =
        elb.describe_load_balancers().into_paginator().items().send().collect::<Result<Vec<_>, _>>().await?;
    let found = balancers.iter().find(|found| found.dns_name() == Some(balancer));
    let Some(arn) = found.and_then(|found| found.load_balancer_arn()) else { return Ok(vec![]) };
    let listeners = elb.describe_listeners().load_balancer_arn(arn).send().await?;
    let mut certificates = Vec::new();
    let used = listeners.listeners().iter().flat_map(Listener::certificates);
    for arn in used.filter_map(|certificate| certificate.certificate_arn()) {
        let described = acm.describe_certificate().certificate_arn(arn).send().await?;
        let certificate = described.certificate();
        certificates.push(Certificate {
            arn: arn.to_owned(),
            expires_at: certificate.and_then(|found| found.not_after()).and_then(|at| u64::try_from(at.secs()).ok()),
            status: certificate.and_then(|found| found.status()).map(|one| one.as_str().to_owned()).unwrap_or_default(),
        });
    }
    Ok(certificates)
}

async fn concurrency(installation: &Installation) -> Result<(i32, i32)> {
    let found = installation.clients.lambda.get_account_settings().send().await?;
    let limit = found.account_limit().context("Lambda says nothing of its quota")?;
    let all = limit.concurrent_executions();
    Ok((all, limit.unreserved_concurrent_executions().unwrap_or(all)))
}

async fn simulated(
    installation: &Installation,
    functions: &BTreeMap<String, Known<Function>>,
) -> Result<Vec<Simulated>> {
    let iam = aws_sdk_iam::Client::new(&installation.config);
    let mut found = Vec::new();
    for (state, actions) in ACTIONS {
        let Some(Ok(function)) = functions.get(*state) else { continue };
        let request = iam.simulate_principal_policy().policy_source_arn(&function.role);
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        let answer = request.set_action_names(Some(actions)).send().await;
        let answer = answer.with_context(|| format!("the role of {state} cannot be simulated"))?;
        for result in answer.evaluation_results() {
            // Without a resource only a statement for all resources allows. One that names its resources is not shown
            // here, and IAM says so by what it matched.
            let is_allowed = *result.eval_decision() == PolicyEvaluationDecisionType::Allowed;
            let is_denied = *result.eval_decision() == PolicyEvaluationDecisionType::ExplicitDeny;
            found.push((state, result.eval_action_name().to_owned(), is_allowed, is_denied));
        }
    }
    let mut simulated = Vec::new();
    for (state, action, is_allowed, is_denied) in found {
        let is_allowed =
            is_allowed || (!is_denied && allowed_somewhere(installation, &iam, functions, state, &action).await?);
        simulated.push(Simulated { state: (*state).to_owned(), action, is_allowed });
    }
    Ok(simulated)
}

/// Does the role allow the call on the resource that this installation has?
async fn allowed_somewhere(
    installation: &Installation,
    iam: &aws_sdk_iam::Client,
    functions: &BTreeMap<String, Known<Function>>,
    state: &str,
    action: &str,
) -> Result<bool> {
    let Some(Ok(function)) = functions.get(state) else { return Ok(true) };
    // arn:aws:states:REGION:ACCOUNT:stateMachine:NAME
    let parts: Vec<_> = installation.state_machine.splitn(6, ':').collect();
    let [arn, partition, _, region, account, _] = parts[..] else { return Ok(false) };
    let variable = |name: &str| function.variables.get(name).map(String::as_str).unwrap_or_default();
    let name = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
    let resource = match action.split_once(':') {
        Some(("elasticfilesystem", _)) => format!("file-system/{}", variable("EFS_FILE_SYSTEM_ID")),
        Some(("ssm", "PutParameter" | "DeleteParameter")) if state != "PublishSsm" => match state {
            "Redeploy" => format!("parameter{}/deployed", variable("SSM_PARAMETER_NAME")),
            _ => format!("parameter{}/created/zone", variable("SSM_PARAMETER_NAME")),
        },
        Some(("ssm", "DeleteParameter")) => format!("parameter{}/deployed", variable("SSM_PARAMETER_NAME")),
        Some(("ssm", _)) => format!("parameter{}", variable("SSM_PARAMETER_NAME")),
        Some(("ecs", _)) => {
            format!("service/{}/{}", name(variable("ECS_CLUSTER_NAME")), name(variable("ECS_SERVICE_NAME")))
        }
        _ => return Ok(false),
    };
    let service = action.split(':').next().unwrap_or_default();
    let resource = format!("{arn}:{partition}:{service}:{region}:{account}:{resource}");
    let request = iam.simulate_principal_policy().policy_source_arn(&function.role).action_names(action);
    let answer = request.resource_arns(resource).send().await?;
    Ok(answer
        .evaluation_results()
        .iter()
        .any(|result| *result.eval_decision() == PolicyEvaluationDecisionType::Allowed))
}

async fn drift(installation: &Installation) -> Result<Option<String>> {
    let Some(stack) = &installation.stack else { return Ok(None) };
    let client = &installation.clients.cloudformation;
    let started = client.detect_stack_drift().stack_name(&stack.name).send().await?;
    let id = started.stack_drift_detection_id().context("CloudFormation gave no id of the detection")?;
    for _ in 0..MAX_DRIFT_POLLS {
        let found = client.describe_stack_drift_detection_status().stack_drift_detection_id(id).send().await?;
        if found.detection_status() != Some(&StackDriftDetectionStatus::DetectionInProgress) {
            return Ok(found.stack_drift_status().map(StackDriftStatus::as_str).map(str::to_owned));
        }
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    }
    anyhow::bail!("the detection of drift has not ended within 2 minutes")
}

/// Sums of the last day, of Lambda by function and of the APIs by call.
async fn calls(
    installation: &Installation,
    functions: &BTreeMap<String, Known<Function>>,
    now: u64,
) -> Result<Vec<CallFault>> {
    let mut asked = Vec::new();
    for function in functions.values().flatten() {
        let call = format!("Lambda {}", function.name);
        let dimension = vec![("FunctionName", function.name.clone())];
        asked.push((call.clone(), true, "AWS/Lambda", "Throttles", dimension.clone()));
        asked.push((call, false, "AWS/Lambda", "Errors", dimension));
    }
    for (service, calls) in [
        ("Elastic File System", &["CreateMountTarget", "DescribeMountTargets", "DescribeFileSystems"][..]),
        ("ECS", &["UpdateService", "DescribeServices"]),
        ("SSM", &["GetParameters", "PutParameter"]),
        ("States", &["StartExecution"]),
    ] {
        for call in calls {
            let dimensions = [("Type", "API"), ("Resource", call), ("Service", service), ("Class", "None")];
            let dimensions = dimensions.map(|(name, value)| (name, value.to_owned())).into();
            asked.push((format!("{service} {call}"), true, "AWS/Usage", "ThrottleCount", dimensions));
        }
    }
    let queries = asked.iter().enumerate().map(|(index, (_, _, namespace, metric, dimensions))| {
        let dimensions =
            dimensions.iter().map(|(name, value)| Dimension::builder().name(*name).value(value).build()).collect();
        let metric =
            Metric::builder().namespace(*namespace).metric_name(*metric).set_dimensions(Some(dimensions)).build();
        let stat = MetricStat::builder().metric(metric).period(3600).stat("Sum").build();
        MetricDataQuery::builder().id(format!("q{index}")).metric_stat(stat).build()
    });
    let at = |seconds: u64| DateTime::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    let request = installation.clients.cloudwatch.get_metric_data().set_metric_data_queries(Some(queries.collect()));
    let request = request.start_time(at(now.saturating_sub(DAY_SECONDS))).end_time(at(now));
    let mut faults: BTreeMap<String, CallFault> = BTreeMap::new();
    let mut pages = request.into_paginator().send();
    while let Some(page) = pages.next().await {
        for result in page?.metric_data_results() {
            let index = result.id().and_then(|id| id.strip_prefix('q')?.parse::<usize>().ok());
            let Some((call, is_throttle, ..)) = index.and_then(|index| asked.get(index)) else { continue };
            let sum = result.values().iter().sum::<f64>().max(0.0) as u64;
            let fault =
                faults.entry(call.clone()).or_insert_with(|| CallFault { call: call.clone(), throttles: 0, errors: 0 });
            match is_throttle {
                true => fault.throttles += sum,
                false => fault.errors += sum,
            }
        }
    }
    Ok(faults.into_values().collect())
}
