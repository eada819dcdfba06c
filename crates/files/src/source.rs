//! Sources of the list of targets. Parsing is strict: an empty or damaged list is an error and never replaces a valid
//! one.

use std::{future::Future, path::PathBuf, pin::Pin};

use domain::published::{NotAList, PublishedList};

/// The error of a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source cannot be read.
    #[error("cannot read {name}: {message}")]
    Unreadable {
        /// The name of the source.
        name: String,
        /// The cause.
        message: String,
    },
    /// The source has no valid list.
    #[error("{name} is not a list of mount targets: {source}")]
    Invalid {
        /// The name of the source.
        name: String,
        /// What is wrong with it.
        source: NotAList,
    },
}

/// The future of [`Source::read`].
pub type ReadFuture<'a> = Pin<Box<dyn Future<Output = Result<PublishedList, SourceError>> + Send + 'a>>;

/// A source that the list can be read from repeatedly.
pub trait Source: Send + Sync {
    /// The name of the source in messages and logs.
    fn name(&self) -> String;

    /// Reads the current list.
    fn read(&self) -> ReadFuture<'_>;
}

/// The list of the first source that has one, with the index of the source, and the errors of the sources before it.
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

fn parse(name: &str, text: &str) -> Result<PublishedList, SourceError> {
    PublishedList::parse(text).map_err(|source| SourceError::Invalid { name: name.to_owned(), source })
}

/// A constant list, such as `DEFAULT_MOUNT_TARGETS`.
pub struct Given(pub PublishedList);

impl Source for Given {
    fn name(&self) -> String {
        "the given list".to_owned()
    }

    fn read(&self) -> ReadFuture<'_> {
        Box::pin(std::future::ready(Ok(self.0.clone())))
    }
}

/// A file with the JSON of the parameter.
pub struct File(pub PathBuf);

/// Maximum size of the file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

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
                std::io::Read::read_to_string(&mut std::io::Read::take(file, MAX_FILE_BYTES), &mut text)?;
                Ok::<_, std::io::Error>(text)
            });
            let failed = |message: String| SourceError::Unreadable { name: self.name(), message };
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
                let failed = |message: String| SourceError::Unreadable { name: Source::name(self), message };
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
                let failed = |message: String| SourceError::Unreadable { name: self.name(), message };
                let reported = reported.map_err(|err| failed(err.to_string()))?;
                let list = PublishedList::of(&reported, None);
                list.ok_or_else(|| SourceError::Invalid { name: self.name(), source: NotAList::Empty })
            })
        }
    }
}
