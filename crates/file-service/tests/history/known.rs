//! Tests of the checker with histories whose result is known.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    checker::{Mode, Violation, check, resolve},
    content::Chunk,
    operation::{Action, Condition, Content, Operation, Outcome},
};

fn operation(number: Chunk, began: u64, ended: u64, action: Action, outcome: Outcome) -> Operation {
    let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
    let (path, answer) = ("a".to_owned(), String::new());
    Operation { number, client: 0, task: 0, path, action, began, ended, outcome, tag: None, answer }
}

fn put(number: Chunk, began: u64, ended: u64, outcome: Outcome) -> Operation {
    operation(number, began, ended, Action::Put(Condition::None), outcome)
}

fn append(number: Chunk, began: u64, ended: u64, outcome: Outcome) -> Operation {
    operation(number, began, ended, Action::Append(Condition::None), outcome)
}

fn delete(number: Chunk, began: u64, ended: u64, outcome: Outcome) -> Operation {
    operation(number, began, ended, Action::Delete(Condition::None), outcome)
}

fn get(number: Chunk, began: u64, ended: u64, content: &[Chunk]) -> Operation {
    operation(number, began, ended, Action::Get, Outcome::Found(Some(content.to_vec())))
}

fn none(number: Chunk, began: u64, ended: u64) -> Operation {
    operation(number, began, ended, Action::Get, Outcome::Found(None))
}

fn checked(mode: Mode, operations: &[Operation]) -> Result<(), Violation> {
    check(&operations.iter().collect::<Vec<_>>(), mode)
}

/// The history has an order in both modes.
fn good(operations: &[Operation]) {
    assert_eq!(checked(Mode::Strict, operations), Ok(()));
    assert_eq!(checked(Mode::Lax, operations), Ok(()));
}

/// The history has no order in either mode, and the window shows it.
fn bad(operations: &[Operation], window: &[Chunk]) {
    for mode in [Mode::Strict, Mode::Lax] {
        let violation = checked(mode, operations).expect_err("a history without an order");
        assert_eq!(violation.window, window, "{mode:?}: {violation:?}");
    }
}

/// The history has an order only in the lax mode.
fn late(operations: &[Operation], window: &[Chunk]) {
    assert_eq!(checked(Mode::Lax, operations), Ok(()));
    let violation = checked(Mode::Strict, operations).expect_err("a history without an order");
    assert_eq!(violation.window, window, "{violation:?}");
}

use Outcome::{Done, Exists, Later, Nothing, Within};

#[test]
fn one_after_another() {
    good(&[
        none(1, 0, 1),
        put(2, 2, 3, Done),
        get(3, 4, 5, &[2]),
        delete(4, 6, 7, Done),
        none(5, 8, 9),
        append(6, 10, 11, Done),
        append(7, 12, 13, Done),
        get(8, 14, 15, &[6, 7]),
    ]);
}

#[test]
fn what_is_done_at_once_may_be_read_in_any_order_but_in_one_only() {
    let both = |reads: &[Operation]| [&[put(1, 0, 10, Done), put(2, 0, 10, Done)], reads].concat();
    good(&both(&[get(3, 11, 12, &[1]), get(4, 13, 14, &[1])]));
    good(&both(&[get(3, 1, 9, &[2]), get(4, 11, 14, &[1])]));
    bad(&both(&[get(3, 11, 12, &[1]), get(4, 13, 14, &[2])]), &[3, 4]);
}

#[test]
fn a_late_write_over_a_newer_one_that_was_acknowledged() {
    let history =
        |first| [put(1, 0, 10, first), put(2, 11, 12, Done), get(3, 13, 14, &[2]), get(4, 20, 21, &[1])].to_vec();
    late(&history(Within), &[3, 4]);
    good(&history(Later));
    // And if nobody has looked in between.
    let history = |first| [put(1, 0, 10, first), put(2, 11, 12, Done), get(4, 20, 21, &[1])].to_vec();
    late(&history(Within), &[2, 4]);
    bad(&history(Done), &[2, 4]);
    good(&history(Later));
    // What is uncertain may be done before its answer, or never.
    good(&[put(1, 0, 10, Within), put(2, 11, 12, Done), get(3, 13, 14, &[2])]);
    good(&[put(1, 0, 1, Done), put(2, 2, 10, Within), get(3, 3, 4, &[1]), get(4, 11, 12, &[2])]);
    good(&[put(1, 0, 1, Done), put(2, 2, 10, Within), get(3, 3, 4, &[1]), get(4, 11, 12, &[1])]);
}

#[test]
fn a_late_delete() {
    let history =
        |deleted| [put(1, 0, 1, Done), delete(2, 2, 10, deleted), put(3, 11, 12, Done), none(4, 20, 21)].to_vec();
    late(&history(Within), &[3, 4]);
    good(&history(Later));
    bad(&history(Nothing), &[3, 4]);
}

#[test]
fn a_write_that_was_acknowledged_is_lost() {
    bad(&[put(1, 0, 1, Done), put(2, 2, 3, Done), get(3, 4, 5, &[1])], &[2, 3]);
    bad(&[put(1, 0, 1, Done), none(2, 2, 3)], &[1, 2]);
    bad(&[append(1, 0, 1, Done), append(2, 2, 3, Done), append(3, 4, 5, Done), get(4, 6, 7, &[1, 3])], &[2, 3]);
}

#[test]
fn what_was_refused_is_there_all_the_same() {
    let history = [put(1, 0, 1, Done), put(2, 2, 3, Nothing), get(3, 4, 5, &[2])];
    let violation = checked(Mode::Lax, &history).unwrap_err();
    assert!(violation.err.contains("operation 2, which was refused, is done all the same"), "{violation:?}");
    assert_eq!((violation.window, violation.related), (vec![3], vec![2]));
    let violation = checked(Mode::Lax, &[get(1, 0, 1, &[9])]).unwrap_err();
    assert!(violation.err.contains("nobody has written chunk 9"), "{violation:?}");
}

#[test]
fn a_content_is_torn() {
    let torn = operation(2, 2, 3, Action::Get, Outcome::Torn("half".to_owned()));
    bad(&[put(1, 0, 1, Done), torn], &[2]);
}

#[test]
fn an_append_is_done_twice() {
    let twice = get(3, 20, 21, &[1, 2, 2]);
    for outcome in [Done, Within, Later] {
        let history = [append(1, 0, 1, Done), append(2, 2, 3, outcome), twice.clone()];
        for mode in [Mode::Strict, Mode::Lax] {
            let violation = checked(mode, &history).unwrap_err();
            assert!(violation.err.starts_with("operation 3 has no place in any order"), "{violation:?}");
        }
    }
    // Once each; that of which nobody knew comes late.
    let again = Action::Append(Condition::Is(vec![1]));
    let again = operation(3, 11, 12, again, Done);
    late(&[append(1, 0, 1, Done), append(2, 2, 10, Within), again, get(4, 20, 21, &[1, 3, 2])], &[1, 2]);
}

#[test]
fn a_read_is_stale() {
    let history = [put(1, 0, 1, Done), put(2, 2, 5, Done), get(3, 6, 7, &[2]), get(4, 8, 9, &[1])];
    bad(&history, &[3, 4]);
    // Before the write has ended, it is not.
    good(&[put(1, 0, 1, Done), put(2, 2, 9, Done), get(3, 3, 4, &[1]), get(4, 5, 6, &[2])]);
    bad(&[put(1, 0, 1, Done), put(2, 2, 9, Done), get(3, 3, 4, &[2]), get(4, 5, 6, &[1])], &[2, 3, 4]);
    // Of a log: what was there is there no more.
    let history = [append(1, 0, 1, Done), append(2, 2, 9, Done), get(3, 3, 4, &[1, 2]), get(4, 5, 6, &[1])];
    bad(&history, &[2, 3, 4]);
}

#[test]
fn conditions() {
    let create = |number, began, outcome| operation(number, began, began + 1, Action::Put(Condition::Missing), outcome);
    let update = |number, began, outcome, is: &[Chunk]| {
        operation(number, began, began + 1, Action::Put(Condition::Is(is.to_vec())), outcome)
    };
    good(&[create(1, 0, Done), create(2, 2, Exists), update(3, 4, Done, &[1]), get(4, 6, 7, &[3])]);
    bad(&[create(1, 0, Done), create(2, 2, Done)], &[1, 2]);
    bad(&[create(1, 0, Exists)], &[1]);
    // Two that were sure of the same content.
    bad(&[create(1, 0, Done), update(2, 2, Done, &[1]), update(3, 4, Done, &[1])], &[2, 3]);
    good(&[create(1, 0, Done), update(2, 2, Within, &[1]), update(3, 4, Done, &[1]), get(4, 6, 7, &[3])]);
    bad(&[create(1, 0, Done), update(2, 2, Within, &[1]), update(3, 4, Done, &[1]), get(4, 6, 7, &[2])], &[2, 3]);
    // Done, or not done, an uncertain one is behind what an answer says of the file.
    good(&[put(1, 0, 5, Within), create(2, 6, Exists), delete(3, 8, 9, Done), create(4, 10, Done)]);
    bad(&[put(1, 0, 5, Later), create(2, 6, Exists), delete(3, 8, 9, Done), create(4, 10, Exists)], &[1, 2, 3, 4]);
    good(&[put(1, 0, 5, Later), delete(3, 8, 9, Done), put(4, 12, 13, Later), create(5, 14, Exists)]);
}

#[test]
fn a_tag_has_one_content() {
    let tagged = |operation: Operation| Operation { tag: Some("\"t\"".to_owned()), ..operation };
    let history = [append(1, 0, 1, Done), tagged(get(2, 2, 3, &[1])), append(3, 4, 5, Done)];
    let violation = checked(Mode::Lax, &[&history[..], &[tagged(get(4, 6, 7, &[1, 3]))]].concat()).unwrap_err();
    assert_eq!(violation.window, [2, 4]);
    // And so a HEAD says which one there is.
    let head = |number| operation(number, 8, 9, Action::Head, Outcome::Tagged("\"t\"".to_owned()));
    let mut history = [history.to_vec(), vec![head(4)]].concat();
    resolve(&mut history);
    bad(&history, &[3, 4]);
}

#[test]
fn many_at_once_take_no_time() {
    let mut history = Vec::new();
    // Eight always at once, of a file and of a log, and some for ever.
    for number in 0..4000_u32 {
        let began = u64::from(number) * 10;
        history.push(put(number + 1, began, began + 85, if number % 40 == 0 { Later } else { Done }));
    }
    for number in 0..4000_u32 {
        let began = u64::from(number) * 10 + 5;
        // What was last to begin before it, and is not one of those that may never be done.
        let last = (1..=number + 1).rev().find(|number| (number - 1) % 40 != 0).unwrap_or(2);
        history.push(get(10_000 + number, began, began + 3, &[last.max(2)]));
    }
    history.retain(|operation| operation.number != 10_000);
    good(&history);
    let content: Vec<Chunk> = (1..=4000).collect();
    let mut log: Vec<_> = content
        .iter()
        .map(|number| append(*number, u64::from(*number) * 10, u64::from(*number) * 10 + 85, Done))
        .collect();
    log.push(get(5000, 50_000, 50_001, &content));
    good(&log);
}

/// Executes operations one after another on a model of a file.
fn simulated(choices: &[(u8, u8)]) -> Vec<(Action, Outcome)> {
    let mut state: Content = None;
    let mut done = Vec::new();
    for (number, (action, detail)) in (1..).zip(choices) {
        let condition = match (detail % 4, &state) {
            (0, _) => Condition::Missing,
            (1, Some(state)) => Condition::Is(state.clone()),
            _ => Condition::None,
        };
        let fails = condition == Condition::Missing && state.is_some();
        let (action, outcome) = match action % 5 {
            0 | 1 => (Action::Get, Outcome::Found(state.clone())),
            2 if fails => (Action::Put(condition), Exists),
            2 => {
                state = Some(vec![number]);
                (Action::Put(condition), Done)
            }
            3 => {
                state.get_or_insert_default().push(number);
                let condition = if condition == Condition::Missing { Condition::None } else { condition };
                (Action::Append(condition), Done)
            }
            _ => {
                let outcome = if state.take().is_some() { Done } else { Outcome::Found(None) };
                (Action::Delete(Condition::None), outcome)
            }
        };
        done.push((action, outcome));
    }
    done
}

/// Each operation takes effect at its own moment, ten milliseconds after the one before, within an interval around it.
fn around(done: Vec<(Action, Outcome)>, lengths: &[(u64, u64)]) -> Vec<Operation> {
    let at = |(index, (action, outcome)): (usize, (Action, Outcome))| {
        let ((before, after), moment) = (lengths[index % lengths.len()], 1000 + 10 * index as u64);
        operation(index as Chunk + 1, moment - before, moment + after, action, outcome)
    };
    done.into_iter().enumerate().map(at).collect()
}

/// Makes the outcome of some changes uncertain.
fn with_uncertain(mut history: Vec<Operation>, which: &[u8]) -> Vec<Operation> {
    for (operation, which) in history.iter_mut().zip(which) {
        if operation.outcome == Done {
            operation.outcome = match which % 8 {
                0 => Within,
                1 => Later,
                _ => Done,
            };
        }
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_has_an_order_passes(
        choices in prop::collection::vec(any::<(u8, u8)>(), 1..60),
        lengths in prop::collection::vec((0_u64..60, 0_u64..60), 60),
        which in prop::collection::vec(any::<u8>(), 60),
    ) {
        good(&around(simulated(&choices), &[(0, 0)]));
        let history = around(simulated(&choices), &lengths);
        good(&history);
        good(&with_uncertain(history, &which));
    }

    #[test]
    fn a_read_of_anything_else_fails(
        choices in prop::collection::vec(any::<(u8, u8)>(), 2..60),
        which in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
    ) {
        let mut done = simulated(&choices);
        let contents: Vec<Content> = done.iter().filter_map(|(_, outcome)| match outcome {
            Outcome::Found(content) => Some(content.clone()),
            _ => None,
        }).chain([None, Some(vec![9999])]).collect();
        let reads: Vec<_> = (0..done.len()).filter(|at| done[*at].0 == Action::Get).collect();
        prop_assume!(!reads.is_empty());
        let (at, content) = (*which.get(&reads), other.get(&contents));
        prop_assume!(done[at].1 != Outcome::Found(content.clone()));
        done[at].1 = Outcome::Found(content.clone());
        let history = around(done, &[(1, 1)]);
        prop_assert!(checked(Mode::Strict, &history).is_err());
        prop_assert!(checked(Mode::Lax, &history).is_err());
    }

    #[test]
    fn a_change_that_is_left_out_fails_where_it_was_read(
        choices in prop::collection::vec(any::<(u8, u8)>(), 2..60),
        which in any::<prop::sample::Index>(),
    ) {
        let history = around(simulated(&choices), &[(1, 1)]);
        let read = |number: Chunk| history.iter().any(|operation| {
            matches!(&operation.outcome, Outcome::Found(Some(content)) if content.contains(&number))
        });
        let is_read_write = |operation: &&Operation| operation.action.writes() && read(operation.number);
        let written: Vec<_> = history.iter().filter(is_read_write).collect();
        prop_assume!(!written.is_empty());
        let number = which.get(&written).number;
        let mut history = history.clone();
        for operation in history.iter_mut().filter(|operation| operation.number == number) {
            operation.outcome = Nothing;
        }
        prop_assert!(checked(Mode::Strict, &history).is_err());
        prop_assert!(checked(Mode::Lax, &history).is_err());
    }
}
