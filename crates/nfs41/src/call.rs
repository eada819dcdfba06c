//! How a compound is sent: which session and slot it uses, when it is sent again, and what is known of it when it has no
//! reply.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{SemaphorePermit, oneshot},
    time::timeout_at,
};

use crate::{
    budget::{Backoff, Budget, TimeLimit},
    client::Client,
    compound::{Compound, CompoundReply},
    error::{Error, Result},
    rpc,
    session::{CallId, Session},
    slot_table::{CallError, Reply},
    status::Status,
};

/// Backoff after NFS4ERR_DELAY and NFS4ERR_GRACE.
const INITIAL_BACKOFF: Duration = Duration::from_millis(15);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// The same for a call on an open file: other clients wait for its lock.
pub(crate) const OPEN_FILE_INITIAL_BACKOFF: Duration = Duration::from_millis(4);
pub(crate) const OPEN_FILE_MAX_BACKOFF: Duration = Duration::from_millis(100);
/// How long the caller of a change that has no reply by its deadline waits to learn whether the call is fenced.
const FENCING_TIMEOUT: Duration = Duration::from_secs(2);

/// In which sessions a compound is sent, and whether it is sent again when its outcome is unknown.
#[derive(Clone, Copy)]
pub(crate) enum RetryPolicy<'a> {
    /// In any session; sent again.
    Idempotent,
    /// In any session; not sent again.
    NonIdempotent,
    /// In this session only, because it uses a stateid of it. Sent again if it changes nothing.
    InSession(&'a Arc<Session>),
}

impl RetryPolicy<'_> {
    fn backoff(self) -> Backoff {
        match self {
            Self::Idempotent | Self::NonIdempotent => Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF),
            Self::InSession(_) => Backoff::new(OPEN_FILE_INITIAL_BACKOFF, OPEN_FILE_MAX_BACKOFF),
        }
    }
}

impl Client {
    /// Sends a compound and waits for its reply. Sends it again, within the budget, when the server answers
    /// NFS4ERR_DELAY or NFS4ERR_GRACE, and as the policy allows when it has no reply.
    pub(crate) async fn call_with_retry<T>(
        &self,
        compound: &Compound,
        policy: RetryPolicy<'_>,
        budget: &Budget,
        decode: impl Fn(CompoundReply, Arc<Session>) -> Result<T>,
    ) -> Result<T> {
        use RetryPolicy::{Idempotent, InSession, NonIdempotent};
        let is_delay = |err: &Error| err.status().is_some_and(Status::is_delay);
        let mut backoff = policy.backoff();
        let mut was_lost = false;
        // A change whose reply was lost may have been executed, whatever a later attempt returns.
        let uncertain_if_lost = |err: Error, was_lost: bool| match was_lost && budget.is_change {
            true => Error::Uncertain("the session was lost"),
            false => err,
        };
        loop {
            let sent = self.send_once(compound, policy, budget).await;
            let delay = match sent.map_err(|err| uncertain_if_lost(err, was_lost))? {
                Ok((results, session)) => match decode(results, session) {
                    Err(err) if is_delay(&err) => err,
                    other => return other,
                },
                Err(CallError::Refused(err)) if is_delay(&err) => err,
                // The server never executes a withdrawn call.
                Err(CallError::Withdrawn) if !budget.is_over() => Error::Refused(rpc::SYSTEM_ERROR),
                Err(error) => match (policy, error) {
                    (Idempotent | NonIdempotent, CallError::NotSent) => continue,
                    (Idempotent, CallError::Lost | CallError::ReplyNotCached | CallError::Abandoned)
                        if !budget.is_over() =>
                    {
                        was_lost = true;
                        continue;
                    }
                    (InSession(_), CallError::NotSent) => return Err(Error::SessionLost),
                    (InSession(_), CallError::ReplyNotCached) if !compound.cache_this => continue,
                    (InSession(_), CallError::Lost | CallError::Abandoned) if !compound.cache_this => {
                        return Err(Error::SessionLost);
                    }
                    (_, error) => return Err(uncertain_if_lost(error.into_error(budget), was_lost)),
                },
            };
            tracing::debug!(error = %delay, "the server asks for a retry");
            budget.pause(&mut backoff).await.map_err(|err| uncertain_if_lost(err, was_lost))?;
        }
    }

    /// Sends a compound once, in a session that the policy allows.
    ///
    /// # Errors
    /// The deadline passed before the compound was sent or, if it changes nothing, before its reply came.
    async fn send_once(
        &self,
        compound: &Compound,
        policy: RetryPolicy<'_>,
        budget: &Budget,
    ) -> Result<Result<(CompoundReply, Arc<Session>), CallError>> {
        loop {
            let session = match policy {
                RetryPolicy::InSession(session) => Arc::clone(session),
                // The reason why there is no connection says more than an elapsed deadline, unless a call was sent.
                _ => self.session(budget).await.map_err(|err| match budget.was_sent() && budget.is_over() {
                    true => budget.error(),
                    false => err,
                })?,
            };
            let attrs = &session.attrs;
            if compound.operations() >= attrs.max_operations {
                return Err(Error::BadPath("it has more components than the server takes in one call"));
            }
            if compound.len() + session.rpc_header.len() + 64 > attrs.max_request_bytes {
                return Err(Error::BadInput("the request is larger than the server takes in one call"));
            }
            let Some(slot) = budget.wait(session.slots.acquire()).await else { return Err(budget.error()) };
            if slot.map(SemaphorePermit::forget).is_ok() {
                if budget.is_over() {
                    session.slots.add_permits(1);
                    return Err(budget.error());
                }
                if let Some((id, reply)) = session.submit(compound, budget.is_cleanup) {
                    let reply = await_reply(&session, id, reply, compound, budget).await?;
                    return Ok(reply.map(|results| (results, session)));
                }
            }
            if let RetryPolicy::InSession(_) = policy {
                return Err(Error::SessionLost);
            }
        }
    }

    /// Sends a compound that changes nothing.
    pub(crate) async fn call<T>(&self, compound: &Compound, decode: impl Fn(CompoundReply) -> Result<T>) -> Result<T> {
        let budget = self.budget(false);
        self.call_with_retry(compound, RetryPolicy::Idempotent, &budget, |results, _| decode(results)).await
    }

    /// Sends a compound that changes something.
    pub(crate) async fn call_change<T>(
        &self,
        policy: RetryPolicy<'_>,
        compound: &Compound,
        decode: impl Fn(CompoundReply) -> Result<T>,
    ) -> Result<T> {
        let budget = self.budget(true);
        self.within_deadline(&budget, self.call_with_retry(compound, policy, &budget, |results, _| decode(results)))
            .await
    }

    /// Runs work in a task that continues when the caller is dropped: it changes something, or leaves something open
    /// until it ends. All calls of the work share one deadline.
    pub(crate) async fn run_detached<T: Send + 'static, F>(
        &self,
        is_change: bool,
        work: impl FnOnce(Self, Budget) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let budget = self.budget(is_change);
        let limit = budget.deadline().map_or(TimeLimit::None, TimeLimit::At);
        let task = tokio::spawn(work(Self { limit, ..self.clone() }, budget.clone()));
        self.within_deadline(&budget, async { task.await.unwrap_or(Err(Error::Uncertain("its task ended early"))) })
            .await
    }

    /// Waits for work until the deadline, and for a change [`FENCING_TIMEOUT`] longer. A client of
    /// [`Client::with_deadline`] waits for a change until it ends.
    pub(crate) async fn within_deadline<T>(&self, budget: &Budget, work: impl Future<Output = Result<T>>) -> Result<T> {
        let Some(deadline) = budget.deadline().filter(|_| !self.awaits_end || !budget.is_change) else {
            return work.await;
        };
        let time = if budget.is_change { FENCING_TIMEOUT } else { Duration::ZERO };
        match timeout_at(deadline + time, work).await {
            Ok(result) => result,
            Err(_) if budget.is_change && budget.was_sent() => Err(Error::Pending("no reply came in time")),
            Err(_) => Err(budget.error()),
        }
    }
}

/// Waits for the reply to a call. A change that has no reply by the deadline is fenced: when this returns, the server has
/// executed it or never will.
async fn await_reply(
    session: &Session,
    id: CallId,
    mut reply: oneshot::Receiver<Reply>,
    compound: &Compound,
    budget: &Budget,
) -> Result<Reply> {
    let abandoned_if_dropped = |reply: Result<Reply, _>| reply.unwrap_or(Err(CallError::Abandoned));
    if let Some(reply) = budget.wait(&mut reply).await {
        budget.set_sent();
        return Ok(abandoned_if_dropped(reply));
    }
    if session.withdraw(id) {
        return Err(budget.error());
    }
    budget.set_sent();
    if compound.cache_this && budget.is_change {
        session.fence_requested.notify_one();
    } else if !compound.opens_state {
        return Err(budget.error());
    }
    // A compound that changes nothing but opens a file: the reply has the stateid that must be closed.
    Ok(abandoned_if_dropped(reply.await))
}

impl CallError {
    /// What the caller learns about a call that has no reply.
    fn into_error(self, budget: &Budget) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::NotSent | Self::Withdrawn => budget.error(),
            Self::Lost => Error::Uncertain("the session was lost"),
            Self::ReplyNotCached => Error::Uncertain("the server did not cache its reply"),
            Self::Abandoned => Error::Pending("its session was abandoned"),
        }
    }
}
