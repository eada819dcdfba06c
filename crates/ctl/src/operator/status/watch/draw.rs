//! Draws the screen, at any size.

use domain::{explain::grouped, record::Execution};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Row as TableRow, Sparkline, Table, Wrap},
};

use super::{
    Answer, Status,
    view::{Overlay, View},
};
use crate::operator::{history::Row, time};

/// Lines of the box of mount targets at most, so that executions are seen too.
const MAX_TARGET_LINES: usize = 6;

const HELP: &[&str] = &[
    "q, Esc, Ctrl-C  end",
    "?, h            this help",
    "↑ ↓, k j        choose an execution",
    "Enter           its details",
    "s               sort mount targets: zone, state, address",
    "r               ask AWS now",
];

pub fn draw(frame: &mut Frame<'_>, answer: &Answer, view: &mut View) {
    let area = frame.area();
    let Some(status) = &answer.status else {
        frame.render_widget(Paragraph::new(answer.error.clone().unwrap_or_else(|| "asking AWS".to_owned())), area);
        return;
    };
    view.selected = view.selected.min(status.executions.len().saturating_sub(1));
    let target_lines = status.mount_targets.len().clamp(1, MAX_TARGET_LINES) as u16;
    let problem_lines = status.problems.len().min(3) as u16;
    let [title, files, targets, list, executions, running, problems, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(3),
        Constraint::Length(target_lines + 2),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(if answer.running.is_some() { 2 } else { 0 }),
        Constraint::Length(problem_lines),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title_line(status)), title);
    draw_files(frame, files, status);
    draw_targets(frame, targets, status, view);
    frame.render_widget(Paragraph::new(list_lines(status)), list);
    draw_executions(frame, executions, status, view);
    if let Some(execution) = &answer.running {
        frame.render_widget(Paragraph::new(running_lines(execution)).wrap(Wrap { trim: true }), running);
    }
    let lines: Vec<_> = status.problems.iter().map(|problem| Line::styled(format!("! {problem}"), bad())).collect();
    frame.render_widget(Paragraph::new(lines), problems);
    frame.render_widget(Paragraph::new(last_line(answer)), keys);
    match view.overlay {
        Overlay::None => {}
        Overlay::Help => overlay(frame, " Keys ", HELP.iter().map(|line| (*line).to_owned()).collect()),
        Overlay::Details => {
            if let Some(row) = view.executions(status).get(view.selected) {
                overlay(frame, " Execution ", details(row));
            }
        }
    }
}

fn good() -> Style {
    Style::new().fg(Color::Green)
}

fn bad() -> Style {
    Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn title_line(status: &Status) -> Line<'static> {
    let name = status.stack.clone().unwrap_or_else(|| "efs-autoscale".to_owned());
    Line::from(vec![
        Span::styled(name, Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {}  {}  ", status.region, status.file_system)),
        Span::styled(status.at.clone(), dim()),
    ])
}

fn draw_files(frame: &mut Frame<'_>, area: Rect, status: &Status) {
    let files = &status.files;
    let number = files.files.map_or_else(|| "not counted".to_owned(), grouped);
    let least = if files.complete || files.files.is_none() { "" } else { "≥" };
    let limit = files.limit.map(|limit| format!(" / {}", grouped(limit))).unwrap_or_default();
    let mut title = format!(" Files {least}{number}{limit}");
    if let Some(rate) = files.trend.files_per_day {
        title += &format!(", {}{} a day", if rate < 0.0 { "-" } else { "+" }, grouped(rate.abs() as u64));
    }
    match files.trend.limit_in_seconds {
        Some(0) => title += ", over the limit",
        Some(seconds) => title += &format!(", over the limit in {}", time::duration(seconds)),
        None => {}
    }
    title.push(' ');
    let block = Block::bordered().title(title);
    let low = files.history.iter().min().copied().unwrap_or(0);
    let shown: Vec<u64> = files.history.iter().map(|count| count - low + 1).collect();
    frame.render_widget(Sparkline::default().block(block).data(&shown).style(Style::new().fg(Color::Cyan)), area);
}

fn draw_targets(frame: &mut Frame<'_>, area: Rect, status: &Status, view: &View) {
    let rows = view.targets(status).into_iter().map(|target| {
        let style = match target.state.as_str() {
            "available" if target.is_published => good(),
            "error" => bad(),
            _ => Style::new().fg(Color::Yellow),
        };
        let published = if target.is_published { "published" } else { "" };
        let address = target.address.clone().unwrap_or_else(|| "no address".to_owned());
        TableRow::new([
            target.availability_zone.clone(),
            target.mount_target_id.clone(),
            target.state.clone(),
            address,
            published.to_owned(),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(16),
        Constraint::Length(22),
        Constraint::Length(10),
        Constraint::Length(16),
        Constraint::Min(9),
    ];
    let title = format!(" Mount targets {}, by {} ", status.mount_targets.len(), view.sort.name());
    frame.render_widget(Table::new(rows, widths).block(Block::bordered().title(title)), area);
}

fn list_lines(status: &Status) -> Vec<Line<'static>> {
    let list = match &status.published {
        None => Span::styled("nothing is published", bad()),
        Some(published) if published.is_current => Span::styled(format!("list version {}", published.version), good()),
        Some(published) => Span::styled(format!("list version {} is NOT CURRENT", published.version), bad()),
    };
    let service = status.service.as_ref().map_or_else(String::new, |service| {
        let number = |number: Option<i32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let rollout = service.rollout.as_deref().unwrap_or("unknown").to_lowercase();
        format!("   tasks {}/{}, {rollout}", number(service.running), number(service.desired))
    });
    let alarms = status.alarms.iter().filter(|alarm| alarm.state == "ALARM").count();
    let alarms = match (status.alarms.len(), alarms) {
        (0, _) => Span::raw(""),
        (all, 0) => Span::raw(format!("   {all} alarms, none rings")),
        (_, ringing) => Span::styled(format!("   {ringing} alarms ring"), bad()),
    };
    let schedule = match &status.schedule {
        None => Line::raw("the schedule is not known"),
        Some(schedule) => match (&schedule.paused, &schedule.next_start) {
            (Some(pause), _) => Line::styled(
                format!("PAUSED: {}", pause.reason.as_deref().unwrap_or("nobody says why")),
                Style::new().fg(Color::Yellow),
            ),
            (None, Some(next)) => Line::raw(format!("{}, next at {next}", schedule.expression)),
            (None, None) => Line::raw(schedule.expression.clone()),
        },
    };
    vec![Line::from(vec![list, Span::raw(service), alarms]), schedule]
}

fn draw_executions(frame: &mut Frame<'_>, area: Rect, status: &Status, view: &View) {
    let rows = view.executions(status).into_iter().enumerate().map(|(index, row)| {
        let style = match row.status.as_str() {
            "SUCCEEDED" => Style::new(),
            "RUNNING" => Style::new().fg(Color::Cyan),
            _ => bad(),
        };
        let style = if index == view.selected { style.add_modifier(Modifier::REVERSED) } else { style };
        TableRow::new([
            row.started_at.clone(),
            row.seconds.map_or_else(|| "runs".to_owned(), time::duration),
            row.files.map_or_else(|| "-".to_owned(), grouped),
            row.status.clone(),
            row.reason.clone(),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(20),
        Constraint::Length(7),
        Constraint::Length(13),
        Constraint::Length(10),
        Constraint::Min(10),
    ];
    frame
        .render_widget(Table::new(rows, widths).block(Block::bordered().title(" Executions, the newest first ")), area);
}

fn running_lines(execution: &Execution) -> Line<'static> {
    let mut spans = vec![Span::styled("running ", Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD))];
    // A poll repeats three states: the last ones tell where it is.
    let skipped = execution.states.len().saturating_sub(8);
    if skipped > 0 {
        spans.push(Span::styled("… ", dim()));
    }
    for (index, state) in execution.states.iter().enumerate().skip(skipped) {
        let is_last = index + 1 == execution.states.len();
        spans.push(Span::styled(state.clone(), if is_last { good().add_modifier(Modifier::BOLD) } else { dim() }));
        if !is_last {
            spans.push(Span::styled(" → ", dim()));
        }
    }
    Line::from(spans)
}

fn last_line(answer: &Answer) -> Line<'static> {
    match &answer.error {
        Some(err) => Line::styled(format!("no answer, shown is the last one: {err}"), bad()),
        None => Line::styled("? help  ↑↓ choose  Enter details  s sort  r refresh  q end", dim()),
    }
}

fn details(row: &Row) -> Vec<String> {
    let targets = match (row.current, row.minimum, row.maximum) {
        (Some(current), Some(minimum), Some(maximum)) => format!("{current}, minimum {minimum}, maximum {maximum}"),
        _ => "not known".to_owned(),
    };
    let mut lines = vec![
        row.name.clone(),
        format!("started   {}", row.started_at),
        format!("took      {}", row.seconds.map_or_else(|| "it runs".to_owned(), time::duration)),
        format!("status    {}", row.status),
        format!("reason    {}", row.reason),
        format!(
            "files     {} of {}",
            row.files.map_or_else(|| "not counted".to_owned(), grouped),
            row.limit.map_or_else(|| "?".to_owned(), grouped)
        ),
        format!("zones     {targets}"),
    ];
    lines.extend(row.warnings.iter().map(|warning| format!("warning   {warning}")));
    if let Some(entry) = domain::codes::find(&row.reason) {
        lines.push(String::new());
        lines.push(entry.meaning.to_owned());
    }
    lines.push(format!("efs-autoscale explain {}", row.name));
    lines
}

fn overlay(frame: &mut Frame<'_>, title: &str, lines: Vec<String>) {
    let area = frame.area();
    let width = area.width.min(76);
    let height = area.height.min(lines.len() as u16 + 4);
    let place = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let text: Vec<_> = lines.into_iter().map(Line::raw).collect();
    let block = Block::bordered().title(title.to_owned());
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), place);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, crossterm::event::KeyCode};

    use super::*;
    use crate::operator::status::{Files, Published, Service, Target, Trend};

    fn status() -> Status {
        let target = |zone: &str, state: &str| Target {
            mount_target_id: format!("fsmt-0123456789abcde{zone}"),
            availability_zone: format!("us-east-1{zone}"),
            state: state.to_owned(),
            address: Some("10.0.1.100".to_owned()),
            is_published: state == "available",
        };
        let row = |status: &str, reason: &str| Row {
            name: "4b2c9a62".to_owned(),
            status: status.to_owned(),
            started_at: "2026-11-27T12:00:00Z".to_owned(),
            seconds: Some(61),
            reason: reason.to_owned(),
            files: Some(150_000),
            complete: Some(true),
            limit: Some(100_000),
            current: Some(2),
            minimum: Some(0),
            maximum: Some(3),
            warnings: vec![],
        };
        Status {
            stack: Some("efs-mount-autoscaling".to_owned()),
            region: "us-east-1".to_owned(),
            files: Files {
                files: Some(150_000),
                complete: true,
                limit: Some(100_000),
                trend: Trend { files_per_day: Some(12_000.0), limit_in_seconds: Some(0) },
                history: vec![1, 5, 9],
                ..Files::default()
            },
            mount_targets: vec![target("b", "creating"), target("a", "available")],
            published: Some(Published {
                parameter: "/p".to_owned(),
                version: 3,
                is_current: true,
                missing: vec![],
                surplus: vec![],
            }),
            service: Some(Service {
                name: "c/s".to_owned(),
                running: Some(3),
                desired: Some(3),
                rollout: Some("COMPLETED".to_owned()),
                has_read_list: None,
            }),
            executions: vec![row("FAILED", "AwsRefused"), row("SUCCEEDED", "create")],
            problems: vec!["The alarm IoLimit rings".to_owned()],
            ..Status::default()
        }
    }

    fn shown(answer: &Answer, view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, answer, view)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn eighty_columns_and_twenty_four_lines_show_all_of_it() {
        let running = Execution { states: vec!["Count".to_owned(), "Evaluate".to_owned()], ..Execution::default() };
        let answer = Answer { status: Some(status()), running: Some(running), error: None };
        let text = shown(&answer, &mut View::default(), 80, 24);
        for expected in [
            "efs-mount-autoscaling  us-east-1",
            "Files 150,000 / 100,000, +12,000 a day, over the limit",
            "us-east-1a",
            "creating",
            "list version 3   tasks 3/3, completed",
            "AwsRefused",
            "Count → Evaluate",
            "! The alarm IoLimit rings",
            "q end",
        ] {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
    }

    #[test]
    fn any_size_and_any_key_is_drawn() {
        for running in [None, Some(Execution { states: vec!["X".repeat(99); 99], ..Execution::default() })] {
            for status in [None, Some(Status::default()), Some(status())] {
                let answer = Answer { status, running: running.clone(), error: Some("no route".repeat(99)) };
                for (width, height) in [(1, 1), (2, 3), (10, 40), (80, 5), (200, 60)] {
                    let mut view = View::default();
                    for code in
                        ['?', 's', '?', 'j', 'k', 's', 's'].map(KeyCode::Char).into_iter().chain([KeyCode::Enter])
                    {
                        view.press(code, &answer);
                        shown(&answer, &mut view, width, height);
                    }
                }
            }
        }
    }

    #[test]
    fn a_lost_connection_leaves_the_last_status_and_details_lie_over_it() {
        let mut answer = Answer { status: Some(status()), running: None, error: Some("timed out".to_owned()) };
        let mut view = View::default();
        assert!(shown(&answer, &mut view, 80, 24).contains("no answer, shown is the last one: timed out"));
        answer.error = None;
        view.press(KeyCode::Down, &answer);
        view.press(KeyCode::Enter, &answer);
        let text = shown(&answer, &mut view, 80, 24);
        assert!(text.contains("reason    AwsRefused"), "{text}");
    }
}
