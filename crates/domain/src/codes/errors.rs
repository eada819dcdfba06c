//! The errors of the functions.

use super::{Entry, entries};
use crate::error::Code;

pub fn error(code: Code) -> &'static Entry {
    match code {
        Code::InvalidInput => &INVALID_INPUT,
        Code::TargetDirectoryUnreadable => &TARGET_DIRECTORY_UNREADABLE,
        Code::AwsThrottled => &AWS_THROTTLED,
        Code::AwsUnavailable => &AWS_UNAVAILABLE,
        Code::AwsRefused => &AWS_REFUSED,
        Code::FileSystemNotFound => &FILE_SYSTEM_NOT_FOUND,
        Code::NoAvailableTargets => &NO_AVAILABLE_TARGETS,
        Code::SubnetRefused => &SUBNET_REFUSED,
        Code::ZoneRefused => &ZONE_REFUSED,
        Code::ConflictNotVisible => &CONFLICT_NOT_VISIBLE,
        Code::TargetNotFound => &TARGET_NOT_FOUND,
        Code::TargetFailed => &TARGET_FAILED,
        Code::TargetNotVisible => &TARGET_NOT_VISIBLE,
        Code::ParameterTooLarge => &PARAMETER_TOO_LARGE,
        Code::ParameterTypeMismatch => &PARAMETER_TYPE_MISMATCH,
    }
}

entries! {
    TABLE: Error;
    INVALID_INPUT = "InvalidInput" {
        meaning: "The input of the execution or of a function is not valid; nothing was touched.",
        cause: "A field is unknown, misspelt or of the wrong type. An execution takes `{}`, `dry_run` (true or false), \
                `threshold` (a whole number) and `Comment`.",
        remedy: [
            "Read the cause: it names the field and what was expected.",
            "Start again with a valid input: `efs-autoscale start`, or `aws stepfunctions start-execution \
             --state-machine-arn ARN --input '{\"dry_run\": true}'`.",
            "If the cause names a field that you did not send, the functions and the state machine are of different \
             versions: run `make deploy`.",
        ],
    }
    TARGET_DIRECTORY_UNREADABLE = "TargetDirectoryUnreadable" {
        meaning: "The directory that is to be counted cannot be read, so nothing was counted.",
        cause: "The EFS mount of `count` fails, the directory does not exist, its permissions exclude the user of the \
                access point, or, with `COUNT_VIA=nfs`, `NFS_HOST` is not reachable at port 2049. Repairs were made \
                all the same.",
        remedy: [
            "Read the cause: it has the path and the error of the operating system.",
            "`No such file or directory`: on a new file system `make probe` creates the directory; otherwise correct \
             `storage.directory` or `TARGET_DIRECTORY`.",
            "`Permission denied`: allow the user of the access point to read the directory.",
            "A timeout or a refused connection: allow port 2049 from the security group of `count` to that of the \
             mount targets, and check that the zone of `count` has a mount target. `efs-autoscale doctor` checks both.",
        ],
    }
    AWS_THROTTLED = "AwsThrottled" {
        meaning: "AWS refused a call because of too many calls, and all retries failed.",
        cause: "The account's rate limit for this API is exhausted, often by other programs. The state machine retried \
                four times within half a minute.",
        remedy: [
            "Nothing at first: the next execution continues where this one stopped.",
            "If it persists, find the other caller: `aws cloudtrail lookup-events --lookup-attributes \
             AttributeKey=EventName,AttributeValue=DescribeMountTargets --query 'Events[].Username'`.",
            "Run the schedule less often: `make deploy SET=\"pipeline.schedule=rate(15 minutes)\"`.",
        ],
    }
    AWS_UNAVAILABLE = "AwsUnavailable" {
        meaning: "AWS, or the network to it, did not work, and all retries failed.",
        cause: "The service answered with a server error, the connection timed out, or EFS said that the file system \
                is being changed. In a VPC without internet, a missing endpoint looks the same.",
        remedy: [
            "Nothing at first: the next execution continues where this one stopped.",
            "If it persists, read the cause: it names the call and the connection error or AWS's code.",
            "A timeout at every execution: check the VPC endpoints (`network.endpoints`, `pipeline.inVpc`) with \
             `efs-autoscale doctor`.",
            "`IncorrectFileSystemLifeCycleState`: wait until `aws efs describe-file-systems --file-system-id fs-…` \
             says `available`.",
        ],
    }
    AWS_REFUSED = "AwsRefused" {
        meaning: "AWS refused a call and will refuse it again.",
        cause: "A permission is missing, a quota is reached, or an id is wrong. The cause has the call, the resource, \
                AWS's code and the request id.",
        remedy: [
            "Read the cause: `efs-autoscale explain latest`.",
            "`AccessDenied…` or `UnauthorizedOperation`: compare the role of the function with the permissions in \
             `docs/reference/operations.md`; look at permission boundaries and service control policies.",
            "`NetworkInterfaceLimitExceeded`, `SecurityGroupLimitExceeded`, `ParameterLimitExceeded`: raise the quota \
             with `aws service-quotas request-service-quota-increase`.",
            "`…NotFound`, `Invalid…`: correct the id in the settings, and run `make deploy`.",
            "If the parameter `…/deployed` cannot be written, fix that first: until then the service is not \
             redeployed, or nobody knows that it was.",
        ],
    }
    FILE_SYSTEM_NOT_FOUND = "FileSystemNotFound" {
        meaning: "The file system does not exist in this account and region.",
        cause: "`EFS_FILE_SYSTEM_ID` is wrong, the file system was deleted, or it is in another region or account.",
        remedy: [
            "`aws efs describe-file-systems --query 'FileSystems[].[FileSystemId,Name]'` lists those that exist.",
            "Set `storage.existing` to the right one, and run `make deploy`.",
            "If it was deleted: `efs-autoscale pause`, then restore it from a backup (`docs/how-to/restore.md`).",
        ],
    }
    NO_AVAILABLE_TARGETS = "NoAvailableTargets" {
        meaning: "No mount target of the file system can be published; the published list is unchanged.",
        cause: "All mount targets were deleted, are in the state `error` or `deleting`, or have no address, and none \
                is being created. The functions never write an empty list.",
        remedy: [
            "`aws efs describe-mount-targets --file-system-id fs-…` shows the state of each.",
            "Delete those in the state `error`: `aws efs delete-mount-target --mount-target-id fsmt-…`.",
            "Create one: `aws efs create-mount-target --file-system-id fs-… --subnet-id subnet-… --security-groups \
             sg-…`, with the stack's outputs `SubnetIds` and `SecurityGroupId`.",
            "When it is available, `efs-autoscale start` publishes it.",
        ],
    }
    SUBNET_REFUSED = "SubnetRefused" {
        meaning: "EFS refused to create a mount target in this subnet; the next subnet is tried.",
        cause: "The subnet has no free address, does not exist, does not fit the type of address, or a policy forbids \
                it. As the error of a failed execution it means that more than 50 subnets and zones were refused.",
        remedy: [
            "Read AWS's code in the cause: `efs-autoscale explain latest`.",
            "`NoFreeAddressesInSubnet`: free addresses, or name other subnets in `network.existing`.",
            "`AccessDenied…`: allow `elasticfilesystem:CreateMountTarget`, `ec2:DescribeSubnets`, \
             `ec2:DescribeNetworkInterfaces` and `ec2:CreateNetworkInterface` to the role of `create-target`.",
            "`BadRequest`, `ValidationException`: check `scaling.ipAddressType` against the subnet's IPv4 and IPv6 \
             ranges.",
        ],
    }
    ZONE_REFUSED = "ZoneRefused" {
        meaning: "EFS refused to create a mount target in this Availability Zone; the next zone is tried.",
        cause: "EFS does not support the zone, or the file system is a One Zone file system of another zone.",
        remedy: [
            "Leave the zone out: set `network.zoneNames`, or the subnets in `network.existing`, and run `make deploy`.",
        ],
    }
    CONFLICT_NOT_VISIBLE = "ConflictNotVisible" {
        meaning: "EFS reports a conflict with a mount target that it does not show.",
        cause: "The subnets are in another VPC than the mount targets of the file system, or EFS is slow to show a \
                mount target that an overlapping execution created.",
        remedy: [
            "Wait for the next execution: a new mount target is visible by then.",
            "If it repeats, compare the VPCs: `aws efs describe-mount-targets --file-system-id fs-… --query \
             'MountTargets[].[MountTargetId,VpcId]'` and the stack's output `VpcId`.",
            "All mount targets of a file system must be in one VPC: delete those in the other, or deploy into theirs \
             (`network.existing`).",
        ],
    }
    TARGET_NOT_FOUND = "TargetNotFound" {
        meaning: "EFS does not show the mount target that the execution waits for.",
        cause: "Somebody deleted it while the execution waited, or EFS does not show it yet; the state machine retried \
                four times.",
        remedy: [
            "Nothing at first: the next execution decides again from what EFS shows.",
            "If it repeats, find who deletes mount targets: `aws cloudtrail lookup-events --lookup-attributes \
             AttributeKey=EventName,AttributeValue=DeleteMountTarget`.",
        ],
    }
    TARGET_FAILED = "TargetFailed" {
        meaning: "The mount target will not become available: it is in the state `error`, `deleting` or `deleted`.",
        cause: "EFS could not create it, or somebody deleted it while the execution waited.",
        remedy: [
            "`aws efs describe-mount-targets --mount-target-id fsmt-…` shows its state.",
            "In the state `error`, delete it: `aws efs delete-mount-target --mount-target-id fsmt-…`. It occupies its \
             zone until then.",
            "`efs-autoscale start` creates another one if there still are too many files.",
        ],
    }
    TARGET_NOT_VISIBLE = "TargetNotVisible" {
        meaning: "The mount target that the execution waited for is not shown as available, so the list is not \
                  published.",
        cause: "EFS answered from an older state, or somebody deleted the mount target after it was available; the \
                state machine retried four times.",
        remedy: [
            "Nothing at first: the next execution publishes what is available.",
            "If it repeats, look at the mount target: `aws efs describe-mount-targets --mount-target-id fsmt-…`.",
        ],
    }
    PARAMETER_TOO_LARGE = "ParameterTooLarge" {
        meaning: "The list of mount targets exceeds the 4 KB of a standard parameter.",
        cause: "The file system has more mount targets than any region has zones. The cause says how many and how many \
                bytes.",
        remedy: ["Delete mount targets that nobody needs, and file an issue with the cause."],
    }
    PARAMETER_TYPE_MISMATCH = "ParameterTypeMismatch" {
        meaning: "The published parameter exists with another type than `SSM_PARAMETER_TYPE` asks for.",
        cause: "`pipeline.parameterType` was changed after the first publication, or something else created the \
                parameter. Systems Manager never changes the type of a parameter.",
        remedy: [
            "Delete the parameter: `aws ssm delete-parameter --name /efs-mount-autoscaling/mount-targets`. Running \
             tasks keep the list that they have.",
            "`efs-autoscale start` writes it again, with the right type.",
        ],
    }
}
