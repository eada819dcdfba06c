//! Records that outlive an execution: what a decision was made from, and what an execution did.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    messages::{CountOutput, CreateTargetOutput, EvaluateOutput, Observed, PublishOutput, RedeployOutput},
    policy::{Decision, Observation, Policy, Reason, decide, warnings},
};

/// A decision with everything that it was made from. The function `evaluate` logs one for each decision, in the field
/// `record`, so that anybody can repeat it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    pub observation: Observation,
    pub policy: Policy,
    pub decision: Decision,
}

impl DecisionRecord {
    /// Decides again, from the same observation and policy. Another decision than the recorded one means that the code
    /// has changed since.
    pub fn replay(&self) -> Decision {
        decide(&self.observation, &self.policy)
    }

    /// The answer that `evaluate` gave, or would give now.
    pub fn output(&self) -> EvaluateOutput {
        let (world, policy) = (&self.observation, &self.policy);
        EvaluateOutput {
            decision: self.decision.clone(),
            dry_run: false,
            warnings: warnings(world, policy, &self.decision),
            observed: Observed::of(world, policy),
        }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> String {
        // Names, numbers and addresses in structs: there is nothing here that serde_json can refuse.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// One execution of the state machine, as Step Functions keeps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Execution {
    pub name: String,
    /// `RUNNING`, `SUCCEEDED`, `FAILED`, `TIMED_OUT`, `ABORTED`, `PENDING_REDRIVE`.
    pub status: String,
    pub input: Value,
    /// Of the machine; `Null` while it runs and when it failed.
    pub output: Value,
    /// Seconds since 1970.
    pub started_at: u64,
    /// Seconds since 1970; `None` while it runs.
    pub stopped_at: Option<u64>,
    /// In the order entered. Empty when the history was not read.
    pub states: Vec<String>,
    /// Of the first invocation: what it left to others is in the total that `evaluated` observed.
    pub counted: Option<CountOutput>,
    /// Of the last time that `Evaluate` ran.
    pub evaluated: Option<EvaluateOutput>,
    pub created: Option<CreateTargetOutput>,
    pub published: Option<PublishOutput>,
    pub redeployed: Option<RedeployOutput>,
    pub error: Option<String>,
    pub cause: Option<String>,
}

impl Execution {
    /// The decision of the last time that `Evaluate` ran.
    pub fn decision(&self) -> Option<&Decision> {
        self.evaluated.as_ref().map(|evaluated| &evaluated.decision)
    }

    /// Why nothing was done.
    pub fn reason(&self) -> Option<Reason> {
        match self.decision()? {
            Decision::Nothing { reason } => Some(*reason),
            _ => None,
        }
    }

    /// How often a state was entered.
    pub fn entered(&self, state: &str) -> usize {
        self.states.iter().filter(|entered| *entered == state).count()
    }

    /// The code that summarizes the execution: the error of one that failed, else the reason or the action of its
    /// decision, else its status.
    pub fn code(&self) -> String {
        let decided = || self.decision().map(|decision| decision.word().to_owned());
        match (&self.error, self.status.as_str()) {
            (Some(error), _) if !error.is_empty() => error.clone(),
            (_, "TIMED_OUT") => "States.Timeout".to_owned(),
            (_, "SUCCEEDED" | "RUNNING") => decided().unwrap_or_else(|| self.status.to_lowercase()),
            _ => self.status.to_lowercase(),
        }
    }

    /// It ended by itself and reached what it had decided.
    pub fn has_succeeded(&self) -> bool {
        self.status == "SUCCEEDED"
    }
}
