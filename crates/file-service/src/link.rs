//! URIs of files and directories, as responses name them.

use files::transport::{Entry, Kind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use router::path::DirectoryPath;
use serde_json::{Value, json};

pub(super) const FILES: &str = "/files/";
pub(super) const LIST: &str = "/list/";

/// The characters that are percent-encoded in a path: all but `/` and pchar of RFC 3986. Clients differ in how they treat the
/// others; a browser takes `\` for `/`.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    // unreserved
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    // sub-delims
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The percent-encoded URI reference of a path.
pub(super) fn href(prefix: &str, path: &[u8]) -> String {
    format!("{prefix}{}", percent_encode(path, IN_PATH))
}

/// The JSON of an entry, with its URI.
pub(super) fn entry(directory: &DirectoryPath, entry: &Entry) -> Value {
    let (kind, prefix) = match entry.kind {
        Kind::File => ("file", Some(FILES)),
        Kind::Directory => ("directory", Some(LIST)),
        Kind::Other => ("other", None),
    };
    let path = [directory.as_bytes(), &entry.name].join(&b'/');
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    json!({
        "name": String::from_utf8_lossy(&entry.name),
        "kind": kind,
        "href": prefix.map(|prefix| href(prefix, path)),
    })
}
