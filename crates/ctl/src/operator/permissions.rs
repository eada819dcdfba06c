//! `efs-autoscale permissions`: what an operator's role needs, as an IAM policy.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::print_lines;

/// What `--help` says below the options.
pub const HELP: &str = "\
Without --with it is what status, plan, history, explain and doctor call: they only read.

Examples:
  efs-autoscale permissions > read-only.json
  efs-autoscale permissions --with start,pause
  aws iam put-role-policy --role-name operators --policy-name efs-autoscale \\
    --policy-document \"$(efs-autoscale permissions --with start,pause)\"";

/// For which commands.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Commands that change something, too
    #[arg(long, value_name = "COMMAND", value_delimiter = ',')]
    with: Vec<Change>,
}

/// Commands that change something.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Change {
    /// Start an execution
    Start,
    /// Pause and resume the schedule
    Pause,
}

/// The calls of the commands that only read. A test compares them with the sources.
pub const READS: &[&str] = &[
    "acm:DescribeCertificate",
    "cloudformation:DescribeStackDriftDetectionStatus",
    "cloudformation:DescribeStacks",
    "cloudformation:DetectStackDrift",
    "cloudformation:DetectStackResourceDrift",
    "cloudwatch:DescribeAlarms",
    "cloudwatch:GetMetricData",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcEndpoints",
    "ecs:DescribeServices",
    "ecs:DescribeTaskDefinition",
    "elasticfilesystem:DescribeAccessPoints",
    "elasticfilesystem:DescribeFileSystems",
    "elasticfilesystem:DescribeMountTargetSecurityGroups",
    "elasticfilesystem:DescribeMountTargets",
    "elasticloadbalancing:DescribeListeners",
    "elasticloadbalancing:DescribeLoadBalancers",
    "iam:SimulatePrincipalPolicy",
    "lambda:GetAccountSettings",
    "lambda:GetFunctionConfiguration",
    "lambda:ListTags",
    "scheduler:GetSchedule",
    "sns:ListSubscriptionsByTopic",
    "ssm:DescribeParameters",
    "ssm:GetParameters",
    "states:DescribeExecution",
    "states:DescribeStateMachine",
    "states:GetExecutionHistory",
    "states:ListExecutions",
];

/// Prints the policy.
pub fn run(options: &Options) -> ExitCode {
    let text = serde_json::to_string_pretty(&policy(&options.with)).unwrap_or_default();
    print_lines([text]);
    ExitCode::SUCCESS
}

/// The policy document.
pub fn policy(with: &[Change]) -> Value {
    let mut statements = vec![json!({"Sid": "Read", "Effect": "Allow", "Action": READS, "Resource": "*"})];
    if with.contains(&Change::Start) {
        statements.push(json!({
            "Sid": "Start",
            "Effect": "Allow",
            "Action": "states:StartExecution",
            "Resource": "arn:*:states:*:*:stateMachine:*",
        }));
    }
    if with.contains(&Change::Pause) {
        statements.push(json!({
            "Sid": "Pause",
            "Effect": "Allow",
            "Action": "scheduler:UpdateSchedule",
            "Resource": "arn:*:scheduler:*:*:schedule/*/*",
        }));
        // An update replaces the schedule, its role included.
        statements.push(json!({
            "Sid": "KeepTheRoleOfTheSchedule",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": "*",
            "Condition": {"StringEquals": {"iam:PassedToService": "scheduler.amazonaws.com"}},
        }));
    }
    json!({"Version": "2012-10-17", "Statement": statements})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_needs_permissions_to_read_only() {
        let reading = ["Describe", "Get", "List", "Simulate", "Detect"];
        for action in READS {
            let (_, call) = action.split_once(':').unwrap();
            assert!(reading.iter().any(|verb| call.starts_with(verb)), "{action}");
        }
        assert_eq!(policy(&[])["Statement"].as_array().unwrap().len(), 1);
        assert!(policy(&[Change::Start, Change::Pause]).to_string().contains("iam:PassRole"));
        let mut sorted = READS.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, READS);
    }
}
