//! TLS and IAM settings of Amazon EFS from environment variables.

use std::{io, path::PathBuf, sync::Arc};

use domain::config::{self, ConfigError, Variables, flag, optional, required, word};

use super::{CertificateProvider, CredentialsProvider, Subject};
use crate::tls::{BoxError, Roots, Tls};

/// Settings of `NFS_TLS=efs`.
pub struct Settings {
    /// File system, region and access point.
    pub subject: Subject,
    /// `NFS_IAM`: sign with the credentials of the process's role.
    pub iam: bool,
    /// `NFS_TLS_ROOTS`: PEM file of trusted root certificates; those of the system if `None`.
    pub roots: Option<PathBuf>,
}

impl Settings {
    /// Reads the variables. `None` without TLS.
    ///
    /// # Errors
    /// The first variable that is missing or invalid, or that has no effect without TLS.
    pub fn read(v: &impl Variables) -> Result<Option<Self>, ConfigError> {
        let access_point = "an access point's id, such as fsap-0123456789abcdef0; with NFS_TLS=efs";
        let iam = flag(v, "NFS_IAM")?;
        if !word(v, "NFS_TLS", "none or efs", &[("none", false), ("efs", true)])? {
            if iam {
                let expected = "0, since NFS_TLS is not efs";
                return Err(ConfigError::Bad { name: "NFS_IAM", value: "1".to_owned(), expected });
            }
            return optional(v, "EFS_ACCESS_POINT_ID", access_point, |_| None);
        }
        let file_system = config::file_system_id(v)?;
        let region = "the region of EFS_FILE_SYSTEM_ID, such as ap-northeast-1, since NFS_TLS is efs";
        let subject = required(v, "AWS_REGION", region, |region| Subject::new(file_system.as_str(), region).ok())?;
        let with = |id: &str| subject.clone().with_access_point(id).ok();
        let subject = optional(v, "EFS_ACCESS_POINT_ID", access_point, with)?.unwrap_or(subject);
        let roots = optional(v, "NFS_TLS_ROOTS", "the path of a file", |value| Some(PathBuf::from(value)))?;
        Ok(Some(Self { subject, iam, roots }))
    }

    /// The TLS configuration. Reads files. `credentials` is called only with IAM authorization, and returns the provider of the
    /// role's credentials.
    ///
    /// # Errors
    /// Errors of `credentials`; [`TlsError`](crate::tls::TlsError); a file cannot be read.
    pub async fn tls(
        &self,
        credentials: impl AsyncFnOnce() -> io::Result<Arc<dyn CredentialsProvider>>,
    ) -> Result<Tls, BoxError> {
        let roots = match &self.roots {
            None => Roots::System,
            Some(file) => {
                Roots::Pem(std::fs::read(file).map_err(|err| format!("NFS_TLS_ROOTS {}: {err}", file.display()))?)
            }
        };
        let mut certificates = CertificateProvider::new(self.subject.clone());
        if self.iam {
            certificates = certificates.with_credentials(credentials().await?);
        }
        Ok(Tls::new(&self.subject.server_name(), roots)?.with_identity_provider(Arc::new(certificates)))
    }
}
