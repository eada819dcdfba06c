//! What was measured: rates, times, and what each further target brought.

use std::fmt::Write as _;

use serde::Serialize;

use super::load::{Phase, Times};

/// One phase of one round, with so many targets and connections to each.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub phase: Phase,
    pub targets: usize,
    pub connections: usize,
    pub round: usize,
    #[serde(flatten)]
    pub total: Rate,
    pub by_target: Vec<ByTarget>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ByTarget {
    pub target: String,
    #[serde(flatten)]
    pub rate: Rate,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    pub operations: usize,
    pub operations_per_second: f64,
    pub megabytes_per_second: f64,
    pub p50_milliseconds: f64,
    pub p99_milliseconds: f64,
}

impl Rate {
    pub fn of(times: &mut Times, seconds: f64) -> Self {
        let seconds = seconds.max(1e-9);
        Self {
            operations: times.micros.len(),
            operations_per_second: times.micros.len() as f64 / seconds,
            megabytes_per_second: times.bytes as f64 / 1e6 / seconds,
            p50_milliseconds: times.quantile(0.5),
            p99_milliseconds: times.quantile(0.99),
        }
    }
}

/// How many times as much so many targets did as one, with as many connections to each.
#[derive(Clone, Debug, Serialize)]
pub struct Gain {
    pub phase: Phase,
    pub targets: usize,
    pub connections: usize,
    /// The median of the rounds, and the least and the most of them.
    pub factor: f64,
    pub least: f64,
    pub most: f64,
}

/// Of each round, so that what changes between rounds changes both.
pub fn gains(measured: &[Measured]) -> Vec<Gain> {
    let mut gains = Vec::new();
    for one in measured.iter().filter(|one| one.round == 0 && one.targets > 1) {
        let of = |targets: usize, round: usize| {
            let found = measured.iter().find(|other| {
                (other.phase, other.connections, other.targets, other.round)
                    == (one.phase, one.connections, targets, round)
            });
            found.map(|found| found.total.operations_per_second).filter(|rate| *rate > 0.0)
        };
        let rounds = measured.iter().map(|other| other.round + 1).max().unwrap_or_default();
        let mut factors: Vec<f64> =
            (0..rounds).filter_map(|round| Some(of(one.targets, round)? / of(1, round)?)).collect();
        factors.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (factors.first(), factors.last()) {
            let factor = factors[factors.len() / 2];
            let (phase, targets, connections) = (one.phase, one.targets, one.connections);
            gains.push(Gain { phase, targets, connections, factor, least: *least, most: *most });
        }
    }
    gains
}

/// A line for each phase, number of targets and number of connections.
pub fn table(measured: &[Measured], gains: &[Gain]) -> String {
    let mut text = format!(
        "{:<22} {:>7} {:>11} {:>10} {:>9} {:>9} {:>9}  {}\n",
        "", "targets", "connections", "ops/s", "MB/s", "p50 ms", "p99 ms", "gain of the targets"
    );
    let last = measured.iter().map(|one| one.round).max().unwrap_or_default();
    for one in measured.iter().filter(|one| one.round == last) {
        let Rate { operations_per_second, megabytes_per_second, p50_milliseconds, p99_milliseconds, .. } = one.total;
        let gain = gains
            .iter()
            .find(|gain| (gain.phase, gain.targets, gain.connections) == (one.phase, one.targets, one.connections));
        let gain = gain.map(|gain| format!("{:.2} × ({:.2} – {:.2})", gain.factor, gain.least, gain.most));
        let _ = writeln!(
            text,
            "{:<22} {:>7} {:>11} {:>10.0} {:>9.1} {:>9.2} {:>9.2}  {}",
            one.phase.title(),
            one.targets,
            one.connections,
            operations_per_second,
            megabytes_per_second,
            p50_milliseconds,
            p99_milliseconds,
            gain.unwrap_or_default()
        );
        if one.by_target.len() > 1 {
            for ByTarget { target, rate } in &one.by_target {
                let _ = writeln!(
                    text,
                    "  {:<40} {:>10.0} {:>9.1} {:>9.2} {:>9.2}",
                    target,
                    rate.operations_per_second,
                    rate.megabytes_per_second,
                    rate.p50_milliseconds,
                    rate.p99_milliseconds
                );
            }
        }
    }
    text
}

/// What the gains say, in a sentence.
pub fn meaning(gains: &[Gain]) -> String {
    let Some(most) = gains.iter().map(|gain| gain.targets).max() else {
        return "One target was measured: give several to see what another one brings.".to_owned();
    };
    let clear = |gain: &&Gain| gain.least > 1.1;
    let better: Vec<_> = gains.iter().filter(|gain| gain.targets == most).filter(clear).collect();
    if better.is_empty() {
        return format!("{most} targets did no more than one in any phase, beyond the spread of the rounds.");
    }
    let named: Vec<_> = better.iter().map(|gain| format!("{} {:.2} ×", gain.phase.title(), gain.factor)).collect();
    format!("With {most} targets more was done in each round: {}.", named.join(", "))
}

/// A bar for each phase and number of targets, as high as its gain; one is what one target does.
pub fn chart(gains: &[Gain], connections: usize) -> String {
    const WIDTH: usize = 900;
    const HEIGHT: usize = 320;
    const BASE: f64 = 260.0;
    let shown: Vec<_> = gains.iter().filter(|gain| gain.connections == connections).collect();
    let highest = shown.iter().map(|gain| gain.most).fold(2.0, f64::max);
    let scale = |factor: f64| factor / highest * 210.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" font-family=\"sans-serif\" font-size=\"11\">\n<title>What further mount targets bring, by {connections} \
         connections to each</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let one = BASE - scale(1.0);
    let _ = writeln!(
        text,
        "<line x1=\"40\" x2=\"890\" y1=\"{one:.1}\" y2=\"{one:.1}\" stroke=\"gray\" stroke-dasharray=\"4\"/>\
         <text x=\"8\" y=\"{:.1}\">1 ×</text>",
        one + 4.0
    );
    let width = 850.0 / shown.len().max(1) as f64;
    for (index, gain) in shown.iter().enumerate() {
        let x = 40.0 + width * index as f64;
        let (height, middle) = (scale(gain.factor), x + width * 0.4);
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"steelblue\"/>\
             <line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"black\"/>\
             <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.2}</text>\
             <text x=\"{middle:.1}\" y=\"275\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate({middle:.1} 288) rotate(20)\" font-size=\"9\">{}</text>",
            BASE - height,
            width * 0.8,
            BASE - scale(gain.least),
            BASE - scale(gain.most),
            BASE - scale(gain.most) - 4.0,
            gain.factor,
            gain.targets,
            gain.phase.title()
        );
    }
    text + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(targets: usize, round: usize, rate: f64) -> Measured {
        let total = Rate {
            operations: 1,
            operations_per_second: rate,
            megabytes_per_second: 0.0,
            p50_milliseconds: 0.0,
            p99_milliseconds: 0.0,
        };
        Measured { phase: Phase::SmallRead, targets, connections: 1, round, total, by_target: vec![] }
    }

    #[test]
    fn a_gain_is_of_the_same_round_and_has_a_spread() {
        let all = [
            measured(1, 0, 100.0),
            measured(2, 0, 150.0),
            measured(1, 1, 200.0),
            measured(2, 1, 400.0),
            measured(1, 2, 100.0),
            measured(2, 2, 180.0),
        ];
        let gains = gains(&all);
        assert_eq!(gains.len(), 1);
        assert!((gains[0].least - 1.5).abs() < 1e-9 && (gains[0].factor - 1.8).abs() < 1e-9);
        assert!((gains[0].most - 2.0).abs() < 1e-9);
        assert!(meaning(&gains).starts_with("With 2 targets more was done"), "{}", meaning(&gains));
        let same = super::gains(&[measured(1, 0, 100.0), measured(2, 0, 105.0)]);
        assert!(meaning(&same).starts_with("2 targets did no more than one"));
        assert!(meaning(&[]).starts_with("One target was measured"));
    }
}
