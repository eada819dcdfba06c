//! Does harm between the tasks and their targets, and to the tasks.

use std::{thread, time::Duration};

use nfs_lab::{Act, End, Relay, Way};

use super::{
    calls::{Failing, SEQUENCE, number, operations},
    client::History,
    cluster::{Cluster, Task},
    random::Random,
};

const NFS4ERR_DELAY: u32 = 10_008;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Nothing passes; when that ends, all that came meanwhile does.
    Hang,
    /// Connections end.
    Cut,
    /// And no new ones are taken for a while.
    Refuse,
    /// Everything comes later.
    Delay,
    /// SEQUENCE is answered with NFS4ERR_DELAY.
    DelayedSequence,
    /// Some operation within a call is, after those before it were done.
    DelayedOperation,
    /// The task is killed, and started again.
    Kill,
    /// A target is not in the list for a while.
    List,
}

/// A fault that there was.
#[derive(Debug)]
pub struct Done {
    pub fault: Fault,
    pub task: usize,
    /// Of the task; none: all of them, or the task itself.
    pub target: Option<usize>,
    pub began: Duration,
    pub ended: Duration,
}

/// Answers every call's SEQUENCE with NFS4ERR_DELAY.
pub fn delay_sequence(relay: &Relay) {
    relay.on_record(|way, record| match operations(record).first() {
        Some((SEQUENCE, _)) if way == Way::ToServer => Act::Answer(super::calls::refusal(record, NFS4ERR_DELAY)),
        _ => Act::Pass,
    });
}

/// Some calls are done up to an operation, which is answered with NFS4ERR_DELAY. A call that comes again, since its
/// connection was lost, ends at the same one.
fn delay_operations(relay: &Relay, seed: u64) {
    let mut failing = Failing::default();
    relay.on_record(move |way, record| {
        if way == Way::ToClient {
            return failing.answered(record);
        }
        let found = operations(record);
        let mut random = Random::new(seed, u64::from(number(record)));
        match found.first() {
            Some((SEQUENCE, _)) if found.len() > 1 && random.below(4) == 0 => {
                failing.stop(record, 1 + random.below(found.len() - 1), NFS4ERR_DELAY)
            }
            _ => Act::Pass,
        }
    });
}

fn is_over(history: &History, seconds: f64) -> bool {
    let until = history.now() + Duration::from_secs_f64(seconds);
    while history.now() < until && !history.is_over() {
        thread::sleep(Duration::from_millis(20));
    }
    history.is_over()
}

/// Does one fault, waits, and undoes it.
fn inflict(history: &History, task: &Task, relays: &[&Relay], fault: Fault, random: &mut Random) {
    let end = if random.below(2) == 0 { End::Fin } else { End::Reset };
    let long = random.choose(&[(3, (0.2, 1.0)), (3, (1.0, 3.0)), (2, (3.0, 8.0))]);
    let (long, short) = (random.between(long.0, long.1), random.between(0.2, 3.0));
    let seed = random.next();
    let delay = Duration::from_secs_f64(random.between(0.1, 1.0));
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
            relays.iter().for_each(|relay| relay.delay_round_trip(Duration::ZERO));
        }
        Fault::DelayedSequence | Fault::DelayedOperation => {
            for relay in relays {
                match fault {
                    Fault::DelayedSequence => delay_sequence(relay),
                    _ => delay_operations(relay, seed),
                }
            }
            is_over(history, long);
            relays.iter().for_each(|relay| relay.pass_records());
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

/// One fault after another of one task, until the history is over.
pub fn torment(history: &History, cluster: &Cluster, number: usize, seed: u64) -> Vec<Done> {
    let task = &cluster.tasks[number];
    let mut random = Random::new(seed, 1000 + number as u64);
    let mut all = Vec::new();
    loop {
        if is_over(history, random.between(0.2, 1.5)) {
            return all;
        }
        let fault = random.choose(&[
            (30, Fault::Hang),
            (12, Fault::Cut),
            (10, Fault::Refuse),
            (10, Fault::Delay),
            (10, Fault::DelayedSequence),
            (10, Fault::DelayedOperation),
            (10, Fault::Kill),
            (8, Fault::List),
        ]);
        let target = Some(random.below(task.relays.len())).filter(|_| random.below(4) > 0);
        let target = target.filter(|_| !matches!(fault, Fault::Kill | Fault::List));
        let relays = task.relays.iter().enumerate().filter(|(index, _)| target.is_none_or(|target| target == *index));
        let relays: Vec<_> = relays.map(|(_, relay)| relay).collect();
        let began = history.now();
        inflict(history, task, &relays, fault, &mut random);
        all.push(Done { fault, task: number, target, began, ended: history.now() });
    }
}
