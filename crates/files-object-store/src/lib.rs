//! [`object_store::ObjectStore`] over [`Files`]: what speaks that trait (DataFusion, Polars, delta-rs and others) reads
//! and writes through the mount targets.
//!
//! ```
//! use files::{Files, Options, PublishedList};
//! use files_object_store::EfsStore;
//! use object_store::{ObjectStoreExt as _, path::Path};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! # let base = tempfile::tempdir()?;
//! # std::fs::create_dir(base.path().join("efs-0"))?;
//! # let backend = files_mounted::Options { base: base.path().into(), ..files_mounted::Options::default() };
//! # let list = r#"{"mount_targets":[{"mount_target_id":"fsmt-1","ip_address":"10.0.1.5","availability_zone":"a","subnet_id":"subnet-1"}]}"#;
//! let files = Files::start(PublishedList::parse(list)?, backend, Options::default()).await?;
//! let store = EfsStore::new(files);
//! store.put(&Path::from("table/part-0.parquet"), "content".into()).await?;
//! assert_eq!(store.get(&Path::from("table/part-0.parquet")).await?.bytes().await?, "content");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! How the trait maps to files:
//! - A location is a path below the root. `put` replaces a file as one step; readers see the old content or the new.
//! - `PutMode::Create` and `PutMode::Update` are exact: If-None-Match: * and If-Match of the service. A copy with
//!   `CopyMode::Create` is as well.
//! - A multipart upload is a temporary file that its completion renames. Parts are written in the order of their
//!   `put_part` calls.
//! - A listing asks for the properties of each file, a round trip each; [`MAX_CONCURRENT_HEADS`] are on their way at once.
//! - A copy reads and writes: EFS has no copy of its own. A rename is a copy and a deletion, so not one step.
//! - Attributes, tags and versions do not exist: `put` refuses attributes and tags, `get` refuses a version.
//! - After [`files::Error::Uncertain`] or [`files::Error::Pending`], which are in the source of a `Generic` error, the
//!   write may have happened, or may still happen.

mod convert;
mod list;
mod upload;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use files::{
    Files,
    transport::{BodyStream, ETags, Preconditions, ReadOptions, ReadOutcome, ReadResult},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, Extensions, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    path::Path,
};

use self::{
    convert::{conditions_of, error_of, file_path, meta_of, not_supported, range_of},
    upload::Multipart,
};

/// The properties of so many files are asked for at once by a listing.
pub const MAX_CONCURRENT_HEADS: usize = 16;
/// So many files are deleted at once by `delete_stream`.
const MAX_CONCURRENT_DELETES: usize = 16;

/// A store over the files of one file system. Clones share them.
#[derive(Clone)]
pub struct EfsStore {
    files: Arc<Files>,
}

impl EfsStore {
    /// The store over these files.
    pub fn new(files: Arc<Files>) -> Self {
        Self { files }
    }

    async fn open(&self, location: &Path, want: &ReadOptions) -> Result<ReadResult> {
        let path = file_path(location)?;
        match self.files.open(&path, want).await {
            Ok(opened) => Ok(opened.reading),
            // To a store, a directory is only a part of names.
            Err(err @ files::Error::IsADirectory) => {
                Err(Error::NotFound { path: location.to_string(), source: err.into() })
            }
            Err(err) => Err(error_of(location, err)),
        }
    }
}

impl fmt::Display for EfsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EfsStore({} mount targets)", self.files.endpoints().len())
    }
}

impl fmt::Debug for EfsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for EfsStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let path = file_path(location)?;
        refuse_attributes(&options.attributes)?;
        let conditions = match &options.mode {
            PutMode::Overwrite => Preconditions::default(),
            PutMode::Create => Preconditions::create_only(),
            PutMode::Update(version) => match &version.e_tag {
                Some(tag) => {
                    Preconditions { if_match: Some(ETags::List(vec![tag.clone()])), ..Preconditions::default() }
                }
                None => return Err(not_supported("an update without an e_tag")),
            },
        };
        match self.files.write(&path, Bytes::from(payload), conditions).await {
            Ok(written) => Ok(put_result(&written)),
            Err(files::Error::PreconditionFailed) if options.mode == PutMode::Create => Err(Error::AlreadyExists {
                path: location.to_string(),
                source: files::Error::PreconditionFailed.into(),
            }),
            Err(err) => Err(error_of(location, err)),
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        refuse_attributes(&options.attributes)?;
        let path = file_path(location)?;
        let upload = self.files.begin(&path).await.map_err(|err| error_of(location, err))?;
        Ok(Box::new(Multipart::start(location.clone(), upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.version.is_some() {
            return Err(not_supported("a version: a file has one content"));
        }
        let want = ReadOptions {
            head: options.head,
            part: options.range.as_ref().map(range_of).transpose()?,
            conditions: conditions_of(&options),
            ..ReadOptions::default()
        };
        let reading = self.open(location, &want).await?;
        let source = |message: &str| -> Box<dyn std::error::Error + Send + Sync> { message.into() };
        let range = match reading.outcome {
            ReadOutcome::Content { from, to, .. } => from..to,
            ReadOutcome::NotModified => {
                let source = source("the content is the one that the conditions name");
                return Err(Error::NotModified { path: location.to_string(), source });
            }
            ReadOutcome::PreconditionFailed => {
                let source = files::Error::PreconditionFailed.into();
                return Err(Error::Precondition { path: location.to_string(), source });
            }
            ReadOutcome::Unsatisfiable => {
                let source = source(&format!("{location} has {} bytes, and none in the range", reading.meta.size));
                return Err(Error::Generic { store: convert::STORE, source });
            }
        };
        let meta = meta_of(location.clone(), &reading.meta);
        let length = range.end - range.start;
        let content = if options.head { stream::empty().boxed() } else { content(location.clone(), reading, length) };
        Ok(GetResult {
            payload: GetResultPayload::Stream(content),
            meta,
            range,
            attributes: Attributes::default(),
            extensions: Extensions::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let files = Arc::clone(&self.files);
        let delete = move |location: Path| {
            let files = Arc::clone(&files);
            async move {
                let path = file_path(&location)?;
                files.delete(&path, Preconditions::default()).await.map_err(|err| error_of(&location, err))?;
                Ok(location)
            }
        };
        locations.map_ok(delete).try_buffered(MAX_CONCURRENT_DELETES).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        list::all(Arc::clone(&self.files), prefix.cloned())
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        list::one_level(&self.files, prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (create, target) = (options.mode == CopyMode::Create, file_path(to)?);
        let reading = self.open(from, &ReadOptions::default()).await?;
        let length = reading.meta.size;
        let mut upload = self.files.begin(&target).await.map_err(|err| error_of(to, err))?;
        let mut content = content(from.clone(), reading, length);
        while let Some(bytes) = content.try_next().await? {
            upload.write(bytes).await.map_err(|err| error_of(to, err))?;
        }
        let conditions = if create { Preconditions::create_only() } else { Preconditions::default() };
        match upload.commit(conditions).await {
            Ok(_) => Ok(()),
            Err(err @ files::Error::PreconditionFailed) if create => {
                Err(Error::AlreadyExists { path: to.to_string(), source: err.into() })
            }
            Err(err) => Err(error_of(to, err)),
        }
    }
}

/// The `length` bytes of a file that was opened.
fn content(location: Path, reading: ReadResult, length: u64) -> BoxStream<'static, Result<Bytes>> {
    type State = (Option<Bytes>, Option<Box<dyn BodyStream>>, u64);
    let state: State = (Some(reading.first), reading.rest, length);
    stream::try_unfold(state, move |(first, rest, left)| {
        let location = location.clone();
        async move {
            if left == 0 {
                return Ok(None);
            }
            if let Some(first) = first.filter(|first| !first.is_empty()) {
                let left = left.saturating_sub(first.len() as u64);
                return Ok(Some((first, (None, rest, left))));
            }
            let Some(rest) = rest else {
                let source = files::Error::Failed(std::io::ErrorKind::UnexpectedEof.into());
                return Err(error_of(&location, source));
            };
            let (bytes, rest) = rest.next().await.map_err(|err| error_of(&location, err))?;
            if bytes.is_empty() {
                let source = files::Error::Failed(std::io::ErrorKind::UnexpectedEof.into());
                return Err(error_of(&location, source));
            }
            let left = left.saturating_sub(bytes.len() as u64);
            Ok(Some((bytes, (None, Some(rest), left))))
        }
    })
    .boxed()
}

fn put_result(written: &files::Written) -> PutResult {
    PutResult { e_tag: Some(written.meta.tag.to_string()), version: None, extensions: Extensions::default() }
}

fn refuse_attributes(attributes: &Attributes) -> Result<()> {
    match attributes.is_empty() {
        true => Ok(()),
        false => Err(not_supported("attributes: a file has none")),
    }
}
