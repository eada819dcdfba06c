//! Credentials of this process, for requests that are not signed by the SDKs.

use std::{error::Error, io, time::SystemTime};

use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};

/// Credentials and their expiry.
pub struct Lent {
    pub access_key_id: String,
    pub secret: String,
    pub session_token: Option<String>,
    pub expires: Option<SystemTime>,
}

/// Provides the credentials of the task, the function, the instance or the environment.
pub struct Lender(SharedCredentialsProvider);

impl Lender {
    /// # Errors
    /// No credentials provider is available.
    pub async fn from_environment() -> io::Result<Self> {
        let provider = crate::sdk_config().await.credentials_provider();
        provider.map(Self).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there are no AWS credentials"))
    }

    /// The credentials of a function, which Lambda sets in the environment.
    #[cfg(feature = "lambda")]
    pub fn of_lambda() -> Self {
        Self(SharedCredentialsProvider::new(aws_config::environment::EnvironmentVariableCredentialsProvider::new()))
    }

    /// The current credentials. The provider caches them until they must be renewed.
    ///
    /// # Errors
    /// The credentials cannot be loaded.
    pub async fn lend(&self) -> Result<Lent, Box<dyn Error + Send + Sync>> {
        let found = self.0.provide_credentials().await?;
        Ok(Lent {
            access_key_id: found.access_key_id().to_owned(),
            secret: found.secret_access_key().to_owned(),
            session_token: found.session_token().map(str::to_owned),
            expires: found.expiry(),
        })
    }
}

#[cfg(feature = "nfs")]
impl nfs41::efs::CredentialsProvider for Lender {
    fn credentials(&self) -> nfs41::efs::CredentialsFuture<'_> {
        Box::pin(async {
            let lent = self.lend().await?;
            let Lent { access_key_id, secret, session_token, expires } = lent;
            Ok(nfs41::efs::Credentials::new(access_key_id, secret, session_token, expires)?)
        })
    }
}
