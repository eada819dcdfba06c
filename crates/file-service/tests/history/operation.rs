//! Recorded operations, and their timeline as text.

use std::{fmt::Write, time::Duration};

use super::content::Chunk;

/// The chunks of a file; `None` when there is no file.
pub type Content = Option<Vec<Chunk>>;

/// The precondition of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    None,
    /// `If-None-Match: *`
    Missing,
    /// `If-Match` with the tag of this content.
    Is(Vec<Chunk>),
}

/// The request. A writing operation writes the chunk with its own number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Get,
    Head,
    Put(Condition),
    Append(Condition),
    Delete(Condition),
}

/// What the answer, or its absence, tells about the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The content at one moment.
    Found(Content),
    /// The file exists; the content is unknown.
    Exists,
    /// A HEAD returned this tag. [`super::checker::resolve`] replaces this outcome.
    Tagged(String),
    /// The change took effect.
    Done,
    /// The change does not take effect, now or later; or a read failed.
    Nothing,
    /// The change takes effect before the answer or never.
    Within,
    /// The change may take effect at any time, also after the answer.
    Later,
    /// The content is not a sequence of whole chunks.
    Torn(String),
}

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Operation {
    pub number: Chunk,
    pub client: usize,
    pub task: usize,
    pub path: String,
    pub action: Action,
    /// Times of the request and of the answer, since the start of the history.
    pub began: Duration,
    pub ended: Duration,
    pub outcome: Outcome,
    /// `ETag` of the answer.
    pub tag: Option<String>,
    /// The answer in a word or two.
    pub answer: String,
}

impl Action {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put(Condition::None) => "PUT",
            Self::Put(Condition::Missing) => "PUT If-None-Match: *",
            Self::Put(Condition::Is(_)) => "PUT If-Match",
            Self::Append(Condition::Is(_)) => "append If-Match",
            Self::Append(_) => "append",
            Self::Delete(Condition::Is(_)) => "DELETE If-Match",
            Self::Delete(_) => "DELETE",
        }
    }

    pub fn condition(&self) -> Option<&Condition> {
        match self {
            Self::Get | Self::Head => None,
            Self::Put(condition) | Self::Append(condition) | Self::Delete(condition) => Some(condition),
        }
    }

    /// Whether the action writes a chunk.
    pub fn writes(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Append(_))
    }
}

/// A content as short text.
pub fn shown(content: &[Chunk]) -> String {
    match content {
        [first, .., before, last] if content.len() > 4 => {
            format!("[{first} … {before} {last}] ({} chunks)", content.len())
        }
        _ => format!("{content:?}"),
    }
}

impl Operation {
    fn asked(&self) -> String {
        match self.action.condition() {
            Some(Condition::Is(content)) => format!("{} {}", self.action.name(), shown(content)),
            _ => self.action.name().to_owned(),
        }
    }

    fn answered(&self) -> String {
        match &self.outcome {
            Outcome::Found(Some(content)) => format!("{} {}", self.answer, shown(content)),
            Outcome::Torn(err) => format!("{} torn: {err}", self.answer),
            _ => self.answer.clone(),
        }
    }
}

/// One line per operation, with a bar from its begin to its end.
pub fn timeline<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> String {
    const COLUMNS: usize = 32;
    let mut operations: Vec<_> = operations.into_iter().collect();
    operations.sort_by_key(|operation| (operation.began, operation.ended));
    let from = operations.iter().map(|operation| operation.began).min().unwrap_or_default();
    let to = operations.iter().map(|operation| operation.ended).max().unwrap_or_default();
    let length = (to - from).as_secs_f64().max(1e-9);
    let column = |at: Duration| (((at - from).as_secs_f64() / length) * (COLUMNS - 1) as f64) as usize;
    let mut text = String::new();
    for operation in operations {
        let (first, last) = (column(operation.began), column(operation.ended));
        let bar: String = (0..COLUMNS).map(|at| if (first..=last).contains(&at) { '=' } else { ' ' }).collect();
        let _ = writeln!(
            text,
            "  {:9.4} {:9.4} |{bar}| #{:<6} client {:<2} task {}  {:<28} -> {}",
            operation.began.as_secs_f64(),
            operation.ended.as_secs_f64(),
            operation.number,
            operation.client,
            operation.task,
            operation.asked(),
            operation.answered(),
        );
    }
    text
}
