//! The file service as its clients meet it: what HTTP promises of files, and what this service promises of many
//! who write at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{BufReader, Read, Write},
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, UNIX_EPOCH},
};

use common::{
    Answer, Client, MEBIBYTE, PATIENCE, Request, SMALL, Server, World, answer, connect, content, eventually, list,
    temporaries, tree,
};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};

// ---------------------------------------------------------------------------------------------------------------
// Against a model

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

fn address(prefix: &str, path: &str) -> String {
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
fn entries(
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

// ---------------------------------------------------------------------------------------------------------------
// Many at once

/// The body of one of many writers: of its number alone, and of a length that follows from it.
fn whole_body(number: u8) -> Vec<u8> {
    let length = match number % 4 {
        0 => usize::from(number) + 1,
        1 => 4096 + usize::from(number),
        2 => SMALL - usize::from(number),
        _ => SMALL * 2 + 1000 * usize::from(number),
    };
    vec![number; length]
}

/// Is it one whole body of [`whole_body`]?
fn is_whole(body: &[u8]) -> bool {
    body.first().is_some_and(|number| *number < 240 && body == whole_body(*number))
}

/// Writers and readers of one path, spread over these servers: nobody sees anything but one whole body.
fn nobody_sees_a_mixture(servers: &[&Server], path: &str, rounds: u8) {
    let writers = 16;
    let target = format!("/files/{path}");
    let target = target.as_str();
    assert_eq!(servers[0].put(target, whole_body(0)).status, 201);
    let done = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    let read = |reader: usize| {
        let mut client = servers[reader % servers.len()].client();
        while !done.load(Ordering::Relaxed) {
            let answer = client.get(target);
            assert_eq!(answer.status, 200);
            assert!(is_whole(&answer.body), "{} bytes from {:?}", answer.body.len(), answer.body.first());
            reads.fetch_add(1, Ordering::Relaxed);
        }
    };
    let write = |writer: u8| {
        let mut client = servers[usize::from(writer) % servers.len()].client();
        for round in 0..rounds {
            let request = Request::put(target, whole_body(round * writers + writer));
            let request = if writer.is_multiple_of(3) { request.chunked(30_000) } else { request };
            assert_eq!(client.send(&request).status, 204);
        }
    };
    let (read, write) = (&read, &write);
    thread::scope(|scope| {
        for reader in 0..4 {
            scope.spawn(move || read(reader));
        }
        let writing: Vec<_> = (0..writers).map(|writer| scope.spawn(move || write(writer))).collect();
        // All are waited for before one that has failed is told of: the readers would never end.
        let failed: Vec<_> = writing.into_iter().filter_map(|writer| writer.join().err()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(failed.is_empty(), "{} writers have failed", failed.len());
    });
    assert!(reads.into_inner() > 0, "nobody has read anything");
    let last = servers[0].get(target).body;
    let written_last = (rounds - 1) * writers;
    // The last of each writer is the only one that may stay: what it wrote before was over by then.
    assert!(is_whole(&last) && last[0] >= written_last, "{} stays", last[0]);
}

/// Adds one to a number in a file until it was added so often; every refusal is one that says that nothing happened.
fn count_up(server: &Server, target: &str, times: usize) {
    let mut client = server.client();
    let mut added = 0;
    while added < times {
        let read = client.get(target);
        assert_eq!(read.status, 200);
        let number: u64 = String::from_utf8(read.body.clone()).unwrap().parse().unwrap();
        let request = Request::put(target, (number + 1).to_string()).header("if-match", read.tag());
        match client.send(&request) {
            Answer { status: 204, .. } => added += 1,
            Answer { status: 412, .. } => {}
            refused => assert!(["503 Locked", "503 Fenced"].contains(&&*refused.api_error()), "{refused:?}"),
        }
    }
}

fn counts_are_exact(servers: &[&Server], target: &str) {
    let (clients, times) = (16, 8);
    assert_eq!(servers[0].put(target, "0").status, 201);
    thread::scope(|scope| {
        for client in 0..clients {
            let server = servers[client % servers.len()];
            scope.spawn(move || count_up(server, target, times));
        }
    });
    assert_eq!(servers[0].get(target).body, (clients * times).to_string().as_bytes());
}

/// Of so many clients who create the same file at once, again and again.
fn one_creates(servers: &[&Server], directory: &str, clients: u8, rounds: usize, body: fn(u8) -> Vec<u8>) {
    let begin = Barrier::new(clients.into());
    let target = |round: usize| format!("/files/{directory}/{round}");
    let create = |client: u8| {
        let mut connection = servers[usize::from(client) % servers.len()].client();
        let one = |round| {
            let request = Request::put(&target(round), body(client)).header("if-none-match", "*");
            // A connection that was refused is closed; all are to arrive at once.
            assert_eq!(connection.get("/healthz").status, 200);
            begin.wait();
            connection.send(&request).status
        };
        (0..rounds).map(one).collect::<Vec<_>>()
    };
    let create = &create;
    let statuses: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|client| scope.spawn(move || create(client))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    for round in 0..rounds {
        let said: Vec<_> = statuses.iter().map(|statuses| statuses[round]).collect();
        let created: Vec<_> = (0..clients).filter(|client| said[usize::from(*client)] == 201).collect();
        let refused = said.iter().filter(|status| **status == 412).count();
        assert_eq!((created.len(), refused), (1, usize::from(clients) - 1), "{said:?}");
        assert!(servers[0].get(&target(round)).body == body(created[0]), "the content of one that was refused");
    }
}

#[test]
fn a_put_is_atomic_whoever_else_writes_and_reads() {
    let world = World::new(2);
    let server = world.serve(&[]);
    nobody_sees_a_mixture(&[&server], "shared/file", 6);
    assert_eq!(temporaries(&world.root()), [] as [PathBuf; 0]);
}

#[test]
fn compare_and_swap_loses_no_increment() {
    let world = World::new(2);
    counts_are_exact(&[&world.serve(&[])], "/files/counters/one");
}

#[test]
fn of_many_who_create_one_does() {
    let world = World::new(2);
    one_creates(&[&world.serve(&[])], "race", 16, 12, whole_body);
}

/// Each record is as long as it says, so that a mixture of two is seen.
fn record(process: usize, writer: usize, number: usize) -> String {
    let most = if number.is_multiple_of(2) { 100 } else { 100_000 };
    let length = (process * 31 + writer * 1700 + number * 9700) % most;
    format!("{process} {writer} {number} {length} {}\n", "x".repeat(length))
}

#[test]
fn two_processes_append_whole_records_and_lose_none() {
    let world = World::new(2);
    let servers = [world.serve(&[]), world.serve(&[])];
    let (writers, records) = (4, 150);
    thread::scope(|scope| {
        for (process, server) in servers.iter().enumerate() {
            for writer in 0..writers {
                scope.spawn(move || {
                    let mut client = server.client();
                    for number in 0..records {
                        let request = Request::append("/files/log/records", record(process, writer, number));
                        let request = if number.is_multiple_of(3) { request.chunked(10_000) } else { request };
                        // What is not begun is begun again; nothing else may be.
                        loop {
                            let answer = client.send(&request);
                            if answer.status < 300 {
                                break;
                            }
                            assert!(
                                ["503 Locked", "503 Fenced", "503 Busy"].contains(&&*answer.api_error()),
                                "{answer:?}"
                            );
                        }
                    }
                });
            }
        }
    });
    let text = String::from_utf8(servers[0].get("/files/log/records").body).unwrap();
    let mut found: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
    let each =
        |process| (0..writers).flat_map(move |writer| (0..records).map(move |number| record(process, writer, number)));
    let mut expected: Vec<_> = (0..2).flat_map(each).collect();
    // What one writer has added is in its order.
    for line in expected.chunks(records) {
        let places: Vec<_> = line.iter().map(|record| found.iter().position(|found| found == record)).collect();
        assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}");
    }
    found.sort();
    expected.sort();
    assert!(found == expected, "{} records of {}", found.len(), expected.len());
}

#[test]
fn two_processes_put_whole_contents() {
    let world = World::new(2);
    nobody_sees_a_mixture(&[&world.serve(&[]), &world.serve(&[])], "shared", 3);
    assert_eq!(temporaries(&world.root()), [] as [PathBuf; 0]);
}

#[test]
fn two_processes_compare_and_swap_and_lose_no_increment() {
    let world = World::new(2);
    counts_are_exact(&[&world.serve(&[]), &world.serve(&[])], "/files/counter");
}

#[test]
fn of_many_who_create_by_way_of_two_processes_one_does() {
    let world = World::new(2);
    let servers = [world.serve(&[]), world.serve(&[])];
    one_creates(&[&servers[0], &servers[1]], "race/of/two", 16, 12, whole_body);
    // They meet between the look and the link only now and then.
    one_creates(&[&servers[0], &servers[1]], "short/race/of/two", 2, 300, |client| vec![client]);
}

/// As when a client of another kind, on another machine, has it.
#[test]
fn a_file_that_somebody_else_has_locked_is_not_changed_by_who_asks_for_locks() {
    if common::without_a_mount() {
        // The server does not ask the kernel for this kind of lock.
        return;
    }
    let world = World::new(1);
    let server = world.serve(&[("DEADLINE_SECONDS", "1")]);
    assert_eq!(server.put("/files/f", "old").status, 201);
    let tag = server.get("/files/f").tag().to_owned();
    let file = fs::File::open(world.root().join("f")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    for request in [
        Request::append("/files/f", "more"),
        Request::put("/files/f", "new").header("if-match", &tag),
        Request::put("/files/f", "new").chunked(1).header("if-match", &tag),
        Request::new("DELETE", "/files/f").header("if-match", &tag),
    ] {
        let answer = server.send(&request);
        assert_eq!((answer.api_error(), answer.header("retry-after")), ("503 Locked".to_owned(), Some("1")));
        assert_eq!(server.get("/files/f").tag(), tag);
    }
    // Who has the lock gives it back.
    drop(file);
    assert_eq!(server.send(&Request::append("/files/f", " and more")).status, 204);
    assert_eq!(server.get("/files/f").body, b"old and more");
}

// ---------------------------------------------------------------------------------------------------------------
// HTTP

#[test]
fn conditions_are_judged_as_rfc_9110_has_them() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    assert_eq!(client.put("/files/f", "0123456789").status, 201);
    let answer = client.get("/files/f");
    let tag = answer.tag().to_owned();
    let weak = format!("W/{tag}");
    let listed = format!("\"a,b\", {tag} ,\"c\"");
    let modified = answer.header("last-modified").unwrap().to_owned();
    assert!(httpdate_is_recent(&modified), "{modified}");
    for (method, name, value, status) in [
        ("GET", "if-none-match", &*tag, 304),
        ("GET", "if-none-match", &weak, 304),
        ("GET", "if-none-match", &listed, 304),
        ("GET", "if-none-match", "*", 304),
        ("GET", "if-none-match", "\"other\"", 200),
        ("HEAD", "if-none-match", &tag, 304),
        ("GET", "if-match", &tag, 200),
        ("GET", "if-match", &listed, 200),
        ("GET", "if-match", "*", 200),
        ("GET", "if-match", &weak, 412),
        ("GET", "if-match", "\"other\"", 412),
        ("HEAD", "if-match", "\"other\"", 412),
        ("PUT", "if-match", &weak, 412),
        ("PUT", "if-none-match", "*", 412),
        ("PUT", "if-none-match", &weak, 412),
        ("POST", "if-match", "\"other\"", 412),
        ("POST", "if-none-match", "*", 412),
        ("DELETE", "if-match", "\"other\"", 412),
        ("DELETE", "if-none-match", &tag, 412),
        // What is neither is the client's mistake, and never taken for nothing.
        ("GET", "if-none-match", "tag", 400),
        ("GET", "if-match", "\"a", 400),
        ("PUT", "if-match", "'a'", 400),
        ("PUT", "if-match", "\"a\" \"b\"", 400),
        ("PUT", "if-none-match", "\"a\";", 400),
        ("POST", "if-match", "a", 400),
        ("DELETE", "if-match", "w/\"a\"", 400),
        ("DELETE", "if-none-match", "**", 400),
    ] {
        let target = if method == "POST" { "/files/f?append" } else { "/files/f" };
        let mut request = Request::new(method, target).header(name, value);
        if ["PUT", "POST"].contains(&method) {
            request = request.body("other");
        }
        let answer = client.send(&request);
        assert_eq!(answer.status, status, "{method} {name}: {value}");
        if status == 304 {
            assert_eq!((answer.tag(), answer.header("last-modified")), (&*tag, Some(&*modified)));
        }
        let now = client.get("/files/f");
        assert_eq!((now.tag(), &*now.body), (&*tag, &b"0123456789"[..]), "after {method} {name}: {value}");
    }
    // Several lines of one header are one list.
    let twice = Request::get("/files/f").header("if-none-match", "\"a\"").header("if-none-match", &tag);
    assert_eq!(client.send(&twice).status, 304);
    // If-Match goes before If-None-Match, and both before Range.
    let both = Request::get("/files/f").header("if-match", "\"a\"").header("if-none-match", &tag);
    assert_eq!(client.send(&both).status, 412);
    let both = Request::get("/files/f").header("if-none-match", &tag).header("range", "bytes=0-1");
    assert_eq!(client.send(&both).status, 304);
    // Of what is not there.
    for (method, name, value, status) in [
        ("GET", "if-none-match", "*", 404),
        ("GET", "if-match", "*", 404),
        ("PUT", "if-match", "*", 412),
        ("PUT", "if-match", &tag, 412),
        ("POST", "if-match", "*", 412),
        ("DELETE", "if-match", "*", 404),
        ("DELETE", "if-match", &tag, 404),
    ] {
        let target = if method == "POST" { "/files/nothing?append" } else { "/files/nothing" };
        let answer = client.send(&Request::new(method, target).header(name, value).body(""));
        assert_eq!(answer.status, status, "{method} {name}: {value}");
    }
    assert_eq!(client.send(&Request::new("DELETE", "/files/f").header("if-match", &tag)).status, 204);
    assert_eq!(client.get("/files/f").status, 404);
}

#[test]
fn dates_are_conditions_where_there_are_no_tags() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    // A time between two seconds: what a client is told is the one before.
    let set = || {
        let file = fs::File::options().write(true).open(world.root().join("f")).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_millis(1_000_000_000_500)).unwrap();
    };
    let (before, same, after) =
        ("Sun, 09 Sep 2001 01:46:39 GMT", "Sun, 09 Sep 2001 01:46:40 GMT", "Sun, 09 Sep 2001 01:46:41 GMT");
    client.put("/files/f", "content");
    set();
    let read = client.get("/files/f");
    assert_eq!(read.header("last-modified"), Some(same));
    let tag = read.tag().to_owned();
    for method in ["GET", "HEAD"] {
        for (conditions, status) in [
            (&[("if-modified-since", before)][..], 200),
            (&[("if-modified-since", same)], 304),
            (&[("if-modified-since", after)], 304),
            (&[("if-modified-since", "yesterday")], 200),
            // A tag says more than a date.
            (&[("if-modified-since", after), ("if-none-match", "\"other\"")], 200),
            (&[("if-modified-since", before), ("if-none-match", &tag)], 304),
            (&[("if-unmodified-since", before)], 412),
            (&[("if-unmodified-since", same)], 200),
            (&[("if-unmodified-since", after)], 200),
            (&[("if-unmodified-since", "yesterday")], 200),
            (&[("if-unmodified-since", before), ("if-match", &tag)], 200),
            (&[("if-unmodified-since", after), ("if-match", "\"other\"")], 412),
            (&[("if-unmodified-since", before), ("if-modified-since", after)], 412),
        ] {
            let request = Request::new(method, "/files/f");
            let request = conditions.iter().fold(request, |request, (name, value)| request.header(name, value));
            assert_eq!(client.send(&request).status, status, "{method} {conditions:?}");
        }
    }
    let writes = || {
        let large = content(1, SMALL + 1);
        [
            Request::put("/files/f", "x"),
            Request::put("/files/f", large),
            Request::append("/files/f", "x"),
            Request::new("DELETE", "/files/f"),
        ]
    };
    for request in writes() {
        assert_eq!(client.send(&request.header("if-unmodified-since", before)).status, 412);
        assert_eq!(client.get("/files/f").tag(), tag);
    }
    for request in writes() {
        set();
        // The other one is for readers, and says nothing here.
        let request = request.header("if-unmodified-since", same).header("if-modified-since", after);
        assert_eq!(client.send(&request).status, 204);
    }
    // Of what is not there, there is no date.
    assert_eq!(client.send(&Request::put("/files/f", "x").header("if-unmodified-since", before)).status, 201);
}

/// RFC 9110, section 8.6: none with 204; with 304 none but that of 200. Who keeps a copy takes it for the copy's.
#[test]
fn an_answer_without_content_says_no_length_that_is_wrong() {
    let world = World::new(1);
    let server = world.serve(&[]);
    for (request, status, allowed) in [
        (Request::put("/files/f", "0123456789"), 201, Some("0")),
        (Request::put("/files/f", "0123456789"), 204, None),
        (Request::append("/files/f", ""), 204, None),
        (Request::get("/files/f").header("if-none-match", "*"), 304, Some("10")),
        (Request::new("HEAD", "/files/f").header("if-none-match", "*"), 304, Some("10")),
        (Request::get("/files/f").header("range", "bytes=10-"), 416, Some("0")),
        (Request::new("DELETE", "/files/f"), 204, None),
    ] {
        let answer = server.send(&request);
        let length = answer.header("content-length");
        assert!(
            answer.status == status && (length.is_none() || length == allowed),
            "{} {}: {answer:?}",
            request.method,
            request.target
        );
    }
}

/// Within the last hours, in the one form that is to be sent.
fn httpdate_is_recent(date: &str) -> bool {
    let output = Command::new("date")
        .args(["-u", "-d", date, "+%s %a, %d %b %Y %H:%M:%S GMT"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs();
    shown
        .trim()
        .split_once(' ')
        .is_some_and(|(seconds, again)| again == date && now.abs_diff(seconds.parse().unwrap()) < 7200)
}

#[test]
fn ranges_are_cut_as_rfc_9110_has_them() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    let size = SMALL * 3 + 5;
    let body = content(3, size);
    assert_eq!(client.put("/files/f", &*body).status, 201);
    let tag = client.get("/files/f").tag().to_owned();
    let cases: [(&str, Option<(usize, usize)>); 13] = [
        ("bytes=0-0", Some((0, 1))),
        ("bytes=0-", Some((0, size))),
        ("bytes=5-9", Some((5, 10))),
        ("bytes=262143-262144", Some((262_143, 262_145))),
        ("bytes=1-600000", Some((1, 600_001))),
        ("bytes=-1", Some((size - 1, size))),
        ("bytes=-700000", Some((size - 700_000, size))),
        ("bytes=-99999999999999999999999999", Some((0, size))),
        ("bytes=10-99999999999999999999999999", Some((10, size))),
        // Not one range, or none: the whole.
        ("bytes=0-1,3-4", None),
        ("bytes=9-5", None),
        ("characters=0-1", None),
        ("bytes", None),
    ];
    for (range, part) in cases {
        for method in ["GET", "HEAD"] {
            let answer = client.send(&Request::new(method, "/files/f").header("range", range));
            // A range means nothing to HEAD.
            let part = part.filter(|_| method == "GET");
            let (from, to) = part.unwrap_or((0, size));
            assert_eq!(answer.status, if part.is_some() { 206 } else { 200 }, "{method} {range}");
            assert_eq!(answer.header("content-length"), Some(&*(to - from).to_string()), "{method} {range}");
            let told = part.map(|(from, to)| format!("bytes {from}-{}/{size}", to - 1));
            assert_eq!(answer.header("content-range"), told.as_deref());
            assert_eq!((answer.header("accept-ranges"), answer.tag()), (Some("bytes"), &*tag));
            assert!(answer.body == if method == "GET" { &body[from..to] } else { &[] }, "{method} {range}");
        }
    }
    for range in [
        format!("bytes={size}-"),
        format!("bytes={size}-{size}"),
        "bytes=99999999999999999999-".to_owned(),
        "bytes=-0".to_owned(),
    ] {
        let answer = client.send(&Request::get("/files/f").header("range", &range));
        assert_eq!(
            (answer.status, answer.header("content-range")),
            (416, Some(&*format!("bytes */{size}"))),
            "{range}"
        );
    }
    // The part only of the content that the client has; anything else is no reason to send a part.
    for (validator, status) in [
        (&*tag, 206),
        (&format!("W/{tag}"), 200),
        ("\"other\"", 200),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 200),
        ("nonsense", 200),
    ] {
        let request = Request::get("/files/f").header("range", "bytes=0-4").header("if-range", validator);
        assert_eq!(client.send(&request).status, status, "{validator}");
        let unsatisfiable = Request::get("/files/f").header("range", "bytes=9999999-").header("if-range", validator);
        assert_eq!(client.send(&unsatisfiable).status, if status == 206 { 416 } else { 200 }, "{validator}");
    }
}

#[test]
fn an_empty_file_is_a_file() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    for request in [
        Request::put("/files/put", ""),
        Request::put("/files/chunks", "").chunked(1),
        Request::append("/files/append", ""),
    ] {
        assert_eq!(client.send(&request).status, 201);
        let target = request.target.trim_end_matches("?append");
        for method in ["GET", "HEAD"] {
            let answer = client.send(&Request::new(method, target));
            assert_eq!((answer.status, answer.header("content-length"), answer.body.len()), (200, Some("0"), 0));
        }
        for range in ["bytes=0-0", "bytes=0-", "bytes=1-"] {
            let answer = client.send(&Request::get(target).header("range", range));
            assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */0")), "{range}");
        }
    }
}

#[test]
fn head_is_get_without_the_content() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut client = server.client();
    client.put("/files/f", content(1, SMALL + 1));
    let (get, head) = (client.get("/files/f"), client.send(&Request::new("HEAD", "/files/f")));
    let said =
        |answer: &Answer| answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<BTreeSet<_>>();
    assert_eq!((said(&get), head.status), (said(&head), 200));
    // Two answers after one another: had the first one a body, the second would not be found.
    let mut stream = connect(server.address);
    for request in ["HEAD /files/f", "HEAD /files/nothing", "GET /healthz"] {
        let close = if request.starts_with('G') { "connection: close\r\n" } else { "" };
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: a\r\n{close}\r\n").as_bytes()).unwrap();
    }
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let heads: Vec<_> = all.split("\r\n\r\n").map(|part| part.lines().next().unwrap_or_default()).collect();
    assert_eq!(heads[..3], ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found", "HTTP/1.1 200 OK"], "{all}");
    assert!(all.ends_with("\r\n\r\nalive\n"), "{all}");
}

#[test]
fn a_request_that_makes_no_sense_changes_nothing() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000000")]);
    assert_eq!(server.put("/files/f", "old").status, 201);
    let before = server.get("/files/f");
    for (request, api_error) in [
        (Request::put("/files/f", "new").header("content-range", "bytes 0-2/3"), "400 BadHeader"),
        (Request::put("/files/f", "new").header("content-range", "nonsense").chunked(1), "400 BadHeader"),
        (Request::new("POST", "/files/f").body("new"), "400 BadQuery"),
        (Request::new("POST", "/files/f?appendix").body("new"), "400 BadQuery"),
        (Request::new("PATCH", "/files/f").body("new"), "405 NoSuchMethod"),
        (Request::new("MKCOL", "/files/d"), "405 NoSuchMethod"),
        (Request::new("PUT", "/list/d").body("new"), "405 NoSuchMethod"),
        (Request::new("DELETE", "/targets"), "405 NoSuchMethod"),
        (Request::get("/"), "404 NoSuchAddress"),
        (Request::get("/files"), "404 NoSuchAddress"),
        (Request::get("/files/"), "404 NoSuchAddress"),
        (Request::put("/files/f", vec![0; 1_000_001]), "413 TooLarge"),
        (Request::put("/files/f", vec![0; 1_000_001]).chunked(100_000), "413 TooLarge"),
        (Request::append("/files/f", vec![0; 1_000_001]), "413 TooLarge"),
    ] {
        assert_eq!(server.send(&request).api_error(), api_error, "{} {}", request.method, request.target);
    }
    // Lengths that contradict each other, and a body that is less than was said: framed by nobody's guess.
    for head in [
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 3x\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n3\r\nnew\r\n0\r\n\r\n",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nnew\r\n0\r\n\r\n",
    ] {
        let answer = server.client().send_bytes(head.as_bytes(), false).map_or(400, |answer| answer.status);
        assert!((400..500).contains(&answer), "{answer} to {head:?}");
    }
    for unfinished in [
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 400000\r\n\r\nnew",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnew\r\n",
        "PUT /files/f HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nnew\r\n0\r\n",
        "POST /files/f?append HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nnew",
        "POST /files/f?append HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nnew",
    ] {
        let mut stream = connect(server.address);
        stream.write_all(unfinished.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP/1.1 2"), "{unfinished:?}: {}", String::from_utf8_lossy(&said));
    }
    let after = server.get("/files/f");
    assert_eq!((after.tag(), &after.body), (before.tag(), &before.body));
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    assert_eq!(tree(&world.root()).len(), 1);
}

#[test]
fn whoever_expects_to_be_asked_is_refused_before_the_body() {
    let world = World::new(1);
    let server = world.serve(&[("MAX_BODY_BYTES", "1000")]);
    server.put("/files/f", "old");
    let ask = |method: &str, target: &str, length: usize| {
        let mut stream = BufReader::new(connect(server.address));
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        stream
    };
    for (method, target, length, api_error) in [
        ("PUT", "/files/f", 1001, "413 TooLarge"),
        ("PUT", "/files/f", usize::MAX >> 1, "413 TooLarge"),
        ("POST", "/files/f?append", 1001, "413 TooLarge"),
        ("PUT", "/files/../f", 10, "400 BadPath"),
    ] {
        let mut stream = ask(method, target, length);
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(&first, format!("HTTP/1.1 {}", &api_error[..3]).as_bytes());
        let answer = answer(&mut first.chain(stream), false).unwrap();
        assert_eq!(answer.api_error(), api_error);
    }
    let mut stream = ask("PUT", "/files/f", 3);
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(server.get("/files/f").body, b"old");
    stream.get_mut().write_all(b"new").unwrap();
    assert_eq!(answer(&mut stream, false).unwrap().status, 204);
    assert_eq!(server.get("/files/f").body, b"new");
}

#[test]
fn a_connection_is_used_again_also_after_a_refusal() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let mut stream = BufReader::new(connect(server.address));
    for (request, status) in [
        ("GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 404),
        ("PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx", 201),
        ("GET /files/.. HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("PUT /files/f HTTP/1.1\r\nhost: a\r\nif-none-match: *\r\ncontent-length: 1\r\n\r\nx", 412),
        ("GET /files/f HTTP/1.1\r\nhost: a\r\n\r\n", 200),
    ] {
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        assert_eq!(answer(&mut stream, false).unwrap().status, status, "{request}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Lists

#[test]
fn pages_of_every_size_give_each_entry_once() {
    let world = World::new(2);
    let server = world.serve(&[]);
    let mut client = server.client();
    let mut names = BTreeSet::new();
    fs::create_dir(world.root().join("d")).unwrap();
    for number in 0..40 {
        fs::write(world.root().join(format!("d/file {number}")), "").unwrap();
        fs::create_dir(world.root().join(format!("d/directory {number}"))).unwrap();
        // Hidden ones lie between the others, and must not make a page end early or a name come twice.
        fs::write(world.root().join(format!("d/.efs-router.{number}")), "").unwrap();
        names.extend([
            (format!("file {number}"), "file".to_owned()),
            (format!("directory {number}"), "directory".to_owned()),
        ]);
    }
    for limit in [None, Some(1), Some(2), Some(3), Some(7), Some(79), Some(80), Some(81), Some(10_000)] {
        let found = entries(&mut client, "/list/d", limit).unwrap();
        let found: Vec<_> = found.into_iter().map(|(name, kind, _)| (name, kind)).collect();
        assert_eq!(found.len(), names.len(), "{limit:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), names, "{limit:?}");
    }
    // What goes and comes meanwhile changes nothing for the others.
    let page = client.get("/list/d?limit=20").json();
    let first: BTreeSet<_> =
        page["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    for name in &first {
        let _ = fs::remove_file(world.root().join("d").join(name));
        let _ = fs::remove_dir(world.root().join("d").join(name));
    }
    let place = page["next"].as_str().unwrap();
    let rest = client.get(&format!("/list/d?from={place}")).json();
    let rest: Vec<_> =
        rest["entries"].as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(rest.len(), names.len() - first.len());
    assert!(rest.iter().all(|name| !first.contains(name)), "an entry twice");
}

#[test]
fn names_of_any_bytes_come_back_by_their_addresses() {
    let world = World::new(2);
    let server = world.serve(&[]);
    let mut client = server.client();
    let names: [&[u8]; 20] = [
        b"plain",
        b"with space",
        b"100%",
        b"%2e%2e",
        b"%2F",
        b"a?b",
        b"a#b",
        b"a;b=c",
        b"back\\slash",
        b"\"quoted\"",
        b"new\nline",
        b"tab\t",
        b"\x01\x7f",
        b"...",
        b"-rf",
        b"a&b+c",
        "ünïcode 文件 🗄".as_bytes(),
        b"not \xff UTF-8 \xc3",
        b"<script>",
        b"{a}|[b]^`~",
    ];
    for (number, name) in names.iter().enumerate() {
        let path = world.root().join("odd").join(OsStr::from_bytes(name));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(name)), number.to_string()).unwrap();
    }
    // As somebody walks: only by the addresses that lists give.
    let directories = entries(&mut client, "/list/odd", Some(3)).unwrap();
    assert_eq!(directories.len(), names.len());
    let mut found = BTreeSet::new();
    for (name, kind, href) in directories {
        let href = href.unwrap();
        assert_eq!(kind, "directory");
        assert!(href.is_ascii() && !href.contains([' ', '?', '#', '"', '<', '\n']), "{href:?}");
        let [(inner, _, file)] = &entries(&mut client, &href, None).unwrap()[..] else { panic!("{name:?}") };
        let file = file.as_deref().unwrap();
        let got = client.get(file);
        assert_eq!(got.status, 200, "{file}");
        let number: usize = String::from_utf8(got.body.clone()).unwrap().parse().unwrap();
        assert_eq!((inner, &name), (&String::from_utf8_lossy(names[number]).into_owned(), inner));
        let decoded: Vec<u8> = percent_decode_str(file.strip_prefix("/files/odd/").unwrap()).collect();
        assert_eq!(decoded, [names[number], names[number]].join(&b'/'));
        // The same address takes a new content, and gives it up.
        assert_eq!(client.put(file, "new").status, 204, "{file}");
        assert_eq!(client.get(file).body, b"new");
        assert_eq!(client.send(&Request::new("DELETE", file)).status, 204);
        found.insert(number);
    }
    assert_eq!(found.len(), names.len());
}

#[test]
fn a_list_tells_kinds_and_refuses_what_is_none() {
    let world = World::new(1);
    let server = world.serve(&[]);
    let at = |name: &str| world.root().join(name);
    fs::create_dir(at("d")).unwrap();
    for name in ["d/file", "d/.hidden", "d/.efs-router.1.2", "d/.efs-router"] {
        fs::write(at(name), "").unwrap();
    }
    fs::create_dir(at("d/below")).unwrap();
    symlink("file", at("d/link")).unwrap();
    let mut client = server.client();
    let mut found = entries(&mut client, "/list/d", None).unwrap();
    found.sort();
    let expected = [
        (".efs-router", "file", Some("/files/d/.efs-router")),
        (".hidden", "file", Some("/files/d/.hidden")),
        ("below", "directory", Some("/list/d/below")),
        ("file", "file", Some("/files/d/file")),
        ("link", "other", None),
    ];
    let expected = expected.map(|(name, kind, href)| (name.to_owned(), kind.to_owned(), href.map(str::to_owned)));
    assert_eq!(found, expected);
    for root in ["/list", "/list/"] {
        assert_eq!(
            entries(&mut client, root, None).unwrap(),
            [("d".to_owned(), "directory".to_owned(), Some("/list/d".to_owned()))]
        );
    }
    assert_eq!(client.get("/list/d/").status, 200);
    assert_eq!(entries(&mut client, "/list/d/below", None).unwrap(), []);
    for (target, api_error) in [
        ("/list/d?limit=0", "400 BadQuery"),
        ("/list/d?limit=10001", "400 BadQuery"),
        ("/list/d?limit=-1", "400 BadQuery"),
        ("/list/d?limit=x", "400 BadQuery"),
        ("/list/d?limit=", "400 BadQuery"),
        ("/list/d?limit=99999999999999999999", "400 BadQuery"),
        ("/list/d?from=x", "400 BadQuery"),
        ("/list/d?from=-1", "400 BadQuery"),
        ("/list/d?from=99999999999999999999", "400 BadQuery"),
        ("/list/d?from=18446744073709551615", "400 BadCursor"),
        ("/list/nothing", "404 NotFound"),
        ("/list/d/nothing/below", "404 NotFound"),
        ("/list/d/file", "409 NotADirectory"),
        ("/list/d/file/below", "409 NotADirectory"),
        ("/list/d/link", "403 LinkInPath"),
    ] {
        assert_eq!(client.get(target).api_error(), api_error, "{target}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Tokens

#[test]
fn without_the_token_there_is_nothing_but_health() {
    const TOKEN: &str = "0123456789abcdefghijklmnopqrstuv";
    let world = World::new(2);
    let server = world.serve(&[("AUTH_TOKEN", TOKEN), ("ACCESS_LOG", "1"), ("LOG_LEVEL", "trace")]);
    let good = format!("Bearer {TOKEN}");
    let with = |request: Request| request.header("authorization", &good);
    assert_eq!(server.send(&with(Request::put("/files/f", "secret"))).status, 201);
    let wrong = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(format!("Bearer {}", "x".repeat(TOKEN.len()))),
        Some(format!("Bearer {}", &TOKEN[..TOKEN.len() - 1])),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some(format!("Bearer {TOKEN}x")),
        Some(format!("Bearer {TOKEN} {TOKEN}")),
        Some(format!("Bearer {TOKEN}, Bearer x")),
        Some(format!("Bearer {}", TOKEN.to_uppercase())),
        Some(format!("Bearer {}w", &TOKEN[..TOKEN.len() - 1])),
    ];
    let requests = [
        Request::get("/files/f"),
        Request::new("HEAD", "/files/f"),
        Request::put("/files/f", "changed"),
        Request::put("/files/f", vec![0; SMALL + 1]).chunked(100_000),
        Request::append("/files/f", "changed"),
        Request::new("DELETE", "/files/f"),
        Request::new("PATCH", "/files/f"),
        Request::new("OPTIONS", "/files/f"),
        Request::get("/files/.."),
        Request::get(&format!("/files/f?token={TOKEN}")),
        Request::get("/list"),
        Request::get("/list/"),
        Request::get("/list/f"),
        Request::get("/route/f"),
        Request::get("/targets"),
        Request::get("/metrics"),
        Request::get("/"),
        Request::get("/nothing"),
        Request::get("//healthz"),
        Request::get("/healthz/"),
        Request::get("/healthz/../metrics"),
        Request::get("/%68ealthz"),
    ];
    for header in &wrong {
        for request in &requests {
            let request = match header {
                Some(header) => request.clone().header("authorization", header),
                None => request.clone(),
            };
            let answer = server.send(&request);
            assert_eq!(answer.status, 401, "{} {} with {header:?}", request.method, request.target);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            assert!(request.method == "HEAD" || answer.code() == "NoToken");
        }
        for open in ["/healthz", "/readyz"] {
            let request = Request::get(open);
            let request = header.iter().fold(request, |request, header| request.header("authorization", header));
            assert_eq!(server.send(&request).status, 200);
        }
    }
    // The name of the scheme is written as anybody likes.
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let request = Request::get("/files/f").header("authorization", &format!("{scheme} {TOKEN}"));
        assert_eq!(server.send(&request).status, 200, "{scheme}");
    }
    let got = server.send(&with(Request::get("/files/f")));
    assert_eq!((got.status, &*got.body), (200, &b"secret"[..]));
    for target in ["/list", "/route/f", "/targets", "/metrics"] {
        assert_eq!(server.send(&with(Request::get(target))).status, 200, "{target}");
    }
    assert_eq!(server.send(&with(Request::get("/nothing"))).status, 404);
    let log = server.lines();
    assert!(!log.iter().any(|line| line.to_string().contains(TOKEN)), "the token is in the log");
}

#[test]
fn an_address_that_others_reach_is_not_served_without_a_token() {
    let world = World::new(1);
    // Nobody listens meanwhile: it ends before.
    let output = world.command(&[("LISTEN", "0.0.0.0:0")]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8(output.stdout).unwrap();
    let [line] = &log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()[..] else {
        panic!("{log}")
    };
    assert_eq!((&line["level"], &line["code"]), (&json!("ERROR"), &json!("InvalidConfiguration")));
    let error = line["error"].as_str().unwrap();
    assert!(error.contains("AUTH_TOKEN") && error.contains("AUTH=none"), "{error}");
    // A loopback address needs none; one that is set is asked for, unless that is taken back.
    let open = world.serve(&[("AUTH_TOKEN", "0123456789abcdef"), ("AUTH", "none")]);
    assert_eq!(open.get("/targets").status, 200);
}

// ---------------------------------------------------------------------------------------------------------------
// Where paths go, and what is told of it

#[test]
fn a_route_is_told_as_it_is_taken_and_nothing_is_touched() {
    let world = World::new(3);
    let paths: Vec<_> = (0..60).map(|number| format!("user {number}/ünï/{}", number * 7)).collect();
    let mut chosen = Vec::new();
    for strategy in ["rendezvous", "sha256-modulo"] {
        let server = world.serve(&[("ROUTE_STRATEGY", strategy)]);
        let mut client = server.client();
        // The service is ready with the first target that answers.
        eventually("every target is up", || {
            let targets = client.get("/targets").json();
            targets["targets"].as_array()?.iter().all(|target| target["up"] == true).then_some(())
        });
        let told: Vec<_> = paths.iter().map(|path| client.get(&address("/route/", path)).json()).collect();
        assert_eq!(server.metric("router_operations_total"), 0.0, "an operation was done");
        assert_eq!(tree(&world.root()), [], "something was made");
        for (path, told) in paths.iter().zip(&told) {
            assert_eq!((&told["path"], &told["strategy"]), (&json!(path), &json!(strategy)));
            let order: BTreeSet<_> = told["order"]
                .as_array()
                .unwrap()
                .iter()
                .map(|target| target["mount_target_id"].as_str().unwrap())
                .collect();
            assert_eq!((order.len(), &told["order"][0]), (3, &told["target"]));
            let target = address("/files/", path);
            let put = client.put(&target, "x");
            assert_eq!(put.status, 201);
            for answer in [
                put,
                client.get(&target),
                client.send(&Request::new("HEAD", &target)),
                client.send(&Request::new("DELETE", &target)),
            ] {
                assert_eq!(answer.header("x-mount-target"), told["target"]["mount_target_id"].as_str(), "{path}");
            }
        }
        for entry in fs::read_dir(world.root()).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-service"));
        command.args(["route", "--strategy", strategy, "--targets-file"]).arg(world.targets_file()).args(&paths);
        let output = command.env_clear().output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let ids: Vec<Value> =
            serde_json::from_str::<Value>(&list(3)).unwrap()["mount_targets"].as_array().unwrap().clone();
        for ((line, path), told) in text.lines().zip(&paths).zip(&told) {
            let [index, id, said] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            assert_eq!((Some(id), said), (told["target"]["mount_target_id"].as_str(), &**path));
            assert_eq!(ids[index.parse::<usize>().unwrap()]["mount_target_id"], id);
        }
        let ids: Vec<_> =
            told.iter().map(|told| told["target"]["mount_target_id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 3, "one target has nothing");
        chosen.push(ids);
    }
    assert_ne!(chosen[0], chosen[1], "both strategies choose the same");
}

#[test]
fn shares_add_up_and_the_metrics_are_in_the_format_they_say() {
    let world = World::new(3);
    let server = world.serve(&[]);
    let mut client = server.client();
    let shares = |client: &mut Client, key: &str| {
        let targets = client.get("/targets").json();
        targets["targets"].as_array().unwrap().iter().map(|target| target[key].as_f64().unwrap()).collect::<Vec<_>>()
    };
    for key in ["share_of_operations", "share_of_bytes"] {
        assert_eq!(shares(&mut client, key), [0.0; 3], "of nothing");
    }
    for number in 0..60 {
        assert_eq!(client.put(&format!("/files/{number}"), vec![0; 1000 * number]).status, 201);
        assert_eq!(client.get(&format!("/files/{number}")).status, 200);
    }
    for key in ["share_of_operations", "share_of_bytes"] {
        let shares = shares(&mut client, key);
        assert!(
            (shares.iter().sum::<f64>() - 1.0).abs() < 1e-9 && shares.iter().all(|share| *share > 0.0),
            "{key}: {shares:?}"
        );
    }
    let targets = client.get("/targets").json();
    let sum = |key: &str| {
        targets["targets"].as_array().unwrap().iter().map(|target| target[key].as_f64().unwrap()).sum::<f64>()
    };
    let bytes = (0..60).map(|number| 1000.0 * f64::from(number)).sum::<f64>();
    assert_eq!((sum("bytes_read"), sum("bytes_written"), sum("operations")), (bytes, bytes, 120.0));

    let answer = client.get("/metrics");
    assert!(answer.header("content-type").unwrap().starts_with("application/openmetrics-text; version=1.0.0"));
    let page = String::from_utf8(answer.body).unwrap();
    assert!(page.ends_with("\n# EOF\n"), "{page}");
    let mut seen = BTreeSet::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for line in page.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<_> = comment.splitn(3, ' ').collect();
            assert!(["HELP", "TYPE", "UNIT", "EOF"].contains(&words[0]), "{line}");
            if words[0] == "TYPE" {
                assert_eq!(known.insert(words[1].to_owned(), words[2].to_owned()), None, "{line}");
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok_and(|value| value >= 0.0), "{line}");
        assert!(seen.insert(series.to_owned()), "twice: {line}");
        let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
        assert!(
            name.starts_with("router_") && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{line}"
        );
        for label in labels.iter().flat_map(|labels| labels.strip_suffix('}').unwrap().split(',')) {
            let (key, value) = label.split_once('=').unwrap();
            assert!(
                ["target", "le"].contains(&key) && value.len() > 2 && value.starts_with('"') && value.ends_with('"'),
                "{line}"
            );
        }
        let declared = ["", "_total", "_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| Some((known.get(name.strip_suffix(suffix)?)?, *suffix)));
        let declared: Vec<_> = declared.map(|(kind, suffix)| (kind.as_str(), suffix)).collect();
        let allowed = [
            ("counter", "_total"),
            ("gauge", ""),
            ("histogram", "_bucket"),
            ("histogram", "_sum"),
            ("histogram", "_count"),
        ];
        assert!(declared.iter().any(|declared| allowed.contains(declared)), "{line}: {declared:?}");
    }
    assert!(["counter", "gauge", "histogram"].iter().all(|kind| known.values().any(|known| known == kind)));
    assert_eq!((server.metric("router_operations_total"), server.metric("router_written_bytes_total")), (120.0, bytes));
    assert_eq!((server.metric("router_operation_seconds_count"), server.metric("router_target_up")), (120.0, 3.0));
}

/// The format asks for a bucket without a bound; of a histogram that has none, Prometheus tells no quantile.
#[test]
fn the_last_bucket_of_a_histogram_has_no_bound() {
    let world = World::new(1);
    let server = world.serve(&[]);
    for number in 0..5 {
        server.put(&format!("/files/{number}"), "x");
    }
    let page = String::from_utf8(server.get("/metrics").body).unwrap();
    let buckets: Vec<_> = page.lines().filter(|line| line.starts_with("router_operation_seconds_bucket{")).collect();
    let counts: Vec<u64> = buckets.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    // Each holds those of the smaller ones too.
    assert!(counts.is_sorted() && counts.last() == Some(&5), "{buckets:#?}");
    assert!(buckets.last().unwrap().contains("le=\"+Inf\""), "{buckets:#?}");
}

// ---------------------------------------------------------------------------------------------------------------
// The access log

#[test]
fn each_operation_on_a_file_is_a_line_of_the_access_log() {
    let world = World::new(2);
    let server = world.serve(&[("ACCESS_LOG", "1"), ("MAX_BODY_BYTES", "1000000")]);
    let mut client = server.client();
    let large = SMALL + 1000;
    let requests = [
        (Request::put("/files/d/a%20b", "hello"), "d/a b", 201, "Done", 5),
        (Request::get("/files/d/a%20b"), "d/a b", 200, "Done", 5),
        (Request::new("HEAD", "/files/d/a%20b"), "d/a b", 200, "Done", 0),
        (Request::get("/files/d/a%20b").header("range", "bytes=1-2"), "d/a b", 206, "Done", 2),
        (Request::get("/files/d/a%20b").header("range", "bytes=9-"), "d/a b", 416, "Done", 0),
        (Request::get("/files/d/a%20b").header("if-none-match", "*"), "d/a b", 304, "Done", 0),
        (Request::append("/files/d/a%20b", " world"), "d/a b", 204, "Done", 6),
        (Request::put("/files/large", content(1, large)), "large", 201, "Done", large),
        (Request::put("/files/large", content(2, large)).chunked(9999), "large", 204, "Done", large),
        (Request::get("/files/large"), "large", 200, "Done", large),
        (Request::put("/files/empty", ""), "empty", 201, "Done", 0),
        (Request::get("/files/empty"), "empty", 200, "Done", 0),
        (Request::get("/files/nothing"), "nothing", 404, "NotFound", 0),
        (Request::get("/files/d"), "d", 409, "IsADirectory", 0),
        (Request::put("/files/d/a%20b", "x").header("if-none-match", "*"), "d/a b", 412, "PreconditionFailed", 1),
        (Request::put("/files/large", vec![0; 1_000_001]), "large", 413, "TooLarge", 0),
        (Request::new("DELETE", "/files/large"), "large", 204, "Done", 0),
        (Request::new("DELETE", "/files/large"), "large", 404, "NotFound", 0),
    ];
    let files =
        |server: &Server| server.lines().into_iter().filter(|line| line["message"] == "file").collect::<Vec<_>>();
    for (number, (request, path, status, outcome, bytes)) in requests.iter().enumerate() {
        let answer = client.send(request);
        assert_eq!(answer.status, *status, "{} {}", request.method, request.target);
        let line = eventually("the line of an operation", || files(&server).get(number).cloned());
        assert_eq!(
            (&line["level"], &line["method"], &line["path"]),
            (&json!("INFO"), &json!(request.method), &json!(path))
        );
        assert_eq!(
            (&line["status"], &line["outcome"], &line["bytes"]),
            (&json!(status), &json!(outcome), &json!(bytes)),
            "{line}"
        );
        assert!(
            line["seconds"].as_f64().is_some_and(|seconds| (0.0..PATIENCE.as_secs_f64()).contains(&seconds)),
            "{line}"
        );
        assert!(line["target_id"].is_string(), "{line}");
        if let Some(target) = answer.header("x-mount-target") {
            assert_eq!(line["target_id"], target);
        }
    }
    client.get("/list/d");
    client.get("/targets");
    client.get("/files/..");
    assert_eq!(files(&server).len(), requests.len(), "what is no operation on a file is logged as one");
}

#[test]
fn a_client_that_goes_away_half_way_is_logged_as_one() {
    let world = World::new(1);
    let server = world.serve(&[("ACCESS_LOG", "1")]);
    let size = 64 * MEBIBYTE;
    fs::write(world.root().join("large"), vec![7; size]).unwrap();
    let mut stream = connect(server.address);
    stream.write_all(b"GET /files/large HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut some = vec![0; MEBIBYTE];
    stream.read_exact(&mut some).unwrap();
    drop(stream);
    let line = server.wait_for("of the GET", |line| line["message"] == "file" && line["method"] == "GET");
    assert_eq!((&line["outcome"], &line["status"], &line["path"]), (&json!("Aborted"), &json!(200), &json!("large")));
    let bytes = line["bytes"].as_u64().unwrap() as usize;
    assert!((MEBIBYTE - 1000..size).contains(&bytes), "{line}");
    // Of a content that did not come whole nothing stays, and the log says so too.
    let mut stream = connect(server.address);
    stream.write_all(b"PUT /files/new HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").unwrap();
    stream.write_all(&[0; 300_000]).unwrap();
    eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
    drop(stream);
    let line = server.wait_for("of the PUT", |line| line["message"] == "file" && line["method"] == "PUT");
    assert!(["Aborted", "IncompleteBody"].contains(&line["outcome"].as_str().unwrap()), "{line}");
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    assert_eq!(server.get("/files/new").status, 404);
}
