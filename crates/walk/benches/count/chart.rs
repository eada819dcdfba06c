//! The chart: bars on a logarithmic scale, a group for each tree.

use std::fmt::Write;

pub struct Group {
    pub title: String,
    /// What, and how many seconds; ours is the first.
    pub bars: Vec<(&'static str, f64)>,
}

const WIDTH: f64 = 760.0;
/// Where the bars begin and end.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 690.0;
const LINE: f64 = 20.0;
const TOP: f64 = 64.0;
/// The scale, as powers of ten seconds.
const FIRST: i32 = -2;
const LAST: i32 = 2;

fn x(seconds: f64) -> f64 {
    let part = (seconds.log10() - f64::from(FIRST)) / f64::from(LAST - FIRST);
    LEFT + (RIGHT - LEFT) * part.clamp(0.0, 1.0)
}

/// Legible on light and on dark paper.
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-size:16px;font-weight:600}\
.group{font-weight:600}.name{text-anchor:end}.axis{fill:#6e7781;text-anchor:middle}.grid{stroke:#8c959f;\
stroke-opacity:.35}.bar{fill:#8c959f}.ours{fill:#1a7f37}.ours-text{font-weight:600}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.axis{fill:#9198a1}.ours{fill:#3fb950}.bar{fill:#6e7681}}";

pub fn svg(title: &str, groups: &[Group]) -> String {
    let lines: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
    let (height, bottom) = (TOP + LINE * (lines as f64) + 44.0, TOP + LINE * (lines as f64) - LINE / 2.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"title\" x=\"16\" y=\"28\">{title}</text>\n"
    );
    for power in FIRST..=LAST {
        let (at, label) = (x(10_f64.powi(power)), 10_f64.powi(power));
        let _ = writeln!(svg, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
        let _ = writeln!(svg, "<text class=\"axis\" x=\"{at:.1}\" y=\"{}\">{label} s</text>", bottom + 18.0);
    }
    let middle = f64::midpoint(LEFT, RIGHT);
    let _ = writeln!(
        svg,
        "<text class=\"axis\" x=\"{middle}\" y=\"{}\">seconds, on a logarithmic scale: shorter is better</text>",
        bottom + 36.0
    );
    let mut y = TOP;
    for group in groups {
        let _ = writeln!(svg, "<text class=\"group\" x=\"16\" y=\"{}\">{}</text>", y + 12.0, group.title);
        y += LINE;
        for (number, (name, seconds)) in group.bars.iter().enumerate() {
            let (bar, text) = if number == 0 { ("ours", "ours-text") } else { ("bar", "value") };
            let (end, base) = (x(*seconds), y + 12.0);
            let _ = writeln!(svg, "<text class=\"name {text}\" x=\"{}\" y=\"{base}\">{name}</text>", LEFT - 8.0);
            let _ = writeln!(
                svg,
                "<rect class=\"{bar}\" x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{}\" rx=\"2\"/>",
                (end - LEFT).max(1.0),
                LINE - 5.0
            );
            let digits = if *seconds < 0.01 {
                3
            } else if *seconds < 10.0 {
                2
            } else {
                0
            };
            let value = format!("{seconds:.digits$}");
            let _ = writeln!(svg, "<text class=\"{text}\" x=\"{:.1}\" y=\"{base}\">{value} s</text>", end + 6.0);
            y += LINE;
        }
        y += LINE;
    }
    svg + "</svg>\n"
}
