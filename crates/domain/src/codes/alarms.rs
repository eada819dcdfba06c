//! The alarms of `cdk/lib/observability.ts`. `cdk/test/codes.test.ts` compares.

use super::entries;

entries! {
    TABLE: Alarm;
    EXECUTION_FAILED = "ExecutionFailed" {
        meaning: "An execution of the state machine failed, timed out or was aborted within five minutes.",
        cause: "The execution's `error` is one of the codes below; its `cause` names the call and the resource.",
        remedy: [
            "Run `efs-autoscale explain latest`: it names the error, the cause and what to do.",
            "Look the error up: `efs-autoscale help TargetTimedOut`, for example.",
            "Run `efs-autoscale history`: if later executions succeeded, nothing is left to do.",
        ],
    }
    COUNT_ERRORS = "CountErrors" {
        meaning: "More than 10 % of the invocations of the function `count` fail.",
        cause: "Usually the file system: the mount fails or a directory cannot be read. Otherwise memory or time.",
        remedy: [
            "Read its log: `aws logs tail /aws/lambda/count --since 1h --filter-pattern ERROR`.",
            "Look up the code in the log, such as `TargetDirectoryUnreadable` or `InvalidConfiguration`.",
            "Run `efs-autoscale doctor`: it checks port 2049, zones and the access point.",
        ],
    }
    EVALUATE_ERRORS = "EvaluateErrors" {
        meaning: "More than 10 % of the invocations of the function `evaluate` fail.",
        cause: "AWS refuses or throttles a call that reads mount targets, parameters, subnets or the file system, or a \
                variable is bad. No decision is made meanwhile.",
        remedy: [
            "Read its log: `aws logs tail /aws/lambda/evaluate --since 1h --filter-pattern ERROR`.",
            "Look up the code in the log, such as `AwsRefused` or `FileSystemNotFound`.",
            "Run `efs-autoscale doctor`: it checks permissions.",
        ],
    }
    CREATE_TARGET_ERRORS = "CreateTargetErrors" {
        meaning: "More than 10 % of the invocations of the function `create-target` fail.",
        cause: "EFS refuses a subnet or a zone, a quota is reached, or the ledger cannot be written.",
        remedy: [
            "Read its log: `aws logs tail /aws/lambda/create-target --since 1h --filter-pattern ERROR`.",
            "Look up the code in the log, such as `SubnetRefused` or `AwsRefused`.",
            "See `TargetCreationFailed`.",
        ],
    }
    POLL_AVAILABLE_ERRORS = "PollAvailableErrors" {
        meaning: "More than 10 % of the invocations of the function `poll-available` fail.",
        cause: "The new mount target failed or was deleted, or AWS refuses or throttles `DescribeMountTargets`.",
        remedy: [
            "Read its log: `aws logs tail /aws/lambda/poll-available --since 1h --filter-pattern ERROR`.",
            "Look up the code in the log, such as `TargetFailed` or `TargetNotFound`.",
        ],
    }
    PUBLISH_SSM_ERRORS = "PublishSsmErrors" {
        meaning: "More than 10 % of the invocations of the function `publish-ssm` fail.",
        cause: "The parameter cannot be written, has another type, or no mount target can be published. Tasks keep the \
                list that they have.",
        remedy: [
            "Read its log: `aws logs tail /aws/lambda/publish-ssm --since 1h --filter-pattern ERROR`.",
            "Look up the code in the log, such as `ParameterTypeMismatch`, `AwsRefused` or `NoAvailableTargets`.",
        ],
    }
    REDEPLOY_ERRORS = "RedeployErrors" {
        meaning: "More than 10 % of the invocations of the function `redeploy` fail.",
        cause: "The ledger cannot be written, or AWS refuses `UpdateService`. Tasks keep the list that they read at \
                start.",
        remedy: [
            "Read its log: `aws logs tail /aws/lambda/redeploy --since 1h --filter-pattern ERROR`.",
            "Look up the code in the log, such as `AwsRefused`.",
        ],
    }
    TARGET_CREATION_FAILED = "TargetCreationFailed" {
        meaning: "The function `create-target` failed at least once within five minutes.",
        cause: "EFS refused a subnet, a zone or the whole call: no free address, no permission, a quota, or a file \
                system that is being changed. One refused subnet is no harm if another one is accepted.",
        remedy: [
            "Run `efs-autoscale explain latest`: if the execution created a mount target, nothing is left to do.",
            "Otherwise read what EFS said: `aws logs tail /aws/lambda/create-target --since 1h --filter-pattern \
             ERROR`.",
            "`NetworkInterfaceLimitExceeded`: raise the quota of network interfaces in the region.",
            "See `SubnetRefused`, `ZoneRefused` and the warning `subnet_refused`.",
        ],
    }
    SCHEDULE_SILENT = "ScheduleSilent" {
        meaning: "No execution was started for twice the interval of the schedule, at least an hour.",
        cause: "The schedule is disabled or deleted, or its role may not start the state machine.",
        remedy: [
            "Run `efs-autoscale status`: it says whether the schedule is paused, since when and why.",
            "If it is paused and should not be: `efs-autoscale resume`.",
            "`aws scheduler get-schedule --name SCHEDULE` with the stack's output `ScheduleName` shows state and \
             target.",
            "See `NotStarted` for what the schedule could not start; `make deploy` restores schedule and role.",
        ],
    }
    NOT_STARTED = "NotStarted" {
        meaning: "The schedule could not start an execution, and its message is in the dead-letter queue.",
        cause: "The role of the schedule may not call `states:StartExecution`, the state machine does not exist, or \
                Step Functions did not answer for a long time. The alarm is on until the queue is empty.",
        remedy: [
            "Find the queue: `aws sqs list-queues --queue-name-prefix efs-mount-autoscaling-PipelineNotStarted`.",
            "Read a message: `aws sqs receive-message --queue-url URL --message-attribute-names All`; its attribute \
             `ERROR_MESSAGE` says why.",
            "Fix it (`make deploy` restores the role), and check with `efs-autoscale start`.",
            "Empty the queue: `aws sqs purge-queue --queue-url URL`.",
        ],
    }
    PUBLISHED_DIFFERS = "PublishedDiffers" {
        meaning: "For half an hour the published list has had another number of mount targets than are available.",
        cause: "Publishing fails, no execution runs, or something else writes the parameter.",
        remedy: [
            "Run `efs-autoscale status`: it shows list, mount targets and the last executions.",
            "Executions that fail: `efs-autoscale explain latest`.",
            "No executions: see `ScheduleSilent`.",
            "Somebody else writes the parameter: `aws ssm get-parameter-history --name \
             /efs-mount-autoscaling/mount-targets --query 'Parameters[].[Version,LastModifiedUser]'`.",
        ],
    }
    IO_LIMIT = "IoLimit" {
        meaning: "The file system uses more than 80 % of the I/O limit of its performance mode for 15 minutes.",
        cause: "`PercentIOLimit` of EFS: clients make more operations per second than General Purpose mode allows. The \
                limit is the file system's: another mount target does not raise it.",
        remedy: [
            "Look at the dashboard: bytes and operations by mount target show who works how much.",
            "Find the client that does the most, and let it do fewer and larger operations, or spread its work over \
             time.",
            "Count less often: `pipeline.schedule`, `pipeline.countFullEvery`, `pipeline.countCacheSeconds`.",
            "If `storage.throughput` is not `elastic`, set it, since that has the highest limits, and run `make \
             deploy`.",
        ],
    }
    BURST_CREDITS_LOW = "BurstCreditsLow" {
        meaning: "The file system has less than 0.21 TiB of burst credits left, a tenth of what it began with.",
        cause: "With `storage.throughput=bursting`, clients read and write more than the size of the file system pays \
                for. Without credits, throughput falls to the baseline.",
        remedy: [
            "Set `storage.throughput=elastic`, which has no credits: `make deploy SET=\"storage.throughput=elastic\"`. \
             Compare the price first (`docs/reference/costs.md`).",
            "Or reduce the traffic: the dashboard shows bytes by mount target.",
        ],
    }
    TARGET_DOWN = "TargetDown" {
        meaning: "A task of the file service has not reached a mount target for five minutes.",
        cause: "A security group, a zone or EFS: the paths of this mount target use the others meanwhile.",
        remedy: [
            "`GET /targets` of the service says which mount target and why: `curl -H \"Authorization: Bearer $TOKEN\" \
             https://SERVICE/targets`.",
            "`aws efs describe-mount-targets --mount-target-id fsmt-…`: if it is not `available`, the next execution \
             removes it from the list.",
            "Allow TCP 2049 from the security group of the tasks to that of the mount targets: `efs-autoscale doctor` \
             checks it.",
            "If a whole zone fails, wait: the service uses the mount target again after two successful probes.",
        ],
    }
    UNHEALTHY_TASKS = "UnhealthyTasks" {
        meaning: "The load balancer has found a task unhealthy for five minutes.",
        cause: "`GET /readyz` of the task does not answer 200: no mount target works for it, it is ending, or it is \
                overloaded.",
        remedy: [
            "Read the log of the service: `aws logs tail /ecs/efs-mount-autoscaling --since 1h`.",
            "If the log has `NoTarget`, see `TargetDown`.",
            "Look at processor and memory on the dashboard: raise `service.size` or `service.desiredCount`.",
            "Look at the events of the service: `aws ecs describe-services --cluster efs-mount-autoscaling-cluster \
             --services efs-mount-autoscaling-fargate --query 'services[0].events[:10].message'`.",
        ],
    }
    SERVICE_ERRORS = "ServiceErrors" {
        meaning: "More than 5 % of the requests to the file service end with a 5xx status.",
        cause: "503 from tasks: mount targets are not reachable or at capacity. 504 from tasks: they did not answer in \
                time. 502 and 504 from the load balancer: tasks end or hang.",
        remedy: [
            "The dashboard shows failures and refusals by mount target.",
            "`GET /targets` shows health and latency of each.",
            "Look up the code of the responses: `efs-autoscale help Busy`, for example.",
            "502 and 504 from the load balancer: read `aws logs tail /ecs/efs-mount-autoscaling --since 1h`, and look \
             for tasks that ended with `aws ecs list-tasks --cluster efs-mount-autoscaling-cluster --desired-status \
             STOPPED`.",
        ],
    }
    TASK_LAUNCH_FAILED = "TaskLaunchFailed" {
        meaning: "ECS could not start a task of the file service, or rolled a deployment back.",
        cause: "No image, no endpoint for ECR, logs or parameters, no capacity, a missing secret, or tasks that do not \
                become healthy. The topic gets the event as well, with its reason.",
        remedy: [
            "Read the events: `aws ecs describe-services --cluster efs-mount-autoscaling-cluster --services \
             efs-mount-autoscaling-fargate --query 'services[0].events[:10].message'`.",
            "`CannotPullContainerError`, `ResourceInitializationError`: check image and endpoints \
             (`network.endpoints`).",
            "`unable to place a task`, `RESOURCE:…`: capacity of the zone or a quota of Fargate; try later, or set \
             `service.launch=fargate`.",
            "Tasks that end: `aws logs tail /ecs/efs-mount-autoscaling --since 1h` has the code, such as `NoTarget`.",
            "After the fix: `aws ecs update-service --cluster efs-mount-autoscaling-cluster --service \
             efs-mount-autoscaling-fargate --force-new-deployment`.",
        ],
    }
    BACKUP_FAILED = "BackupFailed" {
        meaning: "A backup of the file system failed within an hour.",
        cause: "AWS Backup could not read the file system or write the vault: its role, its key, or the state of the \
                file system.",
        remedy: [
            "Read why: `aws backup list-backup-jobs --by-state FAILED --by-resource-type EFS --query \
             'BackupJobs[].[CreationDate,StatusMessage]'`.",
            "Fix it (`make deploy` restores the role), then back up by hand: `aws backup start-backup-job \
             --backup-vault-name VAULT --resource-arn ARN --iam-role-arn ROLE`.",
            "Try a restore afterwards (`docs/how-to/restore.md`).",
        ],
    }
}
