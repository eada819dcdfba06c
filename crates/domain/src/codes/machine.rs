//! Errors that Step Functions and Lambda raise around the functions.

use super::entries;

entries! {
    TABLE: MachineError;
    TARGET_TIMED_OUT = "TargetTimedOut" {
        meaning: "The new mount target was not available within `PollTimeoutSeconds`; the next execution continues to \
                  wait for it.",
        cause: "EFS took longer than 300 s (`pipeline.pollTimeoutSeconds`). Nothing is lost: the mount target is in \
                the state `creating`, and the next execution adopts it.",
        remedy: [
            "Nothing at first: look after the next execution with `efs-autoscale status`.",
            "If EFS always takes longer, raise the limit: `make deploy SET=\"pipeline.pollTimeoutSeconds=900\"`. The \
             metric `CreateDuration` shows how long it takes.",
            "If the mount target stays in `creating` for an hour, delete it (`aws efs delete-mount-target \
             --mount-target-id fsmt-…`) or ask AWS Support.",
        ],
    }
    UNKNOWN_ERROR = "UnknownError" {
        meaning: "A state failed, and Step Functions gave no name for the error.",
        cause: "The error output of the state has no `Error`. No known error does that.",
        remedy: [
            "Look at the events of the execution: `aws stepfunctions get-execution-history --execution-arn ARN \
             --reverse-order --max-results 20`.",
            "Read the log of the function that failed, and file an issue with both.",
        ],
    }
    STATES_TIMEOUT = "States.Timeout" {
        meaning: "A state or the whole execution took longer than its `TimeoutSeconds`.",
        cause: "A function hung beyond its own limit, or the execution took more than 2 hours, all rounds of counting \
                included.",
        remedy: [
            "Run `efs-autoscale explain latest`: it names the state.",
            "`Count`: the tree is too large or the file system too slow: set `pipeline.scale=large`, or count less \
             often with `pipeline.countCacheSeconds`.",
            "Another state: read the log of its function for the call that hangs, and run `efs-autoscale doctor`.",
        ],
    }
    STATES_TASK_FAILED = "States.TaskFailed" {
        meaning: "A task failed, and Lambda gave no name for the error.",
        cause: "Lambda ended the function, for example for lack of time or memory.",
        remedy: [
            "Read the cause, then the last lines of the function's log: `aws logs tail /aws/lambda/FUNCTION --since \
             1h`.",
            "`Task timed out` or `signal: killed` in `count`: set `pipeline.scale=large`, and run `make deploy`.",
        ],
    }
    STATES_DATA_LIMIT_EXCEEDED = "States.DataLimitExceeded" {
        meaning: "The result of a state exceeds the 256 KiB that Step Functions passes on.",
        cause: "In `CountPartitions`, what is left to count is too large in its parts; the machine catches this, and \
                the count is a lower bound. In another state it is a bug.",
        remedy: [
            "In `CountPartitions`: set `pipeline.scale=large`, so that less is left after each invocation.",
            "In another state: file an issue with the execution's events.",
        ],
    }
    STATES_QUERY_EVALUATION_ERROR = "States.QueryEvaluationError" {
        meaning: "An expression of the state machine failed.",
        cause: "A function returned something that the state machine does not expect: functions and state machine are \
                of different versions.",
        remedy: [
            "Run `make deploy`, which replaces functions and state machine together.",
            "If it persists, file an issue with the cause, which has the expression.",
        ],
    }
    STATES_RUNTIME = "States.Runtime" {
        meaning: "Step Functions could not run a state, and no `Catch` of the machine gets this error.",
        cause: "The definition or its data are not what Step Functions accepts: functions and state machine are of \
                different versions, or the definition was edited.",
        remedy: ["Run `make deploy`. If it persists, file an issue with the execution's events."],
    }
    LAMBDA_UNKNOWN = "Lambda.Unknown" {
        meaning: "Lambda ended the function without an error of its own.",
        cause: "The function ran out of memory or time, or its process ended during init, for example because a \
                variable is missing.",
        remedy: [
            "Read the end of the function's log: `aws logs tail /aws/lambda/FUNCTION --since 1h`.",
            "`InvalidConfiguration`: see there.",
            "`signal: killed`, or `Max Memory Used` equal to `Memory Size`: set `pipeline.scale=large`, and run `make \
             deploy`.",
        ],
    }
    RUNTIME_EXIT_ERROR = "Runtime.ExitError" {
        meaning: "The process of the function ended, during init or during a request.",
        cause: "A variable is missing or bad (`InvalidConfiguration` in its log), the binary is for the other \
                processor, or the process was killed for lack of memory.",
        remedy: [
            "Read the end of the function's log: `aws logs tail /aws/lambda/FUNCTION --since 1h`.",
            "`InvalidConfiguration`: see there.",
            "`exec format error`: build for the architecture of the function (`pipeline.architecture`), and run `make \
             deploy`.",
            "`signal: killed`: set `pipeline.scale=large`, and run `make deploy`.",
        ],
    }
    SANDBOX_TIMEDOUT = "Sandbox.Timedout" {
        meaning: "The function reached its own timeout, and Lambda ended it.",
        cause: "A call to AWS or to the file system hung. `count` ends by itself 15 s before its timeout unless a \
                single call to the kernel hangs.",
        remedy: [
            "Read the function's log: `aws logs tail /aws/lambda/FUNCTION --since 1h`.",
            "In `count`: the mount target hangs. Run `efs-autoscale doctor`, and look at `PercentIOLimit` and \
             `BurstCreditBalance` of the file system.",
            "In another function: an endpoint of the VPC is missing (`network.endpoints`), or AWS does not answer.",
        ],
    }
    LAMBDA_SERVICE_EXCEPTION = "Lambda.ServiceException" {
        meaning: "Lambda failed internally, and all retries failed.",
        cause: "The failure is within Lambda.",
        remedy: [
            "Nothing at first: the next execution continues.",
            "If it persists, look at the AWS Health Dashboard for the region.",
        ],
    }
    LAMBDA_AWS_LAMBDA_EXCEPTION = "Lambda.AWSLambdaException" {
        meaning: "Step Functions could not invoke the function, and all retries failed.",
        cause: "Lambda answered with an error to the invocation, or the function is being created or updated.",
        remedy: [
            "Nothing at first: the next execution continues.",
            "If it persists, read the cause; `aws lambda get-function --function-name FUNCTION --query \
             'Configuration.[State,StateReason,LastUpdateStatus]'` shows the state of the function.",
        ],
    }
    LAMBDA_SDK_CLIENT_EXCEPTION = "Lambda.SdkClientException" {
        meaning: "Step Functions lost its connection to Lambda, and all retries failed.",
        cause: "The network between Step Functions and Lambda failed.",
        remedy: ["Nothing at first: the next execution continues. If it persists, look at the AWS Health Dashboard."],
    }
    LAMBDA_CLIENT_EXECUTION_TIMEOUT = "Lambda.ClientExecutionTimeoutException" {
        meaning: "Lambda did not answer Step Functions in time, and all retries failed.",
        cause: "The network between Step Functions and Lambda failed, or Lambda is slow.",
        remedy: ["Nothing at first: the next execution continues. If it persists, look at the AWS Health Dashboard."],
    }
    LAMBDA_TOO_MANY_REQUESTS = "Lambda.TooManyRequestsException" {
        meaning: "Lambda refused the invocation because the concurrency quota is used up.",
        cause: "Other functions of the account use the quota, or the function's reserved concurrency is too small: \
                `count` runs up to 8 times at once.",
        remedy: [
            "`aws lambda get-account-settings --query AccountLimit` shows the quota.",
            "Raise it in Service Quotas (`Concurrent executions`), then reserve a part for `count`: `make deploy \
             SET=\"pipeline.reservedConcurrency=true\"`.",
        ],
    }
    LAMBDA_EFS_MOUNT_TIMEOUT = "Lambda.EFSMountTimeoutException" {
        meaning: "Lambda could not mount the file system for `count` in time.",
        cause: "Port 2049 is closed between the security groups of `count` and of the mount targets, the zone of \
                `count` has no mount target, or the file system is throttled.",
        remedy: [
            "Run `efs-autoscale doctor`: it checks security groups and zones.",
            "Allow TCP 2049 from the security group of `count` to that of the mount targets.",
            "Look at `PercentIOLimit` and `BurstCreditBalance` of the file system in CloudWatch.",
            "Or count without a mount: `COUNT_VIA=nfs` (`docs/reference/operations.md`).",
        ],
    }
    LAMBDA_EFS_MOUNT_CONNECTIVITY = "Lambda.EFSMountConnectivityException" {
        meaning: "Lambda could not reach a mount target of the file system for `count`.",
        cause: "The subnets of `count` are in a zone without an available mount target, the mount target was deleted, \
                or the network forbids port 2049.",
        remedy: [
            "`aws efs describe-mount-targets --file-system-id fs-…` shows zones and states.",
            "Run `efs-autoscale doctor`: it compares them with the subnets of `count`.",
            "Allow TCP 2049 from the security group of `count` to that of the mount targets.",
        ],
    }
    LAMBDA_EFS_MOUNT_FAILURE = "Lambda.EFSMountFailureException" {
        meaning: "The file system refused the mount for `count`.",
        cause: "The access point was deleted, its directory cannot be created, or the file system policy does not \
                allow `elasticfilesystem:ClientMount` to the role of `count`.",
        remedy: [
            "`aws efs describe-access-points --file-system-id fs-…` shows the access points and their states.",
            "`aws efs describe-file-system-policy --file-system-id fs-…`: allow `elasticfilesystem:ClientMount` to the \
             role of `count`.",
            "Run `make deploy`, which creates the stack's access point again.",
        ],
    }
    LAMBDA_EFS_IO = "Lambda.EFSIOException" {
        meaning: "Lambda stopped `count` because the file system did not answer reads.",
        cause: "The file system is throttled, has no burst credits, or its mount target failed.",
        remedy: [
            "Look at `PercentIOLimit` and `BurstCreditBalance` of the file system in CloudWatch.",
            "Set `storage.throughput=elastic`, and run `make deploy`.",
        ],
    }
}
