//! Where the list of targets comes from. Whatever is read is read strictly: an empty or damaged list is an error,
//! and never replaces one that works.

use std::{future::Future, path::PathBuf, pin::Pin};

use domain::published::{NotAList, PublishedList};

/// Why a source gave no list.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{cursor} cannot be read: {err}")]
    Place { cursor: String, err: String },
    #[error("{cursor} holds no list of targets: {err}")]
    List { cursor: String, err: NotAList },
}

/// The future of a list.
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<PublishedList, SourceError>> + Send + 'a>>;

/// A place that a list can be read from, again and again.
pub trait Source: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    fn read(&self) -> ReadFuture<'_>;
}

/// The list of the first source that gives one, and which that is; what the others said.
pub async fn first(sources: &[Box<dyn Source>]) -> (Option<(PublishedList, usize)>, Vec<SourceError>) {
    let mut failed = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        match source.read().await {
            Ok(list) => return (Some((list, index)), failed),
            Err(err) => failed.push(err),
        }
    }
    (None, failed)
}

fn parse(cursor: &str, text: &str) -> Result<PublishedList, SourceError> {
    PublishedList::parse(text).map_err(|err| SourceError::List { cursor: cursor.to_owned(), err })
}

/// A list that is given, such as `DEFAULT_MOUNT_TARGETS`.
pub struct Given(pub PublishedList);

impl Source for Given {
    fn name(&self) -> String {
        "the given list".to_owned()
    }

    fn read(&self) -> ReadFuture<'_> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// A file with the text of the parameter.
pub struct File(pub PathBuf);

/// The most that is read of it.
const MAX_BYTES: u64 = 1 << 20;

impl Source for File {
    fn name(&self) -> String {
        format!("the file {}", self.0.display())
    }

    fn read(&self) -> ReadFuture<'_> {
        Box::pin(async {
            let path = self.0.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut text = String::new();
                let file = std::fs::File::open(path)?;
                std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_BYTES), &mut text)?;
                Ok::<_, std::io::Error>(text)
            });
            let failed = |err: String| SourceError::Place { cursor: self.name(), err };
            let text = read.await.map_err(|err| failed(err.to_string()))?.map_err(|err| failed(err.to_string()))?;
            parse(&self.name(), &text)
        })
    }
}

#[cfg(feature = "aws")]
pub use aws_sources::{Parameter, Reported};

#[cfg(feature = "aws")]
mod aws_sources {
    use std::sync::Arc;

    use aws::Aws;
    use domain::{
        model::{FileSystemId, ParameterName},
        ports::{ListTargets, ReadParameters},
        published::{NotAList, PublishedList},
    };

    use super::{ReadFuture, Source, SourceError, parse};

    /// The parameter of Systems Manager that the pipeline publishes.
    pub struct Parameter {
        pub aws: Arc<Aws>,
        pub name: ParameterName,
    }

    impl Source for Parameter {
        fn name(&self) -> String {
            format!("the parameter {}", self.name)
        }

        fn read(&self) -> ReadFuture<'_> {
            Box::pin(async {
                let failed = |err: String| SourceError::Place { cursor: Source::name(self), err };
                let found = self.aws.read_parameters(std::slice::from_ref(&self.name)).await;
                let mut found = found.map_err(|err| failed(err.to_string()))?;
                let parameter = found.remove(&self.name).ok_or_else(|| failed("there is none".to_owned()))?;
                parse(&Source::name(self), &parameter.value)
            })
        }
    }

    /// What EFS itself reports: the targets that the pipeline would publish now.
    pub struct Reported {
        pub aws: Arc<Aws>,
        pub file_system: FileSystemId,
    }

    impl Source for Reported {
        fn name(&self) -> String {
            format!("the mount targets of {}", self.file_system)
        }

        fn read(&self) -> ReadFuture<'_> {
            Box::pin(async {
                let reported = self.aws.list_targets(&self.file_system).await;
                let failed = |err: String| SourceError::Place { cursor: self.name(), err };
                let reported = reported.map_err(|err| failed(err.to_string()))?;
                let list = PublishedList::of(&reported, None);
                list.ok_or_else(|| SourceError::List { cursor: self.name(), err: NotAList::Empty })
            })
        }
    }
}
