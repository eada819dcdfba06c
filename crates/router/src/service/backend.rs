//! How the service reaches its targets: by way of the kernel's mounts, or by an NFS client of its own.

use std::{path::PathBuf, sync::Arc};

use nfs41::{
    efs::{Certificates, Subject},
    tls::{Roots, Tls},
};

use super::Failure;
use crate::{files, mounted, nfs};

/// `BACKEND`.
pub enum Backend {
    Mounted(mounted::Options),
    Nfs(nfs::Options, Option<Efs>),
}

/// What Amazon EFS wants to know of a client that speaks TLS.
pub struct Efs {
    pub subject: Subject,
    /// In the name of the task's role.
    pub signed: bool,
    /// Of whoever vouches for the server; the system's where there are none.
    pub roots: Option<PathBuf>,
}

impl Backend {
    /// Ready to be used.
    pub(super) async fn open(&self) -> Result<Box<dyn files::Backend>, Failure> {
        Ok(match self {
            Self::Mounted(options) => Box::new(options.clone()),
            Self::Nfs(options, None) => Box::new(options.clone()),
            Self::Nfs(options, Some(efs)) => {
                let tls = Some(efs.tls().await.map_err(Failure::Tls)?);
                Box::new(nfs::Options { tls, ..options.clone() })
            }
        })
    }
}

impl Efs {
    async fn tls(&self) -> Result<Tls, Box<dyn std::error::Error + Send + Sync>> {
        let roots = match &self.roots {
            None => Roots::System,
            Some(file) => {
                Roots::Pem(std::fs::read(file).map_err(|why| format!("NFS_TLS_ROOTS {}: {why}", file.display()))?)
            }
        };
        let mut certificates = Certificates::new(self.subject.clone());
        if self.signed {
            certificates = certificates.with_credentials(credentials().await?);
        }
        Ok(Tls::new(&self.subject.server_name(), roots)?.with_identities(Arc::new(certificates)))
    }
}

#[cfg(feature = "aws")]
async fn credentials() -> std::io::Result<Arc<dyn nfs41::efs::CredentialSource>> {
    use nfs41::efs::{CredentialSource, Credentials, Lends};

    struct Source(aws::credentials::Lender);

    impl CredentialSource for Source {
        fn credentials(&self) -> Lends<'_> {
            Box::pin(async {
                let lent = self.0.lend().await?;
                Ok(Credentials::new(lent.access_key_id, lent.secret, lent.session_token, lent.expires)?)
            })
        }
    }

    Ok(Arc::new(Source(aws::credentials::Lender::from_environment().await?)))
}

#[cfg(not(feature = "aws"))]
async fn credentials() -> std::io::Result<Arc<dyn nfs41::efs::CredentialSource>> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "NFS_IAM=1 needs a router that was built with AWS"))
}
