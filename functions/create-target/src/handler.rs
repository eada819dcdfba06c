//! Creates one mount target, or adopts the existing one of its zone. Does not wait for it.
//!
//! EFS takes no client token, so the function looks first: a retry, a redrive and an overlapping execution find the target
//! and adopt it.
//!
//! The ledger stores intent and outcome separately: with two executions in the same zone, withdrawing an intent never
//! removes the record of a created target. It also stores what EFS refused.

use domain::{
    config::{ConfigError, IpAddressType, ParameterType, Variables},
    error::{AwsError, AwsFault, CreateFailure, CreateTargetError, PutFailure},
    ledger::{self, Created, Intended, Refusal, Refusals, Scope},
    messages::{CreateOutcome, CreateTargetInput, CreateTargetOutput},
    model::{FileSystemId, MountTarget, MountTargetId, ParameterName, SecurityGroupId, ZoneId},
    ports::{Clock, CreateTarget, DeleteParameter, ListTargets, ReadParameters, WriteParameter},
};
use serde::Serialize;
use tracing::warn;

pub struct Config {
    pub file_system: FileSystemId,
    pub security_groups: Vec<SecurityGroupId>,
    pub addresses: IpAddressType,
    pub parameter: ParameterName,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{file_system_id, ip_address_type, parameter_name, security_group_ids};
        Ok(Self {
            file_system: file_system_id(variables)?,
            security_groups: security_group_ids(variables)?,
            addresses: ip_address_type(variables)?,
            parameter: parameter_name(variables)?,
        })
    }
}

/// `execution` is recorded in the ledger.
///
/// # Errors
/// [`CreateTargetError::SubnetRefused`] and [`CreateTargetError::ZoneRefused`] had no effect.
pub async fn handle(
    ports: &(impl Clock + CreateTarget + DeleteParameter + ListTargets + ReadParameters + WriteParameter),
    config: &Config,
    input: CreateTargetInput,
    execution: Option<String>,
) -> Result<CreateTargetOutput, CreateTargetError> {
    let intention = ledger::intended_name(&config.parameter, &input.zone_id);
    let outcome = ledger::created_name(&config.parameter, &input.zone_id);
    let record = |mount_target_id: &MountTargetId, created_at| Created {
        file_system_id: config.file_system.clone(),
        subnet_id: input.subnet_id.clone(),
        execution: execution.clone(),
        mount_target_id: mount_target_id.clone(),
        created_at,
    };
    if let Some(target) = target_in(&input.zone_id, ports.list_targets(&config.file_system).await?) {
        let facts = ports.read_parameters(&[intention.clone(), outcome.clone()]).await?;
        let intended: Option<Intended> = facts.get(&intention).and_then(|fact| ledger::read(&fact.value));
        let recorded: Option<Created> = facts.get(&outcome).and_then(|fact| ledger::read(&fact.value));
        // An earlier try of this execution created it, and its response or its record was lost.
        if let Some(intended) = intended
            && execution.is_some()
            && intended.execution == execution
            && intended.subnet_id == target.subnet
            && recorded.is_none_or(|recorded| recorded.mount_target_id != target.id)
        {
            write(ports, &outcome, &record(&target.id, intended.intended_at)).await?;
        }
        return Ok(adopted(target));
    }
    let intended = Intended {
        file_system_id: config.file_system.clone(),
        subnet_id: input.subnet_id.clone(),
        execution: execution.clone(),
        intended_at: ports.now(),
    };
    write(ports, &intention, &intended).await?;
    let (subnet, groups) = (&input.subnet_id, &config.security_groups);
    match ports.create_target(&config.file_system, subnet, groups, config.addresses).await {
        Ok(target) => {
            let created_at = ports.now();
            write(ports, &outcome, &record(&target.id, created_at)).await?;
            Ok(CreateTargetOutput {
                mount_target_id: target.id,
                outcome: CreateOutcome::Created,
                created_at: Some(created_at),
            })
        }
        // The call may have taken effect: the intent stays, and the next try finds the target.
        Err(CreateFailure::Aws(error @ AwsError::Unavailable(_))) => Err(error.into()),
        Err(refused) => {
            ports.delete_parameter(&intention).await?;
            if let Some((scope, fault)) = about(&refused) {
                remember(ports, config, &input, scope, fault).await;
            }
            match refused {
                CreateFailure::Conflict(fault) => {
                    let found = target_in(&input.zone_id, ports.list_targets(&config.file_system).await?);
                    found.map(adopted).ok_or(CreateTargetError::ConflictNotVisible(fault))
                }
                CreateFailure::Subnet(fault) => Err(CreateTargetError::SubnetRefused(fault)),
                CreateFailure::Zone(fault) => Err(CreateTargetError::ZoneRefused(fault)),
                CreateFailure::Later(fault) => Err(CreateTargetError::Later(fault)),
                CreateFailure::Aws(error) => Err(error.into()),
            }
        }
    }
}

/// The scope of a refusal and EFS's error; `None` if it is not a refusal.
fn about(failure: &CreateFailure) -> Option<(Scope, &AwsFault)> {
    match failure {
        CreateFailure::Subnet(fault) => Some((Scope::Subnet, fault)),
        CreateFailure::Zone(fault) => Some((Scope::Zone, fault)),
        CreateFailure::Later(fault) | CreateFailure::Aws(AwsError::Refused(fault)) => Some((Scope::FileSystem, fault)),
        CreateFailure::Conflict(_) | CreateFailure::Aws(_) => None,
    }
}

/// Stores a refusal for later executions. A failure to store costs them one refused call.
async fn remember(
    ports: &(impl Clock + ReadParameters + WriteParameter),
    config: &Config,
    input: &CreateTargetInput,
    scope: Scope,
    fault: &AwsFault,
) {
    let name = ledger::refused_name(&config.parameter, &input.zone_id);
    let kept = async {
        let found = ports.read_parameters(std::slice::from_ref(&name)).await?;
        let known = found.get(&name).and_then(|fact| ledger::read::<Refusals>(&fact.value));
        let mut refusals = known.unwrap_or_default();
        refusals.add(Refusal {
            file_system_id: config.file_system.clone(),
            subnet_id: input.subnet_id.clone(),
            zone_id: input.zone_id.clone(),
            scope,
            code: fault.code.clone(),
            message: fault.message.clone(),
            refused_at: ports.now(),
        });
        write(ports, &name, &refusals).await
    };
    if let Err(error) = kept.await {
        warn!(%error, parameter = %name, "what EFS has refused cannot be kept");
    }
}

fn target_in(zone: &ZoneId, targets: Vec<MountTarget>) -> Option<MountTarget> {
    targets.into_iter().find(|target| target.zone == *zone && target.occupies_its_zone())
}

fn adopted(target: MountTarget) -> CreateTargetOutput {
    CreateTargetOutput { mount_target_id: target.id, outcome: CreateOutcome::Adopted, created_at: None }
}

async fn write(ports: &impl WriteParameter, name: &ParameterName, fact: &impl Serialize) -> Result<(), AwsError> {
    let written = ports.write_parameter(name, &ledger::write(fact), ParameterType::String).await;
    written.map(|_| ()).map_err(PutFailure::into_aws)
}
