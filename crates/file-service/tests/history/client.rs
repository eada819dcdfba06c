//! Clients that send requests to several tasks, retry on another task as a load balancer does, and record each attempt.

use std::{
    collections::HashMap,
    io::{self, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    CODES,
    cluster::Cluster,
    common::{Answer, Request, answer},
    content::{Chunk, chunk, chunks},
    operation::{Action, Condition, Operation, Outcome},
    random::Random,
};

/// Timeout of a client. An upload may take several deadlines of the service.
const PATIENCE: Duration = Duration::from_secs(20);
/// Maximum number of retries on other tasks.
const MAX_RETRIES: usize = 2;
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Maximum pause between two requests of a client: short or long, with equal probability.
const MAX_PAUSE_SECONDS: [f64; 2] = [0.005, 0.6];
/// Most requests go to one path, which changes this often.
const SECONDS_OF_A_CROWD: u64 = 1;
/// Number of operations after which the clients use new paths. It bounds the size of a file and of its history.
const OPERATIONS_OF_A_PATH: u32 = 1000;

/// The operations that clients use on a path. The service does not promise all combinations: a plain PUT or DELETE
/// takes no lock and may come between the check and the change of an If-Match request or of an append.
#[derive(Clone, Copy)]
enum Kind {
    /// PUT, create-only PUT, DELETE.
    Plain,
    /// Create-only PUT, If-Match, append.
    Guarded,
    /// Append alone.
    Log,
}

const PATHS: [(&str, Kind); 6] = [
    ("plain/a", Kind::Plain),
    ("plain/b", Kind::Plain),
    ("plain/c", Kind::Plain),
    ("guarded/a", Kind::Guarded),
    ("guarded/b", Kind::Guarded),
    ("log/a", Kind::Log),
];

/// The recorded operations.
pub struct History {
    start: Instant,
    next: AtomicU32,
    most: u32,
    operations: Mutex<Vec<Operation>>,
}

/// The result of a request.
pub enum Reply {
    /// The connection failed; the task did not see the request.
    NotSent,
    /// The connection ended without an answer, or the client timed out.
    Lost(io::Error),
    Answer(Answer),
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, request: &Request) -> Reply {
    let connected = TcpStream::connect_timeout(&address, PATIENCE).and_then(|stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    let Ok(mut stream) = connected else { return Reply::NotSent };
    // A task that refuses a body may close the connection before the body is sent. Its answer still arrives.
    let sent = stream.write_all(&request.bytes());
    match (answer(&mut BufReader::new(stream), request.method == "HEAD"), sent) {
        (Ok(answer), _) => Reply::Answer(answer),
        (Err(_), Err(err)) | (Err(err), Ok(())) => Reply::Lost(err),
    }
}

/// The outcome of an answer, and the answer in a word or two.
fn outcome(action: &Action, reply: &Reply) -> (Outcome, String) {
    let is_change = !matches!(action, Action::Get | Action::Head);
    let of_change = |outcome: Outcome| if is_change { outcome } else { Outcome::Nothing };
    let answer = match reply {
        Reply::NotSent => return (Outcome::Nothing, "not sent".to_owned()),
        Reply::Lost(err) => return (of_change(Outcome::Later), format!("lost: {:?}", err.kind())),
        Reply::Answer(answer) => answer,
    };
    let status = answer.status;
    let outcome = match (status, action) {
        (200, Action::Get) => match chunks(&answer.body) {
            Ok(content) => Outcome::Found(Some(content)),
            Err(err) => Outcome::Torn(err),
        },
        (200, Action::Head) => Outcome::Tagged(answer.tag().to_owned()),
        (404, Action::Get | Action::Head | Action::Delete(_)) => Outcome::Found(None),
        (201 | 204, _) if is_change => Outcome::Done,
        (412, Action::Put(Condition::Missing)) => Outcome::Exists,
        // One content may have two tags, because an append sets the time after the content. So 412 proves nothing.
        (412, _) => Outcome::Nothing,
        // It has no body.
        (_, Action::Head) => Outcome::Nothing,
        _ => {
            let code = answer.code();
            let known = CODES.iter().find(|(known, _)| *known == code);
            let (_, outcome) = known.unwrap_or_else(|| panic!("the table of codes has no {code}: {answer:?}"));
            if code == "TargetFailed" {
                println!("{} -> {status}: {}", action.name(), String::from_utf8_lossy(&answer.body));
            }
            return (of_change(outcome.clone()), format!("{status} {code}"));
        }
    };
    (outcome, status.to_string())
}

impl History {
    /// A history that ends after about `most` operations.
    pub fn new(most: u32) -> Self {
        Self { start: Instant::now(), next: AtomicU32::new(0), most, operations: Mutex::default() }
    }

    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn is_over(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.most
    }

    pub fn into_operations(self) -> Vec<Operation> {
        self.operations.into_inner().unwrap()
    }

    fn paths(&self) -> Vec<(String, Kind)> {
        let part = self.next.load(Ordering::Relaxed).min(self.most.saturating_sub(1)) / OPERATIONS_OF_A_PATH;
        PATHS.map(|(path, kind)| (format!("{path}{part}"), kind)).to_vec()
    }

    /// Sends a request to a task and records the operation.
    fn ask(&self, cluster: &Cluster, asked: Asked<'_>) -> Operation {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let Asked { client, task, path, action, tag, bytes, pieces } = asked;
        let target = format!("/files/{path}");
        let request = match &action {
            Action::Get => Request::get(&target),
            Action::Head => Request::new("HEAD", &target),
            Action::Put(_) => Request::put(&target, chunk(number, bytes)),
            Action::Append(_) => Request::append(&target, chunk(number, bytes)),
            Action::Delete(_) => Request::new("DELETE", &target),
        };
        let mut request = match action.condition() {
            Some(Condition::Missing) => request.header("if-none-match", "*"),
            Some(Condition::Is(_)) => request.header("if-match", tag.unwrap_or_default()),
            _ => request,
        };
        request.chunk = pieces.filter(|_| request.body.is_some());
        let began = self.now();
        let reply = match cluster.tasks[task].address() {
            Some(address) => exchange(address, &request),
            None => Reply::NotSent,
        };
        let ended = self.now();
        let (outcome, answer) = outcome(&action, &reply);
        let tag = match &reply {
            Reply::Answer(answer) => answer.header("etag").map(ToOwned::to_owned),
            _ => None,
        };
        let path = path.to_owned();
        let operation = Operation { number, client, task, path, action, began, ended, outcome, tag, answer };
        self.operations.lock().unwrap().push(operation.clone());
        operation
    }
}

struct Asked<'a> {
    client: usize,
    task: usize,
    path: &'a str,
    action: Action,
    /// The tag for [`Condition::Is`].
    tag: Option<&'a str>,
    /// Padding of the chunk.
    bytes: usize,
    /// Size of the HTTP chunks; `None` sends Content-Length.
    pieces: Option<usize>,
}

/// Whether a load balancer would retry the request on another task.
fn is_to_be_retried(operation: &Operation) -> bool {
    let answer = &operation.answer;
    answer.starts_with("503") || answer.starts_with("504") || answer.starts_with("lost") || answer == "not sent"
}

fn action(kind: Kind, random: &mut Random, known: Option<&Vec<Chunk>>) -> Action {
    #[derive(Clone, Copy)]
    enum Word {
        Get,
        Head,
        Put,
        Create,
        Update,
        Append,
        AppendIf,
        Delete,
        DeleteIf,
    }
    use Word::{Append, AppendIf, Create, Delete, DeleteIf, Get, Head, Put, Update};
    let word = match kind {
        Kind::Plain => random.choose(&[(35, Get), (10, Head), (40, Put), (8, Create), (7, Delete)]),
        Kind::Guarded => random.choose(&[
            (25, Get),
            (5, Head),
            (10, Create),
            (25, Update),
            (15, Append),
            (10, AppendIf),
            (10, DeleteIf),
        ]),
        Kind::Log => random.choose(&[(35, Get), (5, Head), (60, Append)]),
    };
    let is = |action: fn(Condition) -> Action| known.map_or(Action::Get, |known| action(Condition::Is(known.clone())));
    match word {
        Get => Action::Get,
        Head => Action::Head,
        Put => Action::Put(Condition::None),
        Create => Action::Put(Condition::Missing),
        Update => is(Action::Put),
        Append => Action::Append(Condition::None),
        AppendIf => is(Action::Append),
        Delete => Action::Delete(Condition::None),
        DeleteIf => is(Action::Delete),
    }
}

/// Padding and HTTP chunk size. Some PUTs exceed 256 KiB, which the service streams.
fn size(action: &Action, random: &mut Random) -> (usize, Option<usize>) {
    let is_put = matches!(action, Action::Put(_));
    let most = random.choose(&[(70, 500), (20, 20_000), (10, if is_put { 700_000 } else { 2000 })]);
    (random.below(most), Some(30_000).filter(|_| is_put && random.below(5) == 0))
}

/// The last tag and content that a client knows, by path.
type Known = HashMap<String, (String, Vec<Chunk>)>;

fn remember(known: &mut Known, done: &Operation) {
    let content = match (&done.outcome, &done.action) {
        (Outcome::Found(Some(content)), _) => content.clone(),
        (Outcome::Done, Action::Put(_)) => vec![done.number],
        _ => return,
    };
    if let Some(tag) = &done.tag {
        known.insert(done.path.clone(), (tag.clone(), content));
    }
}

/// Sends requests until the history is over.
pub fn work(history: &History, cluster: &Cluster, client: usize, seed: u64) {
    let mut random = Random::new(seed, client as u64);
    let mut known = Known::new();
    while !history.is_over() {
        let paths = history.paths();
        let crowded = (history.now().as_secs() / SECONDS_OF_A_CROWD) as usize;
        let any = random.below(paths.len());
        let chosen = random.choose(&[(1, any), (2, crowded % paths.len())]);
        let (path, kind) = &paths[chosen];
        let first = random.below(cluster.tasks.len());
        let of_task = |attempt| (first + attempt) % cluster.tasks.len();
        // The known tag is mostly outdated. A read just before makes success more likely.
        if matches!(kind, Kind::Guarded) && random.below(2) == 0 {
            let task = of_task(0);
            let asked = Asked { client, task, path, action: Action::Get, tag: None, bytes: 0, pieces: None };
            remember(&mut known, &history.ask(cluster, asked));
        }
        let known_here = known.get(path).cloned();
        let action = action(*kind, &mut random, known_here.as_ref().map(|(_, content)| content));
        let tag = known_here.as_ref().map(|(tag, _)| tag.as_str());
        let (bytes, pieces) = size(&action, &mut random);
        for attempt in 0..=MAX_RETRIES {
            let (task, action) = (of_task(attempt), action.clone());
            let done = history.ask(cluster, Asked { client, task, path, action, tag, bytes, pieces });
            remember(&mut known, &done);
            if !is_to_be_retried(&done) {
                break;
            }
            thread::sleep(RETRY_PAUSE);
        }
        let most = MAX_PAUSE_SECONDS[random.below(MAX_PAUSE_SECONDS.len())];
        thread::sleep(Duration::from_secs_f64(random.between(0.0, most)));
    }
}

/// Reads every path through every task. Repeats each read until it succeeds.
pub fn read_all(history: &History, cluster: &Cluster) {
    let mut paths: Vec<String> =
        history.operations.lock().unwrap().iter().map(|operation| operation.path.clone()).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in &paths {
        for task in 0..cluster.tasks.len() {
            super::common::eventually("a path can be read", || {
                let asked = Asked { client: 0, task, path, action: Action::Get, tag: None, bytes: 0, pieces: None };
                matches!(history.ask(cluster, asked).outcome, Outcome::Found(_) | Outcome::Torn(_)).then_some(())
            });
        }
    }
}
