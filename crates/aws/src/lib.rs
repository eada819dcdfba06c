//! The domain's ports over the AWS SDKs ([`Aws`]), one file per service, and the code shared by all Lambda functions
//! (`lambda`).
//!
//! Each service is a feature, so that a function links only the SDKs that it calls.

pub mod credentials;
#[cfg(any(feature = "ec2", feature = "ecs", feature = "efs", feature = "ssm"))]
mod errors;
#[cfg(any(feature = "ec2", feature = "ecs", feature = "efs", feature = "ssm"))]
mod fault;
#[cfg(feature = "lambda")]
pub mod lambda;
#[cfg(feature = "lambda")]
mod log;
#[cfg(feature = "lambda")]
mod metrics;

#[cfg(feature = "ec2")]
mod ec2;
#[cfg(feature = "ecs")]
mod ecs;
#[cfg(feature = "efs")]
mod efs;
#[cfg(feature = "ssm")]
mod ssm;

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
#[cfg(feature = "lambda")]
use aws_config::{Region, environment::EnvironmentVariableCredentialsProvider};
#[cfg(feature = "lambda")]
use aws_credential_types::provider::SharedCredentialsProvider;
use domain::ports::Clock;

/// Maximum time of one AWS call with all attempts; shorter than any function's timeout.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(CALL_TIMEOUT)
        .build()
}

/// The SDK configuration, with credentials and region from the environment of the process.
async fn sdk_config() -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts())
        .load()
        .await
}

/// The same in Lambda, which sets both as variables. The code that searches other sources is large and is not linked.
#[cfg(feature = "lambda")]
fn sdk_config_of_lambda() -> SdkConfig {
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts())
        .credentials_provider(SharedCredentialsProvider::new(EnvironmentVariableCredentialsProvider::new()));
    config.set_region(lambda::environment("AWS_REGION").map(Region::new));
    config.set_endpoint_url(lambda::environment("AWS_ENDPOINT_URL"));
    config.build()
}

/// All ports over AWS that the features include.
pub struct Aws {
    #[cfg(feature = "ec2")]
    pub ec2: aws_sdk_ec2::Client,
    #[cfg(feature = "ecs")]
    pub ecs: aws_sdk_ecs::Client,
    #[cfg(feature = "efs")]
    pub efs: aws_sdk_efs::Client,
    #[cfg(feature = "ssm")]
    pub ssm: aws_sdk_ssm::Client,
}

impl Aws {
    /// Clients configured from the environment.
    pub async fn from_environment() -> Self {
        Self::new(&sdk_config().await)
    }

    /// Clients of a function, configured from Lambda's variables.
    #[cfg(feature = "lambda")]
    pub fn of_lambda() -> Self {
        Self::new(&sdk_config_of_lambda())
    }

    /// Clients with this configuration. Makes no call.
    #[cfg_attr(not(any(feature = "ec2", feature = "ecs", feature = "efs", feature = "ssm")), expect(unused_variables))]
    pub fn new(config: &SdkConfig) -> Self {
        Self {
            #[cfg(feature = "ec2")]
            ec2: aws_sdk_ec2::Client::new(config),
            #[cfg(feature = "ecs")]
            ecs: aws_sdk_ecs::Client::new(config),
            #[cfg(feature = "efs")]
            efs: aws_sdk_efs::Client::new(config),
            #[cfg(feature = "ssm")]
            ssm: aws_sdk_ssm::Client::new(config),
        }
    }
}

impl Clock for Aws {
    fn now(&self) -> u64 {
        SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
    }
}
