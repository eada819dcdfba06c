//! The steps of a teardown. Each one is idempotent: it skips what an earlier run has done.

use anyhow::{Context, Result, bail};
use aws_sdk_elasticloadbalancingv2::types::LoadBalancerAttribute;
use aws_sdk_scheduler::{error::ProvideErrorMetadata as _, types::ScheduleState};
use aws_sdk_sfn::types::ExecutionStatus;
use domain::{ledger, model::MountTarget, ports::DeleteParameter};

use super::{Clients, Options, external_service, plan::Plan, system::System};
use crate::{screen::Screen, stack::RemainingResource, wait::until};

/// What was deleted, and what remains.
#[derive(Default)]
pub struct Done {
    /// Ids of mount targets.
    pub deleted: Vec<String>,
    /// Resources that CloudFormation retained.
    pub retained: Vec<RemainingResource>,
}

/// Runs all steps.
///
/// # Errors
/// A step failed or timed out. Another run continues.
pub async fn run_all(clients: &Clients, system: &System, options: &Options, screen: &Screen) -> Result<Done> {
    let mut done = Done::default();
    if let Some(stack) = &system.system {
        // A running update would restart what the next steps stop.
        stack.wait_until_idle(&clients.cloudformation, options.wait_timeout(), screen).await?;
    }
    screen.doing("pausing the schedule");
    pause_schedule(clients, system).await.context("cannot pause the schedule")?;
    screen.doing("waiting for running executions");
    wait_for_executions(clients, system, options, screen).await?;

    // Observe again: an execution may just have created another target.
    let plan = Plan::new(clients, system, options.uncertain).await?;
    if system.owns_service {
        screen.doing("stopping the service");
        stop_service(clients, system, options, screen).await.context("cannot stop the service")?;
    } else if !plan.owned.is_empty() && !options.service_is_off {
        screen.doing("redeploying the service on the remaining targets");
        external_service::move_to_remaining_targets(clients, system, &plan, options, screen).await?;
    }
    for target in &plan.owned {
        screen.doing(&format!("deleting the mount target {} in {}", target.id, target.zone_name));
        let deleted = delete_target(clients, system, target, options, screen).await;
        deleted.with_context(|| format!("cannot delete {}", target.id))?;
        done.deleted.push(target.id.to_string());
    }
    // Check again, since an execution may have created a target meanwhile, and before the ledger, which names the
    // owners, is deleted.
    check_no_blocking_targets(system, &plan, options)?;

    screen.doing("deleting the ledger");
    for name in plan.parameters_to_delete(system) {
        clients.aws.delete_parameter(name).await.with_context(|| format!("cannot delete {name}"))?;
    }
    if options.keep_stack {
        return Ok(done);
    }
    lift_deletion_protection(clients, system).await?;
    if let Some(stack) = &system.system {
        screen.doing(&format!("deleting the stack {}", stack.name));
        done.retained.extend(stack.delete(&clients.cloudformation, options.wait_timeout(), screen).await?);
    }
    if let Some(stack) = system.data.as_ref().filter(|_| options.data) {
        screen.doing(&format!("deleting the stack {}", stack.name));
        stack.wait_until_idle(&clients.cloudformation, options.wait_timeout(), screen).await?;
        stack.remove_retention(&clients.cloudformation, options.wait_timeout(), screen).await?;
        done.retained.extend(stack.delete(&clients.cloudformation, options.wait_timeout(), screen).await?);
    }
    Ok(done)
}

/// # Errors
/// Mount targets that stay would make the deletion of a stack fail halfway.
pub fn check_no_blocking_targets(system: &System, plan: &Plan, options: &Options) -> Result<()> {
    let blocking = system.blocking_targets(plan, options);
    if blocking.is_empty() {
        return Ok(());
    }
    bail!(
        "mount targets that this system is not known to have created are on the file system or in the subnets to delete: {}. \
         Delete them (aws efs delete-mount-target --mount-target-id ID), or give --uncertain to delete those that it may have \
         created",
        blocking.join(", ")
    )
}

async fn pause_schedule(clients: &Clients, system: &System) -> Result<()> {
    let Some(name) = &system.schedule else { return Ok(()) };
    let schedule = match clients.scheduler.get_schedule().name(name).send().await {
        Err(err) if err.code() == Some("ResourceNotFoundException") => return Ok(()),
        found => found?,
    };
    if schedule.state() == Some(&ScheduleState::Disabled) {
        return Ok(());
    }
    // UpdateSchedule resets every property that is not given.
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

async fn wait_for_executions(clients: &Clients, system: &System, options: &Options, screen: &Screen) -> Result<()> {
    let Some(machine) = &system.state_machine else { return Ok(()) };
    until(screen, "running executions end", options.wait_timeout(), async || {
        let request = clients.sfn.list_executions().state_machine_arn(machine);
        let running = match request.status_filter(ExecutionStatus::Running).send().await {
            Err(err) if err.code() == Some("StateMachineDoesNotExist") => return Ok(None),
            answer => answer.context("cannot list the executions")?.executions().len(),
        };
        Ok((running > 0).then(|| format!("{running} running")))
    })
    .await
}

/// Scales the service to zero tasks, so that all its writes end.
async fn stop_service(clients: &Clients, system: &System, options: &Options, screen: &Screen) -> Result<()> {
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
    until(screen, "the tasks of the service stop", options.wait_timeout(), async || {
        let answer = clients.aws.ecs.describe_services().cluster(cluster).services(service).send().await?;
        let running: i32 = answer.services().iter().map(aws_sdk_ecs::types::Service::running_count).sum();
        Ok((running > 0).then(|| format!("{running} running")))
    })
    .await
}

/// Deletes the target, and then its ledger entries: a run that is interrupted in between finds them again.
async fn delete_target(
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
    until(screen, &format!("{} is deleted", target.id), options.wait_timeout(), async || {
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

/// A load balancer with deletion protection makes the deletion of its stack fail. Earlier versions of the stack enabled
/// it, and users may.
async fn lift_deletion_protection(clients: &Clients, system: &System) -> Result<()> {
    for arn in &system.load_balancers {
        let off = LoadBalancerAttribute::builder().key("deletion_protection.enabled").value("false").build();
        match clients.elb.modify_load_balancer_attributes().load_balancer_arn(arn).attributes(off).send().await {
            Err(err) if err.code() == Some("LoadBalancerNotFound") => {}
            sent => {
                sent.with_context(|| format!("cannot disable the deletion protection of the load balancer {arn}"))?;
            }
        }
    }
    Ok(())
}
