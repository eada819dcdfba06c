//! Injects faults between tasks and mount targets, and kills tasks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nfs_lab::{Action, Direction, End, Relay};

use super::{
    calls::{Failing, SEQUENCE, operations},
    client::History,
    cluster::{Cluster, Task},
    random::Random,
};

const NFS4ERR_DELAY: u32 = 10_008;
/// Maximum round trip without a fault, as between zones. It makes operations of several tasks overlap.
const MAX_ROUND_TRIP_SECONDS: f64 = 0.008;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The relay passes nothing. When the hang ends, it passes everything that arrived meanwhile.
    Hang,
    /// All connections end.
    Cut,
    /// All connections end, and the relay refuses new ones for a while.
    Refuse,
    /// The round trip takes longer.
    Delay,
    /// [`Calls::DelaySequence`]
    DelayedSequence,
    /// [`Calls::DelayOperation`]
    DelayedOperation,
    /// SIGKILL ends the task, and it starts again.
    Kill,
    /// The published list lacks one target for a while.
    List,
}

/// A fault that was injected.
#[derive(Debug)]
pub struct Done {
    pub fault: Fault,
    pub task: usize,
    /// Number of the target. `None` means all targets, or the task itself.
    pub target: Option<usize>,
    pub began: Duration,
    pub ended: Duration,
}

/// How a relay treats calls that begin with SEQUENCE.
#[derive(Clone, Copy, Debug, Default)]
pub enum Calls {
    #[default]
    Pass,
    /// The relay answers each call with NFS4ERR_DELAY. The server does not see the call.
    DelaySequence,
    /// The server executes the first operations of some calls; the next operation fails with NFS4ERR_DELAY.
    DelayOperation,
}

/// Installs a hook at a relay. The returned value sets what the hook does.
pub fn intercept(relay: &Relay, mut random: Random) -> Arc<Mutex<Calls>> {
    let calls = Arc::new(Mutex::new(Calls::Pass));
    let set = Arc::clone(&calls);
    let mut failing = Failing::default();
    // By session, slot and sequence number: a retransmitted call stops at the same operation.
    let mut stopped = HashMap::<Vec<u8>, usize>::new();
    relay.on_record(move |way, record| {
        if way == Direction::ToClient {
            return failing.answered(record);
        }
        let found = operations(record);
        let Some((SEQUENCE, at)) = found.first().copied() else { return Action::Pass };
        let call = record[at + 4..at + 28].to_vec();
        let operation = match (stopped.get(&call), *set.lock().unwrap()) {
            (Some(operation), _) => *operation,
            (None, Calls::DelaySequence) => 0,
            (None, Calls::DelayOperation) if found.len() > 1 && random.below(4) == 0 => {
                1 + random.below(found.len() - 1)
            }
            _ => return Action::Pass,
        };
        if operation > 0 {
            stopped.insert(call, operation);
        }
        failing.stop(record, operation, NFS4ERR_DELAY)
    });
    calls
}

fn is_over(history: &History, seconds: f64) -> bool {
    let until = history.now() + Duration::from_secs_f64(seconds);
    while history.now() < until && !history.is_over() {
        thread::sleep(Duration::from_millis(20));
    }
    history.is_over()
}

/// A relay with its hook.
struct Victim<'a> {
    relay: &'a Relay,
    calls: Arc<Mutex<Calls>>,
}

impl<'a> Victim<'a> {
    fn new(relay: &'a Relay, random: &mut Random) -> Self {
        relay.delay_round_trip(usual_round_trip(random));
        Self { relay, calls: intercept(relay, Random::new(random.next(), 0)) }
    }
}

fn usual_round_trip(random: &mut Random) -> Duration {
    Duration::from_secs_f64(random.between(0.0, MAX_ROUND_TRIP_SECONDS))
}

/// Injects a fault, waits, and ends it.
fn inflict(history: &History, task: &Task, victims: &[&Victim<'_>], fault: Fault, random: &mut Random) {
    let relays: Vec<_> = victims.iter().map(|victim| victim.relay).collect();
    let end = if random.below(2) == 0 { End::Fin } else { End::Reset };
    let long = random.choose(&[(3, (0.2, 1.0)), (3, (1.0, 3.0)), (2, (3.0, 8.0))]);
    let (long, short) = (random.between(long.0, long.1), random.between(0.2, 3.0));
    let delay = Duration::from_secs_f64(random.choose(&[(1, 0.02), (1, 0.1), (1, 0.4), (1, 1.0)]));
    match fault {
        Fault::Hang => {
            relays.iter().for_each(|relay| relay.hang(true));
            is_over(history, long);
            relays.iter().for_each(|relay| relay.hang(false));
        }
        Fault::Cut => relays.iter().for_each(|relay| relay.cut(end)),
        Fault::Refuse => {
            relays.iter().for_each(|relay| relay.refuse(true));
            relays.iter().for_each(|relay| relay.cut(end));
            is_over(history, short);
            relays.iter().for_each(|relay| relay.refuse(false));
        }
        Fault::Delay => {
            relays.iter().for_each(|relay| relay.delay_round_trip(delay));
            is_over(history, short);
            for relay in &relays {
                relay.delay_round_trip(usual_round_trip(random));
            }
        }
        Fault::DelayedSequence | Fault::DelayedOperation => {
            let set = match fault {
                Fault::DelayedSequence => Calls::DelaySequence,
                _ => Calls::DelayOperation,
            };
            victims.iter().for_each(|victim| *victim.calls.lock().unwrap() = set);
            is_over(history, long);
            victims.iter().for_each(|victim| *victim.calls.lock().unwrap() = Calls::Pass);
        }
        Fault::Kill => {
            task.kill();
            is_over(history, short / 3.0);
            task.start();
        }
        Fault::List => {
            let out = random.below(task.relays.len());
            task.publish(|target| target != out);
            is_over(history, short);
            task.publish(|_| true);
        }
    }
}

/// Injects one fault after another into one task until the history is over.
pub fn torment(history: &History, cluster: &Cluster, number: usize, seed: u64) -> Vec<Done> {
    let task = &cluster.tasks[number];
    let mut random = Random::new(seed, 1000 + number as u64);
    let victims: Vec<_> = task.relays.iter().map(|relay| Victim::new(relay, &mut random)).collect();
    let mut all = Vec::new();
    loop {
        if is_over(history, random.between(0.2, 1.5)) {
            return all;
        }
        let fault = random.choose(&[
            (30, Fault::Hang),
            (12, Fault::Cut),
            (10, Fault::Refuse),
            (15, Fault::Delay),
            (10, Fault::DelayedSequence),
            (10, Fault::DelayedOperation),
            (10, Fault::Kill),
            (8, Fault::List),
        ]);
        let target = Some(random.below(task.relays.len())).filter(|_| random.below(4) > 0);
        let target = target.filter(|_| !matches!(fault, Fault::Kill | Fault::List));
        let chosen = victims.iter().enumerate().filter(|(index, _)| target.is_none_or(|target| target == *index));
        let chosen: Vec<_> = chosen.map(|(_, victim)| victim).collect();
        let began = history.now();
        inflict(history, task, &chosen, fault, &mut random);
        all.push(Done { fault, task: number, target, began, ended: history.now() });
    }
}
