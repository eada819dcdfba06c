//! A deployed system, as its stack describes it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use aws_sdk_cloudformation::{error::ProvideErrorMetadata, types::StackStatus};
use domain::{
    config::ServiceName,
    model::{FileSystemId, ParameterName},
};

use super::Clients;

/// What the stack's outputs say, and which of it is the stack's own.
pub struct System {
    /// By which the stack is found after its deletion, too.
    pub stack: String,
    pub is_protected: bool,
    pub file_system: FileSystemId,
    pub state_machine: String,
    pub schedule: String,
    pub parameter: ParameterName,
    pub service: ServiceName,
    /// The service goes with the stack.
    pub owns_service: bool,
    /// The file system is one of the stack's resources, and so are its first mount targets.
    pub owns_file_system: bool,
    /// Mount targets that go with the stack.
    pub targets: Vec<String>,
}

impl System {
    /// # Errors
    /// When there is no such stack, or it is not one of this system.
    pub async fn find(clients: &Clients, name: &str) -> Result<Self> {
        let sent = clients.cloudformation.describe_stacks().stack_name(name).send().await;
        let answer = match sent {
            Err(why) if why.code() == Some("ValidationError") => {
                bail!("--stack: there is no stack {name} in this region")
            }
            answer => answer.context("CloudFormation cannot be asked (credentials: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")?,
        };
        let stack = answer.stacks().first().with_context(|| format!("--stack: there is no stack {name}"))?;
        if stack.stack_status() == Some(&StackStatus::DeleteComplete) {
            bail!("--stack: {name} is deleted already");
        }
        let outputs: BTreeMap<&str, &str> =
            stack.outputs().iter().filter_map(|one| Some((one.output_key()?, one.output_value()?))).collect();
        let output = |key: &str| {
            let value = outputs.get(key).map(|value| (*value).to_owned());
            value.with_context(|| format!("--stack: {name} is not a stack of this system: it has no output {key}"))
        };
        let mut system = Self {
            stack: stack.stack_id().unwrap_or(name).to_owned(),
            is_protected: stack.enable_termination_protection().unwrap_or(false),
            file_system: FileSystemId::new(output("FileSystemId")?),
            state_machine: output("StateMachineArn")?,
            schedule: output("ScheduleName")?,
            parameter: ParameterName::new(output("ParameterName")?),
            service: ServiceName { cluster: output("ClusterName")?, service: output("ServiceName")? },
            owns_service: output("ServiceOwned")? == "true",
            owns_file_system: false,
            targets: Vec::new(),
        };
        let request = clients.cloudformation.list_stack_resources().stack_name(&system.stack);
        let mut resources = request.into_paginator().items().send();
        while let Some(resource) = resources.next().await {
            let resource = resource.context("the stack's resources cannot be listed")?;
            match resource.resource_type() {
                Some("AWS::EFS::FileSystem") => system.owns_file_system = true,
                Some("AWS::EFS::MountTarget") => {
                    system.targets.extend(resource.physical_resource_id().map(str::to_owned));
                }
                _ => {}
            }
        }
        Ok(system)
    }
}
