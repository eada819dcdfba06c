//! Files against a model of them.

use super::common::Answer;
use super::common::Client;
use super::common::MEBIBYTE;
use super::common::Request;
use super::common::SMALL;
use super::common::World;
use super::common::content;
use super::common::eventually;
use super::common::temporaries;
use super::common::tree;
use percent_encoding::NON_ALPHANUMERIC;
use percent_encoding::percent_encode;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::Config;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// What one file of the model's service may hold.
const MOST: usize = MEBIBYTE + (64 << 10);
/// Names that share directories, and names that are another's directory.
const PATHS: [&str; 10] = ["a", "b", "a/x", "d", "d/a", "d/b", "d/e", "d/e/f", "d/e/f/g", "ü %2F?#\\/…"];
const DIRECTORIES: [&str; 6] = ["", "a", "d", "d/e", "d/e/f", "nowhere/at all"];

#[derive(Clone, Copy, Debug)]
enum Which {
    Any,
    Current,
    CurrentButWeak,
    Earlier,
    AnothersOwn,
    Nobodys,
}

#[derive(Clone, Debug, Default)]
struct Asked {
    if_match: Option<Vec<Which>>,
    if_none_match: Option<Vec<Which>>,
}

/// The first byte and the one after the last; none is the whole.
type ByteRange = Option<(usize, usize)>;

#[derive(Clone, Copy, Debug)]
enum Span {
    None,
    /// Places relative to the size.
    From(i8, Option<i8>),
    Last(i8),
    /// More than one, or none at all: the whole is the answer.
    Odd(&'static str),
}

#[derive(Clone, Debug)]
enum Operation {
    Put { path: usize, size: usize, seed: u8, chunked: Option<usize>, asked: Asked },
    Append { path: usize, size: usize, seed: u8, chunked: Option<usize>, asked: Asked },
    Get { path: usize, asked: Asked, span: Span, span_if: Option<Which>, head: bool },
    Delete { path: usize, asked: Asked },
    List { directory: usize, limit: Option<usize> },
}

fn asked() -> impl Strategy<Value = Asked> {
    use Which::{AnothersOwn, Any, Current, CurrentButWeak, Earlier, Nobodys};
    let tags = || {
        prop_oneof![
            3 => Just(vec![Any]),
            6 => Just(vec![Current]),
            5 => prop::collection::vec(select(vec![Current, CurrentButWeak, Earlier, AnothersOwn, Nobodys]), 1..4),
        ]
    };
    let one = move |often| prop_oneof![10 - often => Just(None), often => tags().prop_map(Some)];
    (one(3), one(2)).prop_map(|(if_match, if_none_match)| Asked { if_match, if_none_match })
}

fn operation() -> impl Strategy<Value = Operation> {
    let path = || 0..PATHS.len();
    let size = |limits: Vec<usize>| {
        prop_oneof![
            12 => select(vec![0, 1, 7, 100, 4096]),
            4 => select(vec![SMALL - 1, SMALL, SMALL + 1]),
            2 => select(limits),
        ]
    };
    let chunked = || prop_oneof![3 => Just(None), 1 => select(vec![1, 100, 8192, 70_000]).prop_map(Some)];
    let place = || -2..=2_i8;
    let span = prop_oneof![
        4 => Just(Span::None),
        4 => (place(), prop::option::of(place())).prop_map(|(first, last)| Span::From(first, last)),
        2 => place().prop_map(Span::Last),
        1 => select(vec!["bytes=5-4", "bytes=0-0,2-2", "lines=0-1", "bytes=-", "bytes=0x0-1"]).prop_map(Span::Odd),
    ];
    let which = select(vec![Which::Current, Which::CurrentButWeak, Which::Earlier, Which::Nobodys]);
    prop_oneof![
        8 => (path(), size(vec![MOST - 1, MOST, MOST + 1]), any::<u8>(), chunked(), asked())
            .prop_map(|(path, size, seed, chunked, asked)| Operation::Put { path, size, seed, chunked, asked }),
        5 => (path(), size(vec![MEBIBYTE - 1, MEBIBYTE, MEBIBYTE + 1]), any::<u8>(), chunked(), asked())
            .prop_map(|(path, size, seed, chunked, asked)| Operation::Append { path, size, seed, chunked, asked }),
        7 => (path(), asked(), span, prop::option::of(which), any::<bool>())
            .prop_map(|(path, asked, span, span_if, head)| Operation::Get { path, asked, span, span_if, head }),
        3 => (path(), asked()).prop_map(|(path, asked)| Operation::Delete { path, asked }),
        3 => (0..DIRECTORIES.len(), prop::option::of(1..4_usize))
            .prop_map(|(directory, limit)| Operation::List { directory, limit }),
    ]
}

#[derive(Debug)]
struct File {
    content: Vec<u8>,
    tag: String,
}

/// What there is at a path.
enum Found<'a> {
    File(&'a File),
    Directory,
    /// A component before the last is a file.
    BelowAFile,
    Nothing,
}

/// The files of one case, below a directory of its own, and what is to be answered.
struct Model {
    home: String,
    root: PathBuf,
    files: BTreeMap<String, File>,
    directories: BTreeSet<String>,
    /// Every tag that a path ever had.
    tags: BTreeMap<String, Vec<String>>,
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(slash, _)| &path[..slash])
}

pub(crate) fn address(prefix: &str, path: &str) -> String {
    let path: Vec<_> =
        path.split('/').map(|name| percent_encode(name.as_bytes(), NON_ALPHANUMERIC).to_string()).collect();
    format!("{prefix}{}", path.join("/"))
}

impl Model {
    fn new(root: PathBuf, home: String) -> Self {
        let (files, directories, tags) = Default::default();
        Self { home, root, files, directories, tags }
    }

    fn path(&self, index: usize) -> String {
        format!("{}/{}", self.home, PATHS[index])
    }

    fn at(&self, path: &str) -> Found<'_> {
        if parents(path).any(|parent| self.files.contains_key(parent)) {
            return Found::BelowAFile;
        }
        match self.files.get(path) {
            Some(file) => Found::File(file),
            None if self.directories.contains(path) => Found::Directory,
            None => Found::Nothing,
        }
    }

    /// The texts of tags, and which of them are strong.
    fn tags(&self, path: &str, which: &[Which]) -> (String, Vec<(String, bool)>) {
        let nobodys = || "\"0-0-0\"".to_owned();
        let current = || self.files.get(path).map_or_else(nobodys, |file| file.tag.clone());
        let tag = |which: &Which| match which {
            Which::Any => ("*".to_owned(), true),
            Which::Current => (current(), true),
            Which::CurrentButWeak => (current(), false),
            Which::Earlier => (self.tags.get(path).map_or_else(nobodys, |tags| tags[0].clone()), true),
            Which::AnothersOwn => {
                let other = self.files.iter().find(|(known, _)| *known != path);
                (other.map_or_else(nobodys, |(_, file)| file.tag.clone()), true)
            }
            Which::Nobodys => (nobodys(), true),
        };
        let tags: Vec<_> = which.iter().map(tag).collect();
        let texts: Vec<_> =
            tags.iter().map(|(tag, strong)| format!("{}{tag}", if *strong { "" } else { "W/" })).collect();
        (texts.join(", "), tags)
    }

    /// The request with these conditions; whether the file meets If-Match, and whether it meets If-None-Match.
    fn ask(&self, mut request: Request, path: &str, asked: &Asked) -> (Request, bool, bool) {
        let file = self.files.get(path);
        let mut met = [true, true];
        for (index, name, which) in [(0, "if-match", &asked.if_match), (1, "if-none-match", &asked.if_none_match)] {
            let Some(which) = which else { continue };
            let (text, tags) = self.tags(path, which);
            request = request.header(name, &text);
            let is = |(tag, strong): &(String, bool)| {
                file.is_some_and(|file| (tag == "*" || *tag == file.tag) && (*strong || name == "if-none-match"))
            };
            met[index] = tags.iter().any(is) == (name == "if-match");
        }
        (request, met[0], met[1])
    }

    /// A content is put, or added; what is to be answered, and the new content.
    fn change(
        &self,
        path: &str,
        body: &[u8],
        chunked: bool,
        append: bool,
        allowed: bool,
    ) -> Result<(u16, Vec<u8>), u16> {
        let large = body.len() > if append { MEBIBYTE } else { MOST };
        // Known beforehand; or, of what is added, before the file is looked at.
        if large && (append || !chunked) {
            return Err(413);
        }
        let old = match self.at(path) {
            Found::BelowAFile => return Err(409),
            _ if large => return Err(413),
            Found::Directory => return Err(409),
            Found::File(file) => Some(file),
            Found::Nothing => None,
        };
        if !allowed {
            return Err(412);
        }
        let mut content = old.filter(|_| append).map(|file| file.content.clone()).unwrap_or_default();
        content.extend_from_slice(body);
        Ok((if old.is_some() { 204 } else { 201 }, content))
    }

    fn read(&self, size: usize, span: Span) -> (Option<String>, Result<ByteRange, ()>) {
        let at = |place: i8| match place {
            -2 => 0,
            -1 => size.saturating_sub(1),
            0 => size / 2,
            1 => size,
            _ => size + 1000,
        };
        match span {
            Span::None => (None, Ok(None)),
            Span::Odd(text) => (Some(text.to_owned()), Ok(None)),
            Span::From(first, last) => {
                let (first, last) = (at(first), last.map(at));
                let text = format!("bytes={first}-{}", last.map(|last| last.to_string()).unwrap_or_default());
                let part = match last {
                    Some(last) if last < first => Ok(None),
                    _ if first >= size => Err(()),
                    last => Ok(Some((first, last.map_or(size, |last| size.min(last + 1))))),
                };
                (Some(text), part)
            }
            Span::Last(length) => {
                let length = at(length);
                let part = match length {
                    0 => Err(()),
                    // All of nothing is no part.
                    _ if size == 0 => Ok(None),
                    _ => Ok(Some((size.saturating_sub(length), size))),
                };
                (Some(format!("bytes=-{length}")), part)
            }
        }
    }

    fn written(&mut self, path: &str, content: Vec<u8>, answer: &Answer) -> Result<(), TestCaseError> {
        let tag = answer.tag().to_owned();
        let before = self.tags.entry(path.to_owned()).or_default();
        prop_assert!(!before.contains(&tag), "a tag twice: {tag}");
        before.push(tag.clone());
        self.files.insert(path.to_owned(), File { content, tag });
        self.directories.extend(parents(path).map(str::to_owned));
        Ok(())
    }

    fn run(&mut self, client: &mut Client, operation: &Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Put { path, size, seed, chunked, asked }
            | Operation::Append { path, size, seed, chunked, asked } => {
                let (path, body) = (self.path(*path), content(*seed, *size));
                let append = matches!(operation, Operation::Append { .. });
                let target = address("/files/", &path);
                let request = if append { Request::append(&target, &*body) } else { Request::put(&target, &*body) };
                let (mut request, meets_if_match, meets_if_none_match) = self.ask(request, &path, asked);
                // A large body one byte at a time is only slow.
                request.chunk = chunked.map(|chunk| chunk.max(size / 50));
                let answer = client.send(&request);
                let expected =
                    self.change(&path, &body, chunked.is_some(), append, meets_if_match && meets_if_none_match);
                let status = expected.as_ref().map_or_else(|status| *status, |(status, _)| *status);
                prop_assert_eq!(answer.status, status, "{:?}", answer);
                match expected {
                    Ok((_, content)) => {
                        prop_assert!(answer.body.is_empty() && answer.header("x-mount-target").is_some());
                        self.written(&path, content, &answer)?;
                    }
                    // What was made for a content that was given up goes, if not at once.
                    Err(_) => {
                        let known = |parent: &&str| !self.directories.contains(*parent);
                        let made = || parents(&path).filter(known).any(|parent| self.root.join(parent).is_dir());
                        eventually("no directory stays for nothing", || (!made()).then_some(()));
                    }
                }
            }
            Operation::Get { path, asked, span, span_if, head } => {
                let path = self.path(*path);
                let request = Request::new(if *head { "HEAD" } else { "GET" }, &address("/files/", &path));
                let (mut request, meets_if_match, meets_if_none_match) = self.ask(request, &path, asked);
                let size = self.files.get(&path).map_or(0, |file| file.content.len());
                let (range, mut part) = self.read(size, *span);
                if let Some(range) = &range {
                    request = request.header("range", range);
                }
                if let Some(which) = span_if {
                    let (text, tags) = self.tags(&path, &[*which]);
                    request = request.header("if-range", &text);
                    if self.files.get(&path).is_none_or(|file| tags != [(file.tag.clone(), true)]) {
                        part = Ok(None);
                    }
                }
                let answer = client.send(&request);
                let file = match self.at(&path) {
                    Found::File(file) => file,
                    Found::Nothing => {
                        prop_assert_eq!(answer.status, 404);
                        return Ok(());
                    }
                    Found::BelowAFile | Found::Directory => {
                        prop_assert_eq!(answer.status, 409);
                        return Ok(());
                    }
                };
                if *head {
                    part = Ok(None);
                }
                let status = match part {
                    _ if !meets_if_match => 412,
                    _ if !meets_if_none_match => 304,
                    Err(()) => 416,
                    Ok(Some(_)) => 206,
                    Ok(None) => 200,
                };
                prop_assert_eq!(answer.status, status, "{:?} {:?}", request, answer.headers);
                if status == 412 {
                    return Ok(());
                }
                prop_assert_eq!(answer.tag(), &file.tag);
                let (from, to) = part.unwrap_or_default().unwrap_or((0, size));
                let told = match status {
                    206 => Some(format!("bytes {from}-{}/{size}", to - 1)),
                    416 => Some(format!("bytes */{size}")),
                    _ => None,
                };
                prop_assert_eq!(answer.header("content-range"), told.as_deref());
                if matches!(status, 200 | 206) {
                    prop_assert_eq!(answer.header("content-length"), Some(&*(to - from).to_string()));
                    let body = if *head { &[][..] } else { &file.content[from..to] };
                    prop_assert!(answer.body == body, "another content of {} bytes", answer.body.len());
                }
            }
            Operation::Delete { path, asked } => {
                let path = self.path(*path);
                let request = Request::new("DELETE", &address("/files/", &path));
                let (request, meets_if_match, meets_if_none_match) = self.ask(request, &path, asked);
                let answer = client.send(&request);
                let status = match self.at(&path) {
                    Found::BelowAFile | Found::Directory => 409,
                    Found::File(_) if meets_if_match && meets_if_none_match => 204,
                    Found::File(_) => 412,
                    // Conditions do not count there (RFC 9110, section 13.2.1).
                    Found::Nothing => 404,
                };
                prop_assert_eq!(answer.status, status, "{:?}", answer);
                if answer.status == 204 {
                    self.files.remove(&path);
                }
            }
            Operation::List { directory, limit } => {
                let directory = format!("{}/{}", self.home, DIRECTORIES[*directory]);
                let directory = directory.trim_end_matches('/');
                let found = entries(client, &address("/list/", directory), *limit);
                match (self.at(directory), found) {
                    (Found::File(_) | Found::BelowAFile, found) => prop_assert_eq!(found.unwrap_err().status, 409),
                    (Found::Nothing, found) => prop_assert_eq!(found.unwrap_err().status, 404),
                    (Found::Directory, found) => {
                        let found = found.unwrap();
                        let names: BTreeSet<_> = found.iter().map(|(name, kind, _)| (&**name, &**kind)).collect();
                        prop_assert_eq!(names.len(), found.len(), "an entry twice: {:?}", found);
                        let below = |path: &'_ str| {
                            let name = path.strip_prefix(directory)?.strip_prefix('/')?;
                            (!name.contains('/')).then(|| name.to_owned())
                        };
                        let files = self.files.keys().filter_map(|path| Some((below(path)?, "file")));
                        let directories = self.directories.iter().filter_map(|path| Some((below(path)?, "directory")));
                        let known: Vec<_> = files.chain(directories).collect();
                        let known: BTreeSet<_> = known.iter().map(|(name, kind)| (&**name, *kind)).collect();
                        prop_assert_eq!(names, known);
                    }
                }
            }
        }
        Ok(())
    }
}

/// All entries of a directory by its pages: name, kind and where to ask for it.
pub(crate) fn entries(
    client: &mut Client,
    target: &str,
    limit: Option<usize>,
) -> Result<Vec<(String, String, Option<String>)>, Answer> {
    let mut found = Vec::new();
    let mut place = None;
    loop {
        let query: Vec<_> =
            [limit.map(|limit| format!("limit={limit}")), place.map(|place: String| format!("from={place}"))]
                .into_iter()
                .flatten()
                .collect();
        let answer = client.get(&format!("{target}?{}", query.join("&")));
        if answer.status != 200 {
            return Err(answer);
        }
        let page = answer.json();
        let shown = page["entries"].as_array().unwrap();
        assert!(limit.is_none_or(|limit| shown.len() <= limit), "a page of {} entries", shown.len());
        let text = |value: &Value| value.as_str().map(str::to_owned);
        found.extend(
            shown
                .iter()
                .map(|entry| (text(&entry["name"]).unwrap(), text(&entry["kind"]).unwrap(), text(&entry["href"]))),
        );
        place = text(&page["next"]);
        if place.is_none() {
            return Ok(found);
        }
    }
}

#[test]
fn files_are_what_a_model_of_them_says_whatever_is_done_in_whatever_order() {
    let world = World::new(3);
    let server = world.serve(&[("MAX_BODY_BYTES", &MOST.to_string())]);
    let config = Config { cases: 64, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
    let cases = Cell::new(0);
    let outcome = TestRunner::new(config).run(&prop::collection::vec(operation(), 1..60), |operations| {
        cases.set(cases.get() + 1);
        let mut model = Model::new(world.root(), format!("case {}", cases.get()));
        let mut client = server.client();
        for (index, operation) in operations.iter().enumerate() {
            model
                .run(&mut client, operation)
                .map_err(|err| TestCaseError::fail(format!("{err}, at operation {index}: {operation:?}")))?;
        }
        for (path, file) in &model.files {
            let answer = client.get(&address("/files/", path));
            prop_assert!(answer.status == 200 && answer.tag() == file.tag && answer.body == file.content, "{}", path);
        }
        // What was begun and given up is taken away a little later.
        let home = world.root().join(&model.home);
        eventually("no temporary file stays", || temporaries(&home).is_empty().then_some(()));
        let there = tree(&home).into_iter().filter(|(_, content)| content != b"directory");
        let there: Vec<_> = there
            .map(|(path, content)| (path.strip_prefix(world.root()).unwrap().to_str().unwrap().to_owned(), content))
            .collect();
        let known: Vec<_> = model.files.into_iter().map(|(path, file)| (path, file.content)).collect();
        prop_assert!(
            there.len() == known.len() && there.iter().all(|file| known.contains(file)),
            "other files on the disk"
        );
        let _ = fs::remove_dir_all(home);
        Ok(())
    });
    outcome.unwrap();
}

/// A directory where a client wants a file is in its way for ever: nothing here removes directories.
#[test]
fn a_refused_write_leaves_no_directories_behind() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let target = "/files/new/directory/file";
    for (request, status) in [
        (Request::new("DELETE", target), 404),
        (Request::new("DELETE", target).header("if-match", "*"), 404),
        (Request::put(target, "x").header("content-range", "bytes 0-0/2"), 400),
        (Request::append(target, "x").header("if-match", "*"), 412),
        (Request::put(target, "x").header("if-match", "*"), 412),
    ] {
        assert_eq!(server.send(&request).status, status);
        assert_eq!(tree(&world.root()), [], "after {status} to {request:?}");
    }
    assert_eq!(server.put("/files/new", "a file").status, 201);
}

#[test]
fn a_streamed_content_that_is_given_up_leaves_no_directories_behind() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000")]);
    let target = "/files/new/directory/file";
    for (request, status) in [
        (Request::put(target, "x").chunked(1).header("if-match", "*"), 412),
        (Request::put(target, [0; 1001]).chunked(1001), 413),
    ] {
        assert_eq!(server.send(&request).status, status);
        eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
        // What is given up is taken away a little later; and what stays, stays.
        for _ in 0..20 {
            if !tree(&world.root()).is_empty() {
                thread::sleep(Duration::from_millis(20));
            }
        }
        assert_eq!(tree(&world.root()), [], "after {status} to {request:?}");
    }
}

#[test]
fn what_can_be_written_can_be_read_up_to_the_longest_path() {
    let world = World::new(1);
    let server = world.serve(&[]);
    for length in [255, 256, 4000, 4094, 4095, 4096, 4097] {
        // Components of 99 bytes, and one that makes up for the rest.
        let mut path = format!("{}/", "d".repeat(99)).repeat((length - 2) / 100);
        path.push_str(&"f".repeat(length - path.len()));
        let target = format!("/files/{path}");
        let put = server.put(&target, "content");
        let got = server.get(&target);
        let status = (
            put.status,
            got.status,
            server.send(&Request::append(&target, "+")).status,
            server.send(&Request::new("DELETE", &target)).status,
        );
        assert!(status == (201, 200, 204, 204) || status == (400, 400, 400, 400), "{length} bytes: {status:?}");
    }
}
