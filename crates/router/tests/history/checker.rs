//! Whether the recorded operations of one path can be put into an order in which each takes effect at one moment
//! between its begin and its end: linearizability (Herlihy and Wing, 1990).
//!
//! The algorithm is the just-in-time linearization of Lowe ("Testing for linearizability", 2017), a search of the graph
//! of configurations in the manner of Wing and Gong: it goes through begins and ends in the order of time and keeps every
//! configuration that is possible, the state of the file with the set of pending operations that have taken effect. An
//! operation takes effect only when an end asks for it; a read as soon as it can. Between two quiescent moments nothing but
//! states is left of the configurations.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use super::{
    content::Chunk,
    operation::{Action, Condition, Operation, Outcome, shown},
};

/// When an operation of which the outcome is [`Outcome::Within`] may take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Before its answer, or never.
    Strict,
    /// At any time after its begin.
    Lax,
}

/// More configurations than any history that is possible to check has at one moment.
const MAX_CONFIGURATIONS: usize = 200_000;

/// So many uncertain operations are shown with a violation.
const MAX_UNCERTAIN: usize = 3;

/// A state of the file.
type State = u32;
/// There is no file.
const MISSING: State = 0;
/// There is a file of which some chunk was never read: nobody can tell it from another such one.
const UNREAD: State = 1;
const FIRST_READ: State = 2;

/// Why the operations have no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub why: String,
    /// Operations that have no order, whatever the file was before: as few as were found.
    pub window: Vec<Chunk>,
    /// Those that wrote what the window reads, that were the first to read what it writes, or may be late.
    pub related: Vec<Chunk>,
}

/// What an operation needs and does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Reads(State),
    Exists,
    Puts(Needs, State),
    /// Makes the second state of the first, and nothing of any other.
    Appends(Needs, State, State),
    Deletes(Needs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    State(State),
}

impl Needs {
    fn allow(self, state: State) -> bool {
        match self {
            Self::Nothing => true,
            Self::State(needed) => needed == state,
        }
    }
}

impl Effect {
    fn is_read(self) -> bool {
        matches!(self, Self::Reads(_) | Self::Exists)
    }

    /// The state afterwards, if it can take effect in this one.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Self::Reads(found) => (found == state).then_some(state),
            Self::Exists => (state != MISSING).then_some(state),
            Self::Puts(needs, made) => needs.allow(state).then_some(made),
            Self::Appends(needs, of, made) => (needs.allow(state) && of == state).then_some(made),
            Self::Deletes(needs) => (state != MISSING && needs.allow(state)).then_some(MISSING),
        }
    }
}

/// An operation as the search sees it.
#[derive(Clone, Debug)]
struct Step {
    number: Chunk,
    began: Duration,
    /// None: it may take effect at any time after its begin.
    ended: Option<Duration>,
    /// It has taken effect by its end.
    required: bool,
    effect: Effect,
}

impl Step {
    /// Of two that may take effect at any time or never, and do the same, it does not matter which one does.
    fn is_as_good_as(&self, other: &Self) -> bool {
        let is_free = |step: &Self| step.ended.is_none() && !step.required;
        is_free(self) && is_free(other) && self.effect == other.effect
    }
}

/// The states of one path: each content that was read, and each of which it was made.
#[derive(Default)]
struct States {
    made: HashMap<(State, Chunk), State>,
    /// By its last chunk, the content that was there before it.
    before: HashMap<Chunk, State>,
    contents: Vec<Vec<Chunk>>,
}

impl States {
    fn of(&mut self, content: &[Chunk]) -> State {
        let mut state = MISSING;
        for (at, chunk) in content.iter().enumerate() {
            self.before.entry(*chunk).or_insert(state);
            state = *self.made.entry((state, *chunk)).or_insert_with(|| {
                self.contents.push(content[..=at].to_vec());
                FIRST_READ + self.contents.len() as State - 1
            });
        }
        state
    }

    /// Those of which every chunk may have been written.
    fn possible(&self, operations: &[&Operation]) -> Vec<State> {
        let wrote = |operation: &&&Operation| operation.action.writes() && operation.outcome != Outcome::Nothing;
        let written: HashSet<_> = operations.iter().filter(wrote).map(|operation| operation.number).collect();
        let is_possible = |content: &Vec<Chunk>| content.iter().all(|chunk| written.contains(chunk));
        let numbered = (FIRST_READ..).zip(&self.contents);
        let read = numbered.filter(|(_, content)| is_possible(content)).map(|(state, _)| state);
        [MISSING, UNREAD].into_iter().chain(read).collect()
    }

    fn shown(&self, state: State) -> String {
        match state {
            MISSING => "no file".to_owned(),
            UNREAD => "a content that nobody has read".to_owned(),
            state => shown(&self.contents[(state - FIRST_READ) as usize]),
        }
    }
}

/// The file's state and the pending operations that have taken effect: those that have to, and the others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    state: State,
    required: Vec<usize>,
    optional: Vec<usize>,
}

impl Configuration {
    fn new(state: State) -> Self {
        Self { state, required: Vec::new(), optional: Vec::new() }
    }

    fn has(&self, step: usize) -> bool {
        self.required.binary_search(&step).is_ok() || self.optional.binary_search(&step).is_ok()
    }

    fn with(&self, step: usize, required: bool, state: State) -> Self {
        let mut with = Self { state, ..self.clone() };
        let set = if required { &mut with.required } else { &mut with.optional };
        if let Err(place) = set.binary_search(&step) {
            set.insert(place, step);
        }
        with
    }

    fn without(mut self, step: usize) -> Self {
        self.required.retain(|found| *found != step);
        self.optional.retain(|found| *found != step);
        self
    }
}

/// Configurations; one that has used more optional operations than another that is like it otherwise is left out.
#[derive(Default)]
struct Configurations {
    by_rest: HashMap<(State, Vec<usize>), Vec<Vec<usize>>>,
    count: usize,
}

impl Configurations {
    fn insert(&mut self, configuration: Configuration) -> bool {
        let Configuration { state, required, optional } = configuration;
        let known = self.by_rest.entry((state, required)).or_default();
        let within = |less: &[usize], more: &[usize]| less.iter().all(|step| more.binary_search(step).is_ok());
        if known.iter().any(|known| within(known, &optional)) {
            return false;
        }
        self.count -= known.len();
        known.retain(|known| !within(&optional, known));
        known.push(optional);
        self.count += known.len();
        assert!(self.count <= MAX_CONFIGURATIONS, "too many operations at once for the checker");
        true
    }

    fn into_all(self) -> impl Iterator<Item = Configuration> {
        self.by_rest.into_iter().flat_map(|((state, required), optional)| {
            optional.into_iter().map(move |optional| Configuration { state, required: required.clone(), optional })
        })
    }

    fn states(&self) -> BTreeSet<State> {
        self.by_rest.keys().map(|(state, _)| *state).collect()
    }
}

/// Where the search has found no way on.
struct Stuck {
    step: usize,
    /// What the file may have been just before that operation's end.
    states: BTreeSet<State>,
}

/// Lets every pending read take effect that can: a configuration that has read is never worse than one that has not.
fn read_now(mut configuration: Configuration, steps: &[Step], pending: &BTreeSet<usize>) -> Configuration {
    for step in pending {
        let effect = steps[*step].effect;
        if effect.is_read() && !configuration.has(*step) && effect.apply(configuration.state).is_some() {
            configuration = configuration.with(*step, steps[*step].required, configuration.state);
        }
    }
    configuration
}

/// The configurations after the end of a step, of those before it.
fn after_end(before: Configurations, ending: usize, steps: &[Step], pending: &BTreeSet<usize>) -> Configurations {
    let (mut after, mut seen, mut work) = (Configurations::default(), Configurations::default(), Vec::new());
    for configuration in before.into_all() {
        if configuration.has(ending) {
            after.insert(configuration.without(ending));
            continue;
        }
        if !steps[ending].required {
            after.insert(configuration.clone());
        }
        if seen.insert(configuration.clone()) {
            work.push(configuration);
        }
    }
    while let Some(configuration) = work.pop() {
        let mut tried: Vec<usize> = Vec::new();
        for step in pending {
            let Step { required, effect, .. } = steps[*step];
            if configuration.has(*step) || effect.is_read() && *step != ending {
                continue;
            }
            let Some(state) = effect.apply(configuration.state) else { continue };
            let changes = required || *step == ending || state != configuration.state;
            if !changes || tried.iter().any(|tried| steps[*tried].is_as_good_as(&steps[*step])) {
                continue;
            }
            tried.push(*step);
            let next = read_now(configuration.with(*step, required, state), steps, pending);
            if next.has(ending) {
                after.insert(next.without(ending));
            } else if seen.insert(next.clone()) {
                work.push(next);
            }
        }
    }
    after
}

/// Begins and ends in the order of time; at one moment begins come first.
fn events(steps: &[Step]) -> Vec<(Duration, bool, usize)> {
    let begins = steps.iter().enumerate().map(|(index, step)| (step.began, false, index));
    let ends = steps.iter().enumerate().filter_map(|(index, step)| Some((step.ended?, true, index)));
    let mut events: Vec<_> = begins.chain(ends).collect();
    events.sort_unstable();
    events
}

fn search(steps: &[Step], from: impl IntoIterator<Item = State>) -> Result<(), Stuck> {
    let mut pending = BTreeSet::new();
    let mut now = Configurations::default();
    for state in from {
        now.insert(Configuration::new(state));
    }
    for (_, ends, step) in events(steps) {
        if !ends {
            pending.insert(step);
            if steps[step].effect.is_read() {
                let mut read = Configurations::default();
                for each in now.into_all() {
                    read.insert(read_now(each, steps, &pending));
                }
                now = read;
            }
            continue;
        }
        let states = now.states();
        now = after_end(now, step, steps, &pending);
        pending.remove(&step);
        if now.count == 0 {
            return Err(Stuck { step, states });
        }
    }
    Ok(())
}

/// What was read of a path, by whom first.
struct Read {
    /// By chunk: when the first answer was there that had it.
    first: HashMap<Chunk, Duration>,
}

impl Read {
    fn new(operations: &[&Operation]) -> Self {
        let mut first = HashMap::<Chunk, Duration>::new();
        for operation in operations {
            if let Outcome::Found(Some(content)) = &operation.outcome {
                for chunk in content {
                    let known = first.entry(*chunk).or_insert(operation.ended);
                    *known = operation.ended.min(*known);
                }
            }
        }
        Self { first }
    }
}

/// All that was read or asked for is known before anything is made of it.
fn all_states(operations: &[&Operation]) -> States {
    let mut states = States::default();
    for operation in operations {
        if let Outcome::Found(Some(content)) = &operation.outcome {
            states.of(content);
        }
        if let Some(Condition::Is(content)) = operation.action.condition() {
            states.of(content);
        }
    }
    states
}

fn steps(operations: &[&Operation], states: &mut States, mode: Mode) -> Vec<Step> {
    let read = Read::new(operations);
    let mut steps = Vec::new();
    for operation in operations {
        let Operation { number, began, ended, outcome, action, .. } = operation;
        let step = |effect, ended, required| Step { number: *number, began: *began, ended, required, effect };
        let is_read = match outcome {
            Outcome::Found(None) => Some(Effect::Reads(MISSING)),
            Outcome::Found(Some(content)) => Some(Effect::Reads(states.of(content))),
            Outcome::Exists => Some(Effect::Exists),
            Outcome::Nothing | Outcome::Tagged(_) | Outcome::Torn(_) => continue,
            Outcome::Done | Outcome::Within | Outcome::Later => None,
        };
        if let Some(effect) = is_read {
            steps.push(step(effect, Some(*ended), true));
            continue;
        }
        let needs = match action.condition() {
            None | Some(Condition::None) => Needs::Nothing,
            Some(Condition::Missing) => Needs::State(MISSING),
            Some(Condition::Is(content)) => Needs::State(states.of(content)),
        };
        let before = states.before.get(number).copied();
        let effect = match action {
            Action::Get | Action::Head => continue,
            Action::Put(_) if before.is_some() => Effect::Puts(needs, states.of(&[*number])),
            Action::Put(_) => Effect::Puts(needs, UNREAD),
            Action::Append(_) => match before {
                Some(before) => Effect::Appends(needs, before, states.made[&(before, *number)]),
                None => Effect::Puts(needs, UNREAD),
            },
            Action::Delete(_) => Effect::Deletes(needs),
        };
        // Whoever has read it knows that it is done, and since when at the latest.
        let seen = action.writes().then(|| read.first.get(number)).flatten().copied();
        let ended = match outcome {
            Outcome::Done => Some(*ended),
            Outcome::Within if mode == Mode::Strict => Some(seen.map_or(*ended, |seen| seen.min(*ended))),
            _ => seen,
        };
        steps.push(step(effect, ended, *outcome == Outcome::Done || seen.is_some()));
    }
    steps
}

/// As few steps as are found that have no order, whatever the file was before.
fn smallest(steps: &[Step], stuck: &Stuck, states: &[State]) -> Vec<Step> {
    let until = steps[stuck.step].ended.unwrap_or_default();
    let known: Vec<_> = steps.iter().filter(|step| step.began <= until).cloned().collect();
    let fails = |steps: &[Step]| search(steps, states.iter().copied()).is_err();
    // Moments at which nothing was under way but what may be for ever.
    let mut open = 0_usize;
    let mut quiescent = vec![Duration::ZERO];
    for (at, ends, step) in events(&known) {
        if known[step].ended.is_some() {
            open = if ends { open - 1 } else { open + 1 };
        }
        if ends && open == 0 && at < until {
            quiescent.push(at);
        }
    }
    let later = |cut: Duration| -> Vec<_> {
        let later = known.iter().filter(|step| step.ended.is_none() || step.began > cut || cut.is_zero());
        later.cloned().collect()
    };
    // Nothing before the first moment says that there was no file.
    let cut = quiescent.into_iter().rev().map(later).find(|window| fails(window));
    let mut window = cut.unwrap_or(known);
    // Whoever knows less of what was read finds an order more easily: without one, there is none with them.
    for at in (0..window.len()).rev() {
        if window[at].effect.is_read() {
            let left = window.remove(at);
            if !fails(&window) {
                window.insert(at, left);
            }
        }
    }
    window
}

/// Checks the operations of one path.
///
/// # Errors
/// [`Violation`]: they have no order.
pub fn check(operations: &[&Operation], mode: Mode) -> Result<(), Violation> {
    for operation in operations {
        if let Outcome::Torn(why) = &operation.outcome {
            let why = format!("operation {} has read what nobody has written: {why}", operation.number);
            return Err(Violation { why, window: vec![operation.number], related: vec![] });
        }
    }
    one_content_for_each_tag(operations)?;
    let mut states = all_states(operations);
    let steps = steps(operations, &mut states, mode);
    let Err(stuck) = search(&steps, [MISSING]) else { return Ok(()) };
    let window = smallest(&steps, &stuck, &states.possible(operations));
    let window: Vec<_> = window.iter().map(|step| step.number).collect();
    let number = steps[stuck.step].number;
    let possible: Vec<_> = stuck.states.iter().take(5).map(|state| states.shown(*state)).collect();
    let mut why = format!("operation {number} has no place in any order; before it ended there was");
    why += &format!(" {}", possible.join(", or "));
    for chunk in refused(operations, number) {
        match operations.iter().any(|operation| operation.number == chunk) {
            true => why += &format!("; operation {chunk}, which was refused, is done all the same"),
            false => why += &format!("; nobody has written chunk {chunk} to this path"),
        }
    }
    let related = related(operations, &window);
    Err(Violation { why, window, related })
}

/// What an operation has read although nobody says that it may have been written.
fn refused(operations: &[&Operation], number: Chunk) -> Vec<Chunk> {
    let mut found = operations.iter().filter(|operation| operation.number == number);
    let Some(Outcome::Found(Some(content))) = found.next().map(|operation| &operation.outcome) else { return vec![] };
    let is_refused = |chunk: &Chunk| {
        let mut writer = operations.iter().filter(|operation| operation.number == *chunk);
        writer.next().is_none_or(|writer| writer.outcome == Outcome::Nothing)
    };
    content.iter().copied().filter(is_refused).collect()
}

/// Who wrote what the window reads, who was the first to read what it writes, and the last ones before it of which nobody
/// knows whether they were done.
fn related(operations: &[&Operation], window: &[Chunk]) -> Vec<Chunk> {
    let mut by_end = operations.to_vec();
    by_end.sort_by_key(|operation| operation.ended);
    let mut related = BTreeSet::new();
    let until = by_end.iter().rev().find(|operation| window.contains(&operation.number)).map(|last| last.ended);
    let uncertain = by_end.iter().filter(|operation| {
        matches!(operation.outcome, Outcome::Within | Outcome::Later) && Some(operation.ended) < until
    });
    related.extend(uncertain.rev().take(MAX_UNCERTAIN).map(|operation| operation.number));
    for operation in operations.iter().filter(|operation| window.contains(&operation.number)) {
        if let Outcome::Found(Some(content)) = &operation.outcome {
            related.extend(content.last());
        }
        let reads = |other: &&&Operation| match &other.outcome {
            Outcome::Found(Some(content)) => content.contains(&operation.number),
            _ => false,
        };
        related.extend(by_end.iter().find(reads).map(|reader| reader.number));
    }
    related.retain(|number| !window.contains(number));
    related.into_iter().collect()
}

/// A tag that two contents have had is none.
fn one_content_for_each_tag(operations: &[&Operation]) -> Result<(), Violation> {
    let mut known = HashMap::<&str, (&[Chunk], Chunk)>::new();
    for operation in operations {
        if let (Some(tag), Outcome::Found(Some(content))) = (&operation.tag, &operation.outcome) {
            let (before, number) = *known.entry(tag).or_insert((content, operation.number));
            if before != content.as_slice() {
                let why = format!("the tag {tag} is that of {} and of {}", shown(before), shown(content));
                return Err(Violation { why, window: vec![number, operation.number], related: vec![] });
            }
        }
    }
    Ok(())
}

/// What a HEAD has told: of a tag that another answer had with the content, the content.
pub fn resolve(operations: &mut [Operation]) {
    let mut contents = HashMap::new();
    for operation in operations.iter() {
        let content = match (&operation.outcome, &operation.action) {
            (Outcome::Found(Some(content)), _) => content.clone(),
            (Outcome::Done, Action::Put(_)) => vec![operation.number],
            _ => continue,
        };
        if let Some(tag) = &operation.tag {
            contents.insert((operation.path.clone(), tag.clone()), content);
        }
    }
    for operation in operations {
        if let Outcome::Tagged(tag) = &operation.outcome {
            let content = contents.get(&(operation.path.clone(), tag.clone()));
            operation.outcome = content.map_or(Outcome::Exists, |content| Outcome::Found(Some(content.clone())));
        }
    }
}
