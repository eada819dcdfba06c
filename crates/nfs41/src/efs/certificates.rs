//! The certificate that all connections with one file system share: made once, and renewed in time.
//!
//! Making one is expensive: a key takes up to a second of a whole processor, and the credentials come over the network.
//! A connection attempt has a deadline. So a task of its own makes the certificate, and the connection attempts wait for
//! the result: one that gives up cancels nothing, and the next one finds what was made.

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

/// A newer one is made after so long, as efs-utils does: two thirds of the time are left for whatever keeps it from
/// being made.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// And so long before the credentials end. Not earlier: the metadata service has new ones only from five minutes
/// before the old ones end, and a source asked sooner would give the same again.
const CREDENTIALS_RENEWAL_MARGIN: Duration = Duration::from_secs(5 * 60);
/// The least time between two attempts while the certificate that there is still works.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// The longest time to wait for the source of credentials. A source that never answers must not keep a later attempt from
/// asking it again.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(60);

/// A certificate, and how long to use it.
struct Current {
    identity: Arc<CertifiedKey>,
    not_before: SystemTime,
    renew_at: SystemTime,
    not_after: SystemTime,
}

impl Current {
    /// A clock that is set back may put the beginning into the future.
    fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// A certificate that works.
enum Freshness {
    Fresh,
    /// To be replaced by a new one.
    RenewalDue,
}

/// Tells the time.
type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Generates a key. Blocks.
type KeyGenerator = Arc<dyn Fn() -> Result<Key, CertificateError> + Send + Sync>;

/// Keeps one certificate, and makes another in time. To be shared by all connections with the file system, whatever
/// their mount target. Clones share the certificate.
#[derive(Clone)]
pub struct CertificateProvider {
    subject: Subject,
    credentials: Option<Arc<dyn CredentialsProvider>>,
    credentials_timeout: Duration,
    clock: Clock,
    generate_key: KeyGenerator,
    current: Arc<Mutex<Option<Current>>>,
    /// The task that makes a certificate holds the lock until it has ended, so that there is one such task at most.
    key: Arc<AsyncMutex<Option<Key>>>,
}

impl CertificateProvider {
    /// Without IAM: to the file system's policy the client is anonymous. The key is made when it is first needed.
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

    /// With IAM, as efs-utils with `-o iam`.
    #[must_use]
    pub fn with_credentials(self, source: Arc<dyn CredentialsProvider>) -> Self {
        Self { credentials: Some(source), ..self }
    }

    /// How long the source of credentials may take; a minute by default.
    #[must_use]
    pub fn with_credentials_timeout(self, credentials_timeout: Duration) -> Self {
        Self { credentials_timeout, ..self }
    }

    /// With a key that there is already.
    #[must_use]
    pub fn with_key(self, key: Key) -> Self {
        Self { key: Arc::new(AsyncMutex::new(Some(key))), ..self }
    }

    /// With another way to get a key than [`Key::generate`]. It may block: a thread of its own calls it.
    #[must_use]
    pub fn with_key_generator(
        self,
        generate: impl Fn() -> Result<Key, CertificateError> + Send + Sync + 'static,
    ) -> Self {
        Self { generate_key: Arc::new(generate), ..self }
    }

    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// The certificate for a connection that is made now. It is the same for everyone until it is renewed: an hour
    /// after it was made, or five minutes before the credentials end. One caller starts the renewal and waits for it;
    /// the others get the old certificate as long as it works, and wait when it does not. Where a renewal fails, the
    /// old one serves as long as it works, and another attempt is made after half a minute.
    ///
    /// A caller may give up at any time. The renewal goes on, and its result is for whoever comes next.
    ///
    /// # Errors
    /// There is no certificate that works, and none can be made.
    pub async fn certificate(&self) -> Result<Arc<CertifiedKey>, CertificateError> {
        let key = match self.usable((self.clock)()) {
            Some((identity, Freshness::Fresh)) => return Ok(identity),
            Some((identity, Freshness::RenewalDue)) => match Arc::clone(&self.key).try_lock_owned() {
                Ok(key) => key,
                Err(_) => return Ok(identity),
            },
            None => Arc::clone(&self.key).lock_owned().await,
        };
        // Another task may have made one while this caller waited.
        if let Some((identity, Freshness::Fresh)) = self.usable((self.clock)()) {
            return Ok(identity);
        }
        let renewal = tokio::spawn(self.clone().renew(key));
        renewal.await.unwrap_or_else(|err| Err(CertificateError::Interrupted(err.into())))
    }

    /// Makes a certificate and keeps it. The one to use now: the old one where none can be made.
    async fn renew(self, mut key: OwnedMutexGuard<Option<Key>>) -> Result<Arc<CertifiedKey>, CertificateError> {
        let err = match self.make(&mut key).await {
            Ok(made) => {
                tracing::debug!(file_system = self.subject.file_system, "made a client certificate");
                let identity = Arc::clone(&made.identity);
                *self.lock() = Some(made);
                return Ok(identity);
            }
            Err(err) => err,
        };
        let now = (self.clock)();
        let Some((old, _)) = self.usable(now) else { return Err(err) };
        let (file_system, code) = (&self.subject.file_system, err.code());
        tracing::warn!(file_system, code, %err, "the client certificate is not renewed; the old one still works");
        if let Some(current) = self.lock().as_mut() {
            current.renew_at = now + RETRY_INTERVAL;
        }
        Ok(old)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        // Nothing that holds it can panic half way.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The certificate that there is, if it works.
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
        // Only now: fetching may have taken its time.
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
            // A source with nothing better to give must not be asked for every connection.
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
