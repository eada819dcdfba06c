//! URIs of files and directories, as responses name them.

use files::transport::{Entry, Kind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use router::path::DirectoryPath;
use schemars::JsonSchema;
use serde::Serialize;

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

/// A page of a directory. `Listing` writes it while the client reads.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListPage {
    directory: String,
    entries: Vec<ListEntry>,
    /// `from` of the next page; `null` at the end. A string, because numbers of JavaScript hold 53 bits.
    next: Option<String>,
}

/// An entry of a directory.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListEntry {
    /// A byte that is not UTF-8 is shown as U+FFFD; `href` is exact.
    name: String,
    kind: ListKind,
    /// URI reference of the file or of the list of the directory; `null` for others.
    href: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ListKind {
    File,
    Directory,
    /// A link, a socket, a device.
    Other,
}

/// The entry with its URI.
pub(super) fn entry(directory: &DirectoryPath, entry: &Entry) -> ListEntry {
    let (kind, prefix) = match entry.kind {
        Kind::File => (ListKind::File, Some(FILES)),
        Kind::Directory => (ListKind::Directory, Some(LIST)),
        Kind::Other => (ListKind::Other, None),
    };
    let path = [directory.as_bytes(), &entry.name].join(&b'/');
    let path = path.strip_prefix(b"/").unwrap_or(&path);
    let name = String::from_utf8_lossy(&entry.name).into_owned();
    ListEntry { name, kind, href: prefix.map(|prefix| href(prefix, path)) }
}
