//! Single variants of operations, without the fallbacks that the regular operations use when a server rejects a variant.
//! They find out what a server supports.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use crate::{
    attributes::Attributes,
    client::Client,
    error::{Error, Result},
    handshake::Handshake,
    identity::ClientOwner,
    install::Install,
    path::Path,
    put::TempWrite,
    put_options::PutOptions,
    read::ReadResult,
    readdir::{DirCursor, Page},
    transport::dial,
};

/// Timeout of destroying a session that was only created to look.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(2);

impl Client {
    /// [`Client::put`] without a precondition, in one compound with the current stateid.
    ///
    /// # Errors
    /// As [`Client::put`], and the status with which the server rejects the stateid. Leaves nothing behind.
    #[doc(hidden)]
    pub async fn put_without_fallback(&self, path: &[u8], content: Bytes, put: PutOptions) -> Result<Attributes> {
        let path = path.to_vec();
        self.run_detached(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            if content.len() > client.channel_attrs().await?.max_write_bytes as usize {
                return Err(Error::BadInput("the content is larger than one call carries"));
            }
            let prefix = client.path_prefix(&directory).await?;
            match client.write_temp(&prefix, &content, &put, name, Install::Rename, None, &budget).await? {
                TempWrite::Complete(attributes) => Ok(attributes),
                TempWrite::Short | TempWrite::WrongOwner => Err(Error::Protocol("the server wrote only a part")),
            }
        })
        .await
    }

    /// [`Client::read`] with the anonymous stateid.
    ///
    /// # Errors
    /// As [`Client::read`], and the status with which the server rejects the stateid.
    #[doc(hidden)]
    pub async fn read_without_fallback(&self, path: &[u8], offset: u64, length: u32) -> Result<ReadResult> {
        self.read_anonymous(&Path::new(path)?, offset, length).await
    }

    /// Whether the server at another address knows a session that was created at this client's address. Only then can a
    /// late call that hangs on its way to one address be fenced through the other. Creates a session for this, and destroys
    /// it.
    ///
    /// # Errors
    /// One of the two addresses cannot be reached.
    #[doc(hidden)]
    pub async fn shares_sessions_with(&self, address: SocketAddr) -> io::Result<bool> {
        let options = Arc::new(self.inner.options.clone());
        let owner = ClientOwner::new(Arc::clone(&options))?;
        let (mut writer, mut reader) = dial(&options, options.address).await?;
        let mut here = Handshake::new(&mut writer, &mut reader, &owner.rpc_header);
        let (session, _) = here.establish(&owner, 1).await?;
        let (mut writer, mut reader) = dial(&options, address).await?;
        let known = Handshake::new(&mut writer, &mut reader, &owner.rpc_header).knows_session(&session).await;
        let _ = timeout(DESTROY_TIMEOUT, here.destroy(session.id, session.client_id)).await;
        known
    }
}

impl Page {
    /// Whether the server sends a cookie verifier.
    #[doc(hidden)]
    pub fn has_cookie_verifier(&self) -> bool {
        self.cursor != DirCursor::from_cookie(self.cursor.cookie())
    }
}
