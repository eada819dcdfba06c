//! Asks AWS for everything that a status shows.

use anyhow::Result;
use domain::{
    explain::Explanation,
    model::LifeCycle,
    policy::{Decision, FileCount, Observation, Policy, decide},
    record::{DecisionRecord, Execution},
    redeployment::Evidence,
};

use super::{
    Alarm, Files, Next, Published, Schedule, Service, Status, Target, Trend,
    cost::{self, Running},
};
use crate::operator::{Installation, alarms, executions, history::Row, schedule, time};

/// So many executions are read: the trend comes from their counts.
const MAX_EXECUTIONS: usize = 30;
/// So many of them are shown.
const SHOWN_EXECUTIONS: usize = 5;
/// The average number of transitions of an execution that does nothing, for the cost.
const TRANSITIONS: f64 = 9.0;
const MONTH_SECONDS: f64 = 30.0 * 86_400.0;

/// # Errors
/// When neither the executions nor the world can be asked. What else cannot be asked is in `unknown`.
pub async fn gather(installation: &Installation) -> Result<Status> {
    let clients = &installation.clients;
    let now = time::now();
    let mut status = Status {
        at: time::rfc3339(now),
        stack: installation.stack.as_ref().map(|stack| stack.name.clone()),
        region: installation.config.region().map(|region| region.as_ref().to_owned()).unwrap_or_default(),
        ..Status::default()
    };
    let mut found = executions::recent(&clients.sfn, &installation.state_machine, 0, MAX_EXECUTIONS).await?;
    found.reverse();
    let config = installation.evaluate_config().await?;
    status.file_system = config.file_system.to_string();

    let count = found.iter().rev().find_map(counted);
    let (alarms, schedule, ecs, world) = tokio::join!(
        alarms(installation),
        schedule_of(installation, found.last().map(|last| last.started_at), now),
        tasks(installation, &config.service),
        evaluate::observe(&clients.aws, &config, count.map(|(count, _)| count)),
    );
    let (world, unseen) = world?;
    status.unknown.extend(unseen.map(|err| format!("the network or the file system: {err}")));
    status.add_world(&world, &config.policy, &config.parameter.to_string());
    let counts: Vec<_> = found.iter().filter_map(counted).filter(|(count, _)| count.complete).collect();
    let limit = config.policy.rule.limit(&world, &config.policy);
    let points: Vec<_> = counts.iter().map(|(count, at)| (*at, count.files)).collect();
    status.files = Files {
        files: count.map(|(count, _)| count.files),
        complete: count.is_some_and(|(count, _)| count.complete),
        counted_at: count.map(|(_, at)| time::rfc3339(at)),
        limit: Some(limit),
        trend: Trend::of(&points, Some(limit)),
        history: points.iter().map(|(_, files)| *files).collect(),
    };

    let mut running = Running::default();
    match ecs {
        Ok(Some(tasks)) => {
            running = tasks.running;
            status.service =
                Some(Service { has_read_list: status.has_read_list(&world, &config.policy), ..tasks.service });
        }
        Ok(None) => status.problems.push(format!("ECS knows no service {}.", config.service)),
        Err(err) => status.unknown.push(format!("the service: {err:#}")),
    }
    match alarms {
        Ok(alarms) => status.alarms = alarms,
        Err(err) => status.unknown.push(format!("alarms: {err:#}")),
    }
    let mut every = None;
    match schedule {
        Ok(found) => {
            every = found.as_ref().and_then(|found| schedule::rate_seconds(&found.expression));
            status.schedule = found;
        }
        Err(err) => status.unknown.push(format!("the schedule: {err:#}")),
    }
    running.alarms = status.alarms.len();
    running.transitions = every.map_or(0.0, |every| MONTH_SECONDS / every as f64 * TRANSITIONS);
    running.balancers = usize::from(installation.output("BalancerName").is_some());
    match endpoints(installation, config.vpc.as_str()).await {
        Ok(interfaces) => running.endpoint_interfaces = interfaces,
        Err(err) => status.unknown.push(format!("VPC endpoints: {err:#}")),
    }
    match sizes(installation, config.file_system.as_str()).await {
        Ok((standard, infrequent)) => (running.standard_bytes, running.infrequent_bytes) = (standard, infrequent),
        Err(err) => status.unknown.push(format!("the size of the file system: {err:#}")),
    }
    status.cost = cost::items(&running);
    status.cost_per_month = status.cost.iter().map(|item| item.usd).sum();
    status.executions = found.iter().rev().take(SHOWN_EXECUTIONS).rev().map(Row::of).collect();
    status.add_problems(found.last());
    Ok(status)
}

fn counted(execution: &Execution) -> Option<(FileCount, u64)> {
    let observed = &execution.evaluated.as_ref()?.observed;
    Some((FileCount { files: observed.files?, complete: observed.complete }, execution.started_at))
}

impl Status {
    fn add_world(&mut self, world: &Observation, policy: &Policy, parameter: &str) {
        let list = world.published_list();
        let mut targets: Vec<_> = world.targets.iter().collect();
        targets.sort_by_key(|target| (&target.zone_name, &target.id));
        self.mount_targets = targets
            .iter()
            .map(|target| Target {
                mount_target_id: target.id.to_string(),
                availability_zone: target.zone_name.to_string(),
                state: target.state.to_string(),
                address: target.address().map(|address| address.to_string()),
                is_published: list.is_some_and(|list| list.contains(&target.id)),
            })
            .collect();
        for target in targets.iter().filter(|target| target.state == LifeCycle::Error) {
            self.problems.push(format!("The mount target {} is in the state error.", target.id));
        }
        let publishable = world.publishable();
        self.published = world.published.as_ref().map(|published| {
            let named = |one: Option<&domain::published::PublishedList>,
                         other: Option<&domain::published::PublishedList>| {
                let targets = one.map(|list| list.targets().to_vec()).unwrap_or_default();
                let is_new = |id| other.is_none_or(|other| !other.contains(id));
                let ids = targets.iter().map(|target| &target.mount_target_id).filter(|id| is_new(id));
                ids.map(ToString::to_string).collect::<Vec<_>>()
            };
            Published {
                parameter: parameter.to_owned(),
                version: published.version,
                is_current: list.is_some() && list == publishable.as_ref(),
                missing: named(publishable.as_ref(), list),
                surplus: named(list, publishable.as_ref()),
            }
        });
        let record =
            DecisionRecord { decision: decide(world, policy), observation: world.clone(), policy: policy.clone() };
        let explanation = Explanation::of_decision(&record.output());
        self.next = Some(Next { sentence: explanation.decided.join(" "), reason: explanation.reason });
        if record.decision == Decision::NoAvailableTargets {
            self.problems.push("No mount target is available, and none is being created.".to_owned());
        }
    }

    fn has_read_list(&self, world: &Observation, policy: &Policy) -> Option<bool> {
        let published = world.published.as_ref()?;
        let fingerprint = published.list.as_ref().ok()?.fingerprint();
        let service = world.service.as_ref().ok()?.as_ref();
        let evidence = Evidence {
            fingerprint: &fingerprint,
            modified_at: published.modified_at,
            deployed: world.deployed.as_ref(),
            service,
        };
        policy.redeploy.then(|| evidence.is_covered())
    }

    fn add_problems(&mut self, last: Option<&Execution>) {
        if let Some(last) = last.filter(|last| last.stopped_at.is_some() && !last.has_succeeded()) {
            self.problems
                .push(format!("The last execution failed: {}. `efs-autoscale explain latest` says why.", last.code()));
        }
        if let Some(published) = self.published.as_ref().filter(|published| !published.is_current) {
            self.problems.push(format!(
                "The published list is not current: {} missing, {} surplus. The next execution publishes it.",
                published.missing.len(),
                published.surplus.len()
            ));
        }
        if self.published.is_none() {
            self.problems.push("Nothing is published yet. The next execution publishes the list.".to_owned());
        }
        if self.service.as_ref().is_some_and(|service| service.rollout.as_deref() == Some("FAILED")) {
            self.problems.push("The last deployment of the service failed.".to_owned());
        }
        for alarm in self.alarms.iter().filter(|alarm| alarm.state == "ALARM") {
            self.problems.push(format!("The alarm {} rings: {}", alarm.name, alarm.description));
        }
    }
}

async fn alarms(installation: &Installation) -> Result<Vec<Alarm>> {
    let alarms = alarms::of_stack(installation).await?;
    Ok(alarms
        .into_iter()
        .map(|(name, alarm)| Alarm {
            name,
            state: alarm.state_value().map(|state| state.as_str().to_owned()).unwrap_or_default(),
            since: alarm.state_updated_timestamp().and_then(|at| u64::try_from(at.secs()).ok()).map(time::rfc3339),
            description: alarm.alarm_description().unwrap_or_default().to_owned(),
        })
        .collect())
}

async fn schedule_of(installation: &Installation, last: Option<u64>, now: u64) -> Result<Option<Schedule>> {
    let Some(name) = &installation.schedule else { return Ok(None) };
    let found = schedule::Schedule::read(&installation.clients.scheduler, name).await?;
    Ok(Some(Schedule {
        name: name.clone(),
        expression: found.expression().to_owned(),
        next_start: found.next_start(last, now).map(time::rfc3339),
        paused: found.pause(now),
    }))
}

struct Tasks {
    service: Service,
    running: Running,
}

async fn tasks(installation: &Installation, name: &domain::config::ServiceName) -> Result<Option<Tasks>> {
    let ecs = &installation.clients.aws.ecs;
    let described = ecs.describe_services().cluster(&name.cluster).services(&name.service).send().await?;
    let Some(found) = described.services().iter().find(|service| service.status() != Some("INACTIVE")) else {
        return Ok(None);
    };
    let primary = found.deployments().iter().find(|deployment| deployment.status() == Some("PRIMARY"));
    let service = Service {
        name: name.to_string(),
        running: Some(found.running_count()),
        desired: Some(found.desired_count()),
        rollout: primary.and_then(|primary| primary.rollout_state()).map(|state| state.as_str().to_owned()),
        has_read_list: None,
    };
    let mut running = Running { tasks: found.desired_count(), ..Running::default() };
    if let Some(task) = found.task_definition()
        && let Ok(described) = ecs.describe_task_definition().task_definition(task).send().await
        && let Some(task) = described.task_definition()
    {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0.0);
        running.task_cpu = number(task.cpu());
        running.task_memory = number(task.memory());
        let architecture = task.runtime_platform().and_then(|platform| platform.cpu_architecture());
        running.arm = architecture.is_some_and(|architecture| architecture.as_str() == "ARM64");
    }
    Ok(Some(Tasks { service, running }))
}

/// Network interfaces of the interface endpoints in the VPC that the stack has made.
async fn endpoints(installation: &Installation, vpc: &str) -> Result<usize> {
    let Some(stack) = &installation.stack else { return Ok(0) };
    let filter = |name: &str, value: &str| aws_sdk_ec2::types::Filter::builder().name(name).values(value).build();
    let request = installation.clients.aws.ec2.describe_vpc_endpoints().filters(filter("vpc-id", vpc));
    let request = request.filters(filter("vpc-endpoint-type", "Interface"));
    let found = request.filters(filter("tag:efs-autoscale", &stack.name)).send().await?;
    Ok(found.vpc_endpoints().iter().map(|endpoint| endpoint.network_interface_ids().len()).sum())
}

/// Bytes in standard storage and in Infrequent Access or Archive.
async fn sizes(installation: &Installation, id: &str) -> Result<(f64, f64)> {
    let found = installation.clients.aws.efs.describe_file_systems().file_system_id(id).send().await?;
    let size = found.file_systems().first().and_then(|file_system| file_system.size_in_bytes());
    Ok(size.map_or((0.0, 0.0), |size| {
        let infrequent = size.value_in_ia().unwrap_or(0) + size.value_in_archive().unwrap_or(0);
        ((size.value() - infrequent).max(0) as f64, infrequent as f64)
    }))
}
