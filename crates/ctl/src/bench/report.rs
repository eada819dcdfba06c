//! The report: throughput and latency, and the gain of each further target.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use super::load::{Phase, Samples};

/// One phase of one round, with `targets` targets and `connections` connections to each.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Measurement {
    pub phase: Phase,
    pub targets: usize,
    pub connections: usize,
    pub round: usize,
    #[serde(flatten)]
    pub total: Rate,
    pub by_target: Vec<ByTarget>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ByTarget {
    pub target: String,
    #[serde(flatten)]
    pub rate: Rate,
}

#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Rate {
    pub operations: usize,
    pub operations_per_second: f64,
    pub megabytes_per_second: f64,
    pub p50_milliseconds: f64,
    pub p99_milliseconds: f64,
}

impl Rate {
    pub fn new(samples: &mut Samples, seconds: f64) -> Self {
        let seconds = seconds.max(1e-9);
        Self {
            operations: samples.latencies_micros.len(),
            operations_per_second: samples.latencies_micros.len() as f64 / seconds,
            megabytes_per_second: samples.bytes as f64 / 1e6 / seconds,
            p50_milliseconds: samples.quantile_ms(0.5),
            p99_milliseconds: samples.quantile_ms(0.99),
        }
    }
}

/// Throughput of `targets` targets relative to one target, with the same number of connections to each.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gain {
    pub phase: Phase,
    pub targets: usize,
    pub connections: usize,
    /// Median of the rounds.
    pub factor: f64,
    /// Minimum and maximum of the rounds.
    pub least: f64,
    pub most: f64,
}

/// Compares within a round, so that changes between rounds affect both sides.
pub fn gains(measurements: &[Measurement]) -> Vec<Gain> {
    let mut gains = Vec::new();
    for one in measurements.iter().filter(|one| one.round == 0 && one.targets > 1) {
        let rate_of = |targets: usize, round: usize| {
            let found = measurements.iter().find(|other| {
                (other.phase, other.connections, other.targets, other.round)
                    == (one.phase, one.connections, targets, round)
            });
            found.map(|found| found.total.operations_per_second).filter(|rate| *rate > 0.0)
        };
        let rounds = measurements.iter().map(|other| other.round + 1).max().unwrap_or_default();
        let mut factors: Vec<f64> =
            (0..rounds).filter_map(|round| Some(rate_of(one.targets, round)? / rate_of(1, round)?)).collect();
        factors.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (factors.first(), factors.last()) {
            let factor = factors[factors.len() / 2];
            let (phase, targets, connections) = (one.phase, one.targets, one.connections);
            gains.push(Gain { phase, targets, connections, factor, least: *least, most: *most });
        }
    }
    gains
}

/// The last round: a line for each phase, number of targets and number of connections.
pub fn table(measurements: &[Measurement], gains: &[Gain]) -> String {
    let mut text = format!(
        "{:<22} {:>7} {:>11} {:>10} {:>9} {:>9} {:>9}  {}\n",
        "", "targets", "connections", "ops/s", "MB/s", "p50 ms", "p99 ms", "gain over one target"
    );
    let last = measurements.iter().map(|one| one.round).max().unwrap_or_default();
    for one in measurements.iter().filter(|one| one.round == last) {
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

/// Gains in which even the slowest round exceeds this count as real: the rest is noise between rounds.
const MIN_CLEAR_GAIN: f64 = 1.1;

/// A sentence that interprets the gains.
pub fn meaning(gains: &[Gain]) -> String {
    let Some(most) = gains.iter().map(|gain| gain.targets).max() else {
        return "Only one target was measured. Give several targets to measure the gain.".to_owned();
    };
    let clear = |gain: &&Gain| gain.least > MIN_CLEAR_GAIN;
    let better: Vec<_> = gains.iter().filter(|gain| gain.targets == most).filter(clear).collect();
    if better.is_empty() {
        return format!(
            "{most} targets are not faster than one target in any phase, beyond the variation between rounds."
        );
    }
    let named: Vec<_> = better.iter().map(|gain| format!("{} {:.2} ×", gain.phase.title(), gain.factor)).collect();
    format!("{most} targets are faster than one target in every round: {}.", named.join(", "))
}

/// An SVG bar chart: a bar per phase and number of targets, its height is the gain. The dashed line is one target.
pub fn chart(gains: &[Gain], connections: usize) -> String {
    const WIDTH: usize = 900;
    const HEIGHT: usize = 320;
    const BASE: f64 = 260.0;
    let shown: Vec<_> = gains.iter().filter(|gain| gain.connections == connections).collect();
    let highest = shown.iter().map(|gain| gain.most).fold(2.0, f64::max);
    let scale = |factor: f64| factor / highest * 210.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         role=\"img\" font-family=\"sans-serif\" font-size=\"11\">\n<title>Throughput gain of further mount targets, \
         {connections} connections to each</title>\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
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

    fn measurement(targets: usize, round: usize, rate: f64) -> Measurement {
        let total = Rate {
            operations: 1,
            operations_per_second: rate,
            megabytes_per_second: 0.0,
            p50_milliseconds: 0.0,
            p99_milliseconds: 0.0,
        };
        Measurement { phase: Phase::SmallRead, targets, connections: 1, round, total, by_target: vec![] }
    }

    #[test]
    fn a_gain_is_of_the_same_round_and_has_a_spread() {
        let all = [
            measurement(1, 0, 100.0),
            measurement(2, 0, 150.0),
            measurement(1, 1, 200.0),
            measurement(2, 1, 400.0),
            measurement(1, 2, 100.0),
            measurement(2, 2, 180.0),
        ];
        let gains = gains(&all);
        assert_eq!(gains.len(), 1);
        assert!((gains[0].least - 1.5).abs() < 1e-9 && (gains[0].factor - 1.8).abs() < 1e-9);
        assert!((gains[0].most - 2.0).abs() < 1e-9);
        assert!(meaning(&gains).starts_with("2 targets are faster than one"), "{}", meaning(&gains));
        let same = super::gains(&[measurement(1, 0, 100.0), measurement(2, 0, 105.0)]);
        assert!(meaning(&same).starts_with("2 targets are not faster than one"));
        assert!(meaning(&[]).starts_with("Only one target was measured"));
    }
}
