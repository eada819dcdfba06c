//! What the person looks at, and what the keys do.

use ratatui::crossterm::event::KeyCode;

use super::{Answer, Status};
use crate::operator::{history::Row, status::Target};

/// By what the mount targets are sorted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Sort {
    #[default]
    Zone,
    State,
    Address,
}

impl Sort {
    pub fn name(self) -> &'static str {
        match self {
            Self::Zone => "zone",
            Self::State => "state",
            Self::Address => "address",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Zone => Self::State,
            Self::State => Self::Address,
            Self::Address => Self::Zone,
        }
    }
}

/// What lies over the screen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Overlay {
    #[default]
    None,
    Help,
    Details,
}

#[derive(Clone, Debug, Default)]
pub struct View {
    pub sort: Sort,
    pub overlay: Overlay,
    /// The execution that is looked at, from the newest.
    pub selected: usize,
}

/// What follows from a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    Draw,
    Refresh,
    Quit,
}

impl View {
    pub fn press(&mut self, key: KeyCode, answer: &Answer) -> Action {
        let executions = answer.status.as_ref().map_or(0, |status| status.executions.len());
        match (key, self.overlay) {
            (KeyCode::Char('q'), _) => return Action::Quit,
            (KeyCode::Esc, Overlay::None) => return Action::Quit,
            (KeyCode::Esc, _) => self.overlay = Overlay::None,
            (KeyCode::Char('?' | 'h'), _) => {
                self.overlay = if self.overlay == Overlay::Help { Overlay::None } else { Overlay::Help };
            }
            (KeyCode::Enter, Overlay::None) if executions > 0 => self.overlay = Overlay::Details,
            (KeyCode::Enter, _) => self.overlay = Overlay::None,
            (KeyCode::Char('s'), _) => self.sort = self.sort.next(),
            (KeyCode::Char('r'), _) => return Action::Refresh,
            (KeyCode::Down | KeyCode::Char('j'), _) => {
                self.selected = (self.selected + 1).min(executions.saturating_sub(1));
            }
            (KeyCode::Up | KeyCode::Char('k'), _) => self.selected = self.selected.saturating_sub(1),
            _ => {}
        }
        Action::Draw
    }

    /// The newest first.
    pub fn executions<'a>(&self, status: &'a Status) -> Vec<&'a Row> {
        status.executions.iter().rev().collect()
    }

    pub fn targets<'a>(&self, status: &'a Status) -> Vec<&'a Target> {
        let mut targets: Vec<_> = status.mount_targets.iter().collect();
        targets.sort_by_key(|target| match self.sort {
            Sort::Zone => target.availability_zone.clone(),
            Sort::State => target.state.clone(),
            Sort::Address => target.address.clone().unwrap_or_default(),
        });
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_and_close_what_lies_over_the_screen() {
        let mut view = View::default();
        let empty = Answer::default();
        assert_eq!(view.press(KeyCode::Enter, &empty), Action::Draw);
        assert_eq!(view.overlay, Overlay::None);
        view.press(KeyCode::Char('?'), &empty);
        assert_eq!(view.overlay, Overlay::Help);
        assert_eq!(view.press(KeyCode::Esc, &empty), Action::Draw);
        assert_eq!(view.press(KeyCode::Esc, &empty), Action::Quit);
        assert_eq!(view.press(KeyCode::Char('r'), &empty), Action::Refresh);
        view.press(KeyCode::Down, &empty);
        assert_eq!(view.selected, 0);
        view.press(KeyCode::Char('s'), &empty);
        assert_eq!(view.sort, Sort::State);
    }
}
