//! Late writes, one case at a time: a write that a task gave up must not replace a newer content that another task has
//! acknowledged.

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

/// More than the slots of a session, so that some calls are sent and others wait.
const WRITES: usize = 100;
/// Number of slots of a session.
const MAX_CALLS: usize = 64;
/// A relay without traffic for this long has passed everything that waited. Leases are renewed less often.
const QUIET: Duration = Duration::from_millis(400);

/// Two tasks with one target each, without probes and without list refreshes. One worker, which has its connection.
fn two_tasks() -> Option<Cluster> {
    let cluster = Cluster::new(2, 1, &[("PROBE_SECONDS", "300"), ("REFRESH_SECONDS", "0"), ("WORKERS", "1")])?;
    for task in &cluster.tasks {
        assert_eq!(ask(task, &Request::get("/files/none")).status, 404);
    }
    Some(cluster)
}

fn ask(task: &Task, request: &Request) -> Answer {
    match exchange(task.address().unwrap(), request) {
        Reply::Answer(answer) => answer,
        Reply::NotSent | Reply::Lost(_) => panic!("no answer to {} {}", request.method, request.target),
    }
}

/// The outcome of a refusal, by the table of codes.
fn outcome(answer: &Answer) -> Outcome {
    let code = answer.code();
    CODES.iter().find(|(known, _)| *known == code).unwrap_or_else(|| panic!("{answer:?}")).1.clone()
}

fn path(number: usize) -> String {
    format!("/files/{number}")
}

/// Waits until a relay has had no traffic for a while.
fn settle(relay: &Relay) {
    let mut before = relay.counts();
    eventually("nothing goes to the server any more", || {
        thread::sleep(QUIET);
        let now = relay.counts();
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
}

/// The first task cannot complete its writes between `begin` and `end`. The second task writes to the same paths. At
/// the end every file has the content of the second task, except where the first task answered that its write may come
/// later.
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
    let late = (0..WRITES).filter(is_late).count();
    assert_eq!(late, 0, "newer contents of {WRITES} that late ones have replaced");
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

/// The client repeats an unacknowledged append with If-Match, which proves that the first one has not happened.
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
