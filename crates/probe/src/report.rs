//! The report: lines for people, one JSON object for programs.

use std::{collections::BTreeMap, fmt::Write as _, io, sync::Arc};

use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    FAILED, INTERRUPTED, MISSING, Setup,
    outcome::{Check, Fact, Finding, Outcome, format_time},
    partitions::Partitions,
    target::Target,
    world::World,
    write_stdout,
};

impl Check<World> {
    /// Runs the check at every host with a session if the service needs it, else at the first one that still responds.
    pub async fn fact_of_all(&self, worlds: &[Arc<World>]) -> Fact {
        let usable: Vec<_> = worlds.iter().filter(|world| world.is_usable()).collect();
        let first = usable.iter().position(|world| !world.is_unresponsive()).unwrap_or_default();
        let selected = if self.needed { &usable[..] } else { usable.get(first..=first).unwrap_or_default() };
        let mut facts = Vec::with_capacity(selected.len());
        for world in selected {
            // Skip a host that no longer responds: every check would wait for its timeout.
            let fact = match world.is_unresponsive() {
                true => self.not_asked("the server no longer responds"),
                false => self.fact(&***world).await,
            };
            if fact.is_late {
                world.check_reachable().await;
            }
            facts.push((world.host_name(), fact));
        }
        self.combine(facts)
    }

    /// Combines the results of several hosts: yes only if every host says yes.
    fn combine(&self, facts: Vec<(String, Fact)>) -> Fact {
        let count = facts.len();
        let time = facts.iter().map(|(_, fact)| fact.time).sum();
        let by_host: Map<_, _> = facts
            .iter()
            .map(|(host, Fact { outcome: Outcome { answer, found, .. }, .. })| {
                (host.clone(), json!({ "answer": answer.word(), "found": found }))
            })
            .collect();
        // `rev`, because `max_by_key` returns the last maximum: the first host with the worst answer.
        let worst = facts.into_iter().rev().max_by_key(|(_, fact)| fact.outcome.answer.severity());
        let Some((host, fact)) = worst else { return self.not_asked("no host granted a session") };
        let mut outcome = fact.outcome;
        if count > 1 {
            outcome.found = match outcome.answer {
                Finding::Yes => format!("{}; the same at each of {count} hosts", outcome.found),
                Finding::Excluded => outcome.found,
                _ => format!("at {host}: {}", outcome.found),
            };
            outcome = outcome.with(json!({ "hosts": by_host }));
        }
        self.with_outcome(outcome, time, false)
    }
}

/// What `--json` prints.
#[derive(Serialize, JsonSchema)]
struct Printed<'a> {
    program: &'static str,
    /// The arguments that change what is checked.
    arguments: &'a Value,
    /// The NFS partitions that the servers form.
    partitions: &'a Value,
    hosts: Vec<PrintedHost<'a>>,
    /// Checks across hosts, by key.
    facts: BTreeMap<&'static str, PrintedFact<'a>>,
    /// Keys of the checks that the service needs and that did not say yes.
    missing: Vec<&'static str>,
    /// Keys of those that were not made.
    not_asked: Vec<&'static str>,
    /// Keys of those that the arguments exclude.
    excluded: Vec<&'static str>,
    /// A host was reached.
    reached: bool,
    interrupted: bool,
    /// Where files were written.
    directory: Option<&'a str>,
    /// What could not be removed.
    left_behind: Option<&'a str>,
    seconds: f64,
}

#[derive(Serialize, JsonSchema)]
struct PrintedHost<'a> {
    host: &'a str,
    /// Checks of this host, by key.
    facts: BTreeMap<&'static str, PrintedFact<'a>>,
}

#[derive(Serialize, JsonSchema)]
struct PrintedFact<'a> {
    what: &'static str,
    answer: &'a str,
    needed: bool,
    /// For people.
    found: &'a str,
    /// For programs; each check has its own.
    values: &'a Map<String, Value>,
    /// What a no means for the service; `null` otherwise.
    means: Option<&'static str>,
    seconds: f64,
}

fn by_key(facts: &[Fact]) -> BTreeMap<&'static str, PrintedFact<'_>> {
    facts.iter().map(|fact| (fact.key, fact.printed())).collect()
}

/// The schema of `--json`.
#[must_use]
pub fn schema() -> Schema {
    schema_for!(Printed<'_>)
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
            Finding::Unknown => ('–', "unknown: "),
            Finding::NotAsked | Finding::Excluded => return format!("  – {}: not checked: {found}\n", self.what),
        };
        let mut text = format!("  {mark} {}: {word}{found} ({})\n", self.what, format_time(self.time));
        if *answer == Finding::No {
            let _ = writeln!(text, "      {}", self.means);
        }
        text
    }

    fn printed(&self) -> PrintedFact<'_> {
        let Outcome { answer, found, values } = &self.outcome;
        PrintedFact {
            what: self.what,
            answer: answer.word(),
            needed: self.needed,
            found,
            values,
            means: (*answer == Finding::No).then_some(self.means),
            seconds: self.time.as_secs_f64(),
        }
    }
}

/// Prints and collects results as they arrive.
pub struct Report {
    json: bool,
    arguments: Value,
    partitions: Value,
    /// One section per host, then one for the checks across hosts.
    sections: Vec<(String, Vec<Fact>)>,
    host_count: usize,
    directory: Option<String>,
    pub left_behind: Option<String>,
    pub interrupted: bool,
    began: Instant,
    write_error: Option<io::Error>,
}

impl Report {
    pub fn new(setup: &Setup) -> Self {
        let options = &setup.options;
        let tls = setup.dial.tls.is_some();
        let mut report = Self {
            json: options.json,
            arguments: json!({
                "hosts": options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "tls": tls,
                "server_name": setup.dial.tls.as_ref().map(|tls| &tls.server_name),
                "file_system": options.server.file_system,
                "region": options.server.region,
                "access_point": options.server.access_point,
                "iam": options.server.iam,
                "root": options.server.root,
                "read_only": options.read_only,
            }),
            partitions: Value::Null,
            sections: Vec::new(),
            host_count: 0,
            directory: None,
            left_behind: None,
            interrupted: false,
            began: Instant::now(),
            write_error: None,
        };
        let mut settings = vec![if tls { "TLS".to_owned() } else { "no TLS".to_owned() }];
        settings.extend(options.server.file_system.clone());
        settings.extend(options.server.access_point.clone());
        settings.push(if options.server.iam { "IAM".to_owned() } else { "no IAM".to_owned() });
        settings.push(format!("root {}", options.server.root));
        if options.read_only {
            settings.push("read-only".to_owned());
        }
        report.print(&format!("efs-autoscale probe {}: {}\n", env!("CARGO_PKG_VERSION"), settings.join(", ")));
        report
    }

    fn print(&mut self, text: &str) {
        if !self.json
            && let Err(err) = write_stdout(text)
        {
            self.write_error.get_or_insert(err);
        }
    }

    pub fn partitions(&mut self, found: &Partitions) {
        self.print(&found.text());
        self.partitions = found.object();
    }

    /// Begins the section of a host.
    pub fn begin_host(&mut self, target: &Target) {
        self.host_count += 1;
        self.begin_section(target.host());
    }

    /// Begins the section of the checks across hosts.
    pub fn begin_common(&mut self, worlds: &[Arc<World>]) {
        self.directory = worlds.first().map(|world| world.directory());
        let first = worlds.iter().find(|world| world.is_usable()).or(worlds.first());
        self.begin_section(first.map(|world| world.title()).unwrap_or_default());
    }

    fn begin_section(&mut self, name: String) {
        self.print(&format!("{name}\n"));
        self.sections.push((name, Vec::new()));
    }

    pub fn add(&mut self, fact: Fact) {
        self.print(&fact.text());
        if let Some((_, facts)) = self.sections.last_mut() {
            facts.push(fact);
        }
    }

    /// Keys of the checks whose result matches, without duplicates: several hosts have the same checks.
    fn keys(&self, matches: impl Fn(&Fact) -> bool) -> Vec<&'static str> {
        let facts = self.sections.iter().flat_map(|(_, facts)| facts);
        let mut keys: Vec<&'static str> = Vec::new();
        for fact in facts.filter(|fact| matches(fact)) {
            if !keys.contains(&fact.key) {
                keys.push(fact.key);
            }
        }
        keys
    }

    fn missing(&self) -> Vec<&'static str> {
        self.keys(Fact::is_missing)
    }

    fn not_asked(&self) -> Vec<&'static str> {
        self.keys(Fact::is_not_asked)
    }

    fn excluded(&self) -> Vec<&'static str> {
        self.keys(Fact::is_excluded)
    }

    fn reached(&self) -> bool {
        let host_facts = self.sections.iter().take(self.host_count).flat_map(|(_, facts)| facts);
        host_facts.into_iter().any(|fact| fact.key == "tcp" && fact.outcome.answer == Finding::Yes)
    }

    /// Prints the summary, or the JSON object.
    ///
    /// # Errors
    /// This or an earlier write failed.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.json {
            return write_stdout(&(serde_json::to_string(&self.printed())? + "\n"));
        }
        let text = self.summary();
        let elapsed = format_time(self.began.elapsed());
        self.print(&format!("{text} ({elapsed})\n"));
        self.write_error.take().map_or(Ok(()), Err)
    }

    fn summary(&self) -> String {
        if self.interrupted {
            return "Interrupted: the report is incomplete.".to_owned();
        }
        if !self.reached() {
            return "No host was reached.".to_owned();
        }
        match (&self.missing()[..], &self.not_asked()[..], &self.excluded()[..]) {
            ([], [], []) => "Everything that the service needs is supported.".to_owned(),
            ([], [], excluded) => format!(
                "Everything that the service needs is supported, as far as it was checked. The arguments exclude: {}.",
                excluded.join(", ")
            ),
            (missing, [], _) => format!("Needed by the service, but missing or unknown: {}.", missing.join(", ")),
            ([], not_asked, _) => {
                format!("Needed by the service, but not checked: {}.", not_asked.join(", "))
            }
            (missing, not_asked, _) => format!(
                "Needed by the service, but missing or unknown: {}; not checked: {}.",
                missing.join(", "),
                not_asked.join(", ")
            ),
        }
    }

    fn printed(&self) -> Printed<'_> {
        let (hosts, common) = self.sections.split_at(self.host_count);
        Printed {
            program: concat!("efs-autoscale ", env!("CARGO_PKG_VERSION")),
            arguments: &self.arguments,
            partitions: &self.partitions,
            hosts: hosts.iter().map(|(host, of_host)| PrintedHost { host, facts: by_key(of_host) }).collect(),
            facts: common.first().map(|(_, common)| by_key(common)).unwrap_or_default(),
            missing: self.missing(),
            not_asked: self.not_asked(),
            excluded: self.excluded(),
            reached: self.reached(),
            interrupted: self.interrupted,
            directory: self.directory.as_deref(),
            left_behind: self.left_behind.as_deref(),
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }

    pub fn status(&self) -> u8 {
        // Every needed check says yes at every host, or the arguments exclude it.
        let is_complete = self.keys(|fact| fact.is_missing() || fact.is_not_asked()).is_empty();
        match (self.interrupted, self.reached(), is_complete && self.left_behind.is_none()) {
            (true, ..) => INTERRUPTED,
            (_, false, _) => FAILED,
            (.., true) => 0,
            (.., false) => MISSING,
        }
    }
}
