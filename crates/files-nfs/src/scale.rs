//! How many connections one event loop has to one target, where nobody says how many: one at first, another while that
//! brings throughput, fewer when they are not needed any more. As efs-proxy does it, up to as many as it has.
//!
//! Whether another connection brings anything cannot be known beforehand: it depends on what limits each of them. So one
//! is added where calls wait and the loop has time left, and kept only if the throughput grows by a fair part of what it
//! could.

use std::time::Duration;

/// efs-proxy's most.
pub(crate) const MAX_CONNECTIONS: usize = 5;
/// From one decision to the next.
pub(crate) const DECISION_INTERVAL: Duration = Duration::from_secs(1);
/// Below this rate, in bytes a second, nothing is tried: small calls wait for the server and not for the connection.
const MIN_RATE_BYTES_PER_SECOND: u64 = 8 << 20;
/// Calls on their way for each connection, so that one of them may have waited for another.
const MIN_CALLS: u32 = 2;
/// Share of its processor that a loop has used, above which another connection cannot help.
const MAX_PROCESSOR_SHARE: f64 = 0.85;
/// Windows of enough calls before another connection is tried.
const BUSY_WINDOWS: u32 = 2;
/// Windows that a trial takes; the first is left out, in which the connection is made.
const TRIAL_WINDOWS: u32 = 4;
/// Part of the gain that is possible, of one connection among n 1/n of what there was, that a trial has to bring.
const MIN_GAIN: f64 = 0.4;
/// Windows until the next trial after one that brought nothing; doubled each time, up to the maximum.
const FIRST_PAUSE_WINDOWS: u32 = 60;
const MAX_PAUSE_WINDOWS: u32 = 900;
/// Windows with little to do until a connection is given back.
const IDLE_WINDOWS: u32 = 30;
/// Little: this part of the rate that the connection was added at.
const IDLE_RATE_RATIO: f64 = 0.5;

/// What was seen in one window.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// Bytes a second, both ways.
    pub rate: u64,
    /// Calls on their way at its end.
    pub calls: u32,
    /// Of the loop's processor, 0 to 1.
    pub processor_share: f64,
}

/// What is remembered between decisions.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    /// Bytes a second at which each connection but the first was added.
    added_at: Vec<u64>,
    /// Of the last connection, while it is not known whether it is kept: the rates of the windows so far.
    trial: Option<Vec<u64>>,
    busy: u32,
    idle: u32,
    /// Windows until another trial.
    pause: u32,
    next_pause: u32,
}

impl Default for Scale {
    fn default() -> Self {
        Self { added_at: Vec::new(), trial: None, busy: 0, idle: 0, pause: 0, next_pause: FIRST_PAUSE_WINDOWS }
    }
}

impl Scale {
    /// Connections that are wanted now: 1 to [`MAX_CONNECTIONS`].
    pub fn connections(&self) -> usize {
        1 + self.added_at.len()
    }

    /// Decides after a window. It changes the number by one at most.
    pub fn decide(&mut self, window: Window) -> usize {
        self.pause = self.pause.saturating_sub(1);
        if self.trial.is_some() {
            self.evaluate(window);
        } else if self.is_idle(window) {
            self.give_back();
        } else if self.is_busy(window) && self.pause == 0 && self.connections() < MAX_CONNECTIONS {
            self.added_at.push(window.rate);
            self.trial = Some(Vec::new());
            self.busy = 0;
        }
        self.connections()
    }

    fn evaluate(&mut self, window: Window) {
        let (Some(trial), Some(before)) = (&mut self.trial, self.added_at.last()) else { return };
        trial.push(window.rate);
        if trial.len() < TRIAL_WINDOWS as usize {
            return;
        }
        let others = self.added_at.len() as f64;
        let wanted = *before as f64 * (1.0 + MIN_GAIN / others);
        // The best of them: load is never even.
        let best = trial.iter().skip(1).max().copied().unwrap_or_default() as f64;
        self.trial = None;
        if best >= wanted {
            self.next_pause = FIRST_PAUSE_WINDOWS;
        } else {
            self.give_back();
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(MAX_PAUSE_WINDOWS);
        }
    }

    fn is_busy(&mut self, window: Window) -> bool {
        let calls = MIN_CALLS * u32::try_from(self.connections()).unwrap_or(u32::MAX);
        let is_busy = window.rate >= MIN_RATE_BYTES_PER_SECOND
            && window.calls >= calls
            && window.processor_share < MAX_PROCESSOR_SHARE;
        self.busy = if is_busy { self.busy + 1 } else { 0 };
        self.busy >= BUSY_WINDOWS
    }

    fn is_idle(&mut self, window: Window) -> bool {
        let is_idle = self.added_at.last().is_some_and(|rate| (window.rate as f64) < *rate as f64 * IDLE_RATE_RATIO);
        self.idle = if is_idle { self.idle + 1 } else { 0 };
        self.idle >= IDLE_WINDOWS
    }

    fn give_back(&mut self) {
        self.added_at.pop();
        (self.busy, self.idle) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// What a loop sees that has all the load it can take, of a server that lets `each` through a connection and `all`
    /// through all of them.
    fn limited(connections: usize, each: u64, all: u64) -> Window {
        Window { rate: (each * connections as u64).min(all), calls: 64, processor_share: 0.3 }
    }

    fn wait_idle(each: u64, all: u64) -> (usize, usize) {
        let (mut scale, mut changes, mut connections) = (Scale::default(), 0, 1);
        for _ in 0..300 {
            let next = scale.decide(limited(connections, each, all));
            changes += usize::from(next != connections);
            connections = next;
        }
        // A trial that is on its way is not kept.
        (connections - usize::from(scale.trial.is_some()), changes)
    }

    #[test]
    fn it_grows_while_each_connection_is_the_limit_and_stops_where_it_is_not() {
        assert_eq!(wait_idle(100 * MIB, u64::MAX).0, MAX_CONNECTIONS);
        assert_eq!(wait_idle(100 * MIB, 300 * MIB).0, 3);
        assert_eq!(wait_idle(100 * MIB, 100 * MIB).0, 1);
        assert_eq!(wait_idle(MIB, u64::MAX), (1, 0), "too little to be worth a trial");
    }

    #[test]
    fn a_loop_without_time_left_gets_none() {
        let mut scale = Scale::default();
        let full = Window { processor_share: 0.95, ..limited(1, 100 * MIB, u64::MAX) };
        assert!((0..1000).all(|_| scale.decide(full) == 1));
    }

    #[test]
    fn what_is_not_needed_is_given_back_one_after_the_other() {
        let mut scale = Scale::default();
        let mut connections = 1;
        for _ in 0..60 {
            connections = scale.decide(limited(connections, 100 * MIB, u64::MAX));
        }
        assert_eq!(connections, MAX_CONNECTIONS);
        let given_back = (0..).position(|_| scale.decide(Window::default()) == 1).unwrap();
        assert_eq!(given_back + 1, IDLE_WINDOWS as usize * (MAX_CONNECTIONS - 1));
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_moves_by_one(windows in prop::collection::vec((0..u64::MAX, 0..1000_u32, 0.0..1.0_f64), 0..500)) {
            let (mut scale, mut before) = (Scale::default(), 1);
            for (rate, calls, processor_share) in windows {
                let now = scale.decide(Window { rate, calls, processor_share });
                prop_assert!((1..=MAX_CONNECTIONS).contains(&now) && now.abs_diff(before) <= 1);
                before = now;
            }
        }

        /// More that a server lets through never means fewer connections.
        #[test]
        fn it_is_monotone_in_what_there_is_to_gain(each in 8..1000_u64, all in 8..5000_u64, more in 0..5000_u64) {
            prop_assert!(wait_idle(each * MIB, all * MIB).0 <= wait_idle(each * MIB, (all + more) * MIB).0);
        }

        /// A load that stays the same has few changes: up to the number that it needs, and a trial in ever longer pauses.
        #[test]
        fn it_does_not_flap(each in 8..1000_u64, all in 8..5000_u64) {
            let (_, changes) = wait_idle(each * MIB, all * MIB);
            // 300 windows have room for the pauses of 60 and 120 windows.
            prop_assert!(changes <= MAX_CONNECTIONS - 1 + 2 * 3, "{changes} changes");
        }

        /// Between the rate that a connection was added at and half of it, nothing is given back.
        #[test]
        fn it_keeps_what_it_has_while_half_of_the_load_stays(part in 0.51..1.0_f64) {
            let (mut scale, mut connections) = (Scale::default(), 1);
            for _ in 0..60 {
                connections = scale.decide(limited(connections, 100 * MIB, u64::MAX));
            }
            let rate = (400.0 * MIB as f64 * part) as u64;
            let window = Window { rate, calls: 1, processor_share: 0.1 };
            let keeps = (0..1000).all(|_| scale.decide(window) == MAX_CONNECTIONS);
            prop_assert!(keeps);
        }
    }
}
