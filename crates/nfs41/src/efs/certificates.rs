//! Provides the client certificate that all connections to one file system share, and renews it in time.
//!
//! Issuing a certificate is expensive: generating a key takes up to a second of CPU time, and the credentials come over the
//! network, while an attempt to connect has a timeout. So a separate task issues the certificate, and attempts to connect
//! wait for it. An attempt that times out cancels nothing, and the next one finds the certificate.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::sign::CertifiedKey;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::spawn_blocking,
    time::timeout,
};

use super::{CLOCK_SKEW_MARGIN, CertificateError, CredentialsProvider, Key, Subject, VALIDITY, sigv4::Moment};
use crate::tls::{BoxError, IdentityFuture, IdentityProvider};

/// Age at which a certificate is renewed, as in efs-utils. Two thirds of its validity remain for retries.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Time before the credentials expire at which the certificate is renewed. The metadata service has new credentials only
/// from five minutes before the old ones expire; an earlier request returns the old ones again.
const CREDENTIALS_RENEWAL_MARGIN: Duration = Duration::from_secs(5 * 60);
/// Minimum time between attempts to renew while the old certificate is valid.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Timeout of the credentials provider. A call that hangs must not prevent a later attempt from calling it again.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(60);

/// A certificate and its validity.
struct Current {
    identity: Arc<CertifiedKey>,
    not_before: SystemTime,
    renew_at: SystemTime,
    not_after: SystemTime,
}

impl Current {
    /// Checks `not_before` too: the clock may have been set back.
    fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// Whether a valid certificate is due for renewal.
enum Freshness {
    Fresh,
    RenewalDue,
}

/// Returns the current time.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Generates a key. It blocks.
type KeyGenerator = Arc<dyn Fn() -> Result<Key, CertificateError> + Send + Sync>;

/// Holds one certificate, and renews it in time. Share it among all connections to the file system, whatever their mount
/// target. Clones share the certificate.
#[derive(Clone)]
pub struct CertificateProvider {
    subject: Subject,
    credentials: Option<Arc<dyn CredentialsProvider>>,
    credentials_timeout: Duration,
    clock: Clock,
    generate_key: KeyGenerator,
    current: Arc<Mutex<Option<Current>>>,
    /// Locked by the task that issues a certificate until it ends, so that there is at most one such task.
    key: Arc<AsyncMutex<Option<Key>>>,
}

impl CertificateProvider {
    /// A provider without IAM authorization: the client is anonymous to the file system policy. The key is generated when it
    /// is first needed.
    pub fn new(subject: Subject) -> Self {
        let (clock, generate_key) = (Arc::new(SystemTime::now), Arc::new(Key::generate));
        Self {
            subject,
            credentials: None,
            credentials_timeout: CREDENTIALS_TIMEOUT,
            clock,
            generate_key,
            current: Arc::default(),
            key: Arc::default(),
        }
    }

    /// Signs with these credentials, as efs-utils does with `-o iam`.
    #[must_use]
    pub fn with_credentials(self, source: Arc<dyn CredentialsProvider>) -> Self {
        Self { credentials: Some(source), ..self }
    }

    /// Timeout of the credentials provider. Default: 60 s.
    #[must_use]
    pub fn with_credentials_timeout(self, credentials_timeout: Duration) -> Self {
        Self { credentials_timeout, ..self }
    }

    /// Uses an existing key.
    #[must_use]
    pub fn with_key(self, key: Key) -> Self {
        Self { key: Arc::new(AsyncMutex::new(Some(key))), ..self }
    }

    /// Generates the key with this function instead of [`Key::generate`]. It may block: it is called on a blocking thread.
    #[must_use]
    pub fn with_key_generator(
        self,
        generate: impl Fn() -> Result<Key, CertificateError> + Send + Sync + 'static,
    ) -> Self {
        Self { generate_key: Arc::new(generate), ..self }
    }

    /// Uses another clock.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// The certificate for a new connection. It is renewed an hour after it was issued, or five minutes before the
    /// credentials expire. One caller starts the renewal and waits for it. The others get the old certificate while it is
    /// valid, and wait otherwise. If a renewal fails, the old certificate serves while it is valid, and the next attempt
    /// follows after 30 s.
    ///
    /// Dropping the future does not cancel the renewal.
    ///
    /// # Errors
    /// There is no valid certificate, and none can be issued.
    pub async fn certificate(&self) -> Result<Arc<CertifiedKey>, CertificateError> {
        let key = match self.usable((self.clock)()) {
            Some((identity, Freshness::Fresh)) => return Ok(identity),
            Some((identity, Freshness::RenewalDue)) => match Arc::clone(&self.key).try_lock_owned() {
                Ok(key) => key,
                Err(_) => return Ok(identity),
            },
            None => Arc::clone(&self.key).lock_owned().await,
        };
        // Another task may have issued one meanwhile.
        if let Some((identity, Freshness::Fresh)) = self.usable((self.clock)()) {
            return Ok(identity);
        }
        let renewal = tokio::spawn(self.clone().renew(key));
        renewal.await.unwrap_or_else(|err| Err(CertificateError::Interrupted(err.into())))
    }

    /// Issues a certificate and stores it. Falls back to the old one while that is valid.
    async fn renew(self, mut key: OwnedMutexGuard<Option<Key>>) -> Result<Arc<CertifiedKey>, CertificateError> {
        let err = match self.make(&mut key).await {
            Ok(made) => {
                tracing::debug!(file_system = self.subject.file_system, "issued a client certificate");
                let identity = Arc::clone(&made.identity);
                *self.lock() = Some(made);
                return Ok(identity);
            }
            Err(err) => err,
        };
        let now = (self.clock)();
        let Some((old, _)) = self.usable(now) else { return Err(err) };
        let (file_system, code) = (&self.subject.file_system, err.code());
        tracing::warn!(file_system, code, %err, "cannot renew the client certificate; the old one is still valid");
        if let Some(current) = self.lock().as_mut() {
            current.renew_at = now + RETRY_INTERVAL;
        }
        Ok(old)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        // Nothing panics while it holds the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current certificate, if it is valid.
    fn usable(&self, now: SystemTime) -> Option<(Arc<CertifiedKey>, Freshness)> {
        let current = self.lock();
        let current = current.as_ref().filter(|current| current.is_valid(now))?;
        Some((current.identity.clone(), if now < current.renew_at { Freshness::Fresh } else { Freshness::RenewalDue }))
    }

    async fn make(&self, kept: &mut Option<Key>) -> Result<Current, CertificateError> {
        let key = match kept {
            Some(key) => key,
            None => {
                let generate = Arc::clone(&self.generate_key);
                let made = spawn_blocking(move || generate()).await;
                kept.insert(made.map_err(|err| CertificateError::NoKey(err.into()))??)
            }
        };
        let credentials = match &self.credentials {
            Some(source) => {
                let most = self.credentials_timeout;
                let late = |_| format!("their source has not answered within {most:?}").into();
                let lent = timeout(most, source.credentials()).await.map_err(late).flatten();
                Some(lent.map_err(CertificateError::NoCredentials)?)
            }
            None => None,
        };
        // After the credentials: fetching them may have taken long.
        let moment = Moment::new((self.clock)()).ok_or(CertificateError::BadClock)?;
        let made = moment.system_time();
        let not_before = made.checked_sub(CLOCK_SKEW_MARGIN).ok_or(CertificateError::BadClock)?;
        let expires = credentials.as_ref().and_then(|credentials| credentials.expires);
        if expires.is_some_and(|expires| expires <= made) {
            return Err(CertificateError::CredentialsEnded);
        }
        let certificate = key.certificate(&self.subject, moment, credentials.as_ref())?;
        let identity = Arc::new(CertifiedKey::new(vec![certificate], key.0.signs_handshakes.clone()));
        let (mut renew_at, mut not_after) = (made + RENEWAL_INTERVAL, made + VALIDITY);
        if let Some(expires) = expires {
            not_after = not_after.min(expires);
            let margin = expires.checked_sub(CREDENTIALS_RENEWAL_MARGIN).unwrap_or(made);
            // Do not ask a provider again for every connection if it has no newer credentials.
            renew_at = renew_at.min(margin).max(made + RETRY_INTERVAL);
        }
        Ok(Current { identity, not_before, renew_at, not_after })
    }
}

impl IdentityProvider for CertificateProvider {
    fn identity(&self) -> IdentityFuture<'_> {
        Box::pin(async { self.certificate().await.map_err(BoxError::from) })
    }
}
