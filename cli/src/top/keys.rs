//! What each key does.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    row::Column,
    state::{App, Screen},
};

/// Whether the view goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Draw again.
    Continue,
    /// End.
    Quit,
}

/// Keys and what they do, for the help.
pub(super) const HELP: [(&str, &str); 9] = [
    ("q, Ctrl-C", "quit"),
    ("↑ ↓ PgUp PgDn", "move (also j k, Home End)"),
    ("← →", "sort by another column"),
    ("1 … 9", "sort by that column; again: reverse"),
    ("r", "reverse the order"),
    ("/", "filter: words that a row must have"),
    ("space, p", "pause and go on"),
    ("Enter", "endpoints of the selected row"),
    ("Esc", "back; clear the filter"),
];

const PAGE: isize = 10;

/// Applies a key to the state.
pub(super) fn press(app: &mut App, key: KeyEvent) -> Flow {
    if key.kind == KeyEventKind::Release {
        return Flow::Continue;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c' | 'd') => Flow::Quit,
            _ => Flow::Continue,
        };
    }
    if app.editing {
        edit(app, key.code);
    } else if app.help {
        if key.code == KeyCode::Char('q') {
            return Flow::Quit;
        }
        app.help = false;
    } else {
        return command(app, key.code);
    }
    Flow::Continue
}

fn edit(app: &mut App, code: KeyCode) {
    let mut filter = app.filter.clone();
    match code {
        KeyCode::Enter => app.editing = false,
        KeyCode::Esc => {
            app.editing = false;
            app.set_filter(String::new());
        }
        KeyCode::Backspace => {
            filter.pop();
            app.set_filter(filter);
        }
        KeyCode::Char(c) => {
            filter.push(c);
            app.set_filter(filter);
        }
        _ => {}
    }
}

fn command(app: &mut App, code: KeyCode) -> Flow {
    match code {
        KeyCode::Char('q') => return Flow::Quit,
        KeyCode::Char('?' | 'h') => app.help = true,
        KeyCode::Char(' ' | 'p') => app.paused = !app.paused,
        KeyCode::Char('/') if app.screen == Screen::Rows => app.editing = true,
        KeyCode::Char('r') => app.sort_by(app.sort.column),
        KeyCode::Char(digit @ '1'..='9') => {
            let column = digit as usize - '1' as usize;
            app.sort_by(Column::ALL[column]);
        }
        KeyCode::Left => app.sort_by_neighbour(false),
        KeyCode::Right => app.sort_by_neighbour(true),
        KeyCode::Up | KeyCode::Char('k') => app.move_by(-1),
        KeyCode::Down | KeyCode::Char('j') => app.move_by(1),
        KeyCode::PageUp => app.move_by(-PAGE),
        KeyCode::PageDown => app.move_by(PAGE),
        KeyCode::Home | KeyCode::Char('g') => app.move_by(isize::MIN),
        KeyCode::End | KeyCode::Char('G') => app.move_by(isize::MAX),
        KeyCode::Enter => app.open(),
        KeyCode::Esc if app.screen == Screen::Rows => app.set_filter(String::new()),
        KeyCode::Esc | KeyCode::Backspace => app.close(),
        _ => {}
    }
    Flow::Continue
}
