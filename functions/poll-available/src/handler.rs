//! Checks once whether a mount target is available. The state machine waits.

use domain::{
    error::PollAvailableError,
    messages::{PollAvailableInput, PollAvailableOutput},
    model::{FileSystemId, LifeCycle},
    ports::{Clock, ListTargets},
};

/// # Errors
/// [`PollAvailableError::TargetFailed`]: it will not become available.
pub async fn handle(
    ports: &(impl Clock + ListTargets),
    file_system: &FileSystemId,
    input: PollAvailableInput,
) -> Result<PollAvailableOutput, PollAvailableError> {
    let id = input.mount_target_id;
    let targets = ports.list_targets(file_system).await?;
    let Some(target) = targets.into_iter().find(|target| target.id == id) else {
        return Err(PollAvailableError::TargetNotFound(id));
    };
    if matches!(target.state, LifeCycle::Deleting | LifeCycle::Deleted | LifeCycle::Error) {
        return Err(PollAvailableError::TargetFailed { id, state: target.state });
    }
    Ok(PollAvailableOutput {
        mount_target_id: id,
        state: target.state,
        available: target.state == LifeCycle::Available && target.address().is_some(),
        seconds_since_created: input.created_at.map(|at| ports.now().saturating_sub(at)),
    })
}
