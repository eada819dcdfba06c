//! The report of a benchmark: numbers of rounds, and tables of them, as Markdown that reads well as plain text.

use std::fmt::Write;

const MAX_LINE_CHARS: usize = 115;

/// Text that is printed at once, and kept for the page that is written at the end.
#[derive(Debug, Default)]
pub struct Report(String);

impl Report {
    /// Prints the text, and appends it.
    pub fn say(&mut self, text: &str) {
        let text = text.trim_end();
        println!("{text}");
        self.0 += text;
        self.0.push('\n');
    }

    /// Everything so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// Fills lines of at most 115 characters.
#[must_use]
pub fn paragraph(text: &str) -> String {
    let mut filled = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        let fits = width + 1 + length <= MAX_LINE_CHARS;
        if width > 0 {
            filled.push(if fits { ' ' } else { '\n' });
        }
        width = if width > 0 && fits { width + 1 + length } else { length };
        filled.push_str(word);
    }
    filled
}

/// One number for each round.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// No rounds yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a round.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds the rounds of another.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The median; not a number without rounds.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut values = self.0.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The maximum; not a number without rounds.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NAN, f64::max)
    }

    /// Combines the numbers of the same round, because a disturbance of the machine affects both.
    #[must_use]
    pub fn zip_with(&self, other: &Self, pair: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| pair(*one, *other)).collect())
    }

    /// Ratio to another: the median of the ratios of the rounds.
    #[must_use]
    pub fn ratio_to(&self, other: &Self) -> f64 {
        self.zip_with(other, |one, other| one / other).median()
    }

    /// The range from the minimum to the maximum.
    #[must_use]
    pub fn range(&self, digits: usize) -> String {
        let min = self.0.iter().copied().fold(f64::NAN, f64::min);
        match self.0.len() {
            0 | 1 => "once".to_owned(),
            _ => format!("{} – {}", number(min, digits), number(self.max(), digits)),
        }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Formats a number, with commas between thousands.
#[must_use]
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, part) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + part
}

/// The goal of a number.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// It is for information.
    None,
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

impl Target {
    /// Two cells: the goal, and whether the value reaches it.
    #[must_use]
    pub fn cells(self, value: f64, digits: usize) -> [String; 2] {
        let outcome = |kept: bool| if kept { "kept" } else { "NOT KEPT" }.to_owned();
        match self {
            Self::None => [String::new(), String::new()],
            Self::AtLeast(least) => [format!("≥ {}", number(least, digits)), outcome(value >= least)],
            Self::AtMost(most) => [format!("≤ {}", number(most, digits)), outcome(value <= most)],
        }
    }
}

/// A table whose columns have the same width in every line; all but the first are aligned to the right.
#[must_use]
pub fn markdown<const N: usize>(head: [&str; N], lines: impl IntoIterator<Item = [String; N]>) -> String {
    let lines: Vec<_> = [head.map(str::to_owned)].into_iter().chain(lines).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0).max(2));
    let mut table = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            let _ = if column == 0 { write!(table, "| {cell:<width$} |") } else { write!(table, " {cell:>width$} |") };
        }
        table.push('\n');
        if number == 0 {
            table.push('|');
            for (column, width) in widths.into_iter().enumerate() {
                let dashes = "-".repeat(width + 1);
                table.push_str(&if column == 0 { format!("{dashes}-|") } else { format!("{dashes}:|") });
            }
            table.push('\n');
        }
    }
    table
}
