//! An installation of the system, and where its facts come from.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use aws_config::SdkConfig;
use clap::{Args, builder::NonEmptyStringValueParser};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    account::{self, CREDENTIALS_HINT},
    stack::Stack,
};

/// The stack of the default settings.
pub const DEFAULT_STACK: &str = "efs-mount-autoscaling";
/// Read when it is in the current directory.
const CONFIG_FILE: &str = "efs-autoscale.toml";
/// No configuration is larger.
const MAX_CONFIG_BYTES: u64 = 64 << 10;

/// What `--help` says of the order.
pub const ORDER: &str = "\
Each of these is taken from the flag, else from the environment, else from efs-autoscale.toml, else from the outputs of
the stack. A key of the file is a flag's name with _ for -, such as state_machine = \"arn:…\".";

/// Which installation.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Installation")]
pub struct Source {
    /// The stack's name [default: efs-mount-autoscaling]
    #[arg(long, env = "EFS_AUTOSCALE_STACK", value_name = "NAME", value_parser = account::stack_name)]
    pub stack: Option<String>,
    /// The state machine, of an installation without a stack
    #[arg(long, env = "EFS_AUTOSCALE_STATE_MACHINE", value_name = "ARN", value_parser = NonEmptyStringValueParser::new())]
    pub state_machine: Option<String>,
    /// The schedule's name, of an installation without a stack
    #[arg(long, env = "EFS_AUTOSCALE_SCHEDULE", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub schedule: Option<String>,
    /// The region [default: that of the environment or the profile]
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    pub region: Option<String>,
    /// Another endpoint than AWS's, such as http://127.0.0.1:4566 for the emulator
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL", value_parser = NonEmptyStringValueParser::new())]
    pub endpoint_url: Option<String>,
    /// The configuration file [default: efs-autoscale.toml, if there is one]
    #[arg(long, env = "EFS_AUTOSCALE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    stack: Option<String>,
    state_machine: Option<String>,
    schedule: Option<String>,
    region: Option<String>,
    endpoint_url: Option<String>,
}

impl Source {
    /// With what the configuration file says where no flag and no variable does.
    ///
    /// # Errors
    /// A file that cannot be read, or has a key or a value that is not expected.
    fn with_file(mut self) -> Result<Self> {
        let (path, is_named) = match &self.config {
            Some(path) => (path.clone(), true),
            None => (PathBuf::from(CONFIG_FILE), false),
        };
        let Some(text) = read(&path, is_named)? else { return Ok(self) };
        let file: ConfigFile =
            toml::from_str(&text).with_context(|| format!("{} is not as expected", path.display()))?;
        if let Some(name) = &file.stack {
            account::stack_name(name).map_err(|err| anyhow::anyhow!("{}: stack: {err}", path.display()))?;
        }
        self.stack = self.stack.or(file.stack);
        self.state_machine = self.state_machine.or(file.state_machine);
        self.schedule = self.schedule.or(file.schedule);
        // The variables of the region are the SDK's to read.
        let from_environment = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().any(|name| std::env::var_os(name).is_some());
        self.region = self.region.or(file.region.filter(|_| !from_environment));
        self.endpoint_url = self.endpoint_url.or(file.endpoint_url);
        Ok(self)
    }

    /// # Errors
    /// When there is no such installation, or AWS does not answer.
    pub async fn connect(&self) -> Result<Installation> {
        let source = self.clone().with_file()?;
        let config = account::config(source.region.as_deref(), source.endpoint_url.as_deref()).await?;
        Installation::find(&config, &source).await
    }
}

/// `None` when there is no such file and nobody named it.
fn read(path: &Path, is_named: bool) -> Result<Option<String>> {
    let size = match fs::metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound && !is_named => return Ok(None),
        metadata => metadata.with_context(|| format!("--config {}", path.display()))?.len(),
    };
    if size > MAX_CONFIG_BYTES {
        bail!("--config {}: it is larger than {MAX_CONFIG_BYTES} bytes", path.display());
    }
    fs::read_to_string(path).map(Some).with_context(|| format!("--config {}", path.display()))
}

/// Clients with one configuration.
pub struct Clients {
    pub aws: aws::Aws,
    pub cloudformation: aws_sdk_cloudformation::Client,
    pub cloudwatch: aws_sdk_cloudwatch::Client,
    pub lambda: aws_sdk_lambda::Client,
    pub scheduler: aws_sdk_scheduler::Client,
    pub sfn: aws_sdk_sfn::Client,
}

/// An installation that was found.
pub struct Installation {
    pub clients: Clients,
    pub config: SdkConfig,
    /// `None` of one without a stack.
    pub stack: Option<Stack>,
    pub state_machine: String,
    /// The schedule's name; `None` when nobody knows it.
    pub schedule: Option<String>,
    /// The ARN of each function, by its state.
    pub functions: BTreeMap<String, String>,
}

impl Installation {
    /// # Errors
    /// When there is no such stack or state machine, or AWS does not answer.
    pub async fn find(config: &SdkConfig, source: &Source) -> Result<Self> {
        let clients = Clients {
            aws: aws::Aws::new(config),
            cloudformation: aws_sdk_cloudformation::Client::new(config),
            cloudwatch: aws_sdk_cloudwatch::Client::new(config),
            lambda: aws_sdk_lambda::Client::new(config),
            scheduler: aws_sdk_scheduler::Client::new(config),
            sfn: aws_sdk_sfn::Client::new(config),
        };
        let name = source.stack.as_deref();
        // Whoever gives the state machine need not have a stack.
        let stack = match (name, &source.state_machine) {
            (None, Some(_)) => None,
            _ => Stack::find(&clients.cloudformation, name.unwrap_or(DEFAULT_STACK)).await?,
        };
        let output = |key: &str| stack.as_ref().and_then(|stack| stack.output(key)).map(str::to_owned);
        let Some(state_machine) = source.state_machine.clone().or_else(|| output("StateMachineArn")) else {
            let name = name.unwrap_or(DEFAULT_STACK);
            match stack {
                Some(_) => {
                    bail!("--stack: {name} is not a complete stack of this system: it has no output StateMachineArn")
                }
                None => bail!(
                    "--stack: there is no stack {name} in this region; --stack names another, and --state-machine an \
                     installation without one"
                ),
            }
        };
        let schedule = source.schedule.clone().or_else(|| output("ScheduleName"));
        let described = clients.sfn.describe_state_machine().state_machine_arn(&state_machine).send().await;
        let described = described
            .with_context(|| format!("--state-machine: {state_machine} cannot be described ({CREDENTIALS_HINT})"))?;
        let definition: Value = serde_json::from_str(described.definition()).unwrap_or_default();
        let mut functions = BTreeMap::new();
        add_functions(&definition, &mut functions);
        Ok(Self { clients, config: config.clone(), stack, state_machine, schedule, functions })
    }

    pub fn output(&self, key: &str) -> Option<&str> {
        self.stack.as_ref().and_then(|stack| stack.output(key))
    }

    /// The variables of a function, by its state.
    ///
    /// # Errors
    /// When the machine has no such function, or Lambda does not answer.
    pub async fn variables(&self, state: &str) -> Result<BTreeMap<String, String>> {
        let function = self.functions.get(state);
        let function = function.with_context(|| format!("the state machine has no function in a state {state}"))?;
        let request = self.clients.lambda.get_function_configuration().function_name(function).send().await;
        let found = request.with_context(|| format!("the variables of the function {function} cannot be read"))?;
        let variables =
            found.environment().and_then(|environment| environment.variables()).cloned().unwrap_or_default();
        Ok(variables.into_iter().collect())
    }

    /// The configuration of the function `evaluate`: what the installation knows of the world, and its policy.
    ///
    /// # Errors
    /// As [`variables`](Self::variables); a variable that is missing or bad.
    pub async fn evaluate_config(&self) -> Result<evaluate::Config> {
        let variables = self.variables("Evaluate").await?;
        let read = evaluate::Config::read(&|name: &str| variables.get(name).cloned());
        read.context("the function evaluate is not configured as it should be")
    }
}

/// The function of each state, out of the machine's definition, in Maps too.
fn add_functions(definition: &Value, functions: &mut BTreeMap<String, String>) {
    let Some(states) = definition["States"].as_object() else { return };
    for (name, state) in states {
        if let Some(function) = state["Arguments"]["FunctionName"].as_str() {
            functions.insert(name.clone(), function.to_owned());
        }
        add_functions(&state["ItemProcessor"], functions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_of_a_machine_are_found_in_maps_too() {
        let definition = include_str!("../../../../statemachine/autoscale.asl.json");
        let mut functions = BTreeMap::new();
        add_functions(&serde_json::from_str(definition).unwrap(), &mut functions);
        assert_eq!(functions["Count"], functions["CountPartition"]);
        assert_eq!(functions.len(), 7);
        assert_eq!(functions["PublishSsm"], "${PublishSsmFunction}");
    }

    #[test]
    fn a_flag_comes_before_the_file_and_the_file_refuses_what_it_does_not_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.toml");
        fs::write(&path, "stack = \"of-the-file\"\nschedule = \"s\"\n").unwrap();
        let source = |stack: Option<&str>| Source {
            stack: stack.map(str::to_owned),
            config: Some(path.clone()),
            ..Source::default()
        };
        let found = source(Some("of-the-flag")).with_file().unwrap();
        assert_eq!((found.stack.as_deref(), found.schedule.as_deref()), (Some("of-the-flag"), Some("s")));
        assert_eq!(source(None).with_file().unwrap().stack.as_deref(), Some("of-the-file"));
        for (text, expected) in [("stak = \"x\"", "unknown field `stak`"), ("stack = \"1 2\"", "stack: a stack name")] {
            fs::write(&path, text).unwrap();
            let err = format!("{:#}", source(None).with_file().unwrap_err());
            assert!(err.contains(expected), "{err}");
        }
        let missing = Source { config: Some(directory.path().join("none")), ..Source::default() };
        assert!(format!("{:#}", missing.with_file().unwrap_err()).contains("--config"));
    }
}
