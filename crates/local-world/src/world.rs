//! A world in the emulator: network, file system, service, parameters, functions and state machine.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ecs::types::{
    AwsVpcConfiguration, Compatibility, ContainerDefinition, LaunchType, NetworkConfiguration, NetworkMode,
};
use aws_sdk_efs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_ssm::types::ParameterType;
use domain::{
    config::DEFAULT_PARAMETER_NAME,
    ledger::{self, Deployed},
    model::{LifeCycle, MountTarget, MountTargetId, ParameterName, SubnetId, ZoneId, ZoneName},
    policy::Policy,
    published::PublishedList,
};
use serde_json::{Value, json};

use super::{
    emulator::{ACCOUNT, Emulator, REGION},
    proxy::{Behaviour, Proxy, Rule},
    stack::Stack,
    tools::{FUNCTIONS, Tools},
};

const STATE_MACHINE: &str = include_str!("../../../statemachine/autoscale.asl.json");
pub const CLUSTER: &str = "efs-mount-autoscaling-cluster";
pub const SERVICE: &str = "efs-mount-autoscaling-service";
/// The emulator checks no permissions.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/efs-mount-autoscaling";

/// The specification of a world.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The directory to count; only read.
    pub directory: PathBuf,
    /// Zones with a subnet each: 1 to 6.
    pub zones: usize,
    /// Initial targets, in the first zones.
    pub mount_targets: usize,
    /// How long a new target is `creating`.
    pub creation: Duration,
    /// Seconds between two looks at a new target.
    pub poll_interval: u64,
    /// Seconds after which an execution stops waiting.
    pub poll_timeout: u64,
    /// What the state machine's seconds are multiplied by: 1, but for tests.
    pub wait_scale: f64,
    /// Variables of the functions, besides those that name the world.
    pub variables: Vec<(String, String)>,
    /// Network, file system, service, functions and state machine are those of the stack in `cdk/`, deployed by CDK.
    /// Of the variables only `FILE_COUNT_THRESHOLD` is heard then, and nothing is published before the first execution.
    pub stack: bool,
}

impl Spec {
    fn published_as(&self) -> ParameterType {
        let kind = self.variables.iter().find(|(name, _)| name == "SSM_PARAMETER_TYPE");
        kind.map_or(ParameterType::String, |(_, kind)| kind.as_str().into())
    }

    /// The same for the stack.
    pub fn settings(&self, proxy: &str, directory: &str) -> Value {
        let threshold = self.variables.iter().find(|(name, _)| name == "FILE_COUNT_THRESHOLD");
        let threshold = threshold.and_then(|(_, files)| files.parse().ok()).unwrap_or(Policy::default().threshold);
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
        json!({
            "network": {"zones": self.zones},
            "storage": {"retain": false},
            "scaling": {
                "threshold": threshold,
                "initialMountTargets": self.mount_targets,
            },
            "pipeline": {
                "architecture": architecture,
                // What starts an execution here is whoever runs this.
                "paused": true,
                "pollIntervalSeconds": self.poll_interval,
                "pollTimeoutSeconds": self.poll_timeout,
            },
            // Nothing can build an image here, and nothing can run one.
            "service": {"image": {"repository": "file-service", "tag": "local"}},
            "local": {"endpoint": proxy, "directory": directory},
        })
    }
}

/// The emulator's clients. They know loopback and made-up credentials, never the caller's account.
pub struct Clients {
    pub cloudformation: aws_sdk_cloudformation::Client,
    pub ec2: aws_sdk_ec2::Client,
    pub ecs: aws_sdk_ecs::Client,
    pub efs: aws_sdk_efs::Client,
    pub sfn: aws_sdk_sfn::Client,
    pub ssm: aws_sdk_ssm::Client,
}

/// A running world. Dropping it ends every process of it.
pub struct World {
    pub clients: Clients,
    /// Between the functions and the emulator.
    pub proxy: Proxy,
    pub file_system: String,
    /// By zone.
    pub subnets: Vec<String>,
    pub state_machine: String,
    /// `SSM_PARAMETER_TYPE` of the functions: the type of a parameter never changes.
    published_as: ParameterType,
    /// Names of the cluster and of the service.
    pub service: (String, String),
    /// Where the world is the stack's.
    pub stack: Option<Stack>,
    /// Of the mount targets.
    pub security_group: String,
    emulator: Emulator,
}

/// The configuration of an SDK for an endpoint of ours.
pub fn sdk_config(endpoint: &str) -> SdkConfig {
    // Built by hand, not loaded: nothing of the caller's environment or profile may lead to a real account.
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static(REGION))
        .endpoint_url(endpoint)
        // HTTP_PROXY would lead off this machine.
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(ACCOUNT, "local", None, None, "local")))
        .build()
}

impl Clients {
    fn new(endpoint: &str) -> Self {
        let config = sdk_config(endpoint);
        Self {
            cloudformation: aws_sdk_cloudformation::Client::new(&config),
            ec2: aws_sdk_ec2::Client::new(&config),
            ecs: aws_sdk_ecs::Client::new(&config),
            efs: aws_sdk_efs::Client::new(&config),
            sfn: aws_sdk_sfn::Client::new(&config),
            ssm: aws_sdk_ssm::Client::new(&config),
        }
    }
}

impl World {
    /// Starts the emulator and makes the world in it. `step` is told what is being done.
    ///
    /// # Errors
    /// When a tool is missing or a step fails; nothing is left behind.
    pub async fn create(tools: &Tools, spec: &Spec, mut step: impl FnMut(&str)) -> Result<Self> {
        tools.check()?;
        step("starting the emulator");
        let emulator = Emulator::start(&tools.ministack, spec.wait_scale).await?;
        let proxy = Proxy::start(emulator.endpoint()).await?;
        let clients = Clients::new(emulator.endpoint());
        if spec.stack {
            return Self::deployed_by_cdk(tools, spec, emulator, proxy, clients, step).await;
        }
        step("making a network, a file system and a service");
        let (vpc, subnets, security_group) = network(&clients, spec.zones).await?;
        let file_system = file_system(&clients).await?;
        let mut world = Self {
            published_as: spec.published_as(),
            clients,
            proxy,
            file_system,
            subnets,
            state_machine: String::new(),
            service: (CLUSTER.to_owned(), SERVICE.to_owned()),
            stack: None,
            security_group,
            emulator,
        };
        world.service().await?;
        step("deploying the six functions");
        world.deploy(tools, spec, &vpc).await?;
        step("creating the state machine");
        world.state_machine = world.create_state_machine(spec).await?;
        world.settle(spec).await?;
        Ok(world)
    }

    async fn deployed_by_cdk(
        tools: &Tools,
        spec: &Spec,
        emulator: Emulator,
        proxy: Proxy,
        clients: Clients,
        step: impl FnMut(&str),
    ) -> Result<Self> {
        let settings = spec.settings(proxy.endpoint(), &emulator.plain_path(&spec.directory)?);
        let stack = Stack::deploy(tools, emulator.endpoint(), settings, step).await?;
        proxy.add(Rule::always("efs:CreateMountTarget", Behaviour::HoldCreating(spec.creation)));
        Ok(Self {
            published_as: spec.published_as(),
            clients,
            proxy,
            file_system: stack.output("FileSystemId")?,
            subnets: stack.output("SubnetIds")?.split(',').map(str::to_owned).collect(),
            state_machine: stack.output("StateMachineArn")?,
            service: (stack.output("ClusterName")?, stack.output("ServiceName")?),
            security_group: stack.output("SecurityGroupId")?,
            stack: Some(stack),
            emulator,
        })
    }

    /// The emulator's.
    pub fn endpoint(&self) -> &str {
        self.emulator.endpoint()
    }

    /// Brings targets, parameters and rules to where `spec` has them begin, whatever happened since.
    pub async fn settle(&self, spec: &Spec) -> Result<()> {
        self.proxy.clear();
        self.proxy.add(Rule::always("efs:CreateMountTarget", Behaviour::HoldCreating(spec.creation)));
        for target in self.targets().await? {
            self.delete_target(&target.id).await?;
        }
        for name in self.parameters().await? {
            self.clients.ssm.delete_parameter().name(name).send().await?;
        }
        for zone in 0..spec.mount_targets.min(self.subnets.len()) {
            self.create_target(zone).await?;
        }
        if let Some(list) = PublishedList::of(&self.targets().await?, None) {
            let version = self.publish(&list.to_json()).await?;
            self.set_deployed(&list, version).await?;
        }
        Ok(())
    }

    /// What of a stack, and of what was made beside it, is still there.
    pub async fn left(&self) -> Result<Vec<String>> {
        let mut left = self.parameters().await?;
        let targets = self.clients.efs.describe_mount_targets().file_system_id(&self.file_system).send().await;
        // Of a file system that is gone there are none.
        let targets = targets.map(|answer| answer.mount_targets().to_vec()).unwrap_or_default();
        left.extend(targets.iter().map(|target| target.mount_target_id().to_owned()));
        let systems = self.clients.efs.describe_file_systems().send().await?;
        left.extend(systems.file_systems().iter().map(|found| found.file_system_id().to_owned()));
        let machines = self.clients.sfn.list_state_machines().send().await?;
        left.extend(machines.state_machines().iter().map(|found| found.name().to_owned()));
        let services = self.clients.ecs.list_clusters().send().await?;
        left.extend(services.cluster_arns().iter().cloned());
        let subnets = self.clients.ec2.describe_subnets().set_subnet_ids(Some(self.subnets.clone())).send().await;
        let subnets = subnets.map(|answer| answer.subnets().to_vec()).unwrap_or_default();
        left.extend(subnets.iter().filter_map(|found| found.subnet_id().map(str::to_owned)));
        Ok(left)
    }

    async fn service(&self) -> Result<()> {
        let ecs = &self.clients.ecs;
        ecs.create_cluster().cluster_name(CLUSTER).send().await?;
        let container = ContainerDefinition::builder().name("file-service").image("file-service:local").build();
        ecs.register_task_definition()
            .family("file-service")
            .requires_compatibilities(Compatibility::Fargate)
            .network_mode(NetworkMode::Awsvpc)
            .cpu("2048")
            .memory("4096")
            .container_definitions(container)
            .send()
            .await?;
        let network = AwsVpcConfiguration::builder()
            .set_subnets(Some(self.subnets.clone()))
            .security_groups(&self.security_group)
            .build()?;
        ecs.create_service()
            .cluster(CLUSTER)
            .service_name(SERVICE)
            .task_definition("file-service")
            .launch_type(LaunchType::Fargate)
            .desired_count(1)
            .network_configuration(NetworkConfiguration::builder().awsvpc_configuration(network).build())
            .send()
            .await?;
        Ok(())
    }

    /// All functions at once: the deployer waits for seconds after each.
    async fn deploy(&self, tools: &Tools, spec: &Spec, vpc: &str) -> Result<()> {
        let directory = self.emulator.plain_path(&spec.directory)?;
        for (name, value) in &spec.variables {
            ensure!(!value.contains([',', '\n']), "{name}: the deployer would split {value:?}");
        }
        let mut variables: Vec<String> = [
            ("AWS_ENDPOINT_URL", self.proxy.endpoint()),
            ("TARGET_DIRECTORY", &directory),
            ("EFS_FILE_SYSTEM_ID", &self.file_system),
            ("VPC_ID", vpc),
            ("SECURITY_GROUP_IDS", &self.security_group),
            ("SSM_PARAMETER_NAME", DEFAULT_PARAMETER_NAME),
            ("ECS_CLUSTER_NAME", CLUSTER),
            ("ECS_SERVICE_NAME", SERVICE),
        ]
        .map(|(name, value)| format!("{name}={value}"))
        .into();
        variables.extend(spec.variables.iter().map(|(name, value)| format!("{name}={value}")));
        let deployments =
            FUNCTIONS.map(|function| deploy(tools, self.emulator.endpoint(), function, Some(ROLE), variables.clone()));
        let [a, b, c, d, e, f] = deployments;
        tokio::try_join!(a, b, c, d, e, f)?;
        Ok(())
    }

    /// Replaces the code of one function that is there, as `cargo lambda deploy` does: its variables and its role stay.
    pub async fn deploy_again(&self, tools: &Tools, function: &str) -> Result<()> {
        deploy(tools, self.emulator.endpoint(), function, None, vec![]).await
    }

    async fn create_state_machine(&self, spec: &Spec) -> Result<String> {
        let definition = substitute(spec);
        let created = self
            .clients
            .sfn
            .create_state_machine()
            .name("efs-mount-autoscaling")
            .role_arn(ROLE)
            .definition(definition)
            .send()
            .await?;
        Ok(created.state_machine_arn().to_owned())
    }

    /// The file system's targets as the emulator has them: `available`, also while the functions see
    /// `creating`. Sorted by zone.
    pub async fn targets(&self) -> Result<Vec<MountTarget>> {
        let answer = self.clients.efs.describe_mount_targets().file_system_id(&self.file_system).send().await?;
        let mut targets = answer
            .mount_targets()
            .iter()
            .map(|target| {
                Ok(MountTarget {
                    id: MountTargetId::new(target.mount_target_id()),
                    subnet: SubnetId::new(target.subnet_id()),
                    vpc: None,
                    zone: ZoneId::new(target.availability_zone_id().context("a target without a zone")?),
                    zone_name: ZoneName::new(target.availability_zone_name().context("a target without a zone")?),
                    ip: target.ip_address().and_then(|ip| ip.parse().ok()),
                    ipv6: target.ipv6_address().and_then(|ip| ip.parse().ok()),
                    state: LifeCycle::Available,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        targets.sort_by(|a, b| (&a.zone, &a.id).cmp(&(&b.zone, &b.id)));
        Ok(targets)
    }

    /// Makes a target behind the functions' back, at once.
    pub async fn create_target(&self, zone: usize) -> Result<MountTargetId> {
        let subnet = self.subnets.get(zone).context("there is no such zone")?;
        let request = self.clients.efs.create_mount_target().file_system_id(&self.file_system).subnet_id(subnet);
        let created = request.security_groups(&self.security_group).send().await?;
        Ok(MountTargetId::new(created.mount_target_id()))
    }

    /// Deletes a target behind the functions' back.
    pub async fn delete_target(&self, id: &MountTargetId) -> Result<()> {
        self.clients.efs.delete_mount_target().mount_target_id(id.as_str()).send().await?;
        Ok(())
    }

    /// The published parameter's text and version.
    pub async fn published(&self) -> Result<Option<(String, i64)>> {
        self.parameter(DEFAULT_PARAMETER_NAME).await
    }

    /// The text and version of a parameter, decrypted.
    pub async fn parameter(&self, name: &str) -> Result<Option<(String, i64)>> {
        let answer = self.clients.ssm.get_parameters().names(name).with_decryption(true).send().await?;
        Ok(answer.parameters().first().map(|found| (found.value().unwrap_or_default().to_owned(), found.version())))
    }

    /// Every parameter below the published one's name, and that one.
    async fn parameters(&self) -> Result<Vec<String>> {
        let answer = self.clients.ssm.get_parameters_by_path().path("/efs-mount-autoscaling").recursive(true).send();
        Ok(answer.await?.parameters().iter().filter_map(|found| found.name().map(str::to_owned)).collect())
    }

    /// Writes the published parameter behind the functions' back.
    pub async fn publish(&self, text: &str) -> Result<i64> {
        self.put(&ParameterName::new(DEFAULT_PARAMETER_NAME), text, self.published_as.clone()).await
    }

    /// The ledger's record of the last deployment.
    pub async fn deployed(&self) -> Result<Option<Deployed>> {
        let name = ledger::deployed_name(&ParameterName::new(DEFAULT_PARAMETER_NAME));
        Ok(self.parameter(name.as_str()).await?.and_then(|(text, _)| ledger::read(&text)))
    }

    pub async fn set_deployed(&self, list: &PublishedList, version: i64) -> Result<()> {
        let fact = Deployed { fingerprint: list.fingerprint(), started: true, version, deployment_id: None };
        self.put(
            &ledger::deployed_name(&ParameterName::new(DEFAULT_PARAMETER_NAME)),
            &ledger::write(&fact),
            ParameterType::String,
        )
        .await?;
        Ok(())
    }

    /// The ledger's record of a zone.
    pub async fn created(&self, zone: &ZoneId) -> Result<Option<ledger::Created>> {
        let name = ledger::created_name(&ParameterName::new(DEFAULT_PARAMETER_NAME), zone);
        Ok(self.parameter(name.as_str()).await?.and_then(|(text, _)| ledger::read(&text)))
    }

    async fn put(&self, name: &ParameterName, text: &str, kind: ParameterType) -> Result<i64> {
        let request = self.clients.ssm.put_parameter().name(name.as_str()).value(text);
        Ok(request.r#type(kind).overwrite(true).send().await?.version())
    }

    /// The id of the service's deployment.
    pub async fn deployment(&self) -> Result<String> {
        let (cluster, service) = &self.service;
        let answer = self.clients.ecs.describe_services().cluster(cluster).services(service).send().await?;
        let primary = answer.services().first().and_then(|service| service.deployments().first());
        Ok(primary.and_then(|deployment| deployment.id()).unwrap_or_default().to_owned())
    }
}

/// The state machine for this world: every `${…}` replaced.
fn substitute(spec: &Spec) -> String {
    let mut definition = STATE_MACHINE
        .replace("${PollIntervalSeconds}", &spec.poll_interval.to_string())
        .replace("${PollTimeoutSeconds}", &spec.poll_timeout.to_string());
    for function in FUNCTIONS {
        let arn = format!("arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}");
        definition = definition.replace(&format!("${{{}Function}}", state_of(function)), &arn);
    }
    definition
}

/// The state of a function: `create-target` is `CreateTarget`.
pub fn state_of(function: &str) -> String {
    let capitalised = |word: &str| match word.split_at_checked(1) {
        Some((first, rest)) => first.to_uppercase() + rest,
        None => String::new(),
    };
    function.split('-').map(capitalised).collect()
}

async fn deploy(
    tools: &Tools,
    endpoint: &str,
    function: &str,
    role: Option<&str>,
    variables: Vec<String>,
) -> Result<()> {
    // The deployer leaves its archive beside the binary, always under the same name: each function needs a
    // folder of its own, and none of it stays.
    let staged = tempfile::tempdir()?;
    let binary = staged.path().join("bootstrap");
    std::os::unix::fs::symlink(tools.binary(function)?.canonicalize()?, &binary)?;
    let mut command = tokio::process::Command::new(&tools.cargo_lambda);
    // Nor does it leave this machine by way of a proxy.
    for name in std::env::vars_os().map(|(name, _)| name) {
        if name.to_string_lossy().to_ascii_lowercase().ends_with("_proxy") {
            command.env_remove(name);
        }
    }
    command
        .args(["lambda", "deploy", "--endpoint-url", endpoint, "--binary-path"])
        .arg(&binary)
        .args(role.iter().flat_map(|role| ["--role", role]))
        .args(variables.iter().flat_map(|variable| ["--env-var", variable]))
        .arg(function)
        .current_dir(&tools.project)
        .env("AWS_ACCESS_KEY_ID", ACCOUNT)
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("AWS_REGION", REGION)
        // Nor may it find a profile that leads to a real account.
        .env("AWS_CONFIG_FILE", Path::new("/dev/null"))
        .env("AWS_SHARED_CREDENTIALS_FILE", Path::new("/dev/null"))
        .env_remove("AWS_PROFILE")
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_ENDPOINT_URL")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("cannot start {}", tools.cargo_lambda.display()))?;
    ensure!(
        output.status.success(),
        "`cargo lambda deploy {function}` ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

/// A VPC with a subnet in each of so many zones, and a security group.
async fn network(clients: &Clients, zones: usize) -> Result<(String, Vec<String>, String)> {
    let ec2 = &clients.ec2;
    let vpc = ec2.create_vpc().cidr_block("10.0.0.0/16").send().await?;
    let vpc = vpc.vpc().and_then(|vpc| vpc.vpc_id()).context("a VPC without an id")?.to_owned();
    let mut subnets = Vec::new();
    for (index, letter) in ('a'..='f').take(zones).enumerate() {
        let request = ec2.create_subnet().vpc_id(&vpc).cidr_block(format!("10.0.{}.0/24", index + 1));
        let subnet = request.availability_zone(format!("{REGION}{letter}")).send().await?;
        let id = subnet.subnet().and_then(|subnet| subnet.subnet_id()).context("a subnet without an id")?;
        subnets.push(id.to_owned());
    }
    let group = ec2.create_security_group().vpc_id(&vpc).group_name("efs").description("EFS mount targets");
    let group = group.send().await?.group_id().context("a security group without an id")?.to_owned();
    Ok((vpc, subnets, group))
}

async fn file_system(clients: &Clients) -> Result<String> {
    let created = clients.efs.create_file_system().creation_token("efs-autoscale").encrypted(true).send().await?;
    Ok(created.file_system_id().to_owned())
}
