//! The report: line by line for people, one object for programs.

use std::{fmt::Write as _, io, sync::Arc};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    FAILED, INTERRUPTED, MISSING, Setup, out,
    outcome::{Check, Fact, Finding, Outcome, time},
    partitions::Partitions,
    target::Target,
    world::World,
};

impl Check<World> {
    /// Of every host that has given a session, if it is needed, and else of the first one that still answers.
    pub async fn fact_of_all(&self, worlds: &[Arc<World>]) -> Fact {
        let usable: Vec<_> = worlds.iter().filter(|world| world.is_usable()).collect();
        let first = usable.iter().position(|world| !world.is_silent()).unwrap_or_default();
        let asked = if self.needed { &usable[..] } else { usable.get(first..=first).unwrap_or_default() };
        let mut facts = Vec::with_capacity(asked.len());
        for world in asked {
            // What does not answer any more is not asked thirty times.
            let fact = match world.is_silent() {
                true => self.not_asked("the server does not answer any more"),
                false => self.fact(&***world).await,
            };
            if fact.is_late {
                world.check_reachable().await;
            }
            facts.push((world.host_name(), fact));
        }
        self.all(facts)
    }

    /// One fact of those of several hosts: a yes, if it is one of each.
    fn all(&self, facts: Vec<(String, Fact)>) -> Fact {
        let count = facts.len();
        let time = facts.iter().map(|(_, fact)| fact.time).sum();
        let by_host: Map<_, _> = facts
            .iter()
            .map(|(host, Fact { outcome: Outcome { answer, found, .. }, .. })| {
                (host.clone(), json!({ "answer": answer.word(), "found": found }))
            })
            .collect();
        // The first one of the worst.
        let worst = facts.into_iter().rev().max_by_key(|(_, fact)| fact.outcome.answer.severity());
        let Some((host, fact)) = worst else { return self.not_asked("no host has given a session") };
        let mut outcome = fact.outcome;
        if count > 1 {
            outcome.found = match outcome.answer {
                Finding::Yes => format!("{}; so at each of {count} hosts", outcome.found),
                Finding::Excluded => outcome.found,
                _ => format!("at {host}: {}", outcome.found),
            };
            outcome = outcome.with(json!({ "hosts": by_host }));
        }
        self.known(outcome, time, false)
    }
}

impl Fact {
    fn is_missing(&self) -> bool {
        self.needed && matches!(self.outcome.answer, Finding::No | Finding::Unknown)
    }

    fn is_not_asked(&self) -> bool {
        self.needed && self.outcome.answer == Finding::NotAsked
    }

    fn is_excluded(&self) -> bool {
        self.needed && self.outcome.answer == Finding::Excluded
    }

    fn text(&self) -> String {
        let Outcome { answer, found, .. } = &self.outcome;
        let (mark, word) = match answer {
            Finding::Yes => ('✓', ""),
            Finding::No => ('✗', "no: "),
            Finding::Unknown => ('–', "not known: "),
            Finding::NotAsked | Finding::Excluded => return format!("  – {}: not asked: {found}\n", self.what),
        };
        let mut text = format!("  {mark} {}: {word}{found} ({})\n", self.what, time(self.time));
        if *answer == Finding::No {
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
            "means": (*answer == Finding::No).then_some(self.means),
            "seconds": self.time.as_secs_f64(),
        })
    }
}

/// What was found, as it comes.
pub struct Report {
    json: bool,
    arguments: Value,
    partitions: Value,
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
        let tls = setup.dial.secure.is_some();
        let mut report = Self {
            json: options.json,
            arguments: json!({
                "hosts": options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "tls": tls,
                "server_name": setup.dial.secure.as_ref().map(|secure| &secure.server_name),
                "file_system": options.server.file_system,
                "region": options.server.region,
                "access_point": options.server.access_point,
                "iam": options.server.iam,
                "root": options.server.root,
                "read_only": options.read_only,
            }),
            partitions: Value::Null,
            parts: Vec::new(),
            hosts: 0,
            directory: None,
            left_behind: None,
            interrupted: false,
            began: Instant::now(),
            broken: None,
        };
        let mut how = vec![if tls { "TLS".to_owned() } else { "no TLS".to_owned() }];
        how.extend(options.server.file_system.clone());
        how.extend(options.server.access_point.clone());
        how.push(if options.server.iam { "IAM".to_owned() } else { "no IAM".to_owned() });
        how.push(format!("root {}", options.server.root));
        if options.read_only {
            how.push("read-only".to_owned());
        }
        report.say(&format!("efs-autoscale probe {}: {}\n", env!("CARGO_PKG_VERSION"), how.join(", ")));
        report
    }

    fn say(&mut self, text: &str) {
        if !self.json
            && let Err(err) = out(text)
        {
            self.broken.get_or_insert(err);
        }
    }

    pub fn partitions(&mut self, found: &Partitions) {
        self.say(&found.text());
        self.partitions = found.object();
    }

    /// What comes now is of this host.
    pub fn host(&mut self, target: &Target) {
        self.hosts += 1;
        self.part(target.host());
    }

    /// What comes now is asked once.
    pub fn all(&mut self, worlds: &[Arc<World>]) {
        self.directory = worlds.first().map(|world| world.directory());
        let first = worlds.iter().find(|world| world.is_usable()).or(worlds.first());
        self.part(first.map(|world| world.title()).unwrap_or_default());
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

    /// What the service needs and of which this is so; each once, since several hosts have it.
    fn needed(&self, is_so: impl Fn(&Fact) -> bool) -> Vec<&'static str> {
        let facts = self.parts.iter().flat_map(|(_, facts)| facts);
        let mut keys: Vec<&'static str> = Vec::new();
        for fact in facts.filter(|fact| is_so(fact)) {
            if !keys.contains(&fact.key) {
                keys.push(fact.key);
            }
        }
        keys
    }

    fn missing(&self) -> Vec<&'static str> {
        self.needed(Fact::is_missing)
    }

    fn not_asked(&self) -> Vec<&'static str> {
        self.needed(Fact::is_not_asked)
    }

    fn excluded(&self) -> Vec<&'static str> {
        self.needed(Fact::is_excluded)
    }

    fn reached(&self) -> bool {
        let of_hosts = self.parts.iter().take(self.hosts).flat_map(|(_, facts)| facts);
        of_hosts.into_iter().any(|fact| fact.key == "tcp" && fact.outcome.answer == Finding::Yes)
    }

    /// The last lines, or the object.
    ///
    /// # Errors
    /// It cannot be written, or could not before.
    pub fn end(&mut self) -> io::Result<()> {
        if self.json {
            return out(&format!("{}\n", self.object()));
        }
        let text = self.summary();
        let took = time(self.began.elapsed());
        self.say(&format!("{text} ({took})\n"));
        self.broken.take().map_or(Ok(()), Err)
    }

    fn summary(&self) -> String {
        if self.interrupted {
            return "Interrupted: what is above is a part of it.".to_owned();
        }
        if !self.reached() {
            return "No host was reached.".to_owned();
        }
        match (&self.missing()[..], &self.not_asked()[..], &self.excluded()[..]) {
            ([], [], []) => "All that the service needs is there.".to_owned(),
            ([], [], excluded) => format!(
                "All that the service needs is there, as far as it was asked; by these arguments it was not: {}.",
                excluded.join(", ")
            ),
            (missing, [], _) => format!("The service needs what is missing or not known: {}.", missing.join(", ")),
            ([], not_asked, _) => {
                format!("The service needs what could not be asked, and is not known: {}.", not_asked.join(", "))
            }
            (missing, not_asked, _) => format!(
                "The service needs what is missing or not known: {}; and what could not be asked: {}.",
                missing.join(", "),
                not_asked.join(", ")
            ),
        }
    }

    fn object(&self) -> Value {
        let objects = |facts: &[Fact]| -> Value {
            facts.iter().map(|fact| (fact.key.to_owned(), fact.object())).collect::<Map<_, _>>().into()
        };
        let (hosts, once) = self.parts.split_at(self.hosts);
        json!({
            "program": concat!("efs-autoscale ", env!("CARGO_PKG_VERSION")),
            "arguments": self.arguments,
            "partitions": self.partitions,
            "hosts": hosts.iter()
                .map(|(host, facts)| json!({ "host": host, "facts": objects(facts) })).collect::<Vec<_>>(),
            "facts": once.first().map_or_else(|| json!({}), |(_, facts)| objects(facts)),
            "missing": self.missing(),
            "not_asked": self.not_asked(),
            "excluded": self.excluded(),
            "reached": self.reached(),
            "interrupted": self.interrupted,
            "directory": self.directory,
            "left_behind": self.left_behind,
            "seconds": self.began.elapsed().as_secs_f64(),
        })
    }

    pub fn status(&self) -> u8 {
        // Of each line that is needed, and of each host, a yes; or it is not to be asked.
        let is_known = self.needed(|fact| fact.is_missing() || fact.is_not_asked()).is_empty();
        match (self.interrupted, self.reached(), is_known && self.left_behind.is_none()) {
            (true, ..) => INTERRUPTED,
            (_, false, _) => FAILED,
            (.., true) => 0,
            (.., false) => MISSING,
        }
    }
}
