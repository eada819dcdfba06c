//! Refusals that AWS makes and the emulator does not. Each call is checked against AWS's rule first. A test shows for each
//! rule that the emulator accepts the call, so that a rule that the emulator has learnt is removed here.

use std::collections::BTreeMap;

use aws_config::SdkConfig;
use serde_json::Value;

/// AWS's response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    pub status: u16,
    pub code: &'static str,
    pub message: String,
}

fn refusal(code: &'static str, message: impl Into<String>) -> Option<Refusal> {
    Some(Refusal { status: 400, code, message: message.into() })
}

/// A standard parameter holds this many bytes.
const MAX_PARAMETER_BYTES: usize = 4096;
const MAX_SECURITY_GROUPS: usize = 5;
const PROTECTED: &str = "deletion_protection.enabled";

/// Reads the state of the emulator.
pub struct Strict {
    cloudformation: aws_sdk_cloudformation::Client,
    ecs: aws_sdk_ecs::Client,
    elb: aws_sdk_elasticloadbalancingv2::Client,
    ssm: aws_sdk_ssm::Client,
}

impl Strict {
    pub fn new(emulator: &SdkConfig) -> Self {
        Self {
            cloudformation: aws_sdk_cloudformation::Client::new(emulator),
            ecs: aws_sdk_ecs::Client::new(emulator),
            elb: aws_sdk_elasticloadbalancingv2::Client::new(emulator),
            ssm: aws_sdk_ssm::Client::new(emulator),
        }
    }

    /// AWS's refusal of this call; `None`: forward it.
    pub async fn refusal(&self, operation: &str, body: &[u8]) -> Option<Refusal> {
        let json = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        match operation {
            "efs:CreateMountTarget" => create_mount_target(&json()),
            "ssm:PutParameter" => self.put_parameter(&json()).await,
            "ecs:UpdateService" => self.update_service(&json()).await,
            "cloudformation:DeleteStack" => self.delete_stack(&form(body)).await,
            _ => None,
        }
    }

    /// Systems Manager cannot change the type of a parameter, and limits the size of a standard one.
    async fn put_parameter(&self, call: &Value) -> Option<Refusal> {
        let (name, value) = (call["Name"].as_str()?, call["Value"].as_str()?);
        let is_standard = call["Tier"].as_str().is_none_or(|tier| tier == "Standard");
        if is_standard && value.len() > MAX_PARAMETER_BYTES {
            return refusal(
                "ValidationException",
                "Standard tier parameters support a maximum parameter value of 4096 characters.",
            );
        }
        let there = self.ssm.get_parameter().name(name).send().await.ok()?.parameter?;
        let asked = call["Type"].as_str()?;
        let is_other = there.r#type().is_some_and(|known| known.as_str() != asked);
        is_other.then(|| refusal("HierarchyTypeMismatchException", "The type of a parameter cannot be changed."))?
    }

    /// A service of another deployment controller, or one that is being deleted, refuses a forced deployment.
    async fn update_service(&self, call: &Value) -> Option<Refusal> {
        if !call["forceNewDeployment"].as_bool().unwrap_or_default() {
            return None;
        }
        let (cluster, service) = (call["cluster"].as_str()?, call["service"].as_str()?);
        let answer = self.ecs.describe_services().cluster(cluster).services(service).send().await.ok()?;
        let found = answer.services().first()?;
        if found.status() != Some("ACTIVE") {
            return refusal("ServiceNotActiveException", "Service was not ACTIVE.");
        }
        let controller = found.deployment_controller()?.r#type().as_str();
        (controller != "ECS").then(|| {
            refusal(
                "InvalidParameterException",
                format!("Cannot force a new deployment on services with a {controller} deployment controller."),
            )
        })?
    }

    /// AWS accepts the call and ends in DELETE_FAILED; here the call is refused, with the same result earlier.
    async fn delete_stack(&self, call: &BTreeMap<String, String>) -> Option<Refusal> {
        let stack = call.get("StackName")?;
        let resources = self.cloudformation.list_stack_resources().stack_name(stack).send().await.ok()?;
        let balancers = resources
            .stack_resource_summaries()
            .iter()
            .filter(|one| one.resource_type() == Some("AWS::ElasticLoadBalancingV2::LoadBalancer"))
            .filter_map(|one| one.physical_resource_id());
        for arn in balancers {
            let answer = self.elb.describe_load_balancer_attributes().load_balancer_arn(arn).send().await.ok()?;
            let is_protected = answer
                .attributes()
                .iter()
                .any(|attribute| attribute.key() == Some(PROTECTED) && attribute.value() == Some("true"));
            if is_protected {
                return refusal(
                    "ValidationError",
                    format!("Load balancer '{arn}' cannot be deleted because deletion protection is enabled"),
                );
            }
        }
        None
    }
}

fn create_mount_target(call: &Value) -> Option<Refusal> {
    let groups = call["SecurityGroups"].as_array().map_or(0, Vec::len);
    (groups > MAX_SECURITY_GROUPS).then(|| refusal("SecurityGroupLimitExceeded", "at most 5 security groups"))?
}

/// The fields of the query protocol. Only what the tests need is decoded.
fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    let fields = text.split('&').filter_map(|field| field.split_once('='));
    fields.map(|(name, value)| (name.to_owned(), value.replace("%3A", ":").replace("%2F", "/"))).collect()
}
