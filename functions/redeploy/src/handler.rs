//! Redeploys the file service, so that its tasks read the published list; once for each version of it.

use domain::{
    config::{ConfigError, ParameterType, ServiceName, Variables},
    error::{PutFailure, RedeployError, UpdateFailure},
    ledger::{self, Deployed},
    messages::{RedeployInput, RedeployOutcome, RedeployOutput},
    model::{FileSystemId, ParameterName},
    ports::{DescribeService, ReadParameters, Redeploy, WriteParameter},
};

pub struct Config {
    pub file_system: FileSystemId,
    pub parameter: ParameterName,
    pub service: ServiceName,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{file_system_id, parameter_name, service_name};
        Ok(Self {
            file_system: file_system_id(variables)?,
            parameter: parameter_name(variables)?,
            service: service_name(variables)?,
        })
    }
}

/// # Errors
/// What AWS refuses. A crash between the deployment and the ledger costs one deployment more.
pub async fn handle(
    ports: &(impl DescribeService + ReadParameters + Redeploy + WriteParameter),
    config: &Config,
    input: RedeployInput,
) -> Result<RedeployOutput, RedeployError> {
    let ledger = ledger::deployed_name(&config.parameter);
    let found = ports.read_parameters(&[config.parameter.clone(), ledger.clone()]).await?;
    // New tasks read the newest list, so the deployment covers what is published now. A read that lags
    // behind the publishing must not lose the version that was asked for.
    let published = found.get(&config.parameter).map_or(0, |parameter| parameter.version);
    let version = published.max(input.published_version);
    let deployed = found.get(&ledger).and_then(|fact| ledger::read::<Deployed>(&fact.value));
    if let Some(deployed) = deployed
        && deployed.version == version
    {
        let deployment_id = deployed.deployment_id;
        return Ok(RedeployOutput { outcome: RedeployOutcome::Covered, version, deployment_id });
    }
    let deferred = RedeployOutput { outcome: RedeployOutcome::Deferred, version, deployment_id: None };
    let service = ports.describe_service(&config.service).await?;
    if service.is_some_and(|service| service.has_most_deployments()) {
        return Ok(deferred);
    }
    let deployment_id = match ports.redeploy(&config.service).await {
        Ok(id) => id,
        Err(UpdateFailure::Busy(_)) => return Ok(deferred),
        Err(UpdateFailure::Aws(error)) => return Err(error.into()),
    };
    let fact = Deployed { version, deployment_id };
    let text = ledger::write(&fact);
    let written = ports.write_parameter(&ledger, &text, ParameterType::String).await;
    written.map_err(PutFailure::into_aws)?;
    Ok(RedeployOutput { outcome: RedeployOutcome::Started, version, deployment_id: fact.deployment_id })
}
