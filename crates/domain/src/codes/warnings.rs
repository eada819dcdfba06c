//! What an operator should know though it does not change the decision.

use super::{Entry, entries};
use crate::{policy::Warning, redeployment::Deferral};

pub fn warning(warning: &Warning) -> &'static Entry {
    match warning {
        Warning::TargetInError { .. } => &TARGET_IN_ERROR,
        Warning::TargetWithoutAddress { .. } => &TARGET_WITHOUT_ADDRESS,
        Warning::PublishedDamaged { .. } => &PUBLISHED_DAMAGED,
        Warning::CountIncomplete => &COUNT_INCOMPLETE,
        Warning::NoAvailableSubnet => &NO_AVAILABLE_SUBNET,
        Warning::AllSubnetsRefused => &ALL_SUBNETS_REFUSED,
        Warning::RedeployRolledBack => &REDEPLOY_ROLLED_BACK,
        Warning::RedeployDeferred { .. } => &REDEPLOY_DEFERRED,
        Warning::SubnetRefused { .. } => &SUBNET_REFUSED,
        Warning::ServiceNotFound => &SERVICE_NOT_FOUND,
        Warning::ServiceUnknown { .. } => &SERVICE_UNKNOWN,
        Warning::ObservationIncomplete { .. } => &OBSERVATION_INCOMPLETE,
    }
}

pub fn deferral(deferral: Deferral) -> &'static Entry {
    match deferral {
        Deferral::ServiceNotFound => &DEFERRED_SERVICE_NOT_FOUND,
        Deferral::ServiceNotActive => &SERVICE_NOT_ACTIVE,
        Deferral::DeploymentController => &DEPLOYMENT_CONTROLLER,
        Deferral::DeploymentInProgress => &DEPLOYMENT_IN_PROGRESS,
        Deferral::TooManyDeployments => &TOO_MANY_DEPLOYMENTS,
    }
}

entries! {
    WARNINGS: Warning;
    TARGET_IN_ERROR = "target_in_error" {
        meaning: "A mount target is in the state `error`: it is not published, and it occupies its zone.",
        cause: "EFS could not create or keep it. Only a person can delete it.",
        remedy: [
            "Delete it: `aws efs delete-mount-target --mount-target-id fsmt-…`, with the id in the warning.",
            "`efs-autoscale start` creates another one if there are too many files.",
        ],
    }
    TARGET_WITHOUT_ADDRESS = "target_without_address" {
        meaning: "A mount target is `available` and has no IP address, so it cannot be published.",
        cause: "EFS does not report the address yet, or its network interface was deleted.",
        remedy: [
            "Wait for the next execution.",
            "If it persists, look at the network interface: `aws efs describe-mount-targets --mount-target-id fsmt-… \
             --query 'MountTargets[].NetworkInterfaceId'`.",
            "If that is gone, delete the mount target: `aws efs delete-mount-target --mount-target-id fsmt-…`.",
        ],
    }
    PUBLISHED_DAMAGED = "published_damaged" {
        meaning: "The published parameter does not parse; the execution publishes it again.",
        cause: "Something else wrote the parameter. The warning has the position and what was expected.",
        remedy: [
            "Nothing to do for the list: the execution repairs it.",
            "Find who wrote it: `aws ssm get-parameter-history --name /efs-mount-autoscaling/mount-targets --query \
             'Parameters[].[Version,LastModifiedUser]'`.",
        ],
    }
    COUNT_INCOMPLETE = "count_incomplete" {
        meaning: "The count is a lower bound: part of the tree was not counted.",
        cause: "A directory could not be read, a part of the count failed, or the time was over after 4 rounds.",
        remedy: [
            "Read `first_errors` in the log of `count`: `aws logs tail /aws/lambda/count --since 1h`.",
            "`Permission denied`: allow the user of `count`'s access point to read the directory.",
            "No errors: there was no time. Set `pipeline.scale=large` and `pipeline.reservedConcurrency=true`, and run \
             `make deploy`.",
        ],
    }
    NO_AVAILABLE_SUBNET = "no_available_subnet" {
        meaning: "There are too many files, and every zone that has a subnet has a mount target.",
        cause: "The decision is `nothing` with the reason of the same name.",
        remedy: [
            "Add a subnet in another zone: raise `network.zones` (or extend `network.existing`) and run `make deploy`.",
            "If the region has no other zone, raise `scaling.threshold`: the system cannot scale further.",
        ],
    }
    ALL_SUBNETS_REFUSED = "all_subnets_refused" {
        meaning: "There are too many files, and EFS refused every subnet that is left, or they have no free address.",
        cause: "The decision is `nothing` with the reason of the same name. The warnings `subnet_refused` beside it \
                have what EFS said.",
        remedy: [
            "Fix what `subnet_refused` names.",
            "The system asks EFS again an hour after the refusal; deleting \
             `/efs-mount-autoscaling/mount-targets/refused/ZONE-ID` makes the next execution ask.",
        ],
    }
    REDEPLOY_ROLLED_BACK = "redeploy_rolled_back" {
        meaning: "The circuit breaker of ECS rolled the last deployment back; that version of the list is not tried \
                  again.",
        cause: "New tasks did not become healthy: no image, no endpoint, no mount target that works, or a bad \
                variable.",
        remedy: [
            "Read the events: `aws ecs describe-services --cluster efs-mount-autoscaling-cluster --services \
             efs-mount-autoscaling-fargate --query 'services[0].events[:10].message'`.",
            "Read the log of the tasks that ended: `aws logs tail /ecs/efs-mount-autoscaling --since 3h`.",
            "Fix it, then redeploy by hand: `aws ecs update-service --cluster efs-mount-autoscaling-cluster --service \
             efs-mount-autoscaling-fargate --force-new-deployment`.",
        ],
    }
    REDEPLOY_DEFERRED = "redeploy_deferred" {
        meaning: "The file service has to be redeployed for the published list, and that is not possible now.",
        cause: "`reason` in the warning says why; each has an entry. Until the redeployment, tasks use the list that \
                they read at start, unless `REFRESH_SECONDS` is set.",
        remedy: ["Look up the reason: `efs-autoscale help deployment_in_progress`, for example."],
    }
    SUBNET_REFUSED = "subnet_refused" {
        meaning: "EFS refused to create a mount target in this subnet or zone within the last hour; others are tried \
                  meanwhile.",
        cause: "The warning has EFS's code and message, such as `NoFreeAddressesInSubnet`, \
                `UnsupportedAvailabilityZone`, `AccessDeniedException` or `SecurityGroupNotFound`.",
        remedy: [
            "Fix what the message names; `efs-autoscale help SubnetRefused` lists the common ones.",
            "The system asks EFS again after an hour. To ask at once: `aws ssm delete-parameter --name \
             /efs-mount-autoscaling/mount-targets/refused/ZONE-ID`, then `efs-autoscale start`.",
        ],
    }
    SERVICE_NOT_FOUND = "service_not_found" {
        meaning: "ECS knows no such service, so nothing is redeployed.",
        cause: "`ECS_CLUSTER_NAME` or `ECS_SERVICE_NAME` is wrong, or the service was deleted.",
        remedy: [
            "`aws ecs list-services --cluster efs-mount-autoscaling-cluster` lists the services that exist.",
            "Correct `service.existing`, and run `make deploy`.",
            "If the service reads the list by itself, set `pipeline.redeploy=never`.",
        ],
    }
    SERVICE_UNKNOWN = "service_unknown" {
        meaning: "ECS could not be asked about the service.",
        cause: "`ecs:DescribeServices` failed: the warning has AWS's code. The decision was made without the state of \
                the service.",
        remedy: [
            "Nothing at first: the next execution asks again.",
            "`AccessDeniedException`: allow `ecs:DescribeServices` to the role of `evaluate`.",
            "A timeout: check the endpoint of ECS in the VPC, with `pipeline.inVpc`.",
        ],
    }
    OBSERVATION_INCOMPLETE = "observation_incomplete" {
        meaning: "The network or the file system could not be asked; only a repair was made.",
        cause: "`ec2:DescribeSubnets` or `efs:DescribeFileSystems` failed: the warning has AWS's code. Without them no \
                mount target can be added.",
        remedy: [
            "Nothing at first: the next execution asks again.",
            "`AccessDenied…` or `UnauthorizedOperation`: allow both calls to the role of `evaluate`.",
            "`InvalidSubnetID.NotFound`: correct `SUBNET_IDS` (`network.existing`), and run `make deploy`.",
        ],
    }
}

entries! {
    DEFERRALS: Deferral;
    DEFERRED_SERVICE_NOT_FOUND = "service_not_found" {
        meaning: "ECS knows no such service, so there is nothing to redeploy.",
        cause: "`ECS_CLUSTER_NAME` or `ECS_SERVICE_NAME` is wrong, or the service was deleted.",
        remedy: ["Follow the remedy of the warning `service_not_found`."],
    }
    SERVICE_NOT_ACTIVE = "service_not_active" {
        meaning: "The service is being deleted or is inactive.",
        cause: "Somebody deleted the service, or the stack is being removed.",
        remedy: [
            "`aws ecs describe-services --cluster efs-mount-autoscaling-cluster --services \
             efs-mount-autoscaling-fargate --query 'services[0].status'` shows its state.",
            "If it was deleted by accident, create it again: `make deploy`.",
            "If it is not needed any more, stop the schedule: `efs-autoscale pause`.",
        ],
    }
    DEPLOYMENT_CONTROLLER = "deployment_controller" {
        meaning: "The service's deployment controller is `CODE_DEPLOY` or `EXTERNAL`, which accepts no redeployment \
                  from here.",
        cause: "`ecs:UpdateService` with a forced deployment works with the controller `ECS` only.",
        remedy: [
            "Redeploy with CodeDeploy or the external controller whenever the list changes.",
            "Or let the service read the list again by itself (`REFRESH_SECONDS`), and set `pipeline.redeploy=never`.",
        ],
    }
    DEPLOYMENT_IN_PROGRESS = "deployment_in_progress" {
        meaning: "Another deployment of the service is under way, and a redeployment would supersede it.",
        cause: "CloudFormation, a person or an earlier execution is deploying the service. A deployment that is older \
                than 3 hours is not waited for.",
        remedy: [
            "Nothing at first: the first execution after it redeploys, if that is still needed.",
            "If it does not end, read the events: `aws ecs describe-services --cluster efs-mount-autoscaling-cluster \
             --services efs-mount-autoscaling-fargate --query 'services[0].events[:10].message'`.",
        ],
    }
    TOO_MANY_DEPLOYMENTS = "too_many_deployments" {
        meaning: "The service has as many deployments as ECS accepts.",
        cause: "Five deployments are under way at once, or ECS refused another one.",
        remedy: [
            "Nothing at first: the next execution tries again.",
            "If it persists, find who deploys so often: `aws cloudtrail lookup-events --lookup-attributes \
             AttributeKey=EventName,AttributeValue=UpdateService`.",
        ],
    }
}
