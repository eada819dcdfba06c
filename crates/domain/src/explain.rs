//! An execution in sentences: what was observed, what was decided by which rule with which numbers, what was done, and
//! what failed. Pure, so that every sentence has a test.

use std::fmt::Write as _;

use serde::Serialize;

use crate::{
    messages::{CreateOutcome, EvaluateOutput, Observed, PublishOutput, RedeployOutcome, RedeployOutput},
    model::MountTargetId,
    policy::{Decision, Reason, Warning},
    record::Execution,
};

/// An execution in sentences. Every list may be empty.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Explanation {
    /// The code of [`Execution::reason`].
    pub reason: String,
    pub observed: Vec<String>,
    pub decided: Vec<String>,
    pub done: Vec<String>,
    pub failed: Vec<String>,
    /// Codes of everything above that has an entry in the table of codes, the most important first.
    pub codes: Vec<String>,
}

impl Explanation {
    /// Explains an execution, as far as it has come.
    pub fn of(execution: &Execution) -> Self {
        let mut explanation = Self { reason: execution.code(), ..Self::default() };
        explanation.codes.push(explanation.reason.clone());
        match &execution.evaluated {
            Some(evaluated) => explanation.add_decision(evaluated),
            None if execution.stopped_at.is_some() => {
                explanation.observed.push("The execution ended before a decision was made.".to_owned());
            }
            None => explanation.observed.push("No decision has been made yet.".to_owned()),
        }
        explanation.add_actions(execution);
        if let Some(error) = &execution.error {
            let cause = execution.cause.as_deref().unwrap_or("no cause is given");
            explanation.failed.push(format!("The execution failed with {error}: {cause}"));
        } else if execution.stopped_at.is_some() && !execution.has_succeeded() {
            explanation.failed.push(format!("The execution ended as {}.", execution.status));
        }
        explanation
    }

    /// Explains a decision alone, as the log of `evaluate` keeps it.
    pub fn of_decision(evaluated: &EvaluateOutput) -> Self {
        let reason = evaluated.decision.word().to_owned();
        let mut explanation = Self { codes: vec![reason.clone()], reason, ..Self::default() };
        explanation.add_decision(evaluated);
        explanation
    }

    fn add_decision(&mut self, evaluated: &EvaluateOutput) {
        self.observed.extend(observed(&evaluated.observed));
        self.decided.push(decided(&evaluated.decision, &evaluated.observed));
        if evaluated.dry_run {
            self.decided.push("It was a dry run: nothing was changed.".to_owned());
        }
        for warning in &evaluated.warnings {
            let code = warning.code();
            self.observed.push(format!("Warning {code}: {}", sentence(warning)));
            if !self.codes.iter().any(|known| known == code) {
                self.codes.push(code.to_owned());
            }
        }
    }

    fn add_actions(&mut self, execution: &Execution) {
        if let Some(created) = &execution.created {
            self.done.push(match created.outcome {
                CreateOutcome::Created => format!("It created the mount target {}.", created.mount_target_id),
                CreateOutcome::Adopted => {
                    format!("The zone already had the mount target {}, which it adopted.", created.mount_target_id)
                }
            });
        }
        if let Some(published) = &execution.published {
            self.done.push(publishing(published));
        }
        if let Some(redeployed) = &execution.redeployed {
            self.done.push(redeployment(redeployed));
            for warning in &redeployed.warnings {
                self.done.push(format!("Warning {}: {}", warning.code(), sentence(warning)));
                self.codes.push(warning.code().to_owned());
            }
        }
    }
}

/// A number with thousands separators.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn plural(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(number as u64)) }
}

fn joined(ids: &[MountTargetId]) -> String {
    ids.iter().map(MountTargetId::as_str).collect::<Vec<_>>().join(", ")
}

fn files(observed: &Observed) -> String {
    match observed.files {
        Some(files) if observed.complete => format!("{} files", grouped(files)),
        Some(files) => format!("at least {} files", grouped(files)),
        None => "an unknown number of files".to_owned(),
    }
}

fn observed(observed: &Observed) -> Vec<String> {
    let mut lines = vec![match observed.files {
        Some(files) if observed.complete => format!("The count found {} files.", grouped(files)),
        Some(files) => format!("The count is incomplete: there are at least {} files.", grouped(files)),
        None => "The count failed: the number of files is unknown.".to_owned(),
    }];
    let rule = if observed.rule.is_empty() { "scaling rule" } else { &observed.rule };
    lines.push(format!("The limit was {} files, by the rule {rule}.", grouped(observed.limit)));
    let mut targets = format!("The file system had {}", plural(observed.mount_targets.len(), "mount target"));
    for (index, target) in observed.mount_targets.iter().enumerate() {
        let separator = if index == 0 { ": " } else { ", " };
        let _ =
            write!(targets, "{separator}{} in {} ({})", target.mount_target_id, target.availability_zone, target.state);
    }
    targets.push('.');
    if observed.maximum > 0 {
        let _ = write!(
            targets,
            " {} of at most {} zones had one; the minimum is {}.",
            observed.current, observed.maximum, observed.minimum
        );
    }
    lines.push(targets);
    lines.push(match &observed.published {
        None => "No readable list was published.".to_owned(),
        Some(published) if *published == observed.publishable => {
            format!("The published list named all {}.", plural(published.len(), "available mount target"))
        }
        Some(published) => format!(
            "The published list named {}, and {} could be published.",
            joined(published),
            if observed.publishable.is_empty() { "none".to_owned() } else { joined(&observed.publishable) }
        ),
    });
    lines
}

fn decided(decision: &Decision, observed: &Observed) -> String {
    let limit = grouped(observed.limit);
    match decision {
        Decision::Publish => {
            "It decided to publish the list again, since the published one is not the list of the mount \
                              targets that are available."
                .to_owned()
        }
        Decision::Redeploy { version, .. } => {
            format!("It decided to redeploy the file service, which has not read version {version} of the list yet.")
        }
        Decision::Adopt { mount_target_id } => {
            format!("It decided to wait for the mount target {mount_target_id}, which is being created.")
        }
        Decision::Create { subnet_id, zone_id } => {
            let because = match observed.current < observed.minimum {
                true => format!("{} of at least {} zones have one", observed.current, observed.minimum),
                false => format!("there are {}, over the limit of {limit}", files(observed)),
            };
            format!("It decided to create a mount target in {subnet_id} ({zone_id}), because {because}.")
        }
        Decision::NoAvailableTargets => {
            "No mount target is available and none is being created: there is nothing to publish.".to_owned()
        }
        Decision::Nothing { reason } => match reason {
            Reason::BelowThreshold => {
                format!("It decided to do nothing, because {} are not over the limit of {limit}.", files(observed))
            }
            Reason::CountUnknown if observed.files.is_none() => {
                "It decided to add nothing, because without a count nobody knows whether there are too many files."
                    .to_owned()
            }
            Reason::CountUnknown => format!(
                "It decided to add nothing, because the count is incomplete and {} do not show that the limit of {limit} \
                 is exceeded.",
                files(observed)
            ),
            Reason::OneZone => format!(
                "It could not add a mount target for {}: a One Zone file system takes one, and has it.",
                files(observed)
            ),
            Reason::AtMaximum => format!(
                "It could not add a mount target for {}, over the limit of {limit}: MAX_MOUNT_TARGETS ({}) is reached.",
                files(observed),
                observed.maximum
            ),
            Reason::NoAvailableSubnet => format!(
                "It could not add a mount target for {}, over the limit of {limit}: every zone that has a subnet has a \
                 mount target.",
                files(observed)
            ),
            Reason::AllSubnetsRefused => format!(
                "It could not add a mount target for {}, over the limit of {limit}: EFS refused each subnet that is left, \
                 or they have no free address.",
                files(observed)
            ),
            Reason::CoolingDown => format!(
                "It added no mount target for {}, over the limit of {limit}, because COOLDOWN_SECONDS have not passed \
                 since the last one.",
                files(observed)
            ),
        },
    }
}

fn publishing(published: &PublishOutput) -> String {
    let targets = plural(published.mount_targets.len(), "mount target");
    match published.changed {
        true => format!("It published version {} of the list, with {targets}.", published.version),
        false => format!("The list was published already, as version {}, with {targets}.", published.version),
    }
}

fn redeployment(redeployed: &RedeployOutput) -> String {
    let version = redeployed.version;
    match redeployed.outcome {
        RedeployOutcome::Started => {
            let id = redeployed.deployment_id.as_deref().unwrap_or("without an id");
            format!("It redeployed the file service for version {version} (deployment {id}).")
        }
        RedeployOutcome::Covered => format!("The file service had been redeployed for version {version} already."),
        RedeployOutcome::Deferred => {
            format!("It did not redeploy the file service for version {version} now; the next execution tries again.")
        }
        RedeployOutcome::Never => {
            "It did not redeploy the file service, which reads the list again by itself (REDEPLOY=never).".to_owned()
        }
    }
}

fn sentence(warning: &Warning) -> String {
    match warning {
        Warning::TargetInError { mount_target_id } => {
            format!(
                "EFS gave up on the mount target {mount_target_id}; it occupies its zone until somebody deletes it."
            )
        }
        Warning::TargetWithoutAddress { mount_target_id } => {
            format!("the mount target {mount_target_id} is available and has no address.")
        }
        Warning::PublishedDamaged { message } => format!("the published parameter is not a list: {message}"),
        Warning::CountIncomplete => "part of the files could not be counted.".to_owned(),
        Warning::NoAvailableSubnet => {
            "there are too many files, and no zone is left for another mount target.".to_owned()
        }
        Warning::AllSubnetsRefused => "there are too many files, and EFS refused every subnet that is left.".to_owned(),
        Warning::RedeployRolledBack => "ECS took the last deployment of the service back.".to_owned(),
        Warning::RedeployDeferred { reason } => {
            format!("the service cannot be redeployed for the published list now ({}).", reason.code())
        }
        Warning::SubnetRefused { subnet_id, zone_id, code, message, .. } => {
            format!("EFS refused {subnet_id} ({zone_id}) not long ago: {code}: {message}")
        }
        Warning::ServiceNotFound => "ECS knows no such service; nothing is redeployed.".to_owned(),
        Warning::ServiceUnknown { message } => format!("ECS could not be asked: {message}"),
        Warning::ObservationIncomplete { message } => {
            format!("the network or the file system could not be asked, so only repairs are made: {message}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        messages::{ObservedTarget, RedeployOutput},
        model::{LifeCycle, SubnetId, ZoneId, ZoneName},
        redeployment::Deferral,
    };

    fn evaluated(decision: Decision) -> EvaluateOutput {
        let target = |number: u8| ObservedTarget {
            mount_target_id: MountTargetId::new(format!("fsmt-{number}")),
            availability_zone: ZoneName::new(format!("us-east-1{}", char::from(b'`' + number))),
            zone_id: ZoneId::new(format!("use1-az{number}")),
            state: LifeCycle::Available,
        };
        let ids = vec![MountTargetId::new("fsmt-1"), MountTargetId::new("fsmt-2")];
        let observed = Observed {
            files: Some(150_000),
            complete: true,
            limit: 100_000,
            rule: "threshold".to_owned(),
            threshold: 100_000,
            current: 2,
            minimum: 0,
            maximum: 3,
            over_limit: Some(true),
            mount_targets: vec![target(1), target(2)],
            publishable: ids.clone(),
            published: Some(ids),
            ..Observed::default()
        };
        EvaluateOutput { decision, dry_run: false, warnings: vec![], observed }
    }

    #[test]
    fn a_scale_out_is_told_from_the_count_to_the_deployment() {
        let create = Decision::Create { subnet_id: SubnetId::new("subnet-3"), zone_id: ZoneId::new("use1-az3") };
        let execution = Execution {
            status: "SUCCEEDED".to_owned(),
            stopped_at: Some(1),
            evaluated: Some(evaluated(create)),
            redeployed: Some(RedeployOutput {
                outcome: RedeployOutcome::Deferred,
                version: 4,
                deployment_id: None,
                warnings: vec![Warning::RedeployDeferred { reason: Deferral::DeploymentInProgress }],
            }),
            ..Execution::default()
        };
        let explanation = Explanation::of(&execution);
        assert_eq!(explanation.reason, "create");
        assert_eq!(
            explanation.observed,
            [
                "The count found 150,000 files.",
                "The limit was 100,000 files, by the rule threshold.",
                "The file system had 2 mount targets: fsmt-1 in us-east-1a (available), fsmt-2 in us-east-1b (available). \
                 2 of at most 3 zones had one; the minimum is 0.",
                "The published list named all 2 available mount targets.",
            ]
        );
        assert_eq!(
            explanation.decided,
            [
                "It decided to create a mount target in subnet-3 (use1-az3), because there are 150,000 files, over the limit \
                 of 100,000."
            ]
        );
        assert_eq!(
            explanation.done,
            [
                "It did not redeploy the file service for version 4 now; the next execution tries again.",
                "Warning redeploy_deferred: the service cannot be redeployed for the published list now \
                 (deployment_in_progress).",
            ]
        );
        assert_eq!(
            (explanation.failed.len(), explanation.codes),
            (0, vec!["create".into(), "redeploy_deferred".into()])
        );
    }

    #[test]
    fn a_failure_is_told_with_its_cause() {
        let failed = Execution {
            status: "FAILED".to_owned(),
            stopped_at: Some(1),
            error: Some("AwsRefused".to_owned()),
            cause: Some("ssm:PutParameter /x: AccessDeniedException: no".to_owned()),
            ..Execution::default()
        };
        let explanation = Explanation::of(&failed);
        assert_eq!(explanation.reason, "AwsRefused");
        assert_eq!(explanation.observed, ["The execution ended before a decision was made."]);
        assert_eq!(
            explanation.failed,
            ["The execution failed with AwsRefused: ssm:PutParameter /x: AccessDeniedException: no"]
        );
        let timed_out = Execution { status: "TIMED_OUT".to_owned(), stopped_at: Some(1), ..Execution::default() };
        assert_eq!(Explanation::of(&timed_out).reason, "States.Timeout");
        assert_eq!(Explanation::of(&timed_out).failed, ["The execution ended as TIMED_OUT."]);
        let running = Execution { status: "RUNNING".to_owned(), ..Execution::default() };
        assert_eq!(Explanation::of(&running).observed, ["No decision has been made yet."]);
    }
}
