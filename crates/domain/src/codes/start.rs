//! Errors that keep a function or the file service from starting.

use super::entries;

entries! {
    TABLE: StartError;
    INVALID_CONFIGURATION = "InvalidConfiguration" {
        meaning: "A variable of a function or of the file service is missing or bad, or a file that it names cannot be \
                  used.",
        cause: "The message names the variable, its value and what is expected. A function reports it to Lambda, which \
                ends the init; the service ends with status 1.",
        remedy: [
            "Correct the setting of the deployment behind the variable (`docs/reference/settings.md`), and run `make \
             deploy`.",
            "`file-service serve --help` lists the variables of the service.",
        ],
    }
    RUNTIME_FAILED = "RuntimeFailed" {
        meaning: "A function lost its connection to Lambda's runtime API and ended.",
        cause: "The API did not answer as documented. Lambda starts the function again for the next request.",
        remedy: ["Nothing at first. If it repeats, file an issue with the log of the function."],
    }
    NO_LIST = "NoList" {
        meaning: "The file service found no list of mount targets and ended.",
        cause: "The parameter is missing, damaged or not readable, EFS reports no mount target or may not be asked, \
                and `DEFAULT_MOUNT_TARGETS` is not set.",
        remedy: [
            "Publish the list: `efs-autoscale start`, then `aws ssm get-parameter --name \
             /efs-mount-autoscaling/mount-targets`.",
            "Allow the task's role `ssm:GetParameters` and `elasticfilesystem:DescribeMountTargets`; without internet, \
             check the endpoints of both services.",
            "ECS starts the task again by itself.",
        ],
    }
    NO_TARGET_AT_START = "NoTarget" {
        meaning: "No mount target of the list worked when the file service started, and it ended.",
        cause: "The message has the reason for each: no connection at port 2049, TLS or IAM refused, or, with \
                `BACKEND=mounted`, a directory that does not exist.",
        remedy: [
            "Read the log of the service: `aws logs tail /ecs/efs-mount-autoscaling --since 1h`.",
            "Allow TCP 2049 from the security group of the tasks to that of the mount targets.",
            "`access denied`: allow the task's role `elasticfilesystem:ClientMount` and `ClientWrite` in the file \
             system policy.",
            "Run `make probe`: it asks the mount targets from within the VPC.",
        ],
    }
    FOLDED_MOUNTS = "FoldedMounts" {
        meaning: "Several mounts share one connection, and `REQUIRE_SEPARATE_MOUNTS=1` forbids that.",
        cause: "Linux combines NFSv4.1 mounts of one server into one connection, so that the mount targets would not \
                be used separately.",
        remedy: [
            "Use `BACKEND=nfs`, which has its own connections.",
            "Or set `MOUNT_OPTIONS` with `vers=4.0`, or mount each target in a network namespace of its own.",
            "Or accept it: `REQUIRE_SEPARATE_MOUNTS=0` warns only.",
        ],
    }
    NO_TLS = "NoTls" {
        meaning: "The file service cannot speak TLS and ended.",
        cause: "With `LISTEN_TLS=given`, the certificate and its key do not belong together or are not valid. With \
                `NFS_TLS=efs`, the trusted roots cannot be read, or there are no credentials for the client \
                certificate.",
        remedy: [
            "Check `LISTEN_TLS_CERTIFICATE` and `LISTEN_TLS_KEY`: PEM files, the certificate with its chain.",
            "Behind a load balancer `LISTEN_TLS=made` suffices.",
            "For EFS: check `NFS_TLS_ROOTS`, and that the task has a role.",
        ],
    }
    CANNOT_LISTEN = "CannotListen" {
        meaning: "The file service cannot listen at the address of `LISTEN` and ended.",
        cause: "Another process uses the port, the address is not one of the machine, or ports below 1024 are not \
                allowed.",
        remedy: ["Choose another port in `LISTEN`, or end the other process: `ss -ltnp` names it."],
    }
    NO_SIGNALS = "NoSignals" {
        meaning: "The file service cannot register for SIGTERM and SIGINT and ended.",
        cause: "The operating system has no resources left for the process.",
        remedy: ["Start the task again on a machine with more memory and file descriptors."],
    }
    NO_RUNTIME = "NoRuntime" {
        meaning: "The file service cannot start its event loop and ended.",
        cause: "The operating system gives the process no thread or file descriptor.",
        remedy: ["Raise the limits of the container (`ulimits`, memory), and start the task again."],
    }
}
