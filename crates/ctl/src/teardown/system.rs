//! A deployed system as its stacks describe it: complete, partly created, or partly deleted.

use anyhow::{Context, Result, bail};
use aws_sdk_efs::error::ProvideErrorMetadata as _;
use domain::{
    config::ServiceName,
    model::{FileSystemId, MountTarget, ParameterName},
};
use serde_json::Value;

use super::{Clients, Options, plan::Plan};
use crate::stack::{Stack, data_stack_name};

/// One of the two stacks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StackRole {
    System,
    Data,
}

/// Names and IDs from the stack outputs, or else from the stack resources.
#[derive(Default)]
pub struct System {
    pub system: Option<Stack>,
    /// `None` also for systems deployed before there were two stacks.
    pub data: Option<Stack>,
    pub file_system: Option<FileSystemId>,
    /// The stack that contains the file system, if any.
    pub file_system_in: Option<StackRole>,
    pub state_machine: Option<String>,
    pub schedule: Option<String>,
    pub parameter: Option<ParameterName>,
    pub service: Option<ServiceName>,
    /// The service belongs to the stack.
    pub owns_service: bool,
    /// Mount targets that belong to a stack.
    pub targets: Vec<String>,
    /// Subnets of the data stack.
    pub data_subnets: Vec<String>,
    pub load_balancers: Vec<String>,
}

impl System {
    /// # Errors
    /// The stack does not exist, or it does not belong to this system.
    pub async fn find(clients: &Clients, options: &Options) -> Result<Self> {
        let client = &clients.cloudformation;
        let name = &options.stack;
        let mut found = Self { system: Stack::find(client, name).await?, ..Self::default() };
        let data_output = found.system.as_ref().and_then(|stack| stack.output("DataStackName"));
        let data_name = data_output.map_or_else(|| data_stack_name(name), str::to_owned);
        found.data = Stack::find(client, &data_name).await?;
        if found.system.is_none() && found.data.is_none() {
            bail!("--stack: neither the stack {name} nor {data_name} exists in this region");
        }
        found.parameter = options.parameter.clone().map(ParameterName::new);
        if let Some(stack) = found.system.clone() {
            // A stack that was never complete has no outputs, but its template declares them.
            let declared = match stack.output("StateMachineArn") {
                Some(_) => Value::Null,
                None => outputs(&stack.template(client).await?),
            };
            let is_of_this_system =
                stack.output("StateMachineArn").is_some() || declared.get("StateMachineArn").is_some();
            if !is_of_this_system && (!stack.was_never_created() || declared.as_object().is_some()) {
                bail!("--stack: {name} does not belong to this system: it has no output StateMachineArn");
            }
            let output = |key: &str| stack.output(key).map(str::to_owned);
            found.file_system = output("FileSystemId").map(FileSystemId::new);
            found.state_machine = output("StateMachineArn");
            found.schedule = output("ScheduleName");
            let literal = || declared["ParameterName"]["Value"].as_str().map(str::to_owned);
            let parameter = || output("ParameterName").or_else(literal).map(ParameterName::new);
            found.parameter = found.parameter.or_else(parameter);
            found.service = output("ClusterName")
                .zip(output("ServiceName"))
                .map(|(cluster, service)| ServiceName { cluster, service });
            found.owns_service = stack.output("ServiceOwned") == Some("true");
            found.add_resources(clients, &stack, StackRole::System).await?;
        }
        if let Some(stack) = found.data.clone() {
            if found.file_system.is_none() {
                found.file_system = stack.output("FileSystemId").map(FileSystemId::new);
            }
            found.add_resources(clients, &stack, StackRole::Data).await?;
        }
        if let Some(id) = &found.file_system
            && !exists(clients, id).await?
        {
            found.file_system = None;
        }
        Ok(found)
    }

    /// Adds what the resources of a stack show, for stacks without outputs.
    async fn add_resources(&mut self, clients: &Clients, stack: &Stack, role: StackRole) -> Result<()> {
        for resource in stack.resources(&clients.cloudformation).await? {
            let Some(id) = resource.physical_resource_id().filter(|id| !id.is_empty()).map(str::to_owned) else {
                continue;
            };
            match resource.resource_type() {
                Some("AWS::EFS::FileSystem") => {
                    self.file_system_in = Some(role);
                    self.file_system.get_or_insert_with(|| FileSystemId::new(id));
                }
                Some("AWS::EFS::MountTarget") => self.targets.push(id),
                Some("AWS::EC2::Subnet") if role == StackRole::Data => self.data_subnets.push(id),
                Some("AWS::ElasticLoadBalancingV2::LoadBalancer") => self.load_balancers.push(id),
                Some("AWS::StepFunctions::StateMachine") => {
                    self.state_machine.get_or_insert(id);
                }
                Some("AWS::Scheduler::Schedule") => {
                    self.schedule.get_or_insert(id);
                }
                Some("AWS::ECS::Service") => {
                    self.owns_service = true;
                    self.service = self.service.take().or_else(|| service_from_arn(&id));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether a teardown with these options deletes the file system.
    pub fn deletes_file_system(&self, options: &Options) -> bool {
        match self.file_system_in {
            Some(StackRole::System) => !options.keep_stack,
            Some(StackRole::Data) => options.data,
            None => false,
        }
    }

    /// Mount targets that `plan` keeps and that would make the deletion of a stack fail: every target of a file system
    /// that is deleted, and every target in a subnet that is deleted. The latter exist after a restore, when the file
    /// system belongs to no stack and a person has created its targets in the subnets of the stack.
    pub fn blocking_targets(&self, plan: &Plan, options: &Options) -> Vec<String> {
        let in_deleted_subnet =
            |target: &MountTarget| options.data && self.data_subnets.iter().any(|id| id == target.subnet.as_str());
        let kept = plan.uncertain.iter().chain(&plan.foreign);
        kept.filter(|target| self.deletes_file_system(options) || in_deleted_subnet(target))
            .map(|target| target.id.to_string())
            .collect()
    }
}

/// `arn:aws:ecs:REGION:ACCOUNT:service/CLUSTER/SERVICE`
fn service_from_arn(arn: &str) -> Option<ServiceName> {
    let (cluster, service) = arn.split_once(":service/")?.1.rsplit_once('/')?;
    // The emulator returns the ARN of the cluster instead of its name.
    let cluster = cluster.rsplit('/').next()?;
    Some(ServiceName { cluster: cluster.to_owned(), service: service.to_owned() })
}

fn outputs(template: &Option<Value>) -> Value {
    template.as_ref().map_or(Value::Null, |template| template["Outputs"].clone())
}

async fn exists(clients: &Clients, id: &FileSystemId) -> Result<bool> {
    match clients.aws.efs.describe_file_systems().file_system_id(id.as_str()).send().await {
        Err(err) if err.code() == Some("FileSystemNotFound") => Ok(false),
        answer => {
            let answer = answer.with_context(|| format!("cannot describe the file system {id}"))?;
            // Emulators return an empty list, or none, where AWS returns an error.
            Ok(!answer.file_systems().is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::service_from_arn;

    #[test]
    fn a_service_is_read_from_its_arn() {
        for arn in [
            "arn:aws:ecs:us-east-1:123456789012:service/c/files",
            "arn:aws:ecs:us-east-1:123456789012:service/arn:aws:ecs:us-east-1:123456789012:cluster/c/files",
        ] {
            let name = service_from_arn(arn).unwrap();
            assert_eq!((name.cluster.as_str(), name.service.as_str()), ("c", "files"));
        }
        assert!(service_from_arn("arn:aws:ecs:us-east-1:123456789012:cluster/c").is_none());
        assert!(service_from_arn("").is_none());
    }
}
