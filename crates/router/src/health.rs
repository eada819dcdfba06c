//! Whether a target works, as its prober sees it: never by what a request met, and never by one answer alone.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// So many probes in a row must fail before a target is left out.
const FALL: u32 = 2;
/// So many must succeed before one that was left out comes back.
const RISE: u32 = 2;

/// Of one target.
#[derive(Debug, Default)]
pub struct Health {
    up: AtomicBool,
    judged: Mutex<Judged>,
}

#[derive(Debug, Default)]
struct Judged {
    /// Probes in a row that say the opposite of `up`.
    against: u32,
    probed: bool,
    why: Option<String>,
}

/// What a probe has changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    Up,
    Down,
}

impl Health {
    /// May paths be sent to it?
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Why the last probe failed; `None` when it did not.
    pub fn why(&self) -> Option<String> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner).why.clone()
    }

    /// Takes the answer of a probe; the first one counts by itself.
    pub(crate) fn probed(&self, answer: Result<(), String>) -> Option<Change> {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let (up, answers) = (self.is_up(), answer.is_ok());
        judged.why = answer.err();
        judged.against = if answers == up { 0 } else { judged.against + 1 };
        let enough = if !judged.probed {
            1
        } else if up {
            FALL
        } else {
            RISE
        };
        judged.probed = true;
        if judged.against < enough {
            return None;
        }
        judged.against = 0;
        self.up.store(answers, Ordering::Relaxed);
        Some(if answers { Change::Up } else { Change::Down })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_changes_nothing_but_the_first() {
        let health = Health::default();
        let mut told = Vec::new();
        for answer in "yynynnynynyyny".chars() {
            let change = health.probed(if answer == 'y' { Ok(()) } else { Err("no".to_owned()) });
            told.push(match change {
                Some(Change::Up) => 'U',
                Some(Change::Down) => 'D',
                None => '.',
            });
        }
        assert_eq!(told.iter().collect::<String>(), "U....D.....U..");
        assert!(health.is_up());
        let health = Health::default();
        assert_eq!(health.probed(Err("no".to_owned())), None);
        assert_eq!(health.probed(Ok(())), None);
        assert_eq!(health.probed(Ok(())), Some(Change::Up));
    }
}
