//! How the service reaches its targets: by way of the kernel's mounts, or by an NFS client of its own.

use std::sync::Arc;

use nfs41::efs::{CredentialsProvider, Settings};

use super::Failure;
use files_mounted::{self as mounted};
use files_nfs::{self as nfs};

/// `BACKEND`.
pub enum Backend {
    Mounted(mounted::Options),
    Nfs(Box<nfs::Options>, Option<Settings>),
}

impl Backend {
    /// Ready to be used.
    pub(super) async fn open(&self) -> Result<Box<dyn files::Backend>, Failure> {
        Ok(match self {
            Self::Mounted(options) => Box::new(options.clone()),
            Self::Nfs(options, None) => Box::new(nfs::Options::clone(options)),
            Self::Nfs(options, Some(efs)) => {
                let tls = Some(efs.tls(credentials).await.map_err(Failure::Tls)?);
                Box::new(nfs::Options { tls, ..nfs::Options::clone(options) })
            }
        })
    }
}

#[cfg(feature = "aws")]
async fn credentials() -> std::io::Result<Arc<dyn CredentialsProvider>> {
    Ok(Arc::new(aws::credentials::Lender::from_environment().await?))
}

#[cfg(not(feature = "aws"))]
async fn credentials() -> std::io::Result<Arc<dyn CredentialsProvider>> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "NFS_IAM=1 needs a router that was built with AWS"))
}
