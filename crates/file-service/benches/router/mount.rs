//! The server's files by way of the kernel's own client, where there is one, with the options that EFS advises.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::servers::Site;

/// Undone when it is dropped.
pub struct Mount(PathBuf);

impl Mount {
    /// None where the kernel has no client, or this is not root.
    pub fn of(server: SocketAddr, directory: &Path) -> Result<Option<Self>> {
        let has = fs::read_to_string("/proc/filesystems")?.contains("\tnfs4\n");
        if !has || !rustix::process::geteuid().is_root() {
            println!("This kernel has no NFS client for us: nginx is left out; see `make bench-router-guest`.");
            return Ok(None);
        }
        fs::create_dir_all(directory)?;
        let (address, port) = (server.ip(), server.port());
        let options = format!(
            "vers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,addr={address},\
             clientaddr={address},port={port}"
        );
        let mut command = Command::new("mount");
        command.args(["-i", "-t", "nfs4", "-o", &options, &format!("{address}:/")]).arg(directory);
        let output = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(Some(Self(directory.to_owned())))
    }

    /// Whose files are the server's.
    pub fn site(&self) -> Result<Site> {
        Site::at(self.0.clone())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
