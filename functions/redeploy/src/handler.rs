//! Redeploys the file service, so that its tasks read the published list; once for each list.
//!
//! The intent is recorded before the call: where nothing can be recorded, nothing is repeated.

use domain::{
    config::{ConfigError, ParameterType, ServiceName, Variables},
    error::{AwsError, PutFailure, RedeployError, UpdateFailure},
    ledger::{self, Deployed},
    messages::{RedeployInput, RedeployOutcome, RedeployOutput},
    model::{FileSystemId, ParameterName},
    policy::Warning,
    ports::{Clock, DescribeService, ReadParameters, Redeploy, WriteParameter},
    published::PublishedList,
    redeployment::{Deferral, Evidence, deferral},
};

pub struct Config {
    pub file_system: FileSystemId,
    pub parameter: ParameterName,
    pub service: ServiceName,
    /// `false`: the service reads the list again by itself.
    pub redeploy: bool,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{file_system_id, parameter_name, redeploy, service_name};
        Ok(Self {
            file_system: file_system_id(variables)?,
            parameter: parameter_name(variables)?,
            service: service_name(variables)?,
            redeploy: redeploy(variables)?,
        })
    }
}

/// # Errors
/// [`RedeployError::LedgerNotWritable`]: nothing was done, since it would be done again and again;
/// [`RedeployError::NotRecorded`]: the service is being redeployed; what AWS refuses.
pub async fn handle(
    ports: &(impl Clock + DescribeService + ReadParameters + Redeploy + WriteParameter),
    config: &Config,
    input: RedeployInput,
) -> Result<RedeployOutput, RedeployError> {
    let parameter = ledger::deployed_name(&config.parameter);
    let found = ports.read_parameters(&[config.parameter.clone(), parameter.clone()]).await?;
    let deployed: Option<Deployed> = found.get(&parameter).and_then(|fact| ledger::read(&fact.value));
    // New tasks read the newest list, so the deployment covers what is published now. A read that lags behind
    // the publishing must not lose the list that was asked for.
    let published = found.get(&config.parameter).filter(|published| published.version >= input.published_version);
    let version = published.map_or(input.published_version, |published| published.version);
    let list = published.and_then(|published| PublishedList::parse(&published.value).ok());
    let fingerprint = list.map(|list| list.fingerprint()).or(input.fingerprint).unwrap_or_default();
    let output = |outcome, deployment_id| RedeployOutput { outcome, version, deployment_id, warnings: Vec::new() };
    let deferred = |reason| RedeployOutput {
        warnings: vec![Warning::RedeployDeferred { reason }],
        ..output(RedeployOutcome::Deferred, None)
    };
    if !config.redeploy {
        return Ok(output(RedeployOutcome::Never, None));
    }

    let service = ports.describe_service(&config.service).await?;
    let evidence = Evidence {
        fingerprint: &fingerprint,
        modified_at: published.and_then(|published| published.modified_at),
        deployed: deployed.as_ref(),
        service: service.as_ref(),
    };
    if evidence.is_covered() {
        return Ok(output(RedeployOutcome::Covered, deployed.and_then(|fact| fact.deployment_id)));
    }
    if let Some(reason) = deferral(service.as_ref(), ports.now()) {
        return Ok(deferred(reason));
    }
    let intended = Deployed { fingerprint: fingerprint.clone(), started: false, version, deployment_id: None };
    if let Err(error) = write(ports, &parameter, &intended).await
        // By the dates the next execution sees that this one has redeployed the service.
        && !evidence.has_dates()
    {
        return Err(RedeployError::LedgerNotWritable { parameter, error });
    }
    let deployment_id = match ports.redeploy(&config.service).await {
        Ok(id) => id,
        Err(UpdateFailure::Busy(_)) => return Ok(deferred(Deferral::TooManyDeployments)),
        Err(UpdateFailure::Aws(error)) => return Err(error.into()),
    };
    let started = Deployed { started: true, deployment_id: deployment_id.clone(), ..intended };
    if let Err(error) = write(ports, &parameter, &started).await {
        let deployment = deployment_id.unwrap_or_else(|| config.service.to_string());
        return Err(RedeployError::NotRecorded { deployment, parameter, error });
    }
    Ok(output(RedeployOutcome::Started, deployment_id))
}

async fn write(ports: &impl WriteParameter, name: &ParameterName, fact: &Deployed) -> Result<(), AwsError> {
    let written = ports.write_parameter(name, &ledger::write(fact), ParameterType::String).await;
    written.map(|_| ()).map_err(PutFailure::into_aws)
}
