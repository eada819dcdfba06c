//! A service that is not the stack's goes on: it is moved to the list without this system's targets, and they are
//! deleted only once it is known to have moved.

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

/// # Errors
/// When the service is not known to have left the targets that go. None may be deleted then.
pub async fn leave(clients: &Clients, system: &System, plan: &Plan, options: &Options, screen: &Screen) -> Result<()> {
    let (Some(parameter), Some(service)) = (&system.parameter, &system.service) else { return Ok(()) };
    let list = plan.parameters.get(parameter).and_then(|text| PublishedList::parse(text).ok());
    if list.as_ref().is_none_or(|list| plan.ours.iter().any(|target| list.contains(&target.id))) {
        publish_rest(clients, system, plan, list.as_ref()).await.context("the service was not redeployed")?;
    }
    let published = published(clients, system).await?;
    // By the service's own deployment, whatever an earlier run came to: it may have ended before it asked ECS.
    let primary = primary(clients, system).await?;
    let started = match primary.is_none_or(|one| !is_newer(&one, published)) {
        true => clients.aws.redeploy(service).await.with_context(|| {
            format!(
                "ECS takes no deployment of {}: the targets stay. When it has been redeployed, run this again; \
                 --service-is-off when it uses them no more",
                service.service
            )
        })?,
        false => None,
    };
    let replaced = until(screen, "the service runs on the list that is left", options.wait(), async || {
        let answer = clients.aws.ecs.describe_services();
        let answer = answer.cluster(&service.cluster).services(&service.service).send().await?;
        let Some(found) = answer.services().iter().find(|service| service.status() != Some("INACTIVE")) else {
            return Ok(None);
        };
        state(found.deployments(), started.as_deref(), published)
    });
    replaced.await.context("the service was not redeployed")
}

/// What is waited for, `None` when every task has read the list.
fn state(deployments: &[Deployment], started: Option<&str>, published: Option<DateTime>) -> Result<Option<String>> {
    let is_ours = |one: &Deployment| (started.is_some() && one.id() == started) || is_newer(one, published);
    if let Some(failed) =
        deployments.iter().find(|one| is_ours(one) && one.rollout_state() == Some(&DeploymentRolloutState::Failed))
    {
        bail!("its deployment failed: {}", failed.rollout_state_reason().unwrap_or("ECS gives no reason"));
    }
    match deployments {
        [only] if is_ours(only) && only.rollout_state() != Some(&DeploymentRolloutState::InProgress) => Ok(None),
        [] => bail!("ECS shows no deployment of it; --service-is-off when it uses the targets no more"),
        [only]
            if !is_ours(only) && only.rollout_state_reason().is_some_and(|reason| reason.contains("rolling back")) =>
        {
            bail!("ECS went back to the deployment before, on the list of before")
        }
        all => Ok(Some(format!("{} deployments", all.len()))),
    }
}

/// Its tasks began after the list was last written, so they have read it.
fn is_newer(deployment: &Deployment, published: Option<DateTime>) -> bool {
    deployment.created_at().zip(published).is_some_and(|(created, published)| *created > published)
}

async fn primary(clients: &Clients, system: &System) -> Result<Option<Deployment>> {
    let Some(name) = &system.service else { return Ok(None) };
    let request = clients.aws.ecs.describe_services().cluster(&name.cluster).services(&name.service);
    let answer = request.send().await.context("the service cannot be looked at")?;
    let mut deployments = answer.services().iter().flat_map(aws_sdk_ecs::types::Service::deployments);
    Ok(deployments.find(|one| one.status() == Some("PRIMARY")).cloned())
}

/// When the list was last written.
async fn published(clients: &Clients, system: &System) -> Result<Option<DateTime>> {
    let Some(name) = &system.parameter else { return Ok(None) };
    let answer = clients.aws.ssm.get_parameter().name(name.as_str()).send().await;
    let answer = answer.with_context(|| format!("{name} cannot be read"))?;
    Ok(answer.parameter().and_then(|found| found.last_modified_date()).copied())
}

async fn publish_rest(clients: &Clients, system: &System, plan: &Plan, list: Option<&PublishedList>) -> Result<()> {
    let Some(parameter) = &system.parameter else { return Ok(()) };
    let mut left = targets(clients, system).await?;
    left.retain(|target| !plan.ours.iter().any(|ours| ours.id == target.id));
    let left = PublishedList::of(&left, list).context(
        "all targets in the published list are this system's: the service would be left with none. Point it elsewhere, \
         and delete the parameter",
    )?;
    // As it is: Systems Manager does not change a parameter's type.
    let found = clients.aws.ssm.get_parameters().names(parameter.as_str()).send().await?;
    let secure = found.parameters().first().and_then(|found| found.r#type())
        == Some(&aws_sdk_ssm::types::ParameterType::SecureString);
    let kind = if secure { ParameterType::SecureString } else { ParameterType::String };
    clients.aws.write_parameter(parameter, &left.to_json(), kind).await?;
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
        let after = |deployments: &[Deployment], started| state(deployments, started, published);
        assert_eq!(after(&[deployment("new", 101, Completed)], None).unwrap(), None);
        assert_eq!(after(&[deployment("ours", 100, Completed)], Some("ours")).unwrap(), None);
        // An older one says nothing, and one that still replaces it neither.
        assert!(after(&[deployment("old", 99, Completed)], None).unwrap().is_some());
        assert!(after(&[deployment("new", 101, InProgress)], None).unwrap().is_some());
        let both = [deployment("new", 101, Completed), deployment("old", 99, Completed)];
        assert!(after(&both, None).unwrap().is_some());
        assert!(after(&[deployment("new", 101, Failed)], None).is_err());
        assert!(after(&[], Some("ours")).is_err());
        // Without times only the one that this run has started counts.
        assert!(state(&[deployment("new", 101, Completed)], None, None).unwrap().is_some());
        assert_eq!(state(&[deployment("ours", 1, Completed)], Some("ours"), None).unwrap(), None);
    }
}
