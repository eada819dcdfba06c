//! What an execution decides to do, and why it does nothing.

use super::{Entry, entries};
use crate::policy::{Decision, Reason};

pub fn action(decision: &Decision) -> &'static Entry {
    match decision {
        Decision::Publish => &PUBLISH,
        Decision::Redeploy { .. } => &REDEPLOY,
        Decision::Adopt { .. } => &ADOPT,
        Decision::Create { .. } => &CREATE,
        Decision::Nothing { .. } => &NOTHING,
        Decision::NoAvailableTargets => &NO_AVAILABLE_TARGETS,
    }
}

pub fn reason(reason: Reason) -> &'static Entry {
    match reason {
        Reason::CountUnknown => &COUNT_UNKNOWN,
        Reason::BelowThreshold => &BELOW_THRESHOLD,
        Reason::OneZone => &ONE_ZONE,
        Reason::AtMaximum => &AT_MAXIMUM,
        Reason::NoAvailableSubnet => &NO_AVAILABLE_SUBNET,
        Reason::AllSubnetsRefused => &ALL_SUBNETS_REFUSED,
        Reason::CoolingDown => &COOLING_DOWN,
    }
}

entries! {
    ACTIONS: Action;
    PUBLISH = "publish" {
        meaning: "The execution writes the list of available mount targets to Parameter Store, then redeploys the file \
                  service.",
        cause: "The mount targets that are available differ from the published list: one became available, one was \
                deleted or lost its address, or the parameter is missing or does not parse.",
        remedy: [
            "Nothing to do: the action is the repair.",
            "If every execution decides `publish`, something else writes the parameter, or the write fails: run \
             `efs-autoscale history`, then `aws ssm get-parameter-history --name /efs-mount-autoscaling/mount-targets \
             --query 'Parameters[].[Version,LastModifiedUser]'`.",
        ],
    }
    REDEPLOY = "redeploy" {
        meaning: "The execution forces a new deployment of the file service, so that its tasks read the published \
                  list.",
        cause: "The list was published after the primary deployment of the service began, and the ledger does not say \
                that the service was redeployed for it.",
        remedy: [
            "Nothing to do: `efs-autoscale status` shows the deployment.",
            "If every execution decides `redeploy`, the ledger cannot be written: look for `AwsRefused` with \
             `efs-autoscale history`, and run `efs-autoscale doctor`.",
        ],
    }
    ADOPT = "adopt" {
        meaning: "The execution waits for a mount target that is being created, instead of creating another one.",
        cause: "A mount target is in the state `creating`: an earlier or an overlapping execution created it, or a \
                person did.",
        remedy: [
            "Nothing to do: the execution publishes the mount target when it is available.",
            "If executions adopt the same mount target for longer than 15 minutes, see `TargetTimedOut`.",
        ],
    }
    CREATE = "create" {
        meaning: "The execution creates one mount target, in the subnet and zone that the decision names.",
        cause: "There are more files than the limit of the scaling rule, or fewer mount targets than \
                `MIN_MOUNT_TARGETS`, and a zone has a subnet with a free address and no mount target.",
        remedy: [
            "Nothing to do: the execution waits for the mount target, publishes it and redeploys the service.",
            "If you do not want more mount targets, raise `scaling.threshold` or set `scaling.maxMountTargets`, and \
             run `make deploy`; `efs-autoscale pause` stops the schedule until then.",
        ],
    }
    NOTHING = "nothing" {
        meaning: "The execution changes nothing; `decision.reason` says why.",
        cause: "The published list is current, the service has read it, no mount target is being created, and no mount \
                target is to be added.",
        remedy: ["Look up the reason: `efs-autoscale explain latest` names it with its numbers."],
    }
    NO_AVAILABLE_TARGETS = "no_available_targets" {
        meaning: "The file system has no mount target that can be published, and none is being created.",
        cause: "All mount targets were deleted, are in the state `error`, or have no address. The execution fails with \
                `NoAvailableTargets`, and the published list stays as it is.",
        remedy: ["Follow the remedy of `NoAvailableTargets`."],
    }
}

entries! {
    REASONS: Reason;
    COUNT_UNKNOWN = "count_unknown" {
        meaning: "The number of files is not known, so no mount target is added.",
        cause: "The count failed, or it is a lower bound that is not over the limit: part of the tree could not be \
                read, or there was no time for it.",
        remedy: [
            "If the count failed, `efs-autoscale explain latest` names the error: see `TargetDirectoryUnreadable`.",
            "Otherwise read `first_errors` in the log of `count`: `aws logs tail /aws/lambda/count --since 1h`.",
            "If directories could not be read, allow the user of `count`'s access point to read them.",
            "If there was no time, set `pipeline.scale=large` and `pipeline.reservedConcurrency=true`, and run `make \
             deploy`.",
        ],
    }
    BELOW_THRESHOLD = "below_threshold" {
        meaning: "There are not too many files for the mount targets that exist.",
        cause: "The number of files is at most the limit of the scaling rule; exactly the limit is not over it.",
        remedy: [
            "Nothing to do.",
            "If you expected a mount target, compare count and limit in `efs-autoscale explain latest`. To try another \
             threshold without changing anything, start an execution with the input `{\"dry_run\": true, \
             \"threshold\": 50000}`.",
        ],
    }
    ONE_ZONE = "one_zone" {
        meaning: "The file system is a One Zone file system, and its only zone has a mount target.",
        cause: "EFS allows one mount target for a One Zone file system.",
        remedy: ["Nothing helps but a Regional file system: create one, copy the files (AWS DataSync), and set \
                  `storage.existing`."],
    }
    AT_MAXIMUM = "at_maximum" {
        meaning: "There are too many files, and the number of mount targets is the maximum that you set.",
        cause: "`MAX_MOUNT_TARGETS` (`scaling.maxMountTargets`) is reached. Mount targets in any state occupy their \
                zone.",
        remedy: [
            "Raise `scaling.maxMountTargets` and run `make deploy`, or accept the number.",
        ],
    }
    NO_AVAILABLE_SUBNET = "no_available_subnet" {
        meaning: "There are too many files, and every zone that has a subnet has a mount target.",
        cause: "EFS allows one mount target per zone. The candidates are the subnets of `SUBNET_IDS`, or all subnets \
                of the VPC.",
        remedy: [
            "Add a subnet in another zone: raise `network.zones` (or extend `network.existing`) and run `make deploy`.",
            "If the region has no other zone, raise `scaling.threshold`: the system cannot scale further.",
            "If a mount target in the state `error` occupies a zone, delete it: `aws efs delete-mount-target \
             --mount-target-id fsmt-…`.",
        ],
    }
    ALL_SUBNETS_REFUSED = "all_subnets_refused" {
        meaning: "There are too many files, and no subnet that is left can take a mount target now.",
        cause: "EFS refused each remaining subnet or zone in this execution or within the last hour, or the subnets \
                have no free address.",
        remedy: [
            "Read code and message of EFS in the warnings `subnet_refused`: `efs-autoscale explain latest`.",
            "Fix what they name: free addresses (`aws ec2 describe-subnets --subnet-ids subnet-… --query \
             'Subnets[].AvailableIpAddressCount'`), a permission of `create-target`, the type of address.",
            "The system asks EFS again after an hour. To ask at once, delete the record and start an execution: `aws \
             ssm delete-parameter --name /efs-mount-autoscaling/mount-targets/refused/ZONE-ID`, `efs-autoscale start`.",
        ],
    }
    COOLING_DOWN = "cooling_down" {
        meaning: "There are too many files, and the last mount target was created too recently.",
        cause: "`COOLDOWN_SECONDS` (`scaling.cooldownSeconds`) have not passed since the system last created a mount \
                target or tried to.",
        remedy: [
            "Wait until the cooldown is over: the next execution after it adds the mount target if it is still needed.",
            "To add mount targets faster, lower `scaling.cooldownSeconds` and run `make deploy`.",
        ],
    }
}
