//! A multipart upload: a task owns the temporary file and writes the parts in the order in which they were given.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use files::{Upload, transport::Preconditions};
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart, path::Path};
use tokio::sync::{mpsc, oneshot};

use crate::{
    convert::{STORE, error_of},
    put_result,
};

/// What the task is asked for, with where its reply goes.
enum Request {
    ByteRange(Bytes, oneshot::Sender<Result<()>>),
    Complete(oneshot::Sender<Result<PutResult>>),
}

/// The parts are in memory until they are written: how many are on their way at once is the caller's choice, as with
/// other stores.
pub struct Multipart {
    location: Path,
    /// `None` once the upload is complete or aborted.
    requests: Option<mpsc::UnboundedSender<Request>>,
}

impl Multipart {
    pub fn start(location: Path, upload: Upload) -> Self {
        let (requests, received) = mpsc::unbounded_channel();
        // It ends, and removes the temporary file, when the sender is dropped.
        tokio::spawn(write(location.clone(), upload, received));
        Self { location, requests: Some(requests) }
    }
}

async fn write(location: Path, upload: Upload, mut requests: mpsc::UnboundedReceiver<Request>) {
    // `None` after a part that could not be written: the content is not whole.
    let mut upload = Some(upload);
    while let Some(request) = requests.recv().await {
        match request {
            Request::ByteRange(content, reply) => {
                let written = match &mut upload {
                    Some(open) => open.write(content).await.map_err(|err| error_of(&location, err)),
                    None => Err(incomplete(&location)),
                };
                if written.is_err() {
                    upload = None;
                }
                let _ = reply.send(written);
            }
            Request::Complete(reply) => {
                let result = match upload.take() {
                    Some(open) => open.commit(Preconditions::default()).await,
                    None => {
                        let _ = reply.send(Err(incomplete(&location)));
                        return;
                    }
                };
                let result = result.map(|written| put_result(&written)).map_err(|err| error_of(&location, err));
                let _ = reply.send(result);
                return;
            }
        }
    }
}

fn incomplete(location: &Path) -> Error {
    Error::Generic {
        store: STORE,
        source: format!("the upload of {location} has ended, or a part of it failed").into(),
    }
}

impl fmt::Debug for Multipart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipart").field("location", &self.location).finish_non_exhaustive()
    }
}

#[async_trait]
impl MultipartUpload for Multipart {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (reply, written) = oneshot::channel();
        // The order of the parts is the order of these calls, whenever the futures are awaited.
        let sent = self
            .requests
            .as_ref()
            .is_some_and(|requests| requests.send(Request::ByteRange(data.into(), reply)).is_ok());
        let location = self.location.clone();
        Box::pin(async move {
            match written.await {
                Ok(written) if sent => written,
                _ => Err(incomplete(&location)),
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (reply, completed) = oneshot::channel();
        if let Some(requests) = self.requests.take()
            && requests.send(Request::Complete(reply)).is_ok()
            && let Ok(result) = completed.await
        {
            return result;
        }
        Err(incomplete(&self.location))
    }

    async fn abort(&mut self) -> Result<()> {
        self.requests = None;
        Ok(())
    }
}
