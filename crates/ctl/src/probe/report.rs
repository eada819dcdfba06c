//! Facts, and how they are told: to people line by line, to programs as one object.

use std::{fmt::Write as _, future::Future, io, pin::Pin, time::Duration};

use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use super::{FAILED, INTERRUPTED, MISSING, Setup, checks::World, out, target::Target};

/// What a question was answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Answer {
    Yes,
    No,
    /// It was asked, and what came says neither.
    Unknown,
    NotAsked,
}

impl Answer {
    fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
            Self::NotAsked => "not_asked",
        }
    }
}

/// An answer, what came, and the numbers in it.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub answer: Answer,
    pub found: String,
    pub values: Map<String, Value>,
}

fn outcome(answer: Answer, found: impl Into<String>) -> Outcome {
    Outcome { answer, found: found.into(), values: Map::new() }
}

pub fn yes(found: impl Into<String>) -> Outcome {
    outcome(Answer::Yes, found)
}

pub fn no(found: impl Into<String>) -> Outcome {
    outcome(Answer::No, found)
}

pub fn unknown(found: impl Into<String>) -> Outcome {
    outcome(Answer::Unknown, found)
}

pub fn not_asked(why: impl Into<String>) -> Outcome {
    outcome(Answer::NotAsked, why)
}

impl Outcome {
    /// With what programs want to know of it: the fields of an object.
    pub fn with(mut self, values: Value) -> Self {
        if let Value::Object(values) = values {
            self.values.extend(values);
        }
        self
    }
}

/// What an operation was refused with is a no; what kept it from being asked or answered says nothing.
pub fn answered<T>(answer: nfs41::Result<T>) -> Result<T, Outcome> {
    answer.map_err(refused)
}

pub fn refused(why: nfs41::Error) -> Outcome {
    match why {
        nfs41::Error::Status { .. } | nfs41::Error::ConditionFailed => no(why.to_string()),
        why => unknown(why.to_string()),
    }
}

/// What has to be there before something can be asked.
pub fn prepared<T>(answer: nfs41::Result<T>) -> Result<T, Outcome> {
    answer.map_err(|why| unknown(format!("it cannot be asked, since what it takes could not be made: {why}")))
}

/// What is known of it, however it ends.
pub fn both(asked: Asked, values: Value) -> Asked {
    match asked {
        Ok(outcome) => Ok(outcome.with(values)),
        Err(outcome) => Err(outcome.with(values)),
    }
}

/// An outcome. The error is one, too: one that comes early.
pub type Asked = Result<Outcome, Outcome>;
pub type Asks<'a> = Pin<Box<dyn Future<Output = Asked> + 'a>>;

/// One question.
pub struct Check<W: ?Sized> {
    /// Stable, for programs.
    pub key: &'static str,
    /// What a yes says.
    pub what: &'static str,
    /// What a no means for whoever runs the service.
    pub means: &'static str,
    /// The service does not work without.
    pub needed: bool,
    pub ask: for<'a> fn(&'a W) -> Asks<'a>,
}

/// Who is asked.
pub trait Patient {
    fn patience(&self) -> Duration;
}

/// What is known of a question.
#[derive(Debug)]
pub struct Fact {
    key: &'static str,
    what: &'static str,
    means: &'static str,
    needed: bool,
    outcome: Outcome,
    time: Duration,
    /// No answer came in time.
    pub is_late: bool,
}

impl<W: Patient> Check<W> {
    pub async fn fact(&self, world: &W) -> Fact {
        let began = Instant::now();
        // Its operations have deadlines of their own: this is for all of them together.
        let patience = world.patience() * 2;
        let outcome = match timeout(patience, (self.ask)(world)).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) => unknown(format!("no answer came within {patience:?}")),
        };
        let time = began.elapsed();
        let is_late = outcome.answer == Answer::Unknown && time >= world.patience();
        self.known(outcome, time, is_late)
    }

    pub fn not_asked(&self, why: &str) -> Fact {
        self.known(not_asked(why), Duration::ZERO, false)
    }
}

impl<W: ?Sized> Check<W> {
    fn known(&self, outcome: Outcome, time: Duration, is_late: bool) -> Fact {
        let Self { key, what, means, needed, .. } = *self;
        Fact { key, what, means, needed, outcome, time, is_late }
    }
}

impl Fact {
    fn is_missing(&self) -> bool {
        self.needed && matches!(self.outcome.answer, Answer::No | Answer::Unknown)
    }

    fn text(&self) -> String {
        let Outcome { answer, found, .. } = &self.outcome;
        let (mark, word) = match answer {
            Answer::Yes => ('✓', ""),
            Answer::No => ('✗', "no: "),
            Answer::Unknown => ('–', "not known: "),
            Answer::NotAsked => return format!("  – {}: not asked: {found}\n", self.what),
        };
        let mut text = format!("  {mark} {}: {word}{found} ({})\n", self.what, time(self.time));
        if *answer == Answer::No {
            let _ = writeln!(text, "      {}", self.means);
        }
        text
    }

    fn object(&self) -> Value {
        let Outcome { answer, found, values } = &self.outcome;
        json!({
            "what": self.what,
            "answer": answer.word(),
            "needed": self.needed,
            "found": found,
            "values": values,
            "means": (*answer == Answer::No).then_some(self.means),
            "seconds": self.time.as_secs_f64(),
        })
    }
}

/// As people read it: three digits.
pub fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.2} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}

/// What was found, as it comes.
pub struct Report {
    json: bool,
    arguments: Value,
    /// By host; and then those that were asked once.
    parts: Vec<(String, Vec<Fact>)>,
    hosts: usize,
    directory: Option<String>,
    pub left_behind: Option<String>,
    pub interrupted: bool,
    began: Instant,
    broken: Option<io::Error>,
}

impl Report {
    pub fn new(setup: &Setup) -> Self {
        let options = &setup.options;
        let tls = setup.secure.is_some();
        let mut report = Self {
            json: options.json,
            arguments: json!({
                "hosts": options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "tls": tls,
                "server_name": setup.secure.as_ref().map(|secure| &secure.server_name),
                "file_system": options.file_system,
                "region": options.region,
                "access_point": options.access_point,
                "iam": options.iam,
                "root": options.root,
                "read_only": options.read_only,
            }),
            parts: Vec::new(),
            hosts: 0,
            directory: None,
            left_behind: None,
            interrupted: false,
            began: Instant::now(),
            broken: None,
        };
        let mut how = vec![if tls { "TLS".to_owned() } else { "no TLS".to_owned() }];
        how.extend(options.file_system.clone());
        how.extend(options.access_point.clone());
        how.push(if options.iam { "IAM".to_owned() } else { "no IAM".to_owned() });
        how.push(format!("root {}", options.root));
        if options.read_only {
            how.push("read-only".to_owned());
        }
        report.say(&format!("efs-autoscale probe {}: {}\n", env!("CARGO_PKG_VERSION"), how.join(", ")));
        report
    }

    fn say(&mut self, text: &str) {
        if !self.json
            && let Err(why) = out(text)
        {
            self.broken.get_or_insert(why);
        }
    }

    /// What comes now is of this host.
    pub fn host(&mut self, target: &Target) {
        self.hosts += 1;
        self.part(target.host());
    }

    /// What comes now is asked once.
    pub fn all(&mut self, world: &World) {
        self.directory = Some(world.directory());
        self.part(world.title());
    }

    fn part(&mut self, name: String) {
        self.say(&format!("{name}\n"));
        self.parts.push((name, Vec::new()));
    }

    pub fn add(&mut self, fact: Fact) {
        self.say(&fact.text());
        if let Some((_, facts)) = self.parts.last_mut() {
            facts.push(fact);
        }
    }

    /// What the service needs, and is not there.
    fn missing(&self) -> Vec<&'static str> {
        let facts = self.parts.iter().flat_map(|(_, facts)| facts);
        let mut missing: Vec<_> = facts.filter(|fact| fact.is_missing()).map(|fact| fact.key).collect();
        missing.dedup();
        missing
    }

    fn reached(&self) -> bool {
        let of_hosts = self.parts.iter().take(self.hosts).flat_map(|(_, facts)| facts);
        of_hosts.into_iter().any(|fact| fact.key == "tcp" && fact.outcome.answer == Answer::Yes)
    }

    /// The last lines, or the object.
    ///
    /// # Errors
    /// It cannot be written, or could not before.
    pub fn end(&mut self) -> io::Result<()> {
        if self.json {
            return out(&format!("{}\n", self.object()));
        }
        let missing = self.missing();
        let text = match (self.interrupted, self.reached(), &missing[..]) {
            (true, ..) => "Interrupted: what is above is a part of it.".to_owned(),
            (_, false, _) => "No host was reached.".to_owned(),
            (.., []) => "All that the service needs is there, as far as it was asked.".to_owned(),
            (.., missing) => format!("The service needs what is missing or not known: {}.", missing.join(", ")),
        };
        let took = time(self.began.elapsed());
        self.say(&format!("{text} ({took})\n"));
        self.broken.take().map_or(Ok(()), Err)
    }

    fn object(&self) -> Value {
        let objects = |facts: &[Fact]| -> Value {
            facts.iter().map(|fact| (fact.key.to_owned(), fact.object())).collect::<Map<_, _>>().into()
        };
        let (hosts, once) = self.parts.split_at(self.hosts);
        json!({
            "program": concat!("efs-autoscale ", env!("CARGO_PKG_VERSION")),
            "arguments": self.arguments,
            "hosts": hosts.iter()
                .map(|(host, facts)| json!({ "host": host, "facts": objects(facts) })).collect::<Vec<_>>(),
            "facts": once.first().map_or_else(|| json!({}), |(_, facts)| objects(facts)),
            "missing": self.missing(),
            "reached": self.reached(),
            "interrupted": self.interrupted,
            "directory": self.directory,
            "left_behind": self.left_behind,
            "seconds": self.began.elapsed().as_secs_f64(),
        })
    }

    pub fn status(&self) -> u8 {
        match (self.interrupted, self.reached(), self.missing().is_empty() && self.left_behind.is_none()) {
            (true, ..) => INTERRUPTED,
            (_, false, _) => FAILED,
            (.., true) => 0,
            (.., false) => MISSING,
        }
    }
}
