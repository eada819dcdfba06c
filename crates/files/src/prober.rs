//! Probes each target periodically, in a task of its own.

use std::{
    io::ErrorKind,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::{
    error::{Error, Result},
    files::{Endpoint, EndpointSet},
    health::{Change, Health, ProbeResult, ResponseTime},
    transport::Transport,
};

/// Maximum pause between probes of a target that has not answered or refused yet.
const FIRST_PROBE_MAX_PAUSE: Duration = Duration::from_millis(200);
/// How often the silence of a target is evaluated while a probe is pending.
const SILENCE_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Probes the member until it is dropped, and compares it with the others of the fleet.
pub(crate) fn spawn_prober(endpoint: &Arc<Endpoint>, endpoint_set: &Arc<ArcSwap<EndpointSet>>, every: Duration) {
    let prober = Prober { endpoint: Arc::downgrade(endpoint), endpoint_set: Arc::downgrade(endpoint_set) };
    let transport = Arc::clone(&endpoint.transport);
    let task = tokio::spawn(async move { while prober.probe(&*transport, every).await.is_some() {} });
    let _ = endpoint.prober.set(task.abort_handle());
}

/// Holds weak references only: a removed target is not probed any more.
struct Prober {
    endpoint: Weak<Endpoint>,
    endpoint_set: Weak<ArcSwap<EndpointSet>>,
}

impl Prober {
    /// One probe and the pause after it. `None` when the target was removed.
    async fn probe(&self, transport: &dyn Transport, every: Duration) -> Option<()> {
        self.endpoint.upgrade()?.health.sent(Instant::now());
        let mut answer = transport.probe();
        let probe_result = loop {
            match tokio::time::timeout(SILENCE_CHECK_INTERVAL, &mut answer).await {
                Ok(answer) => break probe_result(answer),
                Err(_) => self.evaluate(Health::waiting)?,
            }
        };
        self.evaluate(|health, now, others| health.probed(probe_result, now, others))?;
        let has_answered = self.endpoint.upgrade()?.health.has_answered();
        tokio::time::sleep(if has_answered { every } else { every.min(FIRST_PROBE_MAX_PAUSE) }).await;
        Some(())
    }

    fn evaluate(&self, evaluate: impl FnOnce(&Health, Instant, &[ResponseTime]) -> Option<Change>) -> Option<()> {
        let (endpoint, endpoint_set) = (self.endpoint.upgrade()?, self.endpoint_set.upgrade()?);
        let now = Instant::now();
        let endpoint_set = endpoint_set.load();
        let others = endpoint_set.endpoints.iter().filter(|other| !Arc::ptr_eq(other, &endpoint));
        let others: Vec<_> = others.filter_map(|other| other.health.response_time(now)).collect();
        let (id, address) = (&endpoint.published.mount_target_id, &endpoint.published.ip_address);
        match evaluate(&endpoint.health, now, &others) {
            Some(Change::Up) => tracing::info!(target_id = %id, %address, "target is up"),
            Some(Change::Down) => {
                let err = endpoint.health.err().unwrap_or_default();
                tracing::warn!(target_id = %id, %address, error = err, "target is down");
            }
            None => {}
        }
        Some(())
    }
}

fn probe_result(answer: Result<()>) -> ProbeResult {
    match answer {
        Ok(()) => ProbeResult::Success,
        Err(err) => {
            let is_late = match &err {
                Error::Deadline | Error::Busy => true,
                // A server that resets a connection may accept the next one.
                Error::Failed(err) => matches!(err.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionReset),
                _ => false,
            };
            if is_late { ProbeResult::Late(err.to_string()) } else { ProbeResult::Failed(err.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_neither_yes_nor_no_is_late() {
        let failed = |kind: ErrorKind| probe_result(Err(Error::Failed(kind.into())));
        let kinds = [ErrorKind::TimedOut, ErrorKind::ConnectionReset];
        let own = [probe_result(Err(Error::Deadline)), probe_result(Err(Error::Busy))];
        for late in own.into_iter().chain(kinds.map(failed)) {
            assert!(matches!(late, ProbeResult::Late(_)), "{late:?}");
        }
        let kinds = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied, ErrorKind::NotFound];
        for no in kinds.map(failed).into_iter().chain([probe_result(Err(Error::NotADirectory))]) {
            assert!(matches!(no, ProbeResult::Failed(_)), "{no:?}");
        }
        assert_eq!(probe_result(Ok(())), ProbeResult::Success);
    }
}
