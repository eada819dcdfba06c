//! `efs-autoscale preflight`: what of an account the templates have to know before they are deployed, and what would
//! keep them from being deployed at all.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::types::StackStatus;
use aws_sdk_ec2::types::{AvailabilityZoneState, Filter};
use aws_sdk_ecs::types::Service;
use clap::{Args, builder::NonEmptyStringValueParser};
use serde::Serialize;

use crate::{
    account,
    stack::{Stack, data_stack_name},
};

/// Exit status when nothing can be deployed.
const FAILED: u8 = 2;

/// What `--help` says below the options.
pub const HELP: &str = "\
It looks at the stack NAME and at NAME-data, at the service of the first, at the zones of the region and at the quota of
Lambda. `make deploy` gives the answer to CDK, so that a service that runs keeps its number of tasks, and settings that
cannot be had here are refused before anything is made.

It changes one thing: a stack whose creation has failed loses its termination protection. CDK protects a stack before it
is there, and cannot replace it after that.

Exit status: 0, or 2 when a stack cannot be deployed in its state (what to do is said) or AWS does not answer.

Permissions: cloudformation:DescribeStacks, cloudformation:UpdateTerminationProtection, ecs:DescribeServices,
ec2:DescribeAvailabilityZones, lambda:GetAccountSettings.

Examples:
  efs-autoscale preflight
  efs-autoscale preflight --stack efs-mount-autoscaling --region ap-northeast-1 --json";

/// Of which system.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The stack's name
    #[arg(long, default_value = "efs-mount-autoscaling", value_name = "NAME", value_parser = account::stack_name)]
    pub stack: String,
    /// Its region [default: that of the environment or the profile]
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    pub region: Option<String>,
    /// One JSON object on stdout: the setting `account` of cdk/lib/config.ts
    #[arg(long)]
    pub json: bool,
}

/// What the templates depend on. `cdk/lib/config.ts` reads it as the setting `account`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The service of the stack; `None` when there is none.
    pub service_name: Option<String>,
    /// How many tasks it is to have now.
    pub desired_count: Option<i32>,
    /// The names of the zones, in order.
    pub zones: Vec<String>,
    /// How many functions may run at once in the account.
    pub lambda_concurrency: i32,
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    let looked = async {
        let config = account::config(options.region.as_deref(), None).await?;
        look(&config, &options.stack).await
    };
    match looked.await {
        Ok(account) if options.json => println!("{}", serde_json::json!(account)),
        Ok(account) => print(&account, &options.stack),
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            return ExitCode::from(FAILED);
        }
    }
    ExitCode::SUCCESS
}

fn print(account: &Account, stack: &str) {
    let tasks = match account.desired_count {
        Some(count) => format!("is to have {count} tasks"),
        None => "is not there; the first deployment makes it without tasks".to_owned(),
    };
    println!("  service of {stack}  {tasks}");
    println!("  zones               {}", account.zones.join(", "));
    println!("  quota of Lambda     {} at once", account.lambda_concurrency);
}

/// # Errors
/// A stack cannot be deployed in its state, or AWS does not answer.
pub async fn look(config: &SdkConfig, name: &str) -> Result<Account> {
    let client = aws_sdk_cloudformation::Client::new(config);
    let system = Stack::find(&client, name).await?;
    let data = Stack::find(&client, &data_stack_name(name)).await?;
    for stack in [&data, &system].into_iter().flatten() {
        make_deployable(&client, stack).await?;
    }
    let service = service(config, system.as_ref()).await?;
    Ok(Account {
        desired_count: service.as_ref().map(Service::desired_count),
        service_name: service.as_ref().and_then(|service| service.service_name()).map(str::to_owned),
        zones: zones(config).await?,
        lambda_concurrency: lambda_concurrency(config).await?,
    })
}

async fn make_deployable(client: &aws_sdk_cloudformation::Client, stack: &Stack) -> Result<()> {
    use StackStatus::{DeleteFailed, UpdateRollbackFailed};
    let name = &stack.name;
    match &stack.status {
        _ if stack.was_never_created() => {
            if stack.is_protected {
                stack.unprotect(client).await?;
                eprintln!("efs-autoscale: {name} was never complete ({}): it may be replaced", stack.status);
            }
            Ok(())
        }
        status if stack.is_changing() => bail!("the stack {name} is being changed ({status}): try again when it rests"),
        DeleteFailed => bail!("the stack {name} is half deleted: `make destroy` goes on with that"),
        UpdateRollbackFailed => bail!(
            "the stack {name} could not go back (UPDATE_ROLLBACK_FAILED): \
             aws cloudformation continue-update-rollback --stack-name {name}"
        ),
        _ => Ok(()),
    }
}

async fn service(config: &SdkConfig, system: Option<&Stack>) -> Result<Option<Service>> {
    let Some(stack) = system.filter(|stack| stack.output("ServiceOwned") == Some("true")) else { return Ok(None) };
    let Some((cluster, service)) = stack.output("ClusterName").zip(stack.output("ServiceName")) else {
        return Ok(None);
    };
    let client = aws_sdk_ecs::Client::new(config);
    let answer = client.describe_services().cluster(cluster).services(service).send().await;
    let answer = answer.with_context(|| format!("ECS cannot be asked about the service {service}"))?;
    Ok(answer.services().iter().find(|service| service.status() == Some("ACTIVE")).cloned())
}

async fn zones(config: &SdkConfig) -> Result<Vec<String>> {
    let filter = Filter::builder().name("zone-type").values("availability-zone").build();
    let answer = aws_sdk_ec2::Client::new(config).describe_availability_zones().filters(filter).send().await;
    let answer = answer.context("EC2 cannot be asked which zones there are")?;
    let available =
        answer.availability_zones().iter().filter(|zone| zone.state() == Some(&AvailabilityZoneState::Available));
    let mut zones: Vec<_> = available.filter_map(|zone| zone.zone_name().map(str::to_owned)).collect();
    zones.sort_unstable();
    Ok(zones)
}

async fn lambda_concurrency(config: &SdkConfig) -> Result<i32> {
    let answer = aws_sdk_lambda::Client::new(config).get_account_settings().send().await;
    let answer = answer.context("Lambda cannot be asked about its quota")?;
    let limit = answer.account_limit().context("Lambda says nothing of its quota")?;
    Ok(limit.concurrent_executions())
}
