//! Creates one mount target, or adopts the one that its zone has already. Does not wait for it.
//!
//! EFS takes no client token, so this looks before it acts: a repeat, a redrive and an overlapping
//! execution all find the target and take it.
//!
//! The ledger's record of the zone is written so that no execution destroys another's: the intent only
//! where there is no record, the outcome always, and only an intent of one's own is withdrawn.

use domain::{
    config::{ConfigError, ParameterType, Variables},
    error::{AwsError, AwsFault, CreateFailure, CreateTargetError, PutFailure},
    ledger::{self, Created},
    messages::{CreateOutcome, CreateTargetInput, CreateTargetOutput},
    model::{FileSystemId, MountTarget, ParameterName, SecurityGroupId, ZoneId},
    ports::{Clock, CreateTarget, DeleteParameter, ListTargets, Overwrite, WriteParameter},
};

pub struct Config {
    pub file_system: FileSystemId,
    pub security_groups: Vec<SecurityGroupId>,
    pub parameter: ParameterName,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{file_system_id, parameter_name, security_group_ids};
        Ok(Self {
            file_system: file_system_id(variables)?,
            security_groups: security_group_ids(variables)?,
            parameter: parameter_name(variables)?,
        })
    }
}

/// `execution` is who asks, for the ledger.
///
/// # Errors
/// [`CreateTargetError::SubnetRefused`] and [`CreateTargetError::ZoneRefused`] leave everything as it was.
pub async fn handle(
    ports: &(impl Clock + CreateTarget + DeleteParameter + ListTargets + WriteParameter),
    config: &Config,
    input: CreateTargetInput,
    execution: Option<String>,
) -> Result<CreateTargetOutput, CreateTargetError> {
    if let Some(target) = target_in(&input.zone_id, ports.list_targets(&config.file_system).await?) {
        return Ok(adopted(target));
    }
    let record = ledger::created_name(&config.parameter, &input.zone_id);
    let mut fact = Created {
        file_system_id: config.file_system.clone(),
        subnet_id: input.subnet_id.clone(),
        execution,
        intended_at: ports.now(),
        mount_target_id: None,
        created_at: None,
    };
    let intent_is_ours = match write(ports, &record, &fact, Overwrite::No).await {
        Ok(()) => true,
        // An overlapping execution's intent, or the record of a target that somebody deleted since.
        Err(PutFailure::Exists(_)) => false,
        Err(other) => return Err(aws_error(other).into()),
    };
    match ports.create_target(&config.file_system, &input.subnet_id, &config.security_groups).await {
        Ok(target) => {
            fact.mount_target_id = Some(target.id.clone());
            fact.created_at = Some(ports.now());
            write(ports, &record, &fact, Overwrite::Yes).await.map_err(aws_error)?;
            Ok(CreateTargetOutput {
                mount_target_id: target.id,
                outcome: CreateOutcome::Created,
                created_at: fact.created_at,
            })
        }
        Err(failure) => {
            // Refused for certain: nothing was made, so nothing was meant. An uncertain outcome keeps
            // its intent, since the call may have reached EFS.
            let refused = !matches!(failure, CreateFailure::Aws(AwsError::Throttled(_) | AwsError::Unavailable(_)));
            if refused && intent_is_ours {
                ports.delete_parameter(&record).await?;
            }
            match failure {
                CreateFailure::Conflict(fault) => {
                    let found = target_in(&input.zone_id, ports.list_targets(&config.file_system).await?);
                    // Not in this zone: EFS means its rule that all targets are in one VPC.
                    found.map(adopted).ok_or(CreateTargetError::TargetInAnotherVpc(fault))
                }
                CreateFailure::Subnet(fault) => Err(CreateTargetError::SubnetRefused(fault)),
                CreateFailure::Zone(fault) => Err(CreateTargetError::ZoneRefused(fault)),
                CreateFailure::Aws(error) => Err(error.into()),
            }
        }
    }
}

fn target_in(zone: &ZoneId, targets: Vec<MountTarget>) -> Option<MountTarget> {
    targets.into_iter().find(|target| target.zone == *zone && target.occupies_its_zone())
}

fn adopted(target: MountTarget) -> CreateTargetOutput {
    CreateTargetOutput { mount_target_id: target.id, outcome: CreateOutcome::Adopted, created_at: None }
}

async fn write(
    ports: &impl WriteParameter,
    name: &ParameterName,
    fact: &Created,
    overwrite: Overwrite,
) -> Result<(), PutFailure> {
    ports.write_parameter(name, &ledger::write(fact), ParameterType::String, overwrite).await.map(|_| ())
}

fn aws_error(failure: PutFailure) -> AwsError {
    let refused = |fault: AwsFault| AwsError::Refused(fault);
    match failure {
        PutFailure::Aws(error) => error,
        PutFailure::Exists(fault) | PutFailure::TypeMismatch(fault) | PutFailure::TooLarge(fault) => refused(fault),
    }
}
