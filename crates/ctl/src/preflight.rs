//! `efs-autoscale preflight`: reads what the templates must know about the account, and finds what would prevent a
//! deployment.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use aws_sdk_cloudformation::types::StackStatus;
use aws_sdk_ec2::types::{AvailabilityZoneState, Filter};
use aws_sdk_ecs::types::Service;
use clap::{Args, builder::NonEmptyStringValueParser};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use crate::{
    account,
    stack::{Stack, data_stack_name},
};

/// Exit status when a stack cannot be deployed, or AWS cannot be called.
const FAILED: u8 = 2;

/// Text below the options in `--help`.
pub const HELP: &str = "\
Reads the stacks NAME and NAME-data, the ECS service of NAME, the Availability Zones of the region, and the Lambda concurrency
quota. `make deploy` passes the result to CDK, so that a running service keeps its number of tasks, and CDK rejects settings
that the account cannot satisfy before it creates anything.

The command changes one thing: it disables the termination protection of a stack whose creation failed. CDK enables the
protection before the stack is complete, and then cannot replace the stack.

Exit status: 0 if the stacks can be deployed; 2 if the state of a stack prevents it (the message says what to do), or if AWS
cannot be called.

Permissions: cloudformation:DescribeStacks, cloudformation:UpdateTerminationProtection, ecs:DescribeServices,
ec2:DescribeAvailabilityZones, lambda:GetAccountSettings.

Examples:
  efs-autoscale preflight
  efs-autoscale preflight --stack efs-mount-autoscaling --region ap-northeast-1 --json";

/// Options of `efs-autoscale preflight`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Name of the stack
    #[arg(long, default_value = "efs-mount-autoscaling", value_name = "NAME", value_parser = account::stack_name)]
    pub stack: String,
    /// Region of the stack [default: from the environment or the profile]
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    pub region: Option<String>,
    /// Print one JSON object to stdout: the setting `account` of cdk/lib/config.ts
    #[arg(long)]
    pub json: bool,
}

/// The properties of the account that the templates depend on: the setting `account` in `cdk/lib/config.ts`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The ECS service of the stack, if it exists.
    pub service_name: Option<String>,
    /// The current desired count of the service.
    pub desired_count: Option<i32>,
    /// Names of the available zones, sorted.
    pub zones: Vec<String>,
    /// The account's limit of concurrent Lambda executions.
    pub lambda_concurrency: i32,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Account)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    let result = async {
        let config = account::config(options.region.as_deref(), None).await?;
        check(&config, &options.stack).await
    };
    match result.await {
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
        Some(count) => format!("desired count {count}"),
        None => "does not exist; the first deployment creates it with no tasks".to_owned(),
    };
    println!("  service of {stack}  {tasks}");
    println!("  zones               {}", account.zones.join(", "));
    println!("  Lambda quota        {} concurrent executions", account.lambda_concurrency);
}

/// # Errors
/// The state of a stack prevents a deployment, or AWS cannot be called.
pub async fn check(config: &SdkConfig, name: &str) -> Result<Account> {
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
                eprintln!(
                    "efs-autoscale: the creation of {name} did not complete ({}): termination protection disabled, so that CDK can replace it",
                    stack.status
                );
            }
            Ok(())
        }
        status if stack.is_changing() => {
            bail!("the stack {name} is being changed ({status}): try again when the operation has ended")
        }
        DeleteFailed => bail!("the deletion of the stack {name} failed: `make destroy` continues it"),
        UpdateRollbackFailed => bail!(
            "the rollback of the stack {name} failed (UPDATE_ROLLBACK_FAILED): run \
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
    let answer = answer.with_context(|| format!("cannot describe the ECS service {service}"))?;
    Ok(answer.services().iter().find(|service| service.status() == Some("ACTIVE")).cloned())
}

async fn zones(config: &SdkConfig) -> Result<Vec<String>> {
    let filter = Filter::builder().name("zone-type").values("availability-zone").build();
    let answer = aws_sdk_ec2::Client::new(config).describe_availability_zones().filters(filter).send().await;
    let answer = answer.context("cannot list the Availability Zones")?;
    let available =
        answer.availability_zones().iter().filter(|zone| zone.state() == Some(&AvailabilityZoneState::Available));
    let mut zones: Vec<_> = available.filter_map(|zone| zone.zone_name().map(str::to_owned)).collect();
    zones.sort_unstable();
    Ok(zones)
}

async fn lambda_concurrency(config: &SdkConfig) -> Result<i32> {
    let answer = aws_sdk_lambda::Client::new(config).get_account_settings().send().await;
    let answer = answer.context("cannot read the Lambda quota")?;
    let limit = answer.account_limit().context("Lambda reported no quota")?;
    Ok(limit.concurrent_executions())
}
