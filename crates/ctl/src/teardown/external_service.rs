//! A service outside the stack keeps running: it is redeployed on the list without this system's mount targets, which
//! are deleted only after the new deployment has replaced the old one.

use anyhow::{Context, Result, bail};
use aws_sdk_ecs::types::{Deployment, DeploymentRolloutState};
use aws_smithy_types::DateTime;
use domain::{
    config::ParameterType,
    ports::{Redeploy, WriteParameter},
    published::PublishedList,
};

use super::{
    Clients, Options,
    plan::{Plan, targets},
    system::System,
};
use crate::{screen::Screen, wait::until};

/// Publishes the list without the targets to delete, and waits until the service runs on it.
///
/// # Errors
/// The service may still use the targets. None of them may be deleted then.
pub async fn move_to_remaining_targets(
    clients: &Clients,
    system: &System,
    plan: &Plan,
    options: &Options,
    screen: &Screen,
) -> Result<()> {
    let (Some(parameter), Some(service)) = (&system.parameter, &system.service) else { return Ok(()) };
    let list = plan.parameters.get(parameter).and_then(|text| PublishedList::parse(text).ok());
    if list.as_ref().is_none_or(|list| plan.owned.iter().any(|target| list.contains(&target.id))) {
        publish_remaining_targets(clients, system, plan, list.as_ref())
            .await
            .context("the service was not redeployed")?;
    }
    let published = last_published(clients, system).await?;
    // Look at the deployment itself: an earlier run may have published the list and ended before it called ECS.
    let primary = primary_deployment(clients, system).await?;
    let started = match primary.is_none_or(|one| !is_newer(&one, published)) {
        true => clients.aws.redeploy(service).await.with_context(|| {
            format!(
                "cannot redeploy {}, so the targets stay. Redeploy it and run this again, or give --service-is-off if it no \
                 longer uses them",
                service.service
            )
        })?,
        false => None,
    };
    let replaced = until(screen, "the service runs on the remaining targets", options.wait_timeout(), async || {
        let answer = clients.aws.ecs.describe_services();
        let answer = answer.cluster(&service.cluster).services(&service.service).send().await?;
        let Some(found) = answer.services().iter().find(|service| service.status() != Some("INACTIVE")) else {
            return Ok(None);
        };
        rollout_progress(found.deployments(), started.as_deref(), published)
    });
    replaced.await.context("the service was not redeployed")
}

/// Returns `None` when all tasks have read the list, else what to wait for.
fn rollout_progress(
    deployments: &[Deployment],
    started: Option<&str>,
    published: Option<DateTime>,
) -> Result<Option<String>> {
    let has_read_list = |one: &Deployment| (started.is_some() && one.id() == started) || is_newer(one, published);
    if let Some(failed) = deployments
        .iter()
        .find(|one| has_read_list(one) && one.rollout_state() == Some(&DeploymentRolloutState::Failed))
    {
        bail!("the deployment failed: {}", failed.rollout_state_reason().unwrap_or("ECS gives no reason"));
    }
    match deployments {
        [only] if has_read_list(only) && only.rollout_state() != Some(&DeploymentRolloutState::InProgress) => Ok(None),
        [] => bail!("ECS lists no deployment of the service; give --service-is-off if it no longer uses the targets"),
        [only]
            if !has_read_list(only)
                && only.rollout_state_reason().is_some_and(|reason| reason.contains("rolling back")) =>
        {
            bail!("ECS rolled back to the previous deployment, which uses the previous list")
        }
        all => Ok(Some(format!("{} deployments are active", all.len()))),
    }
}

/// It was created after the list was last written, so its tasks have read it.
fn is_newer(deployment: &Deployment, published: Option<DateTime>) -> bool {
    deployment.created_at().zip(published).is_some_and(|(created, published)| *created > published)
}

async fn primary_deployment(clients: &Clients, system: &System) -> Result<Option<Deployment>> {
    let Some(name) = &system.service else { return Ok(None) };
    let request = clients.aws.ecs.describe_services().cluster(&name.cluster).services(&name.service);
    let answer = request.send().await.context("cannot describe the service")?;
    let mut deployments = answer.services().iter().flat_map(aws_sdk_ecs::types::Service::deployments);
    Ok(deployments.find(|one| one.status() == Some("PRIMARY")).cloned())
}

/// Time of the last write of the list.
async fn last_published(clients: &Clients, system: &System) -> Result<Option<DateTime>> {
    let Some(name) = &system.parameter else { return Ok(None) };
    let answer = clients.aws.ssm.get_parameter().name(name.as_str()).send().await;
    let answer = answer.with_context(|| format!("cannot read {name}"))?;
    Ok(answer.parameter().and_then(|found| found.last_modified_date()).copied())
}

async fn publish_remaining_targets(
    clients: &Clients,
    system: &System,
    plan: &Plan,
    list: Option<&PublishedList>,
) -> Result<()> {
    let Some(parameter) = &system.parameter else { return Ok(()) };
    let mut remaining = targets(clients, system).await?;
    remaining.retain(|target| !plan.owned.iter().any(|owned| owned.id == target.id));
    let remaining = PublishedList::of(&remaining, list).context(
        "this system created all targets in the published list, so the service would have none left. Configure the \
         service to use other targets, and delete the parameter",
    )?;
    // Keep the type: Systems Manager cannot change it.
    let found = clients.aws.ssm.get_parameters().names(parameter.as_str()).send().await?;
    let secure = found.parameters().first().and_then(|found| found.r#type())
        == Some(&aws_sdk_ssm::types::ParameterType::SecureString);
    let kind = if secure { ParameterType::SecureString } else { ParameterType::String };
    clients.aws.write_parameter(parameter, &remaining.to_json(), kind).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(id: &str, created: i64, rollout: DeploymentRolloutState) -> Deployment {
        let built = Deployment::builder().id(id).status("PRIMARY").rollout_state(rollout);
        built.created_at(DateTime::from_secs(created)).build()
    }

    #[test]
    fn a_service_has_moved_when_one_newer_deployment_is_left() {
        use DeploymentRolloutState::{Completed, Failed, InProgress};
        let published = Some(DateTime::from_secs(100));
        let after = |deployments: &[Deployment], started| rollout_progress(deployments, started, published);
        assert_eq!(after(&[deployment("new", 101, Completed)], None).unwrap(), None);
        assert_eq!(after(&[deployment("ours", 100, Completed)], Some("ours")).unwrap(), None);
        // Neither an older deployment nor one in progress counts.
        assert!(after(&[deployment("old", 99, Completed)], None).unwrap().is_some());
        assert!(after(&[deployment("new", 101, InProgress)], None).unwrap().is_some());
        let both = [deployment("new", 101, Completed), deployment("old", 99, Completed)];
        assert!(after(&both, None).unwrap().is_some());
        assert!(after(&[deployment("new", 101, Failed)], None).is_err());
        assert!(after(&[], Some("ours")).is_err());
        // Without creation times, only the deployment that this run started counts.
        assert!(rollout_progress(&[deployment("new", 101, Completed)], None, None).unwrap().is_some());
        assert_eq!(rollout_progress(&[deployment("ours", 1, Completed)], Some("ours"), None).unwrap(), None);
    }
}
