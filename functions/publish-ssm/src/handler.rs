//! Publishes the list of mount targets, computed from what EFS reports now and written as a whole, only if it differs from
//! the published one. On any error the published list is unchanged.
//!
//! If an earlier list returns, tasks may have started with the list in between. The ledger's record of the redeployment for
//! it is therefore deleted before the list is written.

use domain::{
    config::{ConfigError, ParameterType, Variables},
    error::{PublishError, PutFailure},
    ledger::{self, Deployed},
    messages::{PublishInput, PublishOutput},
    model::{FileSystemId, ParameterName},
    ports::{DeleteParameter, ListTargets, ReadParameters, WriteParameter},
    published::{PARAMETER_LIMIT, PublishedList},
};

pub struct Config {
    pub file_system: FileSystemId,
    pub parameter: ParameterName,
    pub kind: ParameterType,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{file_system_id, parameter_name, parameter_type};
        Ok(Self {
            file_system: file_system_id(variables)?,
            parameter: parameter_name(variables)?,
            kind: parameter_type(variables)?,
        })
    }
}

/// # Errors
/// [`PublishError::TargetNotVisible`] when EFS does not show the target that must be in the list yet;
/// [`PublishError::NoAvailableTargets`] rather than an empty list.
pub async fn handle(
    ports: &(impl DeleteParameter + ListTargets + ReadParameters + WriteParameter),
    config: &Config,
    input: PublishInput,
) -> Result<PublishOutput, PublishError> {
    let targets = ports.list_targets(&config.file_system).await?;
    let deployed = ledger::deployed_name(&config.parameter);
    let found = ports.read_parameters(&[config.parameter.clone(), deployed.clone()]).await?;
    let current = found.get(&config.parameter);
    let current_list = current.and_then(|parameter| PublishedList::parse(&parameter.value).ok());

    let list = PublishedList::of(&targets, current_list.as_ref());
    if let Some(id) = input.must_include
        && !list.as_ref().is_some_and(|list| list.contains(&id))
    {
        return Err(PublishError::TargetNotVisible(id));
    }
    let list = list.ok_or(PublishError::NoAvailableTargets)?;
    let mount_targets = list.targets().to_vec();
    let fingerprint = list.fingerprint();
    if let Some(current) = current
        && current_list.as_ref() == Some(&list)
    {
        return Ok(PublishOutput { version: current.version, fingerprint, changed: false, mount_targets });
    }
    let text = list.to_json();
    let too_large = PublishError::ParameterTooLarge { targets: mount_targets.len(), bytes: text.len() };
    if text.len() > PARAMETER_LIMIT {
        return Err(too_large);
    }
    let recorded: Option<Deployed> = found.get(&deployed).and_then(|fact| ledger::read(&fact.value));
    if current_list.is_some() && recorded.is_some_and(|fact| fact.fingerprint == fingerprint) {
        ports.delete_parameter(&deployed).await?;
    }
    let version =
        ports.write_parameter(&config.parameter, &text, config.kind).await.map_err(|failure| match failure {
            PutFailure::TooLarge(_) => too_large,
            PutFailure::TypeMismatch(fault) => PublishError::ParameterTypeMismatch(fault),
            PutFailure::Aws(error) => PublishError::Aws(error),
        })?;
    Ok(PublishOutput { version, fingerprint, changed: true, mount_targets })
}
