//! A deployed system, as its stacks describe it: complete, half made, or half gone.

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
pub enum Part {
    System,
    Data,
}

/// What the outputs say, or else the resources, and which of it is whose.
#[derive(Default)]
pub struct System {
    pub system: Option<Stack>,
    /// `None` also of a system from before there were two.
    pub data: Option<Stack>,
    pub file_system: Option<FileSystemId>,
    /// The stack that the file system goes with.
    pub file_system_in: Option<Part>,
    pub state_machine: Option<String>,
    pub schedule: Option<String>,
    pub parameter: Option<ParameterName>,
    pub service: Option<ServiceName>,
    /// The service goes with the stack.
    pub owns_service: bool,
    /// Mount targets that go with a stack.
    pub targets: Vec<String>,
    /// Subnets of the stack with the data.
    pub data_subnets: Vec<String>,
    pub load_balancers: Vec<String>,
}

impl System {
    /// # Errors
    /// When there is no such stack, or it is not one of this system.
    pub async fn find(clients: &Clients, options: &Options) -> Result<Self> {
        let client = &clients.cloudformation;
        let name = &options.stack;
        let mut found = Self { system: Stack::find(client, name).await?, ..Self::default() };
        let said = found.system.as_ref().and_then(|stack| stack.output("DataStackName"));
        let data_name = said.map_or_else(|| data_stack_name(name), str::to_owned);
        found.data = Stack::find(client, &data_name).await?;
        if found.system.is_none() && found.data.is_none() {
            bail!("--stack: there is no stack {name} in this region, nor {data_name}");
        }
        found.parameter = options.parameter.clone().map(ParameterName::new);
        if let Some(stack) = found.system.clone() {
            // A stack that was never complete has no outputs; its template still says what they would be.
            let written = match stack.output("StateMachineArn") {
                Some(_) => Value::Null,
                None => outputs(&stack.template(client).await?),
            };
            let is_of_this_system =
                stack.output("StateMachineArn").is_some() || written.get("StateMachineArn").is_some();
            if !is_of_this_system && (!stack.was_never_created() || written.as_object().is_some()) {
                bail!("--stack: {name} is not a stack of this system: it has no output StateMachineArn");
            }
            let output = |key: &str| stack.output(key).map(str::to_owned);
            found.file_system = output("FileSystemId").map(FileSystemId::new);
            found.state_machine = output("StateMachineArn");
            found.schedule = output("ScheduleName");
            let literal = || written["ParameterName"]["Value"].as_str().map(str::to_owned);
            let parameter = || output("ParameterName").or_else(literal).map(ParameterName::new);
            found.parameter = found.parameter.or_else(parameter);
            found.service = output("ClusterName")
                .zip(output("ServiceName"))
                .map(|(cluster, service)| ServiceName { cluster, service });
            found.owns_service = stack.output("ServiceOwned") == Some("true");
            found.add_resources(clients, &stack, Part::System).await?;
        }
        if let Some(stack) = found.data.clone() {
            if found.file_system.is_none() {
                found.file_system = stack.output("FileSystemId").map(FileSystemId::new);
            }
            found.add_resources(clients, &stack, Part::Data).await?;
        }
        if let Some(id) = &found.file_system
            && !exists(clients, id).await?
        {
            found.file_system = None;
        }
        Ok(found)
    }

    /// What a stack without outputs still tells.
    async fn add_resources(&mut self, clients: &Clients, stack: &Stack, part: Part) -> Result<()> {
        for resource in stack.resources(&clients.cloudformation).await? {
            let Some(id) = resource.physical_resource_id().filter(|id| !id.is_empty()).map(str::to_owned) else {
                continue;
            };
            match resource.resource_type() {
                Some("AWS::EFS::FileSystem") => {
                    self.file_system_in = Some(part);
                    self.file_system.get_or_insert_with(|| FileSystemId::new(id));
                }
                Some("AWS::EFS::MountTarget") => self.targets.push(id),
                Some("AWS::EC2::Subnet") if part == Part::Data => self.data_subnets.push(id),
                Some("AWS::ElasticLoadBalancingV2::LoadBalancer") => self.load_balancers.push(id),
                Some("AWS::StepFunctions::StateMachine") => {
                    self.state_machine.get_or_insert(id);
                }
                Some("AWS::Scheduler::Schedule") => {
                    self.schedule.get_or_insert(id);
                }
                Some("AWS::ECS::Service") => {
                    self.owns_service = true;
                    self.service = self.service.take().or_else(|| service_of(&id));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The file system is deleted by what these options ask for.
    pub fn deletes_file_system(&self, options: &Options) -> bool {
        match self.file_system_in {
            Some(Part::System) => !options.keep_stack,
            Some(Part::Data) => options.data,
            None => false,
        }
    }

    /// The mount targets that stay, by `plan`, and that the deletion of a stack would fail on: every target of a file
    /// system that is deleted, and every target in a subnet that is deleted. After a restore the file system belongs to
    /// no stack, and a person has made its targets in the stack's subnets.
    pub fn blocking_targets(&self, plan: &Plan, options: &Options) -> Vec<String> {
        let in_deleted_subnet =
            |target: &MountTarget| options.data && self.data_subnets.iter().any(|id| id == target.subnet.as_str());
        let stay = plan.uncertain.iter().chain(&plan.others);
        stay.filter(|target| self.deletes_file_system(options) || in_deleted_subnet(target))
            .map(|target| target.id.to_string())
            .collect()
    }
}

/// `arn:aws:ecs:REGION:ACCOUNT:service/CLUSTER/SERVICE`
fn service_of(arn: &str) -> Option<ServiceName> {
    let (cluster, service) = arn.split_once(":service/")?.1.rsplit_once('/')?;
    // The emulator has the cluster's ARN in the place of its name.
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
            let answer = answer.with_context(|| format!("EFS cannot be asked about {id}"))?;
            // Other implementations give nothing where AWS gives an error; some leave the answer out altogether.
            Ok(!answer.file_systems().is_empty())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::service_of;

    #[test]
    fn a_service_is_read_from_its_arn() {
        for arn in [
            "arn:aws:ecs:us-east-1:123456789012:service/c/files",
            "arn:aws:ecs:us-east-1:123456789012:service/arn:aws:ecs:us-east-1:123456789012:cluster/c/files",
        ] {
            let name = service_of(arn).unwrap();
            assert_eq!((name.cluster.as_str(), name.service.as_str()), ("c", "files"));
        }
        assert!(service_of("arn:aws:ecs:us-east-1:123456789012:cluster/c").is_none());
        assert!(service_of("").is_none());
    }
}
