//! The changes of a cycle, for people and scripts, and whether they are as expected.

use anyhow::Result;
use domain::{model::MountTarget, policy::Decision, record::Execution};
use serde::Serialize;
use serde_json::Value;

use super::{
    service::Served,
    world::{Spec, World},
};
use probe::grouped;

/// The state that a cycle may change.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    pub targets: Vec<MountTarget>,
    pub published: Option<(String, i64)>,
    pub deployed: Option<i64>,
    pub deployment: String,
}

impl Picture {
    /// # Errors
    /// When the emulator does not answer.
    pub async fn of(world: &World) -> Result<Self> {
        Ok(Self {
            targets: world.targets().await?,
            published: world.published().await?,
            deployed: world.deployed().await?.map(|fact| fact.version),
            deployment: world.deployment().await?,
        })
    }

    fn ids(&self) -> Vec<String> {
        self.targets.iter().map(|target| target.id.to_string()).collect()
    }

    /// The ids in the published list.
    fn published_ids(&self) -> Vec<String> {
        let value: Value =
            self.published.as_ref().and_then(|(text, _)| serde_json::from_str(text).ok()).unwrap_or_default();
        let targets = value["mount_targets"].as_array().cloned().unwrap_or_default();
        targets.iter().filter_map(|target| target["mount_target_id"].as_str().map(str::to_owned)).collect()
    }
}

/// One cycle: the state before, the execution, the state after.
pub struct Cycle {
    pub before: Picture,
    pub execution: Execution,
    /// From the start to the moment when its end was seen.
    pub seconds: f64,
    pub after: Picture,
}

/// The JSON of the last line.
#[derive(Debug, Serialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub first: Summary,
    /// The second execution.
    pub next: Summary,
    pub service: Served,
    /// Only of a run with `--stack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<StackOutcome>,
    pub as_expected: bool,
}

/// Additional results of a run with `--stack`.
#[derive(Debug, Serialize)]
pub struct StackOutcome {
    /// The execution that published the targets of the stack.
    pub publishing: Summary,
    /// Resources that were not removed.
    pub left: Vec<String>,
}

/// The JSON of an execution.
#[derive(Debug, Serialize)]
pub struct Summary {
    files: Option<u64>,
    complete: bool,
    threshold: Option<u64>,
    decision: String,
    reason: String,
    mount_targets_before: Vec<String>,
    mount_targets_after: Vec<String>,
    /// The parameter's text.
    published: Option<String>,
    published_version: Option<i64>,
    deployment: String,
    execution_status: String,
    /// In the order entered.
    states: Vec<String>,
    seconds: f64,
    error: Option<String>,
}

impl Cycle {
    /// The action and its reason.
    fn decision(&self) -> (String, String) {
        match self.execution.decision() {
            None => ("none".to_owned(), "the execution ended before it was made".to_owned()),
            Some(Decision::Nothing { .. }) => ("nothing".to_owned(), self.word()),
            Some(Decision::Create { .. }) => ("create".to_owned(), "over_threshold".to_owned()),
            Some(other) => (other.word().to_owned(), String::new()),
        }
    }

    /// The number of files, and whether the count is complete.
    fn counted(&self) -> (Option<u64>, bool) {
        let observed = self.execution.evaluated.as_ref().map(|evaluated| &evaluated.observed);
        (observed.and_then(|observed| observed.files), observed.is_some_and(|observed| observed.complete))
    }

    fn word(&self) -> String {
        self.execution.decision().map_or("none", Decision::word).to_owned()
    }

    pub fn summary(&self) -> Summary {
        let (decision, reason) = self.decision();
        let (files, complete) = self.counted();
        Summary {
            files,
            complete,
            threshold: self.execution.evaluated.as_ref().map(|evaluated| evaluated.observed.limit),
            decision,
            reason,
            mount_targets_before: self.before.ids(),
            mount_targets_after: self.after.ids(),
            published: self.after.published.as_ref().map(|(text, _)| text.clone()),
            published_version: self.after.published.as_ref().map(|(_, version)| *version),
            deployment: self.after.deployment.clone(),
            execution_status: self.execution.status.clone(),
            states: self.execution.states.clone(),
            seconds: (self.seconds * 1000.0).round() / 1000.0,
            error: self.execution.error.clone(),
        }
    }

    /// The lines for people.
    pub fn lines(&self) -> Vec<String> {
        let row = |name: &str, text: String| format!("  {name:<14}{text}");
        let mut lines = vec![];
        let limit = self.execution.evaluated.as_ref().map_or(0, |evaluated| evaluated.observed.limit);
        let (files, complete) = self.counted();
        let how = self.execution.counted.as_ref().map(|counted| match counted.rest.len() {
            0 => format!("{} directories, counted in {:.2} s", grouped(counted.directories), counted.seconds),
            parts => format!("counted in {} parts", parts + 1),
        });
        lines.push(match files {
            Some(files) => row(
                "files",
                format!(
                    "{}{}, {} the threshold of {} ({})",
                    if complete { "" } else { "at least " },
                    grouped(files),
                    if files > limit { "over" } else { "not over" },
                    grouped(limit),
                    how.unwrap_or_default()
                ),
            ),
            None => row("files", "not counted".to_owned()),
        });
        if let Some(counted) = self.execution.counted.as_ref().filter(|counted| counted.errors > 0) {
            let first = counted.first_errors[..counted.first_errors.len().min(3)].join("; ");
            lines.push(row("unreadable", format!("{}, the first: {first}", counted.errors)));
        }
        let (decision, reason) = self.decision();
        lines.push(row("decision", if reason.is_empty() { decision } else { format!("{decision}: {reason}") }));
        lines.push(row("targets", format!("{} before, {} after", self.before.targets.len(), self.after.targets.len())));
        for target in &self.after.targets {
            let new = if self.before.targets.iter().any(|old| old.id == target.id) { "" } else { "  new" };
            let ip = target.ip.map_or_else(|| "no address".to_owned(), |ip| ip.to_string());
            lines.push(row("", format!("{}  {ip:<12}  {}{new}", target.zone_name, target.id)));
        }
        if let Some((text, version)) = &self.after.published {
            lines.push(row(
                "published",
                match self.after.published == self.before.published {
                    true => format!("version {version}, unchanged"),
                    false => format!("version {version}, new: {text}"),
                },
            ));
        }
        let changed = if self.after.deployment == self.before.deployment { "unchanged" } else { "new" };
        lines.push(row("deployment", format!("{}, {changed}", self.after.deployment)));
        let error = self.execution.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        lines.push(row(
            "execution",
            format!("{}{error} in {:.1} s: {}", self.execution.status, self.seconds, self.execution.states.join(" → ")),
        ));
        lines.extend(self.execution.cause.iter().map(|cause| row("cause", cause.clone())));
        lines
    }

    /// Deviations of an execution that found nothing published.
    pub fn surprises_of_publishing(&self) -> Vec<String> {
        let published = (self.after.published_ids(), self.after.published.as_ref().map(|(_, version)| *version));
        [
            ("the execution", self.execution.status == "SUCCEEDED"),
            ("the decision to publish", self.word() == "publish"),
            ("nothing published before", self.before.published.is_none()),
            ("every target published", published.0 == self.before.ids() && self.after.targets == self.before.targets),
            ("the version deployed", self.after.deployed.is_some() && self.after.deployed == published.1),
        ]
        .into_iter()
        .filter(|(_, holds)| !holds)
        .map(|(what, _)| format!("expected {what}, found {published:?}, {}", self.word()))
        .collect()
    }

    /// Deviations, computed from the state and the options independently of the functions.
    pub fn surprises(&self, spec: &Spec, threshold: u64, files: Option<u64>) -> Vec<String> {
        let mut surprises = vec![];
        let mut expect = |what: &str, expected: String, found: String| {
            if expected != found {
                surprises.push(format!("{what}: expected {expected}, found {found}"));
            }
        };
        expect("the execution", "SUCCEEDED".to_owned(), self.execution.status.clone());
        let (counted, complete) = self.counted();
        if let Some(files) = files {
            expect("the count", files.to_string(), counted.unwrap_or(0).to_string());
        }
        let over = counted.is_some_and(|counted| counted > threshold);
        let free = self.before.targets.len() < spec.zones;
        let expected = match (over, complete, free) {
            (true, _, true) => "create",
            (true, _, false) => "no_available_subnet",
            (false, true, _) => "below_threshold",
            (false, false, _) => "count_unknown",
        };
        expect("the decision", expected.to_owned(), self.word());
        if expected == "create" {
            expect("targets", (self.before.targets.len() + 1).to_string(), self.after.targets.len().to_string());
            expect(
                "a new deployment",
                "true".to_owned(),
                (self.after.deployment != self.before.deployment).to_string(),
            );
        } else {
            expect("nothing changed", "true".to_owned(), (self.after == self.before).to_string());
        }
        expect("the published list", self.after.ids().join(" "), self.after.published_ids().join(" "));
        let version = self.after.published.as_ref().map(|(_, version)| *version);
        expect("the version deployed", format!("{version:?}"), format!("{:?}", self.after.deployed));
        surprises
    }
}
