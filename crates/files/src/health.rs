//! The health of a target, as its probes show it. A failed request never counts against a target. A successful request
//! shows that the target is alive.
//!
//! A probe without a timely answer does not distinguish a dead target from a slow one. A throttled file system answers
//! late through all of its targets, and excluding one would only move its load to the others. Therefore silence counts
//! against a target only if another target answers clearly faster at the same time, or if the silence is longer than
//! [`PROBE_TIMEOUT`]. See `docs/` on slow and dead targets (decision 0017).

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Consecutive failed probes that exclude a target.
const FALL_PROBES: u32 = 2;
/// Consecutive successful probes that bring an excluded target back.
const RISE_PROBES: u32 = 2;
/// The shortest silence that counts against a target.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3);
/// A silence counts only if it is longer than this many times the response time of another target.
const SILENCE_RATIO: u32 = 4;
/// Maximum silence of a target that is not excluded, whatever the others do.
const MAX_SILENCE: Duration = Duration::from_secs(30);
/// Maximum time that a probe waits for its answer.
pub const PROBE_TIMEOUT: Duration = MAX_SILENCE;

/// The result of one probe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ProbeResult {
    Success,
    /// No answer in time, with the reason if one is known.
    Late(String),
    /// The target, or the network on the way to it, refused.
    Failed(String),
}

/// A change of health that a probe caused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    Up,
    Down,
}

/// The current response time of a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ResponseTime {
    /// When the last answered probe was sent.
    sent: Instant,
    /// The duration of that answer or, if longer, how long a later probe has been waiting.
    takes: Duration,
}

/// The health of one target.
#[derive(Debug)]
pub struct Health {
    up: AtomicBool,
    state: Mutex<ProbeState>,
    made: Instant,
    /// When the last request succeeded, in milliseconds after `made`.
    last_success_ms: AtomicU64,
    failovers: AtomicU64,
}

#[derive(Debug, Default)]
struct ProbeState {
    /// Consecutive probes that contradict `up`.
    streak: u32,
    /// Whether any probe was answered or refused, and whether the last of these was refused.
    has_answered: bool,
    last_probe_failed: bool,
    err: Option<String>,
    /// When the last probe was sent, and when the first of the unanswered ones was.
    sent: Option<Instant>,
    silent_since: Option<Instant>,
    response_time: Option<ResponseTime>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            up: AtomicBool::default(),
            state: Mutex::default(),
            made: Instant::now(),
            last_success_ms: AtomicU64::default(),
            failovers: AtomicU64::default(),
        }
    }
}

impl Health {
    /// Whether paths are sent to the target.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// How often the target's paths have moved to other targets because it failed.
    pub fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Why the last probe failed or has no answer; `None` when it succeeded.
    pub fn err(&self) -> Option<String> {
        self.state().err.clone()
    }

    /// Whether a probe was ever answered or refused.
    pub(crate) fn has_answered(&self) -> bool {
        self.state().has_answered
    }

    /// Whether the last completed probe was refused.
    pub(crate) fn last_probe_failed(&self) -> bool {
        self.state().last_probe_failed
    }

    /// Records that a request to the target succeeded.
    pub(crate) fn succeeded(&self, now: Instant) {
        let milliseconds = now.saturating_duration_since(self.made).as_millis();
        self.last_success_ms.fetch_max(u64::try_from(milliseconds).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Records that a probe is sent.
    pub(crate) fn sent(&self, now: Instant) {
        let mut state = self.state();
        state.sent = Some(now);
        state.silent_since.get_or_insert(now);
    }

    /// The response time, to compare other targets with; `None` when the target is down.
    pub(crate) fn response_time(&self, now: Instant) -> Option<ResponseTime> {
        let state = self.state();
        let response_time = state.response_time.filter(|_| self.is_up())?;
        let waiting = self.silence(&state, now).map_or(Duration::ZERO, |(_, silence)| silence);
        Some(ResponseTime { takes: response_time.takes.max(waiting), ..response_time })
    }

    /// Evaluates the silence of a pending probe against the response times of the other targets.
    pub(crate) fn waiting(&self, now: Instant, others: &[ResponseTime]) -> Option<Change> {
        let mut state = self.state();
        let (since, silence) = self.silence(&state, now)?;
        if silence >= SILENCE_TIMEOUT {
            state.err = Some(format!("no answer for {silence:.1?}"));
        }
        let faster = faster(since, silence, others);
        if faster.is_none() && silence <= MAX_SILENCE {
            return None;
        }
        state.streak = 0;
        self.is_up().then(|| {
            let other = faster.map(|takes| format!("; another target answers in {takes:.1?}")).unwrap_or_default();
            state.err = Some(format!("no answer for {silence:.1?}{other}"));
            self.guard(false)
        })
    }

    /// Records the result of a probe. The first answer or refusal counts by itself.
    pub(crate) fn probed(&self, probe_result: ProbeResult, now: Instant, others: &[ResponseTime]) -> Option<Change> {
        if let ProbeResult::Late(err) = probe_result {
            self.state().err = Some(err);
            return self.waiting(now, others);
        }
        let mut state = self.state();
        let answered = probe_result == ProbeResult::Success;
        let sent = state.sent.unwrap_or(now);
        if answered {
            state.silent_since = None;
            state.response_time = Some(ResponseTime { sent, takes: now.saturating_duration_since(sent) });
            // An answer that is so late that its silence counted does not bring the target back.
            if state.has_answered
                && !self.is_up()
                && faster(sent, now.saturating_duration_since(sent), others).is_some()
            {
                state.streak = 0;
                return None;
            }
        }
        let needed = match (state.has_answered, self.is_up()) {
            (false, _) => 1,
            (true, true) => FALL_PROBES,
            (true, false) => RISE_PROBES,
        };
        state.has_answered = true;
        state.last_probe_failed = !answered;
        state.err = match probe_result {
            ProbeResult::Failed(err) => Some(err),
            _ => None,
        };
        state.streak = if answered == self.is_up() { 0 } else { state.streak + 1 };
        (state.streak >= needed).then(|| {
            state.streak = 0;
            self.guard(answered)
        })
    }

    fn state(&self) -> MutexGuard<'_, ProbeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard(&self, up: bool) -> Change {
        self.up.store(up, Ordering::Relaxed);
        if !up {
            self.failovers.fetch_add(1, Ordering::Relaxed);
        }
        if up { Change::Up } else { Change::Down }
    }

    /// Since when, and for how long, probes have no answer and no request succeeded.
    fn silence(&self, state: &ProbeState, now: Instant) -> Option<(Instant, Duration)> {
        let last_success = self.made + Duration::from_millis(self.last_success_ms.load(Ordering::Relaxed));
        let since = state.silent_since?.max(last_success);
        Some((since, now.saturating_duration_since(since)))
    }
}

/// The response time of another target, if it shows that only this target is silent: the other answered a probe that was
/// sent after the silence began, and clearly faster.
fn faster(since: Instant, silence: Duration, others: &[ResponseTime]) -> Option<Duration> {
    let fastest = others.iter().filter(|other| other.sent >= since).map(|other| other.takes).min()?;
    (silence > SILENCE_TIMEOUT.max(fastest.saturating_mul(SILENCE_RATIO))).then_some(fastest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every probe is answered, or refused, after this time.
    struct Simulated {
        health: Health,
        takes: Vec<Option<Duration>>,
        probes: usize,
        /// When the next probe is sent, or the answer to the one that was comes.
        next: Instant,
        waits: bool,
    }

    impl Simulated {
        fn new(takes: Vec<Option<Duration>>, first: Instant) -> Self {
            let health = Health::default();
            health.sent(first);
            assert_eq!(health.probed(ProbeResult::Success, first, &[]), Some(Change::Up));
            Self { health, takes, probes: 0, next: first, waits: false }
        }

        fn step(&mut self, now: Instant, every: Duration, others: &[ResponseTime]) {
            if self.waits {
                self.health.waiting(now, others);
            }
            while self.next <= now {
                if self.waits {
                    self.health.probed(ProbeResult::Success, now, others);
                    self.next += every;
                } else {
                    self.health.sent(now);
                    let takes = self.takes[self.probes % self.takes.len()];
                    self.probes += 1;
                    self.next = takes.map_or(now + Duration::from_secs(1 << 20), |takes| now + takes);
                }
                self.waits = !self.waits;
            }
        }
    }

    const STEP: Duration = Duration::from_millis(100);

    /// Steps until `until`. When each target was first left out.
    fn simulate(targets: &mut [Simulated], began: Instant, every: Duration, until: Duration) -> Vec<Option<Duration>> {
        let mut out = vec![None; targets.len()];
        let mut now = began;
        while now < began + until {
            now += STEP;
            for index in 0..targets.len() {
                let others: Vec<_> = targets
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != index)
                    .filter_map(|(_, other)| other.health.response_time(now))
                    .collect();
                targets[index].step(now, every, &others);
                if !targets[index].health.is_up() {
                    out[index].get_or_insert(now - began);
                }
            }
        }
        out
    }

    #[test]
    fn one_failure_changes_nothing_but_the_first_and_one_answer_neither() {
        let failed = || ProbeResult::Failed("no".to_owned());
        let health = Health::default();
        let now = Instant::now();
        let mut told = Vec::new();
        for answer in "yynynnynynyyny".chars() {
            told.push(match health.probed(if answer == 'y' { ProbeResult::Success } else { failed() }, now, &[]) {
                Some(Change::Up) => 'U',
                Some(Change::Down) => 'D',
                None => '.',
            });
        }
        assert_eq!(told.iter().collect::<String>(), "U....D.....U..");
        assert!(health.is_up());
        let health = Health::default();
        assert_eq!(health.probed(failed(), now, &[]), None);
        assert!(health.has_answered() && health.last_probe_failed());
        assert_eq!(health.probed(ProbeResult::Success, now, &[]), None);
        assert!(!health.last_probe_failed());
        assert_eq!(health.probed(ProbeResult::Success, now, &[]), Some(Change::Up));
    }

    #[test]
    fn what_is_late_is_neither_a_yes_nor_a_no() {
        let (health, now) = (Health::default(), Instant::now());
        for _ in 0..5 {
            health.sent(now);
            assert_eq!(health.probed(ProbeResult::Late("later".to_owned()), now, &[]), None);
        }
        assert!(!health.has_answered() && !health.last_probe_failed());
        assert_eq!(health.err().as_deref(), Some("later"));
        assert_eq!(health.probed(ProbeResult::Success, now, &[]), Some(Change::Up));
        assert_eq!(health.err(), None);
    }

    #[test]
    fn a_request_that_succeeds_shows_that_a_silent_target_is_alive() {
        let began = Instant::now();
        let second = |seconds| began + Duration::from_secs(seconds);
        let health = Health::default();
        health.probed(ProbeResult::Success, began, &[]);
        health.sent(second(1));
        let fast = |sent| [ResponseTime { sent, takes: Duration::from_millis(5) }];
        health.succeeded(second(4));
        assert_eq!(health.waiting(second(6), &fast(second(5))), None);
        // The other has answered before, and not since.
        assert_eq!(health.waiting(second(8), &fast(second(3))), None);
        assert_eq!(health.waiting(second(8), &fast(second(5))), Some(Change::Down));
        let err = health.err().unwrap();
        assert!(err.starts_with("no answer for ") && err.ends_with("; another target answers in 5.0ms"), "{err}");
    }

    #[test]
    fn an_answer_that_comes_much_later_than_the_others_brings_no_target_back() {
        let began = Instant::now();
        let of = |takes: u64| Simulated::new(vec![Some(Duration::from_millis(takes))], began);
        let mut targets = [of(10), of(8000), of(2900)];
        let out = simulate(&mut targets, began, Duration::from_secs(2), Duration::from_secs(120));
        assert!(out[0].is_none() && out[1].is_some() && out[2].is_none(), "{out:?}");
        assert!(!targets[1].health.is_up());
        targets[1].takes = vec![Some(Duration::from_millis(2000))];
        simulate(&mut targets, began + Duration::from_secs(120), Duration::from_secs(2), Duration::from_secs(30));
        assert!(targets[1].health.is_up());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However slow: as long as all answer at all, and no answer takes four times as long as another, no target is left out.
        #[test]
        fn targets_that_are_equally_slow_all_stay(
            slowest in 1..29_000_u64,
            every in 100..20_000_u64,
            shares in proptest::collection::vec(proptest::collection::vec(26..=100_u64, 1..5), 2..6),
        ) {
            let began = Instant::now();
            let takes = |shares: &Vec<u64>| {
                // What a step adds to an answer's time must not be what decides.
                shares.iter().map(|share| Some(Duration::from_millis((slowest * share / 100).max(400)))).collect()
            };
            let mut targets: Vec<_> = shares.iter().map(|shares| Simulated::new(takes(shares), began)).collect();
            let every = Duration::from_millis(every);
            let out = simulate(&mut targets, began, every, Duration::from_secs(200));
            prop_assert!(out.iter().all(Option::is_none), "{out:?}");
        }

        /// A target that is dead is left out in time, if another answers within 0.75 s; and the last one never is.
        #[test]
        fn a_dead_target_is_left_out_and_the_last_one_that_works_stays(
            every in 100..5_000_u64,
            takes in 1..700_u64,
            dead in 1..5_usize,
        ) {
            let began = Instant::now();
            let mut targets: Vec<_> = (0..dead).map(|_| Simulated::new(vec![None], began)).collect();
            targets.push(Simulated::new(vec![Some(Duration::from_millis(takes))], began));
            let every = Duration::from_millis(every);
            let out = simulate(&mut targets, began, every, Duration::from_secs(30));
            // The other's next probe is sent after the silence has begun, and answered.
            let max = SILENCE_TIMEOUT.max(every + 2 * Duration::from_millis(takes)) + 4 * STEP;
            for left_out in &out[..dead] {
                prop_assert!(left_out.is_some_and(|after| after > SILENCE_TIMEOUT && after <= max), "{out:?}");
            }
            prop_assert_eq!(out[dead], None);
        }

        #[test]
        fn when_all_are_dead_none_is_left_out_before_the_others(targets in 1..5_usize, every in 100..5_000_u64) {
            let began = Instant::now();
            let mut targets: Vec<_> = (0..targets).map(|_| Simulated::new(vec![None], began)).collect();
            let out = simulate(&mut targets, began, Duration::from_millis(every), 2 * MAX_SILENCE);
            for left_out in &out {
                prop_assert!(left_out.is_some_and(|after| after > MAX_SILENCE && after <= MAX_SILENCE + 3 * STEP), "{out:?}");
            }
        }
    }
}
