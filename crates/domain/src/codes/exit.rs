//! The exit statuses of the program.

use super::entries;

entries! {
    TABLE: ExitStatus;
    SUCCESS = "0" {
        meaning: "The command did all of it, and found no problem.",
        cause: "`--help` of the command says what that includes.",
        remedy: ["Nothing to do."],
    }
    INCOMPLETE = "1" {
        meaning: "The command ran, and something is missing, left behind or not as it should be.",
        cause: "`count`: the count is a lower bound. `bench`: the time was over. `probe`: the service needs something \
                that is missing. `teardown`: something is left. `doctor`: a check found a problem. `start` with \
                `--wait`: the execution failed.",
        remedy: ["Read the last lines of the output: they name it. `--help` of the command lists its exit statuses."],
    }
    FAILED = "2" {
        meaning: "The command could not do its work.",
        cause: "The arguments are wrong, AWS or the server did not answer, credentials or permissions are missing, or \
                there is no such system.",
        remedy: [
            "Read the message on stderr: it names what failed.",
            "Credentials and region: `aws sts get-caller-identity`, `AWS_PROFILE`, `AWS_REGION`.",
            "The name of the stack: `--stack NAME`, if it is not `efs-mount-autoscaling`.",
        ],
    }
    INTERRUPTED = "130" {
        meaning: "The command was interrupted with Ctrl-C.",
        cause: "A person or a program sent SIGINT. `bench` and `probe` remove what they created first.",
        remedy: ["Run the command again: it continues, or begins again."],
    }
}
