//! What is done, in order. Each step looks first, and finds done what an earlier run has done.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_cloudformation::{
    error::ProvideErrorMetadata as _,
    types::{ResourceStatus, StackStatus},
};
use aws_sdk_scheduler::types::ScheduleState;
use aws_sdk_sfn::types::ExecutionStatus;
use domain::{
    config::ParameterType,
    ledger,
    model::MountTarget,
    ports::{DeleteParameter, ListTargets, Redeploy, WriteParameter},
    published::PublishedList,
};

use super::{Clients, Options, plan::Plan, system::System};
use crate::screen::Screen;

const LOOK_EVERY: Duration = Duration::from_secs(2);

/// All of them; the mount targets that were deleted, and what the stack retains.
///
/// # Errors
/// What could not be done, or was not done in time. Running it again goes on.
pub async fn all(
    clients: &Clients,
    system: &System,
    options: &Options,
    screen: &Screen,
) -> Result<(Vec<String>, Vec<String>)> {
    screen.doing("pausing the schedule");
    pause(clients, system).await.context("the schedule was not paused")?;
    screen.doing("waiting for executions that run");
    executions_end(clients, system, options.wait()).await?;

    // Only now: an execution may just have made one more.
    let plan = Plan::of(clients, system, options.uncertain).await?;
    if system.owns_service {
        screen.doing("stopping the service");
        stop(clients, system, options.wait()).await.context("the service was not stopped")?;
    } else {
        screen.doing("redeploying the service on the list that is left");
        leave_to_others(clients, system, &plan, options.wait()).await.context("the service was not redeployed")?;
    }

    let mut deleted = Vec::new();
    for target in &plan.ours {
        screen.doing(&format!("deleting the mount target {} in {}", target.id, target.zone_name));
        delete(clients, system, target, options.wait())
            .await
            .with_context(|| format!("{} was not deleted", target.id))?;
        deleted.push(target.id.to_string());
    }
    let left: Vec<_> = plan.uncertain.iter().chain(&plan.others).map(|target| target.id.to_string()).collect();
    if system.owns_file_system && !options.keep_stack && !left.is_empty() {
        // Before its ledger goes: it says whose they may be.
        bail!(
            "the file system has mount targets that are not known to be this system's, and the stack cannot be \
             deleted with them: {}. Delete them, or give --uncertain for those that may be its own",
            left.join(", ")
        );
    }

    screen.doing("deleting the ledger");
    for name in plan.parameters.keys() {
        if system.owns_service || *name != system.parameter {
            clients.aws.delete_parameter(name).await.with_context(|| format!("{name} was not deleted"))?;
        }
    }
    if options.keep_stack {
        return Ok((deleted, vec![]));
    }
    screen.doing("deleting the stack");
    delete_stack(clients, system, options.wait(), screen).await?;
    Ok((deleted, retained(clients, system).await))
}

/// Looks again and again until it is so, or fails when it takes too long.
async fn until(what: &str, wait: Duration, mut is_so: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !is_so().await? {
        ensure!(began.elapsed() < wait, "{what}: not after {wait:?} (--wait)");
        tokio::time::sleep(LOOK_EVERY.min(wait)).await;
    }
    Ok(())
}

async fn pause(clients: &Clients, system: &System) -> Result<()> {
    let found = clients.scheduler.get_schedule().name(&system.schedule).send().await;
    let schedule = match found {
        Err(why) if why.code() == Some("ResourceNotFoundException") => return Ok(()),
        found => found?,
    };
    if schedule.state() == Some(&ScheduleState::Disabled) {
        return Ok(());
    }
    // What is not said again is forgotten.
    clients
        .scheduler
        .update_schedule()
        .name(&system.schedule)
        .set_group_name(schedule.group_name().map(str::to_owned))
        .set_description(schedule.description().map(str::to_owned))
        .set_schedule_expression(schedule.schedule_expression().map(str::to_owned))
        .set_flexible_time_window(schedule.flexible_time_window().cloned())
        .set_target(schedule.target().cloned())
        .state(ScheduleState::Disabled)
        .send()
        .await?;
    Ok(())
}

async fn executions_end(clients: &Clients, system: &System, wait: Duration) -> Result<()> {
    until("executions that run have ended", wait, async || {
        let request = clients.sfn.list_executions().state_machine_arn(&system.state_machine);
        match request.status_filter(ExecutionStatus::Running).send().await {
            Err(why) if why.code() == Some("StateMachineDoesNotExist") => Ok(true),
            answer => Ok(answer.context("executions cannot be listed")?.executions().is_empty()),
        }
    })
    .await
}

/// The service to no task at all, so that what it writes is written.
async fn stop(clients: &Clients, system: &System, wait: Duration) -> Result<()> {
    let (cluster, service) = (&system.service.cluster, &system.service.service);
    let sent = clients.aws.ecs.update_service().cluster(cluster).service(service).desired_count(0).send().await;
    match sent {
        Err(why)
            if matches!(
                why.code(),
                Some("ServiceNotFoundException" | "ServiceNotActiveException" | "ClusterNotFoundException")
            ) =>
        {
            return Ok(());
        }
        sent => sent?,
    };
    until("its tasks have ended", wait, async || {
        let answer = clients.aws.ecs.describe_services().cluster(cluster).services(service).send().await?;
        Ok(answer.services().iter().all(|service| service.running_count() == 0))
    })
    .await
}

/// Takes this system's targets out of the list, and sees a service that stays on what is left.
async fn leave_to_others(clients: &Clients, system: &System, plan: &Plan, wait: Duration) -> Result<()> {
    let text = plan.parameters.get(&system.parameter);
    let Some(list) = text.and_then(|text| PublishedList::parse(text).ok()) else { return Ok(()) };
    if !plan.ours.iter().any(|target| list.contains(&target.id)) {
        return Ok(());
    }
    let mut targets = clients.aws.list_targets(&system.file_system).await?;
    targets.retain(|target| !plan.ours.iter().any(|ours| ours.id == target.id));
    let left = PublishedList::of(&targets, Some(&list)).context(
        "all targets in the published list are this system's: the service would be left with none. Point it elsewhere, \
         and delete the parameter",
    )?;
    // As it is: Systems Manager does not change a parameter's type.
    let kind = clients.aws.ssm.get_parameter().name(system.parameter.as_str()).send().await?;
    let secure =
        kind.parameter().and_then(|found| found.r#type()) == Some(&aws_sdk_ssm::types::ParameterType::SecureString);
    let kind = if secure { ParameterType::SecureString } else { ParameterType::String };
    clients.aws.write_parameter(&system.parameter, &left.to_json(), kind).await?;
    clients.aws.redeploy(&system.service).await?;
    let (cluster, service) = (&system.service.cluster, &system.service.service);
    until("its deployment has ended", wait, async || {
        let answer = clients.aws.ecs.describe_services().cluster(cluster).services(service).send().await?;
        Ok(answer.services().iter().all(|service| service.deployments().len() <= 1))
    })
    .await
}

/// The target, and when it is gone what the ledger says of it: a run that ends between them finds the record.
async fn delete(clients: &Clients, system: &System, target: &MountTarget, wait: Duration) -> Result<()> {
    match clients.aws.efs.delete_mount_target().mount_target_id(target.id.as_str()).send().await {
        Err(why) if why.code() == Some("MountTargetNotFound") => {}
        sent => {
            sent?;
        }
    }
    until("it is gone", wait, async || {
        let targets = clients.aws.list_targets(&system.file_system).await?;
        Ok(!targets.iter().any(|left| left.id == target.id && left.occupies_its_zone()))
    })
    .await?;
    for name in [ledger::created_name, ledger::intended_name].map(|name| name(&system.parameter, &target.zone)) {
        clients.aws.delete_parameter(&name).await?;
    }
    Ok(())
}

async fn delete_stack(clients: &Clients, system: &System, wait: Duration, screen: &Screen) -> Result<()> {
    let cloudformation = &clients.cloudformation;
    if system.is_protected {
        let request = cloudformation.update_termination_protection().stack_name(&system.stack);
        request.enable_termination_protection(false).send().await.context("the stack stays protected")?;
    }
    cloudformation.delete_stack().stack_name(&system.stack).send().await.context("the stack was not deleted")?;
    until("the stack is gone", wait, async || {
        let answer = match cloudformation.describe_stacks().stack_name(&system.stack).send().await {
            Err(why) if why.code() == Some("ValidationError") => return Ok(true),
            answer => answer?,
        };
        let Some(stack) = answer.stacks().first() else { return Ok(true) };
        match stack.stack_status() {
            Some(StackStatus::DeleteComplete) => Ok(true),
            Some(StackStatus::DeleteFailed) => {
                bail!("the stack was not deleted: {}", stack.stack_status_reason().unwrap_or("its events say why"))
            }
            _ => {
                let left = cloudformation.list_stack_resources().stack_name(&system.stack).send().await?;
                let left = left.stack_resource_summaries().iter();
                let left = left.filter(|one| one.resource_status() != Some(&ResourceStatus::DeleteComplete)).count();
                screen.detail(format!("deleting the stack: {left} resources are left"));
                Ok(false)
            }
        }
    })
    .await
}

/// What CloudFormation left on purpose. For the person's eyes: a stack that is gone may not say it any more.
async fn retained(clients: &Clients, system: &System) -> Vec<String> {
    let answer = clients.cloudformation.list_stack_resources().stack_name(&system.stack).send().await;
    let resources = answer.map(|answer| answer.stack_resource_summaries().to_vec()).unwrap_or_default();
    let skipped = resources.iter().filter(|one| one.resource_status() == Some(&ResourceStatus::DeleteSkipped));
    let name = |one: &aws_sdk_cloudformation::types::StackResourceSummary| {
        format!("{} {}", one.resource_type().unwrap_or_default(), one.physical_resource_id().unwrap_or_default())
    };
    skipped.map(name).collect()
}
