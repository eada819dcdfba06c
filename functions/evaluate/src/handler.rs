//! Observes the current state and decides the next step. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use domain::{
    config::{ConfigError, ServiceName, Variables},
    error::{AwsError, EvaluateError},
    ledger::{self, Created, Deployed, Intended, Refusal, Refusals},
    messages::{EvaluateInput, EvaluateOutput, Observed, Start},
    model::{FileSystemId, MountTarget, ParameterName, Subnet, SubnetId, VpcId, ZoneId},
    policy::{Excluded, FileCount, Observation, Policy, Published, Warning, decide, warnings},
    ports::{Clock, DescribeFileSystem, DescribeService, ListSubnets, ListTargets, Parameter, ReadParameters},
    published::PublishedList,
    record::DecisionRecord,
};
use tracing::info;

pub struct Config {
    pub file_system: FileSystemId,
    pub vpc: VpcId,
    /// Empty: all of the VPC.
    pub subnets: Vec<SubnetId>,
    pub parameter: ParameterName,
    pub service: ServiceName,
    pub policy: Policy,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{file_system_id, parameter_name, policy, service_name, subnet_ids, vpc_id};
        Ok(Self {
            file_system: file_system_id(variables)?,
            vpc: vpc_id(variables)?,
            subnets: subnet_ids(variables)?,
            parameter: parameter_name(variables)?,
            service: service_name(variables)?,
            policy: policy(variables)?,
        })
    }
}

/// # Errors
/// [`EvaluateError::FileSystemNotFound`]; an invalid input; a failed AWS call.
pub async fn handle(
    ports: &(impl Clock + DescribeFileSystem + DescribeService + ListSubnets + ListTargets + ReadParameters),
    config: &Config,
    input: EvaluateInput,
) -> Result<EvaluateOutput, EvaluateError> {
    let start = Start::parse(&input.start).map_err(EvaluateError::InvalidInput)?;
    let mut policy = config.policy.clone();
    policy.threshold = start.threshold.unwrap_or(policy.threshold);

    let (world, unseen) = observe(ports, config, input.counted).await?;
    let world = Observation { excluded: input.excluded, ..world };
    let decision = decide(&world, &policy);
    let mut warnings = warnings(&world, &policy, &decision);
    let observed = Observed::of(&world, &policy);
    let record = DecisionRecord { observation: world, policy, decision: decision.clone() };
    info!(decision = decision.word(), record = record.to_json(), "decided");
    match unseen {
        Some(err) if decision.is_repair() => warnings.push(Warning::ObservationIncomplete { message: err.to_string() }),
        Some(err) => return Err(err.into()),
        None => {}
    }
    Ok(EvaluateOutput { dry_run: start.dry_run, warnings, observed, decision })
}

/// Observes the current state. If EC2 or the description of the file system is missing, the error is returned with it, and
/// only repairs are made.
///
/// # Errors
/// [`EvaluateError::FileSystemNotFound`]; what AWS refuses.
pub async fn observe(
    ports: &(impl Clock + DescribeFileSystem + DescribeService + ListSubnets + ListTargets + ReadParameters),
    config: &Config,
    count: Option<FileCount>,
) -> Result<(Observation, Option<AwsError>), EvaluateError> {
    let (file_system, targets, subnets, service) = tokio::join!(
        ports.describe_file_system(&config.file_system),
        ports.list_targets(&config.file_system),
        ports.list_subnets(&config.vpc, &config.subnets),
        ports.describe_service(&config.service),
    );
    let targets = targets?;
    // Missing data that only a new target needs must not prevent repairs.
    let (one_zone, subnets, unseen) = match (file_system, subnets) {
        (Ok(None), _) => return Err(EvaluateError::FileSystemNotFound(config.file_system.clone())),
        (Ok(Some(file_system)), Ok(subnets)) => (file_system.one_zone, subnets, None),
        (Err(err), _) | (_, Err(err)) => (None, Vec::new(), Some(err)),
    };
    // The zones determine which facts may exist.
    let facts = ports.read_parameters(&fact_names(&config.parameter, &targets, &subnets)).await?;

    let published = facts.get(&config.parameter);
    let world = Observation {
        now: ports.now(),
        count,
        one_zone,
        targets,
        subnets,
        published: published.map(|found| Published {
            version: found.version,
            modified_at: found.modified_at,
            list: PublishedList::parse(&found.value),
        }),
        deployed: fact::<Deployed>(&facts, &ledger::deployed_name(&config.parameter)),
        last_created: last_created(&facts, config),
        service: service.map_err(|err| err.to_string()),
        refusals: refusals(&facts, config),
        excluded: Excluded::default(),
    };
    Ok((world, unseen))
}

/// The published list and all facts that the ledger may have for these zones.
fn fact_names(published: &ParameterName, targets: &[MountTarget], subnets: &[Subnet]) -> Vec<ParameterName> {
    let zones: BTreeSet<&ZoneId> = targets.iter().map(|t| &t.zone).chain(subnets.iter().map(|s| &s.zone)).collect();
    let of_zones = zones.into_iter().flat_map(|zone| {
        [ledger::intended_name, ledger::created_name, ledger::refused_name].map(|of| of(published, zone))
    });
    [published.clone(), ledger::deployed_name(published)].into_iter().chain(of_zones).collect()
}

fn fact<T: serde::de::DeserializeOwned>(facts: &BTreeMap<ParameterName, Parameter>, name: &ParameterName) -> Option<T> {
    ledger::read(&facts.get(name)?.value)
}

fn refusals(facts: &BTreeMap<ParameterName, Parameter>, config: &Config) -> Vec<Refusal> {
    let all = facts.keys().filter_map(|name| fact::<Refusals>(facts, name)).flat_map(|fact| fact.refusals);
    all.filter(|refusal| refusal.file_system_id == config.file_system).collect()
}

/// When a target was last created or intended: an intent without an outcome may have reached EFS.
fn last_created(facts: &BTreeMap<ParameterName, Parameter>, config: &Config) -> Option<u64> {
    let created = facts.keys().filter_map(|name| fact::<Created>(facts, name));
    let intended = facts.keys().filter_map(|name| fact::<Intended>(facts, name));
    let created = created.map(|fact| (fact.file_system_id, fact.created_at));
    let intended = intended.map(|fact| (fact.file_system_id, fact.intended_at));
    created.chain(intended).filter(|(id, _)| *id == config.file_system).map(|(_, at)| at).max()
}
