//! Random sequences of operations leave the server as a simple model predicts, and return what the model returns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use common::read_file;
use nfs_lab::{Ganesha, lab_or_skip};
use nfs41::{
    AttributeMask, Client, DirCursor, Error, FileType, Options, Precondition, PutOptions, SetAttributes, Status,
};
use proptest::{collection::vec, prelude::*};

/// Paths of two levels. Each can become a file or a directory.
const PATHS: [&str; 9] = ["a", "b", "d", "e", "d/a", "d/b", "e/a", "e/d", "a/b"];
/// Directories that exist from the beginning.
const DIRECTORIES: [&str; 2] = ["d", "e"];
/// Number of other files, so that a listing takes several pages.
const OTHERS: usize = 40;

#[derive(Clone, Copy, Debug)]
enum If {
    None,
    File,
    New,
    /// The file has this size; `None`: there is no file.
    Size(Option<u64>),
}

#[derive(Clone, Debug)]
enum Change {
    Put(usize, u8, usize, If),
    Upload(usize, u8, usize),
    Write(usize, u64, u8, usize),
    Append(usize, u8, usize, If),
    Remove(usize),
    RemoveFile(usize),
    RemoveIf(usize, Option<u64>),
    Rename(usize, usize),
    Link(usize, usize),
    MakeDirectory(usize, u32),
    Resize(usize, u64),
    Mode(usize, u32),
    List(usize),
    Read(usize, u64, u32),
    ReadAll(usize, u64, u64),
    Attributes(usize),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let path = || 0..PATHS.len();
        // Few lengths, so that size conditions sometimes hold; and some that take several calls.
        let length = || prop_oneof![4 => 0..4_usize, 1 => 4000..20_000_usize];
        let size = || prop_oneof![Just(None), (0..4_u64).prop_map(Some)];
        let condition =
            prop_oneof![3 => Just(If::None), 1 => Just(If::File), 2 => Just(If::New), 3 => size().prop_map(If::Size)];
        let mode = || prop_oneof![Just(0o600_u32), Just(0o640), Just(0o755), Just(0o777)];
        let offset = || prop_oneof![3 => 0..5_u64, 1 => 0..20_000_u64];
        prop_oneof![
            4 => (path(), any::<u8>(), length(), condition.clone()).prop_map(|(a, b, c, d)| Self::Put(a, b, c, d)),
            1 => (path(), any::<u8>(), length()).prop_map(|(a, b, c)| Self::Upload(a, b, c)),
            3 => (path(), offset(), any::<u8>(), length()).prop_map(|(a, b, c, d)| Self::Write(a, b, c, d)),
            2 => (path(), any::<u8>(), 0..4000_usize, condition).prop_map(|(a, b, c, d)| Self::Append(a, b, c, d)),
            1 => path().prop_map(Self::Remove),
            1 => path().prop_map(Self::RemoveFile),
            1 => (path(), size()).prop_map(|(a, b)| Self::RemoveIf(a, b)),
            3 => (path(), path()).prop_map(|(a, b)| Self::Rename(a, b)),
            2 => (path(), path()).prop_map(|(a, b)| Self::Link(a, b)),
            3 => (path(), mode()).prop_map(|(a, b)| Self::MakeDirectory(a, b)),
            1 => (path(), offset()).prop_map(|(a, b)| Self::Resize(a, b)),
            1 => (path(), mode()).prop_map(|(a, b)| Self::Mode(a, b)),
            1 => (0..PATHS.len() + 1).prop_map(Self::List),
            2 => (path(), offset(), 0..20_000_u32).prop_map(|(a, b, c)| Self::Read(a, b, c)),
            1 => (path(), offset(), prop_oneof![Just(u64::MAX), 0..20_000_u64]).prop_map(|(a, b, c)| Self::ReadAll(a, b, c)),
            2 => path().prop_map(Self::Attributes),
        ]
    }
}

/// The result of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Said {
    Done,
    /// There is no file.
    Nothing,
    Condition,
    Missing,
    NotDirectory,
    IsDirectory,
    Exists,
    NotEmpty,
    /// A directory would move into itself.
    Invalid,
    Content(Bytes),
    Names(BTreeMap<String, FileType>),
    Is {
        kind: FileType,
        size: Option<u64>,
        mode: u32,
        links: Option<u32>,
    },
    Other(String),
}

impl From<Error> for Said {
    fn from(err: Error) -> Self {
        match err {
            Error::ConditionFailed => Self::Condition,
            Error::Status { status, .. } => match status {
                Status::NOENT => Self::Missing,
                Status::NOTDIR => Self::NotDirectory,
                // A regular file is required.
                Status::ISDIR | Status::NOT_SAME => Self::IsDirectory,
                Status::EXIST => Self::Exists,
                Status::NOTEMPTY => Self::NotEmpty,
                Status::INVAL => Self::Invalid,
                other => Self::Other(other.to_string()),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

#[derive(Clone, Debug)]
enum Node {
    File { content: Vec<u8>, mode: u32 },
    Directory { names: BTreeMap<String, usize>, mode: u32 },
}

/// Nodes by index. The first is the root.
struct Model(Vec<Node>);

type Answer<T = Said> = Result<T, Said>;

impl Model {
    fn new() -> Self {
        let directory = || Node::Directory { names: BTreeMap::new(), mode: 0o755 };
        let mut model = Self(vec![directory()]);
        for name in DIRECTORIES {
            model.add(0, name, directory()).unwrap();
        }
        for number in 0..OTHERS {
            model.add(0, &other(number), Node::File { content: Vec::new(), mode: 0o644 }).unwrap();
        }
        model
    }

    fn names(&mut self, directory: usize) -> Answer<&mut BTreeMap<String, usize>> {
        match &mut self.0[directory] {
            Node::Directory { names, .. } => Ok(names),
            Node::File { .. } => Err(Said::NotDirectory),
        }
    }

    /// The parent directory and name of a path.
    fn parent<'a>(&mut self, path: &'a str) -> Answer<(usize, &'a str)> {
        let (directory, name) = match path.split_once('/') {
            Some((directory, name)) => (*self.names(0)?.get(directory).ok_or(Said::Missing)?, name),
            None => (0, path),
        };
        Ok((directory, name))
    }

    /// The same, and the node with this name.
    fn at<'a>(&mut self, path: &'a str) -> Answer<(usize, &'a str, Option<usize>)> {
        let (directory, name) = self.parent(path)?;
        let found = self.names(directory)?.get(name).copied();
        Ok((directory, name, found))
    }

    fn file(&mut self, node: usize) -> Answer<(&mut Vec<u8>, &mut u32)> {
        match &mut self.0[node] {
            Node::File { content, mode } => Ok((content, mode)),
            Node::Directory { .. } => Err(Said::IsDirectory),
        }
    }

    fn is_directory(&self, node: usize) -> bool {
        matches!(self.0[node], Node::Directory { .. })
    }

    fn numlinks(&self, node: usize) -> u32 {
        let named = |of: &Node| match of {
            Node::Directory { names, .. } => names.values().filter(|named| **named == node).count(),
            Node::File { .. } => 0,
        };
        // An unreachable node has no names, since only empty directories are removed.
        self.0.iter().map(named).sum::<usize>() as u32
    }

    fn add(&mut self, directory: usize, name: &str, node: Node) -> Answer {
        self.0.push(node);
        let number = self.0.len() - 1;
        self.names(directory)?.insert(name.to_owned(), number);
        Ok(Said::Done)
    }

    fn put(&mut self, path: &str, content: Vec<u8>, condition: If) -> Answer {
        let (directory, name, found) = self.at(path)?;
        match (condition, found) {
            (If::New, Some(_)) => return Err(Said::Condition),
            (If::File, None) => return Err(Said::Missing),
            (If::Size(size), found) => {
                let is = found.map(|found| self.file(found).map(|(content, _)| content.len() as u64)).transpose()?;
                if is != size {
                    return Err(Said::Condition);
                }
            }
            (_, Some(found)) if self.is_directory(found) => return Err(Said::IsDirectory),
            _ => {}
        }
        // A file that replaces another inherits its permissions.
        let mode = match found.map(|found| &self.0[found]) {
            Some(Node::File { mode, .. }) => *mode,
            _ => 0o644,
        };
        self.add(directory, name, Node::File { content, mode })
    }

    fn remove(&mut self, path: &str) -> Answer {
        let (directory, name, found) = self.at(path)?;
        if let Node::Directory { names, .. } = &self.0[found.ok_or(Said::Missing)?]
            && !names.is_empty()
        {
            return Err(Said::NotEmpty);
        }
        self.names(directory)?.remove(name);
        Ok(Said::Done)
    }

    fn apply(&mut self, change: &Change) -> Answer {
        match *change {
            Change::Put(path, byte, length, condition) => self.put(PATHS[path], vec![byte; length], condition),
            Change::Upload(path, byte, length) => self.put(PATHS[path], vec![byte; 2 * length], If::None),
            Change::Write(path, offset, byte, length) => {
                let (.., found) = self.at(PATHS[path])?;
                let (content, _) = self.file(found.ok_or(Said::Missing)?)?;
                let (from, to) = (offset as usize, offset as usize + length);
                if length > 0 {
                    content.resize(content.len().max(to), 0);
                    content[from..to].fill(byte);
                }
                Ok(Said::Done)
            }
            Change::Append(path, byte, length, condition) => {
                let (.., found) = self.at(PATHS[path])?;
                let Some(found) = found else { return Ok(Said::Nothing) };
                let (content, _) = self.file(found)?;
                match condition {
                    If::New => return Err(Said::Condition),
                    If::Size(size) if size != Some(content.len() as u64) => return Err(Said::Condition),
                    _ => content.extend(vec![byte; length]),
                }
                Ok(Said::Done)
            }
            Change::Remove(path) => self.remove(PATHS[path]),
            Change::RemoveFile(path) => {
                let (.., found) = self.at(PATHS[path])?;
                self.file(found.ok_or(Said::Missing)?)?;
                self.remove(PATHS[path])
            }
            Change::RemoveIf(path, size) => {
                let (.., found) = self.at(PATHS[path])?;
                let is = found.map(|found| self.file(found).map(|(content, _)| content.len() as u64)).transpose()?;
                if is == size { self.remove(PATHS[path]) } else { Err(Said::Condition) }
            }
            Change::Rename(from, to) => self.rename(PATHS[from], PATHS[to]),
            Change::Link(file, name) => {
                let (.., file) = self.at(PATHS[file])?;
                let file = file.ok_or(Said::Missing)?;
                let (directory, name, found) = self.at(PATHS[name])?;
                if found.is_some() {
                    return Err(Said::Exists);
                }
                self.file(file)?;
                self.names(directory)?.insert(name.to_owned(), file);
                Ok(Said::Done)
            }
            Change::MakeDirectory(path, mode) => {
                let (directory, name, found) = self.at(PATHS[path])?;
                match found {
                    Some(_) => Err(Said::Exists),
                    None => self.add(directory, name, Node::Directory { names: BTreeMap::new(), mode }),
                }
            }
            Change::Resize(path, size) => {
                let (.., found) = self.at(PATHS[path])?;
                self.file(found.ok_or(Said::Missing)?)?.0.resize(size as usize, 0);
                Ok(Said::Done)
            }
            Change::Mode(path, mode) => {
                let (.., found) = self.at(PATHS[path])?;
                match &mut self.0[found.ok_or(Said::Missing)?] {
                    Node::File { mode: its, .. } | Node::Directory { mode: its, .. } => *its = mode,
                }
                Ok(Said::Done)
            }
            Change::List(path) => {
                let directory = match PATHS.get(path) {
                    Some(path) => self.at(path)?.2.ok_or(Said::Missing)?,
                    None => 0,
                };
                let names = self.names(directory)?.clone();
                let kind = |node| if self.is_directory(node) { FileType::Directory } else { FileType::File };
                Ok(Said::Names(names.into_iter().map(|(name, node)| (name, kind(node))).collect()))
            }
            Change::Read(path, offset, length) => self.read(path, offset, length.into()),
            Change::ReadAll(path, offset, length) => self.read(path, offset, length),
            Change::Attributes(path) => {
                let (.., found) = self.at(PATHS[path])?;
                let found = found.ok_or(Said::Missing)?;
                let links = self.numlinks(found);
                Ok(match &self.0[found] {
                    Node::File { content, mode } => {
                        let (size, links) = (Some(content.len() as u64), Some(links));
                        Said::Is { kind: FileType::File, size, mode: *mode, links }
                    }
                    // Size and number of links of a directory depend on the file system.
                    Node::Directory { mode, .. } => {
                        Said::Is { kind: FileType::Directory, size: None, mode: *mode, links: None }
                    }
                })
            }
        }
    }

    fn read(&mut self, path: usize, offset: u64, length: u64) -> Answer {
        let (.., found) = self.at(PATHS[path])?;
        let (content, _) = self.file(found.ok_or(Said::Missing)?)?;
        let from = content.len().min(offset as usize);
        let to = content.len().min(from.saturating_add(length as usize));
        Ok(Said::Content(Bytes::copy_from_slice(&content[from..to])))
    }

    fn rename(&mut self, from: &str, to: &str) -> Answer {
        let (old, from, moved) = self.at(from)?;
        let (new, to, over) = self.at(to)?;
        let moved = moved.ok_or(Said::Missing)?;
        // Both names of one file stay.
        if over == Some(moved) {
            return Ok(Said::Done);
        }
        if new == moved {
            return Err(Said::Invalid);
        }
        if let Some(over) = over {
            match (self.is_directory(moved), &self.0[over]) {
                (true, Node::File { .. }) => return Err(Said::NotDirectory),
                (false, Node::Directory { .. }) => return Err(Said::IsDirectory),
                (_, Node::Directory { names, .. }) if !names.is_empty() => return Err(Said::NotEmpty),
                _ => {}
            }
        }
        self.names(old)?.remove(from);
        self.names(new)?.insert(to.to_owned(), moved);
        Ok(Said::Done)
    }

    /// Asserts that the directory has the content of the model.
    fn is_at(&mut self, path: &Path, node: usize) {
        let metadata = fs::symlink_metadata(path).unwrap();
        match self.0[node].clone() {
            Node::File { content, mode } => {
                assert!(fs::read(path).unwrap() == content, "{}", path.display());
                assert_eq!(metadata.mode() & 0o7777, mode, "{}", path.display());
                assert_eq!(metadata.nlink(), u64::from(self.numlinks(node)), "{}", path.display());
            }
            Node::Directory { names, mode } => {
                assert_eq!(metadata.mode() & 0o7777, mode, "{}", path.display());
                assert!(common::names(path).iter().eq(names.keys()), "{:?}, not {names:?}", common::names(path));
                names.into_iter().for_each(|(name, node)| self.is_at(&path.join(name), node));
            }
        }
    }
}

fn other(number: usize) -> String {
    format!("{number:0250}")
}

/// Performs the operation with the client in this directory.
async fn ask(client: &Client, directory: &str, change: &Change) -> Answer {
    let at = |path: usize| format!("{directory}/{}", PATHS.get(path).copied().unwrap_or_default()).into_bytes();
    let bytes = |byte: u8, length: usize| Bytes::from(vec![byte; length]);
    let sized = |size: Option<u64>| {
        let conditions = Precondition::If(Arc::new(move |found| found.and_then(|found| found.size) == size));
        PutOptions { precondition: conditions, ..PutOptions::default() }
    };
    let put = |condition| match condition {
        If::None => PutOptions::default(),
        If::File => PutOptions { precondition: Precondition::RegularFile, ..PutOptions::default() },
        If::New => PutOptions { precondition: Precondition::Absent, ..PutOptions::default() },
        If::Size(size) => sized(size),
    };
    match *change {
        Change::Put(path, byte, length, condition) => {
            let made = client.put(&at(path), bytes(byte, length), put(condition)).await?;
            assert_eq!(made.size, Some(length as u64));
        }
        Change::Upload(path, byte, length) => {
            let mut staged = client.begin_upload(&at(path), PutOptions::default()).await?;
            staged.write(bytes(byte, length)).await?;
            staged.write(bytes(byte, length)).await?;
            staged.commit().await?;
        }
        Change::Write(path, offset, byte, length) => {
            client.write_at(&at(path), offset, bytes(byte, length)).await?;
        }
        Change::Append(path, byte, length, condition) => {
            if client.append(&at(path), bytes(byte, length), put(condition)).await?.is_none() {
                return Ok(Said::Nothing);
            }
        }
        Change::Remove(path) => client.remove(&at(path)).await?,
        Change::RemoveFile(path) => client.remove_file(&at(path)).await?,
        Change::RemoveIf(path, size) => client.remove_if(&at(path), sized(size)).await?,
        Change::Rename(from, to) => client.rename(&at(from), &at(to)).await?,
        Change::Link(file, name) => client.link(&at(file), &at(name)).await?,
        Change::MakeDirectory(path, mode) => client.create_dir(&at(path), mode).await?,
        Change::Resize(path, size) => {
            client.set_attributes(&at(path), SetAttributes { size: Some(size), ..SetAttributes::default() }).await?;
        }
        Change::Mode(path, mode) => client.set_attributes(&at(path), SetAttributes::mode(mode)).await?,
        Change::List(path) => {
            let (mut place, mut names, mut all) = (DirCursor::default(), BTreeMap::new(), 0);
            loop {
                let page = client.list(&at(path), place, AttributeMask::TYPE, 4096).await?;
                all += page.entries.len();
                for entry in page.entries {
                    names.insert(String::from_utf8(entry.name.to_vec()).unwrap(), entry.attributes.file_type.unwrap());
                }
                if page.eof {
                    break;
                }
                place = page.cursor;
            }
            assert_eq!(all, names.len(), "each once");
            return Ok(Said::Names(names));
        }
        Change::Read(path, offset, length) => {
            let found = client.read(&at(path), offset, length).await?;
            let size = found.attributes.size.unwrap();
            assert!(!found.eof || length == 0 || offset + found.data.len() as u64 >= size, "{found:?}");
            // One READ may return fewer bytes.
            let rest = length - found.data.len() as u32;
            if found.eof || rest == 0 {
                return Ok(Said::Content(found.data));
            }
            let (data, _) = client.read_by_handle(&found.handle, offset + found.data.len() as u64, rest).await?;
            let mut content = [found.data, data].concat();
            while content.len() < length as usize {
                let from = offset + content.len() as u64;
                let (data, end) = client.read_by_handle(&found.handle, from, length - content.len() as u32).await?;
                content.extend_from_slice(&data);
                if end {
                    break;
                }
            }
            return Ok(Said::Content(content.into()));
        }
        Change::ReadAll(path, offset, length) => {
            return Ok(Said::Content(read_file(client, &at(path), offset, length).await?));
        }
        Change::Attributes(path) => {
            let found = client.attributes(&at(path), AttributeMask::STAT).await?;
            let (kind, mode) = (found.file_type.unwrap(), found.mode.unwrap());
            let of_a_file = kind == FileType::File;
            let (size, links) = (found.size.filter(|_| of_a_file), found.numlinks.filter(|_| of_a_file));
            return Ok(Said::Is { kind, size, mode, links });
        }
    }
    Ok(Said::Done)
}

/// Cases in which several errors are correct.
fn is_as_good(change: &Change, said: &Said, expected: &Said) -> bool {
    let any_of = |all: &[Said]| all.contains(said) && all.contains(expected);
    match change {
        // Both paths are invalid.
        Change::Rename(..) | Change::Link(..) if any_of(&[Said::Missing, Said::NotDirectory]) => true,
        // Over an object of another type, a directory that is not empty, or itself.
        Change::Rename(..) => {
            any_of(&[Said::IsDirectory, Said::NotDirectory, Said::Exists, Said::NotEmpty, Said::Invalid])
        }
        // A directory is where a file should be.
        Change::Put(..) | Change::Upload(..) | Change::Write(..) => any_of(&[Said::IsDirectory, Said::Exists]),
        // A directory has one name.
        Change::Link(..) => any_of(&[Said::IsDirectory, Said::Exists, Said::Invalid]),
        Change::Resize(..) => any_of(&[Said::IsDirectory, Said::Invalid]),
        _ => false,
    }
}

fn compare(cases: u32, change: impl Fn(&mut Options)) {
    // The test changes the exported directory.
    let Some(server) = lab_or_skip(nfs_lab::Options { cached: false, ..nfs_lab::Options::default() }) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut options = Options::new(server.address());
    change(&mut options);
    let client = runtime.block_on(async { Client::new(options).unwrap() });
    let count = AtomicUsize::new(0);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(changes in vec(Change::any(), 1..80))| {
        let directory = format!("case {}", count.fetch_add(1, Ordering::Relaxed));
        let mut model = Model::new();
        begin(&server, &directory);
        runtime.block_on(async {
            for change in &changes {
                let expected = model.apply(change).unwrap_or_else(|err| err);
                let said = ask(&client, &directory, change).await.unwrap_or_else(|err| err);
                prop_assert!(
                    said == expected || is_as_good(change, &said, &expected),
                    "{:?}: {:?}, not {:?}", change, said, expected
                );
            }
            Ok(())
        })?;
        model.is_at(&server.directory().join(&directory), 0);
    });
}

fn begin(server: &Ganesha, directory: &str) {
    use std::os::unix::fs::PermissionsExt;
    let directory = server.directory().join(directory);
    for name in ["", DIRECTORIES[0], DIRECTORIES[1]] {
        fs::create_dir(directory.join(name)).unwrap();
        fs::set_permissions(directory.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for number in 0..OTHERS {
        let file = directory.join(other(number));
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }
}

#[test]
fn over_one_connection_the_server_has_what_the_model_has() {
    compare(250, |_| {});
}

#[test]
fn over_several_connections_too() {
    compare(150, |options| options.connections = 3);
}

#[test]
fn in_small_pieces_too() {
    compare(150, |options| options.max_io_bytes = 4096);
}
