//! Probes each target again and again, in a task of its own.

use std::{
    io::ErrorKind,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::{
    error::{Error, Result},
    files::{Fleet, Member},
    health::{Change, Finding, Health, Pace},
    target::Target,
};

/// From one probe to the next of a target that has not said yes or no yet, at most.
const UNDECIDED_PAUSE: Duration = Duration::from_millis(200);
/// How often the silence of a target is judged while a probe waits for an answer.
const JUDGE_EVERY: Duration = Duration::from_millis(250);

/// Probes the member until it is dropped, and compares it with the others of the fleet.
pub(crate) fn keep_probing(member: &Arc<Member>, fleet: &Arc<ArcSwap<Fleet>>, every: Duration) {
    let prober = Prober { member: Arc::downgrade(member), fleet: Arc::downgrade(fleet) };
    let target = Arc::clone(&member.target);
    let task = tokio::spawn(async move { while prober.probe(&*target, every).await.is_some() {} });
    let _ = member.prober.set(task.abort_handle());
}

/// Keeps nobody alive: a target that is removed is not probed any more.
struct Prober {
    member: Weak<Member>,
    fleet: Weak<ArcSwap<Fleet>>,
}

impl Prober {
    /// One probe, and the pause after it. `None` when there is nothing left to probe.
    async fn probe(&self, target: &dyn Target, every: Duration) -> Option<()> {
        self.member.upgrade()?.health.sent(Instant::now());
        let mut answer = target.probe();
        let finding = loop {
            match tokio::time::timeout(JUDGE_EVERY, &mut answer).await {
                Ok(answer) => break finding(answer),
                Err(_) => self.judge(Health::waiting)?,
            }
        };
        self.judge(|health, now, others| health.probed(finding, now, others))?;
        let is_decided = self.member.upgrade()?.health.is_decided();
        tokio::time::sleep(if is_decided { every } else { every.min(UNDECIDED_PAUSE) }).await;
        Some(())
    }

    fn judge(&self, judge: impl FnOnce(&Health, Instant, &[Pace]) -> Option<Change>) -> Option<()> {
        let (member, fleet) = (self.member.upgrade()?, self.fleet.upgrade()?);
        let now = Instant::now();
        let fleet = fleet.load();
        let others = fleet.members.iter().filter(|other| !Arc::ptr_eq(other, &member));
        let others: Vec<_> = others.filter_map(|other| other.health.pace(now)).collect();
        let (id, address) = (&member.published.mount_target_id, &member.published.ip_address);
        match judge(&member.health, now, &others) {
            Some(Change::Up) => tracing::info!(target_id = %id, %address, "a target works"),
            Some(Change::Down) => {
                let why = member.health.why().unwrap_or_default();
                tracing::warn!(target_id = %id, %address, error = why, "a target is left out");
            }
            None => {}
        }
        Some(())
    }
}

fn finding(answer: Result<()>) -> Finding {
    match answer {
        Ok(()) => Finding::Answered,
        Err(why) => {
            let is_late = match &why {
                Error::Deadline | Error::Busy => true,
                // Who resets a connection may take the next one.
                Error::Failed(why) => matches!(why.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionReset),
                _ => false,
            };
            if is_late { Finding::Late(why.to_string()) } else { Finding::Failed(why.to_string()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_neither_yes_nor_no_is_late() {
        let failed = |kind: ErrorKind| finding(Err(Error::Failed(kind.into())));
        let kinds = [ErrorKind::TimedOut, ErrorKind::ConnectionReset];
        let own = [finding(Err(Error::Deadline)), finding(Err(Error::Busy))];
        for late in own.into_iter().chain(kinds.map(failed)) {
            assert!(matches!(late, Finding::Late(_)), "{late:?}");
        }
        let kinds = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied, ErrorKind::NotFound];
        for no in kinds.map(failed).into_iter().chain([finding(Err(Error::NotADirectory))]) {
            assert!(matches!(no, Finding::Failed(_)), "{no:?}");
        }
        assert_eq!(finding(Ok(())), Finding::Answered);
    }
}
