//! Locations, errors, conditions and properties, from one crate's types to the other's.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use files::transport::{ByteRange, ETags, Metadata, Preconditions};
use object_store::{Error, GetOptions, GetRange, ObjectMeta, Result, path::Path};
use router::FilePath;

/// The name of the store in errors.
pub const STORE: &str = "EFS";

/// # Errors
/// The location is no path of a file: empty, too deep, too long, or with a reserved name.
pub fn file_path(location: &Path) -> Result<FilePath> {
    FilePath::new(location.as_ref()).map_err(|err| error_of(location, files::Error::BadPath(err)))
}

pub fn error_of(location: &Path, err: files::Error) -> Error {
    let (path, source) = (location.to_string(), Box::new(err));
    match *source {
        files::Error::NotFound | files::Error::NotADirectory | files::Error::NotAFile => {
            Error::NotFound { path, source }
        }
        files::Error::PreconditionFailed => Error::Precondition { path, source },
        files::Error::Denied(_) => Error::PermissionDenied { path, source },
        files::Error::Unsupported(_) => Error::NotSupported { source },
        _ => Error::Generic { store: STORE, source },
    }
}

pub fn not_supported(what: &str) -> Error {
    Error::NotSupported { source: what.into() }
}

pub fn meta_of(location: Path, meta: &Metadata) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: DateTime::<Utc>::from(meta.modified),
        size: meta.size,
        e_tag: Some(meta.tag.to_string()),
        version: None,
    }
}

/// # Errors
/// The range is empty.
pub fn range_of(range: &GetRange) -> Result<ByteRange> {
    match range {
        GetRange::Bounded(range) if range.start < range.end => Ok(ByteRange::From(range.start, Some(range.end - 1))),
        GetRange::Bounded(range) => {
            Err(Error::Generic { store: STORE, source: format!("the range {range:?} has no bytes").into() })
        }
        GetRange::Offset(from) => Ok(ByteRange::From(*from, None)),
        GetRange::Suffix(length) => Ok(ByteRange::Last(*length)),
    }
}

pub fn conditions_of(options: &GetOptions) -> Preconditions {
    Preconditions {
        if_match: options.if_match.as_deref().map(tags),
        if_none_match: options.if_none_match.as_deref().map(tags),
        unmodified_since: options.if_unmodified_since.map(SystemTime::from),
        modified_since: options.if_modified_since.map(SystemTime::from),
    }
}

/// `*`, or tags with commas between them, as in the header fields of HTTP.
fn tags(text: &str) -> ETags {
    match text.trim() {
        "*" => ETags::Any,
        text => ETags::List(text.split(',').map(|tag| tag.trim().trim_matches('"').to_owned()).collect()),
    }
}
