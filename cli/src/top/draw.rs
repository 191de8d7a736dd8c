//! Draws the state: a header with totals, a table, a line of keys, and the help on top.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{
    keys,
    row::selector_name,
    state::{App, Screen},
    tables,
};
use crate::output::{Tone, number};

/// Colours, or none of them (no-color.org): then only bold, dim, underlined and reversed remain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    /// Whether colours may be used.
    pub(super) color: bool,
}

impl Palette {
    /// How a tone looks.
    pub(super) fn style(self, tone: Tone) -> Style {
        let plain = Style::new();
        match (tone, self.color) {
            (Tone::Plain, _) => plain,
            (Tone::Bold, _) => plain.add_modifier(Modifier::BOLD),
            (Tone::Good, true) => plain.fg(Color::Green),
            (Tone::Warn, true) => plain.fg(Color::Yellow),
            (Tone::Bad, true) => plain.fg(Color::Red),
            (Tone::Dim, _) => plain.add_modifier(Modifier::DIM),
            (Tone::Bad, false) => plain.add_modifier(Modifier::BOLD),
            (Tone::Good | Tone::Warn, false) => plain,
        }
    }
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App, palette: Palette) {
    let [title, totals, body, footer] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_title(frame, title, app, palette);
    draw_totals(frame, totals, app, palette);
    match &app.screen {
        Screen::Rows if app.rows.is_empty() => {
            let words = match (app.loaded, app.filter.is_empty()) {
                (false, _) => "waiting for the first figures …",
                (true, true) => "no traffic yet",
                (true, false) => "no row matches the filter",
            };
            draw_middle(frame, body, words, palette);
        }
        Screen::Endpoints(_) if app.endpoints.is_empty() => {
            draw_middle(
                frame,
                body,
                "no proxy balances over these endpoints now",
                palette,
            );
        }
        Screen::Rows => {
            let table = tables::rows(app, body.width, palette);
            frame.render_stateful_widget(table, body, &mut app.table);
        }
        Screen::Endpoints(_) => {
            let table = tables::endpoints(app, body.width, palette);
            frame.render_stateful_widget(table, body, &mut app.table);
        }
    }
    draw_footer(frame, footer, app, palette);
    if app.help {
        draw_help(frame, body, palette);
    }
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, app: &App, palette: Palette) {
    let mut left = vec![
        Span::styled("mesh ", palette.style(Tone::Bold)),
        Span::raw(app.title.as_str()),
    ];
    if let Screen::Endpoints(selector) = &app.screen {
        left.push(Span::styled(
            format!("  endpoints of {}", selector_name(selector)),
            palette.style(Tone::Bold),
        ));
    }
    let totals = &app.totals;
    let meshed = match totals.meshed_pods == totals.pods {
        true => Tone::Good,
        false => Tone::Warn,
    };
    let secured = totals.figures.secured_cell();
    let right = Line::from(vec![
        Span::styled(
            format!("{}/{} pods meshed", totals.meshed_pods, totals.pods),
            palette.style(meshed),
        ),
        Span::raw("  "),
        Span::styled(
            format!("{} mTLS", secured.text),
            palette.style(secured.tone),
        ),
    ]);
    let left = Line::from(left);
    // On a narrow terminal a long name goes before the sums.
    let room = usize::from(area.width) > left.width() + right.width();
    frame.render_widget(Paragraph::new(left), area);
    if app.loaded && room {
        frame.render_widget(Paragraph::new(right).alignment(Alignment::Right), area);
    }
}

fn draw_totals(frame: &mut Frame<'_>, area: Rect, app: &App, palette: Palette) {
    let figures = &app.totals.figures;
    let [success, rps, p50, p95, p99] = figures.cells();
    let mut spans = Vec::new();
    for (name, cell) in [
        ("req/s", rps),
        ("success", success),
        ("p50", p50),
        ("p95", p95),
        ("p99", p99),
    ] {
        spans.push(Span::styled(format!("{name} "), palette.style(Tone::Dim)));
        spans.push(Span::styled(
            format!("{:<7}", cell.text),
            palette.style(cell.tone).add_modifier(Modifier::BOLD),
        ));
    }
    let rows = match (&app.screen, app.filter.is_empty()) {
        (Screen::Endpoints(_), _) => format!("{} lines", app.endpoints.len()),
        (Screen::Rows, true) => format!("{} rows, last {} s", app.rows.len(), app.window_s),
        (Screen::Rows, false) => format!("{} rows match {:?}", app.rows.len(), app.filter),
    };
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
    let rows = Line::styled(rows, palette.style(Tone::Dim));
    frame.render_widget(Paragraph::new(rows).alignment(Alignment::Right), area);
}

fn draw_footer(frame: &mut Frame<'_>, area: Rect, app: &App, palette: Palette) {
    if app.editing {
        let text = format!("filter: {}▏  Enter keep  Esc clear", app.filter);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    if let Some(error) = &app.error {
        let line = Line::styled(format!("old figures: {error}"), palette.style(Tone::Bad));
        frame.render_widget(Paragraph::new(line), area);
        return;
    }
    let pause = if app.paused { "go on" } else { "pause" };
    let keys: &[(&str, &str)] = match app.screen {
        Screen::Rows => &[
            ("q", "quit"),
            ("/", "filter"),
            ("←→", "sort"),
            ("r", "reverse"),
            ("space", pause),
            ("Enter", "endpoints"),
            ("?", "help"),
        ],
        Screen::Endpoints(_) => &[
            ("q", "quit"),
            ("Esc", "back"),
            ("space", pause),
            ("?", "help"),
        ],
    };
    let mut spans = Vec::new();
    if app.paused {
        let style = palette.style(Tone::Warn).add_modifier(Modifier::REVERSED);
        spans.extend([Span::styled(" PAUSED ", style), Span::raw("  ")]);
    }
    for (key, word) in keys {
        spans.push(Span::styled(*key, palette.style(Tone::Bold)));
        spans.push(Span::styled(format!(" {word}  "), palette.style(Tone::Dim)));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

fn draw_middle(frame: &mut Frame<'_>, area: Rect, words: &str, palette: Palette) {
    let [_, middle, _] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Fill(1),
    ])
    .areas(area);
    let line = Line::styled(words, palette.style(Tone::Dim));
    frame.render_widget(Paragraph::new(line).alignment(Alignment::Center), middle);
}

fn draw_help(frame: &mut Frame<'_>, area: Rect, palette: Palette) {
    let lines: Vec<Line<'_>> = keys::HELP
        .iter()
        .map(|(key, what)| {
            Line::from(vec![
                Span::styled(format!(" {key:<15}"), palette.style(Tone::Bold)),
                Span::raw(*what),
            ])
        })
        .chain([
            Line::default(),
            Line::styled(
                " Figures cover the last seconds; TREND is requests per second",
                palette.style(Tone::Dim),
            ),
            Line::styled(
                format!(
                    " over half a minute; {} means that there were no requests.",
                    number::NONE
                ),
                palette.style(Tone::Dim),
            ),
        ])
        .collect();
    let height = (lines.len() as u16 + 2).min(area.height);
    let width = 66.min(area.width);
    let overlay = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, overlay);
    let block = Block::bordered().title(" keys (any key closes) ");
    frame.render_widget(Paragraph::new(lines).block(block), overlay);
}
