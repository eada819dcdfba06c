//! Amazon ECS: the file service's deployments.

use aws_sdk_ecs::{
    error::ProvideErrorMetadata,
    types::{DeploymentController, DeploymentControllerType, DeploymentRolloutState},
};
use domain::{
    config::ServiceName,
    error::{AwsError, UpdateFailure},
    model::{Controller, Deployment, Service},
    ports::{DescribeService, Redeploy},
};

use crate::{
    Aws,
    errors::{DESCRIBE_SERVICES, Meaning, UPDATE_SERVICE},
    fault::classify,
};

impl DescribeService for Aws {
    async fn describe_service(&self, name: &ServiceName) -> Result<Option<Service>, AwsError> {
        let sent = self.ecs.describe_services().cluster(&name.cluster).services(&name.service).send().await;
        let answer = match sent {
            Ok(answer) => answer,
            Err(err) => match classify(&DESCRIBE_SERVICES, name, err) {
                failure if failure.meaning == Meaning::NotFound => return Ok(None),
                failure => return Err(failure.into()),
            },
        };
        let active = answer.services().iter().find(|service| service.status() != Some("INACTIVE"));
        Ok(active.map(|service| Service {
            active: service.status() == Some("ACTIVE"),
            controller: match service.deployment_controller().map(DeploymentController::r#type) {
                None | Some(DeploymentControllerType::Ecs) => Controller::Ecs,
                Some(_) => Controller::Other,
            },
            deployments: service
                .deployments()
                .iter()
                .map(|deployment| Deployment {
                    id: deployment.id().unwrap_or_default().to_owned(),
                    primary: deployment.status() == Some("PRIMARY"),
                    created_at: deployment.created_at().and_then(|at| at.secs().try_into().ok()),
                    in_progress: deployment.rollout_state() == Some(&DeploymentRolloutState::InProgress),
                    failed: deployment.rollout_state() == Some(&DeploymentRolloutState::Failed)
                        // After a rollback the failed deployment is gone, and the new one has the reason.
                        || deployment.rollout_state_reason().is_some_and(|err| err.contains("rolling back")),
                })
                .collect(),
        }))
    }
}

impl Redeploy for Aws {
    async fn redeploy(&self, name: &ServiceName) -> Result<Option<String>, UpdateFailure> {
        let sent = self
            .ecs
            .update_service()
            .cluster(&name.cluster)
            .service(&name.service)
            .force_new_deployment(true)
            .send()
            .await;
        match sent {
            Ok(answer) => Ok(answer
                .service()
                .and_then(|service| service.deployments().iter().find(|d| d.status() == Some("PRIMARY")))
                .and_then(|deployment| deployment.id())
                .map(str::to_owned)),
            Err(error) => {
                let too_many = error.code() == Some("InvalidParameterException")
                    && error.message().is_some_and(|err| err.contains("deployments"));
                Err(match classify(&UPDATE_SERVICE, name, error).into() {
                    AwsError::Refused(fault) if too_many => UpdateFailure::Busy(fault),
                    other => UpdateFailure::Aws(other),
                })
            }
        }
    }
}
