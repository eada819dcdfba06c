//! Checks the operations of one path for linearizability (Herlihy and Wing, 1990): is there an order in which each
//! operation takes effect at one moment between its begin and its end?
//!
//! The algorithm is Lowe's just-in-time linearization ("Testing for linearizability", 2017), which extends Wing and
//! Gong's search. It visits begins and ends in order of time and keeps the set of all possible configurations. A
//! configuration is a state of the file and the set of pending operations that have taken effect. A write takes effect
//! only when the end of some operation requires it; a read takes effect as soon as the state matches. At a quiescent
//! moment a configuration is just a state, so the cost grows with the concurrency and not with the length of the
//! history.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use super::{
    content::Chunk,
    operation::{Action, Condition, Operation, Outcome, shown},
};

/// When an operation with [`Outcome::Within`] may take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Before its answer, or never.
    Strict,
    /// At any time after its begin.
    Lax,
}

/// Maximum number of configurations at one moment.
const MAX_CONFIGURATIONS: usize = 200_000;

/// Maximum number of uncertain operations shown with a violation.
const MAX_UNCERTAIN: usize = 3;

/// A state of the file.
type State = u32;
/// There is no file.
const MISSING: State = 0;
/// The file has a chunk that no answer shows. All such contents are one state: no answer distinguishes them.
const UNREAD: State = 1;
const FIRST_READ: State = 2;

/// A proof that no order exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub err: String,
    /// A small set of operations that has no order, whatever the state was before.
    pub window: Vec<Chunk>,
    /// Writers of what the window reads, first readers of what it writes, and uncertain operations before it.
    pub related: Vec<Chunk>,
}

/// Precondition and effect of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    ReadFuture(State),
    Exists,
    Puts(Needs, State),
    /// Changes the first state into the second; applies to no other state.
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
        matches!(self, Self::ReadFuture(_) | Self::Exists)
    }

    /// The next state; `None` if the operation cannot take effect in this state.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Self::ReadFuture(found) => (found == state).then_some(state),
            Self::Exists => (state != MISSING).then_some(state),
            Self::Puts(needs, made) => needs.allow(state).then_some(made),
            Self::Appends(needs, of, made) => (needs.allow(state) && of == state).then_some(made),
            Self::Deletes(needs) => (state != MISSING && needs.allow(state)).then_some(MISSING),
        }
    }
}

/// An operation in the search.
#[derive(Clone, Debug)]
struct Step {
    number: Chunk,
    began: Duration,
    /// `None`: the operation may take effect at any time after its begin.
    ended: Option<Duration>,
    /// Whether the operation must take effect before its end.
    required: bool,
    effect: Effect,
}

impl Step {
    /// Two optional operations without an end and with the same effect are interchangeable.
    fn is_as_good_as(&self, other: &Self) -> bool {
        let is_free = |step: &Self| step.ended.is_none() && !step.required;
        is_free(self) && is_free(other) && self.effect == other.effect
    }
}

/// The states of one path: each content that an answer shows, and its prefixes.
#[derive(Default)]
struct States {
    made: HashMap<(State, Chunk), State>,
    /// The state before a chunk was written, by chunk.
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

    /// States of which some operation may have written every chunk.
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

/// A state and the pending operations that have taken effect, required and optional ones.
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

/// A set of configurations. It drops a configuration that uses a superset of the optional operations of an equal one.
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

/// The operation at whose end no configuration is left.
struct Stuck {
    step: usize,
    /// The possible states just before that end.
    states: BTreeSet<State>,
}

/// Lets every pending read take effect that matches the state: this never excludes an order.
fn read_now(mut configuration: Configuration, steps: &[Step], pending: &BTreeSet<usize>) -> Configuration {
    for step in pending {
        let effect = steps[*step].effect;
        if effect.is_read() && !configuration.has(*step) && effect.apply(configuration.state).is_some() {
            configuration = configuration.with(*step, steps[*step].required, configuration.state);
        }
    }
    configuration
}

/// The configurations after the end of a step, from those before it.
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

/// Begins and ends in order of time; begins come first at the same time.
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

/// When each chunk was first read.
struct Read {
    /// The end of the first operation that read the chunk.
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

/// Registers every content that an answer or a condition shows.
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
            Outcome::Found(None) => Some(Effect::ReadFuture(MISSING)),
            Outcome::Found(Some(content)) => Some(Effect::ReadFuture(states.of(content))),
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
        // A reader proves that the write took effect, and gives a bound for the time.
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

/// A small set of steps that has no order, whatever the state was before.
fn smallest(steps: &[Step], stuck: &Stuck, states: &[State]) -> Vec<Step> {
    let until = steps[stuck.step].ended.unwrap_or_default();
    let known: Vec<_> = steps.iter().filter(|step| step.began <= until).cloned().collect();
    let fails = |steps: &[Step]| search(steps, states.iter().copied()).is_err();
    // Moments at which no operation with an end is pending.
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
    let cut = quiescent.into_iter().rev().map(later).find(|window| fails(window));
    let mut window = cut.unwrap_or(known);
    // Removing a read only removes a constraint: if there is still no order, the read is not needed for the proof.
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
        if let Outcome::Torn(err) = &operation.outcome {
            let err = format!("operation {} has read what nobody has written: {err}", operation.number);
            return Err(Violation { err, window: vec![operation.number], related: vec![] });
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
    let mut err = format!("operation {number} has no place in any order; before it ended there was");
    err += &format!(" {}", possible.join(", or "));
    for chunk in refused(operations, number) {
        match operations.iter().any(|operation| operation.number == chunk) {
            true => err += &format!("; operation {chunk}, which was refused, is done all the same"),
            false => err += &format!("; nobody has written chunk {chunk} to this path"),
        }
    }
    let related = related(operations, &window);
    Err(Violation { err, window, related })
}

/// Chunks that an operation read although no operation may have written them.
fn refused(operations: &[&Operation], number: Chunk) -> Vec<Chunk> {
    let mut found = operations.iter().filter(|operation| operation.number == number);
    let Some(Outcome::Found(Some(content))) = found.next().map(|operation| &operation.outcome) else { return vec![] };
    let is_refused = |chunk: &Chunk| {
        let mut writer = operations.iter().filter(|operation| operation.number == *chunk);
        writer.next().is_none_or(|writer| writer.outcome == Outcome::Nothing)
    };
    content.iter().copied().filter(is_refused).collect()
}

/// Writers of what the window reads, first readers of what it writes, and the last uncertain operations before it.
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

/// A strong tag must not name two contents.
fn one_content_for_each_tag(operations: &[&Operation]) -> Result<(), Violation> {
    let mut known = HashMap::<&str, (&[Chunk], Chunk)>::new();
    for operation in operations {
        if let (Some(tag), Outcome::Found(Some(content))) = (&operation.tag, &operation.outcome) {
            let (before, number) = *known.entry(tag).or_insert((content, operation.number));
            if before != content.as_slice() {
                let err = format!("the tag {tag} is that of {} and of {}", shown(before), shown(content));
                return Err(Violation { err, window: vec![number, operation.number], related: vec![] });
            }
        }
    }
    Ok(())
}

/// Replaces the tag of each HEAD by the content that another answer shows with that tag.
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
