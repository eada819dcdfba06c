//! What is done late, one case at a time: a write that a task could not bring to an end must not come over a newer one
//! that another task has acknowledged.

use std::{fs, thread, time::Duration};

use nfs_lab::Relay;

use super::{
    CODES,
    client::{Reply, exchange},
    cluster::{Cluster, DEADLINE, Task},
    common::{Answer, Request, eventually},
    nemesis::{Calls, intercept},
    operation::Outcome,
    random::Random,
};

/// More than a session has slots, so that some calls are sent and some wait.
const WRITES: usize = 100;
/// Slots of a session.
const MAX_CALLS: usize = 64;
/// Nothing has gone to the server for so long: nothing is to come any more.
const QUIET: Duration = Duration::from_secs(2);

/// Two tasks with one target each. No probe and no other list disturbs them.
fn two_tasks() -> Option<Cluster> {
    Cluster::new(2, 1, &[("PROBE_SECONDS", "300"), ("REFRESH_SECONDS", "0")])
}

fn ask(task: &Task, request: &Request) -> Answer {
    match exchange(task.address().unwrap(), request) {
        Reply::Answer(answer) => answer,
        Reply::NotSent | Reply::Lost(_) => panic!("no answer to {} {}", request.method, request.target),
    }
}

/// What the table says of a refusal.
fn outcome(answer: &Answer) -> Outcome {
    let code = answer.code();
    CODES.iter().find(|(known, _)| *known == code).unwrap_or_else(|| panic!("{answer:?}")).1.clone()
}

fn path(number: usize) -> String {
    format!("/files/{number}")
}

/// Waits until nothing has gone through a relay for a while.
fn settle(relay: &Relay) {
    let mut before = relay.counts();
    eventually("nothing goes to the server any more", || {
        thread::sleep(QUIET);
        let now = relay.counts();
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
}

/// The first task cannot end its writes while this is so; the second one writes to the same paths. Afterwards, every file
/// is as the second one has left it, but for those of which the first one has said that they may come later.
fn nothing_is_late(begin: impl Fn(&Relay), end: impl Fn(&Relay)) {
    let Some(cluster) = two_tasks() else { return };
    let [first, second] = &cluster.tasks[..] else { unreachable!() };
    for number in 0..WRITES {
        assert_eq!(ask(second, &Request::put(&path(number), "old")).status, 201);
    }
    begin(&first.relays[0]);
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let write = |number| scope.spawn(move || outcome(&ask(first, &Request::put(&path(number), "late"))));
        let writes: Vec<_> = (0..WRITES).map(write).collect();
        writes.into_iter().map(|write| write.join().unwrap()).collect()
    });
    for number in 0..WRITES {
        assert_eq!(ask(second, &Request::put(&path(number), "newer")).status, 204);
    }
    end(&first.relays[0]);
    settle(&first.relays[0]);
    let read = |number: usize| fs::read_to_string(cluster.server.directory().join(number.to_string())).unwrap();
    let is_late = |number: &usize| outcomes[*number] != Outcome::Later && read(*number) != "newer";
    let late: Vec<_> = (0..WRITES).filter(is_late).map(|number| (number, read(number))).collect();
    assert!(late.is_empty(), "{} of {WRITES} newer contents are covered by late ones: {late:?}", late.len());
    let pending = outcomes.iter().filter(|outcome| **outcome == Outcome::Later).count();
    assert!(pending <= MAX_CALLS, "{pending} writes may come later, of which {MAX_CALLS} can have been sent");
}

#[test]
fn a_write_that_was_given_up_while_its_target_hung_does_not_cover_a_newer_one() {
    nothing_is_late(|relay| relay.hang(true), |relay| relay.hang(false));
}

#[test]
fn a_write_that_was_given_up_while_the_server_said_delay_does_not_cover_a_newer_one() {
    nothing_is_late(
        |relay| *intercept(relay, Random::new(0, 0)).lock().unwrap() = Calls::DelaySequence,
        |relay| relay.pass_records(),
    );
}

/// One of two appends is not acknowledged, and it is repeated on the condition that it was not done.
#[test]
fn an_append_that_was_given_up_is_not_done_after_it_was_repeated() {
    let Some(cluster) = two_tasks() else { return };
    let [first, second] = &cluster.tasks[..] else { unreachable!() };
    let path = "/files/log";
    assert_eq!(ask(second, &Request::append(path, "one")).status, 201);
    let relay = &first.relays[0];
    relay.hang(true);
    let given_up = ask(first, &Request::append(path, " two"));
    assert_eq!(given_up.status, 504, "{given_up:?}");
    let read = ask(second, &Request::get(path));
    assert_eq!(read.body, b"one");
    let repeated = ask(second, &Request::append(path, " two").header("if-match", read.tag()));
    assert_eq!(repeated.status, 204, "{repeated:?}");
    relay.hang(false);
    settle(relay);
    thread::sleep(DEADLINE);
    let content = ask(second, &Request::get(path)).body;
    if outcome(&given_up) != Outcome::Later {
        assert_eq!(String::from_utf8_lossy(&content), "one two");
    }
}
