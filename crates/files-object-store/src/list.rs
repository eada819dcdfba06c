//! Listings: the pages of directories, with the properties of each file.

use std::{collections::VecDeque, sync::Arc};

use files::{
    Files,
    transport::{Entry, Kind},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use object_store::{Error, Extensions, ListResult, ObjectMeta, Result, path::Path};
use router::DirectoryPath;

use crate::{
    MAX_CONCURRENT_HEADS,
    convert::{STORE, error_of, file_path, meta_of},
};

/// Entries of a directory that are asked for at once.
const PAGE_ENTRIES: usize = 1000;

/// Every file below a prefix, at any depth.
pub fn all(files: Arc<Files>, prefix: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    // Directories to read, with where to go on in them.
    let start = VecDeque::from([(prefix.unwrap_or_default(), None)]);
    let pages =
        stream::try_unfold((files, start), |(files, mut waiting): (_, VecDeque<(Path, Option<u64>)>)| async move {
            // Depth first, so that few directories wait.
            let Some((directory, from)) = waiting.pop_back() else { return Ok::<_, Error>(None) };
            let (entries, next) = page(&files, &directory, from).await?;
            if next.is_some() {
                waiting.push_back((directory.clone(), next));
            }
            let mut found = Vec::with_capacity(entries.len());
            for entry in entries {
                match entry.kind {
                    Kind::File => found.push(child(&directory, &entry)?),
                    Kind::Directory => waiting.push_back((child(&directory, &entry)?, None)),
                    Kind::Other => {}
                }
            }
            let state = (Arc::clone(&files), waiting);
            Ok(Some((metas(files, found), state)))
        });
    pages.try_flatten().boxed()
}

/// The files of one directory, and its directories.
pub async fn one_level(files: &Arc<Files>, prefix: Option<&Path>) -> Result<ListResult> {
    let directory = prefix.cloned().unwrap_or_default();
    let (mut names, mut common_prefixes, mut from) = (Vec::new(), Vec::new(), None);
    loop {
        let (entries, next) = page(files, &directory, from).await?;
        for entry in entries {
            match entry.kind {
                Kind::File => names.push(child(&directory, &entry)?),
                Kind::Directory => common_prefixes.push(child(&directory, &entry)?),
                Kind::Other => {}
            }
        }
        from = next;
        if from.is_none() {
            break;
        }
    }
    // A server gives names in no order; callers of other stores are used to one.
    names.sort_unstable();
    common_prefixes.sort_unstable();
    let objects = metas(Arc::clone(files), names).try_collect().await?;
    Ok(ListResult { common_prefixes, objects, extensions: Extensions::default() })
}

/// Properties of files. One that was deleted since its name was read is left out.
fn metas(files: Arc<Files>, locations: Vec<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let ask = move |location: Path| {
        let files = Arc::clone(&files);
        async move {
            match files.stat(&file_path(&location)?).await {
                Ok(meta) => Ok(Some(meta_of(location, &meta))),
                Err(files::Error::NotFound | files::Error::NotAFile | files::Error::NotADirectory) => Ok(None),
                Err(err) => Err(error_of(&location, err)),
            }
        }
    };
    stream::iter(locations).map(ask).buffered(MAX_CONCURRENT_HEADS).try_filter_map(async |found| Ok(found)).boxed()
}

/// One page of a directory, and where the next begins. A directory that does not exist has no entries: to a store,
/// directories are only parts of names.
async fn page(files: &Files, directory: &Path, from: Option<u64>) -> Result<(Vec<Entry>, Option<u64>)> {
    let path = DirectoryPath::new(directory.as_ref());
    let path = path.map_err(|err| error_of(directory, files::Error::BadPath(err)))?;
    match files.list(&path, from, PAGE_ENTRIES).await {
        Ok((page, _)) => Ok((page.entries, page.next)),
        Err(files::Error::NotFound | files::Error::NotADirectory) => Ok((Vec::new(), None)),
        Err(err) => Err(error_of(directory, err)),
    }
}

/// The location of an entry.
///
/// # Errors
/// A name that no location can have, such as one that is not UTF-8.
fn child(directory: &Path, entry: &Entry) -> Result<Path> {
    let name = std::str::from_utf8(&entry.name).map_err(|err| Error::Generic {
        store: STORE,
        source: format!("{directory}: the name {:?} is not UTF-8: {err}", String::from_utf8_lossy(&entry.name)).into(),
    })?;
    let location = match directory.as_ref() {
        "" => name.to_owned(),
        above => format!("{above}/{name}"),
    };
    Ok(Path::parse(location)?)
}
