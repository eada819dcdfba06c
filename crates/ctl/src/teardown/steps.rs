//! What is done, in order. Each step looks first, and finds done what an earlier run has done.

use anyhow::{Context, Result, bail};
use aws_sdk_elasticloadbalancingv2::types::LoadBalancerAttribute;
use aws_sdk_scheduler::{error::ProvideErrorMetadata as _, types::ScheduleState};
use aws_sdk_sfn::types::ExecutionStatus;
use domain::{ledger, model::MountTarget, ports::DeleteParameter};

use super::{Clients, Options, left_to_others, plan::Plan, system::System};
use crate::{screen::Screen, stack::Left, wait::until};

/// What came of it.
#[derive(Default)]
pub struct Done {
    /// Ids of mount targets.
    pub deleted: Vec<String>,
    /// What CloudFormation left on purpose.
    pub retained: Vec<Left>,
}

/// All of them.
///
/// # Errors
/// What could not be done, or was not done in time. Running it again goes on.
pub async fn all(clients: &Clients, system: &System, options: &Options, screen: &Screen) -> Result<Done> {
    let mut done = Done::default();
    if let Some(stack) = &system.system {
        // An update that still runs would start again what is stopped here.
        stack.settle(&clients.cloudformation, options.wait(), screen).await?;
    }
    screen.doing("pausing the schedule");
    pause(clients, system).await.context("the schedule was not paused")?;
    screen.doing("waiting for executions that run");
    executions_end(clients, system, options, screen).await?;

    // Only now: an execution may just have made one more.
    let plan = Plan::of(clients, system, options.uncertain).await?;
    if system.owns_service {
        screen.doing("stopping the service");
        stop(clients, system, options, screen).await.context("the service was not stopped")?;
    } else if !plan.ours.is_empty() && !options.service_is_off {
        screen.doing("redeploying the service on the list that is left");
        left_to_others::leave(clients, system, &plan, options, screen).await?;
    }
    for target in &plan.ours {
        screen.doing(&format!("deleting the mount target {} in {}", target.id, target.zone_name));
        let deleted = delete(clients, system, target, options, screen).await;
        deleted.with_context(|| format!("{} was not deleted", target.id))?;
        done.deleted.push(target.id.to_string());
    }
    // An execution may have ended since it was first looked at. Before the ledger goes: it says whose the targets may be.
    none_blocks(system, &plan, options)?;

    screen.doing("deleting the ledger");
    for name in plan.parameters_that_go(system) {
        clients.aws.delete_parameter(name).await.with_context(|| format!("{name} was not deleted"))?;
    }
    if options.keep_stack {
        return Ok(done);
    }
    lift_deletion_protection(clients, system).await?;
    if let Some(stack) = &system.system {
        screen.doing(&format!("deleting the stack {}", stack.name));
        done.retained.extend(stack.delete(&clients.cloudformation, options.wait(), screen).await?);
    }
    if let Some(stack) = system.data.as_ref().filter(|_| options.data) {
        screen.doing(&format!("deleting the stack {}", stack.name));
        stack.settle(&clients.cloudformation, options.wait(), screen).await?;
        stack.release(&clients.cloudformation, options.wait(), screen).await?;
        done.retained.extend(stack.delete(&clients.cloudformation, options.wait(), screen).await?);
    }
    Ok(done)
}

/// # Errors
/// When mount targets that stay would make the deletion of a stack fail halfway.
pub fn none_blocks(system: &System, plan: &Plan, options: &Options) -> Result<()> {
    let blocking = system.blocking_targets(plan, options);
    if blocking.is_empty() {
        return Ok(());
    }
    bail!(
        "mount targets that are not known to be this system's are on the file system or in the subnets to delete: {}. \
         Delete them (aws efs delete-mount-target --mount-target-id ID), or give --uncertain for those that may be its own",
        blocking.join(", ")
    )
}

async fn pause(clients: &Clients, system: &System) -> Result<()> {
    let Some(name) = &system.schedule else { return Ok(()) };
    let schedule = match clients.scheduler.get_schedule().name(name).send().await {
        Err(err) if err.code() == Some("ResourceNotFoundException") => return Ok(()),
        found => found?,
    };
    if schedule.state() == Some(&ScheduleState::Disabled) {
        return Ok(());
    }
    // What is not said again is forgotten.
    clients
        .scheduler
        .update_schedule()
        .name(name)
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

async fn executions_end(clients: &Clients, system: &System, options: &Options, screen: &Screen) -> Result<()> {
    let Some(machine) = &system.state_machine else { return Ok(()) };
    until(screen, "executions that run have ended", options.wait(), async || {
        let request = clients.sfn.list_executions().state_machine_arn(machine);
        let running = match request.status_filter(ExecutionStatus::Running).send().await {
            Err(err) if err.code() == Some("StateMachineDoesNotExist") => return Ok(None),
            answer => answer.context("executions cannot be listed")?.executions().len(),
        };
        Ok((running > 0).then(|| format!("{running} run")))
    })
    .await
}

/// The service to no task at all, so that what it writes is written.
async fn stop(clients: &Clients, system: &System, options: &Options, screen: &Screen) -> Result<()> {
    let Some(name) = &system.service else { return Ok(()) };
    let (cluster, service) = (&name.cluster, &name.service);
    let sent = clients.aws.ecs.update_service().cluster(cluster).service(service).desired_count(0).send().await;
    match sent {
        Err(err)
            if matches!(
                err.code(),
                Some("ServiceNotFoundException" | "ServiceNotActiveException" | "ClusterNotFoundException")
            ) =>
        {
            return Ok(());
        }
        sent => sent?,
    };
    until(screen, "the tasks of the service have ended", options.wait(), async || {
        let answer = clients.aws.ecs.describe_services().cluster(cluster).services(service).send().await?;
        let running: i32 = answer.services().iter().map(aws_sdk_ecs::types::Service::running_count).sum();
        Ok((running > 0).then(|| format!("{running} run")))
    })
    .await
}

/// The target, and when it is gone what the ledger says of it: a run that ends between them finds the record.
async fn delete(
    clients: &Clients,
    system: &System,
    target: &MountTarget,
    options: &Options,
    screen: &Screen,
) -> Result<()> {
    match clients.aws.efs.delete_mount_target().mount_target_id(target.id.as_str()).send().await {
        Err(err) if err.code() == Some("MountTargetNotFound") => {}
        sent => {
            sent?;
        }
    }
    until(screen, &format!("{} is gone", target.id), options.wait(), async || {
        let targets = super::plan::targets(clients, system).await?;
        let left = targets.into_iter().find(|left| left.id == target.id && left.occupies_its_zone());
        Ok(left.map(|_| "EFS is deleting it".to_owned()))
    })
    .await?;
    if let Some(parameter) = &system.parameter {
        for name in [ledger::created_name, ledger::intended_name].map(|name| name(parameter, &target.zone)) {
            clients.aws.delete_parameter(&name).await?;
        }
    }
    Ok(())
}

/// A load balancer that is protected refuses the deletion of its stack. Ours are not, but those of systems from before
/// were, and people set it.
async fn lift_deletion_protection(clients: &Clients, system: &System) -> Result<()> {
    for arn in &system.load_balancers {
        let off = LoadBalancerAttribute::builder().key("deletion_protection.enabled").value("false").build();
        match clients.elb.modify_load_balancer_attributes().load_balancer_arn(arn).attributes(off).send().await {
            Err(err) if err.code() == Some("LoadBalancerNotFound") => {}
            sent => {
                sent.with_context(|| format!("the load balancer {arn} keeps its deletion protection"))?;
            }
        }
    }
    Ok(())
}
