//! `efs-autoscale status --watch`: the status as a live screen.
//!
//! One task asks AWS again and again, one thread reads the keyboard, and this one draws what it has. What AWS does not
//! answer is said in the last line, over the last status that it gave.

mod draw;
mod view;

use std::{io::IsTerminal as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use domain::record::Execution;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::{mpsc, watch};

use self::view::{Action, View};
use super::{Status, gather};
use crate::operator::{INTERRUPTED, Installation, Source, executions};

/// Between two drawings: the ages and the running execution move.
const FRAME_INTERVAL: Duration = Duration::from_millis(500);
/// Between two looks at the keyboard, so that its thread ends with the screen.
const KEYBOARD_INTERVAL: Duration = Duration::from_millis(200);

/// What AWS answered the last time.
#[derive(Clone, Debug, Default)]
struct Answer {
    status: Option<Status>,
    /// The execution that runs, if one does.
    running: Option<Execution>,
    /// Why the last question had no answer.
    error: Option<String>,
}

/// Shows the status until somebody ends it.
///
/// # Errors
/// When stdout is no terminal, or the first question has no answer.
pub async fn run(source: &Source, interval: Duration) -> Result<u8> {
    ensure!(
        std::io::stdout().is_terminal() && std::io::stdin().is_terminal(),
        "--watch: it needs a terminal; `efs-autoscale status --json` is for scripts"
    );
    let installation = source.connect().await?;
    let status = gather(&installation).await?;
    let running_now = running(&installation).await?;
    let (sender, receiver) = watch::channel(Answer { status: Some(status), running: running_now, error: None });
    let (refresh, mut wanted) = mpsc::channel::<()>(1);
    let asking = async {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                _ = wanted.recv() => {}
            }
            let answer = tokio::try_join!(gather(&installation), running(&installation));
            sender.send_modify(|last| match answer {
                Ok((status, running)) => *last = Answer { status: Some(status), running, error: None },
                Err(err) => last.error = Some(format!("{err:#}")),
            });
        }
    };
    tokio::select! {
        ended = screen(receiver, refresh) => ended,
        () = asking => Ok(INTERRUPTED),
    }
}

async fn running(installation: &Installation) -> Result<Option<Execution>> {
    let client = &installation.clients.sfn;
    let latest = executions::list(client, &installation.state_machine, 0, 1).await?;
    match latest.first() {
        Some(latest) if latest.stop_date().is_none() => {
            executions::read(client, latest.execution_arn(), true).await.map(Some)
        }
        _ => Ok(None),
    }
}

/// Gives the terminal back, however this ends.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn screen(mut answers: watch::Receiver<Answer>, refresh: mpsc::Sender<()>) -> Result<u8> {
    let mut terminal = ratatui::try_init().context("--watch: the terminal does not take a screen")?;
    let _restore = Restore;
    let mut keys = keyboard();
    let mut view = View::default();
    loop {
        let answer = answers.borrow_and_update().clone();
        terminal.draw(|frame| draw::draw(frame, &answer, &mut view))?;
        let pressed = tokio::select! {
            changed = answers.changed() => {
                changed.context("nobody asks any more")?;
                None
            }
            () = tokio::time::sleep(FRAME_INTERVAL) => None,
            pressed = keys.recv() => match pressed {
                // Nobody types any more.
                None => return Ok(0),
                Some(event) => Some(event),
            },
        };
        let Some(Event::Key(key)) = pressed else { continue };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Ok(0);
        }
        match view.press(key.code, &answer) {
            Action::Quit => return Ok(0),
            // One that is under way is enough.
            Action::Refresh => drop(refresh.try_send(())),
            Action::Draw => {}
        }
    }
}

/// What is typed and how the terminal changes. The thread ends soon after the receiver is dropped.
fn keyboard() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            match event::poll(KEYBOARD_INTERVAL) {
                Ok(false) => {}
                Ok(true) => {
                    let Ok(event) = event::read() else { return };
                    if sender.blocking_send(event).is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    });
    receiver
}
